"""The code of the documentation: tutorials run as they stand, every command names options that exist, every Python block at least compiles."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from initio.cli import application

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
COMMANDS = [
    (page.relative_to(ROOT).as_posix(), line)
    for page in PAGES
    for block in re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if re.match(r"(\$ )?initio ", line)
]


def python_of(page: Path) -> list[str]:
    """Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name == "tutorials"], ids=lambda p: p.stem)
def test_a_tutorial_runs(page, tmp_path, monkeypatch, capsys):
    path = tmp_path / f"{page.stem.replace('-', '_')}.py"
    path.write_text("\n".join(python_of(page)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": path.stem, "__file__": str(path)})
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_python_blocks_compile(page):
    for block in python_of(page):
        assert compile(block, str(page), "exec")


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_names_options_that_exist(page, line):
    words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
    group = typer.main.get_command(application())
    if words and words[0].startswith("-"):
        return
    name = words[0] if words else ""
    command = group.get_command(None, name)
    assert command is not None, f"{page}: initio has no command {name!r}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words[1:]:
        if word.startswith("-") and not re.match(r"-\d", word):
            assert word.split("=")[0] in known, f"{page}: initio {name} has no option {word}"
