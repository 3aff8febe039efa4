"""The program that wrote a storage: its recorded writes, and their replay on real tensors."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from initio.capture.geometry import Box, Geometry, boxes_of, full, paint
from initio.capture.laws import constant, relabel
from initio.core.distribution import Distribution

__all__ = [
    "UNINITIALISED",
    "Blank",
    "Cell",
    "Known",
    "Node",
    "NotElementwiseError",
    "Piece",
    "Read",
    "Replay",
    "TooLargeError",
    "Write",
    "elementwise",
    "geometry_of",
    "labels_of",
    "pieces_of",
    "schema_name",
]

MAX_REPLAY = 1 << 27
"""Entries that a replay may hold; beyond, an exact law or an elementwise program is needed."""

UNINITIALISED = "never initialised: memory as it was allocated"

_RANDOM = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_", "log_normal_", "cauchy_", "geometric_"}
_FILLED = {
    "full",
    "zeros",
    "ones",
    "full_like",
    "zeros_like",
    "ones_like",
    "empty_like",
    "new_full",
    "new_zeros",
    "new_ones",
    "fill_",
    "zero_",
}
_SHAPED = _RANDOM | _FILLED | {"rand", "randn", "rand_like", "randn_like", "normal", "bernoulli", "copy_", "clone", "_to_copy", "detach"}


class TooLargeError(RuntimeError):
    """The replay would need more memory than is reasonable."""


class NotElementwiseError(RuntimeError):
    """The program cannot be replayed on a small array in place of the large one."""


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor argument: a view of a storage after its first `version` writes."""

    cell: Cell
    version: int
    geometry: Geometry
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Known:
    """A real tensor argument, copied."""

    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Blank:
    """A tensor argument that is overwritten without being read."""

    size: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Node:
    """One recorded operation. `leaves` are its flattened arguments; tensors stand as `Read`, `Known` or `Blank`."""

    func: Callable[..., Any]
    leaves: tuple[Any, ...]
    spec: TreeSpec
    random: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Write:
    """`node` wrote the region `geometry`. `out` is the index of its flattened result, or −1 − index of the mutated argument.

    `box` is the part of that result that was written here (None: all); `law` is None without a closed form.
    """

    geometry: Geometry
    law: Distribution | None
    node: Node
    out: int
    box: Box | None = None


