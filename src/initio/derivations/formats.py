"""Derivations as text, Markdown, LaTeX and HTML (MathML: no network, no script)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import sympy as sp
from sympy.printing.mathml import MathMLPresentationPrinter

from initio.derivations.derivation import Derivation, Step, Table

__all__ = ["FORMATS", "fragment"]

MARKS = {"verified": "✓", "refuted": "✗ REFUTED", "not verified": "–", "definition": "·"}
SECTIONS = {
    "parameters": "Parameters and operations", "signal": "The signal", "jacobian": "Jacobians",
    "gradient": "The gradient", "claim": "Claims",
}  # fmt: skip


def text(derivation: Derivation) -> str:
    """Plain text for a terminal."""
    lines = [derivation.title, "=" * len(derivation.title)]
    for section, steps in _sections(derivation):
        lines += ["", SECTIONS.get(section, section), "-" * len(SECTIONS.get(section, section))]
        for step in steps:
            lines += ["", f"{MARKS[step.verification.status]} {step.title}"]
            lines += [f"    {_plain(formula)}" for formula in step.formulas]
            lines += [f"  {step.text}"] if step.text else []
            lines += _columns(step.table) if step.table else []
            lines += [f"  [{step.verification}]"] if step.verification.status != "definition" else []
    return "\n".join([*lines, *_notes(derivation, "")]) + "\n"


def markdown(derivation: Derivation) -> str:
    """Markdown with `$$` formulas."""
    lines = [f"# {derivation.title}"]
    for section, steps in _sections(derivation):
        lines += ["", f"## {SECTIONS.get(section, section)}"]
        for step in steps:
            lines += ["", f"### {step.title}", ""]
            for formula in step.formulas:
                lines += [f"$$\n{_latex(formula)}\n$$", ""]
            lines += [step.text, ""] if step.text else []
            if step.table:
                lines.append("| " + " | ".join(step.table.head) + " |")
                lines.append("|" + "---|" * len(step.table.head))
                lines += ["| " + " | ".join(row) + " |" for row in step.table.rows]
                lines.append("")
            lines += [f"*{MARKS[step.verification.status]} {step.verification}.*"] if step.verification.status != "definition" else []
    return "\n".join([*lines, *_notes(derivation, "- ")]) + "\n"


def latex(derivation: Derivation) -> str:
    """A document for pdflatex or lualatex."""
    lines = [r"\documentclass{article}", r"\usepackage{amsmath,amssymb,booktabs,longtable}", r"\begin{document}"]
    lines.append(rf"\title{{{_escape(derivation.title)}}}\date{{}}\maketitle")
    for section, steps in _sections(derivation):
        lines.append(rf"\section{{{_escape(SECTIONS.get(section, section))}}}")
        for step in steps:
            lines.append(rf"\subsection{{{_escape(step.title)}}}")
            lines += [rf"\[ {_latex(formula)} \]" for formula in step.formulas]
            lines += [_escape(step.text)] if step.text else []
            if step.table:
                lines.append(rf"\begin{{longtable}}{{{'l' * len(step.table.head)}}}\toprule")
                rows = [" & ".join(map(_escape, row)) + r" \\" for row in (step.table.head, *step.table.rows)]
                lines += [rows[0], r"\midrule", *rows[1:], r"\bottomrule\end{longtable}"]
            lines += [rf"\par\textit{{{_escape(str(step.verification))}.}}"] if step.verification.status != "definition" else []
    notes = [_escape(line) + r"\par" for line in _notes(derivation, "") if line]
    return "\n".join([*lines, *notes, r"\end{document}"]) + "\n"


STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6675;--line:#d9dee6;--page:#fff;--good:#1a7f4b;--bad:#b3261e;--card:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa5b5;--line:#333c49;--page:#12161c;--good:#5cc894;--bad:#ff8a80;--card:#1a2029}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:54rem;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.4rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
math{font-size:1.15rem}.f{background:var(--card);border-radius:6px;padding:.7rem 1rem;margin:.5rem 0;overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;margin:.6rem 0;display:block;overflow-x:auto}
td,th{text-align:left;padding:.2rem .9rem .2rem 0;
border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums;white-space:nowrap}
.v{font-size:.88rem;color:var(--soft)}.v b{color:var(--soft)}.verified b{color:var(--good)}.refuted,.refuted b{color:var(--bad)}
"""


