"""E f(U) and E f(U) g(V) of scalar functions of jointly normal variables, for whole arrays of entries.

The method is chosen entry by entry: closed form for piecewise polynomials (truncated moments) and for sums of
exponentials and waves; Mehler's expansion Σ_k a_k b_k ρ^k for smooth functions, wherever its remainder
√(E f² − Σ a²) √(E g² − Σ b²) |ρ|^K is proven negligible; adaptive quadrature split at the kinks for the rest
(nested, with the inner integral over V given U). Errors are below 1e-10 of E|f| or of √(E f² E g²), mostly about 1e-12.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from initio.core import piecewise, quadrature
from initio.core.scalar import IDENTITY, Scalar, affine, constant, power

__all__ = ["IDENTITY", "Scalar", "affine", "constant", "expect", "expect2", "power", "stein"]

Array: TypeAlias = "np.ndarray[Any, Any]"

_CANCEL = 1e6  # terms this many times larger than their sum cost 6 digits: then integrate positive panels instead
_PROBE = np.array([-1.5, -0.5, 0.5, 1.5])
_ONE = 8 * np.finfo(float).eps  # correlations this near to ±1 are rounding of exactly ±1
_LOST = 1e-15  # what an inner integral may err by, of the largest contribution to the outer one: far out in a tail all is rounding
_CHUNK = 20_000


def expect(f: Scalar, mean: ArrayLike, var: ArrayLike) -> Array:
    """E f(U), U ~ N(mean, var), broadcast. var = 0 gives f(mean)."""
    return _memoised(_expect_rows, (f,), (mean, var))


def expect2(f: Scalar, g: Scalar, mean_u: ArrayLike, var_u: ArrayLike, mean_v: ArrayLike, var_v: ArrayLike, cov: ArrayLike) -> Array:
    """E f(U) g(V), (U, V) jointly normal, broadcast. |cov| is capped at √(var_u var_v)."""
    return _memoised(_expect2_rows, (f, g), (mean_u, var_u, mean_v, var_v, cov))


def stein(f: Scalar, mean: ArrayLike, var: ArrayLike) -> Array:
    """Cov(f(U), U) / var = E f′(U), U ~ N(mean, var), jumps of f included (Stein 1981). var = 0 gives f′(mean)."""
    return _memoised(_stein_rows, (f,), (mean, var))


# -- one variable ------------------------------------------------------------------------------------------------


def _expect_rows(f: Scalar, mean: Array, var: Array) -> Array:
    std = np.sqrt(np.maximum(var, 0.0))
    if not f.poles:
        return _one(f, mean, std)
    out = np.empty_like(mean)
    for part, rows in _guarded(f, mean, std):
        out[rows] = _one(part, mean[rows], std[rows])
    return out


def _guarded(f: Scalar, mean: Array, std: Array) -> list[tuple[Scalar, Array]]:
    """Rows, and f held constant from somewhere beyond 6 standard deviations on where a pole lies further off than that."""
    if not f.poles:
        return [(f, np.arange(mean.size))]
    poles = np.array([-np.inf, *f.poles, np.inf])
    side = np.searchsorted(poles, mean, side="right") - 1
    low, high = poles[side], poles[np.minimum(side + 1, len(poles) - 1)]
    room = np.minimum(mean - 6 * std - low, high - mean - 6 * std)
    out = [(f, np.flatnonzero(room <= 0))]
    for number in np.unique(side[room > 0]):
        rows = np.flatnonzero((room > 0) & (side == number))
        gap = 2.0 ** np.floor(np.log2(room[rows].min() / 2))
        out.append((_held(f, float(poles[number] + gap), float(poles[number + 1] - gap)), rows))
    return [(part, rows) for part, rows in out if rows.size]


@lru_cache(maxsize=512)
def _held(f: Scalar, low: float, high: float) -> Scalar:
    inside = tuple(k for k in f.kinks if low < k < high)
    return Scalar(f"{f.name} on [{low:g}, {high:g}]", lambda x: f.fn(np.clip(x, low, high)), inside, f.knots)


def _one(f: Scalar, mean: Array, std: Array) -> Array:
    out = np.empty_like(mean)
    still = (std == 0) | (std < 1e-17 * np.abs(mean))
    if still.any():
        out[still] = f(mean[still])
        live = ~still
        if live.any():
            out[live] = _one(f, mean[live], std[live])
        return out
    if f.pieces is not None:
        out, size = piecewise.moment(f.kinks, f.pieces, mean, std)
        if (size <= _CANCEL * np.abs(out)).all():
            return out
        bad = ~(size <= _CANCEL * np.maximum(np.abs(out), _scale(f, mean, std)))
        if not bad.any():
            return out
        out[bad] = _panels(f, mean[bad], std[bad])
        return out
    if f.waves is not None:
        return _waves(f.waves, ((0j + 1, 0j),), mean, std, mean, std, np.zeros_like(mean))
    for start in range(0, mean.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = _panels(f, mean[part], std[part])
    return out


def _panels(f: Scalar, mean: Array, std: Array) -> Array:
    return quadrature.integrate(lambda i, z: f(mean[i] + std[i] * z), _breaks(f, mean, std))[0]


def _breaks(f: Scalar, mean: Array, std: Array) -> Array:
    points = np.asarray((*f.kinks, *f.knots))
    with np.errstate(over="ignore"):
        return (points[None, :] - mean[:, None]) / std[:, None]


def _scale(f: Scalar, mean: Array, std: Array) -> Array:
    return np.abs(f(mean[:, None] + std[:, None] * _PROBE)).mean(axis=1)


def _stein_rows(f: Scalar, mean: Array, var: Array) -> Array:
    std = np.sqrt(np.maximum(var, 0.0))
    slope = f.derivative
    if slope is not None and (f.pieces is not None or f.continuous):
        # a derivative that is a narrow bump is lost between the points of z where std is huge, f itself is not
        wide = std > 100 * np.maximum(1.0, 1e-3 * np.abs(mean))
        if f.pieces is not None:
            wide &= (std > 1e8) & bool(f.kinks)
        out = np.empty_like(mean)
        m, s = mean[~wide], std[~wide]
        out[~wide] = _expect_rows(slope, m, s * s)
        if f.pieces is not None:
            out[~wide] += piecewise.jump_slope(f.kinks, f.pieces, m, s)
        m, s = mean[wide], std[wide]
        out[wide] = quadrature.integrate(lambda i, z: z * f(m[i] + s[i] * z), _breaks(f, m, s))[0] / s
        return out
    # in U itself the difference f(U) − f(mean) drowns in rounding once std is small: a quotient over a short base instead
    short = std < 1e-5 * np.maximum(1.0, np.abs(mean)) if not f.homogeneous else std == 0
    base = np.where(short, 1e-3 * np.maximum(1.0, np.abs(mean)), std)

    def at(scale: Array) -> Array:
        total, _ = quadrature.integrate(lambda i, z: z * (f(mean[i] + scale[i] * z) - f(mean[i])), _breaks(f, mean, scale), 1e-14)
        return total / scale

    out = at(base)
    if short.any():
        half, quarter = at(base / 2), at(base / 4)
        first, second = (4 * half - out) / 3, (4 * quarter - half) / 3
        out = np.where(short, (16 * second - first) / 15, out)
    return out


# -- two variables -----------------------------------------------------------------------------------------------


def _expect2_rows(f: Scalar, g: Scalar, mean_u: Array, var_u: Array, mean_v: Array, var_v: Array, cov: Array) -> Array:
    if not f.poles and not g.poles:
        return _expect2_regular(f, g, mean_u, var_u, mean_v, var_v, cov)
    out = np.empty_like(mean_u)
    for left, rows in _guarded(f, mean_u, np.sqrt(np.maximum(var_u, 0.0))):
        for right, some in _guarded(g, mean_v[rows], np.sqrt(np.maximum(var_v[rows], 0.0))):
            at = rows[some]
            arguments = (mean_u[at], var_u[at], mean_v[at], var_v[at], cov[at])
            defined = ~np.isnan(_expect_rows(left, *arguments[:2]) * _expect_rows(right, *arguments[2:4]))
            out[at[~defined]] = np.nan
            out[at[defined]] = _expect2_regular(left, right, *(x[defined] for x in arguments))
    return out


def _expect2_regular(f: Scalar, g: Scalar, mean_u: Array, var_u: Array, mean_v: Array, var_v: Array, cov: Array) -> Array:
    std_u, std_v = np.sqrt(np.maximum(var_u, 0.0)), np.sqrt(np.maximum(var_v, 0.0))
    both = std_u * std_v
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = np.where(both > 0, (cov / std_u) / std_v, 0.0)
    rho = np.where(np.abs(rho) >= 1 - _ONE, np.sign(rho), rho)
    out = np.empty_like(rho)
    apart = (rho == 0) | (std_u < 1e-17 * np.abs(mean_u)) | (std_v < 1e-17 * np.abs(mean_v))
    if apart.any():
        out[apart] = _one(f, mean_u[apart], std_u[apart]) * _one(g, mean_v[apart], std_v[apart])
    todo = np.flatnonzero(~apart)
    for method in (_closed, _line, _mehler, _kinked, _nested):
        if todo.size == 0:
            break
        rows = (mean_u[todo], std_u[todo], mean_v[todo], std_v[todo], rho[todo])
        values, done = method(f, g, *rows)
        out[todo[done]] = values[done]
        todo = todo[~done]
    return out


Rows2: TypeAlias = tuple[Array, Array]


def _closed(f: Scalar, g: Scalar, mean_u: Array, std_u: Array, mean_v: Array, std_v: Array, rho: Array) -> Rows2:
    """Closed forms: piecewise polynomials where they do not cancel, and waves."""
    if f.pieces is not None and g.pieces is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            values, size = piecewise.pair((f.kinks, f.pieces), (g.kinks, g.pieces), mean_u, std_u, mean_v, std_v, rho)
        fine = size <= _CANCEL * np.abs(values)
        if not fine.all():
            fine = size <= _CANCEL * np.maximum(np.abs(values), _scale(f, mean_u, std_u) * _scale(g, mean_v, std_v))
        return values, fine
    if f.waves is not None and g.waves is not None:
        return _waves(f.waves, g.waves, mean_u, std_u, mean_v, std_v, rho), np.ones(rho.shape, bool)
    return np.zeros_like(rho), np.zeros(rho.shape, bool)


def _waves(
    left: tuple[tuple[complex, complex], ...],
    right: tuple[tuple[complex, complex], ...],
    mean_u: Array,
    std_u: Array,
    mean_v: Array,
    std_v: Array,
    rho: Array,
) -> Array:
    """Σ c d E exp(a U + b V) = Σ c d exp(a m_u + b m_v + (a² s_u² + 2 ρ a b s_u s_v + b² s_v²)/2)."""
    total = np.zeros_like(rho)
    with np.errstate(over="ignore", invalid="ignore"):
        for c, a in left:
            for d, b in right:
                p, q = a * std_u, b * std_v
                exponent = a * mean_u + b * mean_v + (p * p + 2 * rho * p * q + q * q) / 2
                factor = c * d
                total = total + np.exp(exponent.real) * (factor.real * np.cos(exponent.imag) - factor.imag * np.sin(exponent.imag))
    return total


def _line(f: Scalar, g: Scalar, mean_u: Array, std_u: Array, mean_v: Array, std_v: Array, rho: Array) -> Rows2:
    """ρ = ±1: one integral."""
    done = np.abs(rho) == 1
    out = np.zeros_like(rho)
    if done.any():
        mu, su, mv, sv = mean_u[done], std_u[done], mean_v[done], std_v[done] * rho[done]
        breaks = np.concatenate([_breaks(f, mu, su), _breaks(g, mv, sv)], axis=1)
        out[done] = quadrature.integrate(lambda i, z: f(mu[i] + su[i] * z) * g(mv[i] + sv[i] * z), breaks)[0]
    return out, done


@lru_cache(maxsize=1)
def _hermite() -> tuple[Array, Array, Array]:
    """160 nodes, their weights, and weights times h_k for k ≤ 96."""
    z, w = quadrature.hermite_rule(160)
    return z, w, quadrature.hermite_table(z, quadrature.HERMITE_ORDER + 1) * w[:, None]


def _mehler(f: Scalar, g: Scalar, mean_u: Array, std_u: Array, mean_v: Array, std_v: Array, rho: Array) -> Rows2:
    """Σ_k a_k b_k ρ^k (Mehler 1866) with normalised coefficients; done where the remainder is below 1e-13."""
    a, size_a, rest_a, at_a = _coefficients(f, mean_u, std_u)
    b, size_b, rest_b, at_b = _coefficients(g, mean_v, std_v)
    size = size_a[at_a] * size_b[at_b]
    rest = np.sqrt(rest_a[at_a] * rest_b[at_b])
    order = quadrature.HERMITE_ORDER + 1
    with np.errstate(under="ignore"):
        done = (np.maximum(rest_a[at_a], rest_b[at_b]) < 1e-7) & (rest * np.abs(rho) ** order < 1e-13)
        powers = rho[:, None] ** np.arange(order)
        return np.einsum("ik,ik,ik->i", a[at_a], b[at_b], powers) * size, done


def _kinked(f: Scalar, g: Scalar, mean_u: Array, std_u: Array, mean_v: Array, std_v: Array, rho: Array) -> Rows2:
    """Mehler's expansion of functions with kinks, coefficients integrated by panels; done where |ρ|^K leaves less than 1e-11."""
    out, done = np.zeros_like(rho), np.zeros(rho.shape, bool)
    order = quadrature.HERMITE_ORDER + 1
    rows = np.flatnonzero(np.abs(rho) ** order < 1e-11)
    if rows.size < 8:  # the nested integral of a few rows costs less than their coefficients
        return out, done
    a, size_a, good_a, at_a = _split_coefficients(f, mean_u[rows], std_u[rows])
    b, size_b, good_b, at_b = (a, size_a, good_a, at_a)
    if f != g or not (np.array_equal(mean_u, mean_v) and np.array_equal(std_u, std_v)):
        b, size_b, good_b, at_b = _split_coefficients(g, mean_v[rows], std_v[rows])
    done[rows] = good_a[at_a] & good_b[at_b]
    with np.errstate(under="ignore"):
        powers = rho[rows, None] ** np.arange(order)
        out[rows] = np.einsum("ik,ik,ik->i", a[at_a], b[at_b], powers) * size_a[at_a] * size_b[at_b]
    return out, done


