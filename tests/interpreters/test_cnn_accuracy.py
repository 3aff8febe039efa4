"""Small convolutional networks: outputs within 5 %, cotangents and gradients within 10 % of draws (or two standard errors), for 95 % of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initio.capture.initializers import construct
from initio.capture.program import record
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec
from initio.core.moments import Moments
from initio.interpreters.propagate import propagate
from initio.interpreters.sample import measure


def _depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 48, 3, 1, 1, groups=48, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64),
    )  # fmt: skip


def _grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 96, 3, 2, 1), nn.GroupNorm(8, 96), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64),
    )  # fmt: skip


def _activation_first() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 2, 2), nn.GELU(), nn.BatchNorm2d(64), nn.Conv2d(64, 96, 3, 1, 1), nn.GELU(), nn.BatchNorm2d(96),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64),
    )  # fmt: skip


def _block(inner: int, outer: int, kernel: int = 3, stride: int = 1, groups: int = 1, eps: float = 1e-5) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outer, eps=eps))


class _Joined(nn.Module):
    """`join` of what two layers make of a map; averaged over positions, and a linear layer."""

    def __init__(self, join: Callable[[Any, Any, Any], Any], left: nn.Module, right: nn.Module, width: int) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.join = _block(3, 64), left, right, join
        self.head = nn.Linear(width, 64)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.stem(x))
        return self.head(self.join(x, self.left, self.right).mean((2, 3)))


def _enlarged() -> nn.Module:
    """A map of half the size, enlarged and added: its norm meets the masks of four positions each."""
    return _Joined(lambda x, a, b: F.relu(a(x) + F.interpolate(b(x), scale_factor=2)), _block(64, 64), _block(64, 64, 3, 2), 64)


def _gated() -> nn.Module:
    """A gate of every channel, from the average of the map; then maxima over windows."""

    def join(x: Any, a: Any, b: Any) -> Any:
        x = F.relu(a(x))
        return F.relu(x * torch.sigmoid(b(x.mean((2, 3), keepdim=True))))

    return _Joined(lambda x, a, b: F.max_pool2d(join(x, a, b), 2), _block(64, 64), nn.Conv2d(64, 64, 1), 64)


def _two_paths() -> nn.Module:
    """Some channels are added to and others appended (Chen et al. 2017)."""

    def join(x: Any, a: Any, b: Any) -> Any:
        y, z = a(x), F.relu(b(x))
        return F.relu(torch.cat([y[:, :48] + z[:, :48], y[:, 48:], z[:, 48:]], 1))

    return _Joined(join, _block(64, 64), _block(64, 64), 80)


def _same_twice() -> nn.Module:
    """Two norms of one array cancel: y + (x̂ − x̂)."""
    norms = nn.Sequential(nn.BatchNorm2d(64), nn.BatchNorm2d(64))
    return _Joined(lambda x, a, b: F.relu(b(x) + (a[0](x) - a[1](x))), norms, _block(64, 64), 64)


def _silent_branch() -> nn.Module:
    """A branch whose last norm has a weight of zero, beside a rectified map."""
    branch = _block(64, 64)
    nn.init.zeros_(branch[1].weight)
    return _Joined(lambda x, a, b: F.relu(F.relu(a(x)) + b(x)), _block(64, 64), branch, 64)


def _below_epsilon() -> nn.Module:
    """Depthwise filters whose outputs have a variance of about ε: the scale of a filter does not cancel."""
    small = _block(64, 64, 3, groups=64, eps=1e-3)
    nn.init.normal_(small[0].weight, std=0.02)
    return nn.Sequential(
        nn.Conv2d(3, 64, 2, 2), nn.BatchNorm2d(64), nn.SiLU(), small, nn.ReLU(),
        nn.Conv2d(64, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64),
    )  # fmt: skip


@pytest.mark.parametrize(
    "factory",
    [
        _depthwise, _grouped, _activation_first, _enlarged, _gated, _two_paths, _same_twice, _silent_branch, _below_epsilon,
    ],
)  # fmt: skip
def test_network_agrees_with_draws(factory: Callable[[], nn.Module]) -> None:
    inputs = [InputSpec((8, 3, 16, 16), "float32", Distribution("normal", {"mean": 0.0, "std": 1.0}))]
    built = construct(factory)
    recorded = record(built.model, inputs, {}, construction=built)
    values = propagate(recorded)
    measured = measure(factory, inputs, draws=24)
    wrong: list[str] = []
    seen: list[str] = []

    def compare(name: str, value: int | None, tolerance: float, table: dict[object, object], key: object) -> None:
        estimate = table.get(key)
        if estimate is None or value is None:
            return
        got = values[value]
        assert isinstance(got, Moments), f"{name}: {got}"
        seen.append(name)
        wanted = estimate.second  # type: ignore[attr-defined]
        size = math.sqrt(got.total_second)
        scale = math.sqrt(wanted)
        if abs(size - scale) > tolerance * scale + 2 * estimate.error / max(2 * scale, 1e-300) and max(size, scale) > floor:  # type: ignore[attr-defined]
            wrong.append(f"{name}: predicted {size:.4g}, measured {scale:.4g}")

    floor = 0.0
    for call in recorded.calls:
        for o, (value, cotangent) in enumerate(zip(call.outputs, call.cotangents or [None] * len(call.outputs), strict=False)):
            compare(f"output of {call.module}", value, 0.05, measured.outputs, (call.module, call.index, o))
            compare(f"cotangent of {call.module}", cotangent, 0.1, measured.cotangents, (call.module, call.index, o))
    floor = 1e-2  # gradients that are exactly zero (before a batch norm) are measured as rounding
    for p in recorded.parameters:
        compare(f"gradient of {p.name}", p.gradient, 0.1, measured.gradients, p.name)
    assert len(wrong) <= 0.05 * len(seen), "\n".join(wrong)
