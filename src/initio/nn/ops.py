"""`initio::split_transform_merge` as a torch operator: the compiled kernel on the CPU, Triton or plain torch elsewhere.

A registered operator with a fake implementation, so that `torch.export`, `torch.compile` and fake tensors see one node.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from initio.nn import per_path
from initio.nn.kernels import cpu

Size = Sequence[int]

_OPERANDS = "Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor w3, Tensor? b3"
_GEOMETRY = "int[] stride, int[] padding, int[] dilation, str activation_after"
_SAVED = "Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor w3, Tensor? b3, Tensor h1, Tensor h2, Tensor? y"
_GRADIENTS = "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"


def _stages(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, stride: Size, padding: Size, dilation: Size
) -> tuple[Tensor, Tensor]:
    h1 = F.conv2d(x, w1[:, :, None, None], b1).relu()
    groups = w2.shape[0] // w2.shape[1]
    return h1, F.conv2d(h1, w2, b2, list(stride), list(padding), list(dilation), groups).relu()


def _joined(w3: Tensor) -> Tensor:
    """[paths, out, width] → the weight of one 1x1 convolution from all paths, [out, paths width, 1, 1]."""
    return w3.permute(1, 0, 2).flatten(1)[:, :, None, None]


def _merge_paths(h2: Tensor, w3: Tensor, b3: Tensor | None) -> Tensor:
    if h2.device.type == "cuda":
        from initio.nn.kernels import gpu

        if gpu.usable(h2, w3, b3):
            return gpu.merge(h2, w3, b3)
    return per_path.merge(h2, w3, b3)


def _merge_paths_backward(dy: Tensor, h2: Tensor, w3: Tensor, b3: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if h2.device.type == "cuda":
        from initio.nn.kernels import gpu

        if gpu.usable(h2, w3, b3):
            return gpu.merge_backward(dy, h2, w3, b3)
    return per_path.merge_backward(dy, h2, w3, b3)


def transformed() -> bool:
    """Whether a transform of `torch.func` is active: registered operators know no such transforms, torch operations do."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]  # torch has no public question


def differentiable(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    activation_after: str,
) -> Tensor:
    """The layer in torch operations that can be differentiated any number of times."""
    _, h2 = _stages(x, w1, b1, w2, b2, stride, padding, dilation)
    if activation_after == "path":
        return per_path.PathMerge.apply(h2, w3.to(h2.dtype), None if b3 is None else b3.to(h2.dtype))  # pyright: ignore[reportReturnType]
    y = F.conv2d(h2, _joined(w3), None if b3 is None else b3.sum(0))
    return y.relu() if activation_after == "sum" else y


