"""SHP105: the forward pass raises."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.core.finding import Fix
from initio.core.record import Crash


@check("SHP105", "forward-crashes", "error")
def forward_crashes(context: Context) -> Iterator[Found]:
    """The model raises on this input: the operation, the shapes, and the size that it needed.

    ## What it does
    Says what was recorded until the model's own code raised: the operation, the shapes of its operands, the module and the line, and for
    linear and convolution layers and norms the `in_features`, `in_channels` or `num_features` that would have fitted.

    ## Why is this bad
    There is no training step. torch names the shapes of two matrices, not the layer, nor what to write there.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x3x32x32"

    def Model():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x3x32x32"

    def Model():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2048, 10))
    ```

    ## References
    * [torchview#96](https://github.com/mert-kurttutan/torchview/issues/96): the graph until the crash
    """
    crash = context.record.crash
    if crash is None:
        return
    source = (context.made(crash.module) if crash.module and _needed(crash) else None) or crash.source
    shapes = " and ".join("x".join(map(str, shape)) or "scalar" for shape in crash.shapes)
    doing = f"{crash.op.removeprefix('aten.').removesuffix('.default')} of {shapes}" if crash.op else "the model's own code"
    need = _needed(crash)
    if need:
        name, wanted, has = need
        said = f"{name}={wanted} is needed, the layer has {has}"
        remedy = f"Build {crash.module or 'the layer'} with {name}={wanted}, or check the input's shape (--input)."
    else:
        said = f"{crash.error}: {' '.join(crash.message.split())[:300]}"
        remedy = "Check the input's shape and dtype (--input) against what that line expects; if they are right, the model is not."
        if "modified by an inplace operation" in crash.message:
            remedy = (
                "The backward pass needs what an in-place operation has overwritten: write x = op(x) in place of x.op_(), inplace=False."
            )
    line = f" (line {crash.source.line})" if crash.source is not None else ""
    yield Found(
        message=f"{doing} raised in the {crash.phase} pass{line}, after {len(context.record.nodes)} operations: {said}.",
        module=crash.module,
        source=source,
        evidence={
            "operation": crash.op or "python", "shapes": shapes, "operations": len(context.record.nodes), "error": crash.error,
            **({"needed": need[1], "has": need[2]} if need else {}),
        },
        remedy=remedy,
        fix=Fix(f"{need[0]}={need[1]}", "display") if need else None,
        entity=crash.op or crash.error,
    )  # fmt: skip


def _needed(crash: Crash) -> tuple[str, int, int] | None:
    """(argument, the size that was needed, the size that the layer has); None where the shapes don't say."""
    operation = (crash.op or "").split(".")[1].rstrip("_") if "." in (crash.op or "") else ""
    shapes = crash.shapes
    if operation in ("mm", "addmm", "linear") and len(shapes) >= 2:
        x, weight = (shapes[1], shapes[2]) if operation == "addmm" and len(shapes) > 2 else shapes[:2]
        has = weight[-1] if operation == "linear" else weight[0]
        return ("in_features", x[-1], has) if x and weight and x[-1] != has else None
    if operation in ("convolution", "conv1d", "conv2d", "conv3d") and len(shapes) >= 2 and len(shapes[0]) == len(shapes[1]) > 2:
        (x, weight), groups = shapes[:2], 1
        return (
            ("in_channels", x[1], weight[1] * groups)
            if x[1] % weight[1] or (x[1] != weight[1] and weight[0] % (x[1] // weight[1]))
            else None
        )
    if (
        operation in ("batch_norm", "native_batch_norm")
        and len(shapes) >= 2
        and len(shapes[0]) > 1
        and math.prod(shapes[1]) != shapes[0][1]
    ):
        return "num_features", shapes[0][1], math.prod(shapes[1])
    if operation in ("layer_norm", "native_layer_norm") and len(shapes) >= 2 and shapes[0] and len(shapes[1]) == 1:
        return ("normalized_shape", shapes[0][-1], shapes[1][0]) if shapes[0][-1] != shapes[1][0] else None
    return None
