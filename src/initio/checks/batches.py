"""Which axis of each value holds the samples, followed through the record as far as it is certain."""
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

from initio.checks.affine import affines
from initio.checks.framework import Context
from initio.checks.graph import name
from initio.core.record import Node

__all__ = ["sample_axes", "samples"]

FRESH_FIRST = frozenset({"mm", "addmm", "convolution", "native_batch_norm", "native_group_norm", "native_layer_norm", "embedding"})
SHAPES = frozenset({"view", "_unsafe_view", "reshape"})
REDUCTIONS = frozenset(
    {"sum", "mean", "amax", "amin", "var", "std", "linalg_vector_norm", "logsumexp", "argmax", "max", "min", "any", "all"}
)


def samples(context: Context) -> int:
    """The size of the batch: that of the first axis of all inputs; 0 where they disagree or have none."""
    sizes = {context.record.values[item.value].shape[:1] for item in context.record.inputs}
    return next(iter(sizes))[0] if len(sizes) == 1 and () not in sizes else 0


def sample_axes(context: Context) -> dict[int, int]:
    """Value → the axis of the samples. Values where the batch was merged with another axis, averaged over or lost are absent."""
    key = "_sample_axes"
    if key not in context.__dict__:
        size = samples(context)
        found = {item.value: 0 for item in context.record.inputs} if size > 1 else {}
        behind = {layer.leaving: layer.entering for layer in affines(context)}
        for node in context.record.nodes if found else ():
            if node.phase != "backward":
                _follow(context, node, found, size)
            for output in node.outputs:
                before = behind.get(output) if output is not None else None
                if before in found and output not in found and found[before] == 0:
                    found[output or 0] = 0  # a linear layer flattens what is before the last axis, and restores it
        context.__dict__[key] = found
    return context.__dict__[key]


def _follow(context: Context, node: Node, found: dict[int, int], size: int) -> None:
    values = context.record.values
    known = [value for value in node.inputs if value in found]
    if not known or any(value in context.carrying and value not in found for value in node.inputs):
        return
    for output in node.outputs:
        if output is None:
            continue
        axis = _axis(context, node, known, found, values[output].shape)
        if axis is not None and 0 <= axis < len(values[output].shape) and values[output].shape[axis] == size:
            found[output] = axis


def _axis(context: Context, node: Node, known: list[int], found: dict[int, int], after: tuple[int, ...]) -> int | None:
    operation, first = name(node), known[0]
    before, axis = context.record.values[first].shape, found[first]
    rank = len(before)
    if operation == "t":
        return 1 - axis if rank == 2 else axis
    if operation == "transpose":
        pair = [each % rank for each in node.args[1:3]]
        return pair[1 - pair.index(axis)] if axis in pair else axis
    if operation == "permute":
        return [each % rank for each in node.args[1]].index(axis)
    if operation == "unsqueeze":
        return axis + (node.args[1] % (rank + 1) <= axis)
    if operation in ("squeeze", "select", *REDUCTIONS):
        return _removed(node, axis, rank, len(after))
    if operation in SHAPES:
        return axis if before[: axis + 1] == after[: axis + 1] else None
    if operation in FRESH_FIRST or (operation == "bmm" and axis == 0):
        return axis if axis == 0 else None
    if operation in ("cat", "stack"):
        return axis if operation == "cat" and len({found[value] for value in known}) == 1 else None
    if len(after) == rank == max(len(context.record.values[value].shape) for value in node.inputs):
        return axis if all(found[value] - len(context.record.values[value].shape) == axis - rank for value in known) else None
    return None


def _removed(node: Node, axis: int, rank: int, left: int) -> int | None:
    """Where the axis stands after others went; None where it went itself, or all did."""
    if left == rank:
        return axis
    argument: Any = node.args[1] if len(node.args) > 1 else None
    several: tuple[Any, ...] = argument if isinstance(argument, tuple) else (argument,)
    gone = {each % rank for each in several if isinstance(each, int)}
    return None if not gone or axis in gone else axis - sum(each < axis for each in gone)
