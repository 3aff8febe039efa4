"""Moments of what no closed form covers, from replays of the program that wrote it."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from initio.capture.geometry import Box, full
from initio.capture.laws import constant, describe_values
from initio.capture.replay import MAX_REPLAY, Blank, Known, NotElementwiseError, Piece, Read, Replay
from initio.core.distribution import Distribution

__all__ = ["measure", "signature"]


def signature(read: Read) -> tuple[Any, ...]:
    """What the law of a view depends on: equal for the same parameter of layers that are initialised alike."""
    cells: dict[int, int] = {}
    nodes: dict[int, int] = {}
    pending = [read]
    parts: list[Any] = []
    seen: set[tuple[int, int]] = set()

    def of_read(item: Read) -> tuple[Any, ...]:
        pending.append(item)
        return ("read", cells.setdefault(id(item.cell), len(cells)), len(item.cell.live(item.version)), item.geometry, item.dtype)

    def of_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Read):
            return of_read(leaf)
        if isinstance(leaf, Known):
            return ("known", leaf.tensor.item(), leaf.tensor.dtype) if leaf.tensor.numel() == 1 else ("unique", id(leaf))
        return leaf if isinstance(leaf, Blank) else repr(leaf)

    parts.append(of_read(read))
    while pending:
        item = pending.pop()
        if (id(item.cell), item.version) in seen:
            continue
        seen.add((id(item.cell), item.version))
        for write in item.cell.live(item.version):
            new = id(write.node) not in nodes
            number = nodes.setdefault(id(write.node), len(nodes))
            parts.append((cells[id(item.cell)], item.cell.nbytes, write.geometry, write.out, write.box, number))
            if new:
                parts.append((number, write.node.func, write.node.random, *(of_leaf(leaf) for leaf in write.node.leaves)))
    return tuple(parts)


def measure(read: Read, pieces: Sequence[Piece] | None, memo: dict[Any, list[tuple[Box, Distribution]]]) -> list[tuple[Box, Distribution]]:
    """Distributions of the pieces, those without a closed form from replays of their program.

    `memo` keeps what was measured, by `signature`. Raises `TooLargeError` where the program is neither elementwise nor small enough to run.
    """
    size = read.geometry.size
    pieces = [Piece(full(size), None)] if pieces is None else pieces
    random = read.cell.random(read.version)
    result: dict[Box, Distribution] = {piece.box: piece.law for piece in pieces if piece.law is not None}
    missing = [piece.box for piece in pieces if piece.law is None]
    if not missing:
        return list(result.items())
    key = signature(read)
    if key not in memo:
        result |= _replayed(read, missing, random, len(pieces) == 1)
        memo[key] = list(result.items())
    return memo[key]


def _replayed(read: Read, missing: Sequence[Box], random: bool, whole: bool) -> dict[Box, Distribution]:
    """Moments of the boxes `missing` of a view over replays of its program; `whole` says that they are all of it."""
    numel = read.geometry.numel
    result: dict[Box, Distribution] = {}
    views: dict[Box, list[Tensor]] = {}
    if whole and random and numel > 1 << 18:
        with contextlib.suppress(NotElementwiseError):
            views[missing[0]] = [Replay(0, shrink=(numel, 1 << 18)).read(read)]
    if not views:
        first = Replay(0)
        samples = [first.read(read)]
        cost = MAX_REPLAY - first.budget
        draws = min(16, max(65536 // max(numel, 1), 1), max((1 << 21) // max(cost, 1), 1)) if random else 1
        samples += [Replay(draw).read(read) for draw in range(1, draws)]
        views = {box: [sample[tuple(slice(*t) for t in box)] for sample in samples] for box in missing}
    for box in missing:
        shape = tuple(len(range(*t)) for t in box)
        laws = [describe_values(view) for view in views[box]]
        mean = sum(law.mean for law in laws) / len(laws)
        second = sum(law.second for law in laws) / len(laws)
        if all(law.family == "constant" for law in laws) and math.isclose(second, mean * mean, abs_tol=1e-300):
            result[box] = constant(mean, shape)
        else:
            family = "program" if random else "values"
            result[box] = Distribution(family, {"mean": mean, "std": math.sqrt(max(second - mean * mean, 0.0))}, shape)
    return result
