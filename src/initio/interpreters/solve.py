"""The gain of every weight that gives a wanted profile of scales, solved on the predicted moments.

The forward target is solved in one pass: when the propagation reaches a weight's first contraction, the weight is scaled until the
output has the wanted second moment, and the propagation goes on with it. The backward target is solved in the same way on the way
back, for weights scaled in the forward pass as they stand. Both are repeated until the gains settle, because a nonlinearity that is
not homogeneous couples them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from initio.core.algebra import scale
from initio.core.distribution import Distribution, Part
from initio.core.moments import Moments, Unknown
from initio.core.record import Node, Parameter, Record
from initio.interpreters.propagate import advance, start

__all__ = ["TARGETS", "Solution", "Target", "scaled", "solve_gains"]

Target = Literal["forward", "backward", "compromise", "residual", "ratio", "mup"]
TARGETS: tuple[Target, ...] = ("forward", "backward", "compromise", "residual", "ratio", "mup")

CONTRACTIONS = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "matmul", "mv", "addmv"})
PLUMBING = frozenset(
    {
        "t",
        "transpose",
        "permute",
        "view",
        "reshape",
        "_unsafe_view",
        "expand",
        "unsqueeze",
        "squeeze",
        "detach",
        "clone",
        "slice",
        "split",
        "chunk",
        "select",
        "_to_copy",
        "alias",
    }
)


@dataclass
class Solution:
    """Gains by parameter name (relative to the distributions of the record), why others were left, and the moments after."""

    gains: dict[str, float]
    left: dict[str, str]
    values: dict[int, Moments | Unknown] = field(default_factory=dict[int, "Moments | Unknown"])


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
            return Distribution("normal", {"mean": d.mean * gain, "std": d.std * gain}, d.shape)


class _Graph:
    """Which weight enters which contraction, and through which views."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.weights: dict[int, Parameter] = {}
        self.left: dict[str, str] = {}
        for p in record.parameters:
            if p.buffer or not p.trainable or len(record.values[p.value].shape) < 2:
                continue
            if p.distribution.zero:
                self.left[p.name] = "exactly zero on purpose (the end of a branch, or a gate): left as it is"
            elif abs(p.distribution.mean) > 1e-12 * p.distribution.std or p.distribution.std == 0:
                self.left[p.name] = "its mean is not zero: no gain makes its output a fresh signal"
            else:
                self.weights[p.value] = p
        self.views: dict[int, int] = {value: value for value in self.weights}
        self.chains: dict[int, list[Node]] = {value: [] for value in self.weights}
        self.first: dict[int, tuple[int, int]] = {}
        seen: set[int] = set()
        for node in record.nodes:
            name = node.op.split(".")[1].rstrip("_")
            if node.phase == "forward" and name in PLUMBING and node.inputs and node.inputs[0] in self.views:
                root = self.views[node.inputs[0]]
                self.chains[root].append(node)
                for out in node.outputs:
                    if out is not None:
                        self.views[out] = root
            elif node.phase == "forward" and name in CONTRACTIONS:
                for value in node.inputs:
                    root = self.views.get(value)
                    if root is not None and root not in seen and node.outputs[0] is not None:
                        seen.add(root)
                        self.first[node.id] = (root, node.outputs[0])
        for value, p in self.weights.items():
            if value not in seen:
                self.left[p.name] = "enters no contraction of the forward pass (a table, a position code): its scale is the author's choice"
        self.back: dict[int, tuple[int, int, int]] = {}
        self._backward(seen)

    def _backward(self, seen: set[int]) -> None:
        """Nodes of the backward pass that multiply a cotangent by a weight: node id → (weight, cotangent in, cotangent out)."""
        gradients = {p.gradient for p in self.record.parameters}
        views = dict(self.views)
        done: set[int] = set()
        for node in self.record.nodes:
            if node.phase != "backward":
                continue
            name = node.op.split(".")[1].rstrip("_")
            if name in PLUMBING and node.inputs and node.inputs[0] in views:
                for out in node.outputs:
                    if out is not None:
                        views[out] = views[node.inputs[0]]
                continue
            if name in ("mm", "bmm", "convolution_backward"):
                for value in node.inputs:
                    root = views.get(value)
                    other = [v for v in node.inputs if v != value]
                    if (
                        root is not None
                        and root in seen
                        and root not in done
                        and other
                        and node.outputs[0] is not None
                        and node.outputs[0] not in gradients
                    ):
                        done.add(root)
                        self.back[node.id] = (root, other[0], node.outputs[0])


