"""Maxima of exchangeable normals and softmax weights against draws, and against identities that hold exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from initio.core.extremes import max_moments, max_pair, order_moments, same_argmax
from initio.core.functions import function
from initio.core.gaussian import IDENTITY, expect, expect2
from initio.core.softmax import softmax_moment, softmax_moments, softmax_pair

DRAWS = 200_000


def z_score(sample: np.ndarray, wanted: float) -> float:
    return float((sample.mean() - wanted) / (sample.std() / math.sqrt(len(sample)) + 1e-12 * abs(wanted)))


@pytest.mark.parametrize(
    ("n", "mean", "var", "cov", "cross", "aligned"),
    [(9, -0.2, 1.3, 0.4, 0.2, 0.7), (4, 0.3, 1.0, 0.6, 0.1, None), (9, 0.0, 1.0, 0.0, 0.0, 0.9)],
)
def test_maxima_against_draws(n, mean, var, cov, cross, aligned) -> None:
    rng = np.random.default_rng(n)
    r = 0.0 if aligned is None else (aligned - cross) / (var - cov)
    common = np.sqrt(cov) * rng.normal(size=(2, DRAWS))
    if cov:
        common[1] = cross / cov * common[0] + math.sqrt(1 - (cross / cov) ** 2) * common[1]
    first = rng.normal(size=(DRAWS, n))
    second = r * first + math.sqrt(1 - r * r) * rng.normal(size=(DRAWS, n))
    u = mean + common[0] + math.sqrt(var - cov) * first.max(1)
    v = mean + common[1] + math.sqrt(var - cov) * second.max(1)
    for f in (IDENTITY, function("relu"), function("tanh")):
        one, two = max_moments(mean, var, cov, n, f)
        pair = max_pair(mean, var, cov, cross, n, aligned, f)
        assert abs(z_score(f(u), float(one))) < 5
        assert abs(z_score(f(u) ** 2, float(two))) < 5
        assert abs(z_score(f(u) * f(v), float(pair))) < 5
        assert abs(z_score(f(u) * f(v), 1.03 * float(pair))) > 5
    agree = (first.argmax(1) == second.argmax(1)).astype(float)
    assert abs(z_score(agree, float(same_argmax(r, n)))) < 5


def test_known_order_statistics() -> None:
    assert order_moments(1) == pytest.approx((0.0, 1.0), abs=1e-12)
    assert order_moments(2) == pytest.approx((1 / math.sqrt(math.pi), 1.0), rel=1e-12)
    assert order_moments(3)[0] == pytest.approx(1.5 / math.sqrt(math.pi), rel=1e-12)
    assert order_moments(4)[0] == pytest.approx(6 / math.sqrt(math.pi) / math.pi * math.atan(math.sqrt(2)), rel=1e-10)
    for n in (2, 9, 49):
        assert same_argmax([0.0, 1.0], n) == pytest.approx([1 / n, 1.0], rel=1e-6)
    # n = 2: max = mean + |difference|/2, so the same place with probability 1/2 + arcsin(r)/π
    r = np.array([-0.7, 0.2, 0.95])
    assert same_argmax(r, 2) == pytest.approx(0.5 + np.arcsin(r) / np.pi, rel=1e-10)


def test_pair_is_consistent_with_single() -> None:
    for f in (IDENTITY, function("relu"), function("sigmoid")):
        one, two = max_moments(0.1, 1.2, 0.5, 9, f)
        assert float(max_pair(0.1, 1.2, 0.5, 0.5, 9, 1.2, f)) == pytest.approx(float(two), rel=1e-6)
        assert float(max_pair(0.1, 1.2, 0.5, 0.0, 9, 0.0, f)) == pytest.approx(float(one) ** 2, rel=1e-8)
        unaligned, nearly = max_pair(0.1, 1.2, 0.5, 0.2, 9, [0.2, 0.2 + 1e-9], f)
        assert unaligned == pytest.approx(nearly, rel=1e-6)
    relu = function("relu")
    assert float(max_moments(0.1, 1.2, 0.5, 1, relu)[1]) == pytest.approx(float(expect(relu.times(relu), 0.1, 1.2)), rel=1e-9)
    assert float(max_pair(0.1, 1.2, 0.5, 0.2, 1, 0.3, relu)) == pytest.approx(float(expect2(relu, relu, 0.1, 1.2, 0.1, 1.2, 0.3)), rel=1e-6)


def test_fully_correlated_window_and_negative_covariance() -> None:
    relu = function("relu")
    assert float(max_moments(0.1, 1.2, 1.2, 9, relu)[0]) == pytest.approx(float(expect(relu, 0.1, 1.2)), rel=1e-12)
    one, two = max_moments(0.0, 1.0, -0.1, 4)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(DRAWS, 4)) @ np.linalg.cholesky(1.1 * np.eye(4) - 0.1).T
    assert abs(z_score(x.max(1), float(one))) < 5
    assert abs(z_score(x.max(1) ** 2, float(two))) < 5
    assert abs(z_score(np.maximum(x.max(1), 0), float(max_moments(0.0, 1.0, -0.1, 4, relu)[0]))) < 5


def test_a_function_that_is_not_increasing_is_refused() -> None:
    with pytest.raises(ValueError, match="increasing"):
        max_moments(0.0, 1.0, 0.0, 4, function("abs"))


@pytest.mark.parametrize("var", [0.3, 4.0, 20.0])
@pytest.mark.parametrize("length", [2, 16, 196])
def test_softmax_against_draws(var: float, length: int) -> None:
    rng = np.random.default_rng(length)
    count = 2_000_000 // length
    x = rng.normal(size=(count, length))
    y = 0.6 * x + 0.8 * rng.normal(size=(count, length))

    def weights(z: np.ndarray) -> np.ndarray:
        e = np.exp(math.sqrt(var) * z)
        return e / e.sum(1, keepdims=True)

    p, q = weights(x), weights(y)
    assert abs(z_score((p * p).mean(1), float(softmax_moments(var, length)))) < 5
    assert abs(z_score((p * q).mean(1), float(softmax_pair(var, 0.6 * var, length)))) < 5
    opposed = weights(-0.5 * x + math.sqrt(0.75) * rng.normal(size=x.shape))
    assert abs(z_score((p * opposed).mean(1), float(softmax_pair(var, -0.5 * var, length)))) < 5
    assert abs(z_score((p[:, 0] ** 2 * p[:, 1]), softmax_moment(var, length, 2, 1))) < 5


@pytest.mark.parametrize("var", [0.0, 1e-6, 0.01, 1.0, 20.0])
@pytest.mark.parametrize("length", [1, 2, 50, 16384])
def test_softmax_identities(var: float, length: int) -> None:
    assert softmax_moment(var, length, 1) == pytest.approx(1 / length, rel=1e-8)
    second = float(softmax_moments(var, length))
    if length > 1:
        # the weights of a softmax add up to 1
        assert length * second + length * (length - 1) * softmax_moment(var, length, 1, 1) == pytest.approx(1.0, rel=1e-8)
    assert float(softmax_pair(var, 0.0, length)) == pytest.approx(1 / length**2, rel=1e-12)
    assert float(softmax_pair(var, 1e-9 * var, length)) * length**2 == pytest.approx(1.0, abs=1e-5)
    assert float(softmax_pair(var, var, length)) == pytest.approx(second, rel=1e-13)
    assert float(softmax_pair(var, (1 - 1e-9) * var, length)) == pytest.approx(second, rel=1e-6)


def test_small_spread_is_log_normal() -> None:
    assert float(softmax_moments(0.01, 16384)) * 16384**2 == pytest.approx(math.exp(0.01), rel=1e-5)
    assert float(softmax_pair(0.01, 0.004, 16384)) * 16384**2 == pytest.approx(math.exp(0.004), rel=1e-5)


def test_softmax_refuses_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="var >= 0"):
        softmax_moments(-1.0, 4)
