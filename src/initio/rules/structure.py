# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Views, copies, slices and joins: bookkeeping on axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import joint, multiply, pair_expectation, same_axes, scale, swap
from initio.core.axes import Axis, Taps, axis
from initio.core.gaussian import expect
from initio.core.moments import Cross, Factor, Moments, Unknown, View, worst
from initio.core.overlap import marked, overlap_of
from initio.core.pieces import MOST, between, cut, each_piece, flat, made_of, permuted, reshaped
from initio.rules.table import context, rule

__all__ = ["join", "times"]

LARGEST_MASK = 1 << 24
"""Most entries of a mask that is copied to another shape."""


@rule(
    "aten.view",
    "aten._unsafe_view",
    "aten.reshape",
    "aten.flatten",
    "aten._reshape_alias",
    "aten.unflatten",
    "aten.squeeze",
    "aten.unsqueeze",
    "aten.view_as",
    near=True,
)
def reshape(x: Moments, *_: Any, **__: Any) -> Moments:
    """The same entries in row-major order."""
    shape = context().shapes[0]
    made = x.reshape(shape)
    extra = _mask_reshaped(x, shape)
    return replace(made, extra={**extra, "terms": made.terms} if made.terms else extra)


def _mask_reshaped(x: Moments, shape: tuple[int, ...]) -> dict[str, Any]:
    extra = dict(x.extra)
    if "mask" in extra:
        allowed = extra["mask"]
        full = np.broadcast_to(allowed, x.shape) if allowed.ndim <= len(x.shape) else allowed
        ones = [n for n in full.shape if n != 1]
        if ones == [n for n in shape if n != 1] or full.size <= LARGEST_MASK:
            extra["mask"] = full.reshape(shape)
        else:
            extra.pop("mask")
            extra["mask_lost"] = True
    extra.pop("known", None)
    extra.pop("terms", None)
    pieces = reshaped(x, shape) if "pieces" in extra else None
    extra.pop("pieces", None)
    return extra if pieces is None else {**extra, "pieces": pieces}


@rule(
    "aten.clone",
    "aten.detach",
    "aten.alias",
    "aten.contiguous",
    "aten._to_copy",
    "aten.to",
    "aten.lift_fresh",
    "aten.lift_fresh_copy",
    "aten.copy",
    "aten.view.dtype",
    "aten.positive",
    "prims.view_of",
    "initio.view_whole",
    near=True,
)
def same(x: Moments, *args: Any, **_: Any) -> Moments:
    """The same values (a cast keeps moments to rounding)."""
    if context().node.op.split(".")[1].rstrip("_") == "copy" and args and isinstance(args[0], Moments):
        return args[0].expand(context().shapes[0])
    return x


