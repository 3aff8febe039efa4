"""Repeated layers as one formula with an index."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from initio.derivations.graph import Factor, Product, Sum, Tree

__all__ = ["Run", "fold", "indexed", "template"]

LONGEST = 24
"""Layers in the longest repeated block that is looked for."""


@dataclass(frozen=True, slots=True)
class Run:
    """Items start, …, start + period·repeats − 1: `repeats` repetitions of `period` items."""

    start: int
    period: int
    repeats: int

    @property
    def length(self) -> int:
        """Number of items."""
        return self.period * self.repeats


def fold(items: Sequence[Hashable]) -> list[Run]:
    """Cut a sequence into runs, each the repetition that covers most from its place (shortest period first).

    >>> [(r.start, r.period, r.repeats) for r in fold("abcbcbcd")]
    [(0, 1, 1), (1, 2, 3), (7, 1, 1)]
    """
    runs: list[Run] = []
    at = 0
    while at < len(items):
        best = Run(at, 1, 1)
        for period in range(1, min(LONGEST, (len(items) - at) // 2) + 1):
            repeats = 1
            while items[at + repeats * period : at + (repeats + 1) * period] == items[at : at + period] and at + (
                repeats + 1
            ) * period <= len(items):
                repeats += 1
            if repeats > 1 and period * repeats > best.length:
                best = Run(at, period, repeats)
        runs.append(best)
        at += best.length
    return runs


def template(tree: Tree) -> Hashable:
    """The form of a tree without its indices."""
    if isinstance(tree, Factor):
        return tree.letter, tree.mark
    return type(tree).__name__, tuple(template(part) for part in tree.parts)


def factors(tree: Tree) -> list[Factor]:
    """Its factors, left to right."""
    return [tree] if isinstance(tree, Factor) else [factor for part in tree.parts for factor in factors(part)]


def indexed(first: Tree, second: Tree, repeats: int, by_repeat: bool) -> tuple[Any, str] | None:
    """The formula of a repeated tree with an index ℓ in place of numbers, and the range of ℓ; None where nothing is numbered.

    ℓ counts repetitions from 0 (`by_repeat`), or is the index of the factor on the input side.
    """
    pairs = [(a, b) for a, b in zip(factors(first), factors(second), strict=True) if a.letter not in ("I", "")]
    if not pairs:
        return None
    low = 0 if by_repeat else pairs[-1][0].index
    names: dict[str, Any] = {}
    for a, b in pairs:
        stride = b.index - a.index
        shift = a.index if by_repeat else a.index - low
        inside = f"{'' if stride == 1 else stride}ℓ{shift:+d}".removesuffix("+0") if stride else str(a.index)
        names[a.name] = sp.Symbol(f"{a.letter}{a.mark}_{{{inside}}}", commutative=False)
    return _renamed(first, names), f"ℓ = {low}, …, {low + repeats - 1}"


def _renamed(tree: Tree, names: dict[str, Any]) -> Any:
    identity = sp.Symbol("I", commutative=False)
    if isinstance(tree, Factor):
        return identity if tree.letter in ("I", "") else names[tree.name]
    parts = [_renamed(part, names) for part in tree.parts]
    if isinstance(tree, Sum):
        return sp.Add(*parts)
    assert isinstance(tree, Product)
    kept = [part for part in parts if part != identity]
    return sp.Mul(*kept) if kept else identity
