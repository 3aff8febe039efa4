"""Exact polynomials in a few named sizes, fitted to integer counts by rational arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Polynomial", "fit"]

SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Σ c·x₁^p₁·x₂^p₂ …: `terms` maps the powers, one for each of `names`, to the coefficient; zeros are absent.

    >>> p = Polynomial(("batch", "seq"), {(1, 2): Fraction(4), (1, 1): Fraction(1, 2), (0, 0): Fraction(7)})
    >>> print(p)
    4·batch·seq² + 1/2·batch·seq + 7
    >>> p(batch=2, seq=3)
    Fraction(82, 1)
    """

    names: tuple[str, ...]
    terms: Mapping[tuple[int, ...], Fraction]

    def __call__(self, **sizes: int) -> Fraction:
        """The value at sizes given by name."""
        if set(sizes) != set(self.names):
            raise TypeError(f"expected a value for each of {', '.join(self.names)}, got {', '.join(sizes) or 'none'}")
        total = Fraction(0)
        for powers, coefficient in self.terms.items():
            term = coefficient
            for name, power in zip(self.names, powers, strict=True):
                term *= sizes[name] ** power
            total += term
        return total

    @property
    def degree(self) -> dict[str, int]:
        """The largest power of each size."""
        return {name: max((powers[i] for powers in self.terms), default=0) for i, name in enumerate(self.names)}

    def __str__(self) -> str:
        order = sorted(self.terms, key=lambda powers: (-sum(powers), tuple(-p for p in powers)))
        text = ""
        for powers in order:
            coefficient = self.terms[powers]
            factors = [
                name + (str(power).translate(SUPERSCRIPT) if power > 1 else "")
                for name, power in zip(self.names, powers, strict=True)
                if power
            ]
            size = abs(coefficient)
            number = f"{size.numerator:,}" + (f"/{size.denominator:,}" if size.denominator > 1 else "")
            term = "·".join(([] if size == 1 and factors else [number]) + factors)
            sign = "-" if coefficient < 0 else "+"
            text = f"{text} {sign} {term}" if text else (f"-{term}" if sign == "-" else term)
        return text or "0"


def fit(grid: Mapping[str, Sequence[int]], values: Mapping[tuple[int, ...], int]) -> Polynomial:
    """The polynomial of degree len(points) − 1 in each size that takes `values` on the whole grid.

    >>> print(fit({"n": [1, 2, 3]}, {(n,): 3 * n * n - n for n in (1, 2, 3)}))
    3·n² - n
    """
    names = tuple(grid)
    inverses = [_inverse(grid[name]) for name in names]
    table = {tuple(i): Fraction(values[tuple(grid[n][j] for n, j in zip(names, i, strict=True))]) for i in _indices(grid)}
    for axis, inverse in enumerate(inverses):
        new: dict[tuple[int, ...], Fraction] = {}
        for index in table:
            power = index[axis]
            new[index] = sum(
                (inverse[power][j] * table[(*index[:axis], j, *index[axis + 1 :])] for j in range(len(inverse))), start=Fraction(0)
            )
        table = new
    return Polynomial(names, {powers: c for powers, c in table.items() if c})


def _indices(grid: Mapping[str, Sequence[int]]) -> itertools.product[tuple[int, ...]]:
    return itertools.product(*(range(len(points)) for points in grid.values()))


def _inverse(points: Sequence[int]) -> list[list[Fraction]]:
    """The inverse of the Vandermonde matrix: row p holds the coefficient of x^p in each Lagrange polynomial."""
    columns: list[list[Fraction]] = []
    for i, x in enumerate(points):
        basis = [Fraction(1)]
        scale = Fraction(1)
        for j, y in enumerate(points):
            if i != j:
                basis = [a - y * b for a, b in zip([Fraction(0), *basis], [*basis, Fraction(0)], strict=True)]
                scale *= x - y
        columns.append([c / scale for c in basis])
    return [[column[p] for column in columns] for p in range(len(points))]
