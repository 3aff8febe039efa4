"""Edits of constructors: what torch is to know of is registered, and each layer is made once, in its place."""

from __future__ import annotations

import re

import libcst as cst

from initio.core.finding import Finding
from initio.rewrite.source.desk import Desk
from initio.rewrite.source.draft import Draft, Unfixable

__all__ = ["buffer", "comprehension", "containers", "hoisted", "parameter"]

LISTS = (cst.List, cst.Tuple, cst.Set, cst.ListComp, cst.SetComp)
DICTS = (cst.Dict, cst.DictComp)


def containers(desk: Desk, finding: Finding) -> None:
    """`self.layers = [...]` → `self.layers = nn.ModuleList([...])`, containers inside of it too; dicts become `nn.ModuleDict`."""
    draft, attribute, statement = _assignment(desk, finding)
    wrapper = "ModuleDict" if finding.fix is not None and finding.fix.title.endswith("Dict") else "ModuleList"
    assert statement.value is not None
    if isinstance(statement.value, LISTS + DICTS):  # the check names the innermost container
        wrapper = "ModuleDict" if isinstance(statement.value, DICTS) else "ModuleList"
    draft.replace(statement.value, lambda value: _wrapped(draft, value, wrapper))
    if isinstance(statement, cst.AnnAssign):
        draft.replace(statement.annotation, lambda node: node.with_changes(annotation=draft.layers(wrapper)))
    owner = draft.around(statement, cst.ClassDef)
    for entry in draft.all(cst.Assign, owner):
        target = entry.targets[0].target
        inner = target.value if isinstance(target, cst.Subscript) else None
        if isinstance(inner, cst.Attribute) and inner.attr.value == attribute:
            draft.replace(entry.value, lambda value: _nested(draft, value))
    for call in draft.all(cst.Call, owner):
        inner = call.func.value if isinstance(call.func, cst.Attribute) and call.func.attr.value == "append" else None
        if (
            isinstance(inner, cst.Attribute)
            and inner.attr.value == attribute
            and call.args
            and isinstance(call.args[0].value, LISTS + DICTS)
        ):
            draft.replace(call.args[0].value, lambda value: _nested(draft, value))


def parameter(desk: Desk, finding: Finding) -> None:
    """`self.scale = torch.ones(3, requires_grad=True)` → `self.scale = nn.Parameter(torch.ones(3))`; lists become `nn.ParameterList`."""
    draft, _, statement = _assignment(desk, finding)
    title = finding.fix.title if finding.fix is not None else ""
    wrapper = title.rpartition(".")[2] or "Parameter"
    assert statement.value is not None

    def wrap(value: cst.BaseExpression) -> cst.BaseExpression:
        return cst.Call(draft.layers(wrapper), [cst.Arg(_plain(value) if wrapper == "Parameter" else _parenthesized(value))])

    draft.replace(statement.value, wrap)


def buffer(desk: Desk, finding: Finding) -> None:
    """`self.shift = expr` → `self.register_buffer("shift", expr, persistent=False)`: the state dict stays as it is."""
    draft, attribute, statement = _assignment(desk, finding)
    line = draft.parent(statement)
    if not isinstance(line, cst.SimpleStatementLine) or statement.value is None:
        raise Unfixable("the assignment does not stand on a line of its own")
    receiver = draft.receiver(statement)

    def register(value: cst.BaseExpression) -> cst.Expr:
        call = draft.expression(f'{receiver}.register_buffer("{attribute}", x, persistent=False)')
        assert isinstance(call, cst.Call)
        args = [call.args[0], call.args[1].with_changes(value=_parenthesized(value)), call.args[2]]
        return cst.Expr(call.with_changes(args=args))

    if isinstance(statement, cst.Assign):
        draft.replace(statement, lambda node: register(node.value))
        return
    if len(line.body) > 1:
        raise Unfixable("the assignment does not stand on a line of its own")

    def split(node: cst.SimpleStatementLine) -> cst.FlattenSentinel[cst.SimpleStatementLine]:
        typed = node.body[0]
        assert isinstance(typed, cst.AnnAssign)
        assert typed.value is not None
        first = node.with_changes(
            body=[typed.with_changes(value=None, equal=cst.MaybeSentinel.DEFAULT)], trailing_whitespace=cst.TrailingWhitespace()
        )
        return cst.FlattenSentinel([first, node.with_changes(body=[register(typed.value)], leading_lines=[])])

    draft.replace(line, split)


