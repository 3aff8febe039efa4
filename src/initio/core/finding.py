"""What a check says: `Finding` and `Fix`, plain data that every renderer reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from initio.core.record import Source

__all__ = ["Finding", "Fix", "Severity"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Fix:
    """A proposed change. `safe` fixes are proven to keep the function; `unsafe` ones change it or the state dict.

    `edit` is the change of source as a unified diff, where it is known.
    """

    title: str
    applicability: Literal["safe", "unsafe", "display"]
    edit: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One consequence for the user, with its evidence in numbers.

    `module` is the path of the module (empty: the model itself), `source` the line where the layer was made
    or the call stands, `evidence` named numbers, `also` the paths of further modules that share the cause.
    """

    code: str
    name: str
    severity: Severity
    message: str
    module: str = ""
    source: Source | None = None
    evidence: Mapping[str, float | int | str] = field(default_factory=dict[str, "float | int | str"])
    remedy: str = ""
    fix: Fix | None = None
    also: tuple[str, ...] = ()
    entity: str = ""

    @property
    def fingerprint(self) -> str:
        """Stable across runs and line shifts: code, module path and entity."""
        return hashlib.sha256("\0".join((self.code, self.module, self.entity)).encode()).hexdigest()[:16]
