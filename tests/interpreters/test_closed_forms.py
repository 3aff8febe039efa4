"""Predictions against formulas that hold exactly."""

import itertools
import math

import pytest
import torch
from torch import nn

import initio


def linear_stack(widths: list[int], bias: bool = True) -> nn.Module:
    return nn.Sequential(*[nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(widths)])


@pytest.mark.parametrize("widths", [[48, 48, 48, 48, 48, 48], [7, 40, 3, 90, 11], [1, 1, 1]])
def test_default_linear_layers(widths: list[int]) -> None:
    """Var[y_ℓ] = (Var[y_{ℓ−1}] + 1/n_{ℓ−1}) / 3, exact at every width."""
    analysis = initio.analyze(lambda: linear_stack(widths), f"5x{widths[0]}")
    variance = 1.0
    for layer, n in enumerate(widths[:-1]):
        variance = (variance + 1 / n) / 3
        result = analysis.modules[str(layer)]
        assert result.rms**2 == pytest.approx(variance, rel=1e-12)
        assert result.mean == 0.0
        assert result.claim == "exact"


def test_the_floor_of_biases() -> None:
    """Var[y_ℓ] = 1/(2n) + 3^{−ℓ} (1 − 1/(2n)) for constant width."""
    n, depth = 32, 12
    analysis = initio.analyze(lambda: linear_stack([n] * (depth + 1)), f"4x{n}")
    for layer in range(1, depth + 1):
        assert analysis.modules[str(layer - 1)].rms ** 2 == pytest.approx(1 / (2 * n) + 3.0**-layer * (1 - 1 / (2 * n)), rel=1e-12)


def test_without_biases_and_backward() -> None:
    """3^{−ℓ} forward; backward n_out/(3 n_in) per layer; weight gradients E[δ²] E[x²] times the batch."""
    n, depth, batch = 24, 6, 9
    analysis = initio.analyze(lambda: linear_stack([n] * (depth + 1), bias=False), f"{batch}x{n}")
    for layer in range(depth):
        assert analysis.modules[str(layer)].rms ** 2 == pytest.approx(3.0 ** -(layer + 1), rel=1e-12)
        gradient = analysis.parameters[f"{layer}.weight"]
        assert gradient.grad_rms**2 == pytest.approx(batch * 3.0 ** -(depth - 1 - layer) * 3.0**-layer, rel=1e-9)


def test_relu_between_the_layers() -> None:
    """q_ℓ = (q_{ℓ−1}/2 + 1/n)/3 (the input has no ReLU before it), and q/6 per layer on the way back."""
    n, depth = 64, 10
    layers: list[nn.Module] = []
    analysis = initio.analyze(lambda: nn.Sequential(*sum(([nn.Linear(n, n), nn.ReLU()] for _ in range(depth)), layers)), f"4x{n}")
    q = (1 + 1 / n) / 3
    for layer in range(depth):
        assert analysis.modules[str(2 * layer)].rms ** 2 == pytest.approx(q, rel=2e-3)  # the bias is uniform, not Gaussian
        q = (q / 2 + 1 / n) / 3
    ratios = [analysis.modules[str(2 * layer)].grad_rms ** 2 for layer in range(depth)]
    for below, above in itertools.pairwise(ratios):
        assert below / above == pytest.approx(1 / 6, rel=5e-2)


def test_fifty_layers_do_not_underflow() -> None:
    """6^{−49} on the way back: forty orders of magnitude in the second moment, none lost."""
    n, depth = 32, 50
    layers: list[nn.Module] = []

    def factory() -> nn.Module:
        built: list[nn.Module] = []
        for _ in range(depth):
            built += [nn.Linear(n, n, bias=False), nn.ReLU()]
        return nn.Sequential(*built)

    analysis = initio.analyze(factory, f"4x{n}")
    first = analysis.modules["0"].grad_rms ** 2
    assert math.log10(first) == pytest.approx(-math.log10(2) - 49 * math.log10(6), abs=0.05)
    assert layers == []


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y = self.layer(x)
        return y + y, y - y, y + self.layer(x)


def test_a_tensor_added_to_itself() -> None:
    """x + x has four times the second moment, x − x none; a layer applied twice to one input gives equal outputs."""
    outputs = initio.analyze(Doubled, "4x16").modules[""].outputs
    assert [o.rms**2 for o in outputs] == pytest.approx([4 / 3, 0.0, 4 / 3], rel=1e-9)
