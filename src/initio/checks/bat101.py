"""BAT101: samples of a batch that see each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from initio.checks.framework import Context, Found, check
from initio.checks.graph import behind, name, reached
from initio.checks.reach import Reach, along, trace
from initio.core.analysis import Analysis
from initio.core.record import Node, Record

PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm", "convolution"})


@check("BAT101", "batch-mixing", "error")
def batch_mixing(context: Context) -> Iterator[Found]:
    """What the model returns for one sample depends on the others in its batch.

    ## What it does
    Follows, through the record of evaluation mode, which samples each entry depends on: a `view` where a `permute` was meant, a softmax
    over the batch, an RNN or attention that takes the batch for time. Batch norm in training is not this, nor is a loss over the batch, a
    matrix of similarities between samples, or a loop over the samples.

    ## Why is this bad
    A prediction changes with what else is in the batch. Training hides it: the loss falls, and evaluation with another batch size or
    order gives other results.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x6x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(16, 16)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            batch, time, width = x.shape
            x = self.project(x).view(time, batch, width)  # time first was meant
            return self.head(x.mean(dim=0))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x6x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(16, 16)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            x = self.project(x).permute(1, 0, 2)
            return self.head(x.mean(dim=0))
    ```

    ## References
    * Karpathy 2019, *A recipe for training neural networks*: use backprop to chart dependencies
    """
    if not _mixed(context.record):
        return
    record = context.evaluation
    if record is None:
        return
    mixed = _mixed(record)
    if not mixed:
        return
    output, state, states = mixed
    node = _cause(Context(Analysis.build(record, {})), output, states)
    n = int(state.hi.max()) + 1
    if node is None or _compares(record, node, n):
        return
    low, high = int(state.lo.min()), int(state.hi.max())
    yield Found(
        message=f"{name(node)} mixes samples: the output for sample 0 depends on others of samples {low} to {high} of a batch of {n}.",
        module=node.module,
        source=node.source or context.made(node.module),
        evidence={"batch": n, "operation": name(node)},
        remedy="Keep the batch in its own dimension: permute in place of view, batch_first=True, softmax over the last dimension.",
        entity=name(node),
    )


def _start(record: Record) -> dict[int, Reach]:
    shapes = {item.value: record.values[item.value].shape for item in record.inputs if item.name != "target"}
    sizes = [shape[0] for shape in shapes.values() if shape]
    if not sizes or sizes[0] < 2:
        return {}
    return {value: along(shape, 0) for value, shape in shapes.items() if shape and shape[0] == sizes[0]}


def _mixed(record: Record) -> tuple[int, Reach, Mapping[int, Reach | None]] | None:
    """The first output whose entry for one sample depends on another, its reach, and all others."""
    start = _start(record)
    if not start or record.crash is not None:
        return None
    n = max(reach.lo.size for reach in start.values())
    states = trace(record, start)
    for output in record.outputs:
        state = states.get(output.value)
        if state is not None and _wrong(state, record.values[output.value].shape, n):
            return output.value, state, states
    return None


def _wrong(state: Reach, shape: tuple[int, ...], n: int) -> bool:
    """Whether an output that has a dimension of the batch's size does not have sample i, alone, at i."""
    varying = state.varying
    if not shape or state.hi.max() < 0:
        return False
    if not varying:
        return shape[0] == n and bool(state.lo.max() < state.hi.min())
    sized = [axis for axis in varying if shape[axis] == n]
    if len(varying) == 1:
        return bool(sized) and not _own(state, sized[0], n)
    single = bool((state.lo == state.hi).all())
    return single and bool(sized) and not any(_own(state, axis, n) for axis in sized)


def _own(state: Reach, axis: int, n: int) -> bool:
    own = along([n if i == axis else 1 for i in range(state.lo.ndim)], axis).lo
    none = state.hi < 0
    return bool((((state.lo == own) & (state.hi == own)) | none).all())


def _cause(context: Context, output: int, states: Mapping[int, Reach | None]) -> Node | None:
    """The first operation on the way to an output that joins samples, or that leaves them scrambled over two dimensions."""
    ancestors = behind(context, output)
    for node in context.record.nodes:
        for value in node.outputs:
            state = states.get(value) if value is not None else None
            if state is None or value not in ancestors:
                continue
            before = [s for v in node.inputs if (s := states.get(v)) is not None]
            joined = bool(((state.lo < state.hi) & (state.hi >= 0)).any())
            scrambled = (
                len(state.varying) > 1
                and max((len(s.varying) for s in before), default=0) == 1
                and name(node) in ("view", "_unsafe_view", "reshape", "view_of")
            )
            if scrambled or (joined and not any(_joins(s) for s in before)):
                return node
    return None


def _compares(record: Record, node: Node, size: int) -> bool:
    """Whether a matrix compares every sample with every other and no product follows, as a contrastive loss wants it."""
    if name(node) != "mm" or record.values[node.outputs[0] or 0].shape != (size, size):
        return False
    after = reached(record, [node.outputs[0] or 0])
    return not any(n.phase != "backward" and name(n) in PRODUCTS and not after.isdisjoint(n.inputs) for n in record.nodes if n is not node)


def _joins(state: Reach) -> bool:
    return bool(np.any((state.lo < state.hi) & (state.hi >= 0)))
