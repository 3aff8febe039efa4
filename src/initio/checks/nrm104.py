"""NRM104: a norm over a single value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from initio.checks.affine import BATCH_NORMS, affines, back, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.record import Node

FAILS = re.compile(r"Expected more than 1 (value per channel|spatial element) when training")


@check("NRM104", "norm-of-one-value", "error")
def norm_of_one_value(context: Context) -> Iterator[Found]:
    """A norm that averages over one value returns its bias, whatever comes in.

    ## What it does
    Finds batch norms with one value a channel, layer norms over an axis of size one, instance norms on a single position, and group norms
    whose groups hold one number. Some of these raise in training mode; then the finding says why.

    ## Why is this bad
    The value less its mean is zero: the output is constant, no information and no gradient pass.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x16"

    def Model():
        return nn.Sequential(nn.Linear(16, 1), nn.LayerNorm(1))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x16"

    def Model():
        return nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 1))
    ```

    ## References
    * [torch.nn.LayerNorm](https://pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html)
    """
    for node in context.record.nodes:
        if node.phase == "forward" and _count(context, node) == 1:
            shape = "x".join(map(str, context.record.values[node.inputs[0]].shape))
            yield Found(
                message=f"{node.function or name(node)} on a tensor of shape {shape} averages over one value: its output is constant.",
                module=node.module,
                source=place(context, node.module, node),
                evidence={"values": 1, "shape": shape},
                remedy="Normalise over more values (another axis, fewer groups), or leave the norm out.",
                also=_before(context, node),
                entity="one value",
                group=f"{node.function}:{place(context, node.module, node)}",
            )
    crash = context.record.crash
    if crash is not None and FAILS.search(crash.message):
        shape = crash.shapes[0] if crash.shapes else ()
        one = "batch of one sample" if shape and shape[0] == 1 else "single position"
        yield Found(
            message=f"the norm raises on a tensor of shape {'x'.join(map(str, shape))}: with a {one} there is one value to average over.",
            module=crash.module,
            source=(context.made(crash.module) if crash.module else None) or crash.source,
            evidence={"values": 1, "shape": "x".join(map(str, shape))},
            remedy="Give a batch of at least two (--input), drop the last small batch in training, or normalise before the pooling.",
            entity="one value",
        )


def _before(context: Context, node: Node) -> tuple[str, ...]:
    """The layer whose output is lost."""
    ends = {layer.leaving: layer.where for layer in affines(context) if layer.where}
    return tuple(ends[value] for value, _ in back(context, node.inputs[0]) if value in ends)[:1]


def _count(context: Context, node: Node) -> int:
    """Values that a norm averages over; 0 where that is not to be read."""
    operation, values = name(node), context.record.values
    if operation in BATCH_NORMS:
        shape = values[node.inputs[0]].shape
        return shape[0] * math.prod(shape[2:]) if len(node.args) > 5 and node.args[5] is True else 0
    if operation == "native_layer_norm":
        return math.prod(node.args[1])
    if operation == "native_group_norm" and len(node.args) > 6:
        return node.args[4] * node.args[5] // node.args[6] if node.args[6] else 0
    return 0
