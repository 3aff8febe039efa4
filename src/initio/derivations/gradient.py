"""Steps of the section "gradient": g_{ℓ−1} = χ_ℓ g_ℓ, its solution, the critical gain χ = 1 and where the model stands."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp
from sympy.core.expr import Expr

from initio.core.record import Ref
from initio.derivations.derivation import Step, Table, Verification
from initio.derivations.expansion import skip_of
from initio.derivations.folding import factors, fold, template
from initio.derivations.graph import Factor, FactorGraph, Product, Sum, Tree
from initio.derivations.jacobian import Numbers
from initio.derivations.paths import Layer
from initio.derivations.scale import State, Walk, activation, mean_square
from initio.derivations.signal import ENGINE, WIDE, N, Sampled, beside, joined, summary, within

__all__ = ["gradient_steps", "sampled_rows"]

M: Any = sp.Symbol("m", positive=True)


@dataclass(frozen=True, slots=True)
class Gain:
    """χ of a layer: with symbols for widths (n the fan-in, m the fan-out), and as a number."""

    formula: Any
    number: Any
    widths: tuple[int, ...] = ()


def gain(graph: FactorGraph, tree: Tree, walk: Walk) -> Gain | None:
    """E (uᵀJ)² / E u² over the draw of weights, u independent of them: A gives m σ_w², S gives E σ′(z)², a sum adds its branches."""
    if isinstance(tree, Product):
        parts = [gain(graph, part, walk) for part in tree.parts]
        if any(part is None for part in parts):
            return None
        return Gain(sp.Mul(*(p.formula for p in parts if p)), sp.Mul(*(p.number for p in parts if p)), _widths(parts))
    if isinstance(tree, Sum):
        parts = [gain(graph, part, walk) for part in tree.parts]
        if any(part is None for part in parts) or not _uncorrelated(graph, tree, walk):
            return None
        return Gain(sp.Add(*(p.formula for p in parts if p)), sp.Add(*(p.number for p in parts if p)), _widths(parts))
    return _factor(graph, tree, walk)


def _uncorrelated(graph: FactorGraph, tree: Sum, walk: Walk) -> bool:
    """Whether E tr(B_i B_jᵀ) = 0 for every two branches: all but one pass a zero-mean weight matrix of their own."""
    drawn = [{root for f in factors(part) if f.letter == "A" for root in walk.roots(graph.events[f.event].nodes)} for part in tree.parts]
    return sum(not own for own in drawn) <= 1 and sum(map(len, drawn)) == len(set().union(*drawn))


def _widths(parts: list[Gain | None]) -> tuple[int, ...]:
    return tuple(n for p in parts if p for n in p.widths)


def _factor(graph: FactorGraph, factor: Factor, walk: Walk) -> Gain | None:
    nodes = graph.events[factor.event].nodes
    source, target = graph.record.values[factor.source], graph.record.values[factor.target]
    if factor.letter in ("", "I"):
        one = sp.Integer(1)
        return Gain(one, one) if source.size == target.size else None
    if factor.letter == "A":
        core = [n for n in nodes if n.op.split(".")[1] in ("addmm", "mm")]
        if len(core) != 1 or not isinstance(core[0].args[-1], Ref):
            return None
        fan_in, fan_out = graph.record.values[core[0].args[-1].value].shape
        weight = walk.weight(core[0].args[-1].value, fan_in)
        if weight is None:
            return None
        number = fan_out * weight.variance
        if weight.scaled is None:
            return Gain(M * weight.variance, number, (fan_in,))
        return Gain(weight.scaled if fan_in == fan_out else weight.scaled * M / N, number, (fan_in,))
    if factor.letter == "S" and len([n for n in nodes if n.op.split(".")[1] != "detach"]) == 1:
        f = activation(nodes[0])
        state = walk.states.get(factor.source)
        if f is None or f.derivative is None or state is None or not state.gaussian:
            return None
        made = mean_square(f, state.second, slope=True)
        return Gain(made if made.is_number and not _unevaluated(made) else sp.Symbol("E[σ′(z)^2]"), made)
    if factor.letter == "D" and nodes[0].op.startswith("aten.native_dropout"):
        made = 1 / (1 - sp.Rational(repr(float(nodes[0].args[1]))))
        return Gain(made, made)
    return None


def _unevaluated(expr: Expr) -> bool:
    return bool(expr.atoms(sp.Function))


def sampled_rows(graph: FactorGraph, values: list[int], draws: int) -> Sampled:
    """E (uᵀJ)² at values, over draws of weights, inputs and u, through the factors."""
    kept: dict[int, list[float]] = {v: [] for v in values}
    for seed in range(draws):
        numbers = Numbers(graph, 2000 + seed, generic=False)
        for v in values:
            kept[v].append(float(numbers.row(v).square().mean()))
    return Sampled({v: summary(found) for v, found in kept.items()}, draws)


def gradient_steps(
    graph: FactorGraph,
    found: list[Layer],
    start: Mapping[int, State],
    cotangents: Mapping[int, float],
    measured: Sampled | None,
    why: str,
) -> list[Step]:
    """All steps of the section. `cotangents` holds the engine's second moment of the cotangent of values."""
    walk = Walk(graph, dict(start))
    walk.run()
    gains = [gain(graph, layer.tree, walk) for layer in found]
    steps = [_local(), *_runs(graph, found, gains, walk, measured, why)]
    steps.append(_numbers(found, gains, cotangents, measured, why))
    return steps


