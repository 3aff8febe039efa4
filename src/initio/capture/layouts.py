"""Layouts of results: what an operation on meta tensors returns depends on the layouts of its inputs and on its other arguments alone."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["Layouts"]


class Layouts:
    """Results of ATen's functional operations on meta tensors, each worked out once.

    The decompositions that torch runs on meta tensors cost milliseconds (native_batch_norm_backward runs about thirty operations),
    and a network repeats its blocks. Kept are shapes, strides and dtypes of results with storages of their own, never tensors;
    what is not told by the key (scalars without dimensions, which may be Python's numbers, lazy conjugates, other layouts than
    strided, operations beside ATen's) is run each time.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[bool, list[Any]] | None] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        """What `func(*args, **kwargs)` returns: fresh meta tensors."""
        if func.namespace != "aten":
            return func(*args, **kwargs)
        try:
            key = (func, torch.get_default_dtype(), _key(args), _key(tuple(kwargs.items())))
            found = self._known.get(key)
        except _UntoldError:
            return func(*args, **kwargs)
        if found is not None:
            several, layouts = found
            made = [
                None if layout is None else torch.empty_strided(layout[0], layout[1], dtype=layout[2], device="meta") for layout in layouts
            ]
            return tuple(made) if several else made[0]
        result = func(*args, **kwargs)
        if key not in self._known:
            self._known[key] = _layouts(result, tensors)
        return result


class _UntoldError(Exception):
    """An argument of which the key does not tell all that matters."""


def _key(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        if argument.dim() == 0 or argument.layout != torch.strided or argument.is_conj() or argument.is_neg():
            raise _UntoldError
        return (tuple(argument.shape), argument.stride(), argument.dtype)
    if isinstance(argument, (tuple, list)):
        return tuple(_key(item) for item in argument)
    if argument is None or isinstance(argument, (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return (type(argument), argument)
    raise _UntoldError


def _layouts(result: Any, tensors: list[Tensor]) -> tuple[bool, list[Any]] | None:
    """Shape, stride and dtype of each result; None where one of them is not a plain tensor with a storage of its own."""
    several = type(result) is tuple
    seen = {t.untyped_storage()._cdata for t in tensors}  # pyright: ignore[reportPrivateUsage]
    layouts: list[Any] = []
    for out in result if several else (result,):
        if out is None:
            layouts.append(None)
            continue
        if type(out) is not Tensor or out.device.type != "meta" or out.layout != torch.strided or out.storage_offset():
            return None
        storage = out.untyped_storage()
        own = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device="meta").untyped_storage().nbytes()
        if storage._cdata in seen or storage.nbytes() != own or out.is_conj() or out.is_neg():  # pyright: ignore[reportPrivateUsage]
            return None
        seen.add(storage._cdata)  # pyright: ignore[reportPrivateUsage]
        layouts.append((tuple(out.shape), out.stride(), out.dtype))
    return several, layouts
