"""Checks that a record answers by its structure alone: run once for all records that differ in their initial distributions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn, cast

from initio.checks.framework import TOLD, Context, all_checks
from initio.core.analysis import Analysis
from initio.core.distribution import Distribution
from initio.core.finding import Finding

__all__ = ["told"]


class _LookedError(BaseException):
    """A check looks at numbers. No check may catch it."""


class _Hidden:
    """Stands for what differs: whatever is done with it raises."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise _LookedError

    def __eq__(self, other: object) -> NoReturn:
        raise _LookedError

    def __hash__(self) -> NoReturn:
        raise _LookedError

    def __bool__(self) -> NoReturn:
        raise _LookedError


class _Blind:
    """An analysis that shows its record, without the distributions of parameters, and its module tree."""

    def __init__(self, analysis: Analysis) -> None:
        hidden = cast("Distribution", _Hidden())
        self.record = replace(analysis.record, parameters=tuple(replace(p, distribution=hidden) for p in analysis.record.parameters))
        self.tree = analysis.tree

    def __getattr__(self, name: str) -> NoReturn:
        raise _LookedError


def told(analysis: Analysis, structure: dict[str, Any]) -> dict[str, Any]:
    """The structure with the findings, by code, of every check that looks at neither moments nor distributions of this record."""

    def other(moments: bool) -> NoReturn:
        raise _LookedError

    findings: dict[str, tuple[Finding, ...]] = {}
    for candidate in all_checks():
        context = Context(cast("Analysis", _Blind(analysis)), other)
        context.__dict__.update(structure)
        try:
            findings[candidate.code] = candidate(context)
        except _LookedError:
            continue
    return {**structure, TOLD: findings}
