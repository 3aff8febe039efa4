"""The scale of attention logits, written once."""

from __future__ import annotations

import libcst as cst

from initio.core.finding import Finding
from initio.rewrite.source.desk import Desk
from initio.rewrite.source.draft import Draft, Unfixable

__all__ = ["scaled"]

SCALES = (cst.Multiply, cst.Divide)
PRODUCTS = frozenset({"matmul", "bmm"})


def scaled(desk: Desk, finding: Finding) -> None:
    """`(q @ k.mT) / math.sqrt(d_model)` → `(q @ k.mT) * q.shape[-1] ** -0.5`; `scaled_dot_product_attention` gets plain queries and keys."""
    draft = desk.draft(finding.source)
    line = finding.source.line if finding.source is not None else 0
    fused = [call for call in draft.calls(line) if draft.kind(call) == "scaled_dot_product_attention"]
    for call in fused:
        draft.replace(call, _unscaled)
    if fused:
        return
    products: list[cst.BaseExpression] = [
        node for node in draft.all(cst.BinaryOperation) if isinstance(node.operator, cst.MatrixMultiply) and draft.line(node) == line
    ]
    products += [call for call in draft.calls(line) if draft.kind(call) in PRODUCTS]
    if len(products) != 1:
        raise Unfixable(f"{len(products)} matrix products stand at line {line}")
    product = products[0]
    factor = draft.expression(_factor(draft, product, int(finding.evidence["width"])))
    outer = draft.parent(product)
    if isinstance(outer, cst.BinaryOperation) and isinstance(outer.operator, SCALES) and outer.left is product:
        draft.replace(outer, lambda node: node.with_changes(operator=cst.Multiply(), right=factor))
    else:
        draft.replace(product, lambda node: _grouped(cst.BinaryOperation(_grouped(node), cst.Multiply(), factor), outer))


def _factor(draft: Draft, product: cst.BaseExpression, width: int) -> str:
    """The scale by the width of the queries, where they have a name; else by its number."""
    query: cst.BaseExpression | None = product.left if isinstance(product, cst.BinaryOperation) else None
    if isinstance(product, cst.Call):
        method = isinstance(product.func, cst.Attribute) and not draft.full(product.func.value).startswith("torch")
        query = (
            product.func.value if method and isinstance(product.func, cst.Attribute) else product.args[0].value if product.args else None
        )
    return f"{query.value}.shape[-1] ** -0.5" if isinstance(query, cst.Name) else f"{width} ** -0.5"


def _grouped(node: cst.BaseExpression, outer: cst.CSTNode | None = None) -> cst.BaseExpression:
    bare = isinstance(node, cst.BinaryOperation) and not node.lpar
    return (
        node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        if bare and not isinstance(outer, (cst.Assign, cst.Arg))
        else node
    )


def _unscaled(call: cst.Call) -> cst.Call:
    """The fused attention with its own scale, on queries and keys without a factor."""
    args = [arg for arg in call.args if arg.keyword is None or arg.keyword.value != "scale"]
    if len(args) < len(call.args):
        args[-1] = args[-1].with_changes(comma=call.args[-1].comma, whitespace_after_arg=call.args[-1].whitespace_after_arg)
    for number, arg in enumerate(args[:2]):
        value = arg.value
        if isinstance(value, cst.BinaryOperation) and isinstance(value.operator, SCALES):
            args[number] = arg.with_changes(value=value.left)
    return call.with_changes(args=args)
