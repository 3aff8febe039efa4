"""Parallel chains that are added or concatenated."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initio.nn import SplitTransformMerge
from initio.rewrite.layers import ParallelChains
from rewrite.fusion import GELU, RELU, Heads, Loop, Merged, fused, kinds


@pytest.mark.parametrize(
    ("per_path", "bias", "stride", "dilation", "kernel"),
    [(True, True, 1, 1, 3), (False, True, 1, 1, 3), (True, False, 2, 1, 3), (False, False, 1, 2, 3), (True, True, 2, 1, 5)],
)
def test_the_literal_loop_is_split_transform_merge(per_path, bias, stride, dilation, kernel):
    result = fused(Loop(4, 3, 16, per_path, bias, stride, dilation, kernel), "2x16x7x7")
    assert kinds(result) == ["chains"]
    layer = result.model.reduce_merged
    assert isinstance(layer, SplitTransformMerge)
    assert (layer.paths, layer.width, layer.activation_after) == (4, 3, "path" if per_path else None)
    assert [name for name, _ in result.model.named_children()] == ["reduce_merged"]


def test_the_loop_of_thirty_two_paths_keeps_its_parameters():
    result = fused(Loop(32, 4, 256), "1x256x4x4")
    assert sum(p.numel() for p in result.model.parameters()) == 78_592


@pytest.mark.parametrize("merge", ["sum", "residual", "stack", "stack-function", "cat", "tail"])
@pytest.mark.parametrize(("groups", "act"), [(1, RELU), (2, GELU)])
def test_any_merge_of_any_chain(merge, groups, act):
    result = fused(Merged(merge, act=act, groups=groups), "2x6x8x8")
    assert kinds(result) == ["chains"]
    assert isinstance(result.model.paths_merged, ParallelChains)
    assert len(list(result.model.children())) == 1


@pytest.mark.parametrize(("merge", "bias", "shape"), list(itertools.product(["sum", "cat"], [True, False], ["7x6", "2x3x6"])))
def test_chains_of_linear_layers(merge, bias, shape):
    assert kinds(fused(Heads(merge, bias), shape)) == ["chains"]


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_rank(rank):
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[rank]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.ModuleList(nn.Sequential(conv(4, 3, 3), nn.ReLU(), conv(3, 5, 2)) for _ in range(3))

        def forward(self, x):
            return self.a[0](x) + self.a[1](x) + self.a[2](x)

    assert kinds(fused(Model(), "2x4" + "x6" * rank)) == ["chains"]


def test_two_groups_in_one_module():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.ModuleList(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6)) for _ in range(3)) for _ in "ab")

        def forward(self, x):
            x = x + sum(path(x) for path in self.a)
            return x + sum(path(x) for path in self.b)

    assert kinds(fused(Model(), "3x6")) == ["chains", "chains"]


def test_the_fused_model_trains_as_the_original_does():
    torch.manual_seed(0)
    model = Loop(4, 3, 8).double()
    result = fused(model, "2x8x5x5:float64")
    ours, theirs = copy.deepcopy(result.model), copy.deepcopy(model)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    for each in (ours, theirs):
        optimizer = torch.optim.SGD(each.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            each(x).square().mean().backward()
            optimizer.step()
    mapped = result.to_original(ours.state_dict())
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(mapped[name], tensor, rtol=1e-10, atol=1e-12)


def test_the_class_stays_and_modes_differ():
    class Noisy(Merged):
        def forward(self, x):
            y = super().forward(x)
            return y + 1 if self.training else y

    torch.manual_seed(0)
    model = Noisy("sum")
    result = fused(model, "2x6x8x8")
    assert kinds(result) == ["chains"]
    assert isinstance(result.model, Noisy)
    x = torch.randn(2, 6, 8, 8)
    for mode in (True, False):
        torch.testing.assert_close(result.model.train(mode)(x), model.train(mode)(x))


def test_an_argument_that_was_not_given_is_fixed():
    class Masked(Merged):
        def forward(self, x, mask=None):
            return super().forward(x if mask is None else x * mask)

    result = fused(Masked("sum"), "2x6x8x8")
    assert kinds(result) == ["chains"]
    result.model(torch.randn(2, 6, 8, 8), mask=None)
    with pytest.raises(AssertionError, match="mask"):
        result.model(torch.randn(2, 6, 8, 8), mask=torch.ones(()))


class Different(nn.Module):
    """Near misses by name."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        sizes = [3, 3, 5 if case == "window" else 3]
        self.paths = nn.ModuleList(nn.ModuleList([nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, k, padding=k // 2)]) for k in sizes)
        self.drop = nn.ModuleList(nn.Dropout(0.5) for _ in sizes)

    def forward(self, x):
        total = 0
        for i, (a, b) in enumerate(self.paths):
            y = a(x + i if self.case == "input" else x)
            y = torch.tanh(y) if self.case == "activation" and i else F.softmax(y, 1) if self.case == "softmax" else F.relu(y)
            if self.case == "dropout":
                y = self.drop[i](y)
            y = b(y)
            if self.case == "weighted":
                y = y * (i + 1)
            total = torch.maximum(y, total + y) if self.case == "maximum" else total + y
        return total


@pytest.mark.parametrize("case", ["input", "softmax", "dropout", "weighted", "maximum", "mean"])
def test_near_misses_are_no_chains(case):
    model = Merged("mean") if case == "mean" else Different(case)
    result = fused(model, "2x6x8x8", kinds=["chains"])
    assert not result.rewrites


def test_dropout_in_the_paths_is_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.paths = nn.ModuleList(nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 6)) for _ in range(4))

        def forward(self, x):
            return sum(path(x) for path in self.paths)

    result = fused(Model(), "3x6", kinds=["chains"])
    assert not result.rewrites
    assert {each.path for each in result.left} == {f"paths.{i}.1" for i in range(4)}
    assert "draws" in result.left[0].reason


@pytest.mark.parametrize("case", ["window", "activation"])
def test_the_other_paths_of_one_form_are_fused(case):
    result = fused(Different(case), "2x6x8x8", kinds=["chains"])
    assert kinds(result) == ["chains"]
    (rewrite,) = result.kept
    assert len(rewrite.modules) == 4


def test_contents_that_decide_are_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.paths = nn.ModuleList(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6)) for _ in range(4))

        def forward(self, x):
            y = sum(path(x) for path in self.paths)
            return y if x.shape[0] > 1 else y + 1

    result = fused(Model(), "3x6", kinds=["chains"])
    assert not result.rewrites
    assert "cannot be traced" in result.left[0].reason
    assert result.left[0].path == ""
