"""Training and evaluation mode of one model side by side: where their moments part, by how much, and what parts them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from initio.core.analysis import Analysis, Summary
from initio.core.plain import dumps
from initio.core.record import Node, Record, Source

__all__ = ["SCHEMA", "Cause", "Parting", "TrainEval"]

SCHEMA = "initio.train-eval/1"
LEAST = 1e-6
"""Relative difference of the second moments, or difference of the means in units of the rms, that counts."""
DRAWN = ("bernoulli", "rand", "randn", "normal", "uniform", "exponential", "randint", "multinomial", "poisson", "geometric")
DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
DEPTHS = ("StochasticDepth", "DropPath")
SILENT = frozenset({"detach", "alias", "view", "_unsafe_view", "t", "clone", "contiguous", "expand", "empty_like", "empty", "new_empty"})


@dataclass(frozen=True, slots=True)
class Cause:
    """An operation that does something else in training than in evaluation: `kind` in a word, `what` in a sentence."""

    module: str
    kind: str
    what: str
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Parting:
    """One module output in both modes. `own` are the causes inside the module itself, `above` those that its input carries.

    `shift` is (mean in training − mean in evaluation) over the rms in evaluation, `ratio` E y² in training over E y² in evaluation.
    """

    path: str
    kind: str
    call: int
    output: int
    shape: tuple[int, ...]
    train: Summary
    eval: Summary
    shift: float
    ratio: float
    own: tuple[Cause, ...]
    above: tuple[Cause, ...]

    @property
    def parts(self) -> bool | None:
        """Whether the moments differ; None where one of them is not known."""
        if math.isnan(self.ratio) or math.isnan(self.shift):
            return None
        return abs(self.ratio - 1) > LEAST or abs(self.shift) > LEAST

    @property
    def why(self) -> str:
        """The causes of its own, else where those of its input lie."""
        if self.own:
            return "; ".join(dict.fromkeys(cause.what for cause in self.own))
        names = list(dict.fromkeys(f"{cause.kind} in {cause.module or 'the model'}" for cause in self.above))
        return "" if not names else "from " + ", ".join(names[-2:]) + (f" and {len(names) - 2} before" if len(names) > 2 else "")


@dataclass(frozen=True)
class TrainEval:
    """The forward pass in both modes; a sequence of `Parting`, one for every module output, in the order of the calls."""

    train: Analysis
    eval: Analysis
    target: str = ""

    @cached_property
    def rows(self) -> tuple[Parting, ...]:
        """One row for each output of each call that both modes make."""
        carried = self._carried()
        own: dict[int, list[Cause]] = {}
        for node, cause in self._causes:
            own.setdefault(node.call, []).append(cause)
        others = {(call.module, call.index): call for call in self.eval.record.calls}
        found: list[Parting] = []
        for call in self.train.record.calls:
            other = others.get((call.module, call.index))
            for position, value in enumerate(call.outputs):
                if other is None or position >= len(other.outputs):
                    continue
                a, b = self.train.of(value), self.eval.of(other.outputs[position])
                shape = self.train.record.values[value].shape
                above = tuple(cause for cause in carried.get(value, ()) if cause not in own.get(call.id, ()))
                found.append(
                    Parting(
                        call.module,
                        call.kind,
                        call.index,
                        position,
                        shape,
                        a,
                        b,
                        _shift(a, b),
                        _ratio(a, b),
                        tuple(own.get(call.id, ())),
                        above,
                    )
                )
        return tuple(found)

    @property
    def parting(self) -> tuple[Parting, ...]:
        """The rows whose moments differ."""
        return tuple(row for row in self.rows if row.parts)

    @property
    def first(self) -> Parting | None:
        """The row of the first cause, in the order of execution, by which moments differ: there the modes part."""
        return next((row for cause in self.causes for row in self.rows if row.parts and cause in row.own), None)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """All operations that differ between the modes, in the order of execution."""
        return tuple(cause for _, cause in self._causes)

    @property
    def only(self) -> dict[str, tuple[str, ...]]:
        """Modules that one mode alone calls."""
        train, other = ({call.module for call in a.record.calls} for a in (self.train, self.eval))
        return {"train": tuple(sorted(train - other)), "eval": tuple(sorted(other - train))}

    @cached_property
    def _causes(self) -> tuple[tuple[Node, Cause], ...]:
        return tuple(_causes(self.train.record, self.eval.record))

    def _carried(self) -> dict[int, tuple[Cause, ...]]:
        """Value → the causes that it depends on."""
        started: dict[int, list[Cause]] = {}
        for node, cause in self._causes:
            started.setdefault(node.id, []).append(cause)
        found: dict[int, tuple[Cause, ...]] = {}
        for node in self.train.record.nodes:
            if node.phase == "backward":
                break
            inherited = dict.fromkeys(cause for value in node.inputs for cause in found.get(value, ()))
            causes = tuple(dict.fromkeys((*inherited, *started.get(node.id, ()))))
            if causes:
                found.update({value: causes for value in node.outputs if value is not None})
        return found

    def __iter__(self) -> Iterator[Parting]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, path: str) -> Parting:
        """The first call of a module; raises `KeyError` where both modes call none of that path."""
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(f"no module {path!r} is called in both modes; there are {', '.join(dict.fromkeys(r.path for r in self.rows))}")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain data."""
        rows = [
            {"path": r.path, "kind": r.kind, "call": r.call, "output": r.output, "shape": r.shape, "parts": r.parts, "shift": r.shift,
             "ratio": r.ratio, "train": _moments(r.train), "eval": _moments(r.eval), "why": r.why, "causes": r.own}
            for r in self.rows
        ]  # fmt: skip
        return {
            "schema": SCHEMA, "target": self.target, "modules": rows, "causes": self.causes, "only": self.only,
            "first": self.first.path if self.first else None, "notes": list(dict.fromkeys((*self.train.notes, *self.eval.notes))),
        }  # fmt: skip

    def to_json(self) -> str:
        """JSON text with a `schema` version."""
        return dumps(self.to_dict())

    def __str__(self) -> str:
        lines = [f"{len(self.parting)} of {len(self.rows)} module outputs part between training and evaluation"]
        lines += [
            f"{row.path or '(model)':<32} rms {row.train.rms:.4g} / {row.eval.rms:.4g}, E y² × {row.ratio:.4g}  {row.why}"
            for row in self.parting
        ]
        return "\n".join(lines)


