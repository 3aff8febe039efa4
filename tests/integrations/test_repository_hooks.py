"""`.pre-commit-hooks.yaml` and `action.yml`: their commands are run as those tools run them."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="comes with the docs extra: pip install 'initio[docs]'")

ROOT = Path(__file__).parents[2]
NETS = """
from torch import nn


class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 3)

    def forward(self, x):
        return self.a(x)


class Bad(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 8)]
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(nn.ReLU(self.layers[0](x)))
"""
CONFIGURATION = '[tool.initio.targets]\n"nets.py:Good" = "4x8"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "pyproject.toml").write_text(CONFIGURATION)
    script = tmp_path / "bin" / "initio"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c 'from initio.cli import main; main()' \"$@\"\n")
    script.chmod(0o755)
    return tmp_path


def run(folder, command, **variables):
    paths = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **paths, **variables}, timeout=300)
    return done.returncode, done.stdout + done.stderr


def hooks():
    return {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}


def test_hooks_hold_what_pre_commit_asks_for():
    assert set(hooks()) == {"initio", "initio-static"}
    for hook in hooks().values():
        assert {"id", "name", "entry", "language"} <= set(hook)
        assert hook["language"] == "python"


def test_the_source_hook_reads_several_files(folder):
    (folder / "clean.py").write_text("x = 1\n")
    entry = shlex.split(hooks()["initio-static"]["entry"])
    status, output = run(folder, [*entry, "clean.py", "nets.py"])
    assert status == 1
    assert "REG101" in output or "MOD102" in output
    assert run(folder, [*entry, "clean.py"])[0] == 0


def test_the_target_hook_checks_the_configuration(folder):
    entry = shlex.split(hooks()["initio"]["entry"])
    assert hooks()["initio"]["pass_filenames"] is False
    status, output = run(folder, entry)
    assert status == 0, output
    (folder / "pyproject.toml").write_text(CONFIGURATION.replace("Good", "Bad"))
    assert run(folder, entry)[0] == 1


def steps():
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        assert "uses" in step or {"run", "shell"} <= set(step)
        for variable in step.get("env", {}).values():
            assert variable.removeprefix("${{ inputs.").removesuffix(" }}") in action["inputs"]
    return {step["name"]: step for step in action["runs"]["steps"]}


@pytest.mark.skipif(sys.platform == "win32", reason="the steps are bash")
@pytest.mark.parametrize(
    "variables,status,codes",
    [
        ({"TARGET": "nets.py:Good", "ARGS": "--input 4x8 --loss cross_entropy", "FAIL_ON": ""}, 0, set()),
        ({"TARGET": "nets.py:Bad", "ARGS": "--input 4x8", "FAIL_ON": ""}, 1, {"REG101"}),
        ({"TARGET": "nets.py:Bad", "ARGS": "--input 4x8", "FAIL_ON": "never"}, 0, {"REG101"}),
        ({"TARGET": "", "ARGS": "", "FAIL_ON": "note"}, 0, set()),
    ],
)
def test_the_action_writes_sarif_and_its_status_is_the_gate(folder, variables, status, codes):
    step = steps()["Targets"]
    assert set(step["env"]) == {*variables, "SARIF"}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    got, output = run(folder, command, SARIF="out.sarif", **variables)
    assert got == status, output
    log = json.loads((folder / "out.sarif").read_text())
    assert log["version"] == "2.1.0"
    assert codes <= {result["ruleId"] for result in log["runs"][0]["results"]}


@pytest.mark.skipif(sys.platform == "win32", reason="the steps are bash")
def test_the_source_step_annotates(folder):
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps()["Source"]["run"]]
    status, output = run(folder, command, STATIC=".", FAIL_ON="")
    assert status == 1
    assert "::error" in output
    assert run(folder, command, STATIC=".", FAIL_ON="never")[0] == 0


def test_upload_comes_after_a_failed_check_too():
    assert "always()" in steps()["Upload"]["if"]
