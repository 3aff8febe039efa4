# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Contractions: matrix products, embeddings, convolutions, and their backward forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from initio.core.algebra import add, apart, broadcast, contract, joint, multiply, scale, total
from initio.core.axes import Array, Axis, AxisMap, Taps, axis, axis_map
from initio.core.moments import Cross, Factor, Moments, Unknown, along, fresh_source, worst
from initio.core.overlap import Mixed, inherited, marked, overlap_of, summed
from initio.core.pieces import cut, pieces_of
from initio.core.scalar import IDENTITY
from initio.rules.indexing import lookup, scattered
from initio.rules.pulled import with_excess
from initio.rules.rows import after_bias, back_over_rows, note_rows
from initio.rules.scale_free import fourth_cumulant, gains, radial, remember_along, remember_fan, tilt_of, without_radial_sums
from initio.rules.spread import returned, spread_by_filter
from initio.rules.structure import join
from initio.rules.table import Result, context, rule
from initio.rules.tied import remember_embedding, tied_product

__all__ = ["convolve", "window_taps"]


def product(x: Moments, y: Moments, spec: str) -> Moments | Unknown:
    """A contraction whose reuse of a weight is remembered: W x₁ and W x₂ have the covariance of x₁ and x₂."""
    ctx = context()
    if ctx.backward:
        return _mixed(contract(x, y, spec, dependent=True), x, y, spec)
    out = contract(x, y, spec)
    if isinstance(out, Unknown):
        out = _piece_by_piece(x, y, spec) or out
    if isinstance(out, Unknown):
        for table, other, flip in ((y, x, False), (x, y, True)):
            made = tied_product(other, table, spec, flip) if _is_weight(table) else None
            if made is not None:
                return made
        return out
    for weight, other, flip in ((y, x, False), (x, y, True)):
        if _is_weight(weight):
            letters = spec.split("->")[0].split(",")[1 if flip else 0]
            width = math.prod(n for c, n in zip(letters, other.shape, strict=True) if c not in spec.split("->")[1])
            if width == other.shape[-1]:
                note_rows(out, weight, other)
            return _remember(marked(out, *inherited(other, width)), weight, other, spec, flip)
    return _mixed(out, x, y, spec)


def _piece_by_piece(x: Moments, y: Moments, spec: str) -> Moments | None:
    """The contraction of each piece of an operand along a dimension that is not summed over, such as values with a column of ones."""
    operands, out = spec.split("->")
    left, right = operands.split(",")
    for z, letters, other in ((x, left, right), (y, right, left)):
        p = pieces_of(z)
        if p is None or letters[p.dim] not in out or letters[p.dim] in other or len(p.cuts) < 3:
            continue
        parts: list[Moments] = []
        for start, stop in itertools.pairwise(p.cuts):
            piece = cut(z, p.dim, start, stop)
            made = contract(piece, y, spec) if z is x else contract(x, piece, spec)
            if isinstance(made, Unknown):
                return None
            parts.append(made)
        whole = join(parts, out.index(letters[p.dim]))
        return whole if isinstance(whole, Moments) else None
    return None


