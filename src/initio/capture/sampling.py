"""Real tensors drawn from distributions, for recordings that need contents."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math

import torch
from torch import Tensor

from initio.core.distribution import Distribution

__all__ = ["describe_values", "draw"]


def draw(distribution: Distribution, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """One draw on the CPU. `values` and `program`, without a law in closed form, are drawn normal with their mean and variance."""
    d, p = distribution, distribution.parameters
    if not dtype.is_floating_point and not dtype.is_complex:
        if d.family == "constant":
            return torch.full(shape, p["value"], dtype=dtype)
        if dtype is torch.bool or d.family == "bernoulli":
            return (torch.rand(shape) < d.mean).to(dtype)
        low, high = (int(p["low"]), int(p["high"])) if d.family == "integers" else (0, 2)
        return torch.randint(low, max(high, low + 1), shape, dtype=dtype)
    out = torch.empty(shape, dtype=torch.float32)
    match d.family:
        case "constant":
            out.fill_(p["value"])
        case "uniform":
            out.uniform_(p["low"], p["high"])
        case "truncated_normal":
            torch.nn.init.trunc_normal_(out, p["mean"], p["std"], max(p["low"], -1e30), min(p["high"], 1e30))
        case "orthogonal" if out.dim() > 1 and out.numel():
            torch.nn.init.orthogonal_(out, p["gain"])
        case "integers":
            out.copy_(torch.randint(int(p["low"]), int(p["high"]), shape))
        case "bernoulli":
            out.bernoulli_(p["p"])
        case "parts":
            out.zero_()
            for part in d.parts:
                sizes = tuple(len(range(*triple)) for triple in part.index)
                out[tuple(slice(*triple) for triple in part.index)] = draw(part.distribution, sizes, torch.float32)
        case _:
            out.normal_(d.mean, d.std)
    return out.to(dtype)


def describe_values(tensor: Tensor) -> Distribution:
    """A given tensor by its entries: `constant` where they are all equal, else `values` with their mean and deviation."""
    shape = tuple(tensor.shape)
    if tensor.numel() == 0:
        return Distribution("constant", {"value": 0.0}, shape)
    x = tensor.detach()
    if x.dtype.is_complex:
        x = torch.view_as_real(x.resolve_conj())
    first = float(x.reshape(-1)[0])
    if math.isfinite(first) and bool((x == x.reshape(-1)[0]).all()):
        return Distribution("constant", {"value": first}, shape)
    x = x.double()
    return Distribution("values", {"mean": float(x.mean()), "std": float(x.std(correction=0))}, shape)
