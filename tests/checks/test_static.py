import sys
import textwrap

import pytest

from initio.checks.static import files, scan
from initio.core.errors import InitioError

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


def found(tmp_path, source):
    file = tmp_path / "models.py"
    file.write_text(HEAD + textwrap.dedent(source))
    return [(finding.code, finding.source.line - 3) for finding in scan(file)]


FAULTS = {
    "REG101": [
        "self.layers = [nn.Linear(8, 8) for _ in range(3)]",
        "self.layers = {'a': nn.Conv2d(1, 1, 1), 'b': nn.ReLU()}",
        "self.layers = (nn.ReLU(), nn.GRU(8, 8))",
    ],
    "REG105": [
        "self.layers = nn.ModuleList([nn.Linear(8, 8)] * 3)",
        "self.layers = nn.Sequential(*(3 * [nn.Conv2d(8, 8, 1)]))",
        "self.layers = nn.ModuleList([Inner()] * 4)",
    ],
}
IN_FORWARD = {
    "MOD101": ["x = F.dropout(x)", "x = F.dropout(x, p=0.3)", "x = torch.nn.functional.alpha_dropout(x, 0.1)"],
    "MOD102": ["x = nn.ReLU(x)", "y = nn.GELU(x) + x", "return nn.Sigmoid(x)"],
    "REG104": ["x = nn.Linear(8, 8)(x)", "layer = nn.Conv2d(8, 8, 1)", "x = Inner()(x)"],
}
INNER = """
class Inner(nn.Module):
    def forward(self, x):
        return x

"""


@pytest.mark.parametrize("code, line", [(code, line) for code, lines in FAULTS.items() for line in lines])
def test_faults_of_constructors(tmp_path, code, line):
    source = f"{INNER}class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        {line}\n"
    assert found(tmp_path, source) == [(code, 9)]


@pytest.mark.parametrize("code, line", [(code, line) for code, lines in IN_FORWARD.items() for line in lines])
def test_faults_of_forward(tmp_path, code, line):
    assert found(tmp_path, f"{INNER}class Net(nn.Module):\n    def forward(self, x):\n        {line}\n        return x\n") == [(code, 8)]


@pytest.mark.parametrize(
    "body",
    [
        "self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])",
        "self.acts = [nn.ReLU(), nn.Tanh()]",
        "layers = [nn.Linear(8, 8)]\n        self.net = nn.Sequential(*layers)",
        "self.layers = [nn.Linear(8, 8)]\n        self.net = nn.Sequential(*self.layers)",
        "self.sizes = [8] * 3",
        "self.acts = nn.Sequential(*[nn.ReLU()] * 3)",
        "self.drop = lambda x: F.dropout(x, 0.1, training=self.training)",
    ],
)
def test_near_misses_of_constructors(tmp_path, body):
    assert found(tmp_path, f"class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        {body}\n") == []


@pytest.mark.parametrize(
    "line",
    [
        "x = F.dropout(x, 0.1, self.training)",
        "x = F.dropout(x, training=False)",
        "x = nn.ReLU()(x)",
        "x = nn.ReLU(True)(x)",
        "x = F.dropout(x, **self.options)",
    ],
)
def test_near_misses_of_forward(tmp_path, line):
    assert found(tmp_path, f"class Net(nn.Module):\n    def forward(self, x):\n        {line}\n        return x\n") == []


def test_other_classes_are_left_alone(tmp_path):
    assert found(tmp_path, "class Recipe:\n    def __init__(self):\n        self.layers = [nn.Linear(8, 8)]\n") == []


def test_a_directory_and_what_is_no_python(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.py").write_text("x = 1\n")
    (tmp_path / ".hidden.py").write_text("(")
    assert [file.name for file in files(tmp_path)] == ["a.py"]
    (tmp_path / "b.py").write_text("def f(:\n")
    with pytest.raises(InitioError, match=r"b\.py:1"):
        scan(tmp_path / "b.py")
    with pytest.raises(InitioError, match="does not exist"):
        files(tmp_path / "nothing.py")


def test_nothing_is_imported(tmp_path):
    (tmp_path / "models.py").write_text("raise SystemExit('imported')\n")
    assert scan(tmp_path / "models.py") == ()
    assert "models" not in sys.modules
