"""Reports and tables as JSON texts with a schema version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from initio.core.plain import dumps
from initio.core.report import Report

__all__ = ["render", "render_measurement"]


def render(reports: Sequence[Report]) -> str:
    """One report as itself, several under `reports`."""
    if len(reports) == 1:
        return reports[0].to_json()
    return dumps({"schema": "initio.reports/1", "reports": [report.to_dict() for report in reports]})


def render_measurement(target: str, draws: int, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Rows of prediction and measurement by table."""
    return dumps({"schema": "initio.measurement/1", "target": target, "draws": draws, **tables})
