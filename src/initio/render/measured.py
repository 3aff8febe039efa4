"""Prediction beside measurement, as tables for a terminal and as rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from initio.interpreters.compare import Comparison
from initio.render.terminal import number

__all__ = ["show_compared", "tables"]

SHOWN = 15


def _name(key: Any) -> str:
    if isinstance(key, str):
        return key
    path, call, output = key
    return (path or "(model)") + (f" #{call}" if call else "") + (f" [{output}]" if output else "")


def tables(parts: Mapping[str, Comparison[Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table as plain data."""
    names = ("claim", "predicted", "measured", "error", "z", "passes")
    return {
        title: [{"key": _name(row.key), **{name: getattr(row, name) for name in names}} for row in part.rows]
        for title, part in parts.items()
    }


def show_compared(target: str, draws: int, interrupted: bool, parts: Mapping[str, Comparison[Any]], console: Console) -> None:
    """A summary a table, and its worst rows."""
    stopped = ", interrupted" if interrupted else ""
    console.print(Text.assemble((target, "bold"), f"  {draws} draws{stopped}"))
    for title, part in parts.items():
        if not part.rows:
            continue
        heading = f"  {part.nodes} measured, {part.unknown} without a claim"
        errors = (
            f"rms error: median {part.median:.2%}, 95th percentile {part.p95:.2%}; {part.passing:.0%} within 5 % or two standard errors"
        )
        console.print(Text.assemble(("\n" + title, "bold"), heading))
        console.print(Text(errors))
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
        table.add_column("worst first", overflow="fold")
        for column in ("predicted", "measured", "error", "z", "claim"):
            table.add_column(column, justify="left" if column == "claim" else "right", no_wrap=True)
        for row in part.rows[:SHOWN]:
            style = "" if row.passes else "yellow"
            cells = (number(row.predicted), number(row.measured), f"{row.error:.2%}" if row.error == row.error else "–", f"{row.z:+.1f}")
            table.add_row(Text(_name(row.key), style=style), *cells, row.claim)
        console.print(table)
