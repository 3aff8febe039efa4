# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""A table used as a matrix after it was used as an embedding: logits = h Eᵀ with h made of rows of E.

For the token's own row the product is coherent: E Σ_k h_k E[id, k] = Σ_k Cov(h_k, e_k) = μ for the embedding e = E[id] that h still
contains; the logits of all other rows are what independent weights would give. Averaged over a vocabulary of V rows this adds
μ/V to the mean, μ² P(equal ids)/V to the products on one row, and μ² P(unequal ids)/(V (V − 1)) to those on two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import contract
from initio.core.axes import Array
from initio.core.moments import Cross, Factor, Moments, Unknown, pair_values
from initio.rules.table import context

__all__ = ["key", "remember_embedding", "tied_product"]


def key(weight: Moments) -> int:
    """The key of `uses` under which the embeddings of a table are kept."""
    return -1 - weight.law[0].field.id


def remember_embedding(made: Moments, weight: Moments, ids: Moments) -> Moments:
    """Mark an embedding, so that what becomes of it is followed."""
    f = made.law[0]
    field = replace(f.field, view=replace(f.field.view, root=True))
    out = replace(made, law=(Factor(f.fn, field),))
    context().uses.setdefault(key(weight), []).append((field.id, ids))
    return out


def tied_product(h: Moments, table: Moments, spec: str, flip: bool) -> Moments | Unknown | None:
    """The contraction of h with a table that it was looked up in; None where that is not known. `flip`: the table is the first operand."""
    if np.any(table.mean):
        return None
    mine: list[tuple[Cross, Moments]] = []
    covariances = h.field_covariances()
    for identity, ids in context().uses.get(key(table), ()):
        mine += [(c, ids) for c in covariances if c.id == identity]
    if not mine:
        return None
    base = contract(table, h, spec, dependent=True) if flip else contract(h, table, spec, dependent=True)
    operands, out = spec.split("->")
    letters = operands.split(",")[1 if flip else 0]
    summed = [c for c in letters if c not in out]
    rows = [c for c in out if c not in letters]
    if isinstance(base, Unknown) or len(summed) != 1 or len(rows) != 1 or base.dims[out.index(rows[0])] != 1:
        return None
    contracted = list(h.span(letters.index(summed[0])))
    lead = [i for d, c in enumerate(letters) if c in out for i in h.span(d)]
    if [c for c in out if c != rows[0]] != [c for c in letters if c in out]:
        return None
    mean, gram = base.mean.copy(), base.gram.copy()
    at = base.span(out.index(rows[0]))[0]
    v = base.axes[at]
    total = float(v.size)
    for c, ids in mine:
        own = c.cov[tuple(a.diagonal for a in h.axes)]
        mu: Array = own
        for i in sorted(contracted, reverse=True):
            mu = np.tensordot(mu, h.axes[i].counts, axes=([i], [0]))
        equal = _equal_ids(ids, [h.axes[i] for i in lead])
        m1, m2 = pair_values([h.axes[i] for i in lead], mu)
        square = m1 * m2
        same, other = square * equal / total, square * (1.0 - equal) / max(total * (total - 1.0), 1.0)
        shape = [1] * gram.ndim
        shape[at] = v.P
        on_row = v.same.reshape(shape)
        gram = gram + np.where(on_row, np.expand_dims(same, at), np.expand_dims(other, at))
        mean = mean + np.expand_dims(mu, at) / total
    return Moments.gaussian(base.axes, base.dims, mean, gram, base.sources, claim=base.claim, own_row=(mine, contracted))


def _equal_ids(ids: Moments, axes: list[Any]) -> Array:
    """P(the ids of two positions are equal) on the given axes."""
    if [a.size for a in ids.axes] == [a.size for a in axes]:
        for i, a in enumerate(axes):
            ids = ids.relabel(i, a)
        return ids.gram
    equal = np.full([a.P for a in axes], 1.0 / max(float(ids.extra.get("high", 2)), 1.0))
    equal[tuple(a.diagonal for a in axes)] = 1.0
    return equal
