"""Interpolation, padding by reflection or replication, cumulative sums: exact, as the maps are linear."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rules.harness import Case, Normal, components

line = Normal((2, 2, 5), components(3), mean=0.4)
plane = Normal((2, 1, 3, 4), components(4), mean=0.4)
border = Normal((1, 2, 5, 5), components(4), profile={2: ((1, 2, 2, 2, 1), (0.5, 0, 0, 0, 0.5))})
volume = Normal((1, 1, 2, 3, 2), components(5))


def up(name: str, x: Normal, *rest: object, label: str = "") -> Case:
    return Case(f"aten.{name}", (x, *rest), name=label, linear=True)


def back(name: str, g: Normal, size: list[int], shape: tuple[int, ...], *rest: object, label: str = "") -> Case:
    """The adjoint, from the op itself: it is linear in the cotangent."""
    return Case(f"aten.{name}_backward", (g, size, list(shape), *rest), name=label, linear=True)


def g(*shape: int) -> Normal:
    return Normal(shape, components(len(shape)), mean=0.2)


RESAMPLED = [
    up("upsample_nearest1d", line, [10]),
    up("upsample_nearest1d", line, [7], label="uneven"),
    up("upsample_nearest2d", plane, [6, 8]),
    up("upsample_nearest2d", border, [5, 8], 1.0, 1.6, label="kinds, scales"),
    up("upsample_nearest3d", volume, [4, 3, 3]),
    up("_upsample_nearest_exact1d", line, [3]),
    up("_upsample_nearest_exact2d", plane, [5, 3]),
    up("_upsample_nearest_exact3d", volume, [4, 3, 3]),
    up("upsample_linear1d", line, [8], False),
    up("upsample_bilinear2d", plane, [6, 8], False),
    up("upsample_bilinear2d", plane, [5, 7], True, label="align corners"),
    up("upsample_bilinear2d", border, [3, 4], False, 0.6, 0.8, label="kinds, scales"),
    up("upsample_trilinear3d", volume, [3, 3, 4], False),
    up("upsample_bicubic2d", plane, [5, 6], False),
    up("upsample_bicubic2d", plane, [5, 6], True, label="align corners"),
    up("_upsample_bilinear2d_aa", border, [3, 2], False),
    up("_upsample_bicubic2d_aa", border, [3, 7], False),
    back("upsample_nearest1d", g(2, 2, 10), [10], (2, 2, 5)),
    back("upsample_nearest2d", g(1, 2, 4, 6), [4, 6], (1, 2, 2, 3)),
    back("upsample_nearest2d", g(1, 2, 5, 4), [5, 4], (1, 2, 3, 3), label="uneven"),
    back("upsample_nearest3d", g(1, 1, 4, 2, 3), [4, 2, 3], (1, 1, 2, 2, 2)),
    back("_upsample_nearest_exact1d", g(2, 2, 3), [3], (2, 2, 5)),
    back("_upsample_nearest_exact2d", g(1, 1, 5, 3), [5, 3], (1, 1, 3, 4)),
    back("_upsample_nearest_exact3d", g(1, 1, 4, 2, 3), [4, 2, 3], (1, 1, 2, 2, 2)),
    back("upsample_linear1d", g(2, 2, 8), [8], (2, 2, 5), False),
    back("upsample_bilinear2d", g(1, 2, 6, 4), [6, 4], (1, 2, 3, 3), False),
    back("upsample_bilinear2d", g(1, 1, 5, 6), [5, 6], (1, 1, 3, 4), True, label="align corners"),
    back("upsample_trilinear3d", g(1, 1, 4, 2, 3), [4, 2, 3], (1, 1, 2, 2, 2), False),
    back("upsample_bicubic2d", g(1, 1, 5, 6), [5, 6], (1, 1, 3, 4), False),
    back("_upsample_bilinear2d_aa", g(1, 2, 3, 2), [3, 2], (1, 2, 5, 5), False),
    back("_upsample_bicubic2d_aa", g(1, 1, 3, 7), [3, 7], (1, 1, 5, 5), False),
]


def padded(kind: str, n: int, x: Normal, padding: list[int]) -> list[Case]:
    made = F.pad(torch.zeros(x.shape), padding, mode={"reflection": "reflect", "replication": "replicate"}[kind])
    cotangent = g(*made.shape)
    return [
        Case(f"aten.{kind}_pad{n}d", (x, padding), linear=True),
        Case(f"aten.{kind}_pad{n}d_backward", (cotangent, Normal(x.shape), padding), run=_adjoint(kind, n, x.shape, padding), linear=True),
    ]


def _adjoint(kind: str, n: int, shape: tuple[int, ...], padding: list[int]) -> object:
    fn = getattr(torch.ops.aten, f"{kind}_pad{n}d_backward").default
    return lambda cotangent, _x: fn(cotangent, torch.zeros(shape, dtype=cotangent.dtype), padding)


PADDED = [
    *padded("reflection", 1, line, [2, 1]),
    *padded("reflection", 2, plane, [1, 2, 2, 0]),
    *padded("reflection", 3, volume, [1, 0, 1, 2, 0, 1]),
    *padded("replication", 1, line, [2, 1]),
    *padded("replication", 2, border, [1, 2, 2, 0]),
    *padded("replication", 3, volume, [1, 0, 1, 2, 0, 1]),
]

SUMS = [
    Case("aten.cumsum", (line, 2), linear=True),
    Case("aten.cumsum", (Normal((2, 9), components(2), mean=0.3), -1), name="groups", linear=True),
    Case("aten.cumsum", (border, 2), name="kinds", linear=True),
]

CASES = [*RESAMPLED, *PADDED, *SUMS]
