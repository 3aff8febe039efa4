"""A recorded forward pass run on real float64 tensors: the values that a derivation is checked against."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from initio.capture.initializers import sample_parameter
from initio.core.distribution import Distribution
from initio.core.record import Node, Record, Ref

__all__ = ["Values", "draw", "run", "run_nodes"]

Values = dict[int, Tensor]
_TYPED = ("Optional[int]", "int", "Optional[dtype]", "ScalarType", "Device", "Optional[Device]")


def wide(dtype: str) -> torch.dtype:
    """The dtype that stands for a recorded one: every real float becomes float64."""
    found: Any = getattr(torch, dtype)  # layouts and memory formats are written like dtypes
    return torch.float64 if isinstance(found, torch.dtype) and found.is_floating_point else found


def draw(record: Record, seed: int, generic: bool | str = False) -> Values:
    """Parameters, buffers, inputs and constants of one draw, in float64.

    `generic` moves the parameters that start at one value (zeros, ones) off it by normal numbers of size .3, where an identity
    that holds for all weights is to be checked and zeros would make it trivial; "zeros" moves matrices of zeros only. Copies of one
    draw (layers cloned by deepcopy) are equal here too, but with `generic` True, where weights in general position are wanted.
    """
    generator = torch.Generator().manual_seed(seed)
    given: Values = {}
    named: dict[str, Tensor] = {}
    for parameter in record.parameters:
        value = record.values[parameter.value]
        drawn = _drawn(parameter.distribution, value.shape, wide(value.dtype), generator)
        law = parameter.distribution
        moved = law.variance == 0 and (generic != "zeros" or (law.zero and len(value.shape) > 1))
        if generic and not parameter.buffer and moved:
            drawn = drawn + 0.3 * torch.randn(drawn.shape, generator=generator, dtype=drawn.dtype)
        named[parameter.name] = drawn
        given[parameter.value] = drawn if generic is True else named.get(parameter.copy_of, drawn)
    for item in record.inputs:
        value = record.values[item.value]
        given[item.value] = _drawn(item.distribution, value.shape, wide(value.dtype), generator)
    for key, array in record.constants.items():
        if key not in given or not record.values[key].floating:
            given[key] = torch.from_numpy(array.copy()).to(wide(record.values[key].dtype))
    return given


def _drawn(law: Distribution, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    fitted = Distribution(law.family, law.parameters, tuple(shape), law.parts)
    return sample_parameter(fitted, dtype=dtype, generator=generator)


@cache
def _operator(name: str) -> Any:
    space, op, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, space), op), overload)


def _decode(argument: Any, kind: str, env: Mapping[int, Tensor], node: Node, record: Record) -> Any:
    if isinstance(argument, Ref):
        tensor = env.get(argument.value)
        if tensor is None:  # memory that is written before it is read
            value = record.values[argument.value]
            tensor = torch.zeros(value.shape, dtype=wide(value.dtype))
        return tensor.clone() if argument.value in node.mutates or "batch_norm" in node.op else tensor
    if isinstance(argument, tuple):
        return [_decode(item, "", env, node, record) for item in argument]
    if isinstance(argument, str) and kind.startswith(_TYPED):
        return torch.device("cpu") if argument in ("meta", "cpu") else wide(argument)
    return argument


def _views(op: str, args: list[Any]) -> Tensor:
    base, w = args[0], args[-1]
    laid = torch.empty_strided(base.shape, w["base_stride"], dtype=base.dtype).copy_(base)
    inside = laid.as_strided(w["size"], w["stride"], w["offset"])
    if op == "initio.view_of":
        return inside.clone()
    inside.copy_(args[1])
    return laid


def step(node: Node, env: Values, record: Record) -> None:
    """Run one node on copies of what it overwrites."""
    if node.op.startswith("initio."):
        env_out: Any = _views(node.op, [env[a.value] if isinstance(a, Ref) else a for a in node.args])
        flat = [env_out]
    else:
        op = _operator(node.op)
        schema = op._schema.arguments
        args = [_decode(a, str(schema[i].type), env, node, record) for i, a in enumerate(node.args)]
        types = {a.name: str(a.type) for a in schema}
        kwargs = {k: _decode(a, types[k], env, node, record) for k, a in node.kwargs.items()}
        name = node.op.split(".")[1]
        result = args[0].reshape(args[1]) if name in ("view", "_unsafe_view") and node.op.endswith("default") else op(*args, **kwargs)
        flat = _flat(result)
        written = {a.value: x for a, x in zip(node.args, args, strict=True) if isinstance(a, Ref) and a.value in node.mutates}
        flat += [x for x in written.values() if not any(x is y for y in flat)]
    for out, tensor in zip(node.outputs, flat, strict=False):
        if out is not None:
            env[out] = tensor


def _flat(result: Any) -> list[Any]:
    return [leaf for item in result for leaf in _flat(item)] if isinstance(result, (tuple, list)) else [result]


def run(record: Record, given: Values, seed: int = 0, replaced: Mapping[int, Callable[[Tensor], Tensor]] | None = None) -> Values:
    """All values of the forward pass; `replaced[v]` changes value v as soon as it exists (a probe added to it, say)."""
    env = dict(given)
    replaced = replaced or {}
    for key in [key for key in env if key in replaced]:
        env[key] = replaced[key](env[key])
    torch.manual_seed(seed)
    return run_nodes((node for node in record.nodes if node.phase == "forward"), env, record, replaced)


def run_nodes(
    nodes: Iterable[Node], env: Values, record: Record, replaced: Mapping[int, Callable[[Tensor], Tensor]] | None = None
) -> Values:
    """Run nodes in order, in place of `env`."""
    for node in nodes:
        step(node, env, record)
        for out in node.outputs:
            if replaced and out is not None and out in replaced:
                env[out] = replaced[out](env[out])
    return env
