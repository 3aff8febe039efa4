# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Sums, products, averages, contractions and functions of `Moments`, with every dependence looked up, never assumed.

Operands are dependent unless their sources are disjoint or the covariance of their laws is known; where it is not,
the result is `Unknown`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from initio.core.axes import Array, Axis, refine
from initio.core.gaussian import expect, expect2
from initio.core.moments import Cross, Factor, Field, Moments, Unknown, View, along, fresh_source, pair_values, worst
from initio.core.pairs import product_moments, sum_factor
from initio.core.parts import expected, given, matched
from initio.core.scalar import IDENTITY, Scalar, affine

__all__ = [
    "Summed",
    "add",
    "apart",
    "apply",
    "average",
    "broadcast",
    "contract",
    "deterministic",
    "joint",
    "multiply",
    "not_negative",
    "pair_expectation",
    "relation",
    "same_axes",
    "scalar_value",
    "scale",
    "total",
]

NARROW = 0.2
"""Squared coefficient of variation below which a quantity averaged over an axis counts as its expectation."""
STEADY = 0.02
"""Squared coefficient of variation below which a factor leaves the law of a product what it is."""
FEW = 4
"""Most terms of a sum that are followed one by one."""
DEEP, MANY = 16, 28
"""Most fields that a term was made of, and most fields in all, whose covariance with a sum is kept."""
FRESH = 0.05
"""Squared correlation with each single term below which a sum counts as independent of its terms."""


# -- alignment ---------------------------------------------------------------------------------------------------


def broadcast(*xs: Moments) -> list[Moments]:
    """The same tensors on one shape and one list of axes."""
    shape = np.broadcast_shapes(*[x.shape for x in xs])
    out = [replace(x, dims=(0,) * (len(shape) - len(x.dims)) + x.dims) for x in xs]
    for d, size in enumerate(shape):
        if size == 1:
            continue
        mine = [k for k, x in enumerate(out) if x.shape[d] == size]
        for k, x in zip(mine, same_axes([out[k] for k in mine], [d] * len(mine)), strict=True):
            out[k] = x
        axes = [out[mine[0]].axes[i] for i in out[mine[0]].span(d)]
        for k in range(len(out)):
            if k not in mine:
                for new in reversed(axes):
                    out[k] = out[k].repeat_axis(d, new)
    return out


