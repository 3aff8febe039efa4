"""The adjoints of slices and selections: zeros around the cotangent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.axes import Taps
from initio.core.moments import Moments, Unknown
from initio.rules.structure import cat
from initio.rules.table import Result, context, rule

__all__ = ["placed"]


def placed(x: Moments, dim: int, size: int, indices: Any) -> Moments:
    """A tensor of `size` along `dim` that holds x at `indices` and 0 elsewhere."""
    index = np.full(size, -1, dtype=np.intp)
    index[np.asarray(indices)] = np.arange(len(indices))
    return x.linear(dim, Taps(index[None], len(indices)))


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


_ = context
