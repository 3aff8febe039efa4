"""Static single assignment: one `Value` for every state of every tensor, and the nodes that make them.

Views and writes follow memory. A tensor is identified by its storage, offset, size and stride, so one that autograd unpacks
as a new object is recognised. A write through a view that covers the whole storage makes that view its new description; a write through a
part of it adds an explicit node

    initio.scatter_view(base, part, {"size", "stride", "offset", "base_stride"})

(the base with the strided window overwritten by the part), and a view that is read after such a write is taken again by

    initio.view_of(base, {"size", "stride", "offset", "base_stride"})

where base lies in memory with `base_stride` and the offset counts entries from its first. Where the view only reshapes or permutes, plain
`aten.view.default` and `aten.permute.default` are used instead.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initio.capture.shadows import Cell, Geometry, Memory, constant_array, geometry
from initio.core.record import Node, Phase, Ref, Source, Value

__all__ = ["Context", "Tape"]


@dataclass(slots=True)
class Context:
    """Where a node stands: phase, module, call, source line and torch-level event."""

    phase: Phase = "forward"
    module: str = ""
    call: int = -1
    source: Source | None = None
    event: int = -1
    function: str = ""
    origin: int = -1


@dataclass(slots=True)
class _Draft:
    shape: tuple[int, ...]
    dtype: str
    storage: int
    requires_grad: bool


@dataclass
class Tape:
    """The growing record. `context` is asked where the running operation stands, once per node."""

    memory: Memory
    context: Callable[[], Context]
    nodes: list[Node] = field(default_factory=list[Node])
    drafts: list[_Draft] = field(default_factory=list[_Draft])
    constants: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict[int, "np.ndarray[Any, Any]"])
    notes: dict[str, None] = field(default_factory=dict[str, None])
    _pending: list[Any] = field(default_factory=list[Any])
    _arrays: dict[Any, np.ndarray[Any, Any]] = field(default_factory=dict[Any, "np.ndarray[Any, Any]"])

    def values(self) -> tuple[Value, ...]:
        """The finished values."""
        return tuple(Value(i, d.shape, d.dtype, d.storage, d.requires_grad) for i, d in enumerate(self.drafts))

    def note(self, text: str) -> None:
        """Something that the reader of the record must know, said once."""
        self.notes.setdefault(text)

    # reading

    def value(self, tensor: Tensor) -> int:
        """The value that a tensor holds now."""
        cell = self.memory.cell(tensor)
        tag = tensor.__dict__.get("_initio")
        if tag is not None and tag[0] is cell and tag[1] == cell.epoch:
            return tag[2]
        key = geometry(tensor)
        found = cell.current.get(key)
        if found is None:
            found = self._missing(tensor, cell, key)
            cell.current[key] = found
        draft = self.drafts[found]
        if not draft.requires_grad and tensor.requires_grad and found not in self.constants:
            draft.requires_grad = True
        return found

    def _missing(self, tensor: Tensor, cell: Cell, key: Geometry) -> int:
        if cell.shadow is not None and not cell.sampled:
            return self._constant(tensor, cell, key)
        if cell.root is None:
            if cell.shadow is None:
                self.note(f"a tensor {tuple(tensor.shape)} of unknown origin enters at {self.context().source}")
            return self._draft(tensor, cell, key)
        return self._view_of(tensor, cell, key)

    def _constant(self, tensor: Tensor, cell: Cell, key: Geometry) -> int:
        value = self._draft(tensor, cell, key)
        array = constant_array(self.memory.contents(tensor))
        packed = array[tuple(slice(0, 1) if s == 0 else slice(None) for s in array.strides)] if array.size > 1 else array
        digest = (
            array.shape,
            array.strides,
            array.dtype.str,
            hashlib.blake2b(np.ascontiguousarray(packed).tobytes(), digest_size=16).digest(),
        )
        self.constants[value] = self._arrays.setdefault(digest, array)
        return value

    def _view_of(self, tensor: Tensor, cell: Cell, key: Geometry) -> int:
        assert cell.root is not None
        base = cell.root_key
        if _plain(base) == _plain(key):
            return cell.root
        if key[3] == base[3] and key[4] == base[4]:
            if key[0] == base[0] and _contiguous(base) and _contiguous(key) and _numel(base) == _numel(key):
                return self._synthetic("aten.view.default", (Ref(cell.root), key[1]), tensor, cell, key)
            order = _permutation(base, key)
            if order is not None:
                return self._synthetic("aten.permute.default", (Ref(cell.root), order), tensor, cell, key)
        if key[3] != base[3] or key[4] != base[4]:
            self.note(f"a view of another dtype is read after a write at {self.context().source}: not followed")
            return self._draft(tensor, cell, key)
        return self._synthetic("initio.view_of", (Ref(cell.root), _window(base, key)), tensor, cell, key)

    # making

    def _draft(self, tensor: Tensor, cell: Cell, key: Geometry) -> int:
        self.drafts.append(_Draft(key[1], str(key[3])[6:], cell.index, tensor.requires_grad))
        return len(self.drafts) - 1

    def source(self, tensor: Tensor) -> int:
        """A new value that no node makes: a parameter, an input, a cotangent."""
        return self.output(tensor, tensor.requires_grad)

    def output(self, tensor: Tensor, requires_grad: bool) -> int:
        """The value of a tensor that an operation has just returned (a new storage, or a new view of a recorded one)."""
        cell = self.memory.cell(tensor)
        key = geometry(tensor)
        value = self._draft(tensor, cell, key)
        self.drafts[value].requires_grad = requires_grad
        if cell.root is None and (not cell.current or key == cell.root_key):
            cell.root, cell.root_key = value, key
        cell.current.setdefault(key, value)
        tensor._initio = (cell, cell.epoch, value)  # pyright: ignore[reportAttributeAccessIssue]
        return value

    def before_write(self, tensor: Tensor) -> None:
        """Make sure that what a write through a partial view leaves standing has a value."""
        cell = self.memory.cell(tensor)
        if cell.root is not None or _covers(geometry(tensor), tensor):
            return
        shadow = cell.shadow
        if shadow is None or cell.sampled:
            return
        if not _covers(cell.root_key, tensor):
            entries = tensor.untyped_storage().nbytes() // tensor.element_size()
            cell.root_key = (0, (entries,), (1,), tensor.dtype, False)
        offset, size, stride, dtype, _ = cell.root_key
        base = torch.empty(0, dtype=dtype, device=tensor.device).set_(tensor.untyped_storage(), offset, size, stride)
        cell.root = self.value(base)

    def written(self, tensor: Tensor, requires_grad: bool) -> int:
        """The new value of a tensor that an operation has just overwritten."""
        cell = self.memory.cell(tensor)
        key = geometry(tensor)
        base, base_key = cell.root, cell.root_key
        cell.touch()
        value = self._draft(tensor, cell, key)
        self.drafts[value].requires_grad = requires_grad
        cell.current[key] = value
        tensor._initio = (cell, cell.epoch, value)  # pyright: ignore[reportAttributeAccessIssue]
        if base is None or _numel(key) == _numel(base_key):
            cell.root, cell.root_key = value, key
        else:
            whole = _Draft(base_key[1], str(base_key[3])[6:], cell.index, requires_grad or self.drafts[base].requires_grad)
            cell.root = -1
            self._pending.append((base, value, _window(base_key, key), whole, cell, base_key))
        return value

    def settle(self) -> None:
        """Add the scatter that a write through a partial view entails; called after the node of the write stands."""
        for base, value, window, whole, cell, base_key in self._pending:
            self.drafts.append(whole)
            cell.root = len(self.drafts) - 1
            cell.current[base_key] = cell.root
            self.node("initio.scatter_view", (Ref(base), Ref(value), window), {}, (cell.root,))
        self._pending.clear()

    def _synthetic(self, op: str, args: tuple[Any, ...], tensor: Tensor, cell: Cell, key: Geometry) -> int:
        value = self._draft(tensor, cell, key)
        self.drafts[value].requires_grad = tensor.requires_grad
        self.node(op, args, {}, (value,))
        return value

    def node(
        self,
        op: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: Iterable[int | None],
        mutates: tuple[int, ...] = (),
        constant: bool = False,
    ) -> None:
        """Append a node in the current context."""
        c = self.context()
        node = Node(
            len(self.nodes), op, args, kwargs, tuple(outputs),
            c.phase, c.module, c.call, c.source, c.event, c.function, constant, mutates, c.origin,
        )  # fmt: skip
        self.nodes.append(node)


def _numel(key: Geometry) -> int:
    n = 1
    for size in key[1]:
        n *= size
    return n


def _covers(key: Geometry, tensor: Tensor) -> bool:
    return _numel(key) * key[3].itemsize >= tensor.untyped_storage().nbytes()


def _plain(key: Geometry) -> tuple[Any, ...]:
    """The geometry with the meaningless strides of dimensions of size 1 set to 0."""
    offset, size, stride, dtype, conj = key
    return offset, size, tuple(0 if n == 1 else s for n, s in zip(size, stride, strict=True)), dtype, conj


def _contiguous(key: Geometry) -> bool:
    expected = 1
    for n, s in zip(reversed(key[1]), reversed(key[2]), strict=True):
        if n != 1 and s != expected:
            return False
        expected *= n
    return True


def _permutation(base: Geometry, key: Geometry) -> tuple[int, ...] | None:
    if base[0] != key[0] or len(base[1]) != len(key[1]):
        return None
    dims = list(zip(base[1], _plain(base)[2], strict=True))
    order: list[int] = []
    for dim in zip(key[1], _plain(key)[2], strict=True):
        match = next((i for i, other in enumerate(dims) if other == dim and i not in order), None)
        if match is None:
            return None
        order.append(match)
    return tuple(order)


def _window(base: Geometry, key: Geometry) -> dict[str, Any]:
    return {"size": key[1], "stride": key[2], "offset": key[0] - base[0], "base_stride": base[2]}
