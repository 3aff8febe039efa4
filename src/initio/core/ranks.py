"""The largest k of n exchangeable scores: their values, and how often two rows pick the same ones.

Row t scores entry e by z_te = √s g_te, normal and independent over e; two rows have correlation ρ on one entry and none on different ones.
Of the sorted scores z_(1) ≥ … ≥ z_(k) and a scoring v(z) of the row, the expectations E[v_(a) v_(b)], E[v_(a) v′_(b)] and P(the a-th entry
of one row is the b-th of the other) are integrals over 2n normals. They are taken over a shifted Sobol' sequence (Cranley and Patterson 1976), what is known
exactly at ρ = 0 (independent rows: P = 1/n) in its place.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

__all__ = ["Ranked", "Scoring", "Statistics", "picked", "softmax_jacobian", "softmax_score"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Scoring: TypeAlias = "Callable[[Array], Array]"
"""Rows of entries z to rows of scores, increasing in z within a row."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Averages over the k places of a pair of rows: `mean` of a value, products on the same and on different places, chances of the same entry there."""

    mean: float
    same: float
    different: float
    equal_same: float
    equal_different: float


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Where the k largest of n scores came from: variance of the logits, their correlation between rows by pair class (nan: one row), the scoring."""

    n: int
    k: int
    variance: float
    rho: Array
    score: Scoring

    def per_class(self, what: Callable[[Statistics], tuple[float, float]], shares: bool = False) -> Array:
        """(different place, same place) of a statistic for every class of pairs of rows, in a trailing dimension."""
        out = np.zeros((*self.rho.shape, 2))
        for index in np.ndindex(self.rho.shape):
            r = float(self.rho[index])
            out[index] = what(picked(self.n, self.k, self.variance, None if np.isnan(r) else round(r, 2), self.score, shares))
        return out

    def mean(self, shares: bool = False) -> float:
        """E of a value, averaged over the places."""
        return picked(self.n, self.k, self.variance, None, self.score, shares).mean


def softmax_score(z: Array) -> Array:
    """e^z / Σ e^z of each row."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


@lru_cache(maxsize=8)
def _normals(n: int) -> tuple[Array, Array]:
    """Two independent arrays (points, n) of standard normals."""
    log2 = int(np.clip(np.log2(2**19 / n), 9, 14))
    points = (qmc.Sobol(2 * n, scramble=False).random_base2(log2) + np.random.default_rng(0).random(2 * n)) % 1.0
    z = ndtri(np.clip(points, 1e-12, 1 - 1e-12))
    return z[:, :n], z[:, n:]


@lru_cache(maxsize=256)
def picked(n: int, k: int, variance: float, rho: float | None, score: Scoring, shares: bool = False) -> Statistics:
    """The statistics of two rows with correlation ρ; None: of one row with itself. `shares`: values divided by their sum over the places."""
    one, other = _normals(n)
    std = np.sqrt(variance)
    ids, v = _best(std * one, k, score, shares)
    mean = v.mean(axis=0)
    if rho is None:
        return _summary(mean, v.T @ v / len(v), np.eye(k))
    base = v.T @ _best(std * other, k, score, shares)[1] / len(v)
    free = _equal(ids, _best(std * other, k, score, shares)[0])
    r = float(np.clip(rho, -1.0, 1.0))
    ids2, v2 = _best(std * (r * one + np.sqrt(1.0 - r * r) * other), k, score, shares)
    product = np.outer(mean, mean) + v.T @ v2 / len(v) - base
    equal = 1.0 / n + _equal(ids, ids2) - free
    return _summary(mean, 0.5 * (product + product.T), np.clip(0.5 * (equal + equal.T), 0.0, 1.0))


def _best(z: Array, k: int, score: Scoring, shares: bool) -> tuple[Array, Array]:
    ids = np.argsort(-z, axis=1)[:, :k]
    v = np.take_along_axis(score(z), ids, axis=1)
    return ids, v / v.sum(axis=1, keepdims=True) if shares else v


def _equal(a: Array, b: Array) -> Array:
    return np.asarray((a[:, :, None] == b[:, None, :]).mean(axis=0))


def _summary(mean: Array, product: Array, equal: Array) -> Statistics:
    k = len(mean)
    pairs = max(k * (k - 1), 1)

    def apart(m: Array) -> float:
        return float(m.sum() - np.trace(m)) / pairs

    return Statistics(float(mean.mean()), float(np.trace(product)) / k, apart(product), float(np.trace(equal)) / k, apart(equal))


@lru_cache(maxsize=256)
def softmax_jacobian(n: int, k: int, variance: float) -> tuple[float, float]:
    """(a, b) with E Σ_e dx_e² = k (a E[g²] + b E[g g′]): dx = p (g − Σ p g) of a softmax p for a cotangent g on its k largest entries, 0 elsewhere.

    g is independent of p; E[g²] is that of one place, E[g g′] of two. With J = (diag p − p pᵀ) restricted to the places T,
    E|J g|² = tr(JᵀJ) (E g² − E gg′) + |J 1_T|² E gg′.
    """
    p = softmax_score(np.sqrt(variance) * _normals(n)[0])
    top = np.sort(p, axis=1)[:, ::-1][:, :k]
    norm = (p**2).sum(axis=1)
    # column e of J: p_e (δ_e − p); |J_e|² = p_e² (1 − 2 p_e + |p|²)
    trace = (top**2 * (1.0 - 2.0 * top + norm[:, None])).sum(axis=1)
    share = top.sum(axis=1)
    ones = (top**2).sum(axis=1) * (1.0 - 2.0 * share) + share**2 * norm
    return float(trace.mean()) / k, float((ones - trace).mean()) / k
