"""Views, copies, slices and joins: bookkeeping on axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import joint, same_axes, scale
from initio.core.axes import Taps, axis
from initio.core.moments import Moments, Unknown, worst
from initio.core.scalar import IDENTITY
from initio.rules.table import context, rule

__all__: list[str] = []


@rule("aten.view", "aten._unsafe_view", "aten.reshape", "aten.flatten", "aten._reshape_alias", "aten.unflatten", "aten.squeeze", "aten.unsqueeze", "aten.view_as")
def reshape(x: Moments, *_: Any, **__: Any) -> Moments:
    """The same entries in row-major order."""
    shape = context().shapes[0]
    made = x.reshape(shape)
    return replace(made, extra=_mask_reshaped(x, shape))


def _mask_reshaped(x: Moments, shape: tuple[int, ...]) -> dict[str, Any]:
    extra = dict(x.extra)
    if "mask" in extra:
        allowed = extra["mask"]
        full = np.broadcast_to(allowed, x.shape) if allowed.ndim <= len(x.shape) else allowed
        ones = [n for n in full.shape if n != 1]
        if ones == [n for n in shape if n != 1]:
            extra["mask"] = full.reshape(shape)
        else:
            extra.pop("mask")
            extra["mask_lost"] = True
    extra.pop("known", None)
    extra.pop("terms", None)
    return extra


@rule("aten.clone", "aten.detach", "aten.alias", "aten.contiguous", "aten._to_copy", "aten.to", "aten.lift_fresh", "aten.lift_fresh_copy", "aten.copy", "aten.view.dtype", "aten.positive", "prims.view_of", "initio.view_whole")
def same(x: Moments, *args: Any, **_: Any) -> Moments:
    """The same values (a cast keeps moments to rounding)."""
    if context().node.op.split(".")[1].rstrip("_") == "copy" and args and isinstance(args[0], Moments):
        return args[0].expand(context().shapes[0])
    return x


@rule("aten.permute")
def permute(x: Moments, dims: Sequence[int]) -> Moments:
    """Dimensions reordered."""
    made = x.permute([d % len(x.dims) for d in dims])
    if "mask" in x.extra:
        return replace(made, extra={**made.extra, "mask": np.broadcast_to(x.extra["mask"], x.shape).transpose([d % len(x.dims) for d in dims])})
    return made


@rule("aten.transpose", "aten.swapaxes")
def transpose(x: Moments, a: int, b: int) -> Moments:
    """Two dimensions exchanged."""
    order = list(range(len(x.dims)))
    if order:
        order[a], order[b] = order[b], order[a]
    return permute(x, order)


@rule("aten.t", "aten.numpy_T", "aten.adjoint", "aten.mT")
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


@rule("aten.expand", "aten.expand_as", "aten.broadcast_to")
def expand(x: Moments, *_: Any, **__: Any) -> Moments:
    """Equal entries along new dimensions."""
    made = x.expand(context().shapes[0])
    return replace(made, extra={k: v for k, v in x.extra.items() if k in ("high", "mask")})


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


@rule("aten.select")
def select(x: Moments, dim: int, index: int) -> Moments:
    """One index of a dimension."""
    d = dim % len(x.dims)
    made = x.select(d, index)
    if "mask" in x.extra:
        return replace(made, extra={**made.extra, "mask": np.take(np.broadcast_to(x.extra["mask"], x.shape), index, axis=d)})
    return made


@rule("aten.slice", "aten.narrow")
def slice_(x: Moments, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Moments:
    """A range of a dimension."""
    d = dim % len(x.dims)
    if context().node.op.startswith("aten.narrow"):
        end = (start or 0) + (end or 0)
    window = slice(start, end, step).indices(x.shape[d])
    made = x.take(d, np.arange(*window), (window[0], step))
    if "mask" in x.extra:
        return replace(made, extra={**made.extra, "mask": np.take(np.broadcast_to(x.extra["mask"], x.shape), np.arange(*window), axis=d)})
    return made


@rule("aten.split", "aten.chunk", "aten.split_with_sizes", "aten.tensor_split", "aten.split.Tensor")
def split(x: Moments, sizes: Any, dim: int = 0) -> tuple[Moments, ...]:
    """Consecutive ranges of a dimension."""
    d = dim % len(x.dims)
    out: list[Moments] = []
    at = 0
    for shape in context().shapes:
        out.append(x.take(d, np.arange(at, at + shape[d]), (at, 1)))
        at += shape[d]
    return tuple(out)


@rule("aten.unbind")
def unbind(x: Moments, dim: int = 0) -> tuple[Moments, ...]:
    """Every index of a dimension by itself."""
    d = dim % len(x.dims)
    return tuple(x.select(d, i) for i in range(x.shape[d]))


@rule("aten.flip")
def flip(x: Moments, dims: Sequence[int]) -> Moments:
    """Indices reversed."""
    for d in dims:
        d %= len(x.dims)
        if x.shape[d] > 1:
            x = x.take(d, np.arange(x.shape[d])[::-1], (x.shape[d] - 1, -1))
    return x


@rule("aten.roll")
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


@rule("aten.cat", "aten.concat")
def cat(tensors: Sequence[Moments], dim: int = 0) -> Moments | Unknown:
    """Parts become kinds of the axis; entries of different parts have the parts' cross moments."""
    parts = [x for x in tensors if not (len(x.shape) == 1 and x.shape[0] == 0)]
    d = dim % len(parts[0].dims)
    if len(parts) == 1:
        return parts[0]
    tiled = _tiles(parts, d)
    if tiled is not None:
        return tiled
    return join(parts, d)


