"""What a step costs: parameters, multiply-accumulates, bytes moved and memory, by module and by operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from initio.core.plain import dumps
from initio.core.polynomial import Polynomial

__all__ = ["SCHEMA", "Attention", "Counts", "Memory", "ModuleCount", "OpCount", "Optimizer", "Parameters", "Uncounted", "Work"]

SCHEMA = "initio.counts/1"
Attention = Literal["fused", "math"]
Optimizer = Literal["sgd", "momentum", "adam"]
STATES: Mapping[str, int] = {"sgd": 0, "momentum": 1, "adam": 2}
"""Tensors of a parameter's size that an optimizer keeps beside it."""
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Entries of parameters and buffers; a tensor that has several names counts once.

    `frozen` ones do not require a gradient, `loose` ones are reached through plain lists or attributes only, so that no
    optimizer sees them (neither trainable nor frozen). `tied` is the part of `total` that has further names.
    """

    trainable: int = 0
    frozen: int = 0
    loose: int = 0
    tied: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        """All parameters; buffers are none."""
        return self.trainable + self.frozen + self.loose

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(
            self.trainable + other.trainable,
            self.frozen + other.frozen,
            self.loose + other.loose,
            self.tied + other.tied,
            self.buffers + other.buffers,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """Arithmetic of contractions (matrix products, convolutions, attention), and the rest beside it.

    `macs` are multiply-accumulates, `flops` = 2 `macs`; biases, norms, activations and losses are in neither. `weights` is the part of
    `macs` in which one factor is a parameter; the rest multiplies activations with each other (attention). `entries` are those that the
    other arithmetic handles: for each operation the larger of what it reads and writes. `moved` are the bytes that all operations
    read and write, each on its own, without fusion; a fused attention reads and writes its operands only.
    """

    macs: int = 0
    weights: int = 0
    entries: int = 0
    moved: int = 0

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs

    @property
    def products(self) -> int:
        """Multiply-accumulates between activations: attention."""
        return self.macs - self.weights

    @property
    def intensity(self) -> float:
        """FLOPs for each byte moved; 0 where nothing is."""
        return self.flops / self.moved if self.moved else 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.weights + other.weights, self.entries + other.entries, self.moved + other.moved)


@dataclass(frozen=True, slots=True)
class ModuleCount:
    """One module: `own` what stands in it directly, without a name cumulative over all below it.

    `parameters` is what `module.parameters()` yields: a tensor tied to another module counts in both, once in what holds both.
    `inputs` and `outputs` are the shapes of the first call's floating tensors. `saved` are the bytes that its operations keep
    for the backward pass; memory that several keep belongs to the first.
    """

    path: str
    kind: str
    calls: int
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    parameters: Parameters
    own_parameters: Parameters
    forward: Work
    own_forward: Work
    backward: Work
    own_backward: Work
    saved: int
    own_saved: int


@dataclass(frozen=True, slots=True)
class OpCount:
    """All nodes of one operation in one phase. `function` names the torch-level call where it is attention."""

    op: str
    phase: str
    function: str
    nodes: int
    work: Work


@dataclass(frozen=True, slots=True)
class Uncounted:
    """An operation that no formula covers: what it computes is in no sum."""

    op: str
    nodes: int
    module: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one training step, in the dtypes that were recorded; memory that several tensors share counts once.

    `saved` is kept from the forward pass for the backward pass, without parameters and buffers: all storages of forward values
    that a backward operation reads (`storages` of them), the model's input among them where it is read. `peak` is the largest sum of
    storages alive at once beside parameters and buffers, gradients included; a storage lives from the operation that makes it to the last
    that reads it. `peak_at` is the operation at which that is, `peak_phase` its phase. `state` is what the optimizer keeps for each
    parameter in bytes, times `STATES`.
    """

    parameters: int
    buffers: int
    gradients: int
    inputs: int
    saved: int
    storages: int
    peak: int
    peak_at: str
    peak_phase: str
    state: int
    tensors: int

    def optimizer(self, name: Optimizer = "adam") -> int:
        """Bytes of the optimizer's state: none (SGD), one momentum, or two moments and a 4-byte step count a tensor (Adam)."""
        return STATES[name] * self.state + (4 * self.tensors if name == "adam" else 0)

    def training(self, name: Optimizer = "adam") -> int:
        """Peak of a step from the second on: parameters, buffers, optimizer state, and the larger of the peak and the gradients."""
        return self.parameters + self.buffers + self.optimizer(name) + max(self.peak, self.gradients)


