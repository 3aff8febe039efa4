"""`initio report`: everything about a model on one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from initio.cli.app import Args, Eval, Ignore, Inputs, Loss, Select, TargetOf, app, codes, resolved
from initio.cli.output import write


@app.command()
def report(
    target: TargetOf,
    inputs: Inputs = None,
    arg: Args = None,
    loss: Loss = None,
    evaluate: Eval = False,
    select: Select = None,
    ignore: Ignore = None,
    draws: Annotated[
        int,
        typer.Option("--measure", "-n", min=0, metavar="DRAWS", help="Build and run the real model so often, and draw the measured points"),
    ] = 0,
    derive: Annotated[bool, typer.Option("--derive", help="Add the derivation of signal and gradient, each step verified")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write")] = Path("report.html"),
) -> int:
    """A page to look at: findings, profiles along depth, blocks, the graph and every module, in one HTML file that loads nothing."""
    import sys

    from initio.api import check
    from initio.api.fixing import drafts
    from initio.checks.framework import validate
    from initio.render.html import page

    chosen, ignored = codes(select), codes(ignore)
    validate((*chosen, *ignored))
    with write(output) as sink:
        found, given = resolved(target, inputs, arg)
        settings: dict[str, Any] = {"loss": loss or found.loss, "train": not evaluate}
        result = replace(check(found.build, given, select=chosen, ignore=ignored, target=target, **settings), about=found.about)
        measured = None
        if draws:
            from initio.api import compare, measure

            sides = compare(result.analysis, measure(found.build, given, draws=draws, **settings))
            measured = {"outputs": sides.outputs, "cotangents": sides.cotangents}
        derivation = None
        if derive and result.analysis.record.crash is None:  # the crash stands on the page
            from initio.api import derive as steps

            derivation = steps(found.build, given, what=("signal", "gradient"), train=not evaluate, title=target)
        text = page(result, measured, derivation=derivation, diffs=drafts(result))
        sink.write(text)
    print(f"{output}: {len(text.encode()) / 1e6:.2f} MB, {len(result.findings)} findings", file=sys.stderr)
    return 0
