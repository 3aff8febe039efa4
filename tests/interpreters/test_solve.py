"""Gains that give a wanted profile, on networks where they are known."""

import math

import pytest
from torch import nn

from initio.capture.initializers import construct
from initio.capture.program import record
from initio.core.inputs import normalise
from initio.interpreters.solve import scaled, solve_gains


def recorded(factory, shape):
    construction = construct(factory)
    args, kwargs = normalise(shape)
    return record(construction.model, args, kwargs, construction=construction)


def stack(activation, depth=8, width=48):
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width, bias=False), activation())])


@pytest.mark.parametrize(("activation", "later"), [(nn.Identity, math.sqrt(3)), (nn.ReLU, math.sqrt(6))])
def test_forward_target(activation, later):
    """The default law U(−1/√n, 1/√n) keeps 1/3 of the second moment, 1/6 behind a ReLU."""
    step = recorded(lambda: stack(activation), "16x48")
    solution = solve_gains(step, "forward")
    gains = [solution.gains[f"{2 * k}.weight"] for k in range(8)]
    assert gains == pytest.approx([math.sqrt(3)] + [later] * 7, rel=1e-9)
    outputs = [solution.values[call.outputs[0]].total_second for call in step.calls if call.kind == "Linear"]
    assert outputs == pytest.approx([1.0] * 8, rel=1e-9)


def test_backward_target_hands_the_cotangent_on():
    solution = solve_gains(recorded(lambda: stack(nn.Identity), "16x48"), "backward")
    assert [solution.gains[f"{2 * k}.weight"] for k in range(8)] == pytest.approx([math.sqrt(3)] * 8, rel=1e-6)


def test_what_is_zero_on_purpose_is_left():
    def factory():
        model = stack(nn.Tanh, depth=2)
        nn.init.zeros_(model[2].weight)
        return model

    solution = solve_gains(recorded(factory, "16x48"), "forward")
    assert set(solution.gains) == {"0.weight"}
    assert "zero on purpose" in solution.left["2.weight"]


def test_a_scaled_law_has_the_scaled_moments():
    law = construct(lambda: stack(nn.Tanh, depth=1)).distributions["0.weight"]
    assert scaled(law, 2.5).variance == pytest.approx(6.25 * law.variance)