@rule("aten.stack")
def stack(tensors: Sequence[Moments], dim: int = 0) -> Moments | Unknown:
    """A new dimension of parts."""
    n = len(tensors[0].dims) + 1
    d = dim % n
    return cat([replace(x, dims=(*x.dims[:d], 0, *x.dims[d:])) for x in tensors], d)


def join(parts: Sequence[Moments], d: int) -> Moments | Unknown:
    """Concatenate along dimension d."""
    xs = [x.with_axis(d) for x in parts]
    for e in range(len(xs[0].dims)):
        if e != d and xs[0].shape[e] > 1:
            xs = same_axes(xs, [e] * len(xs))
    i = xs[0].span(d)[0]
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
            cross = _cross_parts(y, x, i)
            if cross is None:
                return Unknown("concatenated tensors depend on each other in a way that is not tracked")
            block[offsets[m] : offsets[m + 1], offsets[n] : offsets[n + 1]] = cross
            swapped = np.moveaxis(cross, 0, 1)
            for j, a in enumerate(others):
                swapped = np.take(swapped, a.swap, axis=j + 2)
            block[offsets[n] : offsets[n + 1], offsets[m] : offsets[m + 1]] = swapped
        front[: k * k] = block.reshape((k * k, *front.shape[1:]))
    raw = axis(len(labels), labels)
    made = Moments.gaussian([*xs[0].axes[:i], raw, *xs[0].axes[i + 1 :]], xs[0].dims, mean, gram, sources, odd=max(odd, 0) & sources, claim=worst(*[x.claim for x in xs]))
    return _merged_alike(made, i)


def _cross_parts(x: Moments, y: Moments, i: int) -> Any:
    """E[x_a y_b] by (kind of x, kind of y) on axis i and pair class on the others; the indices on axis i differ."""
    kx, ky = x.axes[i].K, y.axes[i].K
    one = axis(1)
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
            xa = _one_of(x, i, p)
            ya = _one_of(y, i, q)
            got = joint(xa, ya)
            if got is None:
                return None
            row.append(got)
        rows.append(np.stack(row))
    _ = one
    return np.stack(rows)


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


def _tiles(parts: Sequence[Moments], d: int) -> Moments | None:
    """Slices of one field put together again in another order or with other signs (rotary halves): a linear map of that field."""
    laws = [x.law for x in parts]
    if any(len(law) != 1 for law in laws) or any(x.dims[d] != 1 for x in parts):
        return None
    first = laws[0][0].field
    i = parts[0].span(d)[0]
    stride = first.view.strides[i]
    if stride <= 0 or any(law[0].field.id != first.id or law[0].field.view.strides != first.view.strides or x.axes[i].K != 1 for x, law in zip(parts, laws, strict=True)):
        return None
    size = sum(x.axes[i].size for x in parts)
    base = min(law[0].field.view.offset for law in laws)
    index: list[int] = []
    weight: list[float] = []
    for x, law in zip(parts, laws, strict=True):
        fn = law[0].fn
        factor = float(fn(1.0))
        if fn is not IDENTITY and not (fn.pieces is not None and not fn.kinks and float(fn(0.0)) == 0.0 and float(fn(2.0)) == 2 * factor):
            return None
        shift, rest = divmod(law[0].field.view.offset - base, stride)
        if rest:
            return None
        index += range(shift, shift + x.axes[i].size)
        weight += [factor] * x.axes[i].size
    if sorted(index) != list(range(size)):
        return None
    origin = next(x for x, law in zip(parts, laws, strict=True) if law[0].field.view.offset == base)
    back = scale(origin, 1.0 / float(origin.law[0].fn(1.0)))
    whole = replace(back, axes=(*back.axes[:i], axis(size), *back.axes[i + 1 :]))
    if index == list(range(size)) and all(w == weight[0] for w in weight):
        return scale(whole, weight[0])
    return whole.linear(d, Taps(np.array(index)[None], size, np.array(weight)[None]))
