"""Reductions: sums and means exactly, spreads, norms and extreme entries against draws."""

from __future__ import annotations

import torch

from rules.harness import Case, Normal, components

x = Normal((2, 4, 3), components(3), mean=0.4)
kinds = Normal((2, 5, 3), components(3), profile={1: ((1, 2, 2, 2, 1), (0.5, 0, 0, 0, 0.5))})
rows = Normal((2, 30), {(0, 1): 1.0, (0,): 0.2}, mean=0.3)
plain = Normal((2, 2, 6), {(0, 1, 2): 1.0, (0, 1): 0.3, (1,): 0.1}, mean=0.2)

SUMS = [
    Case("aten.mean.dim", (kinds, [1]), linear=True),
    Case("aten.mean.dim", (x, [0, 2], True), name="two, kept", linear=True),
    Case("aten.mean.default", (x,), name="all", linear=True),
    Case("aten.sum.dim_IntList", (kinds, [0, 1]), linear=True),
    Case("aten.sum_to_size", (x, [1, 3]), run=lambda t: t.sum((0, 1)).reshape(1, 3), linear=True),
    Case("aten._sum_to_size", (x, [4, 1]), run=lambda t: t.sum((0, 2)).reshape(4, 1), linear=True),
]

SPREADS = [
    Case("aten.var.correction", (rows, [1])),
    Case("aten.var.correction", (kinds, [1]), {"correction": 0, "keepdim": True}, name="kinds"),
    Case("aten.var_mean.correction", (rows, [1]), {"correction": 0}),
    Case("aten.std.correction", (rows, [1])),
    Case("aten.std_mean.correction", (rows, [1]), {"correction": 0}),
]

EXTREMES = [
    Case("aten.amax", (plain, [2])),
    Case("aten.amax", (plain.then("relu"), [-1], True), name="relu"),
    Case("aten.amin", (plain, [2])),
    Case("aten.amin", (plain.then("sigmoid"), [2]), name="sigmoid"),
    Case("aten.max.dim", (plain, 2), outputs=(0,)),
    Case("aten.min.dim", (plain, -1, True), outputs=(0,)),
    Case("aten.max.default", (Normal((3, 4), {(0, 1): 1.0, (): 0.2}),), name="all"),
]

NORMS = [
    Case("aten.linalg_vector_norm", (rows, 2, [1])),
    Case("aten.linalg_vector_norm", (rows, 1, [1], True), name="one"),
    Case("aten.norm.ScalarOpt_dim", (rows, 2, [1])),
    Case(
        "aten.logsumexp", (rows, [1]), run=lambda t: torch.logsumexp(t, 1), approximate=0.005, why="a sum of log-normals is not quite one"
    ),
]

CASES = [*SUMS, *SPREADS, *EXTREMES, *NORMS]
