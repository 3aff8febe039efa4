"""Does the order of dropout, activation, norm and pooling matter: verdicts from declared or exact properties, and the size of the gap.

`initio.commute` and the checks ACT102, NRM103 and PRF103 take verdict and numbers from here. Nothing is concluded from samples: a property
is declared of the function (and measured by a test), or read exactly off its linear pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from initio.core.scalar import Scalar, affine

__all__ = ["Order", "dropout_activation", "increasing", "max_pooling", "positively_homogeneous", "variance_shift"]

Verdict = Literal["same function", "same expectation", "different"]


@dataclass(frozen=True, slots=True)
class Order:
    """The verdict on two orders with its reason; E d and E d² of the difference d, and σ(0)."""

    verdict: Verdict
    reason: str
    mean: float = 0.0
    second: float = 0.0
    at_zero: float = 0.0


def positively_homogeneous(f: Scalar) -> bool:
    """Whether f(c x) = c f(x) for every c > 0: declared, or linear on both sides of 0.

    >>> from initio.core.functions import RELU, TANH
    >>> positively_homogeneous(RELU), positively_homogeneous(TANH), positively_homogeneous(RELU.then(affine(2.0)))
    (True, False, True)
    """
    if f.homogeneous:
        return True
    if f.pieces is None or any(kink != 0 for kink in f.kinks) or float(f(0.0)) != 0:
        return False
    return all(len(piece) <= 2 and not any(piece[:1]) for piece in f.pieces)


def increasing(f: Scalar) -> bool:
    """Whether f(x) ≤ f(y) for x ≤ y: declared of core's functions and kept by composition, or read off linear pieces."""
    if f.increasing:
        return True
    if f.pieces is None or any(len(piece) > 2 for piece in f.pieces):
        return False
    lines = [(*piece, 0.0)[:2] for piece in f.pieces]
    if any(slope < 0 for _, slope in lines):
        return False
    jumps = zip(f.kinks, lines[:-1], lines[1:], strict=True)
    return all(b0 + a0 * k <= b1 + a1 * k + 1e-12 * max(1.0, abs(b1)) for k, (b0, a0), (b1, a1) in jumps)


def dropout_activation(f: Scalar, p: float, expectation: Callable[[Scalar], float]) -> Order:
    """σ(D x) against D σ(x), the same mask: d is σ(c x) − c σ(x) for a kept entry, c = 1/(1−p), and σ(0) for a dropped one.

    `expectation` gives E g(x) under the law of x.

    >>> from initio.core.functions import RELU, SIGMOID
    >>> from initio.core.gaussian import expect
    >>> dropout_activation(RELU, 0.5, lambda g: float(expect(g, 0.0, 1.0))).verdict
    'same function'
    >>> made = dropout_activation(SIGMOID, 0.5, lambda g: float(expect(g, 0.0, 1.0)))
    >>> made.verdict, round(made.mean, 12), made.at_zero
    ('different', 0.0, 0.5)
    """
    if p == 0:
        return Order("same function", "dropout with p = 0 is the identity")
    if positively_homogeneous(f):
        return Order("same function", "σ(c x) = c σ(x) for every c > 0 and σ(0) = 0 (positive homogeneity)")
    keep, zero = 1 / (1 - p), float(f(0.0))
    gap = affine(keep).then(f).plus(f, 1.0, -keep)
    mean = p * zero + (1 - p) * expectation(gap)
    second = p * zero**2 + (1 - p) * expectation(gap.times(gap))
    if zero and positively_homogeneous(f.then(affine(1.0, -zero))):
        return Order("same expectation", f"σ(x) − σ(0) is positively homogeneous, σ(0) = {zero:g}", mean, second, zero)
    at_zero = f"σ(0) = {zero:g} ≠ 0, and " if zero else ""
    return Order("different", f"{at_zero}σ(c x) ≠ c σ(x) at c = {keep:g}", mean, second, zero)


def variance_shift(p: float, second: float, varying: float) -> float:
    """Var D x / Var x = 1 + p/(1−p) · E x²/Var x: by how much training statistics exceed what evaluation sees.

    `varying` is Var x over samples; where it is 0 or not known, E x² ≥ Var x gives the least value, 1/(1−p).

    >>> variance_shift(0.5, 1.0, 1.0)
    2.0
    """
    return 1 + p / (1 - p) * second / varying if varying > 0 else 1 / (1 - p)


def max_pooling(f: Scalar) -> Order:
    """max σ(x_i) against σ(max x_i)."""
    if increasing(f):
        return Order("same function", "the function is non-decreasing: max σ(x_i) = σ(max x_i) (monotony)")
    return Order("different", "the function is not proven non-decreasing")
