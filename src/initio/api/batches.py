"""Many cells at once: those whose models differ in their initial distributions alone share one record and one recursion."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import gc
import importlib
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from initio.api.cells import Task, attempt, judged
from initio.api.pool import Outcome
from initio.checks import structural
from initio.core.analysis import Analysis, Summary
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec, normalise

__all__ = ["attempts"]

TEMPLATES = 24
"""Records that a process keeps."""
HOPELESS = 4
"""Families of which so many members, and none else, follow no plan are not tried further."""
CLOSE = 1e-6
"""Relative difference between a planned cell and its control beyond which the plan is given up."""

Numbered = tuple[int, Mapping[str, Any]]


@dataclass
class _Template:
    """The first cell of a kind; `plan` None: every cell of that kind is analysed by itself."""

    parameters: Mapping[str, Any]
    analysis: Analysis | None = None
    plan: Any = None
    structure: dict[str, Any] = field(default_factory=dict[str, Any])
    controlled: set[frozenset[str]] = field(default_factory=set[frozenset[str]])


@dataclass
class _Memory:
    """What a process knows of a task."""

    templates: OrderedDict[Any, _Template] = field(default_factory=OrderedDict[Any, _Template])
    refused: int = 0
    accepted: int = 0


_memories: dict[str, _Memory] = {}
"""That of the task that was last worked on, by its token."""


def attempts(task: Task, cells: Sequence[Numbered]) -> list[Outcome]:
    """The outcome of each cell, in order.

    A cell is planned where its construction leaves the same trace as an earlier one's (`capture.light`), whose record is a plain network
    (`interpreters.meanfield`). Per kind, the first cell, and the first one of every further set of parameters that differ from its, are
    analysed in full; where that gives other numbers, the kind is not planned.
    """
    if task.token not in _memories:
        _memories.clear()
    memory = _memories.setdefault(task.token, _Memory())
    hopeless = memory.refused >= HOPELESS and not memory.accepted
    if hopeless or task.draws or task.steps or task.loss is not None or not task.train:
        return [attempt(task, *cell) for cell in cells]
    collecting = gc.isenabled()
    gc.disable()  # the many small objects of a batch make it walk the templates again and again
    try:
        return _together(task, memory, cells)
    finally:
        if collecting:
            gc.enable()


def _together(task: Task, memory: _Memory, cells: Sequence[Numbered]) -> list[Outcome]:
    found: dict[int, Outcome] = {}
    kinds: dict[Any, list[tuple[Numbered, Mapping[str, Distribution]]]] = {}
    start = time.process_time()
    traces = [(cell, _traced(task, cell[1])) for cell in cells]
    share = (time.process_time() - start) / max(1, len(cells))
    for cell, traced in traces:
        if traced is None:
            memory.refused += 1
            found[cell[0]] = attempt(task, *cell)
        else:
            kinds.setdefault(traced[0], []).append((cell, traced[1]))
    for key, members in kinds.items():
        for outcome in _kind(task, memory, key, members, share):
            found[outcome.index] = outcome
    return [found[index] for index, _ in cells]


def _traced(task: Task, parameters: Mapping[str, Any]) -> tuple[Any, Mapping[str, Distribution]] | None:
    light = importlib.import_module("initio.capture.light")
    try:
        args, kwargs = normalise(task.given(parameters))
        given = (*args, *kwargs.values())
        if not all(isinstance(item, InputSpec) and item.data is None for item in given):
            return None
        made = light.trace(task.build(parameters))
        key = (made.key, tuple(map(str, args)), tuple((name, str(item)) for name, item in kwargs.items()))
        hash(key)
    except Exception:  # whatever it is, the full analysis meets it again and tells it
        return None
    return key, made.laws


def _kind(
    task: Task, memory: _Memory, key: Any, members: list[tuple[Numbered, Mapping[str, Distribution]]], traced: float
) -> list[Outcome]:
    template = memory.templates.get(key)
    done: list[Outcome] = []
    if template is None:
        (index, parameters), laws = members[0]
        template = memory.templates[key] = _Template(parameters)
        done.append(attempt(task, index, parameters, lambda step, analysis: _learn(task, template, step, analysis, laws)))
        memory.accepted += template.plan is not None
        memory.refused += template.plan is None
        members = members[1:]
    memory.templates.move_to_end(key)
    while len(memory.templates) > TEMPLATES:
        memory.templates.popitem(last=False)
    start = time.process_time()
    planned = template.plan.run([laws for _, laws in members]) if template.plan is not None and members else [None] * len(members)
    share = traced + (time.process_time() - start) / max(1, len(members))
    for ((index, parameters), laws), summary in zip(members, planned, strict=True):
        done.append(_planned(task, template, index, parameters, laws, summary, share))
    return done


def _learn(task: Task, template: _Template, step: Any, analysis: Analysis, laws: Mapping[str, Distribution]) -> None:
    """Keep the record of a full analysis, where its parameters are what the trace says and it follows a plan."""
    if analysis.record.crash is None and not analysis.waiting and {p.name: p.distribution for p in analysis.record.parameters} == laws:
        meanfield = importlib.import_module("initio.interpreters.meanfield")
        template.plan = meanfield.compile_plan(analysis.record, analysis.summary)
        template.analysis = analysis
        template.structure["evaluation"] = step.other(True)(False).record
        if task.findings and template.plan is not None:
            template.structure = structural.told(analysis, template.structure)


def _planned(
    task: Task, template: _Template, index: int, parameters: Mapping[str, Any], laws: Mapping[str, Distribution],
    summary: dict[int, Summary] | None, share: float,
) -> Outcome:  # fmt: skip
    if template.plan is None or summary is None:
        return attempt(task, index, parameters)
    start = time.process_time()
    quantities = _quantities(task, template, laws, summary)
    if quantities is None:
        return attempt(task, index, parameters)
    made = Outcome(index, quantities, "", share + time.process_time() - start, quick=True)
    differing = frozenset(name for name, value in parameters.items() if value != template.parameters[name])
    if differing in template.controlled:
        return made
    control = attempt(task, index, parameters)
    if _agree(made.quantities, control.quantities):
        template.controlled.add(differing)
    else:
        template.plan = None
    return control


class _AskedError(Exception):
    """A check wants the other mode with its moments, which a plan has not."""


def _quantities(task: Task, template: _Template, laws: Mapping[str, Distribution], summary: dict[int, Summary]) -> dict[str, Any] | None:
    """What the full analysis would say; None where it would look at more than the plan knows."""
    assert template.analysis is not None
    record = template.analysis.record
    gradients = (summary[p.gradient].second if p.gradient is not None else 1.0 for p in record.parameters if p.trainable)
    if not all(second > 0.0 for second in gradients):  # some may be waiting for others to move
        return None
    record = replace(record, parameters=tuple(replace(p, distribution=laws[p.name]) for p in record.parameters))
    analysis = Analysis.build(record, summary, tree=template.analysis.tree)

    def other(moments: bool) -> Analysis | None:
        raise _AskedError

    try:
        return judged(task, analysis, other, template.structure)
    except _AskedError:
        return None


def _agree(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return set(a) == set(b) and all(_same(a[name], b[name], 1e-3 if name.startswith("xi_") else CLOSE) for name in a)


def _same(x: Any, y: Any, tolerance: float) -> bool:
    if not isinstance(x, float) or not isinstance(y, float):
        return x == y
    return x == y or (math.isnan(x) and math.isnan(y)) or abs(x - y) <= tolerance * max(abs(x), abs(y))
