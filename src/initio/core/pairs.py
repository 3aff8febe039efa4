# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Products f(u) g(v) of two correlated Gaussian fields, and sums of fields that are not Gaussian.

Both are expansions in Hermite polynomials: of two variables for a product (its pair moments follow from Mehler's
formula in two dimensions), of one for a sum, which becomes a polynomial of one new Gaussian field.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.polynomial.hermite_e import herme2poly, hermegauss, hermevander
from scipy.special import ndtr, ndtri

from initio.core.axes import Array, Axis
from initio.core.gaussian import expect, expect2, stein
from initio.core.moments import Cross, Factor, Moments, pair_values
from initio.core.parts import quantiles
from initio.core.scalar import Scalar, affine, from_pieces

__all__ = ["heavier", "product_moments", "refitted", "shaped", "sum_factor"]

ORDER = 5
"""Highest total degree of the expansion of a product."""
MOST = 3.0
"""Largest excess kurtosis of `heavier`."""
DEGREE = 5
"""Degree of the polynomial that stands for a sum."""
_INVERSE_FACTORIALS = np.array([1.0 / math.factorial(k) for k in range(DEGREE + 1)])


@lru_cache(maxsize=4)
def _points(log2: int) -> Array:
    """2^log2 points of N(0, I₂): an additive recurrence with its mirror images (Niederreiter 1992)."""
    ratio = 1.3247179572447460  # the real root of x³ = x + 1
    lattice = (0.5 + np.arange(1, 2 ** (log2 - 2) + 1)[:, None] * ratio ** -np.arange(1.0, 3.0)) % 1.0
    z = ndtri(np.clip(lattice, 1e-12, 1 - 1e-12))
    return np.concatenate([z, -z, z * [1, -1], z * [-1, 1]])


@lru_cache(maxsize=4)
def _hermite(log2: int) -> tuple[Array, Array]:
    """He_i(z₁) / N and He_j(z₂) at the points, for i, j ≤ ORDER."""
    h = hermevander(_points(log2), ORDER)
    return np.asarray(h[:, 0].T / len(h), dtype=float), np.ascontiguousarray(h[:, 1], dtype=float)


def product_moments(f: Factor, g: Factor, cov: Array, axes: Sequence[Axis]) -> tuple[Array, Array]:
    """E[f(u) g(v)] per kind and E[f(u_i) g(v_i) f(u_j) g(v_j)] per pair class, Cov(u_i, v_j) = cov.

    Equal indices are integrated directly; different ones through the expansion to degree 5 in the correlations.
    """
    key = (f.fn, g.fn, tuple(axes), *(a.tobytes() for a in (f.field.mean, f.field.gram, g.field.mean, g.field.gram, cov)))
    if key not in _products:
        _products[key] = _product_moments(f, g, cov, axes)
        if len(_products) > 256:
            _products.popitem(last=False)
    mean, gram = _products[key]
    return mean.copy(), gram.copy()


_products: OrderedDict[tuple[object, ...], tuple[Array, Array]] = OrderedDict()


def _product_moments(f: Factor, g: Factor, cov: Array, axes: Sequence[Axis]) -> tuple[Array, Array]:
    diag = tuple(a.diagonal for a in axes)
    mf, mg = f.field.mean, g.field.mean
    vf = np.maximum(f.field.gram[diag] - mf * mf, 0.0)
    vg = np.maximum(g.field.gram[diag] - mg * mg, 0.0)
    own = cov[diag]
    mean = np.asarray(expect2(f.fn, g.fn, mf, vf, mg, vg, own))
    squares = np.asarray(expect2(f.fn.times(f.fn), g.fn.times(g.fn), mf, vf, mg, vg, own))
    tables, inverse = _tables(f.fn, g.fn, mf, vf, mg, vg, own)
    first, second = _indices(axes, mf.shape)
    (mu, mu2), (mv, mv2) = pair_values(axes, mf), pair_values(axes, mg)
    swapped = cov[np.ix_(*[a.swap for a in axes])] if axes else cov
    columns = [first, second, f.field.gram - mu * mu2, cov, swapped, g.field.gram - mv * mv2]
    rows = np.stack([np.broadcast_to(c, cov.shape).ravel() for c in columns], axis=1)
    size = np.abs(rows).max(axis=0, initial=0.0)
    _, keep, back = np.unique(np.round(rows / np.where(size > 0, size, 1.0), 9), axis=0, return_index=True, return_inverse=True)
    i, j = rows[keep, 0].astype(int), rows[keep, 1].astype(int)
    r = inverse[i] @ rows[keep, 2:].reshape(-1, 2, 2) @ np.swapaxes(inverse[j], -1, -2)
    gram = _mehler2(tables[i], tables[j], r)[back.ravel()].reshape(cov.shape)
    gram[diag] = squares
    return mean, gram


