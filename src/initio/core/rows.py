# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy's stubs leave parts of its results untyped
"""The law, from draw to draw, of the mean square of one sample's features in a network of finite width.

Given the variance q of one sample's pre-activations, these are independent over the features with weights that are, so that the mean of f(x)² over n of them has
the mean F(q) = E f(√q z)² and the relative variance (E f⁴ / F² − 1) / n, and the next layer's q is a multiple of it: a Markov chain in one dimension.
Where F is q times a constant, as for ReLU, E q follows F all the same (Hanin & Nica 2020). Where its fixed point is not stable, few draws escape and make up E q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from initio.core.axes import Array
from initio.core.gaussian import expect
from initio.core.scalar import Scalar

__all__ = ["FIXED", "TINY", "Rows"]

_Z, _weights = np.polynomial.hermite_e.hermegauss(64)
_W = _weights / _weights.sum()
_K, _weights = np.polynomial.hermite_e.hermegauss(5)
_V = _weights / _weights.sum()
FINE = 0.25
"""Distance of the values that are kept, in relative standard deviations of one layer: it adds FINE²/6 to the relative variance of one layer."""
MOST = 1000
"""Values that are kept at most."""
NEGLIGIBLE = 1e-12
TINY = 1e-100
"""Mean squares below it are zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Probabilities `weights` of the `values` of q / E q."""

    values: Array
    weights: Array

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
        """The law of the mean of f² over `width` features, log-normal given q; and one with which single sums of these features and weights are normal.

        With weights w of another fourth moment, `kurtosis` = E w⁴ / (E w²)², a sum has the fourth cumulant 3 Var q + (kurtosis − 3) E f⁴ / width.
        """
        _, second, fourth = self.of(fn, mean, variance)
        if not second.max() > TINY:
            return FIXED, FIXED
        some = np.maximum(second, TINY)
        ratio = fourth / some / some
        laws: list[Rows] = []
        for relative in (ratio - 1.0, ratio - 1.0 + (kurtosis / 3.0 - 1.0) * ratio):
            spread = np.log1p(np.maximum(relative, 0.0) / width)
            values = second[:, None] * np.exp(np.sqrt(spread)[:, None] * _K - 0.5 * spread[:, None])
            laws.append(
                _gathered(values.ravel(), np.multiply.outer(self.weights, _V).ravel(), FINE * math.sqrt(float(self.weights @ spread)))
            )
        return laws[0], laws[1]

    def beside(self, variance: float, constant: float) -> Rows:
        """Of variance · q / E q + constant."""
        return Rows((variance * self.values + constant) / (variance + constant), self.weights)


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
