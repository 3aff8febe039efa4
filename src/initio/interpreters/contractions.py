"""Which weight enters which contraction of a record, what its output feeds, and which cotangents it passes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from initio.core.record import Node, Parameter, Record

__all__ = ["Back", "Contractions", "Use", "name_of"]

CONTRACTIONS = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "matmul", "mv", "addmv", "embedding"})
SHAPES = ["t", "transpose", "permute", "view", "reshape", "_unsafe_view", "_reshape_alias", "expand", "unsqueeze", "squeeze"]
PIECES = ["slice", "select", "split", "split_with_sizes", "unsafe_split", "chunk", "unbind"]
PLUMBING = frozenset([*SHAPES, *PIECES, "detach", "clone", "alias", "_to_copy"])
SUMS = frozenset({"add", "sub"})
ERRORS = 5.0
"""Standard errors of the mean of a given tensor's entries within which they count as drawn around zero."""


@dataclass(frozen=True, slots=True)
class Use:
    """One contraction of an activation with a weight; `module` is the innermost module that returns its result ("": none does)."""

    node: int
    weight: int
    out: int
    module: str | None
    table: bool


@dataclass(frozen=True, slots=True)
class Back:
    """The way of a cotangent through a weight: `above` arrives, and `ends` are what it has become at the next weights (or at a join)."""

    weight: int
    above: int
    ends: tuple[int, ...]


def name_of(node: Node) -> str:
    """Base name of a node's operation: mm of aten.mm.default, add of aten.add_.Tensor."""
    return node.op.split(".")[1].rstrip("_")


