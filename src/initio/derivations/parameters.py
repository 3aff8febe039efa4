"""Steps of the section "parameters": the count of every layer as its formula with the numbers put in; multiply–accumulates likewise."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import re
from typing import Any

import sympy as sp

from initio.core.record import Node, Record, Ref
from initio.derivations.derivation import Step, Table, Verification

__all__ = ["parameter_steps"]


def parameter_steps(record: Record) -> list[Step]:
    """Counts by layer, and multiply–accumulates by kind of operation."""
    return [_counts(record), *_macs(record)]


def _counts(record: Record) -> Step:
    owners: dict[str, list[Any]] = {}
    for p in record.parameters:
        if not p.buffer:
            owners.setdefault(p.name.rpartition(".")[0], []).append(p)
    rows: dict[tuple[str, str, str], list[str]] = {}
    total, said = 0, 0
    terms: list[str] = []
    for owner, parameters in owners.items():
        shapes = {p.name.rpartition(".")[2]: record.values[p.value].shape for p in parameters}
        formula, count = layer_formula(shapes)
        total += sum(math.prod(s) for s in shapes.values())
        said += count
        kind = record.modules.get(owner, "").rpartition(".")[2]
        rows.setdefault((kind, formula, f"{count:,}"), []).append(owner or "(model)")
    for (_, formula, count), names in rows.items():
        inner = f"[{formula}]" if len(names) > 1 else formula
        terms.append(f"{len(names)}·{inner}" if len(names) > 1 else inner)
        del count
    table = tuple((_forms(names), kind, formula, count, f"{len(names)}") for (kind, formula, count), names in rows.items())
    c, o, f, g, b = sp.symbols("C_in C_out F groups 1")
    del b
    formulas = (
        sp.Eq(sp.Symbol("P(conv)"), o * (c * f**2 / g + 1), evaluate=False),
        sp.Eq(sp.Symbol("P(linear)"), sp.Symbol("n_out") * (sp.Symbol("n_in") + 1), evaluate=False),
    )
    line = " + ".join(terms) if len(terms) <= 12 else " + ".join(terms[:12]) + " + …"
    text = f"{line} = {said:,} parameters. A tied parameter counts once; without bias the + 1 is absent."
    status = "verified" if said == total else "refuted"
    check = Verification(status, "the sum of the formulas against the entries of all parameters", f"{said:,}", f"{total:,}")
    return Step(
        "parameters", "Parameters of each layer", formulas, text, Table(("layer", "kind", "formula", "count", "times"), table), check
    )


def layer_formula(shapes: dict[str, tuple[int, ...]]) -> tuple[str, int]:
    """The count of a layer in the notation of papers: C_out·(C_in·F²/groups + 1), n_out·(n_in + 1), sizes multiplied otherwise.

    >>> layer_formula({"weight": (128, 128, 3, 3), "bias": (128,)})
    ('128·(128·9 + 1)', 147584)
    >>> layer_formula({"weight": (10, 64)})
    ('10·64', 640)
    """
    weight = shapes.get("weight")
    if weight is not None and len(weight) > 1 and set(shapes) <= {"weight", "bias"}:
        inner = [str(weight[1])] + ([str(math.prod(weight[2:]))] if len(weight) > 2 and math.prod(weight[2:]) != 1 else [])
        product = "·".join(inner)
        bias = shapes.get("bias")
        if bias == weight[:1]:
            return f"{weight[0]}·({product} + 1)", weight[0] * (math.prod(weight[1:]) + 1)
        if bias is None:
            return f"{weight[0]}·{product}", math.prod(weight)
    parts = ["·".join(map(str, shape)) or "1" for shape in shapes.values()]
    count = sum(math.prod(shape) for shape in shapes.values())
    if len(set(parts)) == 1 and len(parts) > 1:
        return f"{len(parts)}·{parts[0]}", count
    return " + ".join(parts), count


def _forms(names: list[str]) -> str:
    forms = list(dict.fromkeys(re.sub(r"\d+", "·", name) for name in names))
    return names[0] if len(names) == 1 else ", ".join(forms[:3]) + (", …" if len(forms) > 3 else "")


def _shape(record: Record, argument: Any) -> tuple[int, ...]:
    return record.values[argument.value].shape if isinstance(argument, Ref) else ()


def _work(record: Record, node: Node) -> tuple[str, str, int] | None:
    """(kind, formula, multiply–accumulates) of a contraction."""
    op = node.op.split(".")[1]
    if op in ("mm", "addmm"):
        a, b = (_shape(record, x) for x in node.args[-2:])
        return "matrix product", f"{a[0]}·{a[1]}·{b[1]}", a[0] * a[1] * b[1]
    if op in ("bmm", "baddbmm"):
        a, b = (_shape(record, x) for x in node.args[-2:])
        return "batched product", f"{a[0]}·{a[1]}·{a[2]}·{b[2]}", a[0] * a[1] * a[2] * b[2]
    if op == "convolution" and not node.args[6]:
        w, y = _shape(record, node.args[1]), record.values[node.outputs[0]].shape  # pyright: ignore[reportArgumentType, reportCallIssue]
        return "convolution", f"{y[0]}·{math.prod(y[2:])} positions·{w[0]}·{w[1]}·{math.prod(w[2:])}", math.prod(y) * math.prod(w[1:])
    if "attention" in op:
        q, k, v = (_shape(record, x) for x in node.args[:3])
        macs = math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
        return "attention", f"{math.prod(q[:-2])} heads·{q[-2]}·{k[-2]}·({q[-1]} + {v[-1]})", macs
    return None


def _macs(record: Record) -> list[Step]:
    rows: dict[tuple[str, str, int], int] = {}
    unread: list[str] = []
    for node in record.nodes:
        if node.phase != "forward":
            continue
        made = _work(record, node)
        if made is not None:
            rows[made] = rows.get(made, 0) + 1
        elif node.op.split(".")[1] in ("convolution", "linear", "matmul", "einsum"):
            unread.append(node.op)
    total = sum(key[2] * times for key, times in rows.items())
    if not total:
        return []
    table = tuple((kind, formula, f"{macs:,}", str(times)) for (kind, formula, macs), times in rows.items())
    text = f"{total:,} multiply–accumulates in one forward pass on this input."
    if unread:
        text += f" Not counted: {', '.join(sorted(set(unread)))}."
    return [
        Step(
            "parameters", "Multiply–accumulates", (), text, Table(("operation", "formula", "MACs", "times"), table), _counted(record, total)
        )
    ]


def _counted(record: Record, total: int) -> Verification:
    """Against the counting interpreter."""
    from initio.interpreters.count import count

    found = sum(op.work.macs for op in count(record).ops if op.phase == "forward")
    status = "verified" if found == total else "refuted"
    return Verification(status, "the sum of the formulas against the count of the recorded operations", f"{total:,}", f"{found:,}")
