# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Second moments of arrays that are exchangeable along each axis, and the structural operations on them.

`Moments` describes a tensor X by its mean E[X_i] for each kind of position and its gram E[X_i X_j] for each class of
pairs (the indices agree or differ on each axis). `view`, `permute`, `expand`, slicing and concatenation are bookkeeping
on axes, exact wherever the axes are. See `initio.core.algebra` for sums, products, contractions and functions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initio.core.axes import Array, Axis, Taps, axis, axis_map, cross_matrix, merge_map, product_axis, split_labels
from initio.core.gaussian import expect, stein
from initio.core.scalar import IDENTITY, Scalar

__all__ = ["CLAIMS", "Cross", "Factor", "Field", "Ids", "Moments", "Unknown", "View", "fresh_source", "worst"]

CLAIMS = ("exact", "rule", "simulated", "unknown")
_COUNTER = itertools.count()


def fresh_source() -> int:
    """A bit that stands for a new source of randomness."""
    return 1 << next(_COUNTER)


def worst(*claims: str) -> str:
    """The weakest of several claims."""
    return max(claims, key=CLAIMS.index)


@dataclass(frozen=True, slots=True)
class Unknown:
    """No claim is made about a value, for the stated reason; `root` is the node where knowledge ended."""

    reason: str
    root: int = -1
    claim: str = "unknown"


@dataclass(frozen=True, slots=True)
class View:
    """Which entries of a field's base array a tensor shows: offset and one stride for each axis.

    `lost` are (size, stride) of axes that were averaged over; they return when the average is broadcast over such an axis again.
    `dropped` are strides of axes of which one index was selected, `kinds` says that an axis of several kinds was cut; `root` marks embeddings, whose covariances are kept
    to the end for the sake of a tied head.
    """

    offset: int
    strides: tuple[int, ...]
    lost: tuple[tuple[int, int], ...] = ()
    dropped: tuple[int, ...] = ()
    root: bool = False
    kinds: bool = False

    def repeated(self, i: int, size: int) -> View:
        """With an axis of equal entries at position i."""
        if self.lost and self.lost[0][0] == size:
            return replace(self, strides=(*self.strides[:i], self.lost[0][1], *self.strides[i:]), lost=self.lost[1:])
        return replace(self, strides=(*self.strides[:i], 0, *self.strides[i:]))

    def moved(self, strides: tuple[int, ...], shift: int = 0) -> View:
        """With other strides and a shifted offset."""
        return replace(self, offset=self.offset + shift, strides=strides)

    def selected(self, i: int, index: int) -> View:
        """One index of axis i."""
        step = self.strides[i]
        strides = (*self.strides[:i], *self.strides[i + 1 :])
        return replace(self, offset=self.offset + index * step, strides=strides, dropped=(*self.dropped, step) if step else self.dropped)


