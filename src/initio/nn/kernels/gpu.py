"""The merge of the paths in Triton, behind the interface of `per_path`: the paths x out_channels channels stay in registers.

A program owns a block of output channels times a block of pixels and walks over the paths. The bias is one more input channel of ones, so
one tensor-core product gives z, and in the backward pass the bias gradient comes with the weight gradient. Partial sums, no atomics.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnusedFunction=false, reportOptionalMemberAccess=false, reportPossiblyUnboundVariable=false, reportIndexIssue=false

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

PIXELS, CHANNELS, SPLITS = 128, 64, 8

if triton is not None:

    @triton.jit
    def _forward(h, w, y, pixels, paths, out, K: tl.constexpr, SLOTS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
        n = tl.program_id(2).to(tl.int64)
        p = tl.program_id(0) * BP + tl.arange(0, BP)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        k = tl.arange(0, SLOTS)
        total = tl.zeros((BC, BP), tl.float32)
        for g in range(paths):
            row = (n * paths + g) * K + k
            inside = (k < K)[:, None] & (p < pixels)[None, :]
            x = tl.load(h + row[:, None] * pixels + p[None, :], mask=inside, other=0.0)
            x = tl.where((k == K)[:, None], 1.0, x).to(h.dtype.element_ty)
            weight = tl.load(w + (g * out + c)[:, None] * SLOTS + k[None, :], mask=(c < out)[:, None], other=0.0)
            z = tl.dot(weight, x, input_precision="ieee")
            total += tl.where(z <= 0, 0.0, z)
        where = (n * out + c)[:, None] * pixels + p[None, :]
        tl.store(y + where, total.to(y.dtype.element_ty), mask=(c < out)[:, None] & (p < pixels)[None, :])

    @triton.jit
    def _backward_hidden(dy, h, w, dh, pixels, paths, out, K: tl.constexpr, SLOTS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
        n = tl.program_id(2).to(tl.int64)
        g = tl.program_id(1)
        p = tl.program_id(0) * BP + tl.arange(0, BP)
        k = tl.arange(0, SLOTS)
        row = (n * paths + g) * K + k
        inside = (k < K)[:, None] & (p < pixels)[None, :]
        x = tl.load(h + row[:, None] * pixels + p[None, :], mask=inside, other=0.0)
        x = tl.where((k == K)[:, None], 1.0, x).to(h.dtype.element_ty)
        total = tl.zeros((SLOTS, BP), tl.float32)
        for start in range(0, out, BC):
            c = start + tl.arange(0, BC)
            weight = tl.load(w + (g * out + c)[:, None] * SLOTS + k[None, :], mask=(c < out)[:, None], other=0.0)
            z = tl.dot(weight, x, input_precision="ieee")
            there = (c < out)[:, None] & (p < pixels)[None, :]
            d = tl.load(dy + (n * out + c)[:, None] * pixels + p[None, :], mask=there, other=0.0)
            d = tl.where(z <= 0, 0.0, d).to(h.dtype.element_ty)
            total += tl.dot(tl.trans(weight), d, input_precision="ieee")
        tl.store(dh + row[:, None] * pixels + p[None, :], total.to(dh.dtype.element_ty), mask=inside)

    @triton.jit
    def _backward_weight(
        dy, h, w, dw, images, pixels, paths, out, splits, K: tl.constexpr, SLOTS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr
    ):
        part = tl.program_id(2)
        g = tl.program_id(1)
        c = tl.program_id(0) * BC + tl.arange(0, BC)
        k = tl.arange(0, SLOTS)
        weight = tl.load(w + (g * out + c)[:, None] * SLOTS + k[None, :], mask=(c < out)[:, None], other=0.0)
        total = tl.zeros((BC, SLOTS), tl.float32)
        blocks = tl.cdiv(pixels, BP)
        for task in range(part, images * blocks, splits):
            n = (task // blocks).to(tl.int64)
            p = (task % blocks) * BP + tl.arange(0, BP)
            row = (n * paths + g) * K + k
            inside = (k < K)[:, None] & (p < pixels)[None, :]
            x = tl.load(h + row[:, None] * pixels + p[None, :], mask=inside, other=0.0)
            x = tl.where((k == K)[:, None], 1.0, x).to(h.dtype.element_ty)
            z = tl.dot(weight, x, input_precision="ieee")
            there = (c < out)[:, None] & (p < pixels)[None, :]
            d = tl.load(dy + (n * out + c)[:, None] * pixels + p[None, :], mask=there, other=0.0)
            d = tl.where(z <= 0, 0.0, d).to(h.dtype.element_ty)
            total += tl.dot(d, tl.trans(x), input_precision="ieee")
        where = ((part * paths + g) * out + c)[:, None] * SLOTS + k[None, :]
        tl.store(dw + where, total, mask=(c < out)[:, None])


def usable(*tensors: Tensor | None) -> bool:
    """Whether Triton is installed and takes these: one dtype of float32, float16 and bfloat16."""
    present = [t for t in tensors if t is not None]
    dtype = present[0].dtype
    return triton is not None and dtype in (torch.float32, torch.float16, torch.bfloat16) and all(t.dtype == dtype for t in present)


def _packed(w3: Tensor, b3: Tensor | None) -> Tensor:
    """[paths, out, slots]: the weights, the bias, zeros up to a power of two that tensor cores take."""
    slots = max(16, 1 << w3.shape[2].bit_length())
    packed = w3.new_zeros((*w3.shape[:2], slots))
    packed[:, :, : w3.shape[2]] = w3
    if b3 is not None:
        packed[:, :, w3.shape[2]] = b3
    return packed


def merge(h: Tensor, w3: Tensor, b3: Tensor | None) -> Tensor:
    """Σ_g relu(w3[g] h[g] + b3[g]): h is [n, paths width, height, width], w3 [paths, out, width], b3 [paths, out]."""
    (paths, out, width), h, w = w3.shape, h.contiguous(), _packed(w3, b3)
    pixels = h.shape[2] * h.shape[3]
    y = h.new_empty((h.shape[0], out, *h.shape[2:]))
    grid = (triton.cdiv(pixels, PIXELS), triton.cdiv(out, CHANNELS), h.shape[0])
    if y.numel():
        _forward[grid](h, w, y, pixels, paths, out, K=width, SLOTS=w.shape[2], BP=PIXELS, BC=CHANNELS)
    return y


def merge_backward(dy: Tensor, h: Tensor, w3: Tensor, b3: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of h, w3 and b3; the pre-activations are computed again."""
    (paths, out, width), h, dy, w = w3.shape, h.contiguous(), dy.contiguous(), _packed(w3, b3)
    pixels, slots = h.shape[2] * h.shape[3], w.shape[2]
    dh = torch.empty_like(h)
    dw = torch.zeros((SPLITS, paths, out, slots), dtype=torch.float32, device=h.device)
    sizes = {"K": width, "SLOTS": slots, "BP": PIXELS, "BC": CHANNELS}
    if h.numel():
        _backward_hidden[(triton.cdiv(pixels, PIXELS), paths, h.shape[0])](dy, h, w, dh, pixels, paths, out, **sizes)
        grid = (triton.cdiv(out, CHANNELS), paths, SPLITS)
        _backward_weight[grid](dy, h, w, dw, h.shape[0], pixels, paths, out, SPLITS, **sizes)
    total = dw.sum(0).to(w3.dtype)
    return dh, total[:, :, :width].contiguous(), total[:, :, width].contiguous()
