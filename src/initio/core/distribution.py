"""Initial distributions of parameters, buffers and inputs: families with exact first and second moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Distribution", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """A region of a tensor with a distribution of its own: `index` is a (start, stop, step) triple per dimension."""

    index: tuple[tuple[int, int, int], ...]
    distribution: Distribution

    @property
    def size(self) -> int:
        """Number of entries in the region."""
        return math.prod(len(range(*triple)) for triple in self.index)


@dataclass(frozen=True, slots=True)
class Distribution:
    """The law of the entries of a tensor of `shape`.

    Families and their parameters:

    * `constant` — value
    * `normal` — mean, std
    * `uniform` — low, high
    * `truncated_normal` — mean, std (of the parent normal), low, high (absolute cut points)
    * `orthogonal` — gain: uniform over (semi-)orthogonal matrices of the tensor flattened to (shape[0], -1)
    * `integers` — low, high: uniform ids, high excluded
    * `bernoulli` — p
    * `values` — mean, std: a given tensor, described by its entries
    * `program` — mean, std: drawn by code without a closed form (replayed to measure them)
    * `parts` — several regions, each with its own distribution (`parts`); later regions do not overlap earlier ones

    Entries are independent, except that `orthogonal` rows (or columns) are orthonormal times the gain,
    and that nothing is known about dependence in `values` and `program`.
    """

    family: str
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])
    shape: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    note: str = ""

    @property
    def mean(self) -> float:
        """E[X], averaged over the entries."""
        p = self.parameters
        match self.family:
            case "constant":
                return p["value"]
            case "uniform":
                return (p["low"] + p["high"]) / 2
            case "integers":
                return (p["low"] + p["high"] - 1) / 2
            case "bernoulli":
                return p["p"]
            case "orthogonal":
                return 0.0
            case "truncated_normal":
                return _truncated(p)[0]
            case "parts":
                return self._average(lambda d: d.mean)
            case _:
                return p["mean"]

    @property
    def second(self) -> float:
        """E[X²], averaged over the entries."""
        if self.family == "parts":
            return self._average(lambda d: d.second)
        return self.variance + self.mean**2

    @property
    def variance(self) -> float:
        """Var X of an entry (averaged second moment less squared mean where there are parts)."""
        p = self.parameters
        match self.family:
            case "constant":
                return 0.0
            case "uniform":
                return (p["high"] - p["low"]) ** 2 / 12
            case "integers":
                return ((p["high"] - p["low"]) ** 2 - 1) / 12
            case "bernoulli":
                return p["p"] * (1 - p["p"])
            case "orthogonal":
                rows = self.shape[0]
                columns = math.prod(self.shape[1:])
                return p["gain"] ** 2 / max(rows, columns)
            case "truncated_normal":
                return _truncated(p)[1]
            case "parts":
                return self.second - self.mean**2
            case _:
                return p["std"] ** 2

    @property
    def std(self) -> float:
        """Root of the variance."""
        return math.sqrt(max(self.variance, 0.0))

    @property
    def kurtosis(self) -> float:
        """E (X − E X)⁴ / Var² of an entry: 3 of a normal (and of what has parts, or is constant), 9/5 of a uniform one."""
        match self.family:
            case "uniform":
                return 1.8
            case "truncated_normal" if self.variance > 0:
                p = self.parameters
                low, high = (max(min((p[end] - p["mean"]) / p["std"], 12.0), -12.0) for end in ("low", "high"))
                x = low + (high - low) * (np.arange(2000) + 0.5) / 2000
                weight = np.exp(-0.5 * x * x)
                x = x - np.average(x, weights=weight)
                return float(np.average(x**4, weights=weight) / np.average(x**2, weights=weight) ** 2)
            case _:
                return 3.0

    @property
    def zero(self) -> bool:
        """Whether every entry is exactly zero."""
        return self.second == 0.0

    def _average(self, of: Callable[[Distribution], float]) -> float:
        sizes = np.array([part.size for part in self.parts], dtype=float)
        return float(np.dot(sizes, [of(part.distribution) for part in self.parts]) / sizes.sum()) if sizes.sum() else 0.0

    def __str__(self) -> str:
        if self.family == "parts":
            return " + ".join(f"{part.distribution} on {_region(part.index)}" for part in self.parts)
        inside = ", ".join(f"{value:.4g}" for value in self.parameters.values())
        return f"{self.family}({inside})"


def _region(index: tuple[tuple[int, int, int], ...]) -> str:
    return "[" + ", ".join(f"{a}:{b}" + (f":{s}" if s != 1 else "") for a, b, s in index) + "]"


def _truncated(p: Mapping[str, float]) -> tuple[float, float]:
    mean, std = p["mean"], p["std"]
    if std == 0:
        return mean, 0.0
    a, b = (p["low"] - mean) / std, (p["high"] - mean) / std
    density = [math.exp(-t * t / 2) / math.sqrt(2 * math.pi) if math.isfinite(t) else 0.0 for t in (a, b)]
    mass = 0.5 * (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2)))
    first = (density[0] - density[1]) / mass
    edge = (a * density[0] if math.isfinite(a) else 0.0) - (b * density[1] if math.isfinite(b) else 0.0)
    return mean + std * first, std * std * (1 + edge / mass - first * first)