@torch.library.custom_op(
    "initio::split_transform_merge",
    mutates_args=(),
    schema=f"({_OPERANDS}, {_GEOMETRY}, bool save) -> (Tensor, Tensor, Tensor)",
)
def split_transform_merge(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    activation_after: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the hidden maps of both stages if `save` (else empty). `activation_after`: "path", "sum" or "none"."""
    if cpu.usable(x, w1, b1, w2, b2, w3, b3):
        return cpu.forward(x, w1, b1, w2, b2, w3, b3, (stride, padding, dilation), activation_after, save)
    h1, h2 = _stages(x, w1, b1, w2, b2, stride, padding, dilation)
    if activation_after == "path":
        y = _merge_paths(h2, w3, b3)
    else:
        y = F.conv2d(h2, _joined(w3), None if b3 is None else b3.sum(0))
        y = y.relu() if activation_after == "sum" else y
    y = y.contiguous(memory_format=cpu.layout(x))
    return (y, h1.contiguous(), h2.contiguous()) if save else (y, x.new_empty(0), x.new_empty(0))


@split_transform_merge.register_fake
def _(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    activation_after: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size = cpu.output_size(x, w2, stride, padding, dilation)
    y = torch.empty((x.shape[0], w3.shape[1], *size), dtype=x.dtype, device=x.device, memory_format=cpu.layout(x))
    if not save:
        return y, x.new_empty(0), x.new_empty(0)
    return y, x.new_empty((x.shape[0], w1.shape[0], *x.shape[2:])), x.new_empty((x.shape[0], w1.shape[0], *size))


@torch.library.custom_op(
    "initio::split_transform_merge_backward",
    mutates_args=(),
    schema=f"({_SAVED}, {_GEOMETRY}, bool need_dx) -> {_GRADIENTS}",
)
def split_transform_merge_backward(
    dy: Tensor,
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    w3: Tensor,
    b3: Tensor | None,
    h1: Tensor,
    h2: Tensor,
    y: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    activation_after: str,
    need_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, w1, b1, w2, b2, w3, b3 from what the forward saved; y is needed for "sum" alone."""
    if cpu.usable(dy, x, w1, w2, w3, b3, h1, h2):
        return cpu.backward(dy, x, w1, w2, w3, b3, h1, h2, y, (stride, padding, dilation), activation_after, need_dx)
    if activation_after == "path":
        dh2, dw3, db3 = _merge_paths_backward(dy, h2, w3, b3)
    else:
        if y is not None:
            dy = torch.ops.aten.threshold_backward(dy, y, 0)
        out = [True, True, True]
        dh2, dw, db = torch.ops.aten.convolution_backward(dy, h2, _joined(w3), [w3.shape[1]], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, out)
        dw3 = dw.flatten(1).unflatten(1, (w3.shape[0], w3.shape[2])).permute(1, 0, 2)
        db3 = db.expand(w3.shape[:2])
    dz2 = torch.ops.aten.threshold_backward(dh2, h2, 0)
    bias, groups = [w1.shape[0]], w2.shape[0] // w2.shape[1]
    dh1, dw2, db2 = torch.ops.aten.convolution_backward(
        dz2, h1, w2, bias, list(stride), list(padding), list(dilation), False, [0, 0], groups, [True, True, True]
    )
    dz1 = torch.ops.aten.threshold_backward(dh1, h1, 0)
    dx, dw1, db1 = torch.ops.aten.convolution_backward(
        dz1, x, w1[:, :, None, None], bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [need_dx, True, True]
    )
    dx = dx.contiguous(memory_format=cpu.layout(x)) if need_dx else x.new_empty(0)
    return dx, dw1.flatten(1), db1, dw2.contiguous(), db2, dw3.contiguous(), db3.contiguous()


@split_transform_merge_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    w3: Tensor,
    b3: Tensor | None,
    h1: Tensor,
    h2: Tensor,
    y: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    activation_after: str,
    need_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=cpu.layout(x)) if need_dx else x.new_empty(0)
    hidden = w1.shape[0]
    dw = x.new_empty(w1.shape), x.new_empty(hidden), x.new_empty(w2.shape), x.new_empty(hidden)
    return dx, *dw, x.new_empty(w3.shape), x.new_empty(w3.shape[:2])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, w1, b1, w2, b2, w3, b3, *geometry, _ = inputs
    y, h1, h2 = output
    ctx.geometry = geometry
    ctx.saved = geometry[3] == "sum"
    ctx.save_for_backward(x, w1, b1, w2, b2, w3, b3, h1, h2, y if ctx.saved else None)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dh1: Tensor | None, dh2: Tensor | None) -> tuple[Any, ...]:
    x, w1, b1, w2, b2, w3, b3, h1, h2, y = ctx.saved_tensors
    needed = ctx.needs_input_grad[:7]
    gradients: list[Tensor | None] = [None] * 7
    if dy is not None and torch.is_grad_enabled():  # create_graph: the gradients shall be differentiable
        operands = (x, w1, b1, w2, b2, w3, b3)
        wanted = [i for i in range(7) if needed[i]]
        again = differentiable(*operands, *ctx.geometry)
        for i, g in zip(wanted, torch.autograd.grad(again, [operands[i] for i in wanted], dy, create_graph=True), strict=True):
            gradients[i] = g
    elif dy is not None:
        found = torch.ops.initio.split_transform_merge_backward(dy, x, w1, w2, w3, b3, h1, h2, y, *ctx.geometry, needed[0])
        gradients = [g if need else None for g, need in zip(found, needed, strict=True)]
    return *gradients, None, None, None, None, None


split_transform_merge.register_autograd(_backward, setup_context=_save)
