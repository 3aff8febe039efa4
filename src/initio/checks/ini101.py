"""INI101: layers that start with one number in every weight."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.checks.spine import CONTRACTIONS
from initio.core.finding import Fix
from initio.core.record import Node, Parameter

SYMMETRIC = frozenset(
    {
        "relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "softplus", "mul", "div",
        "view",
        "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "clone", "native_batch_norm", "alias",
        "max_pool2d_with_indices", "avg_pool2d", "mean", "_adaptive_avg_pool2d", "_to_copy", "bernoulli", "detach", "add", "mish", "selu",
        "log_sigmoid_forward", "hardshrink", "native_dropout", "abs", "exp", "clamp", "clamp_min", "pow", "sin", "cos", "cudnn_batch_norm",
    }
)  # fmt: skip
"""Operations that treat every unit alike."""


@check("INI101", "symmetric-or-zero-init", "error")
def symmetric_or_zero_init(context: Context) -> Iterator[Found]:
    """Stacked layers start with constant weights: their units are equal and stay equal.

    ## What it does
    Finds trainable matrices and kernels whose entries are one number, whose output goes, through operations that treat every unit alike,
    into another such layer. A single constant layer is not reported (a zero-initialised head, the last layer of a residual branch,
    the second matrix of LoRA), nor are scales and biases, nor depthwise and pooling kernels.

    ## Why is this bad
    All units of the layer compute the same and receive the same gradient, for ever: the layer is one unit wide. With zeros, nothing trains
    at all.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 32)
            self.second = nn.Linear(32, 4)
            for layer in (self.first, self.second):
                nn.init.constant_(layer.weight, 0.1)

        def forward(self, x):
            return self.second(self.first(x).tanh())
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 32)
            self.second = nn.Linear(32, 4)
            for layer in (self.first, self.second):
                nn.init.xavier_uniform_(layer.weight)

        def forward(self, x):
            return self.second(self.first(x).tanh())
    ```

    ## References
    * Goodfellow, Bengio and Courville 2016, *Deep learning*, section 8.4: initial parameters need to break symmetry
    """
    constant = {node.id: weight for node in context.record.nodes if (weight := _constant(context, node)) is not None}
    pairs = [(number, after) for number in constant for after in _next(context, context.record.nodes[number]) if after in constant]
    if not pairs:
        return
    numbers = sorted({number for pair in pairs for number in pair})
    weights = list({constant[number].value: constant[number] for number in numbers}.values())
    first = weights[0]
    value = first.distribution.mean
    owners = list(dict.fromkeys(weight.name.rpartition(".")[0] for weight in weights))
    entries = sum(context.record.values[weight.value].size for weight in weights)
    yield Found(
        message=f"{len(owners)} stacked layers start with {entries:,} equal weights ({value:g}): "
        + ("no gradient passes them." if value == 0 else "their units compute the same and stay equal."),
        module=owners[0],
        source=context.told(first),
        evidence={"layers": len(owners), "weights": entries, "value": value},
        remedy="Draw the weights at random (nn.init.kaiming_normal_, xavier_uniform_).",
        fix=Fix("Draw the weights at random", "unsafe"),
        also=tuple(owners[1:]),
        entity="constant",
    )


def _constant(context: Context, node: Node) -> Parameter | None:
    """The trainable weight of a contraction whose entries are all equal, and which mixes several inputs into several units."""
    if node.phase != "forward" or name(node) not in CONTRACTIONS:
        return None
    for value in node.inputs:
        made = context.producers.get(value)
        while made is not None and value not in context.parameters and len(made.inputs) == 1:
            value = made.inputs[0]
            made = context.producers.get(value)
        weight = context.parameters.get(value)
        if weight is not None and weight.trainable and not weight.buffer and weight.distribution.family == "constant":
            shape = context.record.values[value].shape
            if len(shape) >= 2 and shape[0] > 1 and shape[1] > 1:
                return weight
    return None


def _next(context: Context, node: Node) -> set[int]:
    """The contractions that read a layer's output through operations that treat its units alike and add nothing that differs."""
    found: set[int] = set()
    waiting, seen = [v for v in node.outputs if v is not None], set[int]()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        for consumer in context.consumers.get(value, ()):
            if consumer.phase == "backward":
                continue
            if name(consumer) in CONTRACTIONS:
                found.add(consumer.id)
            elif name(consumer) in SYMMETRIC and not _mixed(context, consumer, seen):
                waiting.extend(v for v in consumer.outputs[:1] if v is not None)
    return found


def _mixed(context: Context, node: Node, seen: set[int]) -> bool:
    """Whether another signal, or a parameter with different entries, joins at a node."""
    for value in node.inputs:
        if value in seen:
            continue
        other = context.parameters.get(value)
        if value in context.carrying or (other is not None and other.distribution.family != "constant"):
            return True
    return False
