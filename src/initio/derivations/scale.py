"""Second moments from layer to layer: forward q_ℓ = E y_ℓ², backward g_ℓ = E (∂/∂y_ℓ)², as formulas with exact numbers.

A value's state is a sympy expression of its second moment. What a rule needs and does not have (a Gaussian zero-mean
argument before a ReLU, say) gives no formula: the engine's number stands there alone, and the step says so.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from initio.core import functions as F
from initio.core.distribution import Distribution
from initio.core.gaussian import expect
from initio.core.record import Node, Parameter, Record, Ref
from initio.core.scalar import Scalar, power
from initio.derivations.graph import FactorGraph

__all__ = ["Drawn", "State", "Walk", "drawn", "known_by_formula"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A weight or bias as the code draws it: variance = `constant`/n with n its fan-in where that is recognised, else a number."""

    parameter: Parameter
    fan_in: int
    variance: Any
    scaled: Any

    @property
    def of_fan_in(self) -> bool:
        """Whether the variance is a simple fraction of 1/fan-in."""
        return self.scaled is not None


def rational(value: float, most: int = 24) -> Any:
    """The simple fraction that a float is, or None."""
    found: Any = sp.Rational(value)
    found = found.limit_denominator(most)
    return found if value and abs(float(found) / value - 1) < 1e-12 else None


def drawn(parameter: Parameter, fan_in: int) -> Drawn:
    """The exact variance of a parameter; initialisation in float32 is read through its rounding."""
    law: Distribution = parameter.distribution
    variance = law.variance
    scaled = rational(variance * fan_in) if variance else sp.Integer(0)
    if scaled is None:
        plain = rational(variance, 10**7)
        exact = plain if plain is not None else sp.Float(variance, 17)
    else:
        exact = scaled / fan_in
    return Drawn(parameter, fan_in, exact, scaled)


@dataclass(frozen=True, slots=True)
class State:
    """E x² as a formula; whether entries are zero-mean Gaussian (in the wide limit), and whether the formula is exact at any width.

    `mean` is E x (None: not known). `last` names the draws of the linear maps that every term of x has passed last (None: some term
    passed none), `all` every draw that x depends on: a term whose last draws the other operand of a sum does not depend on is symmetric
    given that operand.
    """

    second: Any
    gaussian: bool
    exact: bool = True
    mean: Any = None
    last: frozenset[str] | None = None
    all: frozenset[str] = frozenset()


ACTIVATIONS: dict[str, str] = {
    "relu": "relu",
    "tanh": "tanh",
    "gelu": "gelu",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "elu": "elu",
    "leaky_relu": "leaky_relu",
}


def activation(node: Node) -> Scalar | None:
    """The scalar function of an activation node."""
    name = node.op.split(".")[1].removesuffix("_")
    entry = F.FUNCTIONS.get(name)
    extra = [a for a in node.args[1:] if not isinstance(a, Ref)]
    if entry is None or len(extra) != len(node.args) - 1:
        return None
    return entry if isinstance(entry, Scalar) else entry(*extra, **dict(node.kwargs))


def mean_square(f: Scalar, second: Any, slope: bool = False) -> Any:
    """E f(z)² (or E f′(z)²), z ~ N(0, second): a multiple of `second` (a constant) for homogeneous f, else an unevaluated V_f."""
    target = f.derivative if slope else f
    assert target is not None
    if f.homogeneous and f.pieces is not None:
        one = float(expect(target.then(power(2.0)), 0.0, 1.0))
        factor = rational(one, 10**6) or sp.Float(one, 17)
        return factor if slope else factor * second
    return MeanSquare.of(target)(second)


def mean_value(f: Scalar, second: Any) -> Any:
    """E f(z), z ~ N(0, second): 0 for odd f, a multiple of √second for homogeneous f, else an unevaluated M_f."""
    if f.odd:
        return sp.Integer(0)
    if f.homogeneous and f.pieces is not None:  # E max(z, 0) = √(q/2π)
        low, high = (float(piece[-1]) if len(piece) > 1 else 0.0 for piece in (f.pieces[0], f.pieces[-1]))
        gap = rational(high - low, 10**6) or sp.Float(high - low, 17)
        return gap * sp.sqrt(second / (2 * sp.pi)) if high != low else sp.Integer(0)
    return MeanSquare.of(f, square=False)(second)


