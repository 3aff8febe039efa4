"""Does the order of two maps matter? f(g(x)) against g(f(x)): proven equal, equal in expectation, or different by how much."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sympy as sp
import torch
from torch import Tensor, nn

from initio.core.distribution import Distribution
from initio.core.errors import InitioError
from initio.core.gaussian import expect
from initio.core.inputs import InputSpec, normalise
from initio.core.order import variance_shift
from initio.core.plain import plain
from initio.derivations.formulas import formulas
from initio.derivations.gaps import Difference, Law, given_units, predicted
from initio.derivations.maps import Map, classify, undefined
from initio.derivations.verdicts import Proof, prove

__all__ = ["Commutation", "Measured", "UnitGap", "commute"]

Verdict = Literal["same function", "same expectation", "different", "undecided"]


@dataclass(frozen=True, slots=True)
class Measured:
    """E d and E d² over `draws` draws of x and masks, with their standard errors; `largest` is the largest |d| seen."""

    mean: float
    mean_error: float
    second: float
    second_error: float
    largest: float
    draws: int


@dataclass(frozen=True, slots=True)
class UnitGap:
    """E σ(A D x + b) − σ(A x + b) of the unit where it is largest, on one x: predicted with z Gaussian, and over masks."""

    sample: int
    unit: int
    mean: float
    std: float
    predicted: float
    measured: float
    error: float


@dataclass(frozen=True, slots=True)
class Mode:
    """The verdict in training or in evaluation mode, with its proof (or witness), the predicted and the measured difference d."""

    verdict: Verdict
    reason: str
    difference: Difference
    measured: Measured

    @property
    def agrees(self) -> bool | None:
        """Whether prediction and measurement lie within 5 standard errors (None: the prediction is not exact)."""
        d, m = self.difference, self.measured
        if d.claim != "exact":
            return None
        scale = 1e-12 + 1e-9 * abs(m.second)
        return (
            abs(d.mean - m.mean) <= 5 * m.mean_error + scale + 1e-6 * math.sqrt(m.second)
            and abs(d.second - m.second) <= 5 * m.second_error + scale
        )


@dataclass(frozen=True, slots=True)
class Commutation:
    """f(g(x)) against g(f(x)). `verdict`, `reason`, `difference` and `measured` are those of training mode.

    `variance_shift` is Var D x / Var x where a norm follows dropout; `unit` the largest gap of one unit behind a linear map; `formulas`
    are sympy equations of the expectations over masks, in the symbols of `initio.derivations.formulas`.
    """

    f: str
    g: str
    law: str
    shape: tuple[int, ...]
    train: Mode
    eval: Mode
    variance_shift: float | None = None
    unit: UnitGap | None = None
    formulas: tuple[Any, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Of training mode."""
        return self.train.verdict

    @property
    def reason(self) -> str:
        """Of training mode."""
        return self.train.reason

    @property
    def difference(self) -> Difference:
        """Of training mode."""
        return self.train.difference

    @property
    def measured(self) -> Measured:
        """Of training mode."""
        return self.train.measured

    def to_dict(self) -> dict[str, Any]:
        """Nested plain data."""
        return plain(self)

    def __str__(self) -> str:
        rows = [f"{self.f} after {self.g}, against {self.g} after {self.f}; x: {'x'.join(map(str, self.shape))}, {self.law}"]
        for name, mode in (("train", self.train), ("eval", self.eval)):
            d, m = mode.difference, mode.measured
            rows.append(f"{name:>5}: {mode.verdict}. {mode.reason}")
            said = (
                f"mean {d.mean:.6g}, second moment {d.second:.6g} ({d.claim}: {d.how})" if d.claim != "none" else f"no prediction: {d.how}"
            )
            rows.append(f"       difference, predicted: {said}")
            seen = f"mean {m.mean:.6g} ± {m.mean_error:.2g}, second moment {m.second:.6g} ± {m.second_error:.2g}, {m.draws} draws"
            rows.append(f"       difference, measured:  {seen}")
        rows += [f"       {sp.sstr(e.lhs)} = {sp.sstr(e.rhs).replace('**', '^')}" for e in self.formulas]
        if self.variance_shift is not None:
            ratio = f"{self.variance_shift:.4g} times the variance that it sees in evaluation: 1 + p/(1−p)·E[x²]/Var x"
            rows.append(f"       behind the dropout, the norm sees in training {ratio}")
        if self.unit is not None:
            u = self.unit
            where = f"unit {u.unit} on sample {u.sample}: E σ(z) − σ(E z), z ~ N({u.mean:.4g}, {u.std:.4g}²)"
            rows.append(f"       largest gap, {where} = {u.predicted:.4g}, measured over masks {u.measured:.4g} ± {u.error:.2g}")
        return "\n".join(rows)


