import json

import pytest
import torch

from initio.cli import status
from initio.examples.plain_mlp import Model
from initio.init import Plan

MLP = "initio.examples.plain_mlp:Model"


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = status(["init", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_table(run):
    code, out, _ = run(MLP, "-i", "16x64")
    assert code == 0
    assert out.startswith("Plan for forward: ")
    assert "E[δ²] before" in out


def test_the_code_runs_and_draws_what_the_plan_says(run):
    code, out, _ = run(MLP, "-i", "16x64", "--target", "backward", "--code")
    _, data, _ = run(MLP, "-i", "16x64", "--target", "backward", "--format", "json")
    assert code == 0
    scope = {}
    exec(out, scope)
    model = Model()
    scope["init_weights"](model)
    plan = Plan.from_dict(json.loads(data))
    assert plan.target == "backward"
    for name, p in model.named_parameters():
        assert float(torch.std(p.detach())) == pytest.approx(plan.parameters[name].std, rel=0.1, abs=1e-9)


def test_a_file(run, tmp_path):
    path = tmp_path / "plan.json"
    code, out, _ = run(MLP, "-i", "16x64", "--format", "json", "-o", str(path))
    assert code == 0
    assert out == ""
    assert Plan.from_dict(json.loads(path.read_text())).target == "forward"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MLP, "-i", "16x64", "--code", "--format", "json"), "one format"),
        ((MLP, "-i", "16x64", "--target", "sideways"), "sideways"),
        ((MLP, "-i", "16x64", "--second", "-1"), "positive second moment"),
        ((MLP, "-i", "16x63"), "to run on this input"),
        (("nowhere.py:Model", "-i", "1x2"), "nowhere.py"),
    ],
)
def test_bad_input_exits_with_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert out == ""
