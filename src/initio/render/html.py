"""The report as one HTML file that loads nothing: template, style, script and plotting library are package data."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from initio.checks.framework import run
from initio.core.analysis import Analysis
from initio.core.contrast import Contrast, figures
from initio.core.report import Report
from initio.render.payload import Measured, payload, rounded

if TYPE_CHECKING:
    import sys
    from collections.abc import Mapping, Sequence

    from initio.derivations.derivation import Derivation

    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable

__all__ = ["SCRIPTS", "contrasted", "embedded", "filled", "frame", "lively", "page", "report_of"]

SCRIPTS = ("page.js", "charts.js", "table.js", "diagram.js", "start.js")

UNSAFE = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Characters that could end a script element, or a line of one, as JSON escapes."""


def page(
    report: Report, measured: Measured | None = None, *, derivation: Derivation | None = None, diffs: Mapping[str, str] | None = None
) -> str:
    """The page of a report. Names from the model enter as JSON only, and the script writes them as text.

    `derivation` adds its steps, escaped, as a folded section; `diffs` holds the edit of a finding by its fingerprint.
    """
    return filled(
        "page.html", report.target, payload(report, measured, diffs), SCRIPTS, DERIVATION=_derived(derivation), CONNECT="", LIVE=""
    )


def lively(data: Mapping[str, Any]) -> str:
    """The page of a model that a server changes: the report page with a panel, which may speak to where it came from alone."""
    panel = '<section id="live" aria-label="Changes"></section>'
    return filled("page.html", data["target"], data, (*SCRIPTS, "live.js"), DERIVATION="", CONNECT="; connect-src 'self'", LIVE=panel)


def contrasted(contrast: Contrast) -> str:
    """The page of two models side by side."""
    first, second = (payload(side.report) for side in (contrast.a, contrast.b))
    for side in (first, second):  # the graph and the texts of the checks stand on the pages of each
        side |= {"diagram": None, "pages": {}, "forks": []}
    names = [contrast.a.name, contrast.b.name]
    data = {**first, "b": second, "names": names, "figures": rounded(figures(contrast)), "remarks": list(contrast.notes)}
    return filled("compare.html", " and ".join(names), data, ("page.js", "charts.js", "compare.js"))


def filled(template: str, title: str, data: object, scripts: Sequence[str], **parts: str) -> str:
    """A template of the package with style, plotting library, data and scripts put in; `parts` are markup."""
    folder = files("initio.render").joinpath("page")
    parts |= {
        "TITLE": escape(title[:200]),
        "UPLOT_CSS": _read(folder, "uPlot.min.css"),
        "CSS": _read(folder, "page.css"),
        "LICENSE": escape(_read(folder, "uPlot-LICENSE.txt").strip()).replace("--", "- -"),
        "UPLOT": _read(folder, "uPlot.iife.min.js"),
        "DATA": embedded(data),
        "SCRIPT": "".join(_read(folder, name) for name in scripts),
    }
    first, *rest = _read(folder, template).split("{{")
    pieces = [first]
    for piece in rest:
        name, _, tail = piece.partition("}}")
        pieces += [parts[name], tail]
    return "".join(pieces)


def _derived(derivation: Derivation | None) -> str:
    if derivation is None:
        return ""
    from initio.derivations.formats import fragment

    steps = f"{len(derivation)} step" + ("s" if len(derivation) != 1 else "")
    summary = f"<summary>{steps}, each with its verification</summary>"
    return f'<section id="derivation"><h2>Derivation</h2><details class="card">{summary}{fragment(derivation, 3)}</details></section>'


def embedded(data: object) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":")).translate(UNSAFE)


def report_of(analysis: Analysis, target: str = "") -> Report:
    """A report on an analysis alone; checks that compare training with evaluation need `initio.check`."""
    model = analysis.record.calls[0].kind.rpartition(".")[2] if analysis.record.calls else "model"
    return Report(target or model, run(analysis), analysis)


def frame(text: str, height: int = 720) -> str:
    """A page inside a notebook's output: a frame with an origin of its own."""
    style = "width:100%;border:1px solid #8888;border-radius:8px"
    content = escape(text, quote=True)
    return f'<iframe title="Initio report" sandbox="allow-scripts" style="{style}" height="{height}" srcdoc="{content}"></iframe>'


def _read(folder: Traversable, name: str) -> str:
    return folder.joinpath(name).read_text(encoding="utf-8")
