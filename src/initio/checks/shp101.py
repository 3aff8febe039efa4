"""SHP101: a kernel without padding in a branch that is merged later."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.affine import NORMS, PLAIN, Affine, affines, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import DROPOUT, VIEWS, behind, name, reached
from initio.core.finding import Fix, Severity
from initio.core.record import Node

MERGES = frozenset({"add", "cat", "stack"})
CROPS = frozenset({"slice", "narrow", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "reflection_pad1d", "select"})


@check("SHP101", "unpadded-shrink", "warning")
def unpadded_shrink(context: Context) -> Iterator[Found]:
    """A branch loses its border to a kernel without padding before it is merged with another one.

    ## What it does
    Finds convolutions with kernel > 1, stride 1 and no padding in one of several branches that a sum or a concatenation joins, and says
    how much of the map is lost. Where the branches then differ in size and the model raises, the finding says why. Branches that are
    cropped or padded by hand (the valid convolutions of the U-Net) are not reported, nor layers before the branches; branches
    that shrink alike and are concatenated are a note.

    ## Why is this bad
    Every such layer cuts (k − 1) rows and columns: positions no longer match those of the input, stacking the block runs out of map, and
    the skip cannot be added.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x8x16x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.paths = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 3)) for _ in range(3))

        def forward(self, x):
            total = 0
            for path in self.paths:
                total = total + path(x)
            return total.relu()
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x8x16x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.paths = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 3, padding=1)) for _ in range(3))

        def forward(self, x):
            total = 0
            for path in self.paths:
                total = total + path(x)
            return total.relu()
    ```

    ## References
    * [torch.nn.Conv2d](https://pytorch.org/docs/stable/generated/torch.nn.Conv2d.html): `padding` is 0 unless given
    """
    for layer in affines(context):
        shrunk = _shrunk(context, layer)
        merge = _merge(context, layer) if shrunk else None
        if merge is None:
            continue
        kind, where = merge
        severity: Severity = "note" if kind == "cat" else "warning"
        before, after = (context.record.values[value].shape[2:] for value in (layer.entering, layer.leaving))
        sizes = f"{'x'.join(map(str, before))} to {'x'.join(map(str, after))}"
        padding = tuple(step * (size - 1) // 2 for size, step in zip(layer.kernel, layer.dilation, strict=True))
        text = str(padding[0]) if len(set(padding)) == 1 else str(padding)
        cut = "; the branches no longer match, and the model raises" if kind == "crash" else ""
        yield Found(
            message=f"without padding the {'x'.join(map(str, layer.kernel))} kernel shrinks the map from {sizes} ({shrunk:.0%} lost) in a "
            f"branch that {where} merges{cut}.",
            module=layer.where,
            source=place(context, layer.where, layer.node),
            evidence={"lost": shrunk, "before": "x".join(map(str, before)), "after": "x".join(map(str, after))},
            remedy=f"padding={text} keeps the size.",
            fix=Fix(f"padding={text}", "unsafe"),
            also=(context.record.crash.module,) if kind == "crash" and context.record.crash is not None else (),
            entity="padding",
            group=f"{severity}:{place(context, layer.where, layer.node)}",
            severity="error" if kind == "crash" else severity,
        )


def _shrunk(context: Context, layer: Affine) -> float:
    """Share of the positions that a convolution without padding loses; 0 where it keeps them or is meant to reduce them."""
    if layer.kind != "convolution" or layer.transposed or any(layer.padding) or any(step > 1 for step in layer.stride):
        return 0.0
    before, after = (math.prod(context.record.values[value].shape[2:]) for value in (layer.entering, layer.leaving))
    return 1 - after / before if after > 1 else 0.0


def _merge(context: Context, layer: Affine) -> tuple[str, str] | None:
    """How and by which operation the branch is joined with one that does not come from it."""
    own = reached(context.record, [layer.leaving])
    waiting, seen = [layer.leaving], set[int]()
    rank, ends = len(layer.kernel) + 2, set[tuple[int, ...]]()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        ends.add(context.record.values[value].shape)
        for node in context.consumers.get(value, ()):
            if node.phase == "backward" or name(node) in CROPS:
                continue
            others = [v for v in node.inputs if v in context.carrying and v not in own]
            if name(node) in MERGES and others and _lost(context, layer, node, others[0]):
                return ("cat" if name(node) == "cat" else "add"), f"{node.function or name(node)}{_line(node)}"
            if _keeps(node, rank):
                waiting += [out for out in node.outputs if out is not None and len(context.record.values[out].shape) >= rank - 1]
    crash = context.record.crash
    if crash is not None and crash.op is not None and crash.op.split(".")[1].rstrip("_") in MERGES | {"mul", "sub"}:
        clashing = {shape for shape in crash.shapes if len(shape) == rank}
        same_block = not crash.module or layer.where.startswith(crash.module)
        if len({shape[2:] for shape in clashing}) > 1 and clashing & ends and same_block:
            return "crash", f"{crash.op.split('.')[1]} (line {crash.source.line})" if crash.source else crash.op
    return None


def _lost(context: Context, layer: Affine, node: Node, other: int) -> bool:
    """Whether the merged map is smaller than that from which both branches came: what was padded before may be cut off again."""
    shared = behind(context, layer.entering) & behind(context, other) & context.carrying
    fork = context.record.values[max(shared)].shape if shared else ()
    merged = context.record.values[node.outputs[0] or 0].shape
    return len(fork) != len(merged) or math.prod(fork[2:]) > math.prod(merged[2:])


def _keeps(node: Node, rank: int) -> bool:
    """Whether a branch goes on through an operation with its map still there."""
    operation = name(node)
    return operation in PLAIN | NORMS | VIEWS | {"convolution", "mul", "div", "add", "sub", "stack"} or node.function in DROPOUT


def _line(node: Node) -> str:
    return f" (line {node.source.line})" if node.source is not None else ""
