"""Two models side by side: what each costs, how its signal and gradient run, what was found in it, how fast it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from initio.core.counts import Counts
from initio.core.plain import dumps
from initio.core.report import Report, finding_dict

__all__ = ["SCHEMA", "Contrast", "Point", "Side", "Timing", "figures", "profile"]

SCHEMA = "initio.contrast/1"


@dataclass(frozen=True, slots=True)
class Point:
    """One module output on the way: `depth` from 0 (first) to 1 (last), root mean square forward and backward (NaN: not known)."""

    path: str
    depth: float
    rms: float
    grad_rms: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Median seconds of `runs` runs on this machine: the forward pass without gradients, and the step (forward and backward)."""

    forward: float
    step: float
    runs: int


@dataclass(frozen=True)
class Side:
    """One of the two models."""

    name: str
    counts: Counts = field(repr=False)
    report: Report = field(repr=False)
    profile: tuple[Point, ...] = field(repr=False)
    timing: Timing | None = None


@dataclass(frozen=True)
class Contrast:
    """Both models; `notes` say what cannot be compared."""

    a: Side
    b: Side
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Both sides as nested dicts, and the ratio b / a of each figure."""
        rows = {name: (of(self.a), of(self.b)) for name, of in FIGURES if of(self.a) is not None and of(self.b) is not None}
        ratios = {name: b / a if a and b is not None else None for name, (a, b) in rows.items()}
        return {"schema": SCHEMA, "a": _side(self.a), "b": _side(self.b), "ratios": ratios, "notes": self.notes}

    def to_json(self) -> str:
        """JSON text with a `schema` version."""
        return dumps(self.to_dict())


def _side(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "figures": {name: of(side) for name, of in FIGURES},
        "profile": side.profile,
        "findings": [finding_dict(finding) for finding in side.report.findings],
    }


def profile(report: Report) -> tuple[Point, ...]:
    """Outputs of the modules without further modules inside, in the order of the calls."""
    analysis = report.analysis
    record = analysis.record
    holders = {call.parent for call in record.calls}
    leaves = [call for call in record.calls if call.id not in holders and call.outputs]
    points: list[Point] = []
    for position, call in enumerate(leaves):
        cotangent = call.cotangents[0] if call.cotangents else None
        depth = position / max(len(leaves) - 1, 1)
        points.append(Point(call.module, depth, analysis.of(call.outputs[0]).rms, analysis.of_gradient(cotangent).rms))
    return tuple(points)


Figure = tuple[str, Callable[[Side], "float | None"]]


def _seconds(name: str) -> Callable[[Side], float | None]:
    return lambda side: None if side.timing is None else getattr(side.timing, name)


def _end(name: str, last: bool) -> Callable[[Side], float | None]:
    def of(side: Side) -> float | None:
        known = [value for value in (getattr(point, name) for point in side.profile) if not math.isnan(value)]
        return known[-1 if last else 0] if known else None

    return of


FIGURES: tuple[Figure, ...] = (
    ("parameters", lambda side: side.counts.parameters.total),
    ("that an optimizer sees", lambda side: side.counts.parameters.trainable),
    ("forward MACs", lambda side: side.counts.forward.macs),
    ("forward FLOPs", lambda side: side.counts.forward.flops),
    ("backward FLOPs", lambda side: side.counts.backward.flops),
    ("bytes moved forward", lambda side: side.counts.forward.moved),
    ("bytes saved for backward", lambda side: side.counts.memory.saved),
    ("bytes to train with Adam", lambda side: side.counts.memory.training("adam")),
    ("operations forward", lambda side: sum(op.nodes for op in side.counts.ops if op.phase == "forward")),
    ("rms of the first output", _end("rms", False)),
    ("rms of the last output", _end("rms", True)),
    ("gradient rms at the first", _end("grad_rms", False)),
    ("findings", lambda side: len(side.report.findings)),
    ("seconds forward", _seconds("forward")),
    ("seconds for a step", _seconds("step")),
)
"""What is compared, in order."""


def figures(contrast: Contrast) -> list[tuple[str, float | None, float | None]]:
    """Rows of (name, a, b); those that neither side has are left out."""
    rows = [(name, of(contrast.a), of(contrast.b)) for name, of in FIGURES]
    return [row for row in rows if row[1] is not None or row[2] is not None]
