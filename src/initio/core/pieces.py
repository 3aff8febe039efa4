"""A tensor that was put together of others along one dimension remembers them: a slice of it has the law of its part, not that of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from initio.core.axes import Array
from initio.core.moments import Cross, Factor, Moments, Unknown, pair_values
from initio.core.scalar import IDENTITY

__all__ = [
    "MOST",
    "Pieces",
    "Slice",
    "between",
    "common_cuts",
    "cut",
    "each_piece",
    "flat",
    "gap",
    "made_of",
    "permuted",
    "pieces_of",
    "reshaped",
    "telling",
]

MOST = 8
"""Most pieces that are followed one by one."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """Tensors that fill the ranges `range(start, stop, step)` of one dimension; the rest is 0."""

    dim: int
    size: int
    parts: tuple[tuple[range, Moments], ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where a piece or a gap starts or ends."""
        return tuple(sorted({0, self.size, *(r.start for r, _ in self.parts), *(r.start + len(r) for r, _ in self.parts)}))


@dataclass(frozen=True, eq=False)
class Slice:
    """Of which tensor a tensor is the range [start, stop) along `dim`: with several kinds there, the whole knows how slices covary."""

    whole: Moments
    dim: int
    start: int
    stop: int


def between(x: Moments, y: Moments, d: int) -> Array | None:
    """E[x_a y_b] of two slices of one tensor that do not overlap, by (kind of x, kind of y) on the axis of d and pair class on the others."""
    s, t = x.extra.get("slice"), y.extra.get("slice")
    if not isinstance(s, Slice) or not isinstance(t, Slice) or not _one(s.whole, t.whole) or s.dim != d or t.dim != d:
        return None
    x, y = x.with_axis(d), y.with_axis(d)
    if x.dims != s.whole.dims or y.dims != s.whole.dims or (s.start < t.stop and t.start < s.stop):
        return None
    i = s.whole.span(d)[0]
    if any(a is not b or a is not c for k, (a, b, c) in enumerate(zip(s.whole.axes, x.axes, y.axes, strict=True)) if k != i):
        return None
    a = s.whole.axes[i]
    gram = np.moveaxis(s.whole.gram, i, 0)[: a.off]
    by_kind = np.asarray(gram.reshape((a.K, a.K, *gram.shape[1:])))  # pyright: ignore[reportUnknownMemberType]
    first, second = (
        [a.label_array()[u.start + int(np.argmax(z.axes[i].label_array() == k))] for k in range(z.axes[i].K)] for z, u in ((x, s), (y, t))
    )
    return by_kind[np.ix_(first, second)]


def _one(x: Moments, y: Moments) -> bool:
    """Whether two tensors are the same functions of the same fields."""
    if x is y:
        return True
    pairs = zip(x.law, y.law, strict=False)
    return (
        x.axes == y.axes
        and 0 < len(x.law) == len(y.law)
        and all(f.fn is g.fn and f.field.id == g.field.id and f.field.view == g.field.view for f, g in pairs)
    )


def made_of(x: Moments, d: int, parts: Sequence[Moments]) -> Moments:
    """x, the concatenation of `parts` along dimension d, with its pieces."""
    ranges: list[tuple[range, Moments]] = []
    at = 0
    for p in parts:
        ranges.append((range(at, at + p.shape[d]), p))
        at += p.shape[d]
    return replace(x, extra={**x.extra, "pieces": Pieces(d, at, tuple(ranges))})


def pieces_of(x: Moments, d: int | None = None) -> Pieces | None:
    """The pieces of x (along d), where each is a range of consecutive indices."""
    p = x.extra.get("pieces")
    if not isinstance(p, Pieces) or (d is not None and p.dim != d) or p.dim >= len(x.shape) or x.shape[p.dim] != p.size:
        return None
    rest = (*x.shape[: p.dim], *x.shape[p.dim + 1 :])
    for r, part in p.parts:
        if (r.step != 1 and len(r) > 1) or (*part.shape[: p.dim], *part.shape[p.dim + 1 :]) != rest:
            return None
    return p


def flat(parts: Sequence[Moments], d: int) -> list[Moments]:
    """Every part, or the pieces along d that it was made of."""
    out: list[Moments] = []
    for x in parts:
        p = pieces_of(x, d)
        cuts = (0, x.shape[d]) if p is None else p.cuts
        out += [cut(x, d, start, stop) for start, stop in pairwise(cuts)]
    return out


def gap(x: Moments, d: int, width: int) -> Moments:
    """Zeros of the shape of x, `width` of them along d."""
    return Moments.iid((*x.shape[:d], width, *x.shape[d + 1 :]), 0.0, 0.0)


