"""Names of torch-level functions that the recorder treats in a way of their own."""

from __future__ import annotations

__all__ = ["FULL", "LOWER", "PLAIN"]

PLAIN = {
    "__get__", "__set__", "size", "stride", "dim", "numel", "is_floating_point", "is_complex", "storage_offset",
    "untyped_storage", "is_contiguous", "nelement", "element_size", "__len__", "__hash__", "_is_view", "get_device",
    "data_ptr", "ndimension", "backward",
}  # fmt: skip
"""Calls that read no contents: passed through as they are, since models make very many of them."""

LOWER = {
    "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "addbmm", "baddbmm", "einsum", "chain_matmul",
    "scaled_dot_product_attention", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
}  # fmt: skip
"""Functions that autocast runs in its lower precision."""

FULL = {
    "softmax", "log_softmax", "layer_norm", "group_norm", "rms_norm", "norm", "exp", "log", "pow", "__pow__", "sum", "prod", "cumsum",
    "cumprod", "rsqrt", "softplus", "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss",
    "binary_cross_entropy_with_logits", "kl_div",
}  # fmt: skip
"""Functions that autocast on a GPU runs in single precision."""
