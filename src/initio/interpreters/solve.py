"""The gain of every weight that gives a wanted profile of scales, solved on the predicted moments.

* `forward` — E[y²] = second for the output y of every contraction with a weight. Solved in one pass: where the propagation reaches a
  weight's first contraction, the weight is scaled, and the propagation goes on with it.
* `backward` — E[δ²] is handed on unchanged from one weight's output to that of the weights before it, through the nonlinearity between.
  The first weights and the readouts have E[y²] = second: their gains change all gradients, or none, by one factor.
* `compromise` — the geometric mean of the forward and the backward gain (Glorot and Bengio, 2010, with a geometric mean).
* `residual` — forward, with the last weight of each of the L residual branches at E[y²] = second / L; a model without residual sums has
  χ = 1 instead (`backward`; Schoenholz et al., 2017).
* `ratio` — the same rms(∂W) / rms(W) for every weight.
* `mup` — forward, with readouts at E[y²] = second / fan-in (Yang et al., 2022, table 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from initio.core.algebra import scale
from initio.core.distribution import Distribution, Part
from initio.core.moments import Moments, Unknown
from initio.core.record import Node, Record
from initio.interpreters.contractions import Back, Contractions
from initio.interpreters.propagate import advance, propagate, start
from initio.interpreters.simulate import Simulator

__all__ = ["TARGETS", "Solution", "Target", "planned", "scaled", "solve_gains", "with_family"]

Target = Literal["forward", "backward", "compromise", "residual", "ratio", "mup"]
TARGETS: tuple[Target, ...] = ("forward", "backward", "compromise", "residual", "ratio", "mup")
SETTLED = 1e-3
"""Largest change of a gain's logarithm at which a solution has settled."""
EVEN = 0.01
"""Standard deviation of log ratios that counts as none."""
ZERO = Distribution("constant", {"value": 0.0})
Values = dict[int, "Moments | Unknown"]
Gains = dict[int, float]


@dataclass
class Solution:
    """Gains by parameter name, relative to the laws of the record, whose random biases are zero from now on.

    `left` says why other matrices were left, `wanted` is the second moment that each weight's output was given (forward targets only),
    `steps` is E[δ²] behind each weight's way over E[δ²] before it, `ratios` rms(∂W) / rms(W), `values` the moments after.
    """

    gains: dict[str, float]
    left: dict[str, str]
    wanted: dict[str, float] = field(default_factory=dict[str, float])
    steps: dict[str, float] = field(default_factory=dict[str, float])
    ratios: dict[str, float] = field(default_factory=dict[str, float])
    ends: dict[str, bool] = field(default_factory=dict[str, bool])
    values: Values = field(default_factory=dict[int, "Moments | Unknown"])
    record: Record | None = None
    graph: Contractions | None = None
    notes: tuple[str, ...] = ()


def scaled(d: Distribution, gain: float) -> Distribution:
    """The law of gain · X."""
    p = d.parameters
    match d.family:
        case "constant":
            return replace(d, parameters={"value": p["value"] * gain})
        case "orthogonal":
            return replace(d, parameters={"gain": p["gain"] * gain})
        case "parts":
            return replace(d, parts=tuple(Part(part.index, scaled(part.distribution, gain)) for part in d.parts))
        case "normal" | "uniform" | "truncated_normal":
            return replace(d, parameters={k: v * gain for k, v in p.items()})
        case _:
            return Distribution("normal", {"mean": 0.0, "std": d.std * gain}, d.shape)


def with_family(record: Record, family: str) -> Record:
    """The record with its weights (tables and weights with regions aside) drawn from another family of the same variance."""
    graph = Contractions(record)
    tables = graph.tables() | graph.tied()
    changed = {
        value: replace(p, distribution=_of_family(p.distribution, family, record.values[value].shape), copy_of="")
        for value, p in graph.weights.items()
        if value not in tables and p.distribution.family != "parts"
    }
    return replace(record, parameters=tuple(changed.get(p.value, p) for p in record.parameters))


def _of_family(d: Distribution, family: str, shape: tuple[int, ...]) -> Distribution:
    match family:
        case "normal":
            return Distribution("normal", {"mean": 0.0, "std": d.std}, shape)
        case "uniform":
            return Distribution("uniform", {"low": -math.sqrt(3) * d.std, "high": math.sqrt(3) * d.std}, shape)
        case _:
            return Distribution("orthogonal", {"gain": d.std * math.sqrt(max(shape[0], math.prod(shape[1:])))}, shape)


