"""A step of the user's own, judged by numbers: Jacobians entry by entry, second moments against the engine, expectations by sampling.

In a Jacobian "1" added to a matrix adds 1 to every entry, as numpy and torch do; the identity matrix is written I.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from initio.core.errors import InitioError
from initio.derivations.derivation import Step, Verification
from initio.derivations.folding import factors
from initio.derivations.graph import Factor, FactorGraph
from initio.derivations.jacobian import Numbers, difference
from initio.derivations.paths import Layer, Weight, layers, weights
from initio.derivations.replaying import run

__all__ = ["Judge"]

DENSE = 1024
"""Rows or columns of the largest Jacobian that is written out."""
FORMS = (
    '"dy/dx = S A + I", "dy_3/dy_1 = (S_3 A_3 + I) (S_2 A_2 + I)", "Var[y_l] = 1/(2*n) + 3**-l*(1 - 1/(2*n))" '
    'or "E[relu(z1 + z2)] = E[relu(z1)] + E[relu(z2)]"'
)
SCALAR = ("relu", "tanh", "sigmoid", "exp", "abs", "gelu", "silu", "softplus", "elu", "square", "sin", "leaky_relu")
SAMPLES = 40_000


@dataclass
class Judge:
    """Judges claims on one model: `graph` with a small batch, `moments` gives the engine's second moments of y_0 … y_L."""

    graph: FactorGraph
    reason: str
    moments: Callable[[], list[float]]
    seed: int = 0

    def __call__(self, claim: str) -> Step:
        """The claim as a step with its verification."""
        left, right = self._sides(claim)
        if "E[" in claim or "E [" in claim:
            made = self._expectation(claim, left, right)
        elif re.match(r"\s*(Var\s*\[|q_)", left):
            made = self._moment(claim, left, right)
        else:
            made = self._jacobian(claim, left, right)
        return Step("claim", claim, (), "", None, made, lambda: self(claim).verification)

    def _sides(self, claim: str) -> tuple[str, str]:
        parts = re.split(r"(?<![=<>!])=(?!=)", claim)
        if len(parts) != 2 or not all(part.strip() for part in parts):
            raise unread(claim, f"it has {len(parts) - 1} equality signs" if len(parts) != 2 else "a side is empty")
        return parts[0].strip(), parts[1].strip()

    # Jacobians

    def _jacobian(self, claim: str, left: str, right: str) -> Verification:
        match = re.fullmatch(r"[d∂]\s*y_?\{?(\w*)\}?\s*/\s*[d∂]\s*(x|y_?\{?(\w*)\}?)", left)
        if match is None:
            raise unread(claim, f"{left!r} is neither dy_i/dy_j nor dy/dx")
        if self.reason:
            return Verification("not verified", self.reason)
        found = layers(self.graph)
        points = [found[0].start, *(layer.end for layer in found)]
        last = len(points) - 1
        target = last if match[1] in ("", "L") else self._number(claim, match[1], last)
        source = 0 if match[2] == "x" else self._number(claim, match[3] or "", last)
        if source >= target:
            raise unread(claim, f"y_{target} does not come after y_{source}")
        numbers = Numbers(self.graph, self.seed)
        sizes = [numbers.env[points[i]].numel() for i in (source, target)]
        if max(sizes) > DENSE:
            return Verification(
                "not verified",
                f"a Jacobian of {sizes[1]}×{sizes[0]} entries is too large to write out (limit {DENSE}); give a smaller input",
            )
        truth = self._truth(numbers, points[source], points[target])
        said = _evaluate(claim, right, _names(numbers, found[source:target]), sizes)
        if said.shape != truth.shape:
            raise unread(claim, f"the right side is a {_shape(said)} matrix, the Jacobian {_shape(truth)}")
        error = difference(said, truth)
        at = int((said - truth).abs().argmax())
        row, column = divmod(at, truth.shape[1])
        how = f"torch.func.jacrev in float64, all {truth.numel()} entries, worst at [{row}, {column}]"
        status = "verified" if error <= 1e-9 else "refuted"
        return Verification(status, how, f"{float(said.flatten()[at]):.6g}", f"{float(truth.flatten()[at]):.6g}", error, 1e-9)

    def _number(self, claim: str, text: str, last: int) -> int:
        if not text.isdigit() or int(text) > last:
            raise unread(claim, f"there is no y_{text}; the model has y_0 (the input) to y_{last}")
        return int(text)

    def _truth(self, numbers: Numbers, source: int, target: int) -> Tensor:
        def call(probe: Tensor) -> Tensor:
            return run(self.graph.record, numbers.given, self.seed, {source: lambda t: t + probe})[target]

        made = torch.func.jacrev(call)(torch.zeros_like(numbers.env[source]))
        return made.reshape(numbers.env[target].numel(), numbers.env[source].numel())

    # second moments

    def _moment(self, claim: str, left: str, right: str) -> Verification:
        match = re.fullmatch(r"(?:Var\s*\[\s*y_?\{?(\w+)\}?\s*\]|q_?\{?(\w+)\}?)", left)
        if match is None:
            raise unread(claim, f"{left!r} is neither Var[y_l] nor q_l")
        index, second = match[1] or match[2], self.moments()
        maps = weights(self.graph)
        n = self.graph.record.values[maps[0].source].shape[-1] if maps else 0
        wanted = range(1, len(second)) if not index.isdigit() else [int(index)]
        worst: tuple[float, int, float, float] = (-1.0, 0, 0.0, 0.0)
        for number in wanted:
            if not 0 <= number < len(second) or not math.isfinite(second[number]):
                raise unread(claim, f"the engine has no number for y_{number}; there are y_0 to y_{len(second) - 1}")
            said = float(_scalar(claim, right, {"n": n, "l": number, "ℓ": number, index: number, "L": len(second) - 1}, second))
            worst = max(worst, (abs(said - second[number]) / max(second[number], 1e-300), number, said, second[number]))
        error, number, said, found = worst
        how = f"the engine's second moments of y_{wanted[0]} … y_{wanted[-1]} at n = {n}, worst at y_{number}"
        return Verification("verified" if error <= 1e-9 else "refuted", how, f"{said:.9g}", f"{found:.9g}", error, 1e-9)

    # expectations

    def _expectation(self, claim: str, left: str, right: str) -> Verification:
        model = _Sampler(self.graph, self.seed)
        short = re.sub(r"\s", "", claim)
        if match := re.fullmatch(r"E\[(\w+)\(Σ\w*\)\]=ΣE\[\1(?:\(\w*\))?\]", short):
            left, right = f"E[{match[1]}(sum(z))]", f"n*E[{match[1]}(z1)]"
        (a, a_error), (b, b_error) = (model.evaluate(claim, side) for side in (left, right))
        a, b = torch.broadcast_tensors(a, b)
        error = (a_error.square() + b_error.square()).sqrt().expand_as(a) + 1e-12 * (a.abs() + b.abs()) + 1e-300
        z = ((a - b).abs() / error).flatten()
        at = int(z.argmax())
        status = "verified" if float(z[at]) <= 6 else "refuted"
        where = f" of unit {at}" if a.numel() > 1 else ""
        pair = [f"{float(t.flatten()[at]):.4g} ± {float(e.expand_as(a).flatten()[at]):.1g}" for t, e in ((a, a_error), (b, b_error))]
        proof = "" if status == "refuted" else "; agreement of samples proves nothing"
        how = f"{SAMPLES:,} samples, the difference{where} is {float(z[at]):.1f} standard errors{proof}: left {pair[0]}, right {pair[1]}"
        return Verification(status, how, pair[1], pair[0])


