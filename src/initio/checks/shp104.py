"""SHP104: a column and a row of samples that broadcast to a square."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.batches import sample_axes
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.record import Node, Ref

POINTWISE = frozenset(
    {"add", "sub", "mul", "div", "rsub", "pow", "maximum", "minimum", "eq", "lt", "gt", "le", "ge", "where", "mse_loss", "smooth_l1_loss"}
)


@check("SHP104", "silent-broadcast", "error")
def silent_broadcast(context: Context) -> Iterator[Found]:
    """(N, 1) and (N,) make (N, N): every sample meets every other one.

    ## What it does
    Finds a pointwise operation on two tensors of the network where the axis of the samples of one operand lies on another axis of the
    other one, so that broadcasting pairs all samples. A pairwise computation that says so (`x[:, None] - x[None]`) is not reported.

    ## Why is this bad
    Nothing raises, and the loss is a number: but of N² pairs, N are meant. The model learns the mean.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Linear(16, 1)
            self.gate = nn.Linear(16, 4)

        def forward(self, x):
            return self.value(x) * self.gate(x).mean(-1)
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Linear(16, 1)
            self.gate = nn.Linear(16, 4)

        def forward(self, x):
            return self.value(x) * self.gate(x).mean(-1, keepdim=True)
    ```

    ## References
    * [Broadcasting semantics](https://pytorch.org/docs/stable/notes/broadcasting.html)
    """
    axes = sample_axes(context)
    for node in context.record.nodes:
        if node.phase == "backward" or name(node) not in POINTWISE:
            continue
        values = [argument.value for argument in node.args if isinstance(argument, Ref) and argument.value in axes]
        shapes = _clash(context, node, values, axes)
        if shapes is None:
            continue
        one, two, result = ("x".join(map(str, shape)) for shape in shapes)
        yield Found(
            message=f"{node.function or name(node)} of {one} and {two} broadcasts to {result}: all pairs of samples.",
            module=node.module,
            source=node.source,
            evidence={"first": one, "second": two, "result": result},
            remedy="Give both the same shape: squeeze(-1) on the one, unsqueeze(-1) or keepdim=True on the other.",
            entity="broadcast",
            group=str(node.source),
        )


def _clash(context: Context, node: Node, values: list[int], axes: dict[int, int]) -> tuple[tuple[int, ...], ...] | None:
    """Shapes of two operands of different rank whose samples lie on different axes, and of the result."""
    shape = {value: context.record.values[value].shape for value in values}
    for one in values:
        for two in values:
            long, short = shape[one], shape[two]
            place = axes[two] + len(long) - len(short)
            if len(long) > len(short) and axes[one] != place and long[place] == 1 and node.outputs[0] is not None:
                return long, short, context.record.values[node.outputs[0]].shape
    return None
