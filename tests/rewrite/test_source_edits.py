"""Each edit on sources that don't resemble its check's example: exact text, comments and formatting kept, the finding gone."""

import pytest

from initio.api.fixing import fix
from initio.checks.framework import all_checks
from initio.rewrite.source import EDITS
from rewrite.cases_fixes import CASES


@pytest.mark.parametrize("name, code, before, after", CASES, ids=[f"{c[1]} {c[0]}" for c in CASES])
def test_exactly_what_is_wrong_changes(tmp_path, name, code, before, after):
    file = tmp_path / "net.py"
    file.write_text(before)
    found = fix(f"{file}:Model", select=[code], unsafe=True)
    assert found.refused == ()
    assert found.done
    assert found.report.findings == ()
    assert found.files[file][1].decode() == after
    assert file.read_text() == before


@pytest.mark.parametrize("code", sorted(EDITS))
def test_the_example_of_each_check_is_mended(tmp_path, code):
    check = next(each for each in all_checks() if each.code == code)
    file = tmp_path / "net.py"
    file.write_text(check.code_block("Example"))
    found = fix(f"{file}:Model", unsafe=True)
    assert [each.reason for each in found.refused] == []
    assert code in {finding.code for finding in found.done}
    assert [finding.code for finding in found.report.findings if finding.severity != "note"] == []
    file.write_bytes(found.files[file][1])
    again = fix(f"{file}:Model", unsafe=True)
    assert again.files == {}
