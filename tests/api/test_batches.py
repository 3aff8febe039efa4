import math
from functools import partial

import pytest
import torch
from torch import nn

from families import Functional, Residual, mlp
from initio.api import batches
from initio.api.cells import Task, attempt
from initio.capture.initializers import construct
from initio.capture.light import UntraceableError, trace


def cells(**values):
    gains = values.pop("gain")
    return [(index, {**values, "gain": gain}) for index, gain in enumerate(gains)]


@pytest.mark.parametrize("act", ["tanh", "relu"])
def test_planned_cells_are_what_the_full_analysis_says(act):
    task = Task(mlp, (4, 32), {"depth": 24, "act": act})
    some = [(9 * k + j, {"gain": 0.6 + 0.6 * k, "bias": 0.1 * j}) for k in range(3) for j in range(3)]
    planned = batches.attempts(task, some)
    assert [outcome.index for outcome in planned] == [index for index, _ in some]
    assert sum(outcome.quick for outcome in planned) >= 4
    for outcome, cell in zip(planned, some, strict=True):
        full = attempt(task, *cell)
        assert not outcome.failed
        assert outcome.quantities["findings"] == full.quantities["findings"], cell
        for name, value in full.quantities.items():
            if isinstance(value, float) and math.isfinite(value):
                assert outcome.quantities[name] == pytest.approx(value, rel=1e-4 if name.startswith("xi_") else batches.CLOSE), (name, cell)


def test_the_laws_of_a_trace_are_the_recorders():
    for settings in ({}, {"gain": 2.0}, {"bias": 0.0}, {"act": "relu"}):
        made = trace(partial(mlp, 3, **settings))
        assert made.laws == construct(partial(mlp, 3, **settings)).distributions


def test_what_differs_in_more_than_its_draws_has_another_key():
    key = trace(partial(mlp, 3)).key
    assert trace(partial(mlp, 3, gain=2.0)).key == key
    for settings in ({"depth": 4}, {"act": "relu"}, {"width": 16}, {"drop": 0.1}):
        assert trace(partial(mlp, **{"depth": 3, **settings})).key != key
    assert trace(partial(mlp, 3, drop=0.1)).key != trace(partial(mlp, 3, drop=0.2)).key


def test_code_that_the_trace_does_not_follow_is_left_to_the_recorder():
    with pytest.raises(UntraceableError):
        trace(partial(Functional, 3))  # draws are multiplied
    task = Task(Functional, (4, 32), {"depth": 6})
    found = batches.attempts(task, cells(gain=[0.5, 1.0]))
    assert not any(outcome.quick or outcome.failed for outcome in found)


def test_a_scale_that_the_forward_pass_applies_is_never_planned():
    task = Task(Residual, (4, 32), {"depth": 4})
    found = batches.attempts(task, [(k, {"scale": 0.1 * k}) for k in range(1, 4)])
    assert not any(outcome.quick or outcome.failed for outcome in found)
    assert len({outcome.quantities["signal"] for outcome in found}) == 3


GAIN = 1.0


class Hidden(nn.Module):
    """The forward pass reads what no attribute and no draw tells."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(mlp(1)[0] for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x)) if GAIN > 1.5 else torch.tanh(layer(x))
        return x


def hidden(gain: float = 1.0):
    global GAIN
    GAIN = gain
    return Hidden()


def test_a_control_finds_what_the_trace_cannot_see():
    task = Task(hidden, (4, 32))
    found = batches.attempts(task, cells(gain=[1.0, 2.0, 3.0]))
    (template,) = batches._memories[task.token].templates.values()
    assert template.analysis is not None  # it could be planned,
    assert template.plan is None  # but the control spoke against it
    assert not any(outcome.quick for outcome in found)
    assert found[0].quantities["gradient"] != found[1].quantities["gradient"]
