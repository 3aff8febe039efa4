"""The way that most of the signal takes through a model, and how its scale goes along that way."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from initio.checks.framework import Context
from initio.core.record import Node

__all__ = ["CONTRACTIONS", "RESETS", "WORST", "Decay", "Layer", "collapse", "decay", "layers", "segments"]

CONTRACTIONS = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "_convolution", "mv", "addmv", "matmul"})
RESETS = frozenset(
    {
        "native_layer_norm", "native_batch_norm", "native_group_norm", "_fused_rms_norm", "cudnn_batch_norm", "_batch_norm_with_update",
        "_native_batch_norm_legit", "_batch_norm_impl_index", "_softmax", "_log_softmax", "batch_norm", "layer_norm", "group_norm",
    }
)  # fmt: skip
"""Operations whose output does not depend on the scale of their input: a chain of shrinking layers ends there."""

LEAST_DEPTH = 5
"""A chain of fewer layers says nothing about depth."""
WORST = 1e-6
"""Second moments in a ratio beyond this or its inverse (a thousandfold rms) are no longer explained by a few odd layers."""
COLLAPSED = 1e-4
"""A share of the signal below this, in which samples differ, is lost in rounding and in the noise of training."""
STEADY = 0.6
"""Share of the steps that must go the way of the whole: a single small layer (a head that starts near zero) is no decay with depth."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A contraction with parameters on the main way: its output value, and where it stands."""

    node: Node
    value: int
    module: str


@dataclass(frozen=True, slots=True)
class Decay:
    """A geometric course of second moments over `depth` layers, from `first` to `last`; `rate` is the median factor of a layer."""

    first: float
    last: float
    depth: int
    rate: float
    direction: Literal["vanishing", "exploding"]

    @property
    def ratio(self) -> float:
        """Second moment at the end, relative to that at the beginning."""
        return self.last / self.first

    @property
    def evidence(self) -> dict[str, float | int | str]:
        """The numbers behind it."""
        return {"rate": self.rate, "ratio": self.ratio, "depth": self.depth, "first": self.first, "last": self.last}


def layers(context: Context, *, joins: bool = False) -> list[Layer | None]:
    """Contractions with parameters from the input to the largest output, None where a norm resets the scale.

    With `joins`, the sums of two values that carry the signal instead: the ends of residual blocks.
    """
    record, analysis = context.record, context.analysis
    floating = [output.value for output in record.outputs if record.values[output.value].floating]
    if not floating:
        return []
    seen: set[int] = set()
    found: list[Layer | None] = []
    value: int | None = max(floating, key=lambda v: (_weight(analysis.of(v).second), v))
    while value is not None and value not in seen:
        seen.add(value)
        node = context.producers.get(value)
        if node is None or node.phase == "backward":
            break
        name = node.op.split(".")[1].rstrip("_") if "." in node.op else node.op
        carriers = _carriers(context, node)
        if name in RESETS:
            found.append(None)
        elif joins:
            if name == "add" and len(carriers) > 1:
                found.append(Layer(node, value, node.module))
        elif name in CONTRACTIONS and len(carriers) < len([v for v in node.inputs if record.values[v].floating]):
            found.append(Layer(node, value, node.module))
        if name in RESETS:
            carriers = carriers[:1]
        value = max(carriers, key=lambda v: _weight(analysis.of(v).second), default=None)
    return found[::-1]


def _carriers(context: Context, node: Node) -> list[int]:
    """Floating inputs that depend on the model's inputs: neither parameters (or what is made of them alone) nor constants."""
    return [v for v in node.inputs if context.record.values[v].floating and v in context.carrying]


def _weight(second: float) -> float:
    return second if second == second else -1.0


def segments(found: Sequence[Layer | None]) -> Iterator[list[Layer]]:
    """Runs of layers without a norm between them."""
    run: list[Layer] = []
    for layer in (*found, None):
        if layer is not None:
            run.append(layer)
        elif run:
            yield run
            run = []


def collapse(context: Context, run: Sequence[Layer]) -> Decay | None:
    """The decay of the share of the second moment in which samples differ, where the second moment itself does not vanish."""
    summaries = [context.analysis.of(layer.value) for layer in run]
    known = [s for s in summaries if s.second > 0 and not math.isnan(s.varying)]
    if len(known) < LEAST_DEPTH or known[-1].second < known[0].second / 30:
        return None
    course = decay([s.varying / s.second if s.second > 0 else math.nan for s in summaries], worst=COLLAPSED)
    return course if course is not None and course.direction == "vanishing" else None


def decay(moments: Sequence[float], *, worst: float = WORST) -> Decay | None:
    """The decay (or growth) of second moments along a chain, None where depth explains it.

    It must last `LEAST_DEPTH` layers, exceed `worst` as a whole, and most single steps must go its way.
    Unknown and zero moments are left out: a branch that starts at zero on purpose is no decay.

    >>> decay([6.0**-k for k in range(21)]).direction, decay([1.0] * 20 + [1e-9])
    ('vanishing', None)
    """
    known = [(position, m) for position, m in enumerate(moments) if m == m and 0 < m < math.inf]
    if len(known) < LEAST_DEPTH:
        return None
    (start, first), (end, last) = known[0], known[-1]
    depth, ratio = end - start, last / first
    if worst < ratio < 1 / worst or depth < LEAST_DEPTH:
        return None
    direction = "vanishing" if ratio < 1 else "exploding"
    threshold = math.log(ratio) / depth / 4
    steps = [math.log(b / a) / (j - i) for (i, a), (j, b) in itertools.pairwise(known)]
    steady = sum(step / threshold >= 1 for step in steps)
    return Decay(first, last, depth, math.exp(statistics.median(steps)), direction) if steady >= STEADY * len(steps) else None
