"""Heat maps of a sweep: one HTML file that loads nothing, and static plots by matplotlib (`initio[plot]`)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportUnknownParameterType=false

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from initio.core.errors import InitioError
from initio.core.grid import Dimension
from initio.core.sweeps import LABELS, Sweep
from initio.render.html import embedded
from initio.render.plots import BLUE, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DIVERGING", "SEQUENTIAL", "page", "plot"]

SEQUENTIAL = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")
"""Cividis: its lightness tells the order, to every kind of colour vision (Nuñez, Anderton & Renslow 2018)."""
DIVERGING = ("#00457a", "#3f8fc4", "#a9cfe8", "#f5f5f5", "#f6c08f", "#d9722b", "#8c3a00")
"""Blue for less than 1, orange for more: told apart by every kind of colour vision."""
AROUND_ONE = frozenset(
    {
        "signal", "gradient", "forward_growth", "gradient_growth", "chi", "measured_forward_growth", "measured_gradient_growth",
        "measured_signal", "measured_gradient", "loss_ratio",
    }
)  # fmt: skip
"""Factors: 1 is where nothing changes, and their logarithm counts."""
LOGARITHMIC = AROUND_ONE | {"xi_signal", "xi_correlation", "xi_gradient", "first_loss", "final_loss"}


def page(sweep: Sweep) -> str:
    """The page of a sweep. Names and values from the user enter as JSON only, and the script writes them as text."""
    folder = files("initio.render").joinpath("page")
    parts = {
        "TITLE": escape(sweep.target[:200]),
        "DATA": embedded(_payload(sweep)),
        "SCRIPT": folder.joinpath("map.js").read_text(encoding="utf-8"),
    }
    first, *rest = folder.joinpath("map.html").read_text(encoding="utf-8").split("{{")
    return first + "".join(parts[name] + tail for name, _, tail in (piece.partition("}}") for piece in rest))


def _payload(sweep: Sweep) -> dict[str, Any]:
    rows = {cell.index: cell for cell in sweep.cells}
    order = range(len(sweep.grid))
    codes = sorted({code for cell in sweep.cells for code in cell.quantities.get("findings", ())})
    columns = {name: [_plain(rows[i].quantities.get(name)) if i in rows else None for i in order] for name in sweep.quantities}
    for code in codes:
        columns[code] = [int(code in rows[i].quantities.get("findings", ())) if i in rows and not rows[i].failed else None for i in order]
    return {
        "schema": "initio.map/1",
        "version": importlib.import_module("initio").__version__,
        "target": sweep.target,
        "inputs": str(sweep.about.get("inputs", "")),
        "dimensions": [
            {"name": d.name, "values": [v if _number(v) else str(v) for v in d.values], "log": _log(d)} for d in sweep.grid.dimensions
        ],
        "quantities": columns,
        "labels": {name: LABELS.get(name, f"finding {name}: there (1) or not (0)") for name in columns},
        "scales": {name: "one" if name in AROUND_ONE else "log" if name in LOGARITHMIC else "linear" for name in columns},
        "findings": [" ".join(rows[i].quantities.get("findings", ())) if i in rows else "" for i in order],
        "failed": [rows[i].failed[:500] if i in rows else None for i in order],
        "remarks": list(sweep.remarks),
        "sequential": SEQUENTIAL,
        "diverging": DIVERGING,
    }


def _plain(value: Any) -> Any:
    """Five significant digits; infinity as a text, what is not known as None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return int(value) if isinstance(value, bool) else None
    if math.isnan(value):
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _log(d: Dimension) -> bool:
    return d.log and all(_number(v) and v > 0 for v in d.values)


def plot(sweep: Sweep, quantity: str, ax: Axes | None, where: Mapping[str, Any]) -> Axes:
    """A quantity over the first two dimensions of several values (x, then y), or a line over the only one."""
    wide = [d for d in sweep.grid.dimensions if len(d.values) > 1 and d.name not in where]
    shown, others = wide[:2] or list(sweep.grid.dimensions[:1]), wide[2:]
    if others or any(name not in sweep.grid.names for name in where):
        need = ", ".join(d.name for d in others) or f"parameters among {', '.join(sweep.grid.names)}"
        remedy = "Fix what is beyond two dimensions: plot(quantity, where={'depth': 64})."
        raise InitioError("two dimensions to plot", f"{need} must be fixed", where="where", remedy=remedy)
    chosen = {tuple(map(str, (cell.parameters[d.name] for d in shown))): cell for cell in sweep.cells if _matches(cell.parameters, where)}
    if not chosen:
        came = f"there is none with {', '.join(f'{k}={v!r}' for k, v in where.items()) or 'any parameters'}"
        raise InitioError("finished cells to plot", came, where="where", remedy="Take values of the grid.")
    axes = axes_of(ax)
    x = shown[0]

    def at(*values: Any) -> float:
        cell = chosen.get(tuple(map(str, values)))
        value = math.nan if cell is None else cell.quantities.get(quantity)
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.nan

    label = LABELS.get(quantity, quantity)
    if len(shown) == 1:
        axes.plot(_places(x), [at(v) for v in x.values], color=BLUE, marker=".")
        axes.set_ylabel(label)
        if quantity in LOGARITHMIC:
            axes.set_yscale("log")
    else:
        y = shown[1]
        table = [[at(a, b) for a in x.values] for b in y.values]
        settings = _colours(quantity, [v for row in table for v in row if not math.isnan(v)])
        mesh = axes.pcolormesh(_places(x), _places(y), table, shading="nearest", **settings)
        axes.figure.colorbar(mesh, ax=axes, label=label)
        axes.set_ylabel(y.name)
        _ticks(axes, "y", y)
    axes.set_xlabel(x.name)
    _ticks(axes, "x", x)
    return axes


def _matches(parameters: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(parameters[name] == value for name, value in where.items())


def _places(d: Dimension) -> list[Any]:
    return list(d.values) if all(map(_number, d.values)) else list(range(len(d.values)))


def _ticks(axes: Any, side: str, d: Dimension) -> None:
    if _log(d):
        getattr(axes, f"set_{side}scale")("log")
    if not all(map(_number, d.values)):
        getattr(axes, f"set_{side}ticks")(range(len(d.values)), [str(v)[:20] for v in d.values])


def _colours(quantity: str, known: list[float]) -> dict[str, Any]:
    colors = importlib.import_module("matplotlib.colors")
    positive = [v for v in known if v > 0]
    if quantity in AROUND_ONE and positive:
        reach = max(max(positive), 1 / min(positive), 1.0 + 1e-6)
        cmap = colors.LinearSegmentedColormap.from_list("around one", DIVERGING)
        return {"norm": colors.LogNorm(1 / reach, reach), "cmap": cmap}
    if quantity in LOGARITHMIC and positive:
        return {"norm": colors.LogNorm(), "cmap": "cividis"}
    return {"cmap": "cividis"}
