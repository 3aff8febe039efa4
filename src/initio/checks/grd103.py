"""GRD103: weights whose gradient is zero, whatever is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.record import Node

NORMS = {"native_layer_norm": 4, "_fused_rms_norm": 3}


@check("GRD103", "zero-gradient-parameter", "warning")
def zero_gradient_parameter(context: Context) -> Iterator[Found]:
    """Every way from a weight to the output passes an operation whose derivative is zero.

    ## What it does
    Finds trainable weights with a gradient that is exactly zero for every draw: all that they compute passes a softmax over one
    element, a norm over one element, or a product with a constant zero. A branch that starts at zero because its own last weights do (a
    residual branch, the second matrix of LoRA, LayerScale) is not reported: those weights receive a gradient. Biases before a norm are
    NRM101's.

    ## Why is this bad
    The optimiser steps by zero: the layer is frozen at its initial values without anyone saying so.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Linear(16, 16)
            self.side = nn.Linear(16, 16)
            self.strength = 0.0

        def forward(self, x):
            return self.main(x) + self.strength * self.side(x.tanh())
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Linear(16, 16)
            self.side = nn.Linear(16, 16)
            self.strength = 0.1

        def forward(self, x):
            return self.main(x) + self.strength * self.side(x.tanh())
    ```

    ## References
    * [torch.nn.functional.softmax](https://pytorch.org/docs/stable/generated/torch.nn.functional.softmax.html)
    """
    record = context.record
    results = [output.value for output in record.outputs] if record.loss is None else [record.loss]
    blocked = {node.id: why for node in record.nodes if node.phase != "backward" and (why := _blocks(context, node))}
    if not blocked:
        return
    open_values = set(results)
    for node in reversed(record.nodes):  # what reaches a result without passing a blocked node
        if node.phase != "backward" and node.id not in blocked and not open_values.isdisjoint(v for v in node.outputs if v is not None):
            open_values.update(node.inputs)
    groups: dict[int, list[str]] = {}
    for parameter in record.parameters:
        if parameter.trainable and parameter.gradient is not None and parameter.value not in open_values:
            node = _first_blocked(context, parameter.value, blocked)
            if node is not None:
                groups.setdefault(node.id, []).append(parameter.name)
    for number, names in groups.items():
        node = record.nodes[number]
        owners = list(dict.fromkeys(each.rpartition(".")[0] for each in names))
        sizes = {p.name: record.values[p.value].size for p in record.parameters}
        entries = sum(sizes[each] for each in names)
        yield Found(
            message=f"the gradient of {entries:,} weights is exactly 0: all that they compute passes {blocked[number]}.",
            module=owners[0],
            source=node.source or context.made(owners[0]),
            evidence={"weights": entries, "tensors": len(names), "operation": name(node)},
            remedy="Give the layer a way to the output with a derivative, or remove it.",
            also=tuple(owners[1:]),
            entity=name(node),
            group=f"{node.source}:{blocked[number]}" if node.source is not None else "",
        )


def _first_blocked(context: Context, value: int, blocked: dict[int, str]) -> Node | None:
    alive = {value}
    for node in context.record.nodes:
        if node.phase != "backward" and not alive.isdisjoint(node.inputs):
            if node.id in blocked:
                return node
            alive.update(v for v in node.outputs if v is not None)
    return None


def _blocks(context: Context, node: Node) -> str:
    """Why the derivative of a node is zero everywhere; "" where it is not."""
    record, what = context.record, name(node)
    shape = record.values[node.inputs[0]].shape if node.inputs else ()
    if what in ("_softmax", "_log_softmax") and shape and shape[int(node.args[1])] == 1:
        return "a softmax over one element, which is constant"
    if what == "native_layer_norm" and math.prod(node.args[1]) == 1:
        return "a layer norm over one element, which is constant"
    if what == "mul":
        others = [a for a in node.args if isinstance(a, (int, float))]
        tables = [record.constants[v] for v in node.inputs if v in record.constants]
        if 0 in others or any(not table.any() for table in tables):
            return "a product with a constant zero"
    return ""
