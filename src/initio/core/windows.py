"""Maxima over overlapping windows of exchangeable normals: moments of the maxima, and which entries are chosen.

Two windows of n₁ and n₂ entries that share s of them have N = n₁ + n₂ − s entries together. The largest of the N lies anywhere
with probability 1/N; if it is shared, both windows choose it, else the other window's maximum is any of its entries.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import log_ndtr, ndtr

from initio.core.axes import Array, Axis, Taps
from initio.core.scalar import Scalar

__all__ = ["choice_matrix", "chosen", "maxima", "overlap_counts", "tabulated", "window_kinds"]

_EDGES = np.linspace(-9.0, 9.0, 601)
_MIDDLE = (_EDGES[1:] + _EDGES[:-1]) / 2
_NODES, _RAW = hermegauss(48)
_WEIGHTS = _RAW / _RAW.sum()


def _orders() -> Array:
    """He_k(x) / √k! at the nodes."""
    rows = [np.ones_like(_NODES), _NODES]
    for k in range(1, len(_NODES) - 1):
        rows.append((_NODES * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows)


_BASIS = _orders() * _WEIGHTS


class Maxima:
    """f(max over n entries) for entries m + W + σ Z, W ~ N(0, common) shared by all, as a function of W at quadrature nodes."""

    def __init__(self, f: Scalar, mean: float, common: float, own: float) -> None:
        points = mean + math.sqrt(common) * _NODES
        self.values: Array = np.asarray(f(points[:, None] + math.sqrt(own) * _MIDDLE))
        self._given: dict[float, Array] = {}

    def given(self, n: float) -> Array:
        """E[f(max) | W] at the nodes."""
        if n not in self._given:
            self._given[n] = self.values @ np.diff(ndtr(_EDGES) ** n)
        return self._given[n]

    def coefficients(self, n: float) -> Array:
        """Hermite coefficients of E[f(max) | W]."""
        return _BASIS @ self.given(n)

    def ordered(self, n: float, count: int = 4096) -> Array:
        """Equally likely values of f(max over n entries), in ascending order."""
        weight = np.multiply.outer(_WEIGHTS, np.diff(ndtr(_EDGES) ** n)).ravel()
        order = np.argsort(self.values, axis=None)
        below = np.cumsum(weight[order])
        at = np.searchsorted(below / below[-1], (np.arange(count) + 0.5) / count)
        return self.values.ravel()[order[np.minimum(at, order.size - 1)]]

    def both(self, n1: int, n2: int, s: int) -> float:
        """E f(max₁) f(max₂) for windows that share s > 0 entries."""
        density = np.diff(ndtr(_EDGES) ** s)
        left = self._above(n1 - s)
        right = left if n1 == n2 else self._above(n2 - s)
        return float(_WEIGHTS @ ((left * right) @ density))

    def _above(self, a: int) -> Array:
        """E f(max of a entries and z) at every z."""
        if a == 0:
            return self.values
        below, at = ndtr(_EDGES) ** a, ndtr(_MIDDLE) ** a
        steps = self.values * np.diff(below)
        rest = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1] - steps
        return self.values * below[1:] + rest + 0.0 * at


@lru_cache(maxsize=512)
def maxima(f: Scalar, mean: float, common: float, own: float) -> Maxima:
    """The maxima over windows of one law, of any size."""
    return Maxima(f, mean, common, own)


@lru_cache(maxsize=256)
def chosen(n: int, share: float) -> Scalar:
    """Z ↦ n P(z is the largest of n standard normals of which each two have the correlation `share`): its expectation is 1."""
    nodes, weights = (hermegauss(16)) if share > 0 else (np.zeros(1), np.ones(1))
    weights = weights / weights.sum()
    a, b = math.sqrt(max(1 - share, 0.0)), math.sqrt(max(share, 0.0))

    def fn(z: Array) -> Array:
        z = np.asarray(z, dtype=float)
        return n * (np.exp((n - 1) * log_ndtr(a * z[..., None] - b * nodes)) @ weights)

    return Scalar(f"chosen{n}({share:.3g})", tabulated(fn))


def tabulated(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A smooth function of a standard normal as a cubic spline, right to about 1e-9 of its range; constant beyond ±12."""
    grid = np.linspace(-12.0, 12.0, 2401)
    spline = CubicSpline(grid, fn(grid))
    return lambda z: spline(np.clip(z, -12.0, 12.0))


