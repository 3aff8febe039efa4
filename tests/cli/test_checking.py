"""`initio check` as a user meets it: configuration, baselines, formats, exit statuses."""

import json
import textwrap

import pytest

from initio.cli import status

MODEL = """
import torch.nn.functional as F
from torch import nn

INPUT = "8x16"


class Linear2(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = nn.Linear(16, 2){comment}

    def forward(self, x):
        return self.b(self.a(x))


class Crash(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(9, 2)

    def forward(self, x):
        return self.a(x)


class Hang(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 2)

    def forward(self, x):
        while True:
            try:
                x.size()
            except Exception:
                pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL.format(comment=""))
    return tmp_path


def test_a_comment_silences_a_line(folder, capsys):
    assert status(["check", "net.py:Linear2"]) == 1
    (folder / "net.py").write_text(MODEL.format(comment="  # initio: ignore[ACT101]"))
    assert status(["check", "net.py:Linear2", "--fail-on", "note"]) == 0
    (folder / "net.py").write_text(MODEL.format(comment="  # initio: ignore[REG101]"))
    assert status(["check", "net.py:Linear2"]) == 1
    assert "unused suppression" in capsys.readouterr().out


def test_a_baseline_passes_until_something_new_comes(folder):
    assert status(["check", "net.py:Linear2", "--write-baseline", "known.json"]) == 0
    assert status(["check", "net.py:Linear2", "--baseline", "known.json"]) == 0
    (folder / "known.json").write_text("{")
    assert status(["check", "net.py:Linear2", "--baseline", "known.json"]) == 2


def test_the_configuration_names_targets_and_what_counts(folder, capsys):
    file = folder / "pyproject.toml"
    file.write_text("[tool.initio]\nignore = ['ACT101']\n[tool.initio.targets]\n'net.py:Linear2' = '4x16'\n")
    assert status(["check"]) == 0
    assert "net.py:Linear2" in capsys.readouterr().out
    assert status(["check", "--isolated", "net.py:Linear2"]) == 1
    file.write_text("[tool.initio]\nignore = ['NOPE1']\n")
    assert status(["check", "net.py:Linear2"]) == 2
    assert "pyproject.toml" in capsys.readouterr().err


def test_a_crash_is_explained_and_is_no_finding_of_the_model(folder, capsys):
    assert status(["check", "net.py:Crash"]) == 2
    assert "in_features=16 is needed, the layer has 9" in " ".join(capsys.readouterr().err.split())
    assert status(["check", "net.py:Crash", "--ignore", "SHP105"]) == 2


def test_a_model_that_hangs_is_given_up(folder, capsys):
    assert status(["check", "net.py:Hang", "--timeout", "1"]) == 2
    assert "within 1 s" in capsys.readouterr().err
    assert status(["check", "net.py:Hang", "--timeout", "0"]) == 2


def test_static_reads_without_importing(folder, capsys):
    source = """
        raise SystemExit("imported")
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                self.layers = [nn.Linear(8, 8)]  # initio: ignore[SIG101]
    """
    (folder / "static.py").write_text(textwrap.dedent(source))
    assert status(["check", "static.py", "--static"]) == 1
    out = capsys.readouterr().out
    assert "REG101" in out
    assert "unused" not in out
    assert status(["check", ".", "--static", "--ignore", "REG"]) == 0
    assert status(["check", "missing", "--static"]) == 2


@pytest.mark.parametrize("form", ["sarif", "github", "json", "markdown"])
def test_formats(folder, capsys, form):
    assert status(["check", "net.py:Linear2", "--format", form]) == 1
    out = capsys.readouterr().out
    assert "ACT101" in out
    if form in ("sarif", "json"):
        json.loads(out)


@pytest.mark.parametrize("form", ["sarif", "json"])
def test_formats_hold_the_edits(folder, capsys, form):
    (folder / "lists.py").write_text(MODEL.format(comment="").replace("self.b = nn.Linear(16, 2)", "self.b = [nn.Linear(16, 2)]")
                                     .replace("self.b(self.a(x))", "self.b[0](self.a(x).relu())"))  # fmt: skip
    assert status(["check", "lists.py:Linear2", "--format", form]) == 1
    told = json.loads(capsys.readouterr().out)
    wanted = "self.b = nn.ModuleList([nn.Linear(16, 2)])"
    if form == "json":
        (finding,) = told["findings"]
        assert f"+        {wanted}" in finding["fix"]["edit"]
    else:
        (result,) = told["runs"][0]["results"]
        (replacement,) = result["fixes"][0]["artifactChanges"][0]["replacements"]
        assert replacement["insertedContent"]["text"].strip() == wanted


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["check", "broken.py:Net"], "broken.py"),
        (["check", "broken.py", "--static"], "broken.py"),
        (["fix", "broken.py:Net", "-i", "8x16"], "broken.py"),
        (["check", "net.py:Linear2", "--select", "ACT1,ACT999"], "'ACT999' came"),
        (["check", "net.py:Linear2", "--config", "code.toml"], "code.toml"),
        (["check", "net.py:Linear2", "--config", "key.toml"], "'selects'"),
        (["check", "net.py:Linear2", "--config", "unparsable.toml"], "unparsable.toml"),
        (["check", "net.py:Linear2", "--baseline", "corrupt.json"], "corrupt.json"),
        (["check", "net.py:Linear2", "--baseline", "missing.json"], "missing.json"),
        (["check", "net.py:Hang", "--timeout", "1"], "within 1 s"),
        (["check", "net.py:Missing"], "Missing"),
    ],
)
def test_bad_input_is_told_with_its_place_and_writes_nothing(folder, capsys, arguments, said):
    files = {
        "broken.py": "class Net(:\n",
        "code.toml": "[tool.initio]\nignore = ['NOPE1']\n",
        "key.toml": "[tool.initio]\nselects = ['ACT']\n",
        "unparsable.toml": "[tool.initio\n",
        "corrupt.json": '{"schema": "initio.baseline/1", "findings": [',
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert status(arguments) == 2
    told = capsys.readouterr()
    assert said in " ".join(told.err.split())
    assert "Traceback" not in told.err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
