"""Pooling."""

from __future__ import annotations

from rules.harness import Case, Normal, components

x = Normal((2, 2, 5, 4), components(4))
CASES = [
    Case("aten.avg_pool2d", (x, [2, 2], [2, 2])),
    Case("aten.avg_pool2d", (x, [3, 3], [2, 2], [1, 1]), name="padded"),
]
