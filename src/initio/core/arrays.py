"""Small arrays with given moments, and the moments of given arrays: the two ends of a simulation.

A Gaussian array with a given gram is a sum of independent parts, one for every set S of axes: the part varies along the axes in S and is
equal along the others within a kind (the variance components of a crossed random-effects model).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from initio.core.axes import CAP, Array, Axis
from initio.core.moments import Moments, empirical_gram

__all__ = ["ClassSums", "Drawer", "UndrawableError", "labels_of"]


class UndrawableError(Exception):
    """The joint law of the wanted arrays is not known."""


class Drawer:
    """Joint draws of tensors: every Gaussian field once, tensors of one field from the same draw.

    `sizes[id(axis)]` gives an axis another number of indices (for axes of one kind).
    """

    def __init__(self, rng: np.random.Generator, sizes: Mapping[int, int] | None = None) -> None:
        self.rng = rng
        self.sizes = dict(sizes or {})
        self._fields: dict[Any, tuple[int, Array]] = {}
        self._used = 0

    def size(self, a: Axis) -> int:
        """Number of indices drawn along an axis."""
        return self.sizes.get(id(a), a.size) if a.K == 1 else a.size

    def draw(self, x: Moments) -> Array:
        """One draw of x, flattened to its dimensions."""
        shape = tuple(self.size(a) for a in x.axes)
        dims: list[int] = []
        at = 0
        for count in x.dims:
            dims.append(math.prod(shape[at : at + count]))
            at += count
        if "known" in x.extra:
            return np.asarray(x.extra["known"], dtype=float)
        if "high" in x.extra:
            self._claim(x.sources)
            return self.rng.integers(0, x.extra["high"], size=dims).astype(float)
        if x.constant:
            if float(np.abs(x.covariance()).max(initial=0.0)) > 1e-9 * max(float(np.abs(x.gram).max(initial=0.0)), 1e-300):
                raise UndrawableError("a known array whose values were not kept")
            labels = np.ix_(*[a.label_array()[:n] for a, n in zip(x.axes, shape, strict=True)]) if shape else ()
            return np.asarray(x.mean[labels]).reshape(dims)
        out: Array = np.ones(shape)
        x = x.plain().with_law()
        for f in x.law:
            out = out * f.fn(self._field(f.field, x.axes, shape))
        return out.reshape(dims)

    def _claim(self, sources: int) -> None:
        if sources & self._used:
            raise UndrawableError("inputs that depend on each other in a way that is not tracked")
        self._used |= sources

    def _field(self, field: Any, axes: tuple[Axis, ...], shape: tuple[int, ...]) -> Array:
        key = (field.id, field.view)
        if field.mean.shape != tuple(a.K for a in axes):
            raise UndrawableError("a field whose axes are told apart otherwise than those of its value")
        if any(a.P != a.K * (a.K + 1) for a in axes):
            raise UndrawableError("neighbours that covary otherwise than the rest")
        if key not in self._fields:
            self._claim(field.sources)
            self._fields[key] = (field.sources, gaussian(field.mean, field.gram, axes, shape, self.rng))
        made = self._fields[key][1]
        if made.shape != shape:
            raise UndrawableError("one field on different axes")
        return made


def gaussian(mean: Array, gram: Array, axes: Sequence[Axis], shape: Sequence[int], rng: np.random.Generator) -> Array:
    """A Gaussian array of `shape` with the given mean and gram (the nearest positive one where it is not positive)."""
    r = len(axes)
    labels = [a.label_array()[:n] for a, n in zip(axes, shape, strict=True)]
    out = np.array(mean[np.ix_(*labels)] if r else mean, dtype=float)
    u, v = _pair(axes, mean)
    cov = gram - u * v
    # along every axis: (k, l) of different indices is the common part, what equal indices have beyond it is the index's own
    for subset in itertools.product((False, True), repeat=r):
        part = cov
        for i, (a, own) in enumerate(zip(axes, subset, strict=True)):
            k2 = a.K * a.K
            front = np.moveaxis(part, i, 0)
            chosen = front[k2:] - front[np.arange(a.K) * (a.K + 1)] if own else front[:k2]
            part = np.moveaxis(chosen, 0, i)
        own_axes = [i for i in range(r) if subset[i]]
        rest = [i for i in range(r) if not subset[i]]
        sizes = [axes[i].K for i in own_axes] + [s for i in rest for s in (axes[i].K, axes[i].K)]
        table = part.transpose([*own_axes, *rest]).reshape(sizes)
        first = [len(own_axes) + 2 * j for j in range(len(rest))]
        order = [*range(len(own_axes)), *first, *(j + 1 for j in first)]
        m = math.prod(axes[i].K for i in rest)
        matrices = table.transpose(order).reshape((-1, m, m))
        if not np.any(np.abs(matrices) > 1e-15 * max(float(np.abs(gram).max(initial=0.0)), 1e-300)):
            continue
        values, vectors = np.linalg.eigh((matrices + np.swapaxes(matrices, -1, -2)) / 2)
        roots = (vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]).reshape([*(axes[i].K for i in own_axes), m, m])
        z = rng.standard_normal([*(shape[i] for i in own_axes), m])
        picked = roots[np.ix_(*[labels[i] for i in own_axes])] if own_axes else roots
        drawn = np.einsum("...ij,...j->...i", picked, z).reshape([*(shape[i] for i in own_axes), *(axes[i].K for i in rest)])
        index = [np.arange(shape[i]) for i in own_axes] + [labels[i] for i in rest]
        spread = drawn[np.ix_(*index)] if r else drawn
        out = out + spread.transpose(np.argsort([*own_axes, *rest]))
    return out


def _pair(axes: Sequence[Axis], values: Array) -> tuple[Array, Array]:
    if not axes:
        return values, values
    return values[np.ix_(*[a.first for a in axes])], values[np.ix_(*[a.second for a in axes])]


class ClassSums:
    """Means per kind and second moments per pair class, averaged over draws, with their standard errors."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self.means: list[Array] = []
        self.grams: list[Array] = []

    def add(self, data: Array) -> None:
        """One draw, shaped by the axes' sizes."""
        mean, gram = class_averages(data, self.axes)
        self.means.append(mean)
        self.grams.append(gram)

    def result(self) -> tuple[Array, Array, Array]:
        """Mean, gram, and the standard error of the gram."""
        grams = np.stack(self.grams)
        error = grams.std(axis=0, ddof=1) / math.sqrt(len(grams)) if len(grams) > 1 else np.abs(grams[0])
        return np.mean(self.means, axis=0), grams.mean(axis=0), error


