"""The function of `torch.nn.init` calls that a person would write for a plan."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from initio.core.distribution import Distribution
from initio.core.plan import Plan

__all__ = ["code"]

DIGITS = 4
"""Significant digits of a number in the code."""
ROUND = 2e-3
"""Relative difference up to which a standard deviation counts as a law of its fan-in."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One parameter: its module, attribute, the class of that module, and the statement (`{}` is the tensor)."""

    path: str
    attribute: str
    kind: str
    statement: str


def code(plan: Plan) -> str:
    """Python source with one function, `init_weights(model)`."""
    rows = [_row(plan, name) for name in plan.parameters]
    kinds: dict[str, list[_Row]] = {}
    for row in rows:
        if row is not None:
            kinds.setdefault(row.kind, []).append(row)
    aliases = sorted({alias.rpartition(".")[0] for owner in plan.owners.values() for alias in owner.names[1:]})
    lines = [f'    """Initialisation for the target {plan.target!r}."""', "    for name, module in model.named_modules():"]
    if aliases:
        lines += [f"        if name in {_names(aliases)}:  # shares its weight with another module", "            continue"]
    order = sorted(kinds, key=lambda kind: (_public(kind) is not None, list(kinds).index(kind)))
    for position, kind in enumerate(order):
        public = _public(kind)
        test = f"isinstance(module, nn.{public})" if public else f'type(module).__name__ == "{kind.rpartition(".")[2]}"'
        lines.append(f"        {'elif' if position else 'if'} {test}:")
        for attribute in dict.fromkeys(row.attribute for row in kinds[kind]):
            lines += _choice([row for row in kinds[kind] if row.attribute == attribute], attribute)
    body = "\n".join(lines)
    imports = [*(["import math"] if "math." in body else []), *(["import re"] if "re.fullmatch" in body else [])]
    head = "\n".join(imports) + ("\n\n" if imports else "")
    return f"{head}import torch\nfrom torch import nn\n\n\n@torch.no_grad()\ndef init_weights(model: nn.Module) -> None:\n{body}\n"


def _public(kind: str) -> str | None:
    """The name in `torch.nn` of a class that is public there."""
    package, _, name = kind.rpartition(".")
    return name if package.startswith("torch.nn.modules") and not name.startswith(("_", "NonDynamically")) else None


def _row(plan: Plan, name: str) -> _Row | None:
    path, _, attribute = name.rpartition(".")
    owner, law = plan.owners[name], plan.parameters[name]
    if name not in plan.gains and law.family in ("values", "program"):
        return _Row(path, attribute, owner.kind, "pass  # {} keeps the values that its module gives it")
    return _Row(path, attribute, owner.kind, _statement(law, owner.shape, owner.kind))


def _number(value: float) -> str:
    return f"{value:.{DIGITS}g}" if math.isfinite(value) else f'float("{value}")'


def _statement(law: Distribution, shape: Sequence[int], kind: str) -> str:
    p = law.parameters
    fan = math.prod(shape[1:]) if len(shape) > 1 and kind.startswith("torch.nn.modules.") and "Embedding" not in kind else 0
    match law.family:
        case "constant":
            value = p["value"]
            return {0.0: "nn.init.zeros_({})", 1.0: "nn.init.ones_({})"}.get(value, f"nn.init.constant_({{}}, {value!r})")
        case "orthogonal":
            return f"nn.init.orthogonal_({{}}, gain={_number(p['gain'])})"
        case "truncated_normal":
            low, high = (_number((p[k] - p["mean"]) / p["std"]) for k in ("low", "high"))
            mean = f"mean={_number(p['mean'])}, " if p["mean"] else ""
            std = _std(p["std"], fan)
            whole = f"std={std}" if not p["mean"] else f"std={_number(p['std'])}"
            cuts = f"a={_number(p['low'])}, b={_number(p['high'])}"
            if not p["mean"] and "math" in std:
                cuts = f"a={low} * {std}, b={high} * {std}"
            return f"nn.init.trunc_normal_({{}}, {mean}{whole}, {cuts})"
        case "uniform" if p["low"] == -p["high"]:
            known = _kaiming(law.std, fan)
            bound = _std(p["high"], fan)
            if known:
                return f'nn.init.kaiming_uniform_({{}}, nonlinearity="{known}")'
            return f"bound = {bound}\nnn.init.uniform_({{}}, -bound, bound)" if fan else f"nn.init.uniform_({{}}, -{bound}, {bound})"
        case "uniform":
            return f"nn.init.uniform_({{}}, {_number(p['low'])}, {_number(p['high'])})"
        case "parts":
            return "; ".join(
                _statement(part.distribution, (), "").replace("{}", "{}[" + ", ".join(f"{a}:{b}:{s}" for a, b, s in part.index) + "]")
                for part in law.parts
            )
        case _:
            known = _kaiming(law.std, fan) if law.mean == 0 else None
            mean = f"mean={_number(law.mean)}, " if law.mean else ""
            return (
                f'nn.init.kaiming_normal_({{}}, nonlinearity="{known}")'
                if known
                else f"nn.init.normal_({{}}, {mean}std={_std(law.std, fan)})"
            )


def _kaiming(std: float, fan: int) -> str | None:
    if not fan:
        return None
    gain = std * math.sqrt(fan)
    return next((name for name, value in (("relu", math.sqrt(2)), ("linear", 1.0)) if abs(gain / value - 1) < ROUND), None)


def _std(std: float, fan: int) -> str:
    return f"{_number(std * math.sqrt(fan))} / math.sqrt({{}}[0].numel())" if fan else _number(std)


def _choice(rows: list[_Row], attribute: str) -> list[str]:
    """The statements of one attribute of one class: the commonest last, the others by the names of their modules."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.statement, []).append(row.path)
    usual = Counter({statement: len(paths) for statement, paths in groups.items()}).most_common(1)[0][0]
    every = {row.path for row in rows}
    indent, lines = " " * 12, list[str]()
    tensor = f"module.{attribute}"
    optional = attribute != "weight" or "Norm" in rows[0].kind  # torch holds None where there is no bias, or no affine map

    def then(statement: str, deep: bool = True) -> list[str]:
        return [indent + "    " * deep + line for line in statement.replace("{}", tensor).split("\n")]

    if len(groups) == 1:
        return [f"{indent}if {tensor} is not None:", *then(usual)] if optional else then(usual, False)
    for statement, paths in groups.items():
        if statement != usual:
            lines += [f"{indent}{'elif' if lines else 'if'} {_condition(paths, every)}:", *then(statement)]
    return [*lines, f"{indent}elif {tensor} is not None:" if optional else f"{indent}else:", *then(usual)]


def _condition(paths: Sequence[str], every: Iterable[str]) -> str:
    """A test on `name` that holds for these modules and no other: a pattern of their numbers, or the names."""
    pattern = {
        re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", r"\\d+", re.escape(path).replace(r"\.", ".")).replace(".", r"\.") for path in paths
    }
    if len(paths) > 1 and len(pattern) == 1:
        only = pattern.pop()
        if {path for path in every if re.fullmatch(only, path)} == set(paths):
            return f're.fullmatch(r"{only}", name)'
    return f"name in {_names(paths)}" if len(paths) > 1 else f'name == "{paths[0]}"'


def _names(names: Sequence[str]) -> str:
    return "(" + ", ".join(f'"{name}"' for name in names) + ("," if len(names) == 1 else "") + ")"
