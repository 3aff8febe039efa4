"""Memory of a recorded step: what is kept for the backward pass, and how much is alive at each operation.

A value lives in a storage; views and in-place results share it. **Saved** is every storage of a forward value that an operation of the
backward pass reads: exactly what autograd keeps, since a saved tensor that no backward formula reads is not kept, and a checkpointed
region reads its inputs only. **Alive** is a storage from the operation that makes it to the last one that reads it; the model's inputs and
outputs and the parameters' gradients stay to the end. Parameters and buffers are counted beside it.

On tensors without storage scaled dot-product attention is recorded by its definition, with its S × S matrices. A fused kernel keeps its
operands, its result and one number a row (the log of the softmax's denominator) instead; `Groups` rewrites the record's events so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from initio.core.counts import Attention, Memory
from initio.core.record import Node, Record
from initio.interpreters.kinds import base, is_entrywise, is_view

__all__ = ["Groups", "itemsize", "memory", "saved"]

SIZES = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
         "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16}  # fmt: skip


def itemsize(dtype: str) -> int:
    """Bytes of one entry.

    >>> itemsize("bfloat16"), itemsize("float8_e4m3fn")
    (2, 1)
    """
    return SIZES.get(dtype, 1)


@dataclass
class _Fused:
    """One attention call: its operands' and results' storages and the bytes of the row statistics."""

    operands: dict[int, None]
    results: dict[int, None]
    rows: int
    first: int
    value: int = -1


class Groups:
    """The nodes of each attention call, forward and backward, and the storages that a fused kernel would not make.

    `of[node]` is the node of the call's softmax (-1: outside of attention), `members` the call's own
    nodes without those of its backward pass.
    """

    def __init__(self, record: Record, attention: Attention) -> None:
        self.record = record
        self.of = [-1] * len(record.nodes)
        for node, group in _members(record).items():
            self.of[node] = group
        self.members = {node for node, group in enumerate(self.of) if group >= 0}
        for node in record.nodes:
            if node.origin >= 0 and self.of[node.id] < 0:
                self.of[node.id] = self.of[node.origin]
        self.internal: set[int] = set()
        self.calls: dict[int, _Fused] = {}
        self.last: dict[int, int] = {}
        self.backward: dict[int, int] = {}
        if attention == "fused" and self.members:
            self._read()

    def _read(self) -> None:
        record, values = self.record, self.record.values
        maker: dict[int, int] = {}
        readers: defaultdict[int, set[int]] = defaultdict(set)
        for node, group in zip(record.nodes, self.of, strict=True):
            for value in node.inputs:
                readers[values[value].storage].add(group)
            for value in node.outputs:
                if value is not None and values[value].storage not in readers:
                    maker.setdefault(values[value].storage, group)
        kept = _kept(record)
        own = _own(record)
        self.internal = {s for s, group in maker.items() if group >= 0 and readers[s] <= {group} and s not in kept}
        constants = {values[value].storage for value in record.constants}
        for node, group in zip(record.nodes, self.of, strict=True):
            if group < 0:
                continue
            self.last[group] = node.id
            if node.id not in self.members:
                self.backward.setdefault(group, node.id)
                continue
            call = self.calls.setdefault(group, _Fused({}, {}, 0, node.id))
            for value in node.inputs:
                storage = values[value].storage
                lone = storage in constants and readers[storage] == {group}  # the causal mask that the definition makes
                if lone:
                    self.internal.add(storage)
                elif maker.get(storage) != group and storage not in own:
                    call.operands[storage] = None
            for value in node.outputs:
                if value is not None and maker.get(values[value].storage) == group and values[value].storage not in self.internal:
                    call.results[values[value].storage] = None
                    call.value = value
                    shape = values[value].shape
                    call.rows = math.prod(shape[:-1]) * max(4, itemsize(values[value].dtype))
        self._lay_out()

    def _lay_out(self) -> None:
        """A kernel returns its result laid out as its queries: turning both back to (batch, sequence, features) then copies nothing."""
        values = self.record.values
        producers, consumers = self.record.producers(), self.record.consumers()
        for group, call in self.calls.items():
            nodes = [self.record.nodes[i] for i in range(call.first, group) if self.of[i] == group and i in self.members]
            queries = next(
                (n.inputs[0] for n in nodes if base(n.op) == "aten.mul" and self.of[_maker(n.inputs[0], producers)] != group), None
            )
            if queries is None or not _turned(queries, producers):
                continue
            value, turned = call.value, False
            while True:
                readers = [n for n in consumers.get(value, ()) if n.phase == self.record.nodes[group].phase]
                if len(readers) == 1 and is_view(readers[0].op):
                    turned = turned or base(readers[0].op) in TURNS
                    value = _first(readers[0])
                    continue
                if len(readers) == 1 and base(readers[0].op) == "aten.clone" and turned:
                    self.internal.add(values[value].storage)
                    call.results = {values[_first(readers[0])].storage: None}
                break

    def size(self, storage: int) -> int:
        """Bytes of a storage; none where a fused kernel would not make it."""
        return 0 if storage in self.internal else self.record.storages[storage]


def _first(node: Node) -> int:
    return next(value for value in node.outputs if value is not None)


def _maker(value: int, producers: Mapping[int, Node]) -> int:
    return producers[value].id if value in producers else -1


def _turned(value: int, producers: Mapping[int, Node]) -> bool:
    """Whether a tensor's memory is laid out in another order than its dimensions; pointwise operations keep the layout."""
    while value in producers:
        node = producers[value]
        if base(node.op) in TURNS:
            return True
        if not node.inputs or not (is_view(node.op) or (is_entrywise(node.op) and base(node.op) != "aten.sum")):
            return False
        value = node.inputs[0]
    return False


