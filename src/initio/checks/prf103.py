"""PRF103: exact rewrites that compute the same with less."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import BATCH_NORMS, Affine, affines, back, place, readers, scalar_of
from initio.checks.attention import Attention, attentions
from initio.checks.branches import projections
from initio.checks.framework import Context, Found, check
from initio.checks.graph import DROPOUT, VIEWS, name
from initio.core.finding import Fix
from initio.core.order import max_pooling
from initio.core.record import Node

FUSED = ("scaled_dot_product_attention", "multi_head_attention_forward")


@check("PRF103", "exact-rewrite", "note")
def exact_rewrite(context: Context) -> Iterator[Found]:
    """Another order or another call gives the same numbers for less.

    ## What it does
    Finds an activation that never falls (ReLU, tanh, …) before max-pooling with a stride (it commutes, as `initio commute` proves by
    monotony, and works on a quarter of the map behind), separate projections of
    queries, keys and values from one input, attention written out whose weights nothing else reads, and, in evaluation mode,
    a batch norm behind a convolution, which folds into its weights. Each kind is one note a model.

    ## Why is this bad
    It is not wrong: it costs time, or the memory of an attention matrix.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x3x16x16"

    def Model():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x3x16x16"

    def Model():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    ```

    ## References
    * Dao, Fu, Ermon, Rudra and Ré 2022, *FlashAttention*
    * [torch.nn.utils.fuse_conv_bn_eval](https://pytorch.org/docs/stable/generated/torch.nn.utils.fuse_conv_bn_eval.html)
    """
    for node in context.record.nodes:
        relu = _before_pool(context, node)
        if relu is not None:
            saved = context.record.values[relu.outputs[0] or 0].size / max(context.record.values[node.outputs[0] or 0].size, 1)
            said = f"{name(relu)} commutes with max-pooling; behind it, it has {saved:.3g} times fewer entries to visit."
            yield _found(context, relu, said, "Pool first, then apply the activation.", "relu-before-maxpool", {"factor": saved})
    for group in projections(context):
        said = f"{len(group)} projections of one input for an attention are one layer with {sum(each.outputs for each in group)} outputs."
        evidence: dict[str, float | int | str] = {"projections": len(group)}
        yield _found(
            context,
            group[0].node,
            said,
            "Use one packed projection, and split its output, as initio.rewrite.fuse does.",
            "packed-projections",
            evidence,
            group,
        )
    for each in attentions(context):
        if _written_out(context, each):
            said = f"attention written out: scaled_dot_product_attention computes it without the {_shape(context, each)} matrix."
            remedy = "Call F.scaled_dot_product_attention(q, k, v, attn_mask=…, scale=…)."
            yield _found(context, each.softmax, said, remedy, "manual-attention", {"width": each.width})
    ends = {layer.leaving: layer for layer in affines(context) if layer.kind == "convolution"}
    for node in context.record.nodes if not context.record.training else ():
        if node.phase == "forward" and name(node) in BATCH_NORMS and len(node.args) > 5 and node.args[5] is False:
            layer = next((ends[value] for value, _ in back(context, node.inputs[0], sole=True) if value in ends), None)
            if layer is not None:
                said = "in evaluation this batch norm folds into the weights of the convolution before it."
                yield _found(
                    context,
                    node,
                    said,
                    "Fold it for deployment: initio.rewrite.fuse, or torch.nn.utils.fuse_conv_bn_eval.",
                    "conv-bn",
                    {"folds": 1},
                    [layer],
                )


def _found(
    context: Context,
    node: Node,
    message: str,
    remedy: str,
    kind: str,
    evidence: dict[str, float | int | str],
    layers: list[Affine] | None = None,
) -> Found:
    also = tuple(layer.where for layer in layers or () if layer.where and layer.where != node.module)
    source = place(context, node.module, node)
    return Found(message, node.module, source, evidence, remedy, Fix(remedy.rstrip("."), "safe"), also, kind, group=kind)


def _before_pool(context: Context, node: Node) -> Node | None:
    """The non-decreasing activation whose output only this pooling reads."""
    if node.phase != "forward" or name(node) != "max_pool2d_with_indices" or node.inputs[0] not in context.carrying:
        return None
    sizes = [context.record.values[value or 0].size for value in (node.inputs[0], node.outputs[0])]
    if sizes[0] < 2 * sizes[1]:
        return None
    found = next(iter(back(context, node.inputs[0], sole=True)), None)
    if found is None or name(found[1]) == "_prelu_kernel":  # its slope may learn to be negative
        return None
    scalar = scalar_of(context, found[1])
    return found[1] if scalar is not None and max_pooling(scalar).verdict == "same function" else None


def _written_out(context: Context, each: Attention) -> bool:
    """Whether the attention weights only average the values."""
    if each.softmax.function in FUSED or not each.plain or each.learned:
        return False
    outputs = {output.value for output in context.record.outputs}
    value = each.softmax.outputs[0] or 0
    for _ in range(12):
        after = readers(context, value)
        if value in outputs or len(after) != 1 or after[0].phase != "forward":
            return False
        node = after[0]
        if name(node) == "bmm":
            return all(operand in context.carrying for operand in node.inputs)
        if name(node) not in VIEWS and node.function not in DROPOUT:
            return False
        value = node.outputs[0] or 0
    return False


def _shape(context: Context, each: Attention) -> str:
    return "x".join(map(str, context.record.values[each.softmax.outputs[0] or 0].shape))
