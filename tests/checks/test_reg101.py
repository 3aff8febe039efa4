import pytest
from torch import nn

from initio.capture.initializers import construct
from initio.capture.program import record
from initio.capture.tree import module_tree
from initio.checks.framework import run
from initio.core.analysis import Analysis
from initio.core.inputs import normalise


def codes(factory, inputs=(4, 8)):
    construction = construct(factory)
    recorded = record(construction.model, *normalise(inputs), construction=construction)
    assert recorded.crash is None, recorded.crash
    analysis = Analysis.build(recorded, {}, tree=module_tree(construction.model, construction.module_sources))
    return [(f.code, f.entity, f.evidence["modules"]) for f in run(analysis, ("REG101",))]


class Net(nn.Module):
    def __init__(self, make, used=True):
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.held = make(self)
        self.used = used

    def forward(self, x):
        x = self.stem(x)
        items = self.held.values() if isinstance(self.held, dict) else self.held
        for item in items if self.used else ():
            x = item(x)
        return x


def test_literal_paths_are_one_finding_a_list():
    assert codes(lambda: Net(lambda _: [nn.Linear(8, 8) for _ in range(32)])) == [("REG101", "held", 32)]


@pytest.mark.parametrize(
    "make",
    [
        lambda _: (nn.Linear(8, 8), nn.ReLU()),
        lambda _: {"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)},
        lambda _: {nn.Linear(8, 8)},
        lambda _: [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))],
        lambda _: [nn.Dropout(0.5)],
    ],
)
def test_other_containers_nested_modules_and_modes(make):
    found = codes(lambda: Net(make))
    assert [(code, entity) for code, entity, _ in found] == [("REG101", "held")]


def inside(make):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Net(make)

        def forward(self, x):
            return self.inner(x)

    return Outer


def test_deep_in_the_tree():
    assert codes(inside(lambda _: [nn.Linear(8, 8)])) == [("REG101", "held", 1)]


@pytest.mark.parametrize(
    "factory",
    [
        lambda: Net(lambda _: [nn.ReLU(), nn.Tanh()]),
        lambda: Net(lambda self: [self.stem]),
        lambda: Net(lambda _: nn.ModuleList([nn.Linear(8, 8)])),
        lambda: Net(lambda _: [nn.Linear(8, 8)], used=False),
        lambda: Net(lambda _: [nn.Linear(8, 8).requires_grad_(False)]),
    ],
    ids=["activations", "registered elsewhere", "ModuleList", "never called", "frozen teacher"],
)
def test_near_misses_stay_silent(factory):
    assert codes(factory) == []
