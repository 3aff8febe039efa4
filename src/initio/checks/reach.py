"""Which positions of an input each entry of a value depends on, by the structure of the record alone.

A `Reach` holds, for every entry of a value, the first and the last position along one axis of the input on which the entry depends; a
dimension along which both are the same everywhere has size 1. An entry that depends on none has `lo` = FAR and `hi` = −1. `closed` marks
entries that are −∞ (`sort` "neg", before a softmax) or exactly 0 ("zero"): they carry nothing on. Bounds are exact for the union of
dependences; what lies between them is not distinguished. A value without a `Reach` although it depends on the input is unknown, and
nothing is claimed of what is computed from it.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from initio.core.record import Node, Record

__all__ = [
    "FAR", "RULES", "Array", "Mask", "Reach", "Tracer", "UnknownError", "along", "compressed", "expanded", "nothing", "rule", "trace",
    "union",
]  # fmt: skip

FAR = 1 << 20
LARGEST = 1 << 22
Array = NDArray[np.int32]
Mask = NDArray[np.bool_]


class UnknownError(Exception):
    """The rule cannot follow this case."""


@dataclass(frozen=True, slots=True)
class Reach:
    """First and last position that each entry depends on; see the module."""

    lo: Array
    hi: Array
    closed: Mask | None = None
    sort: str = ""

    def map(self, change: Callable[[Any], Any]) -> Reach:
        """The same change of layout of all three arrays."""
        return Reach(change(self.lo), change(self.hi), None if self.closed is None else change(self.closed), self.sort)

    @property
    def varying(self) -> list[int]:
        """Dimensions along which the dependence differs."""
        return [i for i, (a, b) in enumerate(zip(self.lo.shape, self.hi.shape, strict=True)) if a > 1 or b > 1]

    @property
    def open(self) -> Reach:
        """Without the mark; entries that are zero depend on nothing."""
        if self.closed is None or self.sort != "zero":
            return Reach(self.lo, self.hi)
        return Reach(np.where(self.closed, np.int32(FAR), self.lo), np.where(self.closed, np.int32(-1), self.hi))


def nothing(rank: int) -> Reach:
    """Depends on no position."""
    return Reach(np.full((1,) * rank, FAR, np.int32), np.full((1,) * rank, -1, np.int32))


def compressed(array: Any) -> Any:
    """Dimensions along which all entries agree, at size 1."""
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            first = array.take([0], axis)
            if (array == first).all():
                array = first
    return array


def expanded(array: Any, shape: Sequence[int], axes: Sequence[int] | None = None) -> Any:
    """The array at its full size along `axes` (all where None)."""
    target = [size if axes is None or i in axes else array.shape[i] for i, size in enumerate(shape)]
    if np.prod(target, dtype=np.int64) > LARGEST:
        raise UnknownError
    return np.broadcast_to(array, target)


def union(reach: Reach, axes: Sequence[int], keep: bool = True) -> Reach:
    """What a reduction over `axes` depends on."""
    here = reach.open
    axes = tuple(axes)
    return Reach(here.lo.min(axis=axes, keepdims=keep), here.hi.max(axis=axes, keepdims=keep))


R = TypeVar("R", bound=Callable[..., Any])
Rule = Callable[["Tracer", Node], "Reach | Sequence[Reach | None] | None"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[R], R]:
    """Register a rule for operations without namespace, overload and trailing underscore."""

    def register(function: R) -> R:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Tracer:
    """Applies the rules to the forward pass of a record."""

    def __init__(self, record: Record, start: Mapping[int, Reach]) -> None:
        self.record = record
        self.states: dict[int, Reach | None] = dict(start)

    def run(self) -> dict[int, Reach | None]:
        """Value → its reach, None where it is unknown; values that depend on no position are absent."""
        for node in self.record.nodes:
            if node.phase == "backward":
                break
            if not any(value in self.states for value in node.inputs):
                continue
            outputs = self._apply(node)
            for value, state in zip(node.outputs, outputs, strict=False):
                if value is not None:
                    self.states[value] = state if state is None or self._fits(value, state) else None
        return self.states

    def _apply(self, node: Node) -> Sequence[Reach | None]:
        unknown: list[Reach | None] = [None] * len(node.outputs)
        function = RULES.get(node.op.split(".")[1].rstrip("_"))
        if function is None:
            return unknown
        try:
            found = function(self, node)
        except (UnknownError, IndexError, ValueError, TypeError, KeyError):
            return unknown
        if found is None:
            return unknown
        return [*found, *unknown][: len(node.outputs)] if not isinstance(found, Reach) else [found, *unknown[1:]]

    def _fits(self, value: int, state: Reach) -> bool:
        shape = self.record.values[value].shape
        return len(shape) == state.lo.ndim and all(a in (1, b) for a, b in zip(state.lo.shape, shape, strict=True))

    def shape(self, argument: Any) -> tuple[int, ...]:
        """The shape of a tensor argument."""
        value: int = argument.value
        return self.record.values[value].shape

    def state(self, argument: Any) -> Reach:
        """The reach of an argument; constants carry the mark where they are 0 or −∞."""
        value: int | None = getattr(argument, "value", None)
        if value is None:
            return nothing(0)
        if value in self.states:
            found = self.states[value]
            if found is None:
                raise UnknownError
            return found
        base = nothing(len(self.record.values[value].shape))
        table = self.record.constants.get(value)
        if table is not None and table.ndim >= 2:
            plain = table[tuple(slice(0, 1) if s == 0 else slice(None) for s in table.strides)]
            if plain.size <= LARGEST and plain.dtype.kind in "fb":
                neg: Mask = plain <= -1e4 if plain.dtype.kind == "f" else np.zeros((1,) * plain.ndim, bool)
                zero: Mask = plain == 0
                if neg.any():
                    return Reach(base.lo, base.hi, neg, "neg")
                if zero.any():
                    return Reach(base.lo, base.hi, zero, "zero")
        return base


def trace(record: Record, start: Mapping[int, Reach]) -> dict[int, Reach | None]:
    """Follow the dependence on some inputs, given as their own reach, through the forward pass."""
    from initio.checks import reaching  # the rules register themselves

    assert reaching.RULES is RULES
    return Tracer(record, start).run()


def along(shape: Sequence[int], axis: int) -> Reach:
    """An input's own reach: entry i along `axis` is position i."""
    where = [1] * len(shape)
    where[axis] = shape[axis]
    own = np.arange(shape[axis], dtype=np.int32).reshape(where)
    return Reach(own, own)
