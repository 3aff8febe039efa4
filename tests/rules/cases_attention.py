"""Indexing, embeddings, softmax and its backward."""

from __future__ import annotations

import numpy as np

from rules.harness import Case, Fixed, Integers, Normal, components

table = Normal((5, 3), components(2), mean=0.3)
grid = Normal((2, 4, 3), components(3), mean=0.2)
pairs = Fixed(np.array([[0, 1, 2, 0], [1, 2, 0, 1]]))
zeros = Fixed(np.zeros((2, 4, 3)))
rows = Fixed(np.zeros((5, 3)))
source = Normal((2, 3, 3), components(3))
logits = Normal((2, 3, 4), {(0, 1, 2): 0.6, (2,): 0.3, (0, 2): 0.1})

CASES = [
    Case("aten.embedding", (table, Integers((2, 3), 5))),
    Case("aten.embedding", (table, Fixed(np.array([3, 1, 1, 4]))), name="known"),
    Case("aten.embedding_dense_backward", (Normal((2, 3, 2), components(3)), Integers((2, 3), 4), 4, -1, False)),
    Case("aten.index_select", (grid, 1, Fixed(np.array([2, 0, 3])))),
    Case("aten.index.Tensor", (table, [Integers((2, 2), 5)])),
    Case("aten.index.Tensor", (grid, [Fixed(np.array([0, 1, 1])), Fixed(np.array([3, 0, 2]))]), name="pairs"),
    Case("aten.index_put", (zeros, [None, Fixed(np.array([0, 2, 3]))], source, True)),
    Case("aten.index_put", (zeros, [None, Fixed(np.array([2, 0, 2]))], source, True), name="accumulated"),
    Case("aten.index_add", (zeros, 1, Fixed(np.array([1, 1, 3])), source)),
    Case("aten.gather", (Normal((2, 3), components(2), mean=0.3), 1, pairs)),
    Case("aten.scatter_add", (Fixed(np.zeros((2, 3))), 1, pairs, Normal((2, 4), components(2)))),
    Case("aten.eq.Scalar", (Integers((2, 3), 5), 2), run=lambda x: (x == 2).double()),
    Case("aten.ne.Scalar", (Integers((2, 3), 5), 2), run=lambda x: (x != 2).double()),
    Case(
        "aten._softmax",
        (logits, -1, False),
        approximate=0.002,
        why="the correlation of rows of the same sample is that of log-normal weights",
    ),
]
