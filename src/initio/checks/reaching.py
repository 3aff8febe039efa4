"""The rules of `initio.checks.reach`, by operation."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportGeneralTypeIssues=false, reportOptionalOperand=false, reportOperatorIssue=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initio.checks.reach import FAR, LARGEST, RULES, Reach, Tracer, UnknownError, compressed, expanded, rule, union
from initio.core.record import Node, Ref

__all__ = ["RULES"]

UNARY = (
    "relu", "gelu", "silu", "mish", "tanh", "sigmoid", "elu", "leaky_relu", "hardtanh",
    "hardswish", "hardsigmoid", "softplus", "sqrt", "rsqrt", "square", "abs", "neg", "log",
    "log1p", "sin", "cos", "erf", "reciprocal", "clamp", "clamp_min", "clamp_max", "pow",
    "sign", "logical_not", "bitwise_not", "round", "floor", "ceil", "log_sigmoid_forward", "selu", "celu",
    "exp2", "trunc", "isnan", "isinf", "threshold", "hardshrink", "softshrink", "native_dropout", "nan_to_num",
)  # fmt: skip
BINARY = (
    "sub", "maximum", "minimum", "eq", "ne", "lt", "gt", "le", "ge",
    "logical_and", "logical_or", "bitwise_and", "bitwise_or", "fmod", "remainder", "atan2", "rsub", "lerp",
    "addcmul", "addcdiv",
)  # fmt: skip
REDUCTIONS = (
    "sum", "mean", "amax", "amin", "max", "min", "var", "std", "prod",
    "argmax", "argmin", "any", "all", "logsumexp", "linalg_vector_norm", "norm", "nansum", "median",
    "count_nonzero", "var_mean",
)  # fmt: skip


@rule("add", "mul", "div", *UNARY, *BINARY)
def pointwise(t: Tracer, node: Node) -> Reach:
    """Entry by entry, with broadcasting."""
    name = node.op.split(".")[1].rstrip("_")
    states = [t.state(a) for a in node.args if isinstance(a, Ref)]
    rank = max(s.lo.ndim for s in states)
    parts = [s.map(lambda a: a.reshape((1,) * (rank - a.ndim) + a.shape)) for s in states]
    lo, hi = parts[0].lo, parts[0].hi
    for part in parts[1:]:
        lo, hi = np.minimum(lo, part.lo), np.maximum(hi, part.hi)
    marked = [part for part in parts if part.closed is not None]
    sort = marked[0].sort if marked else ""
    keeps = (
        (sort == "neg" and name == "add")
        or (sort == "zero" and name in ("mul", "native_dropout"))
        or (name == "div" and marked and marked[0] is parts[0])
    )
    keeps = keeps or (sort == "neg" and name == "mul" and len(parts) == 1)
    if any(part.sort != sort for part in marked):
        if any(part.sort == "neg" for part in marked):
            raise UnknownError
        return Reach(lo, hi)
    if not marked:
        return Reach(lo, hi)
    if not keeps:
        if any(part.varying for part in marked):
            raise UnknownError
        return Reach(lo, hi)
    closed = marked[0].closed
    for part in marked[1:]:
        closed = closed | part.closed  # pyright: ignore[reportOptionalOperand]
    return Reach(lo, hi, closed, sort)


@rule("clone", "_to_copy", "detach", "alias", "contiguous", "lift_fresh", "real", "dropout")
def same(t: Tracer, node: Node) -> Reach:
    """The same entries."""
    return t.state(node.args[0])


@rule("exp")
def exp(t: Tracer, node: Node) -> Reach:
    """An entry that was −∞ becomes exactly 0."""
    here = t.state(node.args[0])
    return Reach(here.lo, here.hi, here.closed, "zero") if here.sort == "neg" else Reach(here.lo, here.hi)


@rule("where")
def where(t: Tracer, node: Node) -> Reach:
    """One of two by a condition, which may be known."""
    condition, yes, no = node.args[:3]
    table = t.record.constants.get(condition.value)
    if table is None:
        return pointwise(t, node)
    return _chosen(t, _plain(table), yes, no)


@rule("masked_fill")
def masked_fill(t: Tracer, node: Node) -> Reach:
    """A value where the mask holds."""
    table = t.record.constants.get(node.args[1].value)
    if table is None:
        return pointwise(t, node)
    return _chosen(t, _plain(table), node.args[2], node.args[0])


def _chosen(t: Tracer, table: Any, yes: Any, no: Any) -> Reach:
    chosen = table.astype(bool)
    one, two = _number(t, yes), _number(t, no)
    a, b = (t.state(x) if isinstance(x, Ref) else t.state(None) for x in (yes, no))
    rank = max(chosen.ndim, a.lo.ndim, b.lo.ndim)
    chosen, (a, b) = _lifted(chosen, rank), (s.map(lambda x: _lifted(x, rank)) for s in (a, b))
    lo, hi = np.where(chosen, a.lo, b.lo), np.where(chosen, a.hi, b.hi)
    for number, picked, other in ((one, chosen, b), (two, ~chosen, a)):
        if number is not None and (number == 0 or number <= -1e4):
            sort = "zero" if number == 0 else "neg"
            if other.closed is not None and other.sort != sort:
                raise UnknownError
            return Reach(lo, hi, picked if other.closed is None else picked | other.closed, sort)
    if (a.closed is not None and a.varying) or (b.closed is not None and b.varying):
        raise UnknownError
    return Reach(lo, hi)


def _number(t: Tracer, argument: Any) -> float | None:
    if isinstance(argument, (int, float)):
        return float(argument)
    table = t.record.constants.get(argument.value)
    return float(table.reshape(-1)[0]) if table is not None and (table.size == 1 or (table == table.reshape(-1)[0]).all()) else None


def _plain(table: Any) -> Any:
    return table[tuple(slice(0, 1) if s == 0 else slice(None) for s in table.strides)]


def _lifted(array: Any, rank: int) -> Any:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


@rule("tril", "triu")
def triangle(t: Tracer, node: Node) -> Reach:
    """Zero on one side of a diagonal."""
    here, shape = t.state(node.args[0]), t.shape(node.args[0])
    offset = node.args[1] if len(node.args) > 1 else 0
    ones = np.ones(shape[-2:], bool)
    kept = np.tril(ones, offset) if ".tril" in node.op else np.triu(ones, offset)
    return Reach(here.lo, here.hi, _lifted(~kept, len(shape)), "zero")


@rule(*REDUCTIONS)
def reduction(t: Tracer, node: Node) -> Reach | list[Reach]:
    """Over some dimensions, or all."""
    here, shape = t.state(node.args[0]), t.shape(node.args[0])
    out = t.record.values[next(v for v in node.outputs if v is not None)].shape
    name = node.op.split(".")[1]
    position = 2 if name in ("linalg_vector_norm", "norm") else 1
    given = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    if isinstance(given, Ref):
        return pointwise(t, node)  # max(x, y)
    axes = (
        [given]
        if isinstance(given, int) and not isinstance(given, bool)
        else list(given)
        if isinstance(given, (tuple, list)) and given
        else list(range(len(shape)))
    )
    axes = [a % max(1, len(shape)) for a in axes]
    result = union(here, axes, keep=len(out) == len(shape))
    return [result, result] if len(node.outputs) > 1 else result


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax")
def softmax(t: Tracer, node: Node) -> Reach:
    """Every entry depends on all open ones of its row."""
    here, axis = t.state(node.args[0]), int(node.args[1])
    if here.sort == "neg" and here.closed is not None:
        lo = np.where(here.closed, np.int32(FAR), here.lo).min(axis=axis, keepdims=True)
        hi = np.where(here.closed, np.int32(-1), here.hi).max(axis=axis, keepdims=True)
        return Reach(lo, hi, here.closed, "zero")
    return union(Reach(here.lo, here.hi), [axis])


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
def cumulative(t: Tracer, node: Node) -> Reach:
    """Depends on what stands before."""
    here, shape, axis = t.state(node.args[0]).open, t.shape(node.args[0]), int(node.args[1])
    if here.lo.shape[axis] == 1:
        return here
    lo, hi = (expanded(a, shape, [axis % len(shape)]) for a in (here.lo, here.hi))
    return Reach(np.minimum.accumulate(lo, axis), np.maximum.accumulate(hi, axis))


@rule("sort", "topk")
def ordering(t: Tracer, node: Node) -> list[Reach]:
    """Any entry of the row may come out."""
    position = 2 if ".topk" in node.op else 1
    axis = node.args[position] if len(node.args) > position and isinstance(node.args[position], int) else -1
    found = union(t.state(node.args[0]), [axis])
    return [found, found]


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(t: Tracer, node: Node) -> Reach:
    """Over the last dimensions."""
    here = t.state(node.args[0])
    return union(here, range(here.lo.ndim - len(node.args[1]), here.lo.ndim))


@rule("native_group_norm")
def group_norm(t: Tracer, node: Node) -> Reach:
    """Over groups of channels and all positions; taken over all channels."""
    here = t.state(node.args[0])
    return union(here, range(1, here.lo.ndim))


@rule("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "batch_norm_elemt")
def batch_norm(t: Tracer, node: Node) -> Reach:
    """In evaluation entry by entry; its statistics in training are its purpose. An instance norm is over the positions in either mode."""
    here = t.state(node.args[0])
    if node.function == "instance_norm" and bool(node.args[5]):
        return union(here, [axis for axis in range(here.lo.ndim) if axis != 1])
    return Reach(here.lo, here.hi)


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze")
def view(t: Tracer, node: Node) -> Reach:
    """Dimensions are merged and split; along uniform ones nothing is spread out."""
    before, after = t.shape(node.args[0]), t.record.values[node.outputs[0] or 0].shape
    return t.state(node.args[0]).map(lambda a: compressed(_reshaped(a, before, after)))


def _reshaped(array: Any, before: Sequence[int], after: Sequence[int]) -> Any:
    target: list[int] = []
    axes: list[int] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first, second = i, j
        one, two = (before[i] if i < len(before) else 1), (after[j] if j < len(after) else 1)
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while one != two:
            if one < two:
                one *= before[i]
                i += 1
            else:
                two *= after[j]
                j += 1
        uniform = all(array.shape[k] == 1 for k in range(first, i))
        target += [1] * (j - second) if uniform else list(after[second:j])
        axes += [] if uniform else list(range(first, i))
    return expanded(array, before, axes).reshape(target)


@rule("permute")
def permute(t: Tracer, node: Node) -> Reach:
    """Another order of dimensions."""
    return t.state(node.args[0]).map(lambda a: a.transpose(node.args[1]))


@rule("transpose", "t")
def transpose(t: Tracer, node: Node) -> Reach:
    """Two dimensions change places."""
    one, two = (node.args[1:3]) if len(node.args) > 2 else (0, -1)
    here = t.state(node.args[0])
    return here if here.lo.ndim < 2 else here.map(lambda a: a.swapaxes(one, two))


@rule("expand", "repeat")
def expand(t: Tracer, node: Node) -> Reach:
    """New or repeated dimensions are uniform."""
    shape = t.record.values[node.outputs[0] or 0].shape
    here = t.state(node.args[0])
    if ".repeat" in node.op:
        times = [1] * (len(shape) - here.lo.ndim) + list(node.args[1])[-here.lo.ndim :] if here.lo.ndim else []
        return here.map(
            lambda a: (
                np.tile(
                    _lifted(a, len(shape)), [n if s > 1 else 1 for n, s in zip(node.args[1], _lifted(a, len(shape)).shape, strict=True)]
                )
                if times
                else a
            )
        )
    return here.map(lambda a: _lifted(a, len(shape)))


@rule("slice")
def slicing(t: Tracer, node: Node) -> Reach:
    """A range of one dimension."""
    _, axis, *rest = [*node.args, *[None] * 4][:5]
    axis = axis or 0
    return t.state(node.args[0]).map(lambda a: a if a.shape[axis] == 1 else a[(slice(None),) * (axis % a.ndim) + (slice(*rest),)])


@rule("select")
def select(t: Tracer, node: Node) -> Reach:
    """One index of one dimension."""
    axis, index = int(node.args[1]), int(node.args[2])
    return t.state(node.args[0]).map(lambda a: a.take(0 if a.shape[axis] == 1 else index, axis))


@rule("unbind")
def unbind(t: Tracer, node: Node) -> list[Reach]:
    """All indices of one dimension."""
    axis = int(node.args[1]) if len(node.args) > 1 else 0
    here = t.state(node.args[0])
    return [here.map(lambda a, i=i: a.take(0 if a.shape[axis] == 1 else i, axis)) for i in range(len(node.outputs))]


@rule("split", "split_with_sizes", "unsafe_split", "chunk")
def split(t: Tracer, node: Node) -> list[Reach]:
    """Consecutive ranges of one dimension."""
    axis = int(node.args[2]) if len(node.args) > 2 else int(node.kwargs.get("dim", 0))
    sizes = [t.record.values[v].shape[axis] for v in node.outputs if v is not None]
    here, start, found = t.state(node.args[0]), 0, list[Reach]()
    axis %= here.lo.ndim
    for size in sizes:
        window = slice(start, start + size)
        found.append(here.map(lambda a, w=window: a if a.shape[axis] == 1 else a[(slice(None),) * axis + (w,)]))
        start += size
    return found


@rule("cat")
def cat(t: Tracer, node: Node) -> Reach:
    """Along one dimension."""
    axis = int(node.args[1]) if len(node.args) > 1 else int(node.kwargs.get("dim", 0))
    parts = [(t.state(a), t.shape(a)) for a in node.args[0] if t.record.values[a.value].size]
    axis %= parts[0][0].lo.ndim
    sorts = {s.sort for s, _ in parts if s.closed is not None}
    marked = len(sorts) == 1 and next(iter(sorts)) == "zero" and any(s.varying for s, _ in parts if s.closed is not None)
    return Reach(*(_joined([(getattr(s, of), shape) for s, shape in parts], axis) for of in ("lo", "hi"))) if not marked else _raise()


def _raise() -> Reach:
    raise UnknownError


def _joined(arrays: Sequence[tuple[Any, Sequence[int]]], axis: int) -> Any:
    common = [max(a.shape[i] for a, _ in arrays) for i in range(arrays[0][0].ndim)]
    full = [np.broadcast_to(a, [shape[axis] if i == axis else size for i, size in enumerate(common)]) for a, shape in arrays]
    if sum(a.size for a in full) > LARGEST:
        raise UnknownError
    return compressed(np.concatenate(full, axis))


@rule("stack")
def stack(t: Tracer, node: Node) -> Reach:
    """Along a new dimension."""
    axis = int(node.args[1]) if len(node.args) > 1 else int(node.kwargs.get("dim", 0))
    parts = [t.state(a).open for a in node.args[0]]
    axis %= parts[0].lo.ndim + 1
    shapes = [(*t.shape(a)[:axis], 1, *t.shape(a)[axis:]) for a in node.args[0]]
    return Reach(
        *(
            _joined([(np.expand_dims(getattr(s, of), axis), shape) for s, shape in zip(parts, shapes, strict=True)], axis)
            for of in ("lo", "hi")
        )
    )


@rule("flip")
def flip(t: Tracer, node: Node) -> Reach:
    """Backwards."""
    return t.state(node.args[0]).map(lambda a: np.flip(a, tuple(node.args[1])))


@rule("roll")
def roll(t: Tracer, node: Node) -> Reach:
    """Around."""
    return t.state(node.args[0]).map(lambda a: np.roll(a, tuple(node.args[1]), tuple(node.args[2])) if len(node.args) > 2 else _raise())


@rule("constant_pad_nd")
def pad(t: Tracer, node: Node) -> Reach:
    """Constants at the borders; negative padding cuts."""
    here, shape, widths = t.state(node.args[0]).open, t.shape(node.args[0]), list(node.args[1])

    def padded(a: Any, fill: int) -> Any:
        for k in range(len(widths) // 2):
            axis, before, after = len(shape) - 1 - k, widths[2 * k], widths[2 * k + 1]
            if a.shape[axis] > 1 or (before or after):
                full = expanded(a, [n if i == axis else a.shape[i] for i, n in enumerate(shape)])
                cut = full[(slice(None),) * axis + (slice(max(0, -before), full.shape[axis] - max(0, -after)),)]
                a = np.pad(cut, [(max(0, before), max(0, after)) if i == axis else (0, 0) for i in range(a.ndim)], constant_values=fill)
        return compressed(a)

    return Reach(padded(here.lo, FAR), padded(here.hi, -1))


@rule("mm", "bmm", "addmm", "baddbmm", "mv", "linear", "matmul", "addmv", "dot")
def contraction(t: Tracer, node: Node) -> Reach:
    """Over the inner dimension; entries that are zero carry nothing."""
    name = node.op.split(".")[1]
    tensors = [a for a in node.args if isinstance(a, Ref)]
    first, second = tensors[-2:] if name != "linear" else tensors[:2]
    a, b = t.state(first).open, t.state(second).open
    za, zb = t.state(first), t.state(second)
    if name not in ("mm", "addmm", "bmm", "baddbmm"):
        if za.closed is not None or name != "linear" or any(b.varying):
            raise UnknownError
        return union(a, [-1])
    lo, hi = (x[..., :, :, None] for x in (a.lo, a.hi)), (x[..., None, :, :] for x in (b.lo, b.hi))
    (alo, ahi), (blo, bhi) = tuple(lo), tuple(hi)
    shut = [
        z.closed[..., :, :, None] if i == 0 else z.closed[..., None, :, :]
        for i, z in enumerate((za, zb))
        if z.closed is not None and z.sort == "zero"
    ]
    size = np.prod(np.broadcast_shapes(alo.shape, blo.shape, *(s.shape for s in shut)), dtype=np.int64)
    if size > LARGEST * 4:
        raise UnknownError
    low, high = np.minimum(alo, blo), np.maximum(ahi, bhi)
    for mask in shut:
        low, high = np.where(mask, np.int32(FAR), low), np.where(mask, np.int32(-1), high)
    found = Reach(compressed(low.min(axis=-2)), compressed(high.max(axis=-2)))
    if name in ("addmm", "baddbmm"):
        bias = t.state(node.args[0])
        rank = found.lo.ndim
        extra = bias.map(lambda x: _lifted(x, rank))
        marked = extra.closed if extra.sort == "neg" else None
        return Reach(np.minimum(found.lo, extra.lo), np.maximum(found.hi, extra.hi), marked, "neg" if marked is not None else "")
    return found


@rule("convolution", "avg_pool1d", "avg_pool2d", "max_pool2d_with_indices", "avg_pool3d", "max_pool3d_with_indices")
def window(t: Tracer, node: Node) -> Reach:
    """Every output position depends on its window; channels mix, in groups unless there is one a channel."""
    here, shape = t.state(node.args[0]).open, t.shape(node.args[0])
    out = t.record.values[node.outputs[0] or 0].shape
    if ".convolution" in node.op:
        kernel = list(t.shape(node.args[1])[2:])
        stride, padding, dilation, transposed = (list(node.args[k]) if k < 6 else node.args[k] for k in (3, 4, 5, 6))
        if node.args[1].value in t.states or (node.args[8] > 1 and here.lo.shape[1] > 1):
            raise UnknownError
        here = union(here, [1])
        positions = any(here.lo.shape[2 + d] > 1 for d in range(len(kernel)))
        weight = t.record.producers().get(node.args[1].value) if positions else None
        if weight is not None and weight.op.startswith("aten.mul"):
            raise UnknownError  # a masked kernel
    else:
        kernel = list(node.args[1])
        given = [list(node.args[k]) if len(node.args) > k and node.args[k] else None for k in (2, 3)]
        stride, padding, transposed = given[0] or kernel, given[1] or [0] * len(kernel), False
        dilation = list(node.args[4]) if "max_pool" in node.op and len(node.args) > 4 else [1] * len(kernel)
    lead = len(shape) - len(kernel)

    def swept(array: Any, empty: int, pick: Any) -> Any:
        for d, k in enumerate(kernel):
            axis = lead + d
            if array.shape[axis] == 1:
                continue
            results: list[Any] = []
            step, border, spread = (x[d] if len(x) > 1 else x[0] for x in (stride, padding, dilation))
            for o in range(out[axis]):
                if transposed:
                    inside = [(o + border - j * spread) // step for j in range(k) if (o + border - j * spread) % step == 0]
                else:
                    inside = [o * step - border + j * spread for j in range(k)]
                taken = [i for i in inside if 0 <= i < shape[axis]]
                results.append(pick(array.take(taken, axis), axis) if taken else np.full_like(array.take([0], axis), empty))
            array = np.concatenate(results, axis)
        return array

    return Reach(
        swept(here.lo, FAR, lambda a, i: a.min(axis=i, keepdims=True)), swept(here.hi, -1, lambda a, i: a.max(axis=i, keepdims=True))
    )


@rule(
    "_adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "_adaptive_avg_pool3d",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
)
def spatial(t: Tracer, node: Node) -> Reach:
    """Over positions only, taken as over all of them."""
    here = t.state(node.args[0])
    return union(here, range(2, here.lo.ndim)) if here.lo.ndim > 2 else here


@rule("embedding")
def embedding(t: Tracer, node: Node) -> Reach:
    """A row for every index."""
    if node.args[0].value in t.states:
        raise UnknownError
    return t.state(node.args[1]).open.map(lambda a: a[..., None])


@rule("index_select")
def index_select(t: Tracer, node: Node) -> Reach:
    """Some indices of one dimension."""
    here, axis = t.state(node.args[0]), int(node.args[1])
    table = t.record.constants.get(node.args[2].value)
    if table is None:
        if here.lo.shape[axis] > 1 or node.args[2].value in t.states:
            raise UnknownError
        return here
    return here.map(lambda a: a if a.shape[axis] == 1 else a.take(table, axis))


@rule("gather")
def gather(t: Tracer, node: Node) -> Reach:
    """Any entry of the row, at the index's position."""
    here, index = union(t.state(node.args[0]), [int(node.args[1])]), t.state(node.args[2]).open
    return Reach(np.minimum(here.lo, index.lo), np.maximum(here.hi, index.hi))


