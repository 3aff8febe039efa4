"""Strided regions of a storage: which part of a tensor was written last by whom."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

__all__ = ["Box", "Geometry", "boxes_of", "full", "paint"]

Box = tuple[tuple[int, int, int], ...]
"""A (start, stop, step) triple per dimension."""

MAX_LABELS = 1 << 26
MAX_BOXES = 256


@dataclass(frozen=True, slots=True)
class Geometry:
    """A strided view of a storage: sizes and strides in entries, offset in entries, bytes per entry."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    itemsize: int

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.size)

    def part(self, box: Box) -> Geometry:
        """The sub-view that `box` selects."""
        offset = self.offset + sum(start * stride for (start, _, _), stride in zip(box, self.stride, strict=True))
        size = tuple(len(range(*triple)) for triple in box)
        stride = tuple(step * stride for (_, _, step), stride in zip(box, self.stride, strict=True))
        return Geometry(size, stride, offset, self.itemsize)

    def runs(self) -> tuple[list[tuple[int, int]], int]:
        """Outer (size, stride) pairs and the length of the innermost contiguous run, in bytes."""
        dims = sorted(
            ((n, s * self.itemsize) for n, s in zip(self.size, self.stride, strict=True) if n != 1 and s != 0), key=lambda d: d[1]
        )
        run = self.itemsize
        while dims and dims[0][1] == run:
            run *= dims.pop(0)[0]
        return dims, run

    def covers(self, nbytes: int) -> bool:
        """Whether the view holds every byte of a storage of `nbytes`."""
        outer, run = self.runs()
        return self.offset == 0 and not outer and run >= nbytes

    def grain(self) -> int:
        """Largest block, in bytes, that the view never cuts."""
        outer, run = self.runs()
        return math.gcd(self.offset * self.itemsize, run, *(stride for _, stride in outer))


def full(size: Sequence[int]) -> Box:
    """The box of all entries."""
    return tuple((0, n, 1) for n in size)


def paint(view: Geometry, writes: Sequence[Geometry], nbytes: int) -> tuple[np.ndarray[Any, Any], tuple[int, ...]] | None:
    """Labels of the entries of `view`: 1 + the index of the last of `writes` that covers each, 0 where none does.

    The labels come at the resolution of blocks that no write cuts: `scale` is the number of entries per
    label along each dimension. None where that takes more than `MAX_LABELS` labels.
    """
    grain = math.gcd(view.grain(), *(write.grain() for write in writes))
    scale = [1] * len(view.size)
    remaining, used = grain // view.itemsize, 1
    for d in sorted(range(len(view.size)), key=lambda d: (view.stride[d], view.size[d] != 1, -d)):
        if view.size[d] == 1 or view.stride[d] == 0:
            continue
        if remaining == 1 or view.stride[d] != used:
            break
        scale[d] = math.gcd(view.size[d], remaining)
        used *= scale[d]
        if scale[d] != view.size[d]:
            break
        remaining //= scale[d]
    grain = used * view.itemsize
    count = -(-nbytes // grain)
    if count > MAX_LABELS:
        return None
    labels = np.zeros(count, dtype=np.int32 if len(writes) > 65534 else np.uint16)
    for index, write in enumerate(writes):
        outer, run = write.runs()
        dims = [*outer, (run // grain, grain)]
        _strided(labels, write.offset * write.itemsize // grain, [(n, s // grain) for n, s in dims])[...] = index + 1
    dims = [(n // k, s * k * view.itemsize // grain) for n, s, k in zip(view.size, view.stride, scale, strict=True)]
    return _strided(labels, view.offset * view.itemsize // grain, dims), tuple(scale)


def _strided(flat: np.ndarray[Any, Any], offset: int, dims: Sequence[tuple[int, int]]) -> np.ndarray[Any, Any]:
    step = flat.itemsize
    return np.lib.stride_tricks.as_strided(flat[offset:], [n for n, _ in dims], [s * step for _, s in dims])


def boxes_of(mask: np.ndarray[Any, Any], scale: Sequence[int]) -> list[Box] | None:
    """Disjoint boxes that make up the true entries of `mask`, in entries; None where it takes more than `MAX_BOXES`."""
    found: list[Box] = []
    if not _split(mask, (), found):
        return None
    found = _unstep(found, scale)
    if len(found) > MAX_BOXES:
        return None
    return [
        tuple((start * k, stop * k, 1) if step == 1 else (start, stop, step) for (start, stop, step), k in zip(box, scale, strict=True))
        for box in found
    ]


def _unstep(boxes: list[Box], scale: Sequence[int]) -> list[Box]:
    """Blocks of several entries at a stride greater than one are one box each."""
    result: list[Box] = []
    for box in boxes:
        choices = [
            [(start, stop, step)] if step == 1 or k == 1 else [(i, i + 1, 1) for i in range(start, stop, step)]
            for (start, stop, step), k in zip(box, scale, strict=True)
        ]
        result.extend(product(*choices))
    return result


def _split(mask: np.ndarray[Any, Any], prefix: Box, found: list[Box]) -> bool:
    """Append the boxes of `mask` behind `prefix`; False when there are too many."""
    if len(found) > MAX_BOXES:
        return False
    if mask.ndim == 0:
        if mask:
            found.append(prefix)
        return True
    coordinates = [np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != d))) for d in range(mask.ndim)]
    if not all(len(c) for c in coordinates):
        return True
    if math.prod(len(c) for c in coordinates) == int(mask.sum()):
        for box in product(*(_progressions(c) for c in coordinates)):
            found.append((*prefix, *box))
            if len(found) > MAX_BOXES:
                return False
        return True
    # Not a product set: equal consecutive slices along the first dimension go together.
    rows = coordinates[0]
    packed = np.packbits(mask[rows].reshape(len(rows), -1), axis=1)
    changes = np.flatnonzero((np.diff(rows) != 1) | (packed[1:] != packed[:-1]).any(axis=1)) + 1
    edges = [0, *changes.tolist(), len(rows)]
    if len(edges) > MAX_BOXES + 1:
        return False
    return all(_split(mask[rows[a]], (*prefix, (int(rows[a]), int(rows[b - 1]) + 1, 1)), found) for a, b in pairwise(edges))


def _progressions(values: np.ndarray[Any, Any]) -> list[tuple[int, int, int]]:
    """The sorted coordinates as (start, stop, step) runs: one if they are in arithmetic progression."""
    if len(values) == 1:
        return [(int(values[0]), int(values[0]) + 1, 1)]
    steps = np.diff(values)
    if (steps == steps[0]).all():
        return [(int(values[0]), int(values[-1]) + 1, int(steps[0]))]
    edges = [0, *(np.flatnonzero(steps != 1) + 1).tolist(), len(values)]
    return [(int(values[a]), int(values[b - 1]) + 1, 1) for a, b in pairwise(edges)]