def comprehension(desk: Desk, finding: Finding) -> None:
    """`[nn.Linear(8, 8)] * 4` → `[nn.Linear(8, 8) for _ in range(4)]`."""
    draft = desk.draft(finding.source)
    line = finding.source.line if finding.source is not None else 0
    statement = next((s for s in draft.all(cst.SimpleStatementLine) if draft.line(s) <= line <= draft.end(s)), None)
    kind = desk.modules[finding.entity].kind if finding.entity in desk.modules else ""
    found: list[tuple[cst.BinaryOperation, cst.BaseExpression]] = []
    for node in draft.all(cst.BinaryOperation, statement) if statement is not None else ():
        for items in (node.left, node.right):
            if isinstance(node.operator, cst.Multiply) and isinstance(items, (cst.List, cst.Tuple)) and len(items.elements) == 1:
                call = items.elements[0].value
                if isinstance(call, cst.Call) and draft.kind(call) == kind:
                    found.append((node, items))
    if len(found) != 1:
        _inlined(desk, finding)
        return
    node, items = found[0]

    def repeat(updated: cst.BinaryOperation) -> cst.BaseExpression:
        left = updated.left if node.left is items else updated.right
        assert isinstance(left, (cst.List, cst.Tuple))
        count = updated.right if node.left is items else updated.left
        element = left.elements[0].value
        loop = cst.CompFor(cst.Name("_"), cst.Call(cst.Name("range"), [cst.Arg(count)]))
        if isinstance(items, cst.List):
            return cst.ListComp(element, loop, lpar=updated.lpar, rpar=updated.rpar)
        return cst.Call(cst.Name("tuple"), [cst.Arg(cst.GeneratorExp(element, loop, lpar=[], rpar=[]))])

    draft.replace(node, repeat)


def _inlined(desk: Desk, finding: Finding) -> None:
    """`layer = nn.Linear(8, 8)`, then `[layer for _ in range(4)]` or `[layer] * 4` and nothing else: the call stands in the comprehension."""
    draft, maker = desk.made(finding.entity)
    assign, function = draft.parent(maker), draft.around(maker, cst.FunctionDef)
    line = draft.parent(assign) if assign is not None else None
    target = assign.targets[0].target if isinstance(assign, cst.Assign) and len(assign.targets) == 1 else None
    if not isinstance(target, cst.Name) or function is None or not isinstance(line, cst.SimpleStatementLine) or len(line.body) > 1:
        raise Unfixable(f"line {draft.line(maker)} makes the one layer, and no [...] * n of it stands by itself")
    uses = [name for name in draft.all(cst.Name, function) if name.value == target.value and name is not target]
    user = draft.parent(uses[0]) if len(uses) == 1 else None
    literal = draft.parent(user) if isinstance(user, cst.Element) else None
    times = draft.parent(literal) if literal is not None else None
    if isinstance(user, (cst.ListComp, cst.GeneratorExp)) and user.elt is uses[0]:
        draft.replace(uses[0], lambda _: maker)
    elif isinstance(literal, cst.List) and isinstance(times, cst.BinaryOperation) and times.left is literal and len(literal.elements) == 1:
        loop = cst.CompFor(cst.Name("_"), cst.Call(cst.Name("range"), [cst.Arg(times.right)]))
        draft.replace(times, lambda _: cst.ListComp(maker, loop))
    else:
        raise Unfixable(f"{target.value} of line {draft.line(maker)} is used in more places than one list")
    if line.trailing_whitespace.comment is not None or any(each.comment is not None for each in line.leading_lines):
        raise Unfixable(f"a comment hangs on line {draft.line(maker)}, which would go")
    draft.replace(line, lambda _: cst.RemoveFromParent())


