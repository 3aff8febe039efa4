"""Which property makes the order of two maps irrelevant; a table of pairs of kinds. No property, no proof."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sympy as sp
from torch import nn

from initio.core.order import max_pooling
from initio.derivations.homogeneity import homogeneous, identical
from initio.derivations.maps import AVERAGES, BATCH_NORMS, Map
from initio.derivations.tracing import X, exact

__all__ = ["Proof", "prove"]


@dataclass(frozen=True, slots=True)
class Proof:
    """A verdict with the property behind it; "none" where nothing is proven, `reason` then saying what fails."""

    verdict: Literal["same function", "same expectation", "none"]
    reason: str = ""
    scale: float = 1.0


SAME, EXPECTATION, NONE = "same function", "same expectation", "none"


def prove(f: Map, g: Map, train: bool) -> Proof:
    """f∘g = g∘f, or E f∘g = E g∘f over the masks, from the properties of the two."""
    if f.kind == "dropout" or g.kind == "dropout":
        drop, other = (f, g) if f.kind == "dropout" else (g, f)
        return _dropout(drop, other, train)
    if f.of is g.of:
        return Proof(SAME, "a map commutes with itself" + _idempotent(f))
    for one, two in ((f, g), (g, f)):
        rule = _RULES.get((one.kind, two.kind))
        if rule is not None:
            return rule(one, two)
    return Proof(NONE, f.why or g.why or f"no rule for {f.kind} with {g.kind}")


def _idempotent(m: Map) -> str:
    return "; it is idempotent, σ(σ(x)) = σ(x): the second one does nothing" if m.properties is not None and m.properties.idempotent else ""


def _dropout(drop: Map, other: Map, train: bool) -> Proof:
    if not train:
        return Proof(SAME, "dropout is the identity in evaluation mode")
    if drop.p == 0:
        return Proof(SAME, "dropout with p = 0 is the identity")
    c: Any = 1 / (1 - exact(drop.p))
    match other.kind:
        case "dropout":
            return Proof(SAME, "both multiply each entry by a mask of their own, and products commute")
        case "elementwise":
            return _dropout_elementwise(other, c)
        case "reindex" if not drop.feature:
            return Proof(SAME, "it moves entries without changing them: the mask moves along")
        case "affine" if drop.feature and isinstance(other.call, AVERAGES):
            return Proof(SAME, "the mask is one factor for each channel, and the map is linear in each channel")
        case "affine":
            return Proof(EXPECTATION, "the map is affine, and E D x = x: E[A D x + b] = A x + b = E[D(A x + b)]")
        case "maxpool" if drop.feature:
            return Proof(SAME, "the mask is one factor ≥ 0 for each channel: max(c x) = c max(x)")
        case "layer":
            activation = other.parts[1]
            if activation.properties is not None and activation.properties.affine:
                return Proof(EXPECTATION, "the layer is affine, and E D x = x")
            return Proof(NONE, "E σ(z) ≠ σ(E z) for a σ that is not affine (Jensen), however homogeneous it is")
        case "norm":
            return Proof(NONE, "the statistics of the norm see the variance of D x, not that of x")
        case _:
            return Proof(NONE, other.why or f"E of {other.kind} over masks is not its value at the mean")


def _dropout_elementwise(other: Map, c: Any) -> Proof:
    known, formula = other.properties, other.formula
    assert known is not None
    assert formula is not None
    if known.homogeneous:
        return Proof(SAME, "σ(c x) = c σ(x) for every c > 0 and σ(0) = 0 (positive homogeneity)")
    if known.at_zero == 0 and homogeneous(formula.expr, c):
        return Proof(SAME, f"σ(0) = 0 and σ(c x) = c σ(x) at c = 1/(1−p) = {c}")
    origin: Any = known.at_zero
    shifted = formula.expr - origin
    if known.homogeneous_offset or (origin.is_finite and homogeneous(shifted, c)):
        return Proof(
            EXPECTATION, f"σ(x) − σ(0) is positively homogeneous; σ(0) = {known.at_zero} is kept by one order and dropped by the other"
        )
    at_zero = f"σ(0) = {known.at_zero} ≠ 0" if known.at_zero != 0 else "σ(0) = 0"
    return Proof(NONE, f"{at_zero}, and σ(c x) ≠ c σ(x) at c = {c}")


def _elementwise(f: Map, g: Map) -> Proof:
    assert f.formula is not None
    assert g.formula is not None
    a, b = f.formula.expr, g.formula.expr
    try:
        equal = identical(a.subs(X, b), b.subs(X, a))
    except (TypeError, ValueError, RecursionError):
        equal = False
    if equal:
        extra = _idempotent(f) if identical(a, b) else ""
        return Proof(SAME, "f(g(x)) = g(f(x)) as formulas, for x > 0, x < 0 and 0" + extra)
    return Proof(NONE, "f(g(x)) and g(f(x)) are different formulas")


def _maxpool_elementwise(pool: Map, other: Map) -> Proof:
    del pool
    if other.formula is not None and other.formula.scalar is not None:
        made = max_pooling(other.formula.scalar)
        if made.verdict == SAME:
            return Proof(SAME, made.reason)
    if other.properties is not None and other.properties.increasing:  # affine, with a slope ≥ 0
        return Proof(SAME, "the function is affine with a slope ≥ 0, hence non-decreasing (monotony)")
    return Proof(NONE, "the function is not proven non-decreasing")


def _reindex_elementwise(moved: Map, other: Map) -> Proof:
    del moved, other
    return Proof(SAME, "one moves entries, the other acts on each entry alone")


def _affine_elementwise(linear: Map, other: Map) -> Proof:
    known = other.properties
    assert known is not None
    if not known.affine:
        return Proof(NONE, "a sum of σ(x_i) is not σ of the sum where σ is not affine")
    through = known.at_zero == 0 or rows_sum_to_one(linear.call)
    kept = unbiased(linear.call) or sp.simplify(known.slope - 1) == 0
    if through and kept:
        return Proof(SAME, "both are linear, and their constants pass through each other (linearity)")
    return Proof(NONE, "both are affine, but their constants do not pass through each other")


def unbiased(module: Any) -> bool:
    """Whether an affine module has no constant term."""
    if isinstance(module, nn.Sequential):
        return all(unbiased(child) for child in module)
    bias = getattr(module, "bias", None)
    return bias is None or not bool(bias.detach().any())


def rows_sum_to_one(module: Any) -> bool:
    """Whether an average of equal entries is that entry at every position (no zero padding counted, no other divisor)."""
    if not isinstance(module, AVERAGES):
        return False
    padding = getattr(module, "padding", 0)
    padded = any(padding) if isinstance(padding, tuple) else bool(padding)
    return getattr(module, "divisor_override", None) is None and not (padded and getattr(module, "count_include_pad", True))


def _two_affine(f: Map, g: Map) -> Proof:
    for conv, pool in ((f.call, g.call), (g.call, f.call)):
        if isinstance(pool, AVERAGES) and pointwise(conv) and (rows_sum_to_one(pool) or unbiased(conv)):
            return Proof(SAME, "one mixes channels at each position, the other positions in each channel: (A⊗I)(I⊗P) = (I⊗P)(A⊗I)")
    return Proof(NONE, "A B ≠ B A for these two linear maps")


def pointwise(module: Any) -> bool:
    """Whether a convolution has kernel 1, stride 1 and no padding."""
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return False
    return all(k == 1 for k in (*module.kernel_size, *module.stride)) and module.padding in (
        "valid",
        "same",
        (0,) * len(module.kernel_size),
    )


def _norm_pool(norm: Map, pool: Map) -> Proof:
    module = norm.call
    if not isinstance(module, BATCH_NORMS) or module.training or not module.track_running_stats:
        return Proof(NONE, "the norm's statistics change with the pooling")
    if pool.kind == "affine" and rows_sum_to_one(pool.call):
        return Proof(SAME, "in evaluation mode the norm is a x + b in each channel, and an average passes through it (linearity)")
    weight = module.weight
    if pool.kind == "maxpool" and (weight is None or bool((weight >= 0).all())):  # pyright: ignore[reportUnnecessaryComparison]
        return Proof(SAME, "in evaluation mode the norm is a x + b with a ≥ 0 in each channel: non-decreasing (monotony)")
    return Proof(NONE, "no common property")


_RULES: dict[tuple[str, str], Any] = {
    ("elementwise", "elementwise"): _elementwise,
    ("maxpool", "elementwise"): _maxpool_elementwise,
    ("reindex", "elementwise"): _reindex_elementwise,
    ("affine", "elementwise"): _affine_elementwise,
    ("affine", "affine"): _two_affine,
    ("norm", "affine"): _norm_pool,
    ("norm", "maxpool"): _norm_pool,
}
