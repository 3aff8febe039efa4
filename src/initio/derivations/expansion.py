"""The path expansion of a residual net: J = Σ_k J_k, J_k the sum over the paths that take k branches, and its second moments."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from initio.derivations.derivation import Step, Table, Verification
from initio.derivations.folding import factors
from initio.derivations.graph import FactorGraph, Product, Sum, Tree
from initio.derivations.jacobian import Numbers, difference, symbol, verdict

__all__ = ["by_branches", "expansion_step", "skip_of"]

EXPAND_MACS = 4e10
"""Multiply–accumulates of a pass times half the number of skips, up to which every J_k is carried through the net."""
DRAWN_MACS = 3e7
"""The same up to which it is done for several draws."""
DRAWS = 12
LEAST = 20
"""Cross terms of branches and skips from which on their mean is judged, against 4 standard errors."""


def skip_of(tree: Tree) -> Sum | None:
    """The sum with an identity branch in a layer, if there is one."""
    if isinstance(tree, Sum):
        plain = [part for part in tree.parts if _plain(part)]
        return tree if len(plain) == 1 and len(tree.parts) > 1 else None
    if isinstance(tree, Product):
        return next((found for part in tree.parts if (found := skip_of(part)) is not None), None)
    return None


def _plain(tree: Tree) -> bool:
    return all(f.letter in ("I", "") for f in factors(tree))


@dataclass
class Expansion:
    """uᵀJ_k by the number k of branches (`rows`), and for each skip r and κ: E‖branch‖² and twice the cross term, over E‖skip‖²."""

    rows: list[Tensor]
    ratios: list[float]
    crosses: list[float]


def by_branches(numbers: Numbers, trees: Sequence[Tree], orders: bool = True) -> Expansion:
    """Carry a row vector from the output to the input, sorted by the branches taken (`orders` False: all in one)."""
    made = Expansion([numbers.u], [], [])
    for tree in trees:
        _expand(numbers, tree, made, orders)
    return made


def _expand(numbers: Numbers, tree: Tree, made: Expansion, orders: bool) -> None:
    target = skip_of(tree)
    if target is None:
        made.rows = [numbers.through(tree, row) for row in made.rows]
        return
    if tree is not target:
        assert isinstance(tree, Product)
        for part in tree.parts:
            _expand(numbers, part, made, orders)
        return
    skip = next(part for part in target.parts if _plain(part))
    branches = [part for part in target.parts if part is not skip]
    kept = [numbers.through(skip, row) for row in made.rows]
    taken = [_total([numbers.through(part, row) for part in branches]) for row in made.rows]
    base, branch = _total(kept), _total(taken)
    size = float(base.square().sum())
    made.ratios.append(float(branch.square().sum()) / size if size else 0.0)
    made.crosses.append(2 * float((base * branch).sum()) / size if size else 0.0)
    if not orders:
        made.rows = [base + branch]
        return
    zero = torch.zeros_like(kept[0])
    made.rows = [a + b for a, b in zip([*kept, zero], [zero, *taken], strict=True)]


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def elementary(ratios: Sequence[float]) -> list[float]:
    """e_0, …, e_R of r_1, …, r_R: the coefficients of Π (1 + r t).

    >>> elementary([1.0, 2.0])
    [1.0, 3.0, 2.0]
    """
    e = [1.0]
    for r in ratios:
        e = [(e[k] if k < len(e) else 0.0) + (e[k - 1] * r if k else 0.0) for k in range(len(e) + 1)]
    return e


def expansion_step(graph: FactorGraph, trees: Sequence[Tree], macs: float, reason: str) -> Step:
    """The step: the expansion, its closed form under independent branches, shares by the number of branches, and what was checked."""
    backward = list(reversed(trees))
    count = sum(skip_of(tree) is not None for tree in trees)
    n: Any = sp.Symbol("R", integer=True)
    k: Any = sp.Symbol("k", integer=True)
    formulas: tuple[Any, ...] = (
        sp.Eq(symbol("J"), sp.Sum(symbol("J_k"), (k, 0, n)), evaluate=False),
        sp.Eq(sp.Symbol("paths"), sp.Integer(2) ** n, evaluate=False),
        sp.Eq(sp.Symbol("E|uᵀJ|^2"), sp.Symbol("E|uᵀJ_0|^2") * sp.Product(1 + sp.Symbol("r_ℓ"), (sp.Symbol("ℓ"), 1, n)), evaluate=False),
        sp.Eq(sp.Symbol("E|uᵀJ_k|^2"), sp.Symbol("E|uᵀJ_0|^2") * sp.Symbol("e_k"), evaluate=False),
    )
    said = (
        f"R = {count} skips: {2**count:,} paths. J_k is the sum of the paths that take k branches. A branch of layer ℓ carries r_ℓ of what "
    )
    said += "its skip carries; paths through k branches carry e_k, the k-th elementary symmetric polynomial of r_1, …, r_R "
    said += "(binomial(R, k) r^k where all are equal), as long as branches are uncorrelated with their skips: true where each ends in "
    said += "zero-mean weights that nothing above it shares."
    if reason:
        return Step("jacobian", "Paths", formulas, said, None, Verification("not verified", reason))
    work = macs * (count + 1) / 2
    exact = work <= EXPAND_MACS
    draws = DRAWS if work <= DRAWN_MACS else 1
    found = [by_branches(Numbers(graph, seed, generic="zeros"), backward, exact) for seed in range(draws)]
    ratios = [sum(e.ratios[i] for e in found) / draws for i in range(count)][::-1]
    shown = ", ".join(f"{r:.3g}" for r in (ratios if count <= 12 else ratios[:4]))
    over = "On one draw" if draws == 1 else f"Over {draws} draws"
    said += f" {over} r = {shown}{', …' if count > 12 else ''}; the skip of a layer carries 1/(1 + r) of its gradient."
    copies = any(p.copy_of for p in graph.record.parameters)
    if copies:
        said += " The layers of this model start as copies of one draw: their branches are correlated, and e_k is an approximation."
    e = elementary(ratios)
    measured = _shares(found) if exact else None
    rows: list[tuple[str, ...]] = []
    for order, value in enumerate(e):
        share = value / sum(e)
        if share > 1e-4 and len(rows) < 14:
            beside = "" if measured is None else f"{measured[order][0]:.3%}" + (f" ± {measured[order][1]:.1%}" if draws > 1 else "")
            rows.append((str(order), f"{math.comb(count, order):,}", f"{share:.3%}", beside))
    table = Table(("branches k", "paths", "share by e_k(r)", "share of |uᵀJ_k|², carried"), tuple(rows))

    def verify() -> Verification:
        return _verified(graph, backward, found, exact, copies)

    return Step("jacobian", "Paths", formulas, said, table, verify(), verify)


def _shares(found: list[Expansion]) -> list[tuple[float, float]]:
    """Mean and standard error over draws of ‖uᵀJ_k‖² / Σ_k ‖uᵀJ_k‖²."""
    sizes = torch.tensor([[float(row.square().sum()) for row in e.rows] for e in found], dtype=torch.float64)
    shares = sizes / sizes.sum(1, keepdim=True)
    spread = shares.std(0) / math.sqrt(len(found)) if len(found) > 1 else torch.zeros(shares.shape[1], dtype=torch.float64)
    return [(float(m), float(s)) for m, s in zip(shares.mean(0), spread, strict=True)]


def _verified(graph: FactorGraph, trees: Sequence[Tree], found: list[Expansion], exact: bool, copies: bool) -> Verification:
    crosses = [kappa for e in found for kappa in e.crosses]
    root = math.sqrt(math.fsum(kappa**2 for kappa in crosses))
    z = abs(math.fsum(crosses)) / root if root else 0.0
    judged = not copies and len(crosses) >= LEAST
    about = f"{len(crosses)} cross terms of branches and skips have mean {math.fsum(crosses) / len(crosses):.2g}"
    about += f", {z:.1f} standard errors from 0" if judged else ""
    if judged and z > 4:
        return Verification(
            "refuted", f"{about}: branches are correlated with their skips", "0", f"{math.fsum(crosses) / len(crosses):.3g}", z, 4
        )
    if not exact:
        return Verification("verified" if judged else "not verified", f"{about}; too large to carry every J_k")
    numbers = Numbers(graph, 0, generic="zeros")
    start = graph.roots[0]
    said, truth = _total(by_branches(numbers, trees).rows), numbers.truth([start], [])[start]
    return verdict(difference(said, truth), f"Σ_k uᵀJ_k against torch.func.vjp in float64; {about}", said, truth)
