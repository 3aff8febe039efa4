"""Reports as workflow commands: GitHub shows them beside the lines of a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from initio.core.finding import Finding
from initio.core.report import Report
from initio.render.terminal import place

__all__ = ["render"]

LEVELS = {"error": "error", "warning": "warning", "note": "notice"}


def render(reports: Sequence[Report]) -> str:
    """A line a finding."""
    return "".join(_line(report, finding) + "\n" for report in reports for finding in report.findings)


def _line(report: Report, finding: Finding) -> str:
    properties = [("title", f"{finding.code} {finding.name}")]
    if finding.source is not None:
        file, _, line = place(finding.source).rpartition(":")
        properties = [("file", file), ("line", line), *properties]
    text = f"{finding.module or report.target}: {finding.message} {finding.remedy}".strip()
    return f"::{LEVELS[finding.severity]} {','.join(f'{key}={_property(value)}' for key, value in properties)}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
