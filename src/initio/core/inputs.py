"""What is known of an input before the step runs: its shape, dtype and the distribution of its entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from initio.core.distribution import Distribution

__all__ = ["InputSpec"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input tensor of a model.

    `name` is the keyword under which it is passed ("" for a positional argument), `dtype` torch's name without
    the prefix ("float32", "int64", "bool"), `data` a real tensor handed in by the user (None: entries are drawn from `distribution`).
    """

    shape: tuple[int, ...]
    dtype: str
    distribution: Distribution
    name: str = ""
    data: Any = None
