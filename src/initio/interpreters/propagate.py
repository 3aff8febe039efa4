# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# numpy's stubs leave parts of its results untyped
"""Moments of every value of a record: each node's rule applied to the moments of its inputs, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import ndtr

from initio.core.axes import axis
from initio.core.distribution import Distribution
from initio.core.moments import Factor, Moments, Unknown, empirical_gram, fresh_source
from initio.core.record import Node, Record, Ref
from initio.core.scalar import Scalar
from initio.interpreters.nearly import usual_values
from initio.interpreters.patterns import projected, projections
from initio.interpreters.simulate import Simulator
from initio.rules import load
from initio.rules.table import NEAR, TOLERANT, Context, find, running

__all__ = ["advance", "from_distribution", "propagate", "start", "waiting"]


def propagate(record: Record) -> dict[int, Moments | Unknown]:
    """Value id → its `Moments`, by rule or else simulated, or `Unknown` with the reason and the node where knowledge ended."""
    values = start(record)
    uses: dict[int, Any] = {}
    simulator = Simulator(record, values)
    for node in record.nodes:
        if any(out in values and isinstance(values[out], Moments) for out in node.outputs if out is not None) and node.constant:
            continue
        if simulator.claimed(node):
            continue
        advance(node, record, values, uses)
        lost = next((got for o in node.outputs if o is not None and isinstance(got := values[o], Unknown) and got.root == node.id), None)
        if lost is not None:
            reason = simulator.fill(node, lost.reason)
            if reason is not None:
                values |= {o: Unknown(reason, node.id) for o in node.outputs if o is not None and values[o] == lost}
    return values


def start(record: Record) -> dict[int, Moments | Unknown]:
    """The moments of what is there before the first node: constants, parameters, inputs and cotangents."""
    load()
    values: dict[int, Moments | Unknown] = {}
    for value, array in record.constants.items():
        values[value] = _constant(array)
    named = {p.name: p.value for p in record.parameters}
    for p in record.parameters:
        draw = values.get(named.get(p.copy_of, -1))
        if draw is None or p.value in values:
            values.setdefault(p.value, from_distribution(p.distribution, record.values[p.value].shape, weight=not p.buffer))
        else:
            values[p.value] = draw
    for i in record.inputs:
        values.setdefault(
            i.value, from_distribution(i.distribution, record.values[i.value].shape, integer=not record.values[i.value].floating)
        )
    for o in record.outputs:
        if o.cotangent is not None and o.cotangent not in values:
            values[o.cotangent] = Moments.iid(record.values[o.cotangent].shape, 0.0, 1.0)
    return values


def waiting(record: Record, values: Mapping[int, Moments | Unknown]) -> tuple[str, ...]:
    """Parameters whose gradient is exactly zero now and alive after one step.

    Their way leads through weights that are exactly zero but receive a gradient themselves; with those weights moved a little
    (variance 1e-6), a second propagation shows whether a gradient arrives.
    """

    def second(value: int | None) -> float:
        got = values.get(value) if value is not None else None
        return got.total_second if isinstance(got, Moments) else -1.0

    dead = [p for p in record.parameters if p.trainable and not p.buffer and second(p.gradient) == 0.0]
    moving = {p.name for p in record.parameters if p.trainable and p.distribution.zero and second(p.gradient) > 0.0}
    if not dead or not moving:
        return ()
    moved = Distribution("normal", {"mean": 0.0, "std": 1e-3})
    after = propagate(
        replace(record, parameters=tuple(replace(p, distribution=moved) if p.name in moving else p for p in record.parameters))
    )
    found: list[str] = []
    for p in dead:
        got = after.get(p.gradient) if p.gradient is not None else None
        if isinstance(got, Moments) and got.total_second > 0.0:
            found.append(p.name)
    return tuple(found)


def advance(node: Node, record: Record, values: dict[int, Moments | Unknown], uses: dict[int, Any]) -> None:
    """Apply the rule of one node; `uses` remembers which weights were used, by their field."""
    outputs = [o for o in node.outputs if o is not None]
    shapes = tuple(record.values[o].shape for o in outputs)
    usual = usual_values(node, record, values)
    result = _nearly(usual) if usual is not None else _related(node, record, values, uses)
    if result is None:
        result = _apply(node, shapes, values, uses)
    results = result if isinstance(result, tuple) else (result,)
    for k, out in enumerate(node.outputs):
        if out is None:
            continue
        made = results[k] if k < len(results) else None
        if isinstance(made, Moments):
            made = _of_reused_weight(bounded(made), out, record, uses)
            expected = record.values[out].shape
            if made.shape != expected:
                made = Unknown(f"the rule of {node.op} gave shape {made.shape} for {expected}", node.id)
            elif not (np.all(np.isfinite(made.gram)) and np.all(np.isfinite(made.mean))):
                made = Unknown(f"moments of {node.op} are not finite", node.id)
        elif isinstance(made, Unknown):
            made = made if made.root >= 0 else Unknown(made.reason, node.id)
        else:
            made = Unknown(f"{node.op} makes no claim about this output", node.id)
        values[out] = made
    if node.phase == "backward":
        if _COTANGENTS not in uses:
            uses[_COTANGENTS] = {o.cotangent for o in record.outputs if o.cotangent is not None}
        if any(i in uses[_COTANGENTS] for i in node.inputs):
            uses[_COTANGENTS].update(outputs)


_REUSED = -(1 << 61)
"""Key of `uses` for the gradients of weights that were used several times."""
_VIEWS = frozenset({"t", "transpose", "permute", "view", "reshape", "_unsafe_view", "detach", "clone", "alias"})


def _of_reused_weight(x: Moments, out: int, record: Record, uses: dict[int, Any]) -> Moments:
    """The gradients that a weight receives from its several uses share a source: nothing is known of their covariance."""
    if _REUSED not in uses:
        uses[_REUSED] = [_shared_gradients(record)]
    bit = uses[_REUSED][0].get(out)
    if bit is None:
        return x
    made = x.with_law()
    law = tuple(Factor(f.fn, replace(f.field, sources=f.field.sources | bit)) for f in made.law)
    return replace(made, law=law, sources=made.sources | bit, odd=0)


def _shared_gradients(record: Record) -> dict[int, int]:
    """Value → a source of its own for each weight whose gradient is the sum of several made by one kind of operation."""
    makers = record.producers()

    def root(value: int) -> Node | None:
        node = makers.get(value)
        while node is not None and node.op.split(".")[1] in _VIEWS and node.inputs:
            node = makers.get(node.inputs[0])
        return node

    found: dict[int, int] = {}
    for p in record.parameters:
        leaves: dict[int, Node] = {}
        stack = [] if p.gradient is None else [p.gradient]
        while stack:
            node = root(stack.pop())
            if node is not None and node.op.startswith(("aten.add.", "aten.add_.")):
                stack += node.inputs
            elif node is not None:
                leaves[node.id] = node
        kinds = [node.op for node in leaves.values()]
        if any(kinds.count(kind) > 1 for kind in kinds):
            bit = fresh_source()
            for node in leaves.values():
                found |= {o: bit for o in node.outputs if o is not None}
    return found


LARGEST = 40_000
"""Most pair classes that a value keeps."""


LARGEST_SPLIT = 4_000
"""Most pair classes of a value of which a dimension is still split into several axes."""


def bounded(x: Moments) -> Moments:
    """The same with split dimensions joined, and the kinds of the finest axes merged, until the gram is small enough."""
    while x.gram.size > LARGEST_SPLIT:
        joinable = [
            (x.axes[i].P * x.axes[i + 1].P, i)
            for d in range(len(x.dims))
            for i in list(x.span(d))[:-1]
            if x.axes[i].P * x.axes[i + 1].P > 4
        ]
        if not joinable:
            break
        extra = x.extra
        x = x.join_axes(max(joinable)[1])
        x = replace(x, extra={**extra, **x.extra})
    while x.gram.size > LARGEST and any(a.K > 1 for a in x.axes):
        i = max(range(len(x.axes)), key=lambda k: x.axes[k].P)
        extra = x.extra
        x = replace(x.relabel(i, axis(x.axes[i].size)), extra=extra)
    return x


_COTANGENTS = -(1 << 59)
"""Key of `uses` for the values of the backward pass that hang on its cotangents."""
_PROJECTIONS = -(1 << 60)
"""Key of `uses` for what `projections` found."""


def _related(node: Node, record: Record, values: Mapping[int, Moments | Unknown], uses: dict[int, Any]) -> Moments | None:
    if _PROJECTIONS not in uses:
        uses[_PROJECTIONS] = projections(record)
    which = uses[_PROJECTIONS].get(node.id)
    if which is None:
        return None
    y, x = (values.get(node.args[k].value) for k in (which, 1 - which))
    return projected(x, y) if isinstance(x, Moments) and isinstance(y, Moments) else None


def _apply(node: Node, shapes: tuple[tuple[int, ...], ...], values: Mapping[int, Moments | Unknown], uses: dict[int, Any]) -> Any:
    found = find(node.op)
    if found is None:
        return _everywhere(node, Unknown(f"no rule for {node.op}", node.id))
    name, fn = found
    if name not in TOLERANT:
        for value in node.inputs:
            got = values.get(value)
            if got is None:
                return _everywhere(node, Unknown(f"an input of {node.op} has no moments", node.id))
            if isinstance(got, Unknown):
                return _everywhere(node, got)
    late = frozenset(k for k, a in enumerate(node.args) if isinstance(a, Ref) and a.value in uses.get(_COTANGENTS, ()))
    ctx = Context(node, shapes, node.phase == "backward", uses, late)
    if name not in NEAR:
        values = {i: v.plain() if isinstance(v, Moments) else v for i in node.inputs if (v := values.get(i)) is not None}
    try:
        with running(ctx):
            return fn(
                *[_resolve(a, values) for a in node.args], **{k: _resolve(a, values) for k, a in node.kwargs.items() if k not in _PLUMBING}
            )
    except _PREMISES as error:
        return _everywhere(node, Unknown(f"the rule of {node.op} does not cover this call: {type(error).__name__}: {error}", node.id))


_PLUMBING = frozenset({"dtype", "layout", "device", "pin_memory", "memory_format", "generator", "non_blocking"})
_PREMISES = (TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError, AssertionError)


def _everywhere(node: Node, unknown: Unknown) -> tuple[Unknown, ...]:
    return tuple(unknown for _ in node.outputs)


def _resolve(argument: Any, values: Mapping[int, Moments | Unknown]) -> Any:
    if isinstance(argument, Ref):
        return values.get(argument.value)
    if isinstance(argument, (tuple, list)):
        return [_resolve(a, values) for a in argument]
    return argument


def _constant(array: Any) -> Moments:
    """A known array: floating values by their products, integers by which of them are equal."""
    data = np.asarray(array)
    if data.dtype.kind in "iu":
        return _known_ids(data)
    if data.dtype.kind == "f" and not np.all(np.isfinite(data)):
        quiet = np.where(np.isfinite(data), data, 0.0)
        made = Moments.known(quiet)
        made.extra["known"] = data
        return made
    return Moments.known(data)


def _nearly(array: Any) -> Moments:
    made = _constant(array)
    extra = dict(made.extra)
    extra["nearly"] = extra.pop("known")
    return replace(made, extra=extra)


def _known_ids(data: Any) -> Moments:
    axes = tuple(axis(n) for n in data.shape if n != 1)
    dims = tuple(int(n != 1) for n in data.shape)
    flat = data.reshape([a.size for a in axes])
    values, codes = np.unique(flat, return_inverse=True)
    codes = codes.reshape(flat.shape)
    if len(values) == flat.size:
        equal = np.zeros((2,) * len(axes))
        equal[(1,) * len(axes)] = 1.0
    elif len(values) <= 512:
        equal = sum((empirical_gram((codes == v).astype(float)) for v in range(len(values))), np.zeros((2,) * len(axes)))
    else:
        rng = np.random.default_rng(0)
        keep = rng.choice(len(values), 512, replace=False)
        equal = sum((empirical_gram((codes == v).astype(float)) for v in keep), np.zeros((2,) * len(axes))) * (len(values) / 512)
        equal[(1,) * len(axes)] = 1.0
    mean = np.full((1,) * len(axes), float(flat.mean()) if flat.size else 0.0)
    return Moments(axes, dims, mean, np.asarray(equal), (), 0, 0, "exact", {"high": int(data.max(initial=0)) + 1, "known": data})


def from_distribution(d: Distribution, shape: tuple[int, ...], *, weight: bool = False, integer: bool = False) -> Moments:
    """The moments of a tensor whose entries are drawn from d."""
    if d.family == "integers" or integer:
        from initio.rules.random import ids

        low = int(d.parameters.get("low", 0))
        return ids(shape, int(d.parameters.get("high", 2)) - low)
    if d.family == "parts":
        made = _parts(d, shape)
    else:
        made = Moments.iid(shape, d.mean, d.variance)
        if d.family == "uniform" and len(made.axes) == 1 and d.variance > 0:
            made = _uniform(made, d)
    if weight:
        made.extra["weight"] = d.kurtosis
    return made


def _uniform(x: Moments, d: Distribution) -> Moments:
    """The same vector with its true law, low + (high − low) Φ(u) for a standard normal u: biases are not Gaussian."""
    low, high = d.parameters["low"], d.parameters["high"]
    fn = Scalar("uniform", lambda u: low + (high - low) * ndtr(u), increasing=True)
    field = Moments.iid(x.shape, 0.0, 1.0, sources=x.sources).law[0].field
    return replace(x, law=(Factor(fn, field),))


def _parts(d: Distribution, shape: tuple[int, ...]) -> Moments:
    """Regions become kinds of the axes that they cut."""
    labels = [np.zeros(n, dtype=np.intp) for n in shape]
    for part in d.parts:
        for dim, triple in enumerate(part.index):
            inside = np.zeros(shape[dim], dtype=bool)
            inside[list(range(*triple))] = True
            labels[dim] = labels[dim] * 2 + inside
            labels[dim] = np.unique(labels[dim], return_inverse=True)[1].ravel()
    axes = [axis(n, lab) for n, lab in zip(shape, labels, strict=True) if n != 1]
    dims = tuple(int(n != 1) for n in shape)
    kept = [dim for dim, n in enumerate(shape) if n != 1]
    mean = np.zeros([a.K for a in axes])
    variance = np.zeros([a.K for a in axes])
    for kinds in np.ndindex(*mean.shape):
        where = {dim: int(np.argmax(a.label_array() == k)) for dim, a, k in zip(kept, axes, kinds, strict=True)}
        for part in d.parts:
            if all(where.get(dim, 0) in range(*triple) for dim, triple in enumerate(part.index)):
                mean[kinds], variance[kinds] = part.distribution.mean, part.distribution.variance
    from initio.core.moments import pair_values

    u, v = pair_values(axes, mean)
    gram = u * v
    gram[tuple(a.diagonal for a in axes)] += variance
    bit = fresh_source()
    return Moments.gaussian(axes, dims, mean, gram, bit, odd=bit if not np.any(mean) else 0, claim="exact")
