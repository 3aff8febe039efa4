"""How low the entries of a value can get, by what made it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from initio.checks.affine import NORMS, affines, drops
from initio.checks.framework import Context
from initio.checks.graph import VIEWS, name, origin
from initio.core.record import Node, Ref

__all__ = ["Bound", "bound"]

LIMITS = {"sigmoid": "sigmoid", "_softmax": "softmax", "_safe_softmax": "softmax", "exp": "exp", "softplus": "softplus"}
EXACT = {"relu": "ReLU", "hardsigmoid": "hardsigmoid"}
SUMS = frozenset({"sum", "mean", "cumsum", "avg_pool2d", "_adaptive_avg_pool2d"})
SHRINKING = frozenset({"max_pool2d_with_indices", "amax", "max", "topk", "index", "gather", "index_select"})
PLACED = frozenset({"unsqueeze", "view", "reshape", "_unsafe_view", "expand", "slice", "alias"})
"""Views that broadcast a tensor, or show all of it."""


@dataclass(frozen=True, slots=True)
class Bound:
    """`low` bounds the entries from below; `zero` says whether 0 occurs with positive probability or in the limit only; `by` what bounds.

    "own": some entries are 0 because a tensor is compared with itself. `real` says that the entries lie on both sides of their mean,
    without a bound.
    """

    low: float
    zero: Literal["exact", "limit", "own"]
    by: str
    real: bool = False


def bound(context: Context, value: int, depth: int = 24) -> Bound | None:
    """The bound of a value; None where nothing is certain."""
    layers = {layer.leaving for layer in affines(context)}
    dropped = {drop.leaving: drop for drop in drops(context)}
    return _Bounds(context, layers, {key: drop.entering for key, drop in dropped.items()}).of(value, depth)


@dataclass(frozen=True, slots=True)
class _Bounds:
    context: Context
    layers: set[int]
    dropped: dict[int, int]

    def of(self, value: int, depth: int) -> Bound | None:
        node = self.context.producers.get(value)
        if node is None or depth == 0 or value not in self.context.carrying:
            return None
        operation = name(node)
        if value in self.layers:
            return Bound(-math.inf, "limit", "a linear layer", real=True)
        if value in self.dropped:
            inner = self.of(self.dropped[value], depth - 1)
            return inner if inner is None or inner.low < 0 else Bound(0.0, "exact", "dropout")
        if operation in NORMS:
            return Bound(-math.inf, "limit", "a norm", real=True) if node.outputs[0] == value else None
        if operation in ("tanh", "gelu", "silu", "elu"):
            inner = self.of(node.inputs[0], depth - 1)
            return replace(inner, by=operation) if inner is not None and inner.real else None
        if operation in LIMITS:
            return Bound(0.0, "limit", LIMITS[operation])
        if operation in EXACT:
            inner = self.of(node.inputs[0], depth - 1)
            return Bound(0.0, "exact", EXACT[operation]) if inner is not None and inner.real else Bound(0.0, "limit", EXACT[operation])
        if operation in ("abs", "square") or (operation == "pow" and node.args[1:2] in ((2,), (2.0,), (4,))):
            return self.squared(node.inputs[0], operation)
        if operation in VIEWS | SHRINKING:
            inner = self.of(node.inputs[0], depth - 1)
            return replace(inner, zero="limit") if inner is not None and operation in SHRINKING else inner
        return self.combined(node, operation, depth)

    def squared(self, value: int, operation: str) -> Bound:
        """Of x_i − x_j over all pairs, the entries with i = j are 0; the last axis, that of the features, is no axis of pairs."""
        node = self.context.producers.get(value)
        if node is not None and name(node) == "sub" and len(node.inputs) == 2 and not node.kwargs.get("alpha"):
            one, two = (origin(self.context, each, PLACED)[0] for each in node.inputs)
            shapes = [self.context.record.values[each].shape for each in node.inputs]
            apart = [i for i, (a, b) in enumerate(zip(*shapes, strict=False)) if a != b]
            if one == two and one in self.context.carrying and len(apart) == 2 and len(shapes[0]) - 1 not in apart:
                return Bound(0.0, "own", "differences of all pairs")
        return Bound(0.0, "limit", operation)

    def combined(self, node: Node, operation: str, depth: int) -> Bound | None:
        """Sums, products and clamps."""
        if operation in SUMS:
            inner = self.of(node.inputs[0], depth - 1)
            last = len(self.context.record.values[node.inputs[0]].shape) - 1
            if inner is not None and inner.zero == "own" and len(node.args) > 1 and node.args[1] in ((-1,), (last,)):
                return inner
            return None if inner is None or inner.real or inner.low < 0 else replace(inner, zero="limit", by="a sum")
        if operation in ("clamp", "clamp_min") and len(node.args) > 1 and isinstance(node.args[1], (int, float)):
            return Bound(float(node.args[1]), "exact", "clamp")
        if operation not in ("add", "mul", "div", "maximum") or len(node.args) < 2:
            return None
        if operation == "mul" and node.args[0] == node.args[1]:
            return Bound(0.0, "limit", "square")
        left, right = (self.operand(argument, depth) for argument in node.args[:2])
        if left is None or right is None:
            return None
        if operation == "maximum":
            return max(left, right, key=lambda each: each.low)
        if operation == "add":
            real = left if left.real else right
            return replace(real, low=-math.inf) if left.real or right.real else replace(left, low=left.low + right.low, zero="limit")
        if left.real or right.real or left.low < 0 or right.low < 0:
            return None
        first = next((each for each in (left, right) if each.zero == "exact"), left)
        return replace(first, low=0.0 if operation == "div" else left.low * right.low)

    def operand(self, argument: object, depth: int) -> Bound | None:
        """A number, a constant tensor, or what a value reaches."""
        if isinstance(argument, (int, float)):
            return Bound(float(argument), "limit", "a constant")
        if not isinstance(argument, Ref):
            return None
        constant = self.context.record.constants.get(argument.value)
        if constant is not None and constant.size and constant.dtype != np.bool_:
            return Bound(float(constant.min()), "limit", "a constant")
        return self.of(argument.value, depth - 1)
