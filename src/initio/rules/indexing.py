# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Entries picked by integer indices, and their adjoints.

Two picked entries are the same entry with the probability that their indices are equal; the gram of the result is the
gram of the source averaged with these probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import same_axes, total
from initio.core.axes import Array, Taps, axis
from initio.core.moments import Moments, Unknown, fresh_source, worst
from initio.rules.random import ids as uniform_ids
from initio.rules.table import Result, context, rule

__all__ = ["gathered", "lookup", "scattered", "values_of"]

LARGEST = 4096
"""Most picks whose pairs are counted one by one."""


def values_of(x: Moments) -> Any:
    """The known (or nearly known) integer values of x, None where there are none."""
    values = x.extra.get("known", x.extra.get("nearly"))
    return None if values is None or np.asarray(values).dtype.kind not in "iub" else np.asarray(values)


def _progression(index: Any) -> tuple[int, int] | None:
    """(start, step) of an arithmetic progression."""
    if len(index) < 2:
        return (int(index[0]), 1) if len(index) else None
    step = int(index[1] - index[0])
    return (int(index[0]), step) if step > 0 and np.all(np.diff(index) == step) else None


def lookup(w: Moments, ids: Moments) -> Moments | Unknown:
    """Rows of w (its first dimension) picked by ids: two picks share a row with the probability that their ids are equal."""
    values = values_of(ids)
    if values is not None:
        repeated = [d for d in range(values.ndim) if values.shape[d] > 1 and bool(np.all(values == np.take(values, [0], axis=d)))]
        if sum(n > 1 for n in values.shape) - len(repeated) <= 1:
            index = values[tuple(slice(0, 1) if d in repeated else slice(None) for d in range(values.ndim))]
            flat = index.ravel().astype(np.intp) % w.shape[0]
            return w.take(0, flat, _progression(flat)).reshape((*index.shape, *w.shape[1:])).expand((*values.shape, *w.shape[1:]))
    if "high" not in ids.extra:
        return Unknown("the distribution of the ids is not known")
    wm = w.with_axis(0)
    a = wm.axes[0]
    kinds = a.label_array()[values.ravel().astype(np.intp) % a.size] if values is not None else a.label_array()
    share = np.bincount(kinds, minlength=a.K) / len(kinds)
    flat = wm.gram
    same = np.tensordot(share, flat[a.diagonal], axes=(0, 0))
    pairs = np.outer(share, share).ravel() if values is not None else a.pairs[: a.K * a.K] / max(a.pairs[: a.K * a.K].sum(), 1.0)
    different = np.tensordot(pairs, flat[: a.K * a.K], axes=(0, 0))
    p = ids.gram
    gram = np.multiply.outer(p, same) + np.multiply.outer(1.0 - p, different)
    mean = np.multiply.outer(np.ones([b.K for b in ids.axes]), np.tensordot(share, wm.mean, axes=(0, 0)))
    made = Moments.gaussian(
        [*ids.axes, *wm.axes[1:]],
        [*ids.dims, *wm.dims[1:]],
        mean,
        gram,
        w.sources | ids.sources,
        odd=w.odd,
        claim=worst(w.claim, ids.claim),
    )
    return made.without_ones()


# -- index_select, index -----------------------------------------------------------------------------------------


@rule("aten.index_select")
def index_select(x: Moments, dim: int, ids: Moments) -> Result:
    """x[..., ids, ...] along one dimension."""
    return _pick(x, dim % max(len(x.dims), 1), ids)


def _pick(x: Moments, d: int, ids: Moments) -> Moments | Unknown:
    """The dimension d of x replaced by the dimensions of ids."""
    values = values_of(ids)
    n = len(ids.dims)
    if values is not None and len(ids.axes) <= 1:
        index = values.ravel().astype(np.intp) % x.shape[d]
        times = len(index) // x.shape[d]
        if times > 1 and np.array_equal(index, np.arange(x.shape[d]).repeat(times)):  # each in turn, several times
            return x.repeat_axis(d, axis(times), at=x.span(d).stop).reshape((*x.shape[:d], *ids.shape, *x.shape[d + 1 :]))
        made = x.take(d, index, _progression(index))
        return made.reshape((*x.shape[:d], *ids.shape, *x.shape[d + 1 :]))
    order = [d, *[e for e in range(len(x.dims)) if e != d]]
    made = lookup(x.permute(order), ids)
    if isinstance(made, Unknown):
        return made
    return made.permute([*range(n, n + d), *range(n), *range(n + d, len(made.dims))])


