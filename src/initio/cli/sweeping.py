"""`initio sweep`: the map of a family of models over depth, width, gain or whatever its factory takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from initio.cli.app import Args, Eval, Ignore, Inputs, Loss, Select, app, codes
from initio.cli.output import write

EVERY = 10.0
"""Seconds between two lines of progress where no terminal shows a bar."""

Progress = Callable[[int, int, int], None]


@app.command()
def sweep(
    factory: Annotated[str, typer.Argument(metavar="FACTORY", help="FILE.py:NAME or PACKAGE.MODULE:NAME of a class or function")],
    grid: Annotated[
        list[str], typer.Option("--grid", "-g", metavar="NAME=VALUES", help="LOW:HIGH[:N], LOW:HIGH:log[:N] or A,B,C; repeat it")
    ],
    inputs: Inputs = None,
    arg: Args = None,
    loss: Loss = None,
    evaluate: Eval = False,
    select: Select = None,
    ignore: Ignore = None,
    findings: Annotated[bool, typer.Option("--findings/--no-findings", help="Run the checks in every cell")] = True,
    draws: Annotated[int, typer.Option("--measure", "-n", min=0, metavar="DRAWS", help="Run the real model so often in every cell")] = 0,
    steps: Annotated[int, typer.Option("--train", min=0, metavar="STEPS", help="Train so many steps on synthetic data in every cell")] = 0,
    rate: Annotated[float, typer.Option("--learning-rate", metavar="RATE", help="Adam's, for --train")] = 1e-3,
    store: Annotated[Path, typer.Option("--store", metavar="FILE", help="Where cells are kept; the same command goes on with it")] = Path(
        "sweep.sqlite"
    ),
    retry: Annotated[bool, typer.Option("--retry-failed", help="Try the failed cells of the store again")] = False,
    workers: Annotated[int | None, typer.Option("--workers", "-j", min=0, help="Processes (one a core); 0: this one")] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Work on the Ray cluster there: HOST:PORT, ray://HOST:PORT, auto")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write heat maps (.html), or the table (.csv, .json)")
    ] = None,
) -> int:
    """Predict depth scales, growth and findings in every cell of a grid. Exit status: 1 where cells failed, 2 where there is no result."""
    from initio.api import sweep as run
    from initio.api.targets import arguments
    from initio.core.errors import InitioError

    if output is not None and output.suffix not in (".html", ".csv", ".json"):
        came = f"{str(output)!r} came"
        raise InitioError("a file that ends in .html, .csv or .json", came, where="--output", remedy="Its ending says what is written.")
    with write(output) as sink, _progress() as progress:
        found = run(
            factory, grid, list(inputs) if inputs else None, fixed=arguments(arg or ()), loss=loss, train=not evaluate, measure=draws,
            train_steps=steps, learning_rate=rate, findings=findings, select=codes(select), ignore=codes(ignore), store=store,
            workers=workers, ray=ray, retry_failed=retry, progress=progress,
        )  # fmt: skip
        if found.interrupted:
            done = len(found.grid) - found.missing
            print(f"interrupted: {done} of {len(found.grid)} cells are kept in {store}; the same command goes on", file=sys.stderr)
            raise KeyboardInterrupt
        if output is not None:
            sink.write(_text(found, output.suffix))
    print(found)
    return int(bool(found.failed))


def _text(found: Any, suffix: str) -> str:
    if suffix == ".html":
        return found.to_html()
    if suffix == ".json":
        from initio.core.plain import dumps

        return dumps({"schema": "initio.sweep/1", "about": found.about, "cells": found.rows(), "remarks": found.remarks}) + "\n"
    import csv
    import io

    rows = found.rows()
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


@contextmanager
def _progress() -> Generator[Progress]:
    """A bar on a terminal's stderr, a line now and then elsewhere."""
    start = time.monotonic()
    if not sys.stderr.isatty():
        last = start

        def line(done: int, failed: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                print(f"{done} of {total} cells, {failed} failed, {last - start:.0f} s", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("cells, {task.fields[failed]} failed"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sweep", total=None, failed=0)
        yield lambda done, failed, total: bar.update(task, completed=done, total=total, failed=failed)
