"""A sum and its terms against draws: behind a ReLU, or times a gate, they are far from jointly Gaussian."""

import numpy as np
import pytest
from scipy.special import expit

from initio.core.algebra import add, apply, multiply
from initio.core.functions import FUNCTIONS
from initio.core.moments import Moments
from initio.core.parts import quantiles

N = 400_000


def normal(variance=1.0):
    return Moments.iid((64,), 0.0, variance)


@pytest.mark.parametrize("size", [0.25, 0.5, 1.0])
def test_whether_a_sum_is_positive_follows_its_term(size):
    z, u = np.random.default_rng(0).standard_normal((2, N))
    measured = ((np.maximum(z, 0) + size * u > 0) * u).mean()
    term = normal()
    made = apply(add(apply(normal(), FUNCTIONS["relu"]), term, 1.0, size), FUNCTIONS["step"])
    assert multiply(made, term).total_mean == pytest.approx(measured, rel=0.02)


def test_a_gated_term():
    z, u, s = np.random.default_rng(0).standard_normal((3, N))
    total = np.maximum(z, 0) + expit(2 * s) * u
    term, gate = normal(), apply(normal(4.0), FUNCTIONS["sigmoid"])
    made = add(apply(normal(), FUNCTIONS["relu"]), multiply(gate, term))
    rectified = apply(made, FUNCTIONS["relu"])
    assert rectified.total_mean == pytest.approx(np.maximum(total, 0).mean(), rel=0.01)
    assert rectified.total_second == pytest.approx((np.maximum(total, 0) ** 2).mean(), rel=0.01)
    assert multiply(apply(made, FUNCTIONS["step"]), term).total_mean == pytest.approx(((total > 0) * u).mean(), rel=0.02)


def test_a_mask_passed_earlier_stays_with_the_next():
    """E[m₁ m₀ u₀]² of G m₁ m₀ u₀: what is left of m₁ = 1[relu(u₀) + u₁ > 0] behind m₀ = 1[u₀ > 0] follows u₀."""
    u0, u1 = np.random.default_rng(0).standard_normal((2, N))
    measured = ((u0 > 0) * (np.maximum(u0, 0) + u1 > 0) * u0).mean()
    below, carried = normal(), Moments.gaussian(normal().axes, (1,), np.zeros(1), np.ones(2), 1 << 200, odd=1 << 200)
    mask = apply(apply(below, FUNCTIONS["relu"]), FUNCTIONS["step"])
    above = apply(add(apply(below, FUNCTIONS["relu"]), normal()), FUNCTIONS["step"])
    product = multiply(multiply(multiply(carried, above), mask), below)
    assert np.sqrt(product.gram[0]) == pytest.approx(measured, rel=0.03)


def test_equally_likely_values_of_a_product():
    u, s = np.random.default_rng(0).standard_normal((2, N))
    found = quantiles(multiply(normal(), apply(normal(), FUNCTIONS["sigmoid"])), 2.0, 256)
    drawn = np.quantile(2 * u * expit(s), (np.arange(256) + 0.5) / 256)
    assert found[16:-16] == pytest.approx(drawn[16:-16], abs=0.02)