def solve_gains(
    record: Record, target: Target, *, second: float = 1.0, branches: Mapping[str, float] | None = None, rounds: int = 8
) -> Solution:
    """Gains for every weight that enters a contraction.

    `second` is the wanted second moment of a contraction's output; `branches` scales single weights' wanted second moment (the ends of
    residual branches, by name).
    """
    graph = _Graph(record)
    names = {value: p.name for value, p in graph.weights.items()}
    gains: dict[int, float] = dict.fromkeys({root for root, _ in graph.first.values()}, 1.0)
    wanted = {value: second * (branches or {}).get(names[value], 1.0) for value in gains}
    solution = Solution({}, dict(graph.left))
    if target in ("forward", "residual", "mup"):
        solution.values = _forward(record, graph, gains, wanted)
    elif target == "ratio":
        solution.values = _ratio(record, graph, gains, rounds)
    else:
        forward = dict(gains)
        _forward(record, graph, forward, wanted)
        backward = dict(forward)
        for _ in range(rounds):
            before = dict(backward)
            solution.values = _back(record, graph, backward)
            if max((abs(math.log(backward[v] / before[v])) for v in backward), default=0.0) < 1e-3:
                break
        gains = backward if target == "backward" else {v: math.sqrt(forward[v] * backward[v]) for v in gains}
        solution.values = _run(record, graph, gains)
    solution.gains = {names[value]: gain for value, gain in gains.items()}
    return solution


def _scaled_start(record: Record, graph: _Graph, gains: Mapping[int, float]) -> dict[int, Moments | Unknown]:
    values = start(record)
    for value, gain in gains.items():
        got = values[value]
        if isinstance(got, Moments):
            values[value] = _weight(got, gain)
    return values


def _weight(x: Moments, gain: float) -> Moments:
    made = scale(x, gain)
    return replace(made, extra={**made.extra, **{k: v for k, v in x.extra.items() if k == "weight"}})


def _run(record: Record, graph: _Graph, gains: Mapping[int, float]) -> dict[int, Moments | Unknown]:
    values = _scaled_start(record, graph, gains)
    uses: dict[int, Any] = {}
    for node in record.nodes:
        if not node.constant:
            advance(node, record, values, uses)
    return values


def _forward(record: Record, graph: _Graph, gains: dict[int, float], wanted: Mapping[int, float]) -> dict[int, Moments | Unknown]:
    """One pass that scales each weight where it is first used."""
    values = _scaled_start(record, graph, gains)
    uses: dict[int, Any] = {}
    for node in record.nodes:
        if node.constant:
            continue
        advance(node, record, values, uses)
        if node.id in graph.first:
            weight, out = graph.first[node.id]
            got = values.get(out)
            if not isinstance(got, Moments) or got.total_second <= 0.0:
                continue
            factor = math.sqrt(wanted[weight] / got.total_second)
            _rescale(record, graph, values, uses, weight, factor, node)
            gains[weight] *= factor
    return values


def _rescale(
    record: Record, graph: _Graph, values: dict[int, Moments | Unknown], uses: dict[int, Any], weight: int, factor: float, node: Node
) -> None:
    """Scale a weight, and redo its views and the contraction that it just entered."""
    got = values[weight]
    assert isinstance(got, Moments)
    for key in [f.field.id for f in got.law]:
        if uses.get(key):
            uses[key].pop()
    values[weight] = _weight(got, factor)
    for view in graph.chains[weight]:
        if view.id < node.id:
            advance(view, record, values, uses)
    advance(node, record, values, uses)


def _back(record: Record, graph: _Graph, gains: dict[int, float]) -> dict[int, Moments | Unknown]:
    """Scale each weight so that it hands on the cotangent's second moment unchanged; one round."""
    values = _run(record, graph, gains)
    for weight, above, below in graph.back.values():
        a, b = values.get(above), values.get(below)
        if isinstance(a, Moments) and isinstance(b, Moments) and a.total_second > 0 and b.total_second > 0:
            gains[weight] *= math.sqrt(a.total_second / b.total_second)
    return values


def _ratio(record: Record, graph: _Graph, gains: dict[int, float], rounds: int) -> dict[int, Moments | Unknown]:
    """Equal gradient-to-weight ratios: with r ∝ 1/gain² at a fixed product of all gains, gain ∝ √r."""
    values: dict[int, Moments | Unknown] = {}
    for _ in range(rounds):
        values = _run(record, graph, gains)
        logs: dict[int, float] = {}
        for value in gains:
            p = graph.weights[value]
            g, w = values.get(p.gradient) if p.gradient is not None else None, values.get(value)
            if isinstance(g, Moments) and isinstance(w, Moments) and g.total_second > 0 and w.total_second > 0:
                logs[value] = 0.5 * math.log(g.total_second / w.total_second)
        if not logs:
            break
        centre = sum(logs.values()) / len(logs)
        for value, r in logs.items():
            gains[value] *= math.exp(0.5 * (r - centre))
        if max(abs(r - centre) for r in logs.values()) < 1e-3:
            break
    return _run(record, graph, gains)
