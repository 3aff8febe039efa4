"""Maxima over windows: the largest of exchangeable normals forward, the chosen entry of every window backward."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from initio.core.algebra import broadcast, not_negative, pair_expectation, same_axes
from initio.core.axes import LAGS, Array, Axis, Taps, axis, axis_map
from initio.core.extremes import max_pair
from initio.core.gaussian import expect, expect2
from initio.core.moments import Factor, Moments, Unknown, along, fresh_source, pair_values, worst
from initio.core.pairs import shaped
from initio.core.pieces import cut, each_piece, made_of, pieces_of, telling
from initio.core.scalar import IDENTITY, Scalar, affine
from initio.core.windows import choice_matrix, chosen, maxima, overlap_counts, tabulated
from initio.rules.linear import window_taps
from initio.rules.structure import cat
from initio.rules.table import Result, context, rule

__all__ = ["listed", "windows"]


def listed(value: Any, n: int, default: Sequence[int] | None = None) -> list[int]:
    """One number for each of n dimensions."""
    values = [int(v) for v in (value if isinstance(value, (tuple, list)) else [value])]
    if not values and default is not None:
        return list(default)
    return values * n if len(values) == 1 else values


def windows(shape: Sequence[int], out: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> list[Taps]:
    """The taps of a pooling along each dimension."""
    n = len(shape)
    k = listed(kernel, n)
    s, p, d = listed(stride, n, k), listed(padding, n), listed(dilation, n)
    return [window_taps(shape[i], k[i], s[i], p[i], d[i], out[i]) for i in range(n)]


@dataclass(frozen=True)
class _Exchangeable:
    """X = f(u), u normal: its mean, and covariances by pair class of the other axes: at equal positions (`near`), at different ones of a window
    (`far`), and of different ones in two windows, by their pair class too (`between`).
    """

    f: Scalar
    x: Moments
    others: tuple[Axis, ...]
    outs: tuple[Axis, ...]
    mean: Array
    near: Array
    far: Array
    between: Array

    @property
    def own(self) -> float:
        """Variance of what a position has for itself."""
        at = tuple(a.diagonal for a in self.others)
        return max(float(np.mean(self.near[at] - self.far[at])), 0.0)

    @property
    def common(self) -> Array:
        """Variance of what the positions share."""
        return np.clip(self.far[tuple(a.diagonal for a in self.others)], 0.0, None)

    def agreement(self, n: int) -> Array:
        """Cov(T, T′) / Var T of the maxima over n entries at the same positions, by pair class of the other axes."""
        own = self.own
        r = np.clip((self.near - self.far) / own, -1.0, 1.0) if own > 0 else np.zeros_like(self.near)
        r = np.where(np.abs(r) < 1e-9, 0.0, np.where(np.abs(r - 1) < 1e-9, 1.0, r))
        out = r.copy()
        if n == 1:
            return out
        for value in np.unique(r[(r != 0) & (r != 1)]).tolist():
            at, one, zero = (float(max_pair(0.0, 1.0, 0.0, 0.0, n, aligned=a)) for a in (value, 1.0, 0.0))
            out[r == value] = (at - zero) / (one - zero)
        return out


def _exchangeable(x: Moments, taps: Sequence[Taps]) -> _Exchangeable:
    n = len(taps)
    x = x.with_law()
    f, alone = x.law[0], len(x.law) == 1
    if not alone or not (f.fn is IDENTITY or f.fn.increasing):
        x = replace(x.opaque(), extra={})
    rank = len(x.dims)
    for d in range(rank - n, rank):
        x = x.with_axis(d)
    f = x.law[0]
    mean, near, gram, same = f.field.mean, f.field.gram, f.field.gram, f.field.gram
    first = len(x.axes) - n
    others, outs = (
        tuple(x.axes[:first]),
        tuple(axis_map(axis(t.n_in, lags=a.lags), t, summed=True).axis for a, t in zip(x.axes[first:], taps, strict=True)),
    )
    pairs, equal = np.ones(()), np.ones(())
    for i, (a, t, out) in enumerate(zip(x.axes[first:], taps, outs, strict=True), first):
        matrix = axis_map(a, t, out).coherent
        own = np.where(a.same, matrix, 0.0)
        gram, same = along(matrix, gram, i), along(own, same, i)
        pairs, equal = np.multiply.outer(pairs, matrix.sum(axis=1)), np.multiply.outer(equal, own.sum(axis=1))
        near = along(np.where(a.same, a.pairs, 0.0)[None] / a.size, near, i)
        mean = along((a.counts / a.size)[None], mean, i)
    mean = mean[(..., *[0] * n)]
    u, v = pair_values(others, mean)
    near = near[(..., *[0] * n)] - u * v
    left = pairs - equal
    between = (gram - same) / np.where(left > 1e-9, left, 1.0) - (u * v)[(..., *[None] * n)]
    diagonal = (..., *[a.diagonal for a in outs])
    weight = _outer([a.counts for a in outs]) * (left[diagonal] > 1e-9)
    far = (between[diagonal] * weight).sum(axis=tuple(range(first, first + n))) / max(float(weight.sum()), 1e-300)
    between = np.where(left > 1e-9, between, far[(..., *[None] * n)])
    return _Exchangeable(f.fn, x, others, outs, mean, near, far, between)


def _gated(x: Moments, n: int) -> tuple[Moments, tuple[Factor, ...]]:
    """x without the factors of its law that are not negative and the same at all positions (the last n dimensions), and those factors."""
    positions = [i for d in range(len(x.dims) - n, len(x.dims)) for i in x.span(d)]
    gate = tuple(f for f in x.law if all(f.field.view.strides[i] == 0 for i in positions) and not_negative(f, x.axes))
    rest = [f for f in x.law if all(f is not g for g in gate)]
    if not gate or len(rest) != 1:
        return x, ()
    f = rest[0]
    var = np.maximum(f.field.gram[tuple(a.diagonal for a in x.axes)] - f.field.mean**2, 0.0)
    return Moments(
        x.axes, x.dims, np.asarray(expect(f.fn, f.field.mean, var)), pair_expectation(f.fn, f.field, x.axes), (f,), x.sources, 0, x.claim
    ), gate


def _times_gate(y: Moments, gate: Sequence[Factor], x: Moments, n: int) -> Moments:
    """y, the maxima of x over the last n dimensions, times factors that do not vary over them."""
    for f in gate:
        var = np.maximum(f.field.gram[tuple(a.diagonal for a in x.axes)] - f.field.mean**2, 0.0)
        mean = np.asarray(expect(f.fn, f.field.mean, var))
        g = Moments(x.axes, x.dims, mean, pair_expectation(f.fn, f.field, x.axes), (f,), f.field.sources)
        for d in range(len(x.dims) - n, len(x.dims)):
            g = g.select(d, 0)
            g = replace(g, dims=(*g.dims[:d], 0, *g.dims[d:]))
        y, g = broadcast(y.with_law(), g)
        y = Moments(y.axes, y.dims, y.mean * g.mean, y.gram * g.gram, (*y.law, *g.law), y.sources | g.sources, 0, y.claim)
    return y


def _outer(vectors: Sequence[Array]) -> Array:
    out: Array = np.ones(())
    for v in vectors:
        out = np.multiply.outer(out, v)
    return out


@rule(
    "aten.max_pool1d",
    "aten.max_pool2d",
    "aten.max_pool3d",
    "aten.max_pool1d_with_indices",
    "aten.max_pool2d_with_indices",
    "aten.max_pool3d_with_indices",
    near=True,
)
def max_pool(x: Moments, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False) -> Result:
    """Maximum over windows: y = f(max u) for an increasing f."""
    name = context().node.op.split("max_pool")[1]
    n, out = int(name[0]), context().shapes[0]
    made = _maximum_of_pieces(x, windows(x.shape[-n:], out[-n:], kernel, stride, padding, dilation))
    return (made, Moments.iid(out, 0.0, 0.0)) if "with_indices" in name else made


@rule("aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d", near=True)
def adaptive_max_pool(x: Moments, size: Any) -> Result:
    """Maximum over windows that divide the map."""
    n, out = int(context().node.op.split("max_pool")[1][0]), context().shapes[0]
    return _maximum_of_pieces(x, [adaptive_taps(x.shape[-n + i], out[-n + i]) for i in range(n)]), Moments.iid(out, 0.0, 0.0)


def adaptive_taps(n: int, out: int) -> Taps:
    """Windows ⌊i n / out⌋ to ⌈(i + 1) n / out⌉."""
    bounds = [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]
    index = np.full((max(b - a for a, b in bounds), out), -1)
    for p, (a, b) in enumerate(bounds):
        index[: b - a, p] = np.arange(a, b)
    return Taps(index, n)


@dataclass(frozen=True)
class _Pooled:
    """What a tensor holds the maxima of: `source`, over the windows `taps`. `gram` and `dims` tell the tensor that the note was made for."""

    source: Moments
    taps: tuple[Taps, ...]
    gram: Array
    dims: tuple[Any, ...]


def _maximum_of_pieces(x: Moments, taps: Sequence[Taps]) -> Moments | Unknown:
    """The maximum of a concatenation of channels is the concatenation of the maxima, that of maxima the maximum over the union of their windows.

    Maxima over windows that overlap are often one and the same entry: no Gaussian dependence of the maxima says so.
    """
    x, taps = _unpooled(x, taps)

    def of_piece(p: Moments) -> Moments:
        return maximum(p, taps)

    found = each_piece(of_piece, x) if telling(x) and _beside(x, len(taps)) else None
    made = maximum(x, taps) if found is None else cat(found[1], found[0])
    if isinstance(made, Unknown):
        return made
    return replace(made, extra={**made.extra, "pooled": _Pooled(x, tuple(taps), made.gram, tuple(made.dims))})


def _unpooled(x: Moments, taps: Sequence[Taps]) -> tuple[Moments, Sequence[Taps]]:
    """What the maxima of x over `taps` are the maxima of, and over which windows."""
    note = x.extra.get("pooled")
    if (
        note is None
        or note.gram is not x.gram
        or note.dims != tuple(x.dims)
        or len(note.taps) != len(taps)
        or any(a.n_out != b.n_in for a, b in zip(note.taps, taps, strict=True))
    ):
        return x, taps
    return note.source, [union_of_windows(a, b) for a, b in zip(note.taps, taps, strict=True)]


def union_of_windows(inner: Taps, outer: Taps) -> Taps:
    """The entries that the windows `inner` of each window of `outer` hold, each once."""
    held: list[Any] = []
    for window in outer.index.T:
        entries = np.unique(inner.index[:, window[window >= 0]])
        held.append(entries[entries >= 0])
    index = np.full((max(h.size for h in held), outer.n_out), -1)
    for p, h in enumerate(held):
        index[: h.size, p] = h
    return Taps(index, inner.n_in)


def _beside(x: Moments, n: int) -> bool:
    """Whether x is made of pieces along a dimension that is not pooled (the last n are)."""
    p = pieces_of(x)
    return p is not None and p.dim < len(x.shape) - n


def maximum(x: Moments, taps: Sequence[Taps]) -> Moments:
    """f(max u) over windows: windows apart share W only; those that overlap, or lie at the same place, covary in their own parts too.

    A factor that is not negative and the same all over a window, such as a gate of the channel, comes out of the maximum.
    """
    x, gate = _gated(x, len(taps))
    if gate:
        return _times_gate(maximum(x, taps), gate, x, len(taps))
    e = _exchangeable(x, taps)
    outs = e.outs
    tables = [overlap_counts(t, a) for t, a in zip(taps, outs, strict=True)]
    kinds = list(zip(e.mean.ravel().tolist(), e.common.ravel().tolist(), strict=True))
    laws = [maxima(e.f, m, c, e.own) for m, c in kinds]
    index: Any = np.arange(len(kinds)).reshape(e.mean.shape)
    first, second = (v.ravel().astype(int) for v in pair_values(e.others, index))
    common = e.common.ravel()
    extent = np.sqrt(common[first] * common[second])
    order = np.arange(len(laws[0].coefficients(1)))
    cache: dict[tuple[int, int, int], tuple[Array, Array]] = {}

    def parts(n1: int, n2: int, s: int) -> tuple[Array, Array]:
        """Of E f(max₁) f(max₂), for all pair classes of the other axes: coefficients of the powers of the correlation of W, and what shared entries add."""
        if (n1, n2, s) not in cache:
            a, b = (np.stack([law.coefficients(k) for law in laws]) for k in (n1, n2))
            added = np.zeros(first.size)
            if s:
                excess = np.array([law.both(n1, n2, s) for law in laws]) - (a * b).sum(axis=1)
                added = e.agreement(s).ravel() * np.sqrt(np.maximum(excess[first], 0.0) * np.maximum(excess[second], 0.0))
            cache[n1, n2, s] = (a[first] * b[second], added)
        return cache[n1, n2, s]

    mean = np.zeros([len(kinds)] + [a.K for a in outs])
    for k in np.ndindex(*[a.K for a in outs]):
        entries = [tables[i][a.off + k[i]] for i, a in enumerate(outs)]
        for combination in itertools.product(*entries):
            size = math.prod(c[1] for c in combination)
            mean[(slice(None), *k)] += math.prod(c[0] for c in combination) * np.array([law.coefficients(size)[0] for law in laws])
    gram = np.zeros([first.size] + [a.P for a in outs])
    between = e.between.reshape(first.size, *[a.P for a in outs])
    for c in np.ndindex(*[a.P for a in outs]):
        rho = np.divide(between[(slice(None), *c)], extent, out=np.zeros(first.size), where=extent > 0)
        powers = np.clip(rho, -1.0, 1.0)[:, None] ** order
        for combination in itertools.product(*[tables[i][k] for i, k in enumerate(c)]):
            n1, n2, s = (math.prod(row[k] for row in combination) for k in (1, 2, 3))
            coefficients, added = parts(n1, n2, s)
            gram[(slice(None), *c)] += math.prod(row[0] for row in combination) * ((coefficients * powers).sum(axis=1) + added)
    axes = [*e.others, *outs]
    dims = e.x.dims
    made = Moments.gaussian(
        axes, dims, mean.reshape([a.K for a in axes]), gram.reshape([a.P for a in axes]), x.sources, claim=worst(x.claim, "rule")
    )
    size = math.prod(int((t.index >= 0).sum(axis=0).max()) for t in taps)
    law = shaped(axes, dims, made.mean, made.gram, x.sources, laws[0].ordered(size))
    return (made if law is None else replace(made, law=(law,))).without_ones()


@rule("aten.max_pool2d_with_indices_backward", "aten.max_pool3d_with_indices_backward", near=True)
def max_pool_backward(
    grad: Moments, x: Moments, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, indices: Any
) -> Result:
    """The cotangent of every window at its largest entry."""
    n = 2 if "2d" in context().node.op else 3
    return _placed_in_pieces(grad, x, windows(x.shape[-n:], grad.shape[-n:], kernel, stride, padding, dilation))


@rule("aten.adaptive_max_pool2d_backward", "aten.adaptive_max_pool3d_backward", near=True)
def adaptive_max_pool_backward(grad: Moments, x: Moments, indices: Any) -> Result:
    """The cotangent of every window at its largest entry."""
    n = 2 if "2d" in context().node.op else 3
    return _placed_in_pieces(grad, x, [adaptive_taps(x.shape[-n + i], grad.shape[-n + i]) for i in range(n)])


def _placed_in_pieces(grad: Moments, x: Moments, taps: Sequence[Taps]) -> Moments | Unknown:
    """Of a concatenation, the law of every piece given the values of that piece."""
    whole = placed_at_maxima(grad, x, taps)
    p = pieces_of(x)
    if p is None or not _beside(x, len(taps)) or not telling(x) or isinstance(whole, Unknown):
        return whole
    parts: list[Moments] = []
    for start, stop in pairwise(p.cuts):
        made = placed_at_maxima(cut(grad, p.dim, start, stop), cut(x, p.dim, start, stop), taps)
        if isinstance(made, Unknown):
            return whole
        parts.append(made)
    return made_of(whole, p.dim, parts)


def placed_at_maxima(grad: Moments, x: Moments, taps: Sequence[Taps]) -> Moments | Unknown:
    """dx_i = Σ_w g_w B_wi, B_wi = 1[u_i is the largest of window w], for g independent of u.

    E[dx_i dx_j] = Σ_{w ∋ i, v ∋ j} E[g_w g_v] P(w chooses i, v chooses j). Given u_i an entry is chosen with a probability p(u_i)
    that rises with it: dx = g′ p(u) + noise, where the noise (g B less its expectation given u) is uncorrelated between
    positions and has the second moment E[g²] (p − p²)(u). Both are kept as terms, for functions of the same u to come.
    """
    n = len(taps)
    x = _gated(x, n)[0]
    lead = len(x.dims) - n
    g = replace(grad, law=(), extra={})
    x = _exchangeable(x, taps).x
    for i, t in enumerate(taps, len(x.axes) - n):
        a = x.axes[i]
        x = x.relabel(i, axis(a.size, a.labels, max(a.lags, min(int(np.ptp(t.index[:, t.n_out // 2])), LAGS) if t.reach(0, True) else 0)))
    for d in range(lead):
        if g.shape[d] > 1:
            g, x = same_axes([g, x], [d, d])
    e = _exchangeable(x, taps)
    x = e.x
    for d in range(lead, lead + n):
        g = g.with_axis(d)
    outs = tuple(g.axes[g.span(d)[0]] for d in range(lead, lead + n))
    sources = tuple(x.axes[x.span(d)[0]] for d in range(lead, lead + n))
    others = tuple(x.axes[: len(x.axes) - n])
    if tuple(g.axes[: len(g.axes) - n]) != others:
        return Unknown("a cotangent whose axes do not match those of the pooled tensor")
    aligned, split = choice_matrix(tuple(taps), sources, outs)
    mean, apart = g.mean, g.gram
    for i, (t, a, b) in enumerate(zip(taps, sources, outs, strict=True)):
        sizes = np.maximum((t.index >= 0).sum(axis=0), 1)
        m = axis_map(b, Taps(t.index, t.n_in, 1.0 / sizes).transposed(), a)
        mean, apart = along(m.mean, mean, len(others) + i), along(m.coherent, apart, len(others) + i)
    shape = apart.shape
    rows = g.gram.reshape(-1, math.prod(b.P for b in outs))
    size = max(round(math.prod(float((t.index >= 0).sum(axis=0).mean()) for t in taps)), 1)
    agree = e.agreement(size).reshape(-1, 1)
    gram = ((1 - agree) * apart.reshape(len(rows), -1) + agree * (rows @ aligned.T)).reshape(shape)
    return _with_choice(
        Moments.gaussian(x.axes, x.dims, mean, gram, grad.sources, claim=worst(grad.claim, x.claim, "rule")), apart, split, size, g, e
    )


def _with_choice(dx: Moments, apart: Array, split: Sequence[tuple[int, Array]], size: int, g: Moments, e: _Exchangeable) -> Moments:
    """The law of dx given u: g′ p(u) + noise."""
    u = e.x.law[0].field
    axes, same = dx.axes, tuple(a.diagonal for a in dx.axes)
    share = float(e.common.mean()) / max(float(e.common.mean()) + e.own, 1e-300)
    own_axes = tuple(a.diagonal for a in e.others)
    standard = affine(
        1.0 / math.sqrt(max(float(e.common.mean()) + e.own, 1e-300)),
        -float(e.mean.mean()) / math.sqrt(max(float(e.common.mean()) + e.own, 1e-300)),
    )
    p = standard.then(chosen(size, share))
    # E[dx² | u], averaged over positions, by the number of entries of the windows together
    second = g.gram[own_axes].reshape(-1, math.prod(g.gram.shape[len(own_axes) :])).mean(axis=0)
    weights = [(chosen(m, share), float(w @ second)) for m, w in split]
    whole, expected = sum(w for _, w in weights), float((dx.weights * apart[same]).sum())
    square = tabulated(lambda z: (sum(w * f(z) for f, w in weights) - expected * chosen(size, share)(z) ** 2) / max(whole, 1e-300))

    m, s = u.mean, np.maximum(u.gram[same] - u.mean**2, 0.0)
    (m1, m2), (s1, s2) = pair_values(axes, m), pair_values(axes, s)
    mass = np.asarray(expect2(p, p, m1, s1, m2, s2, u.gram - m1 * m2))
    first = dx.gram / mass
    first[same] = np.minimum(apart[same], dx.gram[same] / mass[same])
    bit, noise = fresh_source(), fresh_source()
    odd = bit if not np.any(dx.mean) else 0
    shared = Moments.gaussian(axes, dx.dims, dx.mean / np.asarray(expect(p, m, s)), first, bit)
    t1 = Moments(
        axes, dx.dims, dx.mean, first * mass, (Factor(IDENTITY, shared.law[0].field), Factor(p, u)), bit | u.sources, odd, dx.claim
    )
    rest = standard.then(Scalar("spread of the choice", lambda z: np.sqrt(np.maximum(square(z), 0.0))))
    left = np.zeros_like(dx.gram)
    left[same] = np.maximum(dx.gram[same] - t1.gram[same], 0.0)
    scaled = left.copy()
    scaled[same] /= np.maximum(np.asarray(expect(rest.times(rest), m, s)), 1e-300)
    white = Moments.gaussian(axes, dx.dims, np.zeros_like(dx.mean), scaled, noise)
    t2 = Moments(
        axes,
        dx.dims,
        np.zeros_like(dx.mean),
        left,
        (Factor(IDENTITY, white.law[0].field), Factor(rest, u)),
        noise | u.sources,
        noise,
        dx.claim,
    )
    return Moments(axes, dx.dims, dx.mean, dx.gram, t1.law, bit | noise | u.sources, odd, dx.claim, {"terms": (t1, t2)}).without_ones()
