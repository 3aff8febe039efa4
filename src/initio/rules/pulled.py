"""What a cotangent has along the input of the weights that made it, where sums over its features are read later.

Given the logits x = W h + b of a sample, W is W⊥ + κ x hᵀ / |h|², κ = Var(W h) / Var x, and W⊥ is independent of them (Bolthausen 2014). The cotangent
g = Wᵀ dx of the input is then W⊥ᵀ dx + κ h (x · dx) / |h|², of which independence of W and dx gives the second moments as if E (x · dx)² were
Var x E|dx|². The excess R of the former over the latter adds E[h_j h_k] (E w² / Var x)² R. Of single entries this is of order 1/width. In the sum G over
features, which h shares where it has a mean m, it is of order 1, and of the sum's own size where dx is a multiple of a sharp softmax of x.

With it goes h · g = (W h) · dx, of which G has the part h · g m / E h²: below a log-softmax h = x − L the part of its dx along x is x · dx = h · g + H G
with the entropy H of its softmax, so that this sum passes through sharp layers unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from initio.core.algebra import broadcast
from initio.core.axes import Array, Axis
from initio.core.moments import Moments, pair_values
from initio.rules.table import context

__all__ = ["Along", "along_input", "note_excess", "with_excess"]


@dataclass(frozen=True, slots=True, eq=False)
class Along:
    """E[(h · g)(h′ · g′)] and E[(h · g) G′] of cotangents g of the field `of`, by pair class of the axes `lead`."""

    of: int
    lead: tuple[Axis, ...]
    square: Array
    summed: Array


def _noted(name: str) -> dict[int, Any]:
    uses: Any = context().uses
    return uses.setdefault(name, {})


def note_excess(dx: Moments, lead: tuple[Axis, ...], excess: Array) -> None:
    """Note (E (x · dx) (x′ · dx′) − Cov(x, x′) E[dx · dx′]) / (Var x Var x′) of the cotangent dx of logits x, by pair class of the axes `lead`."""
    if len(dx.law) == 1 and np.any(excess):
        _noted("excess along logits")[dx.law[0].field.id] = (lead, excess)


def along_input(g: Moments, h: Moments, lead: tuple[Axis, ...]) -> Along | None:
    """What is known of h · g for a cotangent g of h."""
    made, line = (_noted("along inputs").get(g.law[0].field.id), g.law[0].fn.linear) if len(g.law) == 1 else (None, None)
    same = isinstance(made, Along) and len(h.law) == 1 and h.law[0].field.id == made.of and made.lead == lead
    return made if same and line == (1.0, 0.0) else None


def with_excess(g: Moments, dx: Moments, w: Moments) -> Moments:
    """g = dx W, (samples, features), with its part along the one input that W was applied to."""
    noted = _noted("excess along logits").get(dx.law[0].field.id) if len(dx.law) == 1 else None
    line = dx.law[0].fn.linear if noted is not None else None
    used: Any = context().uses.get(w.law[0].field.id, []) if len(w.law) == 1 and "weight" in w.extra else []
    if noted is None or line is None or line[1] != 0.0 or len(used) != 1 or not isinstance(used[0], tuple) or np.any(w.mean):
        return g
    h: Any = used[0][0]
    if not isinstance(h, Moments) or h.shape != g.shape:
        return g
    made, h = broadcast(g, h)
    lead, excess = noted
    at, features = made.span(0), made.span(1)
    if tuple(made.axes[i] for i in at) != lead or any(made.axes[i].K > 1 for i in features) or any(dx.axes[i].K > 1 for i in dx.span(1)):
        return g
    variance = line[0] ** 2 * excess
    gram = made.gram + w.total_second**2 * np.expand_dims(variance, tuple(features)) * h.gram
    out = Moments.gaussian(made.axes, made.dims, made.mean, gram, g.sources, odd=g.odd, claim=g.claim)
    same = tuple(1 if i in features else slice(None) for i in range(len(made.axes)))
    n, own = g.shape[1], tuple(0 if i in features else slice(None) for i in range(len(made.axes)))
    second, mean = h.second[own], h.mean[own]
    u, v = pair_values(lead, second)
    matched = dx.gram[tuple(1 if i in dx.span(1) else slice(None) for i in range(len(dx.axes)))]
    square = (w.total_second * n) ** 2 * variance * u * v + w.total_second * n * dx.shape[1] * matched * h.gram[same]
    one, two = pair_values(lead, mean / np.where(second > 0, second, 1.0))
    if len(h.law) == 1 and len(out.law) == 1:
        _noted("along inputs")[out.law[0].field.id] = Along(h.law[0].field.id, lead, square, 0.5 * (one + two) * square)
    return out
