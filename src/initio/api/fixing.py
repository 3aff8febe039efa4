"""Fixing a model's source: check, edit a copy, import it, prove it, and only then replace the files."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from initio.core.errors import InitioError
from initio.core.finding import Finding
from initio.core.inputs import parse
from initio.core.record import Source
from initio.core.report import Report
from initio.core.rewriting import Fixing, Refused
from initio.core.suppressions import INSTALLED

__all__ = ["drafts", "fix"]

MODES = {"MOD101": True, "NRM101": True}
"""Codes whose fixed model computes the same in training mode; a fix that claims safety does so in evaluation mode unless it is here."""
SCHEMES = ("torchvision", "timm", "hf")
Keep = Callable[[Report], Report]


def fix(
    target: str,
    inputs: Sequence[str] | str | None = None,
    *,
    args: Mapping[str, Any] | None = None,
    loss: str | None = None,
    train: bool = True,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    unsafe: bool = False,
    keep: Keep = lambda report: report,
) -> Fixing:
    """Edit a copy of the target's source until no finding with an applicable fix is left; nothing is written before `Fixing.write`.

    `target` is `FILE.py:NAME` or `PACKAGE.MODULE:NAME`; only files below its directory are edited. `unsafe` admits fixes that change
    the function or the state dict. `keep` drops the findings that are to be left alone. Each fix is proven on the copy: it imports, the
    finding is gone, no error is new, and where the fix claims it, the outputs of the same weights are equal.

    >>> found = fix("net.py:Net", "8x16", unsafe=True)  # doctest: +SKIP
    >>> print(found.diff())  # doctest: +SKIP
    >>> found.write()  # doctest: +SKIP

    Raises:
        InitioError: as `check`; a target that is no source of yours.
    """
    framework = importlib.import_module("initio.checks.framework")
    select, ignore = tuple(select), tuple(ignore)
    framework.validate((*select, *ignore))
    specs = [parse(text) for text in ([inputs] if isinstance(inputs, str) else inputs or ())]
    job = _Job(target, specs, dict(args or {}), loss, train, lambda report: keep(report.select(select, ignore)))
    state = job.look({})
    done: list[Finding] = []
    refused: dict[str, Refused] = {}
    rounds = -1
    while rounds < len(done):  # what was refused is tried again after something else was mended
        rounds, refused = len(done), {}
        while batch := _next(state.report.findings, refused, unsafe):
            for chosen in [batch, *([each] for each in batch if len(batch) > 1)]:
                made = job.attempt(state, chosen)
                if isinstance(made, _State):
                    before, state = state.texts, made
                    done += [job.original(finding, before) for finding in chosen]
                    break
                if len(chosen) == 1:
                    refused[_key(chosen[0])] = Refused(job.original(chosen[0], state.texts), made)
        if not refused:
            break
    edits = importlib.import_module("initio.rewrite.source").EDITS
    left = [job.original(f, state.texts) for f in state.report.findings if f.fix is not None and _key(f) not in refused]
    held = tuple(f for f in left if f.code in edits and f.fix is not None and f.fix.applicability == "unsafe" and not unsafe)
    by_hand = tuple(f for f in left if f.code not in edits)
    changed = {path: (job.originals[path], text) for path, text in state.texts.items()}
    return Fixing(target, changed, tuple(done), tuple(refused.values()), held, by_hand, state.report)


def drafts(report: Report, most: int = 50) -> dict[str, str]:
    """The edit that `fix` would try for each of the first `most` findings, by fingerprint, as a unified diff; nothing is proven here.

    A finding is left out where no edit mends its code, where the source does not show the place, or where the file is not yours.
    """
    source = importlib.import_module("initio.rewrite.source")
    found: dict[str, str] = {}

    def read(file: str) -> tuple[Path, bytes]:
        path = Path(file).resolve()
        if any(part in path.parts for part in INSTALLED) or not path.is_file():
            raise source.Unfixable(f"{file} is not among your files")
        return path, path.read_bytes()

    for finding in report.findings[:most]:
        if finding.fix is None or finding.code not in source.EDITS:
            continue
        desk = source.Desk(report.analysis, read, _initialiser(report.analysis))
        try:
            desk.attempt(source.EDITS[finding.code], finding)
            texts = desk.texts()
        except source.Unfixable:
            continue
        changed = {path: (path.read_bytes(), text) for path, text in texts.items()}
        if changed:
            found[finding.fingerprint] = Fixing(report.target, changed, (finding,), (), (), (), report).diff()
    return found


def _initialiser(analysis: Any) -> Callable[[Finding], str]:
    def write(finding: Finding) -> str:
        try:
            return importlib.import_module("initio.api.planning").initialiser(analysis, finding)
        except InitioError as error:
            raise importlib.import_module("initio.rewrite.source").Unfixable(f"{error}") from error

    return write


def _next(findings: Iterable[Finding], refused: Mapping[str, Refused], unsafe: bool) -> list[Finding]:
    """The findings of one code that come next."""
    edits = importlib.import_module("initio.rewrite.source").EDITS
    admitted = ("safe", "unsafe") if unsafe else ("safe",)
    open_ = [f for f in findings if f.code in edits and f.fix is not None and f.fix.applicability in admitted and _key(f) not in refused]
    batch = [finding for finding in open_ if finding.code == open_[0].code]
    return sorted(batch, key=lambda finding: (finding.source.file, finding.source.line) if finding.source is not None else ("", 0))


def _key(finding: Finding) -> str:
    return f"{finding.fingerprint}:{finding.source}"


@dataclass(frozen=True)
class _State:
    """The changed files, and what a check of them says. Sources are those of the project."""

    texts: Mapping[Path, bytes]
    report: Any
    outcome: Any = None


class _Job:
    def __init__(self, target: str, specs: list[Any], args: dict[str, Any], loss: str | None, train: bool, keep: Keep) -> None:
        self.target, self.specs, self.args, self.loss, self.train, self.keep = target, specs, args, loss, train, keep
        self.root, self.inside = _root(target)
        self.originals: dict[Path, bytes] = {}

    def look(self, texts: Mapping[Path, bytes], mode: bool | None = None, state: Any = None, *, check: bool = True) -> _State:
        """Import the project with these texts, check the target, and run it in a mode (taking over a state) if one is given."""
        steps, targets = importlib.import_module("initio.api.steps"), importlib.import_module("initio.api.targets")
        place = self.root / self.inside
        own = {place: place.read_bytes()} if place.is_file() else {}  # its directory is a copy even if only another one changes
        with importlib.import_module("initio.rewrite.source.mirror").mirror(self.root, {**own, **texts}) as copy:
            found = targets.resolve(f"{copy / self.inside}:{self.target.rpartition(':')[2]}" if self.inside else self.target, self.args)
            given = self.specs or found.inputs
            if not given:
                remedy = "Say its shape: --input 8x3x224x224, or --input input_ids=2x128:int(50257)."
                raise InitioError("an input for this model", "none was given and none can be inferred", where=self.target, remedy=remedy)
            report = None
            if check:
                report = steps.check(found.build, given, loss=self.loss or found.loss, train=self.train, target=self.target)
                report = _moved(self.keep(report), copy, self.root)
            ran = None
            if mode is not None:
                ran = importlib.import_module("initio.api.proving").outcome(found.build, given, train=mode, state=state)
        return _State(texts, report, ran)

    def original(self, finding: Finding, texts: Mapping[Path, bytes]) -> Finding:
        """The finding at its line in the files as they are, rather than as they are edited so far."""
        source = finding.source
        if source is None or (path := Path(source.file)) not in texts:
            return finding
        now, then = (text.decode("utf-8", "replace").splitlines() for text in (texts[path], self.originals[path]))
        for tag, start, stop, first, last in difflib.SequenceMatcher(None, now, then, autojunk=False).get_opcodes():
            if start <= source.line - 1 < stop and tag in ("equal", "replace"):
                return replace(finding, source=replace(source, line=min(first + source.line - 1 - start, max(last - 1, first)) + 1))
        return finding

    def attempt(self, state: _State, findings: list[Finding]) -> _State | str:
        """The state with these findings mended, or why it is not to be had."""
        source = importlib.import_module("initio.rewrite.source")

        def read(file: str) -> tuple[Path, bytes]:
            path = Path(file).resolve()
            if not path.is_relative_to(self.root) or any(part in path.parts for part in INSTALLED):
                raise source.Unfixable(f"{file} is not among the files of {self.root}")
            if path not in self.originals:
                self.originals[path] = path.read_bytes()
            return path, state.texts.get(path, self.originals[path])

        desk = source.Desk(state.report.analysis, read, _initialiser(state.report.analysis))
        try:
            reached = [desk.attempt(source.EDITS[finding.code], finding) for finding in findings]
            texts = {**state.texts, **desk.texts()}
        except source.Unfixable as reason:
            return f"{reason}"
        if texts == state.texts:
            return "the edit changes nothing"
        code, claims = findings[0].code, any(f.fix is not None and f.fix.applicability == "safe" for f in findings)
        proven, crashed = claims or code in MODES, state.report.analysis.record.crash is not None
        mode = MODES.get(code, False)
        proving = importlib.import_module("initio.api.proving")
        try:
            before = self.look(state.texts, mode, check=False).outcome if proven and not crashed else None
            after = self.look(texts) if before is None else self.look(texts, mode, before.state)
        except InitioError as error:
            return f"the fixed model fails: {error}"
        except Exception as error:
            return f"the fixed model fails: {type(error).__name__}: {error}"
        if before is not None and (why := proving.difference(before, after.outcome, same_state=claims)):
            return f"outputs in {'training' if mode else 'evaluation'} mode are not the same: {why}"
        why = _left(state.report, after.report, findings, reached) or _worse(state.report, after.report)
        return why or replace(after, outcome=None)


def _left(before: Report, after: Report, findings: list[Finding], reached: list[tuple[str, ...] | None]) -> str:
    """Which of the findings is still there; empty where none is."""
    for finding, places in zip(findings, reached, strict=True):
        if places is not None:
            there = next(
                (f for f in after.findings if (f.code, f.entity) == (finding.code, finding.entity) and {f.module, *f.also} & {*places}),
                None,
            )
        else:
            same = [f for f in findings if f.fingerprint == finding.fingerprint]
            stay = [f for f in after.findings if f.fingerprint == finding.fingerprint]
            count = sum(f.fingerprint == finding.fingerprint for f in before.findings)
            there = stay[0] if len(stay) > count - len(same) else None
        if there is not None:
            return f"{finding.code} is still found, at {there.module or 'the model'}: {there.message}"
    return ""


def _worse(before: Report, after: Report) -> str:
    """Which error is new; empty where none is. Of a model that raised before, and gets at least as far now, none is: the crash hid it."""
    crashed, crashes = before.analysis.record.crash, after.analysis.record.crash
    if crashed is not None and (crashes is None or len(after.analysis.nodes) >= len(before.analysis.nodes)):
        return ""
    counts = [Counter(f.code for f in report.findings if f.severity == "error") for report in (before, after)]
    for finding in after.findings:
        if finding.severity == "error" and counts[1][finding.code] > counts[0][finding.code]:
            return f"{finding.code} would be new, at {finding.module or 'the model'}: {finding.message}"
    return ""


def _root(target: str) -> tuple[Path, str]:
    """The directory whose files may change, and the target's file in it (empty: it is named as a module)."""
    place, _, _ = target.rpartition(":")
    if target.partition(":")[0] in SCHEMES or not place:
        came = f"{target!r} came"
        raise InitioError("FILE.py:NAME or PACKAGE.MODULE:NAME of your own source", came, where="TARGET", remedy="Name the file to fix.")
    if place.endswith(".py"):
        path = Path(place).resolve()
        root = path.parent
        while (root / "__init__.py").is_file() and root != root.parent:  # its package may be imported by name
            root = root.parent
        return root, str(path.relative_to(root))
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    spec = None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(place.partition(".")[0])
    locations = [Path(each).parent for each in (spec.submodule_search_locations or ())] if spec is not None else []
    if spec is not None and spec.origin and not locations:
        locations = [Path(spec.origin).parent]
    if not locations:
        raise InitioError(
            "an importable module", f"there is no module {place!r}", where="TARGET", remedy="Run from the directory that holds it."
        )
    root = locations[0].resolve()
    if any(part in root.parts for part in INSTALLED) or place.partition(".")[0] in ("initio", "torch"):
        remedy = "Name a file or a package of your own."
        raise InitioError("source of your own", f"{place} is an installed package", where="TARGET", remedy=remedy)
    return root, ""


def _moved(report: Report, copy: Path, root: Path) -> Report:
    """The report with the files of the project in place of those of the copy."""

    def home(source: Source | None) -> Source | None:
        if source is None or not source.file.startswith(str(copy)):
            return source
        return replace(source, file=str(root / Path(source.file).relative_to(copy)))

    analysis = report.analysis
    tree = replace(
        analysis.tree,
        modules=tuple(replace(m, source=home(m.source), assigned=home(m.assigned), defined=home(m.defined)) for m in analysis.tree.modules),
    )
    calls = tuple(replace(call, source=home(call.source)) for call in analysis.record.calls)
    analysis = replace(analysis, tree=tree, record=replace(analysis.record, calls=calls))
    findings = tuple(replace(f, source=home(f.source), message=f.message.replace(f"{copy}/", "")) for f in report.findings)
    return replace(report, findings=findings, analysis=analysis)
