"""Closed-form Gaussian integrals of piecewise polynomials: truncated moments of one and two normals.

A piecewise polynomial is written f(x) = p₀(x) + Σ_j Σ_i e_ji (x − k_j)₊^i: its left-most piece and, at each
break k_j, the change of the polynomial expanded about the break. What remains are the moments
T_i(h) = E[(Z − h)₊^i] and N_ab(h, k; ρ) = E[(X − h)₊^a (Y − k)₊^b], both by integration by parts.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.polynomial import polynomial as P
from scipy import special

__all__ = ["Pieces", "compose", "evaluate", "jump_slope", "moment", "normal_pdf", "orthant", "pair", "refine", "tail_moments"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Pieces: TypeAlias = tuple[tuple[float, ...], ...]
"""Coefficients in ascending powers, one polynomial for each interval between consecutive breaks."""

_ACTIVE = 12.0  # a break further than this to the left is always passed (probability of the rest < 2e-33)
_FAR = 38.0  # beyond, the normal density underflows


def evaluate(breaks: tuple[float, ...], pieces: Pieces, x: Array) -> Array:
    """f(x); at a break the right-hand piece holds."""
    where = np.searchsorted(np.asarray(breaks), x, side="right")
    degree = max(len(piece) for piece in pieces)
    table = np.zeros((len(pieces), degree))
    for row, piece in zip(table, pieces, strict=True):
        row[: len(piece)] = piece
    out = table[where, degree - 1]
    for power in range(degree - 2, -1, -1):
        out = out * x + table[where, power]
    return out


def refine(breaks: tuple[float, ...], pieces: Pieces, extra: tuple[float, ...]) -> tuple[tuple[float, ...], Pieces]:
    """The same function with further breaks."""
    union = tuple(sorted({*breaks, *extra}))
    where = np.searchsorted(np.asarray(breaks), _inside(union), side="right")
    return union, tuple(pieces[i] for i in where)


def compose(
    inner: tuple[tuple[float, ...], Pieces], outer: tuple[tuple[float, ...], Pieces], at_break: Callable[[Array], Array]
) -> tuple[tuple[float, ...], Pieces]:
    """Breaks and pieces of outer∘inner; `at_break` is the outer function, which decides where inner stays on one of its breaks."""
    cuts = set(inner[0])
    edges = (-np.inf, *inner[0], np.inf)
    for low, high, piece in zip(edges[:-1], edges[1:], inner[1], strict=True):
        for level in outer[0]:
            cuts.update(root for root in _roots(piece, level) if low < root < high)
    breaks = tuple(sorted(cuts))
    middle = _inside(breaks)
    _, at = refine(*inner, breaks)
    values = evaluate(*inner, middle)
    which = np.searchsorted(np.asarray(outer[0]), values, side="right")
    made: list[tuple[float, ...]] = []
    for w, piece in zip(which, at, strict=True):
        flat = not any(piece[1:]) and piece[0] in outer[0]
        made.append((float(at_break(np.asarray(piece[0], dtype=float))),) if flat else _substitute(outer[1][w], piece))
    return breaks, tuple(made)


def moment(breaks: tuple[float, ...], pieces: Pieces, mean: Array, std: Array) -> tuple[Array, Array]:
    """E f(mean + std Z) and the sum of the absolute terms that it was added from (its rounding is that times 1e-16)."""
    base, terms = _split(breaks, pieces, mean, std)
    total = np.zeros_like(mean)
    size = np.zeros_like(mean)
    full = 1.0
    for i in range(0, base.shape[0], 2):
        total += base[i] * full
        size += np.abs(base[i]) * full
        full *= i + 1
    for h, jump in terms:
        for coefficient, value in zip(jump, tail_moments(h, len(jump)), strict=True):
            part = coefficient * value
            total += part
            size += np.abs(part) + np.abs(coefficient * h * normal_pdf(h))
    return total, size


def pair(
    f: tuple[tuple[float, ...], Pieces],
    g: tuple[tuple[float, ...], Pieces],
    mean_u: Array,
    std_u: Array,
    mean_v: Array,
    std_v: Array,
    rho: Array,
) -> tuple[Array, Array]:
    """E f(U) g(V) and the sum of absolute terms, for correlation `rho` (exactly ±1 included)."""
    base_f, terms_f = _split(*f, mean_u, std_u)
    base_g, terms_g = _split(*g, mean_v, std_v)
    total = np.zeros_like(rho)
    size = np.zeros_like(rho)
    for h, left in [(None, base_f), *terms_f] if base_f.any() else terms_f:
        for k, right in [(None, base_g), *terms_g] if base_g.any() else terms_g:
            table = _pair_moments(h, k, rho, len(left), len(right))
            for a, first in enumerate(left):
                for b, second in enumerate(right):
                    if (a, b) in table:
                        part = first * second * table[a, b]
                        total += part
                        size += np.abs(part)
    return total, size


def jump_slope(breaks: tuple[float, ...], pieces: Pieces, mean: Array, std: Array) -> Array:
    """The part of E f′(mean + std Z) that jumps of f make, Σ (jump at k) φ(h)/std; half-weighted infinities where std = 0 at a jump."""
    total = np.zeros_like(mean)
    for at, jump in zip(breaks, _jumps(breaks, pieces), strict=True):
        if jump[0]:
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                h = np.where(mean == at, 0.0, (at - mean) / std)
                total += np.where(np.abs(h) < _FAR, jump[0] * normal_pdf(h) / std, 0.0)
    return total


def tail_moments(h: Array, count: int) -> list[Array]:
    """T_i(h) = E[(Z − h)₊^i] for i < count: T_i = (i − 1) T_{i−2} − h T_{i−1}."""
    out = [special.ndtr(-h)]
    if count > 1:
        out.append(np.maximum(normal_pdf(h) - h * out[0], 0.0))
    for i in range(2, count):
        out.append(np.maximum((i - 1) * out[i - 2] - h * out[i - 1], 0.0))
    return out


def orthant(h: Array, k: Array, rho: Array) -> Array:
    """P(X > h, Y > k) of standard normals with correlation rho, by Owen's T function (Owen 1956)."""
    if not h.any() and not k.any():
        return 0.25 + np.arcsin(rho) / (2 * np.pi)
    x, y = -h + 0.0, -k + 0.0
    spread = np.sqrt((1 - rho) * (1 + rho))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slope_x = (y - rho * x) / (x * spread)
        slope_y = (x - rho * y) / (y * spread)
    out = 0.5 * (special.ndtr(x) + special.ndtr(y)) - special.owens_t(x, slope_x) - special.owens_t(y, slope_y)
    out -= 0.5 * ((x * y < 0) | ((x * y == 0) & (x + y < 0)))
    out = np.where((x == 0) & (y == 0), 0.25 + np.arcsin(rho) / (2 * np.pi), out)
    out = np.where(rho >= 1, special.ndtr(np.minimum(x, y)), out)
    out = np.where(rho <= -1, np.maximum(special.ndtr(x) - special.ndtr(-y), 0.0), out)
    return np.clip(out, 0.0, 1.0)


