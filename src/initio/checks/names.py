"""What a function calls its tensors: names that stand for one object, read from its source."""

from __future__ import annotations

import ast
from functools import lru_cache

from initio.checks.source import parsed
from initio.core.record import Source

__all__ = ["overwritten_names", "read_names", "rebound"]


@lru_cache(maxsize=4096)
def _function(file: str, line: int) -> ast.FunctionDef | None:
    """The innermost function around a line."""
    tree = parsed(file)
    around = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ] if tree is not None else []  # fmt: skip
    return max(around, key=lambda node: node.lineno, default=None)


def _statement(place: Source) -> ast.stmt | None:
    """The innermost statement of a line."""
    function = _function(place.file, place.line)
    found = [
        node for node in ast.walk(function) if isinstance(node, ast.stmt) and node.lineno <= place.line <= (node.end_lineno or 0)
    ] if function is not None else []  # fmt: skip
    return max(found, key=lambda node: (node.lineno, -(node.end_lineno or 0)), default=None)


@lru_cache(maxsize=4096)
def read_names(place: Source) -> frozenset[str]:
    """Local names that the statement of a line reads."""
    statement = _statement(place)
    if statement is None:
        return frozenset()
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        names.add(statement.target.id)
    return frozenset(names)


@lru_cache(maxsize=4096)
def overwritten_names(place: Source) -> frozenset[str]:
    """Names that still mean the old contents of the tensor which the statement of a line overwrites.

    `out = relu_(x)` overwrites `x`, and `identity` where `identity = x` stands before; `x = relu_(x)` leaves only `identity`.
    """
    statement, function = _statement(place), _function(place.file, place.line)
    if statement is None or function is None:
        return frozenset()
    new = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    operands = _operands(statement)
    if len(operands) != 1:
        return frozenset()
    names: set[str] = set(operands)
    for other in sorted(_assignments(function, statement.lineno), key=lambda node: node.lineno):
        target, value = other.targets[0], other.value
        if not isinstance(target, ast.Name):
            continue
        if isinstance(value, ast.Name) and value.id in names:
            names.add(target.id)
        elif isinstance(value, ast.Name) and target.id in operands:
            names.add(value.id)
        elif target.id in names:
            names = {*operands} if target.id in operands else names - {target.id}
    return frozenset(names - new)


@lru_cache(maxsize=4096)
def rebound(first: Source, last: Source) -> frozenset[str]:
    """Names that statements between two lines assign anew."""
    function = _function(first.file, first.line)
    stores = [node for node in ast.walk(function) if isinstance(node, ast.Name)] if function is not None else []
    return frozenset(node.id for node in stores if isinstance(node.ctx, ast.Store) and first.line < node.lineno < last.line)


def _assignments(function: ast.FunctionDef, before: int) -> list[ast.Assign]:
    return [node for node in ast.walk(function) if isinstance(node, ast.Assign) and len(node.targets) == 1 and node.lineno < before]


def _operands(statement: ast.stmt) -> set[str]:
    """The name that a call takes first (`f(x)`, `x.relu_()`), or that an augmented assignment changes."""
    if isinstance(statement, ast.AugAssign):
        return {statement.target.id} if isinstance(statement.target, ast.Name) else set()
    value = getattr(statement, "value", None)
    while isinstance(value, ast.Call):
        if value.args:
            value = value.args[0]
        elif isinstance(value.func, ast.Attribute):
            value = value.func.value
        else:
            break
    return {value.id} if isinstance(value, ast.Name) else set()
