"""Every planted fault is found by exactly its check; every near miss passes all of them."""

import importlib
from pathlib import Path

import pytest

from checks.planted import FAULTS, NEAR_MISSES
from initio.api import check

for path in sorted(Path(__file__).parent.glob("cases_*.py")):
    importlib.import_module(f"checks.{path.stem}")


@pytest.mark.parametrize("case", list(FAULTS.values()), ids=str)
def test_the_fault_is_found_by_exactly_its_check(case):
    report = check(case.factory, case.inputs, loss=case.loss)
    assert {finding.code for finding in report.findings} == {case.code}
    for finding in report.findings:
        assert finding.source is not None
        assert Path(finding.source.file).parent == Path(__file__).parent
        assert finding.evidence
        assert finding.remedy
        assert finding.message


@pytest.mark.parametrize("case", list(NEAR_MISSES.values()), ids=str)
def test_a_near_miss_passes_all_checks(case):
    assert check(case.factory, case.inputs, loss=case.loss).findings == ()


def test_every_code_with_cases_has_three_of_each_kind():
    for code in {case.code for case in FAULTS.values()}:
        assert sum(case.code == code for case in FAULTS.values()) >= 3, code
        assert sum(case.code == code for case in NEAR_MISSES.values()) >= 3, code
