"""A construction told by its trace: what of it decides the record of a step, and the laws of its parameters, without the recorder.

Two constructions with one `Trace.key` differ in the numbers of their initial draws alone: same classes, same plain attributes, same
parameters in the same places, written by the same operations. Their steps have one record up to the parameters' distributions.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from initio.capture.initializers import isolated
from initio.capture.replay import Blank, schema_name
from initio.capture.written import laws_written
from initio.core.distribution import Distribution

__all__ = ["Trace", "UntraceableError", "trace"]

CREATING = frozenset({"empty", "zeros", "ones"})
WRITING = frozenset({"normal_", "uniform_", "zero_", "fill_"})
"""In-place operations that overwrite the whole of their target, whatever it held: nothing has to be computed to know its law."""
PASSING = frozenset({"detach"})


class UntraceableError(Exception):
    """The construction does something else than creating and overwriting parameters; the recorder follows that."""


@dataclass(frozen=True, slots=True)
class Trace:
    """`key` compares equal where the steps have one record; `laws` are the initial distributions of all parameters by their first name."""

    key: Any
    laws: Mapping[str, Distribution]


def trace(factory: Callable[[], Any]) -> Trace:
    """Run a factory and follow what it writes; nothing is drawn, and no memory touched.

    Raises:
        UntraceableError: where the trace does not tell everything. What the factory raises comes through.
    """
    with isolated(), _Writes() as writes:
        model = factory()
    if not isinstance(model, nn.Module):
        raise UntraceableError("no module")
    laws: dict[str, Distribution] = {}
    parts = [_module(path, module, writes, laws) for path, module in model.named_modules(remove_duplicate=False)]
    return Trace((tuple(writes.structure), tuple(parts)), laws)


class _Writes(TorchDispatchMode):
    """The operations of a construction: their structure, and the last one that wrote each storage."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As the recorder's."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.structure: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.last: dict[int, tuple[Any, str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = {}
        self.held: list[Tensor] = []
        self.laws: dict[Any, Distribution] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = schema_name(func)
        if name in CREATING:
            made = func(*args, **kwargs) if name == "empty" else torch.ops.aten.empty.memory_format(*args, **kwargs)
            self.held.append(made)  # a storage that is freed could give its address to another
            self._note(func, name, made, args, kwargs, written=name != "empty")
            return made
        if name in WRITING and isinstance(args[0], Tensor):
            target = args[0]
            if target.untyped_storage().nbytes() != target.numel() * target.element_size():
                raise UntraceableError(f"{name} on a part")
            self._note(func, name, target, args[1:], kwargs, written=True)
            return target
        if name in PASSING:
            return func(*args, **kwargs)
        raise UntraceableError(name)

    def _note(self, func: Any, name: str, target: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], *, written: bool) -> None:
        place = target.untyped_storage()._cdata
        number = self.numbers.setdefault(place, len(self.numbers))
        plain = tuple("number" if isinstance(a, float) else _frozen(a) for a in args)
        named = tuple((k, "number" if isinstance(v, float) else _frozen(v)) for k, v in kwargs.items())
        self.structure.append((name, number, tuple(target.shape), plain, named))
        if written:
            self.last[place] = (func, name, args, kwargs, tuple(target.shape))

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor's storage."""
        found = self.numbers.get(tensor.untyped_storage()._cdata)
        if found is None or not tensor.is_contiguous() or tensor.storage_offset():
            raise UntraceableError("a tensor from elsewhere")
        return found

    def law(self, tensor: Tensor) -> Distribution:
        """What the last write draws."""
        found = self.last.get(tensor.untyped_storage()._cdata)
        if found is None:
            raise UntraceableError("a tensor without values")
        func, name, args, kwargs, shape = found
        key = (repr((name, args, kwargs)), shape, tuple(tensor.shape))
        if key in self.laws:
            return self.laws[key]
        blank = (Blank(shape, tensor.dtype), *args) if name in WRITING else args
        pieces = laws_written(func, name, blank, kwargs, tensor, None if name in WRITING else 0, name in ("normal_", "uniform_"))
        if pieces is None or len(pieces) != 1 or pieces[0].law is None or shape != tuple(tensor.shape):
            raise UntraceableError("a law without a closed form")
        return self.laws.setdefault(key, pieces[0].law)


def _module(path: str, module: nn.Module, writes: _Writes, laws: dict[str, Distribution]) -> Any:
    """All that a module's code may look at: its class, attributes, and which tensors it holds."""
    tensors: list[Any] = []
    for of in (module._parameters, module._buffers):
        for name, tensor in of.items():
            if tensor is None:
                tensors.append((name, None))
                continue
            tensors.append((name, writes.number(tensor), tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad))
            laws.setdefault(f"{path}.{name}" if path else name, writes.law(tensor))
    plain: list[Any] = []
    for name, value in module.__dict__.items():
        if name in ("_parameters", "_buffers", "_modules"):
            continue
        if name.startswith("_") and isinstance(value, dict) and not value:
            continue
        plain.append((name, _frozen(value)))
    return path, type(module), tuple(tensors), tuple(plain)


def _frozen(value: Any) -> Any:
    """A hashable equivalent of a plain value, type included: 1, 1.0 and True differ."""
    kind: Any = type(value)
    if value is None or kind in (bool, int, str) or isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return kind, value
    if kind is float:
        return kind, value.hex()
    if kind in (tuple, list, torch.Size):
        return kind, tuple(_frozen(item) for item in value)
    if kind in (set, frozenset):
        return kind, frozenset(_frozen(item) for item in value)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return kind, tuple((_frozen(key), _frozen(item)) for key, item in items)
    if isinstance(value, types.BuiltinFunctionType) or (
        isinstance(value, types.FunctionType) and value.__closure__ is None and not value.__defaults__
    ):
        return kind, value
    raise UntraceableError(f"an attribute of type {kind.__name__}")
