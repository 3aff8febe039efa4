"""Parameters, arithmetic and memory of a recorded step, by module and by operation; reads the record alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from initio.core.counts import Attention, Counts, ModuleCount, OpCount, Parameters, Uncounted, Work
from initio.core.record import Argument, Call, Node, Parameter, Record, Ref
from initio.interpreters.flops import is_contraction, macs
from initio.interpreters.kinds import base, is_entrywise, is_plumbing, is_view
from initio.interpreters.memory import Groups, itemsize, memory, saved, saved_bytes

__all__ = ["count"]

NOTHING = Work()


def count(record: Record, *, attention: Attention = "fused", target: str = "") -> Counts:
    """Count a record.

    `attention` "fused" takes scaled dot-product attention as a kernel that keeps no S × S matrix and computes Q·Kᵀ once more in the
    backward pass; "math" as its definition, which is what runs where no fused kernel applies (dropout in it on a CPU, say).
    Other attention code is counted as it is written.
    """
    groups = Groups(record, attention)
    work, uncounted = _works(record, groups)
    keepers = saved(record, groups)
    modules = _modules(record, work, {storage: (path, saved_bytes(groups, storage)) for storage, path in keepers.items()})
    inputs = tuple((item.name, record.values[item.value].shape, record.values[item.value].dtype) for item in record.inputs)
    return Counts(target, modules, _ops(record, groups, work), memory(record, groups, keepers), uncounted, attention, inputs, record.notes)


def _works(record: Record, groups: Groups) -> tuple[list[Work], tuple[Uncounted, ...]]:
    """The work of each node, and the operations that have no formula."""
    static = _static(record)
    weighted: dict[int, bool] = {}
    first: dict[int, int] = {}
    work: list[Work] = []
    unknown: dict[str, list[Node]] = {}
    for node, group in zip(record.nodes, groups.of, strict=True):
        moved = 0 if is_view(node.op) else _moved(record, groups, node)
        if not is_contraction(node.op):
            entries = 0
            if is_entrywise(node.op):
                entries = max(_entries(record, node.inputs), _entries(record, node.outputs))
            elif not is_plumbing(node.op):
                unknown.setdefault(base(node.op), []).append(node)
            work.append(Work(0, 0, entries, moved))
            continue
        total = macs(node, record)
        by_weight = weighted.get(node.origin)
        if by_weight is None:
            by_weight = any(value in static for value in _factors(node))
        weighted[node.id] = by_weight
        if node.id in groups.members:
            first.setdefault(group, total)
        work.append(Work(total, total if by_weight else 0, 0, moved))
    for node, group in zip(record.nodes, groups.of, strict=True):
        if group in groups.backward and node.id not in groups.members and is_contraction(node.op):
            work[node.id] += Work(first.pop(group, 0))  # Q·Kᵀ once more
    return work, tuple(Uncounted(op, len(nodes), nodes[0].module) for op, nodes in unknown.items())


def _static(record: Record) -> set[int]:
    """Values that follow from parameters, buffers and known values alone: weights, their transposes and casts."""
    static = {parameter.value for parameter in record.parameters} | set(record.constants)
    for node in record.nodes:
        inputs = node.inputs
        if inputs and all(value in static for value in inputs):
            static.update(value for value in node.outputs if value is not None)
    return static


def _factors(node: Node) -> Iterable[int]:
    """The tensors that a contraction multiplies; a bias is none."""
    skip = 1 if base(node.op) in ("aten.addmm", "aten.addmv", "aten.baddbmm", "aten.addbmm", "aten._addmm_activation") else 0
    backward = "backward" in node.op
    factors: tuple[Argument, ...] = node.args[skip : skip + 2] if not backward else node.args[1:3]
    return (factor.value for factor in factors if isinstance(factor, Ref))


def _entries(record: Record, ids: Iterable[int | None]) -> int:
    return sum(record.values[value].size for value in ids if value is not None)


def _moved(record: Record, groups: Groups, node: Node) -> int:
    total = 0
    for value in (*dict.fromkeys(node.inputs), *(out for out in node.outputs if out is not None)):
        here = record.values[value]
        total += min(here.size * itemsize(here.dtype), groups.size(here.storage))
    return total


def _ops(record: Record, groups: Groups, work: list[Work]) -> tuple[OpCount, ...]:
    table: dict[tuple[str, str, str], list[Work]] = {}
    for node, group, own in zip(record.nodes, groups.of, work, strict=True):
        if is_view(node.op):
            continue
        phase = "backward" if node.phase == "backward" else "forward"
        table.setdefault((base(node.op), phase, "attention" if group >= 0 else ""), []).append(own)
    rows = (OpCount(*key, len(works), sum(works, NOTHING)) for key, works in table.items())
    return tuple(sorted(rows, key=lambda row: (-row.work.macs, -row.work.entries, -row.work.moved, row.op)))


class _Paths:
    """Modules by path, in the order of the model, and the modules that a module stands in."""

    def __init__(self, record: Record) -> None:
        self.kinds: dict[str, str] = {"": "", **{path: kind.rpartition(".")[2] for path, kind in record.modules.items()}}
        for call in record.calls:
            self.kinds.setdefault(call.module, call.kind.rpartition(".")[2])
        self._above: dict[str, tuple[str, ...]] = {}

    def above(self, path: str) -> tuple[str, ...]:
        """The path's own module and all that hold it, the model last."""
        found = self._above.get(path)
        if found is None:
            if path and path not in self.kinds:
                found = self.above(_cut(path))
            else:
                found = (path, *self.above(_cut(path))) if path else ("",)
            self._above[path] = found
        return found


