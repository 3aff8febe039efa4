"""Pair classes of axes, and what linear maps do to them, beside the same by enumeration of all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from initio.core.axes import Axis, Taps, _mirrored, axis, axis_map, cross_matrix, merge_map, refine
from initio.rules.linear import window_taps

PLAIN = axis(9)
KINDS = axis(9, [0, 1, 1, 1, 1, 1, 1, 1, 2])
NEAR = axis(9, lags=2)
NEAR_KINDS = axis(9, [0, 1, 1, 1, 2, 1, 1, 1, 0], 1)
AXES = [PLAIN, KINDS, NEAR, NEAR_KINDS]
MAPS = {
    "3 taps, padded": window_taps(9, 3, 1, 1, 1, 9),
    "stride 2": window_taps(9, 3, 2, 1, 1, 5),
    "dilated": window_taps(9, 3, 1, 0, 2, 5),
    "transposed": window_taps(17, 3, 2, 1, 1, 9).transposed(),
    "weighted": Taps(window_taps(9, 2, 1, 0, 1, 8).index, 9, np.array([[0.25], [0.75]])),
}


def classes(a: Axis) -> np.ndarray:
    return a.classes(*np.indices((a.size, a.size)))


def matrix_of(taps: Taps) -> np.ndarray:
    made = np.zeros((taps.n_out, taps.n_in))
    for d, p in zip(*np.nonzero(taps.index >= 0), strict=True):
        made[p, taps.index[d, p]] += taps.weight[d, p]
    return made


def averaged(values: np.ndarray, a: Axis) -> np.ndarray:
    """Average over the pairs of each class; NaN for classes without pairs."""
    cls = classes(a).ravel()
    count = np.bincount(cls, minlength=a.P)
    with np.errstate(invalid="ignore"):
        return np.bincount(cls, values.ravel(), a.P) / np.where(count > 0, count, np.nan)


@pytest.mark.parametrize("a", AXES, ids=repr)
def test_classes(a: Axis) -> None:
    cls, label = classes(a), a.label_array()
    i, j = np.indices((a.size, a.size))
    assert np.array_equal(np.bincount(cls.ravel(), minlength=a.P), a.pairs)
    assert np.array_equal(a.first[cls], label[i])
    assert np.array_equal(a.second[cls], label[j])
    assert np.array_equal(a.same[cls], i == j)
    assert np.array_equal(a.swap[cls], cls.T)
    distance = np.abs(i - j)
    assert np.array_equal(a.lag[cls], np.where(distance <= a.lags, distance, 0))
    assert a.plain.lags == 0
    assert a.plain.K == a.K


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("a", AXES, ids=repr)
def test_axis_map(a: Axis, summed: bool, name: str) -> None:
    rng = np.random.default_rng(0)
    gram = rng.normal(size=a.P)
    gram = (gram + gram[a.swap])[classes(a)]
    taps = MAPS[name]
    m = axis_map(a, taps, summed=summed)
    dense = matrix_of(taps)
    wanted = averaged(dense @ gram @ dense.T, m.axis)
    single = sum((one := matrix_of(Taps(taps.index[d : d + 1], 9, taps.weight[d : d + 1]))) @ gram @ one.T for d in range(taps.count))
    filled = np.nan_to_num(averaged(gram, a))
    there = ~np.isnan(wanted)
    assert there.any()
    np.testing.assert_allclose((m.coherent @ filled)[there], wanted[there], atol=1e-12)
    np.testing.assert_allclose((m.incoherent @ filled)[there], averaged(single, m.axis)[there], atol=1e-12)


@pytest.mark.parametrize("target", AXES, ids=repr)
@pytest.mark.parametrize("a", AXES, ids=repr)
def test_relabelling_averages(a: Axis, target: Axis) -> None:
    gram = np.random.default_rng(1).normal(size=a.P)
    mean, pairs = merge_map(a, target)
    wanted = averaged(gram[classes(a)], target)
    there = ~np.isnan(wanted)
    np.testing.assert_allclose((pairs @ gram)[there], wanted[there], atol=1e-12)
    np.testing.assert_allclose(mean.sum(axis=1), 1.0)
    common = refine(a, target)
    assert common.lags == max(a.lags, target.lags)
    assert refine(target, a).P == common.P


@pytest.mark.parametrize("a", [NEAR, NEAR_KINDS], ids=repr)
def test_covariance_of_a_map_with_any_array(a: Axis) -> None:
    taps = MAPS["3 taps, padded"]
    out = axis_map(a, taps).axis
    cov = np.random.default_rng(2).normal(size=a.P)
    wanted = averaged(matrix_of(taps) @ cov[classes(a)], out)
    there = ~np.isnan(wanted)
    np.testing.assert_allclose((cross_matrix(a, out, taps) @ cov)[there], wanted[there], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "lags", "summed", "reach"),
    [
        ("3 taps, padded", 0, False, 0),
        ("3 taps, padded", 0, True, 2),
        ("3 taps, padded", 1, False, 1),
        ("stride 2", 0, True, 1),
        ("stride 2", 1, False, 0),
        ("stride 2", 2, False, 1),
        ("transposed", 1, False, 2),
    ],
)
def test_how_far_neighbours_covary(name: str, lags: int, summed: bool, reach: int) -> None:
    assert MAPS[name].reach(lags, summed) == reach


@pytest.mark.parametrize(
    ("kinds", "merged"),
    [
        ([0, 1, 2, 2, 2, 3, 4], [0, 1, 2, 2, 2, 1, 0]),  # a stride told the borders apart
        ([0, 1, 2, 2, 2, 2, 3], [0, 1, 2, 2, 2, 2, 0]),
        ([0, 1, 2, 3, 3, 3, 3], [0, 1, 2, 3, 3, 3, 3]),  # padded on one side: nothing is a mirror image
        ([0, 1, 1, 1, 2], [0, 1, 1, 1, 2]),  # few enough
    ],
)
def test_borders_that_mirror_each_other_are_one_kind(kinds: list[int], merged: list[int]) -> None:
    assert _mirrored(np.array(kinds)).tolist() == merged
