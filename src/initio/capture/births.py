"""Where modules and parameters are made: parameters without storage, and the user's line of every module."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false, reportUnknownParameterType=false

from __future__ import annotations

import functools
import linecache
import math
import os
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from initio.capture.laws import constant
from initio.capture.recorder import Recorder
from initio.core.distribution import Distribution
from initio.core.record import Source
from initio.core.tree import Overwritten

__all__ = ["Origins", "births", "source_of"]

Place = tuple[str, int, str]
"""File, line, function."""

_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_SKIPPED = (_HOME, _TORCH, "<")
_EXAMPLES = _HOME + "examples" + os.sep
_LIBRARY = {os.path.abspath(module.__file__ or "") for name in ("copy", "functools", "contextlib") if (module := sys.modules.get(name))}
_lock = threading.RLock()
_active: list[tuple[int, Recorder, Origins]] = []


class Origins:
    """Module → the place where it was made."""

    def __init__(self) -> None:
        self.places: WeakKeyDictionary[nn.Module, Place] = WeakKeyDictionary()
        self.assigned: dict[tuple[int, str], tuple[types.FrameType, int]] = {}
        self.overwritten: list[tuple[nn.Module, str, nn.Module, Place]] = []

    def born(self, module: nn.Module, frame: types.FrameType | None) -> None:
        """Note the innermost frame, outside torch and this package, that is not the module's own constructor."""
        while frame is not None:
            code = frame.f_code
            own = code.co_name == "__init__" and code.co_argcount > 0 and frame.f_locals.get(code.co_varnames[0]) is module
            file = code.co_filename
            if not own and file not in _LIBRARY and (not file.startswith(_SKIPPED) or file.startswith(_EXAMPLES)):
                self.places[module] = (code.co_filename, frame.f_lineno, code.co_qualname if sys.version_info >= (3, 11) else code.co_name)
                return
            frame = frame.f_back

    def assign(self, owner: nn.Module, name: str, value: nn.Module, frame: types.FrameType) -> None:
        """Note an assignment of a module to an attribute, and what it overwrites if the same line of the same call made that."""
        key, here = (id(owner), name), (frame, frame.f_lineno)
        old = owner._modules.get(name)
        if old is not None and old is not value and self.assigned.get(key) == here:
            code = frame.f_code
            self.overwritten.append((owner, name, old, (code.co_filename, frame.f_lineno, code.co_name)))
        self.assigned[key] = here

    def lost(self, paths: Mapping[int, str]) -> Iterator[Overwritten]:
        """The overwritten modules that the finished model does not hold, by attribute; forgets all of them."""
        gone: dict[tuple[int, str], list[tuple[nn.Module, str, nn.Module, Place]]] = {}
        for item in self.overwritten:
            if id(item[2]) not in paths and id(item[0]) in paths:
                gone.setdefault((id(item[0]), item[1]), []).append(item)
        for items in gone.values():
            owner, name, old, place = items[0]
            trainable = sum(p.numel() for *_, module, _ in items for p in module.parameters() if p.requires_grad)
            yield Overwritten(paths[id(owner)], name, type(old).__name__, len(items), trainable, source_of(place))
        self.assigned.clear()
        self.overwritten.clear()

    def source(self, module: nn.Module) -> Source | None:
        """The line where the module was made."""
        place = self.places.get(module)
        return None if place is None else source_of(place)


def source_of(place: Place) -> Source:
    """A place with the text of its line."""
    file, line, function = place
    return Source(file, line, function, linecache.getline(file, line).strip())


def _current() -> tuple[Recorder, Origins] | None:
    if _active and _active[-1][0] == threading.get_ident() and not _active[-1][1].paused:
        return _active[-1][1:]
    return None


@contextmanager
def births(recorder: Recorder, origins: Origins) -> Generator[None]:
    """Patch the making of parameters and modules, and the initialisers that skip or hide from tensors without storage.

    Other threads see the originals' behaviour meanwhile; everything is put back on the way out.
    """
    with _lock:
        undo: list[Callable[[], None]] = []
        _active.append((threading.get_ident(), recorder, origins))
        try:
            for patch in (_patch_parameter, _patch_module, _patch_initialisers):
                patch(undo)
            yield
        finally:
            _active.pop()
            for step in reversed(undo):
                step()


