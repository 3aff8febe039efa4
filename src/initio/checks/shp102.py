"""SHP102: rows that no window covers."""
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from initio.checks.affine import per_axis, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.record import Node

LEAST = 0.01
"""Share of the map below which a lost row is not worth a word."""


@check("SHP102", "dropped-rows", "note")
def dropped_rows(context: Context) -> Iterator[Found]:
    """The last rows or columns of a map lie behind the last window.

    ## What it does
    Finds convolutions and pooling whose windows, k ≥ stride, stop before the end of the map: (n + 2p − d(k − 1) − 1) is not a multiple of
    the stride, and padding does not make up for it. At least one hundredth of an axis must be lost. A 1×1 convolution with
    stride 2 leaves positions out on purpose and is not reported.

    ## Why is this bad
    What stands at the right and lower border never reaches the output, and maps of a decoder that doubles the size again no longer
    match those of the encoder.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x3x17x17"

    def Model():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x3x16x16"

    def Model():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    ```

    ## References
    * Dumoulin and Visin 2016, *A guide to convolution arithmetic for deep learning*, relationship 6
    """
    for node in context.record.nodes:
        lost = _lost(context, node) if node.phase == "forward" else None
        if lost is None:
            continue
        rows, size, axis = lost
        yield Found(
            message=f"{node.function or name(node)} leaves the last {rows} of {size} {'columns' if axis else 'rows'} out: in no window.",
            module=node.module,
            source=place(context, node.module, node),
            evidence={"rows": rows, "size": size},
            remedy="Choose a size that the strides divide, pad, or use ceil_mode=True in pooling.",
            entity="rows",
            group="rows",
        )


def _lost(context: Context, node: Node) -> tuple[int, int, int] | None:
    window = _window(context, node)
    if window is None or not node.inputs or node.inputs[0] not in context.carrying or node.outputs[0] is None:
        return None
    kernel, stride, padding, dilation = window
    before = context.record.values[node.inputs[0]].shape[-len(kernel) :]
    after = context.record.values[node.outputs[0]].shape[-len(kernel) :]
    for axis, (n, m, k, s, p, d) in enumerate(zip(before, after, kernel, stride, padding, dilation, strict=True)):
        rows = n - 1 - (s * (m - 1) - p + d * (k - 1))
        if k >= s > 1 and rows >= 1 and rows >= LEAST * n:
            return rows, n, axis
    return None


def _window(context: Context, node: Node) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]] | None:
    """Kernel, stride, padding and dilation of a convolution or pooling over windows; None for others."""
    operation = name(node)
    if operation == "convolution" and not node.args[6]:
        kernel = context.record.values[node.inputs[1]].shape[2:]
        stride, padding, dilation = (per_axis(setting, len(kernel)) for setting in node.args[3:6])
        return kernel, stride, padding, dilation
    if operation in ("max_pool2d_with_indices", "avg_pool2d", "avg_pool3d", "max_pool3d_with_indices"):
        kernel = tuple(node.args[1])
        whole = len(kernel)
        given: list[Any] = [*node.args[2:5], None, None, None][:3]
        stride, padding, dilation = (tuple(each) * (whole // len(each)) if isinstance(each, tuple) and each else () for each in given)
        return kernel, stride or kernel, padding or (0,) * whole, dilation or (1,) * whole
    return None
