"""Functions applied entry by entry, sums and products, and their backward forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import add, apply, broadcast, joint, multiply, scalar_value, scale, swap
from initio.core.functions import DERIVATIVES, FUNCTIONS
from initio.core.moments import Moments, Unknown, worst
from initio.core.overlap import summed
from initio.core.pieces import each_piece, made_of
from initio.core.scalar import Scalar, power
from initio.rules.routing import shares_of
from initio.rules.rows import along_rows, over_rows
from initio.rules.scatter import assembled
from initio.rules.spread import spread_of_sum
from initio.rules.structure import join, times
from initio.rules.table import Result, context, rule

__all__ = ["derivative", "function_of", "slope_of"]

MASKED = -40.0
"""A known addend below this removes an entry from a softmax."""

Operand = Moments | float | int


def derivative(name: str, *args: Any, **kwargs: Any) -> Scalar:
    """f′ of a function of the table, with its parameters."""
    entry = DERIVATIVES[name]
    return entry if isinstance(entry, Scalar) else entry(*args, **kwargs)


def _function(name: str, *args: Any, **kwargs: Any) -> Scalar:
    entry = FUNCTIONS[name]
    return entry if isinstance(entry, Scalar) else entry(*args, **kwargs)


def _unary(name: str) -> None:
    @rule(f"aten.{name}", near=True)
    def run(x: Moments, *args: Any, **kwargs: Any) -> Moments:
        fn = _function(name, *args, **kwargs)
        return over_rows(apply(x, fn), x, fn)

    run.__doc__ = f"y = {name}(x): E f(u) and E[f(u) f(v)] over the law of x."


_UNARY = (
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "log_sigmoid",
    "tanh",
    "hardtanh",
    "hardsigmoid",
    "hardswish",
    "softplus",
    "softshrink",
    "hardshrink",
    "threshold",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "abs",
    "square",
    "sin",
    "cos",
    "erf",
    "erfc",
    "sign",
    "sgn",
    "neg",
    "sinh",
    "cosh",
    "asinh",
    "tan",
    "atan",
    "floor",
    "round",
    "ceil",
    "trunc",
)
for _name in _UNARY:
    if _name in FUNCTIONS:
        _unary(_name)


@rule("aten.log_sigmoid_forward", near=True)
def log_sigmoid_forward(x: Moments) -> Result:
    """log σ(x), and a buffer."""
    fn = _function("logsigmoid")
    return over_rows(apply(x, fn), x, fn), None


@rule("aten.clamp", "aten.clip", "aten.clamp_min", "aten.clamp_max", near=True)
def clamp(x: Moments, low: float | None = None, high: float | None = None, **kwargs: Any) -> Moments:
    """min(max(x, low), high)."""
    if "clamp_max" in context().node.op:
        low, high = None, low
    return apply(x, _function("clamp", kwargs.get("min", low), kwargs.get("max", high)))


@rule("aten.pow.Tensor_Scalar", near=True)
def pow_(x: Moments, exponent: float) -> Moments:
    """x^p."""
    return apply(x, power(exponent))


@rule("aten.pow.Scalar", near=True)
def power_of(base: float, x: Moments) -> Moments:
    """b^x = exp(x log b)."""
    return apply(scale(x, float(np.log(base))), _function("exp"))


@rule("aten._prelu_kernel", "aten.prelu", near=True)
def prelu(x: Moments, w: Moments) -> Result:
    """max(x, 0) + w min(x, 0)."""
    slope = scalar_value(w)
    if slope is not None:
        return apply(x, _function("leaky_relu", slope))
    if context().node.op.startswith("aten.prelu") and len(x.dims) > 1:
        w = replace(w, dims=(0, w.dims[0] if w.dims else 0, *(0,) * (len(x.dims) - 2)))
    low = multiply(scale(apply(scale(x, -1.0), _function("relu")), -1.0), w)
    return low if isinstance(low, Unknown) else add(apply(x, _function("relu")), low)


# -- arithmetic --------------------------------------------------------------------------------------------------


def _tensor(x: Operand) -> Moments:
    return x if isinstance(x, Moments) else Moments.iid((), float(x), 0.0)


def _masked(x: Moments, mask: Moments) -> Moments | None:
    """x + mask for a known mask of zeros and very negative entries: remembered for the softmax."""
    values = mask.extra.get("known")
    if values is None or values.dtype.kind not in "fiu":
        return None
    hidden = values < MASKED
    if (
        not hidden.any()
        or np.any(np.abs(values[~hidden]) > 0)
        or max(abs(x.total_second), x.total_mean**2) > 0.01 * float(np.min(np.abs(values[hidden]))) ** 2
    ):
        return None
    return with_mask(x, ~hidden)


def with_mask(x: Moments, allowed: Any) -> Moments:
    """x with the entries outside `allowed` removed from a softmax to come."""
    shape = np.broadcast_shapes(x.shape, allowed.shape)
    x = x.expand(shape)
    before = x.extra.get("mask")
    return replace(x, extra={**x.extra, "mask": allowed if before is None else np.logical_and(before, allowed)})


@rule("aten.add", "aten.sub", "aten.rsub", near=True)
def add_(x: Operand, y: Operand, *, alpha: float = 1.0) -> Result:
    """x + α y (x − α y, y − α x)."""
    op = context().node.op
    a, b = (1.0, float(alpha)) if ".add" in op else (1.0, -float(alpha)) if ".sub" in op else (-float(alpha), 1.0)
    if isinstance(x, Moments) and isinstance(y, Moments):
        for one, other in ((x, y), (y, x)):
            made = _masked(one, other)
            if made is not None:
                return made
        whole = assembled(x, y) if (a, b) == (1.0, 1.0) else None
        if whole is not None:
            return whole
    out = add(_tensor(x), _tensor(y), a, b, cotangents=context().late == frozenset((0, 1)))
    if isinstance(x, Moments) and isinstance(y, Moments):
        if isinstance(out, Moments):
            out = summed(out, x, y, a, b)
        out = _in_pieces(out, x, y, a, b)
        if isinstance(out, Moments) and not context().backward:
            spread_of_sum(out, x, y, a, b)
    return _keep_mask(out, x, y)


def _in_pieces(whole: Moments | Unknown, x: Moments, y: Moments, a: float, b: float) -> Moments | Unknown:
    """a x + b y, of which the pieces of x and y are known better than the whole."""

    def sum_(s: Moments, t: Moments) -> Moments | Unknown:
        return add(s, t, a, b)

    found = each_piece(sum_, x, y)
    if found is None:
        return whole
    d, parts = found
    made = join(parts, d) if isinstance(whole, Unknown) else whole
    return whole if isinstance(made, Unknown) else made_of(made, d, parts)


def _keep_mask(out: Moments | Unknown, *inputs: Any) -> Moments | Unknown:
    if isinstance(out, Unknown):
        return out
    for x in inputs:
        if isinstance(x, Moments) and "mask" in x.extra and "mask" not in out.extra:
            out = replace(out, extra={**out.extra, "mask": x.extra["mask"]})
    return out


@rule("aten.mul", "aten.multiply", near=True)
def mul(x: Operand, y: Operand) -> Result:
    """x y."""
    out = times(_tensor(x), _tensor(y))
    if isinstance(out, Unknown) and context().backward and isinstance(x, Moments) and isinstance(y, Moments):
        late = context().late
        out = _cotangent_times(x, y, late == frozenset((0,))) or _cotangent_times(y, x, late == frozenset((1,))) or out
    if isinstance(out, Moments) and isinstance(x, Moments) and isinstance(y, Moments) and "mixed" in x.extra and not x.sources & y.sources:
        out = replace(out, extra={**out.extra, "mixed": x.extra["mixed"].times(y.total_mean**2)})  # a mask: pairs keep only its mean
    return _keep_mask(out, x)


def _cotangent_times(g: Moments, y: Moments, known: bool) -> Moments | None:
    """g y for a cotangent g that is one Gaussian field of mean zero, and a forward value y (`known`), or one that lacks a source in which g is odd.

    A backward pass is linear in the cotangent that starts it, so that g is odd in the sign of that and uncorrelated with all that y is made of.
    Uncorrelated Gaussian fields are independent: the gradient independence that contractions of cotangents and forward values take, too.
    """
    odd = g.odd & ~y.sources
    if not (known or odd) or len(g.law) != 1 or g.law[0].fn.linear is None or len(y.law) > 3 or np.any(g.mean):
        return None
    g, y = broadcast(g, y)
    law = (*g.law, *y.with_law().law)
    return Moments(g.axes, g.dims, g.mean * y.mean, g.gram * y.gram, law, g.sources | y.sources, odd, worst(g.claim, y.claim, "rule"))


@rule("aten.div", "aten.true_divide", near=True)
def div(x: Operand, y: Operand, *, rounding_mode: str | None = None) -> Result:
    """x / y."""
    if rounding_mode is not None:
        return Unknown(f"division with rounding_mode={rounding_mode!r}")
    if not isinstance(y, Moments):
        return scale(_tensor(x), 1.0 / float(y)) if float(y) else Unknown("division by zero")
    value = scalar_value(y)
    if value is not None and value != 0 and isinstance(x, Moments) and np.broadcast_shapes(x.shape, y.shape) == x.shape:
        return _keep_mask(scale(x, 1.0 / value), x)
    shares = shares_of(x, y) if isinstance(x, Moments) and "ranked" in x.extra else None
    return multiply(_tensor(x), apply(y, power(-1.0))) if shares is None else shares


@rule("aten.addcmul", near=True)
def addcmul(x: Moments, a: Moments, b: Moments, *, value: float = 1.0) -> Result:
    """x + v a b."""
    product = multiply(a, b)
    return product if isinstance(product, Unknown) else add(x, product, 1.0, value)


@rule("aten.addcdiv", near=True)
def addcdiv(x: Moments, a: Moments, b: Moments, *, value: float = 1.0) -> Result:
    """x + v a / b."""
    return addcmul(x, a, apply(b, power(-1.0)), value=value)


@rule("aten.lerp", near=True)
def lerp(x: Moments, y: Moments, weight: Operand) -> Result:
    """x + w (y − x)."""
    if not isinstance(weight, Moments):
        return add(x, y, 1.0 - float(weight), float(weight))
    difference = add(y, x, 1.0, -1.0)
    if isinstance(difference, Unknown):
        return difference
    step = multiply(weight, difference)
    return step if isinstance(step, Unknown) else add(x, step)


# -- comparisons and choice --------------------------------------------------------------------------------------


def _step(at: float, op: str) -> Scalar:
    tests = {"gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal}
    below, above = (0.0, 1.0) if op[0] == "g" else (1.0, 0.0)
    return Scalar(f"{op}({at:g})", lambda x: tests[op](x, at).astype(float), kinks=(at,), pieces=((below,), (above,)))


def _comparison(name: str) -> None:
    @rule(f"aten.{name}", near=True)
    def run(x: Moments, y: Operand) -> Result:
        if isinstance(y, Moments):
            value = scalar_value(y)
            if value is None:
                difference = add(x, y, 1.0, -1.0)
                return difference if isinstance(difference, Unknown) else apply(difference, _step(0.0, name))
            y = value
        return apply(x, _step(float(y), name))

    run.__doc__ = f"1[x {name} y]."


for _name in ("gt", "ge", "lt", "le"):
    _comparison(_name)


@rule("aten.logical_and", "aten.bitwise_and", near=True)
def both(x: Moments, y: Operand) -> Result:
    """1[x] 1[y] of comparisons (the two limits of a clamp)."""
    if not isinstance(y, Moments) or "high" in x.extra or "high" in y.extra:
        return Unknown(f"{context().node.op} of values that are not comparisons")
    return times(x, y)


def _vanishes_outside(x: Moments, allowed: Any) -> bool:
    """Whether x is zero already where it would be set to zero: the gradient of a masked softmax."""
    own = x.extra.get("support")
    if own is None or tuple(own.shape) != x.shape:
        return False
    return bool(np.all(np.broadcast_to(allowed, x.shape)[own]))


@rule("aten.where", near=True)
def where(condition: Moments, x: Operand, y: Operand) -> Result:
    """x where the condition holds, y elsewhere."""
    known = condition.extra.get("known")
    xs, ys = _tensor(x), _tensor(y)
    if known is not None:
        for one, other, allowed in ((xs, ys, known.astype(bool)), (ys, xs, ~known.astype(bool))):
            value = scalar_value(other)
            if value is not None and value < MASKED:
                return with_mask(one, allowed)
            if value == 0.0 and _vanishes_outside(one, allowed):
                return one
    condition, xs, ys = broadcast(condition, xs, ys)
    if condition.sources & (xs.sources | ys.sources):
        left = multiply(condition, xs)
        right = multiply(scale(condition, -1.0, 1.0), ys)
        for part in (left, right):
            if isinstance(part, Unknown):
                return part
        return add(left, right)  # type: ignore[arg-type]
    cross = joint(xs, ys)
    if cross is None:
        return Unknown("the two choices depend on each other in a way that is not tracked")
    m, (mi, mj) = condition.gram, condition.pair_means()
    mean = condition.mean * xs.mean + (1 - condition.mean) * ys.mean
    gram = m * xs.gram + (mi - m) * cross + (mj - m) * swap(xs.axes, cross) + (1 - mi - mj + m) * ys.gram
    sources = condition.sources | xs.sources | ys.sources
    return Moments.gaussian(
        xs.axes,
        xs.dims,
        mean,
        gram,
        sources,
        odd=xs.odd & ys.odd if scalar_value(ys) != 0 else xs.odd,
        claim=worst(condition.claim, xs.claim, ys.claim),
    )


@rule("aten.masked_fill", near=True)
def masked_fill(x: Moments, mask: Moments, value: Operand) -> Result:
    """value where the mask holds."""
    return where(mask, value, x)


@rule("aten.maximum", "aten.minimum", near=True)
def maximum(x: Moments, y: Moments) -> Result:
    """max(x, y) = y + relu(x − y)."""
    sign = 1.0 if "maximum" in context().node.op else -1.0
    difference = add(x, y, sign, -sign)
    if isinstance(difference, Unknown):
        return difference
    return add(y, apply(difference, _function("relu")), 1.0, sign)


# -- backward ----------------------------------------------------------------------------------------------------


def _sloped(grad: Moments, x: Moments, slope: Scalar) -> Moments | Unknown:
    return along_rows(times(grad, apply(x, slope)), grad, x, slope)


def _backward(op: str, name: str) -> None:
    @rule(f"aten.{op}", near=True)
    def run(grad: Moments, x: Moments, *args: Any, **kwargs: Any) -> Result:
        return _sloped(grad, x, derivative(name, *args, **kwargs))

    run.__doc__ = f"g f′(x), f = {name}."


_SLOPES = {
    "gelu_backward": "gelu",
    "silu_backward": "silu",
    "mish_backward": "mish",
    "hardtanh_backward": "hardtanh",
    "hardsigmoid_backward": "hardsigmoid",
    "hardswish_backward": "hardswish",
    "softplus_backward": "softplus",
    "softshrink_backward": "softshrink",
    "hardshrink_backward": "hardshrink",
}
for _op, _name in _SLOPES.items():
    _backward(_op, _name)


@rule("aten.threshold_backward", near=True)
def threshold_backward(grad: Moments, x: Moments, threshold: float) -> Result:
    """g 1[x > t]."""
    return _sloped(grad, x, _step(float(threshold), "gt"))


@rule("aten.leaky_relu_backward", near=True)
def leaky_relu_backward(grad: Moments, x: Moments, slope: float, is_result: bool) -> Result:
    """g (1 where x > 0, else the slope)."""
    return _sloped(grad, x, derivative("leaky_relu", slope))


@rule("aten.elu_backward", near=True)
def elu_backward(grad: Moments, alpha: float, scale_: float, input_scale: float, is_result: bool, x: Moments) -> Result:
    """g f′(x), from the input or from the result y (then f′ = y·input_scale + α·scale·input_scale below 0)."""
    if not is_result:
        return _sloped(grad, x, derivative("elu", alpha, scale_, input_scale))
    a = float(alpha) * float(scale_) * float(input_scale)
    fn = Scalar(
        "elu'(y)",
        lambda y: np.where(y > 0, float(scale_), y * float(input_scale) + a),
        kinks=(0.0,),
        pieces=((a, float(input_scale)), (float(scale_),)),
    )
    return _sloped(grad, x, fn)


_LOGISTIC = Scalar("y(1-y)", lambda y: y * (1 - y), pieces=((0.0, 1.0, -1.0),))
_TANH = Scalar("1-y²", lambda y: 1 - y * y, pieces=((1.0, 0.0, -1.0),))


@rule("aten.sigmoid_backward", near=True)
def sigmoid_backward(grad: Moments, y: Moments) -> Result:
    """g y (1 − y)."""
    return _sloped(grad, y, _LOGISTIC)


@rule("aten.tanh_backward", near=True)
def tanh_backward(grad: Moments, y: Moments) -> Result:
    """g (1 − y²)."""
    return _sloped(grad, y, _TANH)


@rule("aten.log_sigmoid_backward", near=True)
def log_sigmoid_backward(grad: Moments, x: Moments, buffer: Any) -> Result:
    """g σ(−x)."""
    return _sloped(grad, x, derivative("logsigmoid"))


@rule("aten._prelu_kernel_backward", near=True)
def prelu_backward(grad: Moments, x: Moments, w: Moments) -> Result:
    """g (1 or w), and g min(x, 0)."""
    low = multiply(grad, apply(x, Scalar("min(x,0)", lambda v: np.minimum(v, 0.0), kinks=(0.0,), pieces=((0.0, 1.0), (0.0,)))))
    value = scalar_value(w)
    if value is None:
        return Unknown("the gradient of a PReLU with random slopes"), low
    return multiply(grad, apply(x, derivative("leaky_relu", value))), low


def function_of(name: str, *args: Any, **kwargs: Any) -> Scalar | None:
    """The function that an operation applies to each entry of its first argument; None where it is no such operation."""
    return _function(name, *args, **kwargs) if name in _UNARY else None


def slope_of(op: str, *args: Any) -> tuple[Scalar, bool] | None:
    """The factor by which a backward operation multiplies the cotangent, and whether it is a function of the forward result (else of the input).

    `args` are its arguments after the two tensors. None where it is no such operation, or keeps them in another order.
    """
    match op:
        case "tanh_backward":
            return _TANH, True
        case "sigmoid_backward":
            return _LOGISTIC, True
        case "threshold_backward":
            return _step(float(args[0]), "gt"), True
        case "leaky_relu_backward":
            return derivative("leaky_relu", args[0]), bool(args[1])
        case _ if op in _SLOPES:
            return derivative(_SLOPES[op], *args), False
        case _:
            return None
