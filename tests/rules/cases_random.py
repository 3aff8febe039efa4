"""Draws, constants and dropout."""

from __future__ import annotations

import torch
from torch import Tensor

from rules.harness import Case, Iid, Normal, components

x = Normal((2, 3, 2), components(3), mean=0.4)
g = Normal((2, 3, 2), components(3))


def made(op: str, *args: object, draw: object = None, **kwargs: object) -> Case:
    """An op without inputs: a placeholder carries the draws."""
    return Case(op, (*args,), kwargs, cotangent=Normal((2, 3)), run=draw)  # type: ignore[arg-type]


CASES = [
    made("aten.randn", [2, 3], draw=torch.randn_like),
    made("aten.rand", [2, 3], draw=torch.rand_like),
    Case("aten.randn_like", (Normal((2, 3)),)),
    Case("aten.rand_like", (Normal((2, 3)),)),
    Case("aten.normal_", (Normal((2, 3)), 0.5, 2.0), run=lambda t: 0.5 + 2.0 * torch.randn_like(t)),
    Case("aten.uniform_", (Normal((2, 3)), -1.0, 2.0), run=lambda t: -1.0 + 3.0 * torch.rand_like(t)),
    Case("aten.bernoulli.p", (Normal((2, 3)), 0.3), run=lambda t: (torch.rand_like(t) < 0.3).double()),
    *[Case(f"aten.{op}", (Normal((2, 3)),), linear=True) for op in ("zeros_like", "ones_like")],
    Case("aten.zero_", (Normal((2, 3)),), run=torch.zeros_like, linear=True),
    made("aten.zeros", [2, 3], draw=torch.zeros_like),
    made("aten.ones", [2, 3], draw=torch.ones_like),
    made("aten._efficientzerotensor", [2, 3], draw=torch.zeros_like),
    Case("aten.new_zeros", (Normal((2, 3)), [2, 3]), run=torch.zeros_like, linear=True),
    Case("aten.new_ones", (Normal((2, 3)), [2, 3]), run=torch.ones_like, linear=True),
    made("aten.full", [2, 3], 1.5, draw=lambda t: torch.full_like(t, 1.5)),
    Case("aten.full_like", (Normal((2, 3)), 1.5), linear=True),
    Case("aten.new_full", (Normal((2, 3)), [2, 3], 1.5), run=lambda t: torch.full_like(t, 1.5), linear=True),
    Case("aten.fill_.Scalar", (Normal((2, 3)), 1.5), run=lambda t: torch.full_like(t, 1.5), linear=True),
    Case("aten.scalar_tensor", (1.5,), cotangent=Normal(()), run=lambda t: torch.full_like(t, 1.5)),
    Case("aten.native_dropout", (x, 0.25, True), outputs=(0,), run=lambda t: _dropped(t)),
    Case("aten.native_dropout_backward", (g, Iid((2, 3, 2), "mask"), 1 / 0.75), run=lambda a, m: a * m / 0.75),
]


def _dropped(t: Tensor) -> Tensor:
    return t * (torch.rand_like(t) < 0.75) / 0.75
