"""Known linear maps along the positions: interpolation, padding by reflection or replication, cumulative sums, and their adjoints."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initio.core.algebra import Summed
from initio.core.axes import Array, Taps, axis
from initio.core.moments import Moments, Unknown, along
from initio.rules.table import Result, context, rule

__all__ = ["matrix_taps"]


def matrix_taps(matrix: Array) -> Taps:
    """The taps of a matrix (n_out, n_in)."""
    count = max(int((matrix != 0).sum(axis=1).max(initial=0)), 1)
    order = np.argsort(matrix == 0, axis=1, kind="stable")[:, :count]
    weight = np.take_along_axis(matrix, order, axis=1)
    return Taps(np.where(weight != 0, order, -1).T, matrix.shape[1], weight.T)


def _mapped(x: Moments, matrices: Sequence[Array]) -> Moments:
    """A matrix along each of the last dimensions."""
    for i, m in enumerate(matrices):
        if m.shape[0] != m.shape[1] or not np.array_equal(m, np.eye(len(m))):
            x = x.linear(len(x.dims) - len(matrices) + i, matrix_taps(m))
    return x


def _rows(index: Any, n: int) -> Array:
    out = np.zeros((len(index), n))
    out[np.arange(len(index)), index.astype(int)] = 1.0
    return out


# -- interpolation -----------------------------------------------------------------------------------------------


def _nearest(n: int, out: int, step: float, shift: float) -> Array:
    return _rows(np.clip(np.floor((np.arange(out) + shift) * step), 0, n - 1), n)


def _hat(t: Any) -> Array:
    return np.maximum(1.0 - np.abs(t), 0.0)


def _cubic(a: float) -> Callable[[Any], Array]:
    """Keys's kernel (1981)."""

    def kernel(t: Any) -> Array:
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = a * (((t - 5) * t + 8) * t - 4)
        return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

    return kernel


def _kernel(n: int, out: int, step: float, align: bool, cubic: bool) -> Array:
    at = np.arange(out) * ((n - 1) / (out - 1) if out > 1 else 0.0) if align else (np.arange(out) + 0.5) * step - 0.5
    if not cubic:
        at = np.clip(at, 0.0, None)
    kernel, reach = (_cubic(-0.75), 2) if cubic else (_hat, 1)
    matrix = np.zeros((out, n))
    for d in range(1 - reach, reach + 1):
        source = np.floor(at) + d
        np.add.at(matrix, (np.arange(out), np.clip(source, 0, n - 1).astype(int)), kernel(at - source))
    return matrix


def _antialiased(n: int, out: int, step: float, align: bool, cubic: bool) -> Array:
    """The kernel widened by the step where that exceeds 1, normalised over the pixels that exist."""
    if align:
        step = (n - 1) / (out - 1) if out > 1 else 0.0
    wide = max(step, 1.0)
    kernel, reach = (_cubic(-0.5), 2.0) if cubic else (_hat, 1.0)
    matrix = np.zeros((out, n))
    for i in range(out):
        centre = step * (i + 0.5)
        low, high = max(int(centre - reach * wide + 0.5), 0), min(int(centre + reach * wide + 0.5), n)
        weights = kernel((np.arange(low, high) - centre + 0.5) / wide)
        matrix[i, low:high] = weights / weights.sum()
    return matrix


def _matrices(name: str, shape: Sequence[int], out: Sequence[int], align: bool, scales: Sequence[float | None]) -> list[Array]:
    made: list[Array] = []
    for n, m, s in zip(shape, out, scales, strict=True):
        step = 1.0 / s if s else n / m
        if "nearest" in name:
            made.append(_nearest(n, m, step, 0.5 if "exact" in name else 0.0))
        elif name.endswith("aa"):
            made.append(_antialiased(n, m, step, align, "bicubic" in name))
        else:
            made.append(_kernel(n, m, step, align, "bicubic" in name))
    return made


_RESAMPLED = [
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
]  # fmt: skip


def _split(name: str, n: int, rest: Sequence[Any]) -> tuple[bool, list[float | None]]:
    """(align_corners, scale of each dimension) of the arguments after the sizes."""
    rest = list(rest)
    align = bool(rest.pop(0)) if "nearest" not in name and rest else False
    if rest and isinstance(rest[0], (tuple, list)):  # the overload with a list of factors
        rest = list(rest[0])
    return align, [*rest, *[None] * n][:n]


@rule(*[f"aten.{name}" for name in _RESAMPLED])
def upsample(x: Moments, size: Any, *rest: Any) -> Moments:
    """Interpolation: a known matrix along each spatial dimension."""
    name = context().node.op.split(".")[1]
    n = int(re.findall(r"(\d)d", name)[0])
    out = context().shapes[0][-n:]
    align, scales = _split(name, n, rest)
    made = _mapped(x, _matrices(name, x.shape[-n:], out, align, scales))
    _memory()[_key(x, name, out)] = made
    return made