def _indices(axes: Sequence[Axis], shape: tuple[int, ...]) -> tuple[Array, Array]:
    flat = np.arange(float(math.prod(shape))).reshape(shape)
    if not axes:
        return flat, flat
    return flat[np.ix_(*[a.first for a in axes])], flat[np.ix_(*[a.second for a in axes])]


@lru_cache(maxsize=1)
def _terms() -> tuple[list[int], list[int], list[tuple[int, ...]]]:
    """The terms of Mehler's formula for two variables: (i, j), (k, l) with i + j = k + l ≤ ORDER, and the powers of r₁₁, r₁₂, r₂₁, r₂₂ in each."""
    left: list[int] = []
    right: list[int] = []
    powers: list[tuple[int, ...]] = []
    for n in range(ORDER + 1):
        for i in range(n + 1):
            for k in range(n + 1):
                for a in range(max(0, i + k - n), min(i, k) + 1):
                    left.append(i * (ORDER + 1) + n - i)
                    right.append(k * (ORDER + 1) + n - k)
                    powers.append((a, i - a, k - a, n - i - k + a))
    return left, right, powers


def _mehler2(left: Array, right: Array, r: Array) -> Array:
    """Σ c_ij d_kl r₁₁^a r₁₂^(i−a) r₂₁^(k−a) r₂₂^(j−k+a) / (a! (i−a)! (k−a)! (j−k+a)!), i + j = k + l ≤ ORDER: Mehler's formula for two variables."""
    of_left, of_right, exponents = _terms()
    order = np.arange(ORDER + 1)
    powers = r.reshape(-1, 4)[:, :, None] ** order / np.array([math.factorial(n) for n in order], dtype=float)
    value = left.reshape(len(r), -1)[:, of_left] * right.reshape(len(r), -1)[:, of_right]
    for column in range(4):
        value *= powers[:, column, [e[column] for e in exponents]]
    return value.sum(axis=1)


def _tables(f: Scalar, g: Scalar, mf: Array, vf: Array, mg: Array, vg: Array, own: Array) -> tuple[Array, Array]:
    """E[f g He_i(e₁) He_j(e₂)] over whitened e, one table for each kind, and the whitening matrices."""
    z = _points(11)
    h1, h2 = _hermite(11)
    tables: list[Array] = []
    inverses: list[Array] = []
    for mu, su, mv, sv, c in np.stack([a.ravel() for a in (mf, vf, mg, vg, own)], axis=1):
        a = math.sqrt(su)
        b = c / a if a else 0.0
        d = math.sqrt(max(sv - b * b, 0.0))
        value = f(mu + a * z[:, 0]) * g(mv + b * z[:, 0] + d * z[:, 1])
        tables.append((h1 * value) @ h2)
        down = 1 / d if d > 1e-9 * math.sqrt(sv) else 0.0
        inverses.append(np.array([[1 / a if a else 0.0, 0.0], [-b / a * down if a else 0.0, down]]))
    return np.stack(tables), np.stack(inverses)


# -- sums --------------------------------------------------------------------------------------------------------


