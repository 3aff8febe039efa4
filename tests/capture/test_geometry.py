"""Strided regions against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from initio.capture.geometry import Geometry, boxes_of, paint
from initio.capture.replay import geometry_of


def brute(view: torch.Tensor, writes: list[torch.Tensor], base: torch.Tensor) -> np.ndarray:
    flat = base.view(-1).zero_()
    for index, write in enumerate(writes):
        write.fill_(index + 1)
    result = view.clone().numpy()
    flat.zero_()
    return result


@pytest.mark.parametrize("seed", range(60))
def test_paint_and_boxes(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shape = tuple(int(n) for n in draw.choice([1, 2, 4, 6, 8, 12], size=3))
    base = torch.zeros(shape)

    def some_view() -> torch.Tensor:
        view = base
        if draw.random() < 0.3:
            view = view.permute(*draw.permutation(3).tolist())
        if draw.random() < 0.2:
            view = view.reshape(-1) if view.is_contiguous() else view
        for d in range(view.dim()):
            if draw.random() < 0.6:
                a = int(draw.integers(0, view.shape[d]))
                view = view[(slice(None),) * d + (slice(a, None, int(draw.integers(1, 4))),)]
        return view

    view, writes = some_view(), [some_view() for _ in range(int(draw.integers(0, 4)))]
    painted = paint(geometry_of(view), [geometry_of(w) for w in writes], base.numel() * 4)
    assert painted is not None
    labels, scale = painted
    whole = labels
    for d, k in enumerate(scale):
        whole = np.repeat(whole, k, axis=d)
    expected = brute(view, writes, base)
    np.testing.assert_array_equal(whole, expected)
    for label in np.unique(labels):
        boxes = boxes_of(labels == label, scale)
        assert boxes is not None
        count = np.zeros(expected.shape, int)
        for box in boxes:
            count[tuple(slice(*t) for t in box)] += 1
        np.testing.assert_array_equal(count, expected == label)


def test_blocks_are_as_large_as_the_writes_allow() -> None:
    table = Geometry((50000, 1024), (1024, 1), 0, 4)
    painted = paint(table, [table, table.part(((7, 8, 1), (0, 1024, 1)))], 50000 * 1024 * 4)
    assert painted is not None
    assert painted[0].size == 50000
    assert boxes_of(painted[0] == 2, painted[1]) == [((7, 8, 1), (0, 1024, 1))]
