"""Prediction beside measurement, as tables for a terminal and as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from initio.render.terminal import number

__all__ = ["Compared", "show_compared", "tables"]

SHOWN = 15


class Line(Protocol):
    """One tensor, predicted and measured."""

    @property
    def key(self) -> Any:
        """Its name, or path, call and output."""

    @property
    def claim(self) -> str:
        """The claim of the prediction."""

    @property
    def predicted(self) -> float:
        """Predicted rms."""

    @property
    def measured(self) -> float:
        """Measured rms."""

    @property
    def error(self) -> float:
        """Relative error of the rms."""

    @property
    def z(self) -> float:
        """Distance in standard errors."""

    @property
    def passes(self) -> bool:
        """Whether it agrees."""


class Compared(Protocol):
    """A table of tensors, the worst first."""

    @property
    def rows(self) -> Sequence[Line]:
        """All of them."""

    @property
    def nodes(self) -> int:
        """Their number."""

    @property
    def unknown(self) -> int:
        """Those without a claim."""

    @property
    def median(self) -> float:
        """Median error."""

    @property
    def p95(self) -> float:
        """95th percentile of the error."""

    @property
    def passing(self) -> float:
        """Share that agrees."""


def _name(key: Any) -> str:
    if isinstance(key, str):
        return key
    path, call, output = key
    return (path or "(model)") + (f" #{call}" if call else "") + (f" [{output}]" if output else "")


def tables(parts: Mapping[str, Compared]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table as plain data."""
    names = ("claim", "predicted", "measured", "error", "z", "passes")
    return {
        title: [{"key": _name(row.key), **{name: getattr(row, name) for name in names}} for row in part.rows] for title, part in parts.items()
    }


def show_compared(target: str, draws: int, interrupted: bool, parts: Mapping[str, Compared], console: Console) -> None:
    """A summary a table, and its worst rows."""
    stopped = ", interrupted" if interrupted else ""
    console.print(Text.assemble((target, "bold"), f"  {draws} draws{stopped}"))
    for title, part in parts.items():
        if not part.rows:
            continue
        console.print(
            Text.assemble(
                ("\n" + title, "bold"),
                f"  {part.nodes} measured, {part.unknown} without a claim; rms error: median {part.median:.2%}, 95th percentile {part.p95:.2%}; "
                f"{part.passing:.0%} within 5 % or two standard errors",
            )
        )
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
        table.add_column("worst first", overflow="fold")
        for column in ("predicted", "measured", "error", "z", "claim"):
            table.add_column(column, justify="left" if column == "claim" else "right", no_wrap=True)
        for row in part.rows[:SHOWN]:
            style = "" if row.passes else "yellow"
            cells = (number(row.predicted), number(row.measured), f"{row.error:.2%}" if row.error == row.error else "–", f"{row.z:+.1f}")
            table.add_row(Text(_name(row.key), style=style), *cells, row.claim)
        console.print(table)
