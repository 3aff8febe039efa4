# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy's stubs leave parts of its results untyped
"""The law, from draw to draw, of the mean square of one sample's features in a network of finite width.

Given the variance q of one sample's pre-activations, these are independent over the features with weights that are, so that the mean of f(x)² over n of them has
the mean F(q) = E f(√q z)² and the relative variance (E f⁴ / F² − 1) / n, and the next layer's q is a multiple of it: a Markov chain in one dimension.
Where F is q times a constant, as for ReLU, E q follows F all the same (Hanin & Nica 2020). Where its fixed point is not stable, few draws escape and make up E q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from initio.core.axes import Array
from initio.core.gaussian import expect
from initio.core.scalar import Scalar

__all__ = ["FIXED", "TINY", "Rows"]

_Z, _weights = np.polynomial.hermite_e.hermegauss(64)
_W = _weights / _weights.sum()
_POINTS = 5
FINE = 0.25
"""Distance of the values that are kept, in relative standard deviations of one layer: it adds FINE²/6 to the relative variance of one layer."""
MOST = 1000
"""Values that are kept at most."""
NEGLIGIBLE = 1e-12
TINY = 1e-100
"""Mean squares below it are zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Probabilities `weights` of the `values` of q / E q; `reach` are those that each value of the law `before`, of the layer below, leads to.

    `share` is the part of E q that the layer below makes, the rest is a bias.
    """

    values: Array
    weights: Array
    before: Rows | None = None
    reach: Array | None = None
    chances: Array | None = None
    share: float = 1.0

    def of(self, fn: Scalar, mean: float, variance: float) -> tuple[Array, Array, Array]:
        """E f, E f², E f⁴ of f(mean + √(q variance / E q) z) at each value."""
        if fn.kinks:
            square = fn.times(fn)
            one, two, four = (
                np.asarray(expect(f, np.full(len(self.values), mean), variance * self.values)) for f in (fn, square, square.times(square))
            )
            return one, two, four
        y = np.asarray(fn(mean + np.sqrt(variance * self.values)[:, None] * _Z))
        return y @ _W, (y * y) @ _W, (y**4) @ _W

    def averaged(self, fn: Scalar, mean: float, variance: float, width: int, kurtosis: float = 3.0) -> tuple[Rows, Rows]:
        """The law of the mean of f² over `width` features, Gamma given q; and one with which single sums of these features and weights are normal.

        With weights w of another fourth moment, `kurtosis` = E w⁴ / (E w²)², a sum has the fourth cumulant 3 Var q + (kurtosis − 3) E f⁴ / width.
        """
        _, second, fourth = self.of(fn, mean, variance)
        if not second.max() > TINY:
            return FIXED, FIXED
        some = np.maximum(second, TINY)
        ratio = fourth / some / some
        laws: list[Rows] = []
        for relative in (ratio - 1.0, ratio - 1.0 + (kurtosis / 3.0 - 1.0) * ratio):
            spread = np.maximum(relative, 0.0) / width
            times, chances = _gamma(spread)
            values = second[:, None] * times
            reach = values / float(self.weights @ (values * chances).sum(axis=1))
            step = FINE * math.sqrt(float(self.weights @ spread))
            made = _gathered(reach.ravel(), (self.weights[:, None] * chances).ravel(), step)
            laws.append(replace(made, before=self, reach=reach, chances=chances))
        return laws[0], laws[1]

    def beside(self, variance: float, constant: float) -> Rows:
        """Of variance · q / E q + constant."""
        share = variance / (variance + constant)
        return replace(self, values=share * self.values + 1.0 - share, share=share * self.share)

    def back(self, given: Array) -> tuple[Array, Array, float]:
        """Of something whose expectation given q is `given`: that for each value of the law before, and by how many per cent it grows with one per cent of q.

        Last, its covariance with the mean square below, relative to both means.
        """
        if self.before is None or self.reach is None or self.chances is None:
            raise ValueError("a law of rows without one before it")
        logs, own = np.log(np.maximum(self.values, 1e-300)), self.share * self.reach
        at = np.log(np.maximum(own + 1.0 - self.share, 1e-300))
        made = np.interp(at, logs, given) * self.chances
        slope = np.interp(at, logs, np.gradient(given, logs)) * own * np.exp(-at) * self.chances if len(logs) > 1 else np.zeros(at.shape)
        below = made.sum(axis=1)
        total = max(float(self.before.weights @ below), 1e-300)
        return (
            below,
            slope.sum(axis=1) / np.maximum(below, 1e-300),
            float(self.before.weights @ (made * self.reach).sum(axis=1)) / total - 1.0,
        )


def _gamma(spread: Array) -> tuple[Array, Array]:
    """Nodes and weights for Gamma variables of mean 1 and these variances: Gauss–Laguerre rules of five points (Golub & Welsch 1969)."""
    shape = 1.0 / np.maximum(spread, 1e-12)
    k = np.arange(_POINTS)
    jacobi = np.zeros((len(shape), _POINTS, _POINTS))
    jacobi[:, k, k] = (2.0 * k + shape[:, None]) / shape[:, None]
    beside = np.sqrt(k[1:] * (k[1:] + shape[:, None] - 1.0)) / shape[:, None]
    jacobi[:, k[1:], k[:-1]] = beside
    jacobi[:, k[:-1], k[1:]] = beside
    nodes, vectors = np.linalg.eigh(jacobi)
    return np.maximum(nodes, 0.0), vectors[:, 0, :] ** 2


FIXED = Rows(np.ones(1), np.ones(1))
"""The same in every draw."""


def _gathered(values: Array, weights: Array, step: float) -> Rows:
    """The law on values at a logarithmic distance, each weight shared by two neighbours so that the sum and the mean stay."""
    values = values / (weights @ values)
    kept = (weights > NEGLIGIBLE) & (values > 1e-290)
    kept |= weights * values > NEGLIGIBLE
    logs, values, weights = np.log(np.maximum(values[kept], 1e-300)), values[kept], weights[kept]
    low, high = float(logs.min()), float(logs.max())
    count = int(np.clip(math.ceil((high - low) / max(step, 1e-12)), 1, MOST)) + 1
    grid = np.exp(np.linspace(low, high, count))
    grid[0], grid[-1] = min(grid[0], values.min()), max(grid[-1], values.max())
    at = np.clip(np.searchsorted(grid, values, side="right") - 1, 0, count - 2)
    upper = np.clip((values - grid[at]) / np.maximum(grid[at + 1] - grid[at], 1e-300), 0.0, 1.0)
    shared = np.bincount(at, weights * (1.0 - upper), count) + np.bincount(at + 1, weights * upper, count)
    shared = shared / shared.sum()
    return Rows(grid / (shared @ grid), shared)