def _mixed(out: Moments | Unknown, x: Moments, y: Moments, spec: str) -> Moments | Unknown:
    """Attention's sums over tokens: Σ_j p_ij v_j of logits q_i·k_j, and backward g_ij = δ_i·v_j, dq_i = Σ_j dS_ij k_j; v_j·v_j′ and k_j·k_j′ overlap together.

    E[dq²] = Σ_jj′ E[dS_ij dS_ij′] E[k_j k_j′] gets, from the pairs of different tokens, Σ p_j p_j′ E[g²] E[k²] o with the overlap o that keys and
    values inherited from the same tokens (relative size: tokens / features).
    """
    if isinstance(out, Unknown) or len(y.law) != 1:
        return out
    mixed = x.extra.get("mixed")
    behind = y.extra.get("mixed")
    if mixed is None and behind is not None and behind.stage == "keys":  # dk_jᵀ = Σ_i q_iᵀ dS_ij
        return replace(
            out, extra={**out.extra, "mixed": Mixed(behind.tokens, behind.amount * y.shape[-2] * x.total_second, "weights", y.shape[-1])}
        )
    f = y.law[0].field
    if mixed is None:
        e, tokens = overlap_of(y)
        return replace(out, extra={**out.extra, "mixed": Mixed(tokens, e * _varying(out, len(out.dims) - 1))}) if e > 0.0 else out
    if mixed.stage == "queries":  # dk_j = Σ_i dS_ij q_i
        count = x.shape[-1]
        return replace(
            out, extra={**out.extra, "mixed": Mixed(mixed.tokens, mixed.amount * count * y.total_second, "weights", x.shape[-2])}
        )
    if mixed.stage == "keys" and f.tokens == mixed.tokens:
        added = mixed.amount * _varying(y, len(y.dims) - 2)
    elif mixed.stage == "weights" and f.id == mixed.tokens and len(y.dims) == 2:  # dW = Σ_j dk_j x_jᵀ
        added = mixed.amount * _varying(y, 0) * y.shape[0] / mixed.count
    else:
        return out
    gram = out.gram.copy()
    gram[tuple(a.diagonal for a in out.axes)] += added
    return Moments.gaussian(out.axes, out.dims, out.mean, gram, out.sources, odd=out.odd, claim=out.claim)


def _varying(x: Moments, d: int) -> float:
    """E[x²] less what different tokens (dimension d, of each sample) have in common."""
    common = x.gram
    i = [j for j in x.span(d) if x.axes[j].size > 1][-1:]
    if not i:
        return 0.0
    a = x.axes[i[0]]
    index: list[Any] = [b.diagonal for b in x.axes]
    index[i[0]] = slice(0, a.off)
    part = np.moveaxis(common[tuple(index)], i[0], 0).reshape(a.off, -1).mean(axis=1)
    pairs = np.maximum(a.pairs[: a.off], 0.0)
    return x.total_second - float(part @ pairs) / max(float(pairs.sum()), 1.0)


def _is_weight(x: Moments) -> bool:
    return len(x.law) == 1 and "weight" in x.extra


def _remember(out: Moments, weight: Moments, x: Moments, spec: str, flip: bool) -> Moments:
    ctx = context()
    field = weight.law[0].field
    everything: list[Any] = ctx.uses.setdefault(field.id, [])
    earlier = [e for e in everything if not apart(field, weight.axes, e[4], e[5])]
    if earlier:
        made = out.law[0].field
        cross: list[Cross] = []
        sources = out.sources
        for before_x, before_out, before_spec, view, _, _ in reversed(earlier[-3:]):
            sources |= before_out.sources
            if (
                before_spec != spec
                or view != field.view
                or before_x.shape != x.shape
                or before_out.axes != out.axes
                or before_x.axes != x.axes
            ):
                continue
            pair = joint(x, before_x)
            if pair is None:
                continue
            probe = replace(x, gram=pair, mean=np.zeros_like(x.mean), law=(), sources=0)
            both = contract(weight, probe, spec, dependent=True) if flip else contract(probe, weight, spec, dependent=True)
            f = before_out.law[0].field
            if not isinstance(both, Unknown) and both.axes == out.axes:
                cross.append(Cross(f.id, f.view, both.gram))
        for before in earlier[:-3]:
            sources |= before[1].sources
        out = replace(out, sources=sources, odd=0, law=(Factor(IDENTITY, replace(made, cross=tuple(cross), sources=sources)),))
    everything.append((x, out, spec, field.view, field, weight.axes))
    return out


# -- matrices ----------------------------------------------------------------------------------------------------


@rule("aten.mm")
def mm(x: Moments, y: Moments) -> Result:
    """Σ_k x_ik y_kj."""
    out = product(x, y, "ik,kj->ij")
    return back_over_rows(with_excess(out, x, y), x, y) if context().backward and isinstance(out, Moments) else out


@rule("aten.bmm")
def bmm(x: Moments, y: Moments) -> Result:
    """Σ_k x_bik y_bkj."""
    return product(x, y, "bik,bkj->bij")


@rule("aten.mv")
def mv(x: Moments, y: Moments) -> Result:
    """Σ_k x_ik y_k."""
    return product(x, y, "ik,k->i")


