"""What `initio check` says of one target: findings, the analysis behind them, and the exit status they call for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from initio.core.analysis import Analysis
from initio.core.finding import Finding
from initio.core.plain import dumps

__all__ = ["REPORT_SCHEMA", "SEVERITIES", "Report", "exit_status", "selected"]

REPORT_SCHEMA = "initio.report/1"
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Report:
    """The findings on one target, the gravest first. `ignored` counts those that were
    deselected or suppressed, `remarks` says what the suppressions did not need.
    """

    target: str
    findings: tuple[Finding, ...]
    analysis: Analysis = field(repr=False)
    ignored: int = 0
    about: str = ""
    remarks: tuple[str, ...] = ()

    def count(self, severity: str) -> int:
        """Number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know beside the findings: how data-dependent choices were made, what was not claimed."""
        unknown = len(self.analysis.unknown)
        said = (f"{unknown} of {len(self.analysis.nodes)} operation outputs carry no claim; `initio show` names them",) if unknown else ()
        return (*self.remarks, *said, *self.analysis.notes)

    def select(self, select: Iterable[str] = (), ignore: Iterable[str] = ()) -> Report:
        """The report restricted to codes that begin with one of `select` (all where empty) and with none of `ignore`."""
        kept = tuple(finding for finding in self.findings if selected(finding.code, select, ignore))
        return replace(self, findings=kept, ignored=self.ignored + len(self.findings) - len(kept))

    def to_dict(self) -> dict[str, Any]:
        """The report as nested dicts and lists."""
        return {
            "schema": REPORT_SCHEMA,
            "target": self.target,
            "about": self.about,
            "findings": [finding_dict(finding) for finding in self.findings],
            "summary": {severity: self.count(severity) for severity in SEVERITIES},
            "ignored": self.ignored,
            "crash": self.analysis.record.crash,
            "notes": self.notes,
        }

    def to_json(self) -> str:
        """JSON text with a `schema` version; NaN and infinity never appear bare."""
        return dumps(self.to_dict())

    def to_html(self, derivation: Any = None) -> str:
        """The report page: one HTML file that loads nothing; `derivation` (of `initio.derive`) is added as a folded section."""
        return importlib.import_module("initio.render.html").page(self, derivation=derivation)

    def _repr_html_(self) -> str:
        return importlib.import_module("initio.render.html").frame(self.to_html())

    def __str__(self) -> str:
        lines = [f"{self.target}: " + (", ".join(f"{self.count(s)} {s}s" for s in SEVERITIES if self.count(s)) or "no findings")]
        for finding in self.findings:
            place = f" at {finding.source}" if finding.source else ""
            lines.append(
                f"{finding.code} {finding.severity}: {finding.module or '(model)'}{place}: {finding.message} {finding.remedy}".rstrip()
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def finding_dict(finding: Finding) -> dict[str, Any]:
    """A finding as nested dicts, with its fingerprint."""
    names = ("code", "name", "severity", "message", "module", "source", "evidence", "remedy", "fix", "also", "entity", "fingerprint")
    return {name: getattr(finding, name) for name in names}


def selected(code: str, select: Iterable[str] = (), ignore: Iterable[str] = ()) -> bool:
    """Whether prefixes choose a code; the longer prefix wins, so that `--ignore SIG --select SIG101` keeps SIG101.

    >>> selected("SIG101", ["SIG"], ["SIG101"]), selected("SIG101", ["SIG101"], ["SIG"]), selected("REG101", ["SIG"])
    (False, True, False)
    """
    chosen = list(select)
    into = max((len(prefix) for prefix in chosen if code.startswith(prefix)), default=-1 if chosen else 0)
    out = max((len(prefix) for prefix in ignore if code.startswith(prefix)), default=-1)
    return into >= 0 and into > out


def exit_status(reports: Iterable[Report], fail_on: str = "warning") -> int:
    """0, or 1 where a finding is at least as grave as `fail_on` ("error", "warning", "never")."""
    gating = {"error": ("error",), "warning": ("error", "warning"), "note": SEVERITIES, "never": ()}[fail_on]
    return int(any(finding.severity in gating for report in reports for finding in report.findings))
