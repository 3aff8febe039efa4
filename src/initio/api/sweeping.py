"""Sweeps of a factory over a grid: every cell analysed, kept at once, and never twice."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from initio.api.batches import attempts
from initio.api.cells import ZOOS, Task, loaded
from initio.api.pool import Chunks, Outcome, here, local
from initio.api.targets import fits, resolve
from initio.core.errors import InitioError
from initio.core.grid import Grid
from initio.core.grid import grid as gridded
from initio.core.inputs import InputSpec, normalise
from initio.core.store import Cell, Store
from initio.core.sweeps import Sweep, of_store

__all__ = ["sweep"]


def sweep(
    factory: Callable[..., Any] | str,
    grid: Mapping[str, Any] | Iterable[str],
    inputs: Any = None,
    *,
    fixed: Mapping[str, Any] | None = None,
    loss: Any = None,
    train: bool = True,
    measure: int = 0,
    train_steps: int = 0,
    learning_rate: float = 1e-3,
    findings: bool = True,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    store: str | Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
    retry_failed: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
) -> Sweep:
    """The order/chaos map of an architecture: the factory is called with every combination of the grid's values, and analysed.

    `grid` maps parameters to values, or to texts such as "0.5:3:40" (`initio.core.grid.parse`). `inputs` are those of `analyze`; a text
    may hold `{name}` for a parameter. `measure` runs of the real model and `train_steps` steps of a short training add their numbers. The
    cells are kept in `store` (SQLite; None: in memory) as they are finished, and a call with the same arguments goes on with them.
    `workers` processes share the work (None: one a core; 0: this process), or the cluster at the address `ray` does. A factory that is
    passed to other processes must be importable there: a function or class of a module. `progress(done, failed, total)` is called after each cell.

    A cell whose code raises is kept as failed, with its reason. An interrupt (Ctrl-C) keeps what is finished and returns it.

    Raises:
        InitioError: a grid or inputs that make no sense, a factory that lacks a parameter of the grid, a store of another sweep, or an
            address where no cluster answers.

    >>> from initio.examples.plain_mlp import Model
    >>> found = sweep(Model, {"depth": (2, 4)}, (8, 64), workers=0)  # doctest: +SKIP
    """
    fixed = dict(fixed or {})
    function, target = _function(factory, grid, fixed)
    cells = gridded(grid, *_kinds(function))
    _fitting(function, target, {**fixed, **cells[0]})
    if inputs is None:
        inputs = _inferred(factory, {**fixed, **cells[0]}, target)
    _counts(measure, train_steps, learning_rate, workers)
    _codes((*select, *ignore))
    task = Task(factory, inputs, fixed, loss, train, measure, train_steps, learning_rate, findings, tuple(select), tuple(ignore))
    normalise(task.given(cells[0]))
    kept = Store.create(None if store is None else Path(store), _about(task, function, target, cells))
    try:
        if retry_failed:
            kept.forget_failed()
        return _run(task, kept, workers, ray, progress)
    finally:
        kept.close()


def _run(task: Task, kept: Store, workers: int | None, ray: str | None, progress: Callable[[int, int, int], None] | None) -> Sweep:
    done = kept.done()
    failed = sum(bool(cell.failed) for cell in kept.cells()) if done else 0
    total, before = len(kept.grid), len(done)
    waiting = ((index, parameters) for index, parameters in enumerate(kept.grid) if index not in done)
    if progress is not None:
        progress(before, failed, total)
    count, interrupted = 0, False
    if before < total:
        outcomes = _outcomes(task, waiting, workers, ray, total - before, kept.grid.names)
        try:
            with contextlib.closing(outcomes):
                for outcome in outcomes:
                    kept.keep(Cell(outcome.index, kept.grid[outcome.index], outcome.quantities, outcome.failed, outcome.seconds))
                    count += 1
                    failed += bool(outcome.failed)
                    if progress is not None:
                        progress(before + count, failed, total)
        except KeyboardInterrupt:
            interrupted = True
    return of_store(kept, interrupted=interrupted, computed=count)


def _outcomes(
    task: Task, cells: Iterator[tuple[int, dict[str, Any]]], workers: int | None, ray: str | None, count: int, parameters: tuple[str, ...]
) -> Any:
    if ray is not None:
        from initio.integrations.ray import remote

        task, names = _loaded(task, parameters)
        return remote(attempts, task, Chunks(cells), ray, lambda index, why: Outcome(index, {}, why, 0.0), modules=names)
    if workers == 0:
        return here(attempts, task, cells)
    return local(attempts, task, cells, workers, count)


def _loaded(task: Task, parameters: tuple[str, ...]) -> tuple[Task, tuple[str, ...]]:
    """The task with its factory as a callable, and the modules whose code other machines may lack: the file that a target names."""
    if not isinstance(task.factory, str) or task.factory.startswith(ZOOS):
        return task, ()
    function = loaded(task.factory, (*task.fixed, *parameters))
    return replace(task, factory=function), (function.__module__,) if function.__module__.startswith("initio_target_") else ()


def _function(factory: Any, grid: Any, fixed: Mapping[str, Any]) -> tuple[Any, str]:
    """The callable behind a target, and its name."""
    if isinstance(factory, str):
        if factory.startswith(ZOOS):
            return None, factory
        names = gridded(grid).names if grid else ()
        build = resolve(factory, {**fixed, **dict.fromkeys(names)}).build
        return getattr(build, "func", build), factory
    torch = __import__("torch")
    if isinstance(factory, torch.nn.Module) or not callable(factory):
        came = f"a built {type(factory).__name__} came"
        raise InitioError("a class or factory", came, where="factory", remedy="Give what builds the model from the grid's parameters.")
    return factory, f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', type(factory).__name__)}"


def _kinds(function: Any) -> tuple[list[str], list[str]]:
    """Parameters that are annotated as, or default to, integers and floats."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [], []
    kinds: dict[str, list[str]] = {"int": [], "float": []}
    for p in parameters:
        annotated = p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "")
        kind = annotated if annotated in kinds else type(p.default).__name__ if p.annotation is p.empty else ""
        if kind in kinds:
            kinds[kind].append(p.name)
    return kinds["int"], kinds["float"]


