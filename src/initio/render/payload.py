"""What the report page shows, as plain data in columns: findings, modules, parameters, profiles, paths, the diagram."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from initio.checks.framework import find_check
from initio.core.analysis import Analysis, ParameterResult
from initio.core.counts import Counts
from initio.core.finding import Finding
from initio.core.report import SEVERITIES, Report, finding_dict
from initio.interpreters.compare import Comparison
from initio.interpreters.count import count
from initio.render.diagram import diagram
from initio.render.terminal import place

__all__ = ["LIMITS", "Measured", "payload", "rounded"]

Measured = Mapping[str, Comparison[Any]]
"""Comparisons by "outputs" and "cotangents", keyed by (module path, call, output)."""
NAN = math.nan
LIMITS = {
    "float16": (2.0**-14, 65504.0),
    "bfloat16": (1.175e-38, 3.39e38),
    "float8 e4m3": (2.0**-6, 448.0),
    "float8 e5m2": (2.0**-14, 57344.0),
}
"""Smallest normal and largest number of each format (IEEE 754 binary16; bfloat16; Micikevicius et al. 2022, table 1)."""


def payload(report: Report, measured: Measured | None = None, diffs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The page's data; numbers keep five significant digits, NaN is None. `diffs`: edits of findings by fingerprint."""
    analysis = report.analysis
    counts = count(analysis.record)
    paths = [module.path for module in counts.modules]
    index = {path: position for position, path in enumerate(paths)}
    data = {
        "schema": "initio.page/1",
        "version": importlib.import_module("initio").__version__,
        "target": report.target,
        "about": report.about,
        "training": analysis.record.training,
        "inputs": [[name, list(shape), dtype] for name, shape, dtype in counts.inputs],
        "summary": {severity: report.count(severity) for severity in SEVERITIES},
        "claims": analysis.claims,
        "notes": list(report.notes),
        "crash": None if analysis.record.crash is None else f"{analysis.record.crash.error}: {analysis.record.crash.message}",
        "findings": [_finding(finding, index, diffs or {}) for finding in report.findings],
        "pages": {code: _page(code) for code in dict.fromkeys(finding.code for finding in report.findings)},
        "totals": _totals(counts),
        "modules": _modules(analysis, counts, index),
        "points": _points(analysis, index, measured or {}),
        "parameters": _parameters(analysis, index),
        "forks": _forks(analysis, index),
        "diagram": _diagram(analysis, index),
        "limits": LIMITS,
    }
    return rounded(data)


def rounded(value: Any) -> Any:
    """The value with numbers to five significant digits, NaN as None and infinity as a text."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(f"{value:.5g}") if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _holder(path: str, index: Mapping[str, int]) -> int:
    """The module that stands nearest above a path."""
    while path:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
        if path in index:
            return index[path]
    return index.get("", -1)


def _at(path: str, index: Mapping[str, int]) -> int:
    return index[path] if path in index else _holder(path, index)


def _finding(finding: Finding, index: Mapping[str, int], diffs: Mapping[str, str]) -> dict[str, Any]:
    row = finding_dict(finding)
    row["diff"] = diffs.get(finding.fingerprint)
    row["at"] = _at(finding.module, index)
    row["source"] = None if finding.source is None else {"place": place(finding.source), "text": finding.source.text}
    if finding.fix is not None:
        row["fix"] = {name: getattr(finding.fix, name) for name in ("title", "applicability", "edit")}
    return row


def _page(code: str) -> str:
    """The check's documentation, Markdown."""
    return find_check(code).page


def _totals(counts: Counts) -> dict[str, Any]:
    return {
        "parameters": counts.parameters.total,
        "trainable": counts.parameters.trainable,
        "macs": counts.forward.macs,
        "backward": counts.backward.macs,
        "saved": counts.memory.saved,
        "adam": counts.memory.training("adam"),
    }


def _modules(analysis: Analysis, counts: Counts, index: Mapping[str, int]) -> dict[str, list[Any]]:
    results = dict(analysis.modules.items())
    nodes = analysis.tree.by_path()
    ratios = _ratios(analysis, counts, index)
    numbers = ("rms", "low", "high", "mean", "grad", "ratio", "correlation", "params", "macs", "saved")
    table: dict[str, list[Any]] = {name: [] for name in ("path", "kind", "parent", "calls", "shape", *numbers, "claim", "reason", "source")}
    for module in counts.modules:
        result = results.get(module.path)
        made = nodes[module.path].source if module.path in nodes else None
        row = {
            "path": module.path,
            "kind": module.kind,
            "parent": _holder(module.path, index) if module.path else -1,
            "calls": module.calls,
            "params": module.parameters.total,
            "macs": module.forward.macs,
            "saved": module.saved,
            "ratio": ratios[index[module.path]],
            "source": None if made is None or not module.path else [place(made), made.text],
        }
        if result is not None:
            band = result.band if math.isfinite(result.spread) else (NAN, NAN)
            row |= {"shape": list(result.shape), "rms": result.rms, "low": band[0], "high": band[1], "mean": result.mean}
            row |= {"grad": result.grad_rms, "claim": result.claim, "reason": result.reason}
            row["correlation"] = _correlation(analysis, result.value)
        for name, column in table.items():
            column.append(row.get(name))
    return table