# -- pairs of windows along one axis -----------------------------------------------------------------------------


Labels = NDArray[np.intp]


@lru_cache(maxsize=512)
def _near(taps: Taps, reach: int, lags: int) -> tuple[Labels, Labels, Labels]:
    """Windows w and v with common entries or ones at most `reach` apart, or themselves at most `lags` apart (w = v among them), and the number of common entries."""
    index, n = taps.index, taps.n_out
    first, second, shared = [np.zeros(0, dtype=np.intp)], [np.zeros(0, dtype=np.intp)], [np.zeros(0, dtype=np.intp)]
    last, begin = index.max(axis=0), np.where(index >= 0, index, taps.n_in).min(axis=0)
    for shift in range(n):
        p = np.arange(n - shift)
        if shift > lags and np.all(begin[shift:] > last[: n - shift] + reach):
            break
        left, right = index[:, None, : n - shift], index[None, :, shift:]
        common = ((left == right) & (left >= 0)).sum(axis=(0, 1))
        for a, b in ((p, p + shift), (p + shift, p))[: 1 + (shift > 0)]:
            first.append(a)
            second.append(b)
            shared.append(common)
    return np.concatenate(first), np.concatenate(second), np.concatenate(shared)


@lru_cache(maxsize=512)
def window_kinds(taps: Taps, out: Axis) -> NDArray[np.intp]:
    """Number of entries of the windows of every kind (of the first of a kind)."""
    sizes = (taps.index >= 0).sum(axis=0)
    return np.array([sizes[int(np.argmax(out.label_array() == k))] for k in range(out.K)])


@lru_cache(maxsize=512)
def overlap_counts(taps: Taps, out: Axis) -> list[list[tuple[float, int, int, int]]]:
    """For each pair class of windows: (share, n₁, n₂, shared entries)."""
    size = (taps.index >= 0).sum(axis=0)
    label = out.label_array()
    w, v, shared = _near(taps, 0, out.lags)
    rows = np.stack([out.classes(w, v), label[w], label[v], size[w], size[v], shared], axis=1)
    near, number = np.unique(rows, axis=0, return_counts=True)
    groups, members = np.unique(np.stack([label, size], axis=1), axis=0, return_counts=True)
    total: dict[tuple[int, ...], float] = {}
    for (k, n), a in zip(groups.tolist(), members.tolist(), strict=True):
        for (m, o), b in zip(groups.tolist(), members.tolist(), strict=True):
            total[k, m, n, o] = float(a * b)
    table: list[list[tuple[float, int, int, int]]] = [[] for _ in range(out.P)]
    for (c, k, m, n, o, s), count in zip(near.tolist(), number.tolist(), strict=True):
        total[k, m, n, o] -= count
        table[c].append((count / float(out.pairs[c]), n, o, s))
    for (k, m, n, o), count in total.items():
        if count > 0:
            c = k * out.K + m
            table[c].append((count / float(out.pairs[c]), n, o, 0))
    for c in range(out.P):  # a kind of one window has no pair of different windows
        if not table[c]:
            table[c] = table[out.off + int(out.first[c])]
    return table


