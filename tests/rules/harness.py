"""Table cases for rules: an ATen op, random inputs with declared moments, and the comparison with draws of the real op.

A case's inputs are small arrays that are drawn *and* described: `Normal` (variance components along any set of
dimensions, non-exchangeable positions), functions and products of them, `Iid`, `Integers`, `Fixed`. `check(case)` runs
the rule on their `Moments` and the op on many draws, and compares the mean of every kind and the gram of every pair
class of every output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from initio.core.algebra import apply, broadcast, multiply
from initio.core.axes import axis
from initio.core.functions import FUNCTIONS
from initio.core.moments import Moments, Unknown, fresh_source, pair_values
from initio.core.record import Node
from initio.core.scalar import Scalar
from initio.interpreters.propagate import _constant as constant
from initio.rules import load
from initio.rules.random import ids
from initio.rules.structure import cat
from initio.rules.table import Context, find, running

BATCHES = 200
"""Independent groups of draws, whose scatter is the standard error."""
PRECISION = 0.0045
"""Standard error that the draws are continued to, of the scale of an entry."""
SHARPEST = 0.0025
"""The same for the most precise entry, so that an error of two per cent shows."""
BAR = 0.005
"""Largest standard error that a case may end with."""
LIMIT = 5.0
"""Largest |z|."""
MOST = 1_200_000
"""Most draws of one case."""


_RANDOM = [np.random.default_rng(0)]
"""The generator of normal numbers (torch's is two to three times slower)."""


# -- inputs ------------------------------------------------------------------------------------------------------


class Spec:
    """A random tensor that can be described and drawn."""

    shape: tuple[int, ...]

    def describe(self, known: dict[Spec, Any]) -> Moments:
        raise NotImplementedError

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        raise NotImplementedError

    def moments(self, known: dict[Spec, Any]) -> Moments:
        if self not in known:
            known[self] = self.describe(known)
        return known[self]

    def sample(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        if self not in drawn:
            drawn[self] = self.draw(n, drawn)
        return drawn[self]

    def then(self, name: str, *args: Any, torch_fn: Callable[[Tensor], Tensor] | None = None) -> Spec:
        """The function `name` of `initio.core.functions`, applied to every entry."""
        return Through(self, name, args, torch_fn)

    def __mul__(self, other: Spec) -> Spec:
        return Times(self, other)


class Normal(Spec):
    """A Gaussian array Σ_S √parts[S] z_S (z_S equal along the dimensions outside S), scaled and shifted by position.

    `profile[d]` holds (scales, shifts), one of each for every index of dimension d; positions of equal entries are a kind.
    `weight` marks a parameter.
    """

    def __init__(
        self,
        shape: Sequence[int],
        parts: Mapping[tuple[int, ...], float] | float = 1.0,
        mean: float = 0.0,
        profile: Mapping[int, tuple[Sequence[float], Sequence[float]]] | None = None,
        weight: bool = False,
    ) -> None:
        self.shape = tuple(shape)
        self.parts = {tuple(range(len(shape))): float(parts)} if isinstance(parts, (int, float)) else dict(parts)
        self.mean = mean
        self.profile = dict(profile or {})
        self.weight = weight
        self.scale, self.shift = np.ones(self.shape), np.full(self.shape, float(mean))
        for d, (scales, shifts) in self.profile.items():
            along = [1] * len(self.shape)
            along[d] = -1
            self.scale = self.scale * np.reshape(np.asarray(scales, dtype=float), along)
            self.shift = self.shift + np.reshape(np.asarray(shifts, dtype=float), along)

    def describe(self, known: dict[Spec, Any]) -> Moments:
        kept = [d for d, n in enumerate(self.shape) if n != 1]
        axes = []
        for d in kept:
            pairs = list(zip(*self.profile[d], strict=True)) if d in self.profile else None
            axes.append(axis(self.shape[d], None if pairs is None else [pairs.index(p) for p in pairs]))
        first = [[int(np.argmax(a.label_array() == k)) for k in range(a.K)] for a in axes]
        at = np.ix_(*[first[kept.index(d)] if d in kept else [0] for d in range(len(self.shape))])
        shape = [a.K for a in axes]
        mean, scale = self.shift[at].reshape(shape), self.scale[at].reshape(shape)
        base = np.zeros([a.P for a in axes])
        for subset, variance in self.parts.items():
            agree = np.ones([a.P for a in axes])
            for i, (d, a) in enumerate(zip(kept, axes, strict=True)):
                if d in subset:
                    along = [1] * len(axes)
                    along[i] = a.P
                    agree = agree * a.same.astype(float).reshape(along)
            base = base + variance * agree
        (mu, mv), (su, sv) = pair_values(axes, mean), pair_values(axes, scale)
        bit = fresh_source()
        dims = [int(n != 1) for n in self.shape]
        made = Moments.gaussian(axes, dims, mean, mu * mv + su * sv * base, bit, odd=bit if not np.any(mean) else 0)
        if self.weight:
            made.extra["weight"] = True
        return made

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        total = torch.zeros((n, *self.shape), dtype=torch.float64)
        for subset, variance in self.parts.items():
            shape = (n, *[m if d in subset else 1 for d, m in enumerate(self.shape)])
            total += math.sqrt(variance) * torch.from_numpy(_RANDOM[0].standard_normal(shape, dtype=np.float32))
        return total * torch.from_numpy(self.scale) + torch.from_numpy(self.shift)


class Iid(Spec):
    """Independent entries, not Gaussian: "sign" (±1), "mask" (0/1 with p = .75) or "uniform" (0 to 1)."""

    def __init__(self, shape: Sequence[int], kind: str) -> None:
        self.shape, self.kind = tuple(shape), kind

    def describe(self, known: dict[Spec, Any]) -> Moments:
        mean, variance = {"sign": (0.0, 1.0), "mask": (0.75, 0.1875), "uniform": (0.5, 1 / 12)}[self.kind]
        return replace(Moments.iid(self.shape, mean, variance), law=())

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        u = torch.rand(n, *self.shape, dtype=torch.float64)
        return u if self.kind == "uniform" else (u < 0.75).double() if self.kind == "mask" else (u < 0.5).double() * 2 - 1


class Integers(Spec):
    """Independent uniform ids below `high`."""

    def __init__(self, shape: Sequence[int], high: int) -> None:
        self.shape, self.high = tuple(shape), high

    def describe(self, known: dict[Spec, Any]) -> Moments:
        return ids(self.shape, self.high)

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        return torch.randint(0, self.high, (n, *self.shape))


class Fixed(Spec):
    """A known array."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.shape = self.values.shape

    def describe(self, known: dict[Spec, Any]) -> Moments:
        return constant(self.values)

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        return torch.from_numpy(self.values).expand(n, *self.shape)


class Through(Spec):
    """f(x) for every entry."""

    def __init__(self, inner: Spec, name: str, args: tuple[Any, ...], torch_fn: Callable[[Tensor], Tensor] | None) -> None:
        self.inner, self.name, self.args, self.torch_fn = inner, name, args, torch_fn
        self.shape = inner.shape

    def describe(self, known: dict[Spec, Any]) -> Moments:
        entry = FUNCTIONS[self.name]
        return apply(self.inner.moments(known), entry if isinstance(entry, Scalar) else entry(*self.args))

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        x = self.inner.sample(n, drawn)
        if self.torch_fn is not None:
            return self.torch_fn(x)
        fn = getattr(torch, self.name, None) or getattr(F, self.name)
        return fn(x, *self.args)


class Times(Spec):
    """x y for every entry."""

    def __init__(self, left: Spec, right: Spec) -> None:
        self.left, self.right = left, right
        self.shape = np.broadcast_shapes(left.shape, right.shape)

    def describe(self, known: dict[Spec, Any]) -> Moments:
        made = multiply(self.left.moments(known), self.right.moments(known))
        assert isinstance(made, Moments), made
        return made

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        return self.left.sample(n, drawn) * self.right.sample(n, drawn)


class Joined(Spec):
    """The concatenation of specs along a dimension."""

    def __init__(self, parts: Sequence[Spec], d: int) -> None:
        self.parts, self.d = tuple(parts), d
        shape = parts[0].shape
        self.shape = (*shape[:d], sum(p.shape[d] for p in parts), *shape[d + 1 :])

    def describe(self, known: dict[Spec, Any]) -> Moments:
        made = cat([p.moments(known) for p in self.parts], self.d)
        assert isinstance(made, Moments), made
        return made

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        return torch.cat([p.sample(n, drawn) for p in self.parts], self.d + 1)


class View(Spec):
    """A structural function of a spec, described by `Moments` methods and drawn by torch (`on_tensor` of one draw)."""

    def __init__(
        self, inner: Spec, shape: Sequence[int], on_moments: Callable[[Moments], Moments], on_tensor: Callable[[Tensor], Tensor]
    ) -> None:
        self.inner, self.shape, self.on_moments, self.on_tensor = inner, tuple(shape), on_moments, on_tensor

    def describe(self, known: dict[Spec, Any]) -> Moments:
        return self.on_moments(self.inner.moments(known))

    def draw(self, n: int, drawn: dict[Spec, Tensor]) -> Tensor:
        return torch.vmap(self.on_tensor)(self.inner.sample(n, drawn))


# -- cases -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """One call of an op: `args` (and `kwargs`) with specs in the place of tensors.

    The draws come from the op itself, from `run(*specs drawn)` where that is given (specs in the order of their first use in
    the arguments, one draw each), or from autograd: the gradients of `forward(*wrt)` with the cotangent `cotangent`.
    A `batched` forward takes all draws at once (for ops that `torch.vmap` would loop over).
    With `linear` (an affine map of independent `Normal` inputs, or of the cotangent alone) nothing is drawn: the matrix of the
    map, read off the op itself, gives the exact moments, and the rule must agree to 1e-9.
    With `pointwise` (a function of one `Normal` entry by entry, perhaps times the cotangent) the op is integrated: E f(u) f(v) by
    composite Gauss–Legendre rules on fixed points of u and v, split at `kinks`; the rule must agree to 1e-9.
    `outputs` names the outputs that are compared (default: all that the rule claims and that are drawn).
    `approximate` (≤ 1 %, of the scale of an entry) is the size of a neglected term, which `why` names.
    """

    op: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    run: Callable[..., Any] | None = None
    forward: Callable[..., Tensor] | None = None
    wrt: tuple[Spec, ...] = ()
    cotangent: Spec | None = None
    outputs: tuple[int, ...] | None = None
    batched: bool = False
    linear: bool = False
    pointwise: bool = False
    kinks: tuple[float, ...] = ()
    approximate: float = 0.0
    why: str = ""
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.op.removeprefix('aten.')}-{self.name}" if self.name else self.op.removeprefix("aten.")

    @property
    def overload(self) -> str:
        return self.op if self.op.count(".") == 2 else f"{self.op}.default"

    def specs(self) -> list[Spec]:
        found: dict[Spec, None] = {}
        stack = [list(self.args), list(self.kwargs.values()), list(self.wrt), [self.cotangent]]

        def walk(x: Any) -> None:
            if isinstance(x, Spec):
                found.setdefault(x)
            elif isinstance(x, (tuple, list)):
                for item in x:
                    walk(item)

        walk(stack)
        return list(found)


def _fill(x: Any, table: Mapping[Spec, Any]) -> Any:
    if isinstance(x, Spec):
        return table[x]
    if isinstance(x, (tuple, list)):
        return [_fill(item, table) for item in x]
    return x


def _draw(case: Case, n: int, drawn: dict[Spec, Tensor] | None = None) -> list[Tensor | None]:
    drawn = {} if drawn is None else drawn
    specs = case.specs()
    for s in specs:
        s.sample(n, drawn)
    if case.forward is not None:
        leaves = [drawn[s].detach().clone().requires_grad_() for s in case.wrt]
        with torch.enable_grad():
            out = case.forward(*leaves) if case.batched else torch.vmap(case.forward)(*leaves)
            return list(torch.autograd.grad(out, leaves, drawn[case.cotangent]))  # type: ignore[index]

    def one(*tensors: Tensor) -> Any:
        if case.run is not None:
            return case.run(*tensors)
        table = dict(zip(specs, tensors, strict=True))
        space, name, overload = case.overload.split(".")
        fn = getattr(getattr(getattr(torch.ops, space), name), overload)
        return fn(*_fill(list(case.args), table), **{k: _fill(v, table) for k, v in case.kwargs.items()})

    made = torch.vmap(one, randomness="different")(*[drawn[s] for s in specs])
    return list(made) if isinstance(made, (tuple, list)) else [made]


def apply_rule(case: Case, shapes: tuple[tuple[int, ...], ...]) -> list[Moments | Unknown | None]:
    """The rule's claims on the outputs."""
    load()
    found = find(case.overload)
    assert found is not None, f"no rule for {case.overload}"
    known: dict[Spec, Any] = {}
    for s in case.specs():
        s.moments(known)
    node = Node(0, case.overload, (), {}, tuple(range(len(shapes))), "backward" if "backward" in case.op else "forward")
    with running(Context(node, shapes, node.phase == "backward", {})):
        made = found[1](*_fill(list(case.args), known), **{k: _fill(v, known) for k, v in case.kwargs.items()})
    return list(made) if isinstance(made, (tuple, list)) else [made]


@lru_cache(maxsize=256)
def _classes(axes: tuple[Any, ...]) -> tuple[Any, Any]:
    """The kind of every entry and the pair class of every two, as flat indices into `mean` and `gram`."""
    kind, pair = np.zeros(1, dtype=np.intp), np.zeros((1, 1), dtype=np.intp)
    for a in axes:
        label = a.label_array()
        own = a.classes(*np.indices((a.size, a.size)))
        kind = (kind[:, None] * a.K + label[None]).ravel()
        pair = (pair[:, None, :, None] * a.P + own[None, :, None, :]).reshape(len(kind), len(kind))
    return kind, pair.ravel()


class Estimate:
    """Means by kind and second moments by pair class, of batches of draws."""

    def __init__(self, axes: Sequence[Any]) -> None:
        self.kind, self.pair = _classes(tuple(axes))
        self.kinds = np.bincount(self.kind, minlength=math.prod(a.K for a in axes))
        self.pairs = np.bincount(self.pair, minlength=math.prod(a.P for a in axes))
        self.means: list[Any] = [[] for _ in range(BATCHES)]
        self.grams: list[Any] = [[] for _ in range(BATCHES)]

    def add(self, draws: Any) -> None:
        for b, part in enumerate(np.array_split(draws.reshape(len(draws), -1), BATCHES)):
            self.means[b].append(np.bincount(self.kind, part.mean(axis=0), len(self.kinds)) / np.maximum(self.kinds, 1))
            self.grams[b].append(np.bincount(self.pair, (part.T @ part / len(part)).ravel(), len(self.pairs)) / np.maximum(self.pairs, 1))

    def exact(self, mean: Any, second: Any) -> None:
        """Take given moments for the estimate."""
        for b in range(BATCHES):
            self.means[b].append(np.bincount(self.kind, mean, len(self.kinds)) / np.maximum(self.kinds, 1))
            self.grams[b].append(np.bincount(self.pair, second.ravel(), len(self.pairs)) / np.maximum(self.pairs, 1))

    def result(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """(estimate, standard error) of the means and of the gram."""
        out = []
        for rows in (self.means, self.grams):
            each = np.stack([np.mean(r, axis=0) for r in rows])
            out.append((each.mean(axis=0), each.std(axis=0, ddof=1) / math.sqrt(BATCHES)))
        return out[0], out[1]


def _scales(x: Moments) -> tuple[Any, Any]:
    """The scale of every mean and of every gram entry: the root of the second moments of its positions."""
    root = np.sqrt(np.maximum(x.second, 0.0))
    root = np.where(root > 0, root, math.sqrt(max(x.total_second, 0.0)))
    u, v = pair_values(x.axes, root)
    return root.ravel(), (u * v).ravel()


def deviations(claim: Moments, estimate: Estimate, approximate: float, rounding: float = 1e-7) -> list[str]:
    """What differs by more than LIMIT standard errors (and the declared neglected term)."""
    bad: list[str] = []
    counts = (estimate.kinds, estimate.pairs)
    arrays = (claim.mean, claim.gram)
    for name, array, (value, error), scale, count in zip(("mean", "gram"), arrays, estimate.result(), _scales(claim), counts, strict=True):
        claimed = array.ravel()
        allowed = LIMIT * error + (approximate + rounding) * scale
        for c in np.flatnonzero((count > 0) & ~(np.abs(claimed - value) <= allowed)):
            index = tuple(int(i) for i in np.unravel_index(c, array.shape))
            z, share = (claimed[c] - value[c]) / max(error[c], 1e-300), abs(claimed[c] - value[c]) / max(scale[c], 1e-300)
            bad.append(f"{name}{index}: claimed {claimed[c]:.6g}, drawn {value[c]:.6g} ± {error[c]:.2g} (z = {z:.1f}, {share:.2%})")
    return bad


def widened(x: Moments, factor: float = 1.02) -> Moments:
    """The same with rms² multiplied by `factor`."""
    return replace(x, mean=x.mean * math.sqrt(factor), gram=x.gram * factor)


def _matrix(case: Case) -> tuple[list[tuple[Any, Any, tuple[int, ...]]], list[Normal]]:
    """(matrix, offset, shape) of every output of an affine op, and its inputs."""
    inputs = [s for s in case.specs() if isinstance(s, Normal)] if case.forward is None else [case.cotangent]
    assert all(isinstance(s, Normal) for s in inputs), "a linear case has Normal inputs"
    sizes = [math.prod(s.shape) for s in inputs]  # type: ignore[union-attr]
    rows = torch.cat([torch.zeros(1, sum(sizes), dtype=torch.float64), torch.eye(sum(sizes), dtype=torch.float64)])
    parts = torch.split(rows, sizes, dim=1)
    drawn: dict[Spec, Tensor] = {s: p.reshape(-1, *s.shape) for s, p in zip(inputs, parts, strict=True)}  # type: ignore[union-attr, misc]
    outs = _draw(case, 1 + sum(sizes), drawn)
    made = []
    for out in outs:
        if out is None or not out.is_floating_point():
            made.append(None)
            continue
        flat = out.double().numpy().reshape(len(rows), -1)
        made.append(((flat[1:] - flat[0]).T, flat[0], tuple(out.shape[1:])))
    return made, inputs  # type: ignore[return-value]


def _covariance(x: Normal) -> Any:
    """The covariance matrix of a Gaussian array."""
    index = np.indices(x.shape).reshape(len(x.shape), -1)
    total = np.zeros((index.shape[1],) * 2)
    for subset, variance in x.parts.items():
        agree = np.ones_like(total)
        for d in subset:
            agree *= index[d][:, None] == index[d][None]
        total += variance * agree
    scale = x.scale.ravel()
    return total * scale[:, None] * scale[None]


def check_linear(case: Case) -> None:
    """Compare the rule with the exact moments of an affine map."""
    seed(case.seed)
    outs, inputs = _matrix(case)
    claims = apply_rule(case, tuple(o[2] for o in outs if o is not None))
    mean = np.concatenate([x.shift.ravel() for x in inputs])
    covariance = np.zeros((len(mean),) * 2)
    at = 0
    for x in inputs:
        block = _covariance(x)
        covariance[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    compared = 0
    for k, (claim, out) in enumerate(zip(claims, outs)):
        if out is None or claim is None or (case.outputs is not None and k not in case.outputs):
            continue
        matrix, offset, shape = out
        assert isinstance(claim, Moments), f"output {k}: {claim}"
        assert claim.shape == shape, f"output {k}: shape {claim.shape}, the op gives {shape}"
        estimate = Estimate(claim.axes)
        m = matrix @ mean + offset
        second = matrix @ covariance @ matrix.T + np.outer(m, m)
        estimate.exact(m, second)
        bad = deviations(claim, estimate, case.approximate, 1e-9)
        assert not bad, "\n  ".join([f"output {k} of {case}, exactly, axes {claim.axes}: {len(bad)} entries differ", *bad[:12]])
        if claim.total_second > 0:
            assert deviations(widened(claim), estimate, case.approximate), f"output {k} of {case}: two per cent too much goes unnoticed"
        compared += 1
    assert compared, "no output to compare"


def _points(kinks: Sequence[float], low: float, high: float) -> tuple[Any, Any]:
    """Composite Gauss–Legendre points and weights between low and high, split at the kinks."""
    x, w = np.polynomial.legendre.leggauss(10)
    edges = np.unique(np.concatenate([np.linspace(low, high, 81), [k for k in kinks if low < k < high]]))
    half = np.diff(edges) / 2
    return ((edges[1:] + edges[:-1])[:, None] / 2 + half[:, None] * x).ravel(), (half[:, None] * w).ravel()


def check_pointwise(case: Case) -> None:
    """Compare the rule with integrals of the op."""
    roots = [s for s in case.specs() if isinstance(s, Normal) and s is not case.cotangent]
    base = next(s for s in case.specs() if isinstance(s, Through)) if any(isinstance(s, Through) for s in case.specs()) else roots[0]
    while isinstance(base, Through):
        base = base.inner
    assert isinstance(base, Normal)
    known: dict[Spec, Any] = {}
    x = base.moments(known)
    std = np.sqrt(x.second - x.mean**2)
    points, weights = _points(case.kinks, float((x.mean - 10 * std).min()), float((x.mean + 10 * std).max()))
    drawn: dict[Spec, Tensor] = {base: torch.from_numpy(points)}
    if case.cotangent is not None:
        drawn[case.cotangent] = torch.ones(len(points), dtype=torch.float64)
    for s in case.specs():
        s.sample(len(points), drawn)
    outs = _draw(case, len(points), drawn)
    claims = apply_rule(case, tuple(base.shape for o in outs if o is not None))
    k = case.outputs[0] if case.outputs is not None else 0
    claim, values = claims[k], outs[k].numpy()  # type: ignore[union-attr]
    assert isinstance(claim, Moments), f"output {k}: {claim}"
    assert claim.shape == base.shape, f"output {k}: shape {claim.shape}, the op gives {base.shape}"
    assert claim.axes == x.axes
    (m1, m2), (s1, s2) = pair_values(x.axes, x.mean), pair_values(x.axes, std)
    rho = np.clip((x.gram - m1 * m2) / (s1 * s2), -1, 1)

    def density(m: Any, s: Any) -> Any:
        return np.exp(-0.5 * ((points - m) / s) ** 2) / (s * math.sqrt(2 * math.pi)) * weights

    mean = np.array([density(m, s) @ values for m, s in zip(x.mean.ravel(), std.ravel(), strict=True)])
    rows, back = np.unique(np.round(np.stack([v.ravel() for v in (m1, m2, s1, s2, rho)], axis=1), 14), axis=0, return_inverse=True)
    gram = []
    for a, b, s, t, r in rows:
        if r > 1 - 1e-9:
            gram.append(density(a, s) @ values**2)
            continue
        given = density((b + t * r * (points - a) / s)[:, None], t * math.sqrt(1 - r * r)) @ values
        gram.append((density(a, s) * values) @ given)
    expected = [mean.reshape(x.mean.shape), np.array(gram)[back.ravel()].reshape(x.gram.shape)]
    if case.cotangent is not None:
        g, _ = broadcast(case.cotangent.moments(known), x)
        expected = [expected[0] * g.mean, expected[1] * g.gram]
    root = math.sqrt(float(claim.total_second))
    for name, claimed, value, scale in zip(("mean", "gram"), (claim.mean, claim.gram), expected, (root, root * root), strict=True):
        worst = float(np.abs(claimed - value).max()) / scale
        assert worst < max(1e-9, case.approximate), f"{name} of {case}: off by {worst:.2g} of the scale\n{claimed}\n{value}"


def seed(value: int) -> None:
    """Restart both generators."""
    torch.manual_seed(value)
    _RANDOM[0] = np.random.default_rng(value)


def check(case: Case) -> None:
    """Compare the rule with draws; then make sure that the comparison would notice two per cent."""
    assert case.approximate <= 0.01, "a neglected term of more than one per cent is an error"
    assert not case.approximate or case.why, "name the neglected term"
    if case.linear or case.pointwise:
        (check_linear if case.linear else check_pointwise)(case)
        return
    seed(case.seed)
    n = BATCHES * 10
    draws = _draw(case, n)
    shapes = tuple(tuple(d.shape[1:]) for d in draws if d is not None)
    claims = apply_rule(case, shapes)
    pairs = enumerate(zip(claims, draws))
    chosen = case.outputs if case.outputs is not None else tuple(k for k, (c, d) in pairs if c is not None and d is not None)
    assert chosen, "no output to compare"
    for k in chosen:
        claim = claims[k]
        assert isinstance(claim, Moments), f"output {k}: {claim}"
        assert claim.shape == tuple(draws[k].shape[1:]), f"output {k}: shape {claim.shape}, the op gives {tuple(draws[k].shape[1:])}"  # type: ignore[union-attr]
        assert np.isfinite(claim.gram).all(), f"output {k}: the gram is not finite"
        assert np.isfinite(claim.mean).all(), f"output {k}: the mean is not finite"
    estimates = {k: Estimate(claims[k].axes) for k in chosen}  # type: ignore[union-attr]
    done = 0
    while True:
        for k, e in estimates.items():
            e.add(draws[k].double().numpy())  # type: ignore[union-attr]
        done += n
        worst, needed = 0.0, 0.0
        for k, e in estimates.items():
            for (_, error), scale, count in zip(e.result(), _scales(claims[k]), (e.kinds, e.pairs), strict=True):  # type: ignore[arg-type]
                relative = np.divide(error, scale, out=np.zeros_like(error), where=scale > 0)
                worst = max(worst, float(np.max(relative[count > 0], initial=0.0)))
            size = np.abs(claims[k].gram.ravel())  # type: ignore[union-attr]
            share = np.divide(e.result()[1][1], size, out=np.full(e.pairs.shape, np.inf), where=size > 0)[e.pairs > 0]
            if np.isfinite(share).any():
                needed = max(needed, float(share.min()) / SHARPEST)
        needed = max(needed, worst / PRECISION)
        if needed <= 1.0 or done >= MOST:
            break
        n = int(min(max(done * (min(needed, 4.0) ** 2 * 1.1 - 1), BATCHES * 10), 40_000, MOST))
        n = -(-n // BATCHES) * BATCHES
        draws = _draw(case, n)
    assert worst < BAR, f"{done} draws give a standard error of {worst:.2%} of the scale: use a smaller case"
    for k, e in estimates.items():
        claim = claims[k]
        assert isinstance(claim, Moments)
        bad = deviations(claim, e, case.approximate)
        assert not bad, "\n  ".join([f"output {k} of {case}, {done} draws, axes {claim.axes}: {len(bad)} entries differ", *bad[:12]])
        if claim.total_second > 0:
            assert deviations(widened(claim), e, case.approximate), f"output {k} of {case}: two per cent too much goes unnoticed"


def components(rank: int, shares: Sequence[float] = (0.6, 0.1, 0.3)) -> dict[tuple[int, ...], float]:
    """Variance components of an array with every entry of its gram different: own, common to all, and one for each subset."""
    out: dict[tuple[int, ...], float] = {tuple(range(rank)): shares[0], (): shares[1]}
    middle = [s for r in range(1, rank) for s in itertools.combinations(range(rank), r)]
    for i, s in enumerate(middle):
        out[s] = shares[2] * (1 + i) / sum(range(1, len(middle) + 1))
    return out
