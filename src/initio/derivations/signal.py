"""Steps of the section "signal": initial distributions, second moments layer by layer, recurrences and their solution."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp
import torch

from initio.derivations.derivation import Step, Table, Verification
from initio.derivations.folding import Run, fold, template
from initio.derivations.graph import FactorGraph
from initio.derivations.paths import Layer
from initio.derivations.replaying import draw, run
from initio.derivations.scale import State, Walk, drawn, fan_in_of

__all__ = ["ENGINE", "Sampled", "Solved", "sampled", "signal_steps", "solve"]

ENGINE = 1e-9
WIDE = 0.05
"""Relative size of finite-width terms that a formula of the wide limit leaves out."""
L: Any = sp.Symbol("ℓ", integer=True, nonnegative=True)
Q: Any = sp.Symbol("q_{ℓ-1}", positive=True)
Q0: Any = sp.Symbol("q_0", positive=True)
N: Any = sp.Symbol("n", positive=True)
MU: Any = sp.Symbol("μ_{ℓ-1}", real=True)
"""The mean of y_{ℓ−1}, where the recurrence needs it."""


@dataclass(frozen=True, slots=True)
class Solved:
    """q_ℓ = F(q_{ℓ−1}): the map, its closed form in ℓ and q_0 where it is linear, its fixed point and the rate there (None: none)."""

    map: Any
    closed: Any
    fixed: Any
    rate: Any


def solve(recurrence: Any, numbers: Mapping[Any, float]) -> Solved:
    """Solve a recurrence in `Q`; sympy where it is linear, Newton's iteration on numbers otherwise."""
    slope = sp.simplify(sp.diff(recurrence, Q)) if not _integrals(recurrence) else None
    if slope is not None and not slope.has(Q):
        offset = sp.simplify(recurrence - slope * Q)
        if slope == 1:
            return Solved(recurrence, Q0 + L * offset, None, slope)
        fixed = sp.simplify(offset / (1 - slope))
        return Solved(recurrence, fixed + slope**L * (Q0 - fixed), fixed, slope)

    def step(q: float) -> float:
        return float(sp.N(recurrence.subs(numbers).subs(Q, sp.Float(q, 17)), 17))

    q = 1.0
    for _ in range(400):
        after = step(q)
        if not math.isfinite(after) or after > 1e12:
            return Solved(recurrence, None, None, None)
        if abs(after - q) < 1e-13 * max(q, 1e-12):
            break
        q = after
    else:
        if abs(step(q) - q) > 1e-6 * q:  # it grows for ever, each time by less than the last in proportion
            return Solved(recurrence, None, None, None)
    if q < 1e-9:  # it falls for ever: the rate near 0
        q = 1e-9
        return Solved(recurrence, None, sp.Integer(0), sp.Float(step(q) / q, 8))
    h = 1e-5 * q
    return Solved(recurrence, None, sp.Float(q, 12), sp.Float((step(q + h) - step(q - h)) / (2 * h), 8))


def _integrals(expr: Any) -> bool:
    return any(type(f).__name__.startswith(("V_", "M_")) for f in expr.atoms(sp.Function))


@dataclass(frozen=True, slots=True)
class Sampled:
    """Second moments over draws of the model: value → (mean, standard error)."""

    second: dict[int, tuple[float, float]]
    draws: int


def sampled(graph: FactorGraph, values: list[int], draws: int = 16) -> Sampled:
    """Run the record on `draws` draws of weights and inputs, in float64."""
    kept: dict[int, list[float]] = {v: [] for v in values}
    for seed in range(draws):
        with torch.no_grad():
            env = run(graph.record, draw(graph.record, 1000 + seed), 1000 + seed)
        for v in values:
            kept[v].append(float(env[v].square().mean()))
    return Sampled({v: summary(found) for v, found in kept.items()}, draws)


def summary(found: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    mean = math.fsum(found) / len(found)
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in found) / (len(found) - 1))
    return mean, spread / math.sqrt(len(found))


def beside(pairs: list[tuple[str, float, float]], tolerance: float, how: str) -> Verification:
    """Formula beside number: verified where all agree within `tolerance`, else the worst pair."""
    if not pairs:
        return Verification("not verified", "no value has both")
    errors = [(abs(said - found) / max(abs(found), 1e-300) if found or said else 0.0, name, said, found) for name, said, found in pairs]
    error, name, said, found = max(errors, key=lambda item: item[0])
    status = "verified" if error <= tolerance else "refuted"
    return Verification(
        status,
        f"{how}, {len(pairs)} values" + (f", worst at {name}" if status == "refuted" else ""),
        f"{said:.10g}",
        f"{found:.10g}",
        error,
        tolerance,
    )