def sum_factor(x: Moments, y: Moments, a: float, b: float, mean: Array, gram: Array, sources: int) -> Factor | None:
    """a X + b Y of independent X, Y as a polynomial of a Gaussian field with the same mean and gram; None where it is Gaussian anyway."""
    if all(len(z.law) == 1 and z.law[0].fn.linear is not None for z in (x, y)):
        return None
    qx, qy = quantiles(x, a, 256), quantiles(y, b, 256)
    within = 0.01 if len(x.law) == len(y.law) == 1 else 0.03  # products have long tails, as polynomials do
    return shaped(x.axes, x.dims, mean, gram, sources, np.sort((qx[:, None] + qy[None]).ravel()), within)


def shaped(
    axes: Sequence[Axis], dims: Sequence[int], mean: Array, gram: Array, sources: int, ordered: Array, within: float = math.inf
) -> Factor | None:
    """A law with the given moments whose shape, up to shift and scale by kind, has the equally likely values `ordered`.

    A polynomial of a normal; where that misses more of the spread than `within`, its quantiles themselves: the polynomial leaves the
    range of a bounded law, by far beyond two standard deviations.
    """
    spread = float(ordered.std())
    if spread <= 1e-9 * max(abs(float(ordered.mean())), 1e-300):
        return None
    shape, missed = _polynomial(ordered / spread)
    if missed > within:
        shape = _curve(ordered / spread)
    diag = tuple(a.diagonal for a in axes)
    scale = math.sqrt(float(np.maximum(gram[diag] - mean * mean, 0.0).mean())) or 1.0
    fitted = _fitted(shape.then(affine(scale, 0.0)), axes, np.zeros_like(mean), np.ones_like(mean), mean, gram)
    return None if fitted is None else _factor(*fitted, axes, dims, sources)


def heavier(x: Moments, excess: float, scatter: Array | None) -> Factor | None:
    """A law with the moments of the Gaussian x, but E x⁴ = 3 + `excess` once standardised (at most `MOST`): z + c (z³ − 3 z) of a normal z.

    `scatter` is what E[x_i² x_j²] has beyond that of normals, halved; of z it is smaller by (1 + 6 c)², E[x² (z² − 1)] / 2 squared.
    """
    f = x.law[0].field
    c = _third(round(min(excess, MOST), 4))
    diag = tuple(a.diagonal for a in x.axes)
    shape = from_pieces("heavier", (), ((0.0, 1.0 - 3.0 * c, 0.0, c),))
    fitted = _fitted(shape, x.axes, np.zeros_like(x.mean), np.maximum(x.gram[diag] - x.mean**2, 0.0), x.mean, x.gram)
    if fitted is None:
        return None
    made = _factor(*fitted, x.axes, x.dims, x.sources)
    slope, _ = pair_values(x.axes, replace(x, law=(made,)).slope())
    cross = tuple(replace(k, cov=k.cov / slope) for k in f.cross)
    return replace(made, field=replace(made.field, cross=cross, scatter=None if scatter is None else scatter / (1.0 + 6.0 * c) ** 2))


@lru_cache(maxsize=1024)
def _third(excess: float) -> float:
    """c for `heavier`: (3 + 24 c + 252 c² + 1296 c³ + 3348 c⁴) / (1 + 6 c²)² = 3 + excess."""
    c = excess / 24.0
    for _ in range(20):
        step = 1e-6
        off, up = (
            (3.0 + 24.0 * t + 252.0 * t**2 + 1296.0 * t**3 + 3348.0 * t**4) / (1.0 + 6.0 * t * t) ** 2 - 3.0 - excess for t in (c, c + step)
        )
        c -= off * step / (up - off)
    return c


def _factor(fn: Scalar, mean: Array, cov: Array, axes: Sequence[Axis], dims: Sequence[int], sources: int) -> Factor:
    u, v = pair_values(axes, mean)
    return Factor(fn, Moments.gaussian(axes, dims, mean, cov + u * v, sources).law[0].field)


