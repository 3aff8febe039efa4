"""Where losses stand in a record, and what enters them."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context
from initio.checks.graph import VIEWS, name, origin
from initio.core.record import Node

SEEN_THROUGH = VIEWS | {"clamp", "clamp_min", "clamp_max", "native_dropout"}

__all__ = ["FORMS", "SQUASHES", "entering", "losses", "place", "squash"]

SQUASHES = {
    "_softmax": "softmax",
    "sigmoid": "sigmoid",
    "hardsigmoid": "hardsigmoid",
    "_log_softmax": "log_softmax",
    "log_sigmoid_forward": "logsigmoid",
}
FORMS = {
    "nll_loss_forward": "nll_loss", "nll_loss2d_forward": "nll_loss", "binary_cross_entropy": "binary_cross_entropy",
    "nll_loss_nd": "nll_loss",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits", "mse_loss": "mse_loss", "smooth_l1_loss": "smooth_l1_loss",
    "huber_loss": "huber_loss", "cross_entropy_loss": "cross_entropy",
}  # fmt: skip
"""Operation → the name of its loss."""


def losses(context: Context, *names: str) -> Iterator[Node]:
    """The nodes of the losses of these names."""
    for node in context.record.nodes:
        if node.phase != "backward" and FORMS.get(name(node)) in names:
            yield node


def entering(context: Context, value: int, through: frozenset[str] = SEEN_THROUGH) -> Node | None:
    """The node that made what a loss reads, seen through views and clamps; None for an input."""
    return origin(context, value, through)[1]


def squash(context: Context, made: Node | None) -> str | None:
    """Which function between scores and probabilities a node computes: one of `SQUASHES`, or a softmax or sigmoid that is written out."""
    if made is None or name(made) in SQUASHES:
        return None if made is None else SQUASHES[name(made)]
    if name(made) == "div" and len(made.inputs) == 2:
        top, below = (origin(context, value, VIEWS)[1] for value in made.inputs)
        summed = below is not None and name(below) in ("sum", "sum.dim_IntList") and origin(context, below.inputs[0], VIEWS)[1]
        return "softmax" if top is not None and name(top) == "exp" and summed is top else None
    if name(made) == "mul" and len(made.inputs) == 1 and 1 in made.args[1:2]:
        made = origin(context, made.inputs[0], VIEWS)[1]
    if made is None or name(made) != "reciprocal":
        return None
    plus = origin(context, made.inputs[0], VIEWS)[1]
    if plus is None or name(plus) != "add" or len(plus.inputs) != 1 or 1 not in plus.args[1:2]:
        return None
    power = origin(context, plus.inputs[0], VIEWS)[1]
    return "sigmoid" if power is not None and name(power) == "exp" else None


def place(context: Context, loss: Node, made: Node | None) -> tuple[str, Node]:
    """The module and node to report: the squashing layer where it is the model's, else the loss."""
    if made is not None and (made.module or made.source is not None):
        return made.module, made
    return loss.module, loss
