"""Training and evaluation mode side by side, for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from initio.core.modes import Parting, TrainEval
from initio.render.terminal import number, place

__all__ = ["show_modes"]


def show_modes(found: TrainEval, console: Console, *, title: str = "") -> None:
    """Where the modes part and by what, then every module with its moments in both."""
    parting = found.parting
    console.print(Text.assemble((title, "bold"), "  " if title else "", f"{len(parting)} of {len(found)} module outputs part"))
    for row in parting:
        if row.own:
            where = Text.assemble((row.path or "(model)", "bold"), f"  {row.why}")
            console.print(Padding(where, (0, 0, 0, 2), expand=False))
            source = next((place(cause.source) for cause in row.own if cause.source is not None), "")
            if source:
                console.print(Padding(Text(source, style="dim"), (0, 0, 0, 4), expand=False))
    for mode, modules in found.only.items():
        if modules:
            console.print(
                Padding(Text(f"called in {'training' if mode == 'train' else 'evaluation'} only: {', '.join(modules)}"), (0, 0, 0, 2))
            )
    if found.causes and not parting:
        console.print(Padding(Text("What differs leaves the moments as they are."), (0, 0, 0, 2)))
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for column in ("module", "mean train", "mean eval", "rms train", "rms eval", "E y² ratio", "why"):
        table.add_column(column, justify="left" if column in ("module", "why") else "right", no_wrap=column != "why", overflow="fold")
    for row in found:
        many = sum(1 for other in found if other.path == row.path) > 1
        name = (row.path or "(model)") + (f" #{row.call}.{row.output}" if many else "")
        ratio = Text("=" if row.parts is False else number(row.ratio), style="yellow" if row.parts else "")
        table.add_row(
            Text(name), number(row.train.mean), number(row.eval.mean), number(row.train.rms), number(row.eval.rms), ratio, Text(_why(row))
        )
    console.print(table)


def _why(row: Parting) -> str:
    if row.parts is None:
        return f"not known: {row.train.reason or row.eval.reason}"
    if row.own:
        return ", ".join(dict.fromkeys(cause.kind for cause in row.own))
    return row.why if row.parts else ""
