"""What `initio check` does: which targets, under which configuration, and in which format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from initio.core.errors import InitioError

if TYPE_CHECKING:
    from initio.core.finding import Finding
    from initio.core.report import Report
    from initio.core.settings import Settings, TargetSettings

__all__ = ["Request", "configured", "gather", "render", "settings"]


@dataclass(frozen=True, slots=True)
class Request:
    """The command line of `initio check`."""

    target: str | None
    inputs: list[str] | None
    args: list[str] | None
    loss: str | None
    evaluate: bool
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    static: bool = False
    timeout: float | None = None
    baseline: Path | None = None


def settings(file: Path | None, isolated: bool = False) -> Settings:
    """The configuration named, or that of the nearest pyproject.toml; its codes are checked."""
    from initio.checks.framework import validate
    from initio.core import settings as configuration

    found = configuration.load(file if file is not None else None if isolated else configuration.find(Path.cwd()))
    configuration.validate(found, validate)
    return found


def gather(request: Request, given: Settings, examples: Callable[[], Iterable[str]]) -> list[Report]:
    """A report on each target, without what the configuration, comments and the baseline silence."""
    from initio.checks.framework import validate
    from initio.core.report import selected
    from initio.core.suppressions import read_baseline, suppress

    select, ignore = request.select or given.select, (*given.ignore, *request.ignore)
    validate((*request.select, *request.ignore))
    file = request.baseline or given.baseline
    known: Mapping[str, tuple[str, ...]] | None = None if file is None else read_baseline(file)
    if request.static:
        reports = _static(request, select, ignore)
    else:
        reports = [_timed(each, select, ignore) for each in _requests(request, given, examples)]

    def judged(code: str) -> bool:
        from initio.checks.static import STATIC

        possible = not request.static or (bool(code) and any(each.startswith(code) for each in STATIC))
        return possible and (selected(code, select, ignore) if code else not (select or ignore))

    return [suppress(report, given.per_module, known, judged) for report in reports]


def _requests(request: Request, given: Settings, examples: Callable[[], Iterable[str]]) -> list[Request]:
    """One request a target: the one that is named (with what the configuration says of it), those of the configuration, or the examples."""
    known = {each.target: each for each in given.targets}
    if request.target is None and not known:
        return [replace(request, target=name) for name in examples()]
    found: list[Request] = []
    for name in [request.target] if request.target is not None else known:
        each = known.get(name)
        if each is not None:
            found.append(configured(request, each))
        else:
            found.append(replace(request, target=name))
    return found


def configured(request: Request, each: TargetSettings) -> Request:
    """The request for a target of the configuration; the command line goes before it."""
    args = [*(f"{key}={value!r}" if not isinstance(value, str) else f"{key}={value}" for key, value in each.args.items())]
    return replace(
        request, target=each.target, inputs=request.inputs or _texts(each.inputs), args=[*args, *(request.args or ())],
        loss=request.loss or each.loss, evaluate=request.evaluate or each.eval,
    )  # fmt: skip


def _texts(inputs: Any) -> list[str] | None:
    """Inputs of a configuration as the command line writes them."""
    if inputs is None:
        return None
    if isinstance(inputs, dict):
        return [f"{name}={text}" for name, text in cast("dict[str, Any]", inputs).items()]
    return [str(each) for each in cast("list[Any]", inputs)] if isinstance(inputs, list) else [str(inputs)]


def _timed(request: Request, select: tuple[str, ...], ignore: tuple[str, ...]) -> Report:
    from initio.api import check
    from initio.api.steps import crash_error
    from initio.checks.framework import EXPLAINS_CRASH
    from initio.cli.app import resolved
    from initio.cli.deadline import deadline

    target = request.target or ""
    with deadline(request.timeout, target):
        found, given = resolved(target, request.inputs, request.args)
        train = not request.evaluate
        report = check(found.build, given, loss=request.loss or found.loss, train=train, select=select, ignore=ignore, target=target)
    crash, codes = report.analysis.record.crash, {finding.code for finding in report.findings}
    if crash is not None and not codes & (set(EXPLAINS_CRASH) - {"SHP105"}):
        told = next((finding for finding in report.findings if finding.code == "SHP105"), None)
        if told is None:
            raise crash_error(crash, target)
        where = str(crash.source or told.source or "")
        raise InitioError(f"{target} to run on this input", told.message.rstrip("."), where=where, remedy=told.remedy)
    return replace(report, about=found.about)


def _static(request: Request, select: tuple[str, ...], ignore: tuple[str, ...]) -> list[Report]:
    """A report on each file with findings, or on the path as a whole where there is none."""
    from initio.checks.static import files, scan
    from initio.core.analysis import Analysis
    from initio.core.record import Record
    from initio.core.report import Report

    if request.target is None:
        raise InitioError("a file or a directory", "none was given", where="--static", remedy="Write initio check src/ --static.")
    empty = Analysis.build(Record((), (), (), (), (), ()), {})
    reports = [Report(str(file), scan(file), empty).select(select, ignore) for file in files(Path(request.target))]
    found = [report for report in reports if report.findings]
    return found or [Report(request.target, (), empty)]


def render(reports: Sequence[Report], format: str, sink: TextIO, note: str = "") -> None:  # noqa: A002
    """Write the reports in a format."""
    if format in ("sarif", "json"):
        reports = [_with_edits(report) for report in reports]
    if format == "sarif":
        from initio import __version__
        from initio.checks.framework import all_checks
        from initio.render import sarif

        sink.write(sarif.render(reports, [(c.code, c.name, c.severity, c.summary, c.page) for c in all_checks()], __version__) + "\n")
    elif format == "github":
        from initio.render import github

        sink.write(github.render(reports))
    elif format == "json":
        from initio.render import json

        sink.write(json.render(reports) + "\n")
    elif format == "markdown":
        from initio.render import markdown

        sink.write(markdown.render(reports))
    else:
        _terminal(reports, sink, note)


def _with_edits(report: Report) -> Report:
    """The report with the diff that `initio fix` would try in each fix that has one."""
    if not any(_editable(finding) for finding in report.findings) or not report.analysis.nodes:
        return report
    from initio.api.fixing import drafts

    diffs = drafts(report)
    return replace(report, findings=tuple(_with_edit(finding, diffs.get(finding.fingerprint, "")) for finding in report.findings))


def _with_edit(finding: Finding, diff: str) -> Finding:
    return finding if finding.fix is None or not diff else replace(finding, fix=replace(finding.fix, edit=diff))


def _terminal(reports: Sequence[Report], sink: TextIO, note: str) -> None:
    from initio.cli.output import console
    from initio.render import terminal

    page = console(sink)
    if note:
        page.print(f"{note}\n", style="italic")
    for position, report in enumerate(reports):
        if position:
            page.print()
        terminal.show_report(report, page)
    terminal.show_summary(reports, page)
    for report in reports:
        count = 0 if report.target.startswith("initio.") else sum(_editable(finding) for finding in report.findings)
        if count:
            page.print(f"`initio fix {report.target} --diff --unsafe` shows edits for {count} of these.", style="dim", soft_wrap=True)


def _editable(finding: Finding) -> bool:
    """Whether `initio fix` may know an edit: there is one for the code, and the line is in no installed package."""
    from initio.core.suppressions import INSTALLED
    from initio.rewrite.source import EDITS

    own = finding.source is not None and not any(part in finding.source.file for part in INSTALLED)
    return finding.fix is not None and finding.code in EDITS and own
