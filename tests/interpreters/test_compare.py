"""`compare`: errors, standard errors, order and the treatment of missing claims and zeros."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import initio
from initio.core.estimate import Estimate
from initio.interpreters.compare import compare


def estimate(second: float, error: float = 0.0) -> Estimate:
    return Estimate(0.0, second, error, 8, (4,))


def test_an_estimate_weighs_draws_by_their_entries():
    e = Estimate.of([0.0, 1.0], [1.0, 4.0], [1, 3], (3,))
    assert (e.mean, e.second, e.count) == (0.75, 3.25, 3)
    equal = Estimate.of([0, 0, 0, 0], [1.0, 2.0, 3.0, 6.0], [5] * 4)
    assert equal.error == pytest.approx(math.sqrt(((1 + 4 + 9 + 36) / 4 - 9) / 3))
    assert equal.spread == pytest.approx(equal.error * 2 / 3)
    assert math.isnan(Estimate.of([0], [1.0], [5]).error)
    with pytest.raises(ValueError, match="at least one entry"):
        Estimate.of([0], [0], [0])


def test_rows_carry_error_and_z_and_the_worst_comes_first():
    measured = {"good": estimate(1.0, 0.01), "bad": estimate(1.0, 0.01), "noisy": estimate(1.0, 0.5), "none": estimate(4.0)}
    predicted = {"good": (0.0, 1.02, "rule"), "bad": (0.0, 1.44, "rule"), "noisy": (0.0, 1.96, "simulated"), "extra": (0.0, 1.0, "rule")}
    c = compare(predicted, measured)
    assert [row.key for row in c.rows] == ["none", "bad", "noisy", "good"]
    assert [row.passes for row in c.rows] == [False, False, True, True]
    bad = c.rows[1]
    assert (bad.error, bad.z) == (pytest.approx(0.2), pytest.approx(44))
    assert (c.nodes, c.unknown, c.simulated, c.passing, c.unmeasured) == (4, 1, 1, 0.5, ("extra",))
    assert c.worst is not None
    assert c.worst.key == "noisy"
    assert c.median == pytest.approx(0.2)
    assert c.p95 == pytest.approx(0.4)


def test_an_unknown_claim_is_no_claim():
    c = compare({"a": (0.0, 1.0, "unknown")}, {"a": estimate(1.0)})
    assert (c.unknown, c.passing, c.worst) == (1, 0.0, None)
    assert math.isnan(c.median)


def test_zeros():
    measured = {"zero": estimate(0.0), "rounding": estimate(1e-16), "one": estimate(1.0), "two": estimate(1.0), "small": estimate(1e-4)}
    predicted = dict.fromkeys(measured, (0.0, 0.0, "exact")) | {"one": (0.0, 1.0, "rule"), "two": (0.0, 1.0, "rule")}
    rows = {row.key: row for row in compare(predicted, measured).rows}
    assert rows["zero"].passes
    assert rows["rounding"].passes
    assert not rows["small"].passes
    wrong = compare({"zero": (0.0, 1.0, "rule")}, {"zero": estimate(0.0)}).rows[0]
    assert wrong.error == math.inf
    assert not wrong.passes


def test_a_single_draw_passes_by_tolerance_only():
    c = compare({"a": (0.0, 1.2, "rule")}, {"a": estimate(1.0, math.nan)})
    assert not c.rows[0].passes
    assert compare({"a": (0.0, 1.05, "rule")}, {"a": estimate(1.0, math.nan)}).passing == 1


def test_comparing_needs_no_torch():
    code = "import sys, initio.interpreters.compare; assert 'torch' not in sys.modules"
    path = str(Path(initio.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
