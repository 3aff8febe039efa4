"""Depthwise convolutions: neighbouring positions are tied once the filter is fixed."""

import torch
from torch import nn

from initio.capture.initializers import construct
from initio.capture.program import record
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec
from initio.core.moments import Unknown
from initio.interpreters.propagate import propagate

CHANNELS = 96


class Pooled(nn.Module):
    """The averages over positions behind a depthwise convolution."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(CHANNELS, CHANNELS, kernel, stride=stride, padding=kernel // 2, groups=CHANNELS, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.filter(torch.relu(x)))).mean((2, 3))


def spread(kernel: int, stride: int, samples: int = 4) -> tuple[float, float, float]:
    """Variance of the pooled values over samples, predicted, and measured with its standard error."""
    torch.manual_seed(0)
    construction = construct(lambda: Pooled(kernel, stride))
    spec = InputSpec((samples, CHANNELS, 10, 10), "float32", Distribution("normal", {"mean": 0.0, "std": 1.0}))
    program = record(construction.model, [spec], {}, construction=construction)
    out = propagate(program)[next(c for c in program.calls if c.module == "").outputs[0]]
    assert not isinstance(out, Unknown)
    with torch.no_grad():
        draws = torch.stack(
            [Pooled(kernel, stride).double()(torch.randn(*spec.shape, dtype=torch.float64)).var(0).mean() for _ in range(60)]
        )
    return float(out.gram[1, 1] - out.gram[0, 1]), float(draws.mean()), float(draws.std()) / 60**0.5


def test_pooled_values_scatter_as_their_filters_tie_positions():
    for kernel, stride in ((3, 1), (5, 1), (3, 2)):
        predicted, measured, error = spread(kernel, stride)
        assert abs(predicted - measured) < 3 * error + 0.02 * measured, (kernel, stride, predicted, measured, error)