def _local() -> Step:
    g, chi = sp.Symbol("g_{ℓ-1}"), sp.Symbol("χ_ℓ")
    formulas = (
        sp.Eq(g, chi * sp.Symbol("g_ℓ"), evaluate=False),
        sp.Eq(sp.Symbol("χ(A)"), M * sp.Symbol("σ_w^2"), evaluate=False),
        sp.Eq(sp.Symbol("χ(S)"), sp.Symbol("E[σ′(z)^2]"), evaluate=False),
        sp.Eq(sp.Symbol("χ(I + B)"), 1 + sp.Symbol("χ(B)"), evaluate=False),
    )
    text = "g_ℓ is the second moment of the gradient at y_ℓ, m the fan-out of A; gradient and weights are independent (wide limit)."
    return Step("gradient", "The backward recurrence", formulas, text)


def _runs(graph: FactorGraph, found: list[Layer], gains: list[Gain | None], walk: Walk, measured: Sampled | None, why: str) -> list[Step]:
    steps: list[Step] = []
    keys = [(template(layer.tree), "" if g is None else str(sp.N(g.number, 10))) for layer, g in zip(found, gains, strict=True)]
    for r in fold(keys):
        g = gains[r.start]
        if g is None:
            continue
        layer, last = found[r.start], found[r.start + r.length - 1]
        if r.period > 1:
            block = [gains[r.start + i] for i in range(r.period)]
            if any(b is None for b in block):
                continue
            g = Gain(sp.Mul(*(b.formula for b in block if b)), sp.Mul(*(b.number for b in block if b)))
        value = float(sp.N(g.number, 17))
        name = f"Layers {layer.number}–{last.number}" if r.repeats > 1 else f"Layer {layer.number}"
        formulas: list[Any] = [sp.Eq(sp.Symbol("χ"), g.formula, evaluate=False)]
        text = f"χ = {value:.6g}."
        if r.repeats > 1:
            formulas.append(sp.Eq(sp.Symbol("g_0"), sp.Symbol("χ") ** r.repeats * sp.Symbol(f"g_{{{r.repeats}}}"), evaluate=False))
            text += f" Over {r.repeats} repetitions the second moment of the gradient is multiplied by {value**r.repeats:.4g}."
        skips = [s for x in found[r.start : r.start + r.period] if (s := skip_of(x.tree)) is not None]
        inner = gain(graph, skips[0], walk) if skips else None
        if inner is not None:
            own = float(sp.N(inner.number, 17))
            text += f" Its skip alone carries 1; the branch adds {own - 1:.4g}: {1 / own:.1%} of the gradient passes through the skip."
        elif value > 0:
            critical = 1 / sp.sqrt(g.number) if g.number.is_Rational else 1 / sp.sqrt(sp.Symbol("χ"))
            formulas.append(sp.Eq(sp.Symbol("gain"), critical, evaluate=False))
            stands = (
                "the gradient vanishes" if value < 0.999 else "the gradient explodes" if value > 1.001 else "the gradient is kept: critical"
            )
            text += f" {stands[0].upper() + stands[1:]}; weights {1 / math.sqrt(value):.4g} times as large have χ = 1."
        title = f"{name}: {layer.modules[0] if layer.modules and layer.modules[0] else 'the model'}"
        check = _carried(name, value**r.repeats, layer.start, None if last is found[-1] else last.end, measured, why)
        steps.append(Step("gradient", title, tuple(formulas), text, None, check))
    return steps


