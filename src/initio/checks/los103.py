"""LOS103: a loss that is given something else than it expects."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name, origin
from initio.checks.losses import FORMS, entering, losses, place, squash
from initio.core.record import Node

SCORES = frozenset({"addmm", "mm", "convolution", "bmm", "baddbmm", "linear", "relu", "tanh"})
"""What computes scores of any sign and size (or any size): no logarithms, no probabilities."""
ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "sub", "mul", "div")


@check("LOS103", "loss-input-mismatch", "error")
def loss_input_mismatch(context: Context) -> Iterator[Found]:
    """A loss receives scores, probabilities or shapes that it is not made for.

    ## What it does
    Looks at what enters each loss: `nll_loss` expects log-probabilities, `binary_cross_entropy` probabilities; cross entropy over one
    class is always 0; and an output of shape (N, 1) beside a target of shape (N,) becomes (N, N).

    ## Why is this bad
    None of these raises, except binary cross entropy when a score leaves [0, 1]. NLL on probabilities or scores has no minimum that makes
    sense; a broadcast loss draws every prediction to the mean of the targets.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x16"
    LOSS = "nll"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            return self.head(x).softmax(dim=1)
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x16"
    LOSS = "nll"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            return self.head(x).log_softmax(dim=1)
    ```

    ## References
    * [torch.nn.NLLLoss](https://pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html),
      [torch.nn.BCELoss](https://pytorch.org/docs/stable/generated/torch.nn.BCELoss.html)
    """
    record = context.record
    for node in losses(context, "nll_loss", "binary_cross_entropy"):
        loss, made = FORMS[name(node)], entering(context, node.inputs[0])
        if made is None:
            continue
        what = squash(context, made) or name(made)
        wanted = "log-probabilities" if loss == "nll_loss" else "probabilities"
        wrong = what in ("softmax", "sigmoid") if loss == "nll_loss" else what in ("log_softmax", "logsigmoid")
        if wrong or what in SCORES:
            kind = "probabilities" if what in ("softmax", "sigmoid") else "log-probabilities" if wrong else "scores"
            remedy = (
                "log_softmax before nll_loss, or cross_entropy on the scores"
                if loss == "nll_loss"
                else "binary_cross_entropy_with_logits on the scores"
            )
            yield _found(
                context, node, made, f"{loss} expects {wanted} and receives {kind} (the output of {what}).", f"Use {remedy}.", what
            )
    for node in record.nodes:
        shape = record.values[node.inputs[0]].shape if node.inputs else ()
        if node.phase == "backward" or name(node) != "_log_softmax" or node.function != "cross_entropy" or not shape:
            continue
        if shape[int(node.args[1])] == 1:
            message = "cross_entropy over one class is 0 for every input: there is nothing to learn."
            yield _found(
                context,
                node,
                entering(context, node.inputs[0]),
                message,
                "Use binary_cross_entropy_with_logits for one score.",
                "one class",
            )
    for node in record.nodes:
        if node.phase != "backward" and (sizes := _crossed(context, node)):
            loss = node.function or name(node)
            message = f"{loss} of shapes {sizes[0]} and {sizes[1]} compares every prediction with every target: {sizes[2]}."
            yield _found(context, node, None, message, "Give both one shape: output.squeeze(-1), or target.unsqueeze(-1).", "broadcast")


def _found(context: Context, node: Node, made: Node | None, message: str, remedy: str, entity: str) -> Found:
    module, there = place(context, node, made)
    loss = node.function or name(node)
    where = there.source or context.made(module) or context.made(made.module if made is not None else "")
    module = node.module if entity == "one class" else module  # where a softmax over one score would be told too
    return Found(message, module, where, {"loss": loss, "receives": entity}, remedy, entity=entity, group=f"{loss}:{entity}:{where}")


def _crossed(context: Context, node: Node) -> tuple[str, str, str] | None:
    """The shapes of a loss whose operands (N, 1) and (N,) were broadcast to (N, N)."""
    function = node.function
    lossy = (
        name(node) in ("mse_loss", "smooth_l1_loss", "huber_loss")
        or "loss" in function
        or (node.phase == "loss" and name(node) in ELEMENTWISE)
    )
    if not lossy or name(node) not in ELEMENTWISE or len(node.inputs) < 2:
        return None
    shapes = [_unexpanded(context, v) for v in node.inputs[:2]]
    long, short = sorted(shapes, key=len, reverse=True)
    if len(long) == 2 and len(short) == 1 and long[1] == 1 and long[0] == short[0] > 1:
        return (f"({long[0]}, 1)", f"({short[0]},)", f"({long[0]}, {long[0]})")
    return None


def _unexpanded(context: Context, value: int) -> tuple[int, ...]:
    """The shape before it was broadcast."""
    value = origin(context, value, ("expand",))[0]
    table = context.record.constants.get(value)
    shape = context.record.values[value].shape
    while table is not None and len(shape) > 1 and table.strides[len(table.shape) - len(shape)] == 0:
        shape = shape[1:]
    return shape
