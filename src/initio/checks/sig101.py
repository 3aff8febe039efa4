"""SIG101: a signal that shrinks or grows by a factor in every layer."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name, reached
from initio.checks.spine import CONTRACTIONS, RESETS, collapse, decay, layers, segments
from initio.core.finding import Fix

LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.40e38, "float64": 1.8e308}
MASK = 1e4
"""Entries of a mask that is added to logits are at least as low; float16 masks end at 65504."""


@check("SIG101", "vanishing-signal / exploding-signal", "warning")
def vanishing_signal(context: Context) -> Iterator[Found]:
    """The activations shrink or grow geometrically with depth, by the initialisation alone.

    ## What it does
    Follows the largest contribution from the output back to the input, and looks at the predicted second moment after every
    layer with weights on that way, between one norm and the next. Reported is a course that lasts at least five layers, changes
    the rms more than a thousandfold in all, and goes the same way in most of its steps; of a signal with biases, the part in which
    two samples differ. Also reported: an rms that the dtype cannot hold. Layers that start at exactly zero are not counted.

    ## Why is this bad
    Past a few such layers all inputs look alike (or overflow), and the gradient shrinks or grows with them, so that the first layers
    don't train. The default `nn.Linear` with ReLU keeps a sixth of the second moment per layer.

    ## Example
    ```python
    from torch import nn

    INPUT = "16:int(100)"

    def Model(depth=20, width=64):
        layers = [nn.Sequential(nn.Linear(width, width, bias=False), nn.ReLU()) for _ in range(depth)]
        features = nn.Sequential(nn.Embedding(100, width), *layers).requires_grad_(False)  # random features: the head alone is trained
        return nn.Sequential(features, nn.Linear(width, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "16:int(100)"

    def Model(depth=20, width=64):
        layers = [nn.Sequential(nn.Linear(width, width, bias=False), nn.ReLU()) for _ in range(depth)]
        for layer in layers:
            nn.init.kaiming_normal_(layer[0].weight, nonlinearity="relu")
        features = nn.Sequential(nn.Embedding(100, width), *layers).requires_grad_(False)
        return nn.Sequential(features, nn.Linear(width, 10))
    ```

    ## References
    * He, Zhang, Ren and Sun 2015, *Delving deep into rectifiers*, eq. 10: the gain 2 that ReLU needs
    * [pytorch#15314](https://github.com/pytorch/pytorch/issues/15314): what the default keeps
    """
    analysis, record = context.analysis, context.record
    for run in segments(layers(context)):
        if collapse(context, run) is not None:
            continue  # SIG102: the signal stays, its differences don't
        summaries = [analysis.of(layer.value) for layer in run]
        # Biases keep a dead signal from shrinking, so what vanishes is the part in which samples differ; what overflows is the whole.
        moments = [s.second if math.isnan(s.varying) else s.varying for s in summaries]
        course = decay(moments)
        if course is None or course.direction == "exploding":
            moments = [s.second for s in summaries]
            course = decay(moments)
        if course is not None:
            last = run[-1]
            what = "keeps {} of the second moment" if course.direction == "vanishing" else "multiplies the second moment by {}"
            known = [layer for layer, moment in zip(run, moments, strict=True) if 0 < moment < math.inf]
            begin, end = known[0].module or "the first", known[-1].module or "the last"
            ends = f"rms {math.sqrt(course.first):.3g} after {begin}, {math.sqrt(course.last):.3g} after {end}"
            yield Found(
                message=f"each layer {what.format(_factor(course.rate))}: {course.ratio:.2g} of it after {course.depth} layers ({ends}).",
                module=last.module,
                source=context.made(last.module) or last.node.source,
                evidence=course.evidence,
                remedy=f"Multiply the std of these weights by {course.rate**-0.5:.3g} (kaiming_normal_ for ReLU), or add norms.",
                fix=Fix("Initialise with the gain that keeps the second moment", "unsafe"),
                also=tuple(layer.module for layer in run[:-1] if layer.module),
                entity=course.direction,
                name=f"{course.direction}-signal",
            )
    hidden = _hidden(context)
    for node in record.nodes:
        for value in node.outputs:
            if value is None or node.phase != "forward" or value not in analysis.summary or value in hidden:
                continue
            limit = LARGEST.get(record.values[value].dtype)
            rms = analysis.of(value).rms
            if limit is not None and rms == rms and rms > limit / 4:
                yield Found(
                    message=f"the output of {node.op} has rms {rms:.3g}; {record.values[value].dtype} ends at {limit:.3g}.",
                    module=node.module,
                    source=node.source,
                    evidence={"rms": rms, "limit": limit},
                    remedy="Scale the weights before it down, put a norm before it, or use a wider dtype.",
                    entity="overflow",
                    group="overflow",
                    name="exploding-signal",
                )


def _factor(rate: float) -> str:
    return f"1/{1 / rate:.3g}" if rate < 0.5 else f"{rate:.3g}"


def _hidden(context: Context) -> set[int]:
    """Values with entries that a mask has set to the lowest number of the dtype, until a softmax or a product makes something of them."""
    record = context.record
    start = [v for v, table in record.constants.items() if table.dtype.kind == "f" and table.size and float(np.abs(table).max()) > MASK]
    for node in record.nodes:
        if any(isinstance(argument, float) and abs(argument) > MASK for argument in node.args):
            start += [value for value in node.outputs if value is not None]
    return reached(record, start, lambda node: name(node) in RESETS | CONTRACTIONS)
