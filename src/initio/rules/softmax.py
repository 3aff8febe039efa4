# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Softmax over one axis, masked or not, and its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from initio.core.algebra import same_axes
from initio.core.axes import Array, Axis, axis
from initio.core.moments import Cross, Factor, Moments, Unknown, fresh_source, pair_values, worst
from initio.core.ranks import Ranked, softmax_jacobian
from initio.core.scalar import IDENTITY
from initio.core.softmax import softmax_moment, softmax_pair
from initio.rules.norm import centred
from initio.rules.table import Result, rule

__all__ = ["varying"]

GROUPS = 6
"""Most kinds of positions that a mask makes."""


def varying(x: Moments, i: int) -> Array:
    """gram[same index] − gram[different index] on axis i, averaged over its kinds: what a softmax over it sees."""
    a = x.axes[i]
    g = np.moveaxis(x.gram, i, 0)
    k2 = a.K * a.K
    share = a.counts / a.size
    pairs = np.where(a.pairs[:k2] > 0, a.pairs[:k2], 0.0)
    if pairs.sum() == 0:
        return np.zeros(g.shape[1:])
    return np.asarray(np.tensordot(share, g[k2:], axes=(0, 0)) - np.tensordot(pairs / pairs.sum(), g[:k2], axes=(0, 0)))


def _moment(s: Array, counts: Array, a: int, b: int = 0) -> Array:
    s, counts = np.broadcast_arrays(np.maximum(np.asarray(s, dtype=float), 0.0), counts)
    out = np.empty(s.shape)
    for index in np.ndindex(s.shape):
        out[index] = softmax_moment(float(f"{s[index]:.6g}"), int(counts[index]), a, b)
    return out


def _pairs(s: Array, c: Array, n: int) -> Array:
    """E[p_i p′_i] of two rows whose logits have covariance c, for the distinct pairs of variance and covariance."""
    rows = np.round(np.stack([s.ravel(), c.ravel()], axis=1), 9)
    distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
    return np.asarray(softmax_pair(distinct[:, 0], distinct[:, 1], n))[inverse.ravel()].reshape(s.shape)


SHARP = 1e6
"""Variance of the logits beyond which a softmax picks single entries, and which Gaussian logits do not reach."""


@rule("aten._softmax", "aten.softmax", "aten._safe_softmax", "aten.special_softmax")
def softmax(x: Moments, dim: int, *_: Any, **__: Any) -> Result:
    """p = e^x / Σ e^x. Only the part of the logits that varies over the axis counts; E[p²] is exact in its variance."""
    d = dim % len(x.dims)
    if x.extra.get("mask_lost"):
        return Unknown("a softmax whose mask was reshaped across its rows")
    mask, mixed = x.extra.get("mask"), x.extra.get("mixed")
    x = replace(x.with_axis(d), extra={})
    if mask is not None and not bool(np.all(mask)):
        allowed = np.broadcast_to(mask, x.shape)
        made = _masked(x, allowed, d)
        if isinstance(made, Moments):
            made.extra["support"] = allowed
    else:
        made = _unmasked(x, d)
    if mixed is None or not isinstance(made, Moments) or mixed.stage != "keys":
        return made
    # logits of two tokens correlate by ε: E[p p′] grows by ε E[∂²(p p′)/∂x∂x′] (Price 1958), summed over the pairs ε (1 − 5 Σp²) to first order in p
    share = max(1.0 - 5.0 * made.shape[d] * made.total_second, 0.0)
    return replace(made, extra={**made.extra, "mixed": mixed.times(share)})


def _unmasked(x: Moments, d: int) -> Moments | Unknown:
    i = x.span(d)[0]
    n = x.axes[i].size
    x = x.relabel(i, axis(n))
    cov = varying(x, i)
    others = [a for j, a in enumerate(x.axes) if j != i]
    own = cov[tuple(a.diagonal for a in others)]
    if own.size and own.max() > SHARP:
        return Unknown(
            f"a softmax of logits with standard deviation {np.sqrt(own.max()):.3g}, such as a random mask of large numbers makes"
        )
    first, last = pair_values(others, own)
    spread = np.maximum(np.sqrt(np.maximum(first * last, 0.0)), np.abs(cov))
    same = _pairs(spread, cov, n)
    same[tuple(a.diagonal for a in others)] = _moment(own, np.full(own.shape, n), 2)
    different = (1.0 / n - same) / max(n - 1, 1)
    gram = np.stack([different, same], axis=i)
    mean = np.full([a.K for a in x.axes], 1.0 / n)
    bit = fresh_source()
    made = Moments.gaussian(x.axes, x.dims, mean, gram, bit | x.sources, claim=worst(x.claim, "rule"), softmax=(own, None), logits=cov)
    return _of_logits(made, x, i).without_ones()


