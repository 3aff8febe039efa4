"""Every pointwise function of torch and activation of torch.nn as a `Scalar`, with its derivative.

`FUNCTIONS[name]` is a `Scalar`, or a factory taking torch's parameters under torch's names and defaults;
`DERIVATIVES[name]` is the derivative in the same form. At a kink the derivative takes the value that torch's backward takes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from scipy import special

from initio.core.scalar import IDENTITY, Scalar, affine, constant, from_pieces, power

__all__ = ["DERIVATIVES", "FUNCTIONS", "function"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Entry: TypeAlias = "Scalar | Callable[..., Scalar]"

_WIDE = (-20.0, 20.0)  # beyond, functions that vary on a scale of 1 have saturated


def _smooth(name: str, fn: Callable[[Array], Array], slope: Callable[[], Scalar], **flags: Any) -> Scalar:
    return Scalar(name, fn, (), _WIDE, slope=slope, **flags)


def _scaled(f: Scalar, a: float) -> Scalar:
    return f.then(affine(a))


ONE = constant(1.0)

# -- piecewise polynomials ---------------------------------------------------------------------------------------

RELU = from_pieces("relu", (0,), ((0,), (0, 1)), lambda x: np.maximum(x, 0.0), homogeneous=True, increasing=True)
STEP = from_pieces("step", (0,), ((0,), (1,)), lambda x: (x > 0).astype(float), increasing=True)
SIGN = from_pieces("sign", (0,), ((-1,), (1,)), np.sign, odd=True, increasing=True)
ABS = from_pieces("abs", (0,), ((0, -1), (0, 1)), np.abs, even=True, homogeneous=True)


@lru_cache(maxsize=1024)
def leaky_relu(negative_slope: float = 0.01) -> Scalar:
    """max(x, 0) + negative_slope min(x, 0)."""
    a = negative_slope
    fn = lambda x: np.where(x > 0, x, a * x)  # noqa: E731
    return from_pieces(f"leaky_relu({a:g})", (0,), ((0, a), (0, 1)), fn, homogeneous=True, increasing=a > 0)


def rrelu(lower: float = 1 / 8, upper: float = 1 / 3) -> Scalar:
    """Evaluation mode: leaky ReLU of the mean slope."""
    return leaky_relu((lower + upper) / 2)


@lru_cache(maxsize=1024)
def clamp(min: float | None = None, max: float | None = None) -> Scalar:  # noqa: A002 (torch's names)
    """min(max(x, min), max)."""
    low, high = -math.inf if min is None else float(min), math.inf if max is None else float(max)
    if low >= high:
        return constant(high)
    kinks, pieces = [], [(0.0, 1.0)]
    if math.isfinite(low):
        kinks, pieces = [low], [(low,), *pieces]
    if math.isfinite(high):
        kinks, pieces = [*kinks, high], [*pieces, (high,)]
    name = f"clamp({low:g}, {high:g})"
    return from_pieces(name, tuple(kinks), tuple(pieces), lambda x: np.clip(x, low, high), increasing=True, odd=low == -high)


def _clamp_min(min: float) -> Scalar:  # noqa: A002
    return clamp(min, None)


def _clamp_max(max: float) -> Scalar:  # noqa: A002
    return clamp(None, max)


def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Scalar:
    """X clamped to [min_val, max_val]."""
    return clamp(min_val, max_val)


@lru_cache(maxsize=1024)
def threshold(threshold: float, value: float) -> Scalar:
    """X where x > threshold, else value."""
    t, v = float(threshold), float(value)
    return from_pieces(f"threshold({t:g}, {v:g})", (t,), ((v,), (0, 1)), lambda x: np.where(x > t, x, v), increasing=v <= t)


@lru_cache(maxsize=1024)
def softshrink(lambd: float = 0.5) -> Scalar:
    """sign(x) max(|x| − lambd, 0)."""
    t = float(lambd)
    fn = lambda x: np.sign(x) * np.maximum(np.abs(x) - t, 0.0)  # noqa: E731
    return from_pieces(f"softshrink({t:g})", (-t, t), ((t, 1), (0,), (-t, 1)), fn, odd=True, increasing=True)


@lru_cache(maxsize=1024)
def hardshrink(lambd: float = 0.5) -> Scalar:
    """X where |x| > lambd, else 0."""
    t = float(lambd)
    fn = lambda x: np.where(np.abs(x) > t, x, 0.0)  # noqa: E731
    return from_pieces(f"hardshrink({t:g})", (-t, t), ((0, 1), (0,), (0, 1)), fn, odd=True, increasing=True)


HARDSIGMOID = from_pieces("hardsigmoid", (-3, 3), ((0,), (0.5, 1 / 6), (1,)), lambda x: np.clip(x / 6 + 0.5, 0, 1), increasing=True)
HARDSWISH = from_pieces("hardswish", (-3, 3), ((0,), (0, 0.5, 1 / 6), (0, 1)), lambda x: x * np.clip(x / 6 + 0.5, 0, 1))

# -- smooth functions --------------------------------------------------------------------------------------------

SIGMOID = _smooth("sigmoid", special.expit, lambda: _D_SIGMOID, increasing=True)
_D_SIGMOID = _smooth(
    "d sigmoid", lambda x: special.expit(x) * special.expit(-x), lambda: _D_SIGMOID.times(ONE.plus(SIGMOID, 1, -2)), even=True
)
TANH = _smooth("tanh", np.tanh, lambda: _D_TANH, odd=True, increasing=True)
_D_TANH = _smooth("d tanh", lambda x: 1 - np.tanh(x) ** 2, lambda: _scaled(TANH.times(_D_TANH), -2), even=True)
SOFTPLUS = _smooth("softplus", lambda x: np.logaddexp(0.0, x), lambda: SIGMOID, increasing=True)
LOGSIGMOID = _smooth("logsigmoid", lambda x: -np.logaddexp(0.0, -x), lambda: ONE.plus(SIGMOID, 1, -1), increasing=True)
TANHSHRINK = _smooth("tanhshrink", lambda x: x - np.tanh(x), lambda: ONE.plus(_D_TANH, 1, -1), odd=True, increasing=True)


def _silu_slope(x: Array) -> Array:
    s = special.expit(x)
    return s * (1 + x * (1 - s))


SILU = _smooth("silu", lambda x: x * special.expit(x), lambda: _D_SILU)
_D_SILU = _smooth("d silu", _silu_slope, lambda: _D_SIGMOID.times(constant(2.0).plus(IDENTITY.times(ONE.plus(SIGMOID, 1, -2)))))


def _mish(x: Array) -> Array:
    return x * np.tanh(np.logaddexp(0.0, x))


def _mish_slope(x: Array) -> Array:
    t = np.tanh(np.logaddexp(0.0, x))
    return t + x * special.expit(x) * (1 - t * t)


MISH = _smooth("mish", _mish, lambda: _D_MISH)
_D_MISH = _smooth("d mish", _mish_slope, lambda: _mish_product().derivative or ONE)


def _mish_product() -> Scalar:
    inner = SOFTPLUS.then(TANH)
    return inner.plus(IDENTITY.times(SIGMOID).times(ONE.plus(inner.times(inner), 1, -1)))


BELL = _smooth("exp(-x²/2)", lambda x: np.exp(-0.5 * x * x), lambda: _scaled(IDENTITY.times(BELL), -1), even=True)
NORMAL_CDF = _smooth("Φ", special.ndtr, lambda: _scaled(BELL, 1 / math.sqrt(2 * math.pi)), increasing=True)
ERF = _smooth("erf", special.erf, lambda: _scaled(affine(math.sqrt(2)).then(BELL), 2 / math.sqrt(math.pi)), odd=True, increasing=True)
ERFC = _smooth("erfc", special.erfc, lambda: _scaled(affine(math.sqrt(2)).then(BELL), -2 / math.sqrt(math.pi)))

_GELU = _smooth("gelu", lambda x: x * special.ndtr(x), lambda: _D_GELU)
_D_GELU = _smooth(
    "d gelu",
    lambda x: special.ndtr(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
    lambda: _scaled(BELL.times(from_pieces("2-x²", (), ((2, 0, -1),))), 1 / math.sqrt(2 * math.pi)),
)
_CUBIC = from_pieces("gelu cubic", (), ((0, math.sqrt(2 / math.pi), 0, math.sqrt(2 / math.pi) * 0.044715),), odd=True, increasing=True)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)))


def _gelu_tanh_slope(x: Array) -> Array:
    x = np.clip(x, -1e3, 1e3)
    t = np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


def _gelu_tanh_product() -> Scalar:
    inner = _CUBIC.then(TANH)
    return constant(0.5).plus(inner, 1, 0.5).plus(IDENTITY.times(_CUBIC.then(_D_TANH)).times(_CUBIC.derivative or ONE), 1, 0.5)


_GELU_TANH = _smooth("gelu(tanh)", _gelu_tanh, lambda: _D_GELU_TANH)
_D_GELU_TANH = _smooth("d gelu(tanh)", _gelu_tanh_slope, lambda: _gelu_tanh_product().derivative or ONE)


def gelu(approximate: str = "none") -> Scalar:
    """X Φ(x), or its tanh approximation (Hendrycks & Gimpel 2016)."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return _GELU if approximate == "none" else _GELU_TANH


