"""Pooling over windows: means exactly, maxima through the law of their entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtr

from initio.core.algebra import average, scale
from initio.core.axes import Taps, axis_map
from initio.core.gaussian import expect2
from initio.core.moments import Factor, Field, Moments, Unknown, fresh_source, pair_values, worst
from initio.core.scalar import IDENTITY, Scalar
from initio.rules.linear import window_taps
from initio.rules.table import Result, context, rule

__all__: list[str] = []


def _listed(value: Any, n: int, default: Sequence[int] | None = None) -> list[int]:
    values = [int(v) for v in (value if isinstance(value, (tuple, list)) else [value])]
    if not values and default is not None:
        return list(default)
    return values * n if len(values) == 1 else values


def _average(x: Moments, taps: Sequence[Taps]) -> Moments:
    for i, t in enumerate(taps):
        x = x.linear(len(x.dims) - len(taps) + i, t)
    return x


def _windows(shape: Sequence[int], out: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> list[Taps]:
    n = len(shape)
    k = _listed(kernel, n)
    s, p, d = _listed(stride, n, k), _listed(padding, n), _listed(dilation, n)
    return [window_taps(shape[i], k[i], s[i], p[i], d[i], out[i]) for i in range(n)]


def _divided(t: Taps, kernel: int, include: bool) -> Taps:
    count = np.full(t.n_out, float(kernel)) if include else np.maximum((t.index >= 0).sum(axis=0), 1).astype(float)
    return Taps(t.index, t.n_in, 1.0 / count)


@rule("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d")
def avg_pool(x: Moments, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None) -> Moments:
    """Mean over windows."""
    out = context().shapes[0]
    n = int(context().node.op.split("avg_pool")[1][0])
    return _average(x, _mean_taps(x.shape[-n:], out[-n:], kernel, stride, padding, count_include_pad, divisor_override))


def _mean_taps(shape: Sequence[int], out: Sequence[int], kernel: Any, stride: Any, padding: Any, include: bool, divisor: int | None) -> list[Taps]:
    k = _listed(kernel, len(shape))
    taps = [_divided(t, k[i], include) for i, t in enumerate(_windows(shape, out, kernel, stride, padding))]
    if divisor:
        share = (math.prod(k) / divisor) ** (1 / len(k))
        taps = [Taps(t.index, t.n_in, t.weight * share) for t in taps]
    return taps


def _adaptive(n: int, out: int) -> Taps:
    start = [i * n // out for i in range(out)]
    stop = [-(-(i + 1) * n // out) for i in range(out)]
    width = max(b - a for a, b in zip(start, stop, strict=True))
    index = np.full((width, out), -1)
    for p, (a, b) in enumerate(zip(start, stop, strict=True)):
        index[: b - a, p] = np.arange(a, b)
    return _divided(Taps(index, n), width, False)


@rule("aten._adaptive_avg_pool2d", "aten.adaptive_avg_pool1d", "aten._adaptive_avg_pool3d", "aten.adaptive_avg_pool2d")
def adaptive_avg_pool(x: Moments, size: Any) -> Moments:
    """Mean over windows that divide the map."""
    out = context().shapes[0]
    n = len(size) if isinstance(size, (tuple, list)) else 1
    if math.prod(out[-n:]) == 1:
        made = average(x, range(len(x.dims) - n, len(x.dims)), True)
        return made
    return _average(x, [_adaptive(x.shape[-n + i], out[-n + i]) for i in range(n)])


@rule("aten.avg_pool2d_backward", "aten.avg_pool3d_backward")
def avg_pool_backward(grad: Moments, x: Moments, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor_override: int | None) -> Moments:
    """Each input of a window receives its share."""
    n = int(context().node.op.split("avg_pool")[1][0])
    taps = _mean_taps(x.shape[-n:], grad.shape[-n:], kernel, stride, padding, count_include_pad, divisor_override)
    return _average(grad, [t.transposed() for t in taps])


@rule("aten._adaptive_avg_pool2d_backward", "aten._adaptive_avg_pool3d_backward")
def adaptive_avg_pool_backward(grad: Moments, x: Moments) -> Moments:
    """Each input of a window receives its share."""
    n = 2 if "2d" in context().node.op else 3
    if math.prod(grad.shape[-n:]) == 1:
        return scale(grad, 1.0 / math.prod(x.shape[-n:])).expand(x.shape)
    return _average(grad, [_adaptive(x.shape[-n + i], grad.shape[-n + i]).transposed() for i in range(n)])


# -- maxima ------------------------------------------------------------------------------------------------------

_Z = np.linspace(-9.0, 9.0, 721)
_DENSITY = np.exp(-0.5 * _Z * _Z) / math.sqrt(2 * math.pi) * (_Z[1] - _Z[0])


@lru_cache(maxsize=512)
def _maximum_density(n: float) -> Any:
    """Weights on `_Z` of the maximum of n independent standard normals."""
    w = n * np.exp((n - 1) * log_ndtr(_Z)) * _DENSITY
    return w / w.sum()


def _of_maximum(f: Scalar, own: float, n: float) -> Scalar:
    """c ↦ E f(c + √own · M), M the maximum of n independent standard normals."""
    weight = _maximum_density(n)
    keep = weight > 1e-16
    steps, weight = math.sqrt(own) * _Z[keep], weight[keep]

    def h(c: Any) -> Any:
        c = np.asarray(c, dtype=float)
        return np.asarray(f(c[..., None] + steps) @ weight)

    return Scalar(f"max{n:g}", h)


@rule("aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices", "aten.max_pool2d", "aten.max_pool1d", "aten.max_pool3d", "aten.max_pool1d_with_indices")
def max_pool(x: Moments, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False) -> Result:
    """Maximum over windows of equally correlated Gaussians u, y = f(max u) for an increasing f: u = common + own part."""
    name = context().node.op.split("max_pool")[1]
    n = int(name[0])
    out = context().shapes[0]
    taps = _windows(x.shape[-n:], out[-n:], kernel, stride, padding, dilation)
    made = _maximum(x, taps, n)
    return (made, Moments.iid(out, 0.0, 0.0)) if "with_indices" in name and isinstance(made, Moments) else made


def _maximum(x: Moments, taps: Sequence[Taps], n: int) -> Moments | Unknown:
    x = x.with_law()
    f = x.law[0]
    if len(x.law) > 1 or not (f.fn is IDENTITY or f.fn.increasing):
        x = replace(x.opaque(), extra={})
        f = x.law[0]
    rank = len(x.dims)
    # moments of the underlying field, its positions merged into one kind each
    base = Moments.gaussian(x.axes, x.dims, f.field.mean, f.field.gram, x.sources)
    for i in range(n):
        base = base.with_axis(rank - n + i)
    at = [base.span(rank - n + i)[0] for i in range(n)]
    maps = [axis_map(base.axes[i], t) for i, t in zip(at, taps, strict=True)]
    for i in at:
        from initio.core.axes import axis

        base = base.relabel(i, axis(base.axes[i].size))
    for i, t, m in zip(at, taps, maps, strict=True):
        valid = (t.index >= 0).sum(axis=0)
        kinds = [float(valid[m.axis.label_array() == k].mean()) for k in range(m.axis.K)]
        base = replace(base, extra={**base.extra, i: kinds})
    counts = base.extra
    # covariance with all positions different: the common part of a window
    pick: list[Any] = [slice(None)] * len(base.axes)
    for i in at:
        pick[i] = 0
    far = base.gram[tuple(pick)]
    near_pick = list(pick)
    for i in at:
        near_pick[i] = 1
    near = base.gram[tuple(near_pick)]
    others = [a for i, a in enumerate(base.axes) if i not in at]
    mean = base.mean[tuple(0 if i in at else slice(None) for i in range(len(base.axes)))]
    mu, mv = pair_values(others, mean)
    own_total = near[tuple(a.diagonal for a in others)] - mean**2
    common = np.clip(far[tuple(a.diagonal for a in others)] - mean**2, 0.0, None)
    common = np.minimum(common, own_total)
    own = float(np.mean(own_total - common))
    new_axes = [maps[at.index(i)].axis if i in at else a for i, a in enumerate(base.axes)]
    out_mean = np.zeros([a.K for a in new_axes])
    out_gram = np.zeros([a.P for a in new_axes])
    su, sv = pair_values(others, common)
    cov_far, cov_near = far - mu * mv, near - mu * mv
    share = np.clip((cov_near - cov_far) / max(own, 1e-300), 0.0, 1.0)
    square = f.fn.times(f.fn)
    spatial = [new_axes[i] for i in at]
    for kinds in np.ndindex(*[a.K for a in spatial]):
        size = math.prod(counts[i][k] for i, k in zip(at, kinds, strict=True))
        h, h2 = _of_maximum(f.fn, own, size), _of_maximum(square, own, size)
        index: list[Any] = [slice(None)] * len(new_axes)
        for i, k in zip(at, kinds, strict=True):
            index[i] = k
        one = np.zeros_like(common)
        out_mean[tuple(index)] = expect2(h, Scalar("1", np.ones_like, pieces=((1.0,),)), mean, common, 0.0, 0.0, 0.0)
        apart = expect2(h, h, mu, su, mv, sv, cov_far)
        whole = expect2(h2, Scalar("1", np.ones_like, pieces=((1.0,),)), mean, common, 0.0, 0.0, 0.0)
        together = apart + share * (pair_values(others, whole)[0] - pair_values(others, expect2(h, h, mean, common, mean, common, common))[0])
        together[tuple(a.diagonal for a in others)] = whole
        _ = one
        for i, a, k in zip(at, spatial, kinds, strict=True):
            index[i] = a.K * a.K + k
        out_gram[tuple(index)] = together
        for other in np.ndindex(*[a.K for a in spatial]):
            size2 = math.prod(counts[i][k] for i, k in zip(at, other, strict=True))
            cross = apart if size2 == size else expect2(h, _of_maximum(f.fn, own, size2), mu, su, mv, sv, cov_far)
            for pattern in np.ndindex(*[2] * n):
                if all(pattern) or any(same and k != o for same, k, o in zip(pattern, kinds, other, strict=True)):
                    continue
                for i, a, k, o, same in zip(at, spatial, kinds, other, pattern, strict=True):
                    index[i] = a.K * a.K + k if same else k * a.K + o
                out_gram[tuple(index)] = cross
    made = Moments.gaussian(new_axes, base.dims, out_mean, out_gram, x.sources, claim=worst(x.claim, "rule"))
    return replace(made, extra={"window": taps}).without_ones()


@rule("aten.max_pool2d_with_indices_backward", "aten.max_pool3d_with_indices_backward")
def max_pool_backward(grad: Moments, x: Moments, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, indices: Any) -> Result:
    """The cotangent of a window goes to its largest entry: an entry of rank F(u) is chosen with probability F(u)^(n−1)."""
    n = 2 if "2d" in context().node.op else 3
    taps = _windows(x.shape[-n:], grad.shape[-n:], kernel, stride, padding, dilation)
    size = math.prod(float((t.index >= 0).sum(axis=0).mean()) for t in taps)
    spread = _average(replace(grad, law=(), extra={}), [t.transposed() for t in taps])  # Σ over the windows that cover a position
    x = x.with_law()
    if len(x.law) != 1:
        x = replace(x.opaque(), extra={})
    from initio.core.algebra import broadcast

    g, xb = broadcast(spread, x)
    f = xb.law[0]
    second = f.field.gram[tuple(a.diagonal for a in xb.axes)]
    var = float(np.average(second - f.field.mean**2, weights=xb.weights))
    mu = float(np.average(f.field.mean, weights=xb.weights))
    cover = math.prod(float((t.index >= 0).sum()) / t.n_in for t in taps)
    std = math.sqrt(max(var, 1e-300))
    chosen = Scalar("chosen", lambda u: np.sqrt(size * np.exp((size - 1) * log_ndtr((np.asarray(u) - mu) / std))))
    # one window covers an entry: the second moment of the summed cotangent is spread over the entries of the window
    gram = g.gram / size**2
    gram = gram.copy()
    diag = tuple(a.diagonal for a in g.axes)
    overlap = _overlap(taps)
    gram[diag] = _average(replace(Moments.gaussian(grad.axes, grad.dims, np.zeros_like(grad.mean), np.where(_all_same(grad), grad.gram, 0.0), grad.sources), extra={}), [t.transposed() for t in taps]).gram[diag] / size * overlap if True else gram[diag]
    m, s = f.field.mean, np.maximum(second - f.field.mean**2, 0.0)
    u1, u2 = pair_values(xb.axes, m)
    v1, v2 = pair_values(xb.axes, s)
    mass = np.asarray(expect2(chosen, chosen, u1, v1, u2, v2, f.field.gram - u1 * u2))
    own = Field(fresh_source().bit_length() + (1 << 40), f.field.view, np.zeros_like(g.mean), gram / mass, 0)
    bit = fresh_source()
    made = Moments.gaussian(g.axes, g.dims, np.zeros_like(g.mean), gram / mass, bit, odd=bit)
    _ = (own, cover, ndtr)
    return Moments(g.axes, g.dims, np.zeros_like(g.mean), gram, (Factor(IDENTITY, made.law[0].field), Factor(chosen, f.field)), bit | x.sources, bit if grad.odd else 0, worst(grad.claim, "rule"))


def _all_same(x: Moments) -> Any:
    out = np.ones([1] * len(x.axes), dtype=bool)
    for i, a in enumerate(x.axes):
        shape = [1] * len(x.axes)
        shape[i] = a.P
        out = out & a.same.reshape(shape)
    return np.broadcast_to(out, [a.P for a in x.axes])


def _overlap(taps: Sequence[Taps]) -> float:
    """1: windows are taken to choose independently where they overlap."""
    return 1.0