_REACH = 9.0


@lru_cache(maxsize=1)
def _panel_table() -> tuple[Array, Array, Array]:
    """Nodes of 48 panels of |z| ≤ 9, their weights, and weights times h_k: one grid for all rows of what has no kinks."""
    x, w = np.polynomial.legendre.leggauss(10)
    half = _REACH / 48
    z = (np.linspace(-_REACH, _REACH, 49)[:-1, None] + half + half * x).reshape(-1)
    weight = np.tile(half * w, 48) * np.exp(-0.5 * z * z) * 0.3989422804014327
    return z, weight, quadrature.hermite_table(z, quadrature.HERMITE_ORDER + 1) * weight[:, None]


def _split_coefficients(f: Scalar, mean: Array, std: Array) -> tuple[Array, Array, Array, Array]:
    """As `_coefficients`, on half-unit panels of |z| ≤ 9 that end at the kinks; the third array says where the panels resolve f."""
    first, place = _distinct((mean, std))
    mean, std = mean[first], std[first]
    if not f.kinks and len(f.knots) > 1:
        z, weight, table = _panel_table()
        with np.errstate(all="ignore"):
            values = f(mean[:, None] + std[:, None] * z)
            square = (values * values) @ weight
            root = np.sqrt(np.where(square > 0, square, 1.0))
            a = (values / root[:, None]) @ table
            good = np.isfinite(square) & (square > 0) & ~np.isnan(a).any(axis=1)
        return a, root, good & (10 * std <= float(np.min(np.diff(f.knots)))), place
    x, w = np.polynomial.legendre.leggauss(10)
    grid = np.arange(-_REACH, _REACH + 0.25, 0.5)
    inner = np.clip(np.nan_to_num(_breaks(f, mean, std), nan=_REACH), -_REACH, _REACH)
    edges = np.sort(np.concatenate([np.broadcast_to(grid, (mean.size, grid.size)), inner], axis=1), axis=1)
    half = np.diff(edges, axis=1)[..., None] / 2
    z = (edges[:, :-1, None] + half + half * x).reshape(mean.size, -1)
    weight = (half * w).reshape(mean.size, -1) * np.exp(-0.5 * z * z) * 0.3989422804014327
    with np.errstate(all="ignore"):
        values = f(mean[:, None] + std[:, None] * z)
        square = np.einsum("ij,ij,ij->i", values, values, weight)
        root = np.sqrt(np.where(square > 0, square, 1.0))
        values = values / root[:, None] * weight
        a = np.empty((mean.size, quadrature.HERMITE_ORDER + 1))
        before, here = np.zeros_like(z), np.ones_like(z)
        for k in range(a.shape[1]):
            a[:, k] = np.einsum("ij,ij->i", values, here)
            before, here = here, (z * here - np.sqrt(k) * before) / np.sqrt(k + 1)
        good = np.isfinite(square) & (square > 0) & ~np.isnan(a).any(axis=1)
    if len(f.knots) > 1:
        good &= 10 * std <= float(np.min(np.diff(f.knots)))
    return a, root, good, place


