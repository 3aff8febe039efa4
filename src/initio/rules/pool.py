"""Means over windows, and their backward forms."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initio.core.algebra import average, scale
from initio.core.axes import Taps
from initio.core.moments import Moments
from initio.rules.maxima import adaptive_taps, listed, windows
from initio.rules.table import context, rule

__all__: list[str] = []


def _along(x: Moments, taps: Sequence[Taps]) -> Moments:
    for i, t in enumerate(taps):
        x = x.linear(len(x.dims) - len(taps) + i, t)
    return x


def _divided(t: Taps, extent: Any) -> Taps:
    return Taps(t.index, t.n_in, 1.0 / np.maximum(extent, 1))


def _taps(
    shape: Sequence[int], out: Sequence[int], kernel: Any, stride: Any, padding: Any, include: bool, divisor: int | None
) -> list[Taps]:
    n = len(shape)
    k = listed(kernel, n)
    s, p = listed(stride, n, k), listed(padding, n)
    made: list[Taps] = []
    for i, t in enumerate(windows(shape, out, kernel, stride, padding)):
        start = np.arange(out[i]) * s[i] - p[i]
        whole = np.minimum(start + k[i], shape[i] + p[i]) - start  # a window that `ceil_mode` adds ends with the padding
        made.append(_divided(t, whole if include and not divisor else (t.index >= 0).sum(axis=0)) if not divisor else t)
    if divisor:
        made[0] = Taps(made[0].index, made[0].n_in, 1.0 / divisor)
    return made


@rule("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", near=True)
def avg_pool(
    x: Moments,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Moments:
    """Mean over windows."""
    out = context().shapes[0]
    n = int(context().node.op.split("avg_pool")[1][0])
    return _along(x, _taps(x.shape[-n:], out[-n:], kernel, stride, padding, count_include_pad, divisor_override))


@rule(
    "aten._adaptive_avg_pool2d",
    "aten.adaptive_avg_pool1d",
    "aten._adaptive_avg_pool3d",
    "aten.adaptive_avg_pool2d",
    "aten.adaptive_avg_pool3d",
    near=True,
)
def adaptive_avg_pool(x: Moments, size: Any) -> Moments:
    """Mean over windows that divide the map."""
    out = context().shapes[0]
    n = len(size) if isinstance(size, (tuple, list)) else 1
    if math.prod(out[-n:]) == 1:
        return average(x, range(len(x.dims) - n, len(x.dims)), True)
    return _along(x, [_adaptive(x.shape[-n + i], out[-n + i]) for i in range(n)])


def _adaptive(n: int, out: int) -> Taps:
    t = adaptive_taps(n, out)
    return _divided(t, (t.index >= 0).sum(axis=0))


@rule("aten.avg_pool2d_backward", "aten.avg_pool3d_backward", near=True)
def avg_pool_backward(
    grad: Moments,
    x: Moments,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Moments:
    """Each input of a window receives its share."""
    n = int(context().node.op.split("avg_pool")[1][0])
    taps = _taps(x.shape[-n:], grad.shape[-n:], kernel, stride, padding, count_include_pad, divisor_override)
    return _along(grad, [t.transposed() for t in taps])


@rule("aten._adaptive_avg_pool2d_backward", "aten._adaptive_avg_pool3d_backward", near=True)
def adaptive_avg_pool_backward(grad: Moments, x: Moments) -> Moments:
    """Each input of a window receives its share."""
    n = 2 if "2d" in context().node.op else 3
    if math.prod(grad.shape[-n:]) == 1:
        return scale(grad, 1.0 / math.prod(x.shape[-n:])).expand(x.shape)
    return _along(grad, [_adaptive(x.shape[-n + i], grad.shape[-n + i]).transposed() for i in range(n)])
