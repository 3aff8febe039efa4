"""ACT102: dropout before an activation that does not commute with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from initio.checks.affine import Drop, back, drops, place, scalar_of
from initio.checks.framework import Context, Found, check
from initio.core.finding import Fix, Severity
from initio.core.gaussian import expect
from initio.core.scalar import Scalar, affine

LEAST = 0.01
"""Relative rms of the difference below which the order does not matter."""


@check("ACT102", "dropout-activation-order", "warning")
def dropout_activation_order(context: Context) -> Iterator[Found]:
    """Dropout stands before an activation for which the order matters.

    ## What it does
    Finds a dropout D whose output enters a pointwise activation σ with σ(c x) ≠ c σ(x) for c = 1/(1 − p), or σ(0) ≠ 0. Reported are
    mean and second moment of σ(D x) − D σ(x) under the predicted law of x, same mask. Where σ(0) ≠ 0 (sigmoid), a dropped unit sends a
    constant on: a warning; else a note. ReLU, LeakyReLU and PReLU commute with dropout exactly and are not reported, nor is dropout
    behind the activation.

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
    dropped = {each.leaving: each for each in drops(context)}
    for node in context.record.nodes:
        found = scalar_of(context, node) if node.phase == "forward" and dropped else None
        if found is None:
            continue
        drop = next((dropped[value] for value, _ in back(context, node.inputs[0]) if value in dropped), None)
        gap = None if drop is None else _gap(context, drop, found)
        if drop is None or gap is None or gap.relative < LEAST:
            continue
        severity: Severity = "warning" if gap.at_zero else "note"
        dead = f"; a dropped unit sends {gap.at_zero:.3g} on" if gap.at_zero else ""
        yield Found(
            message=f"{found.name} after dropout with p = {drop.p:g} differs from dropout after it: by {gap.mean:.3g} in the mean, "
            f"{gap.relative:.2g} of the output's rms{dead}.",
            module=node.module,
            source=place(context, node.module, node),
            evidence={"mean": gap.mean, "second": gap.second, "relative": gap.relative, "p": drop.p},
            remedy="Put the dropout behind the activation.",
            fix=Fix("Swap dropout and activation", "unsafe"),
            also=(drop.node.module,) if drop.node.module else (),
            entity=found.name,
            group=f"{found.name}:{place(context, node.module, node)}",
            severity=severity,
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Moments of σ(D x) − D σ(x), its rms relative to that of D σ(x), and σ(0)."""

    mean: float
    second: float
    relative: float
    at_zero: float


def _gap(context: Context, drop: Drop, f: Scalar) -> Gap | None:
    """A kept unit differs by σ(c x) − c σ(x), a dropped one by σ(0)."""
    before = context.analysis.of(drop.entering)
    mean, variance = (before.mean, max(before.second - before.mean**2, 0.0)) if math.isfinite(before.second) else (0.0, 1.0)
    c, zero = 1 / (1 - drop.p), float(f(0.0))
    kept = affine(c).then(f).plus(f, 1.0, -c)
    first = (1 - drop.p) * float(expect(kept, mean, variance)) + drop.p * zero
    second = (1 - drop.p) * float(expect(kept.times(kept), mean, variance)) + drop.p * zero**2
    whole = c * float(expect(f.times(f), mean, variance))
    return Gap(first, second, math.sqrt(second / whole), zero) if whole > 0 else None
