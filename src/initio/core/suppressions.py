"""What keeps findings out of a report: `# initio: ignore[CODE]` comments, patterns of module paths, and baselines."""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from initio.core.errors import InitioError
from initio.core.finding import Finding
from initio.core.plain import dumps
from initio.core.report import Report, selected

__all__ = ["BASELINE_SCHEMA", "INSTALLED", "Comment", "baseline_text", "comments", "read_baseline", "suppress"]

BASELINE_SCHEMA = "initio.baseline/1"
COMMENT = re.compile(r"#\s*initio:\s*ignore(?:\[([A-Za-z0-9_,\s]*)\])?")
INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True, slots=True)
class Comment:
    """`# initio: ignore[codes]` on a line; without codes it silences every check there."""

    file: str
    line: int
    codes: tuple[str, ...]

    def covers(self, finding: Finding) -> bool:
        """Whether it stands at the finding's line and names its code (or a prefix)."""
        source = finding.source
        here = source is not None and (source.file, source.line) == (self.file, self.line)
        return here and (not self.codes or selected(finding.code, self.codes))


def comments(file: str) -> tuple[Comment, ...]:
    """The suppressions of a file, found by its tokens: text inside of strings is none."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (OSError, UnicodeDecodeError, tokenize.TokenError, SyntaxError):
        return ()
    found: list[Comment] = []
    for token in tokens:
        match = COMMENT.search(token.string) if token.type == tokenize.COMMENT else None
        if match is not None:
            codes = tuple(code.strip().upper() for code in (match[1] or "").split(",") if code.strip())
            found.append(Comment(file, token.start[0], codes))
    return tuple(found)


def suppress(
    report: Report,
    per_module: Mapping[str, Iterable[str]],
    baseline: Mapping[str, Iterable[str]] | None = None,
    judged: Callable[[str], bool] = lambda code: True,
) -> Report:
    """The report without what comments, module patterns and the baseline silence; what silences nothing is said in its notes.

    `judged` says of a code whether it was looked for: a comment for one that was not, is not called unused. Nor is one on a line
    that the model does not come by.
    """
    kept: list[Finding] = []
    used: set[object] = set()
    known = set((baseline or {}).get(report.target, ()))
    lines = _lines(report)
    written = [comment for file in sorted({file for file, _ in lines}) for comment in comments(file)]
    for finding in report.findings:
        by: list[object] = [comment for comment in written if comment.covers(finding)]
        by += [pattern for pattern, codes in per_module.items() if _matches(pattern, finding) and selected(finding.code, codes)]
        by += [finding.fingerprint] if finding.fingerprint in known else []
        used.update(by)
        if not by:
            kept.append(finding)
    idle = [c for c in written if c not in used and (c.file, c.line) in lines and all(judged(code) for code in c.codes or ("",))]
    unused = [f"unused suppression at {c.file}:{c.line}: {', '.join(c.codes) or 'any code'} is not found there" for c in idle]
    gone = len(known - used)
    unused += [f"{gone} findings of the baseline are gone; write it anew to keep them out"] if gone else []
    ignored = report.ignored + len(report.findings) - len(kept)
    return replace(report, findings=tuple(kept), ignored=ignored, remarks=(*report.remarks, *unused))


def _matches(pattern: str, finding: Finding) -> bool:
    """Whether every module of a finding matches: one that concerns others too stays."""
    return all(fnmatchcase(path, pattern) for path in (finding.module, *finding.also))


def _lines(report: Report) -> set[tuple[str, int]]:
    """(file, line) of the model's own code that the step came by."""
    record, tree = report.analysis.record, report.analysis.tree
    sources = [node.source for node in record.nodes] + [place for module in tree.modules for place in (module.source, module.defined)]
    sources += [finding.source for finding in report.findings]
    places = {(source.file, source.line) for source in sources if source is not None}
    return {place for place in places if not any(part in place[0] for part in INSTALLED)}


def baseline_text(reports: Iterable[Report]) -> str:
    """The JSON of a baseline: by target, the fingerprint of every finding, with what a reader needs to recognise it."""
    targets = {
        report.target: [
            {"fingerprint": each.fingerprint, "code": each.code, "module": each.module, "entity": each.entity} for each in report.findings
        ]
        for report in reports
    }
    return dumps({"schema": BASELINE_SCHEMA, "targets": targets}) + "\n"


def read_baseline(file: Path) -> dict[str, tuple[str, ...]]:
    """Target → fingerprints.

    Raises:
        InitioError: a file that cannot be read, or is no baseline.
    """
    remedy = "Write it anew: initio check … --write-baseline FILE."
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InitioError("a readable baseline", f"{file}: {error.strerror}", where="--baseline", remedy=remedy) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InitioError("a baseline in JSON", f"{error}", where=str(file), remedy=remedy) from error
    try:
        if data["schema"] != BASELINE_SCHEMA:
            raise InitioError(f"a baseline of schema {BASELINE_SCHEMA}", f"{data['schema']!r} came", where=str(file), remedy=remedy)
        targets = cast("dict[str, list[dict[str, str]]]", data["targets"])
        return {target: tuple(str(each["fingerprint"]) for each in findings) for target, findings in targets.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InitioError("a baseline", f"{error!r} when reading it", where=str(file), remedy=remedy) from error
