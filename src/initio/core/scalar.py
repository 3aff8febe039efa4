"""Functions R → R of one variable, with what an integrator must know of them, closed under +, × and composition."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.polynomial import polynomial as P

from initio.core import piecewise
from initio.core.piecewise import Pieces

__all__ = ["IDENTITY", "Scalar", "affine", "constant", "power"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Waves: TypeAlias = tuple[tuple[complex, complex], ...]

_DEGREE = 12  # a polynomial of higher degree is integrated by quadrature


@dataclass(frozen=True, eq=False)
class Scalar:
    """A function R → R. Two scalars are equal only if they are the same object; the constructors here are memoised.

    * `fn` — vectorised over float64 arrays.
    * `kinks` — points where f or f′ is not smooth, jumps included.
    * `knots` — a smooth but narrow feature lies between consecutive knots (integrators put a panel there).
    * `poles` — kinks where f is unbounded or beyond which it is undefined.
    * `pieces` — where f is piecewise polynomial: coefficients, ascending, of each interval between the kinks.
    * `waves` — where f(x) = Σ c exp(a x): the pairs (c, a), complex (sine, cosine, exponential, constants).
    * `slope` — makes the derivative, where it is known.
    * `homogeneous` — f(c x) = c f(x) for every c > 0.
    """

    name: str
    fn: Callable[[Array], Array]
    kinks: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()
    poles: tuple[float, ...] = ()
    pieces: Pieces | None = None
    waves: Waves | None = None
    slope: Callable[[], Scalar] | None = None
    odd: bool = False
    even: bool = False
    homogeneous: bool = False
    increasing: bool = False

    def __call__(self, x: Array | float) -> Array:
        """f(x), NaN where undefined."""
        with np.errstate(all="ignore"):
            return self.fn(np.asarray(x, dtype=np.float64))

    def __repr__(self) -> str:
        return f"Scalar({self.name})"

    def then(self, outer: Scalar) -> Scalar:
        """outer∘self."""
        return _then(self, outer)

    def times(self, other: Scalar) -> Scalar:
        """X ↦ self(x) other(x)."""
        return _times(self, other)

    def plus(self, other: Scalar, a: float = 1.0, b: float = 1.0) -> Scalar:
        """X ↦ a self(x) + b other(x)."""
        return _plus(self, other, float(a), float(b))

    @property
    def derivative(self) -> Scalar | None:
        """f′ (away from the kinks), None where it is not known."""
        return _derivative(self)

    @property
    def differentiable(self) -> bool:
        """Whether the derivative is known."""
        return self.pieces is not None or self.slope is not None

    @property
    def continuous(self) -> bool | None:
        """Whether f has no jumps, None where that is not known."""
        if not self.kinks:
            return True
        if self.pieces is None:
            at = np.asarray(self.kinks)
            near = 1e-9 * np.maximum(1.0, np.abs(at))
            gap = np.abs(self(at + near) - self(at - near))
            return bool(np.all(gap <= 1e-6 * np.maximum(1.0, np.abs(self(at + near))))) or None
        return all(
            abs(P.polyval(k, low) - P.polyval(k, high)) <= 1e-12 * max(1.0, abs(float(P.polyval(k, high))))
            for k, low, high in zip(self.kinks, self.pieces[:-1], self.pieces[1:], strict=True)
        )

    @property
    def linear(self) -> tuple[float, float] | None:
        """(a, b) where f(x) = a x + b everywhere."""
        if self.pieces is None or len(self.pieces) != 1 or len(self.pieces[0]) > 2:
            return None
        b, a = (*self.pieces[0], 0.0)[:2]
        return a, b


def _trim(piece: tuple[float, ...]) -> tuple[float, ...]:
    out = [float(c) for c in piece]
    while len(out) > 1 and out[-1] == 0:
        out.pop()
    return tuple(out)


def from_pieces(name: str, kinks: tuple[float, ...], pieces: Pieces, fn: Callable[[Array], Array] | None = None, **flags: Any) -> Scalar:
    """A piecewise polynomial; `fn` may give its value at the breaks and a faster evaluation."""
    kinks = tuple(float(k) for k in kinks)
    pieces = tuple(_trim(piece) for piece in pieces)
    keep = [i for i in range(len(kinks)) if pieces[i] != pieces[i + 1]]
    kinks, pieces = tuple(kinks[i] for i in keep), (pieces[0], *(pieces[i + 1] for i in keep))

    def default(x: Array) -> Array:
        return piecewise.evaluate(kinks, pieces, x)

    if not kinks and len(pieces[0]) <= 2 and not flags:
        b, a = (*pieces[0], 0.0)[:2]
        flags = {"odd": b == 0, "homogeneous": b == 0, "increasing": a > 0, "even": a == 0}
    waves = ((complex(pieces[0][0]), 0j),) if not kinks and len(pieces[0]) == 1 else None
    return Scalar(name, fn or default, kinks, pieces=pieces, waves=waves, **flags)


IDENTITY = from_pieces("x", (), ((0.0, 1.0),), lambda x: x)


@lru_cache(maxsize=4096)
def affine(a: float, b: float = 0.0) -> Scalar:
    """X ↦ a x + b."""
    a, b = float(a), float(b)
    if a == 1 and b == 0:
        return IDENTITY
    return from_pieces(f"{a:.12g}*x{b:+.12g}" if b else f"{a:.12g}*x", (), ((b, a),), lambda x: a * x + b)


@lru_cache(maxsize=4096)
def constant(c: float) -> Scalar:
    """X ↦ c."""
    c = float(c)
    return from_pieces(f"{c:.12g}", (), ((c,),), lambda x: np.full_like(x, c))


@lru_cache(maxsize=1024)
def power(p: float) -> Scalar:
    """X ↦ x^p, as torch.pow: NaN for x < 0 unless p is a whole number."""
    p = float(p)
    if p == 0:
        return constant(1.0)
    if p == 1:
        return IDENTITY
    whole = p.is_integer()
    odd, even = whole and p % 2 == 1, whole and p % 2 == 0
    flags: dict[str, Any] = {"odd": odd, "even": even, "increasing": p > 0 and not even}
    if whole and 0 < p <= _DEGREE:
        return from_pieces(f"x^{p:g}", (), ((0.0,) * int(p) + (1.0,),), lambda x: x ** int(p), **flags)
    slope = lambda: power(p - 1).then(affine(p))  # noqa: E731
    return Scalar(f"x^{p:g}", lambda x: np.power(x, p), (0.0,), poles=(0.0,), slope=slope, **flags)


@lru_cache(maxsize=8192)
def _then(inner: Scalar, outer: Scalar) -> Scalar:
    if outer is IDENTITY:
        return inner
    if inner is IDENTITY:
        return outer
    f, g = inner.fn, outer.fn
    name = f"{outer.name}∘{inner.name}"
    flags: dict[str, Any] = {
        "odd": inner.odd and outer.odd,
        "even": inner.even or (inner.odd and outer.even),
        "homogeneous": inner.homogeneous and outer.homogeneous,
        "increasing": inner.increasing and outer.increasing,
    }

    def fn(x: Array) -> Array:
        return g(f(x))

    if inner.pieces is not None and outer.pieces is not None and _degree(inner) * _degree(outer) <= _DEGREE:
        breaks, pieces = piecewise.compose((inner.kinks, inner.pieces), (outer.kinks, outer.pieces), outer.fn)
        return from_pieces(name, breaks, pieces, fn, **flags)
    slope = None
    if inner.differentiable and outer.differentiable:
        slope = lambda: _slope(inner).times(inner.then(_slope(outer)))  # noqa: E731
    line = inner.linear
    waves = None
    if outer.waves is not None and line is not None:
        waves = tuple((c * np.exp(rate * line[1]), rate * line[0]) for c, rate in outer.waves)
    if outer.linear is not None and inner.waves is not None:
        a, b = outer.linear
        waves = _collect((*((a * c, rate) for c, rate in inner.waves), (complex(b), 0j)))
    kinks = {*inner.kinks, *_preimages(inner, outer.kinks)}
    knots = {*inner.knots, *_preimages(inner, outer.knots)}
    poles = {*inner.poles, *_preimages(inner, outer.poles)}
    return Scalar(name, fn, tuple(sorted(kinks)), tuple(sorted(knots)), tuple(sorted(poles)), None, waves, slope, **flags)


@lru_cache(maxsize=8192)
def _times(left: Scalar, right: Scalar) -> Scalar:
    for one, other in ((left, right), (right, left)):
        if one.linear is not None and one.linear[0] == 0:
            return other.then(affine(one.linear[1])) if one.linear[1] != 1 else other
    f, g = left.fn, right.fn
    name = f"({left.name})*({right.name})"
    flags: dict[str, Any] = {
        "odd": (left.odd and right.even) or (left.even and right.odd),
        "even": (left.odd and right.odd) or (left.even and right.even),
    }

    def fn(x: Array) -> Array:
        return f(x) * g(x)

    joint = _aligned(left, right)
    if joint is not None and _degree(left) + _degree(right) <= _DEGREE:
        kinks, one, two = joint
        return from_pieces(name, kinks, tuple(_floats(P.polymul(p, q)) for p, q in zip(one, two, strict=True)), fn, **flags)
    slope = None
    if left.differentiable and right.differentiable:
        slope = lambda: _slope(left).times(right).plus(left.times(_slope(right)))  # noqa: E731
    waves = None
    if left.waves is not None and right.waves is not None and len(left.waves) * len(right.waves) <= 32:
        waves = _collect(tuple((c * d, x + y) for c, x in left.waves for d, y in right.waves))
    marks = (_union(left.kinks, right.kinks), _union(left.knots, right.knots), _union(left.poles, right.poles))
    return Scalar(name, fn, *marks, None, waves, slope, **flags)


@lru_cache(maxsize=8192)
def _plus(left: Scalar, right: Scalar, a: float, b: float) -> Scalar:
    f, g = left.fn, right.fn
    name = f"({a:.12g}*{left.name}{b:+.12g}*{right.name})"
    flags: dict[str, Any] = {
        "odd": left.odd and right.odd,
        "even": left.even and right.even,
        "homogeneous": left.homogeneous and right.homogeneous,
        "increasing": a >= 0 and b >= 0 and left.increasing and right.increasing,
    }

    def fn(x: Array) -> Array:
        return a * f(x) + b * g(x)

    joint = _aligned(left, right)
    if joint is not None:
        kinks, one, two = joint
        pieces = tuple(_floats(P.polyadd(a * np.asarray(p), b * np.asarray(q))) for p, q in zip(one, two, strict=True))
        return from_pieces(name, kinks, pieces, fn, **flags)
    slope = None
    if left.differentiable and right.differentiable:
        slope = lambda: _slope(left).plus(_slope(right), a, b)  # noqa: E731
    waves = None
    if left.waves is not None and right.waves is not None:
        waves = _collect((*((a * c, x) for c, x in left.waves), *((b * c, x) for c, x in right.waves)))
    marks = (_union(left.kinks, right.kinks), _union(left.knots, right.knots), _union(left.poles, right.poles))
    return Scalar(name, fn, *marks, None, waves, slope, **flags)


@lru_cache(maxsize=8192)
def _derivative(f: Scalar) -> Scalar | None:
    if f.pieces is not None:
        pieces = tuple(_floats(P.polyder(p)) if len(p) > 1 else (0.0,) for p in f.pieces)
        return from_pieces(f"d {f.name}", f.kinks, pieces, odd=f.even, even=f.odd)
    return None if f.slope is None else f.slope()


def _slope(f: Scalar) -> Scalar:
    out = _derivative(f)
    if out is None:
        raise ValueError(f"the derivative of {f.name} is not known: give it as `slope`")
    return out


def _aligned(left: Scalar, right: Scalar) -> tuple[tuple[float, ...], Pieces, Pieces] | None:
    if left.pieces is None or right.pieces is None:
        return None
    kinks, one = piecewise.refine(left.kinks, left.pieces, right.kinks)
    _, two = piecewise.refine(right.kinks, right.pieces, left.kinks)
    return kinks, one, two


def _preimages(inner: Scalar, levels: tuple[float, ...]) -> set[float]:
    """Points where `inner` crosses a level, by scanning between −1e6 and 1e6 and bisection."""
    if not levels:
        return set()
    if inner.linear is not None:
        a, b = inner.linear
        return {(level - b) / a for level in levels} if a else set()
    geometric = np.geomspace(1e-6, 1e6, 481)
    grid = np.unique(np.concatenate((-geometric, [0.0], geometric, np.linspace(-40, 40, 1601), inner.kinks)))
    values = inner(grid)
    out: set[float] = set()
    for level in levels:
        gap = values - level
        sign = np.sign(gap)
        alone = (sign == 0) & ((np.roll(sign, 1) != 0) | (np.roll(sign, -1) != 0))
        out.update(float(x) for x in grid[alone])
        cross = np.flatnonzero(sign[:-1] * sign[1:] < 0)
        low, high = grid[cross], grid[cross + 1]
        start = sign[cross]
        for _ in range(100 if cross.size else 0):
            middle = (low + high) / 2
            same = np.sign(inner(middle) - level) == start
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        out.update(float(x) for x in (low + high) / 2)
    return out


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _union(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({*a, *b}))


def _collect(waves: Waves) -> Waves:
    total: dict[complex, complex] = {}
    for c, rate in waves:
        total[rate] = total.get(rate, 0j) + c
    return tuple((c, rate) for rate, c in total.items() if c != 0) or ((0j, 0j),)


def _degree(f: Scalar) -> int:
    return max(len(piece) for piece in f.pieces or ((0.0,),)) - 1
