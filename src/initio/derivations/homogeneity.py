"""Properties of functions of one variable, proven: σ(c x) = c σ(x), monotony, linearity, idempotence.

A proof is an identity of formulas that sympy reduces to 0 for all positive and all negative x and at 0, with
the numbers of the function as exact rationals. Nothing is concluded from samples: what is not proven is `False`.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from initio.core import order
from initio.derivations.tracing import Formula, X

__all__ = ["Properties", "homogeneous", "identical", "properties", "vanishes"]

T: Any = sp.Symbol("t", positive=True)
C: Any = sp.Symbol("c", positive=True)


def _reduced(expr: Any) -> Any:
    """The expression with min, max and cases of the positive symbols decided."""
    expr = (
        sp.piecewise_fold(expr.rewrite(sp.Piecewise))
        if expr.has(sp.Max, sp.Min, sp.Abs, sp.sign, sp.Heaviside)
        else sp.piecewise_fold(expr)
    )
    return sp.simplify(expr)


def vanishes(expr: Any) -> bool:
    """Whether an expression in x is 0 for every real x, proven on x > 0, x < 0 and at 0."""
    if expr.has(sp.nan, sp.zoo):
        return False
    if _refuted(expr):
        return False
    try:
        parts = [expr.subs(X, T), expr.subs(X, -T), expr.subs(X, sp.Integer(0))]
        return all(part == 0 or _reduced(part) == 0 for part in parts)
    except (TypeError, ValueError, NotImplementedError, RecursionError, AttributeError):
        return False  # sympy found no proof


_POINTS = (sp.Rational(1, 3), sp.Rational(-1, 3), sp.Rational(-7, 2), sp.Integer(2), sp.Rational(37, 5))


def _refuted(expr: Any) -> bool:
    """Whether a value at some point, to 30 digits, is plainly not 0: the quick end of most attempts."""
    others = {symbol: sp.Rational(13 + 4 * i, 10) for i, symbol in enumerate(sorted(expr.free_symbols - {X}, key=str))}
    for point in _POINTS:
        try:
            value = complex(expr.subs({**others, X: point}).evalf(30))
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            continue
        if abs(value) > 1e-15:
            return True
    return False


def identical(f: Any, g: Any) -> bool:
    """f(x) = g(x) for every real x."""
    return f == g or vanishes(f - g)


def homogeneous(f: Any, factor: Any = C) -> bool:
    """f(c x) = c f(x) for every real x; c stands for every positive number, or is the exact one given."""
    return vanishes(f.subs(X, factor * X) - factor * f)


@dataclass(frozen=True, slots=True)
class Properties:
    """What is proven of y = f(x). `at_zero` is f(0), `slope` the a of f(x) = a x + f(0) where f is affine."""

    at_zero: Any
    homogeneous: bool
    homogeneous_offset: bool
    affine: bool
    slope: Any
    increasing: bool
    idempotent: bool
    odd: bool

    def words(self) -> tuple[str, ...]:
        """The proven properties, in words."""
        said = {
            "positively homogeneous: σ(c x) = c σ(x) for every c > 0": self.homogeneous,
            "affine": self.affine,
            "non-decreasing": self.increasing,
            "idempotent: σ(σ(x)) = σ(x)": self.idempotent,
            "odd": self.odd,
        }
        return tuple(word for word, holds in said.items() if holds)


def properties(formula: Formula) -> Properties:
    """Prove what can be proven of a formula."""
    f = formula.expr
    at_zero = sp.simplify(f.subs(X, sp.Integer(0)))
    shifted = f - at_zero
    finite = bool(at_zero.is_finite)
    slope = sp.simplify(shifted.subs(X, sp.Integer(1))) if finite else sp.nan
    affine = finite and vanishes(shifted - slope * X)
    plain = finite and at_zero == 0 and (affine or homogeneous(f))
    return Properties(
        at_zero,
        plain,
        plain or (finite and (affine or homogeneous(shifted))),
        affine,
        slope if affine else None,
        increasing(formula) or bool(affine and slope.is_nonnegative),
        vanishes(f.subs(X, f) - f) if finite else False,
        finite and vanishes(f.subs(X, -X) + f),
    )


def increasing(formula: Formula) -> bool:
    """f(x) ≤ f(y) for x ≤ y, declared or read off linear pieces."""
    return formula.scalar is not None and order.increasing(formula.scalar)
