"""Reports as SARIF 2.1.0: physical and logical locations, fingerprints that survive moved lines, and edits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
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
    if finding.fix is not None and finding.fix.edit:
        fix = {"description": {"text": finding.fix.title}, "artifactChanges": _changes(finding.fix.edit)}
        result["fixes"] = [{**fix, "properties": {"applicability": finding.fix.applicability}}]
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


def _changes(diff: str) -> list[dict[str, Any]]:
    """The files of a unified diff, with what replaces which region."""
    changes: list[dict[str, Any]] = []
    lines = iter(diff.split("\n"))
    for each in lines:
        if each.startswith("+++ "):
            changes.append({"artifactLocation": _artifact(each[4:]), "replacements": []})
        elif each.startswith("@@"):
            changes[-1]["replacements"] += _hunk(each, lines)
    return changes


def _hunk(header: str, lines: Iterator[str]) -> list[dict[str, Any]]:
    """The replacements of one hunk; the iterator is left behind it."""
    (line, left), (_, right) = (_range(text) for text in header.split()[1:3])
    found: list[dict[str, Any]] = []
    old, new = list[str](), list[str]()
    while left or right or old or new:
        each = next(lines) if left or right else " "
        if each.startswith("-"):
            old.append(each[1:])
        elif each.startswith("+"):
            new.append(each[1:])
        elif not each.startswith("\\"):
            if old or new:
                found.append(_replacement(line, old, new))
            line, old, new = line + len(old) + 1, [], []
        left, right = left - each.startswith(("-", " ")) if left else 0, right - each.startswith(("+", " ")) if right else 0
    return found


def _range(text: str) -> tuple[int, int]:
    first, _, count = text[1:].partition(",")
    return int(first), int(count or 1)


def _replacement(line: int, old: list[str], new: list[str]) -> dict[str, Any]:
    """Whole lines; where some replace some, up to the end of the last one, which the file may not have ended."""
    region = {"startLine": line, "startColumn": 1, "endLine": line + len(old), "endColumn": 1}
    text = "".join(f"{each}\n" for each in new)
    if old and new:
        region, text = {**region, "endLine": line + len(old) - 1, "endColumn": len(old[-1]) + 1}, text[:-1]
    return {"deletedRegion": region, "insertedContent": {"text": text}}
