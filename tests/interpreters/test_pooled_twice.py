"""Maxima of maxima: one maximum over the union of the windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from initio.capture.initializers import construct
from initio.capture.program import record
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec
from initio.core.moments import Moments
from initio.interpreters.propagate import propagate
from initio.rules.maxima import union_of_windows, windows

SHAPE = (2, 4, 33, 33)


class Negative(nn.Module):
    """−x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def _outcome(*layers: nn.Module) -> Moments:
    built = construct(lambda: nn.Sequential(*layers))
    spec = InputSpec(SHAPE, "float32", Distribution("normal", {"mean": 0.0, "std": 1.0}))
    program = record(built.model, [spec], {}, construction=built)
    out = propagate(program)[next(c for c in program.calls if c.module == "").outputs[0]]
    assert isinstance(out, Moments)
    return out


def _levels(x: Moments) -> tuple[float, float]:
    """E y², and the variance of the average of a map over its positions."""
    g = x.gram
    for a in reversed(x.axes[-2:]):
        g = g @ (a.pairs / a.pairs.sum())
    for a in x.axes[:-2]:
        g = np.tensordot(a.counts / a.size, g[a.diagonal], axes=(0, 0))
    return x.total_second, float(g) - x.total_mean**2


def _drawn(*layers: nn.Module, draws: int = 60) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        y = nn.Sequential(*layers)(torch.randn(draws * 32, *SHAPE[2:], generator=generator)[:, None]).double()
    return float(y.square().mean()), float(y.mean((2, 3)).var())


def test_the_windows_of_windows_hold_each_entry_once() -> None:
    inner, outer = windows([9], [4], 3, 2, 0)[0], windows([4], [4], 3, 1, 1)[0]
    made = union_of_windows(inner, outer)
    assert [sorted(set(column[column >= 0].tolist())) for column in made.index.T] == [
        list(range(5)), list(range(7)), list(range(2, 9)), list(range(4, 9)),
    ]  # fmt: skip
    assert all(len(set(c[c >= 0].tolist())) == int((c >= 0).sum()) for c in made.index.T)
    assert made.n_in == 9


@pytest.mark.parametrize("padding", [0, 1])
def test_a_pool_of_a_pool_is_one_pool(padding: int) -> None:
    twice = _outcome(nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 1, padding))
    assert _levels(twice) == pytest.approx(_drawn(nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 1, padding)), rel=0.03)
    if not padding:
        assert _levels(twice) == pytest.approx(_levels(_outcome(nn.MaxPool2d(7, 2))), rel=1e-9)


def test_three_pools_and_what_stands_between_them() -> None:
    pools = nn.MaxPool2d(3, 1), nn.MaxPool2d(2, 1), nn.MaxPool2d(3, 2)
    assert _levels(_outcome(*pools)) == pytest.approx(_levels(_outcome(nn.MaxPool2d(6, 2))), rel=1e-9)
    opening = nn.MaxPool2d(3, 1), Negative(), nn.MaxPool2d(3, 1)
    largest = _levels(_outcome(nn.MaxPool2d(5, 1)))[0]
    second = _levels(_outcome(*opening))[0]
    assert abs(second - _drawn(*opening)[0]) < abs(second - largest)  # −max is no maximum
