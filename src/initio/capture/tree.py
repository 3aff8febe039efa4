"""The module tree of a live model, with the modules in its plain containers and the lines where all of them were made."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

from torch import nn

from initio.core.record import Source
from initio.core.tree import ModuleNode, ModuleTree, Overwritten

__all__ = ["module_tree"]

DEPTH = 4
"""Containers are searched this deep."""

MODAL = (nn.modules.dropout._DropoutNd, nn.RReLU)  # pyright: ignore[reportPrivateUsage]
OWN = frozenset(vars(nn.Module()))

ROLES: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("dropout", (nn.modules.dropout._DropoutNd,)),  # pyright: ignore[reportPrivateUsage]
    ("recurrent", (nn.RNNBase,)),
    ("container", (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)),
)


class _Made(Protocol):
    @property
    def copies(self) -> tuple[tuple[str, ...], ...]: ...
    @property
    def overwritten(self) -> tuple[Overwritten, ...]: ...


def module_tree(model: nn.Module, sources: Mapping[str, Source], construction: _Made | None = None) -> ModuleTree:
    """Every module object once: the registered ones in their order, then those that only plain containers hold.

    `sources` maps paths, as in `initio.capture.modules.Tree`, to the lines where the modules were made; a `construction` adds what only
    the running constructor showed.
    """
    found: dict[int, ModuleNode] = {}
    live: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules(remove_duplicate=False):
        _add(found, live, path, module, sources, ModuleNode(path, type(module).__name__))
    position = 0
    while position < len(live):  # grows: what an unregistered module holds is searched too
        owner_path, owner = live[position]
        position += 1
        for attribute, value in _attributes(owner):
            for path, container, module in _held(value, attribute, DEPTH):
                if id(module) in found and found[id(module)].registered:
                    continue
                full = f"{owner_path}.{path}" if owner_path else path
                assigned = _assignment(type(owner), attribute)
                for inner, child in module.named_modules(remove_duplicate=False):
                    name = f"{full}.{inner}" if inner else full
                    node = ModuleNode(name, type(child).__name__, False, owner_path, attribute, container, assigned=assigned)
                    _add(found, live, name, child, sources, node)
    if construction is None:
        return ModuleTree(tuple(found.values()))
    return ModuleTree(tuple(found.values()), construction.copies, construction.overwritten)


def _add(
    found: dict[int, ModuleNode],
    live: list[tuple[str, nn.Module]],
    path: str,
    module: nn.Module,
    sources: Mapping[str, Source],
    node: ModuleNode,
) -> None:
    if id(module) in found:
        seen = found[id(module)]
        if path not in (seen.path, *seen.aliases):
            found[id(module)] = replace(seen, aliases=(*seen.aliases, path))
        return
    own = list(module.parameters(recurse=False))
    found[id(module)] = replace(
        node,
        parameters=sum(p.numel() for p in own),
        trainable=sum(p.numel() for p in own if p.requires_grad),
        buffers=sum(b.numel() for b in module.buffers(recurse=False)),
        mode=isinstance(module, MODAL),
        source=sources.get(path),
        role=next((role for role, kinds in ROLES if isinstance(module, kinds)), ""),
        config={
            name: value for name, value in vars(module).items() if not name.startswith("_") and isinstance(value, (bool, int, float, str))
        },
        defined=_defined(type(module)),
    )
    live.append((path, module))


@functools.lru_cache(maxsize=4096)
def _defined(kind: type) -> Source | None:
    """Where a class outside torch begins."""
    if kind.__module__.startswith("torch."):
        return None
    try:
        _, line = inspect.getsourcelines(kind)
        file = inspect.getsourcefile(kind) or ""
    except (OSError, TypeError):
        return None
    return Source(file, line, kind.__qualname__, linecache.getline(file, line).strip())


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes that may hold modules unseen by torch: the instance's own, and those of its classes outside torch."""
    for name, value in list(vars(module).items()):
        if name not in OWN and name not in ("_modules", "_parameters", "_buffers"):
            yield name, value
    for kind in type(module).__mro__:
        if kind is nn.Module:
            break
        if not kind.__module__.startswith("torch."):
            for name, value in list(vars(kind).items()):
                if isinstance(value, (list, tuple, dict, set)) and not name.startswith("__") and name not in vars(module):
                    yield name, value


def _held(value: Any, path: str, depth: int) -> Iterator[tuple[str, str, nn.Module]]:
    """(path, kind of container, module) for each module in a plain container."""
    if depth == 0:
        return
    items: list[tuple[str, Any]]
    if isinstance(value, nn.Module):
        return
    if isinstance(value, Mapping):
        kind, items = "dict", [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        kind, items = ("list" if isinstance(value, list) else "tuple"), [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, (set, frozenset)):
        kind, items = "set", [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    elif is_dataclass(value) and not isinstance(value, type):
        kind, items = "dataclass", [(f"{path}.{f.name}", getattr(value, f.name, None)) for f in fields(value)]
    else:
        return
    for inner, item in items:
        if isinstance(item, nn.Module):
            yield inner, kind, item
        else:
            yield from _held(item, inner, depth - 1)


def _assignment(kind: type, attribute: str) -> Source | None:
    """The line of `self.attribute = …`, or of `attribute = …` in the class body, in the source of the class."""
    for cls in kind.__mro__:
        if cls in (nn.Module, object) or cls.__module__.startswith("torch."):
            continue
        try:
            lines, start = inspect.getsourcelines(cls)
            file = inspect.getsourcefile(cls) or ""
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            continue
        for statement in ast.walk(tree):
            targets = (
                statement.targets
                if isinstance(statement, ast.Assign)
                else [statement.target]
                if isinstance(statement, ast.AnnAssign)
                else []
            )
            for target in targets:
                name = target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else None
                if name == attribute:
                    line = start + statement.lineno - 1  # pyright: ignore[reportAttributeAccessIssue]
                    return Source(file, line, cls.__name__, linecache.getline(file, line).strip())
    return None
