# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Mixtures of experts: the largest k scores of a token, rows in the order of their experts, products with each row's own expert.

Two (token, place) rows use one expert with the probability that `topk` finds for them, more than 1/n where their tokens are alike. Which
expert that is, is independent of the experts' weights: the router has weights of its own. Sorting rows by expert numbers them anew; nothing
that is claimed of a row or of a pair of rows depends on their numbers, so that rows keep the place of their token (the permutation counts as the identity).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from initio.core.algebra import contract, same_axes
from initio.core.axes import Array, Axis, axis
from initio.core.moments import Moments, Unknown, fresh_source, pair_values, worst
from initio.core.ranks import Ranked, Scoring, softmax_score
from initio.core.scalar import Scalar, affine
from initio.rules.indexing import lookup
from initio.rules.softmax import varying
from initio.rules.table import Result, context, rule

__all__ = ["shares_of"]


@lru_cache(maxsize=64)
def _scoring(fn: Scalar) -> Scoring:
    """A function of single scores."""
    return lambda z: np.asarray(fn(z), dtype=float)


def _ranked(x: Moments, d: int, k: int) -> Ranked | None:
    """The logits behind the rows of x along d: those of its softmax, or the normal field of which it is an increasing function."""
    i = x.span(d)[0]
    a = x.axes[i]
    others = [b for j, b in enumerate(x.axes) if j != i]
    if a.K > 1:
        return None
    cov = x.extra.get("logits")
    if cov is not None and cov.shape == tuple(b.P for b in others):
        score: Scoring | None = softmax_score
    elif len(x.law) == 1 and "softmax" not in x.extra:
        f = x.law[0]
        cov = varying(replace(x, gram=f.field.gram), i)
        mean = float((x.weights * f.field.mean).sum())
        common = float(x.weights.ravel() @ f.field.gram[tuple(b.diagonal for b in x.axes)].ravel()) - mean**2 - _own(cov, others)
        plain = f.fn.linear is not None and f.fn.linear[0] > 0
        if not (plain or f.fn.increasing) or np.ptp(f.field.mean) > 0 or common > 0.01 * _own(cov, others):
            return None
        score = _scoring(f.fn if mean == 0.0 else affine(1.0, mean).then(f.fn))
    else:
        return None
    own = cov[tuple(b.diagonal for b in others)]
    first, second = pair_values(others, own)
    rho = np.divide(cov, np.sqrt(first * second), out=np.zeros_like(cov), where=first * second > 0)
    rho[tuple(b.diagonal for b in others)] = np.nan
    return Ranked(a.size, k, float(f"{_own(cov, others):.4g}"), rho, score)


def _own(cov: Array, others: list[Axis]) -> float:
    return float(np.asarray(cov[tuple(b.diagonal for b in others)]).mean())


def _values(ranked: Ranked, like: Moments, d: int, shares: bool) -> Moments:
    """The values at the k places: one kind of place, averaged over them."""
    i = like.span(d)[0]
    gram = np.moveaxis(ranked.per_class(lambda s: (s.different, s.same), shares), -1, i)
    mean = ranked.mean(shares)
    axes = [*like.axes[:i], axis(ranked.k), *like.axes[i + 1 :]]
    bit = fresh_source()
    return Moments.gaussian(axes, like.dims, np.full([a.K for a in axes], mean), gram, like.sources | bit, claim=worst(like.claim, "rule"))