def _carried(name: str, said: float, start: int, end: int | None, measured: Sampled | None, why: str) -> Verification:
    """χ of a run against E (uᵀJ)² at its start over that at its end (None: the output, where it is 1), in draws of the model."""
    if measured is None:
        return Verification("not verified", why or "not measured")
    below, above = measured.second[start], (1.0, 0.0) if end is None else measured.second[end]
    ratio = below[0] / above[0]
    error = ratio * math.hypot(below[1] / below[0], above[1] / above[0])
    return within([(name, said, (ratio, error), WIDE)], measured.draws)


def _numbers(found: list[Layer], gains: list[Gain | None], cotangents: Mapping[int, float], measured: Sampled | None, why: str) -> Step:
    rows: list[tuple[str, ...]] = []
    pairs: list[tuple[str, float, float]] = []
    seen: list[tuple[str, float, tuple[float, float], float]] = []
    said: float | None = 1.0
    for layer, g in zip(reversed(found), reversed(gains), strict=True):
        said = None if said is None or g is None else said * float(sp.N(g.number, 17))
        name, own = f"y_{layer.number - 1}", cotangents.get(layer.start)
        if said is not None and own is not None and math.isfinite(own):
            pairs.append((name, said, own))
        mean = measured.second.get(layer.start) if measured is not None else None
        reference = said if said is not None else own
        if mean is not None and reference is not None and math.isfinite(reference):
            seen.append((name, reference, mean, WIDE))
        shown = "" if mean is None else f"{mean[0]:.5g} ± {mean[1]:.1g}"
        chi = "" if g is None else f"{float(sp.N(g.number, 17)):.6g}"
        rows.insert(0, (name, chi, "" if said is None else f"{said:.9g}", "" if own is None else f"{own:.9g}", shown))
    if len(rows) > 40:
        rows = [*rows[:26], ("…", "", "", "", ""), *rows[-13:]]
    narrow = min((n for g in gains if g is not None and _unevaluated(g.number) for n in g.widths), default=0)
    bound, limit = (1 / narrow, " (wide limit; the engine keeps terms of order 1/n)") if narrow else (ENGINE, "")
    checks = [
        beside(pairs, bound, "formulas against the engine" + limit)
        if pairs
        else Verification("not verified", "no layer has both a formula and an engine's number")
    ]
    checks.append(within(seen, measured.draws) if measured is not None and seen else Verification("not verified", why or "not measured"))
    text = "The loss gradient at the output has unit second moment. χ of a layer is in the row of its input."
    table = Table(("value", "χ", "E g² by formula", "by the engine", "measured"), tuple(rows))
    return Step("gradient", "The gradient, layer by layer", (), text, table, joined(*checks))
