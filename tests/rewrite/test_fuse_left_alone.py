"""What `fuse` does not touch, and says so; what it refuses."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from initio import InitioError
from initio.rewrite import Left, fuse
from initio.rewrite.change import speed_up
from rewrite.fusion import Attention, Loop, Merged, fused


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d, self.e, self.f, self.g = (nn.Linear(4, 4) for _ in range(7))

    def forward(self, x):
        return self.a(x) + self.b(x) * self.c(x) + self.d(x) * self.e(x) + self.e(x) + self.f(x) * self.g(x)


class Scaled(nn.Linear):
    def forward(self, input):  # noqa: A002
        return super().forward(input) * 2


def obstacles():
    """A model with one obstacle of each sort."""
    model = Several()
    model.a.register_forward_hook(lambda *_: None)
    model.b.weight = model.c.weight
    parametrizations.weight_norm(model.d)
    model.f = Scaled(4, 4)
    model.g.weight.register_hook(lambda gradient: gradient)
    return model


def test_each_obstacle_is_named():
    result = fused(obstacles(), "3x4")
    assert not result.rewrites
    said = {each.path: each.reason for each in result.left}
    assert set(said) == set("abcdefg")
    for path, part in {
        "a": "hooks",
        "b": "shared",
        "c": "shared",
        "d": "parametrized",
        "e": "2 times",
        "f": "subclass",
        "g": "hooks",
    }.items():
        assert part in said[path]


def test_the_others_are_fused():
    model = Several()
    model.a.register_forward_hook(lambda *_: None)
    result = fused(model, "3x4")
    assert result.kept[0].modules == ("b", "c", "d", "f", "g")
    assert set(result.left) == {Left("a", "it has hooks"), Left("e", "it is called 2 times")}


@pytest.mark.parametrize("obstacle", ["hook", "shared", "parametrized", "inner hook"])
def test_chains_with_obstacles_are_left(obstacle):
    model = Loop(4, 3, 8)
    if obstacle == "hook":
        model.mix[1].register_forward_pre_hook(lambda *_: None)
    elif obstacle == "inner hook":
        model.expand[2].register_full_backward_hook(lambda *_: None)
    elif obstacle == "shared":
        model.mix[1].weight = model.mix[2].weight
    else:
        parametrizations.weight_norm(model.mix[1])
    result = fused(model, "2x8x5x5", kinds=["chains"])
    blocked = {"inner hook": {"expand.2"}, "shared": {"mix.1", "mix.2"}}.get(obstacle, {"mix.1"})
    assert {each.path for each in result.left} == blocked
    (rewrite,) = result.kept
    assert len(rewrite.modules) == 3 * (4 - len(blocked))
    assert not blocked & set(rewrite.modules)


@pytest.mark.parametrize("where", ["path", "activation"])
def test_hooks_inside_the_paths_are_named(where):
    model = Merged("sum", count=5, act=nn.ReLU())
    inner = model.paths[1] if where == "path" else model.paths[0].act
    inner.register_forward_hook(lambda *_: None)
    result = fused(model, "2x6x8x8", kinds=["chains"])
    assert [len(r.modules) for r in result.kept] == ([12] if where == "path" else [])
    assert {(each.path, each.reason) for each in result.left} == {("paths.1" if where == "path" else "paths.0.act", "it has hooks")}


def test_hooks_on_other_tensors_are_named():
    model = Attention()
    model.out.weight.register_hook(lambda gradient: gradient)
    result = fused(model, "2x5x16")
    assert result.kept
    (left,) = result.left
    assert left.path == "out"
    assert "hook on weight" in left.reason


def test_hooks_of_the_holder_stay():
    model = Loop(4, 3, 8)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    result = fused(model, "2x8x5x5")
    assert result.kept
    seen.clear()
    result.model(torch.randn(2, 8, 5, 5))
    assert seen == [1]


def test_unregistered_paths_are_named():
    from initio.examples.split_transform_merge import Model

    result = fused(Model(4, 3), "2x256x5x5")
    assert not result.rewrites
    assert len(result.left) == 12
    assert "not registered" in result.left[0].reason


@pytest.mark.parametrize(("ratio", "kept"), [(0.5, False), (1.0, False), (1.2, True)])
def test_only_what_is_timed_faster_is_kept(ratio, kept):
    result = fused(Attention(), "2x5x16", timer=lambda _before, _after: ratio)
    assert bool(result.kept) is kept
    assert result.rewrites[0].ratio == ratio
    assert kept or "not faster" in result.rewrites[0].reason
    assert bool(fused(Attention(), "2x5x16", timer=lambda _b, _a: ratio, least=2.0).kept) is False


def test_equal_pairs_are_timed_once():
    calls = []
    model = nn.Sequential(Attention(), Attention(), Attention())
    result = fuse(model, "2x5x16", timer=lambda _before, _after: calls.append(1) or 2.0)
    assert len(result.kept) == 3
    assert len(calls) == 1


def test_the_default_timer_gives_a_positive_ratio():
    assert speed_up(lambda: sum(range(1000)), lambda: None) > 0


def test_a_rewrite_that_is_wrong_is_not_kept(monkeypatch):
    from initio.rewrite import layers

    right = layers.Packed.forward
    monkeypatch.setattr(layers.Packed, "forward", lambda self, x: tuple(y + 1e-6 for y in right(self, x)))
    result = fused(Attention(), "2x5x16")
    assert not result.kept
    assert "differs" in result.rewrites[0].reason


def test_a_model_that_reads_class_names_is_proven_as_a_whole():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) * self.b(x) * (2 if isinstance(self.a, nn.Linear) else 1)

    result = fused(Model(), "3x4")
    assert not result.kept
    assert "whole model" in result.rewrites[0].reason


def test_a_model_without_float64_is_told_so():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            if x.dtype == torch.float64:
                raise NotImplementedError("single precision only")
            return self.a(x) * self.b(x)

    result = fused(Model(), "3x4")
    assert not result.kept
    assert "does not run in float64: NotImplementedError: single precision only" in result.rewrites[0].reason


def test_refusals():
    with pytest.raises(InitioError, match="built model"):
        fuse(Attention, "2x5x16")
    with pytest.raises(InitioError, match="kinds"):
        fuse(Attention(), "2x5x16", kinds=["conv"])
    with pytest.raises(InitioError, match="meta"):
        fuse(Attention().to("meta"), "2x5x16")
    with pytest.raises(InitioError, match="runs on these inputs"):
        fuse(Attention(), "2x5x17")
    with pytest.raises(InitioError, match="real tensors"):
        fuse(nn.Sequential(nn.Embedding(5, 16), Attention()), "2x5:int(5,90)")


def test_missing_tensors_are_named():
    result = fuse(Attention(), "2x5x16", timer=lambda _before, _after: 2.0)
    state = result.model.state_dict()
    del state["q.packed.bias"]
    with pytest.raises(KeyError, match=r"q\.packed\.bias"):
        result.to_original(state)
    with pytest.raises(KeyError, match=r"q\.weight"):
        result.from_original({})


def test_json_and_text():
    result = fuse(obstacles(), "3x4", timer=lambda _before, _after: 2.0)
    told = json.loads(result.to_json())
    assert told["schema"] == "initio.fuse/1"
    assert len(told["left"]) == len(result.left)
    assert "left a, g: it has hooks" in repr(result)
