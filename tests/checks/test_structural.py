"""Checks that look at structure alone are found out, and say of another record of that structure what they said of the first."""

from dataclasses import replace

import pytest
from torch import nn

import initio
from initio.checks import framework
from initio.checks.structural import told
from initio.core.analysis import Analysis


def network(gain):
    layers = []
    for _ in range(20):
        linear = nn.Linear(32, 32)
        nn.init.normal_(linear.weight, std=gain / 32**0.5)
        layers += [linear, nn.Tanh(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(32, 10), nn.Softmax(dim=0))


@pytest.fixture(scope="module")
def analyses():
    return [initio.analyze(lambda g=gain: network(g), "8x32") for gain in (1.0, 0.3)]


def test_checks_of_structure_are_told_apart_from_those_that_look_at_numbers(analyses):
    found = told(analyses[0], {})[framework.TOLD]
    assert "ACT103" in found
    assert found["ATT101"], "a softmax over the batch"
    assert not {"SIG101", "GRD101", "GRD104", "INI101"} & set(found)


def test_findings_are_those_of_a_run_without_it(analyses):
    first, second = analyses
    structure = told(first, {})
    assert framework.run(second, structure=dict(structure)) == framework.run(second)
    assert framework.run(first, structure=dict(structure)) == framework.run(first)
    assert framework.run(first) != framework.run(second), "the signal dies in the second"


def test_what_is_told_is_not_looked_for_again(analyses):
    empty = replace(analyses[0].record, nodes=())
    bare = Analysis(empty, {}, analyses[0].tree)
    known = told(analyses[0], {})[framework.TOLD]
    assert "ATT101" in {finding.code for finding in framework.run(bare, ["ATT101"], structure={framework.TOLD: known})}