def _fitted(fn: Scalar, axes: Sequence[Axis], m: Array, s: Array, mean: Array, gram: Array) -> tuple[Scalar, Array, Array] | None:
    """fn and the mean and covariance of a normal field u for which fn(u) has the given moments; from N(m, s), kind by kind (Newton)."""
    diag = tuple(a.diagonal for a in axes)
    wanted = np.maximum(gram[diag] - mean * mean, 0.0)
    if not np.all(wanted > 0):
        return None
    e1, v, slope = np.zeros_like(mean), np.zeros_like(mean), np.ones_like(mean)
    size = math.sqrt(float(wanted.max()))
    for _ in range(40):
        e1, second, slope = _one(fn, m, s)
        v = np.maximum(second - e1 * e1, 1e-300)
        if np.allclose(v, wanted, rtol=1e-12, atol=0.0) and np.allclose(e1, mean, rtol=1e-12, atol=1e-12 * size):
            break
        step = np.sqrt(s)
        m = m + np.clip((mean - e1) / np.where(np.abs(slope) > 1e-12, slope, 1.0), -step, step)
        ratio = wanted / v  # a bounded law answers by less than its share, so the whole ratio is safe where it is near 1
        s = s * np.where(np.abs(ratio - 1.0) < 0.1, ratio, np.clip(np.sqrt(ratio), 0.25, 4.0))
    if not (np.allclose(e1, mean, rtol=1e-3, atol=1e-3 * size) and np.allclose(v, wanted, rtol=1e-2, atol=0.0)):
        return None
    slope = _one(fn, m, s)[2]
    if np.any(np.abs(slope) * np.sqrt(s) < 0.1 * np.sqrt(wanted)):
        return None
    return fn, m, _matching(fn, axes, m, s, slope, gram)


def _polynomial_of(fn: Scalar) -> Array | None:
    """Ascending coefficients, of a polynomial of degree DEGREE at most."""
    if fn.pieces is None or len(fn.pieces) != 1 or len(fn.pieces[0]) > DEGREE + 1:
        return None
    return np.asarray(fn.pieces[0])


@lru_cache(maxsize=1)
def _rule() -> tuple[Array, Array]:
    """Nodes, and weights times He_k for k ≤ DEGREE, of the Gauss–Hermite rule that is exact for f He_k, f of degree DEGREE."""
    z, w = hermegauss(DEGREE + 1)
    return z, (w / w.sum())[:, None] * hermevander(z, DEGREE)


def _series(p: Array, m: Array, s: Array) -> Array:
    """E[p(m + √s z) He_k(z)] for k ≤ DEGREE (last dimension)."""
    z, weights = _rule()
    return np.asarray(np.polynomial.polynomial.polyval(m[..., None] + np.sqrt(s)[..., None] * z, p) @ weights)


def _one(fn: Scalar, m: Array, s: Array) -> tuple[Array, Array, Array]:
    """E f, E f² and E f′ under N(m, s)."""
    p = _polynomial_of(fn)
    if p is None:
        return np.asarray(expect(fn, m, s)), np.asarray(expect(fn.times(fn), m, s)), np.asarray(stein(fn, m, s))
    c = _series(p, m, s)
    return c[..., 0], c**2 @ _INVERSE_FACTORIALS, c[..., 1] / np.sqrt(s)


def refitted(x: Moments, mean: Array, gram: Array) -> Factor | None:
    """A law for a X + b with the given moments where X = f(u) is not Gaussian: a f + b of a field whose covariances give the gram.

    None where X is Gaussian anyway, or where no such field has these moments.
    """
    if len(x.law) != 1 or x.law[0].fn.linear is not None or not x.axes:
        return None
    f = x.law[0]
    diag = tuple(a.diagonal for a in x.axes)
    var = np.maximum(f.field.gram[diag] - f.field.mean**2, 0.0)
    own_mean, own_second = np.asarray(expect(f.fn, f.field.mean, var)), np.asarray(expect(f.fn.times(f.fn), f.field.mean, var))
    own_var, wanted = np.maximum(own_second - own_mean**2, 0.0), np.maximum(gram[diag] - mean**2, 0.0)
    spread = float((x.weights * own_var).sum())
    if not spread > 0 or not np.all(var > 0):
        return None
    a = math.sqrt(float((x.weights * wanted).sum()) / spread)
    b = float((x.weights * (mean - a * own_mean)).sum())
    # the same statistics of the same array are the same array: two norms of one tensor share their field
    key = (f.field.id, f.field.view, f.fn, x.axes, x.dims, mean.tobytes(), gram.tobytes())
    if key in _refits:
        return _refits[key]
    fitted = _fitted(f.fn.then(affine(a, b)), x.axes, f.field.mean, var, mean, gram)
    if fitted is None:
        return None
    made = _factor(*fitted, x.axes, x.dims, x.sources)
    u, v = pair_values(x.axes, made.field.mean)
    _refits[key] = Factor(made.fn, replace(made.field, cross=(Cross(f.field.id, f.field.view, made.field.gram - u * v),)))
    if len(_refits) > 64:
        _refits.popitem(last=False)
    return _refits[key]


