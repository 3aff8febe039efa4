"""Counts for a terminal of 80 columns and as Markdown: totals, the tree of modules with repeated blocks folded, operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from initio.core.counts import Counts, ModuleCount, OpCount, Work

__all__ = ["Row", "amount", "markdown", "rows", "show", "size"]

OPS = 8
"""As many operations are shown."""


def amount(value: float) -> str:
    """Four significant digits with a decimal prefix; integers below a thousand as they are.

    >>> amount(4089184256), amount(0), amount(768), amount(6.77e12)
    ('4.089 G', '0', '768', '6.770 T')
    """
    if abs(value) < 1000:
        return f"{value:.4g}"
    for prefix in ("k", "M", "G", "T", "P"):
        value /= 1000
        if abs(value) < 999.95:
            return f"{value:#.4g} {prefix}"
    return f"{value / 1000:#.4g} E"


def size(value: int) -> str:
    """Bytes, with decimal prefixes.

    >>> size(102228128), size(0)
    ('102.2 MB', '0 B')
    """
    text = amount(value)
    return f"{text}B" if " " in text else f"{text} B"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the tree: `repeated` equal neighbours stand in one, `below` says that modules below it are not shown."""

    depth: int
    name: str
    module: ModuleCount
    repeated: int
    below: bool


def rows(counts: Counts, depth: int) -> list[Row]:
    """The tree down to `depth` levels below the model; neighbours whose whole subtrees cost the same are folded into one line."""
    children: dict[str, list[ModuleCount]] = {}
    paths = {module.path for module in counts.modules}
    for module in counts.modules[1:]:
        children.setdefault(_holder(module.path, paths), []).append(module)
    signatures: dict[str, tuple[object, ...]] = {}

    def signature(module: ModuleCount) -> tuple[object, ...]:
        if module.path not in signatures:
            below = tuple((_last(child.path, module.path), signature(child)) for child in children.get(module.path, ()))
            own = (
                module.kind,
                module.calls,
                module.inputs,
                module.outputs,
                module.parameters,
                module.forward,
                module.backward,
                module.saved,
            )
            signatures[module.path] = (*own, below)
        return signatures[module.path]

    def walk(module: ModuleCount, level: int, name: str, repeated: int) -> Iterator[Row]:
        inner = children.get(module.path, [])
        yield Row(level, name, module, repeated, bool(inner) and level >= depth)
        if level >= depth:
            return
        position = 0
        while position < len(inner):
            first = inner[position]
            end = position + 1
            while end < len(inner) and signature(inner[end]) == signature(first):
                end += 1
            label = _last(first.path, module.path)
            if end - position > 1:
                label += f" … {_last(inner[end - 1].path, module.path)}"
            yield from walk(first, level + 1, label, end - position)
            position = end

    return list(walk(counts.model, 0, "(model)", 1))


def _holder(path: str, paths: set[str]) -> str:
    while path:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
        if path in paths:
            return path
    return ""


def _last(path: str, holder: str) -> str:
    return path[len(holder) :].lstrip(".")


def _shape(module: ModuleCount) -> str:
    sides = ["x".join(map(str, shapes[0])) if shapes else "" for shapes in (module.inputs, module.outputs)]
    return " → ".join(side or "…" for side in sides) if any(sides) else ""


def show(counts: Counts, console: Console, *, depth: int = 2) -> None:
    """Totals, memory, the tree, and the operations with most work."""
    for line in _head(counts):
        console.print(Text(line))
    console.print()
    console.print(_work(counts))
    console.print()
    for name, value in _memory(counts):
        console.print(Text(f"{name:<44}{value}"))
    if counts.symbolic:
        console.print()
        for name, formula in _formulas(counts):
            console.print(Text(f"{name} = {formula}"))
    console.print()
    console.print(_tree(counts, depth))
    console.print()
    console.print(_operations(counts))
    for line in _tail(counts):
        console.print(Text(line, style="yellow" if line.startswith("not counted") else "dim"))


def _head(counts: Counts) -> list[str]:
    inputs = ", ".join(f"{name} {'x'.join(map(str, shape))} {dtype}" for name, shape, dtype in counts.inputs)
    here = counts.parameters
    parts = [f"{here.trainable:,} trainable"]
    parts += [f"{value:,} {word}" for value, word in ((here.frozen, "frozen"), (here.loose, "that no optimizer sees")) if value]
    tied = f"; {here.tied:,} have several names and count once" if here.tied else ""
    return [f"{counts.target}  {inputs}", f"{here.total:,} parameters ({', '.join(parts)}{tied}), {here.buffers:,} in buffers"]


def _work_rows(counts: Counts) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, work in (("forward", counts.forward), ("backward", counts.backward)):
        cells = (
            amount(work.macs),
            amount(work.flops),
            amount(work.products),
            amount(work.entries),
            size(work.moved),
            f"{work.intensity:.3g}",
        )
        found.append((name, *cells))
    return found