def _fitting(function: Any, target: str, arguments: dict[str, Any]) -> None:
    if function is not None:
        fits(function, target.rpartition(":")[2], target, arguments)


def _inferred(factory: Any, arguments: dict[str, Any], target: str) -> Any:
    found = resolve(factory, arguments).inputs if isinstance(factory, str) else None
    if found is None:
        remedy = "Say its shape: --input 8x64, or --input 8x{width} where it depends on a parameter of the grid."
        raise InitioError("an input for this factory", "none was given and none can be inferred", where=target, remedy=remedy)
    return found


def _counts(measure: int, steps: int, rate: float, workers: int | None) -> None:
    for name, value in (("measure", measure), ("train_steps", steps), ("workers", workers or 0)):
        if value < 0:
            raise InitioError("a number of at least 0", f"{value} came", where=name, remedy="0 leaves it out.")
    if not 0 < rate < float("inf"):
        raise InitioError("a positive learning rate", f"{rate} came", where="learning_rate", remedy="1e-3 is usual for Adam.")


def _codes(prefixes: Iterable[str]) -> None:
    from initio.checks.framework import validate

    validate(prefixes)


def _about(task: Task, function: Any, target: str, cells: Grid) -> dict[str, Any]:
    """What makes two sweeps the same one."""
    from initio import __version__

    settings = {name: getattr(task, name) for name in ("train", "draws", "steps", "rate", "findings", "select", "ignore")}
    about = {
        "version": __version__, "target": target, "source": _digest(function), "grid": cells.to_dict(), "inputs": _told(task.inputs),
        "fixed": {name: repr(value) for name, value in task.fixed.items()},
        "loss": task.loss if isinstance(task.loss, str | None) else getattr(task.loss, "__qualname__", repr(task.loss)), "settings": settings,
    }  # fmt: skip
    return json.loads(json.dumps(about))


def _digest(function: Any) -> str:
    """A digest of the file that holds the factory; "" where there is none."""
    inner = getattr(function, "func", function)
    with contextlib.suppress(TypeError, OSError):
        return hashlib.sha256(Path(inspect.getfile(inner)).read_bytes()).hexdigest()[:16]
    return ""


def _told(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {str(name): _told(value) for name, value in cast("Mapping[str, Any]", inputs).items()}
    if isinstance(inputs, (list, tuple)):
        return [_told(item) for item in cast("list[Any]", inputs)]
    if isinstance(inputs, InputSpec):
        return str(inputs)
    if hasattr(inputs, "shape"):
        return f"{type(inputs).__name__} {tuple(inputs.shape)}"
    return inputs if inputs is None or isinstance(inputs, (bool, int, float, str)) else repr(inputs)
