"""Calls of initialisation code that the dispatcher does not see."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from initio.capture.recorder import Recorder

__all__ = ["Values"]


class Values(TorchFunctionMode):
    """Calls that read or exchange a tensor's memory below the dispatcher."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.recorder.paused or not args:
            return func(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None and not isinstance(args[0], Tensor):
            if torch.device(kwargs["device"]).type == "meta":
                # A literal sent to where a parameter is: without storage it would be lost.
                return self._twin(func(*args, **{**kwargs, "device": torch.device("cpu")}))
            return func(*args, **kwargs)
        if not isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__set__" and getattr(func, "__self__", None) is Tensor.data and isinstance(args[1], Tensor):
            owner, data = args
            if owner.is_meta and not data.is_meta:
                data = self._twin(data)
            elif data.is_meta and not owner.is_meta:
                data = self.recorder.value(data)
            return func(owner, data)
        if name in ("__setitem__", "__getitem__") and args[0].is_meta:
            return func(args[0], _literal_index(args[1]), *args[2:], **kwargs)
        if name in ("numpy", "tolist", "__array__") and args[0].is_meta:
            return func(self.recorder.value(args[0]), *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _twin(self, tensor: Tensor) -> Tensor:
        self.recorder.paused += 1
        try:
            with torch.no_grad():
                return self.recorder.twin(tensor)
        finally:
            self.recorder.paused -= 1


def _literal_index(index: Any) -> Any:
    """An index with its lists and arrays as real tensors: made where the indexed tensor is, they would have no values."""
    if isinstance(index, tuple):
        return tuple(_literal_index(item) for item in index)
    return torch.as_tensor(index) if isinstance(index, (list, np.ndarray)) else index
