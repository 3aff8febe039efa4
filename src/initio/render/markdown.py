"""Reports as Markdown, for a pull request or a file."""

from __future__ import annotations

from collections.abc import Sequence

from initio.core.finding import Finding
from initio.core.report import SEVERITIES, Report
from initio.render.terminal import place

__all__ = ["render"]


def render(reports: Sequence[Report]) -> str:
    """A heading a target, a section a finding."""
    return "\n".join(line for report in reports for line in _report(report)).rstrip() + "\n"


def _report(report: Report) -> list[str]:
    counts = ", ".join(f"{report.count(s)} {s}{'s' * (report.count(s) != 1)}" for s in SEVERITIES if report.count(s))
    lines = [f"## `{report.target}`: {counts or 'nothing found'}", ""]
    for finding in report.findings:
        lines += [*_finding(finding), ""]
    return [*lines, *(f"> {note}" for note in report.notes), ""]


def _finding(finding: Finding) -> list[str]:
    where = f"`{finding.module or '(model)'}`" + (f" at `{place(finding.source)}`" if finding.source else "")
    lines = [f"### {finding.code} {finding.name} ({finding.severity})", "", f"{where}: {finding.message}"]
    if finding.also:
        lines += ["", "Concerns " + ", ".join(f"`{path}`" for path in finding.also) + "."]
    return [*lines, "", f"**Remedy.** {finding.remedy}"] if finding.remedy else lines
