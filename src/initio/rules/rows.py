# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy's stubs leave parts of its results untyped
"""Linear layers and activations behind the inputs of a model, without a norm between: moments over the draws of a network of finite width (`core.rows`)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from initio.core.axes import Array
from initio.core.moments import Factor, Moments, Unknown
from initio.core.rows import FIXED, TINY, Rows
from initio.core.scalar import IDENTITY, Scalar
from initio.rules.table import context

__all__ = ["after_bias", "along_rows", "back_over_rows", "note_rows", "over_rows", "without_rows"]

_left_out: ContextVar[bool] = ContextVar("laws of rows are left out", default=False)


@contextmanager
def without_rows() -> Generator[None]:
    """Inside, q is the same in every draw, as in the limit of infinite width: the mean-field recursion, without this module's laws."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


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
    found = None if _left_out.get() else _single(x)
    if found is None or len(out.law) != 1 or np.any(weight.mean):
        return
    f = found[0]
    known, function = _memory("rows").get((f.field.id, f.fn)), _memory("functions of rows").get((f.field.id, f.fn))
    if function is not None:
        rows, fn, mean, variance, _ = function
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
    _memory("activations of rows")[f.field.id, f.fn] = fn
    _memory("functions of rows")[f.field.id, y.law[0].fn] = (rows, fn, mean, variance, single)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """A cotangent g by the law of the rows beside it: E[g² | q] at each value, over E g²; its growth with q; and the excess of E (h · g)² over E h² E|g|², relative.

    With g from dx and W, `excess` is that of E (x · dx)² over Var x E|dx|².
    """

    rows: Rows
    second: Array
    growth: Array
    excess: Array


def along_rows(dx: Moments | Unknown, grad: Moments, x: Moments, slope: Scalar) -> Moments | Unknown:
    """dx = g f′(x) with what is known of E[g² | q] for the rows of x; x may be f(x), and `slope` a function of it.

    The feature that f′² weights has its part in the q of the next layer, of which g is a function: E f² f′² / (E f² E f′²) − 1 per feature. And of x · dx, whose
    square is E x² f′² E|g|² where g is independent of x, the part that g has along f(x) makes (E x f f′ / E f²)².
    """
    found = _single(x)
    if isinstance(dx, Unknown) or found is None or len(grad.law) != 1 or len(dx.law) != 2 or dx.axes != x.axes:
        return dx
    (_, mean, variance), key = found, (found[0].field.id, found[0].fn)
    function, known = _memory("functions of rows").get(key), _memory("rows").get(key)
    if function is not None:
        rows, fn, mean, variance, single = function
        slope = fn.then(slope)
    elif known is not None and key in _memory("activations of rows"):
        (rows, single), fn = known, _memory("activations of rows")[key]
    else:
        return dx
    nothing = _Given(rows, np.ones(len(rows.values)), *(np.zeros(len(rows.values)) for _ in range(2)))
    given: _Given = _memory("cotangents of rows").get(grad.law[0].field.id, nothing)
    own, plain = rows.of(slope, mean, variance)[1], float(FIXED.of(slope, mean, variance)[1][0])
    if given.rows is not rows or variance <= 0.0 or not (own.min() > TINY and plain > TINY and np.all(np.isfinite(own))):
        return dx
    square, both, lever = (rows.of(g, mean, variance)[1] for g in (fn, fn.times(slope), IDENTITY.times(slope)))
    crossed = rows.of(IDENTITY.times(fn.times(slope)), mean, variance)[0]
    alike = np.divide(both, square * own, out=np.ones_like(own), where=square * own > TINY) - 1.0
    second = given.second * own * (1.0 + (given.growth + given.excess) * alike / x.shape[-1])
    total, alone = float(rows.weights @ second), float(rows.weights @ own)
    coherent = np.divide(crossed**2, square, out=np.zeros_like(own), where=square > TINY)
    excess = (lever + given.excess * coherent) / (own * variance * np.maximum(rows.values, TINY)) - 1.0
    entries = float(single.weights @ single.of(slope, mean, variance)[1]) / plain
    made = _Given(rows, second / total, given.growth, excess)
    _memory("cotangents through rows")[frozenset(g.field.id for g in dx.law)] = made
    return replace(dx, gram=total / alone * entries / float(rows.weights @ given.second) * dx.gram)


def back_over_rows(out: Moments, dx: Moments, other: Moments) -> Moments:
    """out = dx W, whose E[g² | q] follows for the rows of the input; or out = dxᵀ h, the gradient of W, in which dx and h share the scale of their rows.

    Of W, 1/width is along the input: that part has the square of x · dx (`rules.pulled`).
    """
    given: _Given | None = _memory("cotangents through rows").get(frozenset(g.field.id for g in dx.law))
    if given is None or given.rows.before is None:
        return out
    rows, second = given.rows, given.second
    if "weight" not in other.extra:
        return replace(out, gram=(1.0 + rows.back(second)[2]) * out.gram)
    if len(out.law) != 1:
        return out
    excess = given.excess * (1.0 - (1.0 - rows.share) / np.maximum(rows.values, TINY))  # of W h in x = W h + b
    made = second * (1.0 + excess / out.shape[-1])
    below, growth, _ = rows.back(made)
    part = rows.back(second * excess)[0] / np.maximum(below, TINY)
    _memory("cotangents of rows")[out.law[0].field.id] = _Given(
        given.rows.before, below / float(given.rows.before.weights @ below), growth, part
    )
    return replace(out, gram=float(rows.weights @ made) / float(rows.weights @ second) * out.gram)