def _memory() -> dict[Any, Moments]:
    uses: Any = context().uses
    return uses.setdefault("enlarged", {})


def _key(x: Moments, name: str, out: Sequence[int]) -> Any:
    return name, tuple(out), tuple((f.fn, f.field.id, f.field.view) for f in x.law)


@rule(*[f"aten.{name}_backward" for name in _RESAMPLED])
def upsample_backward(grad: Moments, size: Any, shape: Sequence[int], *rest: Any) -> Moments:
    """The transposed matrix along each spatial dimension."""
    name = context().node.op.split(".")[1].removesuffix("_backward")
    n = int(re.findall(r"(\d)d", name)[0])
    align, scales = _split(name, n, rest)
    out = grad.shape[-n:]
    matrices = _matrices(name, tuple(shape)[-n:], out, align, scales)
    known = _memory()

    def gather(w: Moments) -> Moments:
        return _mapped(w, [m.T for m in matrices])

    def spread(y: Moments) -> Moments:
        key = _key(y, name, out)
        return known[key] if key in known else _mapped(y, matrices)

    made = gather(grad)
    return replace(made, extra={**made.extra, "summed": Summed(grad, spread, gather)})


# -- padding -----------------------------------------------------------------------------------------------------


def _padded(name: str, shape: Sequence[int], padding: Sequence[int]) -> list[Array]:
    made: list[Array] = []
    for i, n in enumerate(shape):
        before, after = (int(p) for p in padding[2 * (len(shape) - 1 - i) : 2 * (len(shape) - i)])
        at = np.arange(-before, n + after)
        at = np.clip(at, 0, n - 1) if "replication" in name else n - 1 - np.abs(n - 1 - np.abs(at))
        made.append(_rows(at, n))
    return made


_PADDINGS = [f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)]


@rule(*[f"aten.{name}" for name in _PADDINGS])
def pad(x: Moments, padding: Sequence[int]) -> Moments:
    """Entries of the border repeated, or mirrored."""
    name = context().node.op.split(".")[1]
    return _mapped(x, _padded(name, x.shape[-int(name[-2]) :], padding))


@rule(*[f"aten.{name}_backward" for name in _PADDINGS])
def pad_backward(grad: Moments, x: Moments, padding: Sequence[int]) -> Moments:
    """Cotangents of the copies of an entry added up."""
    name = context().node.op.split(".")[1].removesuffix("_backward")
    return _mapped(grad, [m.T for m in _padded(name, x.shape[-int(name[-2]) :], padding)])


# -- cumulative sums ---------------------------------------------------------------------------------------------

_GROUPS = 6


@rule("aten.cumsum")
def cumsum(x: Moments, dim: int) -> Result:
    """y_p = Σ_{i ≤ p} x_i: E[y_p y_q] = min(p, q) same + (p q − min(p, q)) different, averaged over groups of positions."""
    if not x.dims:
        return x
    d = dim % len(x.dims)
    x = x.with_axis(d)
    i = x.span(d)[0]
    a, n = x.axes[i], x.axes[i].size
    if a.K > 1 and n > 128:
        return Unknown("a cumulative sum over more than 128 positions of several kinds")
    if a.K > 1:
        return x.linear(d, matrix_taps(np.tril(np.ones((n, n)))))
    out = axis(n, (np.arange(n) * min(n, _GROUPS) // n))
    p = np.arange(1.0, n + 1)
    smaller = np.minimum(p[:, None], p[None])
    member = _rows(out.label_array(), out.K)
    same, product = member.T @ smaller @ member, np.outer(member.T @ p, member.T @ p)
    own, square = member.T @ p, member.T @ (p * p)
    k = np.arange(out.K)
    same[k, k] -= own
    product[k, k] -= square
    matrix = np.zeros((out.P, 2))
    matrix[: out.K**2] = np.stack([(product - same).ravel(), same.ravel()], axis=1)
    matrix[out.K**2 :] = np.stack([square - own, own], axis=1)
    matrix /= np.where(out.pairs > 0, out.pairs, 1.0)[:, None]
    for c in np.flatnonzero(out.pairs <= 0):
        matrix[c] = matrix[out.K**2 + out.first[c]]
    mean = along((own / out.counts)[:, None], x.mean, i)
    axes = [*x.axes[:i], out, *x.axes[i + 1 :]]
    extra = {"counted": x.extra["counted"]} if "counted" in x.extra else {}
    made = Moments.gaussian(axes, x.dims, mean, along(matrix, x.gram, i), x.sources, odd=x.odd, claim=x.claim).without_ones()
    return replace(made, extra=extra)
