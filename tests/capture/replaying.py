"""Executes a record with real tensors: the strongest test of a recorder is that its record computes the same numbers."""

from __future__ import annotations

from typing import Any

import torch

from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec
from initio.core.record import Record, Ref

NORMAL = {"mean": 0.0, "std": 1.0}


def normal(*shape: int, dtype: str = "float64") -> InputSpec:
    return InputSpec(shape, dtype, Distribution("normal", NORMAL, shape))


def ids(high: int, *shape: int) -> InputSpec:
    return InputSpec(shape, "int64", Distribution("integers", {"low": 0.0, "high": float(high)}, shape))


def _strided(base: torch.Tensor, stride: tuple[int, ...]) -> torch.Tensor:
    return torch.empty_strided(base.shape, stride, dtype=base.dtype).copy_(base)


def _view_of(base: torch.Tensor, w: dict[str, Any]) -> torch.Tensor:
    return _strided(base, w["base_stride"]).as_strided(w["size"], w["stride"], w["offset"]).clone()


def _scatter_view(base: torch.Tensor, part: torch.Tensor, w: dict[str, Any]) -> torch.Tensor:
    out = _strided(base, w["base_stride"])
    out.as_strided(w["size"], w["stride"], w["offset"]).copy_(part)
    return out


def _flat(result: Any) -> list[Any]:
    return [leaf for item in result for leaf in _flat(item)] if isinstance(result, (tuple, list)) else [result]


def replay(record: Record, given: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Values by id, from the parameters, inputs and cotangents in `given`. Every node works on copies: only what the record says counts."""
    env = {i: torch.from_numpy(a.copy()).to(getattr(torch, record.values[i].dtype)) for i, a in record.constants.items()}
    env.update(given)
    for node in record.nodes:
        copies: dict[int, torch.Tensor] = {}

        def decode(a: Any, kind: str = "", node: Any = node, copies: Any = copies) -> Any:
            if isinstance(a, Ref):
                if a.value in node.mutates or "native_batch_norm" in node.op:
                    return copies.setdefault(a.value, env[a.value].clone())
                return env[a.value]
            if isinstance(a, tuple):
                return [decode(x) for x in a]
            if isinstance(a, str) and kind.startswith(
                ("Optional[int]", "int", "Optional[dtype]", "ScalarType", "Device", "Optional[Device]")
            ):
                return torch.device("cpu") if a in ("meta", "cpu") else getattr(torch, a)
            return a

        if node.op.startswith("initio."):
            args = [env[a.value] if isinstance(a, Ref) else a for a in node.args]
            result: Any = {"initio.view_of": _view_of, "initio.scatter_view": _scatter_view}[node.op](*args)
        else:
            space, name, overload = node.op.split(".")
            op = getattr(getattr(getattr(torch.ops, space), name), overload)
            schema = op._schema.arguments
            args = [decode(a, str(schema[i].type)) for i, a in enumerate(node.args)]
            types = {a.name: str(a.type) for a in schema}
            kwargs = {k: decode(a, types[k]) for k, a in node.kwargs.items()}
            if name in ("view", "_unsafe_view"):
                result = args[0].reshape(args[1]) if overload == "default" else op(*args)
            else:
                result = op(*args, **kwargs)
        flat = _flat(result)
        flat += [copies[m] for m in node.mutates if not any(copies[m] is x for x in flat)]
        for out, tensor in zip(node.outputs, flat, strict=True):
            if out is not None:
                value = record.values[out]
                env[out] = tensor
                if "native_batch_norm" in node.op and not tensor.numel():
                    continue  # statistics that the CPU kernel does not save in eval mode
                assert tuple(tensor.shape) == value.shape, (node, tensor.shape, value)
                assert str(tensor.dtype) == "torch." + value.dtype, (node, tensor.dtype, value)
    return env
