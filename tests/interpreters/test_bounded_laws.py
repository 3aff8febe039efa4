"""Sums of a signal and a uniform bias: the law keeps the range of the bias, and small differences between samples keep their size."""

import itertools
import math

import pytest
from torch import nn

import initio

BOUND = 1 / 16  # of the default bias of 256 inputs


def deep(activation, width=256, depth=8):
    return lambda: nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width), activation())))


def test_a_dead_signal_leaves_the_cube_of_a_uniform_bias():
    """x − tanh x ≈ x³/3, and E b⁶ = a⁶/7."""
    modules = initio.analyze(deep(nn.Tanhshrink), "64x256").modules
    for path in ("5", "9", "15"):
        assert modules[path].rms == pytest.approx(BOUND**3 / (3 * math.sqrt(7)), rel=0.01)


def test_nothing_passes_a_threshold_beyond_the_range():
    modules = initio.analyze(deep(lambda: nn.Threshold(0.1, 0.0)), "64x256").modules
    assert modules["1"].rms > 0.1
    assert modules["15"].rms < 1e-6 * BOUND


def test_what_samples_differ_in_falls_by_six_a_layer_down_to_rounding():
    analysis = initio.analyze(deep(nn.ReLU, 64, 15), "8x64")
    values = [node.outputs[0] for node in analysis.record.nodes if node.op.startswith("aten.addmm") and node.phase == "forward"]
    varying = [analysis.of(value).varying for value in values]
    assert varying[14] < 1e-9 * varying[0]
    for before, after in itertools.pairwise(varying[8:]):
        assert before / after == pytest.approx(6.0, rel=0.05)