def page(derivation: Derivation) -> str:
    """One HTML page, formulas in MathML."""
    lines = ['<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">']
    lines.append(f"<title>{html.escape(derivation.title)}</title><style>{STYLE}</style><body><h1>{html.escape(derivation.title)}</h1>")
    return "\n".join([*lines, fragment(derivation)]) + "</body></html>\n"


def fragment(derivation: Derivation, level: int = 2) -> str:
    """The sections of a derivation as HTML under headings of `level` and the next; everything from the model is escaped."""
    lines: list[str] = []
    for section, steps in _sections(derivation):
        lines.append(f"<h{level}>{html.escape(SECTIONS.get(section, section))}</h{level}>")
        for step in steps:
            lines.append(f"<h{level + 1}>{html.escape(step.title)}</h{level + 1}>")
            lines += [f'<div class="f"><math display="block">{mathml(formula)}</math></div>' for formula in step.formulas]
            lines += [f"<p>{_indices(step.text)}</p>"] if step.text else []
            if step.table:
                head = "".join(f"<th>{html.escape(cell)}</th>" for cell in step.table.head)
                rows = "".join("<tr>" + "".join(f"<td>{_indices(cell)}</td>" for cell in row) + "</tr>" for row in step.table.rows)
                lines.append(f'<table tabindex="0"><tr>{head}</tr>{rows}</table>')
            if step.verification.status == "definition":
                continue
            said = _indices(str(step.verification).removeprefix(step.verification.status))
            kind = step.verification.status
            lines.append(f'<p class="v {kind.replace(" ", "-")}"><b>{MARKS[kind].split()[0]} {kind}</b>{said}.</p>')
    lines += [f'<p class="v">{html.escape(line)}</p>' for line in _notes(derivation, "") if line]
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Derivation], str]] = {"text": text, "markdown": markdown, "latex": latex, "html": page}


class _MathML(MathMLPresentationPrinter):
    """Sums in the order in which they were written."""

    def __init__(self) -> None:
        super().__init__({"mul_symbol": None, "order": "none"})

    def _print_Symbol(self, sym: Any, style: str = "plain") -> Any:
        """x_a^b with whole words and sums as indices."""
        del style
        match = re.fullmatch(r"(.+?)(?:\^\{?([^{}_]+)\}?)?(?:_\{?([^{}^]+)\}?)?(?:\^\{?([^{}_]+)\}?)?", sym.name)
        name, up, down, late = match.groups() if match and "/" not in sym.name else (sym.name, None, None, None)
        up = up or late
        if "/" in name and "∂" in name:
            top, bottom = name.split("/", 1)
            made: Any = self.dom.createElement("mfrac")
            for part in (top, bottom):
                made.appendChild(self._derived(part))
            return made
        base: Any = self._identifier(name)
        if up is None and down is None:
            return base
        made = self.dom.createElement("msubsup" if up and down else "msup" if up else "msub")
        made.appendChild(base)
        for index in (down, up):
            if index:
                made.appendChild(self._identifier(index))
        return made

    def _print_Product(self, e: Any) -> Any:
        """∏ with its range."""
        row: Any = self.dom.createElement("mrow")
        over: Any = self.dom.createElement("munderover")
        sign = self.dom.createElement("mo")
        sign.appendChild(self.dom.createTextNode("∏"))
        over.appendChild(sign)
        index, low, high = e.limits[0]
        over.appendChild(self._print(sp.Eq(index, low, evaluate=False)))
        over.appendChild(self._print(high))
        row.appendChild(over)
        row.appendChild(self.parenthesize(e.function, 50, strict=False))
        return row

    def _derived(self, name: str) -> Any:
        row = self.dom.createElement("mrow")
        mark = self.dom.createElement("mo")
        mark.appendChild(self.dom.createTextNode("∂"))
        row.appendChild(mark)
        row.appendChild(self._print_Symbol(sp.Symbol(name.replace("∂", ""))))
        return row

    def _identifier(self, name: str) -> Any:
        made: Any = self.dom.createElement("mi")
        made.appendChild(self.dom.createTextNode(name))
        return made