@dataclass(eq=False, slots=True)
class Cell:
    """The history of a storage of `nbytes` bytes."""

    nbytes: int
    writes: list[Write] = field(default_factory=list[Write])
    covering: list[int] = field(default_factory=list[int])

    def write(self, write: Write) -> None:
        """Append to the history."""
        if write.geometry.covers(self.nbytes):
            self.covering.append(len(self.writes))
        self.writes.append(write)

    def live(self, version: int) -> list[Write]:
        """The writes that can show at `version`: from the last that covers the whole storage."""
        start = next((index for index in reversed(self.covering) if index < version), 0)
        return self.writes[start:version]

    def random(self, version: int) -> bool:
        """Whether chance enters the content at `version`."""
        return any(write.node.random for write in self.live(version))


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor and its law: None where only a replay knows it."""

    box: Box
    law: Distribution | None


def geometry_of(tensor: Tensor) -> Geometry:
    """The strided view that a tensor is."""
    return Geometry(tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()), tensor.element_size())


def schema_name(func: Any) -> str:
    """`normal_` of `aten.normal_.default`; the name of a plain function."""
    packet = getattr(func, "overloadpacket", None)
    return packet.__name__ if packet is not None else func.__name__


def pieces_of(read: Read) -> list[Piece] | None:
    """Boxes and laws of a view; None where the pattern of writes is not a few boxes."""
    size, writes = read.geometry.size, read.cell.live(read.version)
    if not writes or 0 in size:
        return [Piece(full(size), constant(0.0, size, UNINITIALISED if not writes else ""))]
    if len(writes) == 1 and writes[0].geometry.covers(read.cell.nbytes):
        return [Piece(full(size), _seen(writes[0], read.geometry))]
    found = labels_of(read)
    if found is None:
        return None
    labels, scale = found
    labels = _merged(labels, writes)
    pieces: list[Piece] = []
    for label in np.unique(labels).tolist():
        boxes = boxes_of(labels == label, scale)
        if boxes is None:
            return None
        for box in boxes:
            part = read.geometry.part(box)
            law = _seen(writes[label - 1], part) if label else constant(0.0, part.size, UNINITIALISED)
            pieces.append(Piece(box, law))
    return pieces if len(pieces) <= 256 else None


def _merged(labels: np.ndarray[Any, Any], writes: Sequence[Write]) -> np.ndarray[Any, Any]:
    """Labels with those of equal independent laws made one."""
    first: dict[Any, int] = {}
    table = np.arange(len(writes) + 1)
    for index, write in enumerate(writes):
        if write.law is not None and write.law.family not in ("orthogonal", "values", "program", "parts"):
            key = (write.law.family, tuple(sorted(write.law.parameters.items())), write.law.note, write.geometry.itemsize)
            table[index + 1] = first.setdefault(key, index + 1)
    return table[labels]


def labels_of(read: Read) -> tuple[np.ndarray[Any, Any], tuple[int, ...]] | None:
    """`paint` of the live writes of a view."""
    return paint(read.geometry, [write.geometry for write in read.cell.live(read.version)], read.cell.nbytes)


def _seen(write: Write, view: Geometry) -> Distribution | None:
    law = write.law
    if law is None or write.geometry.itemsize != view.itemsize:
        return None
    if law.family == "values" and write.geometry.numel != view.numel:
        return None
    return relabel(law, view.size)


class Replay:
    """Runs recorded programs on real tensors; one instance is one draw of all of them.

    With `shrink = (n, m)` arrays of n entries, all of one shape, are replaced by arrays of m entries; that is
    exact in law for elementwise programs, and `NotElementwiseError` says where the program is not.
    """

    def __init__(self, draw: int, shrink: tuple[int, int] | None = None, budget: int = MAX_REPLAY) -> None:
        self.draw = draw
        self.shrink = shrink
        self.budget = budget
        self.results: dict[int, tuple[Node, list[Any], list[Any]]] = {}
        self.contents: dict[tuple[int, int], torch.UntypedStorage] = {}

    @torch.no_grad()
    def read(self, read: Read, private: bool = False) -> Tensor:
        """The content of a view; `private` asks for a tensor that may be overwritten."""
        if self.shrink is not None:
            return self._small(read)
        key = (id(read.cell), read.version)
        if key not in self.contents:
            for node in self._ancestors(read):
                self._run(node)
            self.contents[key] = self._fill(read.cell, read.version)
        g = read.geometry
        tensor = torch.empty(0, dtype=read.dtype).set_(self.contents[key], g.offset, g.size, g.stride)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if private:
            # A copy of the whole storage, so that strides (and overlap) stay as they were.
            copy = self.contents[key].clone()
            tensor = torch.empty(0, dtype=read.dtype).set_(copy, g.offset, g.size, g.stride)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return tensor

    def _ancestors(self, read: Read) -> list[Node]:
        """The nodes that a read needs, in the order in which they were recorded, so that replay does not recurse."""
        found: dict[int, Node] = {}
        seen: set[tuple[int, int]] = set()
        stack = [read]
        while stack:
            current = stack.pop()
            if (id(current.cell), current.version) in seen:
                continue
            seen.add((id(current.cell), current.version))
            for write in current.cell.live(current.version):
                if id(write.node) not in found and id(write.node) not in self.results:
                    found[id(write.node)] = write.node
                    stack.extend(leaf for leaf in write.node.leaves if isinstance(leaf, Read))
        return sorted(found.values(), key=lambda node: node.seed)

    def _fill(self, cell: Cell, version: int) -> torch.UntypedStorage:
        self._spend(cell.nbytes // 4)
        flat = torch.zeros(cell.nbytes, dtype=torch.uint8)
        storage = flat.untyped_storage()
        for write in cell.live(version):
            value = self._result(write)
            g = write.geometry
            target = torch.empty(0, dtype=value.dtype).set_(storage, g.offset, g.size, g.stride)  # pyright: ignore[reportArgumentType, reportCallIssue]
            if write.box is not None:
                value = value[tuple(slice(*triple) for triple in write.box)]
            target.copy_(value)
        return storage

    def _small(self, read: Read) -> Tensor:
        assert self.shrink is not None
        n, m = self.shrink
        if read.geometry.numel == 1:
            return Replay(self.draw, None, self.budget).read(read)
        writes = read.cell.live(read.version)
        if read.geometry.numel != n or len(writes) != 1 or not writes[0].geometry.covers(read.cell.nbytes):
            raise NotElementwiseError
        law = writes[0].law
        if law is not None and law.family == "constant":
            return torch.full((m,), law.parameters["value"], dtype=read.dtype)
        return self._result(writes[0]).clone()

    def _result(self, write: Write) -> Tensor:
        outs, leaves = self._run(write.node)
        return outs[write.out] if write.out >= 0 else leaves[-1 - write.out]

    def _run(self, node: Node) -> tuple[list[Any], list[Any]]:
        if id(node) not in self.results:
            leaves = [self._argument(leaf) for leaf in node.leaves]
            args, kwargs = tree_unflatten(leaves, node.spec)
            if self.shrink is not None:
                args = self._shrunk(node, args, kwargs)
            if kwargs.get("generator") is not None:
                kwargs["generator"] = None
            if kwargs.get("device") is not None:
                kwargs["device"] = torch.device("cpu")
            if node.random:
                torch.default_generator.manual_seed(node.seed * 1_000_003 + self.draw)
            result = node.func(*args, **kwargs)
            self.results[id(node)] = (node, [self._keep(out) for out in tree_flatten(result)[0]], leaves)
        return self.results[id(node)][1:]

    def _keep(self, out: Any) -> Any:
        if isinstance(out, Tensor):
            self._spend(out.numel())
        return out

    def _argument(self, leaf: Any) -> Any:
        if isinstance(leaf, Read):
            return self.read(leaf, private=True)
        if isinstance(leaf, Blank):
            size = leaf.size
            if self.shrink is not None and math.prod(size) != 1:
                if math.prod(size) != self.shrink[0]:
                    raise NotElementwiseError
                size = (self.shrink[1],)
            return torch.empty(size, dtype=leaf.dtype)
        if isinstance(leaf, Known):
            if self.shrink is not None and leaf.tensor.numel() != 1:
                raise NotElementwiseError
            return leaf.tensor.clone()
        return leaf

    def _shrunk(self, node: Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[Any]:
        """The arguments with sizes of n entries replaced by (m,)."""
        assert self.shrink is not None
        n, m = self.shrink
        if schema_name(node.func) not in _SHAPED and not elementwise(node.func):
            raise NotElementwiseError

        def small(size: Any) -> Any:
            if not isinstance(size, Sequence) or isinstance(size, str) or not all(isinstance(k, int) for k in size) or math.prod(size) == 1:
                return size
            if math.prod(size) != n:
                raise NotElementwiseError
            return [m]

        kwargs.pop("memory_format", None)
        return [small(arg) for arg in args]

    def _spend(self, entries: int) -> None:
        self.budget -= entries
        if self.budget < 0:
            raise TooLargeError


def elementwise(func: Any) -> bool:
    """Whether an ATen overload, or the functional form of an in-place one, is tagged pointwise."""
    tags = getattr(func, "tags", ())
    if torch.Tag.pointwise in tags:
        return True
    name = schema_name(func)
    if not name.endswith("_") or not hasattr(func, "_overloadname"):
        return False
    packet = getattr(torch.ops.aten, name[:-1], None)
    overload = getattr(packet, func._overloadname, None) or getattr(packet, "default", None)
    return overload is not None and torch.Tag.pointwise in overload.tags
