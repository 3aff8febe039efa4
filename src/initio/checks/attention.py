"""Attention as the record shows it: a softmax of scaled products of two activations, however it was written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from initio.checks.affine import Affine, affines
from initio.checks.framework import Context
from initio.checks.graph import DROPOUT, VIEWS, name
from initio.core.record import Node, Ref

__all__ = ["Attention", "attentions"]

MASKS = frozenset({"masked_fill", "where", "clamp", "clamp_min", "clamp_max", "add", "sub"})


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(scale · q kᵀ + mask): `factors` maps torch-level calls to the factor that each contributes to the scale.

    `learned` says that a parameter or an activation scales too; `plain` that nothing but scaling, masks and views stands between.
    """

    softmax: Node
    product: Node
    logits: int
    width: int
    factors: dict[int, float]
    learned: bool
    plain: bool
    query: Affine | None

    @property
    def scale(self) -> float:
        """The constant factor of the logits."""
        return math.prod(self.factors.values())


def attentions(context: Context) -> Iterator[Attention]:
    """All attentions of the forward pass, in order."""
    ends = {layer.leaving: layer for layer in affines(context)}
    for node in context.record.nodes:
        if node.phase == "forward" and name(node) in ("_softmax", "_safe_softmax") and node.inputs[0] in context.carrying:
            found = _Walk(context).product(node.inputs[0])
            if found is None:
                continue
            walk, product = found
            left, right = (argument.value for argument in product.args[-2:] if isinstance(argument, Ref))
            query = walk.operand(left, ends)
            walk.operand(right, ends)
            width = context.record.values[left].shape[-1]
            logits = walk.last or node.inputs[0]
            yield Attention(node, product, logits, width, walk.factors, walk.learned, walk.plain, query)


class _Walk:
    """The way back from a softmax to the product of queries and keys, and on to their projections."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.factors: dict[int, float] = {}
        self.learned = False
        self.plain = True
        self.last: int | None = None

    def product(self, value: int) -> tuple[_Walk, Node] | None:
        """The product of two activations behind the logits."""
        context = self.context
        for _ in range(40):
            node = context.producers.get(value)
            if node is None or node.phase != "forward":
                return None
            operation = name(node)
            carrying = [v for v in node.inputs if v in context.carrying and context.record.values[v].floating]
            if operation in ("bmm", "baddbmm", "mm") and len(carrying) >= 2:
                if operation == "baddbmm":
                    self._factor(node, float(node.kwargs.get("alpha", 1)))
                self.last = self.last or value
                return self, node
            if not carrying:
                return None
            if operation in ("mul", "div"):
                self.last = self.last or value
                if not self._scaled(node):
                    return None
            elif operation in MASKS and len(carrying) > 1:
                size = context.record.values[value].shape
                carrying = [v for v in carrying if context.record.values[v].shape == size and self._leads(v)]
                if not carrying:
                    return None
            elif operation not in VIEWS | MASKS and node.function not in DROPOUT:
                return None
            value = carrying[0]
        return None

    def _leads(self, value: int) -> bool:
        return _Walk(self.context).product(value) is not None

    def operand(self, value: int, ends: dict[int, Affine]) -> Affine | None:
        """The projection that made an operand; scalar factors on the way count."""
        context = self.context
        for _ in range(40):
            if value in ends:
                return ends[value]
            node = context.producers.get(value)
            if node is None:
                return None
            carrying = [v for v in node.inputs if v in context.carrying]
            if not carrying or not (name(node) in VIEWS or (name(node) in ("mul", "div") and self._scaled(node))):
                return None
            value = carrying[0]
        return None

    def _scaled(self, node: Node) -> bool:
        """Note the factor of a product with a number; of one with a tensor, that the scale is not constant."""
        if len([v for v in node.inputs if v in self.context.carrying]) > 1:
            return False
        others = [argument for argument in node.args[:2] if not (isinstance(argument, Ref) and argument.value in self.context.carrying)]
        other = others[0] if others else 1.0
        if isinstance(other, Ref):
            constant = self.context.record.constants.get(other.value)
            if constant is None or constant.size != 1:
                self.learned = True
                return True
            other = float(constant.item())
        if not isinstance(other, (int, float)) or isinstance(other, bool) or other == 0:
            return False
        self._factor(node, 1 / other if name(node) == "div" else float(other))
        return True

    def _factor(self, node: Node, factor: float) -> None:
        key = node.event if node.event != -1 else -2 - node.id
        self.factors[key] = self.factors.get(key, 1.0) * factor