def commute(f: Any, g: Any, x: Any = None, *, draws: int = 64, seed: int = 0) -> Commutation:
    """Compare f(g(x)) with g(f(x)) in training and in evaluation mode.

    `f` and `g` are modules or functions of one tensor; `x` a shape, a text such as "64x128:normal(0,2)", a tensor or an
    `InputSpec` (without it: independent unit normal entries of a shape that fits). Dropout takes the same mask in both orders
    where the other map keeps the shape, else an independent one. Modules are copied to float64; the caller's are not touched.

    "same function" is a proof (of homogeneity, monotony, linearity, …), never a conclusion from samples; where the two agree
    on every sample without a proof, the verdict is "undecided".

    >>> from torch import nn
    >>> commute(nn.Dropout(0.5), nn.ReLU()).verdict
    'same function'
    >>> commute(nn.Dropout(0.5), nn.Sigmoid()).verdict
    'different'

    Raises:
        InitioError: what is no map from tensor to tensor, is random or stateful in ways not described, gives NaN on x, or where p is
            outside [0, 1).
    """
    if draws < 2:
        raise InitioError("at least two draws", f"{draws} came", where="draws", remedy="64 give a usable standard error.")
    modes: dict[bool, Mode] = {}
    pair = (classify(f, True), classify(g, True))
    law, shape = _input(*pair, x)
    for train in (True, False):
        one, two = pair if train else (classify(f, False), classify(g, False))
        modes[train] = _mode(one, two, law, shape, train, draws, seed)
    drop, other = pair if pair[0].kind == "dropout" else pair[::-1]
    shift = unit = None
    if drop.kind == "dropout" and other.kind == "norm":
        centred = 0.0 if isinstance(other.call, nn.RMSNorm) else law.mean
        shift = variance_shift(drop.p, law.second, law.second - centred**2)
    if drop.kind == "dropout" and other.kind == "layer" and drop.p > 0:
        unit = _unit_gap(drop, other, law, shape, seed)
    return Commutation(pair[0].name, pair[1].name, str(law), shape, modes[True], modes[False], shift, unit, formulas(*pair))


def _input(f: Map, g: Map, x: Any) -> tuple[Law, tuple[int, ...]]:
    if x is None:
        shape = f.shape or g.shape or (64, 64)
        dims = next((int(m.call.__class__.__name__[7]) for m in (f, g) if m.feature), 0)
        if dims and len(shape) == 2:
            shape = (16, 8, *((8,) * dims))
        return Law(Distribution("normal", {"mean": 0.0, "std": 1.0}, shape)), shape
    args, kwargs = normalise(x)
    specs = [spec for spec in (*args, *kwargs.values()) if isinstance(spec, InputSpec)]
    if len(specs) != 1 or not specs[0].dtype.startswith(("float", "bfloat")):
        came = f"{len(specs)} inputs came" if len(specs) != 1 else f"dtype {specs[0].dtype} came"
        raise InitioError("one floating input", came, where="x", remedy="Give x as 64x128:normal(0,1), say.")
    spec = specs[0]
    data = None if spec.data is None else torch.as_tensor(spec.data).detach().cpu().double().numpy()
    return Law(spec.distribution, data), spec.shape


