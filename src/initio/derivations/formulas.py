"""The formulas behind a verdict of `commute`, as sympy equations: expectations over masks, the law of a unit, the shift of a variance."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import sympy as sp
from torch import nn

from initio.derivations.maps import Map
from initio.derivations.tracing import X, exact

__all__ = ["MEAN", "SECOND", "SPREAD", "VARIANCE", "P", "formulas", "unit_variance"]

P: Any = sp.Symbol("p", positive=True)
MEAN: Any = sp.Symbol("μ", real=True)
SPREAD: Any = sp.Symbol("s", positive=True)
SECOND: Any = sp.Symbol("E[x^2]", positive=True)
VARIANCE: Any = sp.Symbol("Var[x]", positive=True)


def formulas(f: Map, g: Map) -> tuple[Any, ...]:
    """What is known of dropout with the other map: equations in p, x, μ and s, the other map's numbers put in exactly."""
    if "dropout" not in (f.kind, g.kind) or f.kind == g.kind:
        return ()
    other = g if f.kind == "dropout" else f
    if other.kind == "elementwise" and other.formula is not None:
        return elementwise(other.formula.expr)
    if other.kind == "layer":
        return layer(other.parts[1])
    if other.kind == "norm":
        spread = SECOND if isinstance(other.call, nn.RMSNorm) else VARIANCE
        shift = sp.Eq(sp.Symbol("Var[D x]/Var[x]"), 1 + P / (1 - P) * SECOND / spread, evaluate=False)
        return (shift,)
    return ()


def elementwise(sigma: Any) -> tuple[Any, ...]:
    """E σ(D x) and E D σ(x) over the mask, x given; their difference."""
    swapped = P * sigma.subs(X, sp.Integer(0)) + (1 - P) * sigma.subs(X, X / (1 - P))
    return (
        sp.Eq(sp.Symbol("E[σ(D x)]"), swapped, evaluate=False),
        sp.Eq(sp.Symbol("E[D σ(x)]"), sigma, evaluate=False),
    )


def unit_variance() -> Any:
    """s² = p/(1−p) Σ_k A_jk² x_k²."""
    weight: Any = sp.IndexedBase("A")
    x: Any = sp.IndexedBase("x")
    k, n, j = sp.Symbol("k", integer=True), sp.Symbol("n", integer=True, positive=True), sp.Symbol("j", integer=True)
    return P / (1 - P) * sp.Sum(weight[j, k] ** 2 * x[k] ** 2, (k, 1, n))


def layer(activation: Map) -> tuple[Any, ...]:
    """E σ(z) of z = A D x + b ~ N(μ, s²) against σ(μ), for a σ that is linear on both sides of 0."""
    law = sp.Eq(sp.Symbol("s^2"), unit_variance(), evaluate=False)
    scalar = None if activation.formula is None else activation.formula.scalar
    if scalar is None or scalar.pieces is None or any(k != 0 for k in scalar.kinks) or any(len(p) > 2 for p in scalar.pieces):
        return (law,)
    low, high = (scalar.pieces[0], scalar.pieces[-1])
    (b0, a0), (b1, a1) = ((exact(float((*piece, 0.0)[0])), exact(float((*piece, 0.0)[1]))) for piece in (low, high))
    above = (1 + sp.erf(MEAN / (SPREAD * sp.sqrt(2)))) / 2
    density = sp.exp(-(MEAN**2) / (2 * SPREAD**2)) / sp.sqrt(2 * sp.pi)
    positive = MEAN * above + SPREAD * density  # E max(z, 0)
    mean = a1 * positive + a0 * (MEAN - positive) + b1 * above + b0 * (1 - above)
    return law, sp.Eq(sp.Symbol("E[σ(z)]"), mean, evaluate=False)
