"""`initio init`: what to initialise a model with instead."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from initio.cli import app as commands
from initio.cli.costs import app
from initio.cli.output import write

__all__ = ["init"]


class Profile(str, Enum):
    """Targets of `initio init`."""

    forward = "forward"
    backward = "backward"
    compromise = "compromise"
    residual = "residual"
    ratio = "ratio"
    mup = "mup"


@app.command()
def init(
    target: commands.TargetOf,
    inputs: commands.Inputs = None,
    arg: commands.Args = None,
    profile: Annotated[Profile, typer.Option("--target", "-t", help="The wanted profile of scales")] = Profile.forward,
    second: Annotated[float, typer.Option("--second", help="The wanted second moment of a weight's product")] = 1.0,
    family: Annotated[str | None, typer.Option("--family", help="normal, uniform or orthogonal, instead of the author's")] = None,
    loss: commands.Loss = None,
    evaluate: commands.Eval = False,
    code: Annotated[bool, typer.Option("--code", help="The function of torch.nn.init calls, to be pasted into the model")] = False,
    format: Annotated[commands.Format, typer.Option("--format", "-f", help="Format of the plan")] = commands.Format.text,  # noqa: A002
    output: commands.Output = None,
) -> int:
    """The initialisation that gives a model a wanted profile of scales, as a plan or as code."""
    from initio.api.planning import solve
    from initio.core.errors import InitioError

    if code and format is commands.Format.json:
        raise InitioError("one format", "--code and --format json came", where="--code", remedy="Leave one out.")
    with write(output) as sink:
        found, given = commands.resolved(target, inputs, arg)
        plan = solve(found.build, given, profile.value, second=second, family=family, loss=loss or found.loss, train=not evaluate)
        if code:
            sink.write(plan.to_code())
        else:
            sink.write(plan.to_json() + "\n" if format is commands.Format.json else f"{plan}\n")
    return 0
