"""`initio fix`: source edits, each proven on a copy before a file is touched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from initio.cli.app import Args, Eval, Ignore, Inputs, Loss, Select, TargetOf, app, codes

if TYPE_CHECKING:
    from initio.core.finding import Finding
    from initio.core.report import Report
    from initio.core.rewriting import Fixing


@app.command()
def fix(
    target: TargetOf,
    inputs: Inputs = None,
    arg: Args = None,
    loss: Loss = None,
    evaluate: Eval = False,
    select: Select = None,
    ignore: Ignore = None,
    diff: Annotated[bool, typer.Option("--diff", help="Print the changes, write nothing; status 1 where there are some")] = False,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Also fixes that change the function or the state dict")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write files that have uncommitted changes")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="A pyproject.toml; else the nearest with [tool.initio]")] = None,
    isolated: Annotated[bool, typer.Option("--isolated", help="Read no configuration")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up after that time")] = None,
) -> int:
    """Edit the source of a model where a check knows how, and prove each edit before anything is written.

    Exit status: 0 all fixes were applied (or there was none), 1 one could not be proven, or `--diff` shows one, 2 Initio could not do
    its work.
    """
    from dataclasses import replace

    from initio.api.fixing import fix as run
    from initio.api.targets import arguments
    from initio.cli import checking
    from initio.cli.deadline import deadline
    from initio.core.suppressions import suppress

    given = checking.settings(config, isolated)
    known = next((each for each in given.targets if each.target == target), None)
    request = checking.Request(target, inputs, arg, loss, evaluate, codes(select), codes(ignore))
    request = checking.configured(request, known) if known is not None else replace(request)

    def keep(report: Report) -> Report:
        return suppress(report, given.per_module)

    with deadline(timeout, target):
        found = run(
            target, request.inputs, args=arguments(request.args or ()), loss=request.loss, train=not request.evaluate,
            select=request.select or given.select, ignore=(*given.ignore, *request.ignore), unsafe=unsafe, keep=keep,
        )  # fmt: skip
    if diff:
        sys.stdout.write(found.diff())
    elif found.files:
        found.write(force=force)
    _say(found, diff)
    return int(bool(found.refused or (diff and found.files)))


def _say(found: Fixing, diff: bool) -> None:
    """What was done; beside a diff it goes to the standard error, so that the diff can be piped."""
    from initio.cli.output import console

    page = console(sys.stderr if diff else sys.stdout)
    for finding in found.done:
        page.print(f"{'would fix' if diff else 'fixed'} {_line(finding)}: {finding.fix.title if finding.fix else ''}", soft_wrap=True)
    for each in found.refused:
        page.print(f"not fixed {_line(each.finding)}: {each.reason}", soft_wrap=True)
    for finding in found.held:
        title = finding.fix.title if finding.fix else ""
        page.print(f"held back {_line(finding)}: {title} (changes the function or the state dict; --unsafe applies it)", soft_wrap=True)
    for finding in found.by_hand:
        page.print(f"by hand {_line(finding)}: {finding.remedy}", soft_wrap=True)
    if not (found.done or found.refused or found.held or found.by_hand):
        page.print(f"{found.target}: nothing to fix")
    elif found.done:
        files = ", ".join(_short(path) for path in found.files)
        page.print(f"{len(found.done)} {'fix' if len(found.done) == 1 else 'fixes'} in {files}" + ("; nothing was written" if diff else ""))


def _line(finding: Finding) -> str:
    where = f"{_short(Path(finding.source.file))}:{finding.source.line}" if finding.source is not None else finding.module
    return f"{finding.code} {where}"


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
