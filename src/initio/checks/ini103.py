"""INI103: a first loss that is worse than knowing nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.record import Node, Source

SUM = 2
"""The reduction that adds, as ATen numbers them."""


@check("INI103", "initial-loss-off", "warning")
def initial_loss_off(context: Context) -> Iterator[Found]:
    """The predicted loss at the start is well above that of a uniform guess.

    ## What it does
    Compares the predicted cross entropy with ln C, the loss of equal scores for C classes. Scores with standard deviation s raise it by
    about s²/2. Reported from 1.5 ln C and one nat above it.

    ## Why is this bad
    The first steps of training only shrink the scores. With large scores the softmax is a hard choice: gradients are large for few classes
    and zero for the rest.

    ## Example
    ```python
    from torch import nn

    INPUT = "16x64"
    LOSS = "cross_entropy"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(64, 64)
            self.head = nn.Linear(64, 10)
            nn.init.normal_(self.head.weight, std=1.0)

        def forward(self, x):
            return self.head(self.body(x).tanh())
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "16x64"
    LOSS = "cross_entropy"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(64, 64)
            self.head = nn.Linear(64, 10)
            nn.init.normal_(self.head.weight, std=0.02)

        def forward(self, x):
            return self.head(self.body(x).tanh())
    ```

    ## References
    * Karpathy 2019, *A recipe for training neural networks*: verify loss at init
    """
    record, analysis = context.record, context.analysis
    for node in record.nodes:
        if node.phase == "backward" or name(node) != "_log_softmax" or node.function != "cross_entropy":
            continue
        shape = record.values[node.inputs[0]].shape
        classes = shape[int(node.args[1])] if shape else 1
        scores = analysis.of(node.inputs[0])
        loss = _loss(context, node)
        if classes < 2 or math.isnan(loss):
            continue
        ideal = math.log(classes)
        if loss > 1.5 * ideal and loss > ideal + 1:
            made = context.producers.get(node.inputs[0])
            module = made.module if made is not None else node.module
            yield Found(
                message=f"the loss starts at {loss:.3g}, equal scores give {ideal:.3g}. The scores have std {scores.std:.3g}.",
                module=module,
                source=_line(context, module, made) or node.source,
                evidence={"loss": loss, "ideal": ideal, "std": scores.std, "classes": classes},
                remedy=f"Draw the last layer's weights {scores.std / 0.5:.2g} times smaller, or start them at zero.",
                entity="cross_entropy",
                group="cross_entropy",
            )


def _line(context: Context, module: str, made: Node | None) -> Source | None:
    """The line of the operation in the user's own class, or where the torch layer was made."""
    own = module in context.modules and context.modules[module].defined is not None
    return made.source if made is not None and own and made.source is not None else context.made(module)


def _loss(context: Context, node: Node) -> float:
    """The predicted loss a target that reads a log-softmax; where nothing is known of it, minus the mean of the log-softmax itself."""
    for consumer in context.consumers.get(node.outputs[0] or 0, ()):
        if (
            name(consumer).startswith("nll_loss")
            and consumer.outputs[0] is not None
            and not math.isnan(context.analysis.of(consumer.outputs[0]).mean)
        ):
            loss, weight = (math.nan if v is None else context.analysis.of(v).mean for v in consumer.outputs[:2])
            return loss / weight if SUM in consumer.args[3:4] else loss
    return -context.analysis.of(node.outputs[0] or 0).mean
