"""Every rule against draws of its op: mean and all entries of the gram, and whether an error of two per cent would be seen."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from initio.rules import load
from initio.rules.table import RULES, find
from rules.harness import Case, Estimate, Fixed, Iid, Integers, Normal, Spec, check, components, deviations, seed

HERE = Path(__file__).parent
CASES: list[Case] = [case for file in sorted(HERE.glob("cases_*.py")) for case in importlib.import_module(f"rules.{file.stem}").CASES]
WITHOUT = HERE / "without_case.txt"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule_agrees_with_draws(case: Case) -> None:
    check(case)


def test_every_rule_has_a_case() -> None:
    load()
    covered = {find(case.overload)[0] for case in CASES}  # type: ignore[index]
    listed = set(WITHOUT.read_text().split())
    missing = sorted(set(RULES) - covered - listed)
    assert not missing, f"rules without a case: {' '.join(missing)}"
    stale = sorted(listed & covered | listed - set(RULES))
    assert not stale, f"remove from {WITHOUT.name}, these have a case (or no rule): {' '.join(stale)}"


@pytest.mark.parametrize(
    "spec",
    [
        Normal((3, 4), components(2), mean=0.4, profile={1: ((1, 2, 2, 1), (0, 0.5, 0.5, 0))}),
        Normal((3, 2, 3), components(3)).then("relu"),
        Normal((2, 3)).then("gelu") * Normal((2, 3), components(2)),
        Iid((2, 3), "mask"),
    ],
    ids=["normal", "relu", "product", "mask"],
)
def test_inputs_have_the_moments_that_they_declare(spec: Spec) -> None:
    seed(0)
    claim = spec.moments({})
    estimate = Estimate(claim.axes)
    estimate.add(spec.sample(100_000, {}).numpy())
    assert not deviations(claim, estimate, 0.0)


def test_equal_ids_are_as_probable_as_declared() -> None:
    seed(0)
    claim = Integers((4,), 5).moments({})
    draws = Integers((4,), 5).sample(50_000, {})
    equal = float((draws[:, 0] == draws[:, 1]).double().mean())
    assert abs(float(claim.gram[0]) - equal) < 0.01
    assert np.array_equal(Fixed([1.0, 2.0]).moments({}).extra["known"], [1.0, 2.0])


def test_a_wrong_gram_entry_is_found() -> None:
    """Every single entry of a gram is compared: change one, and the comparison fails."""
    seed(0)
    spec = Normal((3, 4), components(2))
    claim = spec.moments({})
    estimate = Estimate(claim.axes)
    estimate.add(spec.sample(100_000, {}).numpy())
    assert not deviations(claim, estimate, 0.0)
    for index in np.ndindex(*claim.gram.shape):
        gram = claim.gram.copy()
        gram[index] += 0.02 * claim.total_second
        assert deviations(replace(claim, gram=gram), estimate, 0.0), index
