# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Axes: the index sets of a tensor, their kinds of positions, and what linear index maps do to pair classes.

Along one axis of size n with K kinds, an ordered pair of indices (i, j) belongs to one of K² + K *pair classes*:
`k·K + l` for different indices of kinds k and l, and `K² + k` for the same index of kind k. Arrays of second moments
have one dimension of K² + K entries for each axis; arrays of means have one of K entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CAP", "Axis", "AxisMap", "Taps", "axis", "axis_map", "cross_matrix", "merge_map", "product_axis", "refine", "split_labels"]

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

CAP = 4
"""Most kinds that an axis keeps; more are merged, innermost first."""


class Axis:
    """`size` indices in `K` exchangeable kinds; `labels[i]` is the kind of index i (None: one kind).

    Interned: two axes of equal size and labels are the same object, so `is` compares them.
    """

    __slots__ = ("K", "P", "__weakref__", "counts", "first", "labels", "pairs", "same", "second", "size", "swap")

    size: int
    labels: Labels | None

    def __init__(self, size: int, labels: Labels | None) -> None:
        self.size = size
        self.labels = labels
        k = 1 if labels is None else int(labels.max()) + 1
        self.K: int = k  # pyright: ignore[reportConstantRedefinition]
        self.P: int = k * k + k  # pyright: ignore[reportConstantRedefinition]
        self.counts: Array = np.array([size], dtype=float) if labels is None else np.bincount(labels, minlength=k).astype(float)
        kinds = np.arange(k)
        self.first: Labels = np.concatenate([np.repeat(kinds, k), kinds])
        self.second: Labels = np.concatenate([np.tile(kinds, k), kinds])
        self.same: NDArray[np.bool_] = np.arange(self.P) >= k * k
        different = np.outer(self.counts, self.counts) - np.diag(self.counts)
        self.pairs: Array = np.concatenate([different.ravel(), self.counts])
        """Number of ordered pairs in each class."""
        self.swap: Labels = np.concatenate([np.arange(k * k).reshape(k, k).T.ravel(), np.arange(k * k, self.P)])

    @property
    def diagonal(self) -> slice:
        """Classes of equal indices."""
        return slice(self.K * self.K, self.P)

    def label_array(self) -> Labels:
        """`labels`, zeros where there is one kind."""
        return np.zeros(self.size, dtype=np.intp) if self.labels is None else self.labels

    def __repr__(self) -> str:
        return f"Axis({self.size})" if self.K == 1 else f"Axis({self.size}, kinds={self.counts.astype(int).tolist()})"

    def __reduce__(self) -> Any:
        return (axis, (self.size, self.labels))


_INTERNED: dict[tuple[int, bytes], Axis] = {}


def axis(size: int, labels: Labels | Sequence[int] | None = None) -> Axis:
    """The axis of `size` indices whose kinds are the classes of equal `labels`, numbered by first occurrence."""
    canonical: Labels | None = None
    if labels is not None:
        raw = np.asarray(labels)
        if raw.shape != (size,):
            raise ValueError(f"expected {size} labels, one for each index, got an array of shape {raw.shape}")
        _, start, inverse = np.unique(raw, return_index=True, return_inverse=True)
        order = np.empty(len(start), dtype=np.intp)
        order[np.argsort(start)] = np.arange(len(start))
        canonical = None if len(start) == 1 else order[inverse.ravel()]
    key = (size, b"" if canonical is None else canonical.tobytes())
    found = _INTERNED.get(key)
    if found is None:
        found = _INTERNED[key] = Axis(size, canonical)
    return found


