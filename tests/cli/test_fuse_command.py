"""`initio fuse`."""

import json
import subprocess
import sys

import pytest

from initio.cli import status

SOURCE = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
    def forward(self, x):
        return self.norm(self.a(x)) * self.b(x)
"""


@pytest.fixture
def target(tmp_path):
    (tmp_path / "m.py").write_text(SOURCE)
    return f"{tmp_path / 'm.py'}:Model"


def test_table(target, capsys):
    assert status(["fuse", target, "-i", "6x4", "--least", "0"]) == 0
    text = capsys.readouterr().out
    assert "branches" in text
    assert "kept as a.packed" in text
    assert "training mode depends on the batch" in text


def test_json(target, capsys):
    assert status(["fuse", target, "-i", "6x4", "--eval", "--least", "1e9", "--kind", "conv-bn", "-f", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [r["kind"] for r in told["rewrites"]] == ["conv-bn"]
    assert told["proof"] is None


def test_nothing_to_fuse(capsys):
    assert status(["fuse", "initio.examples.plain_mlp:Model"]) == 0
    assert "No layers" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--kind", "conv"], ["-i", "6x5"]])
def test_bad_input(target, arguments, capsys):
    given = [] if "-i" in arguments else ["-i", "6x4"]
    assert status(["fuse", target, *given, *arguments]) == 2
    assert "Expected" in capsys.readouterr().err


def test_help_does_not_import_torch():
    code = "import sys; from initio.cli import status; status(['fuse', '--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
