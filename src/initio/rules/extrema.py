"""Largest and smallest entries along dimensions, norms, and the logarithm of a sum of exponentials."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import gammaln

from initio.core.algebra import apply, total
from initio.core.axes import Taps
from initio.core.functions import FUNCTIONS
from initio.core.moments import Factor, Moments, Unknown, pair_values, worst
from initio.core.scalar import IDENTITY, Scalar, affine, power
from initio.rules.maxima import maximum
from initio.rules.table import Result, context, rule

__all__: list[str] = []


def _dims(x: Moments, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(len(x.dims)))
    return sorted(d % len(x.dims) for d in ([dim] if isinstance(dim, int) else dim)) if x.dims else []


def _mirrored(x: Moments) -> Moments:
    """−X as a function of −u: decreasing twice is increasing."""
    x = x.with_law()
    if len(x.law) != 1:
        x = replace(x.opaque(), extra={})
    f = x.law[0]
    flip = affine(-1.0)
    fn = IDENTITY if f.fn is IDENTITY else replace(flip.then(f.fn).then(flip), increasing=f.fn.increasing)
    field = Moments.gaussian(x.axes, x.dims, -f.field.mean, f.field.gram, x.sources).law[0].field
    return replace(x, mean=-x.mean, law=(Factor(fn, field),), extra={})


def _largest(x: Moments, dims: Sequence[int], keepdim: bool) -> Moments:
    """The maximum over whole dimensions: one window over all their entries."""
    rest = [d for d in range(len(x.dims)) if d not in dims]
    size = math.prod(x.shape[d] for d in dims)
    y = x.permute([*rest, *dims])
    y = replace(y, dims=(*y.dims[: len(rest)], sum(y.dims[len(rest) :])))
    made = maximum(y, [Taps(np.arange(size)[:, None], size)])
    counts = [0] * len(x.dims)
    for place, d in enumerate(rest):
        counts[d] = made.dims[place]
    return replace(made, dims=tuple(c for d, c in enumerate(counts) if keepdim or d not in dims))


def _extreme(x: Moments, dim: Any, keepdim: bool) -> Moments:
    dims = [d for d in _dims(x, dim) if x.shape[d] > 1]
    drop = [d for d in _dims(x, dim) if x.shape[d] == 1]
    smallest = context().node.op.split(".")[1] in ("amin", "min")
    made = (_mirrored(_largest(_mirrored(x), dims, True)) if smallest else _largest(x, dims, True)) if dims else x
    gone = [] if keepdim else [*dims, *drop]
    return replace(made, dims=tuple(c for d, c in enumerate(made.dims) if d not in gone))


@rule("aten.amax", "aten.amin")
def amax(x: Moments, dim: Any = (), keepdim: bool = False) -> Moments:
    """Largest (smallest) entry along dimensions."""
    return _extreme(x, dim, keepdim)


@rule("aten.max", "aten.min")
def max_(x: Moments, dim: Any = None, keepdim: bool = False) -> Result:
    """Largest (smallest) entry, along one dimension with no claim on its place."""
    if isinstance(dim, Moments):
        return Unknown("the larger of two tensors under the name of a reduction")
    made = _extreme(x, dim, keepdim)
    return made if dim is None else (made, None)


@rule("aten.linalg_vector_norm", "aten.norm")
def vector_norm(x: Moments, p: float | None = 2.0, dim: Any = None, keepdim: bool = False, **_: Any) -> Moments:
    """(Σ |x|^p)^(1/p) over dimensions."""
    order = 2.0 if p is None else float(p)
    size = apply(x, FUNCTIONS["abs"]) if order != 2 else x  # type: ignore[arg-type]
    dims = _dims(x, dim)
    if math.isinf(order):
        made = _largest(size, [d for d in dims if x.shape[d] > 1], True)
        return replace(made, dims=tuple(c for d, c in enumerate(made.dims) if keepdim or d not in dims))
    summed = total(apply(size, power(order)) if order != 1 else size, dims, keepdim)
    return summed if order == 1 else _root(summed, order)


def _root(x: Moments, p: float) -> Moments:
    """S^(1/p) of a sum S of positive terms, nearly a Gamma variable of shape k = E[S]² / Var S: E S^q = (E[S] / k)^q Γ(k + q) / Γ(k)."""
    variance = np.maximum(x.second - x.mean**2, 0.0)
    safe = np.maximum(x.mean, 1e-300)
    k = safe**2 / np.maximum(variance, 1e-12 * safe**2)
    first, square = (safe**q * np.exp(gammaln(k + q) - gammaln(k) - q * np.log(k)) for q in (1 / p, 2 / p))
    spread = np.maximum(square - first**2, 0.0)
    (m1, m2), (v1, v2), (s1, s2) = (pair_values(x.axes, v) for v in (first, variance, spread))
    share = np.divide(x.covariance(), np.sqrt(v1 * v2), out=np.zeros_like(x.gram), where=v1 * v2 > 0)
    gram = m1 * m2 + share * np.sqrt(s1 * s2)
    return Moments.gaussian(x.axes, x.dims, first, gram, x.sources, claim=worst(x.claim, "rule"))


@rule("aten.logsumexp")
def logsumexp(x: Moments, dim: Any, keepdim: bool = False) -> Moments:
    """log Σ exp x, the sum taken for a log-normal variable (Fenton 1960): Cov(log S, log S′) = log(E[S S′] / E[S] E[S′])."""
    exp = FUNCTIONS["exp"]
    assert isinstance(exp, Scalar)
    s = total(apply(x, exp), _dims(x, dim), keepdim)
    u, v = s.pair_means()
    cov = np.log(s.gram / (u * v))
    mean = np.log(s.mean) - cov[tuple(a.diagonal for a in s.axes)] / 2
    u, v = pair_values(s.axes, mean)
    return Moments.gaussian(s.axes, s.dims, mean, u * v + cov, s.sources, claim=worst(s.claim, "rule"))
