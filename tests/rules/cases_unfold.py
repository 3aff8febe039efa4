"""Sliding windows and the sums that undo them: exact, as the maps are linear."""

from __future__ import annotations

from rules.harness import Case, Normal, components

line = Normal((2, 7, 2), components(3), mean=0.4)
plane = Normal((2, 2, 4, 3), components(4), mean=0.4)
border = Normal((2, 6), components(2), profile={1: ((1, 2, 2, 2, 2, 1), (0.5, 0, 0, 0, 0, 0.5))})


def g(*shape: int) -> Normal:
    return Normal(shape, components(len(shape)), mean=0.2)


CASES = [
    Case("aten.unfold", (line, 1, 3, 2), linear=True),
    Case("aten.unfold", (Normal((2, 6, 2), components(3)), 1, 3, 3), name="no overlap", linear=True),
    Case("aten.unfold", (border, 1, 3, 1), name="kinds", linear=True),
    Case("aten.unfold_backward", (g(2, 3, 2, 3), [2, 7, 2], 1, 3, 2), linear=True),
    Case("aten.unfold_backward", (g(2, 4, 3), [2, 6], 1, 3, 1), name="dense", linear=True),
    Case("aten.im2col", (plane, [2, 3], [1, 1], [1, 1], [2, 1]), linear=True),
    Case("aten.im2col", (plane, [2, 2], [2, 1], [0, 0], [1, 1]), name="dilated", linear=True),
    Case("aten.col2im", (g(2, 8, 6), [4, 3], [2, 2], [1, 1], [0, 0], [1, 1]), linear=True),
    Case("aten.col2im", (g(1, 6, 9), [4, 3], [2, 3], [1, 1], [1, 1], [2, 1]), name="padded", linear=True),
]
