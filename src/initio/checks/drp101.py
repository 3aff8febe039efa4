"""DRP101: dropout that does nothing, or leaves nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import DROPOUT, name
from initio.core.record import Node

TOO_MUCH = 0.9


@check("DRP101", "dropout-without-effect", "warning")
def dropout_without_effect(context: Context) -> Iterator[Found]:
    """A dropout that is written down drops nothing, or nearly everything.

    ## What it does
    Finds `dropout=` of an RNN with one layer (it acts between layers), a dropout whose line says `p = 0`, and p ≥ 0.9. A rate of zero that
    comes from a configuration is not reported.

    ## Why is this bad
    The regularisation that the code reads is not there. With p ≥ 0.9 fewer than a tenth of the units carry signal, with p = 1 none; often
    the rate to keep was meant.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x8x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(16, 16, num_layers=1, dropout=0.3, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0]
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x8x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(16, 16, num_layers=2, dropout=0.3, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0]
    ```

    ## References
    * [torch.nn.LSTM](https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html): "dropout layer on the outputs of each LSTM layer
      except the last layer"
    """
    called = {call.module for call in context.record.calls}
    for module in context.tree.modules:
        config, source = module.config, context.made(module.path)
        if module.path not in called:
            continue
        rate, depth = config.get("dropout", 0), config.get("num_layers", 2)
        if module.role == "recurrent" and isinstance(rate, (int, float)) and rate > 0 and depth == 1:
            yield Found(
                message=f"dropout={rate:g} acts between the layers of {module.kind}, and there is one layer: nothing is dropped.",
                module=module.path,
                source=source,
                evidence={"p": float(rate), "num_layers": 1},
                remedy="Put an nn.Dropout on its output, or use more layers.",
                entity="one layer",
            )
        if module.role == "dropout" and config.get("p") == 0 and source is not None and ZERO.search(source.text):
            yield Found(
                message=f"{module.kind} with p = 0 drops nothing.",
                module=module.path,
                source=source,
                evidence={"p": 0.0},
                remedy="Remove it, or give it a rate.",
                entity="p=0",
                group=f"zero:{source}",
            )
    for node in context.record.nodes:
        if node.phase == "forward" and (rate := _rate(node)) is not None and rate >= TOO_MUCH:
            yield Found(
                message=f"p = {rate:g}: {1 - rate:.2g} of the entries are left, each multiplied by {1 / (1 - rate):.3g}."
                if rate < 1
                else "p = 1: nothing is left.",
                module=node.module,
                source=context.made(node.module) if node.module in context.modules and node.module else node.source,
                evidence={"p": rate},
                remedy=f"p is the share that is dropped; to keep {rate:g}, use p = {1 - rate:.2g}.",
                entity="p>=0.9",
                group=f"much:{node.source}:{rate:g}",
            )


ZERO = re.compile(r"Dropout[1-3]?d?\(\s*(p\s*=\s*)?0?\.?0*\s*[,)]")


def _rate(node: Node) -> float | None:
    """The share that a dropout's random mask drops."""
    if node.function not in DROPOUT:
        return None
    if name(node) == "native_dropout":
        return float(node.args[1])
    if name(node) == "bernoulli" and len(node.args) > 1 and isinstance(node.args[1], float):
        return 1 - node.args[1]
    return 1.0 if name(node) == "mul" and 0.0 in node.args[1:] else None
