"""A run of a whole model in float64, to be compared with another's."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from initio.rewrite.scene import floating

__all__ = ["Run", "told"]


class Run:
    """One forward and backward pass: the state before, outputs, buffers after, and gradients of inputs and parameters.

    Seeds are fixed, so that dropout draws the same in two runs; tensors that the model makes itself are float64 too.
    """

    def __init__(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        args, kwargs = copy.deepcopy((args, kwargs))
        given = [tensor.requires_grad_() for tensor in floating([args, kwargs])]
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            torch.manual_seed(0)
            result = floating(model(*args, **kwargs))
        finally:
            torch.set_default_dtype(default)
        self.outputs = [tensor.detach() for tensor in result]
        self.buffers = {name: tensor.detach().clone() for name, tensor in model.named_buffers() if tensor.is_floating_point()}
        torch.manual_seed(1)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        grown = [tensor for tensor in result if tensor.requires_grad]
        wanted = [*given, *trained.values()]
        cotangents = [torch.randn_like(tensor) for tensor in grown]
        found = torch.autograd.grad(grown, wanted, cotangents, allow_unused=True, materialize_grads=True) if grown and wanted else ()
        self.inputs = list(found[: len(given)])
        self.gradients = dict(zip(trained, found[len(given) :], strict=False))


def told(error: Exception) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
