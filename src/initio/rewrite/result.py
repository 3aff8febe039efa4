"""What `fuse` returns: the new model, what was rewritten with its proof, what was left alone and why, and the maps of state dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from initio.core.plain import dumps

__all__ = ["SCHEMA", "Fused", "Left", "Proof", "Rewrite", "State", "StateMap", "shortened"]

SCHEMA = "initio.fuse/1"
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Proof:
    """Largest differences in float64, relative to the largest entry: of outputs, of gradients of the input, of gradients of parameters."""

    output: float
    input_gradient: float
    parameter_gradient: float

    @property
    def worst(self) -> float:
        """The largest of the three."""
        return max(self.output, self.input_gradient, self.parameter_gradient)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One rewrite. `kind`: "conv-bn", "linear-linear", "chains", "branches" or "qkv"; `into` is the path of what stands for `modules`.

    `ratio` is the time before over the time after (None: not timed, since the proof failed); `reason` says why it was not kept.
    """

    kind: str
    modules: tuple[str, ...]
    into: str
    proof: Proof
    ratio: float | None
    kept: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Left:
    """A module that was left alone, and why."""

    path: str
    reason: str


StateMap = tuple[Callable[[State], State], Callable[[State], State]]
"""From the state dict before a rewrite to the one after it, and back."""


@dataclass(frozen=True)
class Fused:
    """The result of `fuse`: `model` is a new model; the given one is as it was.

    `proof` compares the whole models, outputs and gradients, in float64 (None: nothing was kept).
    """

    model: nn.Module
    rewrites: tuple[Rewrite, ...]
    left: tuple[Left, ...]
    proof: Proof | None
    maps: tuple[StateMap, ...] = field(default=(), repr=False)
    keys: tuple[str, ...] = field(default=(), repr=False)

    @property
    def kept(self) -> tuple[Rewrite, ...]:
        """The rewrites that `model` has."""
        return tuple(rewrite for rewrite in self.rewrites if rewrite.kept)

    def from_original(self, state: Mapping[str, Tensor]) -> State:
        """The state dict of `model` from one of the original.

        Raises:
            KeyError: a tensor is missing; the message names it.
        """
        made = dict(state)
        for forward, _ in self.maps:
            made = forward(made)
        return made

    def to_original(self, state: Mapping[str, Tensor]) -> State:
        """The state dict of the original from one of `model`; batch statistics that were folded away are those of the given model.

        Raises:
            KeyError: a tensor is missing. ValueError: no weights of the original compute this (a product of a rank that a
                narrow pair of layers does not have).
        """
        made = dict(state)
        for _, back in reversed(self.maps):
            made = back(made)
        return {key: made[key] for key in self.keys if key in made} | {key: value for key, value in made.items() if key not in self.keys}

    def to_json(self) -> str:
        """JSON text with a `schema` version."""
        return dumps({"schema": SCHEMA, "rewrites": self.rewrites, "left": self.left, "proof": self.proof})

    def rows(self) -> list[tuple[str, str, float, float | None, str]]:
        """Each rewrite for a table: kind, modules, largest difference, speed-up, and what became of it."""
        return [
            (
                r.kind,
                shortened(r.modules),
                r.proof.worst,
                r.ratio,
                f"kept as {r.into or '(model)'}" if r.kept else f"not kept: {r.reason}",
            )
            for r in self.rewrites
        ]

    def reasons(self) -> list[tuple[str, str]]:
        """The modules that were left alone, joined, and why."""
        reasons: dict[str, list[str]] = {}
        for each in self.left:
            reasons.setdefault(each.reason, []).append(each.path or "(model)")
        return [(shortened(tuple(paths)), reason) for reason, paths in reasons.items()]

    def __repr__(self) -> str:
        lines = [f"{len(self.kept)} of {len(self.rewrites)} rewrites kept, {len(self.left)} modules left alone"]
        if self.proof is not None:
            lines[0] += f"; outputs and gradients equal to {self.proof.worst:.1e} (float64)"
        width = max((len(rewrite.kind) for rewrite in self.rewrites), default=0)
        for kind, modules, gap, ratio, verdict in self.rows():
            time = "" if ratio is None else f" {ratio:.2f}x"
            lines.append(f"  {kind:<{width}} {modules}: {gap:.1e}{time}, {verdict}")
        lines += [f"  left {paths}: {reason}" for paths, reason in self.reasons()]
        return "\n".join(lines)


def shortened(names: tuple[str, ...]) -> str:
    """The names, those in the middle left out where there are many.

    >>> shortened(("a", "b", "c", "d", "e"))
    'a, b, … e (5)'
    """
    return ", ".join(names) if len(names) < 5 else f"{names[0]}, {names[1]}, … {names[-1]} ({len(names)})"