@rule("aten.index", "aten._unsafe_index")
def index(x: Moments, indices: Sequence[Moments | None]) -> Result:
    """x[i, :, j, …]."""
    used = [d for d, i in enumerate(indices) if i is not None]
    if len(used) == 1:
        ids = indices[used[0]]
        assert ids is not None
        values = values_of(ids)
        if values is not None and values.dtype.kind == "b":
            if values.ndim != 1:
                return Unknown("a mask of several dimensions as an index")
            return x.take(used[0], np.flatnonzero(values))
        return _pick(x, used[0], ids)
    if used != list(range(used[0], used[0] + len(used))):
        return Unknown("indices on dimensions that are not neighbours")
    return _picked_together(x, used, [i for i in indices if i is not None])


def _picked_together(x: Moments, dims: Sequence[int], ids: Sequence[Moments]) -> Moments | Unknown:
    """One entry (i, j, …) for each element of the broadcast indices: pair classes of the source counted over pairs of elements."""
    shape = np.broadcast_shapes(*[i.shape for i in ids])
    count = math.prod(shape)
    for d in dims:
        x = x.with_axis(d)
    at = [x.span(d)[0] for d in dims]
    same: Array = np.ones(())
    different: Array = np.ones(())
    mean: Array = np.ones(())
    known: list[tuple[int, Any]] = []
    for i, ids_ in zip(at, ids, strict=True):
        values = values_of(ids_)
        a = x.axes[i]
        if values is None and "high" not in ids_.extra:
            return Unknown("the distribution of the ids is not known")
        if values is not None and count <= LARGEST:
            known.append((i, np.broadcast_to(values.astype(np.intp).reshape(ids_.shape), shape).ravel() % a.size))
    rest = [i for i in at if i not in [k for k, _ in known]]
    if known:
        sizes = [x.axes[i] for i, _ in known]
        one, two = np.zeros([a.P for a in sizes]), np.zeros([a.P for a in sizes])
        m = np.zeros([a.K for a in sizes])
        labels = [a.label_array()[v] for a, (_, v) in zip(sizes, known, strict=True)]
        np.add.at(one, tuple(a.K * a.K + lab for a, lab in zip(sizes, labels, strict=True)), 1.0)
        np.add.at(m, tuple(labels), 1.0)
        classes = []
        for a, (_, v), lab in zip(sizes, known, labels, strict=True):
            classes.append(np.where(v[:, None] == v[None], a.K * a.K + lab[:, None], lab[:, None] * a.K + lab[None]))
        np.add.at(two, tuple(classes), 1.0)
        same, different, mean = one / count, (two - one) / max(count * (count - 1), 1), m / count
    for i in rest:
        a = x.axes[i]
        own = np.zeros(a.P)
        own[a.diagonal] = a.counts / a.size
        same, different = np.multiply.outer(same, own), np.multiply.outer(different, a.pairs / a.size**2)
        mean = np.multiply.outer(mean, a.counts / a.size)
    order = [i for i, _ in known] + rest
    gram = np.stack([np.tensordot(w, x.gram, axes=(list(range(len(order))), order)) for w in (different, same)], axis=0)
    out_mean = np.tensordot(mean, x.mean, axes=(list(range(len(order))), order))[None]
    front = [a for i, a in enumerate(x.axes) if i < at[0]]
    back = [a for i, a in enumerate(x.axes) if i > at[-1]]
    gram, out_mean = np.moveaxis(gram, 0, len(front)), np.moveaxis(out_mean, 0, len(front))
    dims_out = [*x.dims[: dims[0]], 1, *x.dims[dims[-1] + 1 :]]
    made = Moments.gaussian(
        [*front, axis(count), *back], dims_out, out_mean, gram, x.sources | _sources(ids), odd=x.odd, claim=x.claim
    ).without_ones()
    return made.reshape((*x.shape[: dims[0]], *shape, *x.shape[dims[-1] + 1 :]))