def normal_pdf(z: Array) -> Array:
    """The standard normal density."""
    return np.exp(-0.5 * z * z) * 0.3989422804014327


def _pair_moments(h: Array | None, k: Array | None, rho: Array, rows: int, columns: int) -> dict[tuple[int, int], Array]:
    """N_ab = (a−1) N_{a−2,b} + ρ b N_{a−1,b−1} − h N_{a−1,b} + [a=1] φ(h) E[(Y−k)₊^b | X=h] + [b=0] ρ φ(k) E[(X−h)₊^{a−1} | Y=k].

    `h` None means no truncation and powers of X itself (likewise `k`); vanishing entries are left out.
    """
    out: dict[tuple[int, int], Array] = {}
    if h is None and k is None:
        out[0, 0] = np.ones_like(rho)
    elif h is None or k is None:
        out[0, 0] = special.ndtr(-(k if h is None else h))  # type: ignore[operator]
    else:
        out[0, 0] = orthant(h, k, rho)
    spread = np.sqrt((1 - rho) * (1 + rho))
    given_h = None if h is None else _conditional(h, k, rho, spread, columns)
    given_k = None if k is None else _conditional(k, h, rho, spread, rows)
    for a in range(rows):
        for b in range(columns):
            if a == 0 and b == 0:
                continue
            total: Array | None = None
            if a > 0:
                parts = [(a - 1.0, (a - 2, b)), (rho * b, (a - 1, b - 1)), (None if h is None else -h, (a - 1, b))]
                edge = [normal_pdf(h) * given_h[b]] if a == 1 and h is not None and given_h is not None else []
                if b == 0 and k is not None and given_k is not None:
                    edge.append(rho * normal_pdf(k) * given_k[a - 1])
            else:
                parts = [(b - 1.0, (0, b - 2)), (None if k is None else -k, (0, b - 1))]
                edge = [normal_pdf(k) * given_k[0]] if b == 1 and k is not None and given_k is not None else []
                if h is not None and given_h is not None:
                    edge.append(rho * normal_pdf(h) * given_h[b - 1])
            for factor, key in parts:
                if factor is not None and key in out:
                    total = factor * out[key] if total is None else total + factor * out[key]
            for value in edge:
                total = value if total is None else total + value
            if total is not None:
                out[a, b] = total
    return out