class Taps:
    """A sparse linear map along an axis: `y[p] = Σ_d weight[d, p] · x[index[d, p]]`, index −1 reading nothing.

    `coherent` says that the taps of one output are added with the given weights; otherwise each tap has an
    independent zero-mean coefficient of its own, shared by all outputs, and only equal taps correlate.
    """

    __slots__ = ("_key", "index", "n_in", "weight")

    def __init__(self, index: NDArray[Any], n_in: int, weight: NDArray[Any] | float = 1.0) -> None:
        self.index: Labels = np.ascontiguousarray(np.atleast_2d(index), dtype=np.intp)
        self.n_in = n_in
        self.weight: Array = np.ascontiguousarray(np.broadcast_to(np.asarray(weight, dtype=float), self.index.shape))
        self._key = (self.index.shape, n_in, self.index.tobytes(), self.weight.tobytes())

    @property
    def n_out(self) -> int:
        """Number of output positions."""
        return self.index.shape[1]

    @property
    def count(self) -> int:
        """Number of taps of an output."""
        return self.index.shape[0]

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taps) and self._key == other._key

    def valid(self) -> Array:
        """Number of taps of each output that read something, weighted."""
        return np.where(self.index >= 0, self.weight, 0.0).sum(axis=0)

    def transposed(self) -> Taps:
        """The adjoint map; tap d stays tap d where it reaches every input position at most once, otherwise readings are numbered anew."""
        index = np.full((self.count, self.n_in), -1, dtype=np.intp)
        weight = np.zeros((self.count, self.n_in))
        for d in range(self.count):
            out = np.nonzero(self.index[d] >= 0)[0]
            if len(np.unique(self.index[d, out])) < len(out):
                return self._renumbered()
            index[d, self.index[d, out]] = out
            weight[d, self.index[d, out]] = self.weight[d, out]
        return Taps(index, self.n_out, weight)

    def _renumbered(self) -> Taps:
        d, out = np.nonzero(self.index >= 0)
        source = self.index[d, out]
        order = np.argsort(source, kind="stable")
        number = np.empty(len(order), dtype=np.intp)
        number[order] = np.arange(len(order)) - np.searchsorted(source[order], source[order])
        index = np.full((int(number.max(initial=0)) + 1, self.n_in), -1, dtype=np.intp)
        weight = np.zeros(index.shape)
        index[number, source], weight[number, source] = out, self.weight[d, out]
        return Taps(index, self.n_out, weight)


class AxisMap:
    """`Taps` applied to an axis: the output axis, and matrices from input to output means and pair classes.

    `mean` is (K_out, K_in); `coherent` (P_out, P_in) for summed taps; `incoherent` (P_out, P_in) where only equal taps
    correlate, so that `coherent − incoherent` holds the pairs of different taps.
    """

    __slots__ = ("axis", "coherent", "incoherent", "mean")

    def __init__(self, out: Axis, mean: Array, coherent: Array, incoherent: Array) -> None:
        self.axis = out
        self.mean = mean
        self.coherent = coherent
        self.incoherent = incoherent


@lru_cache(maxsize=4096)
def axis_map(source: Axis, taps: Taps, labels: Axis | None = None, cap: int = CAP) -> AxisMap:
    """Output kinds are the positions that read equally many taps of each kind (all of them for `labels`, if given)."""
    labels_in = source.label_array()
    n_out, k_in = taps.n_out, source.K
    reads = np.zeros((n_out, k_in))
    squares = np.zeros((n_out, k_in))
    for d in range(taps.count):
        valid = np.nonzero(taps.index[d] >= 0)[0]
        kind = labels_in[taps.index[d, valid]]
        reads[valid, kind] += taps.weight[d, valid]
        squares[valid, kind] += taps.weight[d, valid] ** 2
    if labels is None:
        signature = np.round(np.concatenate([reads, squares], axis=1), 9)
        _, groups = np.unique(signature, axis=0, return_inverse=True)
        out = axis(n_out, _cap(groups.ravel(), cap))
    else:
        out = labels
    kinds_out = out.label_array()
    mean = np.zeros((out.K, k_in))
    np.add.at(mean, kinds_out, reads)
    mean /= out.counts[:, None]
    coherent = _pair_matrix(source, out, taps.index, taps.weight, labels_in, kinds_out)
    if taps.count == 1:
        incoherent = coherent
    else:
        incoherent = np.zeros_like(coherent)
        for d in range(taps.count):
            incoherent += _pair_matrix(source, out, taps.index[d : d + 1], taps.weight[d : d + 1], labels_in, kinds_out)
    return AxisMap(out, mean, coherent, incoherent)


