"""Activations as the model writes them: regions of entry-by-entry operations behind a value, composed into one function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from initio.checks.affine import scalar_of
from initio.checks.framework import Context
from initio.checks.graph import VIEWS, name
from initio.core.functions import RECIPROCAL, function
from initio.core.record import Node, Ref
from initio.core.scalar import IDENTITY, Scalar, affine, constant, power

__all__ = ["Written", "written"]


@dataclass(frozen=True, slots=True)
class Written:
    """y = `scalar`(x) entry by entry, computed by `nodes`, the last of which makes y."""

    nodes: tuple[Node, ...]
    scalar: Scalar

    @property
    def node(self) -> Node:
        """Makes y."""
        return self.nodes[-1]


def written(context: Context, value: int) -> Iterator[Written]:
    """The functions of one variable that the model computes of `value`: one for each place where their result is read by something else.

    x * sigmoid(x) is one function, not a sigmoid. Parameters that start at one value count as that number.
    """
    made: dict[int, tuple[Scalar, tuple[Node, ...]]] = {value: (IDENTITY, ())}
    outputs = {output.value for output in context.record.outputs}
    for node in context.record.nodes:
        if node.phase == "backward" or not any(v in made for v in node.inputs) or node.outputs[0] is None:
            continue
        scalar = _step(context, node, {v: made[v][0] for v in node.inputs if v in made})
        if scalar is not None:
            before = {n.id: n for v in node.inputs if v in made for n in made[v][1]}
            made[node.outputs[0]] = scalar, (*before.values(), *(() if name(node) in VIEWS else (node,)))
    for key, (scalar, nodes) in made.items():
        readers = [n for n in context.consumers.get(key, ()) if n.phase != "backward" and name(n) != "detach"]
        left = key in outputs or any(n.outputs[0] not in made for n in readers)
        if nodes and left:
            yield Written(nodes, scalar)


def _step(context: Context, node: Node, known: dict[int, Scalar]) -> Scalar | None:
    """The function that an operation makes of functions."""
    operation = name(node)
    operands = [_operand(context, argument, known) for argument in node.args[:2]]
    first = operands[0] if operands else None
    second = operands[1] if len(operands) > 1 else None
    if first is None:
        return None
    if operation in VIEWS:
        return first
    alpha = node.kwargs.get("alpha", 1)
    if operation in ("add", "sub", "rsub") and second is not None and isinstance(alpha, (int, float)):
        signs = {"add": (1.0, float(alpha)), "sub": (1.0, -float(alpha)), "rsub": (-float(alpha), 1.0)}[operation]
        return first.plus(second, *signs)
    if operation in ("mul", "div") and second is not None:
        return first.times(second if operation == "mul" else second.then(RECIPROCAL))
    if operation == "pow" and isinstance(node.args[1], (int, float)):
        return first.then(power(float(node.args[1])))
    if operation == "neg":
        return first.then(affine(-1.0))
    own = scalar_of(context, node)
    if own is None and len(node.inputs) == 1:
        extra = [a for a in node.args[1:] if isinstance(a, (int, float)) and not isinstance(a, bool)]
        try:
            own = function(operation, *extra) if len(extra) == len(node.args) - 1 else None
        except (KeyError, TypeError):
            return None
    return None if own is None else first.then(own)


def _operand(context: Context, argument: object, known: dict[int, Scalar]) -> Scalar | None:
    if isinstance(argument, bool):
        return None
    if isinstance(argument, (int, float)):
        return constant(float(argument))
    if not isinstance(argument, Ref):
        return None
    if argument.value in known:
        return known[argument.value]
    parameter = context.parameters.get(argument.value)
    law = None if parameter is None else parameter.distribution
    return constant(law.mean) if law is not None and law.family == "constant" else None