def _cut(path: str) -> str:
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def _modules(record: Record, work: list[Work], keepers: Mapping[int, tuple[str, int]]) -> tuple[ModuleCount, ...]:
    paths = _Paths(record)
    own: dict[str, dict[str, Work]] = {phase: defaultdict(Work) for phase in ("forward", "backward")}
    kept: defaultdict[str, int] = defaultdict(int)
    for node, done in zip(record.nodes, work, strict=True):
        table = own["backward" if node.phase == "backward" else "forward"]
        path = paths.above(node.module)[0]
        table[path] = table[path] + done
    for path, size in keepers.values():
        kept[paths.above(path)[0]] += size
    whole: dict[str, dict[str, Work]] = {phase: defaultdict(Work) for phase in own}
    for phase, table in own.items():
        for path, done in table.items():
            for holder in paths.above(path):
                whole[phase][holder] = whole[phase][holder] + done
    kept_below: defaultdict[str, int] = defaultdict(int)
    for path, size in kept.items():
        for holder in paths.above(path):
            kept_below[holder] += size
    parameters, direct = _parameters(record, paths)
    calls: dict[str, list[Call]] = {}
    for call in record.calls:
        calls.setdefault(call.module, []).append(call)
    rows: list[ModuleCount] = []
    for path, kind in paths.kinds.items():
        here = calls.get(path, [])
        shapes = [tuple(record.values[v].shape for v in ids) for ids in ((here[0].inputs, here[0].outputs) if here else ((), ()))]
        rows.append(
            ModuleCount(
                path,
                kind,
                len(here),
                shapes[0],
                shapes[1],
                parameters[path],
                direct[path],
                whole["forward"][path],
                own["forward"][path],
                whole["backward"][path],
                own["backward"][path],
                kept_below[path],
                kept[path],
            )
        )
    return tuple(rows)


def _parameters(record: Record, paths: _Paths) -> tuple[dict[str, Parameters], dict[str, Parameters]]:
    """Parameters at or below each module, and directly in it; one with several names counts once in each module that reaches it."""
    below: dict[str, Parameters] = defaultdict(Parameters)
    direct: dict[str, Parameters] = defaultdict(Parameters)
    for parameter in record.parameters:
        size = record.values[parameter.value].size
        entry = _entry(parameter, size)
        owners = dict.fromkeys(paths.above(name.rpartition(".")[0])[0] for name in parameter.names)
        for owner in owners:
            direct[owner] = direct[owner] + entry
        for holder in dict.fromkeys(holder for owner in owners for holder in paths.above(owner)):
            below[holder] = below[holder] + entry
    return below, direct


def _entry(parameter: Parameter, size: int) -> Parameters:
    if parameter.buffer:
        return Parameters(buffers=size)
    loose = not parameter.trainable and any("[" in name or "~" in name for name in parameter.names)
    tied = size if len(parameter.names) > 1 else 0
    if parameter.trainable:
        return Parameters(trainable=size, tied=tied)
    return Parameters(loose=size, tied=tied) if loose else Parameters(frozen=size, tied=tied)
