"""Plain data out of results: JSON without a bare NaN or infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import numpy as np

__all__ = ["dumps", "plain"]


def plain(value: Any) -> Any:
    """Dicts, lists, strings, numbers and None only: NaN becomes None, infinities "inf" and "-inf", dataclasses dicts.

    >>> plain({"rms": float("inf"), "mean": float("nan"), "shape": (2, 3)})
    {'rms': 'inf', 'mean': None, 'shape': [2, 3]}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, np.generic):
        return plain(value.item())
    return str(value)


def dumps(value: Any) -> str:
    """JSON text of `plain(value)`."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)
