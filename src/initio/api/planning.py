"""An initialisation that gives a wanted profile of scales, without data and without running the model."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any, cast

from initio.core.errors import InitioError
from initio.core.plan import Owner, Plan, Scale

__all__ = ["TARGETS", "initialiser", "solve"]

TARGETS = ("forward", "backward", "compromise", "residual", "ratio", "mup")
FAMILIES = ("normal", "uniform", "orthogonal")
FACTOR = 1.1
"""A target counts as met within this factor."""


def solve(
    model_or_factory: Any,
    inputs: Any,
    target: str = "forward",
    *,
    second: float = 1.0,
    family: str | None = None,
    loss: str | Callable[..., Any] | None = None,
    train: bool = True,
    rounds: int = 12,
) -> Plan:
    """The initialisation of every parameter that gives the wanted profile, solved on the predicted moments.

    Each weight keeps the family that its author drew it from, or gets `family` ("normal", "uniform", "orthogonal"; tables keep theirs),
    and a gain; drawn biases become zero; what is zero or constant on purpose, norms and position codes stay. Targets, with y a weight's product and δ its cotangent:

    * "forward" — E[y²] = `second` for every weight.
    * "backward" — E[δ²] is handed on unchanged, through the nonlinearity, from each weight's product to those before it.
    * "compromise" — the geometric mean of the two gains.
    * "residual" — forward, and E[y²] = `second` / L at the end of each of the L residual branches.
    * "ratio" — the same rms(∂W) / rms(W) for every weight.
    * "mup" — forward, and E[y²] = `second` / fan-in at readouts; `Plan.rates` holds Adam's factors.

    `inputs`, `loss` and `train` are those of `analyze`; `rounds` bounds the iterations of the backward targets.

    Raises:
        InitioError: as `analyze`; an unknown target or family; a model without a weight that a gain can be chosen for.

    >>> from initio.examples.plain_mlp import Model
    >>> plan = solve(Model, (16, 64))
    >>> sorted(plan.unreached), max(abs(plan.after[path].second - 1) for path in plan.wanted) < 1e-6
    ([], True)
    """
    if target not in TARGETS:
        raise InitioError(f"a target among {', '.join(TARGETS)}", f"{target!r} came", where="target", remedy="forward is the usual one.")
    number: Any = second
    if not (isinstance(number, (int, float)) and number > 0 and math.isfinite(number)):
        raise InitioError("a positive second moment", f"{second!r} came", where="second", remedy="1.0 is the usual one.")
    if family not in (None, *FAMILIES):
        raise InitioError(f"a family among {', '.join(FAMILIES)}", f"{family!r} came", where="family", remedy="None keeps the author's.")
    steps: Any = importlib.import_module("initio.api.steps")
    analysis = steps.analyze(model_or_factory, inputs, loss=loss, train=train)
    if analysis.record.crash is not None:
        raise steps.crash_error(analysis.record.crash, getattr(model_or_factory, "__qualname__", type(model_or_factory).__name__))
    return _solved(analysis, target, float(second), family, rounds)


def initialiser(analysis: Any, finding: Any) -> str:
    """The source of an `init_weights(model)` with scales kept in the forward pass, against a finding of the initialisation.

    The constant weights that the finding names are drawn, and where units are dead, constant biases become zero.
    """
    places, dead = {finding.module, *finding.also}, finding.name == "dead-units"
    parameters: list[Any] = []
    for parameter in analysis.record.parameters:
        law, shape = parameter.distribution, analysis.record.values[parameter.value].shape
        if parameter.buffer or law.family != "constant":
            pass
        elif len(shape) > 1 and finding.code == "INI101" and parameter.name.rpartition(".")[0] in places:
            law = dataclasses.replace(law, family="normal", parameters={"mean": 0.0, "std": math.prod(shape[1:]) ** -0.5})
        elif dead and len(shape) == 1 and parameter.name.endswith("bias"):
            law = dataclasses.replace(law, parameters={"value": 0.0})
        parameters.append(dataclasses.replace(parameter, distribution=law))
    record = dataclasses.replace(analysis.record, parameters=tuple(parameters))
    return _solved(dataclasses.replace(analysis, record=record), "forward").to_code()


def _solved(analysis: Any, target: str, second: float = 1.0, family: str | None = None, rounds: int = 12) -> Plan:
    engine: Any = importlib.import_module("initio.interpreters.solve")
    record = engine.with_family(analysis.record, family) if family is not None else analysis.record
    solution = engine.solve_gains(record, target, second=second, rounds=rounds)
    if not solution.gains:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(solution.left.items())[:4]) or "it has no matrices"
        raise InitioError("a weight to scale", f"none was found ({why})", where="model", remedy="Give a factory whose weights are drawn.")
    return _plan(analysis, solution, target)


def _plan(analysis: Any, solution: Any, target: str) -> Plan:
    record, graph = solution.record, solution.graph
    owners = {p.name: _owner(p, record) for p in record.parameters}
    weights = {p.value: p.name for p in record.parameters}
    outputs: dict[str, str] = {}
    for use in graph.uses.values():
        if use.module is not None and weights[use.weight] not in outputs and not (use.table and use.weight in graph.tied()):
            outputs[weights[use.weight]] = use.module
    before = _profile(analysis.record, lambda value: analysis.of(value).second)
    after = _profile(record, lambda value: _second(solution.values.get(value)))
    wanted = {outputs[name]: second for name, second in solution.wanted.items() if name in outputs}
    if graph.tied():
        wanted = {module: second for module, second in wanted.items() if module not in _tables(graph, weights, outputs)}
    if not solution.wanted:
        wanted = {module: after[module].second for module in outputs.values() if module in after and after[module].second > 0}
    buffers = {p.name: p.distribution for p in record.parameters if p.buffer and p.distribution.family == "constant"}
    return Plan(
        target,
        {p.name: p.distribution for p in record.parameters if not p.buffer},
        owners,
        dict(solution.gains),
        _kept(record, solution),
        outputs,
        wanted,
        before,
        after,
        _unreached(solution, target, outputs, after),
        buffers,
        _rates(solution) if target == "mup" else {},
        (*record.notes, *solution.notes),
    )


def _tables(graph: Any, names: dict[int, str], outputs: dict[str, str]) -> set[str]:
    return {outputs[name] for value in graph.tables() if (name := names[value]) in outputs}


def _owner(p: Any, record: Any) -> Owner:
    kind = record.modules.get(p.name.rpartition(".")[0], "")
    return Owner(record.values[p.value].shape, kind, p.names if len(p.names) > 1 else (), p.origin)


def _profile(record: Any, second: Callable[[int], float]) -> dict[str, Scale]:
    found: dict[str, Scale] = {}
    for call in sorted(record.calls, key=lambda call: call.id):
        if call.outputs and call.module not in found:
            cotangent = call.cotangents[0] if call.cotangents else None
            found[call.module] = Scale(second(call.outputs[0]), math.nan if cotangent is None else second(cotangent))
    return found


def _second(moments: Any) -> float:
    return math.nan if moments is None or moments.claim == "unknown" else float(moments.total_second)


def _kept(record: Any, solution: Any) -> dict[str, str]:
    kept = dict(solution.left)
    for p in record.parameters:
        if not p.buffer and p.name not in kept and p.name not in solution.gains and p.name not in solution.graph.biases:
            kept[p.name] = "constant" if p.distribution.family == "constant" else "not multiplied with a signal"
    return kept


def _off(value: float, wanted: float) -> bool:
    return not (value > 0 and wanted > 0 and abs(math.log(value / wanted)) <= math.log(FACTOR))


def _unreached(solution: Any, target: str, outputs: dict[str, str], after: dict[str, Scale]) -> dict[str, str]:
    """Module → reason, for all whose output is a weight's product (or whose weight was left) and misses its target."""
    found: dict[str, str] = {}
    names = {p.value: p.name for p in solution.record.parameters}
    calls = {call.module for call in solution.record.calls}
    for name, reason in solution.left.items():
        owner = name.rpartition(".")[0]
        if owner in calls:
            found[owner] = f"{name} is left as it is: {reason}"
    first: dict[str, str] = {}
    for use in solution.graph.uses.values():
        name = names[use.weight]
        if use.module is None:
            continue
        first.setdefault(name, str(outputs.get(name, use.module)))
        if solution.wanted:
            got = _second(solution.values.get(use.out))
            goal = solution.wanted.get(name, math.nan)
            if _off(got, goal):
                found.setdefault(use.module, _why(name, use, first[name], got, goal, solution))
    found |= {module: why for module, why in _ends(solution, outputs).items() if module not in found} if target == "residual" else {}
    if target in ("backward", "compromise"):
        for name, step in solution.steps.items():
            if name in outputs and _off(step, 1.0):
                forward = f", while it leaves E[y²] at {after[outputs[name]].second:.3g}" if outputs[name] in after else ""
                found.setdefault(outputs[name], f"the cotangent leaves it with {step:.3g} times its second moment{forward}{_both(target)}")
    if target == "ratio" and solution.ratios:
        centre = math.exp(sum(map(math.log, solution.ratios.values())) / len(solution.ratios))
        for name, ratio in solution.ratios.items():
            if name in outputs and _off(ratio, centre):
                found.setdefault(
                    outputs[name], f"rms(∂W)/rms(W) is {ratio:.3g}, the mean of all weights {centre:.3g}: no gain that was tried evens it"
                )
    return found


