"""Rewrites with their proofs and times, and what was left alone, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Row", "show"]

Row = tuple[str, str, float, float | None, str]
"""Kind, modules, largest difference of the proof, time before / time after, what became of it."""


def show(rows: Sequence[Row], left: Sequence[tuple[str, str]], proof: float | None, training: bool, console: Console) -> None:
    """A table of the rewrites, the proof of the whole model, and the modules that were left alone by reason."""
    if rows:
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
        for column in ("rewrite", "modules", "differs by", "speed-up", ""):
            table.add_column(column, justify="right" if column in ("differs by", "speed-up") else "left", overflow="fold")
        for kind, modules, gap, ratio, verdict in rows:
            table.add_row(kind, modules, f"{gap:.0e}", "–" if ratio is None else f"{ratio:.2f}x", verdict)
        console.print(table)
    else:
        console.print(Text("No layers that compute the same as fewer."))
    mode = "training" if training else "evaluation"
    if proof is not None:
        console.print(Text(f"whole model, {mode} mode: outputs and gradients differ by {proof:.0e} in float64"))
    if left:
        console.print(Text("left alone", style="bold"))
        for names, reason in left:
            console.print(Text(f"  {names}: {reason}"))
    if not training:
        return
    console.print(Text("Batch norms and linear pairs fold in evaluation mode: --eval.", style="dim"))
