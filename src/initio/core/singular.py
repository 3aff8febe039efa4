"""Singular values of a weight matrix under its initial distribution: the limit for large matrices of a fixed shape ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from initio.core.distribution import Distribution

__all__ = ["SingularValues", "singular_values"]

INDEPENDENT = ("normal", "uniform", "truncated_normal")
_ANGLES = np.linspace(0.0, math.pi, 4097)


@dataclass(frozen=True, slots=True)
class SingularValues:
    """The law of the min(m, n) singular values of an m × n matrix: `low` and `high` are the edges of its support.

    `ratio` is min(m, n) / max(m, n) where the entries are independent (Marchenko & Pastur 1967), None where all values are the same.
    """

    low: float
    high: float
    rms: float
    ratio: float | None

    def quantiles(self, levels: Sequence[float]) -> list[float]:
        """The values below which the given shares of the singular values lie.

        With λ = s² / (max(m, n) σ²) = 1 + q + 2 √q cos θ, dP = (2/π) sin² θ / λ dθ.
        """
        if self.ratio is None:
            return [self.rms] * len(levels)
        value = 1.0 + self.ratio + 2.0 * math.sqrt(self.ratio) * np.cos(_ANGLES[::-1])
        density = np.sin(_ANGLES) ** 2 / np.maximum(value, 1e-300)
        below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
        return [float(each) * self.rms for each in np.sqrt(np.interp(levels, below / below[-1], value))]


def singular_values(law: Distribution) -> SingularValues | None:
    """σ (√max(m, n) ± √min(m, n)) for independent entries of mean 0, the gain for orthogonal ones; None where no such law holds.

    The tensor counts as the matrix (shape[0], -1), as orthogonal initialisation takes it: a convolution's kernel maps patches.

    >>> found = singular_values(Distribution("normal", {"mean": 0.0, "std": 0.1}, (300, 100)))
    >>> round(found.low, 3), round(found.high, 3)
    (0.732, 2.732)
    """
    if len(law.shape) < 2 or min(law.shape) < 1:
        return None
    rows, columns = law.shape[0], math.prod(law.shape[1:])
    long, short = max(rows, columns), min(rows, columns)
    if law.family == "orthogonal":
        gain = law.parameters["gain"]
        return SingularValues(gain, gain, gain, None)
    if law.family not in INDEPENDENT or not law.std > 0 or abs(law.mean) > 1e-9 * law.std:
        return None
    # E s² = ‖W‖² / min(m, n) = max(m, n) σ²
    return SingularValues(
        law.std * (math.sqrt(long) - math.sqrt(short)),
        law.std * (math.sqrt(long) + math.sqrt(short)),
        law.std * math.sqrt(long),
        short / long,
    )
