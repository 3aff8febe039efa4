"""Tensors that are drawn or filled inside the step: dropout masks, noise, constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from initio.core.algebra import multiply, scale
from initio.core.moments import Moments, Unknown, fresh_source
from initio.rules.table import Result, context, rule

__all__: list[str] = []


@rule("aten.bernoulli", near=True)
def bernoulli(x: Any, p: float | None = None, *_: Any, **__: Any) -> Result:
    """Independent 0/1 entries; `bernoulli_` without a probability has p = 1/2."""
    if p is None and context().node.op.startswith("aten.bernoulli_"):
        p = 0.5
    if not isinstance(p, (int, float)):
        return Unknown("a Bernoulli draw whose probability is a tensor")
    return Moments.iid(context().shapes[0], float(p), float(p) * (1 - float(p)))


@rule("aten.native_dropout", near=True)
def native_dropout(x: Moments, p: float, train: bool | None = True) -> Result:
    """x · mask / (1 − p)."""
    if train is False or p == 0:
        return x, Moments.iid(x.shape, 1.0, 0.0)
    mask = Moments.iid(x.shape, 1 - p, p * (1 - p))
    out = multiply(x, scale(mask, 1 / (1 - p))) if p < 1 else scale(x, 0.0)
    return out, mask


@rule("aten.native_dropout_backward", near=True)
def native_dropout_backward(grad: Moments, mask: Moments, scale_: float) -> Result:
    """g · mask · scale."""
    return multiply(grad, scale(mask, float(scale_)))


@rule("aten.normal", "aten.randn", "aten.randn_like", near=True)
def normal(*args: Any, **_: Any) -> Moments:
    """Independent normal entries."""
    numbers = [float(a) for a in args[1:] if isinstance(a, (int, float))] if context().node.op.startswith("aten.normal") else []
    mean, std = (numbers + [0.0, 1.0][len(numbers) :])[:2]
    return Moments.iid(context().shapes[0], mean, std * std)


@rule("aten.uniform", "aten.rand", "aten.rand_like", near=True)
def uniform(*args: Any, **_: Any) -> Moments:
    """Independent uniform entries."""
    numbers = [float(a) for a in args[1:] if isinstance(a, (int, float))] if context().node.op.startswith("aten.uniform") else []
    low, high = (numbers + [0.0, 1.0][len(numbers) :])[:2]
    return Moments.iid(context().shapes[0], (low + high) / 2, (high - low) ** 2 / 12)


@rule("aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.zero", "aten._efficientzerotensor", tolerant=True, near=True)
def zeros(*_: Any, **__: Any) -> Moments:
    """0."""
    return Moments.iid(context().shapes[0], 0.0, 0.0)


@rule("aten.ones", "aten.ones_like", "aten.new_ones", tolerant=True, near=True)
def ones(*_: Any, **__: Any) -> Moments:
    """1."""
    return Moments.iid(context().shapes[0], 1.0, 0.0)


@rule("aten.full", "aten.full_like", "aten.new_full", "aten.fill", "aten.scalar_tensor", tolerant=True, near=True)
def full(*args: Any, **_: Any) -> Result:
    """One value."""
    numbers = [a for a in args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    if not numbers:
        return Unknown("a fill with a value that is not known")
    return Moments.iid(context().shapes[0], float(numbers[-1]), 0.0)


@rule("aten.randint", "aten.randint_like", "aten.randperm", near=True)
def randint(*args: Any, **kwargs: Any) -> Moments:
    """Uniform ids."""
    numbers = [int(a) for a in args if isinstance(a, int)]
    return ids(context().shapes[0], numbers[-1] if numbers else 1)


def ids(shape: tuple[int, ...], high: int) -> Moments:
    """Independent uniform ids below `high`: the gram holds the probability that two are equal."""
    x = Moments.iid(shape, 1.0, 0.0)
    gram = np.full(x.gram.shape, 1.0 / max(high, 1))
    gram[tuple(a.diagonal for a in x.axes)] = 1.0
    return Moments(x.axes, x.dims, x.mean, gram, (), fresh_source(), 0, "exact", {"high": high})