def _sample(law: Law, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if law.data is not None:
        return torch.as_tensor(np.asarray(law.data), dtype=torch.float64)
    from initio.capture.initializers import sample_parameter

    d = law.distribution
    return sample_parameter(Distribution(d.family, d.parameters, shape), dtype=torch.float64, generator=generator)


def _mask(drop: Map, shape: Any, generator: torch.Generator) -> Tensor:
    """Entries 0 or 1/(1−p); one for each (sample, channel) where whole channels are dropped."""
    drawn = tuple(shape[:2]) + (1,) * (len(shape) - 2) if drop.feature else tuple(shape)
    keep = torch.rand(drawn, generator=generator, dtype=torch.float64) >= drop.p
    return (keep.double() / (1 - drop.p)).expand(tuple(shape))


def _both(f: Map, g: Map, x: Tensor, train: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """f(g(x)) and g(f(x))."""
    masks: list[Tensor] = []
    other = f if g.kind == "dropout" else g

    def apply(m: Map, value: Tensor) -> Tensor:
        if m.kind != "dropout":
            return m.run(value)
        if not train or m.p == 0:
            return value
        if f.kind == g.kind == "dropout":
            return value * _mask(m, value.shape, torch.Generator().manual_seed(hash((id(m.call), generator.initial_seed())) % 2**31))
        if masks and other.kind == "reindex":
            return value * other.run(masks[0])
        if masks and m.feature and other.kind in ("maxpool", "affine") and value.shape[:2] == masks[0].shape[:2]:
            lead = masks[0].flatten(2)[:, :, 0]
            return value * lead.reshape(*lead.shape, *(1,) * (value.dim() - 2))
        if masks and other.square:
            return value * masks[0]
        masks.append(_mask(m, value.shape, generator))
        return value * masks[-1]

    order = (g, f), (f, g)
    if g.kind != "dropout":  # the mask on the input comes first
        order = order[::-1]
    results = [apply(second, apply(first, x)) for first, second in order]
    return (results[0], results[1]) if g.kind == "dropout" else (results[1], results[0])


def _mode(f: Map, g: Map, law: Law, shape: tuple[int, ...], train: bool, draws: int, seed: int) -> Mode:
    measured = _measure(f, g, law, shape, train, draws, seed)
    proof = prove(f, g, train)
    verdict, reason = _verdict(proof, measured)
    same = verdict == "same function"
    difference = Difference(0.0, 0.0, "exact", "proven equal") if same else predicted(f, g, law, shape, train)
    return Mode(verdict, reason, difference, measured)


def _verdict(proof: Proof, measured: Measured) -> tuple[Verdict, str]:
    scale = 1e-7 * max(1.0, math.sqrt(measured.second))
    if proof.verdict == "same function":
        if measured.largest > 1e-6 * max(1.0, proof.scale):
            came = f"they differ by {measured.largest:.3g} on a sample"
            remedy = "Please report this pair."
            raise InitioError(f"equal functions, as {proof.reason} says", came, where="commute", remedy=remedy)
        return "same function", proof.reason
    if measured.largest <= scale:
        return "undecided", "equal on every sample drawn, which proves nothing; no property that would prove it was found"
    if proof.verdict == "same expectation":
        return "same expectation", proof.reason
    reason = proof.reason or "no common property"
    return "different", f"{reason}; on a sample they differ by {measured.largest:.4g}"


def _measure(f: Map, g: Map, law: Law, shape: tuple[int, ...], train: bool, draws: int, seed: int) -> Measured:
    means: list[float] = []
    seconds: list[float] = []
    largest = 0.0
    names = f"{f.name} with {g.name}"
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + draw)
        x = _sample(law, shape, generator)
        try:
            one, two = _both(f, g, x, train, generator)
        except InitioError:
            raise
        except Exception as error:
            remedy = "Give an input that both orders take, such as x='8x64'."
            came = f"on {'x'.join(map(str, shape))} one order raised {type(error).__name__}: {str(error)[:200]}"
            raise InitioError("two maps that can be composed in both orders", came, where=names, remedy=remedy) from error
        if one.shape != two.shape:
            came = f"{tuple(one.shape)} and {tuple(two.shape)} came"
            raise InitioError("both orders to give one shape", came, where=names, remedy="Only such maps can be swapped.")
        gap = one - two
        if not bool(torch.isfinite(gap).all()):
            raise undefined(names, f"on x from {law}")
        means.append(float(gap.mean()))
        seconds.append(float((gap * gap).mean()))
        largest = max(largest, float(gap.abs().max()))
    root = math.sqrt(draws)
    return Measured(
        float(np.mean(means)),
        float(np.std(means, ddof=1)) / root,
        float(np.mean(seconds)),
        float(np.std(seconds, ddof=1)) / root,
        largest,
        draws,
    )


def _unit_gap(drop: Map, other: Map, law: Law, shape: tuple[int, ...], seed: int, masks: int = 4096) -> UnitGap | None:
    linear, activation = other.parts
    scalar = activation.formula.scalar if activation.formula else None
    if scalar is None or math.prod(shape[1:]) > 4096:
        return None
    generator = torch.Generator().manual_seed(seed)
    x = _sample(law, shape, generator)
    mean, noise = given_units(linear, shape, x.numpy(), drop.p)
    gap = expect(scalar, mean, noise) - scalar(mean)
    sample, unit = (int(i) for i in np.unravel_index(int(np.argmax(np.abs(gap))), gap.shape))
    row = x[sample].expand(masks, *x.shape[1:])
    with torch.no_grad():
        z = linear.call(row * _mask(drop, row.shape, generator)).flatten(1)[:, unit].numpy()
    values = scalar(z) - scalar(mean[sample, unit])
    spread = float(values.std(ddof=1)) / math.sqrt(masks)
    centre, std = float(mean[sample, unit]), math.sqrt(float(noise[sample, unit]))
    return UnitGap(sample, unit, centre, std, float(gap[sample, unit]), float(values.mean()), spread)
