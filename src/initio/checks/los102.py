"""LOS102: probabilities where binary cross entropy expects scores."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.losses import entering, losses, place, squash
from initio.core.finding import Fix


@check("LOS102", "sigmoid-before-bce-with-logits", "error")
def sigmoid_before_bce_with_logits(context: Context) -> Iterator[Found]:
    """`binary_cross_entropy_with_logits` applies a sigmoid itself; here it is given the output of one.

    ## What it does
    Follows the input of the loss back through views; a sigmoid or a softmax there is an error.

    ## Why is this bad
    A sigmoid of a number in (0, 1) lies in (.5, .73): no sample can be called negative, and the loss of a negative can't fall below ln 2.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x16"
    LOSS = "bce_with_logits"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(x).sigmoid()
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x16"
    LOSS = "bce_with_logits"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(x)
    ```

    ## References
    * [torch.nn.BCEWithLogitsLoss](https://pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html)
    """
    for node in losses(context, "binary_cross_entropy_with_logits"):
        made = entering(context, node.inputs[0])
        what = squash(context, made)
        if made is None or what not in ("sigmoid", "softmax", "hardsigmoid"):
            continue
        module, there = place(context, node, made)
        yield Found(
            message=f"binary_cross_entropy_with_logits receives the output of {what}: every score is at least ½ after its own sigmoid.",
            module=module,
            source=there.source or context.made(module),
            evidence={"lowest": 0.5, "applied": what},
            remedy=f"Return the scores, without {what}; apply it for predictions only.",
            fix=Fix(f"Remove {what} before the loss", "unsafe"),
            entity=what,
        )
