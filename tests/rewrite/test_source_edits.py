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


@pytest.mark.parametrize("code", sorted(set(EDITS) - {"GRD104"}))  # its example has norms, which no initialisation mends
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


DEEP = """
import torch.nn as nn

INPUT = "16x64"


def fresh(width):
    return nn.Linear(width, width)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(fresh(64) for _ in range(20))
        self.head = nn.Linear(64, 10)  # scores

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)
"""
FACTORY = """
from torch import nn

INPUT = "16x64"


def Model(depth=20):
    hidden = [nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*hidden, nn.Linear(64, 10))
"""


@pytest.mark.parametrize(
    "text, codes, call",
    [
        (DEEP, {"GRD104"}, "        self.head = nn.Linear(64, 10)  # scores\n        init_weights(self)\n"),
        (DEEP, {"SIG101"}, "        self.head = nn.Linear(64, 10)  # scores\n        init_weights(self)\n"),
        (FACTORY, {"SIG101"}, "    model = nn.Sequential(*hidden, nn.Linear(64, 10))\n    init_weights(model)\n    return model\n"),
        (FACTORY.replace("return", "net =") + "    return net\n", {"SIG101"}, "    init_weights(net)\n    return net\n"),
        (DEEP.replace("    def forward", "        self.apply(self.same)\n\n    def same(self, m):\n        if hasattr(m, 'weight'):\n            "
         "nn.init.constant_(m.weight, 0.01)\n\n    def forward"), {"INI101"}, "self.apply(self.same)\n        init_weights(self)\n"),
    ],
)  # fmt: skip
def test_an_initialisation_is_written_for_the_model(tmp_path, text, codes, call):
    file = tmp_path / "net.py"
    file.write_text(text)
    found = fix(f"{file}:Model", select=codes, unsafe=True)
    assert found.refused == ()
    assert {each.code for each in found.done} == codes
    assert found.report.findings == ()
    after = found.files[file][1].decode()
    assert call in after
    assert after.count("def init_weights(model: nn.Module)") == 1
    assert after.index("def init_weights") < after.index("init_weights(", after.index("def init_weights") + 20)
    assert "kaiming_" in after
    assert "import torch\n" in after


def test_no_initialisation_is_written_where_it_would_not_run_or_not_mend(tmp_path):
    file = tmp_path / "net.py"
    for text, why in (
        (DEEP.replace("class Model(nn.Module)", "class Base(nn.Module)") + "\n\nclass Model(Base):\n    pass\n", "no __init__ of its own"),
        (DEEP.replace("fresh(width)", "init_weights(width)").replace("fresh(64)", "init_weights(64)"), "has an init_weights already"),
        (
            DEEP.replace("super().__init__()", "super().__init__()\n        if hasattr(self, 'head'):\n            return"),
            "returns before its end",
        ),
    ):
        file.write_text(text)
        (refused,) = fix(f"{file}:Model", select=["GRD"], unsafe=True).refused
        assert why in refused.reason
    file.write_text(DEEP.replace("fresh(64)", "nn.Sequential(fresh(64), nn.BatchNorm1d(64))").replace("range(20)", "range(60)"))
    found = fix(f"{file}:Model", select=["GRD"], unsafe=True)
    assert [each.code for each in found.report.findings] == ["GRD104"]
    assert found.files == {}
    assert found.refused == ()