def hoisted(desk: Desk, finding: Finding) -> None:
    """`nn.Linear(8, 2)(x)` in the forward pass → `self.linear(x)`, with `self.linear = nn.Linear(8, 2)` at the end of `__init__`."""
    draft = desk.draft(finding.source)
    line = finding.source.line if finding.source is not None else 0
    kind = str(finding.evidence["kind"])
    makers = [call for call in draft.all(cst.Call) if draft.kind(call) == kind and draft.full(call.func).startswith("torch.nn.")]
    makers = [call for call in makers if draft.line(call) == line or _named_at(draft, call, line)]
    if not makers:
        raise Unfixable(f"no call of nn.{kind} belongs to line {line}")
    for maker in makers:
        _hoist(draft, maker, kind)


def _hoist(draft: Draft, maker: cst.Call, kind: str) -> None:
    owner, function = draft.around(maker, cst.ClassDef), draft.around(maker, cst.FunctionDef)
    constructor = next(
        (f for f in draft.all(cst.FunctionDef, owner) if f.name.value == "__init__" and draft.around(f, cst.ClassDef) is owner), None
    )
    if owner is None or function is None or constructor is None or function is constructor:
        raise Unfixable("its class has no __init__ of its own")
    local = {name.value for name in _names(draft, function.params)} | {
        target.value for node in draft.all(cst.AssignTarget, function) for target in _names(draft, node.target)
    } | {node.target.value for node in draft.all(cst.CompFor, function) if isinstance(node.target, cst.Name)} | {
        name.value for node in draft.all(cst.For, function) for name in _names(draft, node.target)
    }  # fmt: skip
    receiver, own = draft.receiver(maker), draft.receiver(constructor.body)
    used = {name.value for arg in maker.args for name in _names(draft, arg.value)} - {receiver}
    if used & local:
        raise Unfixable(f"nn.{kind} is made from {sorted(used & local)[0]}, which only the forward pass knows")
    assign = draft.parent(maker)
    named = (
        assign.targets[0].target.value
        if isinstance(assign, cst.Assign) and len(assign.targets) == 1 and isinstance(assign.targets[0].target, cst.Name)
        else ""
    )
    taken = {node.attr.value for node in draft.all(cst.Attribute, owner)} | draft.given
    base = named or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
    name = next(each for each in (base, *(f"{base}{n}" for n in range(2, 99))) if each not in taken)
    draft.given.add(name)
    text = draft.module.code_for_node(maker)
    if receiver != own:
        text = re.sub(rf"\b{re.escape(receiver)}\b", own, text)
    made = cst.SimpleStatementLine([cst.Assign([cst.AssignTarget(cst.Attribute(cst.Name(own), cst.Name(name)))], draft.expression(text))])
    draft.replace(maker, lambda _: cst.Attribute(cst.Name(receiver), cst.Name(name)))
    draft.replace(constructor.body, lambda body: body.with_changes(body=[*body.body, made]))


def _names(draft: Draft, node: cst.CSTNode) -> list[cst.Name]:
    """The names in a node that are no attribute, keyword or annotation."""
    found: list[cst.Name] = []
    for name in draft.all(cst.Name, node):
        parent = draft.parent(name)
        attribute = isinstance(parent, cst.Attribute) and parent.attr is name
        keyword = isinstance(parent, cst.Arg) and parent.keyword is name
        if not attribute and not keyword:
            found.append(name)
    return found


