"""The adjoints of slices and selections: zeros around the cotangent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.axes import Taps
from initio.core.moments import Moments, Unknown
from initio.core.pieces import Pieces, gap
from initio.rules.structure import cat, stack
from initio.rules.table import Result, rule

__all__ = ["assembled", "placed"]


def placed(x: Moments, dim: int, size: int, indices: Any) -> Moments:
    """A tensor of `size` along `dim` that holds x at `indices` and 0 elsewhere."""
    where = np.asarray(indices)
    index = np.full(size, -1, dtype=np.intp)
    index[where] = np.arange(len(where))
    made = x.linear(dim, Taps(index[None], len(where)))
    step = int(where[1] - where[0]) if len(where) > 1 else 1
    if step < 1 or np.any(np.diff(where) != step):
        return made
    window = range(int(where[0]), int(where[-1]) + 1, step)
    return replace(made, extra={**made.extra, "pieces": Pieces(dim, size, ((window, x),))})


def assembled(x: Moments, y: Moments) -> Moments | None:
    """x + y, where both fill different ranges of one dimension: their concatenation (or interleaving), whose law is known better than that of a sum."""
    a, b = x.extra.get("pieces"), y.extra.get("pieces")
    if not isinstance(a, Pieces) or not isinstance(b, Pieces) or (a.dim, a.size) != (b.dim, b.size):
        return None
    parts = sorted((*a.parts, *b.parts), key=lambda p: p[0].start)
    used = np.concatenate([np.asarray(r) for r, _ in parts])
    if len(np.unique(used)) != len(used):
        return None
    made = _whole(parts, a.dim, a.size)
    return None if made is None else replace(made, extra={**made.extra, "pieces": Pieces(a.dim, a.size, tuple(parts))})


def _whole(parts: Sequence[tuple[range, Moments]], d: int, size: int) -> Moments | None:
    n = len(parts)
    if n > 1 and all(r.step == n and len(r) * n == size for r, _ in parts):
        woven = stack([x for _, x in parts], d + 1)
        return woven.reshape((*woven.shape[:d], size, *woven.shape[d + 2 :])) if isinstance(woven, Moments) else None
    if any(r.step != 1 and len(r) > 1 for r, _ in parts):
        return None
    row: list[Moments] = []
    at = 0
    for r, x in parts:
        if r.start > at:
            row.append(gap(x, d, r.start - at))
        row.append(x)
        at = r.start + len(r)
    if at < size:
        row.append(gap(parts[-1][1], d, size - at))
    made = cat(row, d)
    return made if isinstance(made, Moments) else None


@rule("aten.slice_backward")
def slice_backward(grad: Moments, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Moments:
    """The cotangent in its range, 0 outside."""
    d = dim % len(sizes)
    window = range(*slice(start, end, step).indices(sizes[d]))
    if len(window) == sizes[d]:
        return grad
    return placed(grad, d, sizes[d], list(window))


@rule("aten.select_backward")
def select_backward(grad: Moments, sizes: Sequence[int], dim: int, index: int) -> Moments:
    """The cotangent at its index, 0 elsewhere."""
    d = dim % len(sizes)
    x = replace(grad, dims=(*grad.dims[:d], 0, *grad.dims[d:]))
    return x if sizes[d] == 1 else placed(x, d, sizes[d], [index % sizes[d]])


@rule("aten.constant_pad_nd")
def constant_pad(x: Moments, pad: Sequence[int], value: float = 0.0) -> Result:
    """Constant entries around the tensor (negative widths cut)."""
    for k in range(len(pad) // 2):
        d = len(x.dims) - 1 - k
        before, after = int(pad[2 * k]), int(pad[2 * k + 1])
        n = x.shape[d]
        start, stop = max(0, -before), n - max(0, -after)
        if (start, stop) != (0, n):
            x = x.take(d, np.arange(start, stop), (start, 1))
        left, right = max(before, 0), max(after, 0)
        if not left and not right:
            continue
        if value == 0.0:
            x = placed(x, d, x.shape[d] + left + right, np.arange(left, left + x.shape[d]))
            continue
        parts: list[Moments] = []
        for width in (left, right):
            shape = list(x.shape)
            shape[d] = width
            parts.append(Moments.iid(shape, float(value), 0.0))
        made = cat([p for p in (parts[0], x, parts[1]) if p.shape[d]], d)
        if isinstance(made, Unknown):
            return made
        x = made
    return x
