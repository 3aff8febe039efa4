"""Layers as the record shows them: linear and convolution maps, activations, dropouts and norms, and what stands between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from initio.checks.framework import Context
from initio.checks.graph import DROPOUT, VIEWS, name, origin
from initio.core.functions import function
from initio.core.record import Node, Parameter, Source
from initio.core.scalar import Scalar

__all__ = [
    "ACTIVATIONS", "BATCH_NORMS", "NONNEGATIVE", "NORMS", "PLAIN", "Affine", "Drop", "activation", "affines", "back", "carried", "drops",
    "of_event", "per_axis", "place", "readers", "scalar_of",
]  # fmt: skip

PLAIN = frozenset(
    {
        "relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "softplus", "mish",
        "_prelu_kernel", "threshold", "softshrink", "hardshrink", "log_sigmoid_forward", "rrelu_with_noise",
    }
)  # fmt: skip
ACTIVATIONS = PLAIN | {"_softmax", "_log_softmax", "_safe_softmax"}
"""Operations that are an activation by themselves."""

NONNEGATIVE = frozenset({"relu", "sigmoid", "_softmax", "_safe_softmax", "softplus", "hardsigmoid", "exp", "abs"})
"""Operations whose output is never negative."""

NORMS = frozenset(
    {
        "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_batch_norm_with_update",
        "cudnn_batch_norm", "native_group_norm", "native_layer_norm", "_fused_rms_norm",
    }
)  # fmt: skip
BATCH_NORMS = frozenset(each for each in NORMS if "batch_norm" in each)


@dataclass(frozen=True, slots=True)
class Affine:
    """A linear or convolution layer, applied once: from the value `entering` to the value `leaving` behind its bias."""

    node: Node
    weight: Parameter
    bias: Parameter | None
    entering: int
    leaving: int
    shape: tuple[int, ...]
    kind: str
    groups: int = 1
    transposed: bool = False
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.shape[1] * self.groups if self.transposed else self.shape[0]

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.shape[0] if self.transposed else self.shape[1] * self.groups

    @property
    def kernel(self) -> tuple[int, ...]:
        """Spatial sizes of the kernel (empty: a linear layer)."""
        return self.shape[2:]

    @property
    def pointwise(self) -> bool:
        """Whether each position is mapped by itself."""
        return all(size == 1 for size in self.kernel) and all(step == 1 for step in self.stride)

    @property
    def where(self) -> str:
        """The module, or the weight where a function was called with it."""
        return self.node.module or self.weight.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Drop:
    """A dropout at work: it drops the share `p` of `entering`."""

    node: Node
    entering: int
    leaving: int
    p: float


def readers(context: Context, value: int) -> list[Node]:
    """Nodes of the forward pass and the loss that read a value, without the copies that autograd keeps."""
    maker = context.producers.get(value)
    event = maker.event if maker is not None else -1

    def kept(node: Node) -> bool:
        return name(node) == "detach" and node.event == event and all(
            reader.phase == "backward" for reader in context.consumers.get(node.outputs[0] or -1, ())
        )  # fmt: skip

    return [node for node in context.consumers.get(value, ()) if node.phase != "backward" and not kept(node)]


def carried(context: Context, node: Node) -> list[int]:
    """Inputs of a node that depend on the model's inputs, each once."""
    return list(dict.fromkeys(value for value in node.inputs if value in context.carrying))


def of_event(context: Context, node: Node) -> int | None:
    """What the torch-level call that a node belongs to received: its first carrying value from outside."""
    value = next(iter(carried(context, node)), None)
    while value is not None and (maker := context.producers.get(value)) is not None and maker.event == node.event and maker.event != -1:
        value = next(iter(carried(context, maker)), None)
    return value


def affines(context: Context) -> tuple[Affine, ...]:
    """All linear and convolution layers of the forward pass whose weight is a parameter, in order."""
    key = "_affines"
    if key not in context.__dict__:
        found = (_affine(context, node) for node in context.record.nodes if node.phase == "forward")
        context.__dict__[key] = tuple(each for each in found if each is not None)
    return context.__dict__[key]


