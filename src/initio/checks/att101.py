"""ATT101: a softmax over the wrong axis."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import affines, back, place, scalar_of
from initio.checks.batches import sample_axes, samples
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.record import Node

SOFT = frozenset({"_softmax", "_safe_softmax", "_log_softmax"})


@check("ATT101", "softmax-wrong-dim", "error")
def softmax_wrong_dim(context: Context) -> Iterator[Found]:
    """A softmax runs over the samples of the batch, or over the single score that a layer computes.

    ## What it does
    Finds a softmax or log_softmax over the axis of the samples, in a model whose output still has that axis; and one over an axis of
    size one that comes from a layer with one output. An attention that happens to see one position is not reported.

    ## Why is this bad
    Over the batch, the samples compete with each other: the output of one depends on the others, and at batch size one it is constant.
    Over one element softmax is 1 whatever the score: the layer before it receives no gradient.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x12x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(16, 1)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            weights = self.score(x).softmax(dim=-1)
            return self.head((weights * x).sum(1))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x12x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(16, 1)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            weights = self.score(x).softmax(dim=1)
            return self.head((weights * x).sum(1))
    ```

    ## References
    * [torch.nn.functional.softmax](https://pytorch.org/docs/stable/generated/torch.nn.functional.softmax.html): `dim`
    """
    axes, batch = sample_axes(context), samples(context)
    kept = any(output.value in axes for output in context.record.outputs) or context.record.loss is not None
    for node in context.record.nodes:
        if node.phase == "backward" or name(node) not in SOFT or node.inputs[0] not in context.carrying:
            continue
        shape = context.record.values[node.inputs[0]].shape
        if not shape:
            continue
        dim = int(node.args[1]) % len(shape)
        over_samples = kept and len(shape) > 1 and axes.get(node.inputs[0]) == dim and shape[dim] == batch
        if not over_samples and not (shape[dim] == 1 and _one_score(context, node, dim)):
            continue
        text = "x".join(map(str, shape))
        what = f"over the {batch} samples of the batch" if over_samples else "over a single score, which makes it 1"
        yield Found(
            message=f"softmax over axis {dim} of {text} runs {what}.",
            module=node.module,
            source=place(context, node.module, node) if node.module in context.modules and node.module else node.source,
            evidence={"axis": dim, "size": shape[dim], "shape": text},
            remedy="Name the axis of the classes or positions that compete, such as dim=1; for one score use a sigmoid.",
            also=() if over_samples else _scored(context, node),
            entity=f"dim={dim}",
            group=str(node.source),
        )


def _scored(context: Context, node: Node) -> tuple[str, ...]:
    """The layer that computes the score, and gets no gradient."""
    ends = {layer.leaving: layer.where for layer in affines(context)}
    way = back(context, node.inputs[0], lambda each: scalar_of(context, each) is not None)
    return tuple(ends[value] for value, _ in way if ends.get(value))


def _one_score(context: Context, node: Node, dim: int) -> bool:
    """Whether the axis of size one is the output of a layer."""
    ends = {layer.leaving: layer for layer in affines(context) if layer.outputs == 1}
    rank = len(context.record.values[node.inputs[0]].shape)
    for value, _ in back(context, node.inputs[0], lambda each: scalar_of(context, each) is not None):
        if value in ends:
            channel = 1 if ends[value].kind == "convolution" else len(context.record.values[value].shape) - 1
            return len(context.record.values[value].shape) != rank or channel == dim
    return False
