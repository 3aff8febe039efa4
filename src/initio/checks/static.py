"""Checks that need only the source: syntax trees are read, nothing is imported or run."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from pathlib import Path

from initio.core.errors import InitioError
from initio.core.finding import Finding, Severity
from initio.core.record import Source

__all__ = ["STATIC", "files", "scan"]

STATIC = ("MOD101", "MOD102", "REG101", "REG104", "REG105")
"""Codes that can be found in source alone."""

LAYERS = frozenset(
    {
        "Linear", "Bilinear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "BatchNorm1d",
        "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "Embedding", "EmbeddingBag", "LSTM",
        "GRU", "RNN", "LSTMCell", "GRUCell", "MultiheadAttention", "TransformerEncoderLayer",
        "TransformerDecoderLayer", "PReLU", "Sequential",
    }
)  # fmt: skip
ACTIVATIONS = frozenset(
    {
        "ReLU", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "ELU", "SELU", "CELU", "ReLU6", "Hardswish", "Hardsigmoid", "Mish",
        "Softplus", "LogSigmoid", "Softsign",
    }
)  # fmt: skip
SWITCHES = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"})
TENSOR = frozenset(["x", "out", "y", "h", "z", "inputs", "input", "hidden", "hidden_states", "features"])


def files(path: Path) -> list[Path]:
    """The Python files that a path names: itself, or all below a directory, hidden ones left out.

    Raises:
        InitioError: nothing is there, or nothing in Python.
    """
    if path.is_dir():
        found = sorted(file for file in path.rglob("*.py") if not any(part.startswith(".") for part in file.relative_to(path).parts))
    else:
        found = [path] if path.is_file() else []
    if not found:
        came = f"{str(path)!r} " + ("has none" if path.is_dir() else "does not exist")
        raise InitioError("a Python file or a directory with some", came, where="TARGET", remedy="Check the path.")
    return found


def scan(file: Path) -> tuple[Finding, ...]:
    """What the source of one file shows.

    Raises:
        InitioError: a file that is no Python.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        where = f"{file}:{getattr(error, 'lineno', None) or 1}"
        raise InitioError("Python source", f"{error}", where=where, remedy="Mend the file, or leave it out.") from error
    names = _Names(tree)
    found = [
        finding
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and names.is_module(node)
        for finding in _Class(file.resolve(), node, names).findings()
    ]
    return tuple(sorted(found, key=lambda finding: (finding.source.line if finding.source else 0, finding.code)))


