"""The values along a model's depth at which its course is read, each with the cotangent that arrives there."""

from __future__ import annotations

from typing import Any

from initio.checks.framework import Context
from initio.checks.spine import Layer, layers
from initio.core.analysis import Analysis

__all__ = ["points"]

FEWEST_BLOCKS = 3
"""A model with as many sums on its main way is residual: its depth is counted in blocks."""


def points(analysis: Analysis, structure: dict[str, Any] | None = None) -> list[tuple[int, int | None]]:
    """(value, cotangent) along the way that most of the signal takes: sums of residual blocks, or else the layers with weights.

    `structure` is that of `framework.run`.
    """
    context = Context(analysis)
    context.__dict__.update(structure or {})
    blocks = [layer for layer in layers(context, joins=True) if layer is not None]
    found = blocks if len(blocks) >= FEWEST_BLOCKS else [layer for layer in layers(context) if layer is not None]
    arriving: dict[int, int] = {}
    for call in analysis.record.calls:
        arriving |= {v: c for v, c in zip(call.outputs, call.cotangents, strict=False) if c is not None and v not in arriving}
    made = _of_nodes(context, found, arriving)
    return [(layer.value, made.get(layer.value)) for layer in found]


def _of_nodes(context: Context, found: list[Layer], arriving: dict[int, int]) -> dict[int, int]:
    """Value → cotangent; where no module returns the value, what its operation's backward pass reads that has the value's shape."""
    record = context.record
    wanted = {layer.node.id: layer.value for layer in found if layer.value not in arriving}
    made = dict(arriving)
    for node in record.nodes if wanted else ():
        value = wanted.get(node.origin) if node.phase == "backward" else None
        if value is None or value in made:
            continue
        for read in node.inputs:
            maker = context.producers.get(read)
            if record.values[read].shape == record.values[value].shape and (maker is None or maker.phase == "backward"):
                made[value] = read
                break
    return made
