"""A model's course along depth in a few numbers: growth of signal and gradient, and the depth scales of their decay."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["QUANTITIES", "Course", "depth_scale"]

NAN = math.nan
NOISE = 1e-9
"""Differences along depth below this share of the values are rounding."""
FEWEST = 4
"""Fewer differences tell no rate."""

QUANTITIES = {
    "layers": "layers on the main way",
    "signal": "rms of the last layer's output over the first's",
    "gradient": "rms of the cotangent at the first layer over the last's",
    "forward_growth": "factor of the signal's rms per layer",
    "gradient_growth": "factor of the cotangent's rms per layer, from the output to the input",
    "chi": "factor of the squared cotangent per layer, median (χ₁)",
    "correlation": "correlation of two samples at the last layer",
    "xi_signal": "depth scale of the second moment, in layers",
    "xi_correlation": "depth scale of the correlation of two samples, in layers",
    "xi_gradient": "depth scale of the gradient, 1 / |ln χ₁|, in layers",
}
"""Name → what it is."""


@dataclass(frozen=True, slots=True)
class Course:
    """Along the layers, from the input to the output: second moments, the part of them in which samples differ, squared cotangents.

    NaN stands where nothing is known.
    """

    seconds: Sequence[float]
    varying: Sequence[float]
    cotangents: Sequence[float]

    def quantities(self) -> dict[str, float | int]:
        """All of `QUANTITIES`; NaN where the model has too few layers for one or its moments are not known.

        Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, eqs. 6 to 9 and 16: χ₁ = E|∂L/∂z_l|² / E|∂L/∂z_{l+1}|², and
        |q_l − q*| ∝ exp(−l / ξ_q), |c_l − c*| ∝ exp(−l / ξ_c) with ξ_c = 1 / |ln χ₁| where c* = 1.
        """
        forward, backward = _ratio(self.seconds), _ratio(self.cotangents[::-1])
        correlations = [1.0 - v / q if q > 0 else NAN for q, v in zip(self.seconds, self.varying, strict=True)]
        steps = [math.log(a / b) for a, b in itertools.pairwise(self.cotangents) if 0 < a < math.inf and 0 < b < math.inf]
        rate = statistics.median(steps) if steps else NAN
        return {
            "layers": len(self.seconds),
            "signal": forward[0],
            "gradient": backward[0],
            "forward_growth": forward[1],
            "gradient_growth": backward[1],
            "chi": _exp(rate),
            "correlation": correlations[-1] if correlations else NAN,
            "xi_signal": depth_scale(self.seconds),
            "xi_correlation": depth_scale(correlations),
            "xi_gradient": _inverse(rate),
        }


def depth_scale(values: Sequence[float]) -> float:
    """ξ in |v_l − v*| ∝ exp(∓l / ξ), from the differences v_{l+1} − v_l, which have the same rate whatever the limit v* is.

    The rate is fitted to the later half of the differences that stand above rounding, where the slowest mode is alone. Infinite
    where the values do not change at all, NaN where too few differences are left to tell.

    >>> round(depth_scale([1 - 0.5 * math.exp(-l / 7) for l in range(60)]), 6), depth_scale([2.0] * 9)
    (7.0, inf)
    """
    known = list(itertools.takewhile(math.isfinite, values))
    pairs = list(itertools.pairwise(known))
    if len(pairs) < FEWEST:
        return NAN
    above = itertools.takewhile(lambda pair: abs(pair[1] - pair[0]) > NOISE * max(abs(pair[0]), abs(pair[1])), pairs)
    logs = [math.log(abs(b - a)) for a, b in above]
    if not logs:
        return math.inf
    if len(logs) < FEWEST:
        return NAN
    tail = logs[-max(FEWEST - 1, len(logs) // 2) :]
    return _inverse(statistics.linear_regression(range(len(tail)), tail).slope)


def _ratio(moments: Sequence[float]) -> tuple[float, float]:
    """Root of the last known moment over the first, and its factor per layer."""
    known = [(place, m) for place, m in enumerate(moments) if math.isfinite(m) and m > 0]
    if len(known) < 2:
        return NAN, NAN
    (start, first), (end, last) = known[0], known[-1]
    log = (math.log(last) - math.log(first)) / 2
    return _exp(log), _exp(log / (end - start))


def _inverse(rate: float) -> float:
    return NAN if math.isnan(rate) else math.inf if abs(rate) < 1e-12 else 1.0 / abs(rate)


def _exp(log: float) -> float:
    return math.inf if log > 709.7 else math.exp(log)
