"""Static plots by matplotlib (`initio[plot]`): axes in, axes out."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportUnknownParameterType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initio.core.analysis import Analysis
from initio.core.errors import InitioError
from initio.core.singular import singular_values
from initio.render.payload import LIMITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Plots", "axes_of"]

BLUE, ORANGE = "#0072B2", "#E69F00"
"""Told apart by every kind of colour vision (Okabe and Ito 2008)."""


@dataclass(frozen=True, slots=True)
class Plots:
    """Plots of one analysis. Each takes the axes to draw on (new ones where None) and returns them."""

    analysis: Analysis

    def signal(self, ax: Axes | None = None, *, limits: Sequence[str] = ()) -> Axes:
        """Rms of the modules' outputs along depth, with the band of single draws; `limits` names dtypes whose range is drawn.

        Raises:
            InitioError: where matplotlib is missing, or a limit is none of "float16", "bfloat16", "float8 e4m3", "float8 e5m2".
        """
        for name in limits:
            if name not in LIMITS:
                raise InitioError("names of dtypes", f"{name!r} came", where="limits", remedy=f"Choose among {', '.join(LIMITS)}.")
        axes = axes_of(ax)
        found = [self.analysis.of(value) for value, _ in self._outputs()]
        spreads = [2.0 * summary.spread for summary in found]
        low = [summary.rms * math.sqrt(max(1.0 - spread, 0.0)) for summary, spread in zip(found, spreads, strict=True)]
        high = [summary.rms * math.sqrt(1.0 + spread) for summary, spread in zip(found, spreads, strict=True)]
        axes.fill_between(range(len(found)), low, high, color=BLUE, alpha=0.2, linewidth=0, label="one draw, 19 times in 20")
        axes.plot([summary.rms for summary in found], color=BLUE, label="predicted")
        for name in limits:
            for bound in LIMITS[name]:
                axes.axhline(bound, color=ORANGE, linestyle="--", linewidth=1)
                axes.annotate(name, (0, bound), fontsize="small", va="bottom")
        axes.legend(frameon=False)
        return _labelled(axes, "rms of outputs")

    def gradient(self, ax: Axes | None = None) -> Axes:
        """Rms of the cotangents that arrive at the modules' outputs, along depth."""
        axes = axes_of(ax)
        axes.plot([self.analysis.of_gradient(cotangent).rms for _, cotangent in self._outputs()], color=BLUE)
        return _labelled(axes, "rms of cotangents")

    def paths(self, ax: Axes | None = None) -> Axes:
        """How each block's gradient divides over its skip and its branches, from the input (top) to the output.

        Raises:
            InitioError: where the model has no block with several paths.
        """
        forks = self.analysis.paths
        if not forks:
            raise InitioError("a model whose gradient forks", "every value is read once", where="plot.paths")
        axes = axes_of(ax)
        names = [fork.module or "(model)" for fork in forks]
        skips = [fork.skip_share for fork in forks]
        places = range(len(forks))
        axes.barh(places, skips, color=BLUE, label="skip")
        axes.barh(places, [1.0 - skip for skip in skips], left=skips, color=ORANGE, label="branches")
        axes.set_yticks(list(places), [name[-40:] for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the gradient at the block's input")
        axes.legend(frameon=False, loc="lower right")
        return axes

    def spectrum(self, ax: Axes | None = None) -> Axes:
        """Singular values of the weight matrices, in the order of the parameters: the range of each one's law, its middle half, and the rms.

        The law is that of Marchenko and Pastur (1967) for independent entries and one value for orthogonal ones; a convolution's kernel
        counts as the matrix (out, in·k²). A range that starts at 0 belongs to a square matrix. Weights without such a law (zeros, values
        of a built model, several parts) are left out, and the label of the abscissa counts them.

        Raises:
            InitioError: where no weight of the model has such a law.
        """
        weights = [p for p in self.analysis.parameters.values() if len(p.shape) > 1 and not p.buffer]
        found = [law for law in (singular_values(p.distribution) for p in weights) if law is not None]
        if not found:
            remedy = "Give the class or a factory of the model, so that its draws are seen."
            came = f"none of {len(weights)} weights has one"
            raise InitioError("a weight with a law of its singular values", came, where="plot.spectrum", remedy=remedy)
        axes = axes_of(ax)
        places = range(len(found))
        middle = [law.quantiles((0.25, 0.75)) for law in found]
        axes.vlines(
            places, [law.low for law in found], [law.high for law in found], color=BLUE, alpha=0.35, linewidth=3, label="all values"
        )
        axes.vlines(places, *zip(*middle, strict=True), color=BLUE, linewidth=3, label="middle half")
        axes.plot(places, [law.rms for law in found], "o", color=ORANGE, markersize=3, label="rms")
        axes.legend(frameon=False)
        axes.set_ylim(bottom=0)
        missing = len(weights) - len(found)
        axes.set_xlabel("weight, in order" + (f" ({missing} without a law left out)" if missing else ""))
        axes.set_ylabel("singular values at initialisation")
        return axes

    def _outputs(self) -> list[tuple[int, int | None]]:
        """Value and cotangent of the first output of every call of a module that holds no further ones, in order."""
        calls = self.analysis.record.calls
        holders = {call.parent for call in calls}
        leaves = [call for call in calls if call.id not in holders and call.outputs]
        return [(call.outputs[0], call.cotangents[0] if call.cotangents else None) for call in leaves]


def axes_of(ax: Axes | None) -> Axes:
    """The axes given, or new ones."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as pyplot
    except ImportError as error:
        raise InitioError("matplotlib", "it is not installed", where="plot", remedy="pip install 'initio[plot]'") from error
    return pyplot.subplots(layout="constrained")[1]


def _labelled(axes: Axes, what: str) -> Axes:
    axes.set_yscale("log")
    axes.set_xlabel("module, in order of execution")
    axes.set_ylabel(what)
    return axes
