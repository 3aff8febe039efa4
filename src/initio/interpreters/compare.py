"""Prediction beside measurement: the relative error of every rms and its distance in standard errors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

from initio.core.estimate import Estimate

__all__ = ["Comparison", "Predicted", "Row", "compare"]

K = TypeVar("K", bound=Hashable)

Predicted = tuple[float, float, str]
"""Mean, second moment and claim ("exact", "rule", "simulated", "unknown") of a tensor's entries."""

ROUNDING = 1e-4
"""Zero on one side agrees with up to this share of the median rms on the other: float32 cancellation, or tails never drawn."""


@dataclass(frozen=True, slots=True)
class Row(Generic[K]):
    """One tensor: `error` = |predicted rms / measured rms − 1|, `z` = (predicted − measured second moment) / its standard error.

    Without a claim, `predicted`, `error` and `z` are nan and the row does not pass.
    """

    key: K
    shape: tuple[int, ...]
    claim: str
    predicted: float
    measured: float
    error: float
    z: float
    passes: bool
    predicted_mean: float
    measured_mean: float


@dataclass(frozen=True, slots=True)
class Comparison(Generic[K]):
    """Every measured tensor, the worst first; `unmeasured` are predictions for tensors that no draw showed."""

    rows: tuple[Row[K], ...]
    unmeasured: tuple[K, ...] = ()

    @property
    def nodes(self) -> int:
        """Number of measured tensors."""
        return len(self.rows)

    @property
    def unknown(self) -> int:
        """Number of them without a claim."""
        return sum(row.claim == "unknown" for row in self.rows)

    @property
    def simulated(self) -> int:
        """Number of them whose prediction was simulated."""
        return sum(row.claim == "simulated" for row in self.rows)

    @property
    def median(self) -> float:
        """Median error among the nodes with a claim (nan: there are none)."""
        return median(self._errors()) if self._errors() else math.nan

    @property
    def p95(self) -> float:
        """95th percentile of the error among the nodes with a claim."""
        return self.percentile(95)

    @property
    def worst(self) -> Row[K] | None:
        """The claimed node with the largest error."""
        return max((row for row in self.rows if row.claim != "unknown"), key=lambda row: row.error, default=None)

    @property
    def passing(self) -> float:
        """Share of all nodes that pass; a node without a claim does not."""
        return sum(row.passes for row in self.rows) / len(self.rows) if self.rows else 1.0

    def percentile(self, percent: float) -> float:
        """Smallest error that at least `percent` of the claimed nodes stay within."""
        errors = sorted(self._errors())
        return errors[max(math.ceil(percent / 100 * len(errors)) - 1, 0)] if errors else math.nan

    def _errors(self) -> list[float]:
        return [row.error for row in self.rows if row.claim != "unknown"]


def compare(
    predicted: Mapping[K, Predicted], measured: Mapping[K, Estimate], *, tolerance: float = 0.05, errors: float = 2.0
) -> Comparison[K]:
    """Set predictions beside measurements: a row passes within `tolerance` of the rms or within `errors` standard errors.

    Failing rows come first (those without a claim at their head), each part by falling error.
    """
    middle = median([e.rms for e in measured.values() if e.second > 0] or [0.0])
    rows = [_row(key, predicted.get(key), estimate, tolerance, errors, ROUNDING * middle) for key, estimate in measured.items()]
    rows.sort(key=lambda row: (row.passes, -math.inf if math.isnan(row.error) else -row.error))
    return Comparison(tuple(rows), tuple(key for key in predicted if key not in measured))


def _row(key: K, prediction: Predicted | None, estimate: Estimate, tolerance: float, errors: float, floor: float) -> Row[K]:
    if prediction is None or prediction[2] == "unknown":
        nan = math.nan
        return Row(key, estimate.shape, "unknown", nan, estimate.rms, nan, nan, False, nan, estimate.mean)
    mean, second, claim = prediction
    rms = math.sqrt(second) if second >= 0 else math.nan
    difference = second - estimate.second
    if second == estimate.second or (min(second, estimate.second) == 0 and max(rms, estimate.rms) <= floor):
        error, z = 0.0, 0.0
    else:
        error = abs(rms / estimate.rms - 1) if estimate.rms > 0 else math.inf
        error = math.inf if math.isnan(error) else error
        z = difference / estimate.error if estimate.error > 0 else math.copysign(math.inf, difference)
        if math.isnan(estimate.error):
            z = math.nan
    passes = error <= tolerance or abs(z) <= errors
    return Row(key, estimate.shape, claim, rms, estimate.rms, error, z, passes, mean, estimate.mean)
