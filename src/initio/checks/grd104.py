"""GRD104: a gradient that shrinks or grows by a factor in every layer."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.spine import WORST, Layer, decay, layers
from initio.core.finding import Fix

BEHIND_NORMS = 1e-8
"""Ratio of squares where norms stand between: a weight before one turns by its step over its own length, which evens out a part."""


@check("GRD104", "vanishing-gradient / exploding-gradient", "warning")
def vanishing_gradient(context: Context) -> Iterator[Found]:
    """The gradient shrinks or grows geometrically on its way back to the first layers.

    ## What it does
    Follows the way that most of the signal takes, and looks at the predicted norm of the gradient that arrives at the output of every layer
    with weights on it, from the last to the first. Reported is a course that lasts at least five layers, changes the norm more than a
    thousandfold in all (ten-thousandfold where norms stand between, before which only the direction of a weight counts), and goes the same
    way in most of its steps. The norm, not the entries: a gradient that pooling and strides
    spread over a larger map has smaller entries, and the weights, which sum over the map, receive as much. Of a layer before a norm, whose
    own scale means nothing, the gradient is taken as if its output had unit scale. A skip carries the gradient past such layers and is
    followed instead; a factor of two in the square for every sum on that way is what its depth explains.

    ## Why is this bad
    The layers near the input hardly move while those near the output do (or the other way round): one learning rate cannot serve both, and
    in half precision the small gradients are zero.

    ## Example
    ```python
    from torch import nn

    INPUT = "16x64"

    def Model(depth=60, width=64):
        layers = [nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(depth)]
        return nn.Sequential(*layers, nn.Linear(width, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "16x64"

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear = nn.Linear(width, width, bias=False)
            self.norm = nn.BatchNorm1d(width)
            self.act = nn.ReLU()

        def forward(self, x):
            return x + self.act(self.norm(self.linear(x)))

    def Model(depth=60, width=64):
        return nn.Sequential(*(Block(width) for _ in range(depth)), nn.Linear(width, 10))
    ```

    ## References
    * Yang, Pennington, Rao, Sohl-Dickstein and Schoenholz 2019, *A mean field theory of batch normalization*: π/(π − 1) per layer
    * He, Zhang, Ren and Sun 2016, *Identity mappings in deep residual networks*, eq. 5
    """
    way = layers(context)
    run = [layer for layer in way if layer is not None]
    normed = [number + 1 < len(way) and way[number + 1] is None for number, layer in enumerate(way) if layer is not None]
    cotangents = _cotangents(context)
    sizes = [math.prod(context.record.values[layer.value].shape) for layer in run]
    squares = [context.analysis.of_gradient(cotangents.get(layer.value)).second * size for layer, size in zip(run, sizes, strict=True)]
    for number, layer in enumerate(run):
        if normed[number]:  # its scale is arbitrary, and the gradient's is the inverse: that of the norm's output is meant
            squares[number] *= context.analysis.of(layer.value).second
    course = decay(squares[::-1], worst=WORST if None not in way else BEHIND_NORMS)
    sums = sum(join is not None for join in layers(context, joins=True))
    if course is None or (course.ratio > 1 and course.ratio <= 2.0**sums):
        return  # a block whose branch is as large as its skip doubles the square: so far the depth explains it
    known = [layer for layer, square in zip(run, squares, strict=True) if square == square and square > 0]
    first, last = known[0], known[-1]
    plain = None not in way
    ends = f"norm {math.sqrt(course.first):.3g} at {_name(last, 'the last layer')}, {math.sqrt(course.last):.3g} at {_name(first, 'the first')}"
    yield Found(
        message=f"on the way back each layer multiplies the squared norm of the gradient by {course.rate:.3g}: {course.ratio:.2g} of it "
        f"after {course.depth} layers ({ends}).",
        module=first.module,
        source=context.made(first.module) or first.node.source,
        evidence=course.evidence,
        remedy="Initialise with the gain of the activation, add skips around the layers, or put norms before them."
        if plain
        else "Add skips around the layers: the norms between them make the scale of the weights irrelevant.",
        fix=Fix("Initialise with the gain of the activation", "unsafe") if plain else None,
        also=tuple(layer.module for layer in run if layer.module and layer is not first),
        entity=course.direction,
        name=f"{course.direction}-gradient",
    )


def _name(layer: Layer, otherwise: str) -> str:
    return layer.module or otherwise


def _cotangents(context: Context) -> dict[int, int]:
    """Value → its cotangent: from the module calls that return it, else from the node that makes the weight's gradient."""
    found: dict[int, int] = {}
    for call in context.record.calls:
        for value, cotangent in zip(call.outputs, call.cotangents, strict=False):
            if cotangent is not None:
                found.setdefault(value, cotangent)
    weights = {parameter.value: parameter for parameter in context.record.parameters if parameter.gradient is not None}
    for layer in layers(context):
        if layer is not None and layer.value not in found:
            gradients = [weights[v].gradient for v in _origins(context, layer) if v in weights]
            arriving = _arriving(context, next((g for g in gradients if g is not None), None))
            if arriving is not None:
                found[layer.value] = arriving
    return found


def _origins(context: Context, layer: Layer) -> list[int]:
    """The parameters that a contraction reads, through views of them."""
    found: list[int] = []
    for value in layer.node.inputs:
        node = context.producers.get(value)
        while value not in context.carrying and node is not None and len(node.inputs) == 1:
            value = node.inputs[0]
            node = context.producers.get(value)
        found.append(value)
    return found


def _arriving(context: Context, gradient: int | None) -> int | None:
    """The cotangent that the node making a weight's gradient reads beside the layer's input."""
    node = None if gradient is None else context.producers.get(gradient)
    while node is not None and len(node.inputs) == 1:
        node = context.producers.get(node.inputs[0])
    if node is None:
        return None
    made = [v for v in node.inputs if (origin := _source(context, v)) is not None and origin != "forward"]
    return made[0] if made else None


def _source(context: Context, value: int) -> str | None:
    """The phase in which a value, seen through views, was made."""
    node = context.producers.get(value)
    while node is not None and node.phase == "backward" and len(node.inputs) == 1 and node.inputs[0] in context.producers:
        node = context.producers[node.inputs[0]]
    return None if node is None else node.phase
