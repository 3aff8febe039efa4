"""Sums whose terms are related by more than their moments say: the projection in the backward pass of a norm written out in parts.

y = x r with r = (mean x² + ε)^(−1/2) gives dx = g r − x (mean g x) r³: the second term is minus the projection of the first on x, so
their sum has the gram of the first *less* that of the second.
"""

from __future__ import annotations

from collections.abc import Mapping

from initio.core.algebra import broadcast
from initio.core.moments import Moments, worst
from initio.core.record import Node, Record, Ref

__all__ = ["projected", "projections"]

_SAME = {"_to_copy", "to", "expand", "clone", "detach", "view", "alias", "unsqueeze", "squeeze", "_unsafe_view", "reshape", "slice"}
_STEPS = {*_SAME, "mul", "div", "neg", "sum"}


def projections(record: Record) -> dict[int, int]:
    """Node id of a sum → the position (0 or 1) of the term that is minus the projection of a part of the other."""
    made = record.producers()
    found: dict[int, int] = {}
    for node in record.nodes:
        if node.phase != "backward" or _name(node) != "add" or len(node.args) < 2:
            continue
        if not all(isinstance(a, Ref) for a in node.args[:2]):
            continue
        for k in (0, 1):
            g = _projection(node.args[k].value, made)
            if g is not None and _holds(node.args[1 - k].value, g, made, 6):
                found[node.id] = k
                break
    return found


def projected(x: Moments, y: Moments) -> Moments:
    """x + y where y is minus the projection of a part of x."""
    a, b = broadcast(x, y)
    gram = a.gram - b.gram
    own = tuple(axis.diagonal for axis in a.axes)
    gram[own] = gram[own].clip(min=0.0)
    return Moments.gaussian(
        a.axes,
        a.dims,
        a.mean,
        gram,
        x.sources | y.sources,
        odd=x.odd,
        claim=worst(x.claim, y.claim, "rule"),
        cross=a.field_covariances()[:6],
    )


def _name(node: Node | None) -> str:
    return "" if node is None else node.op.split(".")[1].rstrip("_")


def _plain(value: int, made: Mapping[int, Node]) -> int:
    """The value that copies and views of `value` began with."""
    while True:
        node = made.get(value)
        if node is None or _name(node) not in _SAME or not isinstance(node.args[0], Ref):
            return value
        value = node.args[0].value


def _projection(value: int, made: Mapping[int, Node]) -> int | None:
    """g of −x (mean g x) r³ …, None where the value is nothing of the kind."""
    node = made.get(_plain(value, made))
    if node is None or _name(node) != "mul" or len(node.inputs) != 2:
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        x = _doubled(other, made)
        if x is not None:
            return _summed(one, x, made, 12)
    return None


def _doubled(value: int, made: Mapping[int, Node]) -> int | None:
    """x of 2 x as the derivative of pow(x, 2) spells it."""
    node = made.get(_plain(value, made))
    if node is None or _name(node) != "mul" or len(node.inputs) != 1:
        return None
    inner = made.get(_plain(node.inputs[0], made))
    return _plain(inner.inputs[0], made) if inner is not None and _name(inner) == "pow" else None


def _summed(value: int, x: int, made: Mapping[int, Node], depth: int) -> int | None:
    """g of Σ g x, reached through products with per-position factors."""
    node = made.get(value)
    if node is None or depth == 0 or _name(node) not in _STEPS or node.phase != "backward":
        return None
    if _name(node) == "sum":
        product = made.get(_plain(node.inputs[0], made))
        if product is not None and _name(product) == "mul" and len(product.inputs) == 2:
            for g, z in (product.inputs, product.inputs[::-1]):
                if _plain(z, made) == x:
                    return _plain(g, made)
        return None
    for inner in node.inputs:
        got = _summed(inner, x, made, depth - 1)
        if got is not None:
            return got
    return None


def _holds(value: int, g: int, made: Mapping[int, Node], depth: int) -> bool:
    """Whether a sum has a term that is g times something."""
    node = made.get(_plain(value, made))
    if node is None or depth == 0:
        return False
    if _name(node) == "mul":
        return any(_plain(i, made) == g for i in node.inputs)
    return _name(node) == "add" and any(_holds(i, g, made, depth - 1) for i in node.inputs)
