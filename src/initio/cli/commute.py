"""`initio commute`: does the order of two maps matter?"""

from __future__ import annotations

from typing import Annotated

import typer

from initio.cli.app import Format, Output, app
from initio.cli.output import console, write

MAP = "A module such as 'Dropout(0.5)' or 'Sequential(Linear(64, 32), ReLU())', a function such as relu, or FILE.py:NAME"


@app.command()
def commute(
    f: Annotated[str, typer.Argument(metavar="F", help=MAP)],
    g: Annotated[str, typer.Argument(metavar="G", help="The other one")],
    x: Annotated[str | None, typer.Option("--input", "-i", metavar="INPUT", help="SHAPE[:KIND], such as 64x128:normal(0,2)")] = None,
    draws: Annotated[int, typer.Option("--draws", "-n", help="Draws of input and masks for the measured difference")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the draws")] = 0,
    format: Annotated[Format, typer.Option("--format", "-f", help="Format of the verdict")] = Format.text,  # noqa: A002
    output: Output = None,
) -> int:
    """Does the order of two maps matter: the same function, the same expectation, or different, and by how much."""
    from initio.api import commute as run
    from initio.core.plain import dumps

    with write(output) as sink:
        found = run(f, g, x, draws=draws, seed=seed)
        if format is Format.json:
            sink.write(dumps({"schema": "initio.commutation/1", **found.to_dict()}) + "\n")
        else:
            console(sink).print(str(found), soft_wrap=True)
    return 0