def unread(claim: str, why: str) -> InitioError:
    """The error of a claim that does not parse."""
    return InitioError("a claim that can be read", f"{claim!r} came: {why}", where="claim", remedy=f"Write it as {FORMS}.")


def _shape(matrix: Tensor) -> str:
    return "×".join(map(str, matrix.shape))


def _python(text: str, functions: Mapping[str, Any]) -> str:
    """Juxtaposition as a product, ^ as a power."""
    text = text.replace("^T", ".T").replace("^", "**").replace("[", "(").replace("]", ")")
    text = re.sub(r"(\w+)_\{(\w+)\}", r"\1_\2", text)
    out = re.sub(r"([\w)'])\s+(?=[\w(])", r"\1*", text)
    out = re.sub(r"\)(?=[\w(])", ")*", out)
    return re.sub(r"\b([^\W\d]\w*)(\*?)\(", lambda m: f"{m[1]}(" if m[1] in functions else f"{m[1]}*(", out)


def _tree(claim: str, text: str, functions: Mapping[str, Any]) -> ast.AST:
    try:
        return ast.parse(_python(text, functions), mode="eval").body
    except SyntaxError as error:
        raise unread(claim, f"{text!r} is no formula: {error.msg}") from error


def _reduce(
    claim: str, node: ast.AST, names: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]], product: Callable[[Any, Any], Any]
) -> Any:
    """Evaluate + − × / ** and calls; nothing else is run."""

    def value(part: ast.AST) -> Any:
        return _reduce(claim, part, names, functions, product)

    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            if name not in names:
                raise unread(claim, f"{name!r} is not known here; known are {', '.join(list(names)[:24])}")
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value(operand)
        case ast.Attribute(value=inner, attr="T"):
            return value(inner).T
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return product(value(left), value(right))
        case ast.BinOp(left=left, op=operator, right=right):
            a, b = value(left), value(right)
            match operator:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Div():
                    return a / b
                case ast.Pow():
                    return a**b
                case _:
                    raise unread(claim, "only + − × / and powers are read")
        case ast.Call(func=ast.Name(id=name), args=[argument]) if name in functions:
            return functions[name](value(argument))
        case _:
            raise unread(claim, f"{ast.unparse(node)!r} is not read")


