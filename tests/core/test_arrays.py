"""Drawn arrays have the moments asked for; averages over classes equal the definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from initio.core.arrays import ClassSums, Drawer, UndrawableError, class_averages, gaussian, labels_of
from initio.core.axes import axis
from initio.core.moments import Moments, empirical_gram

AXES = [axis(3, [0, 1, 1]), axis(4), axis(5, [0, 0, 1, 2, 2])]
SHAPE = (3, 4, 5)


def test_class_averages_are_averages_over_pairs() -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE)
    mean, gram = class_averages(x, AXES)
    total, count = np.zeros(gram.shape), np.zeros(gram.shape)
    entries = list(itertools.product(*map(range, SHAPE)))
    for i, j in itertools.product(entries, entries):
        index = []
        for a, p, q in zip(AXES, i, j, strict=True):
            label = a.label_array()
            index.append(a.K * a.K + label[p] if p == q else label[p] * a.K + label[q])
        total[tuple(index)] += x[i] * x[j]
        count[tuple(index)] += 1
    present = count > 0
    assert np.abs(gram[present] - total[present] / count[present]).max() < 1e-13
    assert mean[1, 0, 2] == pytest.approx(x[1:, :, 3:].mean())


def test_one_kind_agrees_with_the_plain_gram() -> None:
    x = np.random.default_rng(1).standard_normal(SHAPE)
    assert np.allclose(class_averages(x, [axis(n) for n in SHAPE])[1], empirical_gram(x), atol=1e-14)


def test_gaussian_has_the_gram() -> None:
    rng = np.random.default_rng(2)
    wanted = ClassSums(AXES)
    for _ in range(1000):
        common = rng.standard_normal((3, 1, 1)) * np.array([1, 2, 2])[:, None, None]
        wanted.add(rng.standard_normal(SHAPE) + common + 0.5 * rng.standard_normal((1, 4, 5)) + 1.0)
    mean, gram, _ = wanted.result()
    drawn = ClassSums(AXES)
    for _ in range(1000):
        drawn.add(gaussian(mean, gram, AXES, SHAPE, rng))
    made_mean, made, error = drawn.result()
    assert np.abs((made - gram) / error).max() < 5
    assert np.abs(made_mean - mean).max() < 0.2
    assert np.abs((1.1 * made - gram) / error).max() > 5


def test_one_field_is_drawn_once() -> None:
    x = Moments.iid((50, 20), 0.0, 2.0)
    drawer = Drawer(np.random.default_rng(0))
    assert np.array_equal(drawer.draw(x), drawer.draw(x))
    with pytest.raises(UndrawableError, match="depend on each other"):
        drawer.draw(x.opaque())


def test_positions_that_differ_become_kinds() -> None:
    rng = np.random.default_rng(3)
    draws = [rng.standard_normal((16, 8, 32)) * np.array([1, 1, 2, 2, 2, 4, 4, 4.0])[:, None] for _ in range(6)]
    labels = labels_of(draws, 1).tolist()
    assert labels[1] < labels[2]
    assert labels[4] < labels[5]
    assert labels_of(draws, 0) is None
    assert labels_of(draws, 2) is None
