"""Steps of the section "jacobian": products of factors, gradients of parameters, what makes them vanish, paths."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from initio.core.record import Record, Ref
from initio.derivations.derivation import Step, Table, Verification
from initio.derivations.expansion import expansion_step, skip_of
from initio.derivations.folding import Run, factors, fold, indexed, template
from initio.derivations.graph import MEANING, FactorGraph, Product, Sum, Tree, size
from initio.derivations.jacobian import Numbers, difference, expression, identity, symbol, verdict
from initio.derivations.replaying import run

__all__ = ["Layer", "Weight", "jacobian_steps", "layers", "macs", "weights"]

HOW = "uᵀJ for a random u against torch.func.vjp in float64"
LARGE = 120
"""Factors in a segment beyond which its formula is not written out."""


def macs(record: Record) -> int:
    """Multiply–accumulates of the forward pass."""
    from initio.interpreters.count import count

    return sum(op.work.macs for op in count(record).ops if op.phase == "forward")


@dataclass(frozen=True, slots=True)
class Layer:
    """∂y_k/∂y_{k−1}: from value `start` to value `end`."""

    number: int
    start: int
    end: int
    tree: Tree
    modules: tuple[str, ...]

    @property
    def residual(self) -> bool:
        """Whether one of its branches is the identity."""
        return skip_of(self.tree) is not None


@dataclass(frozen=True, slots=True)
class Weight:
    """A linear map A_i: values of its weight and bias (None), of its input and output; `turned`: A is stored as (out, in)."""

    name: str
    module: str
    weight: int
    bias: int | None
    source: int
    target: int
    turned: bool


def layers(graph: FactorGraph) -> list[Layer]:
    """The spine, cut after every activation, every sum of branches, and at the output."""
    start = graph.roots[0]
    chain = graph.spine(start)
    found: list[Layer] = []
    parts: list[Tree] = []
    begin = start
    for value in chain[:-1]:
        segment = graph.segment(value)
        parts.insert(0, segment)
        after = graph.dominator[value]
        ends = isinstance(segment, Sum) or any(f.letter == "S" for f in factors(segment)[:1]) or after == graph.output
        ends = ends or (_maps(segment) and _maps_next(graph, after))
        if ends:
            flat = tuple(p for part in parts for p in (part.parts if isinstance(part, Product) else (part,)))
            tree: Tree = flat[0] if len(flat) == 1 else Product(flat)
            modules = tuple(dict.fromkeys(graph.events[f.event].module for f in reversed(factors(tree)) if f.letter not in ("", "I")))
            found.append(Layer(len(found) + 1, begin, after, tree, modules))
            parts, begin = [], after
    return found


def _maps(tree: Tree) -> bool:
    return any(f.letter in ("A", "C", "H") for f in factors(tree)) and not isinstance(tree, Sum)


def _maps_next(graph: FactorGraph, value: int) -> bool:
    """Whether the next thing that is no mere rearrangement is another linear map."""
    while value != graph.output:
        segment = graph.segment(value)
        if not all(f.letter in ("", "I", "E") for f in factors(segment)):
            return _maps(segment)
        value = graph.dominator[value]
    return False


def weights(graph: FactorGraph) -> list[Weight]:
    """Linear maps with a weight of the model, whose input and output are values of the graph."""
    by_value = {p.value: p for p in graph.record.parameters if not p.buffer}
    found: list[Weight] = []
    for source, edges in graph.out_edges.items():
        for factor in edges:
            if factor.letter != "A":
                continue
            nodes = graph.events[factor.event].nodes
            turned = {n.outputs[0]: n.args[0].value for n in nodes if n.op == "aten.t.default"}
            core = [n for n in nodes if n.op.split(".")[1] in ("addmm", "mm")]
            if len(core) != 1:
                continue
            operand = core[0].args[-1]
            weight = turned.get(operand.value, operand.value)
            bias = core[0].args[0].value if core[0].op.startswith("aten.addmm") and isinstance(core[0].args[0], Ref) else None
            if weight in by_value:
                found.append(
                    Weight(factor.name, graph.events[factor.event].module, weight, bias, source, factor.target, operand.value in turned)
                )
    return found


def jacobian_steps(graph: FactorGraph, numbers: Numbers | None, reason: str = "") -> list[Step]:
    """All steps of the section; `numbers` None leaves them unverified for `reason`."""
    found = layers(graph)
    maps = weights(graph)
    check = _Checks(graph, found, maps, numbers, reason)
    steps = [_legend(graph, found), _local(found, check), _product(found, check)]
    if maps:
        steps.append(_parameters(graph, maps, check))
    steps += [_vanishing(found, maps, graph, check)]
    if any(layer.residual for layer in found):
        steps.append(expansion_step(graph, [layer.tree for layer in found], macs(graph.record), "" if numbers is not None else reason))
    return steps


class _Checks:
    """uᵀJ at all points and uᵀ∂y/∂θ of all weights, once."""

    def __init__(self, graph: FactorGraph, found: list[Layer], maps: list[Weight], numbers: Numbers | None, reason: str) -> None:
        self.graph, self.layers, self.maps, self.numbers, self.reason = graph, found, maps, numbers, reason
        self.truth: dict[int, Tensor] = {}

    def prepare(self) -> Numbers | None:
        if self.numbers is not None and not self.truth:
            points = [layer.start for layer in self.layers]
            parameters = list(dict.fromkeys(v for w in self.maps for v in (w.weight, w.bias) if v is not None))
            self.truth = self.numbers.truth(points, parameters)
        return self.numbers

    def points(self) -> Verification:
        numbers = self.prepare()
        if numbers is None:
            return Verification("not verified", self.reason)
        pairs = [(numbers.row(layer.start), self.truth[layer.start]) for layer in self.layers]
        errors = [difference(a, b) for a, b in pairs]
        worst = max(range(len(errors)), key=errors.__getitem__)
        return verdict(errors[worst], f"{HOW}, at all {len(errors)} points", *pairs[worst])

    def weights(self) -> Verification:
        numbers = self.prepare()
        if numbers is None:
            return Verification("not verified", self.reason)
        shared = [w.weight for w in self.maps]
        worst: tuple[float, Any, Any] = (0.0, None, None)
        count = 0
        for w in self.maps:
            if shared.count(w.weight) > 1:
                continue
            delta = numbers.row(w.target).reshape(-1, numbers.env[w.target].shape[-1])
            y = numbers.env[w.source].reshape(-1, numbers.env[w.source].shape[-1])
            said = [(w.weight, delta.T @ y if w.turned else y.T @ delta)] + ([] if w.bias is None else [(w.bias, delta.sum(0))])
            for value, made in said:
                true = self.truth[value]
                worst = max(worst, (difference(made, true), made, true), key=lambda item: item[0])
                count += 1
        return verdict(worst[0], f"{HOW}, all {count} weights and biases", worst[1], worst[2])


def _legend(graph: FactorGraph, found: list[Layer]) -> Step:
    used = list(dict.fromkeys(f.letter for layer in found for f in factors(layer.tree) if f.letter))
    others = sorted({graph.events[f.event].function for layer in found for f in factors(layer.tree) if f.letter == "F"})
    rows = [(letter, MEANING.get(letter, "") + (f": {', '.join(others)}" if letter == "F" else "")) for letter in used if letter in MEANING]
    first, last = graph.record.values[found[0].start].shape, graph.record.values[graph.output].shape
    said = f"y_0 has shape {_shape(first)}, y_{len(found)} (the output) {_shape(last)}; matrices act on the flattened tensors."
    return Step("jacobian", "Notation", _definitions(graph, found), said, Table(("factor", "meaning"), tuple(rows)))


def _definitions(graph: FactorGraph, found: list[Layer]) -> tuple[Any, ...]:
    """The Jacobian of each kind of norm, softmax, dropout and concatenation that occurs, as the checks compute it."""
    ops = {op for layer in found for f in factors(layer.tree) for op in graph.events[f.event].ops}
    eye, ones, hat, n, s = identity, symbol("1 1^T"), symbol("x̂ x̂^T"), sp.Symbol("n"), sp.Symbol("s")
    gamma, p = symbol("diag(γ)"), sp.Symbol("p")
    norm = (eye - ones / n - hat / n) * gamma / s
    made = {
        "native_layer_norm": sp.Eq(symbol("N"), norm, evaluate=False),
        "native_batch_norm": sp.Eq(symbol("N"), norm, evaluate=False),
        "native_group_norm": sp.Eq(symbol("N"), norm, evaluate=False),
        "_fused_rms_norm": sp.Eq(symbol("N"), (eye - hat / n) * gamma / s, evaluate=False),
        "_softmax": sp.Eq(symbol("Σ"), symbol("diag(p)") - symbol("p p^T"), evaluate=False),
        "_safe_softmax": sp.Eq(symbol("Σ"), symbol("diag(p)") - symbol("p p^T"), evaluate=False),
        "native_dropout": sp.Eq(symbol("D"), symbol("diag(m)") / (1 - p), evaluate=False),
        "cat": sp.Eq(symbol("E"), symbol("[0; I; 0]"), evaluate=False),
    }
    return tuple(dict.fromkeys(formula for op, formula in made.items() if op in ops))


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _derivative(number: Any, below: Any, base: str = "y") -> Any:
    return symbol(f"∂{base}_{{{number}}}/∂{base}_{{{below}}}")


def _local(found: list[Layer], check: _Checks) -> Step:
    formulas: list[Any] = []
    said: list[str] = []
    for r in fold([template(layer.tree) for layer in found]):
        for offset in range(r.period):
            layer = found[r.start + offset]
            number: Any = layer.number
            formula = expression(layer.tree) if size(layer.tree) <= LARGE else symbol(f"J_{{{number}}}")
            if r.repeats > 1:
                made = indexed(layer.tree, found[r.start + offset + r.period].tree, r.repeats, by_repeat(found, r))
                counted = by_repeat(found, r)
                stride = "" if r.period == 1 else str(r.period)
                shift = f"{stride}ℓ{layer.number if counted else layer.number - _low(layer.tree):+d}".removesuffix("+0")
                if made is not None:
                    formula, spread = made
                    number = shift
                    said.append(f"{spread} for {layer.modules[0] or 'the model'}" if offset == 0 else "")
            below = layer.number - 1 if number == layer.number else _less(number)
            formulas.append(sp.Eq(_derivative(number, below), formula, evaluate=False))
    repeated = "; ".join(text for text in said if text)
    return Step(
        "jacobian",
        "Layer by layer",
        tuple(formulas),
        f"Repeated layers: {repeated}." if repeated else "",
        None,
        check.points(),
        check.points,
    )


def by_repeat(found: list[Layer], r: Run) -> bool:
    """Whether ℓ counts repetitions from 0, where the indices of the factors do not all rise by one from layer to layer."""
    if r.period > 1:
        return True
    first, second = factors(found[r.start].tree), factors(found[r.start + 1].tree)
    return any(b.index - a.index != 1 for a, b in zip(first, second, strict=True) if a.letter not in ("I", ""))


def _low(tree: Tree) -> int:
    named = [f for f in factors(tree) if f.letter not in ("I", "")]
    return named[-1].index


def _less(number: str) -> str:
    head, sign, tail = number.partition("+")
    if sign:
        return head if tail == "1" else f"{head}+{int(tail) - 1}"
    head, sign, tail = number.partition("-")
    return f"{head}-{int(tail) + 1}" if sign else f"{number}-1"


def product_formula(found: list[Layer]) -> Any:
    """∂y_L/∂y_0 with repeated layers as one product (factors with the higher index stand left)."""
    parts: list[Any] = []
    index: Any = sp.Symbol("ℓ", integer=True)
    for r in fold([template(layer.tree) for layer in found]):
        block = [found[r.start + i] for i in range(r.period)]
        if r.repeats > 1:
            made = [indexed(layer.tree, found[layer.number - 1 + r.period].tree, r.repeats, by_repeat(found, r)) for layer in block]
            if all(made):
                inner = sp.Mul(*(m[0] for m in reversed(made) if m is not None))
                low, high = made[0][1].split(" = ")[1].split(", …, ")  # pyright: ignore[reportOptionalSubscript]
                parts.insert(0, sp.Product(inner, (index, int(low), int(high))))
                continue
            block = found[r.start : r.start + r.length]
        for layer in block:
            parts.insert(0, expression(layer.tree) if size(layer.tree) <= LARGE else symbol(f"J_{{{layer.number}}}"))
    return sp.Mul(*parts) if len(parts) > 1 else parts[0]


def _product(found: list[Layer], check: _Checks) -> Step:
    total = sp.Eq(_derivative(len(found), 0), product_formula(found), evaluate=False)
    said = "In products over ℓ the factor with the higher index stands further left. J_i = ∂y_L/∂y_i: the factors left of layer i."
    return Step("jacobian", "The product", (total,), said, None, check.points(), check.points)


def _parameters(graph: FactorGraph, maps: list[Weight], check: _Checks) -> Step:
    starts = {layer.start: layer.number - 1 for layer in check.layers} | {graph.output: len(check.layers)}
    rows: list[tuple[str, ...]] = []
    for w in maps:
        chain = [w.target]
        while chain[-1] not in starts:
            chain.append(graph.dominator[chain[-1]])
        number = starts[chain[-1]]
        near = graph.between(w.target, chain[-1])
        tail = expression(Product(near)) if near else symbol("I")
        head = symbol(f"J_{number}") if number < len(check.layers) else symbol("I")
        shown = [m for m in (head, tail) if m != symbol("I")]
        rows.append((w.name, w.module or "(model)", f"{sp.Mul(*shown) if shown else 'I'}".replace("*", " ")))
    rows = rows if len(rows) <= 16 else [*rows[:8], ("…", f"{len(rows) - 14} more", ""), *rows[-6:]]
    i, big = "i", symbol("J_i")
    s = symbol(f"S_{i}")
    formulas = (
        sp.Eq(symbol("∂y_L/∂b_i"), big * s, evaluate=False),
        sp.Eq(symbol("∂y_L/∂A_i"), s * symbol("J_i^T") * symbol("y_{i-1}^T"), evaluate=False),
        sp.Eq(symbol("∂y_L/∂b_L"), symbol("I"), evaluate=False),
        sp.Eq(symbol("∂y_L/∂A_L"), symbol("y_{L-1}^T"), evaluate=False),
    )
    said = "For a scalar output. Where no activation follows A_i, S_i is the identity. Each sample and position adds its term."
    table = Table(("map", "module", "∂y_L/∂b; ∂y_L/∂A is its transpose times the input yᵀ"), tuple(rows))
    return Step("jacobian", "Gradients of weights and biases", formulas, said, table, check.weights(), check.weights)


def _vanishing(found: list[Layer], maps: list[Weight], graph: FactorGraph, check: _Checks) -> Step:
    plain = [layer for layer in found if not layer.residual]
    residual = [layer for layer in found if layer.residual]
    killing = [f.name for layer in plain for f in factors(layer.tree) if f.letter not in ("I", "")]
    said = f"A zero among {_some(killing)} makes every gradient before it exactly zero." if killing else "No single factor stands alone."
    if residual:
        inner = [f.name for layer in residual for f in factors(skip_of(layer.tree) or layer.tree) if f.letter not in ("I", "")]
        said += f" A zero among {_some(inner)} leaves the identity of its skip: that layer's factor becomes what stands beside the branch."
    zero = [p.name for p in graph.record.parameters if not p.buffer and p.distribution.zero and len(p.distribution.shape) > 1]
    if zero:
        said += f" This model starts with {_some(zero)} at zero: what reaches the output through it alone receives no gradient at first."

    def verify() -> Verification:
        return _zeroed(graph, found, maps, check)

    return Step("jacobian", "What makes the gradient vanish", (), said, None, verify(), verify)


def _some(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:5])}, …, {names[-1]}"


def _zeroed(graph: FactorGraph, found: list[Layer], maps: list[Weight], check: _Checks) -> Verification:
    """Set the last A to zero in a plain layer, or in a branch, and compare the whole gradient at y_0."""
    numbers = check.numbers
    if numbers is None:
        return Verification("not verified", check.reason)
    where = [(layer, f) for layer in found for f in factors(layer.tree) if f.letter in ("A", "C", "H") and layer.number > 1]
    skipped = [(layer, f) for layer, f in where if (s := skip_of(layer.tree)) is not None and f in factors(s)]
    chosen = (skipped or where or [None])[-1]
    if chosen is None:
        return Verification("not verified", "there is no second linear map")
    layer, factor = chosen
    event = graph.events[factor.event]
    own = {p.value for p in graph.record.parameters if not p.buffer}
    touched = {v for node in event.nodes for v in node.inputs if v in own}
    given = {k: torch.zeros_like(v) if k in touched else v for k, v in numbers.given.items()}
    zeroed = replace(numbers)
    zeroed.given = given
    with torch.no_grad():
        zeroed.env = run(graph.record, given, numbers.seed)
    zeroed.rows = {graph.output: numbers.u}
    truth = zeroed.truth([layer.start], [])[layer.start]
    after = zeroed.row(layer.end)
    if not skipped:
        return verdict(float(truth.norm()), f"{factor.name} set to zero: the gradient before it is 0 by torch.func.vjp")
    said = zeroed.through(_without(layer.tree), after)
    return verdict(
        difference(said, truth), f"{factor.name} set to zero: its branch dropped from the formula, against torch.func.vjp", said, truth
    )


def _without(tree: Tree) -> Tree:
    """The layer with the branch of its skip removed."""
    target = skip_of(tree)
    if tree is target:
        assert isinstance(tree, Sum)
        return next(part for part in tree.parts if all(f.letter in ("I", "") for f in factors(part)))
    if isinstance(tree, Product):
        return Product(tuple(_without(part) if skip_of(part) is not None else part for part in tree.parts))
    return tree
