"""Indices, known and random: picking entries and adding them up."""

from __future__ import annotations

import numpy as np

from rules.harness import Case, Fixed, Integers, Normal, components

x = Normal((2, 5, 3), components(3), mean=0.3)
kinds = Normal((2, 5, 3), components(3), profile={1: ((1, 2, 2, 2, 1), (0.5, 0, 0, 0, 0.5))})
table = Normal((5, 3), components(2), mean=0.3)
known = Fixed(np.array([3, 0, 3, 1]))
square = Fixed(np.array([[3, 0], [1, 4]]))
ids = Integers((4,), 5)
source = Normal((4, 3), components(2), mean=0.2)


def zeros(*shape: int) -> Fixed:
    return Fixed(np.zeros(shape))


PICKS = [
    Case("aten.index_select", (kinds, 1, known), linear=True),
    Case("aten.index_select", (table, 0, ids), name="random"),
    Case("aten.index.Tensor", (kinds, [None, known]), linear=True, run=lambda t, i: t[:, i]),
    Case("aten.index.Tensor", (table, [ids]), name="random", run=lambda t, i: t[i]),
    Case(
        "aten.index.Tensor",
        (Normal((5, 4, 2), components(3)), [Fixed(np.array([0, 3, 3])), Fixed(np.array([1, 1, 2]))]),
        name="two",
        linear=True,
        run=lambda t, i, j: t[i, j],
    ),
    Case("aten._unsafe_index.Tensor", (table, [square]), linear=True, run=lambda t, i: t[i]),
    Case("aten.gather", (table, 0, Fixed(np.array([[0, 0, 0], [2, 2, 2]]))), linear=True),
    Case("aten.gather", (table, 0, Integers((2, 3), 5)), name="random"),
    Case("aten.embedding", (table, ids), name="random"),
    Case("aten.embedding", (table, square), name="known", linear=True),
]

SUMS = [
    Case("aten.index_put", (zeros(5, 3), [known], source, True), linear=True, run=lambda z, i, s: z.index_put((i,), s, True)),
    Case("aten._index_put_impl_", (zeros(5, 3), [known], source, True), linear=True, run=lambda z, i, s: z.index_put((i,), s, True)),
    Case("aten._unsafe_index_put", (zeros(5, 3), [ids], source, True), run=lambda z, i, s: z.index_put((i,), s, True)),
    Case("aten.index_add", (zeros(5, 3), 0, known, source), linear=True),
    Case("aten.index_add", (zeros(5, 3), 0, ids, source), name="random"),
    Case("aten.scatter_add", (zeros(5, 3), 0, Integers((4, 3), 5), source)),
    Case("aten.embedding_dense_backward", (source, ids, 5, -1, False)),
]

TESTS = [
    Case("aten.eq.Scalar", (Integers((3, 4), 5), 2), run=lambda t: (t == 2).double()),
    Case("aten.ne.Scalar", (Integers((3, 4), 5), 2), run=lambda t: (t != 2).double()),
]

CASES = [*PICKS, *SUMS, *TESTS]
