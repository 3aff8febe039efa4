"""What the recorder knows of single ATen operations: schemas, fills, and the policy for data-dependent ones."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from initio.capture.shadows import Fill
from initio.core.record import Argument, Ref

__all__ = ["SHAPES", "Operation", "decide_scalar", "describe", "encode", "fill_of", "policy_for"]


@dataclass(frozen=True, slots=True)
class Operation:
    """The facts of one overload. `writes` are the positions and keywords of the arguments that it overwrites; `returns_written`
    whether it hands one of them back (an in-place form does, a form with a buffer on the side does not).
    """

    name: str
    packet: str
    writes: tuple[int | str, ...]
    view: bool
    renames: bool
    random: bool
    dynamic: bool
    overwrites: bool
    returns_written: bool = False


@cache
def describe(func: Any) -> Operation:
    """Read an overload's schema and tags."""
    name = str(func)
    schema = getattr(func, "_schema", None)
    if schema is None:
        return Operation(name, name, (), False, False, False, False, False)
    writes: list[int | str] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            writes.append(argument.name if argument.kwarg_only else position)
    tags = func.tags
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    packet = ".".join(name.split(".")[:2])
    renames = torch.Tag.inplace_view in tags or packet in _RENAMES
    return Operation(
        name,
        packet,
        () if renames else tuple(writes),
        view,
        renames,
        torch.Tag.nondeterministic_seeded in tags,
        torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags,
        packet in _OVERWRITES or any(isinstance(w, str) for w in writes),
        any(r.alias_info is not None and r.alias_info.is_write for r in schema.returns),
    )


_RENAMES = {"aten.set_", "aten.resize_", "aten.detach_", "aten.resize_as_", "aten.as_strided_"}
_OVERWRITES = {"aten.fill_", "aten.zero_", "aten.copy_"}


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


_FILLS: dict[str, Callable[[tuple[Any, ...], dict[str, Any]], Any]] = {
    "aten.zeros": lambda a, k: 0,
    "aten.zeros_like": lambda a, k: 0,
    "aten.new_zeros": lambda a, k: 0,
    "aten.ones": lambda a, k: 1,
    "aten.ones_like": lambda a, k: 1,
    "aten.new_ones": lambda a, k: 1,
    "aten.full": lambda a, k: _argument(a, k, 1, "fill_value"),
    "aten.full_like": lambda a, k: _argument(a, k, 1, "fill_value"),
    "aten.new_full": lambda a, k: _argument(a, k, 2, "fill_value"),
    "aten.scalar_tensor": lambda a, k: a[0],
    "aten._efficientzerotensor": lambda a, k: 0,
    # Entries of uninitialised memory count as 0: what code reads there before writing is a mistake that we do not judge here.
    "aten.empty": lambda a, k: 0,
    "aten.empty_like": lambda a, k: 0,
    "aten.empty_strided": lambda a, k: 0,
    "aten.empty_permuted": lambda a, k: 0,
    "aten.new_empty": lambda a, k: 0,
    "aten.new_empty_strided": lambda a, k: 0,
}


def fill_of(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Fill | None:
    """The constant that an operation fills its result with, whatever its tensor arguments hold; None for any other operation."""
    value = _FILLS.get(operation.packet)
    return None if value is None else Fill(value(args, kwargs))


def decide_scalar(dtype: torch.dtype) -> bool | int | float | complex:
    """The answer given for a number that depends on random values: true, one, one half."""
    if dtype is torch.bool:
        return True
    if dtype.is_complex:
        return complex(0.5)
    return 0.5 if dtype.is_floating_point else 1


def _bins(x: Tensor, least: int | None) -> Tensor:
    return torch.ones(max(x.numel(), least or 0), dtype=torch.int64)


def _all_indices(tensor: Tensor) -> Tensor:
    return torch.ones(tensor.shape, dtype=torch.bool).nonzero()


def _unique(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x: Tensor = args[0]
    n = x.numel()
    return x.new_empty(n), torch.empty(tuple(x.shape), dtype=torch.int64, device="meta"), torch.ones(n, dtype=torch.int64)


def _repeat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    size = kwargs.get("output_size")
    n = args[0].numel()
    return torch.arange(n) if size is None else torch.arange(size).remainder(max(n, 1)).sort().values


def _masked_select(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
    return args[0].new_empty(shape.numel())


_POLICIES: dict[str, tuple[str, Callable[[tuple[Any, ...], dict[str, Any]], Any]]] = {
    "aten.nonzero": ("all entries count as non-zero", lambda a, k: _all_indices(a[0])),
    "aten.nonzero_static": ("all entries count as non-zero", lambda a, k: _all_indices(a[0])[: k["size"]]),
    "aten.masked_select": ("every entry is selected", _masked_select),
    "aten._unique2": ("all entries count as different", _unique),
    "aten._unique": ("all entries count as different", lambda a, k: _unique(a, k)[:2]),
    "aten.unique_dim": ("all slices count as different", lambda a, k: _unique_dim(a, k)),
    "aten.unique_consecutive": ("all entries count as different", _unique),
    "aten.repeat_interleave": ("every entry is repeated once", _repeat),
    "aten.equal": ("the tensors count as equal", lambda a, k: True),
    "aten.bincount": ("every entry falls in its own bin", lambda a, k: _bins(a[0], _argument(a, k, 2, "minlength"))),
    "torchvision.nms": ("all boxes are kept", lambda a, k: torch.arange(a[0].shape[0])),
}  # fmt: skip


def _grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """Shapes of `aten._grouped_mm`, whose own kernel without contents takes bfloat16 alone."""
    rows, columns = a.shape[-2], b.shape[-1]
    if a.dim() == b.dim():
        groups = (offs.shape[0] if offs is not None else 1) if a.dim() == 2 else a.shape[0]
        return a.new_empty((groups, rows, columns), dtype=out_dtype)
    return a.new_empty((rows, columns), dtype=out_dtype)


SHAPES: dict[str, Callable[..., Any]] = {"aten._grouped_mm": _grouped_mm}
"""Stand-ins for kernels that refuse arguments without contents which the real ones take."""


def _unique_dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x: Tensor = args[0]
    n = x.shape[args[1]]
    return torch.empty_like(x), torch.arange(n), torch.ones(n, dtype=torch.int64)


def policy_for(operation: Operation) -> tuple[str, Callable[[tuple[Any, ...], dict[str, Any]], Any]] | None:
    """What is taken for granted where the shape of a result depends on random values, in words and as a function of the arguments."""
    return _POLICIES.get(operation.packet)


def encode(argument: Any, value: Callable[[Tensor], int]) -> Argument:
    """An operation's argument as plain data."""
    if isinstance(argument, Tensor):
        return Ref(value(argument))
    if argument is None or isinstance(argument, (bool, int, float, complex, str)):
        return argument
    if isinstance(argument, (tuple, list)):
        return tuple(encode(item, value) for item in argument)
    if isinstance(argument, dict):
        return {str(key): encode(item, value) for key, item in argument.items()}
    if isinstance(argument, (torch.dtype, torch.layout, torch.memory_format)):
        return str(argument).removeprefix("torch.")
    if isinstance(argument, torch.Generator):
        return None
    return str(argument)
