"""The record of one training step: plain frozen data, readable without torch.

A `Record` lists, in the order of execution, every ATen operation of the forward pass, of the loss (or
probe cotangent) and of the backward pass, in static single assignment form: an in-place operation makes
a new `Value`. Nothing here holds weights or activations; the only arrays are the constants that enter
the computation (masks, position tables, integer inputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from initio.core.distribution import Distribution

__all__ = [
    "Argument",
    "Call",
    "Crash",
    "Input",
    "Loose",
    "Node",
    "Output",
    "Parameter",
    "Phase",
    "Record",
    "Ref",
    "Source",
    "Value",
    "refs",
]

Phase = Literal["forward", "loss", "backward"]


@dataclass(frozen=True, slots=True)
class Source:
    """A line of the user's code: the innermost frame that belongs neither to torch nor to this package."""

    file: str
    line: int
    function: str = ""
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that existed during the step. Values of one `storage` share memory (views, in-place results)."""

    id: int
    shape: tuple[int, ...]
    dtype: str
    storage: int
    requires_grad: bool = False

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def floating(self) -> bool:
        """Whether entries are real or complex floating-point numbers."""
        return self.dtype.startswith(("float", "bfloat", "complex"))


@dataclass(frozen=True, slots=True)
class Ref:
    """A use of a value as an argument of a node."""

    value: int


Argument = Any
"""`Ref`, None, bool, int, float, complex, str (dtypes, devices, layouts, memory formats), or a tuple or dict of those."""


@dataclass(frozen=True, slots=True)
class Node:
    """One ATen operation.

    `op` is the overload's full name (`aten.mm.default`); in-place and `out=` variants keep their own
    name (`aten.add_.Tensor`) and set `mutates` to the values that they overwrite. `event` groups the
    nodes of one torch-level call, named by `function` (`linear`, `scaled_dot_product_attention`). A node of the
    backward pass has in `origin` the node of the forward operation that it differentiates (-1: not known).
    `constant` says that every output is computed from known values alone.
    """

    id: int
    op: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    outputs: tuple[int | None, ...]
    phase: Phase
    module: str = ""
    call: int = -1
    source: Source | None = None
    event: int = -1
    function: str = ""
    constant: bool = False
    mutates: tuple[int, ...] = ()
    origin: int = -1
    _inputs: tuple[int, ...] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Ids of the values that are read, in the order of the arguments."""
        if self._inputs is None:
            object.__setattr__(self, "_inputs", tuple(refs((self.args, dict(self.kwargs)))))
        return self._inputs or ()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module: `calls[i].id == i`; `parent` is the call that it ran in (-1: none).

    `inputs` and `outputs` are the floating tensors among its arguments and results, flattened in order.
    `cotangents` holds, for each output, the value that arrived there in the backward pass (None: nothing did).
    """

    id: int
    module: str
    kind: str
    index: int
    parent: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    cotangents: tuple[int | None, ...] = ()
    source: Source | None = None
    training: bool = True


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter or buffer, its initial distribution, and where its gradient ended.

    `names` are all names under which it is reachable (more than one: tied). `origin` is "drawn" where
    the construction was recorded and "values" where a built module was described by its values; `copy_of` names the parameter
    whose draw this one repeats (layers cloned by deepcopy), "" where it has a draw of its own.
    `gradient` is the value of its accumulated gradient, None where the backward pass did not reach it.
    """

    name: str
    names: tuple[str, ...]
    value: int
    distribution: Distribution
    origin: Literal["drawn", "values"]
    trainable: bool
    buffer: bool = False
    gradient: int | None = None
    source: Source | None = None
    copy_of: str = ""


@dataclass(frozen=True, slots=True)
class Loose:
    """A tensor that a module holds as a plain attribute, neither parameter nor buffer.

    `name` is how it is reached (`owner.attribute`, with the steps through a `container`), `parameter` says that it is an `nn.Parameter`
    in a container that torch does not look into. `source` is the first line of the step that computes with it, None where nothing does;
    `moved` says that the model's own code brings it to another device before. `indexes` says that it only ever stands for positions.
    """

    name: str
    owner: str
    attribute: str
    container: str
    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool
    parameter: bool
    used: bool
    moved: bool = False
    indexes: bool = False
    source: Source | None = None
    module: str = ""


@dataclass(frozen=True, slots=True)
class Input:
    """An input tensor of the step and the distribution that its entries are drawn from."""

    name: str
    value: int
    distribution: Distribution
    gradient: int | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that the model returned, by its path in the result (`logits`, `past.0`), and its cotangent."""

    name: str
    value: int
    cotangent: int | None = None


@dataclass(frozen=True, slots=True)
class Crash:
    """The user's code raised: the error, the failing operation where one was running, and where."""

    error: str
    message: str
    op: str | None
    shapes: tuple[tuple[int, ...], ...]
    module: str
    source: Source | None
    phase: Phase


@dataclass(frozen=True, slots=True)
class Record:
    """One training step. `values[i].id == i`, `nodes[i].id == i`, `calls[i].id == i`.

    `storages[s]` is the size in bytes of the memory that the values of storage `s` share.
    """

    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    calls: tuple[Call, ...]
    parameters: tuple[Parameter, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    constants: Mapping[int, np.ndarray[Any, Any]] = field(default_factory=dict[int, "np.ndarray[Any, Any]"])
    loss: int | None = None
    training: bool = True
    crash: Crash | None = None
    notes: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    loose: tuple[Loose, ...] = ()
    storages: tuple[int, ...] = ()

    def producers(self) -> dict[int, Node]:
        """Value id → the node that made it."""
        return {out: node for node in self.nodes for out in node.outputs if out is not None}

    def consumers(self) -> dict[int, list[Node]]:
        """Value id → the nodes that read it."""
        table: dict[int, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                table.setdefault(value, []).append(node)
        return table


def refs(argument: Argument) -> Iterator[int]:
    """Ids of all values in a nested argument."""
    if isinstance(argument, Ref):
        yield argument.value
    elif isinstance(argument, (tuple, list)):
        for item in cast("Sequence[Argument]", argument):
            yield from refs(item)
    elif isinstance(argument, dict):
        for item in cast("dict[str, Argument]", argument).values():
            yield from refs(item)
