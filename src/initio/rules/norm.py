# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Normalisation: centre over some axes, divide by the root mean square over them, and the projections of its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import add, average, broadcast, multiply, pair_expectation, relation, scalar_value, scale, total
from initio.core.axes import Array, Axis, merge_map
from initio.core.gaussian import expect
from initio.core.moments import Cross, Factor, Field, Moments, Unknown, along, fresh_source, pair_values, worst
from initio.core.overlap import marked, overlap_of
from initio.core.pairs import heavier, refitted
from initio.core.scalar import IDENTITY
from initio.core.spectrum import self_normalised
from initio.rules.scale_free import (
    divided_by_own_scale,
    excess,
    fan_in,
    fourths,
    freedom,
    orthogonal,
    own_scale,
    remember_tilt,
    without_radial,
)
from initio.rules.spread import spread_behind, spread_same
from initio.rules.structure import times
from initio.rules.table import Result, context, rule

__all__ = ["centred", "normalise", "normalise_backward"]


def _row_average(a: Axis) -> Array:
    """(P, P): every class replaced by the average over the second index, given the first."""
    return (a.first[:, None] == a.first) * a.pairs / (a.counts[a.first] * a.size)


def _averages(gram: Array, axes: Sequence[Axis], over: Sequence[int]) -> tuple[Array, Array, Array]:
    """E[x_i m_j], E[m_i x_j], E[m_i m_j] with m the mean over the axes `over`, as arrays over all classes."""
    first = gram
    for i in over:
        first = along(_row_average(axes[i]), first, i)
    second = first[np.ix_(*[a.swap for a in axes])] if axes else first
    both = gram
    for i in over:
        p = axes[i].pairs / axes[i].pairs.sum()
        both = np.repeat(np.expand_dims(np.tensordot(both, p, axes=([i], [0])), i), axes[i].P, axis=i)
    return first, second, np.asarray(both, dtype=float)


def normalise(x: Moments, over: Sequence[int], eps: float, centre: bool = True) -> tuple[Moments, Array]:
    """x̂ = (x − mean) / σ, σ = √(mean square + eps) over the axis positions `over`; and E[1/σ²]^(−1/2), which the backward pass divides by.

    The same statistics of the same array give the same x̂: of two norms of one tensor, as of parallel branches, one field.
    """
    key = (tuple((f.fn, f.field.id, f.field.view) for f in x.law), x.axes, tuple(over), eps, centre, x.gram.tobytes())
    known: Any = context().uses
    known = known.setdefault("normalised", {})
    if not x.law or key not in known:
        known[key] = _normalised(x, over, eps, centre)
    made, deviation = known[key]
    return replace(made, dims=x.dims), deviation


def _normalised(x: Moments, over: Sequence[int], eps: float, centre: bool) -> tuple[Moments, Array]:
    gram, mean = x.gram, x.mean
    if centre:
        first, second, both = _averages(gram, x.axes, over)
        gram = gram - first - second + both
        centre_of = mean
        for i in over:
            share = x.axes[i].counts / x.axes[i].size
            centre_of = np.repeat(np.expand_dims(np.tensordot(centre_of, share, axes=([i], [0])), i), x.axes[i].K, axis=i)
        mean = mean - centre_of
    square = gram[tuple(a.diagonal for a in x.axes)]
    for i in over:
        share = x.axes[i].counts / x.axes[i].size
        square = np.repeat(np.expand_dims(np.tensordot(square, share, axes=([i], [0])), i), x.axes[i].K, axis=i)
    deviation = np.sqrt(np.maximum(square, 0.0) + eps)
    u, v = pair_values(x.axes, deviation)
    normal, inverse = _finite(gram, x.axes, over, eps, gram / (u * v), deviation**-2.0)
    cross = tuple(
        Cross(c.id, c.view, centred(c.cov, x.axes, over if centre else ()) / u)
        for k, c in enumerate(x.field_covariances())
        if c.view.root or (k < NEAREST and len(x.law) == 1)
    )
    made = Moments.gaussian(x.axes, x.dims, mean / deviation, normal, x.sources, odd=x.odd, claim=worst(x.claim, "rule"), cross=cross)
    factor = refitted(x, made.mean, normal)
    if factor is None and len(x.law) == 1 and x.law[0].fn is IDENTITY:
        scatter = x.law[0].field.scatter
        scatter = None if scatter is None else scatter / (u * v) ** 2 * fourths(x)[1]  # the scale of a filter cancels
        factor = heavier(made, excess(x), scatter) if excess(x) > HEAVY else None
        if factor is None and scatter is not None:
            factor = Factor(IDENTITY, replace(made.law[0].field, scatter=scatter))
    return marked(made if factor is None else replace(made, law=(factor,)), *overlap_of(x)), inverse**-0.5