@rule("index")
def index(t: Tracer, node: Node) -> Reach:
    """Advanced indexing: by known positions exactly, by unknown ones over the whole dimension."""
    here, shape = t.state(node.args[0]).open, t.shape(node.args[0])
    given = list(node.args[1])
    used = [i for i, each in enumerate(given) if each is not None]
    tables = [t.record.constants.get(given[i].value) for i in used]
    if all(table is not None and table.dtype.kind != "b" for table in tables):
        key = tuple(slice(None) if each is None else t.record.constants[each.value] for each in given)
        return here.map(lambda a: compressed(expanded(a, shape, used)[key]))
    if used != list(range(used[0], used[-1] + 1)):
        raise UnknownError
    here = union(here, used)
    states = [t.state(given[i]).open for i in used]
    rank = max(s.lo.ndim for s in states)
    lo, hi = here.lo, here.hi
    keep = [lo.shape[i] for i in range(used[0])]
    rest = [lo.shape[i] for i in range(used[-1] + 1, lo.ndim)]
    lo, hi = (x.reshape([*keep, *[1] * rank, *rest]) for x in (lo, hi))
    for s in states:
        a, b = (_lifted(x, rank).reshape([*[1] * len(keep), *_lifted(x, rank).shape, *[1] * len(rest)]) for x in (s.lo, s.hi))
        lo, hi = np.minimum(lo, a), np.maximum(hi, b)
    return Reach(lo, hi)


