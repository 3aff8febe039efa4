# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy's stubs leave parts of its results untyped
"""What few channels do to the layers behind them: K_pq = x_p · x_q / n of two positions is not its mean.

Given K, a channel y = w · x of the next layer is Gaussian with covariance σ² n K, so that the variance of a filter's outputs over positions, by which a
batch norm divides, scatters from filter to filter by 2 E K_pq² / V². A sum over n channels adds a fluctuation of variance 1/n of its own (that of |w|²,
which the norm cancels); to it come those of all sums that x was made of. Of them f lets Cov(u, f)² / Var u Var f through, a sum of arrays has its terms'
by their share of the variance, and a filter of several taps averages over as many pairs of positions. They are kept by their causes, as branches of a
residual network have theirs in common. Backwards, part of it returns where the gradient passes the sum that was the cause.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from initio.core.gaussian import expect, stein
from initio.core.moments import Factor, Moments
from initio.rules.table import context

__all__ = ["returned", "spread_behind", "spread_by_filter", "spread_of_sum", "spread_same"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Relative fluctuations of K by their cause, √variance; those of the generating kernel, and what the sum over the channels of the array itself adds."""

    causes: dict[int, float]
    own: dict[int, float]


def _memory(name: str) -> dict[int, Any]:
    uses: Any = context().uses
    return uses.setdefault(name, {})


def _of(x: Moments, channels: int) -> Spread | None:
    """The spread of x, a function of one field or a multiple of it, with `channels` independent ones."""
    if context().backward or channels < 2:
        return None
    whole = [f for f in x.law if 0 not in f.field.view.strides]  # not the gates of whole channels
    if len(whole) != 1:
        return None
    return _through(x, whole[0], channels)[0]


def _through(x: Moments, f: Factor, channels: int) -> tuple[Spread, float, float]:
    """The spread of f(u); what is left of the overlap of a cotangent with the kernel of u; E f′²."""
    known = _memory("spread")
    mine: Spread = known.get(f.field.id) or Spread({}, {f.field.id: channels**-0.5})
    if f.fn.linear is not None:
        return mine, 1.0, 1.0
    same = tuple(a.diagonal for a in x.axes)
    mean, variance = float((x.weights * f.field.mean).sum()), float((x.weights * (f.field.gram[same] - f.field.mean**2)).sum())
    outer = float(expect(f.fn.times(f.fn), mean, variance)) - float(expect(f.fn, mean, variance)) ** 2
    slope = float(stein(f.fn, mean, variance))
    share = min(slope**2 * variance / outer, 1.0) if outer > 0 else 0.0
    derivative = f.fn.derivative
    square = float(expect(derivative.times(derivative), mean, variance)) if derivative is not None else slope**2
    left = min(slope**2 / square, 1.0) if square > 0 else 0.0
    return Spread({s: share * c for s, c in mine.causes.items()}, mine.own), share * left, square


def spread_by_filter(y: Moments, x: Moments, w: Moments, together: float, taps: float, separate: bool) -> None:
    """Note y = w ∗ x of filters over all channels of x (each by itself: `separate`) and `taps` taps; `together` is the mean of ρ² over pairs of taps."""
    channels = x.shape[1]
    found = _of(x, channels)
    if found is None or len(y.law) != 1:
        return
    scale = together**0.5
    causes = {s: scale * c for s, c in found.causes.items()}
    history = sum(c * c for c in causes.values())
    if not separate:
        history += 2.0 * sum(scale * c * causes.get(s, 0.0) for s, c in found.own.items())
        history += max(together - 1.0 / taps, 0.0) / channels
        for s, c in found.own.items():
            causes[s] = causes.get(s, 0.0) + scale * c
    key = y.law[0].field.id
    _memory("spread")[key] = Spread(causes, {key: y.shape[1] ** -0.5})
    _memory("spread history")[key] = history
    once = w.law[0].field.id not in _memory("spread filters")
    _memory("spread filters")[w.law[0].field.id] = key if once else None