def _indices(said: str) -> str:
    """Escaped text with q_ℓ, y_{ℓ−1} as subscripts; longer names stay as they are."""
    return re.sub(r"(?<![\w.])([A-Za-zχσ])_(?:\{([^{}]+)\}|([0-9]+|[ℓ∞LiRkw])(?![\w]))", r"\1<sub>\2\3</sub>", html.escape(said))


def mathml(formula: Any) -> str:
    """Presentation MathML of a formula."""
    return _MathML().doprint(formula)


def _latex(formula: Any) -> str:
    names = {s: _latex_name(s.name) for s in formula.free_symbols if isinstance(s, sp.Symbol)}
    return sp.latex(formula, order="none", mul_symbol=None, symbol_names=names)


def _latex_name(name: str) -> str:
    if "/" in name and "∂" in name:
        top, bottom = (part.replace("∂", r"\partial ") for part in name.split("/", 1))
        return rf"\frac{{{top}}}{{{bottom}}}".replace("ℓ", r"\ell ")
    words = {"ℓ": r"\ell ", "Σ": r"\Sigma", "χ": r"\chi", "σ": r"\sigma", "ᵀ": "^T", "τ": r"\tau", "ε": r"\varepsilon"}
    base, _, rest = name.partition("_")
    base = rf"\mathrm{{{base}}}" if len(base) > 2 and base.isalpha() and base.isascii() else base
    base += f"_{rest if rest.startswith('{') else '{' + rest + '}' if '^' not in rest else rest}" if rest else ""
    for mark, spelled in words.items():
        base = base.replace(mark, spelled)
    return base


def _plain(formula: Any) -> str:
    if isinstance(formula, sp.Eq):
        return f"{_plain(formula.lhs)} = {_plain(formula.rhs)}"
    said = sp.sstr(formula, order="none").replace("**", "^")
    return re.sub(r"(?<=[A-Za-z0-9_)}'])\*(?=[A-Za-z(])", " ", said)


def _sections(derivation: Derivation) -> list[tuple[str, list[Step]]]:
    found: dict[str, list[Step]] = {}
    for step in derivation.steps:
        found.setdefault(step.section, []).append(step)
    return list(found.items())


def _notes(derivation: Derivation, bullet: str) -> list[str]:
    count = {status: sum(step.verification.status == status for step in derivation.steps) for status in MARKS}
    total = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    return ["", f"{len(derivation.steps)} steps: {total}.", *(bullet + note for note in derivation.notes)]


def _columns(table: Table) -> list[str]:
    widths = [max(len(row[i]) for row in (table.head, *table.rows)) for i in range(len(table.head))]
    return [
        "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (table.head, *table.rows)
    ]


def _escape(value: str) -> str:
    return "".join(ESCAPED.get(c, c) for c in value)


ESCAPED = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "{": r"\{", "}": r"\}", "^": r"\^{}",
    "~": r"\~{}", "$": r"\$",
    "σ": r"$\sigma$", "χ": r"$\chi$", "∂": r"$\partial$", "ℓ": r"$\ell$", "·": r"$\cdot$", "²": "$^2$", "×": r"$\times$", "≠": r"$\ne$",
    "Σ": r"$\Sigma$", "∞": r"$\infty$", "ε": r"$\varepsilon$", "±": r"$\pm$", "√": r"$\surd$", "′": "$'$", "Π": r"$\Pi$",
    "≤": r"$\le$", "ᵀ": "$^T$", "τ": r"$\tau$", "→": r"$\to$", "−": "$-$", "‖": r"$\|$",
}  # fmt: skip
"""Characters as LaTeX text."""