def _of_logits(p: Moments, x: Moments, i: int) -> Moments:
    """p with its covariance with the logits, a (C − C averaged over axis i): by Stein's lemma E[∂p_k/∂x_l] = a (δ_kl − 1/n), a = (1/n − E p²) n / (n − 1)."""
    n = x.axes[i].size
    if len(x.law) != 1 or x.law[0].fn.linear is None or n < 2:
        return p
    scale, f = x.law[0].fn.linear[0], x.law[0].field
    slope, _ = pair_values(x.axes, (1.0 / n - p.second) * n / (n - 1))
    u, v = pair_values(x.axes, f.mean)
    known = Cross(f.id, f.view, scale * slope * centred(f.gram - u * v, x.axes, [i]))
    return replace(p, law=(Factor(IDENTITY, replace(p.law[0].field, cross=(known,))),))


def _masked(x: Moments, allowed: Any, d: int) -> Result:
    """Rows see different numbers of entries: kinds of rows and of columns by how many they see, and are seen by."""
    if d == 0 or d != len(x.dims) - 1:
        return Unknown("a masked softmax over a dimension that is not the last")
    flat = allowed.reshape((-1, allowed.shape[-2], allowed.shape[-1]))
    first = flat[0]
    if not bool(np.all(flat == first)):
        return _masked_apart(x, allowed, d)
    counts = first.sum(axis=1)
    if (counts == 0).any():
        return Unknown("a mask that hides every entry of a row")
    x = x.with_axis(d - 1)
    q, k = x.span(d - 1)[0], x.span(d)[0]
    rows = _grouped(counts)
    columns = (
        rows
        if first.shape[0] == first.shape[1] and len(np.unique(counts)) > 1 and bool(np.all(np.tril(first) == first))
        else _grouped(first.sum(axis=0))
    )
    ra, ca = axis(len(counts), rows), axis(first.shape[1], columns)
    x = x.relabel(q, ra).relabel(k, axis(first.shape[1]))
    cov = varying(x, k)  # classes of the lead axes and of q
    spec = _structure(first, counts, ra, ca)
    others = [a for j, a in enumerate(x.axes) if j != k]
    own = cov[tuple(a.diagonal for a in others)]
    qa = q if q < k else q - 1
    out_axes = [ra if j == q else ca if j == k else a for j, a in enumerate(x.axes)]
    mean_rc = spec["mean"]
    shape = [1] * len(x.axes)
    shape[q], shape[k] = ra.K, ca.K
    mean = np.broadcast_to((mean_rc if q < k else mean_rc.T).reshape(shape), [a.K for a in out_axes]).copy()
    # classes with all lead axes equal and the same row: E[p²] of that row; elsewhere log-normal correlation of the weights
    gram = np.zeros([a.P for a in out_axes])
    g = np.moveaxis(gram, (q, k), (-2, -1))
    typical = np.array([np.exp(np.log(counts[ra.label_array() == r]).mean()) for r in range(ra.K)])
    one, two = (np.moveaxis(v, qa, -1) for v in pair_values(others, own))
    boost = _boost(np.moveaxis(cov, qa, -1), np.sqrt(np.maximum(one * two, 0.0)), np.sqrt(typical[ra.first] * typical[ra.second]))
    g[...] = boost[..., None] * spec["same_column"] + spec["different_column"]
    excess = (boost - 1.0)[..., None] * spec["excess"]
    g[...] = g - excess
    lead_axes = [a for j, a in enumerate(x.axes) if j not in (q, k)]
    diag = tuple(a.diagonal for a in lead_axes)
    own_rows = np.moveaxis(own, qa, -1)
    ratio = np.stack([_row_ratio(own_rows[..., r], counts[ra.label_array() == r]) for r in range(ra.K)], axis=-1)
    block = g[diag]
    kk = ra.K * ra.K
    e2, inv = spec["row_same"], spec["row_pairs"]  # (rows, columns) averages of a/n² and of pair products
    block[..., kk:, ca.K * ca.K :] = ratio[..., :, None] * e2
    block[..., kk:, : ca.K * ca.K] = inv * _pair_ratio(ratio, spec["mean_count"])[..., :, None]
    g[diag] = block
    bit = fresh_source()
    return Moments.gaussian(
        out_axes, x.dims, mean, gram, bit | x.sources, claim=worst(x.claim, "rule"), softmax=(own_rows, counts)
    ).without_ones()


