"""The plugin inside of a real pytest, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NETS = """
import torch
from torch import nn

INPUT = "4x8"

class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))

class Bad(Good):
    def __init__(self):
        super().__init__()
        self.more = [nn.Linear(8, 8)]

    def forward(self, x):
        return super().forward(self.more[0](x))
"""


def run(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "initio.integrations.pytest", "-p", "no:cacheprovider", *arguments]
    # named here, and not loaded a second time where the package is installed
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def test_the_fixture_passes_and_fails_with_the_rendered_findings(folder):
    (folder / "test_models.py").write_text("""
import sys
sys.path.insert(0, ".")

def test_good(initio_check):
    from nets import Good
    assert not initio_check(Good, "4x8").findings

def test_bad(initio_check):
    from nets import Bad
    initio_check(Bad, "4x8")

def test_ignored(initio_check):
    from nets import Bad
    initio_check(Bad, "4x8", ignore=["REG101", "ACT101"])

def test_selected(initio_check):
    from nets import Bad
    initio_check(Bad, "4x8", select=["SIG"])

def test_let_through(initio_check):
    from nets import Bad
    assert {f.code for f in initio_check(Bad, "4x8", fail_on="never").findings} >= {"REG101"}

def test_misspelt(initio_check):
    from nets import Good
    initio_check(Good, "4x8", fail_on="fatal")
""")
    status, output = run(folder, "-q")
    assert status == 1
    assert "2 failed, 4 passed" in output
    assert "REG101" in output
    assert "nets.py" in output
    assert "    def _checked" not in output  # no trace of the plugin itself
    assert "Expected one of error, warning, note, never, but 'fatal' came (fail_on)" in output


def test_the_targets_of_the_configuration_are_items(folder):
    (folder / "pyproject.toml").write_text("""
[tool.initio]
ignore = ["ACT101"]
[tool.initio.targets]
"nets.py:Good" = "4x8"
"nets.py:Bad" = { inputs = "4x8" }
"nets.py:Missing" = "4x8"
""")
    status, output = run(folder, "--initio", "-v")
    assert status == 1
    assert "2 failed, 1 passed" in output
    assert "pyproject.toml::nets.py:Good PASSED" in output
    assert "REG101" in output
    assert "Expected a model named 'Missing'" in output
    assert "Traceback" not in output
    status, output = run(folder, "-q")
    assert status == 5  # nothing is collected without the option


def test_a_subdirectory_finds_the_configuration_and_its_gate(folder):
    (folder / "pyproject.toml").write_text('[tool.initio]\nfail-on = "never"\n[tool.initio.targets]\n"nets.py:Bad" = "4x8"\n')
    (folder / "below").mkdir()
    status, output = run(folder / "below", "--initio", "-q")
    assert (status, "1 passed" in output) == (0, True), output


def test_without_targets_or_with_an_unknown_key_pytest_stops(folder):
    status, output = run(folder, "--initio")
    assert status == 4
    assert "expected [tool.initio.targets]" in output
    (folder / "pyproject.toml").write_text('[tool.initio]\nselekt = ["SIG"]\n')
    status, output = run(folder, "--initio")
    assert status == 4
    assert "'selekt' came" in output


def test_start_up_does_not_import_torch(folder):
    (folder / "test_none.py").write_text("import sys\ndef test_none():\n    assert 'torch' not in sys.modules\n")
    status, output = run(folder, "-q")
    assert status == 0, output


def test_the_entry_point_names_this_module():
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\ninitio = "initio.integrations.pytest"\n' in text
