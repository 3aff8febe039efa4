"""Sliding windows as dimensions of their own (unfold, im2col), and the sums that undo them (col2im)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from initio.core.axes import Array, Axis, Taps, axis
from initio.core.moments import Moments
from initio.rules.linear import window_taps
from initio.rules.maxima import listed
from initio.rules.table import context, rule

__all__: list[str] = []


@lru_cache(maxsize=256)
def _pairs(taps: Taps, source: Axis, positions: Axis, offsets: Axis) -> Array:
    """Number of pairs of (position, offset) by class of the entries that they read, of the positions, and of the offsets."""
    d, p = np.nonzero(taps.index >= 0)
    i = taps.index[d, p]
    kinds = np.stack([source.label_array()[i], positions.label_array()[p], offsets.label_array()[d]], axis=1)
    groups, back = np.unique(kinds, axis=0, return_inverse=True)
    back = back.ravel()
    g = len(groups)
    out = np.zeros((source.P, positions.P, offsets.P))

    def matched(*keys: Any) -> Array:
        """Number of ordered pairs of two groups that agree on the keys."""
        _, code = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
        table = np.zeros((code.max() + 1, g))
        np.add.at(table, (code.ravel(), back), 1.0)
        return table.T @ table

    size = np.bincount(back, minlength=g).astype(float)
    all_, same_i, same_p, same_d = np.outer(size, size), matched(i), matched(p), matched(d)
    itself = np.diag(size)  # any two of (entry, position, offset) fix the third
    a, b = np.repeat(np.arange(g), g), np.tile(np.arange(g), g)
    first, second = groups[a], groups[b]

    def put(counts: Array, equal: tuple[bool, bool, bool]) -> None:
        where = []
        for k, (x, same) in enumerate(zip((source, positions, offsets), equal, strict=True)):
            where.append(x.K * x.K + first[:, k] if same else first[:, k] * x.K + second[:, k])
        keep = counts.ravel() > 0
        np.add.at(out, tuple(w[keep] for w in where), counts.ravel()[keep])

    put(itself, (True, True, True))
    put(same_i - itself, (True, False, False))
    put(same_p - itself, (False, True, False))
    put(same_d - itself, (False, False, True))
    put(all_ - same_i - same_p - same_d + 2 * itself, (False, False, False))
    return out


def _windowed(x: Moments, dim: int, taps: Taps) -> Moments:
    """Dimension `dim` becomes two axes: positions, offsets (with all offsets and positions of one kind each)."""
    x = x.with_axis(dim)
    i = x.span(dim)[0]
    a, p, d = x.axes[i], axis(taps.n_out), axis(taps.count)
    counts = _pairs(taps, a, p, d)
    total = np.multiply.outer(p.pairs, d.pairs)
    gram = counts / np.where(total > 0, total, 1.0)
    reads = np.bincount(a.label_array()[taps.index[taps.index >= 0]], minlength=a.K) / taps.index.size
    new_gram = np.moveaxis(np.tensordot(gram, x.gram, axes=([0], [i])), (0, 1), (i, i + 1))
    new_mean = np.expand_dims(np.expand_dims(np.tensordot(reads, x.mean, axes=([0], [i])), i), i)
    dims = list(x.dims)
    dims[dim] += 1
    return Moments.gaussian([*x.axes[:i], p, d, *x.axes[i + 1 :]], dims, new_mean, new_gram, x.sources, odd=x.odd, claim=x.claim)


def _summed(x: Moments, dim: int, taps: Taps) -> Moments:
    """The adjoint: the axes (positions, offsets) of dimension `dim` become the positions that they were read from."""
    i = x.span(dim)[0]
    p, d = x.axes[i], x.axes[i + 1]
    reached = np.bincount(taps.index[taps.index >= 0], minlength=taps.n_in)
    _, labels = np.unique(reached, return_inverse=True)
    out = axis(taps.n_in, labels.ravel() if labels.max(initial=0) < 6 else None)
    counts = _pairs(taps, out, p, d)
    gram = counts / np.where(out.pairs > 0, out.pairs, 1.0)[:, None, None]
    for c in np.flatnonzero(out.pairs <= 0):
        gram[c] = gram[out.K**2 + out.first[c]]
    mean = np.zeros((out.K, p.K, d.K))
    t, q = np.nonzero(taps.index >= 0)
    np.add.at(mean, (out.label_array()[taps.index[t, q]], p.label_array()[q], d.label_array()[t]), 1.0)
    mean /= out.counts[:, None, None]
    new_gram = np.moveaxis(np.tensordot(gram, x.gram, axes=([1, 2], [i, i + 1])), 0, i)
    new_mean = np.moveaxis(np.tensordot(mean, x.mean, axes=([1, 2], [i, i + 1])), 0, i)
    dims = list(x.dims)
    dims[dim] -= 1
    return Moments.gaussian([*x.axes[:i], out, *x.axes[i + 2 :]], dims, new_mean, new_gram, x.sources, odd=x.odd, claim=x.claim)


def _move_axis(x: Moments, start: int, stop: int) -> Moments:
    """Move one axis, each axis a dimension."""
    flat = [*range(len(x.axes))]
    flat.insert(stop, flat.pop(start))
    return x.redim([1] * len(x.axes)).permute(flat)


@rule("aten.unfold")
def unfold(x: Moments, dim: int, size: int, step: int) -> Moments:
    """y[…, p, …, d] = x[…, p · step + d, …]."""
    rank = len(x.dims)
    d = dim % max(rank, 1)
    n = x.shape[d]
    count = (n - size) // step + 1
    if step == size and count * size == n:
        shape = (*x.shape[:d], count, size, *x.shape[d + 1 :])
        return x.reshape(shape).permute([k for k in range(rank + 1) if k != d + 1] + [d + 1])
    made = _windowed(x, d, window_taps(n, size, step, 0, 1, count))
    i = made.span(d)[0]
    dims = [*made.dims[:d], 1, *made.dims[d + 1 :], 1]
    return _move_axis(made, i + 1, len(made.axes) - 1).redim(dims).without_ones()


@rule("aten.unfold_backward")
def unfold_backward(grad: Moments, sizes: Sequence[int], dim: int, size: int, step: int) -> Moments:
    """Cotangents of the windows added up where they were read."""
    rank = len(sizes)
    d = dim % max(rank, 1)
    count = grad.shape[d]
    g = grad.with_axis(d).with_axis(rank)
    start = g.span(rank)[0]
    i = g.span(d)[0]
    dims = [*g.dims[:d], 2, *g.dims[d + 1 : rank]]
    return _summed(_move_axis(g, start, i + 1).redim(dims), d, window_taps(sizes[d], size, step, 0, 1, count)).without_ones()


def _columns(shape: Sequence[int], kernel: Any, dilation: Any, padding: Any, stride: Any) -> list[Taps]:
    k, d, p, s = (listed(v, 2) for v in (kernel, dilation, padding, stride))
    return [window_taps(n, k[i], s[i], p[i], d[i], (n + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1) for i, n in enumerate(shape)]


@rule("aten.im2col")
def im2col(x: Moments, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Moments:
    """Windows of a map as columns: (C · kh · kw, oh · ow)."""
    shape = context().shapes[0]
    lead = len(x.dims) - 2
    for i, t in enumerate(_columns(x.shape[-2:], kernel, dilation, padding, stride)):
        x = _windowed(x, lead + i, t)
    h, w = x.span(lead)[0], x.span(lead + 1)[0]
    order = [*range(h), h + 1, w + 1, h, w]
    dims = [*x.dims[: lead - 1], x.dims[lead - 1] + 2, 2]
    made = x.redim([1] * len(x.axes)).permute(order).redim(dims).without_ones()
    assert made.shape == tuple(shape)
    return made


@rule("aten.col2im")
def col2im(x: Moments, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Moments:
    """Columns added up where they were read."""
    out, k = tuple(int(v) for v in size), listed(kernel, 2)
    taps = _columns(out, kernel, dilation, padding, stride)
    lead = len(x.dims) - 2
    channels = x.shape[lead] // (k[0] * k[1])
    x = x.reshape((*x.shape[:lead], channels, k[0], k[1], taps[0].n_out, taps[1].n_out))
    x = x.permute([*range(lead + 1), lead + 3, lead + 1, lead + 4, lead + 2])
    for d in range(lead + 1, lead + 5):
        x = x.with_axis(d)
    x = x.redim([*x.dims[: lead + 1], 2, 2])
    x = _summed(x, lead + 1, taps[0])
    return _summed(x, lead + 2, taps[1]).without_ones()