def _patch_parameter(undo: list[Callable[[], None]]) -> None:
    original: Any = nn.Parameter.__new__

    def born(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        active = _current()
        if active is not None and type(data) in (Tensor, nn.Parameter) and not data.is_meta and data.layout is torch.strided:
            recorder = active[0]
            recorder.paused += 1
            try:
                with torch.no_grad():
                    data = recorder.twin(data)
            finally:
                recorder.paused -= 1
        return original(cls, data, requires_grad)

    nn.Parameter.__new__ = staticmethod(born)  # pyright: ignore[reportAttributeAccessIssue]

    def restore() -> None:
        nn.Parameter.__new__ = original  # pyright: ignore[reportAttributeAccessIssue]

    undo.append(restore)


def _patch_module(undo: list[Callable[[], None]]) -> None:
    for name in ("__init__", "__setstate__"):
        original: Any = getattr(nn.Module, name)

        def wrapper(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            active = _current()
            if active is not None:
                active[1].born(self, sys._getframe(1))
            return _original(self, *args, **kwargs)

        setattr(nn.Module, name, functools.wraps(original)(wrapper))
        undo.append(functools.partial(setattr, nn.Module, name, original))
    setter: Any = nn.Module.__setattr__

    def assign(self: Any, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and "_modules" in vars(self):
            active = _current()
            if active is not None:
                active[1].assign(self, name, value, sys._getframe(1))
        setter(self, name, value)

    nn.Module.__setattr__ = functools.wraps(setter)(assign)
    undo.append(functools.partial(setattr, nn.Module, "__setattr__", setter))


def _truncated(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> tuple[Any, ...]:
    if std == 0:
        return constant(min(max(mean, a), b), tensor.shape), (mean, std, a, b), True
    law = Distribution("truncated_normal", {"mean": float(mean), "std": float(std), "low": float(a), "high": float(b)}, tuple(tensor.shape))
    return law, (mean, std, a, b), True


def _orthogonal(tensor: Tensor, gain: float = 1, generator: Any = None) -> tuple[Any, ...]:
    shape = tuple(tensor.shape)
    return Distribution("orthogonal", {"gain": float(gain)}, shape) if gain else constant(0.0, shape), (gain,), True


def _sparse(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> tuple[Any, ...]:
    rows = tensor.shape[0]
    kept = 1 - math.ceil(sparsity * rows) / rows
    return (
        Distribution("program", {"mean": 0.0, "std": std * math.sqrt(kept)}, tuple(tensor.shape), note="sparse normal"),
        (sparsity, std),
        True,
    )


def _dirac(tensor: Tensor, groups: int = 1) -> tuple[Any, ...]:
    ones = groups * min(tensor.shape[0] // groups, tensor.shape[1])
    mean = ones / tensor.numel()
    return Distribution("values", {"mean": mean, "std": math.sqrt(mean * (1 - mean))}, tuple(tensor.shape), note="dirac"), (groups,), False


_LAWS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "trunc_normal_": _truncated,
    "orthogonal_": _orthogonal,
    "sparse_": _sparse,
    "dirac_": _dirac,
}


_FUNCTIONS: dict[str, Any] = {name: getattr(nn.init, name) for name in _LAWS}
"""The functions themselves, whatever their names in torch.nn.init stand for later."""


def _valid(name: str, tensor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the original would get as far as drawing; where not, it is left to raise its own error."""
    if not isinstance(tensor, Tensor) or tensor.numel() == 0:
        return False
    match name:
        case "orthogonal_":
            return tensor.dim() >= 2
        case "sparse_":
            return tensor.dim() == 2
        case "dirac_":
            return tensor.dim() in (3, 4, 5) and tensor.shape[0] % int(kwargs.get("groups", args[0] if args else 1)) == 0
        case _:
            return True


def _patch_initialisers(undo: list[Callable[[], None]]) -> None:
    """Replace the code, not the names: references that were saved at import are caught too."""
    for name in _LAWS:
        function = _FUNCTIONS[name]
        code = function.__code__
        original: Any = types.FunctionType(code, function.__globals__, name, function.__defaults__)

        def hook(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            active = _current()
            tensor: Any = args[0] if args else kwargs.get("tensor")
            if active is None or not _valid(_name, tensor, args[1:], kwargs):
                return _original(*args, **kwargs)
            law, rest, random = _LAWS[_name](*args, **kwargs)
            active[0].whole(_original, tensor, rest, law, random)
            return tensor

        key = f"__initio_{name}"
        function.__globals__[key] = hook
        namespace: dict[str, Any] = {}
        exec(f"def {name}(*args, **kwargs):\n    return {key}(*args, **kwargs)\n", namespace)
        defaults, keyword_defaults = function.__defaults__, function.__kwdefaults__

        def restore(
            function: Any = function, code: Any = code, key: str = key, defaults: Any = defaults, kw: Any = keyword_defaults
        ) -> None:
            function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, kw
            function.__globals__.pop(key, None)

        undo.append(restore)
        function.__code__ = namespace[name].__code__
        function.__defaults__ = None
        function.__kwdefaults__ = None