def centred(cov: Array, axes: Sequence[Axis], over: Sequence[int]) -> Array:
    """Cov(x_i − mean x, u_j)."""
    if not over:
        return cov
    swapped = np.ix_(*[a.swap for a in axes])
    first = cov[swapped]
    for i in over:
        first = along(_row_average(axes[i]), first, i)
    return cov - first[swapped]


def _finite(gram: Array, axes: Sequence[Axis], over: Sequence[int], eps: float, normal: Array, inverse: Array) -> tuple[Array, Array]:
    """E[y yᵀ / s] and E[1/s] where few independent entries make the mean square s; `normal` and `inverse` where s hardly varies."""
    others = [i for i in range(len(axes)) if i not in over]
    order = [*others, *over]
    moved, out, back = gram.transpose(order), normal.transpose(order).copy(), inverse.transpose(order).copy()
    inner = [axes[i] for i in over]
    for kinds in np.ndindex(*[axes[i].K for i in others]):
        at = tuple(axes[i].off + k for i, k in zip(others, kinds, strict=True))
        if effective_share(moved[at], inner, eps) < FEW:
            continue
        made, mean_inverse = _self_normalised(moved[at], out[at], inner, eps)
        if mean_inverse > 0:
            out[at], back[kinds] = made, mean_inverse
    restore = list(np.argsort(order))
    return out.transpose(restore), back.transpose(restore)


def _self_normalised(gram: Array, normal: Array, axes: Sequence[Axis], eps: float) -> tuple[Array, float]:
    """`self_normalised`; where neighbours are told from the rest, E[y yᵀ / s] relative to E[y yᵀ] / E s is that of all pairs together."""
    if not any(a.lags for a in axes):
        return self_normalised(gram, axes, eps)
    pick = np.ix_(*[np.where(a.same, a.K * a.K + a.first, a.apart) for a in axes])
    together = normal
    for i, a in enumerate(axes):
        matrix = merge_map(a, a.plain)[1]
        gram, together = along(matrix, gram, i), along(matrix, together, i)
    made, inverse = self_normalised(gram, [a.plain for a in axes], eps)
    return normal * np.divide(made, together, out=np.ones_like(made), where=together != 0)[pick], inverse


HEAVY = 0.02
"""Excess kurtosis above which a sum of few terms is not a normal."""
STEP = 1e-3
"""Relative change of a variance for a derivative."""
NEAREST = 8
"""Most fields that an array was made of whose covariance with its normalised values is kept."""
FEW = 0.002
"""Inverse number of independent entries from which on the scatter of their mean square is followed."""


def effective_share(gram: Array, axes: Sequence[Axis], eps: float) -> float:
    """tr C² / (tr C)²: the inverse number of independent entries, for one covariance over all of its axes."""
    squared, mean = gram**2, gram[tuple(a.diagonal for a in axes)]
    for a in reversed(axes):
        squared = squared @ (a.pairs / a.pairs.sum())
        mean = mean @ (a.counts / a.size)
    return float(squared / max(float(mean) + eps, 1e-300) ** 2)