@dataclass(frozen=True)
class Counts:
    """The cost of one step. `modules[0]` is the model; `attention` says how scaled dot-product attention was taken.

    `symbolic` holds exact polynomials by quantity where they were asked for: "forward.macs", …, and "PATH:forward.macs" of a module.
    """

    target: str
    modules: tuple[ModuleCount, ...] = field(repr=False)
    ops: tuple[OpCount, ...] = field(repr=False)
    memory: Memory
    uncounted: tuple[Uncounted, ...] = ()
    attention: Attention = "fused"
    inputs: tuple[tuple[str, Shape, str], ...] = ()
    notes: tuple[str, ...] = ()
    symbolic: Mapping[str, Polynomial] = field(default_factory=dict[str, Polynomial], repr=False)

    @property
    def model(self) -> ModuleCount:
        """The row of the whole model."""
        return self.modules[0]

    @property
    def parameters(self) -> Parameters:
        """All parameters and buffers of the model."""
        return self.model.parameters

    @property
    def forward(self) -> Work:
        """Work of the forward pass and the loss."""
        return self.model.forward

    @property
    def backward(self) -> Work:
        """Work of the backward pass, recomputation included."""
        return self.model.backward

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass."""
        return self.forward.macs

    @property
    def flops(self) -> int:
        """Floating-point operations of the forward pass, 2 for each multiply-accumulate."""
        return self.forward.flops

    def __getitem__(self, path: str) -> ModuleCount:
        for module in self.modules:
            if module.path == path:
                return module
        import difflib

        paths = [module.path for module in self.modules]
        near = difflib.get_close_matches(path, paths, n=3) or paths[:3]
        raise KeyError(f"no module {path!r} in these counts; near it: {', '.join(map(repr, near))}")

    def to_dict(self) -> dict[str, Any]:
        """The counts as nested dicts, MACs and FLOPs both under their names."""
        memory = {name: getattr(self.memory, name) for name in self.memory.__dataclass_fields__}
        for name in STATES:
            memory[f"optimizer_{name}"] = self.memory.optimizer(name)  # pyright: ignore[reportArgumentType]
            memory[f"training_{name}"] = self.memory.training(name)  # pyright: ignore[reportArgumentType]
        return {
            "schema": SCHEMA,
            "target": self.target,
            "inputs": [{"name": name, "shape": shape, "dtype": dtype} for name, shape, dtype in self.inputs],
            "attention": self.attention,
            "parameters": _parameters(self.parameters),
            "forward": _work(self.forward),
            "backward": _work(self.backward),
            "memory": memory,
            "symbolic": {name: str(polynomial) for name, polynomial in self.symbolic.items()},
            "modules": [_module(module) for module in self.modules],
            "ops": [{**{n: getattr(op, n) for n in ("op", "phase", "function", "nodes")}, **_work(op.work)} for op in self.ops],
            "uncounted": self.uncounted,
            "notes": self.notes,
        }

    def to_json(self) -> str:
        """JSON text with a `schema` version."""
        return dumps(self.to_dict())


def _parameters(parameters: Parameters) -> dict[str, int]:
    return {name: getattr(parameters, name) for name in ("total", "trainable", "frozen", "loose", "tied", "buffers")}


def _work(work: Work) -> dict[str, Any]:
    return {name: getattr(work, name) for name in ("macs", "flops", "weights", "products", "entries", "moved", "intensity")}


def _module(module: ModuleCount) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(module, name) for name in ("path", "kind", "calls", "inputs", "outputs", "saved", "own_saved")}
    row |= {name: _parameters(getattr(module, name)) for name in ("parameters", "own_parameters")}
    return row | {name: _work(getattr(module, name)) for name in ("forward", "own_forward", "backward", "own_backward")}