def cut(x: Moments, d: int, start: int, stop: int) -> Moments:
    """x[start:stop] along d: of one piece with the law of that piece, of several with those as its pieces."""
    p = pieces_of(x, d)
    if (start, stop) == (0, x.shape[d]):
        return x
    inside: list[tuple[range, Moments]] = []
    if p is not None:
        inside = [(r, y) for r, y in p.parts if r.start < stop and r.start + len(r) > start]
        if not inside:
            return gap(x, d, stop - start)
        r, y = inside[0]
        if r.start <= start and r.start + len(r) >= stop:
            return cut(_with_whole(x, p, r, y), d, start - r.start, stop - r.start)
    made = x.take(d, np.arange(start, stop), (start, 1))
    if x.dims[d] == 1 and x.axes[x.span(d)[0]].K > 1:
        made = replace(made, extra={**made.extra, "slice": Slice(x, d, start, stop)})
    if p is None:
        return made
    parts = tuple(
        (range(max(r.start, start) - start, min(r.start + len(r), stop) - start), _clipped(r, y, d, start, stop)) for r, y in inside
    )
    return replace(made, extra={**made.extra, "pieces": Pieces(d, stop - start, parts)})


def _with_whole(x: Moments, p: Pieces, r: range, y: Moments) -> Moments:
    """The piece y = f(z) of x, with the covariance of z with its range of x: Cov(z, y) = Cov(y, y) / E f′ (Stein 1981)."""
    if len(y.law) != 1 or len(x.law) != 1 or x.law[0].fn is not IDENTITY or x.dims[p.dim] != 1 or y.dims != x.dims:
        return y
    f, whole = y.law[0], x.law[0].field
    i = x.span(p.dim)[0]
    slope, _ = pair_values(y.axes, y.slope())
    if any(a.size != b.size for k, (a, b) in enumerate(zip(x.axes, y.axes, strict=True)) if k != i) or np.any(np.abs(slope) < 1e-6):
        return y
    view = replace(whole.view, offset=whole.view.offset + r.start * whole.view.strides[i], kinds=x.axes[i].K > 1)
    known = Cross(whole.id, view, y.covariance() / slope)
    return replace(y, law=(Factor(f.fn, replace(f.field, cross=(known, *f.field.cross))),))


def _clipped(r: range, x: Moments, d: int, start: int, stop: int) -> Moments:
    return cut(x, d, max(start - r.start, 0), min(stop - r.start, len(r)))


def common_cuts(*xs: Moments) -> tuple[int, tuple[int, ...]] | None:
    """(dimension, cuts) along which tensors of one shape fall into the pieces that some of them have; None if none has any."""
    found = [p for p in map(pieces_of, xs) if p is not None]
    if not found or any(x.shape != xs[0].shape for x in xs) or any(p.dim != found[0].dim for p in found):
        return None
    cuts = tuple(sorted({c for p in found for c in p.cuts}))
    return (found[0].dim, cuts) if 2 < len(cuts) <= MOST + 1 else None


def telling(x: Moments) -> bool:
    """Whether the pieces of x know more than their moments: functions of fields, or products of them."""
    p = pieces_of(x)
    return p is not None and any(len(y.law) > 1 or bool(y.terms) or any(f.fn.linear is None for f in y.law) for _, y in p.parts)


def each_piece(fn: Callable[..., Moments | Unknown], *xs: Moments) -> tuple[int, list[Moments]] | None:
    """`fn` of the pieces of tensors of one shape, for functions that commute with concatenation along their dimension."""
    found = common_cuts(*xs)
    if found is None:
        return None
    d, cuts = found
    made: list[Moments] = []
    for start, stop in pairwise(cuts):
        got = fn(*[cut(x, d, start, stop) for x in xs])
        if isinstance(got, Unknown):
            return None
        made.append(got)
    return d, made


def permuted(x: Moments, order: Sequence[int], made: Moments) -> Moments:
    """`made`, which is x with its dimensions in another order, with the pieces of x in that order."""
    p = pieces_of(x)
    if p is None:
        return made
    parts = tuple((r, permuted(y, order, y.permute(order))) for r, y in p.parts)
    return replace(made, extra={**made.extra, "pieces": Pieces(list(order).index(p.dim), p.size, parts)})


def reshaped(x: Moments, shape: tuple[int, ...]) -> Pieces | None:
    """The pieces of x in another shape that keeps the dimension of the pieces."""
    p = pieces_of(x)
    if p is None:
        return None
    before, lead = math.prod(x.shape[: p.dim]), 1
    for d, n in enumerate(shape):
        if lead == before and n == p.size:
            return Pieces(d, p.size, tuple((r, y.reshape((*shape[:d], len(r), *shape[d + 1 :]))) for r, y in p.parts))
        lead *= n
    return None
