"""Reports as SARIF 2.1.0: physical and logical locations, and fingerprints that survive moved lines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from initio.core.finding import Finding
from initio.core.plain import dumps
from initio.core.record import Source
from initio.core.report import Report

__all__ = ["render"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
RULES = "https://github.com/initio-dev/initio/blob/main/docs/checks.md"

Rule = tuple[str, str, str, str, str]
"""Code, name, severity, summary and page of a check."""


def render(reports: Sequence[Report], rules: Iterable[Rule], version: str) -> str:
    """One run; every result has its rule, and the line and the module path as locations."""
    found = [(report, finding) for report in reports for finding in report.findings]
    table = [rule for rule in rules if any(finding.code == rule[0] for _, finding in found)]
    index = {rule[0]: position for position, rule in enumerate(table)}
    driver = {
        "name": "initio",
        "version": version,
        "semanticVersion": version,
        "rules": [_rule(rule) for rule in table],
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"SRCROOT": {"uri": Path.cwd().as_uri() + "/"}},
        "results": [_result(report, finding, index) for report, finding in found],
        "invocations": [{"executionSuccessful": not any(report.analysis.record.crash for report in reports)}],
    }
    return dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule(rule: Rule) -> dict[str, Any]:
    code, name, severity, summary, page = rule
    return {
        "id": code,
        "name": "".join(part.capitalize() for part in name.split(" / ")[0].split("-")),
        "shortDescription": {"text": summary},
        "fullDescription": {"text": summary},
        "help": {"text": page, "markdown": page},
        "defaultConfiguration": {"level": severity},
    }


def _result(report: Report, finding: Finding, index: dict[str, int]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": finding.severity,
        "message": {"text": f"{finding.message} {finding.remedy}".strip()},
        "locations": [_location(finding.source, finding.module, report.target)],
        "partialFingerprints": {"initio/v1": finding.fingerprint},
        "properties": {"target": report.target, "module": finding.module, "evidence": dict(finding.evidence)},
    }
    if finding.code in index:
        result["ruleIndex"] = index[finding.code]
    if finding.also:
        logical = [_logical(path, report.target) for path in finding.also]
        result["relatedLocations"] = [{"logicalLocations": [each]} for each in logical]
    return result


def _location(source: Source | None, module: str, target: str) -> dict[str, Any]:
    location: dict[str, Any] = {"logicalLocations": [_logical(module, target)]}
    if source is not None and Path(source.file).is_absolute():
        region: dict[str, Any] = {"startLine": source.line}
        if source.text:
            region["snippet"] = {"text": source.text}
        location["physicalLocation"] = {"artifactLocation": _artifact(source.file), "region": region}
    return location


def _artifact(file: str) -> dict[str, str]:
    """Relative to the working directory where the file is below it."""
    try:
        relative = Path(os.path.relpath(file))
    except ValueError:  # another drive
        return {"uri": Path(file).as_uri()}
    if relative.parts[:1] == ("..",):
        return {"uri": Path(file).as_uri()}
    return {"uri": relative.as_posix(), "uriBaseId": "SRCROOT"}


def _logical(module: str, target: str) -> dict[str, str]:
    return {"name": module.rpartition(".")[2] or "(model)", "fullyQualifiedName": f"{target}/{module}".rstrip("/"), "kind": "module"}