def _pair_matrix(source: Axis, out: Axis, index: Labels, weight: Array, labels_in: Labels, kinds_out: Labels) -> Array:
    """Average over the output pairs of a class of Σ A[p, i] A[p', j], by the class of (i, j)."""
    k_in, k_out, n_in = source.K, out.K, source.size
    columns = np.zeros((k_out, n_in))
    d, p = np.nonzero(index >= 0)
    np.add.at(columns, (kinds_out[p], index[d, p]), weight[d, p])
    by_kind = np.zeros((out.size, k_in))
    np.add.at(by_kind, (p, labels_in[index[d, p]]), weight[d, p])
    # one output position: taps may read the same input twice (replicate padding), so squares need the summed row
    rows = np.zeros(len(d))
    order = np.lexsort((index[d, p], p))
    dd, pp = d[order], p[order]
    if len(order):
        start = np.concatenate([[True], (pp[1:] != pp[:-1]) | (index[dd, pp][1:] != index[dd, pp][:-1])])
        group = np.cumsum(start) - 1
        rows = np.bincount(group, weights=weight[dd, pp])
        first_p, first_i = pp[start], index[dd, pp][start]
    else:
        first_p = first_i = np.zeros(0, dtype=np.intp)
    same_same = np.zeros((k_out, k_in))
    np.add.at(same_same, (kinds_out[first_p], labels_in[first_i]), rows**2)
    same_all = np.zeros((k_out, k_in, k_in))
    np.add.at(same_all, kinds_out, by_kind[:, :, None] * by_kind[:, None, :])

    total_all = np.zeros((k_out, k_in))
    np.add.at(total_all, kinds_out, by_kind)
    pair_all = total_all[:, None, :, None] * total_all[None, :, None, :]
    pair_same = np.zeros((k_out, k_out, k_in))
    for k in range(k_in):
        part = columns[:, labels_in == k]
        pair_same[:, :, k] = part @ part.T
    diagonal = np.arange(k_out)
    pair_all[diagonal, diagonal] -= same_all
    pair_same[diagonal, diagonal] -= same_same

    matrix = np.zeros((out.P, source.P))
    in_diagonal = np.arange(k_in)
    off = pair_all.copy()
    off[:, :, in_diagonal, in_diagonal] -= pair_same
    matrix[: k_out * k_out, : k_in * k_in] = off.reshape(k_out * k_out, k_in * k_in)
    matrix[: k_out * k_out, k_in * k_in :] = pair_same.reshape(k_out * k_out, k_in)
    own = same_all.copy()
    own[:, in_diagonal, in_diagonal] -= same_same
    matrix[k_out * k_out :, : k_in * k_in] = own.reshape(k_out, k_in * k_in)
    matrix[k_out * k_out :, k_in * k_in :] = same_same
    empty = out.pairs <= 0
    matrix /= np.where(empty, 1.0, out.pairs)[:, None]
    if empty.any():  # a kind of one index has no pair of different indices: give the class its diagonal's row
        for c in np.nonzero(empty)[0]:
            matrix[c] = matrix[k_out * k_out + out.first[c]]
    return matrix


@lru_cache(maxsize=4096)
def cross_matrix(source: Axis, out: Axis, taps: Taps) -> Array:
    """(P_out, P_in): from Cov(x_j, w_q) to Cov(y_p, w_q) for y = taps of x and any array w on the same positions."""
    n, k = source.size, source.K
    a = np.zeros((n, n))
    for d in range(taps.count):
        p = np.nonzero(taps.index[d] >= 0)[0]
        np.add.at(a, (p, taps.index[d, p]), taps.weight[d, p])
    kind_in, kind_out = source.label_array(), out.label_array()
    target = kind_out[:, None] * out.K + kind_out[None]
    target[np.arange(n), np.arange(n)] = out.K * out.K + kind_out
    matrix = np.zeros((out.P, source.P))
    column = np.broadcast_to(kind_in, (n, n))
    for c in range(k):
        reads = np.broadcast_to(a[:, kind_in == c].sum(axis=1)[:, None], (n, n))
        np.add.at(matrix, (target, c * k + column), reads)
    np.add.at(matrix, (target, column * (k + 1)), -a)
    np.add.at(matrix, (target, k * k + column), a)
    matrix /= np.where(out.pairs > 0, out.pairs, 1.0)[:, None]
    for c in np.nonzero(out.pairs <= 0)[0]:
        matrix[c] = matrix[out.K * out.K + out.first[c]]
    return matrix


def _cap(groups: Labels, cap: int) -> Labels:
    """Merge the kinds that lie farthest from both borders until `cap` are left."""
    n, kinds = len(groups), int(groups.max()) + 1
    if kinds <= cap:
        return groups
    border = np.minimum(np.arange(n), np.arange(n)[::-1])
    distance = np.array([border[groups == k].mean() for k in range(kinds)])
    rank = np.empty(kinds, dtype=np.intp)
    rank[np.argsort(distance, kind="stable")] = np.arange(kinds)
    return np.minimum(rank[groups], cap - 1)