def _scalar(claim: str, text: str, names: Mapping[str, Any], second: list[float]) -> Any:
    known = {**names, **{f"q_{i}": q for i, q in enumerate(second)}, **{f"q{i}": q for i, q in enumerate(second)}}
    functions = {"sqrt": math.sqrt, "exp": math.exp, "log": math.log}
    return _reduce(claim, _tree(claim, text, functions), known, functions, lambda a, b: a * b)


def _names(numbers: Numbers, between: list[Layer]) -> dict[str, Any]:
    """Every factor between two points as a matrix, under its name, and under its letter where that is the only one."""
    found: dict[str, Tensor] = {}
    letters: dict[str, list[str]] = {}
    for layer in between:
        for factor in factors(layer.tree):
            if factor.letter not in ("", "I"):
                found[factor.name] = _dense(numbers, factor)
                letters.setdefault(factor.letter, []).append(factor.name)
    for letter, names in letters.items():
        if len(set(names)) == 1:
            found[letter] = found[names[0]]
    return {**found, "I": "I"}


def _dense(numbers: Numbers, factor: Factor) -> Tensor:
    target, source = numbers.env[factor.target], numbers.env[factor.source]
    if max(target.numel(), source.numel()) > 4 * DENSE:
        raise InitioError(
            "factors that can be written out",
            f"{factor.name} is {target.numel()}×{source.numel()}",
            where="claim",
            remedy="Give a smaller input.",
        )
    rows = [numbers.factor(factor, row.reshape(target.shape)).flatten() for row in torch.eye(target.numel(), dtype=torch.float64)]
    return torch.stack(rows)


def _evaluate(claim: str, text: str, names: Mapping[str, Any], sizes: list[int]) -> Tensor:
    """The right side as a matrix. I takes the size of what it is added to, or of the input."""
    eye = torch.eye(sizes[0], dtype=torch.float64)
    known = {name: eye if isinstance(value, str) else value for name, value in names.items()}

    def product(a: Any, b: Any) -> Any:
        return a @ b if isinstance(a, Tensor) and isinstance(b, Tensor) else a * b

    try:
        made = _reduce(claim, _tree(claim, text, {}), known, {}, product)
    except RuntimeError as error:
        raise unread(claim, f"the sizes of its matrices do not fit ({error})") from error
    return made if isinstance(made, Tensor) else torch.full((sizes[1], sizes[0]), float(made), dtype=torch.float64)


class _Mask:
    """D: each entry of what follows is dropped, or divided by 1 − p."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        self.p, self.generator = p, generator

    def __call__(self, value: Tensor) -> Tensor:
        value = value if value.dim() > 1 else value.expand(SAMPLES, -1)
        return value * (torch.rand(value.shape, generator=self.generator, dtype=torch.float64) >= self.p) / (1 - self.p)


class _Matrix:
    """A: applied to the last dimension."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, value: Tensor) -> Tensor:
        return value @ self.weight.T