@rule("aten.topk")
def topk(x: Moments, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Result:  # noqa: A002
    """The k largest entries along a dimension and their ids, for exchangeable entries: see `initio.core.ranks`."""
    d = dim % len(x.dims)
    extra = x.extra
    x = replace(x.with_axis(d), extra=extra)
    ranked = _ranked(x, d, k)
    if ranked is None or not largest:
        unknown = Unknown("the largest entries among several kinds, or of a law that is not known")
        return unknown, unknown
    values = _values(ranked, x, d, False)
    equal = np.moveaxis(ranked.per_class(lambda s: (s.equal_different, s.equal_same)), -1, x.span(d)[0])
    ids = Moments(
        values.axes,
        values.dims,
        np.full(values.mean.shape, 0.5 * (ranked.n - 1)),
        equal,
        (),
        fresh_source(),
        0,
        values.claim,
        {"high": ranked.n, "ranked": ranked},
    )
    if k == 1:
        return values.without_ones(), replace(ids.without_ones(), extra=ids.extra)
    return replace(values, extra={"ranked": ranked}), ids


def shares_of(x: Moments, total: Moments) -> Moments | None:
    """x / Σ x over the places of the k largest scores; None where x and total are anything else."""
    ranked = x.extra.get("ranked")
    if not isinstance(ranked, Ranked) or len(x.law) != 1 or len(total.law) != 1 or not x.dims or total.shape != (*x.shape[:-1], 1):
        return None
    lost = ((ranked.k, x.law[0].field.view.strides[-1]),)
    f = total.law[0]
    known = any(c.id == x.law[0].field.id and c.view.lost[:1] == lost for c in f.field.cross)
    return _values(ranked, x, len(x.dims) - 1, True) if known and f.fn.linear == (float(ranked.k), 0.0) else None


# -- order -------------------------------------------------------------------------------------------------------


@rule("aten.sort", "aten.argsort")
def sort(x: Moments, *_: Any, **__: Any) -> Result:
    """Ids in ascending order: the rows numbered anew. The permutation that does it counts as the identity, here and wherever it is undone."""
    if "high" not in x.extra or len(x.shape) != 1 or "known" in x.extra:
        return Unknown("the order of values that are not ids"), Unknown("the order of values that are not ids")
    order = Moments.known(np.arange(x.shape[0]))
    order = replace(order, extra={"nearly": np.arange(x.shape[0])}, sources=x.sources)
    return order if ".argsort" in context().node.op else (x, order)


@rule("aten.histc", "aten.bincount")
def counts(x: Moments, *_: Any, **__: Any) -> Result:
    """How often each id occurs: n/high on average; what follows needs only whose rows they count."""
    high = x.extra.get("high")
    (bins,) = context().shapes[0]
    if high is None or high != bins or len(x.shape) != 1:
        return Unknown("counts of values that are not ids")
    n = x.shape[0]
    pairs = float((x.gram * np.prod(np.array(np.meshgrid(*[a.pairs for a in x.axes], indexing="ij")), axis=0)).sum())
    same, mean = pairs / bins, n / bins
    gram = np.array([(float(n) * n - pairs) / max(bins * (bins - 1), 1), same])
    made = Moments.gaussian([axis(bins)], [1], np.array([mean]), gram, x.sources, claim=worst(x.claim, "rule"))
    return replace(made, extra={"counted": x})


# -- products ----------------------------------------------------------------------------------------------------


@rule("aten._grouped_mm")
def grouped_mm(x: Moments, y: Moments, offsets: Moments | None = None, bias: Moments | None = None, *_: Any, **__: Any) -> Result:
    """Each row times the matrix of its own group, or (two matrices) Σ over the rows of each group of x_s y_s."""
    ids = None if offsets is None else offsets.extra.get("counted")
    if ids is None or bias is not None:
        return Unknown("a grouped product whose groups are not known")
    if len(x.dims) == 2 and len(y.dims) == 3:
        own, x = lookup(y, ids), _by_agreement(x, 0, ids)[1]
        return own if isinstance(own, Unknown) else contract(x, own, "sk,skn->sn", dependent=True)
    if len(x.dims) == 2 and len(y.dims) == 2:
        return _by_group(x, y, ids, context().shapes[0][0])
    return Unknown("a grouped product of this form")


def _by_agreement(x: Moments, d: int, ids: Moments) -> tuple[Moments, Moments]:
    """x with the products of two rows (dimension d) of different groups, and of one group, where x was made in groups by the same ids; else x twice.

    Rows made by matrices of different groups are independent: gram = q s + (1 − q) m m′ for the probability q of one group, and what follows
    by group needs s (q is counted there). Such an x shows in the rows that never share a group (two places of a token): their product is m m′.
    """
    rows, ids = same_axes([x, ids], [d, 0])
    at = rows.span(d)
    q = ids.gram.reshape([1] * at.start + list(ids.gram.shape) + [1] * (len(rows.axes) - at.stop))
    u, v = rows.pair_means()
    never = np.broadcast_to(q < 1e-9, rows.gram.shape)
    if not never.any() or np.abs((rows.gram - u * v)[never]).max() > 1e-9 * np.abs(rows.gram).max():
        return x, x
    gram = np.divide(rows.gram - (1.0 - q) * u * v, q, out=u * v, where=~never)
    bare = replace(rows, law=(), extra={})
    return replace(bare, gram=u * v), replace(bare, gram=gram)


def _by_group(x: Moments, y: Moments, ids: Moments, groups: int) -> Moments | Unknown:
    """out[e] = Σ_{s in e} x_s y_s (x: m by s): pairs of rows count for one group with the probability that they share it."""
    y, ids = same_axes([y, ids], [0, 0])
    x, y = same_axes([x, y], [1, 0])
    y, ids = same_axes([y, ids], [0, 0])
    xs, ys = _by_agreement(x, 1, ids), _by_agreement(y, 0, ids)
    p = ids.gram.reshape(ids.gram.shape + (1,) * (y.gram.ndim - ids.gram.ndim))
    parts: list[Moments] = []
    for weight, one, other in zip((1.0 - p, p), xs, ys, strict=True):
        part = contract(
            replace(one, law=(), extra={}), replace(other, gram=other.gram * weight, law=(), extra={}), "ms,sn->mn", dependent=True
        )
        if isinstance(part, Unknown):
            return part
        parts.append(part)
    different, same = parts
    gram = np.stack([different.gram / max(groups * (groups - 1), 1), same.gram / groups])
    mean = np.expand_dims(same.mean, 0) / groups
    bit = fresh_source()
    return Moments.gaussian(
        [axis(groups), *same.axes],
        [1, *same.dims],
        mean,
        gram,
        bit,
        odd=bit if x.odd or y.odd else 0,
        claim=worst(x.claim, y.claim, ids.claim),
    ).without_ones()
