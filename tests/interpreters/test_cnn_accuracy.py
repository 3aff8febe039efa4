"""Small convolutional networks: outputs within 5 %, cotangents and gradients within 10 % of draws (or two standard errors), for 95 % of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
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


@pytest.mark.parametrize("factory", [_depthwise, _grouped, _activation_first])
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