def _boost(cov: Array, var: Array, count: Array) -> Array:
    """n² E[p p′] at one column for rows whose logits (variance `var`) have covariance `cov`; log-normal, e^cov, where that is small."""
    cov, var, count = np.broadcast_arrays(cov, var, count)
    out = np.exp(np.clip(cov, -1.0, 1.0))
    for index in zip(*np.nonzero(np.abs(cov) > 0.02), strict=True):
        if count[index] > 1.5:
            s = float(f"{max(var[index], abs(cov[index])):.3g}")
            out[index] = _overlap(s, round(float(count[index])), float(np.clip(cov[index] / s, -1.0, 1.0)))
        else:
            out[index] = 1.0
    return np.asarray(out)


def _overlap(s: float, n: int, rho: float) -> float:
    """n² E[p p′] = 1 + b ρ + A ρ^k: its value and slope at ρ = 0 and ρ = 1, which moments of one row give.

    dE[p p′]/dc = Σ_j E[∂_j p ∂_j p′] (Price 1958), ∂_j p_i = p_i (δ_ij − p_j). Within 1 % for variances up to 4.
    """
    base, end, k = _overlap_ends(s, n)
    power = abs(rho) ** k if rho >= 0 else 0.0
    return max(1.0 + base * rho + end * power, 0.0)


@lru_cache(maxsize=4096)
def _overlap_ends(s: float, n: int) -> tuple[float, float, float]:
    t = min(s, 100.0)
    m = softmax_moment(t, n, 2)
    slope0 = n * n * (1.0 / n - m) ** 2 * n / (n - 1) * t
    slope1 = n * n * (m - 2 * softmax_moment(t, n, 3) + softmax_moment(t, n, 4) + (n - 1) * softmax_moment(t, n, 2, 2)) * t
    left = n * n * m - 1.0 - slope0
    return slope0, left, max((slope1 - slope0) / left, 1.0) if left > 1e-9 else 2.0


def _masked_apart(x: Moments, allowed: Any, d: int) -> Result:
    """Masks that differ from sample to sample (padding, windows): one kind of rows and columns, averaged over the samples and over pairs of them."""
    x = x.with_axis(d - 1).with_axis(d)
    lead = [i for e in range(d - 1) for i in x.span(e)]
    grid = allowed.reshape([x.axes[i].size for i in lead] + list(allowed.shape[-2:]))
    varies = [n for n, i in enumerate(lead) if x.axes[i].size > 1 and not bool(np.all(grid == np.take(grid, [0], axis=n)))]
    few = np.moveaxis(grid, varies, range(len(varies)))[(slice(None),) * len(varies) + (0,) * (len(lead) - len(varies))]
    few = few.reshape((-1, *allowed.shape[-2:]))
    counts = few.sum(axis=2)
    if (counts == 0).any():
        return Unknown("a mask that hides every entry of a row")
    s, tq, tk = few.shape
    for i in (x.span(d - 1)[0], x.span(d)[0]):
        x = x.relabel(i, axis(x.axes[i].size))
    q, k = x.span(d - 1)[0], x.span(d)[0]
    weights = few / counts[:, :, None]
    own, together = _agreements(weights, weights), _agreements(weights.mean(axis=0, keepdims=True), weights.mean(axis=0, keepdims=True))
    apart = (together * s * s - own * s) / max(s * (s - 1), 1)
    cov = varying(x, k)
    others = [a for j, a in enumerate(x.axes) if j != k]
    logit = cov[tuple(a.diagonal for a in others)]
    same_sample = np.ones([1] * len(x.axes), dtype=bool)
    for n in varies:
        shape = [1] * len(x.axes)
        shape[lead[n]] = x.axes[lead[n]].P
        same_sample = same_sample & x.axes[lead[n]].same.reshape(shape)
    boost = np.expand_dims(np.exp(np.clip(cov, -50.0, 50.0)), k)
    table = np.where(same_sample[..., None, None], own, apart)  # (row agrees, column agrees) last
    rows = x.axes[q].same.astype(int)
    shape = [1] * len(x.axes)
    shape[q] = len(rows)
    by_row = np.take_along_axis(
        np.broadcast_to(table, (*np.broadcast_shapes(table.shape[:-2], tuple(shape)), 2, 2)), rows.reshape((*shape, 1, 1)), axis=-2
    )[..., 0, :]
    same, different = boost * by_row[..., 1], by_row[..., 0] - (boost - 1.0) * by_row[..., 1] / max(tk - 1, 1)
    gram = np.concatenate([different, same], axis=k)
    full = [a.P for a in x.axes]
    gram = np.broadcast_to(gram, full).copy()
    typical = _row_ratio(logit, counts.ravel())
    diag = tuple(slice(None) if j == k else a.diagonal for j, a in enumerate(x.axes))
    block = np.moveaxis(gram[diag], k, -1)
    e2 = np.broadcast_to(np.moveaxis(np.expand_dims(typical, -1), -1, -1)[..., 0], block.shape[:-1]) * own[1, 1]
    block[..., 1], block[..., 0] = e2, (1.0 / tk - e2) / max(tk - 1, 1)
    gram[diag] = np.moveaxis(block, -1, k)
    mean = np.full([a.K for a in x.axes], 1.0 / tk)
    bit = fresh_source()
    typical_count = round(float(1.0 / (1.0 / counts).mean()))
    return Moments.gaussian(
        x.axes,
        x.dims,
        mean,
        gram,
        bit | x.sources,
        claim=worst(x.claim, "rule"),
        softmax=(np.moveaxis(logit, q if q < k else q - 1, -1), np.full(tq, max(typical_count, 1))),
    ).without_ones()