def planned(record: Record, gains: Mapping[int, float], zero: set[str]) -> Record:
    """The record with scaled weights and without biases; every weight that is drawn anew is a draw of its own."""
    parameters = [
        replace(p, distribution=scaled(p.distribution, gains[p.value]), copy_of="")
        if p.value in gains
        else replace(p, distribution=replace(ZERO, shape=p.distribution.shape), copy_of="")
        if p.name in zero
        else p
        for p in record.parameters
    ]
    return replace(record, parameters=tuple(parameters))


def solve_gains(record: Record, target: Target, *, second: float = 1.0, rounds: int = 12) -> Solution:
    """Gains for every weight that enters a contraction; `second` is the wanted second moment of its output, `rounds` bounds iterations."""
    graph = Contractions(record)
    solver = _Solver(record, graph, second, rounds)
    notes: list[str] = []
    wanted = dict.fromkeys(solver.gains, second)
    if target == "residual" and not graph.joins:
        notes.append("no residual sum: χ = 1 along the layers, as by the backward target")
        target = "backward"
    if target == "residual":
        notes.append(f"{graph.joins} residual sums: the last weight of each branch gives 1/{graph.joins} of the second moment")
        wanted |= {value: second / graph.joins for value, normed in graph.ends.items() if not normed and value in wanted}
    if target == "mup":
        wanted |= {
            use.weight: second / graph.fan_in(use) for use in graph.uses.values() if use.weight in graph.readouts and use.weight in wanted
        }
    if target in ("forward", "residual", "mup"):
        gains = solver.forward(wanted)
    elif target == "ratio":
        gains = solver.ratio(wanted)
    else:
        forward = solver.forward(wanted)
        gains = solver.backward(forward)
        if target == "compromise":
            gains = {v: math.sqrt(forward[v] * gains[v]) for v in gains}
    return solver.solution(gains, wanted if target in ("forward", "residual", "mup") else {}, tuple(notes))


