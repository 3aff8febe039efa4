"""Where the backward pass forks: the share of each block's gradient that flows through its skip and through each branch.

A value that is read twice receives the sum of two cotangents. A term that is (a view of) a cotangent which also enters
another operation came along a skip; every other term came through a branch (He et al. 2016, eq. 5).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from initio.core.record import Node, Record

__all__ = ["Fork", "Path", "forks"]

PLUMBING = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "permute",
        "transpose",
        "t",
        "expand",
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "clone",
        "_to_copy",
        "contiguous",
        "flatten",
        "view_as",
    ]
)
"""Operations that hand a cotangent on as it is."""


@dataclass(frozen=True, slots=True)
class Path:
    """One term of the cotangent at a fork. `share` is its part of the terms' summed second moments; `modules` lie on its way."""

    kind: Literal["skip", "branch"]
    value: int
    second: float
    share: float
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fork:
    """A block by its gradient: `gain` = E[g²] at its input over E[g²] at its output (nan: no single output).

    `module` is the innermost module that holds the whole block, `cotangent` the value at its input, `second` that value's second
    moment, `output` the cotangent at its output. `interference` is E[g²] over the sum of the paths' own second moments (1: uncorrelated).
    """

    module: str
    cotangent: int
    output: int | None
    second: float
    gain: float
    interference: float
    paths: tuple[Path, ...]

    @property
    def skip_share(self) -> float:
        """Share of the gradient that flows through skips (0: the block has none)."""
        return sum(path.share for path in self.paths if path.kind == "skip")


def forks(record: Record, second: Callable[[int], float]) -> tuple[Fork, ...]:
    """Every fork of the backward pass, from the input to the output; `second` gives a value's second moment."""
    graph = _Backward(record)
    found: list[Fork] = []
    for node in reversed(graph.sums):
        if node.id in graph.inner:
            continue
        terms = list(graph.terms(node))
        total = node.outputs[0]
        if total is None or len(terms) < 2:
            continue
        found.append(graph.fork(total, terms, second))
    return tuple(found)


class _Backward:
    """The backward nodes that carry cotangents, and which sums accumulate."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.maker: dict[int, Node] = {}
        self.readers: dict[int, list[Node]] = {}
        self.carried: set[int] = {o.cotangent for o in record.outputs if o.cotangent is not None}
        weights = {p.gradient for p in record.parameters}
        self.ends: set[int] = set()
        for node in record.nodes:
            if node.phase != "backward":
                continue
            for value in dict.fromkeys(node.inputs):
                self.readers.setdefault(value, []).append(node)
            for out in node.outputs:
                if out is not None:
                    self.maker[out] = node
            if any(value in self.carried for value in node.inputs):
                self.carried.update(out for out in node.outputs if out is not None)
        if not self.carried and record.loss is not None:
            self.carried = set(self.maker)
        for value in weights:
            while value is not None and value in self.maker:
                self.ends.add(value)
                node = self.maker[value]
                value = node.inputs[0] if _name(node) in PLUMBING else None
        self.sums = [
            n
            for n in record.nodes
            if n.phase == "backward" and _name(n) == "add" and len(set(n.inputs)) == 2 and n.outputs[0] not in self.ends
        ]
        self.inner = self._inner()

    def _inner(self) -> set[int]:
        """Sums that are only a term of another sum."""
        sums = {node.outputs[0]: node.id for node in self.sums}
        return {sums[value] for node in self.sums for value in node.inputs if value in sums and self._reads(value) == 1}

    def _reads(self, value: int) -> int:
        return len(self.readers.get(value, ()))

    def terms(self, node: Node) -> Iterator[int]:
        """The addends of a chain of accumulating sums."""
        for value in node.inputs:
            maker = self.maker.get(value)
            if maker is not None and maker.id in self.inner:
                yield from self.terms(maker)
            else:
                yield value

    def root(self, value: int) -> int:
        """The cotangent that a view shows."""
        maker = self.maker.get(value)
        while maker is not None and _name(maker) in PLUMBING and maker.inputs:
            value = maker.inputs[0]
            maker = self.maker.get(value)
        return value

    def fork(self, total: int, terms: list[int], second: Callable[[int], float]) -> Fork:
        """The paths that meet in `total`."""
        roots = [self.root(value) for value in terms]
        skips = [root for root in roots if self._elsewhere(root)]
        output = skips[0] if skips else self._shared(roots)
        ways = [set[str]() if root in skips else self._way(root, output) for root in roots]
        seconds = [second(value) for value in terms]
        own = sum(seconds)
        paths = tuple(
            Path("skip" if root in skips else "branch", value, s, s / own if own else 0.0, tuple(sorted(way)))
            for value, root, s, way in zip(terms, roots, seconds, ways, strict=True)
        )
        whole = second(total)
        at_output = second(output) if output is not None else float("nan")
        return Fork(
            _common({m for way in ways for m in way}),
            total,
            output,
            whole,
            whole / at_output if at_output else float("nan"),
            whole / own if own else float("nan"),
            paths,
        )

    def _elsewhere(self, root: int) -> bool:
        """Whether a cotangent also enters an operation that is no sum and no view."""
        stack, seen = [root], set[int]()
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            for node in self.readers.get(value, ()):
                if _name(node) in PLUMBING:
                    stack += [out for out in node.outputs if out is not None]
                elif _name(node) != "add" and any(out in self.maker and out not in self.ends for out in node.outputs if out is not None):
                    return True
        return False

    def _back(self, value: int) -> list[int]:
        maker = self.maker.get(value)
        return [] if maker is None else [v for v in maker.inputs if v in self.carried]

    def _shared(self, roots: list[int]) -> int | None:
        """The nearest cotangent that all branches start from."""
        behind = [self._behind(root) for root in roots]
        common = set(behind[0]) if behind else set[int]()
        for others in behind[1:]:
            common &= set(others)
        return max(common, default=None)

    def _behind(self, value: int, limit: int = 400) -> list[int]:
        seen: dict[int, None] = {}
        stack = [value]
        while stack and len(seen) < limit:
            v = stack.pop()
            if v not in seen:
                seen[v] = None
                stack += self._back(v)
        return [v for v in seen if v != value]

    def _way(self, root: int, output: int | None) -> set[str]:
        """Modules between a term and the cotangent at the block's output."""
        found: set[str] = set()
        stack, seen = [root], set[int]()
        while stack and len(seen) < 400:
            value = stack.pop()
            if value == output or value in seen:
                continue
            seen.add(value)
            maker = self.maker.get(value)
            if maker is not None:
                if maker.module:
                    found.add(maker.module)
                stack += self._back(value)
        return found


def _name(node: Node) -> str:
    name = node.op.split(".")[1]
    return name[:-1] if name.endswith("_") else name


def _common(paths: set[str]) -> str:
    """The innermost module that holds all of them."""
    split = [path.split(".") for path in paths]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*split, strict=False))
    return ".".join(names[0] for names in shared)
