from dataclasses import dataclass

import pytest
from torch import nn

from initio.capture.initializers import construct
from initio.capture.tree import module_tree


@dataclass
class Pair:
    first: nn.Module
    second: nn.Module


class Holder(nn.Module):
    def __init__(self, hold):
        super().__init__()
        self.held = hold(lambda: nn.Linear(2, 3))
        self.seen = nn.Linear(2, 2)
        self.also = [self.seen]


@pytest.mark.parametrize(
    "hold, container, paths",
    [
        (lambda make: [make(), make()], "list", ["held[0]", "held[1]"]),
        (lambda make: (make(),), "tuple", ["held[0]"]),
        (lambda make: {"a": make()}, "dict", ["held['a']"]),
        (lambda make: {make()}, "set", ["held[0]"]),
        (lambda make: Pair(make(), make()), "dataclass", ["held.first", "held.second"]),
        (lambda make: [[make()], {"b": make()}], "list", ["held[0][0]", "held[1]['b']"]),
    ],
)
def test_modules_in_containers_are_found_with_their_lines(hold, container, paths):
    construction = construct(lambda: Holder(hold))
    tree = module_tree(construction.model, construction.module_sources)
    assert [module.path for module in tree.unregistered] == paths
    for module in tree.unregistered:
        assert module.owner == ""
        assert module.attribute == "held"
        assert module.trainable == 9
        assert module.source is not None
        assert "nn.Linear(2, 3)" in module.source.text or "hold" in module.source.text or "make" in module.source.text
        assert module.assigned is not None
        assert module.assigned.text == "self.held = hold(lambda: nn.Linear(2, 3))"
        assert f"{module.path}.weight" in construction.distributions
    assert {module.container for module in tree.unregistered} <= {container, "dict"}


def test_registered_modules_are_listed_once_with_their_aliases():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = self.a

    tree = module_tree(Shared(), {})
    assert [(module.path, module.aliases) for module in tree.modules] == [("", ()), ("a", ("b",))]
    assert tree.unregistered == ()


def test_submodules_of_a_loose_module_are_loose_too():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = [nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))]

    tree = module_tree(Loose(), {})
    assert [(module.path, module.mode) for module in tree.unregistered] == [
        ("parts[0]", False),
        ("parts[0].0", False),
        ("parts[0].1", True),
    ]
