"""Moments of softmax weights of independent normal logits, exact for any spread and length.

S^−n = ∫ t^(n−1) e^(−tS) dt / Γ(n) for the sum S = Σ e^x_j over T logits; with t = e^y, x ~ N(0, s) and w = e^(x + y) this gives
E[p₁^a p₂^b] = ∫ E[w^a e^−w] E[w^b e^−w] E[e^−w]^(T−2) dy / Γ(a + b), and for two copies of the logits
E[p₁ p₁′] = ∫∫ E[w e^−w w′ e^−w′] E[e^(−w−w′)]^(T−1) dy dy′. The integrands are analytic and decay
double-exponentially, so the trapezoidal rule with the steps below is good to about 1e-8 (it gives E[p] = 1/T to that).

For L = log S itself: with an exponential variable e^G, e^(G − L) > e^y has the probability E e^(−e^y S) = E[e^−w]^T, so that Z = G − L has this
survival function and E Z = −γ − E L, Var Z = π²/6 + Var L. And p_i is the probability that x_i less a G of its own is the greatest
(Gumbel 1954), so that sharp softmaxes are maxima of normals of variance s + π²/6.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from initio.core.extremes import max_pair, order_moments, same_argmax

__all__ = [
    "agreement",
    "log_sum",
    "log_sum_covariance",
    "softmax_entropy",
    "softmax_moment",
    "softmax_moments",
    "softmax_pair",
    "value_excess",
]

Array: TypeAlias = "np.ndarray[Any, Any]"

_STEP = 0.25  # of y: the error of the rule is about exp(−π²/step)
_REACH = 8.5  # standard deviations
_BELOW_ONE = 1 - 1e-16


def softmax_moments(var: ArrayLike, length: ArrayLike) -> Array:
    """E[p²] of a softmax over `length` entries whose logits vary independently with variance `var` over the entries.

    What is common to all entries cancels. E[p] = 1/length and, the weights adding up to 1,
    E[p_i p_j] = (1 − length E[p²]) / (length (length − 1)).
    """
    s, n = np.broadcast_arrays(np.asarray(var, float), np.asarray(length, float))
    return np.array([softmax_moment(float(a), int(b), 2) for a, b in zip(s.ravel(), n.ravel(), strict=True)]).reshape(s.shape)


def softmax_pair(var: ArrayLike, cov: ArrayLike, length: ArrayLike) -> Array:
    """E[p_i p′_i] for two copies of the logits with covariance `cov` between the varying parts at the same entry i.

    cov = var gives E[p²], cov = 0 gives 1/length²; E[p_i p′_j] = (1 − length E[p_i p′_i]) / (length (length − 1)).
    """
    s, c, n = np.broadcast_arrays(np.asarray(var, float), np.asarray(cov, float), np.asarray(length, float))
    rows = zip(s.ravel(), c.ravel(), n.ravel(), strict=True)
    return np.array([_pair(float(a), float(b), float(t)) for a, b, t in rows]).reshape(s.shape)


@lru_cache(maxsize=8192)
def softmax_moment(variance: float, length: int, a: int, b: int = 0) -> float:
    """E[p₁^a p₂^b] of a softmax over `length` independent N(·, variance) logits."""
    _check(variance, length)
    if length == 1:
        return 0.0 if b else 1.0
    if variance <= 1e-12:
        return float(length) ** -(a + b)
    step, base = _tilted(variance, 0)
    with np.errstate(divide="ignore"):
        power = np.exp((length - (2 if b else 1)) * np.log(np.minimum(base, 1.0)))
    integrand = _tilted(variance, a)[1] * (_tilted(variance, b)[1] if b else 1.0) * power
    return float(step * integrand.sum() / math.gamma(a + b))


@lru_cache(maxsize=64)
def _tilted(variance: float, a: int) -> tuple[float, Array]:
    """E[exp(a (y + x) − e^(y+x))], x ~ N(0, variance), on a grid of y that serves every length below e^18."""
    std = math.sqrt(variance)
    step, y = _places(std)
    if std <= 1.0:
        x, weight = np.polynomial.hermite_e.hermegauss(64)
        return step, _gumbel(y[:, None] + std * x, a) @ (weight / weight.sum())
    v = 0.125 * np.arange(-320, 49)  # where exp(a v − e^v), or for a = 0 its derivative, is not negligible
    if a == 0:
        return step, ndtr((v - y[:, None]) / std) @ (0.125 * _gumbel(v, 1))
    return step, np.exp(-0.5 * ((v - y[:, None]) / std) ** 2) @ (0.125 / (std * math.sqrt(2.0 * math.pi)) * _gumbel(v, a))


def _places(std: float) -> tuple[float, Array]:
    """A step, and the grid of y with that step."""
    step = max(0.125, std / 16.0)
    return step, step * np.arange(math.floor(-(9.0 * std + 30.0) / step), math.ceil((9.0 * std + 6.0) / step) + 1)


def _gumbel(v: Array, a: int) -> Array:
    return np.exp(a * v - np.exp(np.minimum(v, 60.0)))


SHARP = 1e5
"""Variance of the logits from which on a softmax is the choice of the largest, to a part in 10⁴."""
NEARLY_SHARP = 30.0
"""Variance of the logits from which on two softmaxes are compared as two maxima of normals, to a part in 50 of the part that depends on their covariance."""


@lru_cache(maxsize=4096)
def log_sum(variance: float, length: int) -> tuple[float, float]:
    """Mean and variance of log Σ e^x_j over `length` independent N(0, variance) logits."""
    _check(variance, length)
    if variance > SHARP:
        first, second = order_moments(length)
        return math.sqrt(variance) * first, variance * (second - first * first)
    if variance <= 1e-12 or length == 1:
        return math.log(length), variance / length
    step, y = _places(math.sqrt(variance))
    with np.errstate(divide="ignore"):
        survival = np.exp(length * np.log(np.minimum(_tilted(variance, 0)[1], 1.0)))
    survival[0] *= 0.5
    mean = float(y[0] + step * survival.sum())
    # ∫ 2 (y − mean) P(Z > y) dy from the slope 2 at its start on: the rule lacks step²/6
    square = float((y[0] - mean) ** 2 + 2.0 * step * ((y - mean) @ survival)) + step * step / 6.0
    return -float(np.euler_gamma) - mean, max(square - math.pi**2 / 6.0, 0.0)


def log_sum_covariance(var: float, cov: float, length: int) -> float:
    """Cov(log Σ e^x, log Σ e^x′) for two copies of the logits with covariance `cov` at the same entry.

    Its derivative is length · E[p p′] (Price 1958). b ρ + A ρ^k with value and slope right at ρ = cov / var = 0 and 1 is within 0.03 Var
    log Σ e^x for variances up to `NEARLY_SHARP`, from where on the covariance of two maxima is in place of it.
    """
    whole = log_sum(var, length)[1]
    rho = float(np.clip(cov / var, -1.0, 1.0)) if var > 0 else 0.0
    if rho == 1.0 or length == 1:
        return rho * whole
    if var > NEARLY_SHARP:
        normal = 1.0 + math.pi**2 / 6.0 / var
        at = (max_pair(0.0, 1.0, 0.0, 0.0, length, r / normal) - order_moments(length)[0] ** 2 for r in (rho, 1.0))
        return whole * float(next(at)) / float(next(at))
    base = var / length
    rest = whole - base
    power = max((var * agreement(var, var, length) - base) / rest, 1.0) if rest > 1e-9 * whole else 1.0
    return base * rho + (rest * rho**power if rho > 0.0 else 0.0)


def agreement(var: float, cov: float, length: int) -> float:
    """Length · E[p p′] at the same entry of two copies of the logits with covariance `cov`: the mean of Σ p p′."""
    if length == 1:
        return 1.0
    if cov >= var:
        return length * softmax_moment(var, length, 2) if var <= SHARP else 1.0 - order_moments(length)[0] / math.sqrt(var)
    if var <= NEARLY_SHARP:
        return length * float(softmax_pair(float(f"{var:.6g}"), float(f"{cov:.6g}"), length))
    normal = var + math.pi**2 / 6.0
    return agreement(var, var, length) * float(same_argmax(cov / normal, length) / same_argmax(var / normal, length))


def value_excess(var: float, length: int) -> float:
    """E (Σ p x)² − var E Σ p², x the varying part of the logits: by Stein's lemma var² (1 − E[S₂ + 6 S₃ − 6 S₂²]), S_k = Σ p^k."""
    if length == 1:
        return 0.0
    if var > SHARP:
        first, second = order_moments(length)
        return var * (second - 1.0 + first / math.sqrt(var))
    e2, e3, e4 = (softmax_moment(var, length, a) for a in (2, 3, 4))
    squared = length * (e4 + (length - 1) * softmax_moment(var, length, 2, 2))
    return var * var * (1.0 - length * (e2 + 6.0 * e3) + 6.0 * squared)


