"""Names of operations that are no contractions: those that move entries, and those that compute entry by entry."""

from __future__ import annotations

__all__ = ["base", "is_entrywise", "is_plumbing", "is_view"]


def base(op: str) -> str:
    """The op's name without overload and in-place mark.

    >>> base("aten.add_.Tensor"), base("aten.mm.default"), base("initio.view_of")
    ('aten.add', 'aten.mm', 'initio.view_of')
    """
    space, name = op.split(".")[:2]
    return f"{space}.{name.rstrip('_')}"


def _words(text: str) -> list[str]:
    return text.split()


PLUMBING = frozenset(
    _words("""
    _assert_async _conj _efficientzerotensor _local_scalar_dense _nested_tensor_from_mask _reshape_alias _resize_output
    _to_copy _unsafe_index _unsafe_view _unsafe_masked_index adjoint alias alias_copy arange argwhere as_strided
    as_strided_copy as_strided_scatter broadcast_to cat chunk clone col2im concat constant_pad_nd contiguous copy detach
    diag_embed diagonal diagonal_copy diagonal_scatter dropout embedding empty empty_like empty_permuted empty_strided eye
    expand expand_as fill flatten flip full full_like gather im2col index index_copy index_fill index_put _index_put_impl
    index_select is_same_size lift lift_fresh lift_fresh_copy linspace logspace masked_scatter masked_select meshgrid
    movedim narrow new_empty new_empty_strided new_full new_ones new_zeros nonzero nonzero_static numpy_T ones ones_like pad
    permute permute_copy pixel_shuffle pixel_unshuffle randperm real imag reflection_pad1d reflection_pad2d reflection_pad3d
    repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape resize resolve_conj resolve_neg
    roll rot90 scalar_tensor scatter select select_copy select_scatter set slice slice_copy slice_scatter split split_copy
    split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack sym_size swapaxes t take tensor_split tile to to_dense
    transpose tril tril_indices triu triu_indices unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes
    unsqueeze view view_as view_as_complex view_as_real view_copy where zero zeros zeros_like channel_shuffle
    native_channel_shuffle max_unpool2d max_unpool3d _pack_padded_sequence _pad_packed_sequence set_data requires_grad mT mH
    T H item
    """)
)
"""Move, allocate or rename entries; no arithmetic."""

VIEWS = frozenset(
    _words("""
    _conj _reshape_alias _unsafe_view adjoint alias as_strided broadcast_to chunk detach diagonal expand expand_as flatten
    lift lift_fresh movedim narrow numpy_T permute real imag reshape resolve_conj resolve_neg select slice split
    split_with_sizes squeeze swapaxes t tensor_split transpose unbind unflatten unfold unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze view view_as view_as_complex view_as_real empty empty_like empty_permuted
    empty_strided new_empty new_empty_strided _local_scalar_dense _efficientzerotensor set resize mT mH T H
    """)
)
"""Plumbing that moves no byte."""

ENTRYWISE = frozenset(
    _words("""
    abs acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip conj_physical copysign cos cosh
    deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 float_power floor floor_divide fmax fmin fmod frac
    frexp gcd ge gelu glu greater gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot i0 igamma igammac isclose
    isfinite isinf isin isnan isneginf isposinf isreal lcm ldexp le leaky_relu lerp less lgamma log log10 log1p log2
    logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul
    multiply mvlgamma nan_to_num ne neg negative nextafter polygamma polar complex positive pow prelu _prelu_kernel rad2deg
    reciprocal relu relu6 remainder round rrelu_with_noise rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh
    softplus softshrink sqrt square sub subtract tan tanh threshold true_divide trunc xlogy log_sigmoid log_sigmoid_forward
    softsign special_entr special_erfcx special_i0e special_i1 special_i1e special_log_ndtr special_ndtri special_xlog1py
    special_zeta all amax amin aminmax any argmax argmin count_nonzero cumsum cumprod cummax cummin logcumsumexp
    linalg_vector_norm logsumexp max mean median min nanmean nanmedian nansum norm prod std std_mean sum sum_to_size
    _sum_to_size var var_mean dist kthvalue mode softmax _softmax _safe_softmax _log_softmax log_softmax _masked_softmax
    _fused_rms_norm rms_norm native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit
    _native_batch_norm_legit_no_training _native_batch_norm_legit_functional _batch_norm_with_update cudnn_batch_norm
    miopen_batch_norm batch_norm_stats batch_norm_elemt batch_norm_update_stats _weight_norm_interface renorm native_dropout
    bernoulli normal uniform rand rand_like randint randint_like randn randn_like random exponential cauchy log_normal
    geometric multinomial poisson binomial _sample_dirichlet _standard_gamma adaptive_avg_pool1d _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool2d
    max_pool2d_with_indices max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa grid_sampler_2d grid_sampler_3d affine_grid_generator _embedding_bag _embedding_bag_forward_only
    nll_loss_forward nll_loss2d_forward binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss
    smooth_l1_loss huber_loss kl_div soft_margin_loss multi_margin_loss multilabel_margin_loss_forward _ctc_loss index_add
    index_reduce scatter_add scatter_reduce segment_reduce sort topk searchsorted bucketize bincount histc _unique2
    unique_dim unique_consecutive trace diff outer ger addr cross linalg_cross _thnn_fused_lstm_cell _thnn_fused_gru_cell
    """)
)
"""Arithmetic without contraction: pointwise functions, reductions, norms, pools, resampling, losses, draws, sorting."""

FORWARD = {
    "embedding_dense": "index_add",
    "embedding": "index_add",
    "_embedding_bag_dense": "index_add",
    "_embedding_bag_sparse": "index_add",
    "index_select": "index_add",
    "unfold": "index_add",
    "batch_norm": "native_batch_norm",
    "_weight_norm_differentiable": "renorm",
    "_thnn_fused_lstm_cell_impl": "_thnn_fused_lstm_cell",
    "_thnn_differentiable_lstm_cell": "_thnn_fused_lstm_cell",
    "_cdist": "sum",
    "value_selecting_reduction": "scatter",
    "nll_loss": "nll_loss_forward",
    "nll_loss2d": "nll_loss_forward",
}
"""Names of backward ops, without `_backward`, whose forward has another name, or moves what they add."""


def _forward(name: str) -> str:
    """A backward op is of its forward's kind: `gelu_backward` as gelu, `select_backward` as select."""
    for suffix in ("_backward", "_backward_data", "_double_backward"):
        if name.endswith(suffix):
            name = name.removesuffix(suffix)
            return FORWARD.get(name, name)
    return name


def is_plumbing(op: str) -> bool:
    """Whether an op only moves entries."""
    space, _, name = base(op).partition(".")
    return space in ("initio", "prim") or (space == "aten" and _forward(name) in PLUMBING)


def is_view(op: str) -> bool:
    """Whether an op moves no byte."""
    space, _, name = base(op).partition(".")
    return space in ("initio", "prim") or (space == "aten" and name in VIEWS)


def is_entrywise(op: str) -> bool:
    """Whether an op's work is counted in entries."""
    space, _, name = base(op).partition(".")
    return space == "aten" and _forward(name) in ENTRYWISE
