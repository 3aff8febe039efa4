"""What one Monte Carlo draw needs: inputs from their distributions, targets for a loss, the random state, a progress bar."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import random
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from initio.core.errors import InitioError
from initio.core.inputs import InputSpec

__all__ = ["Progress", "draw_input", "objective", "random_state", "seed_all", "tensors"]


def tensors(result: Any) -> list[Tensor]:
    """The floating-point tensors (real or complex) in a nested result of tuples, lists, mappings and dataclasses, in order."""
    found: list[Tensor] = []
    _collect(result, found)
    return found


def _collect(result: Any, found: list[Tensor]) -> None:
    if isinstance(result, Tensor):
        if result.is_floating_point() or result.is_complex():
            found.append(result)
    elif isinstance(result, Mapping):
        for item in result.values():
            _collect(item, found)
    elif isinstance(result, (tuple, list)):
        for item in result:
            _collect(item, found)
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        for field in dataclasses.fields(result):
            _collect(getattr(result, field.name), found)


def draw_input(spec: InputSpec, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Tensor:
    """One sample of an input tensor, or the tensor that the user handed in. `dtype` replaces a floating dtype."""
    kind: torch.dtype = getattr(torch, spec.dtype)
    if dtype is not None and kind.is_floating_point:
        kind = dtype
    if spec.data is not None:
        return torch.as_tensor(spec.data).detach().clone().to(device=device, dtype=kind)
    p = spec.distribution.parameters
    shape = spec.shape
    match spec.distribution.family:
        case "normal":
            sample = torch.randn(shape, device=device) * p["std"] + p["mean"]
        case "uniform":
            sample = torch.rand(shape, device=device) * (p["high"] - p["low"]) + p["low"]
        case "truncated_normal":
            sample = torch.empty(shape, device=device)
            torch.nn.init.trunc_normal_(sample, p["mean"], p["std"], p["low"], p["high"])
        case "integers":
            sample = torch.randint(int(p["low"]), int(p["high"]), shape, device=device)
        case "bernoulli":
            sample = (torch.rand(shape, device=device) < p["p"]).float()
        case "constant":
            sample = torch.full(shape, p["value"], device=device)
        case family:
            remedy = "Use normal, uniform, truncated_normal, integers, bernoulli or constant, or hand in the tensor itself."
            raise InitioError(
                "an input distribution to draw from", f"{family!r} came", where=f"input {spec.name or spec.shape}", remedy=remedy
            )
    return sample.to(kind)


def objective(loss: str | Callable[..., Any], result: Any) -> Tensor:
    """The scalar that the backward pass starts from. Targets are drawn uniformly over the classes, {0, 1}, or unit normal (mse)."""
    if callable(loss):
        value = loss(result)
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InitioError(
                "a scalar tensor from the loss function", f"it returned {came}", where="loss", remedy="Reduce it to its mean."
            )
        return value
    found = tensors(result)
    if not found:
        raise InitioError("a floating-point result to compute a loss from", "the model returned none", where="loss", remedy="Return it.")
    if loss == "model":
        return _own_loss(result, found)
    output = found[0]
    if loss == "mse":
        return F.mse_loss(output, torch.randn_like(output))
    if loss == "bce_with_logits":
        return F.binary_cross_entropy_with_logits(output, torch.randint_like(output, 2))
    if loss in ("cross_entropy", "nll"):
        # (sample, class, *positions), except that sequences put the class last: (sample, position, class).
        logits = output.reshape(-1, output.shape[-1]) if output.ndim == 3 else output
        axis = 1 if logits.ndim > 1 else 0
        shape = logits.shape[:axis] + logits.shape[axis + 1 :]
        target = torch.randint(logits.shape[axis], shape, device=logits.device)
        return F.cross_entropy(logits, target) if loss == "cross_entropy" else F.nll_loss(logits, target)
    names = "cross_entropy, nll, mse, bce_with_logits, model"
    raise InitioError(f"one of {names}, or a function of the model's result", f"{loss!r} came", where="loss", remedy="Name one of them.")


def _own_loss(result: Any, found: list[Tensor]) -> Tensor:
    named = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    scalar = named if isinstance(named, Tensor) else next((tensor for tensor in found if tensor.ndim == 0), None)
    if scalar is None:
        remedy = "Pass the labels among the inputs, or name a loss."
        raise InitioError("a model that returns its loss as a scalar", "its result holds none", where="loss='model'", remedy=remedy)
    return scalar


@contextmanager
def random_state() -> Generator[None]:
    """Leave the random states of torch, numpy and Python as they were."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def seed_all(seed: int) -> None:
    """Seed torch, numpy and Python: an author's initialisation code may draw from any of them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class Progress:
    """A bar on stderr. `show` None: only on a terminal, and only once a second has passed."""

    def __init__(self, total: int, show: bool | None = None, label: str = "measuring") -> None:
        self._show = sys.stderr.isatty() if show is None else show
        self._delay = 1.0 if show is None else 0.0
        self._total, self._label = total, label

    def __enter__(self) -> Progress:
        if self._show:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._label, total=self._total)
            self._timer = threading.Timer(self._delay, self._bar.start)
            self._timer.daemon = True
            self._timer.start()
        return self

    def advance(self) -> None:
        """One more draw is finished."""
        if self._show:
            self._bar.advance(self._task)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._show:
            self._timer.cancel()
            self._timer.join()
            self._bar.stop()
