"""Edits of one call: a function for the class of its name, an argument given or exchanged, an operation out of place."""

from __future__ import annotations

import re
from collections.abc import Callable

import libcst as cst

from initio.core.finding import Finding
from initio.rewrite.source.desk import Desk
from initio.rewrite.source.draft import Draft, Unfixable, with_argument

__all__ = ["applied", "follows_mode", "not_in_place", "padded", "unbiased"]

DROPS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"})
SPATIAL = re.compile(r"(Lazy)?Conv[123]d|conv[123]d")
LAYER = re.compile(r"(Linear|Conv\w*\dd)$")
LITERALS = (cst.Integer, cst.Float, cst.SimpleString)


def applied(desk: Desk, finding: Finding) -> None:
    """`nn.ReLU(x)` → `F.relu(x)`; a dropout follows the mode of the module."""
    draft, line = _here(desk, finding)
    match = re.match(r"F\.(\w+)\(", finding.fix.edit if finding.fix is not None else "")
    calls = [call for call in draft.calls(line) if draft.kind(call) == finding.evidence["class"] and _takes_tensor(draft, call)]
    if match is None or not calls:
        raise Unfixable(f"no call of {finding.evidence['class']} on a tensor stands at line {line}")
    for call in calls:

        def function(node: cst.Call, call: cst.Call = call) -> cst.Call:
            node = node.with_changes(func=draft.functional(match[1]))
            return _by_mode(draft, call, node) if match[1] in DROPS else node

        draft.replace(call, function)


def _takes_tensor(draft: Draft, call: cst.Call) -> bool:
    """Whether a class is called on something that is no option, and its result is not called in turn."""
    first, parent = call.args[0].value if call.args else None, draft.parent(call)
    option = first is None or isinstance(first, LITERALS) or (isinstance(first, cst.Name) and first.value in ("True", "False", "None"))
    return not option and not (isinstance(parent, cst.Call) and parent.func is call)


def follows_mode(desk: Desk, finding: Finding) -> None:
    """`F.dropout(x, p)` → `F.dropout(x, p, training=self.training)`; `dropout_p=p` → `dropout_p=p if self.training else 0.0`."""
    draft, line = _here(desk, finding)
    function = str(finding.evidence["function"])
    calls = [call for call in draft.calls(line) if draft.kind(call) == function]
    if not calls:
        raise Unfixable(f"line {line} does not call {function} by name")
    for call in calls:
        receiver = draft.receiver(call)
        if function in DROPS:
            if len(call.args) > 2 and call.args[2].keyword is None:
                raise Unfixable(f"line {line} gives training by position")
            draft.replace(call, lambda node, call=call: _by_mode(draft, call, node))
            continue

        rate = next((arg for n, arg in enumerate(call.args) if _named(arg, "dropout_p") or (arg.keyword is None and n == 4)), None)
        if rate is None:
            raise Unfixable(f"line {line} gives no dropout_p")
        mode = draft.expression(f"{receiver}.training")
        draft.replace(rate.value, lambda value, mode=mode: cst.IfExp(mode, value, cst.Float("0.0")))


def _by_mode(draft: Draft, call: cst.Call, updated: cst.Call) -> cst.Call:
    return with_argument(updated, "training", draft.expression(f"{draft.receiver(call)}.training"), 2)


def unbiased(desk: Desk, finding: Finding) -> tuple[str, ...]:
    """`nn.Conv2d(3, 8, 3)` → `nn.Conv2d(3, 8, 3, bias=False)`, wherever the finding names a layer."""
    return _each(desk, finding, _without_bias)


def _without_bias(draft: Draft, call: cst.Call) -> None:
    given = next((arg for arg in call.args if _named(arg, "bias")), None)
    place = 2 if draft.kind(call) in ("Linear", "LazyLinear") else 7
    if given is None and len(call.args) > place:
        given = call.args[place]
    if given is not None and not (isinstance(given.value, cst.Name) and given.value.value == "True"):
        raise Unfixable(f"line {draft.line(call)} computes its bias option")
    if not draft.full(call.func).startswith("torch.nn."):
        raise Unfixable(f"line {draft.line(call)} makes it by a class of its own, {draft.kind(call)}")
    draft.replace(call, lambda node: with_argument(node, "bias", cst.Name("False"), place))


def padded(desk: Desk, finding: Finding) -> tuple[str, ...]:
    """`nn.Conv2d(8, 8, 3)` → `nn.Conv2d(8, 8, 3, padding=1)`; `padding=k // 2` where the kernel is a name."""
    text = (finding.fix.title if finding.fix is not None else "").partition("=")[2]

    def pad(draft: Draft, call: cst.Call) -> None:
        _with_padding(draft, call, text, 4)

    if finding.module in desk.modules and SPATIAL.fullmatch(desk.modules[finding.module].kind):
        return _each(desk, finding, pad, lambda call: not _kernel_by_name(call))
    draft, line = _here(desk, finding)
    calls = [call for call in draft.calls(line) if SPATIAL.fullmatch(draft.kind(call))]
    if len(calls) != 1:
        raise Unfixable(f"{len(calls)} convolutions stand at line {line}")
    _with_padding(draft, calls[0], text, 4)
    return (finding.module,)