def within(pairs: list[tuple[str, float, tuple[float, float], float]], draws: int) -> Verification:
    """Formula beside measurement: verified within 5 standard errors and the relative slack of a formula of the wide limit (0: exact)."""
    rows = [
        (max(0.0, abs(said - mean) - slack * abs(mean)) / (error + 1e-12 * abs(mean) + 1e-300), name, said, mean)
        for name, said, (mean, error), slack in pairs
    ]
    z, name, said, mean = max(rows, key=lambda item: item[0])
    status = "verified" if z <= 5 else "refuted"
    slack = max(pair[3] for pair in pairs)
    beyond = f" beyond the {slack:.0%} of finite width" if slack else ""
    return Verification(
        status, f"{draws} draws of the model, largest deviation{beyond} {z:.1f} standard errors (at {name})", f"{said:.6g}", f"{mean:.6g}"
    )


def joined(*checks: Verification) -> Verification:
    """Refuted if one is, verified if all that were made are."""
    made = [c for c in checks if c.status != "not verified"]
    bad = next((c for c in made if c.status == "refuted"), None)
    if bad is not None:
        return bad
    how = "; ".join(c.how for c in checks)
    return Verification(
        "verified" if made else "not verified",
        how,
        error=max((c.error for c in checks), default=0.0),
        tolerance=max(c.tolerance for c in checks),
    )


def initial_step(graph: FactorGraph) -> Step:
    """Each distinct distribution, with how the fan-in follows from the shape."""
    record = graph.record
    groups: dict[tuple[str, ...], list[str]] = {}
    pairs: list[tuple[str, float, float]] = []
    for p in record.parameters:
        if p.buffer:
            continue
        n, how = fan_in_of(record, p)
        made = drawn(p, n)
        law = p.distribution
        shape = "×".join(map(str, record.values[p.value].shape))
        if law.zero or law.family == "constant":
            said = f"{law.mean:g}"
        elif made.scaled is not None:
            said = f"{made.scaled.p}/{f'({made.scaled.q}n)' if made.scaled.q != 1 else 'n'} = {float(made.variance):.6g}"
            pairs.append((p.name, float(made.variance), law.variance))
        else:
            said = f"{law.variance:.6g}"
        groups.setdefault((shape, how, _law(law.family, law, made), said), []).append(p.name)
    rows = tuple((_names(names), *key) for key, names in groups.items())
    rows = rows if len(rows) <= 40 else (*rows[:40], (f"… {len(rows) - 40} more", "", "", "", ""))
    uniform = any(p.distribution.family == "uniform" for p in record.parameters)
    formulas = (sp.Eq(sp.Symbol("Var[U(±1/√n)]"), sp.Rational(1, 3) / N, evaluate=False),) if uniform else ()
    text = "n is the fan-in: the sizes of a weight but the first, multiplied. A bias takes the n of its weight."
    table = Table(("parameters", "shape", "n", "drawn from", "variance (or value)"), rows)
    check = (
        beside(pairs, ENGINE, "the variance as a fraction of 1/n against the recorded distribution")
        if pairs
        else Verification("definition", "")
    )
    return Step("signal", "The distribution of each parameter", formulas, text, table, check)


def _law(family: str, law: Any, made: Any) -> str:
    if family == "uniform" and law.mean == 0 and made.scaled is not None:
        root = sp.sqrt(3 * made.scaled)
        return f"U(±{root}/√n)" if root != 1 else "U(±1/√n)"
    return str(law)


def _names(names: list[str]) -> str:
    forms = list(dict.fromkeys(re.sub(r"\d+", "·", name) for name in names))
    if len(names) == 1:
        return names[0]
    return f"{', '.join(forms[:3])}{', …' if len(forms) > 3 else ''} ({len(names)})"


def signal_steps(graph: FactorGraph, found: list[Layer], engine: Mapping[int, float], measured: Sampled | None, why: str) -> list[Step]:
    """All steps of the section. `engine` holds the engine's second moments by value; `measured` those over draws (None: `why` not)."""
    roots = {
        v: State(
            sp.Float(engine[v], 17) if rational_start(engine[v]) is None else rational_start(engine[v]), False, mean=root_mean(graph, v)
        )
        for v in graph.roots
        if v in engine
    }
    walk = Walk(graph, roots)
    walk.run()
    steps = [initial_step(graph)]
    steps += recurrence_steps(graph, found, walk, engine, measured, why)
    steps.append(layer_step(graph, found, walk, engine, measured, why))
    return steps


def root_mean(graph: FactorGraph, value: int) -> Any:
    """E x of an input, None where x is not one."""
    law = next((item.distribution for item in graph.record.inputs if item.value == value), None)
    return None if law is None else rational_start(law.mean) if law.mean else sp.Integer(0)