def _agreements(a: Array, b: Array) -> Array:
    """Averages of a[i, j] b[i′, j′] over samples, (rows agree, columns agree) = (0|1, 0|1)."""
    n, tq, tk = a.shape
    both = float((a * b).sum())
    row = float((a.sum(axis=2) * b.sum(axis=2)).sum())
    column = float((a.sum(axis=1) * b.sum(axis=1)).sum())
    every = float((a.sum(axis=(1, 2)) * b.sum(axis=(1, 2))).sum())
    out = np.zeros((2, 2))
    out[1, 1] = both / (n * tq * tk)
    out[1, 0] = (row - both) / max(n * tq * tk * (tk - 1), 1)
    out[0, 1] = (column - both) / max(n * tq * (tq - 1) * tk, 1)
    out[0, 0] = (every - row - column + both) / max(n * tq * (tq - 1) * tk * (tk - 1), 1)
    return out


def _grouped(counts: Any) -> Any:
    """Groups of positions that see about equally many entries: all of them if few differ, else a geometric progression of counts."""
    if len(np.unique(counts)) <= 4:
        return counts
    low, high = np.log(counts.min()), np.log(counts.max() + 1.0)
    return np.floor((np.log(np.maximum(counts, 1)) - low) / (high - low) * GROUPS).astype(int)


def _row_ratio(s: Array, counts: Any) -> Array:
    """Σ E[p²] over Σ 1/n² for the rows of a kind: n² E[p²] averaged with the weights 1/n."""
    values, times = np.unique(counts, return_counts=True)
    if len(values) > 8:
        pick = np.unique(np.linspace(0, len(values) - 1, 8).astype(int))
        values, times = values[pick], times[pick]
    weight = times / values
    total = np.zeros(np.shape(s))
    for n, w in zip(values, weight, strict=True):
        total = total + w * n * n * _moment(s, np.full(np.shape(s), n), 2)
    return np.asarray(total / weight.sum())


def _pair_ratio(ratio: Array, mean_count: Array) -> Array:
    n = np.maximum(mean_count, 1.0 + 1e-9)
    return np.maximum((1.0 - ratio / n) / (1.0 - 1.0 / n), 0.0)


_STRUCTURES: dict[Any, dict[str, Array]] = {}


def _structure(allowed: Any, counts: Any, ra: Axis, ca: Axis) -> dict[str, Array]:
    """`_averages`, once for each mask: every layer of a model has the same."""
    key = (allowed.shape, np.packbits(allowed).tobytes(), ra, ca)
    if key not in _STRUCTURES:
        if len(_STRUCTURES) >= 16:
            _STRUCTURES.clear()
        _STRUCTURES[key] = _averages(allowed, counts, ra, ca)
    return _STRUCTURES[key]


