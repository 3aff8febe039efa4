import json
import os
import subprocess
import sys

import pytest

from initio.cli import status

MODEL = """
import torch
from torch import nn

class Good(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layer = nn.Linear(8, width)
    def forward(self, x):
        return self.layer(x)

class Loose(Good):
    def __init__(self):
        super().__init__()
        self.held = [nn.Linear(8, 8)]
    def forward(self, x):
        return self.held[0](self.layer(x))

class Empty(nn.Module):
    def forward(self, x):
        return x.relu()

class Crash(Good):
    def forward(self, x):
        raise RuntimeError("out of cheese")

def needs(a, b):
    return Good()

def wrong():
    return 3

def fails():
    raise ValueError("cannot be built")

nan = Good()
with torch.no_grad():
    nan.layer.weight[0, 0] = float("nan")
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "the_model.py"
    path.write_text(MODEL)
    return path


def run(capsys, *arguments):
    code = status([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["rules"], ["explain", "REG101"], ["check", "--help"], ["explain", "NONE"]]
)
def test_what_needs_no_model_does_not_import_torch(arguments):
    code = f"import sys; from initio.cli import status; status({arguments!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr


def test_importing_the_package_does_not_import_torch():
    code = "import initio, sys; assert 'torch' not in sys.modules; initio.analyze; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stderr


def test_rules_and_pages(capsys):
    code, out, _ = run(capsys, "rules", "--format", "json")
    assert code == 0
    assert {"REG101", "SIG101", "GRD104"} <= {rule["code"] for rule in json.loads(out)["rules"]}
    code, out, _ = run(capsys, "explain", "unregistered-submodule")
    assert code == 0
    assert "## Use instead" in out


def test_check_exits_by_severity(capsys, model):
    assert run(capsys, "check", f"{model}:Good", "-i", "4x8")[0] == 0
    code, out, _ = run(capsys, "check", f"{model}:Loose", "-i", "4x8")
    assert code == 1
    assert "REG101" in out
    assert "the_model.py:15" in out
    assert run(capsys, "check", f"{model}:Loose", "-i", "4x8", "--fail-on", "never")[0] == 0
    assert run(capsys, "check", f"{model}:Loose", "-i", "4x8", "--ignore", "REG")[0] == 0
    assert run(capsys, "check", f"{model}:Loose", "-i", "4x8", "--select", "SIG,GRD")[0] == 0


def test_json_and_markdown(capsys, model):
    code, out, _ = run(capsys, "check", f"{model}:Loose", "-i", "4x8", "-f", "json")
    data = json.loads(out)
    assert code == 1
    assert data["schema"] == "initio.report/1"
    assert data["findings"][0]["code"] == "REG101"
    assert data["findings"][0]["source"]["line"] == 15
    assert "### REG101" in run(capsys, "check", f"{model}:Loose", "-i", "4x8", "-f", "markdown")[1]


def test_show(capsys, model):
    code, out, _ = run(capsys, "show", f"{model}:Good", "-i", "4x8", "--arg", "width=16", "-f", "json")
    data = json.loads(out)
    assert code == 0
    # U(±1/√8): variance 1/24; 8 of them on unit inputs and a bias: 9/24.
    assert data["modules"]["layer"]["rms"] == pytest.approx((9 / 24) ** 0.5, rel=1e-6)
    assert data["modules"]["layer"]["shape"] == [4, 16]
    assert data["parameters"]["layer.weight"]["distribution"]["family"] == "uniform"
    assert data["parameters"]["layer.weight"]["grad_rms"] == pytest.approx(2.0, rel=1e-6)
    code, out, _ = run(capsys, "show", f"{model}:Good", "-i", "4x8", "--nodes")
    assert code == 0
    assert "uniform(-0.3536, 0.3536)" in out


def test_measure(capsys, model):
    code, out, _ = run(capsys, "measure", f"{model}:Good", "-i", "4x8", "-n", "3", "-f", "json")
    data = json.loads(out)
    assert code == 0
    assert data["draws"] == 3
    assert {row["key"] for row in data["outputs"]} == {"(model)", "layer"}
    assert {row["key"] for row in data["gradients"]} == {"layer.weight", "layer.bias"}
    assert "worst first" in run(capsys, "measure", f"{model}:Good", "-i", "4x8", "-n", "2")[1]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["check", "{file}:Absent", "-i", "4x8"], "Absent"),
        (["check", "{file}:needs", "-i", "4x8"], "--arg a=VALUE --arg b=VALUE"),
        (["check", "{file}:wrong", "-i", "4x8"], "returned int"),
        (["check", "{file}:fails", "-i", "4x8"], "cannot be built"),
        (["check", "{file}:Crash", "-i", "4x8"], "out of cheese"),
        (["show", "{file}:Crash", "-i", "4x8"], "the_model.py:25"),
        (["measure", "{file}:Crash", "-i", "4x8"], "out of cheese"),
        (["check", "{file}:Good", "-i", "4x9"], "4x9"),
        (["check", "{file}:Good", "-i", "4x8:int(5)"], "dtype"),
        (["check", "{file}:Good", "-i", "0x8"], "empty"),
        (["check", "{file}:Good", "-i", "()"], "shape"),
        (["check", "{file}:Good"], "--input 8x3x224x224"),
        (["check", "{file}:Empty", "-i", "4x8"], "has none"),
        (["check", "{file}:nan", "-i", "4x8"], "layer.weight"),
        (["check", "{file}:Good", "-i", "4x8", "--ignore", "XYZ"], "XYZ"),
        (["check", "{file}:Good", "-i", "4x8", "-o", "{file}/none/out"], "--output"),
        (["check", "{file}:Good", "-i", "4x8", "--loss", "no_such_loss"], "no_such_loss"),
        (["check", "{file}:Good", "-i", "4x8", "-i", "y=4x8"], "'y'"),
        (["measure", "{file}:Good", "-i", "4x8", "-n", "0"], "draw"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(capsys, model, arguments, said):
    code, out, err = run(capsys, *(argument.format(file=model) for argument in arguments))
    assert code == 2
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert "Initio itself failed" not in err
    assert not out or arguments[0] == "show"


def test_output_appears_whole_or_not_at_all(capsys, model, tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    assert run(capsys, "check", f"{model}:Crash", "-i", "4x8", "-f", "json", "-o", target)[0] == 2
    assert target.read_text() == "old"
    assert run(capsys, "check", f"{model}:Loose", "-i", "4x8", "-f", "json", "-o", target)[0] == 1
    assert json.loads(target.read_text())["findings"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["report.json", "the_model.py"]


def test_the_examples_show_what_their_first_line_says(capsys):
    code, out, _ = run(capsys, "check", "-f", "json")
    found = {r["target"].split(".")[2].split(":")[0]: {f["name"] for f in r["findings"]} for r in json.loads(out)["reports"]}
    assert code == 1
    assert found["residual"] == set()
    assert found["split_transform_merge"] == {"unregistered-submodule"}
    assert found["plain_mlp"] == {"vanishing-signal", "vanishing-gradient"}
    assert found["too_large"] == {"exploding-signal", "exploding-gradient"}
    code, out, _ = run(capsys, "check", "--fail-on", "never")
    assert code == 0
    assert "No target was given" in out
    assert "First: REG101" in out