def _members(record: Record) -> dict[int, int]:
    """Node → softmax of its attention call: torch defines the scaled softmax of scores by the two scalings, the two products and between.

    Only that definition takes `_safe_softmax`, so it marks the calls also where no call of their own is recorded, inside of
    `F.multi_head_attention_forward`.
    """
    found: dict[int, int] = {}
    softmaxes = [node for node in record.nodes if node.op == "aten._safe_softmax.default"]
    calls = {node.event: node.id for node in softmaxes if node.function == CALL}
    for node in record.nodes if calls else ():
        if node.function == CALL and node.event in calls:
            found[node.id] = calls[node.event]
    softmaxes = [node for node in softmaxes if node.id not in found]
    if not softmaxes:
        return found
    producers, consumers = record.producers(), record.consumers()

    def above(node: Node, inside: frozenset[str] | None) -> None:
        found[node.id] = group.id
        for value in node.inputs:
            maker = producers.get(value)
            if maker is None or maker.event != group.event or maker.phase != group.phase or maker.id in found:
                continue
            if inside is None and base(maker.op) == "aten.mul":
                found[maker.id] = group.id
            elif inside is None or base(maker.op) in inside:
                above(maker, inside if inside is None or base(maker.op) != "aten.expand" else frozenset())

    for group in softmaxes:
        above(group, None)
        ahead = [group]
        while ahead:
            node = ahead.pop()
            found[node.id] = group.id
            if node is not group:
                above(node, RESHAPED if base(node.op) == "aten.bmm" else DROPPED)
            for value in node.outputs:
                for reader in consumers.get(value, ()) if value is not None else ():
                    after = base(node.op) != "aten.bmm" or base(reader.op) == "aten._unsafe_view"
                    shaped = base(node.op) != "aten._unsafe_view" or producers[node.inputs[0]].op != "aten.bmm.default"
                    if reader.event == group.event and reader.phase == group.phase and after and shaped:
                        ahead.append(reader)
    return found


TURNS = ("aten.transpose", "aten.permute")
CALL = "scaled_dot_product_attention"
RESHAPED = frozenset({"aten._unsafe_view", "aten.view", "aten.clone", "aten.expand"})
"""What a batched matrix product does to its operands, an expansion first."""
DROPPED = frozenset({"aten.bernoulli", "aten.div"})
"""How a dropout's mask is made."""


def _own(record: Record) -> set[int]:
    return {record.values[parameter.value].storage for parameter in record.parameters}


