"""Integers that are known but for rare exceptions (position ids counted over a padding mask): computed, not described.

`eq` of random ids and one id is almost always false; what integer operations make of its usual value follows exactly.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from initio.core.moments import Moments, Unknown
from initio.core.record import Node, Record, Ref

__all__ = ["usual_values"]

MOST = 1 << 22
"""Most entries that are computed."""


def usual_values(node: Node, record: Record, values: Mapping[int, Moments | Unknown]) -> Any:
    """The integer or Boolean result of a node all of whose tensor inputs have known or nearly known integer values; None otherwise."""
    out = node.outputs[0] if len(node.outputs) == 1 else None
    if out is None or node.mutates or record.values[out].floating or record.values[out].size > MOST:
        return None
    inputs = list(dict.fromkeys(node.inputs))
    found: dict[int, Any] = {}
    nearly = False
    for i in inputs:
        got = values.get(i)
        if not isinstance(got, Moments) or record.values[i].floating:
            return None
        array = got.extra.get("known", got.extra.get("nearly"))
        if array is None:
            return None
        nearly = nearly or "nearly" in got.extra or "known" in got.extra
        found[i] = torch.as_tensor(np.ascontiguousarray(array)).expand(record.values[i].shape)
    if not nearly or not node.op.startswith("aten."):
        return None
    namespace, name, overload = node.op.split(".")
    fn = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    try:
        result = fn(
            *[_fill(a, found) for a in node.args],
            **{k: _fill(a, found) for k, a in node.kwargs.items() if k not in ("device", "layout", "pin_memory", "dtype")},
            **_dtype(node),
        )
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    return result.numpy() if isinstance(result, torch.Tensor) else None


def _dtype(node: Node) -> dict[str, Any]:
    name = node.kwargs.get("dtype")
    return {"dtype": getattr(torch, name)} if isinstance(name, str) and hasattr(torch, name) else {}


def _fill(argument: Any, found: Mapping[int, Any]) -> Any:
    if isinstance(argument, Ref):
        return found[argument.value]
    if isinstance(argument, (tuple, list)):
        return [_fill(a, found) for a in argument]
    return argument
