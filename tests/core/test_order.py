"""Declared properties of functions, measured; verdicts on order."""

import numpy as np
import pytest

from initio.core import functions as F
from initio.core.gaussian import expect
from initio.core.order import dropout_activation, increasing, max_pooling, positively_homogeneous, variance_shift
from initio.core.scalar import Scalar, affine

POINTS = np.concatenate([np.linspace(-30, 30, 4001), np.geomspace(1e-6, 1e3, 200), -np.geomspace(1e-6, 1e3, 200), [0.0]])
PLAIN = {}
for name, entry in F.FUNCTIONS.items():
    try:
        PLAIN[name] = entry if isinstance(entry, Scalar) else entry()
    except TypeError:
        continue  # parameters without defaults
PLAIN |= {"leaky_relu(-0.5)": F.leaky_relu(-0.5), "2 relu": F.RELU.then(affine(2.0)), "relu + 1": F.RELU.then(affine(1.0, 1.0))}


@pytest.mark.parametrize("name", PLAIN)
def test_declared_properties_hold_at_every_point(name):
    f = PLAIN[name]
    x = np.sort(POINTS)
    y = f(x)
    known = np.isfinite(y)
    if positively_homogeneous(f):
        for c in (0.37, 1 / 0.7, 2.0, 11.0):
            assert np.allclose(f(c * x), c * y, rtol=1e-12, atol=0, equal_nan=True)
        assert f(0.0) == 0
    if increasing(f):
        steps = np.diff(y[known])
        assert steps.min() >= -1e-12 * np.abs(y[known]).max()


def test_which_functions_are_homogeneous_and_which_rise():
    assert {n for n, f in PLAIN.items() if positively_homogeneous(f)} >= {"relu", "abs", "leaky_relu", "leaky_relu(-0.5)", "2 relu"}
    assert not any(positively_homogeneous(PLAIN[n]) for n in ("tanh", "sigmoid", "gelu", "silu", "elu", "softplus", "relu + 1", "hardtanh"))
    assert all(increasing(PLAIN[n]) for n in ("relu", "tanh", "sigmoid", "elu", "softplus", "hardtanh", "leaky_relu", "relu + 1"))
    assert not any(increasing(PLAIN[n]) for n in ("abs", "gelu", "silu", "leaky_relu(-0.5)", "cos", "hardswish"))
    assert max_pooling(PLAIN["gelu"]).verdict == "different"


@pytest.mark.parametrize("name", ["relu", "relu + 1", "sigmoid", "tanh", "gelu", "elu", "hardtanh"])
def test_verdict_and_moments_of_the_gap(name):
    f, p, rng = PLAIN[name], 0.3, np.random.default_rng(0)
    found = dropout_activation(f, p, lambda g: float(expect(g, 0.4, 1.3)))
    x = 0.4 + 1.3**0.5 * rng.standard_normal(400_000)
    mask = (rng.random(x.shape) >= p) / (1 - p)
    d = f(x * mask) - mask * f(x)
    assert found.mean == pytest.approx(d.mean(), abs=5 * d.std() / x.size**0.5 + 1e-14)
    assert found.second == pytest.approx((d**2).mean(), abs=5 * (d**2).std() / x.size**0.5 + 1e-14)
    wanted = {"relu": "same function", "relu + 1": "same expectation"}.get(name, "different")
    assert found.verdict == wanted
    if wanted == "same expectation":
        assert found.mean == pytest.approx(0, abs=1e-12)
        assert found.second > 0.1


def test_variance_shift_without_a_known_variance_is_the_least_one():
    assert variance_shift(0.5, 3.0, 0.0) == 2.0
    assert variance_shift(0.5, 3.0, 1.0) == 4.0
