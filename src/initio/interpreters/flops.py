"""Multiply-accumulates of each contraction, by the shapes of its arguments; names of all other operations.

A formula has the arguments of its ATen op, with a `Shape` in place of a tensor, and `out`, the shapes of what it returns. One complex
multiply-accumulate is four real ones; `macs` sees to that. An operation in none of the tables is not counted, and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from initio.core.record import Node, Record, Ref

__all__ = ["FORMULAS", "Shape", "base", "is_contraction", "is_entrywise", "is_plumbing", "is_view", "macs"]


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


def base(op: str) -> str:
    """The op's name without overload and in-place mark.

    >>> base("aten.add_.Tensor"), base("aten.mm.default"), base("initio.view_of")
    ('aten.add', 'aten.mm', 'initio.view_of')
    """
    parts = op.split(".")
    name = ".".join(parts[:2])
    return name if name.endswith("__") else name.rstrip("_")


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
    "aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_cudnn_attention", "aten._scaled_dot_product_fused_attention_overrideable",
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

PLUMBING = frozenset(
    """_assert_async _conj _efficientzerotensor _local_scalar_dense _nested_tensor_from_mask _reshape_alias _resize_output _to_copy
    _unsafe_index _unsafe_view _unsafe_masked_index adjoint alias alias_copy arange argwhere as_strided as_strided_copy as_strided_scatter
    broadcast_to cat chunk clone col2im concat constant_pad_nd contiguous copy detach diag_embed diagonal diagonal_copy diagonal_scatter
    dropout embedding empty empty_like empty_permuted empty_strided eye expand expand_as fill flatten flip full full_like gather im2col
    index index_copy index_fill index_put _index_put_impl index_select is_same_size lift lift_fresh lift_fresh_copy linspace logspace
    masked_scatter masked_select meshgrid movedim narrow new_empty new_empty_strided new_full new_ones new_zeros nonzero nonzero_static
    numpy_T ones ones_like pad permute permute_copy pixel_shuffle pixel_unshuffle randperm real imag reflection_pad1d reflection_pad2d
    reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape resize resolve_conj resolve_neg
    roll rot90 scalar_tensor scatter select select_copy select_scatter set slice slice_copy slice_scatter split split_copy split_with_sizes
    split_with_sizes_copy squeeze squeeze_copy stack sym_size swapaxes t take tensor_split tile to to_dense transpose tril tril_indices triu
    triu_indices unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view view_as view_as_complex
    view_as_real view_copy where zero zeros zeros_like channel_shuffle native_channel_shuffle max_unpool2d max_unpool3d _pack_padded_sequence
    _pad_packed_sequence set_data requires_grad mT mH T H numpy_T item""".split()
)
"""Move, allocate or rename entries; no arithmetic."""

VIEWS = frozenset(
    """_conj _reshape_alias _unsafe_view adjoint alias as_strided broadcast_to chunk detach diagonal expand expand_as flatten lift
    lift_fresh movedim narrow numpy_T permute real imag reshape resolve_conj resolve_neg select slice split split_with_sizes squeeze
    swapaxes t tensor_split transpose unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view view_as
    view_as_complex view_as_real empty empty_like empty_permuted empty_strided new_empty new_empty_strided _local_scalar_dense
    _efficientzerotensor set resize mT mH T H""".split()
)
"""Plumbing that moves no byte."""

ENTRYWISE = frozenset(
    """abs acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip conj_physical copysign cos cosh deg2rad digamma div divide elu
    eq erf erfc erfinv exp exp2 expm1 float_power floor floor_divide fmax fmin fmod frac frexp gcd ge gelu glu greater gt hardshrink
    hardsigmoid hardswish hardtanh heaviside hypot i0 igamma igammac isclose isfinite isinf isin isnan isneginf isposinf isreal lcm ldexp le
    leaky_relu lerp less lgamma log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt
    masked_fill maximum minimum mish mul multiply mvlgamma nan_to_num ne neg negative nextafter polygamma polar complex positive pow prelu
    _prelu_kernel rad2deg reciprocal relu relu6 remainder round rrelu_with_noise rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh
    softplus softshrink sqrt square sub subtract tan tanh threshold true_divide trunc xlogy log_sigmoid log_sigmoid_forward softsign
    special_entr special_erfcx special_i0e special_i1 special_i1e special_log_ndtr special_ndtri special_xlog1py special_zeta
    all amax amin aminmax any argmax argmin count_nonzero cumsum cumprod cummax cummin logcumsumexp linalg_vector_norm logsumexp max mean
    median min nanmean nanmedian nansum norm prod std std_mean sum sum_to_size _sum_to_size var var_mean dist kthvalue mode
    softmax _softmax _safe_softmax _log_softmax log_softmax _masked_softmax _fused_rms_norm rms_norm native_layer_norm native_group_norm
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _native_batch_norm_legit_functional
    _batch_norm_with_update cudnn_batch_norm miopen_batch_norm batch_norm_stats batch_norm_elemt batch_norm_update_stats
    _weight_norm_interface renorm native_dropout bernoulli normal uniform rand rand_like randint randint_like randn randn_like random
    exponential cauchy log_normal geometric multinomial poisson binomial _sample_dirichlet _standard_gamma
    adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d
    max_pool2d max_pool2d_with_indices max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    grid_sampler_2d grid_sampler_3d affine_grid_generator _embedding_bag _embedding_bag_forward_only
    nll_loss_forward nll_loss2d_forward binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss huber_loss
    kl_div soft_margin_loss multi_margin_loss multilabel_margin_loss_forward _ctc_loss
    index_add index_reduce scatter_add scatter_reduce segment_reduce sort topk searchsorted bucketize bincount histc _unique2 unique_dim
    unique_consecutive trace diff outer ger addr cross linalg_cross _thnn_fused_lstm_cell _thnn_fused_gru_cell""".split()
)
"""Arithmetic without contraction: pointwise functions, reductions, norms, pools, resampling, losses, draws, sorting."""


def is_contraction(op: str) -> bool:
    """Whether there is a formula."""
    return base(op) in FORMULAS


def is_plumbing(op: str) -> bool:
    """Whether an op only moves entries."""
    space, _, name = base(op).partition(".")
    return space in ("initio", "prim") or (space == "aten" and _stem(name) in PLUMBING)


def is_view(op: str) -> bool:
    """Whether an op moves no byte."""
    space, _, name = base(op).partition(".")
    return space in ("initio", "prim") or (space == "aten" and name in VIEWS)


def is_entrywise(op: str) -> bool:
    """Whether an op's work is counted in entries."""
    space, _, name = base(op).partition(".")
    return space == "aten" and _stem(name) in ENTRYWISE


