"""`initio::split_transform_merge` is counted like its loop, and simulated where no rule knows it."""

import pytest

from initio import analyze, count
from initio.nn import SplitTransformMerge


@pytest.mark.parametrize("after", ["path", "sum", None])
def test_counts_are_those_of_the_loop(after):
    layer = SplitTransformMerge(16, 24, paths=4, width=4, stride=2, activation_after=after)
    ours, loop = (count(model, "2x16x9x9") for model in (layer, layer.as_loop()))
    assert not ours.uncounted
    assert ours.forward.macs == loop.forward.macs == 2 * (81 * 16 * 16 + 25 * 16 * 4 * 9 + 25 * 16 * 24)
    again = 2 * 25 * 16 * 24 if after == "path" else 0  # the mask is computed again instead of saved
    assert ours.backward.macs == loop.backward.macs + again


def test_its_signal_is_simulated():
    analysis = analyze(lambda: SplitTransformMerge(16, 24, paths=4, width=4, activation_after="path"), "2x16x8x8")
    loop = analyze(lambda: SplitTransformMerge(16, 24, paths=4, width=4, activation_after="path").as_loop(), "2x16x8x8")
    out, expected = (each.of(each.record.outputs[0].value) for each in (analysis, loop))
    assert out.rms == pytest.approx(expected.rms, rel=0.2)
    assert all(analysis.of(p.gradient).rms > 0 for p in analysis.record.parameters)
