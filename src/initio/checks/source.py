"""What the source of the model's own classes says, read by AST without importing it."""

from __future__ import annotations

import ast
import linecache
from functools import lru_cache

from initio.core.record import Source

__all__ = ["assignment", "class_at", "mentions", "parsed"]


@lru_cache(maxsize=256)
def parsed(file: str) -> ast.Module | None:
    """The syntax tree of a file; None where it cannot be read."""
    text = "".join(linecache.getlines(file))
    try:
        return ast.parse(text) if text else None
    except (SyntaxError, ValueError):
        return None


@lru_cache(maxsize=1024)
def class_at(defined: Source) -> ast.ClassDef | None:
    """The class that begins at a place (at its decorators or at its name)."""
    tree = parsed(defined.file)
    if tree is None:
        return None
    last = defined.function.rpartition(".")[2]
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == last]
    lines = {node: {node.lineno, *(decorator.lineno for decorator in node.decorator_list)} for node in classes}
    return next((node for node in classes if defined.line in lines[node]), None)


def assignment(defined: Source, attribute: str) -> Source | None:
    """The line of `self.attribute = …` in the class that begins at a place; None where it is inherited or set by other means."""
    found = class_at(defined)
    for statement in ast.walk(found) if found is not None else ():
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                for part in target.elts if isinstance(target, ast.Tuple) else (target,):
                    if isinstance(part, ast.Attribute) and part.attr == attribute:
                        text = linecache.getline(defined.file, statement.lineno).strip()
                        return Source(defined.file, statement.lineno, defined.function, text)
    return None


@lru_cache(maxsize=4096)
def mentions(defined: Source, attribute: str) -> bool:
    """Whether a class reads `.attribute` outside of its constructor, or looks attributes up by computed names."""
    found = class_at(defined)
    if found is None:
        return True
    for function in found.body:
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and function.name == "__init__":
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Load):
                return True
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "vars"):
                return True
            if isinstance(node, ast.Attribute) and node.attr in ("children", "named_children", "_modules", "get_submodule", "__dict__"):
                return True
    return False
