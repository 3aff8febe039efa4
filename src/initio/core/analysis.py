"""The result of an analysis: the record joined with the moments of its values, by module, parameter and node."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from initio.core.distribution import Distribution
from initio.core.paths import Fork, forks
from initio.core.plain import dumps
from initio.core.record import Parameter, Record, Source
from initio.core.tree import ModuleTree

__all__ = ["SCHEMA", "Analysis", "Lookup", "ModuleResult", "NodeResult", "ParameterResult", "Summary"]

SCHEMA = "initio.analysis/1"
NAN = math.nan
R = TypeVar("R")
ROUNDING = 1e-12
"""Share of the second moment below which a difference of second moments is rounding (that of the integrals, `core.gaussian`)."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean and second moment of a value's entries, averaged over them; NaN where `claim` is "unknown", with the `reason`.

    `varying` is the part of the second moment in which two samples of the batch differ, E[x²] − E[x x′] (NaN: not known);
    `spread` the relative standard deviation of the mean square from one draw of the weights to another (NaN: not known).
    """

    mean: float
    second: float
    claim: str
    reason: str = ""
    varying: float = NAN
    spread: float = NAN

    @property
    def rms(self) -> float:
        """√E[X²]."""
        return math.sqrt(max(self.second, 0.0)) if not math.isnan(self.second) else NAN

    @property
    def std(self) -> float:
        """√(E[X²] − E[X]²)."""
        return math.sqrt(max(self.second - self.mean**2, 0.0)) if math.isfinite(self.second) else self.rms


UNREAD = Summary(NAN, NAN, "unknown", "the propagation did not reach this value")
NOTHING = Summary(NAN, NAN, "none", "no gradient arrives")


@dataclass(frozen=True, slots=True)
class ModuleResult:
    """One floating tensor that one call of a module returned; what stands first is its first call's first output.

    `calls` holds the first output of every call in call order, `outputs` all tensors that this call returned.
    `claim` is that of `mean`, `rms` and `std`; `grad_claim` that of `grad_rms`, "none" where no gradient arrives.
    """

    path: str
    kind: str
    call: int
    output: int
    value: int
    shape: tuple[int, ...]
    mean: float
    rms: float
    std: float
    claim: str
    reason: str
    grad_rms: float
    grad_claim: str
    source: Source | None = None
    spread: float = NAN
    later_calls: tuple[ModuleResult, ...] = field(default=(), repr=False)
    later_outputs: tuple[ModuleResult, ...] = field(default=(), repr=False)

    @property
    def band(self) -> tuple[float, float]:
        """The rms of one draw lies within these two about 19 times in 20: two standard deviations of its mean square."""
        return self.rms * math.sqrt(max(1.0 - 2.0 * self.spread, 0.0)), self.rms * math.sqrt(1.0 + 2.0 * self.spread)

    @property
    def calls(self) -> tuple[ModuleResult, ...]:
        """This result and those of the later calls."""
        return (self, *self.later_calls)

    @property
    def outputs(self) -> tuple[ModuleResult, ...]:
        """This tensor and the others of the same call."""
        return (self, *self.later_outputs)

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, call: int) -> ModuleResult:
        return self.calls[call]

    def __iter__(self) -> Iterator[ModuleResult]:
        return iter(self.calls)

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class ParameterResult:
    """A parameter or buffer (a tied one once, under all its `names`): its initial distribution and its gradient.

    `origin` is "drawn" where the construction was recorded, "values" where a built module was described. `grad_claim` is
    "none" where the backward pass does not reach it; `grad_rms` is then NaN. `gradient` tells how it stands with the gradient:
    "alive", "waiting" (exactly zero now, alive after one step, because a zero weight lies on its way), "zero" (exactly zero in
    distribution), "unreachable" (no path from the output), "unknown", "none" (a buffer, or frozen).
    """

    name: str
    names: tuple[str, ...]
    distribution: Distribution
    shape: tuple[int, ...]
    mean: float
    rms: float
    std: float
    claim: str
    grad_rms: float
    grad_claim: str
    grad_reason: str
    trainable: bool
    buffer: bool
    origin: str
    source: Source | None = None
    gradient: str = "none"

    @property
    def ratio(self) -> float:
        """Gradient rms over weight rms: the first SGD step relative to the weight, for a learning rate of 1 (inf: the weight is 0)."""
        return _over(self.grad_rms, self.rms)

    @property
    def adam_step(self) -> float:
        """The first Adam step relative to the weight, for a learning rate of 1: its update is g / |g| (Kingma & Ba 2015, alg. 1 at t = 1)."""
        return _over(0.0 if self.grad_rms == 0 else 1.0, self.rms) if math.isfinite(self.grad_rms) else NAN


def _over(top: float, bottom: float) -> float:
    if math.isnan(top) or math.isnan(bottom):
        return NAN
    return top / bottom if bottom else (0.0 if top == 0 else math.inf)


@dataclass(frozen=True, slots=True)
class NodeResult:
    """One output of one ATen operation: `id` is the node, `output` the position among its outputs, `value` the value's id."""

    id: int
    output: int
    value: int
    op: str
    module: str
    phase: str
    source: Source | None
    shape: tuple[int, ...]
    mean: float
    rms: float
    std: float
    claim: str
    reason: str


