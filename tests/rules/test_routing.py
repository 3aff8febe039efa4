"""Routing to experts against draws: the largest scores, who shares an expert, products by group, and the way back through the softmax."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from initio.core.moments import Moments, Unknown
from initio.core.ranks import picked, softmax_jacobian, softmax_score
from initio.core.record import Node
from initio.rules import load
from initio.rules.table import Context, find, running

load()
TOKENS, EXPERTS, PLACES, STD, RHO = 6, 5, 2, 0.8, 0.6


def run(op: str, shapes: list[tuple[int, ...]], *args: object, backward: bool = False) -> tuple[Moments, ...]:
    node = Node(id=0, op=op, args=(), kwargs={}, outputs=tuple(range(len(shapes))), phase="backward" if backward else "forward")
    with running(Context(node, tuple(shapes), backward)):
        found = find(op)
        assert found is not None
        made = found[1](*args)
    return made if isinstance(made, tuple) else (made,)


def logits() -> Moments:
    """Tokens whose logits for one expert correlate by RHO."""
    x = Moments.iid((TOKENS, EXPERTS), 0.0, STD**2)
    x.gram[0, 1] = RHO * STD**2
    return replace(x, law=()).opaque()


def draw(count: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    common = torch.randn(count, 1, EXPERTS, generator=g, dtype=torch.float64)
    own = torch.randn(count, TOKENS, EXPERTS, generator=g, dtype=torch.float64)
    return STD * (RHO**0.5 * common + (1 - RHO) ** 0.5 * own)


def classes(v: torch.Tensor) -> np.ndarray:
    """E v_i v_j of (draws, tokens, places) by (tokens agree, places agree)."""
    pairs = torch.einsum("nta,nsb->tsab", v, v) / len(v)
    t, k = v.shape[1:]
    same_t, same_k = torch.eye(t, dtype=torch.bool), torch.eye(k, dtype=torch.bool)
    masks = [(~same_t, ~same_k), (~same_t, same_k), (same_t, ~same_k), (same_t, same_k)]
    return np.array([float(pairs[a][:, b].mean()) for a, b in masks]).reshape(2, 2)


def test_largest_of_a_softmax_and_their_shares() -> None:
    z = draw(100_000)
    p = run("aten._softmax.default", [(TOKENS, EXPERTS)], logits(), -1, False)[0]
    values, ids = run("aten.topk.default", [(TOKENS, PLACES)] * 2, p, PLACES, -1)
    top, chosen = z.softmax(-1).topk(PLACES)
    assert values.gram == pytest.approx(classes(top), rel=0.005)
    assert values.total_mean == pytest.approx(float(top.mean()), rel=0.005)
    equal = torch.nn.functional.one_hot(chosen, EXPERTS).double()
    together = sum(classes(equal[..., e]) for e in range(EXPERTS))
    assert ids.gram == pytest.approx(together, abs=0.004)
    total = run("aten.sum.dim_IntList", [(TOKENS, 1)], values, [-1], True)[0]
    shares = run("aten.div.Tensor", [(TOKENS, PLACES)], values, total)[0]
    assert shares.gram == pytest.approx(classes(top / top.sum(-1, keepdim=True)), rel=0.005)


def test_largest_logits_themselves() -> None:
    values, ids = run("aten.topk.default", [(TOKENS, PLACES)] * 2, logits(), PLACES, -1)
    top = draw(100_000).topk(PLACES)[0]
    assert values.gram == pytest.approx(classes(top), abs=0.006)
    assert ids.extra["high"] == EXPERTS
    assert isinstance(run("aten.topk.default", [(TOKENS, PLACES)] * 2, logits(), PLACES, -1, False)[0], Unknown)


def routed() -> tuple[Moments, torch.Tensor]:
    p = run("aten._softmax.default", [(TOKENS, EXPERTS)], logits(), -1, False)[0]
    ids = run("aten.topk.default", [(TOKENS, PLACES)] * 2, p, PLACES, -1)[1]
    flat = run("aten.view.default", [(TOKENS * PLACES,)], ids, (-1,))[0]
    return flat, draw(4000).topk(PLACES)[1].flatten(1)


def offsets(flat: Moments) -> tuple[Moments, Moments]:
    ordered, order = run("aten.sort.default", [(TOKENS * PLACES,)] * 2, flat)
    counted = run("aten.histc.default", [(EXPERTS,)], ordered, EXPERTS, 0, EXPERTS - 1)[0]
    return run("aten.cumsum.default", [(EXPERTS,)], counted, 0)[0], order


def test_rows_times_the_matrix_of_their_expert() -> None:
    flat, chosen = routed()
    ends, order = offsets(flat)
    assert np.array_equal(order.extra["nearly"], np.arange(TOKENS * PLACES))
    x = Moments.iid((TOKENS, 8), 0.3, 1.0)
    which = replace(Moments.known(np.arange(TOKENS * PLACES) // PLACES), extra={"nearly": np.arange(TOKENS * PLACES) // PLACES})
    rows = run("aten.index.Tensor", [(TOKENS * PLACES, 8)], x, [which])[0]
    assert [a.size for a in rows.axes] == [TOKENS, PLACES, 8]
    y = run("aten._grouped_mm.default", [(TOKENS * PLACES, 4)], rows, Moments.iid((EXPERTS, 8, 4), 0.1, 0.5), ends)[0]
    g = torch.Generator().manual_seed(1)
    n = len(chosen)
    xs = (0.3 + torch.randn(n, TOKENS, 8, generator=g, dtype=torch.float64)).repeat_interleave(PLACES, 1)
    w = 0.1 + 0.5**0.5 * torch.randn(n, EXPERTS, 8, 4, generator=g, dtype=torch.float64)
    own = torch.take_along_dim(w, chosen[:, :, None, None], 1)
    drawn = torch.einsum("nsk,nskf->nsf", xs, own).reshape(n, TOKENS, PLACES, 4)
    expected = np.stack([classes(drawn[..., f]) for f in range(4)]).mean(axis=0)
    assert y.gram[..., 1] == pytest.approx(expected, abs=0.05 * expected.max())


def test_sums_over_the_rows_of_each_expert() -> None:
    flat, chosen = routed()
    ends, _ = offsets(flat)
    n, rows = len(chosen), TOKENS * PLACES
    one, two = Moments.iid((3, rows), 0.4, 1.0), Moments.iid((rows, 4), 0.4, 1.0)
    made = run("aten._grouped_mm.default", [(EXPERTS, 3, 4)], one, two, ends, backward=True)[0]
    g = torch.Generator().manual_seed(2)
    a = 0.4 + torch.randn(n, rows, 3, generator=g, dtype=torch.float64)
    b = 0.4 + torch.randn(n, rows, 4, generator=g, dtype=torch.float64)
    member = torch.nn.functional.one_hot(chosen, EXPERTS).double()
    drawn = torch.einsum("nse,nsi,nsj->neij", member, a, b)
    assert made.total_second == pytest.approx(float((drawn**2).mean()), rel=0.05)
    assert made.total_mean == pytest.approx(float(drawn.mean()), rel=0.02)
    cross = torch.einsum("neij,nfij->ef", drawn, drawn) / (n * 12)
    off = float((cross.sum() - cross.trace()) / (EXPERTS * (EXPERTS - 1)))
    assert made.gram[0, 1, 1] == pytest.approx(off, rel=0.06)


def test_back_through_the_softmax_of_the_largest() -> None:
    one, two = softmax_jacobian(EXPERTS, PLACES, STD**2)
    rng = np.random.default_rng(0)
    p = softmax_score(STD * rng.standard_normal((100_000, EXPERTS)))
    common = rng.standard_normal((len(p), 1))
    g = np.where(p >= np.sort(p, axis=1)[:, [-PLACES]], common + rng.standard_normal(p.shape), 0.0)
    dx = p * (g - (p * g).sum(axis=1, keepdims=True))
    assert PLACES * (2.0 * one + 1.0 * two) == pytest.approx((dx**2).sum(axis=1).mean(), rel=0.01)


def test_scatter_needs_distinct_ids() -> None:
    p = run("aten._softmax.default", [(TOKENS, EXPERTS)], logits(), -1, False)[0]
    ids = run("aten.topk.default", [(TOKENS, PLACES)] * 2, p, PLACES, -1)[1]
    zeros, grad = Moments.iid((TOKENS, EXPERTS), 0.0, 0.0), Moments.iid((TOKENS, PLACES), 0.0, 3.0)
    made = run("aten.scatter.src", [(TOKENS, EXPERTS)], zeros, -1, ids, grad)[0]
    assert made.total_second == pytest.approx(3.0 * PLACES / EXPERTS)
    assert isinstance(run("aten.scatter.src", [(TOKENS, EXPERTS)], zeros, -1, replace(ids, extra={"high": EXPERTS}), grad)[0], Unknown)


def test_independent_rows_share_an_expert_by_chance() -> None:
    found = picked(8, 3, 1.0, 0.0, softmax_score)
    assert found.equal_same == found.equal_different == pytest.approx(1 / 8)
    assert picked(8, 3, 1.0, 1.0, softmax_score).equal_same == pytest.approx(1.0, abs=0.01)