@lru_cache(maxsize=1024)
def softplus(beta: float = 1.0, threshold: float = 20.0) -> Scalar:
    """log(1 + exp(beta x)) / beta, and x where beta x > threshold (from threshold 20 on the jump of exp(−threshold) is left out)."""
    smooth = affine(beta).then(SOFTPLUS).then(affine(1 / beta))
    if threshold >= 20:
        return smooth
    at = threshold / beta
    fn = lambda x: np.where(x * beta > threshold, x, smooth.fn(x))  # noqa: E731
    slope = _cut("d softplus", at, smooth, 1.0)
    return Scalar(f"softplus({beta:g}, {threshold:g})", fn, (at,), smooth.knots, slope=lambda: slope)


def _cut(name: str, at: float, smooth: Scalar, above: float) -> Scalar:
    """smooth′(x) up to `at`, the constant `above` beyond."""
    below = smooth.derivative
    assert below is not None
    fn = lambda x: np.where(x > at, above, below.fn(np.minimum(x, at)))  # noqa: E731
    return Scalar(f"{name} to {at:g}", fn, (at,), below.knots, slope=lambda: _cut(f"d {name}", at, below, 0.0))


# -- a kink and an exponential -----------------------------------------------------------------------------------


def _branch(name: str, negative: Scalar, scale: float, increasing: bool = True) -> Scalar:
    """Scale x for x > 0, `negative` below."""
    fn = lambda x: np.where(x > 0, scale * x, negative.fn(np.minimum(x, 0.0)))  # noqa: E731

    def slope() -> Scalar:
        below = negative.derivative
        assert below is not None
        return _join(f"d {name}", below, constant(scale))

    return Scalar(name, fn, (0.0,), _WIDE if len(negative.knots) == 0 else negative.knots, slope=slope, increasing=increasing)