@lru_cache(maxsize=4096)
def softmax_entropy(var: float, length: int) -> tuple[float, float]:
    """Mean and variance of the entropy −Σ p log p = L − Σ p x, L = log Σ e^x.

    E Σ p x = var (1 − E S₂) and, both by Stein's lemma and as dE f(x)/dvar = ½ E ∇²f, E[L Σ p x] = var dE[L²]/dvar.
    """
    if length == 1 or var > SHARP:
        return 0.0, 0.0
    if var <= 1e-12:
        return math.log(length), 0.0
    mean, variance = log_sum(var, length)
    alike = agreement(var, var, length)
    low, high = (log_sum(var * (1.0 + t), length) for t in (-1e-3, 1e-3))
    slope = (high[0] ** 2 + high[1] - low[0] ** 2 - low[1]) / 2e-3
    first = max(mean - var * (1.0 - alike), 0.0)
    second = mean * mean + variance - 2.0 * slope + value_excess(var, length) + var * alike
    return first, max(second - first * first, 0.0)


@lru_cache(maxsize=4096)
def _pair(var: float, cov: float, length: float) -> float:
    _check(var, length)
    cov = float(np.clip(cov, -var, var))
    if cov == 0 or length == 1:
        return 1 / length**2
    if cov == var:
        return softmax_moment(var, int(length), 2)
    # x = a + e, x′ = ±a + e′ with a common part a of variance |cov|
    y = _grid(var, length)
    a, weight = _normal(abs(cov), _STEP)
    zero, one = _averages(y, a, var - abs(cov))
    if cov > 0:
        zero_, one_ = zero, one
    else:
        zero_, one_ = zero[:, ::-1], one[:, ::-1]
    both = (zero * weight) @ zero_.T
    weighted = (one * weight) @ one_.T
    survival = np.log(np.clip(both, 1e-300, 1.0))
    return float(_STEP**2 * np.sum(weighted * np.exp((length - 1) * survival)))