def _kept(record: Record) -> set[int]:
    """Storages that stay to the end: inputs, outputs, the loss and the gradients of parameters."""
    ids = [item.value for item in (*record.inputs, *record.outputs)]
    ids += [item.gradient for item in (*record.parameters, *record.inputs) if item.gradient is not None]
    ids += [] if record.loss is None else [record.loss]
    return {record.values[value].storage for value in ids}


def saved(record: Record, groups: Groups) -> dict[int, str]:
    """Storage → the module that keeps it for the backward pass: where several do, the first in the forward pass.

    Row statistics of fused attention have the key −1 − softmax node.
    """
    values, own = record.values, _own(record)
    forward: set[int] = {values[item.value].storage for item in record.inputs}
    for node in record.nodes:
        if node.phase != "backward":
            forward.update(values[value].storage for value in node.inputs)
            forward.update(values[value].storage for value in node.outputs if value is not None)
    found: dict[int, str] = {}
    for node, group in zip(record.nodes, groups.of, strict=True):
        if node.phase != "backward":
            continue
        for value in node.inputs:
            storage = values[value].storage
            if storage in forward and storage not in own and storage not in groups.internal:
                found[storage] = node.module
        call = groups.calls.get(group)
        if call is not None and node.id not in groups.members and record.nodes[call.first].phase != "backward":
            found.update(dict.fromkeys((*call.operands, *call.results, -1 - group), node.module))
    return found


def memory(record: Record, groups: Groups, kept_for_backward: dict[int, str]) -> Memory:
    """All sums of `Memory`."""
    values, own = record.values, _own(record)
    parameters = {values[p.value].storage: p for p in record.parameters if not p.buffer}
    buffers = {values[p.value].storage for p in record.parameters if p.buffer} - set(parameters)
    arrived = [p for p in record.parameters if p.gradient is not None]
    stepped = [p for p in record.parameters if p.trainable and not p.buffer and (p.gradient is not None or not arrived)]
    gradients = {values[p.gradient].storage for p in stepped if p.gradient is not None}
    state = sum(_bytes(record, p.value) for p in stepped)
    peak, at = _peak(record, groups, own)
    where = record.nodes[at] if record.nodes else None
    return Memory(
        parameters=sum(record.storages[s] for s in parameters),
        buffers=sum(record.storages[s] for s in buffers),
        gradients=sum(record.storages[s] for s in gradients) if arrived else state,
        inputs=sum(record.storages[s] for s in {values[item.value].storage for item in record.inputs}),
        saved=sum(saved_bytes(groups, storage) for storage in kept_for_backward),
        storages=len(kept_for_backward),
        peak=peak,
        peak_at="" if where is None else f"{where.op} in {where.module or '(model)'}",
        peak_phase="" if where is None else where.phase,
        state=state,
        tensors=len(stepped),
    )


def saved_bytes(groups: Groups, storage: int) -> int:
    """Bytes of an entry of `saved`."""
    return groups.calls[-1 - storage].rows if storage < 0 else groups.size(storage)


def _bytes(record: Record, value: int) -> int:
    return record.values[value].size * itemsize(record.values[value].dtype)


def _peak(record: Record, groups: Groups, own: set[int]) -> tuple[int, int]:
    """The largest sum of live storages, and the node at which it is."""
    values = record.values
    birth: dict[int, int] = {values[item.value].storage: 0 for item in record.inputs}
    death: dict[int, int] = {}
    for node in record.nodes:
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                storage = values[value].storage
                birth.setdefault(storage, node.id)
                death[storage] = node.id
    end = len(record.nodes)
    for storage in _kept(record):
        if storage in birth:
            death[storage] = end
    change = [0] * (end + 1)
    for group, call in groups.calls.items():
        last = groups.last[group]
        change[call.first] += call.rows
        change[min(last + 1, end)] -= call.rows
        if group in groups.backward:
            for storage in (*call.operands, *call.results):
                death[storage] = max(death.get(storage, 0), last)
    for storage, start in birth.items():
        if storage not in own and storage not in groups.internal:
            change[start] += record.storages[storage]
            change[min(death.get(storage, end) + 1, end)] -= record.storages[storage]
    best = at = alive = 0
    for position in range(end):
        alive += change[position]
        if alive > best:
            best, at = alive, position
    return best, at
