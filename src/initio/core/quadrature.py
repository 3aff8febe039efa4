"""Adaptive Gauss–Legendre quadrature against the normal density, for many integrals at once."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.polynomial import legendre
from scipy import special

__all__ = ["HERMITE_ORDER", "LIMIT", "UNDEFINED", "hermite_rule", "hermite_table", "integrate", "settled"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Integrand: TypeAlias = Callable[[Array, Array], Array]

LIMIT = 14.0
HERMITE_ORDER = 96
_ORDER = 12
_EDGES = np.array([-14.0, -9.0, -6.5, -4.5, -3.0, -1.5, 0.0, 1.5, 3.0, 4.5, 6.5, 9.0, 14.0])
_X, _W = legendre.leggauss(_ORDER)
# Legendre coefficients of the two highest degrees that the rule resolves: their decay tells its error.
_NULL = np.stack([_W * special.eval_legendre(n, _X) * (2 * n + 1) / 2 for n in (_ORDER - 2, _ORDER - 1)], axis=1)
_RULE = np.concatenate([_W[:, None], _NULL], axis=1)
_LEVELS = 50
UNDEFINED = 6.0
_PANELS = 4_000_000


def integrate(fn: Integrand, breaks: Array, tolerance: float = 1e-13) -> tuple[Array, Array]:
    """∫ fn(i, z) φ(z) dz over |z| ≤ 14 and ∫ |fn(i, z)| φ(z) dz for every row i of `breaks`, shape (entries, breaks).

    `fn(i, z)` gets row numbers (panels, 1) and points (panels, nodes). The panels are split at the breaks (in z, infinite
    or NaN: none) and then halved until the decay of their Legendre coefficients puts the error below
    `tolerance` times the integral of the absolute value. Undefined values beyond |z| = 6 (probability 2e-9)
    count as zero; an integral that does not converge (a pole) is NaN.
    """
    entries = breaks.shape[0]
    total, size = np.zeros(entries), np.zeros(entries)
    if entries == 0:
        return total, size
    inner = np.clip(np.nan_to_num(breaks, nan=LIMIT, posinf=LIMIT, neginf=-LIMIT), -LIMIT, LIMIT)
    edges = np.sort(np.concatenate([np.broadcast_to(_EDGES, (entries, _EDGES.size)), inner], axis=1), axis=1)
    row, column = np.nonzero(edges[:, 1:] > edges[:, :-1])
    low, high = edges[row, column], edges[row, column + 1]
    scale = np.zeros(entries)
    done = 0
    for level in range(_LEVELS):
        half = (high - low) / 2
        z = (low + half)[:, None] + half[:, None] * _X
        with np.errstate(all="ignore"):
            values = fn(row[:, None], z)
            undefined = np.isnan(values)
            if undefined.any():
                values = np.where(undefined & (np.abs(z) > UNDEFINED), 0.0, values)
            if level >= 20:
                values = np.where(np.isfinite(values), values, 0.0)
            values = values * (np.exp(-0.5 * z * z) * 0.3989422804014327)
            rule = values @ _RULE
            weight = np.abs(values) @ _W * half
            rule[:, 0] *= half
            noise = (np.abs(rule[:, 1]) + np.abs(rule[:, 2])) * half
            if level == 0:
                scale = np.bincount(row, weight, entries)
            limit = np.asarray(tolerance * scale[row])
            good = settled(noise, weight, limit) | (half <= 1e-15 * np.abs(low)) | ~np.isfinite(weight + limit) | (half < 1e-290)
        done += row.size
        if done > _PANELS or level == _LEVELS - 1:
            lost = row[~good & (noise > 1e-8 * scale[row])]
            total[lost] = np.nan
            good[:] = True
        total += np.bincount(row[good], rule[good, 0], entries)
        size += np.bincount(row[good], weight[good], entries)
        if good.all():
            break
        scale = np.maximum(scale, size)
        row, low, high = row[~good], low[~good], high[~good]
        middle = (low + high) / 2
        row, low, high = np.concatenate([row, row]), np.concatenate([low, middle]), np.concatenate([middle, high])
    return total, size


def settled(noise: Array, weight: Array, limit: Array) -> Array:
    """Whether coefficients of size `noise` out of `weight`, assumed to decay geometrically on to twice their degree, end below `limit`."""
    return (noise <= limit) | ((noise <= 0.01 * weight) & (noise * (noise / np.where(weight > 0, weight, 1.0)) <= limit))


def hermite_rule(points: int) -> tuple[Array, Array]:
    """Nodes and weights with Σ w f(z) = E f(Z), exact for polynomials of degree < 2 points."""
    z, w = special.roots_hermitenorm(points)
    return np.asarray(z), np.asarray(w) / np.sqrt(2 * np.pi)


def hermite_table(z: Array, count: int) -> Array:
    """Orthonormal Hermite polynomials h_k(z) = He_k(z)/√k!, shape (*z.shape, count): √(k+1) h_{k+1} = z h_k − √k h_{k−1}."""
    out = np.empty((*z.shape, count))
    out[..., 0] = 1.0
    if count > 1:
        out[..., 1] = z
    for k in range(1, count - 1):
        out[..., k + 1] = (z * out[..., k] - np.sqrt(k) * out[..., k - 1]) / np.sqrt(k + 1)
    return out
