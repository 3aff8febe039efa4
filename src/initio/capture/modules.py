"""Modules of a model: their paths, the tensors that stand in for their parameters during a recording, and their calls."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from initio.capture.loose import put
from initio.capture.places import user_source
from initio.capture.recording import Recorder
from initio.core.record import Call

__all__ = ["Calls", "Snapshot", "Tree", "named_tensors"]


def named_tensors(result: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested tuples, lists, mappings and dataclasses, with their paths (`logits`, `past.0`)."""
    if isinstance(result, Tensor):
        yield prefix, result
    elif isinstance(result, Mapping):
        for key, item in result.items():
            yield from named_tensors(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        for key in result._fields:  # pyright: ignore[reportAttributeAccessIssue]
            yield from named_tensors(getattr(result, key), f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(result, (tuple, list)):
        for i, item in enumerate(result):
            yield from named_tensors(item, f"{prefix}.{i}" if prefix else str(i))
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        for item in dataclasses.fields(result):
            yield from named_tensors(getattr(result, item.name), f"{prefix}.{item.name}" if prefix else item.name)


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [tensor for _, tensor in named_tensors(result)]


class Tree:
    """Paths of all modules reachable from a model.

    A registered module has the first name that `named_modules` gives it. One that is only reachable through plain attributes, lists or
    dictionaries, so that torch does not know of it, is named by how it is reached, with brackets: `paths[3].0`, `heads['a']`. One made
    during the call itself is named `~Class` under the module that runs.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.paths: dict[int, str] = {}
        self.modules: dict[str, nn.Module] = {}
        self.loose: list[str] = []
        self.holders: dict[str, tuple[nn.Module, str]] = {}
        if model is None:
            return
        for path, module in model.named_modules():
            self._add(path, module)
        queue = list(self.modules.items())
        for path, module in queue:
            for name, item in list(vars(module).items()):
                if (name.startswith("_") and name in _TORCH) or isinstance(item, (str, int, float, Tensor)):
                    continue
                for place, found in _reachable(item, f"{path}.{name}" if path else name):
                    if id(found) in self.paths:
                        continue
                    self.loose.append(place)
                    for inner, child in found.named_modules():
                        if id(child) not in self.paths:
                            full = f"{place}.{inner}" if inner else place
                            self._add(full, child)
                            queue.append((full, child))

    def _add(self, path: str, module: nn.Module) -> None:
        self.paths[id(module)] = path
        self.modules[path] = module

    def loose_path(self, path: str) -> bool:
        """Whether torch does not know of the module."""
        return any(path == place or path.startswith(place + ".") for place in self.loose)

    def tensors(self, of: str) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
        """(full name, owner, name in the owner, tensor) of all parameters or buffers, every name of a tied one included."""
        for path, module in self.modules.items():
            table: Mapping[str, Tensor | None] = module._parameters if of == "parameters" else module._buffers
            for name, tensor in table.items():
                if tensor is not None:
                    yield f"{path}.{name}" if path else name, module, name, tensor


_TORCH = {name for name in vars(nn.Module()) if name.startswith("_")}


def _reachable(item: Any, place: str, depth: int = 4) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(item, nn.Module):
        yield place, item
    elif depth and isinstance(item, (list, tuple)):
        if len(item) > 10_000:
            return
        for i, inner in enumerate(item):
            yield from _reachable(inner, f"{place}[{i}]", depth - 1)
    elif depth and isinstance(item, dict):
        for key, inner in item.items():
            yield from _reachable(inner, f"{place}[{key!r}]", depth - 1)
    elif depth and isinstance(item, (set, frozenset)):
        for i, inner in enumerate(item):
            yield from _reachable(inner, f"{place}[{i}]", depth - 1)
    elif depth and dataclasses.is_dataclass(item) and not isinstance(item, type):
        for key in dataclasses.fields(item):
            yield from _reachable(getattr(item, key.name, None), f"{place}.{key.name}", depth - 1)


class Snapshot:
    """Everything that a run could leave behind in a model: attributes, tables, modes. Restores them exactly."""

    def __init__(self, tree: Tree) -> None:
        self.saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.containers: list[tuple[Any, Any]] = []
        seen: set[int] = set()
        for module in tree.modules.values():
            attributes = vars(module)
            self.saved.append((attributes, dict(attributes)))
            for item in attributes.values():
                plain = type(item) in (dict, list, set) or isinstance(item, dict)
                if plain and id(item) not in seen and len(item) < 100_000:
                    seen.add(id(item))
                    self.containers.append((item, item.copy()))

    def substitute(self, stand_ins: Mapping[int, Tensor]) -> None:
        """Put stand-ins for tensors (by id) into every table, attribute and plain container of the modules."""
        for container, _ in self.containers:
            put(container, stand_ins)
        for attributes, _ in self.saved:
            for key, item in list(attributes.items()):
                if isinstance(item, (Tensor, tuple)):
                    attributes[key] = put(item, stand_ins)

    def restore(self) -> None:
        """Undo whatever has changed since."""
        for container, content in self.containers:
            if isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.update(content)
        for attributes, content in self.saved:
            attributes.clear()
            attributes.update(content)


class Calls:
    """Wraps `nn.Module.__call__` while active: every call of a module becomes a `Call`."""

    def __init__(self, recorder: Recorder, tree: Tree) -> None:
        self.recorder = recorder
        self.tree = tree
        self.drafts: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {}
        self.by_path: dict[str, list[int]] = {}
        self.replayed: list[dict[str, int]] = []
        self.kept: list[nn.Module] = []

    def __enter__(self) -> Calls:
        self.original: Callable[..., Any] = nn.Module.__call__
        calls, original = self, self.original

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return calls.run(original, module, args, kwargs)

        nn.Module.__call__ = call
        return self

    def __exit__(self, *_: object) -> None:
        nn.Module.__call__ = self.original

    def path(self, module: nn.Module) -> str:
        """The module's path; one that was born during the run gets one here."""
        path = self.tree.paths.get(id(module))
        if path is None:
            parent = self.recorder.stack[-1][0] if self.recorder.stack else ""
            path = f"{parent}.~{type(module).__name__}" if parent else f"~{type(module).__name__}"
            self.tree.paths[id(module)] = path
            self.tree.modules.setdefault(path, module)
            self.kept.append(module)
            if any(id(p) not in self.recorder.owners for p in module.parameters()):
                self.recorder.tape.note(f"module {path} is made during the call, with new parameters that no optimiser sees")
        return path

    def run(self, original: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call: opened on the stack, closed whatever happens."""
        recorder = self.recorder
        path = self.path(module)
        again = recorder.phase == "backward"
        number = self._match(path, args) if again else None
        if number is None:
            number = self._open(path, module, args, kwargs)
        recorder.stack.append((path, number))
        self.replayed.append({})
        depth, here, function = recorder.depth, recorder.here, recorder.function
        recorder.depth, recorder.here, recorder.function = 0, None, ""
        try:
            result = original(module, *args, **kwargs)
        except BaseException as error:
            if recorder.failure is None or recorder.failure[0] is not error:
                recorder.failure = (error, "", (), path, None, recorder.phase)
            raise
        finally:
            recorder.stack.pop()
            self.replayed.pop()
            recorder.depth, recorder.here, recorder.function = depth, here, function
        self._close(number, result, again)
        return result

    def _match(self, path: str, args: tuple[Any, ...]) -> int | None:
        """The forward call that a recomputed call repeats: below a matched parent by order, else by the memory of its inputs."""
        candidates = self.by_path.get(path)
        if not candidates:
            return None
        if self.recorder.stack:
            parent, order = self.recorder.stack[-1][1], self.replayed[-1]
            children = [n for n in candidates if self.drafts[n]["parent"] == parent]
            position = order.get(path, 0)
            order[path] = position + 1
            if children:
                return children[min(position, len(children) - 1)]
        drafts = self.recorder.tape.drafts
        with self.recorder.quiet():
            storages = [drafts[v].storage for v in self._values(_tensors(args))]
        same = [n for n in candidates if [drafts[v].storage for v in self.drafts[n]["inputs"]][: len(storages)] == storages]
        pending = [n for n in same or candidates if not self.drafts[n]["cotangents"]]
        return (pending or same or candidates)[-1]

    def _open(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        recorder = self.recorder
        number = len(self.drafts)
        index = self.counts.get(path, 0)
        self.counts[path] = index + 1
        self.by_path.setdefault(path, []).append(number)
        with recorder.quiet():
            inputs = self._values([*_tensors(args), *_tensors(kwargs)])
        self.drafts.append(
            {
                "module": path,
                "kind": type(module).__name__,
                "index": index,
                "parent": recorder.stack[-1][1] if recorder.stack else -1,
                "inputs": inputs,
                "outputs": (),
                "source": user_source(sys._getframe(3)),
                "training": module.training,
                "cotangents": {},
            }
        )
        return number

    def _close(self, number: int, result: Any, again: bool) -> None:
        draft = self.drafts[number]
        with self.recorder.quiet():
            tensors = [t for t in _tensors(result) if t.dtype.is_floating_point or t.dtype.is_complex]
            if not again:
                draft["outputs"] = self._values(tensors)
            for i, tensor in enumerate(tensors):
                if tensor.requires_grad and tensor.device.type == ("cpu" if self.recorder.memory.real else "meta"):
                    tensor.register_hook(self._hook(draft["cotangents"], i))

    def _hook(self, cotangents: dict[int, int], i: int) -> Callable[[Tensor], None]:
        tape, recorder = self.recorder.tape, self.recorder

        def hook(gradient: Tensor) -> None:
            with recorder.quiet():
                cotangents[i] = tape.value(gradient)

        return hook

    def _values(self, tensors: list[Tensor]) -> tuple[int, ...]:
        tape, memory = self.recorder.tape, self.recorder.memory
        floating = [t for t in tensors if t.dtype.is_floating_point or t.dtype.is_complex]
        return tuple(tape.value(memory.adopt(t) if t.device.type != "meta" else t) for t in floating)

    def finished(self) -> tuple[Call, ...]:
        """The calls as plain data."""
        out: list[Call] = []
        for number, d in enumerate(self.drafts):
            cotangents = tuple(d["cotangents"].get(i) for i in range(len(d["outputs"])))
            out.append(
                Call(
                    number,
                    d["module"],
                    d["kind"],
                    d["index"],
                    d["parent"],
                    d["inputs"],
                    d["outputs"],
                    cotangents,
                    d["source"],
                    d["training"],
                )
            )
        return tuple(out)