def _join(name: str, below: Scalar, above: Scalar) -> Scalar:
    """`below` for x ≤ 0, `above` for x > 0."""
    fn = lambda x: np.where(x > 0, above.fn(np.maximum(x, 0.0)), below.fn(np.minimum(x, 0.0)))  # noqa: E731

    def slope() -> Scalar:
        left, right = below.derivative, above.derivative
        assert left is not None
        assert right is not None
        return _join(f"d {name}", left, right)

    return Scalar(name, fn, (0.0,), tuple(sorted({*_WIDE, *below.knots})), slope=slope)


@lru_cache(maxsize=1024)
def _exponential(amplitude: float, rate: float) -> Scalar:
    """Amplitude (exp(rate x) − 1), narrow feature of width 1/rate."""
    knots = (-20.0 / rate, 20.0 / rate)

    def slope() -> Scalar:
        return Scalar(
            f"{amplitude * rate:g}*exp({rate:g}*x)",
            lambda x: amplitude * rate * np.exp(rate * x),
            (),
            knots,
            waves=((complex(amplitude * rate), complex(rate)),),
            slope=lambda: _exponential(amplitude * rate, rate).derivative or ONE,
        )

    return Scalar(f"{amplitude:g}*expm1({rate:g}*x)", lambda x: amplitude * np.expm1(rate * x), (), knots, slope=slope)


@lru_cache(maxsize=1024)
def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Scalar:
    """Scale (x for x > 0, else alpha (exp(input_scale x) − 1)), as aten.elu."""
    name = f"elu({alpha:g})" if scale == input_scale == 1 else f"elu({alpha:g}, {scale:g}, {input_scale:g})"
    return _branch(name, _exponential(scale * alpha, input_scale), scale)


def selu() -> Scalar:
    """Klambauer et al. 2017."""
    return elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@lru_cache(maxsize=1024)
def celu(alpha: float = 1.0) -> Scalar:
    """X for x > 0, else alpha (exp(x/alpha) − 1)."""
    return _branch(f"celu({alpha:g})", _exponential(alpha, 1 / alpha), 1.0)


def _softsign_slope(order: int) -> Scalar:
    """d^order/dx^order x/(1 + |x|) = ±order! (1 + |x|)^−(order+1)."""
    size = math.factorial(order)
    right = (-1.0) ** (order - 1)
    fn = lambda x: size * np.where(x > 0, right, 1.0) * (1 + np.abs(x)) ** (-1.0 - order)  # noqa: E731
    return Scalar(f"d^{order} softsign", fn, (0.0,), _WIDE, slope=lambda: _softsign_slope(order + 1), even=order % 2 == 1)


SOFTSIGN = Scalar("softsign", lambda x: x / (1 + np.abs(x)), (0.0,), _WIDE, slope=lambda: _softsign_slope(1), odd=True, increasing=True)

# -- exponentials, waves, powers, logarithms ---------------------------------------------------------------------