class _Names:
    """What the imports of a file call `torch.nn`, `torch.nn.functional`, and their contents."""

    def __init__(self, tree: ast.Module) -> None:
        self.known: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for item in node.names:
                    self.known[item.asname or item.name.split(".")[0]] = item.name if item.asname else item.name.split(".")[0]
            elif isinstance(node, ast.ImportFrom) and node.module:
                for item in node.names:
                    self.known[item.asname or item.name] = f"{node.module}.{item.name}"
        self.classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def full(self, node: ast.AST) -> str:
        """The dotted name that an expression stands for; empty where it is none."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            inner = self.full(node.value)
            return f"{inner}.{node.attr}" if inner else ""
        return ""

    def is_module(self, node: ast.ClassDef, depth: int = 8) -> bool:
        """Whether a class derives from `torch.nn.Module`, as far as this file shows."""
        for base in node.bases:
            name = self.full(base)
            if name.startswith(("torch.nn.", "lightning.", "pytorch_lightning.")) and name.endswith("Module"):
                return True
            other = self.classes.get(name)
            if other is not None and other is not node and depth and self.is_module(other, depth - 1):
                return True
        return False

    def made(self, node: ast.AST, kinds: frozenset[str]) -> str:
        """The class of `torch.nn` that a call makes an instance of, if it is one of `kinds`; also a module class of this file."""
        if not isinstance(node, ast.Call):
            return ""
        name = self.full(node.func)
        last = name.rpartition(".")[2]
        if name.startswith("torch.nn.") and last in kinds:
            return last
        own = self.classes.get(name)
        return name if own is not None and kinds is LAYERS and self.is_module(own) else ""


class _Class:
    """One module class."""

    def __init__(self, file: Path, node: ast.ClassDef, names: _Names) -> None:
        self.file, self.node, self.names = file, node, names

    def findings(self) -> Iterator[Finding]:
        for function in self.node.body:
            if not isinstance(function, ast.FunctionDef):
                continue
            if function.name in ("__init__", "setup", "build"):
                yield from self.constructor(function)
            elif function.name == "forward":
                yield from self.forward(function)

    def constructor(self, function: ast.FunctionDef) -> Iterator[Finding]:
        for statement in ast.walk(function):
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for target in targets:
                    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                        yield from self.held(target.attr, statement.value, statement.lineno)
            yield from self.repeated(statement)

    def held(self, attribute: str, value: ast.expr, line: int) -> Iterator[Finding]:
        """REG101: a literal container of layers."""
        kind, items = _items(value)
        layer = next((made for item in items if (made := self.names.made(item, LAYERS))), "")
        if kind and layer and not self.registered(attribute):
            wrapper = "nn.ModuleDict" if kind == "dict" else "nn.ModuleList"
            yield self.finding(
                "REG101", "unregistered-submodule", "error", line, attribute,
                f"a plain {kind} keeps its {layer} layers out of parameters(), state_dict() and .to().",
                f"Wrap it: self.{attribute} = {wrapper}(...).",
            )  # fmt: skip

    def registered(self, attribute: str) -> bool:
        """Whether the class hands the container on: `nn.Sequential(*self.layers)`, `add_module`, `setattr`."""
        for node in ast.walk(self.node):
            if not isinstance(node, ast.Call):
                continue
            reads = {inner.attr for argument in node.args for inner in ast.walk(argument) if isinstance(inner, ast.Attribute)}
            last = self.names.full(node.func).rpartition(".")[2]
            wraps = attribute in reads and last in ("Sequential", "ModuleList", "ModuleDict")
            if wraps or last in ("add_module", "register_module", "setattr"):
                return True
        return False

    def repeated(self, node: ast.AST) -> Iterator[Finding]:
        """REG105: `[layer] * n`."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for side in (node.left, node.right):
                layer = self.names.made(side.elts[0], LAYERS) if isinstance(side, (ast.List, ast.Tuple)) and len(side.elts) == 1 else ""
                if layer:
                    yield self.finding(
                        "REG105", "repeated-instance", "error", node.lineno, layer,
                        f"[{layer}(...)] * n holds one layer n times: one set of weights.",
                        "Make each its own: [… for _ in range(n)].",
                    )  # fmt: skip

    def forward(self, function: ast.FunctionDef) -> Iterator[Finding]:
        arguments = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)} - {"self"}
        tensors = arguments | TENSOR | {
            node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }  # fmt: skip
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            name = self.names.full(node.func)
            activation, layer = self.names.made(node, ACTIVATIONS), self.names.made(node, LAYERS)
            first = node.args[0] if node.args else None
            if activation and isinstance(first, ast.Name) and first.id in tensors:
                yield self.finding(
                    "MOD102", "module-called-as-function", "error", node.lineno, activation,
                    f"a module nn.{activation} is built out of {first.id}, and nothing is applied.",
                    f"Call it: nn.{activation}()({first.id}), or the function of torch.nn.functional.",
                )  # fmt: skip
            elif layer and not (isinstance(first, ast.Starred) or layer == "Sequential"):
                yield self.finding(
                    "REG104", "module-created-in-forward", "error", node.lineno, layer,
                    f"{layer} is made anew in every call: new random weights, never trained.", "Make it in __init__.",
                )  # fmt: skip
            if name.startswith("torch.nn.functional.") and name.rpartition(".")[2] in SWITCHES and not _says(node):
                yield self.finding(
                    "MOD101", "eval-nondeterminism", "error", node.lineno, name.rpartition(".")[2],
                    "this dropout stays at work in evaluation: training is True unless it is given.", "Pass training=self.training.",
                )  # fmt: skip

    def finding(self, code: str, name: str, severity: Severity, line: int, entity: str, message: str, remedy: str) -> Finding:
        text = linecache.getline(str(self.file), line).strip()
        source = Source(str(self.file), line, self.node.name, text)
        return Finding(code, name, severity, message, self.node.name, source, {"line": line}, remedy, entity=entity)


def _items(value: ast.expr) -> tuple[str, list[ast.expr]]:
    """The kind of a container literal or comprehension, and its elements."""
    match value:
        case ast.List(elts=items):
            return "list", items
        case ast.Tuple(elts=items):
            return "tuple", items
        case ast.Set(elts=items):
            return "set", items
        case ast.Dict(values=items):
            return "dict", items
        case ast.ListComp(elt=item):
            return "list", [item]
        case ast.SetComp(elt=item):
            return "set", [item]
        case ast.DictComp(value=item):
            return "dict", [item]
        case _:
            return "", []


def _says(node: ast.Call) -> bool:
    """Whether a functional dropout says when it is at work."""
    return len(node.args) > 2 or any(keyword.arg in ("training", None) for keyword in node.keywords)
