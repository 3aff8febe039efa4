# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Means, sums and spreads over dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from initio.core.algebra import add, apply, average, total
from initio.core.moments import Moments, Unknown
from initio.core.scalar import power
from initio.rules.table import Result, context, rule

__all__: list[str] = []


def _dims(x: Moments, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(len(x.dims)))
    return [d % len(x.dims) for d in ([dim] if isinstance(dim, int) else dim)] if x.dims else []


@rule("aten.mean", near=True)
def mean(x: Moments, dim: Any = None, keepdim: bool = False, **_: Any) -> Moments:
    """Mean over dimensions."""
    return average(x, _dims(x, dim), keepdim)


@rule("aten.sum", near=True)
def sum_(x: Moments, dim: Any = None, keepdim: bool = False, **_: Any) -> Moments:
    """Sum over dimensions."""
    return total(x, _dims(x, dim), keepdim)


@rule("aten.var", "aten.std", "aten.var_mean", "aten.std_mean")
def var(x: Moments, dim: Any = None, *args: Any, correction: float | None = None, keepdim: bool = False, **_: Any) -> Result:
    """Σ (x − mean)² / (n − correction) over dimensions, from E[x²] − E[mean²]."""
    op = context().node.op
    if args and isinstance(args[0], bool) and correction is None:
        correction = 1.0 if args[0] else 0.0
        keepdim = bool(args[1]) if len(args) > 1 else keepdim
    if isinstance(dim, bool):
        correction, dim = (1.0 if dim else 0.0), None
    dims = _dims(x, dim)
    m = average(x, dims, True)
    centred = add(x, m, 1.0, -1.0)
    if isinstance(centred, Unknown):
        return centred
    n = 1
    for d in dims:
        n *= x.shape[d]
    c = 1.0 if correction is None else float(correction)
    square = average(apply(centred, power(2)), dims, keepdim)
    from initio.core.algebra import scale

    out = scale(square, n / max(n - c, 1e-9))
    if ".std" in op:
        out = apply(out, power(0.5))
    mean_out = m if keepdim else replace(m, dims=tuple(k for d, k in enumerate(m.dims) if d not in dims))
    return (out, mean_out) if "_mean" in op else out


@rule("aten.sum_to_size", "aten._sum_to_size")
def sum_to_size(x: Moments, size: Sequence[int]) -> Moments:
    """Sum over the dimensions that were broadcast."""
    lead = len(x.dims) - len(size)
    dims = [d for d in range(len(x.dims)) if d < lead or (size[d - lead] == 1 and x.shape[d] != 1)]
    out = total(x, dims, True)
    return replace(out, dims=out.dims[lead:])