def _moments(summary: Summary) -> dict[str, Any]:
    return {"mean": summary.mean, "rms": summary.rms, "claim": summary.claim, "reason": summary.reason}


def _shift(train: Summary, other: Summary) -> float:
    gap = train.mean - other.mean
    scale = other.rms or train.rms
    return gap / scale if scale else (0.0 if gap == 0 else math.nan if math.isnan(gap) else math.inf)


def _ratio(train: Summary, other: Summary) -> float:
    if math.isnan(train.second) or math.isnan(other.second):
        return math.nan
    return train.second / other.second if other.second else (1.0 if train.second == 0 else math.inf)


def _name(node: Node) -> str:
    return node.op.split(".")[1].rstrip("_") if "." in node.op else node.op


def _forward(record: Record) -> Iterator[Node]:
    return (node for node in record.nodes if node.phase != "backward")


def _causes(train: Record, other: Record) -> Iterator[tuple[Node, Cause]]:
    """Operations whose kind or flag says that they belong to training, and modules whose own code takes another way."""
    own: dict[tuple[str, str], list[Node]] = {}
    for record, key in ((train, "train"), (other, "eval")):
        for node in _forward(record):
            own.setdefault((node.module, key), []).append(node)
    told: set[str] = set()
    quiet = {node.module for node in _forward(other) if _drawn(other, node) is not None}  # noise of both modes parts nothing
    for node in _forward(train):
        cause = _flagged(train, node)
        drawn = _drawn(train, node)
        if cause is None and drawn is not None and node.module not in quiet:
            cause = drawn
        if cause is not None:
            told.add(node.module)
            yield node, cause
    kinds = {call.module: call.kind for call in train.calls}
    for module in dict.fromkeys(node.module for node in _forward(train)):
        if module in told:
            continue
        counts = [Counter(_name(n) for n in own.get((module, key), []) if _name(n) not in SILENT) for key in ("train", "eval")]
        if counts[0] != counts[1]:
            more, less = (", ".join((a - b).keys()) or "nothing" for a, b in (counts, counts[::-1]))
            what = f"its code takes another way: {more} in training only, {less} in evaluation only"
            node = own[module, "train"][-1]
            yield node, Cause(module, f"code of {kinds.get(module, 'the model')}", what, node.source)


def _flagged(record: Record, node: Node) -> Cause | None:
    name = _name(node)
    if "batch_norm" in name and len(node.args) > 5 and node.args[5] is True:
        if node.args[3] is None:
            return None  # no running statistics: both modes use the batch's
        start = {p.value: p.distribution for p in record.parameters}
        laws = [start[v] for v in node.inputs if v in start and start[v].family == "constant"][-2:]
        initial = f" (as initialised: mean {laws[0].mean:g}, variance {laws[1].mean:g})" if len(laws) == 2 else ""
        return Cause(
            node.module, "batch statistics", f"batch norm: statistics of the batch, in evaluation the running ones{initial}", node.source
        )
    if name == "rrelu_with_noise" and len(node.args) > 4 and node.args[4] is True:
        low, high = (float(v) for v in node.args[2:4] if isinstance(v, (int, float)))
        what = f"RReLU: slopes drawn from U({low:.4g}, {high:.4g}), in evaluation their mean {(low + high) / 2:.4g}"
        return Cause(node.module, "random slopes", what, node.source)
    return None


def _drawn(record: Record, node: Node) -> Cause | None:
    """What an operation that draws random numbers is for."""
    name = _name(node)
    if name == "native_dropout" or (name == "bernoulli" and node.function in DROPOUTS):
        given = node.args[1] if len(node.args) > 1 else 0.5
        p = float(given) if isinstance(given, (int, float)) else math.nan
        p = p if name == "native_dropout" else 1 - p
        if p == 0:
            return None
        of = "of whole channels" if node.function[-2:] in ("1d", "2d", "3d") or "feature" in node.function else "of single entries"
        alpha = "alpha dropout" if "alpha" in node.function else "dropout"
        return Cause(node.module, "dropout's noise", f"{alpha} {of}, p = {p:.4g}: none in evaluation", node.source)
    if not name.startswith(DRAWN):
        return None
    kind = record.calls[node.call].kind if node.call >= 0 else ""
    given = next((float(v) for v in node.args[1:] if isinstance(v, float)), None)
    chance = "" if given is None else f", kept with probability {given:.4g}"
    if kind in DEPTHS or node.function == "stochastic_depth":
        return Cause(
            node.module, "stochastic depth", f"stochastic depth: whole branches dropped{chance}; all kept in evaluation", node.source
        )
    if "attention" in node.function:
        lost = "" if given is None else f", p = {1 - given:.4g}"
        return Cause(node.module, "dropout's noise", f"dropout of attention weights{lost}: none in evaluation", node.source)
    return Cause(node.module, "noise", f"random numbers ({name}{chance}), none in evaluation", node.source)
