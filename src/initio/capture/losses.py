"""Losses with random targets, applied to a model's output."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from initio.capture.modules import named_tensors
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec

__all__ = ["LOSSES", "apply_loss", "model_loss", "prediction"]

LOSSES = ("cross_entropy", "mse", "bce_with_logits", "nll", "model")


def prediction(output: Any) -> Tensor:
    """The tensor that a loss applies to: `logits` where the output has one, else its first floating tensor."""
    tensors = [(name, t) for name, t in named_tensors(output) if t.is_floating_point()]
    for name, tensor in tensors:
        if name == "logits":
            return tensor
    if not tensors:
        raise ValueError("the model returned no floating tensor to apply a loss to; pass a callable as loss")
    return tensors[0][1]


def model_loss(output: Any) -> Tensor:
    """The loss that the model computes: its first scalar output whose name ends in `loss`, or its only output if that is a scalar."""
    tensors = list(named_tensors(output))
    for name, tensor in tensors:
        if tensor.numel() == 1 and name.split(".")[-1].endswith("loss"):
            return tensor.reshape(()) if tensor.dim() else tensor
    if len(tensors) == 1 and tensors[0][1].numel() == 1:
        return tensors[0][1].reshape(())
    names = ", ".join(name or "(unnamed)" for name, _ in tensors)
    raise ValueError(
        f"loss='model' needs a scalar output called loss, the model returned {names or 'no tensors'}; hand it its labels, or name a loss"
    )


def apply_loss(loss: str | Callable[..., Any], output: Any, target: Callable[[InputSpec], Tensor]) -> Tensor:
    """The scalar loss of a model's output; `target` makes the random target tensor from its specification.

    `cross_entropy` and `nll` take classes on axis 1 of (B, C) and (B, C, H, W, …), and on the last axis of
    three-dimensional (B, T, V) outputs, which are flattened.
    """
    if callable(loss):
        result = loss(output)
        if not isinstance(result, Tensor) or result.numel() != 1:
            raise ValueError(f"the loss function must return one number, it returned {_what(result)}")
        return result
    if loss == "model":
        return model_loss(output)
    x = prediction(output)
    shape = tuple(x.shape)
    if loss in ("cross_entropy", "nll"):
        if len(shape) == 3:
            x = x.reshape(-1, shape[-1])
        if x.dim() < 1:
            raise ValueError(f"{loss} needs class scores, the model returned a tensor of shape {shape}")
        classes = x.shape[1] if x.dim() > 1 else x.shape[0]
        sizes = (x.shape[0], *x.shape[2:]) if x.dim() > 1 else ()
        law = Distribution("integers", {"low": 0.0, "high": float(classes)}, sizes)
        ids = target(InputSpec(sizes, "int64", law, "target"))
        return F.cross_entropy(x, ids) if loss == "cross_entropy" else F.nll_loss(x, ids)
    dtype = str(x.dtype).removeprefix("torch.")
    if loss == "mse":
        return F.mse_loss(x, target(InputSpec(shape, dtype, Distribution("normal", {"mean": 0.0, "std": 1.0}, shape), "target")))
    if loss == "bce_with_logits":
        law = Distribution("bernoulli", {"p": 0.5}, shape)
        return F.binary_cross_entropy_with_logits(x, target(InputSpec(shape, dtype, law, "target")))
    raise ValueError(f"unknown loss {loss!r}: expected one of {', '.join(LOSSES)} or a function of the model's output")


def _what(result: Any) -> str:
    return f"a tensor of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
