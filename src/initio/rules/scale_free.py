# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""What a contraction followed by a batch norm does not see: the scale of its weights, so that gradients have no part along it.

With y_o = w_o · x, σ_o² = Var y_o and δ_o the cotangent behind the norm: Σ δ_o = Σ y_o δ_o = 0 over samples and positions. Hence
w_o · dw_o = 0; the cotangent dx of the input has Σ_c Σ x_c dx_c = 0 over the channels of a group (Euler's theorem); and the scale of
w_o cancels in w_o / σ_o. The effects are of order 1/fan-in: everything for depthwise convolutions, little for wide ones.

With ε in the root, ŷ = y / √(s + ε) and δ = (g − ŷ m) / √(s + ε), m = mean g ŷ: Σ y δ = N m (1 − ρ), ρ = s / (s + ε) = mean ŷ². This sum is
w · dw and Σ x dx as well, so that E (N m (1 − ρ))² = `kept` is the square of the part along y, w or x: nothing of it is left for ε = 0, all of it
where the variance is far below ε.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from initio.core.algebra import add, broadcast, joint, multiply, pair_expectation, scale, swap
from initio.core.axes import Array
from initio.core.moments import Factor, Moments, Unknown
from initio.rules.table import context

__all__ = [
    "divided_by_own_scale",
    "excess",
    "fan_in",
    "fourth_cumulant",
    "fourths",
    "freedom",
    "gains",
    "orthogonal",
    "own_scale",
    "radial",
    "remember_along",
    "remember_fan",
    "remember_tilt",
    "tilt_of",
    "without_radial",
    "without_radial_sums",
]

FEW = 64
"""Most terms of a sum whose law is told from a normal one."""
SMALL = 0.02
"""Share of the radial part below which it is left alone."""


def _memory(name: str) -> dict[int, Any]:
    uses: Any = context().uses
    return uses.setdefault(name, {})


def remember_fan(y: Moments, x: Moments, fan: float, kurtosis: float) -> None:
    """Note that entries of y are sums over `fan` independent x with weights of their own, of this kurtosis E w⁴ / σ⁴."""
    if len(y.law) == 1:
        _memory("fan")[y.law[0].field.id] = (fan, kurtosis)
        if fan <= FEW and not context().backward:
            variance = float((x.weights * (x.second - x.mean**2)).sum())
            _memory("cumulant")[y.law[0].field.id] = fourth_cumulant(x) / variance**2 if variance > 0 else 0.0


def fan_in(y: Moments) -> float:
    """The noted number of terms, infinite where none was noted."""
    if len(y.law) != 1 or y.law[0].fn.linear is None:
        return np.inf
    return _memory("fan").get(y.law[0].field.id, (np.inf, 3.0))[0]


def fourths(y: Moments) -> tuple[float, float]:
    """E[b²] n² and E[b b′] n² of the shares b = w² / |w|² of two of the n weights of an entry: 3 n / (n + 2) and n / (n + 2) of normal ones."""
    n, kurtosis = _memory("fan").get(y.law[0].field.id, (np.inf, 3.0)) if len(y.law) == 1 else (np.inf, 3.0)
    if not 1.0 < n < np.inf:
        return kurtosis, 1.0
    own = kurtosis * n / (n + kurtosis - 1.0)
    return own, (1.0 - own / n) / (1.0 - 1.0 / n)


def excess(y: Moments) -> float:
    """E ŷ⁴ − 3 of an entry over the deviation of its channel: κ₄ / Var² of one term times E Σ b²."""
    found = _memory("cumulant").get(y.law[0].field.id, 0.0) if len(y.law) == 1 and y.law[0].fn.linear is not None else 0.0
    return found * fourths(y)[0] / fan_in(y) if found else 0.0


def fourth_cumulant(x: Moments) -> float:
    """κ₄ of an entry, averaged over kinds; 0 where its law is not one function of a normal."""
    if len(x.law) != 1:
        return 0.0
    f = x.law[0]
    var = np.maximum(f.field.gram[tuple(a.diagonal for a in x.axes)] - f.field.mean**2, 0.0)
    z, w = np.polynomial.hermite_e.hermegauss(64)
    values = f.fn(float((x.weights * f.field.mean).sum()) + math.sqrt(float((x.weights * var).sum())) * z)
    w = w / w.sum()
    values = values - values @ w
    return float(values**4 @ w - 3.0 * (values**2 @ w) ** 2)


def freedom(y: Moments) -> float:
    """Of |w|², the degrees of freedom of a χ² variable with the same relative variance."""
    n, kurtosis = _memory("fan").get(y.law[0].field.id, (np.inf, 3.0)) if len(y.law) == 1 else (np.inf, 3.0)
    return 2.0 * n / (kurtosis - 1.0)


def own_scale(share: float, fan: float, normal: float, spread: float = 0.0) -> tuple[float, float, float, float]:
    """What the scatter of |w|² from filter to filter does to a norm of y = Σ_c w_c x_c over `fan` independent x_c.

    s = |w|² t: |w|² / E|w|² is a χ² variable of `fan` (see `freedom`) degrees of freedom over their number, t a Gamma variable of relative
    variance 2 · `share`, the inverse number of independent entries, times a log-normal one such that s has 2 · `spread` more
    (`rules.spread`); `normal` is E s / (E s + ε). Returned are E[1/(s + ε)] of that Gamma variable alone in units of what it is,
    E[|w|²/(s + ε)] in units of E|w|² E[1/(s + ε)], and, as m = mean g ŷ goes with √ρ, E[ρ (1 − ρ)²] / E ρ and
    E[ρ (1 − ρ)² / |w|²] E|w|² / E ρ.
    """
    n = min(normal / max(1.0 - normal, 1e-12), 1e12)
    (t, weight), (g, density) = _gamma(round(max(0.5 / max(share, 1e-6), 1.0), 6)), _gamma(0.5 * fan)
    fixed = float(weight @ (1.0 / (1.0 + n * t)))
    if spread > 0.0:
        log = math.log1p(2.0 * spread / (1.0 + 2.0 / fan))
        z, w = np.polynomial.hermite_e.hermegauss(5)
        t, weight = np.multiply.outer(np.exp(math.sqrt(log) * z - 0.5 * log), t).ravel(), np.multiply.outer(w / w.sum(), weight).ravel()
    inverse = 1.0 / (1.0 + n * np.multiply.outer(t, g))
    total = float(weight @ inverse @ density)
    left = (1.0 - inverse) * inverse**2 / max(1.0 - total, 1e-300)
    return (
        fixed / total,
        float(weight @ inverse @ (density * g)) / total,
        float(weight @ left @ density),
        float(weight @ left @ (density / g)),
    )


@lru_cache(maxsize=1024)
def _gamma(shape: float) -> tuple[Array, Array]:
    """Nodes and weights for a Gamma variable of the given shape and mean 1: the trapezoidal rule for its logarithm."""
    low, high = (30.0 / shape, np.log1p(60.0 / shape)) if shape < 6.25 else (12.0 / shape**0.5, 12.0 / shape**0.5)
    y = np.linspace(-low, high, 241)
    density = np.exp(shape * (y - np.expm1(y)))
    return np.exp(y), density / density.sum()


def remember_tilt(dx: Moments, tilt: Array, normal: Array, variance: float, harmonic: float, shares: tuple[float, float]) -> None:
    """Note, for the cotangent dx of y: ∂ Cov(dx_q, dx_q') / ∂ Cov(ŷ_q, ŷ_q') and Cov(ŷ_q, ŷ_q') by pair class; V = E[Var y + ε], 1 / (V E[1/(Var y + ε)]), `fourths`."""
    if len(dx.law) == 1 and np.any(tilt):
        _memory("tilt")[dx.law[0].field.id] = (tilt, normal, variance, harmonic, shares)


def tilt_of(grad: Moments) -> tuple[Array, Array, float, float, tuple[float, float]] | None:
    """What `remember_tilt` noted for this cotangent."""
    found = _memory("tilt").get(grad.law[0].field.id) if len(grad.law) == 1 else None
    times = _multiple(grad.law[0]) if found is not None else None
    return None if found is None or times is None else (times**2 * found[0], *found[1:])


def divided_by_own_scale(dx: Moments, fan: float, through: float, kept: float, within: float) -> None:
    """Note that dx was divided by the σ of an array y of the given fan-in; for each channel, E (Σ y dx)² = `kept` and E[(Σ y dx)²/|w|²] E|w|² = `within`."""
    if np.isfinite(fan) and len(dx.law) == 1:
        _memory("divided")[dx.law[0].field.id] = (fan, through, kept, within)


def gains(grad: Moments, weight: float) -> tuple[float, float, float]:
    """On the second moments of w ∗ grad and of grad ∗ x for a noted grad: the factor of `own_scale`, 1 − 1/fan, and what is left of w · dw.

    The part of dw along w is w (w · dw) / |w|², of second moment E[(w · dw)² / |w|²] / fan; `weight` is E w².
    """
    noted = _noted(grad)
    if noted is None:
        return 1.0, 1.0, 0.0
    fan, through, _, within = noted
    return through, 1.0 - 1.0 / fan, within / (fan * fan * weight) if weight > 0 else 0.0


def _noted(grad: Moments) -> tuple[float, float, float, float] | None:
    found = _memory("divided").get(grad.law[0].field.id) if len(grad.law) == 1 else None
    times = _multiple(grad.law[0]) if found is not None else None
    return None if found is None or times is None else (*found[:2], found[2] * times**2, found[3] * times**2)


def _multiple(f: Factor) -> float | None:
    """a, where f is a times its field."""
    line = f.fn.linear
    return None if line is None or line[1] != 0.0 else line[0]


def radial(dx: Moments, grad: Moments, x: Moments, channels: float, taps: float, outputs: float) -> None:
    """Note what dx = w ∗ grad has along x, in groups of `channels` channels with `taps` weights each and `outputs` outputs.

    The part that a channel would have is smaller by E[a²]/E[a], a ~ Beta the share of its weights in the group's; what ε leaves to
    the outputs of a group, a channel receives in the share a.
    """
    share, noted = (taps + 2.0) / (channels * taps + 2.0), _noted(grad)
    if noted is not None and share > SMALL and len(dx.law) == 1:
        _memory("radial")[dx.law[0].field.id] = (x, share, noted[2] * outputs * share / channels)


def orthogonal(dx: Moments, xhat: Moments, kept: float) -> None:
    """Note that dx, the cotangent behind a norm, has of the part along the normalised x̂ of its channel no more than E (Σ x̂ dx)² = `kept`."""
    if len(dx.law) == 1 and xhat.law and xhat.law[0].fn.linear is None:
        _memory("radial")[dx.law[0].field.id] = (xhat, 1.0, kept)


def without_radial_sums(grad: Moments) -> Moments:
    """grad = h φ, right in its sums over samples and positions where h is noted to have no part along an x."""
    noted = [(f, _memory("radial")[f.field.id]) for f in grad.law if f.field.id in _memory("radial")]
    rest = [f for f in grad.law if f.field.id not in _memory("radial")]
    if len(noted) != 1 or len(rest) != 1 or _multiple(noted[0][0]) is None or noted[0][1][0].shape != grad.shape:
        return grad
    h, (x, share, kept) = noted[0]
    phi = _factor(grad, rest[0])
    return _summing(grad, _entries(_less(grad, h, grad, phi, x, share, kept), grad, h, phi, x, multiply(phi, x), share))


def without_radial(grad: Moments, xhat: Moments) -> tuple[Moments | Unknown, Moments]:
    """grad · x̂ and grad, right in their sums over samples and positions: grad = h φ with h ⟂ x leaves h (φ − c x), c = E φ x / E x².

    Entries of grad by themselves are φ (h − x ⟨h, x⟩ / ⟨x, x⟩): where φ masks the same entries as x, all of the loss is there.
    """
    if any(f.field.id in _memory("along") for term in grad.terms for f in term.law):
        return _term_by_term(grad, xhat)
    sums = _sums_along(grad, xhat)
    if sums is not None:
        return sums
    t = multiply(grad, xhat)
    noted = [(f, _memory("radial")[f.field.id]) for f in grad.law if f.field.id in _memory("radial")]
    if isinstance(t, Unknown) or len(noted) != 1:
        return t, grad
    h, (x, share, kept) = noted[0]
    rest = [f for f in grad.law if f is not h]
    if _multiple(h) is None or x.shape != grad.shape or len(rest) > 1:
        return t, grad
    phi = _factor(grad, rest[0]) if rest else Moments.iid((), 1.0, 0.0).expand(grad.shape)
    product = multiply(phi, xhat)
    if isinstance(product, Unknown):
        return t, grad
    along_x = product if x is xhat else multiply(phi, x)
    flat = _less(grad, h, grad, phi, x, share, kept)
    return _summing(t, _less(t, h, grad, product, x, share, kept)), _summing(grad, _entries(flat, grad, h, phi, x, along_x, share))


def _term_by_term(grad: Moments, xhat: Moments) -> tuple[Moments | Unknown, Moments]:
    made, flat = without_radial(grad.terms[0], xhat)
    for term in grad.terms[1:]:
        one, two = without_radial(term, xhat)
        made = made if isinstance(made, Unknown) or isinstance(one, Unknown) else add(made, one)
        both = add(flat, two)
        if isinstance(made, Unknown) or isinstance(both, Unknown):
            return multiply(grad, xhat), grad
        flat = both
    return made, flat


def remember_along(part: Moments, x: Moments) -> None:
    """Note that part = α (x − E x) belongs to a cotangent of x without a part along x."""
    _memory("along")[part.law[0].field.id] = x


def _sums_along(grad: Moments, xhat: Moments) -> tuple[Moments, Moments] | None:
    """grad · x̂ and grad for grad = α z φ, z = x − E x: what the rest takes away along x leaves α (z φ x̂ − c z x) and α (z φ − c z x) of the sums, each with its c."""
    noted = [(f, _memory("along")[f.field.id]) for f in grad.law if f.field.id in _memory("along")]
    rest = [f for f in grad.law if f.field.id not in _memory("along")]
    if len(noted) != 1 or len(rest) != 1 or noted[0][0].fn.linear is None or noted[0][1].shape != grad.shape:
        return None
    alpha, x = noted[0]
    gain = alpha.fn.linear[0] if alpha.fn.linear is not None else 1.0
    values = _factor(grad, rest[0])
    square = multiply(scale(x, 1.0, -x.total_mean), x)
    made: list[Moments] = []
    for value in (multiply(values, xhat), values):
        if isinstance(value, Unknown) or isinstance(square, Unknown):
            return None
        less = add(value, square, 1.0, -value.total_mean / max(square.total_mean, 1e-300))
        if isinstance(less, Unknown):
            return None
        own = Moments.gaussian(grad.axes, grad.dims, np.zeros_like(grad.mean), gain**2 * alpha.field.gram, 0)
        if less.total_second <= 1e-6 * value.total_second:  # z φ x̂ = c z x, but for rounding
            less = scale(less, 0.0)
        less, own = broadcast(less, own)
        made.append(
            Moments.gaussian(
                less.axes, less.dims, np.zeros_like(less.mean), own.gram * less.gram, grad.sources, odd=grad.odd, claim=grad.claim
            )
        )
    raw = multiply(grad, xhat)
    flat, whole = broadcast(made[1], grad)
    return made[0] if isinstance(raw, Unknown) else _summing(raw, made[0]), _summing(grad, _with_entries(flat, whole.second))


def _summing(x: Moments, right: Moments) -> Moments:
    """x with the entries of `right` and its sums over samples and positions.

    What is lost along one direction of all samples and positions of a channel is lost there: sums over fewer of them hardly notice.
    """
    if right is x:
        return x
    made, right = broadcast(x, right)
    return _shifted(made, right.second, right)


def _with_entries(summed: Moments, entry: Array) -> Moments:
    """`summed` with these second moments of single entries."""
    return _shifted(summed, entry, summed)


def _shifted(x: Moments, entry: Array, right: Moments) -> Moments:
    """x with second moments `entry` and the sums of `right` over samples and positions: all pairs of one channel make up for the difference."""
    channel = x.span(1)
    index = tuple(a.diagonal if i in channel else slice(None) for i, a in enumerate(x.axes))
    pairs = np.ones(())
    for i, a in enumerate(x.axes):
        pairs = np.multiply.outer(pairs, a.counts if i in channel else a.pairs)
    n = math.prod(size for d, size in enumerate(x.shape) if d != 1)
    gram, same = x.gram.copy(), tuple(a.diagonal for a in x.axes)
    gram[same] = entry
    gram[index] += float((pairs * (right.gram - gram)[index]).sum() / pairs.sum()) * n / max(n - 1.0, 1.0)
    gram[same] = entry
    return Moments.gaussian(x.axes, x.dims, x.mean, gram, x.sources, odd=x.odd, claim=x.claim)


def _less(t: Moments, h: Factor, grad: Moments, phi: Moments, x: Moments, share: float, kept: float) -> Moments:
    """t = h φ less its part along x, h (φ − c x), c = E ⟨h, φ⟩⟨h, x⟩ / E ⟨h, x⟩², but for E (Σ h x)² = `kept`, which leaves E (Σ t)² = c² kept."""
    times = _multiple(h) or 0.0
    own, kept = Moments.gaussian(grad.axes, grad.dims, np.zeros_like(grad.mean), times**2 * h.field.gram, 0), times**2 * kept
    made, phi, x, own = broadcast(t, phi, x, own)
    cross = joint(phi, x)
    if cross is None:
        return t
    channel, n = made.span(1), math.prod(size for d, size in enumerate(made.shape) if d != 1)
    index: list[Any] = [a.diagonal if i in channel else slice(None) for i, a in enumerate(made.axes)]
    pairs = np.ones(())
    for i, a in enumerate(made.axes):
        pairs = np.multiply.outer(pairs, a.counts if i in channel else a.pairs)
    inside = (pairs * own.gram[tuple(index)] * x.gram[tuple(index)]).sum()
    c = float((pairs * own.gram[tuple(index)] * cross[tuple(index)]).sum() / inside) if inside > 0 else 0.0
    removed = share * own.gram * (c * (cross + swap(x.axes, cross)) - c * c * x.gram)
    removed[tuple(index)] -= c * c * kept / (n * n)
    return Moments.gaussian(made.axes, made.dims, made.mean, made.gram - removed, made.sources, odd=made.odd, claim=made.claim)


def _entries(summed: Moments, grad: Moments, h: Factor, phi: Moments, x: Moments, both: Moments | Unknown, share: float) -> Moments:
    """`summed` with the second moments of single entries, the pairs of one channel making up for the difference; `both` is φ x."""
    own = Moments.gaussian(grad.axes, grad.dims, np.zeros_like(grad.mean), (_multiple(h) or 0.0) ** 2 * h.field.gram, 0)
    if summed is grad or isinstance(both, Unknown):
        return summed
    made, grad, own, phi, x, both = broadcast(summed, grad, own, phi, x, both)
    channel = made.span(1)
    inner: Any = (own.gram * x.gram)[tuple(a.diagonal if i in channel else slice(None) for i, a in enumerate(made.axes))]
    for i, a in enumerate(made.axes):
        if i not in channel:
            inner = np.expand_dims(np.tensordot(inner, a.pairs / a.pairs.sum(), axes=([i], [0])), i)
    along_x = share * inner / max(x.total_second, 1e-300) ** 2
    return _with_entries(made, grad.second + along_x * (phi.second * x.second - both.second))


def _factor(x: Moments, f: Factor) -> Moments:
    """One factor of the law of x by itself."""
    from initio.core.gaussian import expect

    mean = f.field.mean
    var = np.maximum(f.field.gram[tuple(a.diagonal for a in x.axes)] - mean * mean, 0.0)
    return Moments(x.axes, x.dims, np.asarray(expect(f.fn, mean, var)), pair_expectation(f.fn, f.field, x.axes), (f,), f.field.sources)