def spread_same(y: Moments, x: Moments) -> None:
    """Note that y is x with every channel by itself shifted and scaled."""
    known = _memory("spread")
    if len(x.law) == 1 and len(y.law) == 1 and x.law[0].field.id in known:
        key = y.law[0].field.id
        known[key] = Spread(known[x.law[0].field.id].causes, {key: max(y.shape[1], 1) ** -0.5})
        _memory("spread normed")[x.law[0].field.id] = key


def spread_of_sum(z: Moments, x: Moments, y: Moments, a: float, b: float) -> None:
    """Note z = a x + b y of arrays with as many channels: each by its share of the variance."""
    if len(z.law) != 1 or len(z.dims) < 2 or not x.shape[:2] == y.shape[:2] == z.shape[:2]:
        return
    known, channels = _memory("spread"), z.shape[1]
    if not any(f.field.id in known for t in (x, y) for f in t.law):
        return
    parts = [(c * c * float((t.weights * (t.second - t.mean**2)).sum()), _of(t, channels)) for c, t in ((a, x), (b, y))]
    whole = sum(v for v, _ in parts)
    if whole <= 0 or any(found is None for _, found in parts):
        return
    causes: dict[int, float] = {}
    own = {z.law[0].field.id: (2.0 * parts[0][0] * parts[1][0] / channels) ** 0.5 / whole}
    for variance, found in parts:
        for sums, terms in ((causes, found.causes), (own, found.own)) if found is not None else ():
            for s, c in terms.items():
                sums[s] = sums.get(s, 0.0) + variance / whole * c
    known[z.law[0].field.id] = Spread(causes, own)
    for t in (x, y):
        for f in t.law:
            if 0 not in f.field.view.strides:
                _memory("spread sums").setdefault(f.field.id, []).append(z.law[0].field.id)


def spread_behind(y: Moments) -> float:
    """E K_pq² / V² − (E K_pq)² / V², of the kernel of y, beyond what the sum over the channels that y was made of adds by itself."""
    return _memory("spread history").get(y.law[0].field.id, 0.0) if len(y.law) == 1 and y.law[0].fn.linear is not None else 0.0


def returned(w: Moments, x: Moments, dx: Moments, together: float, taps: float) -> float:
    """The factor on E dx², dx the cotangent of x behind w ∗ x and a norm, of what later norms have to do with that sum over channels.

    A later filter v over its deviation avoids the directions of large variance, E[v vᵀ / vᵀ C v] ∝ 1 − 2 C / tr C, and C holds w wᵀ.
    """
    known, met, sums = _memory("spread"), _memory("spread met"), _memory("spread sums")
    key = _memory("spread filters").get(w.law[0].field.id) if len(w.law) == 1 else None
    whole = [f for f in x.law if 0 not in f.field.view.strides]
    if key is None or key not in known or len(whole) != 1:
        return 1.0
    energy, mine = 0.0, dict[int, float]()
    waiting, seen = [_memory("spread normed").get(key, key)], set[int]()
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        power, vector = met.get(at, (0.0, {}))
        energy += power
        for s, c in vector.items():
            mine[s] = mine.get(s, 0.0) + c
        waiting += sums.get(at, ())
    mine = {s: c / energy for s, c in mine.items()} if energy > 0 else {}
    found, left, square = _through(x, whole[0], x.shape[1])
    scale = together**0.5
    factor = max(1.0 - 2.0 * sum(mine.get(s, 0.0) * scale * c for s, c in found.own.items()), 0.0)
    power, vector = met.setdefault(whole[0].field.id, (0.0, {}))
    here = factor * dx.total_second * square
    for s, c in known[key].causes.items():
        vector[s] = vector.get(s, 0.0) + here * left * (c / scale + mine.get(s, 0.0)) / taps
    met[whole[0].field.id] = (power + here, vector)
    return factor