def same_axes(xs: Sequence[Moments], dims: Sequence[int]) -> list[Moments]:
    """Give dimension `dims[k]` of `xs[k]` (all of one size) the same axes: common refinement, joined where there is none."""
    out = list(xs)
    cuts: set[int] = set()
    for x, d in zip(out, dims, strict=True):
        inner = 1
        for i in reversed(x.span(d)):
            inner *= x.axes[i].size
            cuts.add(inner)
    chain = sorted(cuts)
    if all(b % a == 0 for a, b in itertools.pairwise(chain)):
        for k, d in enumerate(dims):
            x = out[k]
            i = x.span(d).stop - 1
            below = 1
            for cut in chain:
                if i < x.span(d).start:
                    break
                n = x.axes[i].size * below
                if cut < n:
                    x = x.split_axis(i, cut // below)  # axis i becomes (outer, inner): continue with the outer one
                below = cut
                if cut == n:
                    i -= 1
            out[k] = x
    else:
        out = [x.joined(d) for x, d in zip(out, dims, strict=True)]
    count = out[0].dims[dims[0]]
    for j in range(count):
        common = out[0].axes[out[0].span(dims[0])[j]]
        for x, d in zip(out, dims, strict=True):
            common = refine(common, x.axes[x.span(d)[j]])
        for k, d in enumerate(dims):
            out[k] = out[k].relabel(out[k].span(d)[j], common)
    return out


# -- dependence --------------------------------------------------------------------------------------------------


def relation(f: Field, g: Field, axes: Sequence[Axis]) -> Array | float | None:
    """Cov(f_i, g_j) by pair class: 0.0 where independent, None where it is not known. Both on the same axes."""
    if f.id == g.id:
        if f.view == g.view:
            u, v = pair_values(axes, f.mean)
            return f.gram - u * v
        u, v = pair_values(axes, f.mean)
        return _separate(f.gram - u * v, f.view, g.view, axes)
    if not f.sources & g.sources:
        return 0.0
    for one, other in ((f, g), (g, f)):
        known = sorted((c for c in one.cross if c.id == other.id), key=lambda c: c.view != other.view)
        for c in known:
            found = c.cov if c.view == other.view else _separate(c.cov, c.view, other.view, axes)
            if found is not None:
                return found if one is f or isinstance(found, (float, int)) else swap(axes, found)
    return None


def _separate(cov: Array, v: View, w: View, axes: Sequence[Axis]) -> Array | float | None:
    """Two slices of one array that do not overlap: their indices always differ on the axis that was cut (in blocks or interleaved)."""
    found = _apart_along(cov, v, w, axes)
    # between slices of other kinds of positions than these, nothing is known of the covariance, unless there is none inside them
    return None if (v.kinds or w.kinds) and not isinstance(found, (float, int)) else found


def _apart_along(cov: Array, v: View, w: View, axes: Sequence[Axis]) -> Array | float | None:
    shift = abs(v.offset - w.offset)
    if shift == 0:
        return None
    odd_ones = [i for i, (s, t) in enumerate(zip(v.strides, w.strides, strict=True)) if s != t]
    if odd_ones:  # two ranges of one axis, stepped through at different paces
        i = odd_ones[0]
        lower = v if v.offset < w.offset else w
        if len(odd_ones) > 1 or not v.strides[i] or not w.strides[i] or (axes[i].size - 1) * lower.strides[i] >= shift:
            return None
        return _different(cov, axes, i)
    inner = min((s for s in v.strides if s > 0), default=0)
    for i, (a, stride) in enumerate(zip(axes, v.strides, strict=True)):
        blocks = stride > 0 and shift % stride == 0 and shift // stride >= a.size
        interleaved = stride == inner > 0 and shift % stride != 0 and not any(d and shift % d == 0 for d in (*v.dropped, *w.dropped))
        if blocks or interleaved:
            return _different(cov, axes, i)
    return None


def _different(cov: Array, axes: Sequence[Axis], i: int) -> Array | float:
    """The same with the classes of equal indices on axis i given the values of different ones."""
    apart = np.take(cov, axes[i].apart, axis=i)
    return 0.0 if not np.abs(apart).max(initial=0.0) > 1e-12 * np.abs(cov).max(initial=0.0) else apart


def _disjoint(x: Moments, y: Moments) -> bool:
    """Whether all that x and y share are uncorrelated, separate blocks of the same fields (the parts of a packed projection)."""
    for f in x.with_law().law:
        for g in y.with_law().law:
            a, b = f.field, g.field
            if a.sources & b.sources and not apart(a, x.axes, b, y.axes):
                return False
    return True


def apart(a: Field, a_axes: Sequence[Axis], b: Field, b_axes: Sequence[Axis]) -> bool:
    """Whether two fields were made of separate uncorrelated blocks of a common one, and of nothing else in common."""
    found = False
    for id_a, view_a, cov_a in _origins(a, a_axes):
        for id_b, view_b, cov_b in _origins(b, b_axes):
            if id_a != id_b:
                continue
            if not _blocks_apart((view_a, cov_a, a_axes), (view_b, cov_b, b_axes)):
                return False
            found = True
    return found


def _origins(f: Field, axes: Sequence[Axis]) -> list[tuple[int, View, Array]]:
    u, v = pair_values(axes, f.mean)
    return [(f.id, f.view, f.gram - u * v), *((c.id, c.view, c.cov) for c in f.cross)]


def _blocks_apart(*blocks: tuple[View, Array, Sequence[Axis]]) -> bool:
    """Whether two blocks of inner axes lie beside each other within one step of the axes around them, each uncorrelated inside."""
    lower, upper = sorted(blocks, key=lambda b: b[0].offset)
    shift = upper[0].offset - lower[0].offset
    around = [s for s in lower[0].strides if s > shift and s in upper[0].strides]
    period = min(around, default=0)
    extents: list[int] = []
    for view, cov, axes in (lower, upper):
        inner = [i for i, s in enumerate(view.strides) if s > 0 and (s < period or not period)]
        if shift == 0 or not inner:
            return False
        extents.append(1 + sum((axes[i].size - 1) * view.strides[i] for i in inner))
        pick: list[Any] = [slice(0, a.off) if i in inner else slice(None) for i, a in enumerate(axes)]
        if np.abs(cov[tuple(pick)]).max(initial=0.0) > 1e-9 * np.abs(cov).max(initial=0.0):
            return False
    return extents[0] <= shift and (not period or shift + extents[1] <= period)


def swap(axes: Sequence[Axis], array: Array) -> Array:
    """The same array with first and second index exchanged."""
    return array[np.ix_(*[a.swap for a in axes])] if axes else array


def independent(x: Moments, y: Moments) -> bool:
    """Whether two tensors on the same axes are known to be independent."""
    if not x.sources & y.sources:
        return True
    if not x.law or not y.law:
        return False
    for f in x.law:
        for g in y.law:
            r = relation(f.field, g.field, x.axes)
            if r is None or not isinstance(r, (float, int)):
                return False
    return True


def joint(x: Moments, y: Moments, *, cotangents: bool = False) -> Array | None:
    """E[X_i Y_j] for every pair class (same axes); None where the dependence is not known. `cotangents`: both are linear in a cotangent of mean zero."""
    if not x.sources & y.sources:
        return pair_values(x.axes, x.mean)[0] * pair_values(y.axes, y.mean)[1]
    if x.odd & ~y.sources or y.odd & ~x.sources:
        return np.zeros([a.P for a in x.axes])
    x, y = x.with_law(), y.with_law()
    partner: dict[int, tuple[int, Array]] = {}
    for i, f in enumerate(x.law):
        for j, g in enumerate(y.law):
            r = relation(f.field, g.field, x.axes)
            if r is None and (_uncorrelated(x, g.field) or _uncorrelated(y, f.field) or (cotangents and _of_two_signs(x, i, y, j))):
                r = 0.0
            if r is None:
                return None
            if not isinstance(r, (float, int)):
                if i in partner or any(j == p[0] for p in partner.values()):
                    return None
                partner[i] = (j, r)
    out: Array = np.ones([a.P for a in x.axes])
    for i, f in enumerate(x.law):
        mf, vf = _mean_var(f.field, x.axes)
        if i in partner:
            j, cov = partner[i]
            g = y.law[j]
            mg, vg = _mean_var(g.field, y.axes)
            mu, _ = pair_values(x.axes, mf)
            su, _ = pair_values(x.axes, vf)
            _, mv = pair_values(y.axes, mg)
            _, sv = pair_values(y.axes, vg)
            same = f.field.id == g.field.id and f.field.view == g.field.view
            out = out * _scattered(f.fn, g.fn, mu, su, mv, sv, cov, f.field.scatter if same else None)
        else:
            out = out * pair_values(x.axes, np.asarray(expect(f.fn, mf, vf)))[0]
    taken = {p[0] for p in partner.values()}
    for j, g in enumerate(y.law):
        if j not in taken:
            mg, vg = _mean_var(g.field, y.axes)
            out = out * pair_values(y.axes, np.asarray(expect(g.fn, mg, vg)))[1]
    return out


def _of_two_signs(x: Moments, i: int, y: Moments, j: int) -> bool:
    """Whether of a factor of x and one of y just one is what carries the cotangent, G of G m₁ m₂ …: odd in its sign, where forward values are even."""
    of_x, of_y = _carrier(x), _carrier(y)
    return of_x is not None and of_y is not None and (i == of_x) != (j == of_y)


def _carrier(x: Moments) -> int | None:
    """The only factor of a law that is a Gaussian field of zero mean itself."""
    plain = [k for k, f in enumerate(x.law) if f.fn.linear is not None and f.fn.linear[1] == 0.0 and not np.any(f.field.mean)]
    return plain[0] if len(plain) == 1 else None


def _uncorrelated(x: Moments, g: Field) -> bool:
    """Whether x is one Gaussian field and odd in a source that the field g lacks: they are uncorrelated, so independent."""
    return len(x.law) == 1 and x.law[0].fn.linear is not None and bool(x.odd & ~g.sources)


def _mean_var(field: Field, axes: Sequence[Axis]) -> tuple[Array, Array]:
    second = field.gram[tuple(a.diagonal for a in axes)]
    return field.mean, np.maximum(second - field.mean**2, 0.0)


# -- elementwise -------------------------------------------------------------------------------------------------


def scalar_value(x: Moments) -> float | None:
    """The one value of all entries, if they are known to be equal and constant."""
    if x.sources or np.ptp(x.mean) != 0:
        return None
    value = float(x.mean.flat[0])
    return value if bool(np.all(np.abs(x.gram - value * value) <= 1e-14 * max(value * value, 1e-300))) else None


def scale(x: Moments, a: float, b: float = 0.0) -> Moments:
    """a X + b."""
    if a == 1.0 and b == 0.0:
        return x
    u, v = x.pair_means()
    mean = a * x.mean + b
    gram = a * a * x.gram + a * b * (u + v) + b * b
    extra = {k: v for k, v in x.extra.items() if k == "mask"}
    if x.terms and b == 0.0:
        extra["terms"] = tuple(scale(t, a) for t in x.terms)
    if "mixed" in x.extra:
        extra["mixed"] = x.extra["mixed"].times(a * a)
    if "summed" in x.extra and b == 0.0:
        extra["summed"] = x.extra["summed"].times(a)
    if not x.law:
        return replace(x, mean=mean, gram=gram, odd=x.odd if b == 0.0 else 0, extra=extra)
    if len(x.law) == 1:
        f = x.law[0]
        law = (Factor(f.fn.then(affine(a, b)), f.field),)
    elif b == 0.0:
        law = (Factor(x.law[0].fn.then(affine(a, 0.0)), x.law[0].field), *x.law[1:])
    else:
        return Moments.gaussian(x.axes, x.dims, mean, gram, x.sources, claim=x.claim, **extra)
    return Moments(x.axes, x.dims, mean, gram, law, x.sources, x.odd if b == 0.0 else 0, x.claim, extra)


def apply(x: Moments, fn: Scalar, claim: str = "rule") -> Moments:
    """f(X) entry by entry: E f(u) and E[f(u) f(v)] over the law of X."""
    if x.constant:
        value = scalar_value(x)
        if value is not None:
            return _filled(x, float(fn.fn(np.asarray(value))))
        if "known" in x.extra:
            return _like(Moments.known(np.asarray(fn.fn(np.asarray(x.extra["known"], dtype=float)))), x)
    if fn.linear is not None:
        return scale(x, *fn.linear)
    x = x.with_law()
    if len(x.law) != 1:
        gated = _past_gates(x, fn, claim)
        if gated is not None:
            return gated
        x = replace(x.opaque(), extra={})
    f = x.law[0]
    composed = f.fn.then(fn)
    m, s = _mean_var(f.field, x.axes)
    narrow = _narrow(composed, f.field, m, s, x.axes)
    mean, gram = narrow if narrow is not None else (np.asarray(expect(composed, m, s)), pair_expectation(composed, f.field, x.axes))
    if _beyond_its_range(f.fn, composed, m, s, gram[tuple(a.diagonal for a in x.axes)]):
        return apply(replace(x.opaque(), extra={}), fn, claim)
    return Moments(x.axes, x.dims, mean, gram, (Factor(composed, f.field),), x.sources, x.odd if fn.odd else 0, worst(x.claim, claim))


def _past_gates(x: Moments, fn: Scalar, claim: str) -> Moments | None:
    """f(g₁ g₂ … y) = g₁ g₂ … f(y) of factors g that are not negative and an f with f(c y) = c f(y) for c > 0; f(y) of g > 0 and f(c y) = f(y)."""
    constant = fn.pieces is not None and fn.kinks == (0.0,) and all(len(p) == 1 for p in fn.pieces)
    if not fn.homogeneous and not constant:
        return None
    signed = [k for k, f in enumerate(x.law) if not not_negative(f, x.axes, strictly=constant)]
    if len(signed) > 1:
        return None
    at = (signed or [0])[0]
    law = tuple(Factor(f.fn.then(fn), f.field) if k == at else f for k, f in enumerate(x.law) if k == at or not constant)
    mean: Array = np.ones([a.K for a in x.axes])
    gram: Array = np.ones([a.P for a in x.axes])
    for f in law:
        mean = mean * np.asarray(expect(f.fn, *_mean_var(f.field, x.axes)))
        gram = gram * pair_expectation(f.fn, f.field, x.axes)
    return Moments(x.axes, x.dims, mean, gram, law, x.sources, x.odd if fn.odd else 0, worst(x.claim, claim))


def not_negative(f: Factor, axes: Sequence[Axis], strictly: bool = False) -> bool:
    """Whether a factor of a law is nowhere below zero (nor zero) within seven deviations."""
    m, s = _mean_var(f.field, axes)
    values = f.fn(m[..., None] + np.sqrt(s)[..., None] * np.linspace(-7.0, 7.0, 57))
    return bool(np.all(values > 0.0 if strictly else values >= 0.0))


def _beyond_its_range(law: Scalar, composed: Scalar, m: Array, s: Array, second: Array) -> bool:
    """Whether E f² hangs on values that a polynomial law was never fitted to, beyond 4.5 deviations (an exponential of a quintic has no mean)."""
    if law.pieces is None or len(law.pieces) != 1 or len(law.pieces[0]) <= 2:
        return False
    z = np.linspace(-4.5, 4.5, 361)
    with np.errstate(all="ignore"):
        inside = composed(m[..., None] + np.sqrt(s)[..., None] * z) ** 2 @ np.exp(-0.5 * z * z) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    return not bool(np.all(np.abs(second - inside) <= 0.1 * inside))


def _narrow(f: Scalar, field: Field, m: Array, s: Array, axes: Sequence[Axis]) -> tuple[Array, Array] | None:
    """E f(u) and E[f(u) f(v)] by a Hermite expansion about the mean, for averages: u stays on one side of 0, where f may be singular."""
    if not np.all(s > 0) or not np.all(s <= 0.3 * m * m):
        return None
    ratio = float(np.sqrt((s / (m * m)).max()))
    singular = not bool(np.all(np.isfinite(f(np.stack([np.zeros_like(m), -0.1 * m]))))) and bool(np.all(np.isfinite(f(m))))
    count = next((n for n, reach in ((16, 6.63), (8, 4.15), (5, 2.86), (3, 1.74)) if reach * ratio < 0.95), 0)
    h = np.sqrt(s)
    if count == 0 or (count < 16 and not singular) or any(np.any(np.abs(k - m) < 7 * h) for k in f.kinks if k != 0.0 or not singular):
        return None
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    values = f(m[..., None] + h[..., None] * nodes) * (weights / weights.sum())
    order = min(count - 1, 7)
    coefficients = values @ np.polynomial.hermite_e.hermevander(nodes, order)
    if not singular and np.any(np.abs(coefficients[..., -1]) > 1e-6 * np.abs(coefficients).max(axis=-1)):
        return None
    mu, mv = pair_values(axes, m)
    su, sv = pair_values(axes, h)
    rho = np.clip((field.gram - mu * mv) / (su * sv), -1.0, 1.0)
    gram, factor = np.zeros_like(rho), 1.0
    for k in range(order + 1):
        a, b = pair_values(axes, coefficients[..., k])
        gram = gram + a * b * rho**k / factor
        factor *= k + 1
    return coefficients[..., 0], gram


def pair_expectation(fn: Scalar, field: Field, axes: Sequence[Axis]) -> Array:
    """E[f(u_i) f(u_j)] by pair class of a field."""
    m, s = _mean_var(field, axes)
    mu, mv = pair_values(axes, m)
    su, sv = pair_values(axes, s)
    cov = field.gram - mu * mv
    return _scattered(fn, fn, mu, su, mv, sv, cov, field.scatter)


def _scattered(f: Scalar, g: Scalar, mu: Array, su: Array, mv: Array, sv: Array, cov: Array, scatter: Array | None) -> Array:
    """E f(u) g(v) where the covariance scatters: over two equally likely values with that variance, right to second order."""
    if scatter is None:
        return np.asarray(expect2(f, g, mu, su, mv, sv, cov))
    step = np.minimum(np.sqrt(scatter), np.maximum(np.sqrt(su * sv) - np.abs(cov), 0.0))
    return np.asarray(0.5 * (expect2(f, g, mu, su, mv, sv, cov + step) + expect2(f, g, mu, su, mv, sv, cov - step)))


def _filled(x: Moments, value: float) -> Moments:
    return Moments.gaussian(
        x.axes, x.dims, np.full([a.K for a in x.axes], value), np.full([a.P for a in x.axes], value * value), 0, claim=x.claim
    )


def _like(made: Moments, x: Moments) -> Moments:
    return made.reshape(x.shape) if made.shape != x.shape else made


def deterministic(x: Moments) -> Moments | None:
    """The expectation of a quantity that hardly varies from draw to draw (an average over many entries), as a constant.

    For f(average) this is f(E average): the value that a ratio of the average to itself needs.
    """
    mean = x.mean
    if len(x.law) == 1:
        f = x.law[0]
        m, s = _mean_var(f.field, x.axes)
        if not np.all(s <= NARROW * m * m):
            return None
        mean = np.asarray(f.fn.fn(m), dtype=float)
    else:
        spread = x.second - x.mean**2
        if not np.all(spread <= NARROW * x.mean**2):
            return None
    u, v = pair_values(x.axes, mean)
    return Moments.gaussian(x.axes, x.dims, mean, u * v, 0, claim=worst(x.claim, "rule"))


def add(x: Moments, y: Moments, a: float = 1.0, b: float = 1.0, *, cotangents: bool = False) -> Moments | Unknown:
    """a X + b Y; `cotangents`: see `joint`."""
    value = scalar_value(y)
    if value is not None and _covers(x, y):
        return scale(x, a, b * value)
    value = scalar_value(x)
    if value is not None and _covers(y, x):
        return scale(y, b, a * value)
    for one, other, factor in ((x, y, a), (y, x, b)):
        if not np.any(other.gram) and _covers(one, other):  # a branch that is exactly zero leaves the law of the other as it is
            return replace(scale(one, factor), sources=x.sources | y.sources)
    x, y = broadcast(x, y)
    cross = joint(x, y, cotangents=cotangents)
    if cross is None:
        cross = _joint_of_terms(x, y)
    if cross is None:
        return Unknown("the terms of a sum depend on each other in a way that is not tracked")
    mean = a * x.mean + b * y.mean
    gram = a * a * x.gram + b * b * y.gram + a * b * (cross + swap(x.axes, cross))
    sources = x.sources | y.sources
    claim = worst(x.claim, y.claim)
    odd = x.odd & y.odd
    x, y = x.with_law(), y.with_law()
    if len(x.law) == 1 and len(y.law) == 1 and x.law[0].field.id == y.law[0].field.id and x.law[0].field.view == y.law[0].field.view:
        fn = x.law[0].fn.plus(y.law[0].fn, a, b)
        diag = tuple(axis.diagonal for axis in x.axes)
        if np.any(gram[diag] < 1e-2 * (a * a * x.gram + b * b * y.gram)[diag]):  # what is left of terms that cancel
            mean, gram = np.asarray(expect(fn, *_mean_var(x.law[0].field, x.axes))), pair_expectation(fn, x.law[0].field, x.axes)
        return Moments(x.axes, x.dims, mean, gram, (Factor(fn, x.law[0].field),), sources, x.odd & y.odd, claim)
    extra: dict[str, Any] = {}
    if len(x.law) > 1 or len(y.law) > 1 or x.terms or y.terms:
        terms = _few((*_terms(scale(x, a)), *_terms(scale(y, b))))
        if len(terms) <= FEW:
            extra["terms"] = terms
    crossed = _cross_of_sum(x, y, a, b)
    if not cotangents and _matters(x, y, a, b) and independent(x, y):
        factor = sum_factor(x, y, a, b, mean, gram, sources)
        if factor is not None:
            made = Moments(x.axes, x.dims, mean, gram, (factor,), sources, odd, claim, extra)
            slope, _ = pair_values(x.axes, made.slope())
            kept = tuple(Cross(c.id, c.view, c.cov / slope, given=given(c, x, y, a, b)) for c in crossed)
            return replace(made, law=(Factor(factor.fn, replace(factor.field, cross=kept)),))
    return Moments.gaussian(x.axes, x.dims, mean, gram, sources, odd=odd, claim=claim, cross=crossed, **extra)


def _matters(x: Moments, y: Moments, a: float, b: float) -> bool:
    """Whether a part that is not Gaussian has a noticeable share of the variance of a X + b Y."""
    parts = [(a * a * float((x.weights * (x.second - x.mean**2)).sum()), x), (b * b * float((y.weights * (y.second - y.mean**2)).sum()), y)]
    everything = sum(v for v, _ in parts)
    return any(v > 0.02 * everything and not _normal(z) for v, z in parts)


def _normal(x: Moments) -> bool:
    """Whether the law of x is that of one Gaussian field, times factors that hardly vary."""
    if len(x.law) == 1:
        return x.law[0].fn.linear is not None
    varying = 0
    for f in x.law:
        mean, variance = _mean_var(f.field, x.axes)
        first, second = np.asarray(expect(f.fn, mean, variance)), np.asarray(expect(f.fn.times(f.fn), mean, variance))
        if np.any(second - first**2 > STEADY * first**2):
            varying += 1
            if f.fn.linear is None:
                return False
    return varying <= 1


def _terms(x: Moments) -> tuple[Moments, ...]:
    return x.terms or (x,)


def _few(terms: tuple[Moments, ...]) -> tuple[Moments, ...]:
    """Of more than `FEW` terms: those that are Gaussian fields themselves as one, those with the same masks as one, then the smallest.

    G₁ m₁ + G₂ m₂ of different masks becomes G m of the larger one's: its second moments are kept, of the smaller one's dependence
    on what follows as much as the masks have in common (those of consecutive residual sums differ little).
    """
    found = list(terms)
    plain = [t for t in found if len(t.law) == 1 and t.law[0].fn.linear is not None]
    if len(found) > FEW and len(plain) > 1:
        merged: Moments | Unknown = plain[0]
        for t in plain[1:]:
            merged = add(merged, t) if isinstance(merged, Moments) else merged
        if isinstance(merged, Moments):
            found = [*(t for t in found if not any(t is p for p in plain)), replace(merged, extra={})]
    while len(found) > FEW:
        masked = sorted((t for t in found if _masks(t) is not None), key=lambda t: t.total_second)
        alike = [(s, t) for s, t in itertools.combinations(masked, 2) if _same_factors(_masks(s) or (), _masks(t) or ())]
        pair = alike[0] if alike else tuple(masked[:2])
        both = _together(*pair) if len(pair) == 2 else None
        if both is None:
            break
        found = [*(t for t in found if t is not pair[0] and t is not pair[1]), both]
    return tuple(found)


def _masks(t: Moments) -> tuple[Factor, ...] | None:
    """The other factors of a term G m₁ m₂ …, G a Gaussian field of zero mean."""
    carrier = _carrier(t)
    return None if carrier is None or len(t.law) == 1 else tuple(f for k, f in enumerate(t.law) if k != carrier)


def _same_factors(left: Sequence[Factor], right: Sequence[Factor]) -> bool:
    return len(left) == len(right) and all(
        f.fn is g.fn and f.field.id == g.field.id and f.field.view == g.field.view for f, g in zip(left, right, strict=True)
    )


def _together(smaller: Moments, larger: Moments) -> Moments | None:
    """The sum of two terms as G m, m the masks of the larger one."""
    both = add(replace(smaller, extra={}), replace(larger, extra={}))
    masks = _masks(larger)
    if isinstance(both, Unknown) or masks is None:
        return None
    mean: Array = np.ones([a.K for a in larger.axes])
    gram: Array = np.ones([a.P for a in larger.axes])
    for f in masks:
        mean = mean * np.asarray(expect(f.fn, *_mean_var(f.field, larger.axes)))
        gram = gram * pair_expectation(f.fn, f.field, larger.axes)
    made = conditioned(replace(both, extra={}), Moments(larger.axes, larger.dims, mean, gram, masks))
    return made if len(made.law) > 1 else None


def _joint_of_terms(x: Moments, y: Moments) -> Array | None:
    if not x.terms and not y.terms:
        return None
    total_: Array = np.zeros([a.P for a in x.axes])
    for s in _terms(x):
        for t in _terms(y):
            s2, t2 = broadcast(s, t)
            if s2.axes != x.axes:
                return None
            part = joint(s2, t2)
            if part is None:
                return None
            total_ = total_ + part
    return total_


def _covers(x: Moments, y: Moments) -> bool:
    """Whether adding y to x leaves the shape of x."""
    return np.broadcast_shapes(x.shape, y.shape) == x.shape


def _cross_of_sum(x: Moments, y: Moments, a: float, b: float) -> tuple[Cross, ...]:
    """Covariances of the sum with the fields that its terms were made of."""
    made: list[Cross] = []
    left, right = x.field_covariances(), y.field_covariances()
    for rank in range(max(len(left), len(right))):  # the terms themselves first, then what they were made of
        for mine, one, other, p, q in ((left, x, y, a, b), (right, y, x, b, a)):
            if rank >= len(mine) or (rank >= DEEP and not mine[rank].view.root):
                continue
            c = mine[rank]
            if c.view.strides[:1] == (0,) and not c.view.root and not c.view.lost and rank:  # a gain or a bias that every sample shares
                continue
            if any(c.id == m.id and c.view == m.view for m in made):
                continue
            other_cov = _cov_with(other, c, _field_of(one, c))
            if other_cov is None and rank == 0:
                other_cov = _cov_with_newer(other, one, c)
            if other_cov is not None:
                made.append(Cross(c.id, c.view, p * c.cov + q * other_cov))
    return (*made[:MANY], *(c for c in made[MANY:] if c.view.root))


def _field_of(x: Moments, c: Cross) -> int:
    for f in x.law:
        if f.field.id == c.id:
            return f.field.sources
    return x.sources


def _cov_with(y: Moments, c: Cross, sources: int) -> Array | float | None:
    """Cov(Y, field c) where it is known."""
    if not y.sources & sources:
        return 0.0
    for mine in y.field_covariances():
        if mine.id == c.id and mine.view == c.view:
            return mine.cov
    if any(f.field.sources & sources for f in y.law) and len(y.law) == 1:
        return None
    if len(y.law) > 1 and any(
        f.fn is IDENTITY and np.abs(f.field.mean).max(initial=0.0) == 0 and not f.field.sources & sources for f in y.law
    ):
        return 0.0  # odd in an independent zero-mean factor
    return None


def _cov_with_newer(y: Moments, x: Moments, c: Cross) -> Array | float | None:
    """Cov(Y, field c of X), Y = f(u), where it is the field of X that knows its covariance with u: E f′(u) of it (Stein 1981)."""
    own = next((f.field for f in x.law if f.field.id == c.id and f.field.view == c.view), None)
    if own is None or len(y.law) != 1:
        return None
    found = relation(y.law[0].field, own, y.axes)
    return found if found is None or isinstance(found, (float, int)) else pair_values(y.axes, y.slope())[0] * found


def odd_of_product(x: Moments, y: Moments) -> int:
    """Sources in which X Y is odd: those in which one factor is odd and on which the other does not depend."""
    return (x.odd & ~y.sources) | (y.odd & ~x.sources)


def multiply(x: Moments, y: Moments) -> Moments | Unknown:
    """X Y entry by entry (with broadcasting)."""
    for one, other in ((x, y), (y, x)):
        value = scalar_value(other)
        if value is not None and _covers(one, other):
            return scale(one, value)
    given = ((x, y), (y, x))
    x, y = broadcast(x, y)
    claim = worst(x.claim, y.claim)
    sources = x.sources | y.sources
    odd = odd_of_product(x, y)
    if independent(x, y):
        law = (*x.with_law().law, *y.with_law().law)
        mean, gram = x.mean * y.mean, x.gram * y.gram
        if len(law) > 4:
            return Moments.gaussian(x.axes, x.dims, mean, gram, sources, odd=odd, claim=claim)
        extra: dict[str, Any] = {}
        for one, other in ((x, y), (y, x)):
            if one.terms and not other.terms:
                parts = [multiply(t, other) for t in one.terms]
                if not any(isinstance(p, Unknown) for p in parts):
                    extra["terms"] = tuple(parts)
                break
        return Moments(x.axes, x.dims, mean, gram, law, sources, odd, claim, extra)
    x, y = x.with_law(), y.with_law()
    for one, other in ((x, y), (y, x)):
        if one.terms:
            return _distribute(one.terms, other)
    made = _dependent_product(x, y, sources, odd, worst(claim, "rule"))
    if made is not None:
        return made
    for one, other in given:
        whole = _under_the_sum(one, other)
        if whole is not None:
            return whole
    for one, other in ((x, y), (y, x)):
        sure = deterministic(other)
        if sure is not None:
            out = multiply(one, sure)
            return out if isinstance(out, Unknown) else replace(out, sources=sources, odd=odd)
    return Unknown("the factors of a product depend on each other in a way that is not tracked")


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """A tensor z = Lᵀ w of `of` = w: `gather` is Lᵀ and `spread` is L, which copies every entry to where it is gathered from."""

    of: Moments
    spread: Callable[[Moments], Moments]
    gather: Callable[[Moments], Moments]

    def times(self, a: float) -> Summed:
        """Of a z."""
        return replace(self, gather=lambda x: scale(self.gather(x), a))


def _under_the_sum(x: Moments, y: Moments) -> Moments | None:
    """x y for x = Lᵀ w: Lᵀ (w · L y), where the factors of w say how they depend on L y.

    The cotangent of what was broadcast over positions (a gate) or enlarged is such a sum, of w = G m with masks m of those positions: by
    itself a new Gaussian, of a scale that depends on what was broadcast. Exact where L copies entries; where it interpolates between
    them, with weights that add up to 1, the sums over all entries are.
    """
    s = x.extra.get("summed")
    if not isinstance(s, Summed) or not s.of.law or y.shape != x.shape:
        return None
    made = multiply(replace(s.of, extra={}), s.spread(replace(y, extra={})))
    return None if isinstance(made, Unknown) else s.gather(made)


def _distribute(terms: Sequence[Moments], y: Moments) -> Moments | Unknown:
    parts: list[Moments] = []
    for t in terms:
        part = multiply(t, y)
        if isinstance(part, Unknown):
            return part
        parts.append(part)
    out: Moments | Unknown = parts[0]
    for part in parts[1:]:
        if isinstance(out, Unknown):
            return out
        out = add(out, part)
    if isinstance(out, Unknown):
        return out
    return conditioned(out, y)


def conditioned(x: Moments, y: Moments) -> Moments:
    """Write X (which carries the factor y) as G · y with a zero-mean G of its own, so that y's law stays known."""
    x, y = broadcast(x, y)
    if not y.law or np.abs(x.mean).max(initial=0.0) > 1e-9 * np.sqrt(np.abs(x.gram).max(initial=0.0)):
        return x
    gram = np.divide(x.gram, y.gram, out=np.zeros_like(x.gram), where=np.abs(y.gram) > 1e-12 * np.abs(y.gram).max(initial=1e-300))
    g = Moments.gaussian(x.axes, x.dims, np.zeros_like(x.mean), gram, fresh_source()).law[0].field
    terms = {"terms": x.terms} if x.terms else {}
    return Moments(x.axes, x.dims, x.mean, x.gram, (Factor(IDENTITY, g), *y.law), x.sources | g.sources, x.odd | g.sources, x.claim, terms)


def _dependent_product(x: Moments, y: Moments, sources: int, odd: int, claim: str) -> Moments | None:
    """Product of factors of which some share a field, or one pair is jointly Gaussian.

    Of such a pair f(u) g(v), the law keeps E[f(u) | v] g(v).
    """
    law = list(x.law)
    pending: list[tuple[int, Factor, Array]] = []
    for g in y.law:
        for i, f in enumerate(law):
            if f.field.id == g.field.id and f.field.view == g.field.view:
                law[i] = Factor(f.fn.times(g.fn), f.field)
                break
            r = relation(f.field, g.field, x.axes)
            if r is None:
                return None
            if not isinstance(r, (float, int)) and np.any(r):
                pending.append((i, g, r))
                break
        else:
            law.append(g)
    if len(pending) > 1:
        return None
    mean: Array = np.ones([a.K for a in x.axes])
    gram: Array = np.ones([a.P for a in x.axes])
    for i, f in enumerate(law):
        if pending and pending[0][0] == i:
            m2, g2 = product_moments(f, pending[0][1], matched(f, pending[0][1], pending[0][2], x), x.axes)
        else:
            m, s = _mean_var(f.field, x.axes)
            m2, g2 = np.asarray(expect(f.fn, m, s)), pair_expectation(f.fn, f.field, x.axes)
        mean, gram = mean * m2, gram * g2
    if not pending:
        return Moments(x.axes, x.dims, mean, gram, tuple(law), sources, odd, claim)
    made = Moments.gaussian(x.axes, x.dims, mean, gram, sources, odd=odd, claim=claim)
    if len(y.law) != 1:
        return made
    i, g, cov = pending[0]
    shared = expected(law[i], g, cov, x)
    if shared is None:
        return conditioned(made, replace(y, extra={}))
    g = Factor(g.fn.times(shared), g.field)
    mean = np.asarray(expect(g.fn, *_mean_var(g.field, x.axes)))
    return conditioned(made, Moments(x.axes, x.dims, mean, pair_expectation(g.fn, g.field, x.axes), (g,), y.sources))


# -- sums over axes ----------------------------------------------------------------------------------------------


def average(x: Moments, dims: Sequence[int], keepdim: bool = False) -> Moments:
    """Mean over whole dimensions: the gram averaged over agreement on their axes."""
    dims = sorted(d % len(x.dims) for d in dims)
    drop = [i for d in dims for i in x.span(d)]
    mean, gram = x.mean, x.gram
    several = any(x.axes[i].K > 1 for i in drop)
    cross = [(c, c.cov, _by_kind(c.cov, x.axes, drop) if several else None) for c in x.field_covariances()]
    for i in reversed(drop):
        a = x.axes[i]
        p = a.pairs / a.pairs.sum()
        mean = _weighted(mean, a.counts / a.size, i)
        gram = _weighted(gram, p, i)
        cross = [(c, _weighted(cov, p, i), rows) for c, cov, rows in cross]
    size = float(np.abs(x.gram).max(initial=0.0))
    gram = np.where(np.abs(gram) <= 1e-13 * size, 0.0, gram)  # sums that vanish identically, but for rounding
    axes = [a for i, a in enumerate(x.axes) if i not in drop]
    counts = [0 if d in dims else c for d, c in enumerate(x.dims) if keepdim or d not in dims]
    sources = x.sources
    kept: list[Cross] = []
    for c, cov, rows in cross:
        lost = tuple((x.axes[i].size, c.view.strides[i]) for i in drop)
        kept.append(Cross(c.id, View(c.view.offset, tuple(s for i, s in enumerate(c.view.strides) if i not in drop), lost), cov, rows))
    made = Moments.gaussian(axes, counts, mean, gram, sources, odd=x.odd, claim=x.claim, cross=tuple(kept))
    made.extra["summed"] = Summed(x, lambda y: _with_dims(y, x, dims), lambda y: average(y, dims, keepdim))
    entry = (x.weights * (x.second - x.mean**2)).sum()
    out = float((made.weights * (made.second - made.mean**2)).sum())
    if sources and out <= FRESH * float(entry):
        f = made.law[0]
        bit = fresh_source()
        odd = bit if x.odd else 0
        made = replace(made, sources=bit, odd=odd, law=(Factor(IDENTITY, replace(f.field, sources=bit)),))
    return made


def _with_dims(y: Moments, x: Moments, dims: Sequence[int]) -> Moments:
    """y, of the shape of x averaged over `dims`, with dimensions of size 1 for those that went."""
    counts = list(y.dims)
    for d in dims if len(counts) < len(x.dims) else ():
        counts.insert(d, 0)
    return replace(y, dims=tuple(counts))


def _weighted(array: Array, weights: Array, i: int) -> Array:
    """Σ weights · array over dimension i."""
    shape = array.shape
    return np.matmul(weights, array.reshape(math.prod(shape[:i]), shape[i], math.prod(shape[i + 1 :]))).reshape(shape[:i] + shape[i + 1 :])


def _by_kind(cov: Array, axes: Sequence[Axis], drop: Sequence[int]) -> Array:
    """Cov(x_i, u_j) averaged over i on the axes `drop`, by the kind of j on them (leading dimensions)."""
    for i in drop:
        a = axes[i]
        matrix = np.zeros((a.K, a.P))
        matrix[a.second, np.arange(a.P)] = a.pairs / (a.counts[a.second] * a.size)
        cov = along(matrix, cov, i)
    return np.moveaxis(cov, list(drop), range(len(drop)))


def total(x: Moments, dims: Sequence[int], keepdim: bool = False) -> Moments:
    """Sum over whole dimensions."""
    n = 1
    for d in {d % len(x.dims) for d in dims}:
        n *= x.shape[d]
    return scale(average(x, dims, keepdim), float(n)) if n != 1 else average(x, dims, keepdim)


# -- contractions ------------------------------------------------------------------------------------------------


def contract(x: Moments, y: Moments, spec: str, *, dependent: bool = False) -> Moments | Unknown:
    """Σ over shared letters that are missing in the result, of independent operands: Σ_P count(P) gram_x[P] gram_y[P].

    `spec` is an einsum of two operands ("bik,bkj->bij"), one letter a dimension. With `dependent` the caller vouches
    that dependence is negligible (a cotangent against forward values, in the wide limit).
    """
    operands, out = spec.split("->")
    left, right = operands.split(",")
    if not dependent and x.sources & y.sources and not _disjoint(x, y):
        return Unknown("the operands of a contraction depend on each other")
    shared = [c for c in left if c in right]
    for c in shared:
        i, j = left.index(c), right.index(c)
        if x.shape[i] == y.shape[j] and x.shape[i] != 1:
            x, y = same_axes([x, y], [i, j])
        elif x.shape[i] != y.shape[j]:
            raise ValueError(f"sizes of {c} differ in {spec}: {x.shape} and {y.shape}")
    names: dict[str, list[int]] = {}
    next_id = 0
    ids: list[list[int]] = []
    axes_of: dict[int, Axis] = {}
    for z, letters in ((x, left), (y, right)):
        mine: list[int] = []
        for d, c in enumerate(letters):
            if c not in names:
                names[c] = list(range(next_id, next_id + z.dims[d]))
                next_id += z.dims[d]
                for n, i in zip(names[c], z.span(d), strict=True):
                    axes_of[n] = z.axes[i]
            mine += names[c]
        ids.append(mine)
    target = [n for c in out for n in names[c]]
    summed = [n for n in axes_of if n not in target]
    mean_x, gram_x = x.mean, x.gram
    weights_m: list[Any] = []
    weights_g: list[Any] = []
    for n in summed:
        weights_m += [axes_of[n].counts, [n]]
        weights_g += [axes_of[n].pairs, [n]]
    mean = _einsum(mean_x, ids[0], y.mean, ids[1], weights_m, target)
    gram = _einsum(gram_x, ids[0], y.gram, ids[1], weights_g, target)
    axes = [axes_of[n] for n in target]
    dims = [len(names[c]) for c in out]
    bit = fresh_source()
    odd = bit if odd_of_product(x, y) else 0
    return Moments.gaussian(axes, dims, mean, gram, bit, odd=odd, claim=worst(x.claim, y.claim))


def _einsum(x: Array, ix: list[int], y: Array, iy: list[int], weights: list[Any], target: list[int]) -> Array:
    for w, (n,) in zip(weights[::2], weights[1::2], strict=True):
        if n in ix:
            shape = [1] * x.ndim
            shape[ix.index(n)] = len(w)
            x = x * w.reshape(shape)
        else:
            shape = [1] * y.ndim
            shape[iy.index(n)] = len(w)
            y = y * w.reshape(shape)
    einsum: Any = np.einsum  # its stubs lack the form with lists of axes
    return np.asarray(einsum(x, ix, y, iy, target, optimize=x.size * y.size > 4096))
