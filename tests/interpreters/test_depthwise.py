"""Depthwise convolutions: neighbouring positions are tied once the filter is fixed."""

import torch
from torch import nn

import initio
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


def _block(kernel: int) -> nn.Module:
    point = nn.Conv2d(32, 64, 1, bias=False)
    filters = nn.Conv2d(64, 64, kernel, padding=kernel // 2, groups=64, bias=False)
    return nn.Sequential(point, nn.BatchNorm2d(64), nn.Hardswish(), filters, nn.BatchNorm2d(64), nn.Hardswish())


def test_a_tap_makes_its_own_gradient_follow_the_input():
    """E w⁴ = 3 σ⁴ of one tap: behind hardswish, large inputs have larger gradients, and pass more of them."""
    for kernel in (3, 5):
        torch.manual_seed(0)
        shape = (8, 32, 12, 12)
        compared = initio.compare(
            initio.analyze(lambda k=kernel: _block(k), shape), initio.measure(lambda k=kernel: _block(k), shape, draws=24, progress=False)
        )
        ratio = {row.key[0]: row.predicted / row.measured for row in compared.cotangents.rows}
        assert abs(ratio["1"] - 1.0) < 0.01, (kernel, ratio)
        assert abs(ratio["3"] - 1.0) < 0.02, (kernel, ratio)  # E[1 / |w|²] of uniform weights


def test_sums_of_few_terms_have_heavier_tails():
    """E f(ŷ)² of a convex f is larger where ŷ is a sum of nine skewed terms: E ŷ⁴ = 3 + κ₄ Σ b²."""
    torch.manual_seed(0)
    shape = (8, 32, 12, 12)
    compared = initio.compare(initio.analyze(lambda: _block(3), shape), initio.measure(lambda: _block(3), shape, draws=24, progress=False))
    ratio = {row.key[0]: row.predicted / row.measured for row in compared.outputs.rows}
    assert abs(ratio["5"] - 1.0) < 0.008, ratio


class Inverted(nn.Module):
    """x + an inverted bottleneck of x, its expanded channels gated by a function of their averages."""

    def __init__(self, channels: int = 40, wide: int = 160) -> None:
        super().__init__()
        narrow = nn.Conv2d(wide, channels, 1, bias=False)
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        self.filter = nn.Sequential(nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 40, 1), nn.ReLU(), nn.Conv2d(40, wide, 1), nn.Hardsigmoid())
        self.narrow = nn.Sequential(narrow, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.filter(self.expand(x))
        return x + self.narrow(y * self.gate(y))


def test_sums_over_one_sample_keep_what_sums_over_all_lose():
    """The gradient of a gate is a sum over the positions of one sample: a norm takes along its input what all samples have, not what each has."""

    def build() -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(40), *(Inverted() for _ in range(4)), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    torch.manual_seed(0)
    shape = (4, 40, 14, 14)
    compared = initio.compare(initio.analyze(build, shape), initio.measure(build, shape, draws=16, progress=False))
    ratio = {row.key[0]: row.predicted / row.measured for row in compared.cotangents.rows}
    assert abs(ratio["1.gate.3"] - 1.0) < 0.08, ratio
    assert abs(ratio["1.expand.0"] - 1.0) < 0.05, ratio