def _conditional(at: Array, k: Array | None, rho: Array, spread: Array, count: int) -> list[Array]:
    """E[(Y − k)₊^b | X = at] for b < count (powers of Y itself where k is None)."""
    centre = rho * at
    if k is None:
        out = [np.ones_like(rho), centre]
        for b in range(2, count):
            out.append(centre * out[b - 1] + (b - 1) * spread**2 * out[b - 2])
        return out[: max(count, 1)]
    gap = centre - k
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(spread > 0, -gap / spread, -np.sign(gap) * np.inf)
    scaled = np.where(gap == 0, 0.0, scaled)
    finite = np.clip(scaled, -_FAR, _FAR)
    out: list[Array] = []
    for b, value in enumerate(tail_moments(finite, count)):
        out.append(np.where(np.abs(scaled) < _FAR, spread**b * value, np.maximum(gap, 0.0) ** b * (gap > 0)))
    # far to the right of the break the recursion for b ≥ 2 loses the spread: E[(gap + τZ)^b] there
    for b in range(2, count if np.any(scaled < -_ACTIVE) else 2):
        full = sum(math.comb(b, 2 * j) * math.prod(range(1, 2 * j, 2)) * gap ** (b - 2 * j) * spread ** (2 * j) for j in range(b // 2 + 1))
        out[b] = np.where(scaled < -_ACTIVE, full, out[b])
    return out


def _split(breaks: tuple[float, ...], pieces: Pieces, mean: Array, std: Array) -> tuple[Array, list[tuple[Array, list[Array]]]]:
    """Base polynomial in z, shape (degree + 1, entries), and per break (h, [e_i std^i]).

    The base is the piece right of every break that is always passed: adding their jumps up would cancel.
    """
    base = np.zeros((max(len(piece) for piece in pieces), mean.size))
    terms: list[tuple[Array, list[Array]]] = []
    passed = np.zeros(mean.size, np.intp)
    for at, jump in zip(breaks, _jumps(breaks, pieces), strict=True):
        with np.errstate(over="ignore"):
            h = (at - mean) / std
        passed += h < -_ACTIVE
        live = (h >= -_ACTIVE) & (h <= _FAR)
        if live.any():
            powers = [np.where(live, e * std**i, 0.0) for i, e in enumerate(jump)]
            terms.append((np.clip(h, -_ACTIVE, _FAR), powers))
    for number, piece in enumerate(pieces):
        here = passed == number
        if here.all():
            _add_shifted(base, piece, mean, std)
            break
        if here.any():
            part = base[:, here]
            _add_shifted(part, piece, mean[here], std[here])
            base[:, here] = part
    return base, terms


@lru_cache(maxsize=1024)
def _jumps(breaks: tuple[float, ...], pieces: Pieces) -> list[tuple[float, ...]]:
    out: list[tuple[float, ...]] = []
    for at, low, high in zip(breaks, pieces[:-1], pieces[1:], strict=True):
        size = max(len(low), len(high))
        change = np.zeros(size)
        change[: len(high)] += high
        change[: len(low)] -= low
        moved = np.zeros(size)
        for j, c in enumerate(change):
            for i in range(j + 1):
                moved[i] += c * math.comb(j, i) * at ** (j - i)
        moved[np.abs(moved) < 1e-15 * max(np.abs(change).max() * max(1.0, abs(at)) ** (size - 1), 1e-300)] = 0.0
        out.append(tuple(float(m) for m in moved))
    return out


def _add_shifted(base: Array, coefficients: tuple[float, ...], mean: Array, std: Array) -> None:
    """Base += coefficients of p(mean + std z) in powers of z."""
    base[0] += coefficients[0]
    if len(coefficients) > 1 and coefficients[1]:
        base[0] += coefficients[1] * mean
        base[1] += coefficients[1] * std
    if not any(coefficients[2:]):
        return
    means, stds = [np.ones_like(mean), mean], [np.ones_like(std), std]
    for j, c in enumerate(coefficients[2:], 2):
        means.append(means[-1] * mean)
        stds.append(stds[-1] * std)
        if c:
            for i in range(j + 1):
                base[i] += c * math.comb(j, i) * means[j - i] * stds[i]


def _roots(piece: tuple[float, ...], level: float) -> list[float]:
    shifted = (piece[0] - level, *piece[1:])
    trimmed = np.trim_zeros(np.asarray(shifted), "b")
    if trimmed.size < 2:
        return []
    if trimmed.size == 2:
        return [float(-trimmed[0] / trimmed[1])]
    return [float(r.real) for r in P.polyroots(trimmed) if abs(r.imag) < 1e-9 * max(1.0, abs(r))]


def _inside(breaks: tuple[float, ...]) -> Array:
    """A point within each interval."""
    if not breaks:
        return np.zeros(1)
    cuts = np.asarray(breaks)
    return np.concatenate(([cuts[0] - 1 - abs(cuts[0])], (cuts[1:] + cuts[:-1]) / 2, [cuts[-1] + 1 + abs(cuts[-1])]))


def _substitute(outer: tuple[float, ...], inner: tuple[float, ...]) -> tuple[float, ...]:
    out = np.array([outer[-1]])
    for c in reversed(outer[:-1]):
        out = P.polyadd(P.polymul(out, inner), [c])
    return tuple(float(c) for c in out)
