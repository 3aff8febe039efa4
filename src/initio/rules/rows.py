# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy's stubs leave parts of its results untyped
"""Linear layers and activations behind the inputs of a model, without a norm between: moments over the draws of a network of finite width (`core.rows`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.moments import Factor, Moments
from initio.core.rows import FIXED, TINY
from initio.core.scalar import IDENTITY, Scalar
from initio.rules.table import context

__all__ = ["after_bias", "note_rows", "over_rows"]


def _memory(name: str) -> dict[Any, Any]:
    uses: Any = context().uses
    return uses.setdefault(name, {})


def _single(x: Moments) -> tuple[Factor, float, float] | None:
    """The one factor of the law of x, and the mean and variance of x; where the last dimension runs over single features of one kind."""
    if len(x.law) != 1 or any(a.K > 1 for a in x.axes) or not x.dims or x.dims[-1] != 1 or x.law[0].field.view.strides[-1] != 1:
        return None
    mean = float(x.mean.ravel()[0])
    return x.law[0], mean, max(float(x.gram.ravel()[-1]) - mean * mean, 0.0)


def note_rows(out: Moments, weight: Moments, x: Moments) -> None:
    """Note the law of the rows of out = x W, for an x that is a function of an input of the model or of another such product.

    There are two: that of the mean square of a row, and the one with which its single entries are normal.
    """
    found = _single(x)
    if found is None or len(out.law) != 1 or np.any(weight.mean):
        return
    f = found[0]
    known, function = _memory("rows").get((f.field.id, f.fn)), _memory("functions of rows").get((f.field.id, f.fn))
    if function is not None:
        rows, fn, mean, variance = function
    elif known is not None:
        rows, fn, mean, variance = known[0], IDENTITY, *found[1:]
    else:
        mean = float(f.field.mean.ravel()[0])
        if x.claim != "exact" or np.any(f.field.gram.ravel()[:-1] != mean * mean):
            return
        rows, fn, variance = FIXED, f.fn, float(f.field.gram.ravel()[-1]) - mean * mean
    made = rows.averaged(fn, mean, variance, x.shape[-1], float(weight.extra["weight"]))
    _memory("rows")[out.law[0].field.id, out.law[0].fn] = made


def after_bias(made: Moments, out: Moments, bias: Moments, alpha: float, beta: float) -> None:
    """The same for α out + β bias."""
    known = _memory("rows").get((out.law[0].field.id, out.law[0].fn)) if len(out.law) == 1 else None
    if known is not None and len(made.law) == 1:
        own, constant = alpha**2 * out.total_second, beta**2 * bias.total_second
        _memory("rows")[made.law[0].field.id, made.law[0].fn] = tuple(law.beside(own, constant) for law in known)


def over_rows(y: Moments, x: Moments, fn: Scalar) -> Moments:
    """y = f(x) with its moments averaged over the law of the rows of x, which is taken as normal given its q.

    Pairs of one row have independent features given its q. Pairs of rows change in proportion to their correlation: q is the same for rows that are equal.
    """
    found = _single(x)
    known = _memory("rows").get((found[0].field.id, found[0].fn)) if found is not None and len(y.law) == 1 else None
    if found is None or known is None or y.law[0].field.id != found[0].field.id:
        return y
    (f, mean, variance), (rows, single) = found, known
    _memory("functions of rows")[f.field.id, y.law[0].fn] = (rows, fn, mean, variance)
    if fn.homogeneous and mean == 0.0:
        return y
    (whole, _, _), (one, two, _), (plain, square, _) = (law.of(fn, mean, variance) for law in (rows, single, FIXED))
    if not (variance > 0.0 and float(square[0]) > TINY and np.all(np.isfinite(two))):
        return y
    entries = float(single.weights @ two) / float(square[0]) - 1.0
    pairs = float(rows.weights @ (whole * whole)) - float(plain[0]) ** 2
    related = np.clip((x.gram[..., 1:] - mean * mean) / variance, 0.0, 1.0)  # of rows, by one feature
    change = np.concatenate([related * pairs, related * entries * y.gram[..., 1:]], axis=-1)
    return replace(y, mean=y.mean + (float(single.weights @ one) - float(plain[0])), gram=y.gram + change)