STEMS: Mapping[str, str] = {
    "embedding_dense": "index_add", "embedding": "index_add", "_softmax_backward_data": "softmax", "_log_softmax_backward_data": "softmax",
    "_prelu_kernel": "prelu", "index_select": "index_add", "batch_norm": "native_batch_norm", "_weight_norm_differentiable": "renorm",
    "unfold": "index_add", "_embedding_bag_dense": "index_add", "_embedding_bag_sparse": "index_add", "rrelu_with_noise": "prelu",
    "_thnn_fused_lstm_cell_impl": "_thnn_fused_lstm_cell", "_thnn_differentiable_lstm_cell": "_thnn_fused_lstm_cell", "grid_sampler_2d": "sum",
    "_cdist": "sum", "value_selecting_reduction": "scatter", "masked_scatter": "masked_scatter", "_fused_rms_norm": "rms_norm",
    "nll_loss": "nll_loss_forward", "nll_loss2d": "nll_loss_forward", "_ctc_loss": "_ctc_loss", "norm": "norm", "linear_rms": "rms_norm",
}  # fmt: skip
"""Names of backward ops, without `_backward`, whose forward has another name or another kind."""


def _stem(name: str) -> str:
    """A backward op is of its forward's kind: `gelu_backward` as gelu, `select_backward` as select."""
    if name.endswith("_backward"):
        name = name.removesuffix("_backward")
        return STEMS.get(name, name)
    return STEMS.get(name, name) if name.endswith("_data") else name
