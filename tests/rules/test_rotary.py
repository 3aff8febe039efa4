"""Rotary embeddings of normed queries, masks beside sinks, and the two limits of a clamp, against draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from initio.core.algebra import apply, average, multiply
from initio.core.moments import Moments
from initio.core.record import Node
from initio.core.scalar import affine, power
from initio.rules import load
from initio.rules.table import Context, find, running

load()


def run(op: str, shape: tuple[int, ...], *args: object) -> Moments:
    with running(Context(Node(id=0, op=op, args=(), kwargs={}, outputs=(0,), phase="forward"), (shape,))):
        found = find(op)
        assert found is not None
        made = found[1](*args)
    assert isinstance(made, Moments), made
    return made


def test_rotated_queries_keep_the_scale_of_their_norm() -> None:
    """q r cos + turned(q r) sin, r = (mean q² + 1/4)^−½ of each token: both terms carry the same r."""
    tokens, width, half = 3, 64, 32
    q = Moments.iid((tokens, width), 0.0, 1.0)
    square = average(apply(q, power(2)), [1], True)
    normed = multiply(q, apply(apply(square, affine(1.0, 0.25)), power(-0.5)))
    assert isinstance(normed, Moments)
    angle = np.outer(np.arange(tokens), np.tile(0.9 ** np.arange(half), 2))
    cos, sin = Moments.known(np.cos(angle)), Moments.known(np.sin(angle))
    low = run("aten.slice.Tensor", (tokens, half), normed, 1, 0, half)
    high = run("aten.slice.Tensor", (tokens, half), normed, 1, half, width)
    turned = run("aten.cat.default", (tokens, width), [run("aten.neg.default", (tokens, half), high), low], 1)
    made = run(
        "aten.add.Tensor",
        (tokens, width),
        run("aten.mul.Tensor", (tokens, width), normed, cos),
        run("aten.mul.Tensor", (tokens, width), turned, sin),
    )
    assert len(turned.law) == 2
    assert made.claim == "rule"
    x = torch.randn(20_000, tokens, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x / (x.square().mean(-1, keepdim=True) + 0.25).sqrt()
    c, s = torch.from_numpy(np.cos(angle)), torch.from_numpy(np.sin(angle))
    drawn = x * c + torch.cat([-x[..., half:], x[..., :half]], -1) * s
    # the norm is taken as independent of a single entry: right to 1 / width
    assert made.total_second == pytest.approx(float(drawn.square().mean()), rel=0.03)
    assert made.total_second == pytest.approx(normed.total_second, rel=1e-6)


def test_a_sink_beside_masked_logits_leaves_the_mask() -> None:
    allowed = np.tril(np.ones((5, 5), dtype=bool))
    logits = Moments.iid((5, 5), 0.0, 1.0)
    logits.extra["mask"] = allowed
    made = run("aten.cat.default", (5, 6), [logits, Moments.iid((5, 1), 0.0, 0.04)], 1)
    assert np.array_equal(made.extra["mask"], np.concatenate([allowed, np.ones((5, 1), dtype=bool)], axis=1))
    p = run("aten._softmax.default", (5, 6), made, -1, False)
    assert p.total_mean == pytest.approx(1 / 6)


def test_both_limits_of_a_clamp() -> None:
    x = Moments.iid((4, 3), 0.2, 1.0)
    inside = run("aten.logical_and.default", (4, 3), run("aten.ge.Scalar", (4, 3), x, -0.5), run("aten.le.Scalar", (4, 3), x, 1.0))
    drawn = 0.2 + np.random.default_rng(0).standard_normal(400_000)
    expected = float(((drawn >= -0.5) & (drawn <= 1.0)).mean())
    assert inside.total_mean == pytest.approx(expected, abs=0.004)
    assert inside.total_second == pytest.approx(expected, abs=0.004)
