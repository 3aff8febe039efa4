"""A residual block whose branch is gated channel by channel, then a ReLU: activations, norms' gradients and the gate's against draws."""

import pytest
import torch
from torch import Tensor, nn

import initio


class Block(nn.Module):
    """x ↦ relu(x + s u), u = BN(conv(x)), s = sigmoid of two layers of its average."""

    def __init__(self, channels: int = 48) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 16, 1), nn.ReLU(), nn.Conv2d(16, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to itself."""
        u = self.norm(self.conv(x))
        return (x + u * self.gate(u)).relu()


def build() -> nn.Module:
    stem = [nn.Conv2d(8, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU()]
    return nn.Sequential(*stem, Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 50))


def test_gated_residual_blocks():
    shape = (8, 8, 10, 10)
    torch.manual_seed(0)
    compared = initio.compare(initio.analyze(build, shape), initio.measure(build, shape, draws=48, progress=False))
    ratios = {row.key: row.predicted / row.measured for row in compared.gradients.rows}
    for path in ("3.norm.weight", "4.norm.weight", "4.norm.bias", "4.gate.3.weight", "3.conv.weight"):
        assert ratios[path] == pytest.approx(1.0, abs=0.12), path
    outputs = {row.key[0]: row for row in compared.outputs.rows}
    for path in ("3", "4"):
        assert outputs[path].predicted == pytest.approx(outputs[path].measured, rel=0.01)
