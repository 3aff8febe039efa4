# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportPrivateUsage=false
# numpy's stubs leave parts of its results untyped
"""Log-softmax, the negative log likelihood and the squared error, forward and backward; randomised leaky ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import add, apply, average, multiply, same_axes, scale, total
from initio.core.axes import Array, Axis, axis
from initio.core.functions import function
from initio.core.moments import Moments, Unknown, fresh_source, pair_values, worst
from initio.core.scalar import from_pieces, power
from initio.core.softmax import agreement, log_sum, log_sum_covariance, softmax_entropy, value_excess
from initio.rules.pulled import along_input, note_excess
from initio.rules.softmax import varying
from initio.rules.table import Result, context, rule

__all__: list[str] = []


@rule("aten._log_softmax", "aten.log_softmax")
def log_softmax(x: Moments, dim: int, *_: Any, **__: Any) -> Result:
    """y = v − L, L = log Σ e^v, v the part of x that varies over the axis, Cov(v_j, L′) = Cov(v_j, v′_j) / T."""
    d = dim % len(x.dims)
    x = replace(x.with_axis(d), extra={})
    i = x.span(d)[0]
    n = x.axes[i].size
    x = x.relabel(i, axis(n))
    spread, cov, others = _logits(x, i)
    largest = float(spread.max(initial=0.0))
    if largest > math.log(1.0 + 0.2 * n) and (len(x.law) != 1 or x.law[0].fn.linear is None):
        return Unknown(f"a log-softmax of logits that are not normal and have variance {largest:.3g}")
    own = spread[tuple(a.diagonal for a in others)]
    level = _each(lambda s: log_sum(s, n)[0], own)
    u, v = pair_values(others, level)
    both = u * v + _each(lambda s, c: log_sum_covariance(s, c, n), spread, cov) - 2.0 * cov / n
    gram = np.stack([both, cov + both], axis=i)
    mean = np.expand_dims(-level, i)
    bit = fresh_source()
    return Moments.gaussian(x.axes, x.dims, mean, gram, bit | x.sources, claim=worst(x.claim, "rule")).without_ones()


@rule("aten._log_softmax_backward_data")
def log_softmax_backward(grad: Moments, y: Moments, dim: int, *_: Any) -> Result:
    """dx = g − p G, G = Σ g: E[dx dx′] = E[g g′] − (2 / T² − E[p p′]) E[G G′]; and v · dx = v · g − (v · p) G."""
    d = dim % len(grad.dims)
    g, y = grad.with_axis(d), y.with_axis(d)
    for e in range(len(y.dims)):
        if y.shape[e] > 1:
            g, y = same_axes([g, y], [e, e])
    i = g.span(d)[0]
    n = g.axes[i].size
    g, y = g.relabel(i, axis(n)), y.relabel(i, axis(n))
    summed = total(replace(g, law=(), extra={}), [d], keepdim=True).gram / n**2
    different, same = np.moveaxis(g.gram, i, 0)
    spread, cov, others = _logits(y, i)
    together = _each(lambda s, c: agreement(s, c, n), spread, cov)
    grown = n * together - 1.0
    gram = np.stack([different - summed - grown * summed / max(n - 1, 1), same - summed + grown * summed], axis=i)
    bit = fresh_source()
    dx = Moments.gaussian(
        g.axes, g.dims, np.zeros_like(g.mean), gram, bit | grad.sources, odd=bit, claim=worst(grad.claim, y.claim, "rule")
    ).without_ones()
    if d == len(grad.dims) - 1 and n > 1:
        _note_logits(dx, grad, y, n * n * summed, n * (same - summed + grown * summed), (spread, cov, together), others)
    return dx


def _note_logits(
    dx: Moments, grad: Moments, y: Moments, square: Array, matched: Array, logits: tuple[Array, Array, Array], others: list[Axis]
) -> None:
    """E[(v · dx)(v′ · dx′)] from E[G G′] and E[dx · dx′].

    Exact for one sample, and for samples without covariance, whose inputs have none either; in proportion to E Σ p p′ − 1/T between. Where g was not
    independent of y, v · dx = y · g + H G with H = L − v · p; else v · dx = v · g − (v · p) G.
    """
    spread, cov, together = logits
    n, lead = y.shape[-1], tuple(a for a in others if a.size > 1)
    share = (together - 1.0 / n) / np.maximum(_each(lambda s: agreement(s, s, n), spread) - 1.0 / n, 1e-300)
    known = along_input(grad, y, lead)
    if known is None:
        excess = square * share * _each(lambda s: value_excess(s, n) / s**2 if s > 0 else 0.0, spread)
    else:
        entropy, scatter = (_each(lambda s, k=k: softmax_entropy(s, n)[k], spread) for k in (0, 1))
        whole = known.square + 2.0 * entropy * known.summed + (entropy**2 + share * scatter) * square
        excess = (whole - cov * matched) / np.where(spread > 0, spread, 1.0) ** 2
    note_excess(dx, lead, excess)


def _logits(x: Moments, i: int) -> tuple[Array, Array, list[Axis]]:
    """Variance (of two rows: the geometric mean) and covariance of what varies over axis i, of logits or their log-softmax, by pair class of the other axes."""
    cov = varying(x, i)
    others = [a for j, a in enumerate(x.axes) if j != i]
    u, v = pair_values(others, np.maximum(cov[tuple(a.diagonal for a in others)], 0.0))
    return np.maximum(np.sqrt(u * v), np.abs(cov)), cov, others


def _each(fn: Callable[..., float], *arrays: Array) -> Array:
    """fn of every entry, once for each distinct one."""
    known: dict[tuple[float, ...], float] = {}
    out = np.empty(np.shape(arrays[0]))
    for index in np.ndindex(out.shape):
        key = tuple(float(f"{a[index]:.9g}") for a in arrays)
        out[index] = known[key] = known[key] if key in known else fn(*key)
    return out


@rule("aten.nll_loss_forward", "aten.nll_loss2d_forward")
def nll_loss(x: Moments, target: Moments, weight: Moments | None, reduction: int, ignore: int) -> Result:
    """−x[target], averaged or summed over the samples: targets do not depend on x."""
    if weight is not None:
        return Unknown("a likelihood with weighted classes")
    shape = context().shapes[0]
    count = float(math.prod(x.shape) / x.shape[1 if len(x.dims) > 1 else 0])
    mean, second = -x.total_mean, x.total_second
    if reduction == 0:
        picked = average(x, [1])
        return replace(scale(picked, -1.0), law=()), Moments.iid((), count, 0.0)
    factor = 1.0 if reduction == 1 else count
    spread = max(second - mean * mean, 0.0) / count
    return Moments.iid(shape, factor * mean, factor**2 * spread, claim=worst(x.claim, "rule")), Moments.iid((), count, 0.0)


@rule("aten.nll_loss_backward", "aten.nll_loss2d_backward")
def nll_loss_backward(
    grad: Moments, x: Moments, target: Moments, weight: Moments | None, reduction: int, ignore: int, count: Any
) -> Result:
    """−g/N at the target of each sample, 0 elsewhere; uniform targets hit a class with probability 1/T."""
    if weight is not None or reduction == 0:
        return Unknown("a likelihood with weighted classes, or one that is not reduced")
    d = 1 if len(x.dims) > 1 else 0
    n, classes = math.prod(x.shape) / x.shape[d], x.shape[d]
    size = math.sqrt(grad.total_second) / (n if reduction == 1 else 1.0)
    hit = Moments.iid(x.shape, 1.0 / classes, 0.0)
    gram = hit.gram.copy()
    rows = tuple(a.diagonal if j not in hit.span(d) else slice(None) for j, a in enumerate(hit.axes))
    gram[rows] = 0.0  # one target a sample: two classes are never hit at once
    gram[tuple(a.diagonal for a in hit.axes)] = 1.0 / classes
    bit = fresh_source()
    return Moments.gaussian(hit.axes, hit.dims, -size * hit.mean, size**2 * gram, bit, claim=worst(x.claim, "rule"))


@rule("aten.mse_loss")
def mse_loss(x: Moments, y: Moments, reduction: int = 1) -> Result:
    """(x − y)², averaged or summed."""
    difference = add(x, y, 1.0, -1.0)
    if isinstance(difference, Unknown):
        return difference
    square = apply(difference, power(2))
    dims = range(len(square.dims))
    return square if reduction == 0 else average(square, dims) if reduction == 1 else total(square, dims)


@rule("aten.mse_loss_backward")
def mse_loss_backward(grad: Moments, x: Moments, y: Moments, reduction: int = 1) -> Result:
    """2 g (x − y) / N."""
    difference = add(x, y, 2.0, -2.0)
    if isinstance(difference, Unknown):
        return difference
    return multiply(scale(difference, 1.0 / math.prod(difference.shape) if reduction == 1 else 1.0), grad)


_BELOW = from_pieces("min(x,0)", (0.0,), ((0.0, 1.0), (0.0,)))
_NEGATIVE = from_pieces("1[x<=0]", (0.0,), ((1.0,), (0.0,)))
_POSITIVE = from_pieces("1[x>0]", (0.0,), ((0.0,), (1.0,)))


@rule("aten.rrelu_with_noise", "aten.rrelu_with_noise_functional", tolerant=True)
def rrelu(x: Moments | Unknown, noise: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any) -> Result:
    """max(x, 0) + a min(x, 0), a ~ U(lower, upper) drawn for every entry (Xu et al. 2015); and the slopes."""
    if not isinstance(x, Moments):
        return x, x
    middle = (float(lower) + float(upper)) / 2
    if not training:
        slopes = from_pieces("leaky_relu'", (0.0,), ((middle,), (1.0,)))  # not written by the kernel; its backward uses them all the same
        return apply(x, function("leaky_relu", middle)), apply(x, slopes)
    a = Moments.iid(x.shape, middle, (float(upper) - float(lower)) ** 2 / 12)
    low, slopes = multiply(apply(x, _BELOW), a), multiply(apply(x, _NEGATIVE), a)
    if isinstance(low, Unknown) or isinstance(slopes, Unknown):
        return low, slopes
    return add(apply(x, function("relu")), low), add(apply(x, _POSITIVE), slopes)


@rule("aten.rrelu_with_noise_backward")
def rrelu_backward(grad: Moments, x: Moments, noise: Moments, lower: float, upper: float, training: bool, *_: Any) -> Result:
    """g times the slopes."""
    return multiply(grad, noise)
