"""Affine maps one after the other, in evaluation mode."""

import itertools

import pytest
import torch
from torch import nn

from rewrite.fusion import Block, fused, kinds


def moved(model):
    """The model after a few steps of statistics, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize(("bias", "affine", "groups"), list(itertools.product([True, False], [True, False], [1, 2])))
def test_convolution_and_batch_norm(bias, affine, groups):
    model = moved(nn.Sequential(nn.Conv2d(4, 6, 3, 2, dilation=2, groups=groups, bias=bias), nn.BatchNorm2d(6, affine=affine)))
    result = fused(model, "2x4x9x9")
    assert kinds(result) == ["conv-bn"]
    assert isinstance(result.model[1], nn.Identity)
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(result.model(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), "2x4x9"),
        (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), "2x4x3x3x3"),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), "5x4"),
    ],
)
def test_other_layers_and_batch_norm(layer, norm, shape):
    assert kinds(fused(moved(nn.Sequential(layer, norm, nn.ReLU())), shape)) == ["conv-bn"]


def test_linear_and_batch_norm_over_the_second_axis_of_three_is_proven_or_left():
    result = fused(moved(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5))), "3x5x4")
    assert not result.kept


@pytest.mark.parametrize("bias", [True, False])
def test_residual_block(bias):
    result = fused(moved(Block(bias=bias)), "2x4x8x8")
    assert kinds(result) == ["conv-bn"] * 3
    assert sorted(result.model.state_dict()) == sorted(f"{name}.{k}" for name in ("conv1", "conv2", "down.0") for k in ("weight", "bias"))


def test_in_training_mode_it_is_left_and_said():
    result = fused(Block(), "2x4x8x8")
    assert not result.rewrites
    assert {each.path for each in result.left} == {"bn1", "bn2", "down.1"}
    assert all("training mode" in each.reason for each in result.left)


def test_statistics_of_the_batch_are_left():
    result = fused(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval(), "2x3x4x4")
    assert not result.rewrites
    assert "running statistics" in result.left[0].reason


class NormAndActivation(nn.BatchNorm2d):
    def forward(self, input):  # noqa: A002
        return super().forward(input).relu()


def test_a_norm_with_a_forward_of_its_own_is_left():
    result = fused(nn.Sequential(nn.Conv2d(3, 4, 1), NormAndActivation(4)).eval(), "2x3x4x4")
    assert not result.rewrites
    assert "NormAndActivation is a subclass" in result.left[0].reason


class Read(nn.Module):
    """The convolution's output is read beside the norm, or returned."""

    def __init__(self, returned):
        super().__init__()
        self.conv, self.norm, self.returned = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), returned

    def forward(self, x):
        y = self.conv(x)
        return (y, self.norm(y)) if self.returned else y + self.norm(y)


@pytest.mark.parametrize("returned", [True, False])
def test_an_output_that_is_read_twice(returned):
    assert not fused(moved(Read(returned)), "2x3x4x4").rewrites


def test_new_weights_go_back():
    model = moved(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)))
    result = fused(model, "2x3x4x4")
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    expected = result.model(x)
    model.load_state_dict(result.to_original(result.model.state_dict()))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("first", "second", "width"), [(True, True, 8), (True, False, 8), (False, True, 3), (False, False, 3)])
def test_linear_layers_with_nothing_between(first, second, width):
    result = fused(nn.Sequential(nn.Linear(6, width, first), nn.Linear(width, 5, second), nn.ReLU()).eval(), "4x6")
    assert kinds(result) == ["linear-linear"]
    assert set(result.model.state_dict()) == ({"0.weight", "0.bias"} if first or second else {"0.weight"})


def test_a_chain_of_linear_layers_becomes_one():
    result = fused(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 5)).eval(), "4x6")
    assert kinds(result) == ["linear-linear", "linear-linear"]
    assert result.model[0].weight.shape == (5, 6)


def test_a_product_of_too_high_rank_has_no_factors():
    result = fused(nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 5)).eval(), "4x6")
    with pytest.raises(ValueError, match="rank"):
        result.to_original({"0.weight": torch.randn(5, 6), "0.bias": torch.randn(5)})


@pytest.mark.parametrize("width", [8, 5])
def test_a_new_product_has_factors_where_the_width_allows(width):
    model = nn.Sequential(nn.Linear(6, width), nn.Linear(width, 5)).eval()
    result = fused(model, "4x6")
    new = {"0.weight": torch.randn(5, 6), "0.bias": torch.randn(5)}
    model.load_state_dict(result.to_original(new))
    x = torch.randn(3, 6)
    torch.testing.assert_close(model(x), x @ new["0.weight"].T + new["0.bias"], rtol=1e-3, atol=1e-4)


def test_linear_layers_in_training_are_left():
    result = fused(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5)), "4x6")
    assert not result.rewrites
    assert result.left[0].path == "1"


def test_something_between_is_no_product():
    assert not fused(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)).eval(), "4x6").rewrites
