"""How strongly the vectors of different tokens happen to overlap, beyond what independent entries would give.

For tokens j, j′ with features f, G_jj′ = (1/n) Σ_f x_jf x_j′f has the variance second² · o. Independent entries give o = 1/n; a linear map of
n_in features hands on the overlap of its input, o_out = 1/n_out + o_in, whatever the weights are. Keys and values that are made of the same
tokens therefore overlap *together*: `overlap` is the inherited part o − 1/n, `tokens` the field that it was inherited from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from initio.core.gaussian import expect
from initio.core.moments import Factor, Moments

__all__ = ["Mixed", "inherited", "marked", "overlap_of", "summed"]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A cotangent whose products over pairs of different `tokens` follow their overlap: E[y_j y_j′ G_jj′] summed over the pairs is `amount` (times second).

    `stage` says what it meets next: the keys (dS), the queries (dSᵀ), or the tokens in a weight gradient (dk, `count` tokens a sample).
    """

    tokens: int
    amount: float
    stage: str = "keys"
    count: int = 1

    def times(self, factor: float) -> Mixed:
        """With another amount."""
        return replace(self, amount=self.amount * factor)

    def turned(self) -> Mixed:
        """Of the transposed tensor."""
        return self if self.stage == "weights" else replace(self, stage="queries" if self.stage == "keys" else "keys")


def overlap_of(x: Moments) -> tuple[float, int]:
    """(inherited overlap, tokens) of x: of f(u), that of u times (E f′)⁴ var² / (E f²)²; a mask dilutes it."""
    found = [(f.field.overlap, k) for k, f in enumerate(x.law) if f.field.overlap > 0.0]
    if len(found) != 1:
        return 0.0, -1
    e, k = found[0]
    own = tuple(a.diagonal for a in x.axes)
    part = 1.0
    for j, f in enumerate(x.law):
        mean, second = float(np.mean(f.field.mean)), float(np.mean(f.field.gram[own]))
        var = max(second - mean * mean, 0.0)
        if f.fn.linear is not None and j == k:
            a, b = f.fn.linear
            whole, linear = (a * mean + b) ** 2 + a * a * var, a * a * var
        else:
            whole = float(np.asarray(expect(f.fn.times(f.fn), mean, var)))
            slope = (float(np.asarray(expect(f.fn, mean + 1e-3, var))) - float(np.asarray(expect(f.fn, mean - 1e-3, var)))) / 2e-3
            linear = slope * slope * var if j == k else float(np.asarray(expect(f.fn, mean, var))) ** 2
        part *= (linear / whole) ** 2 if whole > 0 else 0.0
    return e * part, x.law[k].field.tokens


def marked(x: Moments, overlap: float, tokens: int) -> Moments:
    """x, with the inherited overlap of its (only) field."""
    if len(x.law) != 1 or overlap <= 0.0:
        return x
    f = x.law[0]
    return replace(x, law=(Factor(f.fn, replace(f.field, overlap=overlap, tokens=tokens)),))


def inherited(x: Moments, width: int) -> tuple[float, int]:
    """What a linear map over `width` features of x hands on."""
    e, _ = overlap_of(x)
    return e + 1.0 / width, x.law[0].field.id if x.law else -1


def summed(out: Moments, x: Moments, y: Moments, a: float = 1.0, b: float = 1.0) -> Moments:
    """The overlap of a X + b Y, independent: each part's, times the square of its share of the variance."""
    if len(out.law) != 1 or out.law[0].field.overlap > 0.0:
        return out
    parts = [(c * c * float((z.weights * (z.second - z.mean**2)).sum()), *overlap_of(z)) for z, c in ((x, a), (y, b))]
    total = sum(p[0] for p in parts)
    if total <= 0.0 or not any(p[1] for p in parts) or (parts[0][1] and parts[1][1] and parts[0][2] == parts[1][2]):
        return out
    e = sum((p[0] / total) ** 2 * p[1] for p in parts)
    return marked(out, e, max(parts, key=lambda p: p[0] * p[1])[2])
