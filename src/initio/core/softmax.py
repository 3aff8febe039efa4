"""Moments of softmax weights of independent normal logits, exact for any spread and length.

S^−n = ∫ t^(n−1) e^(−tS) dt / Γ(n) for the sum S = Σ e^x_j over T logits; with t = e^y, x ~ N(0, s) and w = e^(x + y) this gives
E[p₁^a p₂^b] = ∫ E[w^a e^−w] E[w^b e^−w] E[e^−w]^(T−2) dy / Γ(a + b), and for two copies of the logits
E[p₁ p₁′] = ∫∫ E[w e^−w w′ e^−w′] E[e^(−w−w′)]^(T−1) dy dy′. The integrands are analytic and decay
double-exponentially, so the trapezoidal rule with the steps below is good to about 1e-8 (it gives E[p] = 1/T to that).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["softmax_moment", "softmax_moments", "softmax_pair"]

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
    std, step = math.sqrt(variance), 0.125
    y = step * np.arange(math.floor(-(9.0 * std + 30.0) / step), math.ceil((9.0 * std + 6.0) / step) + 1)
    if std <= 1.0:
        x, weight = np.polynomial.hermite_e.hermegauss(64)
        return step, _gumbel(y[:, None] + std * x, a) @ (weight / weight.sum())
    count = math.ceil(9.0 * std / step)
    x = step * np.arange(-count, count + 1)
    density = np.exp(-0.5 * x * x / variance)
    return step, np.convolve(_gumbel(y[0] + step * np.arange(-count, len(y) + count), a), density / density.sum(), mode="valid")


def _gumbel(v: Array, a: int) -> Array:
    return np.exp(a * v - np.exp(np.minimum(v, 60.0)))


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