class MeanSquare:
    """V_f(q) = E f(√q z)² (or M_f(q) = E f(√q z)) for z ~ N(0, 1), as a sympy function that evaluates to the integral."""

    _made: dict[tuple[int, bool], Any] = {}  # noqa: RUF012 (one table of functions by identity)

    @classmethod
    def of(cls, f: Scalar, square: bool = True) -> Any:
        """The function of one Scalar."""
        key = id(f), square
        if key not in cls._made:
            inner = f.then(power(2.0)) if square else f

            def value(self: Any, prec: int) -> Any:
                del prec
                return sp.Float(float(expect(inner, 0.0, float(self.args[0]))), 17)

            name = ("V_" if square else "M_") + "".join(c for c in f.name.replace("d ", "d") if c.isalnum())
            cls._made[key] = type(name, (sp.Function,), {"_eval_evalf": value, "nargs": 1}), f
        return cls._made[key][0]


class Walk:
    """The second moment of every value that formulas reach, from a given one at the roots."""

    def __init__(self, graph: FactorGraph, start: dict[int, State], symbols: dict[int, Any] | None = None) -> None:
        self.graph, self.record = graph, graph.record
        self.by_value = {p.value: p for p in self.record.parameters if not p.buffer}
        self.states: dict[int, State] = dict(start)
        self.symbols = symbols or {}
        self.drawn: dict[int, Drawn] = {}
        self.repeated = _repeated(self.record)

    def run(self, until: int | None = None) -> dict[int, State]:
        """Go through the events in order."""
        for event in sorted(self.graph.events.values(), key=lambda e: e.nodes[0].id):
            for node in event.nodes:
                self._node(node)
                if until is not None and until in self.states:
                    return self.states
        return self.states

    def _node(self, node: Node) -> None:
        out = node.outputs[0]
        if out is None or out in self.states:
            return
        op = node.op.split(".")[1].removesuffix("_")
        rule = _RULES.get(op)
        if rule is None and op in ACTIVATIONS:
            rule = _activation
        made = rule(self, node) if rule else None
        if made is not None:
            self.states[out] = made

    def at(self, argument: Any) -> State | None:
        """The state of an operand."""
        return self.states.get(argument.value) if isinstance(argument, Ref) else None

    def weight(self, value: int, fan_in: int) -> Drawn | None:
        """The parameter behind a value (perhaps transposed) if it is drawn with mean 0 and independent entries."""
        for node in self.record.nodes:
            if value in node.outputs and node.op in ("aten.t.default", "aten.transpose.int") and isinstance(node.args[0], Ref):
                return self.weight(node.args[0].value, fan_in)
            if node.phase != "forward":
                break
        p = self.by_value.get(value)
        if p is None or abs(p.distribution.mean) > 1e-9 or p.distribution.family in ("values", "program", "parts", "orthogonal"):
            return None
        return self.drawn.setdefault(value, drawn(p, fan_in))

    def roots(self, nodes: Iterable[Node]) -> set[str]:
        """Names of the draws that some nodes read (copies under the name of their draw)."""
        read = {value for node in nodes for value in node.inputs}
        found = [self.by_value[value] for value in read if value in self.by_value]
        return {p.copy_of or p.name for p in found if len(self.record.values[p.value].shape) > 1}

    def variance(self, made: Drawn) -> Any:
        """Its variance, with the symbol of the fan-in where one was given."""
        n = self.symbols.get(made.fan_in)
        return made.scaled / n if n is not None and made.scaled is not None else made.variance

    def width(self, n: int) -> Any:
        """n, or its symbol."""
        return self.symbols.get(n, sp.Integer(n))


def _repeated(record: Record) -> set[int]:
    """Weights whose draw is used more than once: copies (deepcopy), and parameters of modules that are called again."""
    roots = {p.value: p.copy_of or p.name for p in record.parameters}
    used = Counter(roots[v] for node in record.nodes if node.phase == "forward" for v in set(node.inputs) if v in roots)
    return {value for value, root in roots.items() if used[root] > 1}


