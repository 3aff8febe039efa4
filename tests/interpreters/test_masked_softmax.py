"""A mask applied with `where` around a softmax: its gradient is zero already where the backward pass sets it to zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import zoo
from initio.capture.initializers import construct
from initio.capture.program import record
from initio.core.moments import Moments
from initio.interpreters.propagate import propagate


class Causal(nn.Module):
    """One head with a causal mask of the dtype's lowest number."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / 8.0
        allowed = torch.tril(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool))
        scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ self.value(x)


def test_the_gradient_of_a_mask_loses_nothing() -> None:
    made = construct(Causal)
    rec = record(made.model, [zoo.normal(4, 16, 64)], {}, construction=made)
    values = propagate(rec)
    node = next(n for n in rec.nodes if n.op.startswith("aten.where.") and n.phase == "backward")
    given, masked = (values[v] for v in (node.inputs[1], node.outputs[0]) if v is not None)
    assert isinstance(given, Moments)
    assert isinstance(masked, Moments)
    assert given.total_second > 0.0
    assert masked.total_second == pytest.approx(given.total_second, rel=1e-12)
