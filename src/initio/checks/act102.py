"""ACT102: dropout before an activation that does not commute with it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.affine import Drop, drops, place, scalar_of
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.checks.pointwise import Written, written
from initio.core.finding import Fix, Severity
from initio.core.gaussian import expect
from initio.core.order import Order, dropout_activation
from initio.core.record import Node
from initio.core.scalar import Scalar

LEAST = 0.01
"""Relative rms of the difference below which the order does not matter."""


@check("ACT102", "dropout-activation-order", "warning")
def dropout_activation_order(context: Context) -> Iterator[Found]:
    """Dropout stands before an activation for which the order matters.

    ## What it does
    Finds a dropout D whose output enters a pointwise activation σ with σ(c x) ≠ c σ(x) for c = 1/(1 − p), or σ(0) ≠ 0. Reported are
    mean and second moment of σ(D x) − D σ(x) under the predicted law of x, same mask. Where σ(0) ≠ 0 (sigmoid), a dropped unit sends a
    constant on: a warning; else a note. What commutes with dropout exactly is not reported (ReLU, LeakyReLU, PReLU, and whatever is
    linear on both sides of 0), nor is dropout behind the activation. Activations written out, x · sigmoid(x), are read as one function.
    Verdict and numbers are those of `initio commute`.

    ## Why is this bad
    Kept values are multiplied by c before the activation, so that it works in another range in training than in evaluation, where the
    mean of the output is not kept. A sigmoid makes ½ of a dropped unit: nothing is dropped.

    ## Example
    ```python
    from torch import nn

    INPUT = "16x64"

    def Model():
        return nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.Sigmoid(), nn.Linear(64, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "16x64"

    def Model():
        return nn.Sequential(nn.Linear(64, 64), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(64, 10))
    ```

    ## References
    * Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, *Dropout*, section 4
    """
    told: set[int] = set()
    for drop in drops(context):
        for found in written(context, drop.leaving):
            node = found.node
            made, relative = _gap(context, drop, found.scalar)
            if made.verdict == "same function" or not relative >= LEAST or node.id in told or _measured(context, node):
                continue
            told.add(node.id)
            severity: Severity = "warning" if made.at_zero else "note"
            dead = f"; a dropped unit sends {made.at_zero:.3g} on" if made.at_zero else ""
            entity = _called(context, found)
            yield Found(
                message=f"{entity} after dropout with p = {drop.p:g} differs from dropout after it: by {made.mean:.3g} in the mean, "
                f"{relative:.2g} of the output's rms{dead}.",
                module=node.module,
                source=place(context, node.module, node),
                evidence={"mean": made.mean, "second": made.second, "relative": relative, "p": drop.p, "verdict": made.verdict},
                remedy="Put the dropout behind the activation.",
                fix=Fix("Swap dropout and activation", "unsafe"),
                also=(drop.node.module,) if drop.node.module else (),
                entity=entity,
                group=f"{entity}:{place(context, node.module, node)}",
                severity=severity,
            )


def _measured(context: Context, node: Node) -> bool:
    """Whether a power is only summed over: the x² of a norm is no activation."""
    readers = {name(reader) for reader in context.consumers.get(node.outputs[0] or 0, ()) if reader.phase != "backward"}
    return name(node) in ("pow", "square", "mul") and readers - {"detach"} in ({"mean"}, {"sum"}, {"mean", "sum"})


def _called(context: Context, found: Written) -> str:
    """The name of one activation; the class of the module that writes one out."""
    own = [scalar_of(context, node) for node in found.nodes]
    if len(own) == 1 and own[0] is not None:
        return own[0].name
    module = found.node.module
    whole = all(node.module == module for node in found.nodes)
    return context.kind(module) if whole and module else f"{found.scalar.name[:40]}"


def _gap(context: Context, drop: Drop, f: Scalar) -> tuple[Order, float]:
    """The order of dropout and f under the predicted law of the dropout's input; the rms of the gap over that of D f(x)."""
    before = context.analysis.of(drop.entering)
    mean, variance = (before.mean, max(before.second - before.mean**2, 0.0)) if math.isfinite(before.second) else (0.0, 1.0)

    def expectation(g: Scalar) -> float:
        return float(expect(g, mean, variance))

    made = dropout_activation(f, drop.p, expectation)
    whole = expectation(f.times(f)) / (1 - drop.p) if made.verdict != "same function" else 0.0
    return made, math.sqrt(made.second / whole) if whole > 0 else 0.0
