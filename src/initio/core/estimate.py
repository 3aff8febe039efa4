"""A measured moment and its standard error over independent draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Estimate"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """E[X] and E[X²] of the entries of a tensor, averaged over the entries and over `draws` independent draws.

    `error` is the standard error of `second` over the draws (nan where there was only one), `shape` the
    shape of the tensor in the last draw, `each` the second moment of every single draw. Complex entries
    count by their modulus in `second` and by their real part in `mean`.
    """

    mean: float
    second: float
    error: float
    draws: int
    shape: tuple[int, ...] = ()
    each: tuple[float, ...] = ()

    @classmethod
    def of(cls, means: Sequence[float], seconds: Sequence[float], counts: Sequence[int], shape: tuple[int, ...] = ()) -> Estimate:
        """Σ wᵢ sᵢ with wᵢ ∝ the number of entries of draw i, and the error of that ratio (Cochran 1977, eq. 2.46)."""
        draws, total = len(seconds), sum(counts)
        if not total:
            raise ValueError("an estimate needs at least one entry in one draw, there was none")
        weights = [count / total for count in counts]
        second = math.fsum(w * s for w, s in zip(weights, seconds, strict=True))
        mean = math.fsum(w * m for w, m in zip(weights, means, strict=True))
        error = math.nan
        if min(seconds) == max(seconds):  # Exactly, where weights that sum to 1 only nearly would leave a rounding error.
            second, error = seconds[0], 0.0 if draws > 1 else math.nan
        elif draws > 1:
            spread = math.hypot(*(w * (s - second) for w, s in zip(weights, seconds, strict=True)))
            error = spread * math.sqrt(draws / (draws - 1))
        return cls(mean, second, error, draws, shape, tuple(seconds))

    @property
    def count(self) -> int:
        """Number of entries of the tensor in one draw."""
        return math.prod(self.shape)

    @property
    def rms(self) -> float:
        """√E[X²]."""
        return math.sqrt(self.second)

    @property
    def rms_error(self) -> float:
        """Standard error of the rms, to first order: error / (2 rms)."""
        return self.error / (2 * self.rms) if self.second > 0 else self.error

    @property
    def spread(self) -> float:
        """Standard deviation of one draw's second moment, relative to its mean: the noise of a single draw."""
        return self.error * math.sqrt(self.draws) / self.second if self.second > 0 else 0.0
