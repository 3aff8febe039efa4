"""Running the recorded operations on real numbers."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from initio.core.record import Node, Ref

__all__ = ["Seeded", "UnrunnableError", "array", "execute", "working_dtype"]


class UnrunnableError(Exception):
    """An operation cannot be run, for the reason given."""


def working_dtype(name: str) -> torch.dtype:
    """Double precision for floating types, the type itself otherwise."""
    dtype = getattr(torch, name)
    return torch.float64 if dtype.is_floating_point else torch.complex128 if dtype.is_complex else dtype


def array(x: torch.Tensor) -> Any:
    """The numbers of a tensor: floats in double precision, truth values as 0 and 1."""
    x = x.detach()
    if x.is_complex():
        return x.resolve_conj().numpy()
    if x.dtype.is_floating_point:
        return x.double().numpy()
    return x.numpy().astype(float) if x.dtype is torch.bool else x.numpy()


class Seeded:
    """Operations that draw start from a seed of their own, on one thread (arrays are small); the global state is put back."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state, self.threads = torch.random.get_rng_state(), torch.get_num_threads()
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self.state)
        torch.set_num_threads(self.threads)


def _strided(base: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    return torch.empty_strided(base.shape, tuple(stride), dtype=base.dtype).copy_(base)


def execute(node: Node, env: dict[int, Any]) -> None:
    """The real operation on the values of `env`, on copies where it writes; `UnrunnableError` where torch refuses."""
    try:
        _execute(node, env)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise UnrunnableError(f"{node.op}: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def _execute(node: Node, env: dict[int, Any]) -> None:
    copies: dict[int, torch.Tensor] = {}

    def decode(a: Any, kind: str = "") -> Any:
        if isinstance(a, Ref):
            if a.value in node.mutates or "native_batch_norm" in node.op:
                return copies.setdefault(a.value, env[a.value].clone())
            return _accepted(node.op, env[a.value])
        if isinstance(a, (tuple, list)):
            return [decode(x) for x in a]
        if isinstance(a, str) and any(word in kind for word in ("int", "dtype", "ScalarType", "Device")):
            if a in ("meta", "cpu"):
                return torch.device("cpu")
            named = getattr(torch, a, a)
            return working_dtype(a) if isinstance(named, torch.dtype) else named
        return a

    if node.op == "initio.view_of":
        w = node.args[1]
        result: Any = _strided(env[node.args[0].value], w["base_stride"]).as_strided(w["size"], w["stride"], w["offset"]).clone()
    elif node.op == "initio.scatter_view":
        w = node.args[2]
        result = _strided(env[node.args[0].value], w["base_stride"])
        result.as_strided(w["size"], w["stride"], w["offset"]).copy_(env[node.args[1].value])
    elif node.op.startswith("initio.") and not node.op.startswith("initio.split_transform_merge"):
        raise UnrunnableError(f"{node.op} is no operation of torch")
    else:
        space, name, overload = node.op.split(".")
        op = getattr(getattr(getattr(torch.ops, space), name), overload)
        schema = op._schema.arguments
        types = {a.name: str(a.type) for a in schema}
        args = [decode(a, str(schema[i].type)) for i, a in enumerate(node.args)]
        kwargs = {k: decode(a, types[k]) for k, a in node.kwargs.items()}
        result = args[0].reshape(args[1]) if name in ("view", "_unsafe_view") and overload == "default" else op(*args, **kwargs)
    if node.op.startswith("aten._grouped_mm"):
        result = result.to(env[node.inputs[0]].dtype)
    flat = _flat(result)
    flat += [copies[m] for m in node.mutates if m in copies and not any(copies[m] is x for x in flat)]
    env.update((out, tensor) for out, tensor in zip(node.outputs, flat, strict=False) if out is not None)


def _accepted(op: str, x: torch.Tensor) -> torch.Tensor:
    """x in a type that the kernel takes on this machine: counts of integers are there on a GPU only, grouped products in single precision."""
    if op == "aten.histc.default" or (op.startswith("aten._grouped_mm") and x.is_floating_point()):
        return x.to(torch.float32)
    return x.to(torch.int32) if op.startswith("aten._grouped_mm") else x


def _flat(result: Any) -> list[Any]:
    return [leaf for item in result for leaf in _flat(item)] if isinstance(result, (tuple, list)) else [result]