def _averages(allowed: Any, counts: Any, ra: Axis, ca: Axis) -> dict[str, Array]:
    """Averages over kinds of rows and columns of products of 1[allowed]/n."""
    b = allowed / counts[:, None]
    rl, cl = ra.label_array(), ca.label_array()
    onr = np.eye(ra.K)[rl]
    onc = np.eye(ca.K)[cl]
    by_row = onr.T @ b  # (R, Tk)
    row_by_col = b @ onc  # (Tq, C)
    sums = by_row @ onc  # (R, C)
    squares = onr.T @ (b * b) @ onc
    mean = sums / np.outer(ra.counts, ca.counts)
    R, C = ra.K, ca.K
    same_col = np.einsum("rj,sj,jc->rsc", by_row, by_row, onc)
    all_col = np.einsum("rc,sd->rscd", sums, sums)
    own_col = np.einsum("ic,id,ir->rcd", row_by_col, row_by_col, onr)
    for r in range(R):
        same_col[r, r] -= squares[r]
        all_col[r, r] -= own_col[r]
    diff_col = all_col.copy()
    for c in range(C):
        diff_col[:, :, c, c] -= same_col[:, :, c]
    row_pairs = own_col.copy()
    for c in range(C):
        row_pairs[:, c, c] -= squares[:, c]
    same = np.zeros((ra.P, ca.P))
    different = np.zeros((ra.P, ca.P))
    same[: R * R, C * C :] = same_col.reshape(R * R, C)
    different[: R * R, : C * C] = diff_col.reshape(R * R, C * C)
    same[R * R :, C * C :] = squares
    different[R * R :, : C * C] = row_pairs.reshape(R, C * C)
    norm = np.outer(ra.pairs, ca.pairs)
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    same, different = same * scale, different * scale
    total_same = (same * norm).sum(axis=1, keepdims=True)
    total_diff = (different * norm).sum(axis=1, keepdims=True)
    # a higher weight on the same column is taken from the different ones, so that each row still sums to 1
    excess = np.divide(total_same, total_diff, out=np.zeros_like(total_same), where=total_diff > 0) * different
    mean_count = 1.0 / np.array([(1.0 / counts[rl == r]).mean() for r in range(R)])
    return {
        "mean": mean,
        "same_column": same,
        "different_column": different,
        "excess": excess,
        "row_same": squares / np.outer(ra.counts, ca.counts),
        "row_pairs": (
            row_pairs.reshape(R, C * C)
            * np.divide(
                1.0, np.outer(ra.counts, ca.pairs[: C * C]), out=np.zeros((R, C * C)), where=np.outer(ra.counts, ca.pairs[: C * C]) > 0
            )
        ),
        "mean_count": mean_count,
    }


@rule("aten._softmax_backward_data")
def softmax_backward(grad: Moments, p: Moments, dim: int, *_: Any) -> Result:
    """dx = p (g − Σ p g): E[dx²] = v E[p² (1 − 2p + Σ p²)], v the variance of g over the axis."""
    d = dim % len(p.dims)
    info = p.extra.get("softmax")
    if info is None:
        return Unknown("the logits of this softmax are not known")
    g, p = grad.with_axis(d), p.with_axis(d)
    for e in range(len(p.dims)):
        if p.shape[e] > 1:
            g, p = same_axes([g, p], [e, e])
    i = p.span(d)[0]
    a = p.axes[i]
    gi = np.moveaxis(g.gram, i, -1)
    k2 = a.K * a.K
    others = [b for j, b in enumerate(p.axes) if j != i]
    v, apart = _centred(gi, a, [pair_values(others, m) for m in np.moveaxis(p.mean, i, 0)])
    pg = np.moveaxis(p.gram, i, -1)
    ps = pg[..., k2:]
    diag = tuple(b.diagonal for b in others)
    same = v * ps
    own_s, counts = info
    damped = same[diag] * _damping(own_s, counts, a.size, p, i)
    ranked = grad.extra.get("ranked")
    if isinstance(ranked, Ranked) and ranked.n == a.size and 1 < ranked.k < ranked.n and counts is None:
        one, two = softmax_jacobian(ranked.n, ranked.k, ranked.variance)
        exact = one * gi[diag][..., k2:] + two * (ranked.n - 1) / (ranked.k - 1) * gi[diag][..., :k2]
        same = same * (exact / np.where(same[diag] > 0, same[diag], 1.0)).mean()
        damped = exact
    same[diag] = damped
    weight = ps / np.maximum((ps * (a.counts / a.size)).sum(axis=-1, keepdims=True), 1e-300)
    first, second = a.first[:k2], a.second[:k2]
    shape = np.sqrt(np.maximum(weight[..., first] * weight[..., second], 0.0))
    different = apart * pg[..., :k2]
    # each row of dx adds up to 0: what equal indices have, different ones take away
    taken = (shape * a.pairs[:k2]).sum(axis=-1, keepdims=True)
    rest = (same * a.counts).sum(axis=-1, keepdims=True) + (different * a.pairs[:k2]).sum(axis=-1, keepdims=True)
    different = different - shape * rest / np.where(taken > 0, taken, 1.0)
    gram = np.moveaxis(np.concatenate([different, same], axis=-1), -1, i)
    bit = fresh_source()
    made = Moments.gaussian(
        p.axes,
        p.dims,
        np.zeros([b.K for b in p.axes]),
        gram,
        bit | grad.sources | p.sources,
        odd=grad.odd & ~p.sources,
        claim=worst(grad.claim, p.claim, "rule"),
    ).without_ones()
    if "support" in p.extra:
        made.extra["support"] = p.extra["support"]
    if "mixed" in grad.extra:
        made = replace(made, extra={**made.extra, "mixed": grad.extra["mixed"].times(max(1.0 - a.size * p.total_second, 0.0))})
    return made


