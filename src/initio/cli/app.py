"""The commands: each imports what it needs when it runs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from initio.cli.output import console, write

__all__ = ["app", "codes", "resolved"]

app = typer.Typer(
    name="initio", no_args_is_help=True, add_completion=False, rich_markup_mode="markdown",
    help="The scale of every activation and gradient of a PyTorch model, before its first training step.",
    epilog="Exit status: 0 clean, 1 findings at or above --fail-on, 2 Initio could not do its work.",
)  # fmt: skip


class Format(str, Enum):
    """Formats of results."""

    text = "text"
    json = "json"


class ReportFormat(str, Enum):
    """Formats of reports."""

    text = "text"
    json = "json"
    markdown = "markdown"


class CheckFormat(str, Enum):
    """Formats of `initio check`."""

    text = "text"
    json = "json"
    markdown = "markdown"
    sarif = "sarif"
    github = "github"


class FailOn(str, Enum):
    """The least severity that makes the exit status 1."""

    error = "error"
    warning = "warning"
    note = "note"
    never = "never"


TARGET = "FILE.py:NAME, PACKAGE.MODULE:NAME, torchvision:NAME, timm:NAME, hf:MODEL_TYPE or hf:PATH/config.json"
TargetOf = Annotated[str, typer.Argument(metavar="TARGET", help=TARGET)]
SomeTargets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TARGET]...", help=TARGET + "; without one, those of [tool.initio], or the example models that ship with Initio"
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="INPUT",
        help="[NAME=]SHAPE[:KIND][:DTYPE], such as 8x3x224x224 or input_ids=2x128:int(50257); repeat it for several",
    ),
]
Args = Annotated[
    list[str] | None, typer.Option("--arg", "-a", metavar="NAME=VALUE", help="Argument of the class, factory or configuration")
]
Loss = Annotated[
    str | None, typer.Option("--loss", help="cross_entropy, nll, mse, bce_with_logits, or model (the loss that the model returns)")
]
Eval = Annotated[bool, typer.Option("--eval", help="Evaluation mode instead of training mode")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead of to the terminal")]
Select = Annotated[list[str] | None, typer.Option("--select", help="Only codes that begin so; repeat, or separate by commas")]
Ignore = Annotated[list[str] | None, typer.Option("--ignore", help="No codes that begin so")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version and leave")] = False) -> None:
    """Options of all commands."""
    if version:
        from initio import __version__

        typer.echo(f"initio {__version__}")
        raise typer.Exit


@app.command()
def check(
    targets: SomeTargets = None,
    inputs: Inputs = None,
    arg: Args = None,
    loss: Loss = None,
    evaluate: Eval = False,
    select: Select = None,
    ignore: Ignore = None,
    fail_on: Annotated[FailOn | None, typer.Option(help="Least severity that makes the exit status 1 (warning)")] = None,
    format: Annotated[CheckFormat, typer.Option("--format", "-f", help="Format of the report")] = CheckFormat.text,  # noqa: A002
    output: Output = None,
    config: Annotated[Path | None, typer.Option("--config", help="A pyproject.toml; else the nearest with [tool.initio]")] = None,
    isolated: Annotated[bool, typer.Option("--isolated", help="Read no configuration")] = False,
    baseline: Annotated[Path | None, typer.Option("--baseline", help="Leave out what this file lists")] = None,
    write_baseline: Annotated[Path | None, typer.Option("--write-baseline", help="List all findings in this file, and pass")] = None,
    static: Annotated[bool, typer.Option("--static", help="TARGETs are files or directories: read their source, import nothing")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up on a target after that time")] = None,
) -> int:
    """What will break in a model, where, why, and the remedy."""
    from initio.cli import checking
    from initio.core.report import exit_status
    from initio.core.suppressions import baseline_text

    given = checking.settings(config, isolated)
    options = (inputs, arg, loss, evaluate, codes(select), codes(ignore), static, timeout, baseline)
    requests = [checking.Request(each, *options) for each in targets or (None,)]
    note = "No target was given: these are the example models that ship with Initio." if not targets and not given.targets else ""
    with write(output) as sink:
        reports = [report for request in requests for report in checking.gather(request, given, _examples)]
        if write_baseline is not None:
            with write(write_baseline) as file:
                file.write(baseline_text(reports))
        checking.render(reports, format.value, sink, note)
    return 0 if write_baseline is not None else exit_status(reports, fail_on.value if fail_on is not None else given.fail_on)


@app.command()
def show(
    target: TargetOf,
    inputs: Inputs = None,
    arg: Args = None,
    loss: Loss = None,
    evaluate: Eval = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every operation too")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only the blocks: gain, and the share of skip and branches")] = False,
    train_eval: Annotated[bool, typer.Option("--train-eval", help="Only the outputs, in both modes: where they part, and why")] = False,
    format: Annotated[Format, typer.Option("--format", "-f", help="Format of the analysis")] = Format.text,  # noqa: A002
    output: Output = None,
) -> int:
    """Every module and parameter with its predicted scale, forward and backward."""
    from initio.api import analyze
    from initio.api import train_eval as run_modes
    from initio.api.steps import crash_error
    from initio.core.errors import InitioError
    from initio.render import terminal
    from initio.render.modes import show_modes

    with write(output) as sink:
        found, given = resolved(target, inputs, arg)
        if train_eval:
            if evaluate or nodes or paths or loss:
                came = next(name for name, on in (("eval", evaluate), ("nodes", nodes), ("paths", paths), ("loss", loss)) if on)
                remedy = "It shows the forward pass in both modes; leave the other option out."
                raise InitioError("--train-eval by itself", f"--{came} came with it", where="show", remedy=remedy)
            modes = run_modes(found.build, given, target=target)
            sink.write(modes.to_json() + "\n") if format is Format.json else show_modes(modes, console(sink), title=target)
            return 0
        analysis = analyze(found.build, given, loss=loss or found.loss, train=not evaluate)
        if format is Format.json:
            sink.write(analysis.to_json() + "\n")
        else:
            terminal.show(analysis, console(sink), nodes=nodes, paths=paths, title=target)
    if analysis.record.crash is not None:
        raise crash_error(analysis.record.crash, target)
    return 0


@app.command()
def measure(
    target: TargetOf,
    inputs: Inputs = None,
    arg: Args = None,
    loss: Loss = None,
    evaluate: Eval = False,
    draws: Annotated[int, typer.Option("--draws", "-n", help="How often the real model is built and run")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the draws")] = 0,
    format: Annotated[Format, typer.Option("--format", "-f", help="Format of the tables")] = Format.text,  # noqa: A002
    output: Output = None,
) -> int:
    """Build and run the real model several times, and set the prediction beside what it measures."""
    from initio.api import analyze, compare
    from initio.api import measure as run
    from initio.api.steps import crash_error
    from initio.render import json
    from initio.render.measured import show_compared, tables

    with write(output) as sink:
        found, given = resolved(target, inputs, arg)
        analysis = analyze(found.build, given, loss=loss or found.loss, train=not evaluate)
        if analysis.record.crash is not None:
            raise crash_error(analysis.record.crash, target)
        measurement = run(found.build, given, draws=draws, loss=loss or found.loss, train=not evaluate, seed=seed)
        compared = compare(analysis, measurement)
        parts = {"outputs": compared.outputs, "cotangents": compared.cotangents, "gradients": compared.gradients}
        if format is Format.json:
            sink.write(json.render_measurement(target, measurement.draws, tables(parts)) + "\n")
        else:
            show_compared(target, measurement.draws, measurement.interrupted, parts, console(sink))
    return 0


@app.command()
def explain(code: Annotated[str, typer.Argument(metavar="CODE", help="Code or name of a check, such as SIG101")]) -> int:
    """What a check looks for, why it matters, an example, and what to write instead."""
    import sys

    from initio.checks.framework import find_check
    from initio.render.terminal import page

    found = find_check(code)
    page(f"# {found.code} {found.name} ({found.severity})\n\n{found.page}", console(sys.stdout))
    return 0


@app.command()
def rules(format: Annotated[Format, typer.Option("--format", "-f", help="Format of the list")] = Format.text) -> int:  # noqa: A002
    """All checks: code, name, severity and one sentence."""
    import sys

    from initio.checks.framework import all_checks
    from initio.core.plain import dumps
    from initio.render.terminal import show_rules

    rows = [(each.code, each.name, each.severity, each.summary) for each in all_checks()]
    if format is Format.json:
        keys = ("code", "name", "severity", "summary")
        typer.echo(dumps({"schema": "initio.rules/1", "rules": [dict(zip(keys, row, strict=True)) for row in rows]}))
    else:
        show_rules(rows, console(sys.stdout))
    return 0


def codes(texts: list[str] | None) -> tuple[str, ...]:
    """Prefixes of codes, out of options that may be repeated or hold commas."""
    return tuple(code.strip().upper() for text in texts or () for code in text.split(",") if code.strip())


def resolved(target: str, inputs: list[str] | None, arg: list[str] | None) -> tuple[Any, Any]:
    """The target, and its inputs as given or as inferred."""
    from initio.api.targets import arguments, resolve
    from initio.core.errors import InitioError
    from initio.core.inputs import parse

    specs = [parse(text) for text in inputs or ()]
    found = resolve(target, arguments(arg or ()))
    if not specs and found.inputs is None:
        remedy = "Say its shape: --input 8x3x224x224, or --input input_ids=2x128:int(50257)."
        raise InitioError("an input for this model", "none was given and none can be inferred", where=target, remedy=remedy)
    return found, specs or found.inputs


def _examples() -> list[str]:
    """Targets of the shipped example models."""
    import pkgutil
    from importlib.resources import files

    names = sorted(info.name for info in pkgutil.iter_modules([str(files("initio.examples"))]))
    return [f"initio.examples.{name}:Model" for name in names]
