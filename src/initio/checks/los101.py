"""LOS101: probabilities where cross entropy expects scores."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.checks.losses import entering, place, squash
from initio.core.finding import Fix


@check("LOS101", "softmax-before-cross-entropy", "error")
def softmax_before_cross_entropy(context: Context) -> Iterator[Found]:
    """`cross_entropy` applies a log-softmax itself; here it is given the output of a softmax or sigmoid.

    ## What it does
    Follows the input of a log-softmax, that of `cross_entropy` included, back through views. A softmax or a sigmoid there is an error. A
    log-softmax is idempotent and harmless: a note. A model that ends with a softmax is not reported without such a loss.

    ## Why is this bad
    Softmax of probabilities lies between 1/(C−1+e) and e/(C−1+e): the loss can't fall below ln(1 + (C−1)/e), gradients are weak, and the
    network learns slowly and stops early.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x16"
    LOSS = "cross_entropy"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 10)
            self.softmax = nn.Softmax(dim=1)

        def forward(self, x):
            return self.softmax(self.head(x))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x16"
    LOSS = "cross_entropy"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            return self.head(x)
    ```

    ## References
    * [torch.nn.CrossEntropyLoss](https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html): "unnormalized logits"
    """
    for node in context.record.nodes:
        if node.phase == "backward" or name(node) not in ("_log_softmax", "cross_entropy_loss"):
            continue
        made = entering(context, node.inputs[0])
        what = squash(context, made)
        if made is None or what is None or what == "logsigmoid" or (what == "log_softmax" and node.function != "cross_entropy"):
            continue
        module, there = place(context, node, made)
        shape = context.record.values[node.inputs[0]].shape
        classes = shape[node.args[1]] if len(node.args) > 1 and isinstance(node.args[1], int) and shape else 0
        harmless = what == "log_softmax"
        loss = "cross_entropy" if node.function == "cross_entropy" else "log_softmax"
        yield Found(
            message=f"{loss} of a log_softmax: the second one changes nothing."
            if harmless
            else f"{loss} receives the output of {what}, and applies a softmax again: scores between 0 and 1.",
            module=module,
            source=there.source or context.made(module),
            evidence={"classes": classes, "applied": what},
            remedy="Use nll_loss, or leave the log_softmax out."
            if harmless
            else f"Return the scores, without {what}; apply it for predictions only.",
            fix=None if harmless else Fix(f"Remove {what} before the loss", "unsafe"),
            entity=what,
            severity="note" if harmless else None,
        )
