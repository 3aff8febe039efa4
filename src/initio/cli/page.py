"""`initio report` and `initio serve`: everything about a model on one page, as a file or live."""

from __future__ import annotations

from contextlib import suppress
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


@app.command()
def serve(
    target: TargetOf,
    inputs: Inputs = None,
    arg: Args = None,
    loss: Loss = None,
    evaluate: Eval = False,
    host: Annotated[str, typer.Option("--host", help="A loopback address")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one")] = 8477,
) -> int:
    """The report page with a live model: change sizes, arguments and blocks, and see the numbers answer. Ends by Ctrl-C."""
    import secrets
    import sys

    from initio.api.live import Live
    from initio.api.targets import arguments
    from initio.cli import serving

    with serving.bound(host, port) as listener:
        found, given = resolved(target, inputs, arg)
        live = Live(found, given, {"loss": loss or found.loss, "train": not evaluate}, arguments(arg or ()))
        token = secrets.token_urlsafe(24)
        server = serving.application(live, token)
        place = f"[{host}]" if ":" in host else host
        print(f"http://{place}:{listener.getsockname()[1]}/{token}/", flush=True)
        print("Only this machine can reach it. Ctrl-C ends it.", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            serving.run(server, listener)
    return 0
