# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Covariance matrices that are exchangeable along each axis, by their eigenvalues; and what dividing by the root mean square makes of them.

Along one axis with K kinds of n_k indices such a matrix has one K × K block (on the sums of each kind) and, for each kind,
an eigenvalue of multiplicity n_k − 1 (on differences within the kind). Several axes give the Kronecker structure of that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from initio.core.axes import Array, Axis
from initio.core.moments import along

__all__ = ["self_normalised"]


@lru_cache(maxsize=4096)
def _to_blocks(a: Axis) -> tuple[Array, Array]:
    """(P, P): from pair classes to the K × K block (row-major) followed by the K eigenvalues of differences; and its inverse."""
    k = a.K
    matrix = np.zeros((a.P, a.P))
    root = np.sqrt(a.counts)
    matrix[np.arange(k * k), np.arange(k * k)] = np.outer(root, root).ravel()
    for i in range(k):
        matrix[i * k + i, i * k + i] = a.counts[i] - 1.0
        matrix[i * k + i, k * k + i] = 1.0
        matrix[k * k + i, i * k + i] = -1.0
        matrix[k * k + i, k * k + i] = 1.0
    return matrix, np.asarray(np.linalg.inv(matrix), dtype=float)


_T = np.exp(np.linspace(-34.0, 16.0, 201))
"""Points of the integrals over t, equally spaced in log t."""
_STEP = math.log(_T[1] / _T[0])


def self_normalised(gram: Array, axes: Sequence[Axis], eps: float) -> tuple[Array, float]:
    """E[y yᵀ / s] and E[1/s], s = |y|²/n + eps, for y ~ N(0, gram) over `axes`: both by 1/s = ∫ exp(−t s) dt (Magnus 1986).

    E[1/s] = ∫ e^(−t eps) Π_i (1 + 2 t λ_i / n)^(−1/2) dt, and an eigenvalue λ_j becomes ∫ λ_j / (1 + 2 t λ_j / n) (the same) dt.
    """
    n = float(math.prod(a.size for a in axes))
    blocks = gram
    for i, a in enumerate(axes):
        blocks = along(_to_blocks(a)[0], blocks, i)
    parts: list[tuple[tuple[slice | Array, ...], Array, Array, Array]] = []
    for pattern in itertools.product((True, False), repeat=len(axes)):
        index = tuple(slice(0, a.K * a.K) if block else slice(a.K * a.K, a.P) for block, a in zip(pattern, axes, strict=True))
        matrix, count = _matrices(blocks[index], pattern, axes)
        values, vectors = np.linalg.eigh(matrix)
        parts.append((index, np.maximum(values, 0.0), vectors, np.broadcast_to(count[:, None], values.shape)))
    mean = sum(float((v * c).sum()) for _, v, _, c in parts) / n + eps
    if not mean > 0:
        return gram, 0.0
    everything = np.concatenate([v.ravel() for _, v, _, _ in parts]) / (n * mean)
    multiplicity = np.concatenate([c.ravel() for _, _, _, c in parts])
    kept = everything > 1e-14
    log = -0.5 * np.log1p(2.0 * np.outer(_T, everything[kept])) @ multiplicity[kept] - _T * (eps / mean)
    weight = np.exp(log) * _T * _STEP
    out = np.zeros_like(blocks)
    for (index, values, vectors, _), pattern in zip(parts, itertools.product((True, False), repeat=len(axes)), strict=True):
        scaled = values / mean
        made = (scaled[..., None] / (1.0 + 2.0 * _T * scaled[..., None] / n)) @ weight
        matrix = (vectors * made[:, None, :]) @ np.swapaxes(vectors, -1, -2)
        where: Any = index  # slices and lists of classes
        out[where] = _entries(matrix, pattern, axes, out[where].shape)
    for i, a in enumerate(axes):
        out = along(_to_blocks(a)[1], out, i)
    return out, float(weight.sum()) / mean


def _orders(pattern: Sequence[bool], axes: Sequence[Axis]) -> tuple[list[int], list[int], list[int]]:
    """Shape with every block split in two, and the order that puts differences first, then rows, then columns."""
    shape: list[int] = []
    batch: list[int] = []
    rows: list[int] = []
    columns: list[int] = []
    for block, a in zip(pattern, axes, strict=True):
        if block:
            rows.append(len(shape))
            columns.append(len(shape) + 1)
            shape += [a.K, a.K]
        else:
            batch.append(len(shape))
            shape.append(a.K)
    return shape, [*batch, *rows, *columns], [len(batch), len(rows)]


def _matrices(entries: Array, pattern: Sequence[bool], axes: Sequence[Axis]) -> tuple[Array, Array]:
    """The symmetric matrices of one pattern, and how often each occurs."""
    shape, order, _ = _orders(pattern, axes)
    size = math.prod(a.K for block, a in zip(pattern, axes, strict=True) if block)
    count: Array = np.ones(1)
    for block, a in zip(pattern, axes, strict=True):
        if not block:
            count = np.multiply.outer(count, a.counts - 1.0).ravel()
    return entries.reshape(shape).transpose(order).reshape(-1, size, size), count


def _entries(matrices: Array, pattern: Sequence[bool], axes: Sequence[Axis], shape: tuple[int, ...]) -> Array:
    split, order, _ = _orders(pattern, axes)
    return matrices.reshape([split[i] for i in order]).transpose(np.argsort(order)).reshape(shape)
