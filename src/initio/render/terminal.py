"""Reports and analyses for a terminal: rich, readable at 80 columns, without colour where the output is piped."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from initio.core.analysis import Analysis, NodeResult
from initio.core.finding import Finding
from initio.core.record import Source
from initio.core.report import SEVERITIES, Report

__all__ = ["number", "page", "place", "show", "show_report", "show_rules", "show_summary"]

NOTES = 5
"""As many notes are shown."""
STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}


def number(value: float) -> str:
    """Four significant digits; NaN as a dash.

    >>> number(0.123456), number(float("nan")), number(3e-16)
    ('0.1235', '–', '3e-16')
    """
    return "–" if math.isnan(value) else f"{value:.4g}"


def place(source: Source | None) -> str:
    """`file:line`, relative to the working directory where the file is below it."""
    if source is None:
        return ""
    path = Path(source.file)
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        return str(source)
    return f"{path if relative.startswith('..') else relative}:{source.line}"


def show_report(report: Report, console: Console) -> None:
    """One target: a heading, its findings with place, evidence and remedy, then notes."""
    counts = [f"{report.count(s)} {s}{'s' * (report.count(s) != 1)}" for s in SEVERITIES if report.count(s)]
    style = STYLES.get(report.findings[0].severity, "") if report.findings else "bold green"
    console.print(Text.assemble((report.target, "bold"), "  ", (", ".join(counts) or "nothing found", style)))
    if report.about:
        console.print(Padding(Text(report.about, style="italic"), (0, 0, 0, 2), expand=False))
    for finding in report.findings:
        _show_finding(finding, console)
    for note in _some(report.notes):
        console.print(Padding(Text(f"note: {note}", style="dim"), (0, 0, 0, 2), expand=False))
    if report.ignored:
        console.print(Padding(Text(f"{report.ignored} deselected", style="dim"), (0, 0, 0, 2), expand=False))


def _show_finding(finding: Finding, console: Console) -> None:
    head = Text.assemble((finding.code, STYLES[finding.severity]), " ", (finding.name, "bold"), "  ", finding.module or "(model)")
    console.print(Padding(head, (1, 0, 0, 2), expand=False))
    if finding.source is not None:
        line = f"{place(finding.source)}  {finding.source.text}".rstrip()
        console.print(Padding(Text(line, style="dim", overflow="fold"), (0, 0, 0, 4), expand=False))
    console.print(Padding(Text(finding.message[:1].upper() + finding.message[1:]), (0, 0, 0, 4), expand=False))
    if finding.also:
        more = f" and {len(finding.also) - 3} more" if len(finding.also) > 3 else ""
        console.print(Padding(Text("concerns " + ", ".join(finding.also[:3]) + more, style="dim"), (0, 0, 0, 4), expand=False))
    if finding.remedy:
        console.print(Padding(Text.assemble(("→ ", "green"), finding.remedy), (0, 0, 0, 4), expand=False))


def show_summary(reports: Sequence[Report], console: Console) -> None:
    """The last lines: what to do first, and where to read on."""
    findings = [(report, finding) for report in reports for finding in report.findings]
    console.print()
    if not findings:
        console.print(Text("Nothing found.", style="bold green"))
        return
    report, first = min(findings, key=lambda pair: SEVERITIES.index(pair[1].severity))
    where = f"{first.module or 'the model'}" + (f" ({place(first.source)})" if first.source else "")
    console.print(Text.assemble(("First: ", "bold"), f"{first.code} {first.name} in {where} of {report.target}."))
    console.print(Text(f"`initio explain {first.code}` says what it means and what to write instead.", style="dim"))


def show(analysis: Analysis, console: Console, *, nodes: bool = False, paths: bool = False, title: str = "") -> None:
    """Tables of modules and parameters (and operations), then what no rule could say."""
    record = analysis.record
    claims = ", ".join(f"{count} {claim}" for claim, count in sorted(analysis.claims.items()))
    console.print(Text.assemble((title, "bold"), "  " if title else "", f"{len(record.nodes)} operations; outputs: {claims}"))
    for line in record.inputs:
        shape = "x".join(map(str, record.values[line.value].shape))
        console.print(Text(f"input {line.name}: {shape} {line.distribution}", style="dim"))
    if paths:
        console.print(_paths(analysis) if analysis.paths else Text("No value is read twice on the way back: nothing forks.", style="dim"))
        return
    console.print(_modules(analysis))
    console.print(_parameters(analysis))
    if nodes:
        console.print(_nodes(analysis.nodes))
    if analysis.unknown:
        console.print(Text(f"{len(analysis.unknown)} operation outputs without a claim", style="bold yellow"))
        for reason, some in _by_reason(analysis.unknown).items():
            ops = ", ".join(dict.fromkeys(node.op for node in some))
            console.print(
                Padding(
                    Text(f"{len(some)} × {reason}  [{ops}] first in {some[0].module or '(model)'} {place(some[0].source)}"), (0, 0, 0, 2)
                )
            )
    for note in _some(analysis.notes):
        console.print(Text(f"note: {note}", style="dim"))


def _some(notes: Sequence[str]) -> list[str]:
    more = [f"{len(notes) - NOTES} more notes stand in the JSON"] if len(notes) > NOTES else []
    return [*notes[:NOTES], *more]


def _by_reason(nodes: Sequence[NodeResult]) -> dict[str, list[NodeResult]]:
    groups: dict[str, list[NodeResult]] = {}
    for node in nodes:
        groups.setdefault(node.reason, []).append(node)
    return groups


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for position, column in enumerate(columns):
        right = column in ("mean", "rms", "grad rms", "grad/weight", "gain", "skip")
        table.add_column(column, justify="right" if right else "left", no_wrap=position > 0, overflow="fold")
    return table


def _modules(analysis: Analysis) -> Table:
    table = _table("module", "shape", "mean", "rms", "grad rms", "claim")
    for result in analysis.modules.values():
        for call in result.calls:
            name = (result.path or "(model)") + (f" #{call.call}" if len(result.calls) > 1 else "")
            shape = "x".join(map(str, call.shape))
            claim = Text(call.claim, style="yellow" if call.claim == "unknown" else "")
            table.add_row(Text(name), shape, number(call.mean), number(call.rms), number(call.grad_rms), claim)
    return table


def _parameters(analysis: Analysis) -> Table:
    table = _table("parameter", "initial distribution", "rms", "grad rms", "grad/weight", "claim")
    for result in analysis.parameters.values():
        if result.buffer:
            continue
        tied = f" (= {', '.join(result.names[1:])})" if len(result.names) > 1 else ""
        claim = Text(result.grad_claim, style="yellow" if result.grad_claim in ("unknown", "none") else "")
        table.add_row(
            Text(result.name + tied),
            str(result.distribution)[:36],
            number(result.rms),
            number(result.grad_rms),
            number(result.ratio),
            claim,
        )
    return table


def _paths(analysis: Analysis) -> Table:
    """Blocks from the input to the output: E[g²] at the input over E[g²] at the output, and how it divides."""
    table = _table("block", "gain", "skip", "branches")
    for fork in analysis.paths:
        branches = [path for path in fork.paths if path.kind == "branch"]
        names = ", ".join(f"{path.share:.0%} {_within(path.modules, fork.module)}" for path in branches)
        table.add_row(Text(fork.module or "(model)"), number(fork.gain), f"{fork.skip_share:.0%}", Text(names))
    return table


def _within(modules: Sequence[str], block: str) -> str:
    """The first and the last module of a branch, named from its block."""
    inner = [name.removeprefix(f"{block}.") if block else name for name in modules if name != block]
    return inner[0] if len(inner) == 1 else f"{inner[0]} … {inner[-1]}" if inner else "no module"


def _nodes(nodes: Sequence[NodeResult]) -> Table:
    table = _table("operation", "phase", "shape", "mean", "rms", "claim")
    for node in nodes:
        op = node.op.removeprefix("aten.") + (f"[{node.output}]" if node.output else "")
        table.add_row(
            Text(f"{node.module} {op}".strip()), node.phase, "x".join(map(str, node.shape)), number(node.mean), number(node.rms), node.claim
        )
    return table


def page(markdown: str, console: Console) -> None:
    """A documentation page."""
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        console.print(Text(markdown), soft_wrap=True)


def show_rules(rows: Sequence[tuple[str, str, str, str]], console: Console) -> None:
    """All checks: code, name, severity and one sentence."""
    table = _table("code", "name", "severity", "what")
    table.columns[3].no_wrap = False
    for code, name, severity, summary in rows:
        table.add_row(Text(code, style=STYLES[severity]), name, severity, summary)
    console.print(table)
