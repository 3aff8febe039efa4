"""`watch`: the check inside of a training loop that exists already."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initio.integrations.watch import Watch

__all__ = ["watch"]


def watch(
    model: Any,
    *,
    loss: str | Callable[..., Any] | None = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    fail_on: str = "error",
) -> Watch:
    """Check a model at its first call with gradients, and set the first step beside the prediction.

    The check takes the call's own arguments, before the call runs. A finding at least as grave as `fail_on` raises `FindingsError`; other
    errors and warnings, and what the first step shows outside of the noise band, are Python warnings. At the first optimizer step
    that moves the model (or where the block ends) all hooks are gone; random generators, buffers and modes are never touched.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with watch(model, loss="cross_entropy") as w:
    ...     for _ in range(3):
    ...         loss = torch.nn.functional.cross_entropy(model(torch.randn(16, 64)), torch.randint(10, (16,)))
    ...         optimizer.zero_grad(); loss.backward(); optimizer.step()
    >>> [finding.code for finding in w.report.findings], w.outside, len(w.live)
    ([], (), 8)
    """
    return importlib.import_module("initio.integrations.watch").Watch(model, loss=loss, select=select, ignore=ignore, fail_on=fail_on)