def _sources(ids: Sequence[Moments]) -> int:
    out = 0
    for i in ids:
        out |= i.sources
    return out


# -- adjoints ----------------------------------------------------------------------------------------------------


def _is_zero(x: Moments) -> bool:
    return not np.any(x.gram)


@rule("aten.index_put", "aten._index_put_impl", "aten._unsafe_index_put")
def index_put(base: Moments, indices: Sequence[Moments | None], values: Moments, accumulate: bool = False, *_: Any) -> Result:
    """Values added (or written) at the indices of a tensor of zeros."""
    used = [d for d, i in enumerate(indices) if i is not None]
    ids = [i for i in indices if i is not None]
    whole = _renumbered(base, ids, values) if len(base.dims) == 1 and not accumulate else None
    if whole is not None:
        return whole
    if not _is_zero(base):
        return Unknown("indices written into a tensor that is not zero")
    if used != list(range(used[0], used[0] + len(used))):
        return Unknown("indices on dimensions that are not neighbours")
    shape = np.broadcast_shapes(*[i.shape for i in ids])
    size = math.prod(base.shape[d] for d in used)
    full = (*base.shape[: used[0]], *shape, *base.shape[used[-1] + 1 :])
    values = values.expand(full)
    known = [values_of(i) for i in ids]
    if all(v is not None for v in known):
        flat = np.ravel_multi_index(
            [
                np.broadcast_to(v.astype(np.intp).reshape(i.shape), shape).ravel() % base.shape[d]
                for v, i, d in zip(known, ids, used, strict=True)
            ],
            [base.shape[d] for d in used],
        )
        if not accumulate and len(np.unique(flat)) < len(flat):
            return Unknown("several values written at one index")
        if len(flat) % size == 0 and np.array_equal(flat, np.arange(size).repeat(len(flat) // size)):  # each in turn, several times
            moved = values.reshape((*base.shape[: used[0]], size, len(flat) // size, *base.shape[used[-1] + 1 :]))
            return (total(moved, [used[0] + 1]) if len(flat) > size else moved).reshape(base.shape)
        moved = values.reshape((*base.shape[: used[0]], math.prod(shape), *base.shape[used[-1] + 1 :]))
        return _accumulated(moved, used[0], size, flat).reshape(base.shape)
    if len(ids) == 1 and "high" in ids[0].extra:
        order = [*range(used[0], used[0] + len(shape)), *range(used[0]), *range(used[0] + len(shape), len(full))]
        made = scattered(values.permute(order), ids[0], size)
        return made if isinstance(made, Unknown) else made.permute([*range(1, used[0] + 1), 0, *range(used[0] + 1, len(base.dims))])
    if not all("high" in i.extra for i in ids):
        return Unknown("the distribution of the ids is not known")
    together = uniform_ids(shape, size)
    order = [*range(used[0], used[0] + len(shape)), *range(used[0]), *range(used[0] + len(shape), len(full))]
    made = scattered(values.permute(order), together, size)
    if isinstance(made, Unknown):
        return made
    return made.permute([*range(1, used[0] + 1), 0, *range(used[0] + 1, len(made.dims))]).reshape(base.shape)


def _renumbered(base: Moments, ids: Sequence[Moments], values: Moments) -> Moments | None:
    """Known integers written over a whole vector: the inverse of a permutation."""
    index, written = values_of(ids[0]), values_of(values)
    if index is None or written is None or index.shape != base.shape or written.shape != base.shape or len(np.unique(index)) < len(index):
        return None
    made = np.empty_like(written)
    made[index] = written
    known = "known" if "known" in ids[0].extra and "known" in values.extra else "nearly"
    return replace(Moments.known(made), extra={known: made}, sources=ids[0].sources | values.sources)


def _accumulated(x: Moments, d: int, size: int, index: Any) -> Moments:
    """y[..., v, ...] = Σ of x over the positions whose index is v."""
    order = np.argsort(index, kind="stable")
    rank = np.arange(len(index)) - np.searchsorted(index[order], index[order])
    taps = np.full((int(rank.max(initial=0)) + 1, size), -1, dtype=np.intp)
    taps[rank, index[order]] = order
    return x.linear(d, Taps(taps, len(index)))


@rule("aten.index_add")
def index_add(base: Moments, dim: int, ids: Moments, source: Moments, *, alpha: float = 1.0) -> Result:
    """Σ of the source over the positions of each index, on zeros."""
    if not _is_zero(base) or alpha != 1.0:
        return Unknown("indices added to a tensor that is not zero")
    indices: list[Moments | None] = [None] * (dim % len(base.dims))
    return index_put(base, [*indices, ids], source, True)


def scattered(x: Moments, ids: Moments, rows: int) -> Moments | Unknown:
    """y[v] = Σ of x over the (leading) positions whose id is v: pairs of positions count with the probability that their ids are equal."""
    if "high" not in ids.extra:
        return Unknown("the distribution of the ids is not known")
    lead = len(ids.dims)
    g, q = x, ids
    for d in range(lead):
        if g.shape[d] > 1:
            g, q = same_axes([g, q], [d, d])
    count = sum(q.dims)
    p = q.gram.reshape(q.gram.shape + (1,) * (g.gram.ndim - count))
    equal = total(replace(g, gram=g.gram * p, law=(), extra={}), list(range(lead)))
    unequal = total(replace(g, gram=g.gram * (1.0 - p), law=(), extra={}), list(range(lead)))
    same, different = equal.gram / rows, unequal.gram / max(rows * (rows - 1), 1)
    gram = np.stack([different, same])
    mean = np.expand_dims(equal.mean, 0) / rows
    bit = fresh_source()
    return Moments.gaussian(
        [axis(rows), *equal.axes], [1, *equal.dims], mean, gram, bit, odd=bit if x.odd else 0, claim=worst(x.claim, ids.claim)
    ).without_ones()


# -- gather, scatter ---------------------------------------------------------------------------------------------


def _aligned(x: Moments, ids: Moments, d: int) -> tuple[Moments, Moments]:
    for e in range(len(x.dims)):
        if e != d and x.shape[e] > 1:
            if x.shape[e] != ids.shape[e]:
                raise ValueError(f"an index of size {ids.shape[e]} for a dimension of size {x.shape[e]}")
            x, ids = same_axes([x, ids], [e, e])
    return x, ids


@rule("aten.gather")
def gather(x: Moments, dim: int, ids: Moments, **_: Any) -> Result:
    """y[i, j] = x[i, ids[i, j]]."""
    return gathered(x, dim % max(len(x.dims), 1), ids)


def gathered(x: Moments, d: int, ids: Moments) -> Moments | Unknown:
    """Along d: the classes of the other dimensions are kept, those of d are mixed with the probability that two ids are equal."""
    if "high" not in ids.extra:
        return Unknown("the distribution of the ids is not known")
    x, q = _aligned(x.with_axis(d), ids, d)
    i = x.span(d)[0]
    a = x.axes[i]
    share = a.counts / a.size
    k2 = a.K * a.K
    g = np.moveaxis(x.gram, i, 0)
    same = np.tensordot(share, g[k2:], axes=(0, 0))
    different = np.tensordot(a.pairs[:k2] / max(a.pairs[:k2].sum(), 1.0), g[:k2], axes=(0, 0))
    mean = np.tensordot(share, np.moveaxis(x.mean, i, 0), axes=(0, 0))
    inner = list(q.span(d))
    for j in range(len(inner)):
        same, different = np.expand_dims(same, i + j), np.expand_dims(different, i + j)
        mean = np.expand_dims(mean, i + j)
    p = q.gram
    gram = p * same + (1.0 - p) * different
    mean = np.broadcast_to(mean, [b.K for b in q.axes]).copy()
    bit = x.sources | ids.sources
    return Moments.gaussian(q.axes, q.dims, mean, gram, bit, odd=x.odd, claim=worst(x.claim, ids.claim)).without_ones()


@rule("aten.scatter.src", "aten.scatter.value")
def scatter(base: Moments, dim: int, ids: Moments, source: Any) -> Result:
    """y[i, ids[i, j]] = source[i, j] on zeros, for ids of which no two along `dim` are equal (those of `topk`)."""
    d = dim % len(base.dims)
    if "ranked" not in ids.extra and ids.shape[d] > 1:
        return Unknown("several values may be written at one index")
    made = scatter_add(base, d, ids, source if isinstance(source, Moments) else Moments.iid(ids.shape, float(source), 0.0))
    return replace(made, extra={"ranked": ids.extra["ranked"]}) if isinstance(made, Moments) and "ranked" in ids.extra else made


@rule("aten.scatter_add")
def scatter_add(base: Moments, dim: int, ids: Moments, source: Moments) -> Result:
    """y[i, v] = Σ_j source[i, j] 1[ids[i, j] = v], on zeros."""
    d = dim % len(base.dims)
    if not _is_zero(base):
        return Unknown("indices added to a tensor that is not zero")
    if "high" not in ids.extra:
        return Unknown("the distribution of the ids is not known")
    x, q = source, ids
    for e in range(len(x.dims)):
        if x.shape[e] > 1:
            x, q = same_axes([x, q], [e, e])
    weighted = [total(replace(x, gram=x.gram * w, law=(), extra={}), [d], True) for w in (q.gram, 1.0 - q.gram)]
    n = base.shape[d]
    i = weighted[0].span(d).start
    gram = np.stack([weighted[1].gram / max(n * (n - 1), 1), weighted[0].gram / n], axis=i)
    mean = np.expand_dims(weighted[0].mean / n, i)
    axes = list(weighted[0].axes)
    dims = list(weighted[0].dims)
    dims[d] = 1
    bit = fresh_source()
    return Moments.gaussian(
        [*axes[:i], axis(n), *axes[i:]], dims, mean, gram, bit | source.sources, odd=source.odd, claim=worst(source.claim, ids.claim)
    ).without_ones()


# -- integers ----------------------------------------------------------------------------------------------------

NEARLY = 1 / 64
"""Probability of an exception up to which a comparison of ids counts as nearly known."""


@rule("aten.eq", "aten.ne")
def equal(x: Moments, y: Any) -> Result:
    """1[x = y] of ids and a number; where it hardly ever holds, its usual value is kept for the integers that follow from it."""
    op = context().node.op
    if isinstance(y, Moments) or "high" not in x.extra:
        return Unknown(f"{op} of values that are not ids")
    high, value = int(x.extra["high"]), float(y)
    possible = value == int(value) and 0 <= value < high
    p = 1.0 / high if possible else 0.0
    gram = x.gram * p
    mean = np.full([a.K for a in x.axes], p)
    if ".ne" in op:
        gram, mean = 1.0 - 2.0 * p + gram, 1.0 - mean
    usual = np.full(x.shape, ".ne" in op)
    extra: dict[str, Any] = {"known": usual} if not possible else {"nearly": usual} if p <= NEARLY else {}
    return Moments(x.axes, x.dims, mean, gram, (), x.sources if possible else 0, 0, x.claim, extra)


@rule("aten.argmax", "aten.argmin")
def argmax(x: Moments, dim: int | None = None, keepdim: bool = False) -> Result:
    """The place of an extreme: uniform over entries that are exchangeable."""
    if dim is None:
        return Unknown("the place of the extreme of a whole tensor")
    if x.axes and any(x.axes[i].K > 1 for i in x.span(dim % len(x.dims))):
        return Unknown("the place of an extreme among positions of several kinds")
    return uniform_ids(context().shapes[0], x.shape[dim % len(x.dims)])
