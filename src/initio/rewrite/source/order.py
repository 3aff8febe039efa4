"""Edits of the order in which things are applied: one taken away, or a dropout put behind what it stands before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import libcst as cst

from initio.core.finding import Finding
from initio.core.record import Source
from initio.rewrite.source.arguments import DROPS
from initio.rewrite.source.desk import Desk
from initio.rewrite.source.draft import Draft, Unfixable

__all__ = ["removed", "swapped"]

PARENTHESES = (cst.BinaryOperation, cst.IfExp, cst.Comparison, cst.BooleanOperation, cst.UnaryOperation, cst.Lambda, cst.Await)
SAME = {"_softmax": "softmax", "_safe_softmax": "softmax", "_prelu_kernel": "prelu"}


@dataclass(frozen=True, slots=True)
class Applied:
    """A layer or function at work: `call` applies it, or makes it as an element of `holder` (a Sequential's arguments, a list)."""

    draft: Draft
    call: cst.Call
    holder: cst.Call | cst.List | None = None
    attribute: str = ""

    @property
    def position(self) -> int:
        """The place among the elements of the holder."""
        return next((n for n, each in enumerate(_elements(self.holder)) if each.value is self.call), -1)


def removed(desk: Desk, finding: Finding) -> None:
    """`self.softmax(self.head(x))` → `self.head(x)`; in an `nn.Sequential`, the last element goes, another becomes `nn.Identity()`."""
    what = str(finding.evidence.get("applied", finding.evidence.get("outer", "")))
    found = _find(desk, finding.module, finding.source, lambda kind: _same(kind, what))
    if found.holder is None:
        _unwrap(found)
        return
    elements = _elements(found.holder)
    if found.position < len(elements) - 1 or len(elements) < 2:
        found.draft.replace(found.call, lambda _: cst.Call(found.draft.layers("Identity")))
        return
    last = elements[-1]
    found.draft.replace(last, lambda _: cst.RemoveFromParent())
    remark = _remark(elements[-2]) if _remark(last) is not None else None  # a comment goes with its element
    found.draft.replace(elements[-2], lambda node: _commented(node.with_changes(comma=last.comma, **_tail(last)), remark))


def swapped(desk: Desk, finding: Finding) -> None:
    """`self.norm(self.drop(x))` → `self.drop(self.norm(x))`; in an `nn.Sequential`, the dropout moves behind the other element."""
    what = finding.entity if finding.code == "ACT102" else "norm"
    behind = _find(desk, finding.module, finding.source, lambda kind: _same(kind, what))
    path = next((path for path in finding.also if path in desk.modules and desk.modules[path].role == "dropout"), None)
    drop = _find(desk, path, None, _drops) if path is not None else _drop_before(behind)
    if drop.draft is not behind.draft or (drop.holder is None) != (behind.holder is None) or drop.holder is not behind.holder:
        raise Unfixable("dropout and what it stands before are not written in one place")
    draft = behind.draft
    if drop.holder is not None:
        start, stop = drop.position, behind.position
        if start > stop:
            raise Unfixable("the dropout stands behind already in that container")
        moved = _elements(drop.holder)[start : stop + 1]
        remarks = [_remark(element) for element in moved]
        for number, element in enumerate(moved):
            other = (number + 1) % len(moved)
            remark = remarks[other] if None not in remarks else None
            draft.replace(element, lambda node, value=moved[other].value, remark=remark: _commented(node.with_changes(value=value), remark))
        return
    if draft.around(drop.call, cst.FunctionDef) is not draft.around(behind.call, cst.FunctionDef):
        raise Unfixable("dropout and what it stands before are called in different functions")
    if draft.line(drop.call) > draft.line(behind.call):
        raise Unfixable("the dropout is called on a later line than what it stands before")
    if not drop.call.args or _operand(drop, drop.call) is not drop.call.args[0].value:
        raise Unfixable("the dropout is not called on its first argument")
    first, *rest = drop.call.args
    draft.replace(behind.call, lambda node: drop.call.with_changes(args=[first.with_changes(value=node), *rest], lpar=[], rpar=[]))
    _unwrap(drop)


def _find(desk: Desk, path: str | None, source: Source | None, fits: Callable[[str], bool]) -> Applied:
    """Where a module is applied, or made as an element of a container; else the function that a line applies."""
    node = desk.modules.get(path) if path else None
    if path and node is not None and fits(node.kind):
        if path.rpartition(".")[2].isdigit():
            draft, call = desk.made(path)
            return Applied(draft, call, _holder(draft, call))
        return Applied(*desk.called(path), attribute=path.rpartition(".")[2])
    draft = desk.draft(source)
    line = source.line if source is not None else 0
    calls = [call for call in draft.calls(line) if fits(draft.kind(call))]
    if len(calls) != 1:
        raise Unfixable(f"{len(calls)} calls that it could be stand at line {line}")
    return Applied(draft, calls[0])


def _holder(draft: Draft, call: cst.Call) -> cst.Call | cst.List:
    element = draft.parent(call)
    holder = draft.parent(element) if element is not None else None
    sequential = isinstance(holder, cst.Call) and draft.kind(holder) == "Sequential"
    if sequential or (isinstance(holder, cst.List) and isinstance(element, cst.Element)):
        assert isinstance(holder, (cst.Call, cst.List))
        return holder
    raise Unfixable(f"line {draft.line(call)} makes it outside of a written nn.Sequential or list")


def _elements(holder: cst.Call | cst.List | None) -> list[cst.Arg | cst.BaseElement]:
    return [] if holder is None else list(holder.args if isinstance(holder, cst.Call) else holder.elements)


def _tail(last: cst.Arg | cst.BaseElement) -> dict[str, object]:
    return {"whitespace_after_arg": last.whitespace_after_arg} if isinstance(last, cst.Arg) else {}


def _remark(element: cst.Arg | cst.BaseElement) -> cst.TrailingWhitespace | None:
    """The rest of the line behind an element, with its comment; None where the line goes on."""
    comma = element.comma if isinstance(element, (cst.Arg, cst.Element)) else None
    after = (
        comma.whitespace_after if isinstance(comma, cst.Comma) else element.whitespace_after_arg if isinstance(element, cst.Arg) else None
    )
    return after.first_line if isinstance(after, cst.ParenthesizedWhitespace) else None


def _commented(element: cst.Arg | cst.Element, remark: cst.TrailingWhitespace | None) -> cst.Arg | cst.Element:
    """The element with another end of its line."""
    if remark is None:
        return element
    if isinstance(element.comma, cst.Comma):
        after = element.comma.whitespace_after
        return element.with_changes(comma=element.comma.with_changes(whitespace_after=after.with_changes(first_line=remark)))
    assert isinstance(element, cst.Arg)
    return element.with_changes(whitespace_after_arg=element.whitespace_after_arg.with_changes(first_line=remark))


def _drop_before(behind: Applied) -> Applied:
    """The one functional dropout in the function that applies something, on its line or before."""
    draft = behind.draft
    function = draft.around(behind.call, cst.FunctionDef)
    calls = (
        [c for c in draft.all(cst.Call, function) if draft.kind(c) in DROPS and draft.line(c) <= draft.line(behind.call)]
        if function
        else []
    )
    if len(calls) != 1:
        raise Unfixable(f"{len(calls)} dropouts stand before line {draft.line(behind.call)} in its function")
    return Applied(draft, calls[0])


def _same(kind: str, what: str) -> bool:
    kind, what = kind.lower().rstrip("_"), SAME.get(what, what).strip("_").replace("_", "").lower()
    return "norm" in kind if what == "norm" else kind.replace("_", "") == what


def _drops(kind: str) -> bool:
    return kind in DROPS or "dropout" in kind.lower()


def _operand(found: Applied, call: cst.Call) -> cst.BaseExpression:
    """What a call is applied to: its first argument, or the tensor whose method it is."""
    owner = call.func.value if isinstance(call.func, cst.Attribute) else None
    if owner is not None and not found.attribute and not found.draft.full(owner).startswith("torch"):
        return owner
    first = next((arg for arg in call.args if arg.keyword is None or arg.keyword.value == "input"), None)
    if first is None or first.star:
        raise Unfixable("what it is applied to is not written at the call")
    return first.value


def _unwrap(found: Applied) -> None:
    """Put what a call is applied to in its place; `x = f(x)` goes altogether where no comment hangs on it."""
    draft, call = found.draft, found.call
    operand, parent = _operand(found, call), draft.parent(call)
    line = draft.parent(parent) if parent is not None else None
    if isinstance(parent, cst.Assign) and isinstance(line, cst.SimpleStatementLine) and isinstance(operand, cst.Name):
        target = parent.targets[0].target
        alone = len(parent.targets) == 1 and len(line.body) == 1 and isinstance(target, cst.Name) and target.value == operand.value
        commented = line.trailing_whitespace.comment is not None or any(each.comment is not None for each in line.leading_lines)
        block = draft.parent(line)
        if alone and not commented and isinstance(block, cst.IndentedBlock) and len(block.body) > 1:
            draft.replace(line, lambda _: cst.RemoveFromParent())
            return

    def inner(node: cst.BaseExpression) -> cst.BaseExpression:
        if not isinstance(node, cst.Call):
            raise Unfixable("two fixes want the same expression")
        value = _operand(found, node)
        loose = isinstance(value, PARENTHESES) and not value.lpar and not isinstance(parent, (cst.Assign, cst.Return, cst.Arg))
        return value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()]) if loose else value

    draft.replace(call, inner)
