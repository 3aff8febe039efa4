"""The result of a sweep: one row a cell, ready for tables, maps and comparisons."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from initio.core.depth import QUANTITIES
from initio.core.errors import InitioError
from initio.core.grid import Grid
from initio.core.store import Cell, Store

__all__ = ["LABELS", "Sweep", "SweepComparison", "compare", "ignored", "load"]

LABELS = {
    **QUANTITIES,
    "errors": "findings that are errors",
    "warnings": "findings that are warnings",
    "measured_forward_growth": "measured factor of the signal's rms per layer",
    "measured_gradient_growth": "measured factor of the cotangent's rms per layer",
    "measured_signal": "measured rms of the last layer's output over the first's",
    "measured_gradient": "measured rms of the cotangent at the first layer over the last's",
    "first_loss": "loss before training",
    "final_loss": "loss after the short training",
    "loss_ratio": "loss after the short training over that before",
    "diverged": "whether the loss diverged (1) or not (0)",
}
"""Quantity → what it is."""


@dataclass(frozen=True)
class Sweep:
    """Cells of a grid, those that are finished. `interrupted` says that the sweep was stopped; the same call goes on with its store.

    `remarks` tell of parameters that changed nothing. Iterating gives the cells, `len` counts them.
    """

    target: str
    grid: Grid
    cells: tuple[Cell, ...] = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    remarks: tuple[str, ...] = ()
    interrupted: bool = False
    computed: int = 0

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def failed(self) -> tuple[Cell, ...]:
        """Cells whose code raised."""
        return tuple(cell for cell in self.cells if cell.failed)

    @property
    def missing(self) -> int:
        """Cells of the grid that are not finished."""
        return len(self.grid) - len(self.cells)

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """Names of the numbers that cells have."""
        names = dict.fromkeys(name for cell in self.cells for name, value in cell.quantities.items() if isinstance(value, (int, float)))
        return tuple(names)

    def rows(self) -> list[dict[str, Any]]:
        """A flat dict per cell: parameters, quantities, `findings` as text, `failed` and `seconds`. All have the same keys."""
        names = (*self.quantities, "findings")
        found: list[dict[str, Any]] = []
        for cell in self.cells:
            row = {name: _scalar(value) for name, value in cell.parameters.items()}
            for name in names:
                value = cell.quantities.get(name)
                row[name if name not in row else f"{name}_"] = " ".join(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]
            found.append({**row, "failed": cell.failed, "seconds": cell.seconds})
        return found

    def to_pandas(self) -> Any:
        """A pandas data frame of `rows`."""
        return _module("pandas").DataFrame(self.rows())

    def to_polars(self) -> Any:
        """A polars data frame of `rows`."""
        return _module("polars").DataFrame(self.rows(), infer_schema_length=None)

    def values(self, quantity: str) -> list[float]:
        """One quantity of every finished cell, NaN where a cell has none."""
        self._known(quantity)
        return [_number(cell.quantities.get(quantity)) for cell in self.cells]

    def _known(self, quantity: str) -> None:
        if quantity not in self.quantities:
            came = f"{quantity!r} came"
            raise InitioError("a quantity of this sweep", came, where="quantity", remedy=f"It has {', '.join(self.quantities) or 'none'}.")

    def plot(self, quantity: str = "gradient_growth", ax: Any = None, *, where: Mapping[str, Any] | None = None) -> Any:
        """A heat map (one dimension: a line) by matplotlib on `ax`; `where` fixes the parameters beyond the first two."""
        self._known(quantity)
        return importlib.import_module("initio.render.maps").plot(self, quantity, ax, where or {})

    def to_html(self) -> str:
        """Heat maps of all quantities as one HTML file that loads nothing."""
        return importlib.import_module("initio.render.maps").page(self)

    def _repr_html_(self) -> str:
        return importlib.import_module("initio.render.html").frame(self.to_html())

    def __str__(self) -> str:
        lines = [f"{self.target}: {len(self.cells)} of {len(self.grid)} cells, {len(self.failed)} failed"]
        for name in self.quantities:
            known = [value for value in self.values(name) if math.isfinite(value)]
            if known:
                lines.append(f"  {name:<26} {min(known):>11.4g} … {max(known):<11.4g} {LABELS.get(name, '')}".rstrip())
        codes: dict[str, int] = {}
        for cell in self.cells:
            for code in cell.quantities.get("findings", ()):
                codes[code] = codes.get(code, 0) + 1
        if codes:
            lines.append(
                "  findings: " + ", ".join(f"{code} in {count} cells" for code, count in sorted(codes.items(), key=lambda c: -c[1]))
            )
        reasons: dict[str, list[Cell]] = {}
        for cell in self.failed:
            reasons.setdefault(cell.failed, []).append(cell)
        lines += [
            f"failed: {_named(cells[0].parameters)}{f' and {len(cells) - 1} more' if cells[1:] else ''}: {r}"
            for r, cells in reasons.items()
        ]
        return "\n".join([*lines, *(f"note: {remark}" for remark in self.remarks)])


def load(path: str | Path) -> Sweep:
    """The cells that a store holds, finished or not.

    Raises:
        InitioError: a file that is no store, or one of another version.
    """
    store = Store.open(Path(path))
    try:
        return of_store(store)
    finally:
        store.close()


def of_store(store: Store, *, interrupted: bool = False, computed: int = 0) -> Sweep:
    """The result that an open store holds."""
    cells = tuple(store.cells())
    target = str(store.about.get("target", ""))
    return Sweep(target, store.grid, cells, store.about, tuple(ignored(store.grid, cells)), interrupted, computed)


def ignored(grid: Grid, cells: Iterable[Cell]) -> list[str]:
    """A remark on each parameter of several values that never changes a result, whatever the others are."""
    finished = [(cell.parameters, json.dumps(cell.quantities, sort_keys=True)) for cell in cells if not cell.failed]
    remarks: list[str] = []
    for dimension in grid.dimensions:
        if len(dimension.values) < 2:
            continue
        groups: dict[str, set[str]] = {}
        compared = 0
        for parameters, result in finished:
            others = json.dumps({name: value for name, value in parameters.items() if name != dimension.name})
            known = groups.setdefault(others, set())
            compared += bool(known)
            known.add(result)
        if compared and all(len(results) == 1 for results in groups.values()):
            remarks.append(f"{dimension.name} never changes a result: the factory seems to ignore it")
    return remarks


@dataclass(frozen=True)
class SweepComparison:
    """Two sweeps side by side, cell by cell of equal parameters.

    `rows` has, for each cell in both, its parameters and for each common quantity the values `NAME_a`, `NAME_b`; `differing` are
    the rows in which something differs by more than the relative `tolerance`; `largest` is the largest relative difference by quantity.
    """

    rows: tuple[dict[str, Any], ...] = field(repr=False)
    differing: tuple[dict[str, Any], ...] = field(repr=False)
    largest: Mapping[str, float]
    only_a: int
    only_b: int
    tolerance: float

    def to_pandas(self) -> Any:
        """A pandas data frame of `rows`."""
        return _module("pandas").DataFrame(list(self.rows))

    def __str__(self) -> str:
        head = f"{len(self.rows)} cells in both, {self.only_a} only in the first, {self.only_b} only in the second; {len(self.differing)} differ"
        lines = [f"  {name:<26} at most {value:.3g} of its value" for name, value in self.largest.items() if value > self.tolerance]
        return "\n".join([head, *lines])


def compare(a: Sweep, b: Sweep, *, tolerance: float = 1e-9) -> SweepComparison:
    """Set two sweeps side by side, such as those of two factories or before and after a change.

    Raises:
        InitioError: sweeps of different parameters.
    """
    if set(a.grid.names) != set(b.grid.names):
        came = f"one is of {', '.join(a.grid.names)}, the other of {', '.join(b.grid.names)}"
        raise InitioError("two sweeps of the same parameters", came, where="compare", remedy="Compare sweeps over the same names.")
    second = {_key(cell): cell for cell in b.cells}
    names = [name for name in a.quantities if name in b.quantities]
    rows: list[dict[str, Any]] = []
    differing: list[dict[str, Any]] = []
    largest = dict.fromkeys(names, 0.0)
    for cell in a.cells:
        other = second.get(_key(cell))
        if other is None:
            continue
        row: dict[str, Any] = {name: _scalar(value) for name, value in cell.parameters.items()}
        changed = bool(cell.failed) != bool(other.failed) or cell.quantities.get("findings") != other.quantities.get("findings")
        for name in names:
            x, y = _number(cell.quantities.get(name)), _number(other.quantities.get(name))
            row |= {f"{name}_a": x, f"{name}_b": y}
            apart = _apart(x, y)
            largest[name] = max(largest[name], apart)
            changed |= apart > tolerance
        row |= {"findings_a": _codes(cell), "findings_b": _codes(other)}
        rows.append(row)
        if changed:
            differing.append(row)
    both = len(rows)
    return SweepComparison(tuple(rows), tuple(differing), largest, len(a.cells) - both, len(b.cells) - both, tolerance)


def _apart(x: float, y: float) -> float:
    if x == y or (math.isnan(x) and math.isnan(y)):
        return 0.0
    apart = abs(x - y) / max(abs(x), abs(y))
    return apart if apart == apart else math.inf


def _codes(cell: Cell) -> str:
    return cell.failed or " ".join(cell.quantities.get("findings", ()))


def _key(cell: Cell) -> str:
    return json.dumps(cell.parameters, sort_keys=True)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _scalar(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _named(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InitioError(name, "it is not installed", where=f"to_{name}", remedy=f"pip install {name}") from error
