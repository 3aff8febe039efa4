"""REG104: modules that are made in every call."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import DROPOUT, name
from initio.core.finding import Fix
from initio.core.record import Node


@check("REG104", "module-created-in-forward", "error")
def module_created_in_forward(context: Context) -> Iterator[Found]:
    """A module with weights, or a dropout, is made anew in every call.

    ## What it does
    Finds calls of modules that were made during the step and draw new parameters, or mask at random. A module without either, such as
    `nn.ReLU()(x)`, is not reported.

    ## Why is this bad
    Its weights are random in every step and are never trained. A fresh module is in training mode, so that a dropout made in the forward
    pass ignores `eval()`.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)

        def forward(self, x):
            x = self.first(x).relu()
            return nn.Linear(16, 2)(x)
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 2)

        def forward(self, x):
            x = self.first(x).relu()
            return self.second(x)
    ```

    ## References
    * [torch.nn.Module](https://pytorch.org/docs/stable/generated/torch.nn.Module.html)
    """
    record = context.record
    nodes: dict[int, list[Node]] = {}
    for node in record.nodes:
        if node.phase == "forward" and "~" in node.module:
            nodes.setdefault(node.call, []).append(node)
    owned = {parameter.value for parameter in record.parameters}
    for call in record.calls:
        if not call.module.rpartition(".")[2].startswith("~"):
            continue
        inside = nodes.get(call.id, [])
        trained = {v: record.values[v] for node in inside for v in node.inputs if _leaf(context, v) and v not in owned}
        masks = any(_masks(node) for node in inside) and any(
            _masks(node) and "~" in node.module for node in (context.evaluation.nodes if context.evaluation is not None else ())
        )
        weights = sum(math.prod(value.shape) for value in trained.values())
        if not trained and not masks:
            continue
        owner = call.module.rpartition(".")[0]
        if trained:
            message = f"{call.kind} is made in every call: its {weights:,} weights are new random numbers each time, never trained."
            remedy = f"Make the {call.kind} in __init__ and call it here."
        else:
            message = f"{call.kind} is made in every call, always in training mode: eval() does not stop its random mask."
            remedy = "Make it in __init__, or use F.dropout(x, p, training=self.training)."
        yield Found(
            message=message,
            module=owner,
            source=call.source,
            evidence={"weights": weights, "kind": call.kind},
            remedy=remedy,
            fix=Fix(f"Move {call.kind} to __init__", "unsafe"),
            entity=call.module,
            group=f"{owner}:{call.source}",
        )
    for node in record.nodes:
        fresh = [v for v in node.outputs if v is not None and record.values[v].requires_grad and record.values[v].floating]
        if node.phase != "forward" or node.inputs or not fresh or "~" in node.module:
            continue
        weights = sum(record.values[v].size for v in fresh)
        yield Found(
            message=f"a parameter is made in every call: its {weights:,} entries start anew each time, never trained.",
            module=node.module,
            source=node.source,
            evidence={"weights": weights, "kind": "Parameter"},
            remedy="Make it in __init__, as an nn.Parameter, and use it here.",
            entity=name(node),
            group=f"{node.module}:{node.source}",
        )


def _masks(node: Node) -> bool:
    return node.function in DROPOUT and name(node) == "bernoulli"


def _leaf(context: Context, value: int) -> bool:
    """Whether a floating value of the step, on which the model's input has no influence, requires a gradient or was drawn at random."""
    here = context.record.values[value]
    if not here.floating or value in context.carrying:
        return False
    node = context.producers.get(value)
    drawn = node is not None and name(node) in ("uniform", "normal", "fill", "zero", "randn", "rand")
    if drawn and node is not None and "~" not in node.module:
        return True
    return here.requires_grad and here.shape != () and (node is None or drawn)
