"""Views of memory that the recorder writes out (`initio.view_of`, `initio.scatter_view`), and shuffles of pixels."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import same_axes
from initio.core.axes import axis
from initio.core.moments import Moments, Unknown, pair_values, worst
from initio.rules.structure import cat
from initio.rules.table import Result, context, rule

__all__: list[str] = []

Window = tuple[list[range], list[int]]


def _window(shape: Sequence[int], window: Mapping[str, Any]) -> Window | None:
    """The range of every dimension of the base that a strided window covers, and which of its dimensions runs along it (−1: none)."""
    base, offset = list(window["base_stride"]), int(window["offset"])
    order = sorted((d for d, n in enumerate(shape) if n > 1), key=lambda d: -base[d])
    if any(base[d] <= 0 for d in order):
        return None
    start = dict.fromkeys(range(len(shape)), 0)
    for d in order:
        start[d], offset = divmod(offset, base[d])
    if offset:
        return None
    ranges = [range(start[d], start[d] + 1) for d in range(len(shape))]
    along = [-1] * len(shape)
    for k, (size, stride) in enumerate(zip(window["size"], window["stride"], strict=True)):
        if size == 1:
            continue
        fits = [d for d in order if stride > 0 and stride % base[d] == 0 and start[d] + (size - 1) * (stride // base[d]) < shape[d]]
        if not fits or along[fits[0]] >= 0:
            return None
        d = fits[0]
        ranges[d] = range(start[d], start[d] + (size - 1) * (stride // base[d]) + 1, stride // base[d])
        along[d] = k
    return ranges, along


@rule("initio.view_of")
def view_of(base: Moments, window: Mapping[str, Any]) -> Result:
    """The strided window of a base."""
    found = _window(base.shape, window)
    if found is None:
        return Unknown(
            f"a view of size {tuple(window['size'])} and stride {tuple(window['stride'])} that is not a slice of its base {base.shape}"
        )
    ranges, along = found
    x = base
    for d, r in enumerate(ranges):
        if len(r) != x.shape[d]:
            x = x.take(d, np.asarray(r), (r.start, r.step))
    return _ordered(x, along, len(window["size"]))


def _ordered(x: Moments, along: Sequence[int], rank: int) -> Moments:
    """Dimension d of x becomes dimension along[d]; the others have size 1."""
    kept = sorted((d for d in range(len(along)) if along[d] >= 0), key=lambda d: along[d])
    x = x.permute([*kept, *[d for d in range(len(along)) if along[d] < 0]])
    dims = [0] * rank
    for place, d in enumerate(kept):
        dims[along[d]] = x.dims[place]
    return replace(x, dims=tuple(dims))


@rule("initio.scatter_view")
def scatter_view(base: Moments, part: Moments, window: Mapping[str, Any]) -> Result:
    """The base with a strided window overwritten by the part."""
    found = _window(base.shape, window)
    if found is None:
        return Unknown(
            f"a write through a view of size {tuple(window['size'])} and stride {tuple(window['stride'])}"
            f" that is not a slice of its base {base.shape}"
        )
    ranges, along = found
    order = [along[d] for d in range(len(along)) if along[d] >= 0]
    rest = [k for k in range(len(part.dims)) if k not in order]
    moved = part.permute([*order, *rest])
    dims, place = [0] * len(along), 0
    for d, k in enumerate(along):
        if k >= 0:
            dims[d] = moved.dims[place]
            place += 1
    return _overwritten(base, replace(moved, dims=tuple(dims)), ranges)


def _overwritten(base: Moments, part: Moments, ranges: Sequence[range]) -> Moments | Unknown:
    """Kinds tell inside from outside along every dimension that the window cuts: the part's entries are inside along all of them."""
    cut = [d for d, r in enumerate(ranges) if len(r) != base.shape[d]]
    if not cut:
        return part
    mixed = _mixed(base, part)
    if mixed is None and len(cut) == 1 and ranges[cut[0]].step == 1:
        return _joined(base, part, ranges[cut[0]], cut[0])
    if mixed is None:
        return Unknown("a window is overwritten by values that depend on the rest in a way that is not tracked")
    for d in range(len(ranges)):
        if d in cut:
            base, part = base.with_axis(d), part.with_axis(d)
        elif base.shape[d] > 1:
            base, part = same_axes([base, part], [d, d])
    first = second = np.ones([1] * len(base.axes), dtype=bool)
    where = np.ones([1] * len(base.axes), dtype=bool)
    mean, gram = part.mean, part.gram
    for d in cut:
        i, inside = base.span(d)[0], np.zeros(base.shape[d], dtype=np.intp)
        theirs = inside.copy()
        inside[list(ranges[d])] = 1
        theirs[list(ranges[d])] = part.axes[i].label_array()
        _, fine = np.unique(np.stack([base.axes[i].label_array(), inside, theirs]), axis=1, return_inverse=True)
        target = axis(base.shape[d], fine.ravel())
        base = base.relabel(i, target)
        one = [int(np.argmax(target.label_array() == k)) for k in range(target.K)]
        held, kind = inside[one].astype(bool), theirs[one]
        n = part.axes[i].K
        cls = np.where(target.same, n * n + kind[target.first], kind[target.first] * n + kind[target.second])
        mean, gram = np.take(mean, kind, axis=i), np.take(gram, cls, axis=i)
        shape = [1] * len(base.axes)
        shape[i] = -1
        first, second = first & held[target.first].reshape(shape), second & held[target.second].reshape(shape)
        where = where & held.reshape(shape)
    (b1, b2), (p1, p2) = pair_values(base.axes, base.mean), pair_values(base.axes, mean)
    cross = np.where(first, p1 * b2, b1 * p2) * mixed
    gram = np.where(first & second, gram, np.where(first | second, cross, base.gram))
    odd = part.odd & base.odd if base.total_second else part.odd
    mean, claim = np.where(where, mean, base.mean), worst(base.claim, part.claim)
    return Moments.gaussian(base.axes, base.dims, mean, gram, base.sources | part.sources, odd=odd, claim=claim).without_ones()


