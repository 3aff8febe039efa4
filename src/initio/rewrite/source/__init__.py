"""Edits of source with LibCST: one small edit for each check that has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from initio.core.finding import Finding
from initio.rewrite.source import arguments, initialising, order, registering, scaling
from initio.rewrite.source.desk import Desk as Desk
from initio.rewrite.source.draft import Unfixable as Unfixable

__all__ = ["EDITS", "Desk", "Unfixable"]

EDITS: Mapping[str, Callable[[Desk, Finding], tuple[str, ...] | None]] = {
    "REG101": registering.containers,
    "REG102": registering.parameter,
    "REG103": registering.buffer,
    "REG104": registering.hoisted,
    "REG105": registering.comprehension,
    "MOD101": arguments.follows_mode,
    "MOD102": arguments.applied,
    "NRM101": arguments.unbiased,
    "SHP101": arguments.padded,
    "RES101": arguments.not_in_place,
    "NRM103": order.swapped,
    "ACT102": order.swapped,
    "ACT103": order.removed,
    "ATT102": scaling.scaled,
    "LOS101": order.removed,
    "LOS102": order.removed,
    "GRD104": initialising.initialised,
    "INI101": initialising.initialised,
    "SIG101": initialising.initialised,
    "SIG103": initialising.initialised,
}
"""Code → the edit that mends a finding of it; it returns the modules that it reached where a finding names several."""
