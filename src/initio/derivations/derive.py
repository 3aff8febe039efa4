"""The derivation of a model: parameters, signal, Jacobians, gradient, each step with its check."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy as sp

from initio.core.errors import InitioError
from initio.core.record import Record
from initio.derivations.claims import Judge
from initio.derivations.derivation import Derivation, Step
from initio.derivations.gradient import gradient_steps, sampled_rows
from initio.derivations.graph import FactorGraph
from initio.derivations.jacobian import Numbers
from initio.derivations.parameters import parameter_steps
from initio.derivations.paths import jacobian_steps, layers, macs
from initio.derivations.scale import State
from initio.derivations.signal import rational_start, root_mean, sampled, signal_steps

__all__ = ["SECTIONS", "derive"]

SECTIONS = ("parameters", "signal", "jacobian", "gradient")
RUN_MACS = 60e9
"""Multiply–accumulates up to which a pass is run in float64."""
RUN_ENTRIES = 300_000_000
SAMPLE_MACS = 3e7
"""Multiply–accumulates up to which a model is drawn many times."""
DRAWS = 16


def derive(
    record: Record, narrow: Callable[[int], Record], second: Callable[[], Mapping[int, float]], what: Sequence[str], title: str
) -> Derivation:
    """All steps of the sections in `what`.

    `narrow` records the same model on a batch of the given size (for what is run in float64), `second` gives the engine's second moments of
    the values of `record`, cotangents included.

    Raises:
        InitioError: where no floating output depends on the input.
    """
    steps: list[Step] = []
    notes: list[str] = []
    if "parameters" in what:
        steps += parameter_steps(record)
    if not any(section in what for section in ("signal", "jacobian", "gradient")):
        return Derivation(title, tuple(steps), tuple(notes))
    graph = _graph(record, title)
    work = macs(record)
    small = graph
    if work > SAMPLE_MACS or graph.record.values[graph.output].shape[:1] > (4,):
        coupled = any("batch_norm" in node.op for node in record.nodes)  # its Jacobian needs two samples
        small = _graph(narrow(2 if coupled else 1), title)
        notes.append(f"Jacobians were checked on a batch of {_batch(small)}, in float64, for the model at its full width.")
    weight = sum(record.values[p.value].size for p in record.parameters)
    reason = ""
    if macs(small.record) > RUN_MACS or weight > RUN_ENTRIES:
        size = f"{weight:,} parameters, {macs(small.record):,} multiply–accumulates for a batch of {_batch(small)}"
        reason = f"too large to run in float64: {size}"
        notes.append(f"Not verified against torch.func: {reason}. Give a narrower copy (--arg) to check the same formulas.")
    found = layers(graph)
    engine: Mapping[int, float] = second() if {"signal", "gradient"} & set(what) else {}
    cheap = work <= SAMPLE_MACS and not reason
    why = "" if cheap else f"not measured over draws ({work:,} multiply–accumulates; `initio measure` does it)"
    points = [found[0].start, *(layer.end for layer in found)]
    if "signal" in what:
        measured = sampled(graph, points, DRAWS) if cheap else None
        steps += signal_steps(graph, found, engine, measured, why)
    if "jacobian" in what:
        steps += jacobian_steps(small, None if reason else Numbers(small), reason)
    if "gradient" in what:
        start = {
            v: State(rational_start(engine[v]) or sp.Float(engine[v], 17), False, mean=root_mean(graph, v))
            for v in graph.roots
            if v in engine
        }
        rows = sampled_rows(graph, [layer.start for layer in found], DRAWS) if cheap else None
        steps += gradient_steps(graph, found, start, cotangents(graph, engine), rows, why)
    order = {section: position for position, section in enumerate(SECTIONS)}
    steps.sort(key=lambda step: order[step.section])
    judge = Judge(small, reason, lambda: [second().get(v, math.nan) for v in points])
    return Derivation(title, tuple(steps), tuple(notes), judge)


def _batch(graph: FactorGraph) -> int:
    return graph.record.values[graph.record.inputs[0].value].shape[0]


def _graph(record: Record, title: str) -> FactorGraph:
    if not any(record.values[o.value].floating for o in record.outputs):
        raise InitioError(
            "a floating output to differentiate", f"{title} returns none", where=title, remedy="Return a tensor from forward."
        )
    graph = FactorGraph.of(record)
    if not graph.roots or graph.output not in graph.dominator or graph.roots[0] not in graph.dominator:
        remedy = "Derivations follow the first floating output back to the first input."
        raise InitioError("an output that depends on the input", f"none of {title} does", where=title, remedy=remedy)
    return graph


def cotangents(graph: FactorGraph, engine: Mapping[int, float]) -> dict[int, float]:
    """Value → the engine's second moment of the gradient that arrives there.

    Known for outputs of module calls, for model inputs, and for values that one operation reads: its backward node has their shape.
    """
    record = graph.record
    found: dict[int, float] = {}
    by_origin: dict[int, list[Any]] = {}
    for node in record.nodes:
        if node.phase == "backward" and node.origin >= 0 and node.op.split(".")[1] not in ("detach", "t", "sum"):
            by_origin.setdefault(node.origin, []).append(node)
    for value, edges in graph.out_edges.items():
        readers = [n for n in record.nodes if n.phase == "forward" and value in n.inputs and n.op.split(".")[1] != "detach"]
        if len(edges) == 1 and len(readers) == 1:
            shape = record.values[value].shape
            made = next(
                (
                    n.outputs[0]
                    for n in by_origin.get(readers[0].id, [])
                    if n.outputs[0] is not None and record.values[n.outputs[0]].shape == shape
                ),
                None,
            )
            if made is not None and made in engine:
                found[value] = engine[made]
    for item in record.inputs:
        if item.gradient is not None and item.gradient in engine:
            found[item.value] = engine[item.gradient]
    for call in record.calls:
        for value, cotangent in zip(call.outputs, call.cotangents, strict=False):
            if cotangent is not None and cotangent in engine:
                found[value] = engine[cotangent]
    return found