def _centred(gi: Array, a: Axis, means: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """E[(g_j − ḡ)(g′_j − ḡ′)] and E[(g_j − ḡ)(g′_k − ḡ′)], j ≠ k, by kinds of columns, ḡ = Σ_j E[p_j] g_j over the columns that a row sees.

    `gi` holds the products of g by classes of pairs of rows and (last) columns; `means` E[p] of the first and the second row, for each kind of column. The weights are
    those of pairs of different columns, normalised, so that what all columns of a row have in common drops out.
    """
    k, k2 = a.K, a.K * a.K
    pairs = gi[..., :k2].reshape((*gi.shape[:-1], k, k))
    one, two = (np.stack([m[n] for m in means], axis=-1) * a.counts for n in (0, 1))
    share = 1.0 - np.eye(k) / a.counts  # of the columns of kind l, those that differ from a given one of kind k
    rows, columns = one[..., :, None] * share, two[..., None, :] * share
    by_column = (rows * pairs).sum(axis=-2) / np.maximum(rows.sum(axis=-2), 1e-300)  # Σ_j E[p_j] g_j g′_k
    by_row = (columns * pairs).sum(axis=-1) / np.maximum(columns.sum(axis=-1), 1e-300)
    both = one[..., :, None] * two[..., None, :] * share
    common = (both * pairs).sum(axis=(-2, -1)) / np.maximum(both.sum(axis=(-2, -1)), 1e-300)
    apart = pairs - by_row[..., :, None] - by_column[..., None, :] + common[..., None, None]
    return gi[..., k2:] - by_row - by_column + common[..., None], apart.reshape(*gi.shape[:-1], k2)


def _damping(own: Array, counts: Any, length: int, p: Moments, i: int) -> Array:
    """E[p² (1 − 2p + Σ p²)] / E[p²] for each kind of row, with a trailing axis for the kinds of columns."""

    def ratio(s: Array, n: Any) -> Array:
        n = np.broadcast_to(n, np.shape(s))
        e2, e3, e4 = _moment(s, n, 2), _moment(s, n, 3), _moment(s, n, 4)
        e22 = np.where(n > 1, _moment(s, n, 2, 2), 0.0)
        return np.asarray((e2 - 2 * e3 + e4 + (n - 1) * e22) / e2)

    if counts is None:
        return ratio(own, length)[..., None]
    q = next(j for j in range(len(p.axes) - 1, -1, -1) if j != i)
    labels = p.axes[q].label_array() if p.axes[q].size == len(counts) else np.zeros(len(counts), dtype=int)
    kinds = []
    for r in range(p.axes[q].K):
        values, times = np.unique(counts[labels == r], return_counts=True)
        if len(values) > 6:
            pick = np.unique(np.linspace(0, len(values) - 1, 6).astype(int))
            values, times = values[pick], times[pick]
        e2 = [
            _moment(own[..., min(r, own.shape[-1] - 1)], np.full(own.shape[:-1], n), 2) * n * t for n, t in zip(values, times, strict=True)
        ]
        parts = [w * ratio(own[..., min(r, own.shape[-1] - 1)], int(n)) for w, n in zip(e2, values, strict=True)]
        kinds.append(sum(parts) / sum(e2))
    return np.stack(kinds, axis=-1)[..., None]