@rule("aten.as_strided")
def as_strided(x: Moments, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> Moments | Unknown:
    """Another view of the storage: known where it is row-major and holds the entries of x in their order."""
    size = tuple(int(n) for n in size)
    step, row_major = 1, not offset
    for n, s in zip(reversed(size), reversed([int(s) for s in stride]), strict=True):
        row_major = row_major and (n == 1 or s == step)
        step *= n
    long = [n for n in x.shape if n != 1]
    if not row_major or step != int(np.prod(x.shape)) or (len(long) > 1 and long != [n for n in size if n != 1]):
        return Unknown("a strided view that is not a reshape")
    return x.reshape(size)


@rule("aten.permute", near=True)
def permute(x: Moments, dims: Sequence[int]) -> Moments:
    """Dimensions reordered."""
    order = [d % len(x.dims) for d in dims]
    made = permuted(x, order, x.permute(order)) if "pieces" in x.extra else x.permute(order)
    if "mixed" in x.extra:
        swapped = len(order) > 1 and order.index(len(order) - 1) < order.index(len(order) - 2)
        made = replace(made, extra={**made.extra, "mixed": x.extra["mixed"].turned() if swapped else x.extra["mixed"]})
    if "mask" in x.extra:
        return replace(
            made, extra={**made.extra, "mask": np.broadcast_to(x.extra["mask"], x.shape).transpose([d % len(x.dims) for d in dims])}
        )
    return made


@rule("aten.transpose", "aten.swapaxes", near=True)
def transpose(x: Moments, a: int, b: int) -> Moments:
    """Two dimensions exchanged."""
    order = list(range(len(x.dims)))
    if order:
        order[a], order[b] = order[b], order[a]
    return permute(x, order)


@rule("aten.t", "aten.numpy_T", "aten.adjoint", "aten.mT", near=True)
def t(x: Moments) -> Moments:
    """The last two dimensions exchanged."""
    return transpose(x, -2, -1) if len(x.dims) > 1 else x


@rule("aten.movedim")
def movedim(x: Moments, source: Sequence[int] | int, destination: Sequence[int] | int) -> Moments:
    """Dimensions moved to other places."""
    n = len(x.dims)
    src = [d % n for d in ([source] if isinstance(source, int) else source)]
    dst = [d % n for d in ([destination] if isinstance(destination, int) else destination)]
    order = [d for d in range(n) if d not in src]
    for d, s in sorted(zip(dst, src, strict=True)):
        order.insert(d, s)
    return permute(x, order)


@rule("aten.expand", "aten.expand_as", "aten.broadcast_to", near=True)
def expand(x: Moments, *_: Any, **__: Any) -> Moments:
    """Equal entries along new dimensions."""
    if x.shape == context().shapes[0]:
        return x
    made = x.expand(context().shapes[0])
    return replace(made, extra={k: v for k, v in x.extra.items() if k in ("high", "mask", "mixed")})


@rule("aten.repeat", "aten.tile")
def repeat(x: Moments, *_: Any, **__: Any) -> Moments:
    """The tensor repeated along each dimension: a new outer axis of equal entries."""
    shape = context().shapes[0]
    x = replace(x, dims=(0,) * (len(shape) - len(x.dims)) + x.dims)
    for d, size in enumerate(shape):
        if size != x.shape[d] and x.shape[d]:
            x = x.repeat_axis(d, axis(size // x.shape[d]))
    return x


@rule("aten.repeat_interleave.self_int")
def repeat_interleave(x: Moments, repeats: int, dim: int | None = None, **_: Any) -> Moments:
    """Each index repeated: a new inner axis of equal entries."""
    if dim is None:
        x, dim = x.reshape((int(np.prod(x.shape)),)), 0
    d = dim % len(x.dims)
    return x.repeat_axis(d, axis(repeats), at=x.span(d).stop)


@rule("aten.select", near=True)
def select(x: Moments, dim: int, index: int) -> Moments:
    """One index of a dimension."""
    d = dim % len(x.dims)
    made = x.select(d, index)
    if "mask" in x.extra:
        return replace(made, extra={**made.extra, "mask": np.take(np.broadcast_to(x.extra["mask"], x.shape), index, axis=d)})
    return made


@rule("aten.slice", "aten.narrow", near=True)
def slice_(x: Moments, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Moments:
    """A range of a dimension."""
    d = dim % len(x.dims)
    if context().node.op.startswith("aten.narrow"):
        end = (start or 0) + (end or 0)
    window = slice(start, end, step).indices(x.shape[d])
    made = cut(x, d, window[0], window[1]) if step == 1 else x.take(d, np.arange(*window), (window[0], step))
    if "mask" in x.extra:
        return replace(made, extra={**made.extra, "mask": np.take(np.broadcast_to(x.extra["mask"], x.shape), np.arange(*window), axis=d)})
    return made


@rule("aten.split", "aten.chunk", "aten.split_with_sizes", "aten.tensor_split", "aten.split.Tensor", near=True)
def split(x: Moments, sizes: Any, dim: int = 0) -> tuple[Moments, ...]:
    """Consecutive ranges of a dimension."""
    d = dim % len(x.dims)
    out: list[Moments] = []
    at = 0
    for shape in context().shapes:
        out.append(cut(x, d, at, at + shape[d]))
        at += shape[d]
    return tuple(out)


@rule("aten.unbind")
def unbind(x: Moments, dim: int = 0) -> tuple[Moments, ...]:
    """Every index of a dimension by itself."""
    d = dim % len(x.dims)
    return tuple(x.select(d, i) for i in range(x.shape[d]))


@rule("aten.flip", near=True)
def flip(x: Moments, dims: Sequence[int]) -> Moments:
    """Indices reversed."""
    for d in dims:
        d %= len(x.dims)
        if x.shape[d] > 1:
            x = x.take(d, np.arange(x.shape[d])[::-1], (x.shape[d] - 1, -1))
    return x


@rule("aten.roll", near=True)
def roll(x: Moments, shifts: Sequence[int], dims: Sequence[int] = ()) -> Moments:
    """Indices shifted around."""
    if not dims:
        return roll(x.reshape((int(np.prod(x.shape)),)), shifts, (0,)).reshape(x.shape)
    for shift, d in zip(shifts, dims, strict=True):
        d %= len(x.dims)
        n = x.shape[d]
        if n > 1 and shift % n:
            x = x.take(d, (np.arange(n) - shift) % n)
    return x


@rule("aten.cat", "aten.concat", near=True)
def cat(tensors: Sequence[Moments], dim: int = 0) -> Moments | Unknown:
    """Parts become kinds of the axis; entries of different parts have the parts' cross moments."""
    parts = [x for x in tensors if not (len(x.shape) == 1 and x.shape[0] == 0)]
    d = dim % len(parts[0].dims)
    if len(parts) == 1:
        return parts[0]
    tiled = _tiles(parts, d)
    if tiled is not None:
        return tiled
    made = join(parts, d)
    if isinstance(made, Unknown) and len(parts) < len(finer := flat(parts, d)) <= MOST:
        parts, made = finer, join(finer, d)
    if isinstance(made, Unknown):
        return made
    made = made_of(made, d, parts)
    if not any("mask" in x.extra for x in parts) or int(np.prod(made.shape)) > LARGEST_MASK:
        return replace(made, extra={**made.extra, "mask_lost": True}) if any("mask" in x.extra for x in parts) else made
    allowed = np.concatenate([np.broadcast_to(x.extra.get("mask", True), x.shape) for x in parts], axis=d)  # a sink beside masked logits
    return replace(made, extra={**made.extra, "mask": allowed})


@rule("aten.stack")
def stack(tensors: Sequence[Moments], dim: int = 0) -> Moments | Unknown:
    """A new dimension of parts."""
    n = len(tensors[0].dims) + 1
    d = dim % n
    woven = _woven(tensors, d) if len(tensors) > 1 else None
    if woven is not None:
        return woven
    return cat([replace(x, dims=(*x.dims[:d], 0, *x.dims[d:])) for x in tensors], d)


def times(x: Moments, y: Moments) -> Moments | Unknown:
    """x y, of which the pieces of x and y are known better than the whole."""
    whole = multiply(x, y)
    found = each_piece(multiply, x, y)
    if found is None:
        return whole
    d, parts = found
    made = join(parts, d) if isinstance(whole, Unknown) else whole
    return whole if isinstance(made, Unknown) else made_of(made, d, parts)


def join(parts: Sequence[Moments], d: int) -> Moments | Unknown:
    """Concatenate along dimension d."""
    xs = [x.with_axis(d) for x in parts]
    for e in range(len(xs[0].dims)):
        if e != d and xs[0].shape[e] > 1:
            xs = same_axes(xs, [e] * len(xs))
    i = xs[0].span(d)[0]
    xs = [x.relabel(i, x.axes[i].plain) for x in xs]
    labels = np.concatenate([x.axes[i].label_array() + sum(y.axes[i].K for y in xs[:n]) for n, x in enumerate(xs)])
    offsets = np.cumsum([0] + [x.axes[i].K for x in xs])
    k = int(offsets[-1])
    others = [a for j, a in enumerate(xs[0].axes) if j != i]
    mean = np.concatenate([x.mean for x in xs], axis=i)
    gram = np.zeros([a.P for a in xs[0].axes[:i]] + [k * k + k] + [a.P for a in xs[0].axes[i + 1 :]])
    front = np.moveaxis(gram, i, 0)
    sources, odd = 0, -1
    for n, x in enumerate(xs):
        kx = x.axes[i].K
        g = np.moveaxis(x.gram, i, 0)
        block = front[: k * k].reshape((k, k, *front.shape[1:]))
        block[offsets[n] : offsets[n + 1], offsets[n] : offsets[n + 1]] = g[: kx * kx].reshape((kx, kx, *g.shape[1:]))
        front[k * k + offsets[n] : k * k + offsets[n + 1]] = g[kx * kx :]
        sources |= x.sources
        odd &= x.odd if x.total_second else -1
        for m in range(n):
            y = xs[m]
            cross = between(parts[m], parts[n], d)
            cross = _cross_parts(y, x, i) if cross is None or cross.shape[2:] != block.shape[2:] else cross
            cross = _cross_terms(y, x, i) if cross is None else cross
            if cross is None:
                return Unknown("concatenated tensors depend on each other in a way that is not tracked")
            block[offsets[m] : offsets[m + 1], offsets[n] : offsets[n + 1]] = cross
            swapped = np.moveaxis(cross, 0, 1)
            for j, a in enumerate(others):
                swapped = np.take(swapped, a.swap, axis=j + 2)
            block[offsets[n] : offsets[n + 1], offsets[m] : offsets[m + 1]] = swapped
        front[: k * k] = block.reshape((k * k, *front.shape[1:]))
    raw = axis(len(labels), labels)
    axes = [*xs[0].axes[:i], raw, *xs[0].axes[i + 1 :]]
    made = Moments.gaussian(
        axes,
        xs[0].dims,
        mean,
        gram,
        sources,
        odd=max(odd, 0) & sources,
        claim=worst(*[x.claim for x in xs]),
        cross=_joined_cross(xs, i, axes),
    )
    widest = max(xs, key=lambda x: x.axes[i].size)
    return _merged_alike(marked(made, *overlap_of(widest)), i)


def _joined_cross(xs: Sequence[Moments], i: int, axes: Sequence[Axis]) -> tuple[Cross, ...]:
    """Covariances with a field of which the parts were made, each of the slice that stands at its own place."""
    out: list[Cross] = []
    known = [x.field_covariances() for x in xs]
    starts = np.cumsum([0] + [x.axes[i].size for x in xs])
    lead = int(np.argmax([x.axes[i].size for x in xs]))
    for c in known[lead]:
        step = c.view.strides[i]
        origin = c.view.offset - int(starts[lead]) * step
        row: list[Any] = []
        for x, start, covariances in zip(xs, starts, known, strict=False):
            same = [
                e.cov
                for e in covariances
                if e.id == c.id and e.view.offset == origin + int(start) * step and _alike(e.view, c.view, i, x.axes[i].size)
            ]
            if step == 0 or not same:
                break
            row.append(same[0])
        if len(row) < len(xs):
            continue
        kinds = [x.axes[i].K for x in xs]
        owner = np.repeat(np.arange(len(xs)), kinds)
        local = np.concatenate([np.arange(k) for k in kinds])
        raw = axes[i]
        blocks: list[Any] = []
        for p, q, same_index in zip(raw.first, raw.second, raw.same, strict=True):
            k = kinds[owner[p]]
            part = np.moveaxis(row[owner[p]], i, 0)
            if same_index:
                blocks.append(part[k * k + local[p]])
            elif owner[p] == owner[q]:
                blocks.append(part[local[p] * k + local[q]])
            else:
                blocks.append(part[local[p] * k : (local[p] + 1) * k].mean(axis=0))
        out.append(Cross(c.id, replace(c.view, offset=origin, kinds=False), np.stack(blocks, axis=i)))
    return tuple(out)


def _alike(v: View, w: View, i: int, size: int) -> bool:
    """Equal strides (on axis i only if there is more than one index)."""
    return v.lost == w.lost and all(s == t for j, (s, t) in enumerate(zip(v.strides, w.strides, strict=True)) if j != i or size > 1)


def _cross_parts(x: Moments, y: Moments, i: int) -> Any:
    """E[x_a y_b] by (kind of x, kind of y) on axis i and pair class on the others; the indices on axis i differ."""
    kx, ky = x.axes[i].K, y.axes[i].K
    rows: list[Any] = []
    if not x.sources & y.sources:
        mx = np.moveaxis(x.mean, i, 0)
        my = np.moveaxis(y.mean, i, 0)
        others = [a for j, a in enumerate(x.axes) if j != i]
        from initio.core.moments import pair_values

        a = np.stack([pair_values(others, m)[0] for m in mx])
        b = np.stack([pair_values(others, m)[1] for m in my])
        return a[:, None] * b[None]
    if x.odd & ~y.sources or y.odd & ~x.sources:
        return np.zeros([kx, ky] + [a.P for j, a in enumerate(x.axes) if j != i])
    for p in range(kx):
        row: list[Any] = []
        for q in range(ky):
            got = _cross_kinds(x, y, i, p, q)
            if got is None:
                return None
            row.append(got)
        rows.append(np.stack(row))
    return np.stack(rows)


def _cross_terms(x: Moments, y: Moments, i: int) -> Any:
    """The same, term by term, of sums whose terms are known better than they are."""
    left, right = x.terms or (x,), y.terms or (y,)
    if len(left) == len(right) == 1:
        return None
    made: Any = 0.0
    for s in left:
        for t in right:
            part = _cross_parts(replace(s, extra={}), replace(t, extra={}), i) if s.axes == x.axes and t.axes == y.axes else None
            if part is None:
                return None
            made = made + part
    return made


def _cross_kinds(x: Moments, y: Moments, i: int, p: int, q: int) -> Any:
    """E[x_a y_b] averaged over a of kind p and b of kind q: of aligned parts, one pair in n is of equal indices."""
    xa, ya = _block(x, i, p), _block(y, i, q)
    if xa is None or ya is None:
        return joint(_one_of(x, i, p), _one_of(y, i, q))
    equal = 1.0 / max(xa.axes[i].size, ya.axes[i].size)
    size = _lower_size(xa, ya, i)
    xa, ya = [replace(z, axes=(*z.axes[:i], axis(size), *z.axes[i + 1 :])) for z in (_strided(xa, ya, i), _strided(ya, xa, i))]
    got = joint(xa, ya) if x.axes[i].size > 1 else joint(ya, xa)
    if got is not None and x.axes[i].size == 1:
        got = swap(xa.axes, got)
    return None if got is None else equal * np.take(got, 1, axis=i) + (1.0 - equal) * np.take(got, 0, axis=i)


def _strided(x: Moments, y: Moments, i: int) -> Moments:
    """A part of one index takes the stride of the array that it was cut from."""
    if x.axes[i].size > 1:
        return x
    strides = {a: v.strides[i] for a, v in _views(y)}

    def on(id_: int, v: View) -> View:
        return replace(v, strides=(*v.strides[:i], strides.get(id_, 0), *v.strides[i + 1 :]), dropped=v.dropped[:-1])

    law = [
        Factor(
            f.fn,
            replace(f.field, view=on(f.field.id, f.field.view), cross=tuple(Cross(c.id, on(c.id, c.view), c.cov) for c in f.field.cross)),
        )
        for f in x.law
    ]
    return replace(x, law=tuple(law))


def _block(x: Moments, i: int, kind: int) -> Moments | None:
    """The indices of one kind, if they lie evenly spaced."""
    a = x.axes[i]
    if a.K == 1:
        return x
    index = np.flatnonzero(a.label_array() == kind)
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if np.any(np.diff(index) != step):
        return None
    d = next(d for d in range(len(x.dims)) if i in x.span(d))
    if x.dims[d] != 1:
        return None
    return x.take(d, index, (int(index[0]), step)).with_axis(d)


def _lower_size(x: Moments, y: Moments, i: int) -> int:
    """Size of the part that comes first in the array that both were cut from."""
    for a in _views(x):
        for b in _views(y):
            if a[0] == b[0] and a[1].offset != b[1].offset:
                return x.axes[i].size if a[1].offset < b[1].offset else y.axes[i].size
    return max(x.axes[i].size, y.axes[i].size)


def _views(x: Moments) -> list[tuple[int, View]]:
    return [(z.id, z.view) for f in x.law for z in (f.field, *f.field.cross)]


def _one_of(x: Moments, i: int, kind: int) -> Moments:
    index = int(np.argmax(x.axes[i].label_array() == kind))
    d = next(d for d in range(len(x.dims)) if i in x.span(d))
    return x.select(d, index)


def _merged_alike(x: Moments, i: int) -> Moments:
    """Merge kinds of axis i whose moments are equal, and the nearest ones beyond the cap."""
    from initio.core.axes import CAP

    a = x.axes[i]
    if a.K == 1:
        return x
    front_m = np.moveaxis(x.mean, i, 0).reshape(a.K, -1)
    front_s = np.moveaxis(x.second, i, 0).reshape(a.K, -1)
    scale_ = float(np.sqrt(np.abs(front_s).max(initial=0.0))) or 1.0
    points = np.concatenate([front_m / scale_, np.sqrt(np.maximum(front_s, 0)) / scale_], axis=1)
    group = np.arange(a.K)
    weight = a.counts.copy()
    centre = points.copy()
    alive = list(range(a.K))
    while len(alive) > 1:
        best = min(((float(np.abs(centre[p] - centre[q]).max()), p, q) for n, p in enumerate(alive) for q in alive[n + 1 :]), default=None)
        if best is None or (best[0] > 1e-9 and len(alive) <= CAP):
            break
        _, p, q = best
        centre[p] = (centre[p] * weight[p] + centre[q] * weight[q]) / (weight[p] + weight[q])
        weight[p] += weight[q]
        group[group == q] = p
        alive.remove(q)
    if len(alive) == a.K:
        return x
    return x.relabel(i, axis(a.size, group[a.label_array()]))


def _aligned(parts: Sequence[Moments], i: int, step: int) -> tuple[int, list[int], list[float]] | None:
    """Parts that show one product of fields through slices: (the part that comes first, shifts in indices, factors); `step` of their indices apart."""
    laws = [x.law for x in parts]
    first = laws[0]
    if not first or any(len(law) != len(first) or x.axes[i].K != 1 for x, law in zip(parts, laws, strict=True)):
        return None
    shifts: list[list[int]] = []
    for k, f in enumerate(first):
        stride, rest = divmod(f.field.view.strides[i], step)
        if rest or any(law[k].field.id != f.field.id or law[k].field.view.strides != f.field.view.strides for law in laws):
            return None
        offsets = [law[k].field.view.offset for law in laws]
        if stride == 0:
            if len(set(offsets)) > 1:
                return None
            continue
        moved = [divmod(o - min(offsets), stride) for o in offsets]
        if any(rest for _, rest in moved):
            return None
        shifts.append([m for m, _ in moved])
    if not shifts or any(s != shifts[0] for s in shifts):
        return None
    factors = [1.0] * len(parts)
    for k, f in enumerate(first):
        for n, law in enumerate(laws):
            if law[k].fn is f.fn:
                continue
            lines = [law[k].fn.linear, f.fn.linear]
            if any(line is None or line[1] != 0 or line[0] == 0 for line in lines):
                return None
            factors[n] *= lines[0][0] / lines[1][0]  # type: ignore[index]
    origin = int(np.argmin(shifts[0]))
    return origin, shifts[0], [f / factors[origin] for f in factors]


def _tiles(parts: Sequence[Moments], d: int) -> Moments | None:
    """Slices of one array put together again in another order or with other signs (rotary halves): a linear map of that array."""
    if any(x.dims[d] != 1 for x in parts):
        return None
    i = parts[0].span(d)[0]
    found = _aligned(parts, i, 1)
    if found is None:
        return None
    origin, shifts, factors = found
    size = sum(x.axes[i].size for x in parts)
    index: list[int] = []
    weight: list[float] = []
    for x, shift, factor in zip(parts, shifts, factors, strict=True):
        index += range(shift, shift + x.axes[i].size)
        weight += [factor] * x.axes[i].size
    if sorted(index) != list(range(size)):
        return None
    back = parts[origin]
    whole = replace(back, axes=(*back.axes[:i], axis(size), *back.axes[i + 1 :]), extra={})
    if index == list(range(size)) and all(w == weight[0] for w in weight):
        return scale(whole, weight[0])
    # signs alone make no kinds: what they do to covariances averages over the pairs of a class
    return _mapped_factor(whole, d, Taps(np.array(index)[None], size, np.array(weight)[None]))


def _mapped_factor(x: Moments, d: int, taps: Taps) -> Moments:
    """A linear map along d of a product of which one factor, u, varies along d: (map of u) times the others (the scale of a norm of rotated queries)."""
    i = x.span(d)[0]
    varying = [f for f in x.law if f.field.view.strides[i]]
    if len(varying) == 1 < len(x.law) and varying[0].fn.linear is not None and varying[0].fn.linear[1] == 0.0 and x.axes[i].K == 1:
        a, f = varying[0].fn.linear[0], varying[0]
        mean, gram = np.ones_like(x.mean), np.ones_like(x.gram)
        rest = tuple(g for g in x.law if g is not f)
        for g in rest:
            second = g.field.gram[tuple(b.diagonal for b in x.axes)]
            mean = mean * np.asarray(expect(g.fn, g.field.mean, np.maximum(second - g.field.mean**2, 0.0)))
            gram = gram * pair_expectation(g.fn, g.field, x.axes)
        bits = 0
        for g in rest:
            bits |= g.field.sources
        u = Moments(x.axes, x.dims, a * f.field.mean, a * a * f.field.gram, (f,), f.field.sources, x.odd & f.field.sources, x.claim)
        others = Moments(x.axes, x.dims, mean, gram, rest, bits, x.odd & bits & ~f.field.sources, x.claim)
        made = multiply(_merged_alike(u.linear(d, taps), i), others)
        if isinstance(made, Moments):
            return made
    return _merged_alike(x.linear(d, taps), i)


def _woven(parts: Sequence[Moments], d: int) -> Moments | None:
    """Interleaved slices of one array, stacked behind the axis that they were cut from (rotary pairs): a linear map of that array."""
    n = len(parts)
    if d == 0 or any(x.dims[d - 1] == 0 for x in parts):
        return None
    j = parts[0].span(d - 1)[-1]
    found = _aligned(parts, j, n)
    if found is None or sorted(found[1]) != list(range(n)):
        return None
    origin, shifts, factors = found
    back = parts[origin]
    m = back.axes[j].size

    def on_view(v: View) -> View:
        return v.moved((*v.strides[:j], v.strides[j] // n, *v.strides[j + 1 :]))

    whole = back.lift([*back.axes[:j], axis(m * n), *back.axes[j + 1 :]], back.dims, lambda a: a, lambda g: g, on_view)
    index = (np.arange(m)[:, None] * n + np.array(shifts)[None]).ravel()
    weight = np.tile(np.array(factors), m)
    inner = replace(whole, dims=(*whole.dims[: d - 1], whole.dims[d - 1] - 1, 1, *whole.dims[d:]))
    turned = inner.linear(d, Taps(index[None], m * n, weight[None])).with_axis(d)
    turned = turned.split_axis(turned.span(d)[0], n)
    dims = turned.dims
    return replace(turned, dims=(*dims[: d - 1], dims[d - 1] + 1, 1, *dims[d + 1 :]))
