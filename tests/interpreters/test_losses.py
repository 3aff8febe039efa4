"""Cotangents and gradients under a loss, beside draws of the real step."""

import math

import pytest
from torch import nn

import initio


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 40))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits"])
def test_gradients_under_a_loss(loss: str) -> None:
    """Every cotangent and gradient within 5 % of the rms, or four standard errors of 24 draws."""
    analysis = initio.analyze(classifier, "32x48", loss=loss)
    drawn = initio.measure(classifier, "32x48", draws=24, loss=loss, progress=False)
    rows = [(analysis.parameters[name].grad_rms, estimate) for name, estimate in drawn.gradients.items()]
    rows += [(analysis.modules[path].grad_rms, estimate) for (path, _, _), estimate in drawn.cotangents.items() if path]
    assert len(rows) == 11
    for predicted, estimate in rows:
        near = abs(predicted / estimate.rms - 1) <= 0.05
        assert near or abs(predicted**2 - estimate.second) <= 4 * estimate.error


def test_cross_entropy_starts_at_the_logarithm_of_the_classes() -> None:
    """E loss = ln C + s/2 − (e^s − 1)/(2C) for logits of variance s."""
    analysis = initio.analyze(classifier, "32x48", loss="cross_entropy")
    value = analysis.of(analysis.record.loss)
    s = analysis.modules["4"].rms ** 2
    assert value.mean == pytest.approx(math.log(40) + s / 2, rel=5e-3)
