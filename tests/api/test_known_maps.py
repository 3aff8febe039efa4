"""Maps that are known from theory come out of a sweep."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

import initio
from families import mlp


def normal(f):
    return quad(lambda z: f(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12, epsabs=1e-13)[0]


def critical(bias):
    """σ_w where χ₁ = σ_w² E φ′(√q* z)² = 1 at q* = σ_w² E φ(√q* z)² + σ_b² for tanh (Schoenholz et al. 2017, eqs. 3 and 6), by scipy."""

    def excess(q):
        weight = 1 / normal(lambda z: (1 - math.tanh(math.sqrt(q) * z) ** 2) ** 2)
        return weight * normal(lambda z: math.tanh(math.sqrt(q) * z) ** 2) + bias**2 - q

    q = brentq(excess, 1e-9, 3.0)
    return 1 / math.sqrt(normal(lambda z: (1 - math.tanh(math.sqrt(q) * z) ** 2) ** 2))


def at(sweep, quantity, **parameters):
    return next(c.quantities[quantity] for c in sweep if all(c.parameters[name] == value for name, value in parameters.items()))


def crossing(gains, values):
    """Where values cross 1, by interpolation of their logarithms."""
    logs = np.log(values)
    place = int(np.flatnonzero((logs[:-1] < 0) & (logs[1:] >= 0))[0])
    return gains[place] - logs[place] * (gains[place + 1] - gains[place]) / (logs[place + 1] - logs[place])


def test_critical_line_of_tanh():
    biases, gains = (0.1, 0.3, 0.6), [1.0, 1.2, 1.4, 1.6, 1.8]
    grid = {"bias": biases, "gain": gains}
    found = initio.sweep(mlp, grid, (2, 400), fixed={"depth": 30, "width": 400}, workers=0, findings=False)
    for bias in biases:
        line = crossing(gains, [at(found, "chi", bias=bias, gain=gain) for gain in gains])
        assert line == pytest.approx(critical(bias), rel=0.01)


def test_he_initialisation_is_critical_for_relu_without_bias():
    gains = [1.2, 1.3, math.sqrt(2), 1.5, 1.6]
    fixed = {"depth": 30, "width": 64, "bias": 0.0, "act": "relu"}
    found = initio.sweep(mlp, {"gain": gains}, (2, 64), fixed=fixed, workers=0, findings=False)
    he = found.cells[2].quantities
    assert he["forward_growth"] == pytest.approx(1, abs=1e-9)
    assert he["gradient_growth"] == pytest.approx(1, abs=1e-9)
    for gain, cell in zip(gains, found, strict=True):
        assert cell.quantities["chi"] == pytest.approx(gain**2 / 2, rel=1e-6)
    assert he["xi_gradient"] > 1e6


def test_the_depth_scale_of_correlation_diverges_at_criticality_and_dropout_destroys_it():
    bias, depth = 0.3, 120
    edge = critical(bias)
    gains = [edge - 0.3, edge - 0.1, edge, edge + 0.3]
    fixed = {"depth": depth, "width": 400, "bias": bias}
    grid = {"drop": (0.0, 0.1), "gain": gains}
    found = initio.sweep(mlp, grid, (2, 400), fixed=fixed, workers=0, findings=False)
    plain, dropped = ([at(found, "xi_correlation", drop=drop, gain=gain) for gain in gains] for drop in (0.0, 0.1))
    assert plain[0] < plain[1] < plain[2] > plain[3]
    assert plain[2] > depth / 4
    for gain, xi in zip(gains[:2], plain[:2], strict=True):  # ordered: ξ_c = 1 / |ln χ₁| (eq. 9)
        assert xi == pytest.approx(-1 / math.log(at(found, "chi", drop=0.0, gain=gain)), rel=0.02)
    assert max(dropped) < plain[2] / 3
    assert all(at(found, "correlation", drop=0.1, gain=gain) < 0.99 for gain in gains)
    assert at(found, "correlation", drop=0.0, gain=gains[0]) == pytest.approx(1, abs=1e-9)
