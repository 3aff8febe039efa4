"""One class for every check there will ever be: its page is complete, its example raises exactly its code, its remedy nothing."""

import re

import pytest

from initio.api import check
from initio.api.targets import resolve
from initio.checks.framework import HEADINGS, all_checks

CHECKS = all_checks()


@pytest.mark.parametrize("each", CHECKS, ids=[each.code for each in CHECKS])
class TestEveryCheck:
    def report(self, each, heading, tmp_path):
        path = tmp_path / f"{each.code.lower()}_{heading.split()[0].lower()}.py"
        path.write_text(each.code_block(heading))
        target = resolve(f"{path}:Model")
        return check(target.build, target.inputs, loss=target.loss)

    def test_its_page_has_every_heading_in_order(self, each):
        assert re.findall(r"^## (.*)$", each.page, re.MULTILINE) == list(HEADINGS)
        for heading in HEADINGS:
            assert each.section(heading), heading
        assert each.summary.endswith(".")
        assert re.fullmatch(r"[A-Z]{3}\d{3}", each.code)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+( / [a-z]+(-[a-z]+)+)*", each.name)

    def test_its_example_raises_exactly_this_code(self, each, tmp_path):
        report = self.report(each, "Example", tmp_path)
        assert {finding.code for finding in report.findings} == {each.code}
        for finding in report.findings:
            assert finding.source is not None
            assert finding.source.file.startswith(str(tmp_path))
            assert finding.name in each.name
            assert finding.evidence
            assert finding.remedy

    def test_its_remedy_raises_nothing(self, each, tmp_path):
        assert self.report(each, "Use instead", tmp_path).findings == ()


def test_codes_and_names_are_unique():
    assert len({each.code for each in CHECKS}) == len({each.name for each in CHECKS}) == len(CHECKS) >= 3