def normalise_backward(
    grad: Moments,
    xhat: Moments,
    deviation: Array,
    over: Sequence[int],
    centre: bool = True,
    product: Moments | None = None,
    summed: Moments | None = None,
) -> Moments | Unknown:
    """dx = (g − mean g − x̂ mean(g x̂)) / σ: an orthogonal projection, so E[dx²] = E[g²] − E[(mean g)²] − E[(mean g x̂)²].

    `product` and `summed` are g x̂ and g as far as their sums are concerned, where these are known better.
    """
    t = multiply(grad, xhat) if product is None else product
    if isinstance(t, Unknown):
        return t
    gram = grad.gram if summed is None else summed.gram
    if centre:
        first, second, both = _averages(gram, grad.axes, over)
        gram = gram - first - second + both
    tf, _, tb = _averages(t.gram, t.axes, over)
    same = tuple(a.diagonal for a in grad.axes)
    out = gram + xhat.gram * tb
    count = 1.0
    for i in over:
        count *= grad.axes[i].size
    spread = 2.0 * tf / max(count - 1.0, 1.0)
    agree = np.ones([1] * len(grad.axes), dtype=bool)
    for i, a in enumerate(grad.axes):
        if i not in over:
            shape = [1] * len(grad.axes)
            shape[i] = a.P
            agree = agree & a.same.reshape(shape)
    out = out + np.where(agree, spread, 0.0)
    out[same] = gram[same] - 2.0 * tf[same] + xhat.gram[same] * tb[same]
    u, v = pair_values(grad.axes, deviation)
    bit = fresh_source()
    made = Moments.gaussian(
        grad.axes,
        grad.dims,
        np.zeros_like(grad.mean),
        out / (u * v),
        bit | grad.sources,
        odd=grad.odd & ~xhat.sources,
        claim=worst(grad.claim, xhat.claim, "rule"),
    )
    return _with_factors(made, grad, u, over if centre else (), bit)


def _with_factors(dx: Moments, grad: Moments, deviation: Array, over: Sequence[int], bit: int) -> Moments:
    """dx of g = G m (a zero-mean field and the masks that it passed) as G′ m, G′ = (G − mean G) / σ as far as covariances with G are concerned.

    What the projection takes away is spread over all entries, so that each of them still carries its own masks. This is kept as the
    only term of dx: what is known of its sums (`rules.scale_free`) belongs to a field of its own.
    """
    plain = [k for k, f in enumerate(grad.law) if f.fn.linear is not None and f.fn.linear[1] == 0.0 and not np.any(f.field.mean)]
    if len(plain) != 1 or np.any(grad.mean):
        return dx
    f = grad.law[plain[0]]
    a = f.fn.linear[0] if f.fn.linear is not None else 1.0
    base = a * a * f.field.gram
    some = np.abs(base) > 1e-9 * np.abs(base).max(initial=0.0)
    masks = np.divide(grad.gram, base, out=np.ones_like(base), where=some)
    gram = np.divide(dx.gram, masks, out=dx.gram.copy(), where=np.abs(masks) > 1e-9)
    known = [Cross(f.field.id, f.field.view, f.field.gram), *(c for c in f.field.cross[:3])]
    cross = tuple(Cross(c.id, c.view, a * centred(c.cov, grad.axes, over) / deviation) for c in known)
    own = replace(dx.law[0].field, cross=cross)
    dx = replace(dx, law=(Factor(IDENTITY, own),))
    if len(grad.law) == 1:
        return dx
    field = Moments.gaussian(dx.axes, dx.dims, dx.mean, gram, f.field.sources | bit, cross=cross).law
    masked = replace(dx, law=tuple(field[0] if k == plain[0] else g for k, g in enumerate(grad.law)))
    return replace(dx, extra={**dx.extra, "terms": (masked,)})


def _affine(y: Moments, w: Moments | None, b: Moments | None, dims: Sequence[int], rank: int) -> Moments | Unknown:
    """w y + b, w and b along the dimensions `dims`."""
    for which, p in (("w", w), ("b", b)):
        if p is None:
            continue
        shape = [0] * rank
        for d, count in zip(dims, p.dims, strict=True):
            shape[d] = count
        p = replace(p, dims=tuple(shape))
        made = multiply(y, p) if which == "w" else add(y, p)
        if isinstance(made, Unknown) and which == "w" and context().backward and not np.any(y.mean):
            # a random gain enters the masks of a cotangent through w x̂ alone, and x̂ is symmetric: given w they are as likely as before
            made = multiply(y, replace(p, sources=0, law=()))
        if isinstance(made, Unknown):
            return made
        y = made
    return y


# -- batch norm --------------------------------------------------------------------------------------------------