def _coefficients(f: Scalar, mean: Array, std: Array) -> tuple[Array, Array, Array, Array]:
    """Per distinct (mean, std): a_k / √E f², √E f², 1 − Σ a²/E f² (1 where the rule cannot resolve f); and each row's place."""
    first, place = _distinct((mean, std))
    mean, std = mean[first], std[first]
    z, w, table = _hermite()
    resolved = _resolved(f, mean, std, 16.0)
    with np.errstate(all="ignore"):
        values = f(mean[:, None] + std[:, None] * z)
        undefined = np.isnan(values)
        if undefined.any():
            values = np.where(undefined & (np.abs(z) > quadrature.UNDEFINED), 0.0, values)
        peak = np.max(np.abs(values) * np.sqrt(w), axis=1)
        peak = np.where((peak > 0) & np.isfinite(peak), peak, 1.0)
        values = values / peak[:, None]
        square = (values * values) @ w
        root = np.where(square > 0, np.sqrt(square), 1.0)
        a = (values @ table) / root[:, None]
        rest = 1 - np.einsum("ik,ik->i", a, a)
    rest = np.where(np.isfinite(rest) & resolved & (square > 0), np.maximum(rest, 1e-16), 1.0)
    return a, root * peak, rest, place


def _resolved(f: Scalar, mean: Array, std: Array, reach: float) -> Array:
    """No kink within `reach` standard deviations, and no feature narrower than a quarter of one."""
    out = np.ones(mean.shape, bool)
    with np.errstate(over="ignore"):
        for kink in f.kinks:
            out &= np.abs(kink - mean) > reach * std
        if len(f.knots) > 1:
            out &= 10 * std <= float(np.min(np.diff(f.knots)))
    return out


