"""The one table of rules: an ATen op's name → a function with the op's signature and `Moments` for tensors."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from initio.core.moments import Moments, Unknown
from initio.core.record import Node

__all__ = ["RULES", "Context", "Result", "canonical", "context", "find", "rule", "running"]

Result = Moments | Unknown | tuple[Moments | Unknown | None, ...]
Rule = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])

RULES: dict[str, Rule] = {}
"""`aten.add` (every overload and the in-place form) or `aten.add.Tensor` (one overload, tried first)."""

TOLERANT: set[str] = set()
"""Rules that take unknown operands and say themselves what follows."""

NEAR: set[str] = set()
"""Rules for axes that tell neighbours from the rest; others get them on plain axes."""


@dataclass
class Context:
    """What a rule may know of the node that it is applied to; `late` are the places of arguments that are cotangents."""

    node: Node
    shapes: tuple[tuple[int, ...], ...]
    backward: bool = False
    uses: dict[int, list[Any]] = field(default_factory=dict[int, "list[Any]"])
    late: frozenset[int] = frozenset()


_STACK: list[Context] = []


def context() -> Context:
    """The node that the running rule is applied to."""
    return _STACK[-1]


@contextmanager
def running(ctx: Context) -> Generator[None]:
    """Make `ctx` the context of the rules called inside."""
    _STACK.append(ctx)
    try:
        yield
    finally:
        _STACK.pop()


def rule(*names: str, tolerant: bool = False, near: bool = False) -> Callable[[F], F]:
    """Register a function as the rule of the named ops."""

    def register(fn: F) -> F:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for {name}")
            RULES[name] = fn
            if tolerant:
                TOLERANT.add(name)
            if near:
                NEAR.add(name)
        return fn

    return register


def canonical(op: str) -> tuple[str, str]:
    """`aten.add_.Tensor` → (`aten.add.Tensor`, `aten.add`)."""
    space, name, *overload = op.split(".")
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    elif name.startswith("__i") and name.endswith("__"):
        name = f"__{name[3:]}"
    return ".".join((space, name, *overload)), f"{space}.{name}"


def find(op: str) -> tuple[str, Rule] | None:
    """The rule of an op: its overload's own, or the op's."""
    for name in canonical(op):
        if name in RULES:
            return name, RULES[name]
    return None
