"""MOD102: a module class called on a tensor."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.source import class_at
from initio.core.finding import Fix
from initio.core.record import Source

FUNCTIONS = {
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "", "RReLU": "rrelu", "ELU": "elu", "SELU": "selu",
    "CELU": "celu",
    "GELU": "gelu", "SiLU": "silu", "Mish": "mish", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Softsign": "softsign",
    "Tanhshrink": "tanhshrink", "Hardtanh": "hardtanh", "Hardswish": "hardswish", "Hardsigmoid": "hardsigmoid", "LogSigmoid": "logsigmoid",
    "GLU": "glu", "Softmax": "softmax", "LogSoftmax": "log_softmax", "Dropout": "dropout", "Dropout1d": "dropout1d",
    "Dropout2d": "dropout2d",
    "Dropout3d": "dropout3d", "MaxPool1d": "max_pool1d", "MaxPool2d": "max_pool2d", "AvgPool1d": "avg_pool1d", "AvgPool2d": "avg_pool2d",
    "AdaptiveAvgPool2d": "adaptive_avg_pool2d", "Flatten": "", "Upsample": "interpolate", "LayerNorm": "",
    "BatchNorm1d": "", "BatchNorm2d": "",
    "Linear": "", "Conv2d": "", "Identity": "", "CrossEntropyLoss": "cross_entropy", "MSELoss": "mse_loss",
}  # fmt: skip
"""Classes of torch.nn that take numbers, and the function that takes a tensor ("": none under a like name)."""


@check("MOD102", "module-called-as-function", "error")
def module_called_as_function(context: Context) -> Iterator[Found]:
    """`nn.ReLU(x)` builds a module with x as its option; it does not apply one.

    ## What it does
    Reads the source of the functions that the step ran: reported is a class of `torch.nn` that is constructed from a tensor of that
    function, where the result is not called. `nn.ReLU()(x)` and `act = nn.ReLU(); act(x)` are not reported.

    ## Why is this bad
    The result is a module, not a tensor: the next layer raises an error that speaks of something else, or the activation is silently
    missing.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 2)

        def forward(self, x):
            x = nn.ReLU(self.first(x))
            return self.second(x)
    ```

    ## Use instead
    ```python
    import torch.nn.functional as F
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 2)

        def forward(self, x):
            x = F.relu(self.first(x))
            return self.second(x)
    ```

    ## References
    * [torch.nn.functional](https://pytorch.org/docs/stable/nn.functional.html)
    """
    record = context.record
    ran = {(node.source.file, node.source.function) for node in record.nodes if node.source is not None}
    ran |= {(call.source.file, call.source.function) for call in record.calls if call.source is not None}
    if record.crash is not None and record.crash.source is not None:
        ran.add((record.crash.source.file, record.crash.source.function))
    called = {call.module for call in record.calls}
    seen: set[Source] = set()
    for module in context.tree.modules:
        if module.path not in called or module.defined is None or module.defined in seen:
            continue
        seen.add(module.defined)
        for function in misplaced(module.defined):
            for call, kind in function[1]:
                if function[0] != "forward" and (module.defined.file, function[0]) not in ran:
                    continue
                source = Source(module.defined.file, call.lineno, function[0], linecache.getline(module.defined.file, call.lineno).strip())
                name = FUNCTIONS[kind]
                instead = (
                    f"F.{name}({ast.unparse(call.args[0])}{_rest(call)})"
                    if name
                    else f"a module made in __init__: self.{kind.lower()}(...)"
                )
                yield Found(
                    message=f"{ast.unparse(call.func)}({ast.unparse(call.args[0])}) makes a module out of a tensor; nothing is applied.",
                    module=module.path,
                    source=source,
                    evidence={"class": kind, "line": call.lineno},
                    remedy=f"Write {instead}.",
                    fix=Fix(f"Replace it by F.{name}", "safe", instead) if name else None,
                    entity=f"{function[0]}:{kind}",
                    group=str(source),
                )


def _rest(call: ast.Call) -> str:
    more = [ast.unparse(argument) for argument in call.args[1:]] + [ast.unparse(keyword) for keyword in call.keywords]
    return "".join(f", {each}" for each in more)


def misplaced(defined: Source) -> Iterator[tuple[str, list[tuple[ast.Call, str]]]]:
    """(function, calls of module classes on one of its tensors) of a class: by the source alone."""
    found = class_at(defined)
    for function in found.body if found is not None else ():
        if isinstance(function, ast.FunctionDef) and function.name != "__init__":
            calls = list(_calls(function))
            if calls:
                yield function.name, calls


def _calls(function: ast.FunctionDef) -> Iterator[tuple[ast.Call, str]]:
    tensors = {argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)} - {"self", "cls"}
    applied = {id(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    callees = {node.func.id for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    names: dict[int, str] = {}
    tensors |= {f"{name}()" for node in ast.walk(function) for name in _layers(node)}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            targets = [part for target in node.targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
            plain = [target.id for target in targets if isinstance(target, ast.Name)]
            if _is_tensor(node.value, tensors):
                tensors.update(plain)
            if plain:
                names[id(node.value)] = plain[0]
    for node in ast.walk(function):
        if not isinstance(node, ast.Call) or id(node) in applied or not node.args or names.get(id(node)) in callees:
            continue
        kind = _torch_class(node.func)
        if kind is not None and _is_tensor(node.args[0], tensors):
            yield node, kind


def _layers(node: ast.AST) -> Iterator[str]:
    """The names that a loop over what the module holds, or an assignment of it, gives to layers."""
    if isinstance(node, (ast.For, ast.comprehension)):
        target, value = node.target, node.iter
        held = any(isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self" for n in ast.walk(value))
    elif isinstance(node, ast.Assign):
        target, value = node.targets[0], node.value
        held = isinstance(value, (ast.Attribute, ast.Subscript)) and ast.unparse(value).startswith("self.")
    else:
        return
    if held:
        yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


def _torch_class(function: ast.expr) -> str | None:
    if isinstance(function, ast.Attribute) and function.attr in FUNCTIONS:
        return function.attr if ast.unparse(function.value) in ("nn", "torch.nn") else None
    return function.id if isinstance(function, ast.Name) and function.id in FUNCTIONS else None


def _is_tensor(value: ast.expr, tensors: set[str]) -> bool:
    """Whether an expression of a forward function computes a tensor: a name of one, a call of a submodule, or arithmetic of these."""
    if isinstance(value, ast.Name):
        return value.id in tensors
    if isinstance(value, ast.Call):
        inner = value.func
        if _torch_class(inner) is not None:
            return any(_is_tensor(argument, tensors) for argument in value.args)
        own = isinstance(inner, (ast.Attribute, ast.Subscript)) and ast.unparse(inner).startswith("self.")
        own = own or (isinstance(inner, ast.Name) and f"{inner.id}()" in tensors)
        method = isinstance(inner, ast.Attribute) and _is_tensor(inner.value, tensors) and inner.attr not in ("size", "dim", "numel")
        function = isinstance(inner, ast.Attribute) and ast.unparse(inner.value) in ("F", "torch", "nn.functional", "torch.nn.functional")
        return (own or method or function) and (method or any(_is_tensor(argument, tensors) for argument in value.args))
    if isinstance(value, ast.BinOp):
        return _is_tensor(value.left, tensors) or _is_tensor(value.right, tensors)
    return isinstance(value, ast.Subscript) and _is_tensor(value.value, tensors) and not isinstance(value.value, ast.Attribute)