def _nested(f: Scalar, g: Scalar, mean_u: Array, std_u: Array, mean_v: Array, std_v: Array, rho: Array) -> Rows2:
    """∫ f(u) E[g(V) | u] φ(u) du, the outer panels split at the kinks of both, near |ρ| = 1 on the scale √(1 − ρ²) there."""
    if f.pieces is not None and g.pieces is None:
        return _nested(g, f, mean_v, std_v, mean_u, std_u, rho)
    out = np.zeros_like(rho)
    for start in range(0, rho.size, 64):
        part = slice(start, start + 64)
        out[part] = _nested_rows(f, g, mean_u[part], std_u[part], mean_v[part], std_v[part], rho[part])
    return out, np.ones(rho.shape, bool)


def _nested_rows(f: Scalar, g: Scalar, mean_u: Array, std_u: Array, mean_v: Array, std_v: Array, rho: Array) -> Array:
    spread = np.sqrt((1 - rho) * (1 + rho))
    points = _breaks(g, mean_v, std_v)
    with np.errstate(divide="ignore", over="ignore"):
        width = np.where(np.abs(rho) > 0.5, spread / np.abs(rho), np.nan)[:, None]
        breaks = [points / rho[:, None] + step * width for step in (-8.0, -3.0, 0.0, 3.0, 8.0)]

    largest = np.zeros_like(rho)

    def joint(i: Array, z: Array) -> Array:
        mean = mean_v[i] + std_v[i] * rho[i] * z
        std = np.broadcast_to(std_v[i] * spread[i], z.shape)
        outer = f(mean_u[i] + std_u[i] * z)
        with np.errstate(all="ignore"):
            weight = np.abs(outer) * np.exp(-0.5 * z * z)
            np.maximum.at(largest, np.broadcast_to(i, z.shape), np.nan_to_num(weight * np.abs(g(mean)), nan=0.0, posinf=0.0))
            floor = np.where(weight > 0, _LOST * largest[i] / weight, np.finfo(float).max)
        needed = np.abs(z) < 13.5
        inner = np.zeros_like(z)
        inner[needed] = _quick(g, mean[needed], std[needed], floor[needed])
        return outer * inner

    return quadrature.integrate(joint, np.concatenate([_breaks(f, mean_u, std_u), *breaks], axis=1), 1e-12)[0]


