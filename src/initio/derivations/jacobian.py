"""∂y_L/∂y_ℓ as a product of named factors read off the graph, and its check by a vector: uᵀJ against `torch.func.vjp`.

The check multiplies a random row vector u through the factors of the formula, each by its own definition (the weight
matrix, σ′, 1/σ (I − 11ᵀ/n − x̂x̂ᵀ/n), …), in float64 on one draw of the model. uᵀJ agrees for a random u only if J does.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from initio.core.functions import FUNCTIONS
from initio.core.record import Ref
from initio.core.scalar import Scalar
from initio.derivations.derivation import Verification
from initio.derivations.graph import Factor, FactorGraph, Product, Sum, Tree
from initio.derivations.replaying import Values, draw, run, run_nodes

__all__ = ["Numbers", "expression", "identity", "symbol"]

TOLERANCE = 1e-9
identity: Any = sp.Symbol("I", commutative=False)


def symbol(name: str) -> Any:
    """A matrix as a symbol that does not commute."""
    return sp.Symbol(name, commutative=False)


def expression(tree: Tree) -> Any:
    """The formula: products from the output side to the input side; entries that only move are left out."""
    if isinstance(tree, Factor):
        return identity if tree.letter in ("I", "") else symbol(tree.name)
    parts = [expression(part) for part in tree.parts]
    if isinstance(tree, Sum):
        return sp.Add(*parts)
    kept = [part for part in parts if part != identity]
    return sp.Mul(*kept) if kept else identity


@dataclass
class Numbers:
    """One draw of the model in float64: values, and row vectors carried through the factors."""

    graph: FactorGraph
    seed: int = 0
    generic: bool | str = True
    given: Values = field(init=False)
    env: Values = field(init=False)
    u: Tensor = field(init=False)
    rows: dict[int, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.given = draw(self.graph.record, self.seed, self.generic)
        with torch.no_grad():
            self.env = run(self.graph.record, self.given, self.seed)
        shape = self.env[self.graph.output].shape
        self.u = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed + 1), dtype=torch.float64)
        self.rows = {self.graph.output: self.u}

    def row(self, value: int) -> Tensor:
        """uᵀ ∂out/∂value by the factors."""
        chain = [value]
        while chain[-1] not in self.rows:
            chain.append(self.graph.dominator[chain[-1]])
        for here in reversed(chain[:-1]):
            self.rows[here] = self.through(self.graph.segment(here), self.rows[self.graph.dominator[here]])
        return self.rows[value]

    def through(self, tree: Tree, row: Tensor) -> Tensor:
        """rowᵀ tree."""
        if isinstance(tree, Product):
            for part in tree.parts:
                row = self.through(part, row)
            return row
        if isinstance(tree, Sum):
            parts = [self.through(part, row) for part in tree.parts]
            total = parts[0].clone()
            for part in parts[1:]:
                total += part
            return total
        return self.factor(tree, row)

    def factor(self, factor: Factor, row: Tensor) -> Tensor:
        """rowᵀ times one factor, by its definition where there is one, else by `torch.func` on that call alone."""
        event = self.graph.events[factor.event]
        inner = [node for node in event.nodes if node.op.split(".")[1] not in ("detach", "t")]
        if len(inner) == 1 or all(n.op.split(".")[1] in ("view", "_unsafe_view", "addmm", "mm") for n in inner):
            core = next((n for n in inner if n.op.split(".")[1] not in ("view", "_unsafe_view")), inner[0] if inner else event.nodes[0])
            made = _DEFINED.get(core.op.split(".")[1].removesuffix("_"))
            if made is not None:
                out = made(self, core, factor, row)
                if out is not None:
                    return out
        return self.local(factor, row)

    def local(self, factor: Factor, row: Tensor) -> Tensor:
        """torch.func.vjp of the nodes of one event, random masks kept."""
        record, event = self.graph.record, self.graph.events[factor.event]
        depends, nodes = {factor.source}, []
        for node in event.nodes:
            if any(v in depends for v in node.inputs):
                depends.update(o for o in node.outputs if o is not None)
                nodes.append(node)
        if any(node.op.startswith("aten.native_dropout") for node in nodes):
            node = next(n for n in nodes if n.op.startswith("aten.native_dropout"))
            mask = self.env[node.outputs[1]]  # pyright: ignore[reportArgumentType]
            return row * mask / (1 - float(node.args[1]))
        outside = {v: self.env[v] for node in nodes for v in node.inputs if v in self.env and v not in depends}

        def call(x: Tensor) -> Tensor:
            return run_nodes(nodes, {**outside, factor.source: x}, record)[factor.target]

        pull: Any = torch.func.vjp(call, self.env[factor.source])[1]
        return pull(row.reshape(self.env[factor.target].shape))[0]

    def truth(self, points: list[int], parameters: list[int]) -> dict[int, Tensor]:
        """uᵀ ∂out/∂v of every point and parameter by `torch.func.vjp` of the whole pass."""
        graph = self.graph

        def whole(probes: dict[str, Tensor], weights: dict[str, Tensor]) -> Tensor:
            given = {**self.given, **{int(k): w for k, w in weights.items()}}
            replaced = {int(k): functools.partial(torch.add, p) for k, p in probes.items()}
            return run(graph.record, given, self.seed, replaced)[graph.output]

        zeros = {str(v): torch.zeros_like(self.env[v]) for v in points}
        weights = {str(p): self.given[p] for p in parameters}
        pull: Any = torch.func.vjp(whole, zeros, weights)[1]
        for_points, for_weights = pull(self.u)
        return {int(k): t for found in (for_points, for_weights) for k, t in found.items()}


def difference(said: Tensor, found: Tensor) -> float:
    """‖said − found‖ / ‖found‖ (‖said‖ where nothing was found)."""
    scale = float(found.norm()) or float(said.norm()) or 1.0
    return float((said.reshape(found.shape) - found).norm()) / scale


def verdict(error: float, how: str, said: Tensor | None = None, found: Tensor | None = None) -> Verification:
    """Verified within 1e-9, else refuted with the entry that differs most."""
    if error <= TOLERANCE:
        return Verification("verified", how, error=error, tolerance=TOLERANCE)
    if said is None or found is None:
        return Verification("refuted", how, error=error, tolerance=TOLERANCE)
    at = int((said.reshape(found.shape) - found).abs().argmax())
    return Verification("refuted", how, f"{float(said.flatten()[at]):.6g}", f"{float(found.flatten()[at]):.6g}", error, TOLERANCE)


# -- factors by their definition ---------------------------------------------------------------------------------


def _linear(numbers: Numbers, node: Any, factor: Factor, row: Tensor) -> Tensor | None:
    """δᵀ A, row by row."""
    addmm = node.op.split(".")[1] == "addmm"
    left, right = (node.args[1], node.args[2]) if addmm else (node.args[0], node.args[1])
    x, w = numbers.env[left.value], numbers.env[right.value]
    source = numbers.env[factor.source]
    if x.numel() != source.numel() or x.shape[-1] != source.shape[-1] or node.kwargs:
        return None
    if not torch.equal(x.reshape(source.shape), source):
        return None
    return (row.reshape(-1, w.shape[1]) @ w.T).reshape(source.shape)


def _activation(numbers: Numbers, node: Any, factor: Factor, row: Tensor) -> Tensor | None:
    """Row · σ′(z), σ′ from the tables of core."""
    name = node.op.split(".")[1].removesuffix("_")
    extra = [a for a in node.args[1:] if not isinstance(a, Ref)]
    entry = FUNCTIONS.get(name)
    if entry is None or len(extra) != len(node.args) - 1:
        return None
    scalar = entry if isinstance(entry, Scalar) else entry(*extra, **dict(node.kwargs))
    slope = scalar.derivative
    if slope is None:
        return None
    return row.reshape(numbers.env[factor.source].shape) * torch.from_numpy(slope(numbers.env[factor.source].numpy()))


def _normalise(x: Tensor, dims: tuple[int, ...], scaled: Tensor, eps: float) -> Tensor:
    """(1/s)(g − mean g − x̂ mean(g x̂)) over `dims`."""
    centred = x - x.mean(dims, keepdim=True)
    s = (centred.square().mean(dims, keepdim=True) + eps).sqrt()
    hat = centred / s
    return (scaled - scaled.mean(dims, keepdim=True) - hat * (scaled * hat).mean(dims, keepdim=True)) / s


def _layer_norm(numbers: Numbers, node: Any, factor: Factor, row: Tensor) -> Tensor | None:
    """Over the last dimensions, scaled by γ."""
    x = numbers.env[factor.source]
    dims = tuple(range(-len(node.args[1]), 0))
    weight = 1.0 if node.args[2] is None else numbers.env[node.args[2].value]
    return _normalise(x, dims, row.reshape(x.shape) * weight, node.args[4])


def _batch_norm(numbers: Numbers, node: Any, factor: Factor, row: Tensor) -> Tensor | None:
    """Over samples and positions of a channel, in training mode."""
    x = numbers.env[factor.source]
    if node.args[0].value != factor.source or not node.args[5]:
        return None
    over = tuple(d for d in range(x.dim()) if d != 1)
    shape = [1, -1, *(1,) * (x.dim() - 2)]
    weight: Any = 1.0 if node.args[1] is None else numbers.env[node.args[1].value].reshape(shape)
    return _normalise(x, over, row.reshape(x.shape) * weight, node.args[7])


def _add(numbers: Numbers, node: Any, factor: Factor, row: Tensor) -> Tensor | None:
    """The identity, summed over what was broadcast."""
    operands = [a.value for a in node.args[:2] if isinstance(a, Ref)]
    alpha = node.kwargs.get("alpha", 1)
    scale = sum((alpha if i else 1) for i, v in enumerate(operands) if v == factor.source)
    return row.sum_to_size(numbers.env[factor.source].shape) * scale


def _softmax(numbers: Numbers, node: Any, factor: Factor, row: Tensor) -> Tensor | None:
    """Row (diag p − p pᵀ)."""
    del factor
    p, dim = numbers.env[node.outputs[0]], node.args[1]
    return p * (row - (row * p).sum(dim, keepdim=True))


def _group_norm(numbers: Numbers, node: Any, factor: Factor, row: Tensor) -> Tensor | None:
    """Over the channels and positions of a group, scaled by γ."""
    x = numbers.env[factor.source]
    if node.args[0].value != factor.source:
        return None
    groups, eps = node.args[6], node.args[7]
    weight: Any = 1.0 if node.args[1] is None else numbers.env[node.args[1].value].reshape(1, -1, *(1,) * (x.dim() - 2))
    inside = (x.shape[0], groups, -1)
    return _normalise(x.reshape(inside), (-1,), (row.reshape(x.shape) * weight).reshape(inside), eps).reshape(x.shape)


def _cat(numbers: Numbers, node: Any, factor: Factor, row: Tensor) -> Tensor | None:
    """The block of the row that stands where the operand went: [0 I 0]ᵀ, summed where it went several times."""
    operands = [numbers.env[a.value] for a in node.args[0]]
    dim = node.args[1] if len(node.args) > 1 else 0
    blocks = row.split([0 if x.shape == (0,) else x.shape[dim] for x in operands], dim)  # cat passes over empty vectors
    mine = [block for a, block in zip(node.args[0], blocks, strict=True) if a.value == factor.source]
    return sum(mine[1:], mine[0]) if mine else None


_SLOPED = ("relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "hardtanh", "hardswish", "softplus", "mish")
_DEFINED: dict[str, Any] = {
    "addmm": _linear, "mm": _linear, "native_layer_norm": _layer_norm, "native_batch_norm": _batch_norm, "add": _add,
    "native_group_norm": _group_norm, "cat": _cat,
    "_softmax": _softmax, "_safe_softmax": _softmax,
    **dict.fromkeys(_SLOPED, _activation),
}  # fmt: skip
