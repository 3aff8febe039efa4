import dataclasses
import math

import pytest
import torch
from torch import nn

from initio.capture.initializers import construct
from initio.capture.program import record
from initio.capture.tree import module_tree
from initio.checks.framework import Context, run
from initio.checks.spine import decay, layers, segments
from initio.core.analysis import Analysis, Summary
from initio.core.inputs import normalise


def analysed(factory, inputs, second) -> Analysis:
    """An analysis whose moments are stated: `second` maps a module call's path to the second moments of output and cotangent."""
    construction = construct(factory)
    recorded = record(construction.model, *normalise(inputs), construction=construction)
    summary = {}
    for call in recorded.calls:
        forward, backward = second(call.module)
        summary |= {value: Summary(0.0, forward, "exact") for value in call.outputs}
        summary |= {value: Summary(0.0, backward, "exact") for value in call.cotangents if value is not None}
    return Analysis.build(recorded, summary, tree=module_tree(construction.model, construction.module_sources))


def chain(depth=20, norm=False):
    def layer():
        return nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), *([nn.LayerNorm(8)] if norm else []))

    return nn.Sequential(*(layer() for _ in range(depth)))


def depth_of(path: str) -> int:
    return int(path.split(".")[0]) + 1 if path else 20


@pytest.mark.parametrize(
    "moments, direction",
    [
        ([6.0**-k for k in range(21)], "vanishing"),
        ([4.0**k for k in range(21)], "exploding"),
        ([1.0] * 20 + [1e-9], None),
        ([1e-9] + [1.0] * 20, None),
        ([1.0, 1e-4, 1e-8, 1e-12], None),
        ([1.0 + k for k in range(100)], None),
        ([math.nan] * 21, None),
        ([6.0**-k if k % 2 else math.nan for k in range(21)], "vanishing"),
        ([0.0] * 21, None),
    ],
)
def test_decay(moments, direction):
    found = decay(moments)
    assert (found and found.direction) == direction


def test_the_rate_is_per_layer():
    found = decay([6.0**-k for k in range(21)])
    assert found.depth == 20
    assert found.rate == pytest.approx(1 / 6)
    assert found.ratio == pytest.approx(6.0**-20)


def test_a_dying_chain_is_one_finding_forward_and_one_backward():
    analysis = analysed(chain, (4, 8), lambda path: (6.0 ** -depth_of(path), 6.0 ** (depth_of(path) - 20)))
    findings = run(analysis)
    assert [(f.code, f.name) for f in findings] == [("SIG101", "vanishing-signal"), ("GRD104", "vanishing-gradient")]
    assert findings[0].evidence["rate"] == pytest.approx(1 / 6)
    assert "keeps 1/6 of the second moment: 1.6e-15 of it after 19 layers" in findings[0].message
    assert findings[0].source.text.startswith("return nn.Sequential(nn.Linear(8, 8, bias=False)")
    assert len(findings[0].also) == 19


@pytest.mark.parametrize("pools, codes", [(True, ()), (False, ("GRD104",))])
def test_a_gradient_that_pooling_spreads_over_larger_maps_has_not_vanished(pools, codes):
    """The weights sum over the map: entries fall by 16 where the map grows by 4, so the norm falls by 2 a layer."""

    def build():
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2) if pools else nn.Tanh()) for _ in range(7)))

    analysis = analysed(build, (2, 4, 128, 128), lambda path: (1.0, 16.0 ** (int(path.split(".")[0]) - 7) if path else 1.0))
    assert tuple(f.code for f in run(analysis) if f.code.startswith("GRD")) == codes


def test_a_norm_ends_a_chain():
    """The scale of a layer before a norm means nothing; its gradient is the larger, the smaller the layer's output."""
    analysis = analysed(lambda: chain(norm=True), (4, 8), lambda path: (6.0 ** -depth_of(path), 6.0 ** depth_of(path)))
    assert [len(run_) for run_ in segments(layers(Context(analysis)))] == [1] * 20
    assert run(analysis) == ()


@pytest.mark.parametrize("rate, codes", [(2.0, ()), (3.0, ("GRD104",)), (0.5, ("GRD104",))])
def test_the_growth_of_many_equal_branches_is_explained_by_their_number(rate, codes):
    """Each sum of a skip and a branch of its size doubles the square on the way back."""
    analysis = analysed(lambda: Joined(24), (4, 8), lambda path: (1.0, rate ** (24 - _block(path))))
    assert tuple(f.code for f in run(analysis) if f.code == "GRD104") == codes


def _block(path: str) -> int:
    return int(path.split(".")[1]) if path.startswith("mixers.") else 24


class Joined(nn.Module):
    """A layer after every sum, so that the way back has layers to look at."""

    def __init__(self, depth):
        super().__init__()
        self.mixers = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, x):
        for mixer in self.mixers:
            y = mixer(x)
            x = y + y.tanh()
        return x


class Residual(nn.Module):
    def __init__(self, depth=20):
        super().__init__()
        self.blocks = nn.ModuleList(chain(1) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def test_small_branches_beside_a_skip_are_not_followed():
    analysis = analysed(Residual, (4, 8), lambda path: (1e-12, 1e-12))
    unit = {value: Summary(0.0, 1.0, "exact") for node in analysis.record.nodes if node.op.startswith("aten.add") for value in node.outputs}
    analysis = dataclasses.replace(analysis, summary={**analysis.summary, **unit, 0: Summary(0.0, 1.0, "exact")})
    assert len([layer for layer in layers(Context(analysis)) if layer]) <= 1
    assert run(analysis) == ()


def test_functional_layers_are_followed_too():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList(nn.Parameter(torch.randn(8, 8)) for _ in range(12))

        def forward(self, x):
            for weight in self.weights:
                x = nn.functional.linear(x, weight).tanh()
            return x

    construction = construct(Functional)
    recorded = record(construction.model, *normalise((4, 8)), construction=construction)
    found = layers(Context(Analysis.build(recorded, {})))
    from initio.checks.grd104 import _cotangents

    assert len(found) == 12
    assert all(layer.value in _cotangents(Context(Analysis.build(recorded, {}))) for layer in found)


def test_a_value_that_the_dtype_cannot_hold():
    analysis = analysed(lambda: chain(1).half(), "4x8:float16", lambda path: (1e10, 1.0))
    (finding,) = run(analysis)
    assert (finding.code, finding.entity) == ("SIG101", "overflow")
    assert "float16" in finding.message