def rational_start(value: float) -> Any:
    """1 and other simple numbers of the input, exactly."""
    exact: Any = sp.Rational(value)
    exact = exact.limit_denominator(1000)
    return exact if abs(float(exact) - value) <= 1e-12 * abs(value) else None


def layer_step(graph: FactorGraph, found: list[Layer], walk: Walk, engine: Mapping[int, float], measured: Sampled | None, why: str) -> Step:
    """The numbers, layer by layer."""
    rows: list[tuple[str, ...]] = []
    pairs: list[tuple[str, float, float]] = []
    seen: list[tuple[str, float, tuple[float, float], float]] = []
    for number, value, modules in [(0, found[0].start, ("input",)), *((x.number, x.end, x.modules) for x in found)]:
        state = walk.states.get(value)
        said = None if state is None else float(sp.N(state.second, 17))
        own = engine.get(value, math.nan)
        if said is not None and number and state is not None and state.exact:
            pairs.append((f"y_{number}", said, own))
        if measured is not None and value in measured.second and math.isfinite(own):
            slack = 0.0 if state is not None and state.exact else WIDE
            seen.append((f"y_{number}", own, measured.second[value], slack))
        exact = ""
        if state is not None and state.second.is_Rational and state.second.q < 10**9:
            exact = str(state.second)
        shown = (
            f"{measured.second[value][0]:.5g} ± {measured.second[value][1]:.1g}"
            if measured is not None and value in measured.second
            else ""
        )
        rows.append(
            (
                f"y_{number}",
                " → ".join(dict.fromkeys(m for m in modules if m))[:46] or "(model)",
                exact or ("" if said is None else f"{said:.9g}"),
                f"{own:.9g}",
                shown,
            )
        )
    if len(rows) > 40:
        rows = [*rows[:26], ("…", f"{len(rows) - 39} more", "", "", ""), *rows[-13:]]
    head = ("value", "module", "E y² by formula", "by the engine", "measured")
    none = sum(not row[2] for row in rows)
    text = (
        ""
        if not none
        else "Where no formula stands, a premise of the closed forms fails (norm, attention, border, dependent sum): it is the engine's."
    )
    checks = [
        beside(pairs, ENGINE, "formulas that are exact at every width against the engine")
        if pairs
        else Verification("not verified", "no layer has an exact formula")
    ]
    if measured is not None and seen:
        checks.append(within(seen, measured.draws))
    else:
        checks.append(Verification("not verified", why or "not measured"))
    return Step("signal", "The numbers, layer by layer", (), text, Table(head, tuple(rows)), joined(*checks))


def recurrence_steps(
    graph: FactorGraph, found: list[Layer], walk: Walk, engine: Mapping[int, float], measured: Sampled | None, why: str
) -> list[Step]:
    """One step for every kind of repeated layer that has a formula, and one for each single layer with one."""
    del measured, why
    steps: list[Step] = []
    for r in runs(graph, found):
        layer = found[r.start]
        made = symbolic(graph, layer)
        if made is None:
            continue
        formula, symbols = made
        numbers = {s: float(n) for n, s in symbols.items()}
        width = ", ".join(f"{s} = {n}" for n, s in symbols.items())
        name = layer.modules[0] if layer.modules else "the model"
        if r.repeats == 1:
            lhs = sp.Symbol(f"q_{layer.number}")
            shown = formula.subs({Q: sp.Symbol(f"q_{layer.number - 1}"), MU: sp.Symbol(f"μ_{layer.number - 1}")})
            check = _against(graph, [layer], formula, numbers, engine, walk)
            steps.append(
                Step(
                    "signal",
                    f"Layer {layer.number}: {name}",
                    (sp.Eq(lhs, shown, evaluate=False),),
                    f"{width}." if width else "",
                    None,
                    check,
                )
            )
            continue
        steps.append(_solved(graph, found[r.start : r.start + r.length], made, width, name, engine, walk))
    return steps


def runs(graph: FactorGraph, found: list[Layer]) -> list[Run]:
    """Repeated layers: of one form, one width and one kind of distribution."""
    return fold(
        [
            (
                template(layer.tree),
                str(symbolic(graph, layer)),
            )
            for layer in found
        ]
    )


def symbolic(graph: FactorGraph, layer: Layer) -> tuple[Any, dict[int, Any]] | None:
    """F(q_{ℓ−1}) of one layer with n for its fan-ins (n, n_2, … where there are several)."""
    plain = Walk(graph, {layer.start: State(Q, False, mean=MU)})
    plain.run(layer.end)
    if layer.end not in plain.states or not plain.states[layer.end].second.has(Q):
        return None
    sizes = list(dict.fromkeys(made.fan_in for made in plain.drawn.values() if made.of_fan_in))
    symbols = {n: N if i == 0 else sp.Symbol(f"n_{i + 1}", positive=True) for i, n in enumerate(sizes)}
    walk = Walk(graph, {layer.start: State(Q, False, mean=MU)}, symbols)
    walk.run(layer.end)
    formula = walk.states[layer.end].second
    return formula if _integrals(formula) or formula.has(MU) else sp.simplify(formula), symbols