def _averages(y: Array, a: Array, var: float) -> tuple[Array, Array]:
    """E[e^−w] and E[w e^−w] at w = exp(y + a + e), e ~ N(0, var), for every y (rows) and a (columns)."""
    x, weight = _normal(var)
    points = y[:, None] + a
    # the two grids share a lattice: evaluate each of its points once
    lattice, place = np.unique(np.round(points, 9), return_inverse=True)
    zero, one = np.empty_like(lattice), np.empty_like(lattice)
    for start in range(0, lattice.size, 4096):
        part = slice(start, start + 4096)
        w = np.exp(lattice[part, None] + x)
        decay = np.exp(-w)
        zero[part], one[part] = decay @ weight, (w * decay) @ weight
    return zero[place].reshape(points.shape), one[place].reshape(points.shape)


def _normal(var: float, lattice: float = 0.0) -> tuple[Array, Array]:
    """Equally spaced points and weights for N(0, var); the step divides `lattice` where one is given."""
    if var == 0:
        return np.zeros(1), np.ones(1)
    std = np.sqrt(var)
    step = 0.35 * min(1.0, std)
    if lattice:
        step = lattice / np.ceil(lattice / step)
    count = int(np.ceil(_REACH * std / step))
    x = np.arange(-count, count + 1) * step
    weight = np.exp(-0.5 * (x / std) ** 2)
    return x, weight / weight.sum()


def _grid(var: float, length: float, order: int = 2) -> Array:
    """Values of y = −log of the sum, with margin: e^y decays below, exp(−e^y) above."""
    low = -np.log(length) - (8 + order) * np.sqrt(var) - 24
    high = (8 + order) * np.sqrt(var) + 5
    return np.arange(np.floor(low / _STEP), np.ceil(high / _STEP) + 1) * _STEP


def _check(var: float, length: float) -> None:
    if not (var >= 0 and length >= 1):
        raise ValueError(f"softmax moments need var >= 0 and length >= 1, got var={var}, length={length}")
