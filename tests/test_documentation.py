"""The code of the documentation runs: Python blocks in the order of their page, commands in a folder that holds the reader's files."""

import os
import re
import shlex
import sys
import warnings
from pathlib import Path

import pytest
import typer

from initio.cli import application, status
from scenes import PAGES as SCENES
from scenes import READER, settle

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NAMES = {page: page.relative_to(ROOT).as_posix() for page in PAGES}
COMMANDS = [
    (NAMES[page], line)
    for page in PAGES
    for block in re.findall(r"^ *```(?:console|bash|sh)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in map(str.strip, block.splitlines())
    if re.match(r"(\$ )?initio ", line)
]
BLOCK = re.compile(r"^(?:<!-- (needs|not run): (.*?) -->\n)?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, number) for page in PAGES for number, _ in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))]
NOT_RUN = {"serve": "it answers until it is interrupted; tests/cli/test_serving.py runs it"}


class Reading:
    """A page whose blocks share one namespace, and how far it was read."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
        self.page, self.folder, self.at, self.space = page, folder, 0, {"__name__": "page"}
        settle(folder)
        if page.parent.name != "tutorials":  # a tutorial stands by itself
            exec(READER + SCENES.get(page.stem, ""), self.space)

    def upto(self, number: int) -> None:
        """Run the blocks that were not run, up to this one."""
        while self.at <= number:
            how, what, text = self.blocks[self.at]
            self.at += 1
            if how == "not run" or (how and any(not _there(name) for name in what.split(", "))):
                continue
            path = self.folder / f"{self.page.stem.replace('-', '_')}_{self.at}.py"
            path.write_text(text, encoding="utf-8")
            exec(compile(text, str(path), "exec"), self.space)


READINGS: dict[Path, Reading] = {}


def _there(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


@pytest.fixture
def at_home(monkeypatch):
    """Into a folder: what is imported from there is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("WANDB_MODE", "offline")

    def enter(folder: Path) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))

    yield enter
    for name in ("model", "family", "net", "A", "B"):
        if name in set(sys.modules) - before:
            del sys.modules[name]


@pytest.mark.parametrize(("page", "number"), BLOCKS, ids=[f"{NAMES[page]}-{number}" for page, number in BLOCKS])
def test_a_block_runs(page, number, tmp_path_factory, at_home):
    how, what, _ = BLOCK.findall(page.read_text(encoding="utf-8"))[number]
    if how == "not run":
        pytest.skip(f"{NAMES[page]}: {what}")
    for name in what.split(", ") if how else ():
        pytest.importorskip(name, reason=f"{NAMES[page]}: {name} is not installed")
    folder = READINGS[page].folder if page in READINGS else tmp_path_factory.mktemp(page.stem.replace("-", "_"))
    at_home(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reading = READINGS.setdefault(page, READINGS.get(page) or Reading(page, folder))
        reading.upto(number)
    assert reading.at > number


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_runs(page, line, tmp_path, at_home, capsys):
    words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
    name = words[0]
    if words[0] in NOT_RUN:
        pytest.skip(f"initio {name}: {NOT_RUN[name]}")
    for zoo in ("torchvision", "timm"):
        if any(word.startswith(f"{zoo}:") for word in words):
            pytest.importorskip(zoo, reason=f"{zoo} is not installed: pip install 'initio[vision]'")
    settle(tmp_path)
    at_home(tmp_path)
    found = status(words)
    said = capsys.readouterr()
    assert found in (0, 1), said.err
    written = [words[i + 1] for i, word in enumerate(words) if word in ("-o", "--output", "--write-baseline")]
    assert all((tmp_path / file).stat().st_size for file in written)
    assert written or said.out.strip() or "report.html" in os.listdir(tmp_path)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_names_options_that_exist(page, line):
    words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
    group = typer.main.get_command(application())
    if words[0].startswith("-"):
        return
    command = group.get_command(None, words[0])
    assert command is not None, f"{page}: initio has no command {words[0]!r}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words[1:]:
        if word.startswith("-") and not re.match(r"-\d", word):
            assert word.split("=")[0] in known, f"{page}: initio {words[0]} has no option {word}"
