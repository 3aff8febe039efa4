"""The forward pass as a graph of factors: values that pass from call to call, each call a named local Jacobian.

∂out/∂v is the sum over the paths from v of the products of their factors. Post-dominators (values that every path
passes) cut it into a product of segments; a segment with several branches is a sum, each branch a product again.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from initio.core.record import Node, Record

__all__ = ["Event", "Factor", "FactorGraph", "Product", "Sum", "Tree"]

VIEWS = {
    "view", "reshape", "transpose", "permute", "flatten", "unflatten", "contiguous", "unsqueeze", "squeeze", "t", "clone", "detach",
    "alias", "expand", "_unsafe_view", "swapaxes", "movedim", "__get__", "to", "_to_copy", "type", "float", "identity", "lift_fresh",
}  # fmt: skip
LETTERS: dict[str, str] = {
    "mm": "A", "addmm": "A", "linear": "A", "convolution": "C", "relu": "S", "gelu": "S", "silu": "S", "tanh": "S", "sigmoid": "S",
    "elu": "S", "leaky_relu": "S", "hardtanh": "S", "hardswish": "S", "hardsigmoid": "S", "softplus": "S", "mish": "S",
    "_prelu_kernel": "S",
    "abs": "S", "clamp": "S", "clamp_min": "S", "sin": "S", "cos": "S", "exp": "S", "erf": "S", "pow": "S", "celu": "S", "threshold": "S",
    "native_layer_norm": "N", "native_batch_norm": "N", "cudnn_batch_norm": "N", "_native_batch_norm_legit": "N", "native_group_norm": "N",
    "_fused_rms_norm": "N", "native_dropout": "D", "bernoulli": "D", "max_pool2d_with_indices": "M", "avg_pool2d": "P", "mean": "P",
    "_adaptive_avg_pool2d": "P", "add": "I", "sub": "I", "mul": "G", "div": "G", "_softmax": "Σ", "bmm": "B",
    "_safe_softmax": "Σ", "cat": "E", "select": "E", "slice": "E", "split": "E", "embedding": "W", "stack": "E", "neg": "I",
}  # fmt: skip
SLOPED = {name for name, letter in LETTERS.items() if letter == "S"}
_PLAIN = ("add", "sub", "rsub", "mul", "div", "neg", "detach", "alias", "clone", "reciprocal", "sqrt", "log", "log1p", "where", "gt", "lt")
POINTWISE = SLOPED.union(_PLAIN)
MEANING = {
    "A": "weight matrix of a linear map", "C": "matrix of a convolution", "S": "diag σ′, of the activation",
    "N": "Jacobian of a norm: scale, centring, projection off x̂", "D": "diagonal mask of dropout, over 1−p", "M": "selection of maxima",
    "P": "average", "I": "identity", "G": "diagonal of the other factor", "Σ": "diag p − p pᵀ, of a softmax",
    "B": "product with the other operand", "E": "embedding of a part, or selection of it", "T": "attention, with respect to its operand",
    "H": "multi-head attention with its projections", "F": "the named operation",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """The nodes of one call at the level of torch: `linear`, `relu`, `scaled_dot_product_attention`."""

    id: int
    function: str
    module: str
    nodes: tuple[Node, ...]

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of its ATen operations."""
        return tuple(node.op.split(".")[1].removesuffix("_") for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Factor:
    """The Jacobian of one event from value `source` to value `target`: `letter` with `index`, or a bare identity."""

    letter: str
    index: int
    event: int
    source: int
    target: int
    mark: str = ""

    @property
    def name(self) -> str:
        """A_3, S_3, I."""
        if self.letter in ("I", ""):
            return "I"
        return f"{self.letter}{self.mark}_{self.index}"


@dataclass(frozen=True, slots=True)
class Product:
    """Factors from the output side (left) to the input side (right)."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Branches of a segment."""

    parts: tuple[Tree, ...]


Tree = Factor | Product | Sum


def size(tree: Tree) -> int:
    """Number of factors."""
    return 1 if isinstance(tree, Factor) else sum(size(part) for part in tree.parts)


@dataclass
class FactorGraph:
    """Values between the events that lie on a path from the inputs to the chosen output."""

    record: Record
    output: int
    events: dict[int, Event] = field(default_factory=dict[int, Event])
    out_edges: dict[int, list[Factor]] = field(default_factory=dict[int, list[Factor]])
    roots: tuple[int, ...] = ()

    @classmethod
    def of(cls, record: Record, output: int | None = None) -> FactorGraph:
        """Read the graph off a record; the output is the first floating one of the model."""
        if output is None:
            output = next(o.value for o in record.outputs if record.values[o.value].floating)
        made = cls(record, output)
        made._build()
        return made

    def _build(self) -> None:
        record = self.record
        forward = [node for node in record.nodes if node.phase == "forward" and not node.constant]
        groups: dict[int, list[Node]] = {}
        self._home = self._homes(forward)
        for node in forward:
            groups.setdefault(self._home[node.id], []).append(node)
        self.events = {key: Event(key, nodes[0].function, nodes[0].module, tuple(nodes)) for key, nodes in groups.items()}
        reached = self._reached(forward)
        edges = self._edges(reached)
        alive = {self.output}
        for source, target, _ in reversed(edges):
            if target in alive:
                alive.add(source)
        self._name([edge for edge in edges if edge[1] in alive])
        targets = {f.target for factors in self.out_edges.values() for f in factors}
        self.roots = tuple(v for v in self.out_edges if v not in targets)

    def _homes(self, forward: list[Node]) -> dict[int, int]:
        """Node → event. A module without children that only computes entry by entry (an activation written out) is one event."""
        home = {node.id: node.event if node.event >= 0 else -2 - node.id for node in forward}
        parents = {call.parent for call in self.record.calls}
        inside: dict[int, list[Node]] = {}
        for node in forward:
            inside.setdefault(node.call, []).append(node)
        for call, nodes in inside.items():
            names = {node.op.split(".")[1].removesuffix("_") for node in nodes}
            leaf = call >= 0 and call not in parents and len(self.record.calls[call].inputs) == 1
            if leaf and names <= POINTWISE and len({home[node.id] for node in nodes}) > 1 and names & SLOPED:
                home.update({node.id: -1_000_000_000 - call for node in nodes})
        return home

    def _reached(self, forward: list[Node]) -> set[int]:
        """Floating values that depend on floating inputs, or on what ids select."""
        values = self.record.values
        dependent = {item.value for item in self.record.inputs}
        for node in forward:
            if any(v in dependent for v in node.inputs):
                dependent.update(out for out in node.outputs if out is not None)
        return {v for v in dependent if values[v].floating}

    def _edges(self, reached: set[int]) -> list[tuple[int, int, int]]:
        """(value, value, event) for every event and every pair of its outer operands and results that depend on each other."""
        home = {out: e.id for e in self.events.values() for node in e.nodes for out in node.outputs if out is not None}
        used_outside: set[int] = {self.output}
        for event in self.events.values():
            for node in event.nodes:
                used_outside.update(v for v in node.inputs if home.get(v) != event.id)
        edges: list[tuple[int, int, int]] = []
        for event in self.events.values():
            inputs = dict.fromkeys(v for node in event.nodes for v in node.inputs if v in reached and home.get(v) != event.id)
            for source in inputs:
                inside = {source}
                for node in event.nodes:
                    if any(v in inside for v in node.inputs):
                        inside.update(out for out in node.outputs if out in reached)
                edges += [
                    (source, out, event.id)
                    for out in dict.fromkeys(o for n in event.nodes for o in n.outputs)
                    if out in inside and out in used_outside
                ]  # pyright: ignore[reportArgumentType]
        return edges

    def _name(self, edges: list[tuple[int, int, int]]) -> None:
        weights = 0
        count: dict[str, int] = {}
        seen: dict[int, tuple[str, int]] = {}
        taken: set[tuple[str, int]] = set()
        for source, target, key in edges:
            event = self.events[key]
            if key not in seen:
                letter = self._letter(event)
                if letter in ("A", "C", "H"):
                    weights += 1
                    index = weights
                elif letter in ("S", "D") and (letter, weights) not in taken:
                    index = weights
                else:
                    count[letter] = count.get(letter, 0) + 1
                    index = count[letter]
                    while letter in ("S", "D") and (letter, index) in taken:
                        index += 1
                taken.add((letter, index))
                seen[key] = letter, index
            letter, index = seen[key]
            mark = self._mark(event, source, edges) if letter in ("T", "B", "G") else ""
            self.out_edges.setdefault(source, []).append(Factor(letter, index, key, source, target, mark))

    def _letter(self, event: Event) -> str:
        ops = event.ops
        if "multi_head" in event.function:
            return "H"
        if "attention" in event.function or any("attention" in op for op in ops):
            return "T"
        if event.id <= -1_000_000_000:
            return "S"
        known = [LETTERS[op] for op in ops if op in LETTERS]
        for letter in ("C", "A", "N", "D", "Σ", "B", "M", "S", "E", "P", "G", "I"):
            if letter in known:
                return letter
        return "" if all(op in VIEWS for op in ops) else "F"

    def _mark(self, event: Event, source: int, edges: list[tuple[int, int, int]]) -> str:
        operands = list(dict.fromkeys(s for s, _, key in edges if key == event.id))
        if len(operands) < 2:
            return ""
        names = ("q", "k", "v") if len(operands) == 3 else ("l", "r")
        place = operands.index(source)
        return f"^{names[place]}" if place < len(names) else f"^{place + 1}"

    @cached_property
    def dominator(self) -> dict[int, int]:
        """Value → the next value that every path to the output passes (immediate post-dominator)."""
        order = self.order
        depth = {self.output: 0}
        parent = {self.output: self.output}
        for value in reversed(order):
            if value == self.output:
                continue
            targets = [f.target for f in self.out_edges.get(value, []) if f.target in depth]
            if not targets:
                continue
            meet = targets[0]
            for other in targets[1:]:
                a, b = meet, other
                while a != b:
                    if depth[a] >= depth[b]:
                        a = parent[a]
                    else:
                        b = parent[b]
                meet = a
            parent[value] = meet
            depth[value] = depth[meet] + 1
        return parent

    @cached_property
    def order(self) -> list[int]:
        """Values in the order in which they come to be."""
        position = {out: node.id for node in self.record.nodes for out in node.outputs if out is not None}
        values = {self.output, *self.out_edges}
        return sorted(values, key=lambda v: position.get(v, -1))

    def spine(self, start: int) -> list[int]:
        """start, …, output: the values that every path from `start` passes."""
        chain = [start]
        while chain[-1] != self.output:
            chain.append(self.dominator[chain[-1]])
        return chain

    def segment(self, value: int) -> Tree:
        """∂p/∂v with p the post-dominator of v."""
        memo = self.__dict__.setdefault("_segments", {})
        if value not in memo:
            end = self.dominator[value]
            branches: list[Tree] = [self._then(factor, end) for factor in self.out_edges[value] if factor.target in self.dominator]
            memo[value] = branches[0] if len(branches) == 1 else Sum(tuple(branches))
        return memo[value]

    def _then(self, factor: Factor, end: int) -> Tree:
        rest = self.between(factor.target, end)
        return Product((*rest, factor)) if rest else factor

    def between(self, value: int, end: int) -> tuple[Tree, ...]:
        """Segments from `end` (left) to `value` (right)."""
        found: list[Tree] = []
        while value != end:
            part = self.segment(value)
            found.insert(0, part)
            value = self.dominator[value]
        return tuple(part for outer in found for part in (outer.parts if isinstance(outer, Product) else (outer,)))