def _named_at(draft: Draft, call: cst.Call, line: int) -> bool:
    """Whether a line calls the name that a call's result was given in the same function."""
    assign = draft.parent(call)
    if not isinstance(assign, cst.Assign) or not isinstance(assign.targets[0].target, cst.Name):
        return False
    name, function = assign.targets[0].target.value, draft.around(call, cst.FunctionDef)
    return any(
        isinstance(other.func, cst.Name) and other.func.value == name and draft.around(other, cst.FunctionDef) is function
        for other in draft.calls(line)
    )


def _assignment(desk: Desk, finding: Finding) -> tuple[Draft, str, cst.Assign | cst.AnnAssign]:
    """The statement `self.attribute = …` of a finding."""
    draft, attribute = desk.draft(finding.source), str(finding.evidence["attribute"])
    line = finding.source.line if finding.source is not None else 0
    here: list[cst.Assign | cst.AnnAssign] = []
    owner: cst.ClassDef | None = None
    for statement in (*draft.all(cst.Assign), *draft.all(cst.AnnAssign)):
        if draft.line(statement) == line:
            owner = draft.around(statement, cst.ClassDef)
        targets = [target.target for target in statement.targets] if isinstance(statement, cst.Assign) else [statement.target]
        if statement.value is not None and any(isinstance(t, cst.Attribute) and t.attr.value == attribute for t in targets):
            here.append(statement)
    found = [s for s in here if draft.line(s) == line] or [s for s in here if owner is not None and draft.around(s, cst.ClassDef) is owner]
    if len(found) != 1:
        raise Unfixable(f"{len(found) or 'no'} assignments of .{attribute} alone belong to line {line}")
    if isinstance(found[0], cst.Assign) and len(found[0].targets) > 1:
        raise Unfixable(f"line {draft.line(found[0])} gives one value to several names")
    return draft, attribute, found[0]


def _wrapped(draft: Draft, value: cst.BaseExpression, wrapper: str) -> cst.Call:
    return cst.Call(draft.layers(wrapper), [cst.Arg(_parenthesized(_inside(draft, value)))])


def _nested(draft: Draft, value: cst.BaseExpression) -> cst.BaseExpression:
    if isinstance(value, LISTS):
        return _wrapped(draft, value, "ModuleList")
    return _wrapped(draft, value, "ModuleDict") if isinstance(value, DICTS) else value


def _inside(draft: Draft, value: cst.BaseExpression) -> cst.BaseExpression:
    """A container whose own containers are wrapped."""
    if isinstance(value, (cst.List, cst.Tuple, cst.Set)):
        return value.with_changes(elements=[each.with_changes(value=_nested(draft, each.value)) for each in value.elements])
    if isinstance(value, cst.Dict):
        return value.with_changes(elements=[each.with_changes(value=_nested(draft, each.value)) for each in value.elements])
    if isinstance(value, (cst.ListComp, cst.SetComp)):
        return value.with_changes(elt=_nested(draft, value.elt))
    return value.with_changes(value=_nested(draft, value.value)) if isinstance(value, cst.DictComp) else value


def _parenthesized(value: cst.BaseExpression) -> cst.BaseExpression:
    if isinstance(value, cst.Tuple) and not value.lpar:
        return value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return value


def _plain(value: cst.BaseExpression) -> cst.BaseExpression:
    """A tensor's expression without its own `requires_grad`, which `nn.Parameter` brings."""
    if not isinstance(value, cst.Call):
        return value
    if isinstance(value.func, cst.Attribute) and value.func.attr.value == "requires_grad_":
        return value.func.value
    kept = [arg for arg in value.args if arg.keyword is None or arg.keyword.value != "requires_grad"]
    if len(kept) < len(value.args) and kept:
        kept[-1] = kept[-1].with_changes(comma=value.args[-1].comma, whitespace_after_arg=value.args[-1].whitespace_after_arg)
    return value.with_changes(args=kept)
