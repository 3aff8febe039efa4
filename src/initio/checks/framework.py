"""What a check is, how all of them are found, and how their findings are ordered and grouped."""

from __future__ import annotations

import importlib
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from initio.checks.source import assignment
from initio.core.analysis import Analysis
from initio.core.errors import InitioError
from initio.core.finding import Finding, Fix, Severity
from initio.core.record import Node, Parameter, Record, Source
from initio.core.report import SEVERITIES, selected
from initio.core.tree import ModuleNode, ModuleTree

__all__ = ["EXPLAINS_CRASH", "HEADINGS", "Check", "Context", "Found", "all_checks", "check", "find_check", "run", "validate"]

CAUSES = ("REG", "MOD", "SHP", "LOS", "BAT", "RES", "INI", "SIG", "GRD")

HEADINGS = ("What it does", "Why is this bad", "Example", "Use instead", "References")


Other = Callable[[bool], "Analysis | None"]
"""Makes the analysis of the same step in the other mode; the argument says whether with moments."""


@dataclass(frozen=True)
class Context:
    """All that a check may look at: the analysis (record and moments), the module tree, and the same step in the other mode.

    `make_other` analyses the step in evaluation mode where `analysis` is in training mode, and the other way round, with moments or
    without; only a check that has a reason to calls for it, by `other` or `evaluation`.
    """

    analysis: Analysis
    make_other: Other | None = None

    @cached_property
    def other(self) -> Analysis | None:
        """The forward pass in the other mode, with its moments; None where it is not to be had."""
        return None if self.make_other is None else self.make_other(True)

    @cached_property
    def evaluation(self) -> Record | None:
        """The record of the forward pass in evaluation mode; None where it is not to be had."""
        if not self.record.training:
            return self.record
        if "other" in self.__dict__ or self.make_other is None:
            return None if self.other is None else self.other.record
        made = self.make_other(False)
        return None if made is None else made.record

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

    def kind(self, path: str) -> str:
        """The class of the module at a path."""
        node = self.modules.get(path)
        return path if node is None else node.kind

    def assigned(self, owner: str, attribute: str) -> Source | None:
        """The line where the class of the module `owner` assigns `self.attribute`, in its source."""
        node = self.modules.get(owner)
        return None if node is None or node.defined is None else assignment(node.defined, attribute)

    def told(self, parameter: Parameter) -> Source | None:
        """The line that says what a parameter is: its assignment in the user's own class, else where its module was made."""
        owner, _, attribute = parameter.name.rpartition(".")
        return self.assigned(owner, attribute) or parameter.source or self.made(owner)

    def made(self, path: str) -> Source | None:
        """The line where the module at a path was made, or that of its first call; of the model itself, its class."""
        if not path and path in self.modules and self.modules[path].defined is not None:
            return self.modules[path].defined
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


STRUCTURAL = ("producers", "consumers", "carrying", "modules", "evaluation")
"""What a context derives from the nodes of the record and the module tree alone, whatever is drawn."""

TOLD = "told"
"""The key in a structure under which findings stand that need not be looked for again, by code (`checks.structural`)."""

DESPITE_CRASH = ("REG101", "REG102", "REG106", "MOD102", "NRM104", "RES101", "SHP101", "SHP105")
EXPLAINS_CRASH = ("MOD102", "NRM104", "SHP101", "SHP105")

SYMPTOMS = {
    "GRD103": ("ATT101", "NRM104", "INI101", "LOS103", "RES102", "NRM101"),
    "GRD102": ("REG104", "MOD102"),
    "SIG102": ("SIG101",),
    "INI102": ("REG105",),
    "MOD101": ("REG104",),
    "SIG104": ("MOD101", "REG104"),
    "SHP104": ("LOS103",),
    "ATT101": ("LOS103",),
    "SHP105": ("MOD102", "REG101", "NRM104", "RES101", "SHP101"),
    "RES102": ("RES101",),
    "NRM101": ("NRM104",),
    "BAT101": ("ATT101",),
    "SIG101": ("NUM101",),
    "ACT103": ("LOS101", "LOS102"),
    "ACT104": ("LOS101", "LOS102", "LOS103"),
    "TIE101": ("REG105",),
}
"""Code → codes that explain it: where one of those stands at the same module or line, the symptom is not told."""


def _explained(finding: Finding, findings: Iterable[Finding]) -> bool:
    """Whether another finding is the cause of this one."""
    places = {finding.module, *finding.also}
    for other in findings:
        if other.code in SYMPTOMS.get(finding.code, ()):
            same = other.source is not None and finding.source is not None and str(other.source) == str(finding.source)
            crashed = finding.code == "SHP105" and other.code == "MOD102"
            if same or crashed or places & {other.module, *other.also}:
                return True
    return False


def run(
    analysis: Analysis,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    *,
    other: Other | None = None,
    structure: dict[str, Any] | None = None,
) -> tuple[Finding, ...]:
    """Run the selected checks over an analysis; the gravest findings first, then by code and module.

    `other` makes the analysis of the same step in the other mode; checks that compare the modes are silent without it. Of a record
    that ends with a crash, only what stands whatever comes after it is checked. `structure` is taken over from a run on a record that
    differs from this one in its distributions alone, and is left filled for the next one.
    """
    context = Context(analysis, other)
    context.__dict__.update(structure or {})
    chosen = [candidate for candidate in all_checks() if selected(candidate.code, tuple(select), tuple(ignore))]
    if analysis.record.crash is not None:
        chosen = [candidate for candidate in chosen if candidate.code in DESPITE_CRASH]
    known: Mapping[str, tuple[Finding, ...]] = (structure or {}).get(TOLD, {})
    found = [finding for each in chosen for finding in (known[each.code] if each.code in known else each(context))]
    if structure is not None:
        structure |= {name: context.__dict__[name] for name in STRUCTURAL if name in context.__dict__}
    findings = [finding for finding in found if not _explained(finding, found)]
    return tuple(sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), _cause(finding.code), finding.code)))