def class_averages(data: Array, axes: Sequence[Axis]) -> tuple[Array, Array]:
    """Averages of x_i by kind and of x_i x_j by pair class."""
    r = len(axes)
    if all(a.K == 1 for a in axes):
        return np.full((1,) * r, data.mean()), empirical_gram(data)
    sums: dict[tuple[bool, ...], Array] = {}
    for subset in itertools.product((True, False), repeat=r):  # True: the indices agree along the axis
        if all(subset):
            sums[subset] = data
            continue
        i = next(j for j in range(r) if not subset[j])
        finer = sums[(*subset[:i], True, *subset[i + 1 :])]
        sums[subset] = finer.sum(axis=i, keepdims=True) if axes[i].K == 1 else _by_kind(finer, axes[i], i)
    counts = [a.counts for a in axes]
    mean = sums[(False,) * r] if r else data
    for i, c in enumerate(counts):
        mean = mean / _along(c, i, r)
    gram = np.zeros([a.P for a in axes])
    for subset in itertools.product((True, False), repeat=r):
        part = sums[subset]
        index = tuple(slice(a.K * a.K, a.P) if agree else slice(0, a.K * a.K) for a, agree in zip(axes, subset, strict=True))
        left = list(range(r))
        right = [i if agree else r + i for i, agree in enumerate(subset)]
        both = [j for i, agree in enumerate(subset) for j in ((i,) if agree else (i, r + i))]
        square = part * part if all(subset) else np.einsum(part, left, part, right, both)
        for i, agree in enumerate(subset):  # indices that agree are summed within their kind, pairs of kinds flattened
            if agree:
                square = square.sum(axis=i, keepdims=True) if axes[i].K == 1 else _by_kind(square, axes[i], i)
            else:
                square = square.reshape((*square.shape[:i], axes[i].K ** 2, *square.shape[i + 2 :]))
        gram[index] = square
    for i, a in enumerate(axes):  # pairs that may agree, less those that do
        front = np.moveaxis(gram, i, 0)
        front[np.arange(a.K) * (a.K + 1)] -= front[a.K * a.K :]
    for i, a in enumerate(axes):
        pairs = np.where(a.pairs > 0, a.pairs, 1.0)
        gram = gram / _along(pairs, i, r)
    for i, a in enumerate(axes):  # a kind of one index has no pair of different indices
        front = np.moveaxis(gram, i, 0)
        for c in np.nonzero(a.pairs <= 0)[0]:
            front[c] = front[a.K * a.K + a.first[c]]
    return np.asarray(mean), gram


