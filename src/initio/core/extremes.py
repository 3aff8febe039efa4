"""Moments of the maximum over a window of exchangeable normals, and of an increasing function of it.

X_i = m + W + σ Z_i with W ~ N(0, cov) common to the window and σ² = var − cov, so max X = m + W + σ T with T the maximum of n
independent standard normals, whose density is n φ Φ^(n−1). A second window X′_i = m + W′ + σ Z′_i has
Cov(W, W′) = `cross` and, where it lies at the same places (another sample or channel), corr(Z_i, Z′_i) = r = (aligned − cross)/σ².
(T, T′) then has distribution function Φ₂(t, t′; r)^n.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from initio.core import gaussian, piecewise, quadrature
from initio.core.scalar import IDENTITY, Scalar

__all__ = ["max_moments", "max_pair", "same_argmax"]

Array: TypeAlias = "np.ndarray[Any, Any]"


def max_moments(mean: ArrayLike, var: ArrayLike, cov: ArrayLike, n: int, f: Scalar = IDENTITY) -> tuple[Array, Array]:
    """E f(M) and E f(M)² for M the maximum of n normals of one mean, variance and pairwise covariance; f increasing.

    For an increasing f, f(max X_i) = max f(X_i). cov < 0 (at least −var/(n − 1)) is exact for the identity and matched in mean
    and variance of M otherwise.
    """
    _require_increasing(f)
    m, v, c = _flat(mean, var, cov)
    shape = np.broadcast_shapes(np.shape(mean), np.shape(var), np.shape(cov))
    spread = np.sqrt(np.maximum(v - c, 0.0))
    first, second = order_moments(n)
    if f is IDENTITY:
        one = m + spread * first
        return one.reshape(shape), (one**2 + spread**2 * (second - first**2) + c).reshape(shape)
    m, spread, c = _matched(m, spread, c, n)
    return _expect_order(f, m, spread, c, n).reshape(shape), _expect_order(f.times(f), m, spread, c, n).reshape(shape)


def max_pair(
    mean: ArrayLike, var: ArrayLike, cov: ArrayLike, cross: ArrayLike, n: int, aligned: ArrayLike | None = None, f: Scalar = IDENTITY
) -> Array:
    """E f(M) f(M′) for two windows as above: `cross` between entries at different places, `aligned` at the same (None: as cross).

    Exact (1e-8) for the identity and without alignment; else by a two-dimensional rule, about 1e-6 where cov > 0 smooths f and
    1e-4 where a kink of f stays. cov < 0 takes the cross terms to first order.
    """
    _require_increasing(f)
    given = cross if aligned is None else aligned
    shape = np.broadcast_shapes(np.shape(mean), np.shape(var), np.shape(cov), np.shape(cross), np.shape(given))
    m, v, c, b, d = _flat(mean, var, cov, cross, given)
    spread2 = np.maximum(v - c, 0.0)
    spread = np.sqrt(spread2)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.clip(np.where(spread2 > 0, (d - b) / spread2, 0.0), -1.0, 1.0)
    first, _ = order_moments(n)
    if f is IDENTITY:
        return ((m + spread * first) ** 2 + spread2 * _order_covariance(r, n) + b).reshape(shape)
    shifted, spread, common = _matched(m, spread, c, n)
    inside = np.clip(b, -common, common)
    out = np.empty_like(m)
    for row in range(m.size):
        out[row] = _pair(f, shifted[row], spread[row], common[row], inside[row], r[row], n)
    beyond = b - inside
    if np.any(beyond):
        slope = f.derivative
        if slope is None:
            raise ValueError(f"max_pair with negative covariance needs the derivative of {f.name}")
        out += beyond * _expect_order(slope, shifted, spread, common, n) ** 2
    return out.reshape(shape)


def same_argmax(r: ArrayLike, n: int) -> Array:
    """P(the maxima of n independent pairs of standard normals with correlation r lie at the same place): 1/n at r = 0, 1 at r = 1."""
    values, _ = _agreement(n)
    return _at(values, np.asarray(r, float))


@lru_cache(maxsize=1024)
def order_moments(n: int) -> tuple[float, float]:
    """E T and E T² of the maximum T of n independent standard normals."""
    if n < 1:
        raise ValueError(f"a maximum needs n >= 1 entries, got {n}")
    t, weight = _order_rule(n)
    return float(weight @ t), float(weight @ (t * t))


@lru_cache(maxsize=1024)
def _order_rule(n: int) -> tuple[Array, Array]:
    """Points and weights of the density n φ Φ^(n−1)."""
    x, w = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(-10, 14, 73)
    half = (edges[1] - edges[0]) / 2
    t = ((edges[:-1] + half)[:, None] + half * x).ravel()
    weight = np.tile(w * half, edges.size - 1) * np.exp(_log_density(t, n)) * piecewise.normal_pdf(t)
    return t[weight > 1e-30], weight[weight > 1e-30]


def _log_density(t: Array, n: int) -> Array:
    """Log of the density of T relative to φ."""
    return np.log(n) + (n - 1) * special.log_ndtr(t)


def _expect_order(f: Scalar, mean: Array, spread: Array, common: Array, n: int) -> Array:
    """E f(mean + W + spread T)."""
    std = np.sqrt(common)
    out = np.empty_like(mean)
    flat = spread <= 1e-12 * std
    if flat.any():
        out[flat] = gaussian.expect(f, (mean + spread * order_moments(n)[0])[flat], common[flat])
    rows = np.flatnonzero(~flat)
    if rows.size:
        m, s, w = mean[rows], spread[rows], std[rows]
        points = np.asarray((*f.kinks, *f.knots))
        breaks = (points - m[:, None]) / np.where(s > 0, s, 1.0)[:, None]
        near = (w / np.where(s > 0, s, 1.0))[:, None]
        breaks = np.concatenate([breaks + step * near for step in (-8, -3, 0, 3, 8)], axis=1)

        def integrand(i: Array, z: Array) -> Array:
            values = gaussian.average(f, (m[i] + s[i] * z).ravel(), np.broadcast_to(w[i], z.shape).ravel())
            return values.reshape(z.shape) * np.exp(_log_density(z, n))

        out[rows] = quadrature.integrate(integrand, breaks)[0]
    return out


def _pair(f: Scalar, mean: float, spread: float, common: float, cross: float, r: float, n: int) -> float:
    """E f(mean + W + spread T) f(mean + W′ + spread T′)."""
    if r == 0:
        smoothed = _smoothed(f, float(spread), n)
        return float(gaussian.expect2(smoothed, smoothed, mean, common, mean, common, cross))
    t, u, weight = _joint_rule(float(r), n)
    values = gaussian.expect2(f, f, mean + spread * t, common, mean + spread * u, common, cross)
    return float(weight @ values)


@lru_cache(maxsize=256)
def _smoothed(f: Scalar, spread: float, n: int) -> Scalar:
    """X ↦ E f(x + spread T)."""
    if spread == 0:
        return f

    def fn(x: Array) -> Array:
        flat, place = np.unique(x, return_inverse=True)
        zero = np.zeros_like(flat)
        return _expect_order(f, flat, zero + spread, zero, n)[place].reshape(x.shape)

    wide = 10 * spread
    knots = tuple(sorted({*(k + e for k in f.kinks for e in (-wide, wide)), *(k + e for k in f.knots for e in (-wide, wide))}))
    return Scalar(f"E {f.name}(x + {spread:g} T{n})", fn, (), knots)


@lru_cache(maxsize=256)
def _joint_rule(r: float, n: int) -> tuple[Array, Array, Array]:
    """Points and weights of the law of (T, T′): the maxima at the same place, n φ₂ Φ₂^(n−1), and at two, n(n−1) Φ₂^(n−2) ∂₁Φ₂ ∂₂Φ₂."""
    width = np.sqrt((1 - r) * (1 + r))
    if r >= 1 - 1e-9:
        t, weight = _order_rule(n)
        return t, t, weight
    h, k = 0.2, 0.3
    centre, across = np.meshgrid(np.arange(-8.4, 9.5, h), np.arange(-12.0, 12.1, k), indexing="ij")
    # the ridge t ≈ t′ of the law has width √(1 − r²)
    t, u = (centre + width * across / 2).ravel(), (centre - width * across / 2).ravel()
    below = np.maximum(piecewise.orthant(-t, -u, np.full_like(t, r)), 1e-300)
    power = np.exp((n - 2) * np.log(below)) if n > 1 else np.zeros_like(t)
    slope_t = piecewise.normal_pdf(t) * special.ndtr((u - r * t) / width)
    slope_u = piecewise.normal_pdf(u) * special.ndtr((t - r * u) / width)
    density2 = piecewise.normal_pdf(t) * piecewise.normal_pdf((u - r * t) / width) / width
    same = n * density2 * (power * below if n > 1 else 1.0)
    weight = (same + n * (n - 1) * power * slope_t * slope_u) * h * k * width
    keep = weight > 1e-10 * weight.max()
    return t[keep], u[keep], weight[keep] / weight[keep].sum()


_ANGLES = np.cos(np.pi * (np.arange(32) + 0.5) / 32) * (np.pi / 2)


@lru_cache(maxsize=256)
def _agreement(n: int) -> tuple[np.polynomial.Chebyshev, np.polynomial.Chebyshev]:
    """P(same place) and Cov(T, T′) = ∫₀^r P (Price's theorem), as series in θ = arcsin r, in which both are smooth."""
    step = 0.2
    z, y = np.meshgrid(np.arange(-6.6, 9.1, step) if n > 1 else np.arange(-9, 9.1, step), np.arange(-8.6, 8.7, step), indexing="ij")
    weight = step**2 * piecewise.normal_pdf(z) * piecewise.normal_pdf(y)
    values = np.empty_like(_ANGLES)
    for i, angle in enumerate(_ANGLES):
        r = np.sin(angle)
        below = piecewise.orthant(-z, -(r * z + np.cos(angle) * y), np.full_like(z, r))
        values[i] = n * np.sum(weight * np.maximum(below, 0.0) ** (n - 1))
    domain = [-np.pi / 2, np.pi / 2]
    probability = np.polynomial.Chebyshev.fit(_ANGLES, values, 31, domain=domain)
    slope = np.polynomial.Chebyshev.fit(_ANGLES, values * np.cos(_ANGLES), 31, domain=domain)
    covariance = slope.integ(lbnd=0.0)
    return probability, covariance


def _order_covariance(r: Array, n: int) -> Array:
    """Cov(T, T′) for pairwise correlation r."""
    return _at(_agreement(n)[1], r) if np.any(r) else np.zeros_like(r)


def _at(series: np.polynomial.Chebyshev, r: Array) -> Array:
    return np.asarray(series(np.arcsin(np.clip(r, -1.0, 1.0))))


def _matched(mean: Array, spread: Array, cov: Array, n: int) -> tuple[Array, Array, Array]:
    """Where cov < 0: mean and spread of an m + σ T with the same mean and variance, and no common part."""
    first, second = order_moments(n)
    variance = second - first**2
    matched = np.sqrt(np.maximum(spread**2 + np.minimum(cov, 0.0) / variance, 0.0))
    return mean + (spread - matched) * first, matched, np.maximum(cov, 0.0)


def _flat(*arguments: ArrayLike) -> list[Array]:
    arrays = np.broadcast_arrays(*(np.asarray(x, float) for x in arguments))
    return [np.ascontiguousarray(x).reshape(-1) for x in arrays]


def _require_increasing(f: Scalar) -> None:
    if not f.increasing:
        raise ValueError(f"f(max) = max(f) needs an increasing f; {f.name} is not known to be one")
