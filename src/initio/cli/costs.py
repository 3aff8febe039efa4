"""The commands about cost: count one model, compare two, join layers that compute the same as one."""

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


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=commands.TARGET)],
    b: Annotated[str | None, typer.Argument(metavar="[B]", help="Another target; without one, A with --arg-b")] = None,
    inputs: commands.Inputs = None,
    arg: commands.Args = None,
    arg_a: Annotated[list[str] | None, typer.Option("--arg-a", metavar="NAME=VALUE", help="Argument of A alone")] = None,
    arg_b: Annotated[list[str] | None, typer.Option("--arg-b", metavar="NAME=VALUE", help="Argument of B alone")] = None,
    loss: commands.Loss = None,
    evaluate: commands.Eval = False,
    timed: Annotated[bool, typer.Option("--time", help="Build and run both, and measure their speed")] = False,
    format: Annotated[commands.ReportFormat, typer.Option("--format", "-f", help="Format")] = commands.ReportFormat.text,  # noqa: A002
    output: commands.Output = None,
) -> int:
    """Two models, or one with two options, side by side: cost, signal, findings, speed; a page where --output ends in .html."""
    from initio.api.contrast import compare_models
    from initio.core.errors import InitioError
    from initio.render import contrast as render

    if b is None and not (arg_a or arg_b):
        remedy = "Name another target, or say what differs: --arg-b paths=32."
        raise InitioError("two models to compare", "one came, without an option that differs", where="B", remedy=remedy)
    page = output is not None and output.suffix == ".html" and format is commands.ReportFormat.text
    with write(output) as sink:
        first, given = commands.resolved(a, inputs, [*(arg or ()), *(arg_a or ())])
        second, other = commands.resolved(b or a, inputs, [*(arg or ()), *(arg_b or ())])
        names = (" ".join([a, *(arg_a or ())]), " ".join([b or a, *(arg_b or ())]))
        contrast = compare_models(
            first.build, second.build, given, other, names=names, loss=loss or first.loss, train=not evaluate, timed=timed
        )
        if page:
            from initio.render.html import contrasted

            sink.write(contrasted(contrast))
        elif format is commands.ReportFormat.json:
            sink.write(contrast.to_json() + "\n")
        elif format is commands.ReportFormat.markdown:
            sink.write(render.markdown(contrast))
        else:
            render.show(contrast, console(sink))
    return 0


@app.command()
def fuse(
    target: commands.TargetOf,
    inputs: commands.Inputs = None,
    arg: commands.Args = None,
    evaluate: commands.Eval = False,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="conv-bn, linear-linear, chains, branches or qkv; repeat it")] = None,
    least: Annotated[float, typer.Option("--least", help="The least speed-up that is worth a rewrite")] = 1.05,
    format: Annotated[commands.Format, typer.Option("--format", "-f", help="Format of the table")] = commands.Format.text,  # noqa: A002
    output: commands.Output = None,
) -> int:
    """Layers that compute the same as fewer: each rewrite proven on the model's weights and timed. Builds and runs the model."""
    from initio.render import fused as render

    with write(output) as sink:
        found, given = commands.resolved(target, inputs, arg)

        from torch import nn

        from initio.rewrite import KINDS
        from initio.rewrite import fuse as run

        model = found.build if isinstance(found.build, nn.Module) else found.build()
        result = run(model.train(not evaluate), given, kinds=kind or KINDS, least=least)
        if format is commands.Format.json:
            sink.write(result.to_json() + "\n")
        else:
            proof = result.proof.worst if result.proof is not None else None
            render.show(result.rows(), result.reasons(), proof, not evaluate, console(sink))
    return 0
