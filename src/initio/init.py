"""Initialisations that are solved for: `initio.init.solve`, `initio.init.polish`, `initio.init.Plan`."""

from typing import Any

from initio.api.planning import TARGETS as TARGETS
from initio.api.planning import solve as solve
from initio.core.plan import Plan as Plan

__all__ = ["TARGETS", "Plan", "polish", "solve"]


def polish(plan: Plan, model: Any, batch: Any) -> Plan:
    """The same as `plan.polish(model, batch)`."""
    return plan.polish(model, batch)
