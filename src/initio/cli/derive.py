"""`initio derive`: the steps by which a model's numbers come about."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from initio.cli.app import Args, Eval, Inputs, Output, TargetOf, app, resolved
from initio.cli.output import write


class What(str, Enum):
    """Sections of a derivation."""

    all = "all"
    parameters = "parameters"
    signal = "signal"
    jacobian = "jacobian"
    gradient = "gradient"


class DerivationFormat(str, Enum):
    """Formats of derivations."""

    text = "text"
    markdown = "markdown"
    latex = "latex"
    html = "html"


@app.command()
def derive(
    target: TargetOf,
    inputs: Inputs = None,
    arg: Args = None,
    evaluate: Eval = False,
    what: Annotated[What, typer.Option("--what", "-w", help="Section of the derivation")] = What.all,
    claim: Annotated[list[str] | None, typer.Option("--claim", "-c", help="A step of your own to judge, such as 'dy/dx = S A + 1'")] = None,
    format: Annotated[DerivationFormat, typer.Option("--format", "-f", help="Format of the derivation")] = DerivationFormat.text,  # noqa: A002
    output: Output = None,
) -> int:
    """The formulas behind a model's numbers, each step verified; with --claim, the verdict on a step of your own (exit 1: refuted)."""
    from dataclasses import replace

    from initio.api import derive as run

    with write(output) as sink:
        found, given = resolved(target, inputs, arg)
        derivation = run(found.build, given, what=what.value, train=not evaluate, title=target)
        if claim:
            derivation = replace(derivation, steps=tuple(derivation.check(text) for text in claim))
        sink.write(derivation.render(format.value))
    return 1 if derivation.refuted else 0
