"""ACT104: an activation on the logits."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import back, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.record import Node

RANGES = {
    "relu": "[0, ∞)", "hardtanh": "a bounded interval", "tanh": "(−1, 1)", "gelu": "[−0.17, ∞)", "silu": "[−0.28, ∞)", "elu": "(−1, ∞)",
    "softplus": "(0, ∞)", "hardswish": "[−0.375, ∞)", "mish": "[−0.31, ∞)", "hardsigmoid": "[0, 1]", "abs": "[0, ∞)",
}  # fmt: skip
"""Activation → the values that it can return."""


@check("ACT104", "activation-on-output", "warning")
def activation_on_output(context: Context) -> Iterator[Found]:
    """The scores that enter the loss have passed an activation that cannot return all of them.

    ## What it does
    Where the loss is cross-entropy or binary cross-entropy with logits, follows its scores back through views to the activation that made
    them. Sigmoid and softmax there are LOS101 and LOS102. A bounded activation that is scaled afterwards (soft capping) is not
    reported, nor one before a regression loss.

    ## Why is this bad
    Logits are any real numbers. Through a ReLU, wrong classes cannot be pushed below zero and a dead score receives no gradient;
    through tanh, no probability of ten classes exceeds e²/(e² + 9) = .45.

    ## Example
    ```python
    from torch import nn

    INPUT = "16x32"
    LOSS = "cross_entropy"

    def Model():
        return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10), nn.Tanh())
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "16x32"
    LOSS = "cross_entropy"

    def Model():
        return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    ```

    ## References
    * [torch.nn.CrossEntropyLoss](https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html): "unnormalized logits"
    """
    for node in context.record.nodes:
        loss = _loss(context, node)
        last: Node | None = None
        for _, maker in back(context, node.inputs[0]) if loss else ():
            last = maker
        kind = _kind(last)
        if last is None or kind not in RANGES:
            continue
        yield Found(
            message=f"{kind} bounds the scores of {loss} to {RANGES[kind]}; logits are any real numbers.",
            module=last.module,
            source=place(context, last.module, last),
            evidence={"activation": kind, "loss": loss},
            remedy="Remove the activation: the loss expects the last layer's own output.",
            entity=kind,
            group=f"{last.id}",
        )


def _kind(node: Node | None) -> str:
    """The activation that a node computes; a clamp from below at zero is a ReLU."""
    if node is None:
        return ""
    clamped = name(node) in ("clamp", "clamp_min") and node.args[1:2] == (0,) and node.args[2:3] in ((), (None,))
    return "relu" if clamped else name(node)


def _loss(context: Context, node: Node) -> str:
    """The loss on logits that a node computes."""
    if node.phase == "backward" or not node.inputs or node.inputs[0] not in context.carrying:
        return ""
    if name(node) == "_log_softmax":
        return "cross_entropy" if node.function == "cross_entropy" else ""
    if name(node) == "binary_cross_entropy_with_logits" or node.function == "binary_cross_entropy_with_logits":
        maker = context.producers.get(node.inputs[0])
        return "binary_cross_entropy_with_logits" if maker is None or maker.event != node.event else ""
    return ""
