"""Compare two models, or one with two options: cost, signal, findings and measured speed."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from initio.api.counting import count
from initio.api.steps import check
from initio.core.contrast import Contrast, Side, Timing, profile
from initio.core.errors import InitioError
from initio.core.inputs import InputSpec, normalise

__all__ = ["compare_models"]

SECONDS = 4.0
"""Time that the timing of each pair of passes may take; at least three runs are made."""
Loss = str | Callable[..., Any] | None


def compare_models(
    a: Any,
    b: Any,
    inputs: Any,
    inputs_b: Any = None,
    *,
    names: tuple[str, str] = ("A", "B"),
    loss: Loss = None,
    train: bool = True,
    timed: bool = False,
) -> Contrast:
    """Set two models side by side on the same `inputs` (or B on `inputs_b`); `timed` builds and runs both, alternately.

    Raises:
        InitioError: as `check` and `count`.
    """
    given = (inputs, inputs if inputs_b is None else inputs_b)
    sides: list[Side] = []
    for model, name, own in zip((a, b), names, given, strict=True):
        counts = count(model, own, loss=loss, train=train, target=name)
        report = check(model, own, loss=loss, train=train, target=name)
        sides.append(Side(name, counts, report, profile(report)))
    notes: list[str] = []
    shapes = [side.counts.inputs for side in sides]
    if [shape for _, shape, _ in shapes[0]] != [shape for _, shape, _ in shapes[1]]:
        notes.append("the two were given inputs of different shapes")
    if not timed:
        return Contrast(sides[0], sides[1], tuple(notes))
    timings = _timings((a, b), given, loss, train)
    torch: Any = importlib.import_module("torch")
    notes.append(f"timed on the CPU with {torch.get_num_threads()} threads, alternately")
    first, second = (Side(s.name, s.counts, s.report, s.profile, t) for s, t in zip(sides, timings, strict=True))
    return Contrast(first, second, tuple(notes))


def _timings(models: tuple[Any, Any], given: tuple[Any, Any], loss: Loss, train: bool) -> list[Timing]:
    torch: Any = importlib.import_module("torch")
    draws: Any = importlib.import_module("initio.interpreters.draws")
    runs: list[tuple[Callable[[], object], Callable[[], object]]] = []
    for model, inputs in zip(models, given, strict=True):
        built = model if isinstance(model, torch.nn.Module) else model()
        built.train(train)
        args, kwargs = normalise(inputs)
        drawn = tuple(_drawn(draws, item) for item in args), {key: _drawn(draws, item) for key, item in kwargs.items()}
        runs.append(_passes(torch, draws, built, drawn, loss))
    forward, step = [_alternate([run[i] for run in runs]) for i in (0, 1)]
    return [Timing(statistics.median(f), statistics.median(s), len(s)) for f, s in zip(forward, step, strict=True)]


def _drawn(draws: Any, item: Any) -> Any:
    return draws.draw_input(item) if isinstance(item, InputSpec) else item


def _passes(
    torch: Any, draws: Any, model: Any, drawn: tuple[tuple[Any, ...], Mapping[str, Any]], loss: Loss
) -> tuple[Callable[[], object], Callable[[], object]]:
    def forward() -> None:
        with torch.no_grad():
            model(*drawn[0], **drawn[1])

    def step() -> None:
        result = model(*drawn[0], **drawn[1])
        total: Any = draws.objective(loss, result) if loss is not None else sum(t.sum() for t in draws.tensors(result) if t.requires_grad)
        if not isinstance(total, torch.Tensor):
            raise InitioError("an output that depends on a parameter", "none does", where="--time", remedy="There is no step to time.")
        total.backward()
        for parameter in model.parameters():
            parameter.grad = None

    return forward, step


def _alternate(runs: list[Callable[[], object]]) -> list[list[float]]:
    """Seconds of each run, one after the other in turns, so that what else the machine does falls on all alike."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    start = time.perf_counter()
    while len(times[0]) < 3 or (time.perf_counter() - start < SECONDS and len(times[0]) < 50):
        for own, run in zip(times, runs, strict=True):
            begin = time.perf_counter()
            run()
            own.append(time.perf_counter() - begin)
    return times
