# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# hooks see untyped arguments
"""`with watch(model) as w:` checks a model inside of a training loop that exists already, and sets its first step beside the prediction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import initio
from initio.core.analysis import Analysis
from initio.core.report import Report
from initio.integrations.first_step import KEPT, FirstCalls, InitioWarning, unwrapped
from initio.interpreters.draws import tensors
from initio.interpreters.sample import Statistics

__all__ = ["Live", "Watch"]

TOLERANCE = 0.05
"""Relative error of an rms below which a measurement agrees in any case."""
ERRORS = 4.0
"""Standard deviations within which a single draw is no surprise."""


ROUNDING = 1e-4
"""What cancellation in float32 leaves of a zero, as a share of the median rms."""


@dataclass(frozen=True, slots=True)
class Live:
    """A tensor of the first step: `kind` is "output" of a module's call or "gradient" of a parameter; `band` is where its rms was expected."""

    kind: str
    name: str
    call: int
    predicted: float
    measured: float
    band: tuple[float, float]

    @property
    def outside(self) -> bool:
        """Whether the measured rms is out of the band; NaN and infinity are."""
        return not self.band[0] <= self.measured <= self.band[1]

    def __str__(self) -> str:
        again = f" (call {self.call})" if self.call else ""
        place = f"{self.kind} of {self.name or '(model)'}{again}"
        return f"{place}: rms {self.measured:.3g}, predicted {self.predicted:.3g}, expected within {self.band[0]:.3g} … {self.band[1]:.3g}"