@lru_cache(maxsize=1)
def _short_rule() -> tuple[Array, Array, Array]:
    z, w = quadrature.hermite_rule(20)
    return z, w, quadrature.hermite_table(z, 20)[:, 18:] * w[:, None]


def average(g: Scalar, mean: Array, std: Array) -> Array:
    """E g(mean + std Z) of flat arrays, std = 0 included, without memory: the inner step of nested integrals."""
    return _quick(g, mean, std) if np.all(std > 0) else _one(g, mean, std)


def _quick(g: Scalar, mean: Array, std: Array, floor: Array | None = None) -> Array:
    """E g(mean + std Z) by a 20-point rule where its last Hermite coefficients are below 1e-9 of its size, or below `floor`."""
    if g.pieces is not None or g.waves is not None:
        return _one(g, mean, std)
    out = np.zeros_like(mean)
    z, w, last = _short_rule()
    easy = _resolved(g, mean, std, 9.0)
    if easy.any():
        values = g(mean[easy][:, None] + std[easy][:, None] * z)
        out[easy] = values @ w
        with np.errstate(all="ignore"):
            good = np.abs(values @ last).sum(axis=1) <= np.maximum(1e-9 * (np.abs(values) @ w), 0.0 if floor is None else floor[easy])
        easy[easy] = good
    if not easy.all():
        out[~easy] = _one(g, mean[~easy], std[~easy])
    return out


