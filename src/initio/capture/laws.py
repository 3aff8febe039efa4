"""Closed forms: how the law of independent entries changes under the operations of initialisation code."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from initio.core.distribution import Distribution

__all__ = ["affine", "clamp", "constant", "describe_values", "drawn", "image", "relabel"]


def constant(value: float, shape: Sequence[int] = (), note: str = "") -> Distribution:
    """X = value."""
    return Distribution("constant", {"value": float(value)}, tuple(shape), note=note)


def describe_values(tensor: Tensor) -> Distribution:
    """A given tensor: constant if all its entries are equal, else their mean and standard deviation."""
    shape = tuple(tensor.shape)
    if tensor.numel() == 0:
        return constant(0.0, shape)
    data = tensor.detach()
    if data.is_sparse or data.layout is not torch.strided:
        data = data.to_dense()
    if data.is_complex():
        real = torch.view_as_real(data.resolve_conj()).double()
        mean = complex(data.to(torch.complex128).mean().item())
        return Distribution(
            "values", {"mean": mean.real, "std": math.sqrt(max(2 * real.square().mean().item() - abs(mean) ** 2, 0.0))}, shape
        )
    if data.dtype is not torch.float64 and (data.is_quantized or not data.is_floating_point() or data.element_size() < 4):
        data = data.dequantize() if data.is_quantized else data.to(torch.float64 if data.numel() < 1 << 24 else torch.float32)
    low, high = torch.aminmax(data)
    if low.item() == high.item():
        return constant(low.item(), shape)
    data = data.double() if data.numel() < 1 << 24 else data
    std, mean = torch.std_mean(data, correction=0)
    return Distribution("values", {"mean": mean.item(), "std": std.item()}, shape)


def drawn(name: str, shape: Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]) -> Distribution | None:
    """The law that a random ATen operation draws from; `args` follow the tensor or size. None without a closed form."""
    shape = tuple(shape)

    def get(position: int, key: str, default: Any) -> Any:
        return kwargs.get(key, args[position] if len(args) > position else default)

    match name:
        case "normal_" | "normal":
            mean, std = get(0, "mean", 0.0), get(1, "std", 1.0)
            if isinstance(mean, Tensor) or isinstance(std, Tensor):
                return None
            return Distribution("normal", {"mean": float(mean), "std": float(std)}, shape) if std else constant(mean, shape)
        case "uniform_" | "uniform":
            low, high = float(get(0, "from", 0.0)), float(get(1, "to", 1.0))
            return Distribution("uniform", {"low": low, "high": high}, shape) if low != high else constant(low, shape)
        case "randn" | "randn_like":
            return Distribution("normal", {"mean": 0.0, "std": 1.0}, shape)
        case "rand" | "rand_like":
            return Distribution("uniform", {"low": 0.0, "high": 1.0}, shape)
        case "bernoulli_":
            p = get(0, "p", 0.5)
            return None if isinstance(p, Tensor) else Distribution("bernoulli", {"p": float(p)}, shape)
        case _:
            return None


def affine(law: Distribution, scale: float, shift: float) -> Distribution | None:
    """The law of scale·X + shift; None where it leaves the families."""
    p = law.parameters
    if scale == 1 and shift == 0:
        return law
    if scale == 0 or law.family == "constant":
        return constant(shift if scale == 0 else scale * p["value"] + shift, law.shape, law.note)

    def at(x: float) -> float:
        return scale * x + shift

    match law.family:
        case "normal":
            new = {"mean": at(p["mean"]), "std": abs(scale) * p["std"]}
        case "uniform":
            new = {"low": min(at(p["low"]), at(p["high"])), "high": max(at(p["low"]), at(p["high"]))}
        case "truncated_normal":
            low, high = sorted((at(p["low"]), at(p["high"])))
            new = {"mean": at(p["mean"]), "std": abs(scale) * p["std"], "low": low, "high": high}
        case "orthogonal" if shift == 0:
            new = {"gain": abs(scale) * p["gain"]}
        case _:
            return None
    return Distribution(law.family, new, law.shape, note=law.note)


def clamp(law: Distribution, low: float | None, high: float | None) -> Distribution | None:
    """The law of min(max(X, low), high) where no entry, or every entry, is cut; else None."""
    p = law.parameters
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    match law.family:
        case "constant":
            return constant(min(max(p["value"], low), high), law.shape)
        case "uniform" | "truncated_normal":
            slack = 1e-6 * (p["high"] - p["low"]) if math.isfinite(p["high"] - p["low"]) else 0.0
            if low <= p["low"] + slack and high >= p["high"] - slack:
                return law
            if law.family == "truncated_normal" and not math.isfinite(p["high"] - p["low"]):
                # erf⁻¹ of a uniform that reaches ±1 to rounding: entries beyond the cut are too rare to matter.
                far = min(p["mean"] - low, high - p["mean"]) / p["std"]
                return Distribution(law.family, {**p, "low": low, "high": high}, law.shape) if far > 5 else None
            return None
        case "normal":
            far = min(p["mean"] - low, high - p["mean"])
            return law if far > 7 * p["std"] else None
        case _:
            return None


def erfinv(law: Distribution) -> Distribution | None:
    """erf⁻¹ of a uniform variable on (2Φ(a) − 1, 2Φ(b) − 1) is a normal variable of variance ½ cut to (a, b)/√2."""
    if law.family != "uniform":
        return None
    low, high = (float(torch.erfinv(torch.tensor(law.parameters[k], dtype=torch.float64))) for k in ("low", "high"))
    return Distribution("truncated_normal", {"mean": 0.0, "std": math.sqrt(0.5), "low": low, "high": high}, law.shape)


def relabel(law: Distribution, shape: Sequence[int]) -> Distribution | None:
    """The law of a view of `shape` of the drawn tensor: entries keep theirs; None where orthogonality is cut."""
    shape = tuple(shape)
    if law.shape == shape:
        return law
    new = Distribution(law.family, law.parameters, shape, note=law.note)
    if law.family == "orthogonal" and (len(shape) < 2 or not math.isclose(new.variance, law.variance)):
        return Distribution("program", {"mean": 0.0, "std": law.std}, shape, note="part of an orthogonal matrix")
    return new


def image(name: str, laws: Sequence[Any], kwargs: dict[str, Any]) -> Distribution | None:
    """The law of an elementwise operation; `laws` are its arguments in order, tensors replaced by their laws.

    At most one argument may be random: two would need independence, which the caller cannot see.
    """
    laws = [law.parameters["value"] if isinstance(law, Distribution) and law.family == "constant" else law for law in laws]
    random = [i for i, law in enumerate(laws) if isinstance(law, Distribution)]
    if len(random) != 1:
        return None
    x, others = laws[random[0]], [law for i, law in enumerate(laws) if i != random[0]]
    first = random[0] == 0
    match name:
        case "neg":
            return affine(x, -1.0, 0.0)
        case "mul" if len(others) == 1:
            return affine(x, float(others[0]), 0.0)
        case "div" if first and len(others) == 1 and others[0] and kwargs.get("rounding_mode") is None:
            return affine(x, 1 / float(others[0]), 0.0)
        case "add" | "sub" | "rsub" if others and all(isinstance(o, (int, float)) for o in others):
            alpha = float(kwargs.get("alpha", others[1] if len(others) > 1 else 1.0))
            other = float(others[0])
            if name == "add":
                return affine(x, 1.0, alpha * other) if first else affine(x, alpha, other)
            if name == "sub":
                return affine(x, 1.0, -alpha * other) if first else affine(x, -alpha, other)
            return affine(x, -alpha, other) if first else affine(x, 1.0, -alpha * other)
        case "clamp" if first:
            low, high = kwargs.get("min", others[0] if others else None), kwargs.get("max", others[1] if len(others) > 1 else None)
            return clamp(x, low, high)
        case "clamp_min" if first:
            return clamp(x, others[0], None)
        case "clamp_max" if first:
            return clamp(x, None, others[0])
        case "erfinv":
            return erfinv(x)
        case _:
            return None