COLUMNS = ("pass", "MACs", "FLOPs", "MACs of activations", "other entries", "moved", "FLOP/B")


def _table(columns: Sequence[str], left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right", no_wrap=True, overflow="ellipsis")
    return table


def _work(counts: Counts) -> Table:
    table = _table(("", "MACs", "FLOPs", "act × act", "entries", "moved", "FLOP/B"))
    for row in _work_rows(counts):
        table.add_row(*row)
    return table


def _memory(counts: Counts) -> list[tuple[str, str]]:
    here = counts.memory
    return [
        ("parameters, gradients, buffers", f"{size(here.parameters)}, {size(here.gradients)}, {size(here.buffers)}"),
        (f"saved for the backward pass ({here.storages} tensors)", size(here.saved)),
        ("peak beside parameters", f"{size(here.peak)} ({here.peak_phase})"),
        ("training with SGD, momentum, Adam", ", ".join(size(here.training(name)) for name in ("sgd", "momentum", "adam"))),
    ]


def _formulas(counts: Counts) -> list[tuple[str, str]]:
    names = ("parameters", "forward.macs", "forward.flops", "backward.macs", "backward.flops", "memory.saved")
    return [(name, str(counts.symbolic[name])) for name in names if name in counts.symbolic]


def _tree(counts: Counts, depth: int) -> Table:
    table = _table(("module", "parameters", "MACs", "FLOPs", "saved"))
    table.columns[0].min_width, table.columns[0].max_width = 28, 40
    for row in rows(counts, depth):
        times = f" ({row.repeated} ×)" if row.repeated > 1 else ""
        name = Text("  " * row.depth + row.name + times)
        name.append(f" {row.module.kind}", style="dim")
        here = row.module
        own = f"{here.parameters.total:,}" if here.parameters.total else "–"
        cells = [amount(v) if v else "–" for v in (here.forward.macs, here.forward.flops)]
        table.add_row(name, own, *cells, size(here.saved) if here.saved else "–")
    return table


def _operations(counts: Counts) -> Table:
    table = _table(("operation", "phase", "nodes", "MACs", "FLOPs", "entries", "moved"), left=2)
    for op in counts.ops[:OPS]:
        table.add_row(Text(_op(op)), op.phase, str(op.nodes), *_cells(op.work))
    return table


def _op(op: OpCount) -> str:
    return op.op.removeprefix("aten.") + (f" ({op.function})" if op.function else "")


def _cells(work: Work) -> list[str]:
    return [amount(value) if value else "–" for value in (work.macs, work.flops, work.entries)] + [size(work.moved)]


def _tail(counts: Counts) -> list[str]:
    more = len(counts.ops) - OPS
    lines = [f"… and {more} operations with less work"] if more > 0 else []
    lines += [f"not counted: {each.nodes} × {each.op}, first in {each.module or '(model)'}" for each in counts.uncounted]
    if any(op.function for op in counts.ops):
        kept = "a fused kernel, which keeps no S × S matrix" if counts.attention == "fused" else "its definition, with its S × S matrices"
        lines.append(f"scaled dot-product attention is taken as {kept}")
    lines.append("FLOPs = 2 MACs of matrix products, convolutions and attention; entries: what all other arithmetic handles")
    return [*lines, *(f"note: {note}" for note in counts.notes)]


def markdown(counts: Counts, depth: int = 2) -> str:
    """The same tables for a pull request or a file."""
    head = _head(counts)
    lines = [f"## `{counts.target}`", "", head[0].partition("  ")[2], "", head[1] + ".", ""]
    lines += _grid(COLUMNS, _work_rows(counts))
    lines += _grid(("memory", "bytes"), _memory(counts))
    lines += _grid(("count", "polynomial"), _formulas(counts)) if counts.symbolic else []
    tree = [
        (
            f"{'&nbsp;&nbsp;' * row.depth}`{row.name}`{f' × {row.repeated}' if row.repeated > 1 else ''} {row.module.kind}",
            _shape(row.module), f"{row.module.parameters.total:,}", amount(row.module.forward.macs), amount(row.module.forward.flops),
            amount(row.module.backward.flops), size(row.module.saved),
        )
        for row in rows(counts, depth)
    ]  # fmt: skip
    lines += _grid(("module", "shapes", "parameters", "MACs", "FLOPs", "backward FLOPs", "saved"), tree)
    ops = [(f"`{_op(op)}`", op.phase, str(op.nodes), *_cells(op.work)) for op in counts.ops[:OPS]]
    lines += _grid(("operation", "phase", "nodes", "MACs", "FLOPs", "entries", "moved"), ops)
    return "\n".join([*lines, *(f"> {line}" for line in _tail(counts))]) + "\n"


def _grid(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in cells), ""]
