"""ACT101: two linear maps in a row."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.affine import Affine, affines, back, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import DROPOUT
from initio.core.record import Node


@check("ACT101", "linear-after-linear", "warning")
def linear_after_linear(context: Context) -> Iterator[Found]:
    """Two linear layers with nothing but views and dropout between them are one linear layer.

    ## What it does
    Finds a linear or convolution layer whose output enters only another one, where the two together have at least as many weights as
    their product. Factorisations that save weights are meant and not reported: low-rank bottlenecks and LoRA, depthwise and grouped
    convolutions, separable kernels (1×k then k×1), a channel reduction before a large kernel. Nor are transposed convolutions, frozen
    layers, and a weight that is used elsewhere too.

    ## Why is this bad
    The second layer adds parameters and time, and no function that the first could not compute alone; usually an activation
    was forgotten between them.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x32"

    def Model():
        return nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x32"

    def Model():
        return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    ```

    ## References
    * Saxe, McClelland and Ganguli 2014, *Exact solutions to the nonlinear dynamics of learning in deep linear neural networks*
    """
    layers = affines(context)
    uses: dict[int, int] = {}
    for layer in layers:
        uses[layer.weight.value] = uses.get(layer.weight.value, 0) + 1
    ends = {layer.leaving: layer for layer in layers}
    for second in layers:
        first = _before(context, second, ends)
        if first is None or not _redundant(context, first, second) or any(uses[each.weight.value] > 1 for each in (first, second)):
            continue
        product = _product(context, first, second)
        together = math.prod(first.shape) + math.prod(second.shape)
        source = place(context, second.where, second.node)
        yield Found(
            message=f"{first.where or 'a linear map'} and {second.where or 'the next'} are one linear map: {together:,} weights for a "
            f"product of {product:,}, and nothing between them that is not linear.",
            module=second.where,
            source=source,
            evidence={"weights": together, "product": product},
            remedy="Put an activation between them, or replace them by one layer.",
            also=(first.where,) if first.where else (),
            entity=f"{first.where}+{second.where}",
            group=f"{place(context, first.where, first.node)}>{source}",
        )


def _dropout(node: Node) -> bool:
    return node.function in DROPOUT


def _before(context: Context, second: Affine, ends: dict[int, Affine]) -> Affine | None:
    """The layer whose output, and nothing else, enters `second`."""
    for value, _ in back(context, second.entering, _dropout, sole=True):
        if value in ends:
            return ends[value]
    return None


def _redundant(context: Context, first: Affine, second: Affine) -> bool:
    ordinary = all(
        each.groups == 1 and not each.transposed and each.weight.trainable and len(each.weight.names) == 1
        and each.node.function != "multi_head_attention_forward"
        for each in (first, second)
    )  # fmt: skip
    if not ordinary or (min(first.outputs, second.outputs, first.inputs) < 2 and first.outputs == 1):
        return False
    overlap = any(a > 1 and b > 1 for a, b in zip(first.kernel, second.kernel, strict=False))
    if overlap and len(first.kernel) == len(second.kernel):  # a larger kernel in two steps saves weights, and still wants an activation
        return first.outputs * (first.inputs + second.outputs) >= first.inputs * second.outputs
    return math.prod(first.shape) + math.prod(second.shape) >= _product(context, first, second)


def _product(context: Context, first: Affine, second: Affine) -> int:
    """Weights of the one layer that computes both."""
    if first.kernel and second.kernel:
        kernel = math.prod(a + b - 1 for a, b in zip(first.kernel, second.kernel, strict=False))
        return first.inputs * second.outputs * kernel
    if first.kernel and not second.kernel and second.inputs != first.outputs:  # flattened: the whole map enters
        positions = context.record.values[first.entering].shape[2:]
        return first.inputs * math.prod(positions) * second.outputs
    return first.inputs * second.outputs * math.prod(first.kernel or second.kernel)