_refits: OrderedDict[tuple[object, ...], Factor] = OrderedDict()


def _matching(fn: Scalar, axes: Sequence[Axis], mean: Array, var: Array, slope: Array, gram: Array) -> Array:
    """Cov(u, v) with E[f(u) f(v)] = gram, by Newton's method with the slope at independence."""
    (mu, mv), (su, sv), (gu, gv) = pair_values(axes, mean), pair_values(axes, var), pair_values(axes, slope)
    limit = np.sqrt(su * sv)
    p = _polynomial_of(fn)
    products: list[Array] = []
    if p is None:
        m1, m2 = pair_values(axes, np.asarray(expect(fn, mean, var)))
    else:
        series = [pair_values(axes, c) for c in np.moveaxis(_series(p, mean, var), -1, 0)]
        products = [a * b * f for (a, b), f in zip(series, _INVERSE_FACTORIALS, strict=True)]
        m1, m2 = series[0]
    cov = np.clip((gram - m1 * m2) / (gu * gv), -limit, limit)
    for _ in range(3):
        got = np.asarray(expect2(fn, fn, mu, su, mv, sv, cov)) if p is None else sum(c * (cov / limit) ** k for k, c in enumerate(products))
        cov = np.clip(cov + (gram - got) / (gu * gv), -limit, limit)
    cov[tuple(a.diagonal for a in axes)] = var
    return cov


def _polynomial(ordered: Array) -> tuple[Scalar, float]:
    """The polynomial of a standard normal with the quantiles `ordered`, best in mean square, its variance kept; and how much of their spread it misses."""
    z = ndtri((np.arange(len(ordered)) + 0.5) / len(ordered))
    v = hermevander(z, DEGREE)
    c = (v.T @ ordered) / len(ordered) / np.array([math.factorial(k) for k in range(DEGREE + 1)], dtype=float)
    own = ordered.var()
    made = sum(c[k] ** 2 * math.factorial(k) for k in range(1, DEGREE + 1))
    c[1:] *= math.sqrt(own / made)
    p = np.asarray(herme2poly(c), dtype=float)
    missed = math.sqrt(float(np.mean((np.polynomial.polynomial.polyval(z, p) - ordered) ** 2)) / own)
    return from_pieces("sum", (), (tuple(p.tolist()),), lambda t: np.polynomial.polynomial.polyval(t, p)), missed


def _curve(ordered: Array) -> Scalar:
    """The quantiles `ordered` as a function of a standard normal z: a polynomial of degree 15 in 2 Φ(z) − 1, linear for a uniform law."""
    share = 2.0 * (np.arange(len(ordered)) + 0.5) / len(ordered) - 1.0
    line = np.polynomial.Legendre.fit(share, ordered, 15, domain=[-1.0, 1.0])
    steep = line.deriv()
    return Scalar(
        "sum",
        lambda x: np.asarray(line(2.0 * ndtr(x) - 1.0)),
        slope=lambda: Scalar("sum'", lambda x: np.asarray(steep(2.0 * ndtr(x) - 1.0) * np.exp(-0.5 * x * x) * math.sqrt(2.0 / math.pi))),
        increasing=True,
    )