@dataclass(frozen=True, slots=True, eq=False)
class Cross:
    """Cov(this field, another field seen through `view`), one number for each pair class.

    Where axes of several kinds were averaged over, `rows` keeps the covariance by the other field's kind on them, in leading dimensions.
    `given`, where this field is the law of a sum with a term of the other one: values of the other, and of this one given each, standardised.
    """

    id: int
    view: View
    cov: Array
    rows: Array | None = None
    given: Callable[[], tuple[Array, Array]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A jointly Gaussian array, with its covariance to the fields that it was made of (`cross`); `overlap` and `tokens`: see `initio.core.overlap`.

    `scatter` is the variance, within each pair class and from one filter to the next, of the covariances that `gram` averages.
    """

    id: int
    view: View
    mean: Array
    gram: Array
    sources: int
    cross: tuple[Cross, ...] = ()
    overlap: float = 0.0
    tokens: int = -1
    scatter: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """`fn` applied to every entry of a Gaussian field."""

    fn: Scalar
    field: Field


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """An integer tensor of ids below `high`: the probability that two entries are equal, by pair class."""

    high: int
    equal: Array
    values: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """A random tensor. `dims[d]` consecutive `axes` make dimension d (none: size 1).

    `mean` has a dimension of K entries for each axis, `gram` one of K² + K pair classes (see `initio.core.axes`).
    `law` is a product of functions of Gaussian fields. `sources` is a bit set of everything random that the tensor
    depends on: disjoint sets mean independence; `odd` those whose sign flips the tensor's sign. `extra` keeps what single families need (ids, masks, known values).
    """

    axes: tuple[Axis, ...]
    dims: tuple[int, ...]
    mean: Array
    gram: Array
    law: tuple[Factor, ...] = ()
    sources: int = 0
    odd: int = 0
    claim: str = "exact"
    extra: dict[str, Any] = field(default_factory=dict[str, Any])

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return _shape(self.axes, self.dims)

    @property
    def second(self) -> Array:
        """E[X²] for each kind of position."""
        return self.gram[tuple(a.diagonal for a in self.axes)]

    @property
    def weights(self) -> Array:
        """Share of the entries that each kind of position has."""
        return _weights(self.axes)

    @property
    def total_mean(self) -> float:
        """E[X] averaged over all entries."""
        return float((self.weights * self.mean).sum())

    @property
    def total_second(self) -> float:
        """E[X²] averaged over all entries."""
        return float((self.weights * self.second).sum())

    @property
    def constant(self) -> bool:
        """Whether nothing here is random."""
        return self.sources == 0

    @property
    def terms(self) -> tuple[Moments, ...]:
        """Tensors of which this is the sum, where their laws say more than its own."""
        found = tuple(replace(t, dims=self.dims) if t.axes == self.axes else t for t in self.extra.get("terms", ()))
        return found if all(t.shape == self.shape for t in found) else ()

    def pair_means(self) -> tuple[Array, Array]:
        """The means of the first and of the second index of every pair class."""
        return pair_values(self.axes, self.mean)

    def covariance(self) -> Array:
        """gram less the product of the means."""
        u, v = self.pair_means()
        return self.gram - u * v

    def span(self, dim: int) -> range:
        """Positions in `axes` of the axes of a dimension."""
        at = sum(self.dims[:dim])
        return range(at, at + self.dims[dim])

    # -- making --------------------------------------------------------------------------------------------------

    @staticmethod
    def gaussian(
        axes: Sequence[Axis],
        dims: Sequence[int],
        mean: Array,
        gram: Array,
        sources: int,
        *,
        odd: int = 0,
        claim: str = "rule",
        cross: tuple[Cross, ...] = (),
        **extra: Any,
    ) -> Moments:
        """A tensor that is itself a new Gaussian field."""
        axes = tuple(axes)
        mean, gram = np.asarray(mean, dtype=float), np.asarray(gram, dtype=float)
        return Moments(
            axes,
            tuple(dims),
            mean,
            gram,
            (Factor(IDENTITY, Field(next(_COUNTER), contiguous(axes), mean, gram, sources, cross)),),
            sources,
            odd & sources,
            claim,
            extra,
        )

    @staticmethod
    def iid(shape: Sequence[int], mean: float, variance: float, *, sources: int | None = None, claim: str = "exact") -> Moments:
        """Independent, identically distributed entries, one axis a dimension."""
        axes = tuple(axis(n) for n in shape if n != 1)
        dims = tuple(int(n != 1) for n in shape)
        gram = np.full((2,) * len(axes), mean * mean)
        gram[(1,) * len(axes)] += variance
        bit = 0 if variance == 0 else (fresh_source() if sources is None else sources)
        return Moments.gaussian(axes, dims, np.full((1,) * len(axes), mean), gram, bit, odd=bit if mean == 0 else 0, claim=claim)

    @staticmethod
    def known(values: NDArray[Any]) -> Moments:
        """A given array: its mean, and its average products over the pairs of every class."""
        data = np.asarray(values, dtype=float)
        axes = tuple(axis(n) for n in data.shape if n != 1)
        dims = tuple(int(n != 1) for n in data.shape)
        gram = empirical_gram(data.reshape([a.size for a in axes]))
        return Moments.gaussian(
            axes, dims, np.full((1,) * len(axes), float(data.mean()) if data.size else 0.0), gram, 0, claim="exact", known=values
        )

    def opaque(self) -> Moments:
        """The same moments as a new Gaussian field: what led here is forgotten except for its sources and the covariances with its fields."""
        return Moments.gaussian(
            self.axes,
            self.dims,
            self.mean,
            self.gram,
            self.sources,
            odd=self.odd,
            claim=self.claim,
            cross=self.field_covariances()[:6],
            **self.extra,
        )

    def with_law(self) -> Moments:
        """Itself, with a law (a new Gaussian field where there was none)."""
        return self if self.law else self.opaque()

    def weaken(self, claim: str) -> Moments:
        """The same with at most this claim."""
        made = worst(self.claim, claim)
        return self if made == self.claim else replace(self, claim=made)

    # -- structure -----------------------------------------------------------------------------------------------

    def lift(
        self,
        axes: Sequence[Axis],
        dims: Sequence[int],
        on_mean: Callable[[Array], Array],
        on_gram: Callable[[Array], Array],
        on_view: Callable[[View], View | None],
    ) -> Moments:
        """Apply one structural change to the tensor and to every array of its law."""
        memo: dict[int, Array] = {}

        def once(fn: Callable[[Array], Array], array: Array) -> Array:
            got = memo.get(id(array))
            if got is None:
                got = memo[id(array)] = fn(array)
            return got

        axes = tuple(axes)
        extra = {k: self.extra[k] for k in ("high", "weight") if k in self.extra}
        if self.terms and all(t.axes == self.axes for t in self.terms):
            extra["terms"] = tuple(t.lift(axes, dims, on_mean, on_gram, on_view) for t in self.terms)
        mean, gram = once(on_mean, self.mean), once(on_gram, self.gram)
        factors: list[Factor] = []
        for f in self.law:
            view = on_view(f.field.view)
            if view is None:
                return Moments.gaussian(axes, dims, mean, gram, self.sources, odd=self.odd, claim=self.claim, **extra)
            cross: list[Cross] = []
            for c in f.field.cross:
                seen = on_view(c.view)
                if seen is not None:
                    cross.append(Cross(c.id, seen, once(on_gram, c.cov), _each(on_gram, c), c.given))
            factors.append(
                Factor(
                    f.fn,
                    Field(
                        f.field.id,
                        view,
                        once(on_mean, f.field.mean),
                        once(on_gram, f.field.gram),
                        f.field.sources,
                        tuple(cross),
                        f.field.overlap,
                        f.field.tokens,
                        None if f.field.scatter is None else once(on_gram, f.field.scatter),
                    ),
                )
            )
        return Moments(axes, tuple(dims), mean, gram, tuple(factors), self.sources, self.odd, self.claim, extra)

    def permute(self, order: Sequence[int]) -> Moments:
        """Reorder the dimensions."""
        move = [i for d in order for i in self.span(d % len(self.dims))]
        dims = tuple(self.dims[d] for d in order)
        if move == list(range(len(move))):
            return replace(self, dims=dims)
        return self.lift(
            [self.axes[i] for i in move],
            dims,
            lambda m: m.transpose(move),
            lambda g: g.transpose(move),
            lambda v: v.moved(tuple(v.strides[i] for i in move)),
        )

    def redim(self, dims: Sequence[int]) -> Moments:
        """Group the same axes into other dimensions (unsqueeze, squeeze, flatten)."""
        return replace(self, dims=tuple(dims))

    def split_axis(self, i: int, inner: int) -> Moments:
        """Split axis i into (size / inner, inner)."""
        if inner in (1, self.axes[i].size):
            return self
        if self.axes[i].lags:
            return self.relabel(i, self.axes[i].plain).split_axis(i, inner)
        a, b, kind, cls = split_labels(self.axes[i], inner)

        def on_view(v: View) -> View:
            return v.moved((*v.strides[:i], v.strides[i] * inner, v.strides[i], *v.strides[i + 1 :]))

        def on_mean(m: Array) -> Array:
            return np.take(m, kind, axis=i)

        def on_gram(g: Array) -> Array:
            return np.take(g, cls, axis=i)

        dims, at = list(self.dims), 0
        for d, count in enumerate(self.dims):
            if at <= i < at + count:
                dims[d] += 1
                break
            at += count
        return self.lift([*self.axes[:i], a, b, *self.axes[i + 1 :]], dims, on_mean, on_gram, on_view)

    def join_axes(self, i: int) -> Moments:
        """Join axes i and i + 1 into one (pairs that differ on either are averaged)."""
        a, b = self.axes[i], self.axes[i + 1]
        if a.lags or b.lags:
            return self.relabel(i, a.plain).relabel(i + 1, b.plain).join_axes(i)
        joined, pick, gram = product_axis(a, b)

        def on_view(v: View) -> View | None:
            return v.moved((*v.strides[:i], v.strides[i + 1], *v.strides[i + 2 :])) if v.strides[i] == v.strides[i + 1] * b.size else None

        dims, at = list(self.dims), 0
        for d, count in enumerate(self.dims):
            if at <= i < at + count:
                if i + 1 >= at + count:
                    raise ValueError("only axes of one dimension can be joined")
                dims[d] -= 1
                break
            at += count
        return self.lift(
            [*self.axes[:i], joined, *self.axes[i + 2 :]],
            dims,
            lambda m: np.moveaxis(np.tensordot(pick, m, axes=([1, 2], [i, i + 1])), 0, i),
            lambda g: np.moveaxis(np.tensordot(gram, g, axes=([1, 2], [i, i + 1])), 0, i),
            on_view,
        )

    def reshape(self, shape: Sequence[int]) -> Moments:
        """The same entries in row-major order as `shape`; axes are split where they must be, joined only where no split will do."""
        shape = tuple(shape)
        if shape == self.shape:
            return self
        x = replace(self, dims=(len(self.axes),))
        dims: list[int] = []
        at = 0
        for size in shape:
            start, left = at, size
            while left > 1:
                n = x.axes[at].size
                if left % n == 0:
                    left //= n
                    at += 1
                elif n % left == 0:
                    x = x.split_axis(at, n // left)
                    at += 1
                    left = 1
                else:
                    common = math.gcd(n, left)
                    if common > 1 and n // common > 1:
                        x = x.split_axis(at, n // common)
                        left //= common
                        at += 1
                    else:
                        x = x.join_axes(at)
            dims.append(at - start)
        return replace(x, dims=tuple(dims))

    def joined(self, dim: int) -> Moments:
        """The same with (at most) one axis in dimension `dim`."""
        x = self
        while x.dims[dim] > 1:
            x = x.join_axes(x.span(dim)[0])
        return x

    def with_axis(self, dim: int) -> Moments:
        """The same with exactly one axis in `dim` (a size-1 axis if there was none)."""
        x = self.joined(dim)
        if x.dims[dim]:
            return x
        i, one = x.span(dim).start, axis(1)
        dims = list(x.dims)
        dims[dim] = 1
        return x.lift(
            [*x.axes[:i], one, *x.axes[i:]],
            dims,
            lambda m: np.expand_dims(m, i),
            lambda g: np.repeat(np.expand_dims(g, i), 2, axis=i),
            lambda v: v.moved((*v.strides[:i], 0, *v.strides[i:])),
        )

    def without_ones(self) -> Moments:
        """Drop axes of size 1."""
        x = self
        for i in reversed(range(len(x.axes))):
            if x.axes[i].size == 1:
                x = x._drop(i, 0)
        return x

    def _drop(self, i: int, index: int) -> Moments:
        a = self.axes[i]
        kind = int(a.label_array()[index])
        cls = a.off + kind
        dims = list(self.dims)
        at = 0
        for d, count in enumerate(self.dims):
            if at <= i < at + count:
                dims[d] -= 1
            at += count
        return self.lift(
            [*self.axes[:i], *self.axes[i + 1 :]],
            dims,
            lambda m: np.take(m, kind, axis=i),
            lambda g: np.take(g, cls, axis=i),
            lambda v: v.selected(i, index if a.size > 1 else 0),
        )

    def expand(self, shape: Sequence[int]) -> Moments:
        """Broadcast to `shape`: equal entries along the new axes."""
        shape = tuple(shape)
        lead = len(shape) - len(self.dims)
        x = replace(self, dims=(0,) * lead + self.dims)
        for d, size in enumerate(shape):
            if size not in (-1, 1) and x.dims[d] == 0:
                x = x.repeat_axis(d, axis(size))
        return x

    def repeat_axis(self, dim: int, new: Axis, at: int | None = None) -> Moments:
        """Equal entries along a new axis, placed first in dimension `dim` (or at axis position `at`)."""
        i = self.span(dim).start if at is None else at
        dims = list(self.dims)
        dims[dim] += 1
        made = self.lift(
            [*self.axes[:i], new, *self.axes[i:]],
            dims,
            lambda m: np.repeat(np.expand_dims(m, i), new.K, axis=i),
            lambda g: np.repeat(np.expand_dims(g, i), new.P, axis=i),
            lambda v: v.repeated(i, new.size),
        )
        if not any(c.rows is not None for f in self.law for c in f.field.cross):
            return made
        law = [
            Factor(g.fn, replace(g.field, cross=tuple(_returned(c, d, i, new) for c, d in zip(f.field.cross, g.field.cross, strict=True))))
            for f, g in zip(self.law, made.law, strict=True)
        ]
        return replace(made, law=tuple(law))

    def relabel(self, i: int, target: Axis) -> Moments:
        """Refine or merge the kinds of axis i into those of `target`."""
        if self.axes[i] is target:
            return self
        mean, gram = merge_map(self.axes[i], target)
        return self.lift(
            [*self.axes[:i], target, *self.axes[i + 1 :]], self.dims, lambda m: along(mean, m, i), lambda g: along(gram, g, i), lambda v: v
        )

    def plain(self) -> Moments:
        """The same on axes that do not tell neighbours from the rest."""
        x = self
        for i, a in enumerate(self.axes):
            if a.lags:
                x = replace(
                    x.relabel(i, a.plain), extra={**x.extra, **({"terms": t} if (t := x.relabel(i, a.plain).extra.get("terms")) else {})}
                )
        return x

    def select(self, dim: int, index: int) -> Moments:
        """X[..., index, ...]: the dimension disappears."""
        x = self
        index %= x.shape[dim]
        for i in reversed(list(x.span(dim))):
            n = x.axes[i].size
            x = x._drop(i, index % n)
            index //= n
        return replace(x, dims=tuple(c for d, c in enumerate(x.dims) if d != dim))

    def take(self, dim: int, indices: NDArray[Any], step: tuple[int, int] | None = None) -> Moments:
        """X[..., indices, ...]; `step` = (start, step) where the indices are a slice. Repeated indices give equal entries."""
        indices = np.asarray(indices, dtype=np.intp)
        size = self.shape[dim]
        if len(indices) == size and np.array_equal(indices, np.arange(size)):
            return self
        if len(indices) == 1:
            x = self.select(dim, int(indices[0]))
            return replace(x, dims=(*x.dims[:dim], 0, *x.dims[dim:]))
        x = self
        if step is not None and step[1] == 1 and x.dims[dim] > 1:  # a slice that is whole in the inner axes
            outer = x.axes[x.span(dim)[0]].size
            inner = size // outer
            if step[0] % inner == 0 and len(indices) % inner == 0:
                i = x.span(dim)[0]
                if len(indices) == inner:
                    return x._drop(i, step[0] // inner)
                return x._restrict(i, np.arange(step[0] // inner, (step[0] + len(indices)) // inner), (step[0] // inner, 1))
        x = x.with_axis(dim)
        i = x.span(dim)[0]
        if len(np.unique(indices)) == len(indices):
            return x._restrict(i, indices, step)
        return x.linear(dim, Taps(indices[None], size))

    def _restrict(self, i: int, indices: NDArray[Any], step: tuple[int, int] | None) -> Moments:
        a = self.axes[i]
        if a.lags and (step is None or abs(step[1]) != 1):
            return self.relabel(i, a.plain)._restrict(i, indices, step)
        labels = a.label_array()[indices]
        new = axis(len(indices), None if a.K == 1 else labels, a.lags)
        kinds = np.array([labels[np.argmax(new.label_array() == k)] for k in range(new.K)], dtype=np.intp)
        first, second = kinds[new.first], kinds[new.second]
        cls = np.where(new.same, a.off + first, a.table[new.lag, first, second])

        def on_view(v: View) -> View | None:
            if step is None:
                return None
            made = v.moved((*v.strides[:i], v.strides[i] * step[1], *v.strides[i + 1 :]), step[0] * v.strides[i])
            return replace(made, kinds=True) if a.K > 1 and v.strides[i] else made

        return self.lift(
            [*self.axes[:i], new, *self.axes[i + 1 :]],
            self.dims,
            lambda m: np.take(m, kinds, axis=i),
            lambda g: np.take(g, cls, axis=i),
            on_view,
        )

    def linear(self, dim: int, taps: Taps) -> Moments:
        """A known linear map along one dimension (pooling by mean, padding, resampling, repeated indices)."""
        x = self.with_axis(dim)
        i = x.span(dim)[0]
        m = axis_map(x.axes[i], taps, summed=taps.count > 1)
        cross: tuple[Cross, ...] = ()
        if taps.n_out == taps.n_in <= 512:
            matrix = cross_matrix(x.axes[i], m.axis, taps)
            cross = tuple(Cross(c.id, c.view, along(matrix, c.cov, i)) for c in x.field_covariances())
        made = Moments.gaussian(
            [*x.axes[:i], m.axis, *x.axes[i + 1 :]],
            x.dims,
            along(m.mean, x.mean, i),
            along(m.coherent, x.gram, i),
            x.sources,
            odd=x.odd,
            claim=x.claim,
            cross=cross,
        )
        return made.without_ones() if m.axis.size == 1 else made

    def field_covariances(self) -> tuple[Cross, ...]:
        """Cov(X, u) for the Gaussian fields u that X is made of: E[f′(u)] Cov(u, u) by Stein's lemma (Stein 1981), times the means of the other factors."""
        made: list[Cross] = []
        for k, f in enumerate(self.law):
            if not f.field.sources:
                continue
            rest: Array = np.ones([a.K for a in self.axes])
            for j, other in enumerate(self.law):
                if j != k:
                    rest = rest * _expectation(other, self.axes)
            u, v = pair_values(self.axes, f.field.mean)
            own = Cross(f.field.id, f.field.view, f.field.gram - u * v)
            if f.fn is IDENTITY and len(self.law) == 1:
                return (own, *f.field.cross)
            slope, _ = pair_values(self.axes, rest * _slope(f, self.axes))
            made += [Cross(c.id, c.view, slope * c.cov) for c in (own, *f.field.cross)]
        return tuple(made)

    def slope(self) -> Array:
        """E[f′(u)] for each kind, f the only factor of the law."""
        return _slope(self.law[0], self.axes)


def _each(on_gram: Callable[[Array], Array], c: Cross) -> Array | None:
    """A structural change of the pair classes in every row of a `Cross`."""
    if c.rows is None:
        return None
    lead = c.rows.ndim - c.cov.ndim
    made = np.stack([on_gram(r) for r in c.rows.reshape(-1, *c.cov.shape)])
    return made.reshape(*c.rows.shape[:lead], *made.shape[1:])


def _returned(before: Cross, after: Cross, i: int, new: Axis) -> Cross:
    """The covariance of an average with single entries, once it is broadcast over the axis (now at i) that it was taken over."""
    if before.rows is None or (before.view.lost[:1] == after.view.lost[:1] and len(before.view.lost) == len(after.view.lost)):
        return after
    rows = before.rows
    if rows.shape[0] != new.K:
        return after if rows.ndim - before.cov.ndim > 1 else replace(after, rows=None)
    left = rows.ndim - before.cov.ndim - 1
    rows = np.moveaxis(np.take(rows, new.second, axis=0), 0, left + i)
    return Cross(after.id, after.view, rows.mean(axis=tuple(range(left))), rows if left else None)


# -- helpers -----------------------------------------------------------------------------------------------------


def _slope(f: Factor, axes: Sequence[Axis]) -> Array:
    second = f.field.gram[tuple(a.diagonal for a in axes)]
    return np.asarray(stein(f.fn, f.field.mean, np.maximum(second - f.field.mean**2, 0.0)))


def _expectation(f: Factor, axes: Sequence[Axis]) -> Array:
    second = f.field.gram[tuple(a.diagonal for a in axes)]
    return np.asarray(expect(f.fn, f.field.mean, np.maximum(second - f.field.mean**2, 0.0)))


def along(matrix: Array, array: Array, i: int) -> Array:
    """Apply a matrix to dimension i of an array."""
    shape = array.shape
    made = np.matmul(matrix, array.reshape(math.prod(shape[:i]), shape[i], math.prod(shape[i + 1 :])))
    return made.reshape(*shape[:i], len(matrix), *shape[i + 1 :])


def contiguous(axes: Sequence[Axis]) -> View:
    """The view of a new row-major array."""
    strides: list[int] = []
    step = 1
    for a in reversed(axes):
        strides.append(step)
        step *= a.size
    return View(0, tuple(reversed(strides)))


def pair_values(axes: Sequence[Axis], values: Array) -> tuple[Array, Array]:
    """Per-kind values at the first and at the second index of every pair class."""
    if not axes:
        return values, values
    first, second = _pair_index(tuple(axes))
    return values.take(first), values.take(second)


@lru_cache(maxsize=4096)
def _pair_index(axes: tuple[Axis, ...]) -> tuple[Any, Any]:
    """The places, in an array with a dimension of K entries for each axis, of the first and of the second index of every pair class."""
    places = np.arange(math.prod(a.K for a in axes)).reshape([a.K for a in axes])
    return places[np.ix_(*[a.first for a in axes])], places[np.ix_(*[a.second for a in axes])]


@lru_cache(maxsize=4096)
def _weights(axes: tuple[Axis, ...]) -> Array:
    out: Array = np.ones(())
    for a in axes:
        out = np.multiply.outer(out, a.counts / max(a.size, 1))
    out.setflags(write=False)
    return out


@lru_cache(maxsize=4096)
def _shape(axes: tuple[Axis, ...], dims: tuple[int, ...]) -> tuple[int, ...]:
    sizes: list[int] = []
    at = 0
    for count in dims:
        sizes.append(math.prod(a.size for a in axes[at : at + count]))
        at += count
    return tuple(sizes)


def empirical_gram(data: Array) -> Array:
    """Average products over the index pairs that agree on a set of axes and differ on every other, for every set."""
    r = data.ndim
    if not data.size:
        return np.zeros((2,) * r)
    agree = np.zeros((2,) * r)
    for at in itertools.product((0, 1), repeat=r):
        rest = tuple(i for i in range(r) if not at[i])
        agree[at] = float((data.sum(axis=rest) ** 2).sum())
    for i in range(r):  # pairs that may agree on the rest, less those that do
        zero = tuple(slice(0, 1) if j == i else slice(None) for j in range(r))
        one = tuple(slice(1, 2) if j == i else slice(None) for j in range(r))
        agree[zero] -= agree[one]
    for at in itertools.product((0, 1), repeat=r):
        agree[at] /= math.prod(n if bit else max(n * (n - 1), 1) for n, bit in zip(data.shape, at, strict=True))
    return agree
