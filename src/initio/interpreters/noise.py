# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""How much one draw of a finite network scatters about the prediction: the noise band.

The mean square of a tensor in one draw differs from its expectation for two reasons. Its own entries are finitely many:
Var[mean x²] = mean over pairs of Cov(x_i², x_j²), which is 2 Cov(x_i, x_j)² for Gaussian entries (Isserlis 1918). And the
scale that it was drawn with scatters already: a contraction with weights has the mean square of its input as its variance, so the
relative variances compound from layer to layer (about Σ 2/width; Hanin & Nica 2020), until a norm divides the scale out again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from initio.core.axes import Array
from initio.core.moments import Moments, Unknown, pair_values
from initio.core.record import Node, Record

__all__ = ["spread"]

NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "softmax")
CONTRACTIONS = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution", "mv", "addmv", "linear", "matmul", "dot"})


def spread(record: Record, values: Mapping[int, Moments | Unknown]) -> dict[int, float]:
    """Value id → relative standard deviation of its mean square from draw to draw, for the outputs of modules.

    That of a parameter's gradient is the scatter of its own entries alone.
    """
    scale = _Scale(record, values)
    wanted = dict.fromkeys(value for call in record.calls for value in call.outputs)
    for node in record.nodes:
        if node.phase == "forward":
            scale.step(node)
    out: dict[int, float] = {}
    for value in wanted:
        x = values.get(value)
        if isinstance(x, Moments):
            out[value] = math.sqrt((1.0 + scale.inherited.get(value, 0.0)) * (1.0 + scale.own(value)) - 1.0)
    for gradient in (p.gradient for p in record.parameters if p.gradient is not None):
        out[gradient] = math.sqrt(scale.own(gradient))
    return out


class _Scale:
    """Relative variances of the scale that each value was drawn with, in the order of the record."""

    def __init__(self, record: Record, values: Mapping[int, Moments | Unknown]) -> None:
        self.values = values
        self.fixed = {p.value for p in record.parameters} | set(record.constants)
        self.inherited: dict[int, float] = {}
        self.memo: dict[int, float] = {}

    def own(self, value: int) -> float:
        """Relative variance of the mean square over the entries of one draw, the scale given."""
        if value not in self.memo:
            x = self.values.get(value)
            self.memo[value] = _own(x) if isinstance(x, Moments) else 0.0
        return self.memo[value]

    def step(self, node: Node) -> None:
        """The scatter of a node's outputs from that of its inputs."""
        name = node.op.split(".")[1].rstrip("_")
        moving = [v for v in dict.fromkeys(node.inputs) if v not in self.fixed and isinstance(self.values.get(v), Moments)]
        if any(norm in name for norm in NORMS):
            scatter = 0.0
        elif name in CONTRACTIONS:
            scatter = math.prod((1.0 + self.inherited.get(v, 0.0)) * (1.0 + self.own(v)) for v in moving) - 1.0
        elif name in ("add", "sub", "cat", "stack"):
            seconds = {v: self._second(v) for v in moving}
            whole = sum(seconds.values())
            scatter = sum((s / whole) ** 2 * self.inherited.get(v, 0.0) for v, s in seconds.items()) if whole else 0.0
        elif name in ("mul", "div"):
            scatter = math.prod(1.0 + self.inherited.get(v, 0.0) for v in moving) - 1.0
        else:
            scatter = max((self.inherited.get(v, 0.0) for v in moving), default=0.0)
            if moving and all(v in self.fixed for v in node.inputs):
                scatter = 0.0
        if not moving and node.inputs and all(v in self.fixed for v in node.inputs):
            self.fixed.update(out for out in node.outputs if out is not None)
        for out in node.outputs:
            if out is not None:
                self.inherited[out] = scatter
                if "norm" in name:  # the mean square of every group is 1 in every draw
                    self.memo[out] = 0.0

    def _second(self, value: int) -> float:
        x = self.values.get(value)
        return x.total_second if isinstance(x, Moments) else 0.0


def _own(x: Moments) -> float:
    second = x.total_second
    if second <= 0.0 or not x.sources:
        return 0.0
    weight = np.ones(())
    for a in x.axes:
        weight = np.multiply.outer(weight, a.pairs / a.pairs.sum())
    if len(x.law) == 1 and x.law[0].fn.linear is None:
        covariance = _of_squares(x)
    else:
        mu, mv = x.pair_means()
        cov = x.gram - mu * mv
        covariance = 2.0 * cov * cov + 4.0 * mu * mv * cov
    return float(max((weight * covariance).sum(), 0.0)) / second / second


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(48)
_BASIS = np.polynomial.hermite_e.hermevander(_NODES, 4) * (_WEIGHTS / _WEIGHTS.sum())[:, None]


def _of_squares(x: Moments) -> Array:
    """Cov(f(u_i)², f(u_j)²): Mehler's formula to the fourth order, and Var f(u)² itself where the indices agree."""
    f = x.law[0]
    diag = tuple(a.diagonal for a in x.axes)
    var = np.maximum(f.field.gram[diag] - f.field.mean**2, 0.0)
    values = f.fn(f.field.mean[..., None] + np.sqrt(var)[..., None] * _NODES) ** 2
    coefficients = values @ _BASIS
    (mu, mv), (su, sv) = pair_values(x.axes, f.field.mean), pair_values(x.axes, var)
    size = np.sqrt(su * sv)
    rho = np.divide(f.field.gram - mu * mv, size, out=np.zeros_like(size), where=size > 0)
    covariance = np.zeros_like(size)
    for k in range(1, 5):
        a, b = pair_values(x.axes, coefficients[..., k])
        covariance = covariance + a * b * rho**k / math.factorial(k)
    covariance[diag] = (values * values) @ _BASIS[:, 0] - coefficients[..., 0] ** 2
    return covariance
