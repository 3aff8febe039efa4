"""What no rule covers is drawn: single operations, recurrences, and refusals by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from initio.capture.initializers import construct
from initio.capture.program import record
from initio.core.moments import Moments, Unknown
from initio.core.record import Record
from initio.interpreters import simulate
from initio.interpreters.propagate import propagate
from initio.interpreters.sample import measure
from initio.rules import load
from initio.rules.table import RULES


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small matrices run best on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def analysed(build: Callable[[], nn.Module], inputs: list[Any]) -> tuple[Record, dict[int, Moments | Unknown]]:
    made = construct(build)
    rec = record(made.model, inputs, {}, construction=made)
    assert rec.crash is None
    return rec, propagate(rec)


class Median(nn.Module):
    """An operation without a rule between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.special.i0e(self.first(x)))


def test_an_operation_without_a_rule_is_drawn() -> None:
    load()
    assert "aten.special_i0e" not in RULES, "choose another operation"
    rec, values = analysed(Median, [zoo.normal(32, 64)])
    node = next(n for n in rec.nodes if n.op.startswith("aten.special_i0e."))
    made, given = values[node.outputs[0]], values[node.inputs[0]]
    assert isinstance(made, Moments)
    assert isinstance(given, Moments)
    assert made.claim == "simulated"
    z = np.random.default_rng(0).standard_normal(2_000_000) * np.sqrt(given.total_second)
    expected = torch.special.i0e(torch.from_numpy(z)).square().mean().item()
    assert made.total_second == pytest.approx(expected, rel=0.01)
    assert np.all(made.extra["error"] < 0.05 * made.total_second)
    result = values[rec.outputs[0].value]
    assert isinstance(result, Moments)
    assert result.claim == "simulated", "the label must flow on"


@pytest.mark.parametrize("name", ["rnn", "gru"])
def test_recurrences(name: str) -> None:
    build = {"rnn": nn.RNN, "gru": nn.GRU}[name]

    def factory() -> nn.Module:
        return zoo.Recurrent(build, 100, 48, 5)

    inputs = [zoo.ids(4, 10, below=100)]
    rec, values = analysed(factory, inputs)
    assert not [v for v in values.values() if isinstance(v, Unknown)]
    real = measure(factory, inputs, draws=24)
    compared = 0
    for call in rec.calls:
        for index, out in enumerate(call.outputs):
            made, seen = values[out], real.outputs[call.module, call.index, index]
            assert isinstance(made, Moments)
            assert abs(made.total_second - seen.second) < max(5 * seen.error, 0.15 * seen.second), (call.module, index)  # both are draws
            compared += 1
    for p in rec.parameters:
        assert p.gradient is not None
        made, seen = values[p.gradient], real.gradients[p.name]
        assert isinstance(made, Moments)
        assert abs(made.total_second - seen.second) < max(5 * seen.error, 0.15 * seen.second), p.name  # both are draws
        compared += 1
    assert compared >= 15


def test_results_do_not_depend_on_the_global_seed() -> None:
    second = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        rec, values = analysed(lambda: zoo.Recurrent(nn.RNN, 50, 16, 5), [zoo.ids(2, 4, below=50)])
        after = torch.rand(1).item()
        torch.manual_seed(seed)
        rec, values = analysed(lambda: zoo.Recurrent(nn.RNN, 50, 16, 5), [zoo.ids(2, 4, below=50)])
        assert torch.rand(1).item() == after
        made = values[rec.outputs[0].value]
        assert isinstance(made, Moments)
        second.append(made.total_second)
    assert second[0] == second[1]


def test_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "LARGEST", 10)
    monkeypatch.setattr(simulate, "WORK", 10.0)
    rec, values = analysed(Median, [zoo.normal(32, 64)])
    lost = values[rec.outputs[0].value]
    assert isinstance(lost, Unknown)
    assert "special_i0e" in lost.reason
    assert "not simulated" in lost.reason


class Scan(nn.Module):
    """A state that decays by gates of the input, behind a norm whose cotangent depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.gate, self.write = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.read(x), torch.sigmoid(self.gate(x))
        state, states = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = gates[:, t] * state + values[:, t]
            states.append(state * gates[:, t])
        return self.write(torch.stack(states, dim=1))


class Scanned(nn.Module):
    """The scan in a residual block under a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.scan, self.norm = Scan(), nn.LayerNorm(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.scan(x))


def test_the_backward_pass_of_a_scan() -> None:
    inputs = [zoo.normal(16, 6, 64)]
    rec, values = analysed(Scanned, inputs)
    measured = measure(Scanned, inputs, draws=16)
    for p in rec.parameters:
        assert p.gradient is not None
        claim, seen = values[p.gradient], measured.gradients[p.name]
        assert isinstance(claim, Moments), p.name
        assert np.sqrt(claim.total_second) == pytest.approx(seen.rms, rel=0.15), p.name