def _correlation(analysis: Analysis, value: int) -> float:
    """E[x x′] / E[x²] between two samples of the batch."""
    here = analysis.of(value)
    return 1.0 - here.varying / here.second if here.second > 0 else NAN


def _ratios(analysis: Analysis, counts: Counts, index: Mapping[str, int]) -> list[float]:
    """√(Σ g² / Σ w²) over the trainable parameters at or below each module; NaN where one gradient is not known."""
    gradient, weight = [0.0] * len(index), [0.0] * len(index)
    for parameter in analysis.parameters.values():
        if parameter.buffer or not parameter.trainable:
            continue
        size = math.prod(parameter.shape)
        grad = 0.0 if parameter.grad_claim == "none" else parameter.grad_rms
        at = _at(parameter.name.rpartition(".")[0], index)
        while at >= 0:
            gradient[at] += size * grad**2
            weight[at] += size * parameter.rms**2
            path = counts.modules[at].path
            at = _holder(path, index) if path else -1
    return [math.sqrt(g / w) if w else NAN for g, w in zip(gradient, weight, strict=True)]


def _points(analysis: Analysis, index: Mapping[str, int], measured: Measured) -> dict[str, Any]:
    """One point for the first output of every call of a module that holds no further ones, in the order of execution."""
    record = analysis.record
    holders = {call.parent for call in record.calls}
    runs = {side: {row.key: row.measured for row in comparison.rows} for side, comparison in measured.items()}
    names = ("module", "call", "rms", "low", "high", "grad", "correlation", "dtype")
    table: dict[str, list[Any]] = {name: [] for name in (*names, *(f"measured_{side}" for side in runs))}
    for call in record.calls:
        if call.id in holders or not call.outputs:
            continue
        here = analysis.of(call.outputs[0])
        spread = 2.0 * here.spread
        cotangent = call.cotangents[0] if call.cotangents else None
        row: list[Any] = [
            _at(call.module, index), call.index, here.rms, here.rms * math.sqrt(max(1.0 - spread, 0.0)), here.rms * math.sqrt(1.0 + spread),
            analysis.of_gradient(cotangent).rms, _correlation(analysis, call.outputs[0]), record.values[call.outputs[0]].dtype,
        ]  # fmt: skip
        row += [found.get((call.module, call.index, 0), NAN) for found in runs.values()]
        for column, item in zip(table.values(), row, strict=True):
            column.append(item)
    return {"columns": table, "draws": bool(runs)}


def _parameters(analysis: Analysis, index: Mapping[str, int]) -> dict[str, list[Any]]:
    kept: Sequence[ParameterResult] = [p for p in analysis.parameters.values() if not p.buffer]
    rows: Iterable[tuple[str, list[Any]]] = (
        ("name", [p.name for p in kept]),
        ("module", [_at(p.name.rpartition(".")[0], index) for p in kept]),
        ("rms", [p.rms for p in kept]),
        ("grad", [p.grad_rms for p in kept]),
        ("ratio", [p.ratio if p.trainable else NAN for p in kept]),
        ("gradient", [p.gradient for p in kept]),
        ("law", [str(p.distribution)[:80] for p in kept]),
        ("shape", [list(p.shape) for p in kept]),
    )
    return dict(rows)


def _forks(analysis: Analysis, index: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "module": _at(fork.module, index),
            "gain": fork.gain,
            "skip": fork.skip_share,
            "paths": [[path.kind, path.share, path.modules[0] if path.modules else "", len(path.modules)] for path in fork.paths],
        }
        for fork in analysis.paths
    ]


def _diagram(analysis: Analysis, index: Mapping[str, int]) -> dict[str, Any]:
    drawn = diagram(analysis.record)
    boxes = [[box.label[:60], _at(box.module, index), int(box.call >= 0), box.layer, box.lane] for box in drawn.boxes]
    return {"boxes": boxes, "edges": [list(edge) for edge in drawn.edges], "level": drawn.level}
