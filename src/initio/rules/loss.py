# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportPrivateUsage=false
# numpy's stubs leave parts of its results untyped
"""Log-softmax, the negative log likelihood and the squared error, forward and backward; randomised leaky ReLU."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import add, apply, average, multiply, scale, total
from initio.core.axes import axis
from initio.core.functions import function
from initio.core.moments import Moments, Unknown, fresh_source, worst
from initio.core.scalar import from_pieces, power
from initio.rules.softmax import SHARP, varying
from initio.rules.table import Result, context, rule

__all__: list[str] = []


@rule("aten._log_softmax", "aten.log_softmax")
def log_softmax(x: Moments, dim: int, *_: Any, **__: Any) -> Result:
    """y = v − log Σ e^v, v the part of x that varies over the axis: log Σ e^v is log T + s/2 − (e^s − 1)/(2T) with variance (e^s − 1)/T."""
    d = dim % len(x.dims)
    x = replace(x.with_axis(d), extra={})
    i = x.span(d)[0]
    n = x.axes[i].size
    x = x.relabel(i, axis(n))
    cov = varying(x, i)
    others = [a for j, a in enumerate(x.axes) if j != i]
    s = float(cov[tuple(a.diagonal for a in others)].mean())
    if s > min(SHARP, math.log(1.0 + 0.2 * n)):
        return Unknown(f"a log-softmax of logits with variance {s:.3g}: the logarithm of the sum is not nearly normal")
    level = math.log(n) + s / 2 - math.expm1(s) / (2 * n)
    shared = np.expm1(np.minimum(cov, s)) / n  # Cov(log Σ e^v, log Σ e^v′)
    both = shared - 2.0 * cov / n
    gram = np.stack([both, cov + both], axis=i) + level**2
    mean = np.full([a.K for a in x.axes], -level)
    bit = fresh_source()
    return Moments.gaussian(x.axes, x.dims, mean, gram, bit | x.sources, claim=worst(x.claim, "rule"), logits=s).without_ones()


@rule("aten._log_softmax_backward_data")
def log_softmax_backward(grad: Moments, y: Moments, dim: int, *_: Any) -> Result:
    """dx = g − p Σ g: E[dx²] = E[g²] − (2 − T² E[p²]) E[(Σ g)²] / T², with T² E[p²] = e^s to first order in 1/T, and at most T, as Σ p² ≤ 1."""
    d = dim % len(grad.dims)
    g = grad.with_axis(d)
    i = g.span(d)[0]
    n = g.axes[i].size
    g = g.relabel(i, axis(n))
    summed = total(replace(g, law=(), extra={}), [d], keepdim=True).gram / n**2
    different, same = np.moveaxis(g.gram, i, 0)
    grown = math.exp(min(y.extra["logits"] if "logits" in y.extra else _spread(y, d), math.log(n))) - 1.0
    gram = np.stack([different - summed - grown * summed / max(n - 1, 1), same - summed + grown * summed], axis=i)
    bit = fresh_source()
    return Moments.gaussian(
        g.axes, g.dims, np.zeros_like(g.mean), gram, bit | grad.sources, odd=bit, claim=worst(grad.claim, y.claim, "rule")
    ).without_ones()


def _spread(y: Moments, d: int) -> float:
    """Variance of the logits x of y = x − log Σ exp x: half of E (y_i − y_j)² along dimension d."""
    y = y.with_axis(d)
    i = y.span(d)[0]
    y = y.relabel(i, axis(y.axes[i].size))
    different, same = np.moveaxis(y.gram, i, 0)
    at = tuple(a.diagonal for k, a in enumerate(y.axes) if k != i)
    return max(float(np.mean(same[at] - different[at])), 0.0)


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
