"""The moments of one record under many sets of initial distributions at once: the mean-field recursion of plain networks.

A value of such a network has, by symmetry, one mean and a two-by-two table of second moments: E[x_bi x_b'i'] for the same or another
sample and the same or another feature (Poole et al. 2016, eqs. 3 and 5; Schoenholz et al. 2017, eqs. 3 to 5 and 16). `compile_plan`
accepts records of such values only, and only where the recursion gives what `propagate` gives on that record itself.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from initio.core.analysis import ROUNDING, Summary
from initio.core.distribution import Distribution
from initio.core.gaussian import expect, expect2
from initio.core.record import Node, Record, Ref
from initio.core.scalar import Scalar
from initio.rules.pointwise import function_of, slope_of

__all__ = ["Plan", "compile_plan"]

Array: TypeAlias = "np.ndarray[Any, Any]"
INDEPENDENT = frozenset({"normal", "uniform", "truncated_normal", "constant"})
"""Families of independent entries."""
AGREEMENT = 1e-6
"""Relative difference to `propagate` beyond which a record is not accepted: what its rounding amounts to at 1e-16 of the usual scale."""


@dataclass(frozen=True, slots=True)
class _State:
    """`mean` (cells,) and `table` (cells, 2, 2): first index the rows, second the columns, 0 the same, 1 another one.

    `law` holds the normal field and the function of it that this value is, where it is one.
    """

    mean: Array
    table: Array
    shape: tuple[int, int]
    law: tuple[_State, Scalar | None] | None = None

    def turned(self) -> _State:
        rows, columns = self.shape
        return _State(self.mean, self.table.transpose(0, 2, 1), (columns, rows))


class _ForeignError(Exception):
    """The record holds something else than a plain network."""


@dataclass(frozen=True)
class Plan:
    """A record whose moments follow from its parameters' distributions by the recursion; `claims` are those of `propagate`."""

    record: Record
    claims: Mapping[int, Summary]

    def run(self, laws: Sequence[Mapping[str, Distribution]]) -> list[dict[int, Summary] | None]:
        """The summaries of every set of distributions; None where one has a mean or a family that the recursion does not cover."""
        fit = [k for k, each in enumerate(laws) if all(law.family in INDEPENDENT and law.mean == 0 for law in each.values())]
        found: list[dict[int, Summary] | None] = [None] * len(laws)
        if fit:
            states = _states(self.record, [laws[k] for k in fit])
            columns: dict[Any, tuple[Array, Array, Array]] = {}
            which: dict[int, Any] = {}
            for value, state in states.items():  # views of a value share their numbers
                shape = self.record.values[value].shape
                which[value] = key = (id(state), len(shape), shape[0] == 1, self.claims[value].claim)
                if key not in columns:
                    columns[key] = _columns(state, shape)
            finite = np.all([np.isfinite(mean) & np.isfinite(second) for mean, second, _ in columns.values()], axis=0)
            lists = {key: (*(column.tolist() for column in three), key[-1]) for key, three in columns.items()}
            for place, k in enumerate(fit):
                if finite[place]:
                    made = {key: Summary(m[place], s[place], claim, "", w[place]) for key, (m, s, w, claim) in lists.items()}
                    found[k] = {value: made[key] for value, key in which.items()}
        return found


def compile_plan(record: Record, summary: Mapping[int, Summary]) -> Plan | None:
    """A plan for records like this one, whose moments are `summary`; None where it is no plain network."""
    values = {value for node in record.nodes for value in node.outputs if value is not None}
    values |= {i.value for i in record.inputs} | {p.value for p in record.parameters}
    if record.loss is not None or record.constants or any(p.copy_of or p.buffer for p in record.parameters) or not values <= set(summary):
        return None
    plan = Plan(record, summary)
    laws = {p.name: p.distribution for p in record.parameters}
    try:
        made = plan.run([laws])[0]
    except _ForeignError:
        return None
    if made is None or set(made) != set(summary):
        return None
    return plan if all(_agree(made[value], each) for value, each in summary.items()) else None


def _agree(a: Summary, b: Summary) -> bool:
    size = AGREEMENT * max(abs(b.second), 1e-300)
    same = abs(a.second - b.second) <= size and abs(a.mean - b.mean) <= math.sqrt(abs(b.second)) * AGREEMENT
    return same and (abs(a.varying - b.varying) <= size or (math.isnan(a.varying) and math.isnan(b.varying)))


