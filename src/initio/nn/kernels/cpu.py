"""The compiled kernel on tensors: sizes and pointers in, outputs and gradients out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from initio.nn.kernels import build

MERGE = {"none": 0, "path": 1, "sum": 2}
WORTH = 8_000_000  # flop that repay waking one more thread, some 50 µs


def usable(*tensors: Tensor | None) -> bool:
    """Whether the kernel takes these: all on the CPU and of one dtype, float32 or float64, and the kernel can be built."""
    present = [t for t in tensors if t is not None]
    dtype = present[0].dtype
    return (
        dtype in (torch.float32, torch.float64)
        and all(t.device.type == "cpu" and t.dtype == dtype for t in present)
        and build.available(dtype == torch.float64)
    )


def last(x: Tensor) -> bool:
    """Whether an image tensor is laid out channels last."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def layout(x: Tensor) -> torch.memory_format:
    """The memory format that the layer keeps: channels last where x has it, else contiguous."""
    return torch.channels_last if last(x) else torch.contiguous_format


def packed(x: Tensor) -> Tensor:
    """X in one of the two layouts that the kernel reads, copied if it has neither."""
    return x if x.is_contiguous() or last(x) else x.contiguous()


def output_size(x: Tensor, w2: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """The height and width after the second stage, by the formula of Conv2d."""
    h, w = ((x.shape[i + 2] + 2 * padding[i] - dilation[i] * (w2.shape[i + 2] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    return h, w


def _sizes(
    x: Tensor, w2: Tensor, w3: Tensor, y: Tensor, geometry: tuple[Sequence[int], Sequence[int], Sequence[int]], merge: str, save: bool
) -> tuple[ctypes.Array[ctypes.c_long], int]:
    stride, padding, dilation = geometry
    paths, out, width = w3.shape
    one, two = x.shape[1] * x.shape[2] * x.shape[3], (w2[0].numel() + out) * y.shape[2] * y.shape[3]
    threads = max(1, min(torch.get_num_threads(), 2 * x.shape[0] * paths * width * (one + two) // WORTH))
    numbers = (*x.shape, paths, width, out, *w2.shape[2:], *stride, *padding, *dilation, last(x), last(y), MERGE[merge], save, threads)
    return (ctypes.c_long * 22)(*map(int, numbers), *y.shape[2:]), threads


def _pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("SplitTransformMerge: no memory for the kernel's scratch space; a smaller batch or image needs less")


def forward(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int]],
    merge: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and h1 and h2 of every image if `save`: otherwise they are scratch for one group of images a thread."""
    x = packed(x)
    weights = [None if t is None else t.contiguous() for t in (w1, b1, w2, b2, w3, b3)]
    n, hidden = x.shape[0], w1.shape[0]
    size = output_size(x, w2, *geometry)
    y = torch.empty((n, w3.shape[1], *size), dtype=x.dtype, memory_format=layout(x))
    sizes, threads = _sizes(x, w2, w3, y, geometry, merge, save)
    library = build.library(x.dtype == torch.float64)
    kept = n if save else min(n, threads * (library.stm_together(sizes) if y.numel() else 1))
    h1, h2 = x.new_empty((kept, hidden, *x.shape[2:])), x.new_empty((kept, hidden, *size))
    if y.numel():
        _check(library.stm_forward(sizes, *_pointers(x, *weights, h1, h2, y)))
    return (y, h1, h2) if save else (y, x.new_empty(0), x.new_empty(0))


def backward(
    dy: Tensor,
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    w3: Tensor,
    b3: Tensor | None,
    h1: Tensor,
    h2: Tensor,
    y: Tensor | None,
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int]],
    merge: str,
    need_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, w1, b1, w2, b2, w3, b3; of x an empty tensor if it is not needed."""
    x, dy = packed(x), packed(dy)
    w1, w2 = w1.contiguous(), w2.contiguous()
    paths, out, width = w3.shape
    hidden, channels = paths * width, x.shape[1]
    if y is not None and last(y) != last(dy):
        dy = dy.contiguous(memory_format=layout(y))
    sizes, threads = _sizes(x, w2, w3, dy, geometry, merge, True)
    library = build.library(x.dtype == torch.float64)
    lanes = -(-hidden // (n := library.stm_lanes())) * n
    dz2 = torch.empty_like(h2)
    dz1 = dz2 if h1.shape == h2.shape else torch.empty_like(h1)
    dx = torch.empty_like(x) if need_dx else None
    dw1, db1 = x.new_zeros((threads, channels, lanes)), x.new_zeros((threads, hidden))
    dw2, db2 = torch.zeros_like(w2), x.new_zeros(hidden)
    per_path = merge == "path"
    w3 = w3.contiguous() if per_path else w3.transpose(1, 2).contiguous()
    b3 = None if b3 is None else b3.contiguous()
    dw3 = x.new_zeros((paths, out, width) if per_path else (threads, out, lanes))
    db3 = x.new_zeros((paths, out) if per_path else (threads, out))
    if dy.numel():
        tensors = (x, w1, w2, w3, b3, h1, h2, y, dy, dz2, dz1, dx, dw1, db1, dw2, db2, dw3, db3)
        _check(library.stm_backward(sizes, *_pointers(*tensors)))
    elif dx is not None:
        dx.zero_()
    if not per_path:
        dw3 = dw3.sum(0)[:, :hidden].reshape(out, paths, width).permute(1, 0, 2).contiguous()
        db3 = db3.sum(0).expand(paths, out).contiguous()
    given = x.new_empty(0) if dx is None else dx
    dw1, db1 = dw1.sum(0), db1.sum(0)
    return given, dw1[:, :hidden].t().contiguous(), db1, dw2, db2, dw3, db3