def _kernel_by_name(call: cst.Call) -> str:
    """The kernel of a constructor that a name gives; empty where it is a number."""
    kernel = next((a for n, a in enumerate(call.args) if _named(a, "kernel_size") or (a.keyword is None and n == 2)), None)
    plain = kernel is not None and isinstance(kernel.value, cst.Name) and not any(_named(arg, "dilation") for arg in call.args)
    return kernel.value.value if plain and kernel is not None and isinstance(kernel.value, cst.Name) else ""


def _with_padding(draft: Draft, call: cst.Call, text: str, place: int) -> None:
    given = next((arg for n, arg in enumerate(call.args) if _named(arg, "padding") or (arg.keyword is None and n == place)), None)
    if given is not None and not (isinstance(given.value, cst.Integer) and given.value.value == "0"):
        raise Unfixable(f"line {draft.line(call)} computes its padding")
    kernel = _kernel_by_name(call)
    value = draft.expression(f"{kernel} // 2" if kernel else text)
    draft.replace(call, lambda node: with_argument(node, "padding", value, place))


def not_in_place(desk: Desk, finding: Finding) -> None:
    """`inplace=True` → `inplace=False`, `x.relu_()` → `x.relu()`, `x += y` → `x = x + y`."""
    node = desk.modules.get(finding.module)
    if node is not None and node.config.get("inplace"):
        draft, call = desk.made(finding.module)
        _exchanged(draft, call)
        return
    draft, line = _here(desk, finding)
    found = False
    operation = finding.entity.split(".")[1] if "." in finding.entity else finding.entity
    for call in draft.calls(line):
        kind = draft.kind(call)
        if any(_named(arg, "inplace") for arg in call.args):
            _exchanged(draft, call)
            found = True
        elif kind == operation and kind.endswith("_"):
            draft.replace(call.func, _unscored)
            statement = draft.parent(call)
            if isinstance(statement, cst.Expr):  # the name has to take the result that the tensor no longer holds
                owner = call.func.value if isinstance(call.func, cst.Attribute) else None
                method = owner is not None and draft.full(owner).partition(".")[0] not in ("torch", "nn", "F")
                name = owner if method else call.args[0].value if call.args else None
                if not isinstance(name, cst.Name):
                    raise Unfixable(f"line {line} overwrites what has no name of its own")
                kept = name
                draft.replace(statement, lambda node, kept=kept: cst.Assign([cst.AssignTarget(kept)], node.value))
            found = True
    for statement in draft.all(cst.AugAssign):
        if draft.line(statement) == line and isinstance(statement.target, cst.Name):
            draft.replace(statement, _written_out)
            found = True
    if not found:
        raise Unfixable(f"nothing that works in place stands at line {line}")


def _unscored(function: cst.BaseExpression) -> cst.BaseExpression:
    if isinstance(function, cst.Attribute):
        return function.with_changes(attr=function.attr.with_changes(value=function.attr.value.rstrip("_")))
    return function.with_changes(value=function.value.rstrip("_")) if isinstance(function, cst.Name) else function


OPERATORS: dict[type[cst.BaseAugOp], type[cst.BaseBinaryOp]] = {
    cst.AddAssign: cst.Add, cst.SubtractAssign: cst.Subtract, cst.MultiplyAssign: cst.Multiply, cst.DivideAssign: cst.Divide,
}  # fmt: skip


def _written_out(statement: cst.AugAssign) -> cst.BaseSmallStatement:
    operator = OPERATORS.get(type(statement.operator))
    if operator is None:
        return statement
    value = statement.value
    if isinstance(value, (cst.BinaryOperation, cst.IfExp, cst.Comparison, cst.BooleanOperation, cst.Lambda)) and not value.lpar:
        value = value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return cst.Assign(
        [cst.AssignTarget(statement.target)], cst.BinaryOperation(statement.target, operator(), value), semicolon=statement.semicolon
    )


def _exchanged(draft: Draft, call: cst.Call) -> None:
    false = cst.Name("False")
    given = next((arg for arg in call.args if _named(arg, "inplace")), None) or next(
        (arg for arg in call.args if isinstance(arg.value, cst.Name) and arg.value.value == "True" and arg.keyword is None), None
    )
    if given is None or not isinstance(given.value, cst.Name) or given.value.value not in ("True", "False"):
        raise Unfixable(f"line {draft.line(call)} computes its inplace option")
    draft.replace(given.value, lambda _: false)


def _each(
    desk: Desk, finding: Finding, edit: Callable[[Draft, cst.Call], None], alone: Callable[[cst.Call], object] = lambda _: True
) -> tuple[str, ...]:
    """Edit the calls that make the layers of a finding; returns the paths that were reached. Raises where none was.

    `alone` says of a call whether what else it makes must not change.
    """
    done: list[str] = []
    seen: set[cst.Call] = set()
    why = Unfixable("it names no layer")
    for path in dict.fromkeys((finding.module, *finding.also)):
        if path not in desk.modules or not LAYER.search(desk.modules[path].kind):
            continue
        try:
            draft, call = desk.made(path)
            if alone(call):
                desk.made(path, finding)
            if call not in seen:
                edit(draft, call)
            seen.add(call)
            done.append(path)
        except Unfixable as reason:
            why = reason
    if not done:
        raise why
    return tuple(done)


def _named(arg: cst.Arg, name: str) -> bool:
    return arg.keyword is not None and arg.keyword.value == name


def _here(desk: Desk, finding: Finding) -> tuple[Draft, int]:
    return desk.draft(finding.source), finding.source.line if finding.source is not None else 0