def _affine(context: Context, node: Node) -> Affine | None:
    operation = name(node)
    if operation in ("mm", "addmm", "convolution", "mv") and len(node.inputs) >= 2:
        first = 1 if operation == "addmm" else 0
        pair = node.inputs[first : first + 2]
        entering, weight = pair
    else:
        return None
    if entering not in context.carrying or weight in context.carrying:
        return None
    value, _ = origin(context, weight)
    parameter = context.parameters.get(value)
    if parameter is None or parameter.buffer:
        return None
    bias = context.parameters.get(node.inputs[0]) if operation == "addmm" else None
    shape = context.record.values[weight].shape
    if operation == "convolution":
        bias = context.parameters.get(node.inputs[2]) if len(node.inputs) > 2 else None
        groups, transposed = int(node.args[8]), bool(node.args[6])
        steps = {what: per_axis(node.args[3 + number], len(shape) - 2) for number, what in enumerate(("stride", "padding", "dilation"))}
        return Affine(node, parameter, bias, entering, node.outputs[0] or 0, shape, "convolution", groups, transposed, **steps)
    while (maker := context.producers.get(entering)) is not None and maker.event == node.event and name(maker) in VIEWS:
        entering = maker.inputs[0]
    leaving, bias = _leaving(context, node, bias)
    return Affine(node, parameter, bias, entering, leaving, shape[::-1] if len(shape) == 2 else (1, *shape), "linear")


def per_axis(setting: Sequence[int], axes: int) -> tuple[int, ...]:
    """A stride, padding or dilation for every axis; one number (padding="valid") stands for all."""
    return tuple(setting) * (axes if len(setting) == 1 else 1)


def _leaving(context: Context, node: Node, bias: Parameter | None) -> tuple[int, Parameter | None]:
    """The value behind the views and the bias that belong to the same call."""
    value = node.outputs[0] or 0
    while True:
        after = [each for each in readers(context, value) if each.event == node.event and node.event != -1]
        if len(after) != 1 or node.function == "multi_head_attention_forward":
            return value, bias
        step = after[0]
        added = [context.parameters[v] for v in step.inputs if v in context.parameters]
        if name(step) == "add" and bias is None and added:
            bias = added[0]
        elif name(step) not in ("view", "_unsafe_view", "reshape", "squeeze"):
            return value, bias
        value = step.outputs[0] or 0


def activation(node: Node | None) -> str:
    """The activation that a node is, empty where it is none."""
    operation = name(node) if node is not None else ""
    return operation if operation in ACTIVATIONS else ""


def scalar_of(context: Context, node: Node) -> Scalar | None:
    """The function of one variable that a pointwise activation is, with its parameters."""
    operation = name(node)
    if operation == "_prelu_kernel":
        law = context.parameters.get(origin(context, node.inputs[1])[0])
        return function("leaky_relu", law.distribution.mean) if law is not None else None
    if operation not in PLAIN:
        return None
    operation = {"log_sigmoid_forward": "log_sigmoid", "rrelu_with_noise": "rrelu"}.get(operation, operation)
    arguments = [value for value in node.args[1:] if isinstance(value, (int, float, str)) and not isinstance(value, bool)]
    try:
        return function(operation, *(arguments if operation != "rrelu" else ()), **dict(node.kwargs))
    except (KeyError, TypeError):
        return None


def drops(context: Context) -> tuple[Drop, ...]:
    """All dropouts at work in the forward pass."""
    rates: dict[int, float] = {}
    found: list[Drop] = []
    for node in context.record.nodes:
        if node.phase != "forward" or node.function not in DROPOUT:
            continue
        operation = name(node)
        if operation == "bernoulli":
            kept = (*node.args, 0.5)[1]  # ½ is the default of the operation, and left out
            rates[node.event] = 1 - kept if isinstance(kept, float) else 0.0
        elif operation in ("mul", "native_dropout") and (values := carried(context, node)):
            p = float(node.args[1]) if operation == "native_dropout" else rates.get(node.event, 0.0)
            if 0 < p < 1:
                found.append(Drop(node, values[0], node.outputs[0] or 0, p))
    return tuple(found)


def back(
    context: Context, value: int, through: Callable[[Node], bool] = lambda node: False, *, sole: bool = False
) -> Iterator[tuple[int, Node]]:
    """(value, its producer) from `value` backward through views and nodes where `through` holds, the last one where it stops.

    With `sole`, the way ends at a value that something else reads too, or that the model returns.
    """
    outputs = {output.value for output in context.record.outputs} if sole else set[int]()
    while (node := context.producers.get(value)) is not None and node.phase == "forward":
        if sole and (value in outputs or len(readers(context, value)) > 1):
            return
        yield value, node
        if not (name(node) in VIEWS or through(node)):
            return
        inputs = carried(context, node)
        if not inputs:
            return
        value = inputs[0]


def place(context: Context, module: str, node: Node) -> Source | None:
    """The line where a module was made, or that of the call where the model itself computes."""
    return (context.made(module) if module in context.modules and module else None) or node.source
