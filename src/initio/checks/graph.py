"""Ways through a record: views back to what they show, and what a value is computed from or enters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from initio.checks.framework import Context
from initio.core.record import Node, Record, Source

__all__ = ["DROPOUT", "VIEWS", "behind", "name", "origin", "reached", "same_line", "text_of"]

VIEWS = frozenset(
    {
        "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "clone", "alias", "slice",
        "select",
        "_to_copy", "contiguous", "flatten", "unflatten", "view_of", "_reshape_alias", "lift_fresh", "narrow", "movedim", "unbind", "split",
        "split_with_sizes", "unsafe_split", "chunk", "detach", "squeeze_", "unsqueeze_", "to", "as_strided",
    }
)  # fmt: skip
"""Operations that show their first operand's entries again, unchanged."""

DROPOUT = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"})
"""Torch-level functions that mask at random and rescale."""


def name(node: Node) -> str:
    """The operation without its namespace, overload and the underscore of in-place forms."""
    parts = node.op.split(".")
    return parts[1].rstrip("_") if len(parts) > 1 else node.op


def origin(context: Context, value: int, through: Iterable[str] = VIEWS) -> tuple[int, Node | None]:
    """The value that `value` shows through views, and the node that made it (None: a parameter, an input or a constant)."""
    node = context.producers.get(value)
    while node is not None and node.inputs and name(node) in through:
        value = node.inputs[0]
        node = context.producers.get(value)
    return value, node


def reached(record: Record, start: Iterable[int], stop: Callable[[Node], bool] = lambda node: False) -> set[int]:
    """All values of the forward pass and the loss that are computed from some of `start`, not through nodes where `stop` holds."""
    found = set(start)
    for node in record.nodes:
        if node.phase != "backward" and not found.isdisjoint(node.inputs) and not stop(node):
            found.update(value for value in node.outputs if value is not None)
    return found


def behind(context: Context, value: int, stop: Callable[[Node], bool] = lambda node: False) -> set[int]:
    """All values that `value` is computed from, itself included, not through nodes where `stop` holds."""
    found: set[int] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        node = context.producers.get(current)
        if node is not None and not stop(node):
            waiting.extend(node.inputs)
    return found


def same_line(one: Source | None, other: Source | None) -> bool:
    """Whether two places are one line."""
    return one is not None and other is not None and (one.file, one.line) == (other.file, other.line)


def text_of(source: Source | None) -> str:
    """The line's text."""
    return "" if source is None else source.text
