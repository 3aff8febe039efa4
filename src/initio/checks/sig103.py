"""SIG103: activations that work where they are flat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.finding import Fix
from initio.core.record import Node

INFINITY = math.inf
FLAT: dict[str, tuple[float, float]] = {
    "sigmoid": (-4.36, 4.36), "tanh": (-2.18, 2.18), "hardsigmoid": (-3.0, 3.0), "hardtanh": (-1.0, 1.0), "relu": (0.0, INFINITY),
    "gelu": (-2.6, INFINITY), "silu": (-5.0, INFINITY), "hardswish": (-3.0, INFINITY),
    "elu": (-3.0, INFINITY), "softplus": (-3.0, INFINITY),
}  # fmt: skip
"""Activation → the interval where its slope is more than a twentieth of its steepest."""

SATURATED = 0.5
DEAD = 0.98
"""Share of the entries in the flat part: a ReLU is flat for half of them by design."""


@check("SIG103", "saturated-activation / dead-units", "warning")
def saturated_activation(context: Context) -> Iterator[Found]:
    """Most of the predicted distribution lies where the activation is flat.

    ## What it does
    Takes the predicted mean and variance of what enters each activation, as a normal law, and its share outside of the interval where the
    slope is more than a twentieth of the steepest: more than half for sigmoid, tanh and their hard forms (saturated), more
    than 98 % for ReLU and those that are flat on one side (dead units).

    ## Why is this bad
    The gradient is multiplied by the slope: it is lost in such a layer, for nearly every unit, and saturated units return to their working
    range slowly, dead ones never.

    ## Example
    ```python
    from torch import nn

    INPUT = "16x64"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64)
            nn.init.normal_(self.first.weight, std=1.0)
            self.second = nn.Linear(64, 2)

        def forward(self, x):
            return self.second(self.first(x).tanh())
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "16x64"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64)
            nn.init.xavier_normal_(self.first.weight)
            self.second = nn.Linear(64, 2)

        def forward(self, x):
            return self.second(self.first(x).tanh())
    ```

    ## References
    * Glorot and Bengio 2010, *Understanding the difficulty of training deep feedforward neural networks*
    """
    for node in context.record.nodes:
        what = name(node)
        if node.phase != "forward" or what not in FLAT or not node.inputs:
            continue
        summary = context.analysis.of(node.inputs[0])
        low, high = _interval(node)
        if math.isnan(summary.second) or summary.std == 0 or math.isinf(summary.second):
            continue
        law = NormalDist(summary.mean, summary.std)
        share = law.cdf(low) + (1 - law.cdf(high) if math.isfinite(high) else 0.0)
        one_sided = math.isinf(high)
        if share < (DEAD if one_sided else SATURATED):
            continue
        verb = "dead" if one_sided else "saturated"
        yield Found(
            message=f"{share:.1%} of what enters {what} (mean {summary.mean:.3g}, std {summary.std:.3g}) lies where it is flat: {verb}.",
            module=node.module,
            source=(context.made(node.module) if name(node) in context.kind(node.module).lower() else None) or node.source,
            evidence={"share": share, "mean": summary.mean, "std": summary.std, "activation": what},
            remedy="Move the bias of the layer before it towards 0."
            if one_sided
            else "Draw the weights of the layer before it smaller, or put a norm between.",
            fix=Fix("Initialise with the gain of the activation", "unsafe"),
            entity=what,
            group=f"{verb}:{what}",
            name="dead-units" if one_sided else "saturated-activation",
        )


def _interval(node: Node) -> tuple[float, float]:
    if name(node) == "hardtanh" and len(node.args) > 2:
        low, high = float(node.args[1]), float(node.args[2])
        return (low, INFINITY) if low == 0 else (low, high)  # ReLU6
    return FLAT[name(node)]
