"""A derivation: steps with their formulas, each with the check that it has passed or failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from initio.core.errors import InitioError

__all__ = ["Derivation", "Step", "Table", "Verification"]

Status = Literal["verified", "refuted", "not verified", "definition"]


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a check: what the formula says, what was found, their relative difference, and how it was compared."""

    status: Status
    how: str
    said: str = ""
    found: str = ""
    error: float = 0.0
    tolerance: float = 0.0

    def __str__(self) -> str:
        beside = f": the step says {self.said}, found {self.found}" if self.said and self.status == "refuted" else ""
        size = f", relative difference {self.error:.1e}" if self.status in ("verified", "refuted") and self.tolerance else ""
        return f"{self.status}, {self.how}{size}{beside}"


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers under a formula."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `formulas` are sympy expressions, `check` recomputes the verification.

    A step whose check fails is kept, as refuted, with both values.
    """

    section: str
    title: str
    formulas: tuple[Any, ...] = ()
    text: str = ""
    table: Table | None = None
    verification: Verification = field(default_factory=lambda: Verification("definition", "nothing to check"))
    check: Callable[[], Verification] | None = field(default=None, repr=False, compare=False)

    @property
    def verified(self) -> bool:
        """Whether the check passed."""
        return self.verification.status == "verified"

    def verify(self) -> Step:
        """The step with its check run again."""
        return self if self.check is None else replace(self, verification=self.check())


@dataclass(frozen=True)
class Derivation:
    """The steps by which the numbers of a model come about. `claims` judges a step of the user's own."""

    title: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    claims: Callable[[str], Step] | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, title: str) -> Step:
        """The first step whose title begins so."""
        for step in self.steps:
            if step.title.startswith(title):
                return step
        raise KeyError(f"no step {title!r}; there are {', '.join(repr(step.title) for step in self.steps)}")

    @property
    def refuted(self) -> tuple[Step, ...]:
        """The steps that failed their check."""
        return tuple(step for step in self.steps if step.verification.status == "refuted")

    def verify(self) -> Derivation:
        """Run every check again, on new draws of the same laws."""
        return replace(self, steps=tuple(step.verify() for step in self.steps))

    def check(self, claim: str) -> Step:
        """Judge a step of the user's own, such as "dy/dx = S A + 1" or "E[relu(z1 + z2)] = E[relu(z1)] + E[relu(z2)]".

        Raises:
            InitioError: a claim that cannot be read, or that no check is known for.
        """
        if self.claims is None:
            raise InitioError(
                "a derivation that can judge claims", "it was made without its model", where="claim", remedy="Use initio.derive."
            )
        return self.claims(claim)

    def select(self, sections: Sequence[str]) -> Derivation:
        """The steps of some sections."""
        return replace(self, steps=tuple(step for step in self.steps if step.section in sections))

    def render(self, format: str = "text") -> str:  # noqa: A002
        """Text, Markdown with LaTeX, a LaTeX document, or an HTML page with MathML that needs neither network nor script."""
        from initio.derivations.formats import FORMATS

        if format not in FORMATS:
            raise InitioError(f"one of {', '.join(FORMATS)}", f"{format!r} came", where="--format", remedy="Choose one of them.")
        return FORMATS[format](self)

    def __str__(self) -> str:
        return self.render("text")