def _along(values: Array, i: int, r: int) -> Array:
    return values.reshape([-1 if j == i else 1 for j in range(r)])


def _by_kind(data: Array, a: Axis, i: int) -> Array:
    pick = np.zeros((a.K, a.size))
    pick[a.label_array(), np.arange(a.size)] = 1.0
    return np.moveaxis(np.tensordot(pick, data, axes=(1, i)), 0, i)


def labels_of(draws: Sequence[Array], d: int) -> Any:
    """Contiguous kinds along dimension d where the draws agree that its positions differ; None where they do not."""
    n = draws[0].shape[d]
    if not 4 <= n <= 1024 or len(draws) < 2:
        return None
    other = tuple(j for j in range(draws[0].ndim) if j != d)
    half = len(draws) // 2
    profiles = [np.stack([x.mean(axis=other), np.sqrt((x * x).mean(axis=other))]) for x in draws]
    a, b = np.mean(profiles[:half], axis=0), np.mean(profiles[half:], axis=0)
    level = float(np.sqrt(((a[1] + b[1]) ** 2).mean())) / 2
    if level == 0:
        return None
    different = False
    for p, q in zip(a, b, strict=True):
        spread = math.sqrt(float(p.var() * q.var()))
        if spread > (0.02 * level) ** 2 and float(((p - p.mean()) * (q - q.mean())).mean()) > min(0.6 + 1.2 / math.sqrt(n), 0.9) * spread:
            different = True
    return _segments(((a + b) / 2).T / level, CAP) if different else None


def _segments(points: Array, most: int) -> Any:
    """The contiguous segmentation into at most `most` parts with the least spread within parts."""
    n = len(points)
    first = np.concatenate([np.zeros((1, points.shape[1])), np.cumsum(points, axis=0)])
    second = np.concatenate([[0.0], np.cumsum((points**2).sum(axis=1))])
    i, j = np.arange(n)[:, None], np.arange(1, n + 1)[None]
    length = np.maximum(j - i, 1)
    cost = second[1:][None] - second[:-1][:, None] - ((first[1:][None] - first[:-1][:, None]) ** 2).sum(axis=-1) / length
    cost = np.where(j > i, np.maximum(cost, 0.0), np.inf)
    best = cost[0].copy()
    cuts: list[Any] = []
    for _ in range(min(most, n) - 1):
        options = best[:-1, None] + cost[1:]
        start = options.argmin(axis=0)
        better = options[start, np.arange(n)]
        cuts.append(np.where(better < best, start + 1, 0))
        best = np.minimum(best, better)
    labels = np.zeros(n, dtype=np.intp)
    end, kind = n, len(cuts)
    for level in reversed(range(len(cuts))):
        begin = int(cuts[level][end - 1])
        labels[begin:end] = kind
        kind -= 1
        end = begin
        if end == 0:
            break
    labels[:end] = kind
    return np.unique(labels, return_inverse=True)[1].ravel()