@rule("view_of")
def view_of(t: Tracer, node: Node) -> Reach:
    """A strided window of what lies in memory."""
    shape, here, window = t.shape(node.args[0]), t.state(node.args[0]).open, node.args[1]
    return here.map(lambda a: compressed(_windowed(np.array(expanded(a, shape)), window)))


@rule("scatter_view")
def scatter_view(t: Tracer, node: Node) -> Reach:
    """The whole, with a strided window of it overwritten."""
    shape, window = t.shape(node.args[0]), node.args[2]
    base, part = t.state(node.args[0]).open, t.state(node.args[1]).open
    found: list[Any] = []
    for of in ("lo", "hi"):
        whole = np.array(expanded(getattr(base, of), shape))
        _windowed(whole, window)[...] = np.broadcast_to(getattr(part, of), window["size"])
        found.append(compressed(whole))
    return Reach(found[0], found[1])


def _windowed(whole: Any, window: Any) -> Any:
    expected, strides = 1, list[int]()
    for n in reversed(whole.shape):
        strides.insert(0, expected)
        expected *= n
    if any(n > 1 and s != e for n, s, e in zip(whole.shape, window["base_stride"], strides, strict=True)) or not whole.size:
        raise UnknownError
    last = window["offset"] + sum((n - 1) * s for n, s in zip(window["size"], window["stride"], strict=True))
    if last >= whole.size or math.prod(window["size"]) > LARGEST:
        raise UnknownError
    step = whole.itemsize
    flat = whole.reshape(-1)[window["offset"] :]
    return np.lib.stride_tricks.as_strided(flat, window["size"], [s * step for s in window["stride"]])
