"""RES102: a residual sum of a tensor with itself."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.finding import Fix
from initio.core.record import Node, Ref

SAME = frozenset({"alias", "clone", "contiguous", "detach", "_to_copy"})


@check("RES102", "self-residual", "error")
def self_residual(context: Context) -> Iterator[Found]:
    """Both operands of a sum are the same tensor: the skip adds the branch to itself.

    ## What it does
    Finds `a + b` where a and b are one tensor of the network, also where two variables name it. A factor (`2 * x`) is not a sum.

    ## Why is this bad
    `identity` was assigned too late, or the branch's result went into the wrong variable: the block computes 2 f(x) instead of x + f(x),
    and there is no skip for the gradient.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x8x16x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = self.conv(x).relu()
            identity = x
            return x + identity
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x8x16x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            identity = x
            x = self.conv(x).relu()
            return x + identity
    ```

    ## References
    * He, Zhang, Ren and Sun 2016, *Deep residual learning for image recognition*, eq. 1
    """
    for node in context.record.nodes:
        if node.phase != "forward" or name(node) != "add" or node.function in ("softsign",):
            continue
        operands = [argument.value for argument in node.args[:2] if isinstance(argument, Ref)]
        if len(operands) < 2 or _root(context, operands[0]) != _root(context, operands[1]) or operands[0] not in context.carrying:
            continue
        shape = context.record.values[operands[0]].shape
        if not context.record.values[operands[0]].floating or shape != context.record.values[operands[1]].shape:
            continue
        yield Found(
            message="both operands of this sum are the same tensor: it doubles it, and there is no skip.",
            module=node.module,
            source=node.source,
            evidence={"factor": 2, "shape": "x".join(map(str, shape))},
            remedy="Keep the block's input before the branch (identity = x), and add that.",
            fix=Fix("Add the block's input", "display"),
            entity="sum",
            group=str(node.source),
        )


def _root(context: Context, value: int) -> int:
    maker: Node | None = context.producers.get(value)
    while maker is not None and name(maker) in SAME:
        value = maker.inputs[0]
        maker = context.producers.get(value)
    return value
