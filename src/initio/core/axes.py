# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Axes: the index sets of a tensor, their kinds of positions, and what linear index maps do to pair classes.

Along one axis of size n with K kinds, an ordered pair of indices (i, j) belongs to one of P *pair classes*: `k·K + l` for
different indices of kinds k and l, then, where the axis tells neighbours from the rest, one class for each |i − j| ≤ lags and
each k and l that occur there, and last, `off + k` for the same index of kind k. Without lags, off = K² and P = K² + K. Arrays
of second moments have one dimension of P entries for each axis; arrays of means have one of K entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = [
    "CAP",
    "LAGS",
    "Axis",
    "AxisMap",
    "Taps",
    "axis",
    "axis_map",
    "cross_matrix",
    "merge_map",
    "product_axis",
    "refine",
    "split_labels",
]

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

CAP = 4
"""Most kinds that an axis keeps; more are merged, innermost first."""
LAGS = 2
"""Largest distance up to which neighbours have pair classes of their own."""
FEW = 3
"""Most kinds that an axis keeps whose neighbours have."""


class Axis:
    """`size` indices in `K` exchangeable kinds; `labels[i]` is the kind of index i (None: one kind); pairs up to `lags` apart have their own classes.

    Interned: two axes of equal size, labels and lags are the same object, so `is` compares them.
    """

    __slots__ = (
        "K",
        "P",
        "__weakref__",
        "counts",
        "first",
        "labels",
        "lag",
        "lags",
        "off",
        "pairs",
        "same",
        "second",
        "size",
        "swap",
        "table",
    )

    size: int
    labels: Labels | None

    def __init__(self, size: int, labels: Labels | None, lags: int = 0) -> None:
        self.size = size
        self.labels = labels
        self.lags = lags
        k = 1 if labels is None else int(labels.max()) + 1
        self.K: int = k  # pyright: ignore[reportConstantRedefinition]
        self.counts: Array = np.array([size], dtype=float) if labels is None else np.bincount(labels, minlength=k).astype(float)
        kinds = np.arange(k)
        far = np.outer(self.counts, self.counts) - np.diag(self.counts)
        codes, lag, near = [np.arange(k * k)], [np.zeros(k * k, dtype=np.intp)], [np.zeros(0)]
        label = self.label_array()
        for d in range(1, lags + 1):
            found = np.bincount(label[:-d] * k + label[d:], minlength=k * k).astype(float)
            found += found.reshape(k, k).T.ravel()
            far -= found.reshape(k, k)
            codes.append(np.flatnonzero(found))
            lag.append(np.full(len(codes[-1]), d))
            near.append(found[codes[-1]])
        code = np.concatenate(codes)
        self.off: int = len(code)
        """Number of classes of different indices; those of equal ones follow."""
        self.P: int = self.off + k  # pyright: ignore[reportConstantRedefinition]
        self.first: Labels = np.concatenate([code // k, kinds])
        self.second: Labels = np.concatenate([code % k, kinds])
        self.lag: Labels = np.concatenate([*lag, np.zeros(k, dtype=np.intp)])
        """Distance of the indices of each class, 0 where they are not told apart."""
        self.same: NDArray[np.bool_] = np.arange(self.P) >= self.off
        self.pairs: Array = np.concatenate([far.ravel(), *near, self.counts])
        """Number of ordered pairs in each class."""
        self.table: Labels = np.broadcast_to(np.arange(k * k).reshape(k, k), (lags + 1, k, k)).copy()
        """Class of two different indices by distance (0: further apart than `lags`) and kinds."""
        self.table[self.lag[: self.off], self.first[: self.off], self.second[: self.off]] = np.arange(self.off)
        self.swap: Labels = np.concatenate(
            [self.table[self.lag[: self.off], self.second[: self.off], self.first[: self.off]], np.arange(self.off, self.P)]
        )

    @property
    def diagonal(self) -> slice:
        """Classes of equal indices."""
        return slice(self.off, self.P)

    @property
    def plain(self) -> Axis:
        """The same axis, neighbours not told from the rest."""
        return axis(self.size, self.labels) if self.lags else self

    @property
    def apart(self) -> Labels:
        """For every class, that of indices of the same kinds which are different and far from each other."""
        return self.first * self.K + self.second

    def label_array(self) -> Labels:
        """`labels`, zeros where there is one kind."""
        return np.zeros(self.size, dtype=np.intp) if self.labels is None else self.labels

    def classes(self, i: NDArray[Any], j: NDArray[Any]) -> Labels:
        """Pair class of the indices i and j."""
        label = self.label_array()
        distance = np.abs(i - j)
        return np.where(i == j, self.off + label[i], self.table[np.where(distance <= self.lags, distance, 0), label[i], label[j]])

    def __repr__(self) -> str:
        lags = f", lags={self.lags}" if self.lags else ""
        return f"Axis({self.size}{lags})" if self.K == 1 else f"Axis({self.size}, kinds={self.counts.astype(int).tolist()}{lags})"

    def __reduce__(self) -> Any:
        return (axis, (self.size, self.labels, self.lags))


_INTERNED: dict[tuple[int, bytes, int], Axis] = {}


def axis(size: int, labels: Labels | Sequence[int] | None = None, lags: int = 0) -> Axis:
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
    lags = max(min(lags, size - 1), 0)
    key = (size, b"" if canonical is None else canonical.tobytes(), lags)
    found = _INTERNED.get(key)
    if found is None:
        found = _INTERNED[key] = Axis(size, canonical, lags)
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

    def reach(self, lags: int, summed: bool) -> int:
        """Up to which distance outputs covary as neighbours where inputs do up to `lags`, and with `summed` where they read common ones; LAGS at most."""
        d, p = np.nonzero(self.index >= 0)
        read = self.index[d, p]
        steps = [(np.ptp(read[d == k]), np.ptp(p[d == k])) for k in range(self.count)]
        rate = max((moved / over for moved, over in steps if over), default=0.0)
        if rate <= 0.0:
            return 0
        first, last = np.full(self.n_out, self.n_in), np.full(self.n_out, -1)
        np.minimum.at(first, p, read)
        np.maximum.at(last, p, read)
        width = int(np.maximum(last - first, 0).max(initial=0)) if summed else 0
        return min(int((lags + width) / rate + 1e-9), LAGS)

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
def axis_map(source: Axis, taps: Taps, labels: Axis | None = None, cap: int = CAP, summed: bool = False) -> AxisMap:
    """Output kinds are the positions that read equally many taps of each kind (all of them for `labels`, if given).

    Neighbours are told from the rest where those of the input are, and with `summed` where outputs read common inputs.
    """
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
        lags = taps.reach(source.lags, summed) if source.lags or summed else 0
        out = axis(n_out, _cap(_mirrored(groups.ravel()) if lags else groups.ravel(), FEW if lags else cap), lags)
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
    if source.lags or out.lags:
        return _near_pair_matrix(source, out, index, weight)
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


def _local(a: Axis) -> tuple[Labels, Labels, Labels]:
    """Indices i and j that are equal or neighbours, and their class."""
    i, j = [np.arange(a.size)], [np.arange(a.size)]
    for d in range(1, a.lags + 1):
        i += [np.arange(a.size - d), np.arange(d, a.size)]
        j += [np.arange(d, a.size), np.arange(a.size - d)]
    first, second = np.concatenate(i), np.concatenate(j)
    return first, second, a.classes(first, second)


def _near_pair_matrix(source: Axis, out: Axis, index: Labels, weight: Array) -> Array:
    """As `_pair_matrix`, for axes that tell neighbours from the rest: what is local is counted pair by pair, the rest by subtraction."""
    d, p = np.nonzero(index >= 0)
    a = csr_array((weight[d, p], (p, index[d, p])), shape=(out.size, source.size))
    far = source.K * source.K
    matrix = np.zeros((out.P, source.P))
    i, j, cls = _local(source)
    for c in range(far, source.P):
        at = cls == c
        product = (a @ csr_array((np.ones(int(at.sum())), (i[at], j[at])), shape=(source.size, source.size)) @ a.T).tocoo()
        left, right = product.coords
        matrix[:, c] = np.bincount(out.classes(left, right), product.data, out.P)
    kinds = np.zeros((source.size, source.K))
    kinds[np.arange(source.size), source.label_array()] = 1.0
    reads = a @ kinds
    everything = np.zeros((out.P, source.K, source.K))
    i, j, cls = _local(out)
    np.add.at(everything, cls, reads[i][:, :, None] * reads[j][:, None, :])
    total = np.zeros((out.K, source.K))
    np.add.at(total, out.label_array(), reads)
    k2 = out.K * out.K
    everything[:k2] = (total[:, None, :, None] * total[None, :, None, :]).reshape(k2, source.K, source.K)
    np.subtract.at(everything, out.apart[k2:], everything[k2:].copy())
    matrix[:, :far] = everything.reshape(out.P, far)
    np.subtract.at(matrix.T, source.apart[far:], matrix.T[far:].copy())
    matrix /= np.where(out.pairs <= 0, 1.0, out.pairs)[:, None]
    return _without_gaps(matrix, out)


def _without_gaps(matrix: Array, out: Axis) -> Array:
    """Classes that no pair belongs to get the row of the nearest that some pair does."""
    for c in np.nonzero(out.pairs <= 0)[0]:
        near = np.nonzero((out.apart == c) & (out.lag > 0))[0]
        matrix[c] = matrix[near[-1] if len(near) else out.off + out.first[c]]
    return matrix


def _class_counts(a: Axis, b: Axis) -> Array:
    """(P_b, P_a): number of ordered pairs of indices that are of one class of `a` and of one of `b`, two axes of one size."""
    wide = a if a.lags >= b.lags else b
    i, j, _ = _local(wide)
    ca, cb = a.classes(i, j), b.classes(i, j)
    counts = np.zeros((b.P, a.P))
    joint = np.zeros((b.K, a.K))
    np.add.at(joint, (b.label_array(), a.label_array()), 1.0)
    counts[: b.K * b.K, : a.K * a.K] = (joint[:, None, :, None] * joint[None, :, None, :]).reshape(b.K * b.K, a.K * a.K)
    np.subtract.at(counts, (b.apart[cb], a.apart[ca]), 1.0)
    np.add.at(counts, (cb, ca), 1.0)
    return counts


@lru_cache(maxsize=4096)
def cross_matrix(source: Axis, out: Axis, taps: Taps) -> Array:
    """(P_out, P_in): from Cov(x_j, w_q) to Cov(y_p, w_q) for y = taps of x and any array w on the same positions."""
    n, k = source.size, source.K
    a = np.zeros((n, n))
    for d in range(taps.count):
        p = np.nonzero(taps.index[d] >= 0)[0]
        np.add.at(a, (p, taps.index[d, p]), taps.weight[d, p])
    if source.lags or out.lags:
        i, j = np.indices((n, n))
        read, target = source.classes(i, j), out.classes(i, j).ravel()
        rows = csr_array(a)
        columns = [np.bincount(target, np.asarray(rows @ (read == c)).ravel(), out.P) for c in range(source.P)]
        return _without_gaps(np.stack(columns, axis=1) / np.where(out.pairs > 0, out.pairs, 1.0)[:, None], out)
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


def _mirrored(groups: Labels) -> Labels:
    """More than `FEW` kinds with those that are each other's mirror image made one: the two borders of a map, which strides tell apart."""
    if int(groups.max()) + 1 <= FEW:
        return groups
    back = groups[::-1]
    image = [int(back[np.argmax(groups == k)]) for k in range(int(groups.max()) + 1)]
    to = [min(k, m) if np.array_equal(groups == k, back == m) else k for k, m in enumerate(image)]
    return np.unique(np.array(to)[groups], return_inverse=True)[1].ravel()


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
    if source.lags or target.lags:
        matrix = _class_counts(source, target)
        return mean, _without_gaps(matrix / np.where(target.pairs <= 0, 1.0, target.pairs)[:, None], target)
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
    if source.lags:
        raise ValueError("an axis that tells neighbours from the rest has no outer and inner index: split its `plain` form")
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
    if a.lags or b.lags:
        raise ValueError("the product of axes that tell neighbours from the rest does not: join their `plain` forms")
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
    if a is b:
        return a
    lags = max(a.lags, b.lags)
    if b.K == 1 and (not lags or a.lags):
        return axis(a.size, a.labels, lags)
    if a.K == 1 and (not lags or b.lags):
        return axis(b.size, b.labels, lags)
    fine = a.label_array() * b.K + b.label_array()
    _, groups = np.unique(fine, return_inverse=True)
    groups = groups.ravel()
    most = FEW if lags else max(cap, a.K, b.K)
    return axis(a.size, groups if int(groups.max()) + 1 <= most else _cap(_mirrored(groups) if lags else groups, most), lags)
