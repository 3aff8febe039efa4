"""Gains that give a wanted profile, on networks where they are known."""

import math

import numpy as np
import pytest
from torch import nn

from initio.capture.initializers import construct
from initio.capture.program import record
from initio.core.inputs import normalise
from initio.interpreters.solve import scaled, solve_gains
from zoo import NETWORKS


def recorded(factory, shape):
    construction = construct(factory)
    args, kwargs = normalise(shape)
    return record(construction.model, args, kwargs, construction=construction)


def stack(activation, depth=8, width=48, bias=False):
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width, bias=bias), activation())])


class Residual(nn.Module):
    """x + W₂ φ(W₁ x), `depth` times, between two layers of its own."""

    def __init__(self, depth=4, width=32, norm=nn.Identity):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), norm(width)) for _ in range(depth)
        )
        self.last = nn.Linear(width, 10)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


@pytest.mark.parametrize(("activation", "later"), [(nn.Identity, math.sqrt(3)), (nn.ReLU, math.sqrt(6))])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_target(activation, later, bias):
    """The default law U(−1/√n, 1/√n) keeps 1/3 of the second moment, 1/6 behind a ReLU; the drawn biases go."""
    step = recorded(lambda: stack(activation, bias=bias), "16x48")
    solution = solve_gains(step, "forward")
    gains = [solution.gains[f"{2 * k}.weight"] for k in range(8)]
    assert gains == pytest.approx([math.sqrt(3)] + [later] * 7, rel=1e-9)
    outputs = [solution.values[call.outputs[0]].total_second for call in step.calls if call.kind == "Linear"]
    assert outputs == pytest.approx([1.0] * 8, rel=1e-9)


def test_backward_target_hands_the_cotangent_on():
    solution = solve_gains(recorded(lambda: stack(nn.Identity), "16x48"), "backward")
    assert [solution.gains[f"{2 * k}.weight"] for k in range(8)] == pytest.approx([math.sqrt(3)] * 8, rel=1e-6)


def test_backward_target_counts_the_nonlinearity():
    """n_out σ² E[φ′²] = 1: the backward condition of He et al. (2015), which has the fan-out, not the fan-in."""

    def factory():
        return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 5))

    solution = solve_gains(recorded(factory, "16x32"), "backward")
    laws = {p.name: p.distribution for p in solution.record.parameters}
    assert laws["2.weight"].variance == pytest.approx(2 / 16, rel=1e-3)
    assert laws["4.weight"].variance == pytest.approx(2 / 48, rel=1e-3)
    assert laws["0.weight"].variance == pytest.approx(1 / 32, rel=1e-3)


def test_a_deep_tanh_net_is_critical():
    """χ = σ_w² E[φ′(√q z)²] = 1 in every layer (Schoenholz et al., 2017, at σ_b = 0), here against the recursion by quadrature."""
    solution = solve_gains(recorded(lambda: stack(nn.Tanh, depth=24), "8x48"), "residual")
    assert all(abs(step - 1) < 0.02 for step in solution.steps.values())
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    weights = weights / weights.sum()
    q, expected = 1.0, [1.0]
    for _ in range(22):
        h = np.tanh(math.sqrt(q) * nodes)
        # the gain of a layer is chosen for the slope of the activation before it
        variance = 1 / (weights @ (1 - h * h) ** 2)
        q = variance * (weights @ (h * h))
        expected.append(math.sqrt(variance))
    gains = [solution.gains[f"{2 * k}.weight"] / math.sqrt(3) for k in range(23)]
    assert gains == pytest.approx(expected, rel=0.01)
    assert any("no residual sum" in note for note in solution.notes)


def test_ratios_are_even_on_a_deep_tanh_net():
    solution = solve_gains(recorded(lambda: stack(nn.Tanh, depth=30), "8x48"), "ratio")
    assert max(solution.ratios.values()) / min(solution.ratios.values()) < 1.1


def test_residual_branches_share_one_second_moment():
    solution = solve_gains(recorded(Residual, "16x32"), "residual")
    assert {name for name, wanted in solution.wanted.items() if wanted == 0.25} == {f"blocks.{k}.2.weight" for k in range(4)}
    stream = [solution.values[call.inputs[0]].total_second for call in solution.record.calls if call.module == "last"]
    assert stream == pytest.approx([2.0], rel=0.05)


def test_a_norm_at_the_end_of_a_branch_takes_the_scale_out():
    solution = solve_gains(recorded(lambda: Residual(norm=nn.LayerNorm), "16x32"), "residual")
    assert solution.ends == {f"blocks.{k}.2.weight": True for k in range(4)}
    assert set(solution.wanted.values()) == {1.0}


def test_readouts_of_mup_fall_with_the_width():
    solution = solve_gains(recorded(Residual, "16x32"), "mup")
    assert {name: wanted for name, wanted in solution.wanted.items() if wanted != 1} == {"last.weight": 1 / 32}


def test_what_is_zero_on_purpose_is_left():
    def factory():
        model = stack(nn.Tanh, depth=2)
        nn.init.zeros_(model[2].weight)
        return model

    solution = solve_gains(recorded(factory, "16x48"), "forward")
    assert set(solution.gains) == {"0.weight"}
    assert "zero on purpose" in solution.left["2.weight"]


def test_a_constant_bias_stays():
    def factory():
        model = stack(nn.Tanh, depth=2, bias=True)
        nn.init.constant_(model[0].bias, 0.5)
        return model

    solution = solve_gains(recorded(factory, "16x48"), "forward")
    laws = {p.name: p.distribution for p in solution.record.parameters}
    assert laws["0.bias"].mean == 0.5
    assert laws["2.bias"].zero


@pytest.mark.parametrize("name", ["plain_mlp", "plain_convnet", "unet", "dcgan", "residual_tanh"])
def test_every_network_gets_gains_that_are_numbers(name):
    network = NETWORKS[name]
    construction = construct(network.build)
    args, kwargs = normalise(network.inputs)
    solution = solve_gains(record(construction.model, args, kwargs, construction=construction), "forward")
    assert all(math.isfinite(gain) and gain > 0 for gain in solution.gains.values())


def test_a_scaled_law_has_the_scaled_moments():
    law = construct(lambda: stack(nn.Tanh, depth=1)).distributions["0.weight"]
    assert scaled(law, 2.5).variance == pytest.approx(6.25 * law.variance)