class Watch:
    """The first step of a loop, checked before it runs and compared after it.

    `report` is what `initio.check` says of the model on the first batch; it is there before the model runs, so that a finding at
    least as grave as `fail_on` stops the loop there. `live` sets the outputs and gradients of the step beside the prediction, `outside` are
    those beyond the noise band. Both are read at the first optimizer step, or where the block ends.
    """

    def __init__(self, model: nn.Module, *, select: Iterable[str], ignore: Iterable[str], loss: Any, fail_on: str) -> None:
        self.report: Report | None = None
        self._inputs: Any = None
        self.live: tuple[Live, ...] = ()
        self._model = unwrapped(model)
        self._options: dict[str, Any] = {"select": select, "ignore": ignore, "loss": loss, "fail_on": fail_on}
        self._calls: FirstCalls | None = None
        self._statistics: Statistics | None = None
        self._patched = False
        self._gradients: dict[str, float] = {}
        self._cotangents: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    @property
    def outside(self) -> tuple[Live, ...]:
        """What the first step showed beyond the noise band."""
        return tuple(each for each in self.live if each.outside)

    def __enter__(self) -> Watch:
        self._calls = FirstCalls(self._model, then=self._checked, only=self._model, **self._options)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._finish(warn=error is None)

    def _checked(self, inputs: Any, report: Report) -> None:
        """The check has passed and the forward pass is about to begin: listen to it."""
        self.report, self._inputs = report, inputs
        self._statistics = Statistics(self._model)
        self._statistics.__enter__()
        self._patched = True
        self._handles.append(self._model.register_forward_hook(self._forwarded, always_call=True))
        self._handles.append(register_optimizer_step_pre_hook(self._stepping))
        for name, parameter in self._statistics.parameters().items():
            if parameter.requires_grad:
                self._handles.append(parameter.register_hook(self._gradient(name)))

    def _as_it_was(self) -> Analysis:
        """The step with the cotangents that the loss of the loop sent: by position among the tensors of the model's result."""
        cotangents = {position: each.cpu() for position, each in self._cotangents.items()}

        def loss(result: Any) -> Any:
            found = tensors(result)
            return sum((found[position] * each).sum() for position, each in cotangents.items())

        return initio.analyze(self._model, self._inputs, loss=loss, train=self._model.training)

    def _forwarded(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._statistics is None or not self._patched:
            return
        self._unpatch()
        if output is None:  # it raised
            return
        self._statistics.finish("", 0, output)
        for position, tensor in enumerate(tensors(output)):
            if tensor.requires_grad:
                self._handles.append(tensor.register_hook(self._arrived(position)))

    def _unpatch(self) -> None:
        if self._patched and self._statistics is not None:
            self._statistics.__exit__()
            self._patched = False

    def _arrived(self, position: int) -> Any:
        def hook(cotangent: Tensor) -> None:
            self._cotangents.setdefault(position, cotangent.detach())

        return hook

    def _gradient(self, name: str) -> Any:
        def hook(gradient: Tensor) -> None:
            self._gradients.setdefault(name, _rms(gradient))

        return hook

    def _stepping(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        mine = {id(parameter) for parameter in self._model.parameters()}
        if any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"]):
            self._finish(warn=True)

    def _finish(self, warn: bool) -> None:
        self._unpatch()
        if self._calls is not None:
            self._calls.remove()
            self._calls = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        statistics, self._statistics = self._statistics, None
        if statistics is None or self.report is None:
            return
        self.live = tuple(_outputs(self.report.analysis, statistics))
        if self._gradients and self._cotangents and sum(each.numel() for each in self._cotangents.values()) <= KEPT:
            self.live += tuple(_gradients(self._as_it_was(), self._gradients))
        self._cotangents.clear()
        if warn and self.outside:
            lines = [f"{len(self.outside)} of {len(self.live)} tensors of the first step are outside of the predicted noise band:"]
            lines += [str(each) for each in self.outside[:8]]
            lines += [f"… and {len(self.outside) - 8} more"] if len(self.outside) > 8 else []
            warnings.warn("\n".join(lines), InitioWarning, stacklevel=3)


def _rms(tensor: Tensor) -> float:
    entries = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    wide = torch.complex128 if entries.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(entries, dtype=wide)) / math.sqrt(max(tensor.numel(), 1))


def _outputs(analysis: Analysis, statistics: Statistics) -> list[Live]:
    """Outputs of module calls whose law is known, with the scatter of one draw."""
    found: list[Live] = []
    floor = ROUNDING * median([analysis.of(value).rms for call in analysis.record.calls for value in call.outputs] or [0.0])
    for call in analysis.record.calls:
        for position, value in enumerate(call.outputs):
            here, seen = analysis.of(value), statistics.outputs.get((call.module, call.index, position))
            if seen is not None and here.claim != "unknown" and not math.isnan(here.spread):
                found.append(Live("output", call.module, call.index, here.rms, math.sqrt(seen[1]), _band(here.rms, here.spread, floor)))
    return found


def _gradients(analysis: Analysis, measured: dict[str, float]) -> list[Live]:
    """Gradients of parameters under the cotangents that the loss of the loop sent to the model's outputs.

    Their scatter is that of the pass forward and of the pass backward, each at most that of the module that scatters most (Hanin &
    Nica 2020), and of the entries of the gradient itself.
    """
    scatter = [analysis.of(value).spread for call in analysis.record.calls for value in call.outputs]
    most = max((each for each in scatter if not math.isnan(each)), default=0.0)
    known = [p for p in analysis.record.parameters if p.name in measured and not math.isnan(analysis.of_gradient(p.gradient).spread)]
    floor = ROUNDING * median([analysis.of_gradient(p.gradient).rms for p in known] or [0.0])
    found: list[Live] = []
    for parameter in known:
        here = analysis.of_gradient(parameter.gradient)
        wide = math.sqrt((1.0 + most**2) ** 2 * (1.0 + here.spread**2) - 1.0)
        found.append(Live("gradient", parameter.name, 0, here.rms, measured[parameter.name], _band(here.rms, wide, floor)))
    return found


def _band(rms: float, spread: float, floor: float) -> tuple[float, float]:
    """Where the rms of one draw lies: ERRORS standard deviations of log x², and TOLERANCE; `floor` is what rounding leaves of a zero."""
    wide = math.exp(ERRORS / 2.0 * math.sqrt(math.log1p(spread**2))) * (1.0 + TOLERANCE)
    return rms / wide if rms > floor else 0.0, max(rms * wide, floor)