@lru_cache(maxsize=4096)
def merge_map(source: Axis, target: Axis) -> tuple[Array, Array]:
    """Matrices (K', K) and (P', P) that average (merge) or repeat (refine) kinds of `source` into those of `target`, of one size."""
    a, b = source.label_array(), target.label_array()
    joint = np.zeros((target.K, source.K))
    np.add.at(joint, (b, a), 1.0)
    mean = joint / target.counts[:, None]
    matrix = np.zeros((target.P, source.P))
    k, t = source.K, target.K
    pairs = joint[:, None, :, None] * joint[None, :, None, :]
    for i in range(t):
        pairs[i, i] -= np.diag(joint[i])
    matrix[: t * t, : k * k] = pairs.reshape(t * t, k * k)
    matrix[t * t :, k * k :] = joint
    total = matrix.sum(axis=1, keepdims=True)
    empty = total[:, 0] <= 0
    matrix /= np.where(total <= 0, 1.0, total)
    for c in np.nonzero(empty)[0]:
        matrix[c] = np.kron(mean[target.first[c]], mean[target.second[c]]).tolist() + [0.0] * k
    return mean, matrix


@lru_cache(maxsize=4096)
def split_labels(source: Axis, inner: int) -> tuple[Axis, Axis, Labels, Labels]:
    """Split an axis into (outer, inner): the two axes and the lookups (Ka, Kb) → K and (Pa, Pb) → P of its kinds and classes."""
    outer = source.size // inner
    grid = source.label_array().reshape(outer, inner)
    a = axis(outer, None if source.K == 1 else np.unique(grid, axis=0, return_inverse=True)[1].ravel())
    b = axis(inner, None if source.K == 1 else np.unique(grid, axis=1, return_inverse=True)[1].ravel())
    kind = np.zeros((a.K, b.K), dtype=np.intp)
    kind[a.label_array()[:, None].repeat(inner, 1), b.label_array()[None].repeat(outer, 0)] = grid
    k = source.K
    first = kind[a.first[:, None], b.first[None]]
    second = kind[a.second[:, None], b.second[None]]
    both = a.same[:, None] & b.same[None]
    return a, b, kind, np.where(both, k * k + first, first * k + second)


@lru_cache(maxsize=4096)
def product_axis(a: Axis, b: Axis, cap: int = CAP) -> tuple[Axis, Array, Array]:
    """Join two axes into one of size |a|·|b| (a outer): the axis and the averaging tensors (K, Ka, Kb) and (P, Pa, Pb)."""
    fine = a.label_array()[:, None] * b.K + b.label_array()[None]
    kinds = a.K * b.K
    joined = axis(a.size * b.size, None if kinds > cap * cap else fine.ravel())
    pick = np.zeros((joined.K, a.K, b.K))
    np.add.at(pick, (joined.label_array().reshape(a.size, b.size), a.label_array()[:, None], b.label_array()[None]), 1.0)
    group = pick.argmax(axis=0) if joined.K > 1 else np.zeros((a.K, b.K), dtype=np.intp)
    first = group[a.first[:, None], b.first[None]]
    second = group[a.second[:, None], b.second[None]]
    both = a.same[:, None] & b.same[None]
    k = joined.K
    target = np.where(both, k * k + first, first * k + second)
    gram = np.zeros((joined.P, a.P, b.P))
    ia, ib = np.indices((a.P, b.P))
    np.add.at(gram, (target, ia, ib), np.outer(a.pairs, b.pairs))
    total = gram.sum(axis=(1, 2), keepdims=True)
    for c in np.nonzero(total.ravel() <= 0)[0]:
        gram[c] = gram[k * k + joined.first[c]]
    total = gram.sum(axis=(1, 2), keepdims=True)
    return joined, pick / pick.sum(axis=(1, 2), keepdims=True), gram / total


@lru_cache(maxsize=4096)
def refine(a: Axis, b: Axis, cap: int = CAP) -> Axis:
    """The common refinement of two axes of one size (merged where it exceeds `cap` kinds)."""
    if a is b or b.K == 1:
        return a
    if a.K == 1:
        return b
    fine = a.label_array() * b.K + b.label_array()
    _, groups = np.unique(fine, return_inverse=True)
    groups = groups.ravel()
    most = max(cap, a.K, b.K)
    return axis(a.size, groups if int(groups.max()) + 1 <= most else _cap(groups, most))
