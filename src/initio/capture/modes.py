"""Two nested modes: torch-level calls open events, and the ATen operations inside of them become nodes."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from initio.capture.functions import FULL, LOWER, PLAIN
from initio.capture.loose import moves
from initio.capture.operators import decide_scalar
from initio.capture.places import user_source
from initio.capture.recording import Recorder, tensors_in

__all__ = ["Events", "Operations"]


class Operations(TorchDispatchMode):
    """Records ATen operations."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if self.recorder.paused:
            return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            return self.recorder.operation(func, tuple(args), kwargs or {})


class Events(TorchFunctionMode):
    """Names torch-level calls, and answers the few that read memory directly."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        recorder = self.recorder
        name: str = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        if name == "__set__" and func == _REQUIRES_GRAD and args[1] is True and args[0].requires_grad:
            return None  # of an input's leaf in an eager step; here the inputs carry gradients, and what is made of them has one already
        if name in PLAIN:
            return func(*args, **kwargs)
        if args and id(args[0]) in recorder.loose and moves(name, args, kwargs):
            recorder.moved.add(id(args[0]))
        special = _SPECIAL.get(func) if not recorder.memory.real else None
        if special is not None:
            return special(recorder, func, args, kwargs)
        if name in LOWER or name in FULL:
            args, kwargs = self._autocast(name, args, kwargs)
        if name in _INDEXING and not recorder.memory.real:
            return self._event(name, _index, (recorder, func, args, kwargs), {}, args)
        return self._event(name, func, args, kwargs, args)

    def _autocast(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Casts that `torch.autocast` would make: it knows CPU and GPU tensors only, and ours are neither."""
        device = next((d for d in ("cuda", "cpu") if torch.is_autocast_enabled(d)), None)
        if device is None or self.recorder.memory.real or (name in FULL and device == "cpu"):
            return args, kwargs
        dtype = torch.get_autocast_dtype(device) if name in LOWER else torch.float32

        def cast(item: Any) -> Any:
            if isinstance(item, Tensor):
                with torch._C.DisableTorchFunction():
                    fits = item.dtype is dtype or not item.is_floating_point() or item.dtype is torch.float64
                    return item if fits else item.to(dtype)
            return type(item)(map(cast, item)) if type(item) in (tuple, list) else item

        return tuple(map(cast, args)), {key: cast(item) for key, item in kwargs.items()}

    def _event(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shown: tuple[Any, ...]) -> Any:
        recorder = self.recorder
        outer = recorder.function, recorder.here
        recorder.function, recorder.here = name, None
        recorder.depth += 1
        try:
            return func(*args, **kwargs)
        except BaseException as error:
            if recorder.failure is None or recorder.failure[0] is not error:
                shapes = tuple(tuple(t.shape) for t in tensors_in([*shown, *kwargs.values()]))
                module = recorder.stack[-1][0] if recorder.stack else ""
                recorder.failure = (error, f"torch.{name}", shapes, module, user_source(sys._getframe(1)), recorder.phase)
            raise
        finally:
            recorder.depth -= 1
            recorder.function, recorder.here = outer


_INDEXING = {"__getitem__", "__setitem__"}
_REQUIRES_GRAD = Tensor.requires_grad.__set__  # pyright: ignore[reportAttributeAccessIssue]  # a getset descriptor, typed as a bool


def _values_of(recorder: Recorder, tensor: Tensor) -> Tensor:
    """Real contents of a tensor for code that reads memory directly (`tolist`, `numpy`)."""
    with recorder.quiet():
        tensor = tensor.detach()
        own = tensor if tensor.device.type == "meta" else recorder.memory.adopt(tensor)
        memory = recorder.memory
        if memory.peekable(own):
            return memory.contents(own).clone()
        answer = decide_scalar(tensor.dtype)
        recorder.tape.note(f"random values are read at {user_source(sys._getframe(2))}: {answer} was assumed")
        return torch.full(tuple(tensor.shape), answer, dtype=tensor.dtype)


def _direct(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    values = _values_of(recorder, args[0])
    with recorder.quiet():
        return func(values, *args[1:], **kwargs)


def _format(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A number in an f-string: often a key that the model builds."""
    with recorder.quiet():
        single = args[0].dim() == 0
    return _direct(recorder, func, args, kwargs) if single else func(*args, **kwargs)


def _literal(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.tensor(literal, device="meta")` would lose the literal."""
    if args and isinstance(args[0], Tensor):
        return func(*args, **kwargs)
    return func(*args, **{**kwargs, "device": "cpu"})


def _new_literal(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given: list[Any] = [*args[1:], kwargs.get("data")]
    if isinstance(given[0], Tensor):
        return func(*args, **kwargs)
    with recorder.quiet():
        like = torch.empty(0, dtype=args[0].dtype)
    return torch.tensor(*args[1:], **{"dtype": like.dtype, **kwargs, "device": "cpu"})


def _index(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A list among the indices would become a tensor without contents."""
    index = args[1]
    with recorder.quiet():
        index = tuple(map(_as_index, index)) if isinstance(index, tuple) else _as_index(index)
        rest = tuple(torch.tensor(v, dtype=args[0].dtype) if isinstance(v, (list, tuple)) and _plain_numbers(v) else v for v in args[2:])
    return func(args[0], index, *rest, **kwargs)


def _as_index(index: Any) -> Any:
    return torch.tensor(index) if isinstance(index, (list, range)) and len(index) and _plain_numbers(index) else index


def _plain_numbers(items: Any) -> bool:
    return all(_plain_numbers(i) if isinstance(i, (list, tuple)) else isinstance(i, (bool, int, float)) for i in items)


_SPECIAL: dict[Any, Callable[..., Any]] = {
    Tensor.new_tensor: _new_literal,
    Tensor.tolist: _direct,
    Tensor.numpy: _direct,
    Tensor.__array__: _direct,
    Tensor.__format__: _format,
    torch.tensor: _literal,
    torch.as_tensor: _literal,
    torch.asarray: _literal,
}
