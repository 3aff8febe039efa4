"""What a check is, how all of them are found, and how their findings are ordered and grouped."""

from __future__ import annotations

import importlib
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from initio.core.analysis import Analysis
from initio.core.errors import InitioError
from initio.core.finding import Finding, Fix, Severity
from initio.core.record import Node, Parameter, Record, Source
from initio.core.report import SEVERITIES, selected
from initio.core.tree import ModuleNode, ModuleTree

__all__ = ["HEADINGS", "Check", "Context", "Found", "all_checks", "check", "find_check", "run", "validate"]

CAUSES = ("REG", "MOD", "SHP", "LOS", "BAT", "RES", "INI", "SIG", "GRD")

HEADINGS = ("What it does", "Why is this bad", "Example", "Use instead", "References")


@dataclass(frozen=True)
class Context:
    """All that a check may look at: the analysis (record and moments) and the module tree."""

    analysis: Analysis

    @property
    def record(self) -> Record:
        """The record of the step."""
        return self.analysis.record

    @property
    def tree(self) -> ModuleTree:
        """The module tree."""
        return self.analysis.tree

    @cached_property
    def producers(self) -> dict[int, Node]:
        """Value → the node that made it."""
        return self.record.producers()

    @cached_property
    def consumers(self) -> dict[int, list[Node]]:
        """Value → the nodes that read it."""
        return self.record.consumers()

    @cached_property
    def parameters(self) -> dict[int, Parameter]:
        """Value → the parameter or buffer that it is."""
        return {parameter.value: parameter for parameter in self.record.parameters}

    @cached_property
    def carrying(self) -> frozenset[int]:
        """Values of the forward pass and the loss that are computed from an input of the model."""
        carrying = {item.value for item in self.record.inputs}
        for node in self.record.nodes:
            if node.phase != "backward" and any(value in carrying for value in node.inputs):
                carrying.update(value for value in node.outputs if value is not None)
        return frozenset(carrying)

    @cached_property
    def modules(self) -> dict[str, ModuleNode]:
        """Path → module."""
        return self.tree.by_path()

    def made(self, path: str) -> Source | None:
        """The line where the module at a path was made, or that of its first call."""
        node = self.modules.get(path)
        if node is not None and node.source is not None:
            return node.source
        return next((call.source for call in self.record.calls if call.module == path), None)


@dataclass(frozen=True, slots=True)
class Found:
    """A finding as a check states it; code, name and severity are the check's unless stated here.

    Found objects of one check with the same `group` become one finding, the further modules in `also`.
    """

    message: str
    module: str = ""
    source: Source | None = None
    evidence: Mapping[str, float | int | str] = field(default_factory=dict[str, "float | int | str"])
    remedy: str = ""
    fix: Fix | None = None
    also: tuple[str, ...] = ()
    entity: str = ""
    group: str = ""
    name: str = ""
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One check: a function from the context to what it found, whose docstring is its page."""

    code: str
    name: str
    severity: Severity
    find: Callable[[Context], Iterator[Found]]

    @property
    def page(self) -> str:
        """The documentation page, Markdown."""
        return textwrap.dedent(self.find.__doc__ or "").strip()

    @property
    def summary(self) -> str:
        """The first paragraph of the page."""
        return " ".join(self.page.partition("\n\n")[0].split())

    def section(self, heading: str) -> str:
        """The text under one of `HEADINGS`, empty where it is missing."""
        match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", self.page, re.MULTILINE | re.DOTALL)
        return match[1].strip() if match else ""

    def code_block(self, heading: str) -> str:
        """The Python code under a heading."""
        match = re.search(r"```python\n(.*?)```", self.section(heading), re.DOTALL)
        return match[1] if match else ""

    def __call__(self, context: Context) -> tuple[Finding, ...]:
        """The findings, those of one group merged."""
        merged: dict[object, Finding] = {}
        for number, found in enumerate(self.find(context)):
            key: object = found.group or number
            finding = self._finding(found)
            if key in merged:
                first = merged[key]
                finding = replace(first, also=tuple(dict.fromkeys((*first.also, found.module, *found.also))))
            merged[key] = finding
        return tuple(merged.values())

    def _finding(self, found: Found) -> Finding:
        return Finding(
            self.code, found.name or self.name, found.severity or self.severity, found.message, found.module, found.source,
            found.evidence, found.remedy, found.fix, found.also, found.entity,
        )  # fmt: skip


def check(code: str, name: str, severity: Severity) -> Callable[[Callable[[Context], Iterator[Found]]], Check]:
    """Make a check of a function: `code` is the family's three letters and three digits, `name` reads as "allow …"."""

    def make(find: Callable[[Context], Iterator[Found]]) -> Check:
        docstring = find.__doc__ or ""
        first, _, rest = docstring.partition("\n")
        find.__doc__ = first + "\n" + textwrap.dedent(rest)
        return Check(code, name, severity, find)

    return make


@lru_cache(maxsize=1)
def all_checks() -> tuple[Check, ...]:
    """Every check, by code: one in each file of this package that is named by its code."""
    package = importlib.import_module("initio.checks")
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__) if re.fullmatch(r"[a-z]{3}\d{3}", info.name))
    found: list[Check] = []
    for name in names:
        members = vars(importlib.import_module(f"initio.checks.{name}")).values()
        found += [member for member in members if isinstance(member, Check) and member.code == name.upper()]
    return tuple(found)


def find_check(code: str) -> Check:
    """The check of a code or name; raises with what there is."""
    for candidate in all_checks():
        if code.upper() == candidate.code or code.lower() in candidate.name.split(" / "):
            return candidate
    codes = ", ".join(candidate.code for candidate in all_checks())
    raise InitioError("the code of a check", f"{code!r} came", remedy=f"There are {codes}; `initio rules` lists them.")


def validate(prefixes: Iterable[str]) -> None:
    """Raise for a prefix that no check's code begins with: a misspelt `--ignore` would otherwise silence nothing."""
    for prefix in prefixes:
        if not any(candidate.code.startswith(prefix) for candidate in all_checks()):
            codes = ", ".join(candidate.code for candidate in all_checks())
            raise InitioError("a code or a prefix of codes", f"{prefix!r} came, which no check has", remedy=f"There are {codes}.")


def _cause(code: str) -> int:
    """Causes stand before their symptoms: the signal goes forward before the gradient comes back."""
    return CAUSES.index(code[:3]) if code[:3] in CAUSES else len(CAUSES)


def run(analysis: Analysis, select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Finding, ...]:
    """Run the selected checks over an analysis; the gravest findings first, then by code and module."""
    context = Context(analysis)
    chosen = [candidate for candidate in all_checks() if selected(candidate.code, tuple(select), tuple(ignore))]
    findings = [finding for candidate in chosen for finding in candidate(context)]
    return tuple(sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), _cause(finding.code), finding.code)))
