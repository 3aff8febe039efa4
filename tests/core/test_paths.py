"""Forks of the backward pass, zero gradients told apart, and the noise band, on small networks."""

import math

import pytest
import torch
from torch import nn

import initio


class Block(nn.Module):
    def __init__(self, width: int, residual: bool, zero: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.residual = residual
        if zero:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.outer(torch.relu(self.inner(x)))
        return x + out if self.residual else out


def stack(residual: bool, zero: bool = False, dead: int | None = None) -> nn.Module:
    blocks = [Block(64, residual, zero) for _ in range(3)]
    if dead is not None:
        nn.init.zeros_(blocks[dead].inner.weight)
        nn.init.constant_(blocks[dead].inner.bias, -1.0)
    return nn.Sequential(*blocks, nn.Linear(64, 8))


def test_shares_of_a_residual_stack() -> None:
    """The branch of a block multiplies E[g²] by (1/3)(1/2)(1/3): its share of the sum is 1/19."""
    analysis = initio.analyze(lambda: stack(residual=True), "16x64")
    assert [fork.module for fork in analysis.paths] == ["0", "1", "2"]
    for fork in analysis.paths:
        assert fork.gain == pytest.approx(19 / 18, rel=2e-2)
        assert fork.skip_share == pytest.approx(18 / 19, rel=2e-3)
        assert [path.kind for path in fork.paths] == ["skip", "branch"]
        assert fork.interference == pytest.approx(1.0)


def test_a_plain_stack_does_not_fork() -> None:
    assert initio.analyze(lambda: stack(residual=False), "16x64").paths == ()


@pytest.mark.parametrize("residual", [True, False])
def test_what_a_dead_block_stops(residual: bool) -> None:
    """Dead units in block 1: nothing arrives below it in the plain net, everything through the skip in the residual one."""
    analysis = initio.analyze(lambda: stack(residual=residual, dead=1), "16x64")
    assert analysis.parameters["2.inner.weight"].gradient == "alive"
    assert analysis.parameters["1.inner.weight"].gradient == "zero"
    assert analysis.parameters["0.inner.weight"].gradient == ("alive" if residual else "zero")


def test_zero_branches_wait_one_step() -> None:
    analysis = initio.analyze(lambda: stack(residual=True, zero=True), "16x64")
    assert analysis.parameters["1.inner.weight"].gradient == "waiting"
    assert analysis.parameters["1.outer.weight"].gradient == "alive"
    assert analysis.parameters["1.outer.weight"].ratio == math.inf
    assert all(fork.skip_share == 1.0 for fork in analysis.paths)


class Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.unread = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.convolution(x)))


def test_a_bias_that_a_norm_subtracts_and_a_module_that_nothing_reads() -> None:
    parameters = initio.analyze(Unread, "8x3x8x8").parameters
    assert parameters["convolution.bias"].gradient == "zero"
    assert parameters["convolution.weight"].gradient == "alive"
    assert parameters["unread.weight"].gradient == "unreachable"
    assert parameters["norm.running_mean"].gradient == "none"


def test_the_noise_band_holds_the_scatter_of_draws() -> None:
    """Ten Kaiming layers of width 64: the mean square scatters by a third or more, and the prediction says by how much."""

    def factory() -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(6):
            linear = nn.Linear(64, 64, bias=False)
            nn.init.kaiming_normal_(linear.weight)
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers)

    analysis = initio.analyze(factory, "16x64")
    measured = initio.measure(factory, "16x64", draws=200, progress=False)
    for path in ("0", "4", "10"):
        result = analysis.modules[path]
        each = torch.tensor(measured.outputs[path, 0, 0].each)
        assert result.spread == pytest.approx(float(each.std() / each.mean()), rel=0.35)
        low, high = result.band
        inside = ((each.sqrt() >= low) & (each.sqrt() <= high)).double().mean()
        assert 0.85 <= inside <= 1.0