def mean_formula(graph: FactorGraph, layer: Layer, symbols: dict[int, Any]) -> Any:
    """μ_ℓ in terms of q_{ℓ−1} and μ_{ℓ−1}."""
    walk = Walk(graph, {layer.start: State(Q, False, mean=MU)}, symbols)
    walk.run(layer.end)
    return walk.states[layer.end].mean


def tolerance_of(graph: FactorGraph, layer: Layer) -> tuple[float, str]:
    """1e-9 for a formula that is exact at every width; 1/n for one of the wide limit, n the smallest fan-in."""
    walk = Walk(graph, {layer.start: State(Q, False, mean=MU)})
    walk.run(layer.end)
    state = walk.states.get(layer.end)
    if state is None or state.exact:
        return ENGINE, ""
    return 1 / min(
        (made.fan_in for made in walk.drawn.values()), default=1
    ), " (a formula of the wide limit; the engine keeps terms of order 1/n)"


def _against(
    graph: FactorGraph, block: list[Layer], formula: Any, numbers: Mapping[Any, float], engine: Mapping[int, float], whole: Walk
) -> Verification:
    tolerance, limit = tolerance_of(graph, block[0])
    pairs: list[tuple[str, float, float]] = []
    for layer in block:
        before, after = engine.get(layer.start), engine.get(layer.end)
        state = whole.states.get(layer.start)
        mean = None if state is None else state.mean
        if before is not None and after is not None and (mean is not None or not formula.has(MU)):
            known = {**numbers, Q: sp.Float(before, 17), MU: 0 if mean is None else sp.N(mean, 17)}
            said = float(sp.N(formula.subs(known), 17))
            pairs.append((f"y_{layer.number}", said, after))
    return beside(pairs, tolerance, "q_ℓ from the engine's q_{ℓ−1} against the engine's q_ℓ" + limit)


def _solved(
    graph: FactorGraph, block: list[Layer], made: tuple[Any, dict[int, Any]], width: str, name: str, engine: Mapping[int, float], walk: Walk
) -> Step:
    formula, symbols = made
    numbers = {s: float(n) for n, s in symbols.items()}
    formulas: list[Any] = [sp.Eq(sp.Symbol("q_ℓ"), formula, evaluate=False)]
    first, last = block[0].number, block[-1].number
    text = f"Layers {first} to {last} ({name}, …), q_0 the second moment before them, ℓ counted from there. {width}."
    if formula.has(MU):
        formulas.append(sp.Eq(sp.Symbol("μ_ℓ"), mean_formula(graph, block[0], symbols), evaluate=False))
        text += " μ_ℓ is the mean of y_ℓ: what the branch adds has a mean of its own, and adds to the skip's."
        check = _against(graph, block, formula, numbers, engine, walk)
        return Step("signal", f"Recurrence over layers {first}–{last}", tuple(formulas), text, None, check)
    solution = solve(formula, numbers)
    pairs: list[tuple[str, float, float]] = []
    if solution.closed is not None:
        formulas.append(sp.Eq(sp.Symbol("q_ℓ"), solution.closed, evaluate=False))
        start = engine.get(block[0].start)
        if start is not None:
            at = solution.closed.subs(numbers).subs(Q0, sp.Float(start, 17))
            pairs = [(f"y_{x.number}", float(sp.N(at.subs(L, i + 1), 17)), engine[x.end]) for i, x in enumerate(block) if x.end in engine]
    if solution.fixed is not None:
        fixed = float(sp.N(solution.fixed.subs(numbers), 17))
        rate = float(sp.N(solution.rate.subs(numbers), 17))
        if solution.closed is not None:
            formulas.append(sp.Eq(sp.Symbol("q_∞"), solution.fixed, evaluate=False))
        how = "approaches" if abs(rate) < 1 else "leaves"
        text += f" q {how} the fixed point {fixed:.6g}, its distance times {rate:.4g} in each layer."
        if 0 < fixed < 0.05 and abs(rate) < 1:
            text += " What is left there is made of biases: all inputs look alike."
    elif solution.rate is None:
        text += " It has no fixed point: q grows without bound."
    elif solution.rate == 1:
        text += " It grows by the same amount in every layer."
    checks = [_against(graph, block, formula, numbers, engine, walk)]
    if pairs:
        checks.append(beside(pairs, ENGINE, "the closed form against the engine at every layer"))
    return Step("signal", f"Recurrence over layers {first}–{last}", tuple(formulas), text, None, joined(*checks))