@lru_cache(maxsize=512)
def _choices(taps: Taps, source: Axis, out: Axis) -> tuple[Labels, Any]:
    """Classes of the entries i and j and of the windows w ∋ i and v ∋ j, |w|, |v|, |w ∩ v|, [i ∈ v], [j ∈ w], [i = j], and their number."""
    size = (taps.index >= 0).sum(axis=0)
    w, v, shared = _near(taps, source.lags, out.lags)
    d, e = (x.ravel() for x in np.meshgrid(np.arange(taps.count), np.arange(taps.count), indexing="ij"))
    i, j = taps.index[d][:, w], taps.index[e][:, v]
    inside_v = (i[None] == taps.index[:, v][:, None]).any(axis=0)
    inside_w = (j[None] == taps.index[:, w][:, None]).any(axis=0)
    ok = (i >= 0) & (j >= 0)
    spread = [np.broadcast_to(x, i.shape)[ok] for x in (w, v, size[w], size[v], shared)]
    w, v, nw, nv, shared = spread
    i, j = i[ok], j[ok]
    columns = [source.classes(i, j), out.classes(w, v), nw, nv, shared, inside_v[ok], inside_w[ok], i == j]
    rows, counts = np.unique(np.stack([np.asarray(c, dtype=np.intp) for c in columns], axis=1), axis=0, return_counts=True)
    # windows apart: all pairs of incidences less those above
    t, p = np.nonzero(taps.index >= 0)
    held = np.stack([source.label_array()[taps.index[t, p]], out.label_array()[p], size[p]], axis=1)
    groups, members = np.unique(held, axis=0, return_counts=True)
    total = np.multiply.outer(members, members).astype(float)
    number = {tuple(g): n for n, g in enumerate(groups.tolist())}
    label_in, label_out = source.label_array(), out.label_array()
    pairs, many = np.unique(np.stack([label_in[i], label_out[w], nw, label_in[j], label_out[v], nv], axis=1), axis=0, return_counts=True)
    for row, count in zip(pairs.tolist(), many.tolist(), strict=True):
        total[number[tuple(row[:3])], number[tuple(row[3:])]] -= count
    far = [
        (k * source.K + m, p_ * out.K + q, n1, n2, 0, 0, 0, 0)
        for k, p_, n1 in groups.tolist()
        for m, q, n2 in groups.tolist()
        if total[number[k, p_, n1], number[m, q, n2]] > 0
    ]
    values = total[total > 0]
    return (np.concatenate([rows, np.array(far, dtype=np.intp)]), np.concatenate([counts, values])) if far else (rows, counts.astype(float))


@lru_cache(maxsize=256)
def choice_matrix(taps: tuple[Taps, ...], sources: tuple[Axis, ...], outs: tuple[Axis, ...]) -> tuple[Array, tuple[tuple[int, Array], ...]]:
    """Σ over windows of P(w chooses i, v chooses j), from pair classes of windows to the average over a pair class of entries, flattened.

    Also, for i = j, the same split by the number N of entries of both windows together, averaged over all entries.
    """
    tables = [_choices(t, a, b) for t, a, b in zip(taps, sources, outs, strict=True)]
    count = np.ones(1)
    entry, window = np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp)
    n1, n2, s = (np.ones(1, dtype=np.intp) for _ in range(3))
    left, right, same = (np.ones(1, dtype=bool) for _ in range(3))
    for (rows, number), a, b in zip(tables, sources, outs, strict=True):
        columns = rows.T
        count = np.multiply.outer(count, number / np.where(a.pairs > 0, a.pairs, 1.0)[columns[0]]).ravel()
        entry = np.add.outer(entry * a.P, columns[0]).ravel()
        window = np.add.outer(window * b.P, columns[1]).ravel()
        n1, n2, s = (np.multiply.outer(x, y).ravel() for x, y in ((n1, columns[2]), (n2, columns[3]), (s, columns[4])))
        left, right, same = (np.logical_and.outer(x, y).ravel() for x, y in ((left, columns[5]), (right, columns[6]), (same, columns[7])))
    union = n1 + n2 - s
    apart = np.where(left, np.where(right, 0.0, 1 / n1), np.where(right, 1 / n2, 1 / n1 + 1 / n2))
    probability = np.where(same, 1.0, apart) / union
    shape = (math.prod(a.P for a in sources), math.prod(b.P for b in outs))
    matrix: Any = np.bincount(entry * shape[1] + window, count * probability, shape[0] * shape[1]).reshape(shape)
    _fill_empty(matrix, sources)
    everything: Array = np.ones(1)
    for a in sources:
        everything = np.multiply.outer(everything, np.where(a.same, a.pairs / a.size, 0.0)).ravel()
    split: list[tuple[int, Array]] = []
    for n in np.unique(union[same]).tolist():
        pick = same & (union == n)
        split.append(
            (int(n), np.asarray(np.bincount(window[pick], (count * probability * everything[entry])[pick], shape[1]), dtype=float))
        )
    return matrix, tuple(split)


def _fill_empty(matrix: Array, sources: tuple[Axis, ...]) -> None:
    """A kind of one entry has no pair of different entries: such classes take the row of the equal pair."""
    grid = np.arange(len(matrix)).reshape([a.P for a in sources])
    for i, a in enumerate(sources):
        for c in np.flatnonzero(a.pairs <= 0):
            here, there = np.take(grid, c, axis=i).ravel(), np.take(grid, a.off + a.first[c], axis=i).ravel()
            matrix[here] = matrix[there]
