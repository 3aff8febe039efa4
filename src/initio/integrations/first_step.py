# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# arguments of other people's modules are untyped
"""The check that other people's loops make before their first step: on the arguments of a real call, before it runs."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import initio
from initio.core.distribution import Distribution
from initio.core.errors import InitioError
from initio.core.inputs import InputSpec
from initio.core.report import Report, exit_status
from initio.core.settings import FAIL_ON

__all__ = ["FindingsError", "FirstCalls", "InitioWarning", "arguments", "judge", "unwrapped"]

KEPT = 1 << 22
"""Entries up to which a batch is handed on as it is; of a larger one, mean and variance are."""


class InitioWarning(UserWarning):
    """What a check found that does not stop the training, or why it could not be made."""


class FindingsError(RuntimeError):
    """A finding at least as grave as `fail_on`; the findings are in `report`."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(f"{report}\nNothing has been trained. fail_on='never' turns this error into a warning.")


def judge(report: Report, fail_on: str) -> None:
    """Raise where a finding is at least as grave as `fail_on`, and warn of errors and warnings that are not."""
    if exit_status([report], fail_on):
        raise FindingsError(report)
    if exit_status([report], "warning"):
        warnings.warn(str(report), InitioWarning, stacklevel=2)


def fails_on(value: str) -> str:
    """The value, where it is a severity or "never"."""
    if value not in FAIL_ON:
        raise InitioError(f"one of {', '.join(FAIL_ON)}", f"{value!r} came", where="fail_on", remedy="Name the least severity that stops.")
    return value


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of `DataParallel` and `DistributedDataParallel`."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    if hasattr(model, "_orig_mod"):
        remedy = "Watch the model that went into torch.compile: its calls are then seen one by one."
        raise InitioError("a model that runs eagerly", f"a compiled {type(model._orig_mod).__name__} came", where="model", remedy=remedy)
    return model


def arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The arguments of a call as `initio.check` takes them: by position, or by name where any was passed so."""
    if not kwargs:
        return [_plain(each) for each in args]
    signature = inspect.signature(model.forward)
    bound = signature.bind(*args, **kwargs).arguments
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL and value:
            remedy = "Pass all by position, or check the model by itself with initio.check."
            raise InitioError("arguments that have names", f"*{name} came beside keywords", where="forward", remedy=remedy)
        else:
            named[name] = value
    return {name: _plain(value) for name, value in named.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _spec(value.detach())
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_plain(each) for each in value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    remedy = "Check the model by itself with initio.check, such arguments bound in a factory."
    raise InitioError("tensors, numbers and containers of them", f"{type(value).__name__} came", where="forward", remedy=remedy)


def _spec(tensor: Tensor) -> Any:
    if tensor.numel() <= KEPT:
        return tensor.cpu()
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype == torch.bool:
        law = Distribution("bernoulli", {"p": float(tensor.float().mean())}, shape)
    elif not tensor.is_floating_point():
        law = Distribution("integers", {"low": float(tensor.min()), "high": float(tensor.max()) + 1}, shape)
    else:
        mean, second = float(tensor.mean(dtype=torch.float64)), float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
        law = Distribution("normal", {"mean": mean, "std": math.sqrt(max(second / tensor.numel() - mean * mean, 0.0))}, shape)
    return InputSpec(shape, dtype, law)


class FirstCalls:
    """Checks what a training step calls, once, before it is called.

    A loop may call the model itself or parts of it in turn. Each module called from outside of all others is one target; its check runs in
    a forward pre-hook, on the call's own arguments. Calls without gradients (validation before training) are let through unseen.
    """

    def __init__(
        self, model: nn.Module, *, select: Iterable[str], ignore: Iterable[str], loss: Any, fail_on: str,
        then: Callable[[Any, Report], None] = lambda inputs, report: None, only: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self.model, self.then = model, then
        self.options: dict[str, Any] = {"select": tuple(select), "ignore": tuple(ignore), "loss": loss}
        self.fail_on = fails_on(fail_on)
        self.reports: list[Report] = []
        self._names = {id(module): name for name, module in model.named_modules() if only in (None, module)}
        self._depth = 0
        self._handles = [
            handle
            for module in (model.modules() if only is None else (only,))
            for handle in (
                module.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
                module.register_forward_hook(self._after, always_call=True),
            )
        ]

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth += 1
        if self._depth > 1 or not torch.is_grad_enabled() or id(module) not in self._names:
            return
        try:
            self.check(module, args, kwargs)
        except BaseException:
            self.remove()
            raise

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1

    def check(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check one call; where that cannot be done, a warning says why."""
        name, depth = self._names.pop(id(module)), self._depth
        if not any(True for _ in module.parameters()):
            return  # a loss or a metric
        self._depth = 2  # the check's own calls of the module are no calls of the loop
        target = type(self.model).__name__ + (f".{name}" if name else "")
        try:
            inputs = arguments(module, args, kwargs)
            report = initio.check(module, inputs, train=module.training, target=target, **self.options)
        except InitioError as error:
            warnings.warn(f"{target} was not checked: {error}", InitioWarning, stacklevel=2)
            return
        finally:
            self._depth = depth
        self.reports.append(report)
        judge(report, self.fail_on)
        self.then(inputs, report)