@rule(
    "aten.native_batch_norm",
    "aten._native_batch_norm_legit",
    "aten.cudnn_batch_norm",
    "aten._native_batch_norm_legit_functional",
    "aten.native_batch_norm.default",
    "aten._batch_norm_with_update",
    "aten.miopen_batch_norm",
    near=True,
)
def batch_norm(x: Moments, w: Moments | None, b: Moments | None, rm: Moments | None, rv: Moments | None, *rest: Any) -> Result:
    """Training: centre and scale each channel over samples and positions; evaluation: the affine map of the running statistics."""
    flags = [r for r in rest if isinstance(r, (bool, float, int))]
    training, eps = (bool(flags[0]), float(flags[-1])) if isinstance(flags[0], bool) else (True, float(flags[-1]))
    if context().node.op.startswith("aten._batch_norm_with_update"):
        training = True
    if not training:
        return _with_running(x, w, b, rm, rv, eps)
    over = [i for d in range(len(x.dims)) if d != 1 for i in x.span(d)]
    xhat, deviation = normalise(x, over, eps)
    fan = fan_in(x)
    through, kept, within = 1.0, 0.0, 0.0
    if np.isfinite(fan):
        fixed, through, kept, within = own_scale(_mean_share(xhat, over), freedom(x), min(xhat.total_second, 1.0), spread_behind(x))
        deviation = deviation * fixed**0.5
    spread_same(xhat, x)
    y = _affine(xhat, w, b, [1], len(x.dims))
    mean, inverse = _saved(x, xhat, deviation, over, [d for d in range(len(x.dims)) if d != 1], False)
    inverse.extra.update(fan=fan, through=through, kept=kept, within=within)
    return y, mean, inverse


def _mean_share(xhat: Moments, over: Sequence[int]) -> float:
    """The inverse number of independent entries of a channel, averaged over the kinds of channels."""
    others = [i for i in range(len(xhat.axes)) if i not in over]
    moved = xhat.gram.transpose([*others, *over])
    grams = [
        moved[tuple(xhat.axes[i].off + k for i, k in zip(others, kinds, strict=True))]
        for kinds in np.ndindex(*[xhat.axes[i].K for i in others])
    ]
    return float(np.mean([effective_share(g, [xhat.axes[i] for i in over], 0.0) for g in grams]))


def _with_running(x: Moments, w: Moments | None, b: Moments | None, rm: Moments | None, rv: Moments | None, eps: float) -> Result:
    if rm is None or rv is None:
        return Unknown("batch norm in evaluation mode without running statistics")
    variance = scalar_value(rv)
    centre = scalar_value(rm)
    if variance is None or centre is None:
        return Unknown("running statistics that differ from channel to channel")
    y = scale(x, (variance + eps) ** -0.5, -centre * (variance + eps) ** -0.5)
    return _affine(y, w, b, [1], len(x.dims)), None, None


def _saved(x: Moments, xhat: Moments, deviation: Array, over: Sequence[int], dims: Sequence[int], keepdim: bool) -> tuple[Moments, Moments]:
    """The saved mean and inverse deviation (averaged over `dims`), the latter carrying x̂ for the backward pass."""
    mean = average(x, dims, keepdim)
    inverse = replace(mean, law=(), sources=0, odd=0, extra={"normalised": xhat, "deviation": deviation, "over": tuple(over)})
    return mean, inverse