EXP = Scalar("exp", np.exp, waves=((1 + 0j, 1 + 0j),), slope=lambda: EXP, increasing=True)
EXPM1 = Scalar("expm1", np.expm1, waves=((1 + 0j, 1 + 0j), (-1 + 0j, 0j)), slope=lambda: EXP, increasing=True)
EXP2 = affine(math.log(2)).then(EXP)
SIN = Scalar("sin", np.sin, waves=((-0.5j, 1j), (0.5j, -1j)), slope=lambda: COS, odd=True)
COS = Scalar("cos", np.cos, waves=((0.5 + 0j, 1j), (0.5 + 0j, -1j)), slope=lambda: _scaled(SIN, -1), even=True)
SINH = Scalar("sinh", np.sinh, waves=((0.5 + 0j, 1 + 0j), (-0.5 + 0j, -1 + 0j)), slope=lambda: COSH, odd=True, increasing=True)
COSH = Scalar("cosh", np.cosh, waves=((0.5 + 0j, 1 + 0j), (0.5 + 0j, -1 + 0j)), slope=lambda: SINH, even=True)
LOG = Scalar("log", np.log, (0.0,), poles=(0.0,), slope=lambda: RECIPROCAL, increasing=True)
LOG1P = Scalar("log1p", np.log1p, (-1.0,), poles=(-1.0,), slope=lambda: affine(1.0, 1.0).then(RECIPROCAL), increasing=True)
RECIPROCAL = power(-1.0)
SQRT = power(0.5)
RSQRT = power(-0.5)
ATAN = _smooth("atan", np.arctan, lambda: _LORENTZ, odd=True, increasing=True)
_LORENTZ = _smooth("1/(1+x²)", lambda x: 1 / (1 + x * x), lambda: _scaled(IDENTITY.times(_LORENTZ.times(_LORENTZ)), -2), even=True)
ASINH = _smooth("asinh", np.arcsinh, lambda: from_pieces("1+x²", (), ((1, 0, 1),)).then(RSQRT), odd=True, increasing=True)

FUNCTIONS: dict[str, Entry] = {
    "identity": IDENTITY, "relu": RELU, "step": STEP, "sign": SIGN, "sgn": SIGN, "abs": ABS, "relu6": clamp(0.0, 6.0),
    "leaky_relu": leaky_relu, "prelu": leaky_relu, "rrelu": rrelu, "clamp": clamp, "hardtanh": hardtanh,
    "clamp_min": _clamp_min, "clamp_max": _clamp_max,
    "threshold": threshold, "softshrink": softshrink, "hardshrink": hardshrink, "hardsigmoid": HARDSIGMOID, "hardswish": HARDSWISH,
    "sigmoid": SIGMOID, "tanh": TANH, "softplus": softplus, "logsigmoid": LOGSIGMOID, "log_sigmoid": LOGSIGMOID,
    "tanhshrink": TANHSHRINK, "silu": SILU, "mish": MISH, "gelu": gelu, "elu": elu, "selu": selu(), "celu": celu, "softsign": SOFTSIGN,
    "erf": ERF, "erfc": ERFC, "exp": EXP, "exp2": EXP2, "expm1": EXPM1, "log": LOG, "log1p": LOG1P,
    "log2": _scaled(LOG, 1 / math.log(2)), "log10": _scaled(LOG, 1 / math.log(10)),
    "sqrt": SQRT, "rsqrt": RSQRT, "reciprocal": RECIPROCAL, "square": power(2.0), "pow": power,
    "neg": affine(-1.0), "sin": SIN, "cos": COS, "sinh": SINH, "cosh": COSH, "atan": ATAN, "asinh": ASINH,
    "special_ndtr": NORMAL_CDF,
}  # fmt: skip


def function(name: str, *args: float | str | None, **kwargs: float | str | None) -> Scalar:
    """`FUNCTIONS[name]` with its parameters; a KeyError names what is missing."""
    if name not in FUNCTIONS:
        raise KeyError(f"no pointwise function {name!r}; known: {', '.join(sorted(FUNCTIONS))}")
    entry = FUNCTIONS[name]
    if isinstance(entry, Scalar):
        if args or kwargs:
            raise TypeError(f"{name} takes no parameters, got {args} {kwargs}")
        return entry
    return entry(*args, **kwargs)


def _differentiated(entry: Entry) -> Entry:
    if isinstance(entry, Scalar):
        out = entry.derivative
        assert out is not None, entry.name
        return out

    def factory(*args: float, **kwargs: float) -> Scalar:
        out = entry(*args, **kwargs).derivative
        assert out is not None
        return out

    return factory


DERIVATIVES: dict[str, Entry] = {name: _differentiated(entry) for name, entry in FUNCTIONS.items()}
