# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy's stubs leave parts of its results untyped
"""How a sum depends on one of its terms where neither need be Gaussian.

The law of z = X + Y is a function of one Gaussian field ζ. As ζ and a field u of Y are not jointly Gaussian, their covariance does
not determine E[f(ζ) g(u)]: with X = 0 half of the time, as behind a ReLU, the sign of z is often that of u. Given u, however, z is
the sum of the rest with known values, and so is its rank among all values of z, which is ζ.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.polynomial.hermite_e import herme2poly, hermevander
from scipy.special import ndtri

from initio.core.axes import Array
from initio.core.gaussian import expect2
from initio.core.moments import Cross, Factor, Field, Moments
from initio.core.scalar import Scalar, from_pieces

__all__ = ["Conditional", "expected", "given", "matched", "quantiles"]

GIVEN, REST = 48, 96
"""Values of the field that is given, and of the rest of the sum."""
DEPENDENT = 1e-4
"""Share of the square of a factor from which on its dependence on another is followed."""


class Conditional:
    """ζ for given values of the field of factor k of `part`, which times a is one of two terms; b · `rest` is the other."""

    def __init__(self, part: Moments, k: int, a: float, rest: Moments, b: float) -> None:
        self._part, self._k, self._a, self._rest, self._b = part, k, a, rest, b

    def __call__(self) -> tuple[Array, Array]:
        """Equally likely values of the standardised u (GIVEN, 1), and of the standardised ζ given each (GIVEN, any)."""
        return self._table

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        u = ndtri((np.arange(GIVEN) + 0.5) / GIVEN)
        others = quantiles(self._part, self._a, REST // 4, without=self._k)
        rest = quantiles(self._rest, self._b, REST)
        z = np.multiply.outer(_values(self._part, self._part.law[self._k], u), others)[..., None] + rest
        rank = np.empty(z.size)
        rank[np.argsort(z, axis=None, kind="stable")] = (np.arange(z.size) + 0.5) / z.size
        return u[:, None], ndtri(rank).reshape(GIVEN, -1)


def quantiles(x: Moments, factor: float, count: int, without: int | None = None) -> Array:
    """Equally likely values of factor · X, all kinds together; of a product of independent factors, those of all pairs of values, thinned.

    `without` leaves one factor out; of none at all, the product is `factor`.
    """
    z = ndtri((np.arange(count) + 0.5) / count)
    found = np.array([factor])
    for k, f in enumerate(x.law):
        if k != without:
            every = np.sort(np.multiply.outer(found, _values(x, f, z)).ravel())
            found = every if len(found) == 1 else every[count // 2 :: count]
    return found


def _values(x: Moments, f: Factor, z: Array) -> Array:
    """f at m + s z, with the mean and variance of its field over all kinds."""
    m, v = _pooled(x, f)
    return np.asarray(f.fn(m + math.sqrt(v) * z), dtype=float)


def _pooled(x: Moments, f: Factor) -> tuple[float, float]:
    second = f.field.gram[tuple(a.diagonal for a in x.axes)]
    weights = x.weights
    return float(np.average(f.field.mean, weights=weights)), max(float(np.average(second - f.field.mean**2, weights=weights)), 0.0)


def matched(f: Factor, g: Factor, cov: Array, x: Moments) -> Array:
    """`cov`, of the fields of f and g on the axes of x, times what gives E[f g] its value where one field is a sum with a term of the other.

    The rest of what follows from the covariance follows from the product, so that pairs of entries keep their proportions.
    """
    for one, other in ((f, g), (g, f)):
        c = _given(one.field, other.field)
        if c is not None:
            return cov * _ratio(one, other, c, cov, x)
    return cov


def _given(field: Field, other: Field) -> Cross | None:
    return next((c for c in field.cross if c.given is not None and c.id == other.id and c.view == other.view), None)


def expected(f: Factor, g: Factor, cov: Array, x: Moments) -> Scalar | None:
    """E[f | v], v the field of g, as a cubic (best in mean square, of v Gaussian); None where f hardly depends on v."""
    (mf, vf), (mg, vg) = _pooled(x, f), _pooled(x, g)
    own = float(np.average(cov[tuple(a.diagonal for a in x.axes)], weights=x.weights))
    if not vf * vg > 0.0:
        return None
    rho = min(max(own / math.sqrt(vf * vg), -1.0), 1.0)
    c = _given(f.field, g.field)
    if c is not None and c.given is not None:
        u, zeta = c.given()
        u, values = u[:, 0], f.fn(mf + math.sqrt(vf) * zeta).mean(axis=1)
        he = hermevander(u, 3)
        series = np.linalg.lstsq(he, values, rcond=None)[0]
    else:
        z = ndtri((np.arange(512) + 0.5) / 512)
        values = f.fn(mf + math.sqrt(vf) * z)
        series = (hermevander(z, 3) * values[:, None]).mean(axis=0) * rho ** np.arange(4) / np.array([1.0, 1.0, 2.0, 6.0])
    if not np.sum(series[1:] ** 2 * np.array([1.0, 2.0, 6.0])) > DEPENDENT * series[0] ** 2:
        return None
    standard = np.polynomial.Polynomial([-mg / math.sqrt(vg), 1.0 / math.sqrt(vg)])
    return from_pieces("expected", (), (tuple(np.polynomial.Polynomial(herme2poly(series))(standard).coef.tolist()),))


def _ratio(f: Factor, g: Factor, c: Cross, cov: Array, x: Moments) -> float:
    (mf, vf), (mg, vg) = _pooled(x, f), _pooled(x, g)
    own = float(np.average(cov[tuple(a.diagonal for a in x.axes)], weights=x.weights))
    limit = math.sqrt(vf * vg)
    if c.given is None or not 0.0 < abs(own) < limit:
        return 1.0
    u, zeta = c.given()
    exact = float((f.fn(mf + math.sqrt(vf) * zeta) * g.fn(mg + math.sqrt(vg) * u)).mean())

    def off(ratio: float) -> float:
        return float(expect2(f.fn, g.fn, *(np.asarray(t) for t in (mf, vf, mg, vg, ratio * own)))) - exact

    low, high = 0.0, 1.0
    at_low, at_high = off(low), off(high)
    scale = max(abs(exact), abs(at_low + exact), abs(at_high + exact))
    most = 0.999 * limit / abs(own)
    for _ in range(6):
        if abs(at_high - at_low) < 1e-3 * scale:
            return 1.0 if high == 1.0 else high
        ratio = min(max(high - at_high * (high - low) / (at_high - at_low), 0.0), most)
        low, at_low, high, at_high = high, at_high, ratio, off(ratio)
        if abs(at_high) < 1e-4 * scale or high == low:
            break
    return high


def given(cross: Cross, x: Moments, y: Moments, a: float, b: float) -> Conditional | None:
    """What a X + b Y is given the field of `cross`, where that is one of a factor of X or Y."""
    for part, rest, p, q in ((x, y, a, b), (y, x, b, a)):
        for k, f in enumerate(part.law):
            if f.field.id == cross.id and f.field.view == cross.view:
                return Conditional(part, k, p, rest, q)
    return None
