"""NRM103: dropout before a batch norm."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import BATCH_NORMS, affines, back, drops, of_event, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.finding import Fix
from initio.core.order import variance_shift
from initio.core.record import Node

LEAST = 1.05
"""A smaller shift of the variance is below what the running average itself is off by."""


@check("NRM103", "dropout-before-batchnorm", "warning")
def dropout_before_batchnorm(context: Context) -> Iterator[Found]:
    """Dropout changes the variance that a batch norm behind it remembers, and in evaluation there is no dropout.

    ## What it does
    Finds a batch norm with running statistics that reads the output of a dropout, directly or through linear and convolution layers.
    Reported is Var D x / Var x = 1 + p/(1 − p) · E[x²]/Var x with the predicted moments of the dropout's input, Var x taken over samples;
    maps with independent weights of mean zero carry the ratio on. Ratios below 1.05 are not reported, nor is dropout behind the norm.

    ## Why is this bad
    The running variance is too large by that factor in evaluation: every activation behind the norm is too small there, at every such
    norm again. Accuracy drops when the model is evaluated although nothing was dropped.

    ## Example
    ```python
    from torch import nn

    INPUT = "32x64"

    def Model():
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.Linear(64, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "32x64"

    def Model():
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
    ```

    ## References
    * Li, Chen, Hu and Yang 2018, *Understanding the disharmony between dropout and batch normalization by variance shift*
    """
    dropped = {each.leaving: each for each in drops(context)}
    layers = {each.leaving: each for each in affines(context)}
    inner = {node.event for node in (each.node for each in layers.values()) if node.event != -1}

    def linear(node: Node) -> bool:
        return node.event in inner

    for node in context.record.nodes:
        tracked = name(node) in BATCH_NORMS and len(node.args) > 5 and node.args[3] is not None and node.args[5] is True
        entering = of_event(context, node) if node.phase == "forward" and tracked else None
        for value, _ in () if entering is None else back(context, entering, linear):
            drop = dropped.get(value)
            if drop is None:
                continue
            before = context.analysis.of(drop.entering)
            spread = before.varying if before.varying == before.varying else before.second - before.mean**2
            ratio = variance_shift(drop.p, before.second, spread)
            least_of = "" if spread > 0 else "at least "
            if ratio > LEAST:
                through = "" if value == entering else ", through the linear maps in between"
                yield Found(
                    message=f"with p = {drop.p:g} the variance in training is {least_of}{ratio:.3g} times that in evaluation{through}; "
                    f"the norm remembers the one and is used on the other.",
                    module=node.module,
                    source=place(context, node.module, node),
                    evidence={"ratio": ratio, "p": drop.p, "second": before.second, "variance": spread},
                    remedy="Move the dropout behind the last batch norm, or drop whole channels of a later layer.",
                    fix=Fix("Move the dropout behind the norm", "unsafe"),
                    also=(drop.node.module,) if drop.node.module else (),
                    entity="variance shift",
                    group=f"{place(context, node.module, node)}:{drop.p:g}",
                )
