"""Parts of recurrent cells as they appear in a record: splits of packed gates, fused cells."""

from __future__ import annotations

from typing import Any

from initio.core.moments import Moments
from initio.rules.structure import split
from initio.rules.table import rule

__all__: list[str] = []


@rule("aten.unsafe_split", "aten.unsafe_chunk", "aten.unsafe_split_with_sizes")
def unsafe_split(x: Moments, sizes: Any, dim: int = 0) -> tuple[Moments, ...]:
    """Consecutive ranges of a dimension: the gates of a packed projection."""
    return split(x, sizes, dim)