class _Solver:
    """The gains of one record."""

    def __init__(self, record: Record, graph: Contractions, second: float, rounds: int) -> None:
        self.record, self.graph, self.second, self.rounds = record, graph, second, rounds
        self.gains: Gains = {use.weight: 1.0 for use in graph.uses.values()}
        self.names = {value: p.name for value, p in graph.weights.items()}

    def values(self, gains: Gains) -> Values:
        """Moments with these gains."""
        return propagate(planned(self.record, gains, self.graph.biases))

    def solution(self, gains: Gains, wanted: Gains, notes: tuple[str, ...]) -> Solution:
        """What came out, with what the model does by then."""
        after = planned(self.record, gains, self.graph.biases)
        values, names = propagate(after), self.names
        made = Solution({names[v]: g for v, g in gains.items()}, dict(self.graph.left), {names[v]: s for v, s in wanted.items()})
        made.steps = {names[v]: step for v, step in self._steps(values).items()}
        made.ratios = {names[v]: math.exp(r) for v, r in self._ratios(values).items()}
        made.ends = {names[v]: normed for v, normed in self.graph.ends.items() if v in names}
        made.values, made.record, made.graph, made.notes = values, after, self.graph, notes
        return made

    def forward(self, wanted: Mapping[int, float]) -> Gains:
        """Passes that scale each weight where it is first used; one is enough where rules cover the model."""
        gains = dict(self.gains)
        tables, tied = self.graph.tables(), self.graph.tied()
        for _ in range(3):
            factors, simulated = self._pass(planned(self.record, gains, self.graph.biases), wanted, tied)
            if tied and (common := [factors[v] for v in tied if v in factors]):
                factors |= dict.fromkeys(tables, common[0])  # position tables keep their ratio to the token table
            gains = {v: g * factors.get(v, 1.0) for v, g in gains.items()}
            change = max((abs(math.log(f)) for f in factors.values()), default=0.0)
            if change < SETTLED or not (simulated or tied):
                break
        return gains

    def _pass(self, record: Record, wanted: Mapping[int, float], tied: set[int]) -> tuple[Gains, bool]:
        values = start(record)
        simulator = Simulator(record, values)
        uses: dict[int, Any] = {}
        factors: Gains = {}
        simulated = False
        for node in record.nodes:
            if node.phase == "backward":
                break
            if node.constant or simulator.claimed(node):
                continue
            advance(node, record, values, uses)
            lost = next((m for o in node.outputs if o is not None and isinstance(m := values[o], Unknown) and m.root == node.id), None)
            if lost is not None:
                simulated = True
                simulator.fill(node, lost.reason)
            use = self.graph.uses.get(node.id)
            if use is None or use.weight in factors or (use.table and (tied and use.weight in tied | self.graph.tables())):
                continue
            got = values.get(use.out)
            if isinstance(got, Moments) and got.total_second > 0.0 and use.weight in wanted:
                factors[use.weight] = math.sqrt(wanted[use.weight] / got.total_second)
                _rescale(record, self.graph, values, uses, use.weight, factors[use.weight], node)
        return factors, simulated

    def backward(self, gains: Gains) -> Gains:
        """Scale each weight by the square root of what its way does to the cotangent, until all hand it on unchanged."""
        best, least = gains, math.inf
        for _ in range(self.rounds):
            found = self._steps(self.values(gains))
            worst = max((abs(math.log(step)) for step in found.values()), default=0.0)
            if worst < least:
                best, least = gains, worst
            if worst < SETTLED:
                break
            gains = {v: g / math.sqrt(found.get(v, 1.0)) for v, g in gains.items()}
        return best

    def _steps(self, values: Values) -> Gains:
        ends = self.graph.inputs | self.graph.readouts
        return {b.weight: step for b in self.graph.back if b.weight not in ends and (step := self._step(b, values)) is not None}

    def _step(self, back: Back, values: Values) -> float | None:
        """E[δ²] where the next weights take the cotangent up, over E[δ²] where this one did."""
        above, ends = values.get(back.above), [values.get(v) for v in back.ends]
        if not isinstance(above, Moments) or above.total_second <= 0 or not ends:
            return None
        norm = count = 0.0
        for value, got in zip(back.ends, ends, strict=True):
            if not isinstance(got, Moments):
                return None
            size = self.record.values[value].size
            norm, count = norm + got.total_second * size, count + size
        return norm / count / above.total_second if norm > 0 else None

    def _ratios(self, values: Values) -> Gains:
        """Logarithm of rms(∂W) / rms(W)."""
        logs: Gains = {}
        for value in self.gains:
            gradient = self.graph.weights[value].gradient
            g, w = values.get(gradient) if gradient is not None else None, values.get(value)
            if isinstance(g, Moments) and isinstance(w, Moments) and g.total_second > 0 and w.total_second > 0:
                logs[value] = 0.5 * math.log(g.total_second / w.total_second)
        return logs

    def ratio(self, wanted: Mapping[int, float]) -> Gains:
        """Steps of log gain = ½ (log ratio − its mean), halved until they lessen the spread, from the flatter of two profiles.

        At a fixed product of gains a homogeneous network has ratio ∝ 1/gain², which one step solves.
        """
        forward = self.forward(wanted)
        starts = [forward, self.backward(forward)]
        spreads = [self._spread(self._ratios(self.values(gains))) for gains in starts]
        gains, spread = starts[spreads.index(min(spreads))], min(spreads)
        size = 1.0
        logs = self._ratios(self.values(gains))
        for _ in range(2 * self.rounds):
            if spread < EVEN or size < 0.05 or not logs:
                break
            centre = sum(logs.values()) / len(logs)
            tried = {v: g * math.exp(0.5 * size * (logs.get(v, centre) - centre)) for v, g in gains.items()}
            found = self._ratios(self.values(tried))
            if len(found) == len(logs) and self._spread(found) < spread:
                gains, logs, spread, size = tried, found, self._spread(found), min(1.0, 1.5 * size)
            else:
                size /= 2
        return gains

    @staticmethod
    def _spread(logs: Gains) -> float:
        centre = sum(logs.values()) / len(logs) if logs else 0.0
        return math.sqrt(sum((r - centre) ** 2 for r in logs.values()) / len(logs)) if logs else math.inf


def _rescale(record: Record, graph: Contractions, values: Values, uses: dict[int, Any], weight: int, factor: float, node: Node) -> None:
    """Scale a weight, and redo its views and the contraction that it just entered."""
    got = values[weight]
    assert isinstance(got, Moments)
    for key in [f.field.id for f in got.law]:
        if uses.get(key):
            uses[key].pop()
    made = scale(got, factor)
    values[weight] = replace(made, extra={**made.extra, **{k: v for k, v in got.extra.items() if k == "weight"}})
    for view in graph.chains[weight]:
        if view.id < node.id:
            advance(view, record, values, uses)
    advance(node, record, values, uses)