class _Sampler:
    """Names of expectations: z, z1, z2, … independent unit normals; A, b, y, D of the model's first linear map and its dropout."""

    def __init__(self, graph: FactorGraph, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        numbers = Numbers(graph, seed, generic=False)
        maps: list[Weight] = weights(graph)
        self.names: dict[str, Any] = {}
        n = 8
        if maps:
            first = maps[0]
            weight = numbers.given[first.weight]
            weight = weight if first.turned else weight.T
            n = weight.shape[1]
            self.names |= {
                "A": _Matrix(weight),
                "y": numbers.env[first.source].reshape(-1, n)[0],
                "D": _Mask(_probability(graph), generator),
            }
            self.names["x"] = self.names["y"]
            self.names["b"] = torch.zeros(weight.shape[0], dtype=torch.float64) if first.bias is None else numbers.given[first.bias]
        z = torch.randn(SAMPLES, max(n, 4), generator=generator, dtype=torch.float64)
        self.names |= {"n": n, "z": z[:, :n], **{f"z{i + 1}": z[:, i : i + 1] for i in range(z.shape[1])}}
        self.names |= {f"z_{i + 1}": z[:, i : i + 1] for i in range(z.shape[1])}
        functions: dict[str, Callable[..., Any]] = {
            name: getattr(torch, name, None) or getattr(functional, name) for name in SCALAR
        }  # fmt: skip
        functions |= {"σ": _activation(graph)}
        functions["sum"] = functions["Σ"] = _total
        self.functions = functions

    def evaluate(self, claim: str, text: str) -> tuple[Tensor, Tensor]:
        """(value, standard error) of one side."""
        errors: list[Tensor] = []

        def expectation(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            value = value if value.dim() > 1 else value[None]
            errors.append(value.std(0) / math.sqrt(value.shape[0]) if value.shape[0] > 1 else torch.zeros_like(value[0]))
            return value.mean(0)

        def product(a: Any, b: Any) -> Any:
            return a(b) if callable(a) and not isinstance(a, Tensor) else a * b

        functions = {**self.functions, "E": expectation}
        text = text.replace("Σ", "sum") if re.search(r"Σ\s*\(", text) else text
        made = _reduce(claim, _right_first(_tree(claim, text, functions)), self.names, functions, product)
        total = torch.stack([e.square().max() for e in errors]).sum().sqrt() if errors else torch.zeros(())
        made = torch.as_tensor(made, dtype=torch.float64)
        if made.dim() > 1:
            raise unread(claim, "a side is random: put it inside E[…]")
        scale = self.names["n"] if re.match(r"\s*n\s*\*", text) else 1
        return made, (errors[0] if len(errors) == 1 else total) * scale


def _total(value: Tensor) -> Tensor:
    return value.sum(-1, keepdim=True)


def _right_first(node: ast.AST) -> ast.AST:
    """A D y as A (D y): operators act on what stands right of them."""
    for name, child in ast.iter_fields(node):
        if isinstance(child, ast.AST):
            setattr(node, name, _right_first(child))
        elif isinstance(child, list):
            setattr(node, name, [_right_first(c) if isinstance(c, ast.AST) else c for c in child])
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult)
        and isinstance(node.left, ast.BinOp)
        and isinstance(node.left.op, ast.Mult)
    ):
        inner = ast.BinOp(left=node.left.right, op=ast.Mult(), right=node.right)
        return _right_first(ast.BinOp(left=node.left.left, op=ast.Mult(), right=inner))
    return node


def _probability(graph: FactorGraph) -> float:
    """p of the model's first dropout, ½ where it has none."""
    for node in graph.record.nodes:
        if node.op.startswith("aten.native_dropout"):
            return float(node.args[1])
        if node.op.startswith("aten.bernoulli_.float"):
            return 1 - float(node.args[1]) if len(node.args) > 1 else 0.5
    return 0.5


def _activation(graph: FactorGraph) -> Callable[..., Any]:
    """σ: the model's first activation."""
    for node in graph.record.nodes:
        name = node.op.split(".")[1].removesuffix("_")
        if name in ("relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "softplus"):
            return getattr(torch, name, None) or getattr(functional, name)
    return torch.relu
