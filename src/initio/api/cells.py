"""One cell of a sweep: the model built with the cell's parameters, its predicted course along depth, and what was asked for beside it."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import functools
import importlib
import math
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from initio.api.pool import Outcome
from initio.api.targets import resolve
from initio.checks import framework
from initio.checks.depth import points
from initio.core.analysis import Analysis
from initio.core.depth import Course
from initio.core.errors import InitioError

__all__ = ["ZOOS", "Task", "attempt", "judged", "loaded"]

Seen = Callable[[Any, Analysis], None]

ZOOS = ("torchvision:", "timm:", "hf:")


@dataclass(frozen=True)
class Task:
    """What is done in every cell. `factory` is a callable, or the text of a target that the process which works resolves itself.

    `inputs` may hold `{name}` in its texts, for a parameter of the cell. `draws` runs measure, `steps` steps train. `token` tells the
    copies of one task from those of another.
    """

    factory: Any
    inputs: Any
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    loss: Any = None
    train: bool = True
    draws: int = 0
    steps: int = 0
    rate: float = 1e-3
    findings: bool = True
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, parameters: Mapping[str, Any], seen: Seen | None = None) -> dict[str, Any]:
        """The quantities of a cell; whatever its code raises comes through. `seen` is shown the step and its analysis.

        A map is that of the mean-field recursion: q does not vary from draw to draw (`rules.rows`), which thousands of cells could not follow.
        """
        with importlib.import_module("initio.rules.rows").without_rows():
            return self._quantities(parameters, seen)

    def _quantities(self, parameters: Mapping[str, Any], seen: Seen | None) -> dict[str, Any]:
        build, inputs = self.build(parameters), self.given(parameters)
        steps = importlib.import_module("initio.api.steps")
        step = steps._Step(build, inputs, self.loss)
        analysis = step.analyze(self.train)
        if analysis.record.crash is not None:
            raise steps.crash_error(analysis.record.crash, "the model")
        found = judged(self, analysis, step.other(self.train))
        if self.draws:
            found |= _measured(analysis, steps.measure(build, inputs, draws=self.draws, loss=self.loss, train=self.train, progress=False))
        if self.steps:
            training = importlib.import_module("initio.interpreters.train")
            found |= training.train(build, inputs, steps=self.steps, rate=self.rate, loss=self.loss)
        if seen is not None:
            seen(step, analysis)
        return found

    def build(self, parameters: Mapping[str, Any]) -> Callable[[], Any]:
        """A factory without arguments of the cell's model."""
        arguments = {**self.fixed, **parameters}
        if not isinstance(self.factory, str):
            return functools.partial(self.factory, **arguments)
        if self.factory.startswith(ZOOS):
            return resolve(self.factory, arguments).build
        return functools.partial(loaded(self.factory, tuple(arguments)), **arguments)

    def given(self, parameters: Mapping[str, Any]) -> Any:
        """The inputs with the cell's parameters put in."""
        return _filled(self.inputs, {**self.fixed, **parameters})


@functools.lru_cache(maxsize=4)
def loaded(text: str, names: tuple[str, ...]) -> Callable[..., Any]:
    """What a target names, loaded once a process."""
    build = resolve(text, dict.fromkeys(names)).build
    return build.func if isinstance(build, functools.partial) else build


def _filled(inputs: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(inputs, str):
        if "{" not in inputs:
            return inputs
        try:
            return inputs.format_map(parameters)
        except (KeyError, ValueError, IndexError) as error:
            remedy = "Put a parameter of the grid in braces, such as 8x{width}."
            raise InitioError("an input of the grid's parameters", f"{inputs!r} needs {error}", where="--input", remedy=remedy) from error
    if isinstance(inputs, list):
        return [_filled(item, parameters) for item in cast("list[Any]", inputs)]
    if isinstance(inputs, dict):
        return {name: _filled(item, parameters) for name, item in cast("dict[str, Any]", inputs).items()}
    return inputs


def judged(task: Task, analysis: Analysis, other: Any, structure: dict[str, Any] | None = None) -> dict[str, Any]:
    """The predicted quantities and the findings of an analysis; `structure` is that of `framework.run`."""
    way = points(analysis, structure)
    sides = [[analysis.of(value) for value, _ in way], [analysis.of_gradient(gradient) for _, gradient in way]]
    seconds, cotangents = ([summary.second for summary in side] for side in sides)
    found: dict[str, Any] = Course(seconds, [summary.varying for summary in sides[0]], cotangents).quantities()
    if task.findings:
        findings = framework.run(analysis, task.select, task.ignore, other=other, structure=structure)
        found["findings"] = sorted({finding.code for finding in findings})
        found |= {f"{severity}s": sum(f.severity == severity for f in findings) for severity in ("error", "warning")}
    return found


def attempt(task: Task, index: int, parameters: Mapping[str, Any], seen: Seen | None = None) -> Outcome:
    """One cell; what its code raises becomes its reason to fail."""
    start = time.process_time()
    try:
        quantities, failed = task(parameters, seen), ""
    except Exception as error:
        quantities, failed = dict[str, Any](), _reason(error)
    return Outcome(index, quantities, failed, time.process_time() - start)


def _reason(error: Exception) -> str:
    if isinstance(error, InitioError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _measured(analysis: Analysis, measurement: Any) -> dict[str, float]:
    """Growth along the same layers as the real model showed it; of those alone that are modules."""
    calls = {call.outputs[0]: (call.module, call.index, 0) for call in reversed(analysis.record.calls) if call.outputs}
    keys = [calls[value] for value, _ in points(analysis) if value in calls]

    def of(table: Mapping[Any, Any]) -> list[float]:
        return [table[key].second if key in table else math.nan for key in keys]

    found = Course(of(measurement.outputs), [math.nan] * len(keys), of(measurement.cotangents)).quantities()
    kept = ("forward_growth", "gradient_growth", "signal", "gradient")
    return {f"measured_{name}": found[name] for name in kept}
