"""BAT102: positions of a causal model that see the future."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportOptionalMemberAccess=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from initio.checks.framework import Context, Found, check
from initio.checks.graph import behind, name
from initio.checks.reach import Mask, Reach, Tracer, along, nothing, trace
from initio.core.analysis import Analysis
from initio.core.record import Node, Record

LONGEST = 256
SOFTMAX = ("_softmax", "_safe_softmax")


@check("BAT102", "causality-leak", "error")
def causality_leak(context: Context) -> Iterator[Found]:
    """In a causal model, the output at a position depends on a later one.

    ## What it does
    Follows, through the record of evaluation mode, which positions of a sequence each entry depends on. A model counts as causal where
    an attention over these positions has a triangular mask; reported is the first
    operation on that way whose output at t depends on a position after t, or a mask that stands upside down, so that a position sees
    the later ones alone. Encoders, bidirectional RNNs, models with a mask for either direction and cross attention are not reported.

    ## Why is this bad
    The model reads in training what it has to predict: the loss is far too low, and generation fails.

    ## Example
    ```python
    import torch
    import torch.nn.functional as F
    from torch import nn

    INPUT = "2x6:int(20)"

    class Block(nn.Module):
        def __init__(self, causal, width=16):
            super().__init__()
            self.causal = causal
            self.norm = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)

        def forward(self, x):
            q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
            return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 16)
            self.blocks = nn.Sequential(Block(True), Block(False))
            self.head = nn.Linear(16, 20)

        def forward(self, ids):
            return self.head(self.blocks(self.embed(ids)))
    ```

    ## Use instead
    ```python
    import torch
    import torch.nn.functional as F
    from torch import nn

    INPUT = "2x6:int(20)"

    class Block(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)

        def forward(self, x):
            q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
            return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 16)
            self.blocks = nn.Sequential(Block(), Block())
            self.head = nn.Linear(16, 20)

        def forward(self, ids):
            return self.head(self.blocks(self.embed(ids)))
    ```

    ## References
    * Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin 2017, *Attention is all you need*, section 3.2.3: masking
    """
    record = context.record
    for item in record.inputs:
        for axis in _axes(record, item.value):
            n = record.values[item.value].shape[axis]
            states = trace(record, {item.value: along(record.values[item.value].shape, axis)})
            mirrored = next((node for node in record.nodes if node.phase == "forward" and _mirrored(node, states, n)), None)
            if mirrored is not None:
                if not any(node.phase == "forward" and _lower(node, states, n) for node in record.nodes):
                    yield _upside_down(context, mirrored, n)
                    return
                continue  # one attention for either direction
            if not _leaks(record, item.value, axis, n, states):
                continue
            evaluation = context.evaluation
            twin = next((other for other in evaluation.inputs if other.name == item.name), None) if evaluation is not None else None
            leak = _leaks(evaluation, twin.value, axis, n) if evaluation is not None and twin is not None else None
            if leak is None:
                continue
            node, position, seen = leak
            yield Found(
                message=f"{item.name or 'the input'} is read causally, but {name(node)} lets position {position} see position {seen}.",
                module=node.module,
                source=node.source or context.made(node.module),
                evidence={"position": position, "depends_on": seen, "length": n, "operation": name(node)},
                remedy="Mask the future there (is_causal=True, a lower triangular mask, padding on the left only).",
                entity=name(node),
            )
            return


def _upside_down(context: Context, node: Node, n: int) -> Found:
    return Found(
        message="the mask of this attention stands upside down: a position sees the later ones and none before it.",
        module=node.module,
        source=node.source or context.made(node.module),
        evidence={"length": n, "operation": name(node)},
        remedy="Keep the lower triangle: tril() where True means attend (scaled_dot_product_attention), triu(1) where True means hide "
        "(masked_fill, nn.MultiheadAttention).",
        entity="mask",
    )


def _axes(record: Record, value: int) -> list[int]:
    """Dimensions of an input that may be time: the second of ids, the last two of features."""
    shape = record.values[value].shape
    axes = {2: [1] if not record.values[value].floating else [], 3: [1, 2]}.get(len(shape), [])
    return [axis for axis in axes if 3 <= shape[axis] <= LONGEST]


class _Healed(Tracer):
    """Follows the positions as if no operation looked ahead: where one does, its output is taken to see its own position alone."""

    def _apply(self, node: Node) -> Sequence[Reach | None]:
        outputs = list(super()._apply(node))
        before = [s for value in node.inputs if (s := self.states.get(value)) is not None]
        if any(_ahead(state) for state in before):
            return outputs
        for place, state in enumerate(outputs):
            if state is not None and _ahead(state):
                shape = self.record.values[node.outputs[place] or 0].shape
                outputs[place] = self._own(node, before, shape)
        return outputs

    def _own(self, node: Node, before: Sequence[Reach], shape: tuple[int, ...]) -> Reach:
        """Positions stand in the dimension in which they stood; attention keeps those of its queries."""
        varying = next((state.varying for state in before if state.varying), list[int]())
        if name(node) in SOFTMAX:
            varying = [axis for axis in varying if axis == len(shape) - 2]
        if len(varying) == 1 and varying[0] < len(shape) and shape[varying[0]] > 1:
            return along(shape, varying[0])
        return nothing(len(shape))


def _leaks(record: Record, value: int, axis: int, n: int, states: Mapping[int, Reach | None] | None = None) -> tuple[Node, int, int] | None:
    """(the operation, a position, a later one that it depends on), where the record is causal and an output is not."""
    if record.crash is not None or value in record.constants or _read_twice(record, value):
        return None
    own = along(record.values[value].shape, axis)
    states = trace(record, {value: own}) if states is None else states
    leaking = [
        o.value
        for o in record.outputs
        if _aligned(states.get(o.value), record.values[o.value].shape, axis, n) and _ahead(states.get(o.value))
    ]
    if not leaking:
        return None
    healed = _Healed(record, {value: own}).run()
    if not any(node.phase == "forward" and _causal(node, states, healed, n) for node in record.nodes):
        return None
    ancestors = set[int]().union(*(behind(Context(Analysis.build(record, {})), output) for output in leaking))
    for node in record.nodes:
        for out in node.outputs:
            ahead = _ahead(states.get(out)) if out in ancestors else None
            if ahead is not None and node.phase == "forward":
                return (node, *ahead)
    return None


def _read_twice(record: Record, value: int) -> bool:
    """Whether two embeddings read the ids: an encoder and a decoder that is fed with the same ones, shifted."""
    reached, tables = {value}, 0
    for node in record.nodes:
        if node.phase == "forward" and not reached.isdisjoint(node.inputs):
            if name(node) == "embedding":
                tables += 1
            elif not any(v is not None and record.values[v].floating for v in node.outputs):
                reached.update(v for v in node.outputs if v is not None)
    return tables > 1


def _aligned(state: Reach | None, shape: tuple[int, ...], axis: int, n: int) -> bool:
    """Whether an output has the positions in one dimension: the one that varies, else the input's own."""
    if state is None:
        return False
    varying = state.varying
    return shape[varying[0]] == n if len(varying) == 1 else not varying and len(shape) > axis and shape[axis] == n


