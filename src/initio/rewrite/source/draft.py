"""One file of source: its syntax tree with lines and parents, and the replacements that edits ask for."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import libcst as cst
from libcst.codemod import CodemodContext
from libcst.codemod.visitors import AddImportsVisitor
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider

from initio.core.errors import InitioError

__all__ = ["Draft", "Unfixable", "with_argument"]

Node = TypeVar("Node", bound=cst.CSTNode)
Replacement = Callable[[Any], Any]
"""The node with its inner replacements made → what stands in its place."""


class Unfixable(Exception):  # noqa: N818  # it is an answer
    """Why an edit does not know what to do with the source that it met."""


class Draft:
    """A parsed file. Nothing changes before `result`; comments, line endings and the encoding are kept."""

    def __init__(self, file: str, data: bytes) -> None:
        self.file = file
        self.data = data
        try:
            wrapper = MetadataWrapper(cst.parse_module(data), unsafe_skip_copy=True)
        except (cst.ParserSyntaxError, UnicodeDecodeError, LookupError) as error:
            raise InitioError("Python source", str(error), where=file, remedy="Mend the file first.") from error
        self.module = wrapper.module
        self._positions: Any = wrapper.resolve(PositionProvider)
        self._parents: Any = wrapper.resolve(ParentNodeProvider)
        self._replacements: dict[cst.CSTNode, list[Replacement]] = {}
        self._needed: dict[tuple[str, str | None, str | None], None] = {}
        self.given: set[str] = set()  # names of new attributes
        self.nodes: tuple[cst.CSTNode, ...] = tuple(node for node in self._positions if isinstance(node, cst.CSTNode))
        self.known = self._imports()

    def line(self, node: cst.CSTNode) -> int:
        """The line where a node begins."""
        return self._positions[node].start.line

    def end(self, node: cst.CSTNode) -> int:
        """The line where a node ends."""
        return self._positions[node].end.line

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """The node around a node."""
        return self._parents.get(node)

    def around(self, node: cst.CSTNode, kind: type[Node]) -> Node | None:
        """The innermost node of a kind around a node."""
        found = self.parent(node)
        while found is not None and not isinstance(found, kind):
            found = self.parent(found)
        return found

    def all(self, kind: type[Node], inside: cst.CSTNode | None = None) -> list[Node]:
        """The nodes of a kind in the order in which they end, which is that of evaluation among calls."""
        found = [node for node in self.nodes if isinstance(node, kind) and (inside is None or self._within(node, inside))]
        return sorted(found, key=lambda node: (self._positions[node].end.line, self._positions[node].end.column))

    def calls(self, line: int) -> list[cst.Call]:
        """The calls that Python places on a line: they begin there, or the name of the method stands there."""
        return [call for call in self.all(cst.Call) if line in (self.line(call), self.line(_last(call.func)))]

    def replace(self, node: cst.CSTNode, by: Replacement) -> None:
        """Ask for a replacement; several at one node follow one another."""
        self._replacements.setdefault(node, []).append(by)

    def marks(self) -> dict[cst.CSTNode, list[Replacement]]:
        """What has been asked for so far, for `back`."""
        return {node: list(asked) for node, asked in self._replacements.items()}

    def back(self, marks: dict[cst.CSTNode, list[Replacement]] | None) -> None:
        """Forget what was asked for since `marks`; None: all."""
        self._replacements = marks or {}

    def full(self, node: cst.CSTNode) -> str:
        """The dotted name that an expression stands for by the imports of the file; empty where it is none."""
        if isinstance(node, cst.Name):
            return self.known.get(node.value, node.value)
        if isinstance(node, cst.Attribute):
            inner = self.full(node.value)
            return f"{inner}.{node.attr.value}" if inner else ""
        return ""

    def kind(self, call: cst.Call) -> str:
        """The last part of the name that is called."""
        return self.full(call.func).rpartition(".")[2] if self.full(call.func) else getattr(_last(call.func), "value", "")

    def expression(self, text: str) -> cst.BaseExpression:
        """An expression of new source."""
        return cst.parse_expression(text, config=self.module.config_for_parsing)

    def layers(self, name: str) -> cst.BaseExpression:
        """`nn.name` as this file writes it; imports `nn` where it has neither that nor torch."""
        for local, full in self.known.items():
            if full == "torch.nn":
                return self.expression(f"{local}.{name}")
        for local, full in self.known.items():
            if full == "torch":
                return self.expression(f"{local}.nn.{name}")
        self._needed["torch", "nn", None] = None
        return self.expression(f"nn.{name}")

    def functional(self, name: str) -> cst.BaseExpression:
        """`F.name` as this file writes it; imports `F` where the name is free, else goes through `nn`."""
        for local, full in self.known.items():
            if full == "torch.nn.functional":
                return self.expression(f"{local}.{name}")
        if any(isinstance(node, cst.Name) and node.value == "F" for node in self.nodes):
            return self.layers(f"functional.{name}")
        self._needed["torch.nn.functional", None, "F"] = None
        return self.expression(f"F.{name}")

    def receiver(self, node: cst.CSTNode) -> str:
        """The name of `self` in the method of a class around a node."""
        function = self.around(node, cst.FunctionDef)
        while function is not None and not isinstance(self.parent(self.parent(function) or function), cst.ClassDef):
            function = self.around(function, cst.FunctionDef)
        parameters = () if function is None else (*function.params.posonly_params, *function.params.params)
        if not parameters:
            raise Unfixable("it stands in no method of a class")
        return parameters[0].name.value

    def need(self, module: str, item: str | None = None) -> None:
        """Import a module, or an item of it, where the file does not."""
        self._needed[module, item, None] = None

    def result(self) -> bytes:
        """The file with all replacements made."""
        if not self._replacements:
            return self.data
        module = self.module.visit(_Replace(self._replacements))
        if self._needed:
            context = CodemodContext()
            for name, item, alias in self._needed:
                AddImportsVisitor.add_needed_import(context, name, item, alias)
            module = AddImportsVisitor(context).transform_module(module)
        mark = b"\xef\xbb\xbf"
        return (mark if self.data.startswith(mark) and not module.bytes.startswith(mark) else b"") + module.bytes

    def _within(self, node: cst.CSTNode, outer: cst.CSTNode) -> bool:
        found: cst.CSTNode | None = node
        while found is not None and found is not outer:
            found = self.parent(found)
        return found is outer

    def _imports(self) -> dict[str, str]:
        """Local name → dotted name, of the imports outside of functions and classes."""
        found: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, (cst.Import, cst.ImportFrom)) and self.around(node, cst.IndentedBlock) is None:
                found.update(_bound(node))
        return found


def _bound(node: cst.Import | cst.ImportFrom) -> Iterator[tuple[str, str]]:
    """(local name, dotted name) of an import."""
    if isinstance(node.names, cst.ImportStar) or (isinstance(node, cst.ImportFrom) and (node.relative or node.module is None)):
        return
    prefix = f"{_dotted(node.module)}." if isinstance(node, cst.ImportFrom) else ""
    for item in node.names:
        name = _dotted(item.name)
        if item.asname is not None:
            yield _dotted(item.asname.name), prefix + name
        elif prefix:
            yield name, prefix + name
        else:
            yield name.partition(".")[0], name.partition(".")[0]


def _dotted(node: cst.CSTNode | None) -> str:
    return (
        f"{_dotted(node.value)}.{node.attr.value}" if isinstance(node, cst.Attribute) else node.value if isinstance(node, cst.Name) else ""
    )


def _last(node: cst.BaseExpression) -> cst.BaseExpression:
    return node.attr if isinstance(node, cst.Attribute) else node


class _Replace(cst.CSTTransformer):
    def __init__(self, replacements: dict[cst.CSTNode, list[Replacement]]) -> None:
        super().__init__()
        self.replacements = replacements

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        for replacement in self.replacements.get(original_node, ()):
            if isinstance(updated_node, (cst.RemovalSentinel, cst.FlattenSentinel)):
                break
            updated_node = replacement(updated_node)
        return updated_node


def with_argument(call: cst.Call, name: str, value: cst.BaseExpression, position: int = -1) -> cst.Call:
    """The call with an argument by name: the value of one that is there (by name, or at a position) is exchanged, else it comes last."""
    args = list(call.args)
    for number, arg in enumerate(args):
        plain = arg.keyword is None and not arg.star and number == position and not any(before.star for before in args[:number])
        if plain or (arg.keyword is not None and arg.keyword.value == name):
            args[number] = arg.with_changes(value=value)
            return call.with_changes(args=args)
    new = cst.Arg(value, cst.Name(name), equal=cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace("")))
    if args:
        last = args[-1]
        before = args[-2].comma if len(args) > 1 else cst.MaybeSentinel.DEFAULT
        if not isinstance(before, cst.Comma):
            inside = call.whitespace_before_args if isinstance(call.whitespace_before_args, cst.ParenthesizedWhitespace) else None
            before = cst.Comma(whitespace_after=inside or cst.SimpleWhitespace(" "))
        elif isinstance(before.whitespace_after, cst.ParenthesizedWhitespace):
            plain_line = before.whitespace_after.first_line.with_changes(comment=None, whitespace=cst.SimpleWhitespace(""))
            before = before.with_changes(whitespace_after=before.whitespace_after.with_changes(first_line=plain_line, empty_lines=[]))
        if isinstance(last.comma, cst.Comma):
            new = new.with_changes(comma=last.comma)
            kept = _comment(last.comma)
            if kept is not None:  # a comment on the line of the argument that was last stays with it
                new = new.with_changes(comma=_uncommented(last.comma))
                before = last.comma.with_changes(whitespace_after=_like(last.comma, before))
            args[-1] = last.with_changes(comma=before)
        else:
            new = new.with_changes(whitespace_after_arg=last.whitespace_after_arg)
            args[-1] = last.with_changes(comma=before, whitespace_after_arg=cst.SimpleWhitespace(""))
    return call.with_changes(args=[*args, new])


def _comment(comma: cst.Comma) -> cst.Comment | None:
    after = comma.whitespace_after
    return after.first_line.comment if isinstance(after, cst.ParenthesizedWhitespace) else None


def _uncommented(comma: cst.Comma) -> cst.Comma:
    after = comma.whitespace_after
    if not isinstance(after, cst.ParenthesizedWhitespace):
        return comma
    first = after.first_line.with_changes(comment=None, whitespace=cst.SimpleWhitespace(""))
    return comma.with_changes(whitespace_after=after.with_changes(first_line=first))


def _like(comma: cst.Comma, model: cst.Comma) -> cst.BaseParenthesizableWhitespace:
    """The whitespace of a comma with its comment, indented as after another comma."""
    own, other = comma.whitespace_after, model.whitespace_after
    if isinstance(own, cst.ParenthesizedWhitespace) and isinstance(other, cst.ParenthesizedWhitespace):
        return own.with_changes(indent=other.indent, last_line=other.last_line)
    return own