@rule("aten.native_batch_norm_backward", "aten.cudnn_batch_norm_backward", "aten.batch_norm_backward", near=True)
def batch_norm_backward(
    grad: Moments,
    x: Moments,
    w: Moments | None,
    rm: Moments | None,
    rv: Moments | None,
    mean: Moments | None,
    inverse: Moments | None,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> Result:
    """Cotangents of input, weight and bias.

    They are linear in the cotangent: of norms of one array that receive multiples of one cotangent, as parallel branches do, they are
    multiples of the same three arrays.
    """
    if not training:
        return _with_running_backward(grad, x, w, rm, rv, eps, mask)
    if inverse is None or "normalised" not in inverse.extra:
        return Unknown("the forward pass of this batch norm is not known"), None, None
    xhat: Moments = inverse.extra["normalised"]
    gain = 1.0 if w is None else scalar_value(w)
    line = grad.law[0].fn.linear if len(grad.law) == 1 and not grad.terms else None
    if gain is None or line is None or line[0] == 0.0 or line[1] != 0.0 or not xhat.law:
        return _cotangents(grad, x, w, inverse, eps, mask)
    f, g = xhat.law[0], grad.law[0].field
    key = (g.id, g.view, grad.axes, f.field.id, f.fn, gain)
    known: Any = context().uses
    known = known.setdefault("cotangents of norms", {})
    if key not in known:
        known[key] = _cotangents(replace(scale(grad, 1.0 / line[0]), law=(Factor(IDENTITY, g),)), x, w, inverse, eps, mask)
    return tuple(scale(made, line[0]) if isinstance(made, Moments) else made for made in known[key])


def _with_running_backward(
    grad: Moments, x: Moments, w: Moments | None, rm: Moments | None, rv: Moments | None, eps: float, mask: Sequence[bool]
) -> Result:
    rest = [d for d in range(len(grad.dims)) if d != 1]
    variance, centre = (None if rv is None else scalar_value(rv)), (None if rm is None else scalar_value(rm))
    if variance is None or centre is None:
        return Unknown("running statistics that differ from channel to channel"), None, None
    xhat = scale(x, (variance + eps) ** -0.5, -centre * (variance + eps) ** -0.5)
    g = _affine(grad, w, None, [1], len(grad.dims))
    dx = g if isinstance(g, Unknown) else scale(g, (variance + eps) ** -0.5)
    t = multiply(grad, xhat)
    dw = t if isinstance(t, Unknown) else total(t, rest)
    return dx if mask[0] else None, dw if mask[1] else None, total(grad, rest) if mask[2] else None


def _cotangents(
    grad: Moments, y: Moments, w: Moments | None, inverse: Moments, eps: float, mask: Sequence[bool]
) -> tuple[Moments | Unknown | None, ...]:
    rest = [d for d in range(len(grad.dims)) if d != 1]
    xhat: Moments = inverse.extra["normalised"]
    g = _affine(grad, w, None, [1], len(grad.dims))
    t, summed = without_radial(grad, xhat)
    t = times(grad, xhat) if isinstance(t, Unknown) else t
    gain = 1.0 if w is None else scalar_value(w)
    product = scale(t, gain) if gain is not None and isinstance(t, Moments) else None
    flat = scale(summed, gain) if gain is not None else None
    dx = g if isinstance(g, Unknown) else _project(g, inverse, product=product, summed=flat)
    if isinstance(dx, Moments):
        sums = 0.0 if isinstance(t, Unknown) else total(t, rest).total_second * (1.0 if w is None else w.total_second)
        kept = sums * inverse.extra["kept"]  # E (Σ y dx)², y = σ x̂
        divided_by_own_scale(dx, inverse.extra["fan"], inverse.extra["through"], kept, sums * inverse.extra["within"])
        orthogonal(dx, xhat, kept * float(np.mean(inverse.extra["deviation"] ** -2.0)))
        _note_tilt(dx, g, y, eps, inverse)
    return (
        dx if mask[0] else None,
        t if isinstance(t, Unknown) else _cancelled(total(t, rest)),
        _cancelled(total(summed, rest)) if mask[2] else None,
    )


def _note_tilt(dx: Moments, g: Moments | Unknown, y: Moments, eps: float, inverse: Moments) -> None:
    """Of g = Σ h φ(x̂), the parts E[φ′] h x̂: their covariances follow those of x̂ (Price 1958, at ρ = 0), less what the projection takes away.

    For single entries, ∂ E[g²] / ∂ Var x̂: the norm fixes the variance of x̂, but not how much of it comes from each of its terms.
    """
    xhat: Moments = inverse.extra["normalised"]
    if isinstance(g, Unknown) or len(xhat.law) != 1 or xhat.law[0].field.scatter is None:
        return
    g, xhat = broadcast(g, xhat)
    if g.axes != dx.axes:
        return
    own = xhat.law[0].field
    same = tuple(a.diagonal for a in g.axes)
    tilt, entries = np.zeros_like(g.gram), np.zeros_like(g.gram[same])
    for term in g.terms or (g,):
        if len(term.law) < 2 or term.axes != g.axes or np.any(term.mean):
            continue
        mine = [(f, share) for f in term.law for share in (_share(f.field, own, g),) if share]
        if len(mine) != 1:
            continue
        f, share = mine[0]
        u, v = pair_values(g.axes, share * Moments(g.axes, g.dims, f.field.mean, f.field.gram, (f,)).slope())
        both = pair_expectation(f.fn, f.field, g.axes)
        tilt = tilt + np.divide(term.gram * u * v, both, out=np.zeros_like(both), where=np.abs(both) > 1e-3 * np.abs(both).max())
        square, variance = f.fn.times(f.fn), np.maximum(f.field.gram[same] - f.field.mean**2, 0.0)
        up, down = (np.asarray(expect(square, f.field.mean, variance * (1.0 + t))) for t in (STEP, -STEP))
        rate = np.divide(up - down, STEP * (up + down) * variance, out=np.zeros_like(up), where=(up + down) * variance > 0)
        entries = entries + share**2 * term.second * rate
    first, second, both = _averages(tilt, g.axes, inverse.extra["over"])
    tilt = tilt - first - second + both
    tilt[same] = entries
    first, second, both = _averages(y.gram, y.axes, inverse.extra["over"])
    variance = float((y.weights * (y.gram - first - second + both)[tuple(a.diagonal for a in y.axes)]).sum()) + eps
    harmonic = float((inverse.extra["normalised"].weights * inverse.extra["deviation"] ** 2).sum())
    remember_tilt(dx, tilt / variance, xhat.gram, variance, harmonic / variance, fourths(y))


def _share(field: Field, own: Field, g: Moments) -> float:
    """∂ E[field | own] / ∂ own: 1 of the same field, Cov / Var of a sum with it, 0 where nothing is known."""
    if field.id == own.id and field.view == own.view:
        return 1.0
    cov = relation(field, own, g.axes) if field.sources & own.sources else 0.0
    if cov is None or isinstance(cov, (float, int)):
        return 0.0
    same = tuple(a.diagonal for a in g.axes)
    return float((g.weights * cov[same]).sum() / (g.weights * (own.gram[same] - own.mean**2)).sum())


def _cancelled(x: Moments) -> Moments:
    """Second moments that cancelled to below zero by rounding or by a truncated term are zero."""
    if np.all(x.second >= 0.0):
        return x
    gram = x.gram.copy()
    gram[tuple(a.diagonal for a in x.axes)] = np.maximum(x.second, 0.0)
    return Moments.gaussian(x.axes, x.dims, x.mean, gram, x.sources, odd=x.odd, claim=x.claim)


def _project(
    grad: Moments,
    inverse: Moments,
    centre: bool = True,
    product: Moments | None = None,
    summed: Moments | None = None,
) -> Moments | Unknown:
    """The backward of a normalisation, on the axes that it had."""
    from initio.core.algebra import broadcast

    xhat: Moments = inverse.extra["normalised"]
    deviation: Array = inverse.extra["deviation"]
    over = inverse.extra["over"]
    dims_over = {d for d in range(len(xhat.dims)) for i in xhat.span(d) if i in over}
    probe = Moments.gaussian(xhat.axes, xhat.dims, deviation, np.ones_like(xhat.gram), 0)
    if product is not None and summed is not None:
        g, h, s, product, summed = broadcast(grad, xhat, probe, product, summed)
    else:
        g, h, s = broadcast(grad, xhat, probe)
        product = summed = None
    if g.axes == xhat.axes:
        return normalise_backward(g, h, s.mean, over, centre, product, summed)
    whole = [d for d in dims_over if all(i in over for i in xhat.span(d))]
    if len(whole) != len(dims_over):
        return Unknown("a cotangent whose axes cut across the normalised groups")
    return normalise_backward(g, h, s.mean, [i for d in whole for i in g.span(d)], centre, product, summed)


# -- layer, group, RMS norm --------------------------------------------------------------------------------------


@rule("aten.native_layer_norm", near=True)
def layer_norm(x: Moments, shape: Sequence[int], w: Moments | None, b: Moments | None, eps: float) -> Result:
    """Centre and scale each position over the last dimensions."""
    n = len(shape)
    dims = list(range(len(x.dims) - n, len(x.dims)))
    over = [i for d in dims for i in x.span(d)]
    xhat, deviation = normalise(x, over, float(eps))
    y = _affine(xhat, w, b, dims, len(x.dims))
    return (y, *_saved(x, xhat, deviation, over, dims, True))


@rule("aten.native_layer_norm_backward", near=True)
def layer_norm_backward(
    grad: Moments,
    x: Moments,
    shape: Sequence[int],
    mean: Moments,
    inverse: Moments,
    w: Moments | None,
    b: Moments | None,
    mask: Sequence[bool],
) -> Result:
    """Cotangents of input, weight and bias."""
    return _norm_backward(grad, inverse, w, len(shape), mask, True)


def _norm_backward(grad: Moments, inverse: Moments, w: Moments | None, n: int, mask: Sequence[bool], centre: bool) -> Result:
    if "normalised" not in inverse.extra:
        return Unknown("the forward pass of this norm is not known"), None, None
    dims = list(range(len(grad.dims) - n, len(grad.dims)))
    lead = [d for d in range(len(grad.dims)) if d not in dims]
    g = _affine(grad, w, None, dims, len(grad.dims))
    dx = g if isinstance(g, Unknown) or not mask[0] else _project(g, inverse, centre)
    dw: Moments | Unknown | None = None
    if mask[1]:
        t = multiply(grad, inverse.extra["normalised"])
        dw = t if isinstance(t, Unknown) else total(t, lead)
    return dx if mask[0] else None, dw, total(grad, lead) if len(mask) > 2 and mask[2] else None


@rule("aten._fused_rms_norm")
def rms_norm(x: Moments, shape: Sequence[int], w: Moments | None, eps: float | None) -> Result:
    """Divide each position by its root mean square over the last dimensions (Zhang & Sennrich 2019)."""
    n = len(shape)
    dims = list(range(len(x.dims) - n, len(x.dims)))
    over = [i for d in dims for i in x.span(d)]
    xhat, deviation = normalise(x, over, 1.1920929e-07 if eps is None else float(eps), centre=False)
    y = _affine(xhat, w, None, dims, len(x.dims))
    return y, _saved(x, xhat, deviation, over, dims, True)[1]


@rule("aten._fused_rms_norm_backward")
def rms_norm_backward(grad: Moments, x: Moments, shape: Sequence[int], inverse: Moments, w: Moments | None, mask: Sequence[bool]) -> Result:
    """Cotangents of input and weight."""
    made = _norm_backward(grad, inverse, w, len(shape), mask, False)
    return made[:2] if isinstance(made, tuple) else made


@rule("aten.native_group_norm")
def group_norm(x: Moments, w: Moments | None, b: Moments | None, n: int, c: int, hw: int, groups: int, eps: float) -> Result:
    """Centre and scale each sample over the channels of a group and all positions (Wu & He 2018)."""
    shape = x.shape
    split = x.reshape((n, groups, c // groups, *shape[2:]))
    over = [i for d in range(2, len(split.dims)) for i in split.span(d)]
    xhat, deviation = normalise(split, over, float(eps))
    y = _affine(xhat.reshape(shape), w, b, [1], len(shape))
    return (y, *_saved(split, xhat, deviation, over, range(2, len(split.dims)), False))


@rule("aten.native_group_norm_backward")
def group_norm_backward(
    grad: Moments,
    x: Moments,
    mean: Moments,
    inverse: Moments,
    w: Moments | None,
    n: int,
    c: int,
    hw: int,
    groups: int,
    mask: Sequence[bool],
) -> Result:
    """Cotangents of input, weight and bias."""
    if "normalised" not in inverse.extra:
        return Unknown("the forward pass of this norm is not known"), None, None
    shape = grad.shape
    rest = [d for d in range(len(shape)) if d != 1]
    g = _affine(grad, w, None, [1], len(shape))
    dx = g
    if isinstance(g, Moments) and mask[0]:
        dx = _project(g.reshape((n, groups, c // groups, *shape[2:])), inverse)
        dx = dx if isinstance(dx, Unknown) else dx.reshape(shape)
    t = multiply(grad, inverse.extra["normalised"].reshape(shape))
    dw = t if isinstance(t, Unknown) else total(t, rest)
    return dx if mask[0] else None, dw if mask[1] else None, total(grad, rest) if mask[2] else None
