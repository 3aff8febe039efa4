"""NRM101: a bias that the norm behind it subtracts again."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import BATCH_NORMS, Affine, affines, back, of_event, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.finding import Fix
from initio.core.record import Node

SHAPES = frozenset({"view", "_unsafe_view", "reshape"})
TURNS = frozenset({"transpose", "permute", "t"})


@check("NRM101", "bias-before-norm", "note")
def bias_before_norm(context: Context) -> Iterator[Found]:
    """A layer's bias is a constant per channel, and the norm behind it subtracts the mean per channel.

    ## What it does
    Finds linear and convolution layers with a bias whose output only enters a batch norm that uses the statistics of the batch, an
    instance norm, or a group norm with one channel in a group. A layer norm, and a group norm over several channels, keep a part of
    the bias and are not reported.

    ## Why is this bad
    The bias has no influence and receives a gradient of exactly zero; weight decay is all that moves it. It costs memory, an addition
    over the whole activation, and its own optimiser state.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x3x16x16"

    def Model():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x3x16x16"

    def Model():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10))
    ```

    ## References
    * Ioffe and Szegedy 2015, *Batch normalization*, section 3.2: "the bias b can be ignored"
    """
    found = {each.leaving: each for each in affines(context) if each.bias is not None and each.bias.trainable}
    for node in context.record.nodes:
        layer = _biased(context, node, found) if node.phase == "forward" else None
        if layer is None or layer.bias is None:
            continue
        entries = context.record.values[layer.bias.value].size
        yield Found(
            message=f"the norm subtracts the mean of every channel, and with it this bias ({entries} entries): its gradient is exactly 0.",
            module=layer.where,
            source=place(context, layer.where, layer.node),
            evidence={"entries": entries, "norm": node.module or node.function},
            remedy="Build it with bias=False (the state dict loses the bias).",
            fix=Fix("bias=False", "unsafe"),
            entity="bias",
            group="bias",
        )


def _biased(context: Context, node: Node, found: dict[int, Affine]) -> Affine | None:
    """The layer whose bias a norm subtracts."""
    instance = node.function == "instance_norm"
    if name(node) in BATCH_NORMS:
        if not instance and node.args[5] is not True:
            return None
        entering = of_event(context, node) if instance else node.inputs[0]
    elif name(node) == "native_group_norm" and node.args[4] == node.args[6]:
        entering = node.inputs[0]
    else:
        return None
    dim = 1
    for value, maker in () if entering is None else back(context, entering, sole=True):
        if value in found:
            rank = len(context.record.values[value].shape)
            channel = 1 if found[value].kind == "convolution" else rank - 1
            return found[value] if dim == channel else None
        moved = _before(context, maker, dim)
        if moved is None:
            return None
        dim = moved
    return None


def _before(context: Context, node: Node, dim: int) -> int | None:
    """The dimension that held the channels before a view; None where the channels are mixed with other dimensions."""
    operation = name(node)
    if operation in ("clone", "contiguous", "alias"):
        return dim
    before, after = (context.record.values[value].shape for value in (node.inputs[0], node.outputs[0] or 0))
    if operation in TURNS:
        rank = len(before)
        if operation == "permute":
            return node.args[1][dim] % rank
        pair = [each % rank for each in node.args[1:3]] if operation == "transpose" else [0, 1]
        return pair[1 - pair.index(dim)] if dim in pair else dim
    if operation in SHAPES or operation in ("squeeze", "unsqueeze"):
        size, behind = after[dim], after[dim + 1 :]
        for candidate, length in enumerate(before):
            rest = before[candidate + 1 :]
            if length == size and _product(rest) == _product(behind):
                return candidate
    return None


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
