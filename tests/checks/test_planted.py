"""Every planted fault is found by exactly its check; every near miss passes all of them."""

import importlib
from pathlib import Path

import pytest
from planted import FAULTS, NEAR_MISSES

from initio.api import check

for path in sorted(Path(__file__).parent.glob("cases_*.py")):
    importlib.import_module(path.stem)


@pytest.mark.parametrize("case", FAULTS, ids=str)
def test_the_fault_is_found_by_exactly_its_check(case):
    report = check(case.factory, case.inputs, loss=case.loss)
    assert {finding.code for finding in report.findings} == {case.code}
    for finding in report.findings:
        assert finding.source is not None and Path(finding.source.file).parent == Path(__file__).parent
        assert finding.evidence and finding.remedy and finding.message


@pytest.mark.parametrize("case", NEAR_MISSES, ids=str)
def test_a_near_miss_passes_all_checks(case):
    assert check(case.factory, case.inputs, loss=case.loss).findings == ()


def test_every_code_with_cases_has_three_of_each_kind():
    for code in {case.code for case in FAULTS}:
        assert sum(case.code == code for case in FAULTS) >= 3, code
        assert sum(case.code == code for case in NEAR_MISSES) >= 3, code
