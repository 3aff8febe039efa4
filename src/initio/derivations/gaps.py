"""Mean and second moment of d = f(g(x)) − g(f(x)) under a law of x: integrals, no sampling."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from torch import nn

from initio.core.distribution import Distribution
from initio.core.gaussian import expect, expect2
from initio.core.order import dropout_activation, variance_shift
from initio.core.scalar import Scalar, power
from initio.derivations.maps import BATCH_NORMS, Map

__all__ = ["Difference", "Law", "predicted", "relu_mean"]

_MATRIX = 4_000_000
"""Entries up to which an affine map is written out as a matrix."""


@dataclass(frozen=True, slots=True)
class Difference:
    """E d and E d² over the entries. `claim` is "exact" (to quadrature), "wide" (Gaussian sums, large batch), or "none" with the reason."""

    mean: float
    second: float
    claim: str
    how: str = ""

    @property
    def rms(self) -> float:
        """√E d²."""
        return math.sqrt(max(self.second, 0.0))


NOTHING = Difference(0.0, 0.0, "exact", "the same function")


@dataclass(frozen=True)
class Law:
    """Independent entries of x from a distribution, or the given entries themselves."""

    distribution: Distribution
    data: Any = None

    @property
    def mean(self) -> float:
        """E x."""
        return self.distribution.mean

    @property
    def second(self) -> float:
        """E x²."""
        return self.distribution.second

    @property
    def normal(self) -> bool:
        """Whether the entries are independent normal numbers."""
        return self.distribution.family in ("normal", "constant")

    def expect(self, f: Scalar) -> float:
        """E f(x)."""
        d = self.distribution
        if self.data is not None:
            return float(f(np.asarray(self.data, dtype=float)).mean())
        if self.normal:
            return float(expect(f, d.mean, d.variance))
        if d.family == "uniform":
            low, high = d.parameters["low"], d.parameters["high"]
            cuts = np.unique([low, *(k for k in (*f.kinks, *f.knots) if low < k < high), *np.linspace(low, high, 33), high])
            z, w = np.polynomial.legendre.leggauss(40)
            half, middle = np.diff(cuts) / 2, (cuts[1:] + cuts[:-1]) / 2
            return float((f(middle[:, None] + half[:, None] * z) @ w @ half) / (high - low))
        raise LookupError(f"no integral is known for x from a {d.family} distribution")

    def __str__(self) -> str:
        return "the given entries" if self.data is not None else f"independent entries, {self.distribution}"


def predicted(f: Map, g: Map, law: Law, shape: tuple[int, ...], train: bool) -> Difference:
    """E d and E d² of two classified maps."""
    try:
        return _predicted(f, g, law, shape, train)
    except LookupError as reason:
        return Difference(math.nan, math.nan, "none", str(reason))


def _predicted(f: Map, g: Map, law: Law, shape: tuple[int, ...], train: bool) -> Difference:
    if f.kind == "dropout" or g.kind == "dropout":
        drop, other, sign = (f, g, -1.0) if f.kind == "dropout" else (g, f, 1.0)
        if not train or drop.p == 0:
            return Difference(0.0, 0.0, "exact", "dropout is the identity")
        made = _with_dropout(drop, other, law, shape)
        return Difference(sign * made.mean, made.second, made.claim, made.how)
    if f.kind == g.kind == "elementwise":
        one, two = _scalar(g).then(_scalar(f)), _scalar(f).then(_scalar(g))
        gap = one.plus(two, 1.0, -1.0)
        return Difference(law.expect(gap), law.expect(gap.times(gap)), "exact", "one integral over the entry")
    if {f.kind, g.kind} == {"affine", "elementwise"}:
        linear, other, sign = (f, g, -1.0) if f.kind == "affine" else (g, f, 1.0)
        made = _affine_elementwise(linear, _scalar(other), law, shape)
        return Difference(sign * made.mean, made.second, made.claim, made.how)
    if f.kind == g.kind == "affine":
        return _two_affine(f, g, law, shape)
    raise LookupError(f"no integral is known for {f.kind} with {g.kind}; the measured value stands alone")


def _scalar(m: Map) -> Scalar:
    if m.formula is None or m.formula.scalar is None:
        raise LookupError(f"{m.name} has no form that the integrators know")
    return m.formula.scalar


def _with_dropout(drop: Map, other: Map, law: Law, shape: tuple[int, ...]) -> Difference:
    """d = other(D x) − D other(x)."""
    p = drop.p
    match other.kind:
        case "elementwise":
            made = dropout_activation(_scalar(other), p, law.expect)
            return Difference(made.mean, made.second, "exact", "the same mask; one integral over the entry")
        case "affine":
            return _affine_dropout(drop, other, law, shape)
        case "layer":
            return _layer_dropout(drop, other, law, shape)
        case "norm":
            return _norm_dropout(drop, other, law, shape)
        case _:
            raise LookupError(f"no integral is known for dropout with {other.kind}; the measured value stands alone")


def matrix(m: Map, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """(A, b) of an affine map on one sample, in float64: entry k of the flattened sample makes column k."""
    sample = shape[1:]
    size = math.prod(sample)
    with torch.no_grad():
        zero = m.call(torch.zeros((1, *sample), dtype=torch.float64))
        if size * zero.numel() > _MATRIX:
            raise LookupError(f"a matrix of {zero.numel()}×{size} is too large to write out; give a smaller x")
        columns = [m.call(part.reshape(-1, *sample)) - zero for part in torch.eye(size, dtype=torch.float64).split(512)]
    return torch.cat(columns).reshape(size, -1).T.contiguous().numpy(), zero.flatten().numpy()


def _affine_dropout(drop: Map, other: Map, law: Law, shape: tuple[int, ...]) -> Difference:
    """A D x + b − D′(A x + b), masks independent: p/(1−p) (Σ_k A_jk² E x_k² + E (A x + b)_j²), mean 0."""
    if drop.feature:
        raise LookupError("masks of whole channels are measured only")
    a, b = matrix(other, shape)
    odds = drop.p / (1 - drop.p)
    if law.data is not None:
        x = np.asarray(law.data, dtype=float).reshape(shape[0], -1)
        y = x @ a.T + b
        return Difference(0.0, float(odds * ((x**2 @ (a**2).T).mean() + (y**2).mean())), "exact", "independent masks")
    through, total = (a**2).sum(1), a.sum(1)
    out = through * (law.second - law.mean**2) + (total * law.mean + b) ** 2
    return Difference(0.0, float((odds * (through * law.second + out)).mean()), "exact", "independent masks, the module's own weights")


def relu_mean(mean: Any, std: Any) -> Any:
    """E ReLU(z) = μ Φ(μ/s) + s φ(μ/s), z ~ N(μ, s²)."""
    z = np.asarray(mean) / np.where(np.asarray(std) > 0, std, 1.0)
    full = np.asarray(mean) * ndtr(z) + np.asarray(std) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return np.where(np.asarray(std) > 0, full, np.maximum(mean, 0.0))


def _layer_dropout(drop: Map, other: Map, law: Law, shape: tuple[int, ...]) -> Difference:
    """σ(A D x + b) − D′ σ(A x + b): z = A D x + b and y = A x + b as jointly Gaussian, independent masks."""
    linear, activation = other.parts
    s = _scalar(activation)
    a, b = matrix(linear, shape)
    odds = drop.p / (1 - drop.p)
    if law.data is not None:  # y is known: z ~ N(y, s²), s² = p/(1−p) Σ A² x²
        mean_z, noise = given_units(linear, shape, law.data, drop.p)
        first, square = expect(s, mean_z, noise), expect(s.then(power(2.0)), mean_z, noise)
        y = s(mean_z)
        gap = first - y
        return Difference(float(gap.mean()), float((square - 2 * first * y + y**2 / (1 - drop.p)).mean()), "wide", "given x, Gaussian z")
    if not law.normal:
        raise LookupError(f"no integral is known for x from a {law.distribution.family} distribution")
    variance = law.second - law.mean**2
    mean = a.sum(1) * law.mean + b
    var_y = (a**2).sum(1) * variance
    var_z = var_y + odds * (a**2).sum(1) * law.second
    z1, y1 = expect(s, mean, var_z), expect(s, mean, var_y)
    square = s.then(power(2.0))
    z2, y2 = expect(square, mean, var_z), expect(square, mean, var_y)
    zy = expect2(s, s, mean, var_z, mean, var_y, var_y)
    return Difference(float((z1 - y1).mean()), float((z2 - 2 * zy + y2 / (1 - drop.p)).mean()), "wide", "Gaussian z over mask and x")


def given_units(linear: Map, shape: tuple[int, ...], data: Any, p: float) -> tuple[Any, Any]:
    """μ = A x + b and s² = p/(1−p) Σ_k A_jk² x_k² of every unit and given sample."""
    a, b = matrix(linear, shape)
    x = np.asarray(data, dtype=float).reshape(shape[0], -1)
    return x @ a.T + b, p / (1 - p) * (x**2 @ (a**2).T)


def _norm_dropout(drop: Map, other: Map, law: Law, shape: tuple[int, ...]) -> Difference:
    """norm(D x) − D norm(x), the same mask, statistics over many entries: x̂ = (x − m)/√(v + ε), m and v those of x or of D x."""
    module = other.call
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    gamma = 1.0 if weight is None else weight.detach().numpy().ravel()
    beta = np.zeros(1) if bias is None else bias.detach().numpy().ravel()
    p, keep = drop.p, 1 / (1 - drop.p)
    centred = 0.0 if isinstance(module, nn.RMSNorm) else law.mean
    eps = module.eps if module.eps is not None else float(torch.finfo(torch.float32).eps)
    if isinstance(module, BATCH_NORMS) and not module.training and module.track_running_stats:
        raise LookupError("running statistics do not follow this input")
    var_x, var_d = law.second - centred**2, law.second * keep - centred**2
    s_x, s_d = gamma / math.sqrt(var_x + eps), gamma / math.sqrt(var_d + eps)
    dropped = -centred * s_d + beta  # the entry is 0; after the norm D makes it 0
    # kept: ((c x − m) s_d + β) − c ((x − m) s_x + β) = c (s_d − s_x) x + [c m s_x − m s_d + (1 − c) β]
    slope, offset = keep * (s_d - s_x), keep * centred * s_x - centred * s_d + (1 - keep) * beta
    mean = p * dropped + (1 - p) * (slope * law.mean + offset)
    second = p * dropped**2 + (1 - p) * (slope**2 * law.second + 2 * slope * offset * law.mean + offset**2)
    shift = variance_shift(p, law.second, law.second - centred**2)
    how = f"the same mask, statistics over many entries; the norm sees {shift:.4g} times the variance in training"
    return Difference(float(np.mean(mean)), float(np.mean(second)), "wide", how)


def _affine_elementwise(linear: Map, s: Scalar, law: Law, shape: tuple[int, ...]) -> Difference:
    """σ(A x + b) − (A σ(x) + b): E σ(y)² − 2 Σ_k A_jk E σ(y_j) σ(x_k) − 2 b_j E σ(y_j) + E (A σ(x) + b)_j²."""
    a, b = matrix(linear, shape)
    if law.data is not None:
        x = np.asarray(law.data, dtype=float).reshape(shape[0], -1)
        gap = s(x @ a.T + b) - (s(x) @ a.T + b)
        return Difference(float(gap.mean()), float((gap**2).mean()), "exact", "on the given entries")
    if not law.normal:
        raise LookupError(f"no integral is known for x from a {law.distribution.family} distribution")
    variance = law.second - law.mean**2
    mean, var = a.sum(1) * law.mean + b, (a**2).sum(1) * variance
    square = s.then(power(2.0))
    y1, y2 = expect(s, mean, var), expect(square, mean, var)
    x1, x2 = float(expect(s, law.mean, variance)), float(expect(square, law.mean, variance))
    if np.abs(a).sum() == 0:
        raise LookupError("the linear map is zero")
    rows, cols = np.nonzero(a)
    values, place = np.unique(np.round(np.stack([mean[rows], var[rows], a[rows, cols]]), 13), axis=1, return_inverse=True)
    pairs = expect2(s, s, values[0], values[1], law.mean, variance, values[2] * variance)[place.ravel()]
    cross = np.bincount(rows, weights=a[rows, cols] * pairs, minlength=len(b))
    out_mean, out_var = a.sum(1) * x1 + b, (a**2).sum(1) * (x2 - x1**2)
    second = y2 - 2 * cross - 2 * b * y1 + out_mean**2 + out_var
    return Difference(
        float((y1 - out_mean).mean()), float(second.mean()), "exact", "pairs of jointly Gaussian entries, the module's own weights"
    )


def _two_affine(f: Map, g: Map, law: Law, shape: tuple[int, ...]) -> Difference:
    """(A B − B A) x + A b + a − B a − b."""
    with torch.no_grad():
        inner, other = (
            tuple(g.call(torch.zeros(shape[:1] + shape[1:], dtype=torch.float64)).shape),
            tuple(f.call(torch.zeros(shape, dtype=torch.float64)).shape),
        )
    b, b0 = matrix(g, shape)
    a, a0 = matrix(f, inner)
    c, c0 = matrix(f, shape)
    d, d0 = matrix(g, other)
    m, m0 = a @ b - d @ c, a @ b0 + a0 - d @ c0 - d0
    mean = m.sum(1) * law.mean + m0
    second = mean**2 + (m**2).sum(1) * (law.second - law.mean**2)
    if law.data is not None:
        y = np.asarray(law.data, dtype=float).reshape(shape[0], -1) @ m.T + m0
        return Difference(float(y.mean()), float((y**2).mean()), "exact", "on the given entries")
    return Difference(float(mean.mean()), float(second.mean()), "exact", "the matrices written out")
