"""An initialisation for the whole model: a function above it, and a call where it is made."""

from __future__ import annotations

import textwrap

import libcst as cst

from initio.core.finding import Finding
from initio.rewrite.source.desk import Desk
from initio.rewrite.source.draft import Draft, Unfixable

__all__ = ["initialised"]

NAME = "init_weights"


def initialised(desk: Desk, finding: Finding) -> None:
    """`init_weights(self)` at the end of the model's `__init__`, or `init_weights(model)` before its factory returns it."""
    root = desk.modules.get("")
    place = None if root is None else root.defined or root.source
    draft = desk.draft(place)
    line = place.line if place is not None else 0
    if any(isinstance(node, cst.Name) and node.value == NAME for node in draft.nodes):
        raise Unfixable(f"the file has an {NAME} already")
    owner = next((c for c in draft.all(cst.ClassDef) if c.name.value == (root.kind if root else "") and _spans(draft, c, line)), None)
    around = _constructed(draft, owner) if owner is not None else _returned(draft, line)
    text = desk.initialiser(finding)
    function = cst.parse_module(text[text.index("@torch.no_grad()") :], draft.module.config_for_parsing).body[0]
    for name in ("math", "re"):
        if f"{name}." in text:
            draft.need(name)
    draft.need("torch")
    if draft.known.get("nn") != "torch.nn":
        draft.need("torch", "nn")
    lead = list(around.leading_lines) or [cst.EmptyLine(indent=False)] * 2
    new = function.with_changes(leading_lines=[line for line in lead if line.comment is None])
    draft.replace(around, lambda node: cst.FlattenSentinel([new, node if node.leading_lines else node.with_changes(leading_lines=lead)]))


def _spans(draft: Draft, node: cst.CSTNode, line: int) -> bool:
    return draft.line(node) <= line <= draft.end(node)


def _constructed(draft: Draft, owner: cst.ClassDef) -> cst.ClassDef | cst.FunctionDef:
    """Ask for the call at the end of `__init__`; the top-level statement around the class."""
    own = [f for f in draft.all(cst.FunctionDef, owner) if f.name.value == "__init__" and draft.around(f, cst.ClassDef) is owner]
    if len(own) != 1 or not isinstance(own[0].body, cst.IndentedBlock):
        raise Unfixable(f"{owner.name.value} has no __init__ of its own")
    if draft.all(cst.Return, own[0]):
        raise Unfixable(f"the __init__ of {owner.name.value} returns before its end")
    _append(draft, own[0].body, draft.receiver(own[0].body))
    return _outermost(draft, owner)


def _returned(draft: Draft, line: int) -> cst.ClassDef | cst.FunctionDef:
    """Ask for `model = …`, the call and `return model` in place of the one `return …` of the function around a line."""
    functions = [f for f in draft.all(cst.FunctionDef) if _spans(draft, f, line)]
    if not functions:
        raise Unfixable("the model is made by no function or class of this file")
    function = functions[0]
    returns = draft.all(cst.Return, function)
    statement = draft.parent(returns[0]) if len(returns) == 1 else None
    value = returns[0].value if returns else None
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) > 1 or value is None:
        raise Unfixable(f"{function.name.value} has {len(returns)} return statements, where one that returns the model was expected")
    name = value.value if isinstance(value, cst.Name) else "model"
    if not isinstance(value, cst.Name) and any(each.value == name for each in draft.all(cst.Name, function)):
        raise Unfixable(f"{name} means something else in {function.name.value}")
    made = [] if isinstance(value, cst.Name) else [f"{name} = "]
    call, end = (cst.parse_statement(text, draft.module.config_for_parsing) for text in (f"{NAME}({name})", f"return {name}"))

    def unfold(node: cst.SimpleStatementLine) -> cst.FlattenSentinel[cst.BaseStatement]:
        inner = node.body[0]
        assert isinstance(inner, cst.Return)
        assert inner.value is not None
        first = [node.with_changes(body=[cst.Assign([cst.AssignTarget(cst.Name(name))], inner.value)])] if made else []
        last = end if made else node
        return cst.FlattenSentinel([*first, call, last])

    draft.replace(statement, unfold)
    return _outermost(draft, function)


def _append(draft: Draft, body: cst.IndentedBlock, receiver: str) -> None:
    call = cst.parse_statement(f"{NAME}({receiver})", draft.module.config_for_parsing)
    draft.replace(body, lambda node: node.with_changes(body=[*node.body, call]))


def _outermost(draft: Draft, node: cst.ClassDef | cst.FunctionDef) -> cst.ClassDef | cst.FunctionDef:
    """The statement of the module that holds a node."""
    found: cst.CSTNode | None = node
    top = node
    while found is not None:
        if isinstance(found, (cst.ClassDef, cst.FunctionDef)):
            top = found
        found = draft.parent(found)
    if not isinstance(draft.parent(top), cst.Module):
        raise Unfixable(textwrap.shorten(f"{node.name.value} is defined under a condition", 80))
    return top
