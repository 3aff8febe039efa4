"""The commands about cost: count one model, compare two."""

from __future__ import annotations

from typing import Annotated

import typer

from initio.cli import app as commands
from initio.cli.output import console, write

__all__ = ["app"]

app = commands.app


@app.command()
def count(
    target: commands.TargetOf,
    inputs: commands.Inputs = None,
    arg: commands.Args = None,
    loss: commands.Loss = None,
    evaluate: commands.Eval = False,
    depth: Annotated[int, typer.Option("--depth", "-d", min=0, help="Levels of modules below the model")] = 2,
    symbolic: Annotated[str, typer.Option("--symbolic", metavar="SIZES", help="Polynomials of batch, seq, size: names by commas")] = "",
    attention: Annotated[str, typer.Option("--attention", help="fused: kernels without S × S matrices; math: by definition")] = "fused",
    autocast: Annotated[str | None, typer.Option("--autocast", metavar="DTYPE", help="bfloat16 or float16")] = None,
    forward_only: Annotated[bool, typer.Option("--forward-only", help="No backward pass")] = False,
    format: Annotated[commands.ReportFormat, typer.Option("--format", "-f", help="Format")] = commands.ReportFormat.text,  # noqa: A002
    output: commands.Output = None,
) -> int:
    """What a step costs: parameters, MACs and FLOPs, memory, by module and operation."""
    from initio.api.counting import count as run
    from initio.core.errors import InitioError
    from initio.render import counts as render

    if attention not in ("fused", "math"):
        raise InitioError("fused or math", f"{attention!r} came", where="--attention", remedy="fused is what torch runs where it can.")
    with write(output) as sink:
        found, given = commands.resolved(target, inputs, arg)
        names = [name.strip() for name in symbolic.split(",") if name.strip()]
        counts = run(
            found.build, given, symbolic=names, backward=not forward_only, loss=loss or found.loss, train=not evaluate,
            attention=attention, autocast=autocast, target=target,
        )  # fmt: skip
        if format is commands.ReportFormat.json:
            sink.write(counts.to_json() + "\n")
        elif format is commands.ReportFormat.markdown:
            sink.write(render.markdown(counts, depth))
        else:
            render.show(counts, console(sink), depth=depth)
    return 0