@rule("aten.dot", "aten.vdot")
def dot(x: Moments, y: Moments) -> Result:
    """Σ_k x_k y_k."""
    return product(x, y, "k,k->")


@rule("aten.addmm")
def addmm(b: Moments, x: Moments, y: Moments, *, beta: float = 1.0, alpha: float = 1.0) -> Result:
    """β b + α x y."""
    out = mm(x, y)
    made = out if not isinstance(out, Moments) else add(out, b, alpha, beta)
    if not isinstance(out, Moments) or not isinstance(made, Moments):
        return made
    made = summed(made, out, b, alpha, beta)
    after_bias(made, out, b, alpha, beta)
    return made


@rule("aten.baddbmm")
def baddbmm(b: Moments, x: Moments, y: Moments, *, beta: float = 1.0, alpha: float = 1.0) -> Result:
    """β b + α x y, batched."""
    out = bmm(x, y)
    if not isinstance(out, Moments):
        return out
    return scale(out, alpha) if beta == 0 else add(out, b, alpha, beta)


@rule("aten.addmv")
def addmv(b: Moments, x: Moments, y: Moments, *, beta: float = 1.0, alpha: float = 1.0) -> Result:
    """β b + α x y."""
    out = mv(x, y)
    return out if not isinstance(out, Moments) else add(out, b, alpha, beta)


@rule("aten.linear")
def linear(x: Moments, w: Moments, b: Moments | None = None) -> Result:
    """x Wᵀ + b."""
    lead = "abcdefg"[: len(x.dims) - 1]
    out = product(x, w, f"{lead}k,ok->{lead}o")
    made = out if b is None or isinstance(out, Unknown) else add(out, b)
    if b is not None and isinstance(out, Moments) and isinstance(made, Moments):
        after_bias(made, out, b, 1.0, 1.0)
    return made


@rule("aten.matmul")
def matmul(x: Moments, y: Moments) -> Result:
    """x y over the last two dimensions."""
    lead = max(len(x.dims), len(y.dims)) - 2
    names = "abcdefg"[:lead]
    left = (names[lead - (len(x.dims) - 2) :] if len(x.dims) > 2 else "") + ("ik" if len(x.dims) > 1 else "k")
    right = (names[lead - (len(y.dims) - 2) :] if len(y.dims) > 2 else "") + ("kj" if len(y.dims) > 1 else "k")
    out = names + ("i" if len(x.dims) > 1 else "") + ("j" if len(y.dims) > 1 else "")
    return product(x, y, f"{left},{right}->{out}")


# -- convolutions ------------------------------------------------------------------------------------------------


def window_taps(n: int, kernel: int, stride: int, padding: int, dilation: int, n_out: int) -> Taps:
    """Which input each tap of each output position reads: p·stride − padding + d·dilation, −1 in the padding."""
    at = np.arange(n_out)[None] * stride - padding + np.arange(kernel)[:, None] * dilation
    return Taps(np.where((at >= 0) & (at < n), at, -1), n)


def _listed(value: Any, n: int) -> list[int]:
    values = [int(v) for v in (value if isinstance(value, (tuple, list)) else [value])]
    return values * n if len(values) == 1 else values


@rule("aten.convolution", "aten.convolution_overrideable", "aten._convolution", near=True)
def convolution(
    x: Moments,
    w: Moments,
    b: Moments | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *_: Any,
) -> Result:
    """y[o, p] = Σ_{c, d} w[o, c, d] x[c, p·stride − padding + d·dilation] + b[o]."""
    n = len(w.dims) - 2
    unbatched = len(x.dims) == n + 1
    if unbatched:
        x = replace(x, dims=(0, *x.dims))
    shape = context().shapes[0]
    spatial = shape[-n:]
    kernel = w.shape[2:]
    stride, padding, dilation = _listed(stride, n), _listed(padding, n), _listed(dilation, n)
    taps: list[Taps] = []
    for i in range(n):
        if transposed:
            taps.append(window_taps(spatial[i], kernel[i], stride[i], padding[i], dilation[i], x.shape[2 + i]).transposed())
        else:
            taps.append(window_taps(x.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], spatial[i]))
    out = convolve(x, w, taps, groups, transposed)
    if isinstance(out, Unknown):
        return out
    if b is not None:
        made = add(out, replace(b, dims=(b.dims[0], *(0,) * n)))
        if isinstance(made, Unknown):
            return made
        out = made
    remember_fan(out, x, math.prod(_fan(w, taps, groups, transposed)), w.extra.get("weight", 3.0))
    if not transposed and _is_weight(w) and not context().backward:
        spread_by_filter(out, x, w, *_pairs_of_taps(x, taps), separate=groups == x.shape[1] > 1)
    return replace(out, dims=out.dims[1:]) if unbatched else out