# -- distinct rows and memory ------------------------------------------------------------------------------------

_results: OrderedDict[tuple[object, ...], Array] = OrderedDict()
_RESULTS = 4096


def _memoised(rows: Callable[..., Array], functions: tuple[Scalar, ...], arguments: tuple[ArrayLike, ...]) -> Array:
    arrays = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in arguments))
    shape = arrays[0].shape
    flat = [np.ascontiguousarray(x).reshape(-1) for x in arrays]
    if flat[0].size == 0:
        return np.zeros(shape)
    key = (rows, *functions, shape, *(x.tobytes() for x in flat)) if flat[0].size <= 4096 else None
    if key is not None and key in _results:
        _results.move_to_end(key)
        return _results[key].copy()
    first, place = _distinct(flat)
    with np.errstate(under="ignore"):
        out = rows(*functions, *(x[first] for x in flat))[place].reshape(shape)
    if key is not None:
        _results[key] = out.copy()
        if len(_results) > _RESULTS:
            _results.popitem(last=False)
    return out


def _distinct(columns: tuple[Array, ...] | list[Array]) -> tuple[Array, Array]:
    """Rows that represent all rows, equal to 1e-13, and the representative of each row."""
    count = columns[0].size
    if count == 1:
        return np.zeros(1, np.intp), np.zeros(1, np.intp)
    mix = np.zeros(count, np.uint64)
    for number, column in enumerate(columns):
        bits = (column + 0.0).view(np.uint64)
        # round the 52-bit mantissa to 44 bits, then mix the columns with odd constants
        bits = (bits + np.uint64(1 << 7)) >> np.uint64(8)
        mix = (mix ^ bits) * np.uint64(0x9E3779B97F4A7C15 + 2 * number)
        mix ^= mix >> np.uint64(29)
    _, first, place = np.unique(mix, return_index=True, return_inverse=True)
    return first, place.reshape(-1)
