"""Σ_g relu(w3[g] h[g] + b3[g]) in plain torch, without ever holding the paths x out_channels channels.

One path and a few images at a time; backward keeps h alone and computes the pre-activations again.
"""

# pyright: reportUnknownMemberType=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PIECES = 8  # a temporary is this part of the output, where the batch allows


def _zero_bias(w3: Tensor, b3: Tensor | None) -> Tensor:
    return w3.new_zeros(w3.shape[:2]) if b3 is None else b3


def merge(h: Tensor, w3: Tensor, b3: Tensor | None) -> Tensor:
    """Forward alone: h is [n, paths width, height, width], w3 [paths, out, width], b3 [paths, out]."""
    paths, out, width = w3.shape
    bias = _zero_bias(w3, b3)
    y = h.new_zeros((h.shape[0], out, *h.shape[2:]))
    step = max(1, h.shape[0] // PIECES)
    for n in range(0, h.shape[0], step):
        hidden, total = h[n : n + step].flatten(2), y[n : n + step].flatten(2)
        for g in range(paths):
            weight = w3[g].expand(hidden.shape[0], out, width)
            total += torch.baddbmm(bias[g][:, None], weight, hidden[:, g * width : (g + 1) * width]).relu_()
    return y


def merge_backward(dy: Tensor, h: Tensor, w3: Tensor, b3: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of h, w3 and b3, in operations that autograd can differentiate again."""
    paths, out, width = w3.shape
    bias = _zero_bias(w3, b3)
    step = max(1, h.shape[0] // PIECES)
    dh: list[Tensor] = []
    dw, db = [w3.new_zeros((out, width))] * paths, [w3.new_zeros(out)] * paths
    for n in range(0, h.shape[0], step):
        hidden, cotangent = h[n : n + step].flatten(2), dy[n : n + step].flatten(2)
        rows: list[Tensor] = []
        for g in range(paths):
            mine = hidden[:, g * width : (g + 1) * width]
            z = torch.baddbmm(bias[g][:, None], w3[g].expand(mine.shape[0], out, width), mine)
            d = torch.where(z <= 0, torch.zeros_like(z), cotangent)
            rows.append(w3[g].t() @ d)
            dw[g] = dw[g] + torch.einsum("nop,nkp->ok", d, mine)
            db[g] = db[g] + d.sum((0, 2))
        dh.append(torch.cat(rows, 1))
    full = torch.cat(dh).reshape(h.shape) if dh else torch.zeros_like(h)
    return full, torch.stack(dw), torch.stack(db)


class PathMerge(torch.autograd.Function):
    """`merge` with `merge_backward`, twice differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, w3: Tensor, b3: Tensor | None) -> Tensor:
        """See `merge`."""
        return merge(h, w3, b3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        """Saves h and the weights, nothing of size paths x out_channels."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Recomputes z a path at a time."""
        h, w3, b3 = ctx.saved_tensors
        dh, dw, db = merge_backward(dy, h, w3, b3)
        return dh, dw, None if b3 is None else db