def _ahead(state: Reach | None) -> tuple[int, int] | None:
    """(t, the last position that entry t depends on, after t) of a value that has the positions in one dimension."""
    if state is None or len(state.varying) > 1 or state.hi.max() < 0:
        return None
    hi = state.hi.reshape(-1)
    late = np.flatnonzero(hi > np.arange(hi.size))
    return (int(late[0]), int(hi[late[0]])) if late.size else None


def _causal(node: Node, states: Mapping[int, Reach | None], healed: Mapping[int, Reach | None], n: int) -> bool:
    """Whether an attention over the input's own positions has a triangular mask: a row sees itself and what is before it."""
    own = healed.get(node.outputs[0] or -1)
    if own is None or not _lower(node, states, n):
        return False
    looks = bool((own.lo < own.hi).any()) or _one_off(node, states, n)
    return own.varying == [own.hi.ndim - 2] and bool((own.hi.reshape(-1) >= np.arange(n)).all()) and looks


def _closed(node: Node, states: Mapping[int, Reach | None]) -> Mask | None:
    """Which weights of an attention are exactly 0, where the node makes them."""
    state = states.get(node.outputs[0]) if name(node) in SOFTMAX and node.outputs[0] is not None else None
    return state.closed if state is not None and state.sort == "zero" else None


def _lower(node: Node, states: Mapping[int, Reach | None], n: int) -> bool:
    closed = _closed(node, states)
    return closed is not None and _triangular(closed, n)


def _one_off(node: Node, states: Mapping[int, Reach | None], n: int) -> bool:
    """Whether all of the past is open, and one or two positions after it."""
    closed = _closed(node, states)
    return closed is not None and any(bool((closed == ~np.tril(np.ones((n, n), bool), k)).all()) for k in (1, 2))


def _mirrored(node: Node, states: Mapping[int, Reach | None], n: int) -> bool:
    """Whether row t of an attention is open from t, or the position after it, to the end."""
    closed = _closed(node, states)
    if closed is None or closed.ndim < 2 or closed.shape[-2:] != (n, n):
        return False
    return any(bool((closed == np.tril(np.ones((n, n), bool), k)).all()) for k in (-1, 0))


def _triangular(closed: Mask, n: int) -> bool:
    """Whether what is open in row t ends at t, or a constant few after it."""
    if closed.ndim < 2 or closed.shape[-2:] != (n, n):
        return False
    last = n - 1 - (~closed.reshape(-1, n, n)[0])[:, ::-1].argmax(axis=1)
    return any(bool((last == np.minimum(np.arange(n) + k, n - 1)).all()) for k in (0, 1, 2))
