"""Pooling: means, maxima, adaptive windows, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from rules.harness import Case, Joined, Normal, components

x = Normal((2, 2, 5, 4), components(4), mean=0.3)
line = Normal((2, 2, 7), components(3), mean=-0.2)
volume = Normal((2, 1, 4, 3, 3), {(0, 1, 2, 3, 4): 1.0, (0,): 0.2, (2, 3, 4): 0.3})
border = Normal((2, 5, 5), components(3), profile={1: ((1, 2, 2, 2, 1), (0.5, 0, 0, 0, 0.5))})

MEANS = [
    Case("aten.avg_pool1d", (line, [3], [2], [1]), linear=True),
    Case("aten.avg_pool2d", (x, [2, 2], [2, 2]), linear=True),
    Case("aten.avg_pool2d", (x, [3, 3], [2, 2], [1, 1]), name="padded", linear=True),
    Case("aten.avg_pool2d", (x, [3, 2], [2, 2], [1, 1], False, False), name="padding not counted", linear=True),
    Case("aten.avg_pool2d", (x, [2, 3], [2, 2], [0, 1], True), name="ceil mode", linear=True),
    Case("aten.avg_pool2d", (x, [3, 3], [2, 1], [1, 1], False, True, 5), name="divisor", linear=True),
    Case("aten.avg_pool2d", (border, [2, 2], [1, 1]), name="kinds", linear=True),
    Case("aten.avg_pool3d", (volume, [2, 2, 2], [2, 1, 1]), linear=True),
    Case("aten._adaptive_avg_pool2d", (x, [1, 1]), name="global", linear=True),
    Case("aten._adaptive_avg_pool2d", (x, [3, 3]), name="uneven", linear=True),
    Case("aten.adaptive_avg_pool2d", (x, [2, 2]), linear=True),
    Case("aten.adaptive_avg_pool1d", (line, [3]), linear=True),
    Case("aten._adaptive_avg_pool3d", (volume, [2, 2, 2]), linear=True),
    Case("aten.adaptive_avg_pool3d", (volume, [1, 1, 1]), linear=True),
]

# independent of the input, every entry of the gram its own
g22 = Normal((2, 2, 2, 2), components(4))
g32 = Normal((2, 2, 3, 2), components(4))
g33 = Normal((2, 2, 3, 3), components(4))
beside = Normal((2, 1, 5, 4), {(0, 1, 2, 3): 0.5, (0, 1): 0.2}, mean=-0.3)
plain = Normal((2, 2, 5, 4), {(0, 1, 2, 3): 1.0, (0, 1): 0.3, (1,): 0.1}, mean=0.2)
joined = Joined([plain.then("relu"), beside.then("relu")], 1)
covary = Normal((2, 2, 4, 4), {(0, 1, 2, 3): 1.0, (0, 1): 0.3, (2, 3): 0.4})
small = Normal((1, 2, 4, 4), {(0, 1, 2, 3): 1.0, (1,): 0.3})

BACKWARD = [
    Case(
        "aten.avg_pool2d_backward",
        (g22, x, [2, 2], [2, 2], [0, 0], False, True, None),
        forward=lambda t: F.avg_pool2d(t, 2),
        wrt=(x,),
        cotangent=g22,
        linear=True,
    ),
    Case(
        "aten.avg_pool2d_backward",
        (g32, x, [3, 3], [2, 2], [1, 1], False, False, None),
        name="overlapping",
        forward=lambda t: F.avg_pool2d(t, 3, 2, 1, count_include_pad=False),
        wrt=(x,),
        cotangent=g32,
        linear=True,
    ),
    Case(
        "aten.avg_pool3d_backward",
        (g222 := Normal((2, 1, 2, 2, 2), components(5)), volume, [2, 2, 2], [2, 1, 1], [0, 0, 0], False, True, None),
        forward=lambda t: F.avg_pool3d(t, 2, (2, 1, 1)),
        wrt=(volume,),
        cotangent=g222,
        linear=True,
    ),
    Case(
        "aten._adaptive_avg_pool2d_backward", (g33, x), forward=lambda t: F.adaptive_avg_pool2d(t, 3), wrt=(x,), cotangent=g33, linear=True
    ),
    Case(
        "aten._adaptive_avg_pool2d_backward",
        (g11 := Normal((2, 2, 1, 1), components(2)), x),
        name="global",
        forward=lambda t: F.adaptive_avg_pool2d(t, 1),
        wrt=(x,),
        cotangent=g11,
        linear=True,
    ),
    Case(
        "aten._adaptive_avg_pool3d_backward",
        (g222, volume),
        forward=lambda t: F.adaptive_avg_pool3d(t, 2),
        wrt=(volume,),
        cotangent=g222,
        linear=True,
    ),
]

MAXIMA = [
    Case("aten.max_pool2d_with_indices", (plain, [2, 2], [2, 2]), outputs=(0,)),
    Case("aten.max_pool2d_with_indices", (plain, [3, 3], [2, 2], [1, 1]), name="overlapping", outputs=(0,)),
    Case("aten.max_pool2d_with_indices", (covary, [3, 3], [2, 2], [1, 1]), name="positions covary", outputs=(0,)),
    Case("aten.max_pool2d_with_indices", (plain.then("relu"), [3, 3], [2, 2], [1, 1]), name="relu", outputs=(0,)),
    Case("aten.max_pool2d_with_indices", (plain.then("relu"), [2, 2], [1, 1], [0, 0], [2, 2]), name="dilated", outputs=(0,)),
    Case("aten.max_pool2d_with_indices", (joined, [2, 2], [2, 2]), name="concatenation", outputs=(0,)),
    Case("aten.max_pool2d", (small, [2, 2], [1, 1]), run=lambda t: F.max_pool2d(t, 2, 1)),
    Case("aten.max_pool1d", (line, [3], [2], [1])),
    Case("aten.max_pool1d", (line, [3], [3], [0], [1], True), name="ceil mode"),
    Case("aten.max_pool3d", (volume, [2, 2, 2], [2, 1, 1]), run=lambda t: F.max_pool3d(t, 2, (2, 1, 1))),
    Case("aten.max_pool1d_with_indices", (line, [3], [2], [1]), outputs=(0,), run=lambda t: F.max_pool1d(t, 3, 2, 1)),
    Case("aten.max_pool3d_with_indices", (volume, [2, 2, 2], [2, 1, 1]), outputs=(0,)),
    Case("aten.adaptive_max_pool1d", (line, [3]), outputs=(0,)),
    Case("aten.adaptive_max_pool2d", (plain, [2, 2]), outputs=(0,)),
    Case("aten.adaptive_max_pool3d", (volume, [2, 2, 2]), outputs=(0,), run=lambda t: F.adaptive_max_pool3d(t, 2)),
]


def whole(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """All draws in one batch."""
    return lambda t: fn(t.flatten(0, 1)).unflatten(0, t.shape[:2])


def cotangent(*shape: int) -> Normal:
    """With a mean, which makes products of chosen entries less noisy."""
    return Normal(shape, components(len(shape), (0.2, 0.1, 0.2)), mean=0.8)


m22, m32, m33, m222 = cotangent(1, 2, 2, 2), cotangent(1, 2, 3, 2), cotangent(1, 2, 3, 3), cotangent(1, 2, 2, 2, 2)
single = Normal((1, 2, 5, 4), {(0, 1, 2, 3): 1.0, (0, 1): 0.3, (): 0.1}, mean=0.2)
block = Normal((1, 2, 4, 3, 3), {(0, 1, 2, 3, 4): 1.0, (): 0.2})

MAXIMA_BACKWARD = [
    Case(
        "aten.max_pool2d_with_indices_backward",
        (m22, single, [2, 2], [2, 2], [0, 0], [1, 1], False, None),
        batched=True,
        forward=whole(lambda t: F.max_pool2d(t, 2, 2)),
        wrt=(single,),
        cotangent=m22,
    ),
    Case(
        "aten.max_pool2d_with_indices_backward",
        (m32, single, [3, 3], [2, 2], [1, 1], [1, 1], False, None),
        name="overlapping",
        batched=True,
        forward=whole(lambda t: F.max_pool2d(t, 3, 2, 1)),
        wrt=(single,),
        cotangent=m32,
    ),
    Case(
        "aten.max_pool2d_with_indices_backward",
        (gs := cotangent(1, 2, 3, 3), small, [2, 2], [1, 1], [0, 0], [1, 1], False, None),
        name="stride one",
        batched=True,
        forward=whole(lambda t: F.max_pool2d(t, 2, 1)),
        wrt=(small,),
        cotangent=gs,
    ),
    Case(
        "aten.max_pool3d_with_indices_backward",
        (m222, block, [2, 2, 2], [2, 1, 1], [0, 0, 0], [1, 1, 1], False, None),
        batched=True,
        forward=whole(lambda t: F.max_pool3d(t, 2, (2, 1, 1))),
        wrt=(block,),
        cotangent=m222,
    ),
    Case(
        "aten.adaptive_max_pool2d_backward",
        (m33, single, None),
        batched=True,
        forward=whole(lambda t: F.adaptive_max_pool2d(t, 3)),
        wrt=(single,),
        cotangent=m33,
    ),
    Case(
        "aten.adaptive_max_pool3d_backward",
        (m222, block, None),
        batched=True,
        forward=whole(lambda t: F.adaptive_max_pool3d(t, 2)),
        wrt=(block,),
        cotangent=m222,
    ),
]

CASES = [*MEANS, *BACKWARD, *MAXIMA, *MAXIMA_BACKWARD]
