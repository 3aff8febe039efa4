"""Multiply-accumulates of each contraction, by the shapes of its arguments.

A formula has the arguments of its ATen op, with a `Shape` in place of a tensor, and `out`, the shapes of what it returns. One complex
multiply-accumulate is four real ones; `macs` sees to that. An operation that stands neither here nor in `kinds`
is not counted, and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from initio.core.record import Node, Record, Ref
from initio.interpreters.kinds import base

__all__ = ["FORMULAS", "Shape", "is_contraction", "macs"]


class Shape(tuple[int, ...]):
    """The shape of a tensor argument."""

    __slots__ = ()


Formula = Callable[..., int]
FORMULAS: dict[str, Formula] = {}


def contraction(*names: str) -> Callable[[Formula], Formula]:
    """Enter a formula under the names of its ops, without overload and in-place mark."""

    def enter(formula: Formula) -> Formula:
        FORMULAS.update(dict.fromkeys(names, formula))
        return formula

    return enter


def macs(node: Node, record: Record) -> int:
    """Multiply-accumulates of a contraction's node."""
    values = record.values

    def shapes(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return Shape(values[argument.value].shape)
        if isinstance(argument, (tuple, list)):
            return [shapes(item) for item in argument]  # pyright: ignore[reportUnknownVariableType]
        return argument

    out = [None if value is None else Shape(values[value].shape) for value in node.outputs]
    kwargs = {name: shapes(argument) for name, argument in node.kwargs.items()}
    real = FORMULAS[base(node.op)](*(shapes(argument) for argument in node.args), out=out, **kwargs)
    complex_operands = all(values[value].dtype.startswith("complex") for value in node.inputs)
    return real * 4 if complex_operands and node.inputs else real


@contraction("aten.mm", "aten._int_mm", "aten._scaled_mm", "aten.mv", "aten.dot", "aten.vdot")
def mm(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """n·k·m of (n, k)(k, m); vectors have n or m = 1."""
    return math.prod(a) * math.prod(b[1:])


@contraction("aten.addmm", "aten.addmv", "aten._addmm_activation")
def addmm(bias: Shape, a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """The product's; adding the bias is no multiply-accumulate."""
    return mm(a, b)


@contraction("aten.bmm")
def bmm(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """b·n·k·m of (b, n, k)(b, k, m)."""
    return math.prod(a) * b[2]


@contraction("aten.baddbmm", "aten.addbmm")
def baddbmm(bias: Shape, a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """The batched product's."""
    return bmm(a, b)


@contraction("aten.linear", "aten.mkldnn_linear", "aten._mkldnn_linear_pointwise")
def linear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """Entries of x times output features."""
    return math.prod(x) * weight[0]


@contraction("aten.linear_backward", "aten.mkldnn_linear_backward")
def linear_backward(x: Shape, gradient: Shape, weight: Shape, mask: list[bool], **_: Any) -> int:
    """The forward's, for the input's and for the weight's gradient."""
    return math.prod(x) * weight[0] * (mask[0] + mask[1])


@contraction("aten.matmul")
def matmul(a: Shape, b: Shape, *_: Any, out: list[Shape], **__: Any) -> int:
    """Entries of the result times the contracted size."""
    return math.prod(out[0]) * a[-1]


@contraction("aten._grouped_mm", "aten._scaled_grouped_mm")
def grouped_mm(a: Shape, b: Shape, *_: Any, out: list[Shape], **__: Any) -> int:
    """Every row meets the matrix of its group only: rows·k·m; ragged k: k·n·m."""
    return math.prod(a) * b[-1] if len(b) == 3 or len(a) == 3 else a[0] * a[1] * b[1]


def _convolution(x: Shape, weight: Shape, y: Shape, transposed: bool) -> int:
    # A weight's entry without its first two sizes meets each site; weights are (out, in/groups, K…), or (in, out/groups, K…) transposed.
    sites = x if transposed else y
    return sites[0] * math.prod(sites[2:]) * math.prod(weight)


@contraction("aten.convolution", "aten._convolution", "aten.convolution_overrideable")
def convolution(
    x: Shape, weight: Shape, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *_: Any, out: list[Shape], **__: Any
) -> int:
    """N·H·W·C_out·(C_in/groups)·K² over the output's sites (the input's where transposed); padding counts as entries."""
    return _convolution(x, weight, out[0], transposed)


@contraction("aten.mkldnn_convolution", "aten.cudnn_convolution", "aten._slow_conv2d_forward", "aten.slow_conv3d_forward", "aten.conv_depthwise3d", "aten._conv_depthwise2d")  # fmt: skip  # noqa: E501
def plain_convolution(x: Shape, weight: Shape, *_: Any, out: list[Shape], **__: Any) -> int:
    """As `convolution`."""
    return _convolution(x, weight, out[0], False)


@contraction("aten.cudnn_convolution_transpose")
def transposed_convolution(x: Shape, weight: Shape, *_: Any, out: list[Shape], **__: Any) -> int:
    """As `convolution` where transposed."""
    return _convolution(x, weight, out[0], True)


@contraction("aten.convolution_backward", "aten.convolution_backward_overrideable")
def convolution_backward(gradient: Shape, x: Shape, weight: Shape, *rest: Any, **_: Any) -> int:
    """The forward's, for the input's and for the weight's gradient, as the mask asks."""
    transposed, mask = next(arg for arg in rest if isinstance(arg, bool)), rest[-1]
    return _convolution(x, weight, gradient, transposed) * (mask[0] + mask[1])


@contraction("aten._trilinear")
def trilinear(a: Shape, b: Shape, c: Shape, one: Any, two: Any, three: Any, sumdim: Any, *_: Any, **__: Any) -> int:
    """Every combination of indices: two multiplications and an addition, taken as two multiply-accumulates (Bilinear)."""
    sizes: dict[int, int] = {}
    rank = len(a) + len(one)
    for shape, expanded in ((a, one), (b, two), (c, three)):
        kept = [axis for axis in range(rank) if axis not in expanded]
        for axis, size in zip(kept, shape, strict=True):
            sizes[axis] = max(sizes.get(axis, 1), size)
    return 2 * math.prod(sizes.values())


@contraction("aten._cdist_forward", "aten._euclidean_dist")
def cdist(a: Shape, b: Shape, *_: Any, out: list[Shape], **__: Any) -> int:
    """Pairs times features."""
    return math.prod(out[0]) * a[-1]


def _attention(query: Shape, key: Shape, value: Shape) -> tuple[int, int]:
    """Multiply-accumulates of Q·Kᵀ and of P·V with P full: B·H·S·T·(E), B·H·S·T·(E_v)."""
    pairs = math.prod(query[:-1]) * key[-2]
    return pairs * query[-1], pairs * value[-1]


FUSED = (
    "aten._scaled_dot_product_flash_attention", "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip


@contraction(*FUSED, "aten._scaled_dot_product_attention_math")
def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """B·H·S·T·(E + E_v), the masked half of a causal pattern included."""
    return sum(_attention(query, key, value))


@contraction(*(f"{name}_backward" for name in FUSED))
def attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Q·Kᵀ once more, then dP, dV (E_v each), dQ, dK (E each)."""
    first, second = _attention(query, key, value)
    return 3 * first + 2 * second


FORMULAS["aten._scaled_dot_product_flash_attention_for_cpu_backward"] = attention_backward


def _three_stages(x: Shape, w1: Shape, w2: Shape, w3: Shape, y: Shape) -> tuple[int, int, int]:
    # 1x1 from x to all paths, the kernel inside each path, and 1x1 from each path to the output; the last two over the output's sites.
    sites = y[0] * math.prod(y[2:])
    return x[0] * math.prod(x[2:]) * math.prod(w1), sites * math.prod(w2), sites * math.prod(w3)


@contraction("initio.split_transform_merge")
def split_transform_merge(x: Shape, w1: Shape, b1: Any, w2: Shape, b2: Any, w3: Shape, *_: Any, out: list[Shape], **__: Any) -> int:
    """The three convolutions', with W3 `[paths, out, width]`."""
    return sum(_three_stages(x, w1, w2, w3, out[0]))


@contraction("initio.split_transform_merge_backward")
def split_transform_merge_backward(
    dy: Shape, x: Shape, w1: Shape, w2: Shape, w3: Shape, b3: Any, h1: Shape, h2: Shape, y: Any, *rest: Any, **_: Any
) -> int:
    """Twice the forward's, the first stage's once less without dx; the last stage once more where its mask is computed again ("path")."""
    after, need_dx = rest[-2:]
    first, second, third = _three_stages(x, w1, w2, w3, dy)
    return first * (1 + bool(need_dx)) + 2 * second + third * (3 if after == "path" else 2)


def is_contraction(op: str) -> bool:
    """Whether there is a formula."""
    return base(op) in FORMULAS
