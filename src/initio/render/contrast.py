"""Two models side by side, for a terminal of 80 columns and as Markdown."""

from __future__ import annotations

import math
from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from initio.core.contrast import Contrast, Point, Side, figures
from initio.render.counts import amount, size

__all__ = ["markdown", "show"]

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40


def show(contrast: Contrast, console: Console) -> None:
    """Figures with their ratio, the profiles of signal and gradient, and findings."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for column, justify in (("", "left"), ("A", "right"), ("B", "right"), ("B / A", "right")):
        table.add_column(column, justify="left" if justify == "left" else "right", no_wrap=True)
    for row in _rows(contrast):
        table.add_row(*row)
    for letter, side in (("A", contrast.a), ("B", contrast.b)):
        console.print(Text.assemble((f"{letter}  ", "bold"), side.name))
    console.print()
    console.print(table)
    console.print()
    for line in _profiles(contrast):
        console.print(Text(line))
    for line in _findings(contrast):
        console.print(Text(line))
    for note in contrast.notes:
        console.print(Text(f"note: {note}", style="dim"))


def _rows(contrast: Contrast) -> list[tuple[str, str, str, str]]:
    rows: list[tuple[str, str, str, str]] = []
    for name, a, b in figures(contrast):
        ratio = f"{b / a:.3g}" if a and b is not None else "–"
        rows.append((name, _figure(name, a), _figure(name, b), ratio))
    return rows


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name.startswith("bytes"):
        return size(int(value))
    if name.startswith("seconds"):
        return f"{value * 1000:.4g} ms"
    if "rms" in name:
        return f"{value:.4g}"
    return f"{int(value):,}" if name in ("parameters", "that an optimizer sees", "findings", "operations forward") else amount(value)


def _profiles(contrast: Contrast) -> list[str]:
    """log₁₀ of the root mean square along the depth, both sides on one scale."""
    lines: list[str] = []
    for title, name in (("signal", "rms"), ("gradient", "grad_rms")):
        logs = {letter: _logs(side.profile, name) for letter, side in (("A", contrast.a), ("B", contrast.b))}
        known = [value for values in logs.values() for value in values if value is not None]
        if not known:
            continue
        low, high = min(known), max(known)
        lines.append(f"{title} rms from first to last module, 1e{low:.1f} to 1e{high:.1f}")
        lines += [f"  {letter}  {_bars(values, low, high)}" for letter, values in logs.items()]
    return lines


def _logs(points: tuple[Point, ...], name: str) -> list[float | None]:
    """Values at evenly spaced modules, at most `WIDTH`; None where nothing is known."""
    values = [getattr(point, name) for point in points]
    if len(values) > WIDTH:
        values = [values[round(i * (len(values) - 1) / (WIDTH - 1))] for i in range(WIDTH)]
    return [math.log10(value) if math.isfinite(value) and value > 0 else None for value in values]


def _bars(values: list[float | None], low: float, high: float) -> str:
    span = max(high - low, 1.0)
    return "".join("·" if value is None else BARS[min(int((value - low) / span * 8), 7)] for value in values)


def _findings(contrast: Contrast) -> list[str]:
    return [f"findings in {letter}: {_codes(side)}" for letter, side in (("A", contrast.a), ("B", contrast.b))]


def _codes(side: Side) -> str:
    found = Counter(f"{finding.code} {finding.name}" for finding in side.report.findings)
    return ", ".join(name + (f" × {times}" if times > 1 else "") for name, times in found.items()) or "none"


def markdown(contrast: Contrast) -> str:
    """The same as a table, profiles in a code block."""
    lines = [f"## `{contrast.a.name}` (A) and `{contrast.b.name}` (B)", "", "| | A | B | B / A |", "|---|---:|---:|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(contrast)]
    lines += ["", "```text", *_profiles(contrast), "```", "", *(f"* {line}" for line in _findings(contrast))]
    return "\n".join([*lines, *(f"> {note}" for note in contrast.notes)]) + "\n"
