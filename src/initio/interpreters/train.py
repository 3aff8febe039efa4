"""A short training on synthetic data: whether the loss goes down at all, and whether it stays finite."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from initio.core.inputs import InputSpec, normalise
from initio.interpreters.draws import draw_input, objective, random_state, seed_all

__all__ = ["train"]

DIVERGED = 100.0
"""A loss that rises to so many times its beginning has diverged."""


def train(
    factory: Callable[[], nn.Module], inputs: Any, *, steps: int, rate: float = 1e-3, loss: Any = None, seed: int = 0
) -> dict[str, Any]:
    """Build the model, draw one batch and its targets, and take `steps` steps of Adam (learning rate `rate`) on that batch.

    Without a `loss`, the mean squared error against unit normal targets. Returns `first_loss`, `final_loss` (NaN where it stopped being
    finite), `loss_ratio` (final over first) and `diverged`: not finite, or at some step a hundredfold of the first.
    """
    with random_state():
        seed_all(seed)
        model = factory()
        model.train()
        args, kwargs = normalise(inputs)
        positional = [draw_input(item) if isinstance(item, InputSpec) else item for item in args]
        named = {name: draw_input(item) if isinstance(item, InputSpec) else item for name, item in kwargs.items()}
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
        losses: list[float] = []
        for step in range(steps + 1):
            result = model(*positional, **named)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1)  # the same targets at every step
                value = objective(loss if loss is not None else "mse", result)
            losses.append(float(value.detach()))
            if step == steps or not math.isfinite(losses[-1]):
                break
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    first, final = losses[0], losses[-1]
    finite = math.isfinite(final)
    return {
        "first_loss": first,
        "final_loss": final if finite else math.nan,
        "loss_ratio": final / first if finite and first else math.nan,
        "diverged": not finite or max(losses) > DIVERGED * first,
    }