class Lookup(Mapping[str, R], Generic[R]):
    """Results by name; an unknown name raises with the names that resemble it. Aliases resolve to the same result."""

    def __init__(self, what: str, table: Mapping[str, R], aliases: Mapping[str, str] | None = None) -> None:
        self._what = what
        self._table = dict(table)
        self._aliases = dict(aliases or {})

    def __getitem__(self, name: str) -> R:
        key = self._aliases.get(name, name)
        if key not in self._table:
            import difflib

            near = difflib.get_close_matches(name, self._table, n=3) or list(self._table)[:3]
            raise KeyError(f"no {self._what} {name!r} in this analysis; near it: {', '.join(map(repr, near))}")
        return self._table[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"<{len(self)} {self._what}s: {', '.join(list(self._table)[:4])}{', …' if len(self) > 4 else ''}>"


@dataclass(frozen=True)
class Analysis:
    """One training step in distribution: `record` is what was recorded, `summary` the moments of its values by id."""

    record: Record
    summary: Mapping[int, Summary] = field(repr=False)
    tree: ModuleTree = field(default_factory=ModuleTree, repr=False)
    notes: tuple[str, ...] = ()
    waiting: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def build(
        cls, record: Record, summary: Mapping[int, Summary], notes: tuple[str, ...] = (), *, tree: ModuleTree | None = None,
        waiting: Iterable[str] = (),
    ) -> Analysis:  # fmt: skip
        """Join a record with the summaries of its values; a floating value without one counts as unknown.

        `waiting` names the parameters whose gradient is zero only until the zero weights on their way have moved.
        """
        return cls(record, summary, tree or ModuleTree(), (*record.notes, *notes), frozenset(waiting))

    @cached_property
    def paths(self) -> tuple[Fork, ...]:
        """The gain of each block and how its gradient divides over skip and branches, from the input to the output."""
        return forks(self.record, lambda value: self.of(value).second)

    def of(self, value: int) -> Summary:
        """The summary of a value of the record."""
        return self.summary.get(value, UNREAD)

    def of_gradient(self, value: int | None) -> Summary:
        """The summary of a gradient's value, `none` where no gradient arrives."""
        return NOTHING if value is None else self.of(value)

    @cached_property
    def modules(self) -> Lookup[ModuleResult]:
        """Module path → its first call; `""` is the model. Modules that return no floating tensor are absent."""
        calls: dict[str, list[ModuleResult]] = {}
        for call in sorted(self.record.calls, key=lambda call: (call.module, call.index)):
            outputs = [self._output(call.id, position) for position in range(len(call.outputs))]
            if outputs:
                calls.setdefault(call.module, []).append(_with(outputs[0], later_outputs=tuple(outputs[1:])))
        order = dict.fromkeys(call.module for call in sorted(self.record.calls, key=lambda call: call.id))
        table = {path: _with(calls[path][0], later_calls=tuple(calls[path][1:])) for path in order if path in calls}
        return Lookup("module", table)

    def _output(self, call_id: int, position: int) -> ModuleResult:
        call = self.record.calls[call_id]
        value = call.outputs[position]
        cotangent = call.cotangents[position] if position < len(call.cotangents) else None
        here, gradient = self.of(value), self.of_gradient(cotangent)
        return ModuleResult(
            call.module, call.kind, call.index, position, value, self.record.values[value].shape,
            here.mean, here.rms, here.std, here.claim, here.reason, gradient.rms, gradient.claim, call.source, here.spread,
        )  # fmt: skip

    @cached_property
    def parameters(self) -> Lookup[ParameterResult]:
        """Parameter or buffer name → its result; every name of a tied parameter finds the same one."""
        table = {parameter.name: self._parameter(parameter) for parameter in self.record.parameters}
        return Lookup("parameter", table, {name: p.name for p in self.record.parameters for name in p.names})

    def _parameter(self, parameter: Parameter) -> ParameterResult:
        law = parameter.distribution
        gradient = self.of_gradient(parameter.gradient)
        return ParameterResult(
            parameter.name, parameter.names, law, self.record.values[parameter.value].shape,
            law.mean, math.sqrt(max(law.second, 0.0)), law.std, "simulated" if law.family == "program" else "exact",
            gradient.rms, gradient.claim, gradient.reason, parameter.trainable, parameter.buffer, parameter.origin, parameter.source,
            self._standing(parameter, gradient),
        )  # fmt: skip

    def _standing(self, parameter: Parameter, gradient: Summary) -> str:
        if parameter.buffer or not parameter.trainable:
            return "none"
        if parameter.gradient is None:
            return "unreachable"
        if gradient.claim == "unknown":
            return "unknown"
        if gradient.second > 0:
            return "alive"
        return "waiting" if parameter.name in self.waiting else "zero"

    @cached_property
    def nodes(self) -> tuple[NodeResult, ...]:
        """Every floating output of every operation, in the order of execution."""
        found: list[NodeResult] = []
        for node in self.record.nodes:
            for position, value in enumerate(node.outputs):
                if value is None or not (self.record.values[value].floating or value in self.summary):
                    continue
                here, shape = self.of(value), self.record.values[value].shape
                moments = (here.mean, here.rms, here.std, here.claim, here.reason)
                found.append(NodeResult(node.id, position, value, node.op, node.module, node.phase, node.source, shape, *moments))
        return tuple(found)

    @cached_property
    def unknown(self) -> tuple[NodeResult, ...]:
        """The nodes about whose floating outputs nothing is claimed, each with its reason."""
        return tuple(node for node in self.nodes if node.claim == "unknown" and self.record.values[node.value].floating)

    @property
    def claims(self) -> dict[str, int]:
        """How many node outputs carry each claim."""
        return dict(Counter(node.claim for node in self.nodes))

    def to_dict(self) -> dict[str, Any]:
        """The analysis as nested dicts and lists."""
        record = self.record
        return {
            "schema": SCHEMA,
            "training": record.training,
            "inputs": [{"name": i.name, "shape": record.values[i.value].shape, "distribution": str(i.distribution)} for i in record.inputs],
            "modules": {path: _module(result) for path, result in self.modules.items()},
            "parameters": {name: _parameter(result) for name, result in self.parameters.items()},
            "nodes": [_node(node) for node in self.nodes],
            "unknown": [_node(node) for node in self.unknown],
            "paths": self.paths,
            "claims": self.claims,
            "crash": record.crash,
            "notes": self.notes,
        }

    def to_json(self) -> str:
        """JSON text with a `schema` version; NaN is null, infinities are the strings "inf" and "-inf"."""
        return dumps(self.to_dict())

    def to_html(self, target: str = "", derivation: Any = None) -> str:
        """The report page: one HTML file that loads nothing, with the findings of the checks that need no second mode.

        `derivation` (of `initio.derive`) is added as a folded section.
        """
        html: Any = importlib.import_module("initio.render.html")
        return html.page(html.report_of(self, target), derivation=derivation)

    def _repr_html_(self) -> str:
        return importlib.import_module("initio.render.html").frame(self.to_html())

    @property
    def plot(self) -> Any:
        """Static plots by matplotlib: `plot.signal()`, `.gradient()`, `.paths()`, `.spectrum()`; each takes and returns `Axes`."""
        return importlib.import_module("initio.render.plots").Plots(self)

    def log(self, writer: Any, step: int = 0, prefix: str = "initio") -> None:
        """Log rms, gradient rms and gradient over weight by name: a TensorBoard `SummaryWriter`, a run of wandb, or wandb itself."""
        importlib.import_module("initio.render.scalars").log(self, writer, step, prefix)

    def __str__(self) -> str:
        claims = ", ".join(f"{count} {claim}" for claim, count in self.claims.items())
        lines = [f"{len(self.record.nodes)} operations, {len(self.modules)} modules, {len(self.parameters)} parameters; outputs: {claims}"]
        lines += [f"{'module':<40} {'shape':<18} {'rms':>10} {'grad rms':>10}  claim"]
        shown = list(self.modules.values())
        for result in shown[:40]:
            shape = "x".join(map(str, result.shape))
            lines.append(f"{result.path[-40:] or '(model)':<40} {shape:<18} {result.rms:>10.4g} {result.grad_rms:>10.4g}  {result.claim}")
        if len(shown) > 40:
            lines.append(f"… and {len(shown) - 40} more modules")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _with(result: ModuleResult, **changes: Any) -> ModuleResult:
    from dataclasses import replace

    return replace(result, **changes)


def _entries(result: Any, *skip: str) -> dict[str, Any]:
    row = {name: getattr(result, name) for name in result.__dataclass_fields__ if name not in skip}
    row["source"] = str(result.source) if result.source else None
    return row


def _module(result: ModuleResult) -> dict[str, Any]:
    later = ("later_calls", "later_outputs")
    row = _entries(result, *later)
    row["outputs"] = [_entries(output, *later) for output in result.outputs]
    row["calls"] = [{**_entries(call, *later), "outputs": [_entries(o, *later) for o in call.outputs]} for call in result.calls]
    return row


def _parameter(result: ParameterResult) -> dict[str, Any]:
    law = result.distribution
    return {
        **_entries(result),
        "ratio": result.ratio,
        "adam_step": result.adam_step,
        "distribution": {"family": law.family, "parameters": law.parameters, "text": str(law)},
    }


def _node(result: NodeResult) -> dict[str, Any]:
    return _entries(result)