def _linear(walk: Walk, node: Node) -> State | None:
    """q′ = n σ_w² q + σ_b²."""
    addmm = node.op.split(".")[1] == "addmm"
    x, w = (node.args[1], node.args[2]) if addmm else (node.args[0], node.args[1])
    state = walk.at(x)
    if state is None or not isinstance(w, Ref):
        return None
    fan_in = walk.record.values[w.value].shape[0]
    weight = walk.weight(w.value, fan_in)
    if weight is None:
        return None
    bias: Any = sp.Integer(0)
    if addmm:
        b = walk.weight(node.args[0].value, fan_in)
        if b is None:
            return None
        bias = walk.variance(b)
    fresh = weight.parameter.value not in walk.repeated  # else its input depends on it: exact in the wide limit only
    second = sp.expand(walk.width(fan_in) * walk.variance(weight) * state.second) + bias
    root = weight.parameter.copy_of or weight.parameter.name
    return State(second, True, state.exact and fresh, sp.Integer(0), frozenset({root}), state.all | {root})


def _activation(walk: Walk, node: Node) -> State | None:
    """q′ = E σ(√q z)²."""
    state, f = walk.at(node.args[0]), activation(node)
    if state is None or f is None or not state.gaussian:
        return None
    exact = state.exact and f.homogeneous  # a sum of independent symmetric terms is symmetric: E relu² = q/2 at any width
    return State(mean_square(f, state.second), False, exact, mean_value(f, state.second), state.last, state.all)


def _same(walk: Walk, node: Node) -> State | None:
    return walk.at(node.args[0])


def _add(walk: Walk, node: Node) -> State | None:
    """q′ = q_1 + q_2 + 2 μ_1 μ_2 where one branch ends in weights that the other does not depend on; exact where that branch is symmetric."""
    one, two = walk.at(node.args[0]), walk.at(node.args[1])
    if one is None or two is None or node.kwargs:
        return None
    free = [a for a, b in ((one, two), (two, one)) if a.last is not None and not a.last & b.all]
    if not free:
        return None
    symmetric = any(a.mean == 0 for a in free)
    cross = 0 if symmetric else None if one.mean is None or two.mean is None else 2 * one.mean * two.mean
    if cross is None:
        return None
    mean = None if one.mean is None or two.mean is None else one.mean + two.mean
    last = None if one.last is None or two.last is None else one.last | two.last
    exact = one.exact and two.exact and symmetric
    return State(one.second + two.second + cross, one.gaussian and two.gaussian, exact, mean, last, one.all | two.all)


def _dropout(walk: Walk, node: Node) -> State | None:
    """q′ = q/(1−p)."""
    state = walk.at(node.args[0])
    p = node.args[1]
    return None if state is None else replace(state, second=state.second / (1 - sp.Rational(repr(float(p)))), gaussian=False)


_RULES: dict[str, Any] = {
    "addmm": _linear, "mm": _linear, "view": _same, "_unsafe_view": _same, "detach": _same, "clone": _same, "alias": _same,
    "transpose": _same, "permute": _same, "unsqueeze": _same, "squeeze": _same, "add": _add, "native_dropout": _dropout, "reshape": _same,
}  # fmt: skip


def known_by_formula(walk: Walk, value: int) -> float | None:
    """The number that the formulas give for a value."""
    state = walk.states.get(value)
    return None if state is None else float(sp.N(state.second, 17))


def fan_in_of(record: Record, parameter: Parameter) -> tuple[int, str]:
    """(n, how it follows from the shape): torch's rule, all sizes but the first; a bias takes that of its weight."""
    shape = record.values[parameter.value].shape
    if len(shape) > 1:
        n = math.prod(shape[1:])
        return n, f"{'×'.join(map(str, shape[1:]))} = {n}" if len(shape) > 2 else f"{n}"
    owner = parameter.name.rpartition(".")[0]
    for other in record.parameters:
        own = record.values[other.value].shape
        if other.name.rpartition(".")[0] == owner and len(own) > 1:
            return math.prod(own[1:]), f"{math.prod(own[1:])}, of {other.name.rpartition('.')[2]}"
    return shape[0] if shape else 1, ""