def _fan(w: Moments, taps: Sequence[Taps], groups: int, transposed: bool) -> tuple[float, float]:
    """Channels of a group, and (Σ v)² / Σ v² of the shares v of positions at which each tap reads something."""
    channels = w.shape[0] // groups if transposed else w.shape[1]
    if not _is_weight(w) or any(g > 1e-12 * w.total_second for g in np.abs(w.gram.ravel()[:-1])):
        return math.inf, 1.0
    valid = [(t.index >= 0).mean(axis=1) for t in taps]
    return float(channels), math.prod(float(v.sum() ** 2 / max((v**2).sum(), 1e-300)) for v in valid)


def convolve(x: Moments, w: Moments, taps: Sequence[Taps], groups: int, transposed: bool) -> Moments | Unknown:
    """The contraction over channels and taps; pairs of taps enter as far as the weights correlate over them."""
    n = len(taps)
    out_channels = w.shape[1] * groups if transposed else w.shape[0]
    xg = x.reshape((x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    if transposed:
        wg = w.reshape((groups, w.shape[0] // groups, w.shape[1], *w.shape[2:])).permute([0, 2, 1, *range(3, 3 + n)])
    else:
        wg = w.reshape((groups, w.shape[0] // groups, w.shape[1], *w.shape[2:]))
    for i in range(n):
        xg, wg = xg.with_axis(3 + i), wg.with_axis(3 + i)
        wg = wg.relabel(wg.span(3 + i)[0], axis(wg.shape[3 + i]))
    follow = not context().backward and not transposed and w.shape[1] <= FEW_CHANNELS and math.prod(w.shape[2:]) > 1 and _is_weight(w)
    maps = [axis_map(xg.axes[xg.span(3 + i)[0]], t, summed=follow) for i, t in enumerate(taps)]
    letters = "xyz"[:n]
    spec = f"ngc{letters},goc->ngo{letters}"
    at_x = [xg.span(3 + i)[0] for i in range(n)]
    new_axes = list(xg.axes)
    for i, m in zip(at_x, maps, strict=True):
        new_axes[i] = m.axis
    mean = xg.mean
    for i, m in zip(at_x, maps, strict=True):
        mean = along(m.mean, mean, i)
    at_w = [wg.span(3 + i)[0] for i in range(n)]
    result: Moments | None = None
    gram: Any = 0.0
    for pattern in itertools.product((1, 0), repeat=n):
        if any(p == 0 and t.count == 1 for p, t in zip(pattern, taps, strict=True)):
            continue
        index: list[Any] = [slice(None)] * len(wg.axes)
        for p, i in zip(pattern, at_w, strict=True):
            index[i] = p
        gw = wg.gram[tuple(index)]
        if not np.any(gw):
            continue
        gx = xg.gram
        for p, i, m in zip(pattern, at_x, maps, strict=True):
            gx = along(m.incoherent if p else m.coherent - m.incoherent, gx, i)
        wm = wg.mean[tuple(0 if i in at_w else slice(None) for i in range(len(wg.axes)))]
        left = replace(xg, axes=tuple(new_axes), mean=mean, gram=gx, law=(), extra={})
        right = replace(
            wg, axes=tuple(a for i, a in enumerate(wg.axes) if i not in at_w), dims=wg.dims[:3], mean=wm, gram=gw, law=(), extra={}
        )
        part = contract(left, right, spec, dependent=True)
        assert isinstance(part, Moments)
        gram = gram + part.gram
        result = part if result is None else result
    if not context().backward and x.sources & w.sources:
        return Unknown("a convolution's input depends on its own weights")
    if result is None:  # weights that are exactly zero
        return Moments.iid((x.shape[0], out_channels, *[t.n_out for t in taps]), 0.0, 0.0)
    bit = fresh_source()
    odd = bit if (w.odd & ~x.sources) or (x.odd & ~w.sources) else 0
    made = Moments.gaussian(result.axes, result.dims, result.mean, gram, bit, odd=odd, claim=worst(x.claim, w.claim))
    if follow:
        found = _scatter(made, xg, w.total_second, maps)
        made = made if found is None else replace(made, law=(Factor(IDENTITY, replace(made.law[0].field, scatter=found)),))
    made = replace(made, dims=(made.dims[0], made.dims[1] + made.dims[2], *made.dims[3:])).without_ones()
    if not context().backward and not transposed:
        made = marked(made, *inherited(x, math.prod(w.shape[1:])))
    if not context().backward and _is_weight(w):
        return _remember_convolution(made, w, x)
    return made


FEW_CHANNELS = 16
"""Most channels of a group for which the scatter of covariances from filter to filter is followed: its effect is below a part in ten of their inverse."""


def _scatter(y: Moments, x: Moments, second: float, maps: Sequence[AxisMap]) -> Array | None:
    """E[y_p² y_q²] beyond that of normals, halved, for p ≠ q of one channel; by pair class of y.

    Over filters Cov(y_p, y_q | w) = Σ_kl w_k w_l C_{p+k, q+l} has the variance σ⁴ Σ_kl C²; of the entries that p and q share, the fourth
    cumulant κ adds σ⁴ κ / 2 each. x is (N, groups, channels, …), y (N, groups, out, …). C is the covariance of entries of x in one channel,
    less that of different samples and positions: its part in y is the same everywhere.
    """
    at: list[Any] = [slice(None)] * len(x.axes)
    for i in (*x.span(1), *x.span(2)):
        if x.axes[i].K > 1:
            return None
        at[i] = x.axes[i].K ** 2
    kept = [x.axes[i] for i in range(len(x.axes)) if isinstance(at[i], slice)]
    value = _beyond_others(x, (*x.span(1), *x.span(2)))[tuple(at)] ** 2
    value[tuple(a.diagonal for a in kept)] += 0.5 * fourth_cumulant(x)
    for i, m in enumerate(maps, len(kept) - len(maps)):
        value = along(m.coherent, value, i)
    value = second**2 * math.prod(x.shape[2:3]) * value
    out = np.zeros_like(y.gram)
    place: list[Any] = [slice(None)] * len(y.axes)
    for i in (*y.span(1), *y.span(2)):
        place[i] = y.axes[i].K ** 2
    out[tuple(place)] = value
    out[tuple(a.diagonal for a in y.axes)] = 0.0
    return out


def _remember_convolution(out: Moments, w: Moments, x: Moments) -> Moments:
    """A convolution weight used twice: later results are not independent of earlier ones."""
    earlier: list[Any] = context().uses.setdefault(w.law[0].field.id, [])
    sources = out.sources
    for before in earlier:
        sources |= before
    odd = 0 if earlier else out.odd
    earlier.append(out.sources)
    return replace(out, sources=sources, odd=odd, law=(Factor(IDENTITY, replace(out.law[0].field, sources=sources)),))


@rule("aten.convolution_backward", near=True)
def convolution_backward(
    grad: Moments,
    x: Moments,
    w: Moments,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    mask: Sequence[bool],
) -> Result:
    """Cotangents of input, weight and bias."""
    n = len(w.dims) - 2
    kernel = w.shape[2:]
    stride, padding, dilation = _listed(stride, n), _listed(padding, n), _listed(dilation, n)
    large, small = (grad, x) if transposed else (x, grad)
    taps = [window_taps(large.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], small.shape[2 + i]) for i in range(n)]
    dx: Moments | Unknown | None = None
    through, onto, left = gains(grad, w.total_second)
    noted, grad = grad, without_radial_sums(grad)
    if mask[0]:
        dx = convolve(grad, w, taps, groups, False) if transposed else convolve(grad, w, [t.transposed() for t in taps], groups, True)
        if isinstance(dx, Moments):
            dx = _times(dx, through if transposed else through * returned(w, x, dx, *_pairs_of_taps(x, taps)))
            channels, count = _fan(w, taps, groups, transposed)
            tilted = dx if transposed else _tilted(dx, noted, x, w, taps)
            if isinstance(tilted, Moments):
                radial(tilted.extra.get("terms", (tilted,))[0], noted, x, channels, count, grad.shape[1] // groups)
            dx = tilted
    dw = _weight_gradient(small, large, taps, groups) if mask[1] else None
    if isinstance(dw, Moments):
        dw = _times(dw, onto, left)
    db = total(grad, [0, *range(2, 2 + n)]) if mask[2] else None
    return dx, dw, db


def _tilted(dx: Moments, grad: Moments, x: Moments, w: Moments, taps: Sequence[Taps]) -> Moments | Unknown:
    """dx = wᵀ grad of a depthwise w before a batch norm, with what the pairs k ≠ l of its taps add: w_k w_l meets Var y = wᵀ C w and Cov(grad, grad′ | w).

    With S = ∂ Cov(grad_q, grad_q′) / ∂ Cov(ŷ_q, ŷ_q′) and V the mean of Var y, to the first order in each,
    E[w_k w_l Cov(grad_q, grad_q′ | w)] = σ⁴/V (S C_pp − 2 C_kl (Cov(grad_q, grad_q′) + S Cov(ŷ_q, ŷ_q′))), q = p − k, q′ = p − l, C_kl the covariance
    of the inputs under two taps: the norm divides by √Var y, and Cov(ŷ_q, ŷ_q′ | w) holds w_k w_l C_pp / V. The part with S holds for all pairs
    of positions, E[dx_p dx_p′] ∋ C_pp′: dx contains α (x − E x) of a random α for each channel, Var α = σ⁴/V Σ_{k≠l} S. A tap by itself,
    k = l, has E w⁴ / E w² w′² for 1: of its part of α, one takes the place of what E w² grad grad′ holds on average, and all of it for
    single entries, since the norm keeps Var ŷ_q whatever w_k is.
    """
    noted = tilt_of(grad)
    n = len(taps)
    if noted is None or w.shape[1] != 1 or w.shape[0] % x.shape[1] or dx.shape != x.shape:
        return dx
    tilt, normal, variance, harmonic, (alone, paired) = noted
    dx, x = broadcast(dx, x)
    lead = len(x.axes) - n
    if any(len(x.span(d)) != 1 for d in range(1, 2 + n)) or len(grad.axes) != len(x.axes):
        return dx
    at = x.span(1)[0]
    if any(a is not b for i, (a, b) in enumerate(zip(grad.axes[:lead], x.axes[:lead], strict=True)) if i != at or a.K > 1 or b.K > 1):
        return dx
    back = [axis_map(grad.axes[lead + i], t.transposed(), x.axes[lead + i]) for i, t in enumerate(taps)]

    def crossed(array: Array) -> Array:
        """Σ over the taps k ≠ l of two positions."""
        together, apart = array, array
        for i, m in enumerate(back, lead):
            together, apart = along(m.coherent, together, i), along(m.incoherent, apart, i)
        return together - apart

    own: list[Any] = [slice(None)] * len(x.axes)
    own[at] = x.axes[at].diagonal
    channel = tuple(own)
    size = w.total_second**2 / variance * (w.shape[0] // x.shape[1])
    gram, alpha = dx.gram.copy(), np.zeros_like(dx.gram)
    inputs = _by_distance(x, n)
    met = harmonic * grad.gram + tilt * normal
    for distance in itertools.product(*[range(t.count) for t in taps]):
        c = inputs(distance, taps) if any(distance) else 0.0
        if c != 0.0:
            pairs = met
            for i, (t, d) in enumerate(zip(taps, distance, strict=True)):
                pairs = along(_tap_pairs(grad.axes[lead + i], t.transposed(), x.axes[lead + i], d), pairs, lead + i)
            gram[channel] -= (2.0 * size * paired * c * pairs)[channel]
    single = tilt
    for i, m in enumerate(back, lead):
        single = along(m.incoherent, single, i)
    alpha[channel] = size * (paired * crossed(tilt) + alone * single)[channel]
    centred = scale(x, 1.0, -x.total_mean)
    added, same = alpha * centred.gram, tuple(a.diagonal for a in dx.axes)
    replaced = np.zeros_like(gram)
    replaced[channel] = (size * paired * single * centred.gram)[channel]
    replaced[same] *= alone / paired
    gram = gram - replaced
    own_part = added[same]
    if np.any(own_part < 0.0) or float((dx.weights * own_part).sum()) < 1e-3 * dx.total_second:  # too little to tell it from the rest
        return Moments.gaussian(dx.axes, dx.dims, dx.mean, gram + added, dx.sources, odd=dx.odd, claim=dx.claim)
    rest = Moments.gaussian(dx.axes, dx.dims, dx.mean, gram, dx.sources, odd=dx.odd, claim=dx.claim)
    bit = fresh_source()
    part = multiply(Moments.gaussian(x.axes, x.dims, np.zeros_like(x.mean), alpha, bit, odd=bit), centred)
    if isinstance(part, Unknown):
        return part
    remember_along(part, x)
    return add(rest, part)


def _pairs_of_taps(x: Moments, taps: Sequence[Taps]) -> tuple[float, float]:
    """The mean over pairs of taps of the squared correlation of the inputs under them, and the number of taps."""
    count = math.prod(t.count for t in taps)
    n = len(taps)
    if count == 1 or any(len(x.span(d)) != 1 for d in range(1, 2 + n)):
        return 1.0 / count, float(count)
    inputs = _by_distance(x, n)
    variance, together = inputs([0] * n, taps), 0.0
    if variance <= 0.0:
        return 1.0 / count, float(count)
    for distance in itertools.product(*[range(min(t.count, a.lags + 1)) for t, a in zip(taps, x.axes[len(x.axes) - n :], strict=True)]):
        pairs = math.prod((t.count - d) * (1 if d == 0 else 2) for t, d in zip(taps, distance, strict=True))
        together += pairs * (inputs(distance, taps) / variance) ** 2
    return together / count**2, float(count)


@lru_cache(maxsize=512)
def _tap_pairs(source: Axis, taps: Taps, out: Axis, distance: int) -> Array:
    """(P_out, P_source): Σ over the ordered pairs of taps with that distance."""
    if distance == 0:
        return axis_map(source, taps, out).incoherent
    made = np.zeros((out.P, source.P))
    for d in range(taps.count - distance):
        m = axis_map(source, Taps(taps.index[[d, d + distance]], taps.n_in, taps.weight[[d, d + distance]]), out)
        made += m.coherent - m.incoherent
    return made


def _by_distance(x: Moments, n: int) -> Callable[[Sequence[int], Sequence[Taps]], float]:
    """Cov of two entries of one channel and sample, less that of those which are far from each other, by the distance of two taps along each of the last n axes."""
    cov = _beyond_others(x, x.span(1))
    for a in x.axes[: len(x.axes) - n]:
        cov = np.tensordot(a.counts / a.size, cov[a.diagonal], axes=(0, 0))

    def at(distance: Sequence[int], taps: Sequence[Taps]) -> float:
        value = cov
        for a, d, t in zip(x.axes[len(x.axes) - n :], distance, taps, strict=True):
            middle = t.index[:, t.n_out // 2]
            lag = d * abs(int(middle[-1] - middle[0])) // max(t.count - 1, 1)
            weight = np.where(a.same, a.pairs, 0.0) if lag == 0 else np.where((a.lag == lag) & ~a.same, a.pairs, 0.0)
            if lag > a.lags:
                weight = np.where((a.lag == 0) & ~a.same, a.pairs, 0.0)
            value = np.tensordot(weight / max(weight.sum(), 1e-300), value, axes=(0, 0))
        return float(value)

    return at


def _beyond_others(x: Moments, within: Sequence[int]) -> Array:
    """The gram of x less that of indices that differ, and are far from each other, on every axis but those `within`."""
    apart: Any = x.gram
    for i, a in enumerate(x.axes):
        if i not in within:
            different = np.where(a.same | (a.lag > 0), 0.0, a.pairs)
            different = different if different.sum() > 0 else a.pairs
            apart = np.expand_dims(np.tensordot(apart, different / different.sum(), axes=([i], [0])), i)
    return x.gram - apart


def _times(x: Moments, second: float, added: float = 0.0) -> Moments:
    """x, zero in mean, with its second moments multiplied, and `added` to those of single entries."""
    if second == 1.0 and added == 0.0:
        return x
    gram = second * x.gram
    gram[tuple(a.diagonal for a in x.axes)] += added
    return Moments.gaussian(x.axes, x.dims, x.mean, gram, x.sources, odd=x.odd, claim=x.claim)


def _weight_gradient(small: Moments, large: Moments, taps: Sequence[Taps], groups: int) -> Moments | Unknown:
    """dw[o, c, d] = Σ_{n, p} small[n, o, p] large[n, c, read(p, d)], averaged over the taps d."""
    n = len(taps)
    s = small.reshape((small.shape[0], groups, small.shape[1] // groups, *small.shape[2:]))
    b = large.reshape((large.shape[0], groups, large.shape[1] // groups, *large.shape[2:]))
    gram, mean, axes = b.gram, b.mean, list(b.axes)
    for i in range(n):
        s, b_ = s.with_axis(3 + i), b.with_axis(3 + i)
        if b_ is not b:
            b, gram, mean, axes = b_, b_.gram, b_.mean, list(b_.axes)
    gram, mean, axes = b.gram, b.mean, list(b.axes)
    for i, t in enumerate(taps):
        at = b.span(3 + i)[0]
        target: Axis = s.axes[s.span(3 + i)[0]]
        m = axis_map(b.axes[at], t, target)
        gram, mean = along(m.incoherent / t.count, gram, at), along(m.mean / t.count, mean, at)
        axes[at] = target
    probe = replace(b, axes=tuple(axes), gram=gram, mean=mean, law=(), extra={})
    letters = "xyz"[:n]
    dw = contract(replace(s, law=(), extra={}), probe, f"ngo{letters},ngc{letters}->goc", dependent=True)
    if isinstance(dw, Unknown):
        return dw
    bit = dw.sources
    made = replace(dw, dims=(dw.dims[0] + dw.dims[1], dw.dims[2], *(0,) * n))
    # entries of one kernel: equal second moments; pairs of different taps are taken as uncorrelated
    for i, t in enumerate(taps):
        if t.count > 1:
            k = axis(t.count)
            at = len(made.axes)
            g = np.stack([np.zeros_like(made.gram), made.gram], axis=at)
            made = replace(
                made,
                axes=(*made.axes, k),
                dims=(*made.dims[: 2 + i], 1, *made.dims[3 + i :]),
                mean=np.expand_dims(made.mean, at),
                gram=g,
                law=(),
            )
    return Moments.gaussian(
        made.axes, made.dims, made.mean, made.gram, bit, odd=bit if small.odd or large.odd else 0, claim=worst(small.claim, large.claim)
    )


# -- tables ------------------------------------------------------------------------------------------------------


@rule("aten.embedding")
def embedding(w: Moments, ids: Moments, *_: Any, **__: Any) -> Result:
    """w[ids]; remembered, should the same table be used as a matrix (a tied head)."""
    made = lookup(w, ids)
    if isinstance(made, Moments) and _is_weight(w) and len(made.law) == 1 and not context().backward:
        return remember_embedding(made, w, ids)
    return made


@rule("aten.embedding_dense_backward")
def embedding_dense_backward(grad: Moments, ids: Moments, rows: int, padding: int = -1, *_: Any) -> Result:
    """dw[v] = Σ of the cotangents of the positions whose id is v (none for the padding id)."""
    made = scattered(grad, ids, rows)
    if isinstance(made, Unknown) or not 0 <= padding < rows or rows == 1:
        return made
    kept = np.arange(rows) != padding
    source = np.where(kept, np.arange(rows), -1)
    return made.linear(0, Taps(source[None], rows))
