"""Memory of the recorded program: storages, what is known of their contents, and which tensor sees what.

Every storage that takes part in a recording carries a `Cell`, attached to torch's own storage object, so that
it lives exactly as long as the memory that it describes: nothing is kept alive by being recorded.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["LIMIT", "Cell", "Fill", "Geometry", "Memory", "constant_array", "geometry"]

LIMIT = 1 << 24
"""Entries up to which a known value is computed; larger ones are only held as `Fill`."""

Geometry = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype, bool]
"""Offset, size, stride (in entries), dtype, lazily conjugated."""


@dataclass(frozen=True, slots=True)
class Fill:
    """Contents of a storage whose entries are all `value`."""

    value: bool | int | float | complex


class Cell:
    """What is known of one storage.

    `root` is the value that covers it (laid out as `root_key`), `current` the up-to-date value of each view,
    `epoch` the number of writes so far, `shadow` its real contents (None: unknown; `Fill`; a CPU storage; True in a
    recording with real tensors, where the storage is its own shadow). `sampled` marks contents that are one draw of a
    random value: they answer control flow but are not constants. `borrowed` shadows belong to the user and are copied
    before a write.
    """

    __slots__ = ("borrowed", "current", "epoch", "index", "root", "root_key", "run", "sampled", "shadow", "twin")

    def __init__(self, run: object, index: int, root_key: Geometry) -> None:
        self.run = run
        self.index = index
        self.root_key = root_key
        self.root: int | None = None
        self.current: dict[Geometry, int] = {}
        self.epoch = 0
        self.shadow: Any = None
        self.sampled = False
        self.borrowed = False
        self.twin: Tensor | None = None

    def touch(self) -> None:
        """Forget all values: the contents have changed."""
        self.epoch += 1
        self.current = {}
        self.root = None


def geometry(tensor: Tensor) -> Geometry:
    """Where in its storage a tensor lies."""
    dtype = tensor.dtype
    return int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), dtype, dtype.is_complex and tensor.is_conj()


class Memory:
    """All storages of one recording. `real` recordings work on CPU tensors with contents, the others on `meta`."""

    def __init__(self, real: bool = False) -> None:
        self.real = real
        self.sizes: list[int] = []
        self.adopted: list[Any] = []

    def cell(self, tensor: Tensor) -> Cell:
        """The cell of a tensor's storage, made at the first sight of it."""
        storage = tensor.untyped_storage()
        cell: Cell | None = getattr(storage, "_initio", None)
        if cell is None or cell.run is not self:
            cell = Cell(self, len(self.sizes), geometry(tensor))
            self.sizes.append(storage.nbytes())
            storage._initio = cell  # pyright: ignore[reportAttributeAccessIssue]
        return cell

    def seen(self, tensor: Tensor) -> bool:
        """Whether the storage already takes part."""
        cell = getattr(tensor.untyped_storage(), "_initio", None)
        return cell is not None and cell.run is self

    def adopt(self, tensor: Tensor) -> Tensor:
        """The tensor to record with in place of one that the user made outside of the recording: its contents are known."""
        if self.real:
            if not self.seen(tensor):
                self.cell(tensor).shadow = True
                self.adopted.append(tensor.untyped_storage())
            return tensor
        storage = tensor.untyped_storage()
        owner = self.cell(tensor)
        if owner.twin is None:
            owner.twin = torch.empty(storage.nbytes(), dtype=torch.uint8, device="meta")
            self.adopted.append(storage)
            cell = Cell(self, owner.index, geometry(tensor))
            cell.shadow, cell.borrowed = storage, True
            owner.twin.untyped_storage()._initio = cell  # pyright: ignore[reportAttributeAccessIssue]
        return _window(owner.twin.untyped_storage(), tensor, "meta")

    def release(self) -> None:
        """Take the cells off the user's own storages."""
        for storage in self.adopted:
            cell = getattr(storage, "_initio", None)
            if cell is not None:
                cell.twin = None
                del storage._initio
        self.adopted.clear()

    def known(self, tensor: Tensor) -> bool:
        """Whether the entries follow from known values alone."""
        cell = self.cell(tensor)
        return cell.shadow is not None and not cell.sampled

    def peekable(self, tensor: Tensor) -> bool:
        """Whether there is any value to answer control flow with."""
        return self.cell(tensor).shadow is not None

    def contents(self, tensor: Tensor) -> Tensor:
        """The real CPU tensor beside a known one (shares memory with the shadow: do not write)."""
        shadow = self.cell(tensor).shadow
        if shadow is True:
            return tensor
        if isinstance(shadow, Fill):
            return torch.full((), shadow.value, dtype=tensor.dtype).expand(tensor.shape)
        return _window(shadow, tensor, "cpu")

    def writable(self, tensor: Tensor) -> Tensor | None:
        """The real tensor to write into, private to the recording; None where it would be too large."""
        cell = self.cell(tensor)
        if cell.shadow is True:
            return tensor
        nbytes = tensor.untyped_storage().nbytes()
        if isinstance(cell.shadow, Fill) or cell.shadow is None:
            if nbytes > LIMIT * 4:
                return None
            value = cell.shadow.value if isinstance(cell.shadow, Fill) else 0
            cell.shadow = torch.full((nbytes // tensor.element_size(),), value, dtype=tensor.dtype).untyped_storage()
        elif cell.borrowed:
            cell.shadow = cell.shadow.clone()
            cell.borrowed = False
        return _window(cell.shadow, tensor, "cpu")

    def beside(self, real: Tensor, out: Tensor | None = None, sampled: bool = False) -> Tensor:
        """A `meta` tensor (`out` where its layout fits) with `real` as its shadow."""
        if self.real:
            cell = self.cell(real)
            cell.shadow, cell.sampled = True, sampled
            return real
        if real.storage_offset() or real.untyped_storage().nbytes() != _extent(real):
            real = real.clone() if 0 not in real.stride() or real.numel() < 2 else real.contiguous()
        if real.is_conj() or real.is_neg():
            real = real.resolve_conj().resolve_neg()
        fits = (
            out is not None
            and out.stride() == real.stride()
            and out.dtype == real.dtype
            and out.shape == real.shape
            and not out.storage_offset()
            and not self.seen(out)
            and not out.is_conj()
        )
        result = out if fits and out is not None else torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="meta")
        cell = self.cell(result)
        cell.shadow, cell.sampled = real.untyped_storage(), sampled
        return result


def _extent(tensor: Tensor) -> int:
    """Bytes of storage that a tensor at offset 0 spans."""
    if tensor.numel() == 0:
        return 0
    return (1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))) * tensor.element_size()


def _window(storage: Any, like: Tensor, device: str) -> Tensor:
    view = torch.empty(0, dtype=like.dtype, device=device)
    view.set_(storage, like.storage_offset(), tuple(like.shape), like.stride())
    return view.conj() if like.dtype.is_complex and like.is_conj() else view


def constant_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A private numpy copy; repeated dimensions (stride 0) stay repeated instead of being copied out."""
    tensor = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.dtype not in _NUMPY:
        tensor = tensor.float()
    shape = tuple(tensor.shape)
    if 0 in tensor.stride() and math.prod(shape) > 1:
        compact = tensor[tuple(slice(0, 1) if s == 0 else slice(None) for s in tensor.stride())]
        return np.broadcast_to(compact.numpy().copy(), shape)
    return tensor.numpy().copy()


_NUMPY = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128,
}  # fmt: skip