class Contractions:
    """The weights of a record that a gain can be chosen for, and where they are used.

    `left` says of every other matrix why it is not among them. `biases` are the drawn vectors that are added to a contraction's output;
    `ends` the weights that end a residual branch, each with whether a norm follows before the sum; `joins` the number of residual sums;
    `inputs` and `readouts` the weights before and after which no other weight comes.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.weights: dict[int, Parameter] = {}
        self.left: dict[str, str] = {}
        self.biases: set[str] = set()
        self.uses: dict[int, Use] = {}
        self.chains: dict[int, list[Node]] = {}
        self.ends: dict[int, bool] = {}
        self.joins = 0
        self.inputs: set[int] = set()
        self.readouts: set[int] = set()
        self._select()
        self._forward()
        for value in [value for value in self.weights if value not in {use.weight for use in self.uses.values()}]:
            p = self.weights.pop(value)
            self.left.setdefault(p.name, "enters no contraction with a signal as it is (a position code, a reparametrised weight)")
        self.back = tuple(self._backward())

    def tables(self) -> set[int]:
        """Weights that are looked up, never multiplied."""
        multiplied = {use.weight for use in self.uses.values() if not use.table}
        return {use.weight for use in self.uses.values()} - multiplied

    def tied(self) -> set[int]:
        """Weights that are looked up at one place and multiplied at another."""
        return {use.weight for use in self.uses.values() if use.table} - self.tables()

    def fan_in(self, use: Use) -> int:
        """Terms of each sum in the contraction."""
        channels = 1 if "convolution" in self.record.nodes[use.node].op else -1
        return self.record.values[use.weight].size // self.record.values[use.out].shape[channels]

    def _select(self) -> None:
        for p in self.record.parameters:
            law = p.distribution
            if p.buffer or len(self.record.values[p.value].shape) < 2:
                continue
            if not p.trainable:
                self.left[p.name] = "it is frozen"
            elif law.zero:
                self.left[p.name] = "exactly zero on purpose (the end of a branch, or a gate)"
            elif law.std == 0 or p.value in self.record.constants:
                self.left[p.name] = "its values are given, not drawn"
            elif (
                abs(law.mean)
                > (ERRORS / self.record.values[p.value].size ** 0.5 if law.family in ("values", "program") else 1e-9) * law.std
            ):
                self.left[p.name] = "its mean is not zero: no gain makes its output a fresh signal"
            else:
                self.weights[p.value] = p

    def _forward(self) -> None:
        root = {value: value for value in self.weights}
        self.chains = {value: [] for value in self.weights}
        biases = {p.value: p for p in self.record.parameters if self._drawn_vector(p)}
        depth = {i.value: 0 for i in self.record.inputs}
        last: dict[int, dict[int, bool]] = {}
        sources: dict[int, set[int]] = {}
        results: set[int] = set()
        for node in self.record.nodes:
            if node.phase != "forward" or node.constant:
                continue
            name, outs = name_of(node), [o for o in node.outputs if o is not None]
            if name in PLUMBING and node.inputs and node.inputs[0] in root:
                self.chains[root[node.inputs[0]]].append(node)
                root |= dict.fromkeys(outs, root[node.inputs[0]])
                continue
            if name in PLUMBING and node.inputs and node.inputs[0] in biases:
                biases |= dict.fromkeys(outs, biases[node.inputs[0]])
                continue
            signals = [v for v in node.inputs if v not in root and v not in biases]
            deep = max((depth.get(v, 0) for v in signals), default=0)
            ends = _merged(last.get(v, {}) for v in signals)
            behind = {weight for v in signals for weight in sources.get(v, ())}
            weights = [root[v] for v in node.inputs if v in root]
            if name in CONTRACTIONS and len(weights) == 1 and outs:
                self.uses[node.id] = Use(node.id, weights[0], outs[0], self._module(node), name == "embedding")
                if not behind:
                    self.inputs.add(weights[0])
                self.readouts = (self.readouts | {weights[0]}) - behind
                deep, ends, behind = deep + 1, {weights[0]: False}, {weights[0]}
                self.biases |= {biases[v].name for v in node.inputs if v in biases}
                results |= set(outs)
            elif name in CONTRACTIONS and len(weights) > 1:
                self.left |= {
                    self.weights[w].name: "multiplied with another weight before it meets a signal" for w in weights if w in self.weights
                }
            elif name in SUMS and any(v in biases for v in node.inputs) and any(v in results for v in signals):
                self.biases |= {biases[v].name for v in node.inputs if v in biases}
                results |= set(outs)
            elif name in SUMS and len(signals) == 2 and len({depth.get(v, 0) for v in signals}) == 2 and all(v in depth for v in signals):
                branch = max(signals, key=lambda v: depth[v])
                self.ends |= last.get(branch, {})
                self.joins += 1
                ends = {}
            elif name in PLUMBING and results & set(signals):
                results |= set(outs)
            elif "norm" in name or name in ("rsqrt", "std"):
                ends = dict.fromkeys(ends, True)
            depth |= dict.fromkeys(outs, deep)
            last |= dict.fromkeys(outs, ends)
            sources |= dict.fromkeys(outs, behind)

    def _drawn_vector(self, p: Parameter) -> bool:
        shape = self.record.values[p.value].shape
        return not p.buffer and p.trainable and len(shape) == 1 and p.value not in self.record.constants and p.distribution.std > 0

    def _module(self, node: Node) -> str | None:
        """The innermost module whose result is this node's, up to a view or a bias."""
        if node.call < 0:
            return None
        reached = {o for o in node.outputs if o is not None}
        call = self.record.calls[node.call]
        for later in self.record.nodes[node.id + 1 :]:
            if reached & set(call.outputs) or later.call != node.call:
                break
            if name_of(later) in (*PLUMBING, *SUMS) and later.inputs and later.inputs[0] in reached:
                reached |= {o for o in later.outputs if o is not None}
        return call.module if reached & set(call.outputs) else None

    def _backward(self) -> Iterator[Back]:
        """Follow each cotangent from a weight's contraction down to where the next weights take it up."""
        gradients = self._gradients()
        root = {value: value for value in self.weights}
        for chain in self.chains.values():
            for node in chain:
                root |= {o: root[node.inputs[0]] for o in node.outputs if o is not None and node.inputs[0] in root}
        readers: dict[int, list[Node]] = {}
        takes: dict[int, tuple[int, int]] = {}
        stops: set[int] = set()
        for node in self.record.nodes:
            if node.phase != "backward":
                continue
            name = name_of(node)
            for value in dict.fromkeys(node.inputs):
                readers.setdefault(value, []).append(node)
            if name in PLUMBING and node.inputs and node.inputs[0] in root:
                root |= {o: root[node.inputs[0]] for o in node.outputs if o is not None}
            elif name in ("mm", "bmm", "convolution_backward"):
                weights = [v for v in node.inputs if v in root]
                others = [v for v in node.inputs if v not in root]
                out = node.outputs[0]
                if len(weights) == 1 and others:
                    stops.add(others[0])
                    if out is not None and out not in gradients:
                        takes.setdefault(root[weights[0]], (others[0], out))
            elif name == "add" or name.startswith("embedding"):
                stops |= set(node.inputs)
        for weight, (above, below) in takes.items():
            if weight in self.weights:
                yield Back(weight, above, tuple(self._ends(below, readers, stops, gradients)))

    def _gradients(self) -> set[int]:
        """The values that are only ever (views or sums of) a parameter's gradient."""
        makers = self.record.producers()
        found: set[int] = set()
        for p in self.record.parameters:
            value = p.gradient
            while value is not None and value not in found:
                found.add(value)
                maker = makers.get(value)
                value = maker.inputs[0] if maker is not None and maker.inputs and name_of(maker) in PLUMBING else None
        return found

    def _ends(self, below: int, readers: dict[int, list[Node]], stops: set[int], gradients: set[int]) -> Iterator[int]:
        stack, visited = [below], set[int]()
        while stack:
            value = stack.pop()
            if value in visited or value in gradients or not self.record.values[value].floating:
                continue
            visited.add(value)
            if value in stops or value not in readers:
                yield value
            else:
                stack += [o for node in readers[value] for o in node.outputs if o is not None]


def _merged(ends: Iterable[dict[int, bool]]) -> dict[int, bool]:
    found: dict[int, bool] = {}
    for each in ends:
        for weight, normed in each.items():
            found[weight] = found.get(weight, False) or normed
    return found