def _columns(state: _State, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    second = state.table[:, 0, 0]
    other = state.table[:, 0, 1] if len(shape) == 1 else state.table[:, 1, 0]
    varying = np.full_like(second, np.nan) if shape[0] == 1 else np.where(np.abs(second - other) > ROUNDING * second, second - other, 0.0)
    return np.broadcast_to(state.mean, second.shape), second, varying


def _states(record: Record, laws: Sequence[Mapping[str, Distribution]]) -> dict[int, _State]:
    count = len(laws)
    states: dict[int, _State] = {}
    for p in record.parameters:
        shape = record.values[p.value].shape
        table = np.zeros((count, 2, 2))
        table[:, 0, 0] = [each[p.name].variance for each in laws]
        states[p.value] = _State(np.zeros(count), table, _matrix(shape))
    for i in record.inputs:
        if i.distribution.family != "normal" or len(record.values[i.value].shape) != 2:
            raise _ForeignError
        states[i.value] = _iid(count, _matrix(record.values[i.value].shape), i.distribution.mean, i.distribution.variance)
    for o in record.outputs:
        if o.cotangent is not None:
            states[o.cotangent] = _iid(count, _matrix(record.values[o.cotangent].shape), 0.0, 1.0)
    for node in record.nodes:
        out = node.outputs[0] if len(node.outputs) == 1 else None
        if out is None or node.kwargs:
            raise _ForeignError
        made = _apply(node, states)
        if made.shape != _matrix(record.values[out].shape):
            raise _ForeignError
        states[out] = made
    return states


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) not in (1, 2):
        raise _ForeignError
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def _iid(count: int, shape: tuple[int, int], mean: float, variance: float) -> _State:
    table = np.full((count, 2, 2), mean * mean)
    table[:, 0, 0] += variance
    made = _State(np.full(count, mean), table, shape)
    return replace(made, law=(made, None))


def _apply(node: Node, states: Mapping[int, _State]) -> _State:
    name = node.op.split(".")[1].rstrip("_")
    read = [states[a.value] if isinstance(a, Ref) and a.value in states else a for a in node.args]
    if any(isinstance(a, Ref) for a in read):
        raise _ForeignError
    match name, read:
        case "t", [_State() as x]:
            return x.turned()
        case "detach" | "alias", [_State() as x]:
            return x
        case "view" | "_unsafe_view", [_State() as x, _]:
            return x
        case "addmm", [_State() as bias, _State() as x, _State() as w] if bias.shape[0] == 1:
            made = _product(x, w)
            table = made.table + bias.table[:, :1, :]
            made = _State(made.mean, table, made.shape)
            return replace(made, law=(made, None))
        case "mm", [_State() as x, _State() as y]:
            made = _product(x, y)
            return replace(made, law=(made, None)) if node.phase == "forward" else made
        case "sum", [_State() as x, (0,), True]:
            n = x.shape[0]
            table = np.zeros_like(x.table)
            table[:, 0] = n * x.table[:, 0] + n * (n - 1) * x.table[:, 1]
            return _State(n * x.mean, table, (1, x.shape[1]))
        case _:
            return _pointwise(node, name, read)


def _product(x: _State, y: _State) -> _State:
    """C_ij = Σ_k A_ik B_kj of independent factors: E[C_ij C_i'j'] = Σ_kk' E[A_ik A_i'k'] E[B_kj B_k'j']."""
    k = x.shape[1]
    if y.shape[0] != k:
        raise _ForeignError
    same, other = x.table[:, :, :1] * y.table[:, :1, :], x.table[:, :, 1:] * y.table[:, 1:, :]
    return _State(k * x.mean * y.mean, k * same + k * (k - 1) * other, (x.shape[0], y.shape[1]))


def _pointwise(node: Node, name: str, read: list[Any]) -> _State:
    if node.phase == "forward" and isinstance(read[0], _State):
        fn = function_of(name, *read[1:])
        if fn is None or read[0].law is None or read[0].law[1] is not None:
            raise _ForeignError
        field = read[0].law[0]
        mean, table = _expected(fn, field)
        return _State(mean, table, read[0].shape, (field, fn))
    if len(read) > 1 and isinstance(read[0], _State) and isinstance(read[1], _State) and read[1].law is not None:
        found = slope_of(name, *read[2:])
        if found is not None:
            (factor, of_result), (field, fn) = found, read[1].law
            if of_result != (fn is not None):
                raise _ForeignError
            mean, table = _expected(factor if fn is None else fn.then(factor), field)
            return _State(read[0].mean * mean, read[0].table * table, read[0].shape)
    raise _ForeignError


def _expected(fn: Scalar, field: _State) -> tuple[Array, Array]:
    """E f(u), and E[f(u) f(v)] for the same and other samples and features."""
    m, var = field.mean, field.table[:, 0, 0] - field.mean**2
    mean = np.asarray(expect(fn, m, var))
    table = np.empty_like(field.table)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        cov = field.table[:, i, j] - m * m
        if (i, j) == (0, 0):
            table[:, i, j] = expect(fn.times(fn), m, var)
        else:
            table[:, i, j] = expect2(fn, fn, m, var, m, var, cov) if np.any(cov) else mean * mean
    return mean, table
