"""Tensors that a module holds as plain attributes, or in plain containers: neither parameters nor buffers of it."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Held", "follows_moves", "held_tensors", "moves", "put"]

DEPTH = 3
LARGEST = 1_000
"""Containers of more items are data, not weights."""

OWN = frozenset(vars(nn.Module()))
MOVES = frozenset({"to", "cuda", "cpu", "type_as"})


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor, the path under which it is reached, and the attribute of the module `owner` that holds it (in a `container`, or "")."""

    name: str
    owner: str
    attribute: str
    container: str
    tensor: Tensor
    module: nn.Module


def held_tensors(modules: Mapping[str, nn.Module]) -> Iterator[Held]:
    """Each such tensor once, in the order of the modules; what is registered anywhere in them is left out."""
    known = {id(t) for module in modules.values() for table in (module._parameters, module._buffers) for t in table.values()}  # pyright: ignore[reportPrivateUsage]
    for path, module in modules.items():
        for attribute, value in list(vars(module).items()):
            if attribute in OWN:
                continue
            place = f"{path}.{attribute}" if path else attribute
            for name, container, tensor in _inside(value, place, "", DEPTH):
                if id(tensor) not in known:
                    known.add(id(tensor))
                    yield Held(name, path, attribute, container, tensor, module)


def _inside(value: Any, place: str, container: str, depth: int) -> Iterator[tuple[str, str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, container, value
        return
    if depth == 0 or isinstance(value, (nn.Module, str, bytes)):
        return
    items: list[tuple[str, Any]] = []
    kind = ""
    if isinstance(value, Mapping):
        kind, items = "dict", [(f"[{key!r}]", item) for key, item in value.items()] if len(value) <= LARGEST else []
    elif isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        items = [(f"[{i}]", item) for i, item in enumerate(value)] if len(value) <= LARGEST else []
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind, items = "dataclass", [(f".{f.name}", getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    for step, item in items:
        yield from _inside(item, place + step, container or kind, depth - 1)


def put(holder: Any, stand_ins: Mapping[int, Tensor], depth: int = DEPTH) -> Any:
    """`holder` with stand-ins for tensors (by id): lists and dictionaries change in place, tuples are made anew."""
    if isinstance(holder, Tensor):
        return stand_ins.get(id(holder), holder)
    if depth and isinstance(holder, list) and len(holder) <= LARGEST:
        for i, item in enumerate(holder):
            new = put(item, stand_ins, depth - 1)
            if new is not item:
                holder[i] = new
    elif depth and type(holder) is tuple and len(holder) <= LARGEST:
        items = tuple(put(item, stand_ins, depth - 1) for item in holder)
        return items if any(a is not b for a, b in zip(items, holder, strict=True)) else holder
    elif depth and isinstance(holder, dict) and len(holder) <= LARGEST:
        for key, item in list(holder.items()):
            new = put(item, stand_ins, depth - 1)
            if new is not item:
                holder[key] = new
    return holder


def follows_moves(module: nn.Module) -> bool:
    """Whether the module's class moves its tensors itself."""
    kind = type(module)
    return any(getattr(kind, name) is not getattr(nn.Module, name) for name in ("_apply", "to", "cuda"))


def moves(function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a torch-level call brings its first argument to another device."""
    if function not in MOVES:
        return False
    return function != "to" or any(isinstance(a, (torch.device, Tensor, str, int)) for a in (*args[1:], *kwargs.values()))
