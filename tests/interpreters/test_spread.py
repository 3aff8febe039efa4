"""Networks with few channels: what batch norms divide by scatters from filter to filter, and what of it the gradient gets back."""

import pytest
import torch
from torch import Tensor, nn

import initio


class Block(nn.Module):
    """x + a bottleneck of x."""

    def __init__(self, channels: int, wide: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(channels, wide, 1, bias=False), nn.Conv2d(wide, channels, 1, bias=False)
        self.norm, self.act, self.last = nn.BatchNorm2d(wide), act(), nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.up.weight)
        nn.init.kaiming_normal_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to itself."""
        return x + self.last(self.down(self.act(self.norm(self.up(x)))))


@pytest.mark.parametrize("act", [nn.Hardswish, nn.ReLU])
def test_narrow_bottlenecks(act):
    def build() -> nn.Module:
        stem = nn.Conv2d(3, 24, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight)
        return nn.Sequential(stem, nn.BatchNorm2d(24), *(Block(24, 72, act) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    torch.manual_seed(0)
    shape = (4, 3, 12, 12)
    compared = initio.compare(initio.analyze(build, shape), initio.measure(build, shape, draws=128, progress=False))
    ratio = {row.key[0]: row.predicted / row.measured for row in compared.cotangents.rows}
    for path in ("4.up", "3.down", "3.up", "2.up", "0"):
        assert ratio[path] == pytest.approx(1.0, abs=0.06), (path, ratio)


class Shifted(nn.Module):
    """x plus something that is zero at the start: a sum that is the array itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to itself."""
        return x + self.shift


def test_a_sum_that_is_its_own_term():
    def layer(into: int) -> list[nn.Module]:
        return [nn.Conv2d(into, 12, 1, bias=False), nn.BatchNorm2d(12), Shifted(12)]

    analysis = initio.analyze(lambda: nn.Sequential(*layer(3), *layer(12), nn.ReLU()), (4, 3, 8, 8))
    assert analysis.parameters["0.weight"].grad_rms is not None