def _mixed(base: Moments, part: Moments) -> float | None:
    """E[base part] in units of the product of the means: 1 if independent, 0 if one is odd in a source that the other lacks."""
    if not base.sources & part.sources:
        return 1.0
    return 0.0 if (part.odd & ~base.sources) or (base.odd & ~part.sources) else None


def _joined(base: Moments, part: Moments, r: range, d: int) -> Moments | Unknown:
    """Slices of the base around a part that was made of it."""
    if base.with_axis(d).axes[base.with_axis(d).span(d)[0]].K > 1:
        return Unknown("a window of several kinds of positions is overwritten by values that depend on the rest")
    row = [
        part if p is r else base.take(d, np.asarray(p), (p.start, 1)) for p in (range(r.start), r, range(r.stop, base.shape[d])) if len(p)
    ]
    return cat(row, d)


# -- shuffles ----------------------------------------------------------------------------------------------------


@rule("aten.pixel_shuffle")
def pixel_shuffle(x: Moments, factor: int) -> Moments:
    """Channels (C, r, r) move into the map (H, r), (W, r) (Shi et al. 2016)."""
    *lead, c, h, w = x.shape
    n, r = len(lead), int(factor)
    y = x.reshape((*lead, c // (r * r), r, r, h, w)).permute([*range(n + 1), n + 3, n + 1, n + 4, n + 2])
    return y.reshape(context().shapes[0])


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(x: Moments, factor: int) -> Moments:
    """The map (H, r), (W, r) moves into the channels (C, r, r)."""
    *lead, c, h, w = x.shape
    n, r = len(lead), int(factor)
    y = x.reshape((*lead, c, h // r, r, w // r, r)).permute([*range(n + 1), n + 2, n + 4, n + 1, n + 3])
    return y.reshape(context().shapes[0])


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(x: Moments, groups: int) -> Moments:
    """Channels (g, C / g) become (C / g, g)."""
    n, c, *rest = x.shape
    y = x.reshape((n, groups, c // groups, *rest)).permute([0, 2, 1, *range(3, 3 + len(rest))])
    return y.reshape(x.shape)
