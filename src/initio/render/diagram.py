"""The model as a picture: boxes in the order of their depth, joined where one reads what another made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from initio.core.record import Call, Record

__all__ = ["Box", "Diagram", "diagram"]

LARGEST = 1500
"""Boxes that a browser still draws at once; larger models are drawn at the deepest level of modules that has no more."""


@dataclass(frozen=True, slots=True)
class Box:
    """An input, a call of a module, or an operation of the model's own code that joins several of them.

    `layer` is the length of the longest way from an input, `lane` its place among the boxes of one layer; `call` is -1 for inputs
    and operations.
    """

    label: str
    module: str
    call: int
    layer: int
    lane: int


@dataclass(frozen=True, slots=True)
class Diagram:
    """`edges` are pairs of positions in `boxes`; `level` is the depth of modules at which calls are boxes (-1: leaves)."""

    boxes: tuple[Box, ...]
    edges: tuple[tuple[int, int], ...]
    level: int = -1


def diagram(record: Record, largest: int = LARGEST) -> Diagram:
    """The forward pass as boxes, coarser by whole levels of modules until there are at most `largest`."""
    depths = _depths(record.calls)
    deepest = max(depths, default=0)
    found = _drawn(record, depths, deepest)
    for level in range(deepest - 1, -1, -1):
        if len(found.boxes) <= largest:
            return found
        found = _drawn(record, depths, level)
    return found


def _depths(calls: tuple[Call, ...]) -> list[int]:
    depths: list[int] = []
    for call in calls:
        depths.append(depths[call.parent] + 1 if call.parent >= 0 else 0)
    return depths


def _drawn(record: Record, depths: list[int], level: int) -> Diagram:
    holders = {call.parent for call in record.calls}
    units: dict[int, int] = {}  # call → the call that it is drawn as; calls above the level are not drawn
    for call in record.calls:
        if call.parent in units:
            units[call.id] = units[call.parent]
        elif depths[call.id] == level or call.id not in holders:
            units[call.id] = call.id
    names: list[tuple[str, str, int]] = []
    edges: dict[tuple[int, int], None] = {}
    maker: dict[int, int] = {}
    for item in record.inputs:
        maker[item.value] = len(names)
        names.append((item.name or "input", "", -1))
    boxes: dict[int, int] = {}
    for node in record.nodes:
        if node.phase == "backward":
            continue
        sources = dict.fromkeys(maker[value] for value in node.inputs if value in maker)
        unit = units.get(node.call, -1)
        if unit >= 0:
            if unit not in boxes:
                boxes[unit] = len(names)
                call = record.calls[unit]
                names.append((call.module.rpartition(".")[2] or call.kind.rpartition(".")[2], call.module, unit))
            here = boxes[unit]
        elif len(sources) > 1:
            here = len(names)
            names.append((node.op.split(".")[1].rstrip("_"), node.module, -1))
        elif sources:
            here = next(iter(sources))
        else:
            continue
        edges.update(dict.fromkeys((source, here) for source in sources if source != here))
        maker.update(dict.fromkeys((out for out in node.outputs if out is not None), here))
    return _placed(names, list(edges), level if level < max(depths, default=0) else -1)


def _placed(names: list[tuple[str, str, int]], edges: list[tuple[int, int]], level: int) -> Diagram:
    layer = [0] * len(names)
    into: dict[int, list[int]] = {}
    for source, target in edges:
        into.setdefault(target, []).append(source)
    for target in range(len(names)):  # boxes stand in the order of execution
        layer[target] = max((layer[source] + 1 for source in into.get(target, ()) if source < target), default=0)
    taken: Counter[int] = Counter()
    boxes: list[Box] = []
    for position, (label, module, call) in enumerate(names):
        boxes.append(Box(label, module, call, layer[position], taken[layer[position]]))
        taken[layer[position]] += 1
    return Diagram(tuple(boxes), tuple(edges), level)
