"""Moments of log Σ e^x, of softmaxes of any sharpness and of their entropy, against draws and limits."""

import math

import numpy as np
import pytest

from initio.core.extremes import order_moments
from initio.core.softmax import agreement, log_sum, log_sum_covariance, softmax_entropy, softmax_moment, softmax_pair, value_excess

DRAWS = 20_000


def drawn(variance: float, length: int, rho: float = 1.0):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((DRAWS, length)) * variance**0.5
    other = rho * x + (1.0 - rho * rho) ** 0.5 * variance**0.5 * rng.standard_normal((DRAWS, length))
    made = []
    for z in (x, other):
        top = z.max(axis=1, keepdims=True)
        e = np.exp(z - top)
        made += [top[:, 0] + np.log(e.sum(axis=1)), e / e.sum(axis=1, keepdims=True)]
    return x, *made


def near(value: float, samples: np.ndarray) -> bool:
    return abs(value - samples.mean()) < 4.0 * samples.std() / len(samples) ** 0.5


@pytest.mark.parametrize("length", [4, 100])
@pytest.mark.parametrize("variance", [0.3, 5.0, 40.0, 1e4, 1e8])
def test_moments_of_one_row_agree_with_draws(variance: float, length: int):
    x, total, p, _, _ = drawn(variance, length)
    mean, spread = log_sum(variance, length)
    entropy, scatter = softmax_entropy(variance, length)
    h = total - (p * x).sum(axis=1)
    assert near(mean, total)
    assert near(spread, (total - mean) ** 2)
    assert near(value_excess(variance, length), (p * x).sum(axis=1) ** 2 - variance * (p * p).sum(axis=1))
    assert near(agreement(variance, variance, length), (p * p).sum(axis=1))
    if variance < 1e5:  # beyond, softmaxes count as choices, of entropy 0
        assert near(entropy, h)
        assert near(scatter, (h - entropy) ** 2)


@pytest.mark.parametrize("rho", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("variance", [0.3, 5.0, 1e3])
def test_covariances_of_two_rows_agree_with_draws(variance: float, rho: float):
    _, one, p, two, q = drawn(variance, 100, rho)
    mean, spread = log_sum(variance, 100)
    assert log_sum_covariance(variance, rho * variance, 100) == pytest.approx(
        float(((one - mean) * (two - mean)).mean()), abs=0.05 * spread
    )
    assert agreement(variance, rho * variance, 100) == pytest.approx(float((p * q).sum(axis=1).mean()), rel=0.02)


def test_narrow_and_sharp_limits():
    assert log_sum(1e-4, 50) == pytest.approx((math.log(50) + 0.5e-4 * (1 - 1 / 50), 1e-4 / 50), rel=1e-3)
    first, second = order_moments(50)
    assert log_sum(9e4, 50) == pytest.approx((math.sqrt(9e4) * first, 9e4 * (second - first**2)), rel=1e-3)
    assert value_excess(9e4, 50) == pytest.approx(9e4 * (second - 1.0 + first / 300.0), rel=1e-4)
    assert log_sum(2.0, 1) == (0.0, 2.0)
    assert softmax_entropy(0.0, 50) == (math.log(50), 0.0)


def test_the_log_of_the_sum_follows_its_heat_equation():
    for variance in (0.5, 20.0, 3000.0):  # dE L/ds = (1 − E Σ p²) / 2
        step = 1e-3 * variance
        slope = (log_sum(variance + step, 30)[0] - log_sum(variance - step, 30)[0]) / (2.0 * step)
        assert slope == pytest.approx(0.5 * (1.0 - 30 * softmax_moment(variance, 30, 2)), rel=1e-4)
    assert agreement(4.0, 4.0, 30) == pytest.approx(30 * float(softmax_pair(4.0, 4.0 - 1e-9, 30)), rel=1e-4)
