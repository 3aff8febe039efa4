"""Stacks of linear layers and log-softmaxes that get sharper with depth, forward and backward, against draws."""

import pytest
import torch
from torch import nn

import initio
from initio.core.extremes import order_moments


class Stack(nn.Sequential):
    def __init__(self, depth: int, width: int) -> None:
        super().__init__(*(nn.Sequential(nn.Linear(width, width), nn.LogSoftmax(-1)) for _ in range(depth)))


@pytest.mark.parametrize(("depth", "width", "draws", "allowed"), [(2, 128, 96, 0.03), (8, 64, 400, 0.08)])
def test_scales_in_both_directions(depth: int, width: int, draws: int, allowed: float):
    def build() -> nn.Module:
        return Stack(depth, width)

    torch.manual_seed(0)
    predicted = initio.analyze(build, (4, width))
    compared = initio.compare(predicted, initio.measure(build, (4, width), draws=draws, progress=False))
    for table in (compared.outputs, compared.cotangents, compared.gradients):
        assert table.rows
        for row in table.rows:
            assert row.claim == "rule" or "exact" in row.claim, row.key
            assert row.predicted == pytest.approx(row.measured, rel=allowed), row.key


def test_what_a_sharp_cotangent_has_along_its_logits_is_conserved():
    rms = {depth: initio.analyze(lambda depth=depth: Stack(depth, 64), (4, 64)) for depth in (12, 14)}
    shallow, deep = (rms[depth].parameters["0.0.bias"].grad_rms for depth in (12, 14))
    assert shallow
    assert deep
    # x · dx is that of the last layer, and its logits grow by (1 + E T²) / 3 in two layers, T the maximum of 64 normals
    assert deep / shallow == pytest.approx((1.0 + order_moments(64)[1]) / 3.0, rel=0.05)