def _both(target: str) -> str:
    return ": one gain cannot keep both" if target == "compromise" else ": its gain moves the scale that the nonlinearity or norm reads"


def _why(name: str, use: Any, module: str, got: float, goal: float, solution: Any) -> str:
    if use.table and solution.graph.tied():
        return f"{name} keeps its ratio to the table that is tied to a readout, whose product decides (E[y²] = {got:.3g} here, {goal:.3g} wanted)"
    if math.isnan(got):
        moments = solution.values.get(use.out)
        return f"nothing is predicted here: {getattr(moments, 'reason', 'no moments')}"
    if use.module != module:
        return f"{name} serves {module or 'the model'} too, and one gain cannot serve both (E[y²] = {got:.3g} here, {goal:.3g} wanted)"
    if got == 0:
        return "its input is exactly zero"
    return f"E[y²] = {got:.3g} for {goal:.3g} wanted: constants that are added, or a scale that its input does not pass on"


def _ends(solution: Any, outputs: dict[str, str]) -> dict[str, str]:
    why = "a norm follows before the sum, and takes the weight's scale out; the scale of that norm would set the branch's, and is kept"
    return {outputs[name]: why for name, normed in solution.ends.items() if normed and name in outputs}


def _rates(solution: Any) -> dict[str, float]:
    """Adam: 1/fan-in for hidden weights and readouts, 1 for input weights and vectors (Yang et al., 2022, table 3)."""
    graph, record = solution.graph, solution.record
    names = {p.value: p.name for p in record.parameters}
    rates = {p.name: 1.0 for p in record.parameters if not p.buffer and p.trainable}
    for use in graph.uses.values():
        if use.weight not in graph.inputs and not use.table:
            rates[names[use.weight]] = 1.0 / cast("int", graph.fan_in(use))
    return rates
