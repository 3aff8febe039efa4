"""The recording of initialisation code: every write to a tensor that chance touches or that has no storage."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from initio.capture.laws import constant, describe_values
from initio.capture.replay import Blank, Cell, Known, Node, Read, Replay, Write, elementwise, geometry_of, schema_name
from initio.capture.written import laws_written, parts_written

__all__ = ["Recorder"]

MAX_DRAWN = 1 << 18
"""Entries beyond which uninitialised and random tensors get no storage."""
MAX_KNOWN = 1 << 24
"""Entries beyond which zeros, ones and full tensors get no storage."""

_EMPTY = {"empty", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "empty_like"}
_DRAWN = {"randn", "rand", "randint", "normal", "randn_like", "rand_like", "randint_like", "bernoulli"}
_FILLED = {"zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"}
_REDRAWN = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_", "log_normal_", "cauchy_", "geometric_"}
_OVERWRITE = _REDRAWN | {"fill_", "zero_", "copy_", "eye", "randn", "rand", "normal", "zeros", "ones", "full", "arange", "linspace"}
_SILENT = {
    "set_",
    "resize_",
    "detach_",
    "detach",
    "alias",
    "lift_fresh",
    "lift",
    "transpose_",
    "t_",
    "squeeze_",
    "unsqueeze_",
    "as_strided_",
}


@dataclass(frozen=True, slots=True)
class _Schema:
    name: str
    random: bool
    mutated: tuple[tuple[int, str], ...]


_schemas: dict[Any, _Schema] = {}


def _schema(func: Any) -> _Schema:
    if func not in _schemas:
        arguments = func._schema.arguments
        mutated = tuple((i, a.name) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)
        _schemas[func] = _Schema(schema_name(func), torch.Tag.nondeterministic_seeded in func.tags, mutated)
    return _schemas[func]


class Recorder(TorchDispatchMode):
    """Keeps, per storage, the ordered writes (geometry, law, program) that initialisation code makes.

    A tensor is followed from when it is allocated uninitialised, drawn, or without storage; all other
    tensors stay as they are. A value that code asks for (`item`, `bool`, `numpy`) of a tensor without
    storage is answered by a replay of its program.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Importing the compiler to exempt this method from it would cost seconds."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.cells: dict[int, tuple[StorageWeakRef, Cell]] = {}
        self.twins: dict[int, Tensor] = {}
        self.paused = 0
        self.count = 0

    # Cells ------------------------------------------------------------------------------------------

    def cell(self, tensor: Tensor) -> Cell | None:
        """The history of a tensor's storage, if it is followed."""
        if tensor.layout is not torch.strided or is_lazy(tensor):
            return None
        entry = self.cells.get(tensor.untyped_storage()._cdata)
        return None if entry is None else entry[1]

    def follow(self, tensor: Tensor, cell: Cell | None = None) -> Cell:
        """Begin to follow the storage of `tensor`."""
        storage = tensor.untyped_storage()
        found = Cell(storage.nbytes()) if cell is None else cell
        self.cells[storage._cdata] = (StorageWeakRef(storage), found)
        return found

    def known(self, tensor: Tensor) -> Cell:
        """Begin to follow the storage of a real tensor, with its present content as the first write."""
        cell = self.follow(tensor)
        content = tensor.detach()
        count = cell.nbytes // tensor.element_size()
        if tensor.numel() != count or not tensor.is_contiguous():
            content = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage(), 0, (count,), (1,))  # pyright: ignore[reportArgumentType, reportCallIssue]
        law = describe_values(content)
        if law.family == "constant":
            node = Node(torch.full, *self._flat((tuple(content.shape), law.parameters["value"]), {"dtype": content.dtype}), False, 0)
        else:
            node = Node(torch.clone, *self._flat((Known(content.cpu().clone()),), {}), False, 0)
        cell.write(Write(geometry_of(content), law, node, 0))
        return cell

    @staticmethod
    def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        leaves, spec = tree_flatten((args, kwargs))
        return tuple(leaves), spec

    def twin(self, tensor: Tensor) -> Tensor:
        """A tensor without storage that stands for `tensor` from now on, and shares its history."""
        if tensor.is_meta:
            return tensor
        cell = self.cell(tensor)
        if cell is None:
            cell = self.known(tensor)
        if id(cell) not in self.twins:
            base = torch.empty(cell.nbytes, dtype=torch.uint8, device="meta")
            self.follow(base, cell)
            self.twins[id(cell)] = base
        storage = self.twins[id(cell)].untyped_storage()
        twin = torch.empty(0, dtype=tensor.dtype, device="meta")
        return twin.set_(storage, tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def reading(self, tensor: Tensor) -> Read:
        """The present content of a followed tensor."""
        cell = self.cell(tensor) or self.follow(tensor)
        return Read(cell, len(cell.writes), geometry_of(tensor), tensor.dtype)

    def _real(self, tensor: Tensor) -> bool:
        """Whether a followed tensor's own memory is its content: code below the dispatcher fills what `empty` allocated."""
        cell = self.cell(tensor)
        return cell is None or (not tensor.is_meta and id(cell) not in self.twins and not cell.random(len(cell.writes)))

    def value(self, tensor: Tensor) -> Tensor:
        """A real tensor with one draw of the content of `tensor`."""
        self.paused += 1
        try:
            return Replay(0).read(self.reading(tensor), private=True)
        finally:
            self.paused -= 1

    # Operations -------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        schema = _schema(func)
        if schema.name in _EMPTY or schema.name in _DRAWN or schema.name in _FILLED:
            kwargs = self._without_storage(schema.name, args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        followed = any(t.is_meta or self.cell(t) is not None for t in tensors)
        meta_factory = str(kwargs.get("device", "")) == "meta"
        if not (followed or schema.random or meta_factory or schema.name in _EMPTY):
            return func(*args, **kwargs)
        if schema.name in _EMPTY:
            out = func(*args, **kwargs)
            self.follow(out)
            return out
        if schema.name in _SILENT or func.is_view:
            return func(*args, **kwargs)
        mutated = [t for i, name in schema.mutated for t in _listed(args[i] if i < len(args) else kwargs.get(name))]
        self.paused += 1
        try:
            return self._record(func, schema.name, schema.random, leaves, spec, mutated)
        finally:
            self.paused -= 1

    def _without_storage(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments with `device="meta"` where the result would be large."""
        device = kwargs.get("device")
        if "out" in kwargs or (isinstance(device, torch.device) and device.type == "meta"):
            return kwargs
        first = args[1] if name.startswith("new_") else args[0] if args else ()
        if name in ("randint", "normal"):
            first = next((arg for arg in args if isinstance(arg, (list, tuple))), kwargs.get("size", ()))
        if isinstance(first, Tensor):
            if name in ("normal", "bernoulli"):
                return kwargs
            numel = first.numel()
        else:
            numel = math.prod(first) if isinstance(first, (list, tuple)) else 1
        if numel > (MAX_KNOWN if name in _FILLED else MAX_DRAWN):
            return (
                {**kwargs, "device": torch.device("meta"), "pin_memory": None}
                if "pin_memory" in kwargs
                else {**kwargs, "device": torch.device("meta")}
            )
        return kwargs

    def _record(self, func: Any, name: str, random: bool, leaves: list[Any], spec: Any, mutated: list[Tensor]) -> Any:
        overwrite = name in _OVERWRITE
        inputs: list[Any] = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                inputs.append(leaf)
            elif overwrite and any(leaf is t for t in mutated):
                if self.cell(leaf) is None:
                    self.follow(leaf) if geometry_of(leaf).covers(leaf.untyped_storage().nbytes()) else self.known(leaf)
                inputs.append(Blank(tuple(leaf.shape), leaf.dtype))
            elif leaf.is_meta or (self.cell(leaf) is not None and (any(leaf is t for t in mutated) or not self._real(leaf))):
                inputs.append(self.reading(leaf))
            elif any(leaf is t for t in mutated):
                self.known(leaf)
                inputs.append(self.reading(leaf))
            else:
                inputs.append(Known(leaf.detach().cpu().clone()))
        chance = random or any(isinstance(leaf, Read) and leaf.cell.random(leaf.version) for leaf in inputs)
        self.count += 1
        node = Node(func, tuple(inputs), spec, chance, self.count)
        result = self._execute(func, leaves, spec, inputs, mutated)
        self._write(node, name, random, leaves, mutated, result)
        return result

    def _execute(self, func: Any, leaves: list[Any], spec: Any, inputs: list[Any], mutated: list[Tensor]) -> Any:
        """Run the operation: without storage where its arguments have none, on a draw of them where that fails."""
        if not any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves):
            args, kwargs = tree_unflatten(leaves, spec)
            return func(*args, **kwargs)
        if not any(not t.is_meta for t in mutated):
            known = _shape_only(func, leaves, spec, mutated)
            if known is not None:
                return known
            args, kwargs = tree_unflatten([_hollow(leaf) for leaf in leaves], spec)
            if kwargs.get("device") is not None:
                kwargs["device"] = torch.device("meta")
            try:
                return func(*args, **kwargs)
            except (NotImplementedError, RuntimeError):
                pass
        draw = Replay(0)
        real = [
            draw.read(i, private=True) if isinstance(i, Read) and leaf.is_meta else leaf for leaf, i in zip(leaves, inputs, strict=True)
        ]
        args, kwargs = tree_unflatten(real, spec)
        result = func(*args, **kwargs)
        aliases = {id(r): leaf for r, leaf in zip(real, leaves, strict=True) if isinstance(r, Tensor)}
        outs, shape = tree_flatten(result)
        return tree_unflatten([aliases.get(id(out), out) for out in outs], shape)

    def _write(self, node: Node, name: str, random: bool, leaves: list[Any], mutated: list[Tensor], result: Any) -> None:
        keys = {leaf.untyped_storage()._cdata for leaf in leaves if isinstance(leaf, Tensor)}
        targets: list[tuple[int, Tensor]] = [
            (-1 - i, leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and any(leaf is t for t in mutated)
        ]
        for i, out in enumerate(tree_flatten(result)[0]):
            if isinstance(out, Tensor) and out.untyped_storage()._cdata not in keys:
                if not out.is_meta and not node.random:
                    continue
                self.follow(out)
                targets.append((i, out))
        for out, tensor in targets:
            cell = self.cell(tensor)
            geometry = geometry_of(tensor)
            if cell is None:
                continue
            if not tensor.is_meta and not node.random and geometry.covers(cell.nbytes) and id(cell) not in self.twins:
                # A real tensor that is wholly known again.
                del self.cells[tensor.untyped_storage()._cdata]
                continue
            args, kwargs = tree_unflatten(list(node.leaves), node.spec)
            parts = parts_written(name, args, kwargs, geometry)
            if parts is not None:
                for part, value in parts:
                    filled = Node(torch.full, *self._flat((part.size, value), {"dtype": tensor.dtype}), False, 0)
                    cell.write(Write(part, constant(value, part.size), filled, 0))
                continue
            pieces = laws_written(node.func, name, args, kwargs, tensor, out if out >= 0 else None, random)
            if pieces is None:
                cell.write(Write(geometry, None, node, out))
            elif len(pieces) == 1:
                cell.write(Write(geometry, pieces[0].law, node, out))
            else:
                for piece in pieces:
                    cell.write(Write(geometry.part(piece.box), piece.law, node, out, piece.box))

    def whole(self, func: Callable[..., Any], tensor: Tensor, args: tuple[Any, ...], law: Any, random: bool) -> None:
        """Record that `func(tensor, *args)` overwrites `tensor` with `law`, without looking inside `func`.

        A real tensor is filled for real; one without storage is not touched.
        """
        self.paused += 1
        try:
            if self.cell(tensor) is None:
                self.known(tensor)
            self.count += 1
            leaves, spec = self._flat((Blank(tuple(tensor.shape), tensor.dtype), *args), {})
            cell = self.cell(tensor)
            assert cell is not None
            cell.write(Write(geometry_of(tensor), law, Node(func, leaves, spec, random, self.count), 0))
            if not tensor.is_meta:
                func(tensor, *args)
        finally:
            self.paused -= 1


def _listed(argument: Any) -> list[Tensor]:
    if isinstance(argument, Tensor):
        return [argument]
    return [item for item in argument if isinstance(item, Tensor)] if isinstance(argument, (list, tuple)) else []


def _shape_only(func: Any, leaves: list[Any], spec: Any, mutated: list[Tensor]) -> Tensor | None:
    """The result of an elementwise operation on tensors without storage, from its shape and dtype alone.

    The meta kernels of many such operations are Python, and their first use imports the compiler, which takes seconds.
    None where the operation is not elementwise, or its shapes do not broadcast (and it is left to say so itself).
    """
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if len(mutated) > 1 or not tensors or not elementwise(func):
        return None
    try:
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    except RuntimeError:
        return None
    if mutated:
        return mutated[0] if mutated[0] is leaves[0] and mutated[0].shape == shape else None
    ones = [torch.ones((1,) * leaf.dim(), dtype=leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    args, kwargs = tree_unflatten(ones, spec)
    if kwargs.get("device") is not None:
        kwargs["device"] = None
    result = func(*args, **kwargs)
    if not isinstance(result, Tensor) or result.dim() != len(shape):
        return None
    like = next((t for t in tensors if t.shape == shape), None)
    if like is not None:
        order = kwargs.get("memory_format") or torch.preserve_format  # of `contiguous`
        return torch.empty_like(like, dtype=result.dtype, device="meta", memory_format=order)
    return torch.empty(shape, dtype=result.dtype, device="meta")


def _hollow(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and not leaf.is_meta and leaf.dim() > 0:
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
    return leaf
