"""Higher moments of softmax weights of independent Gaussian logits, exact through a Laplace representation.

With x ~ N(0, s) and S = Σ_j e^{x_j} over T logits, E[p₁^a p₂^b] = ∫ t^{a+b−1}/Γ(a+b) M_a(t) M_b(t) L(t)^{T−2} dt,
L(t) = E[e^{−t e^x}], M_a(t) = E[e^{a x − t e^x}], because S^{−n} = ∫ t^{n−1} e^{−tS} dt / Γ(n).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from initio.core.axes import Array

__all__ = ["softmax_moment"]


@lru_cache(maxsize=8192)
def softmax_moment(variance: float, length: int, a: int, b: int = 0) -> float:
    """E[p₁^a p₂^b] of a softmax over `length` independent N(·, variance) logits; relative error below 1e-6."""
    order = a + b
    if length == 1:
        return 1.0 if b == 0 else 0.0
    if variance <= 1e-12:
        return float(length) ** -order
    std = math.sqrt(variance)
    z = np.linspace(-9.0, 9.0, 181)
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    low = -(9.0 * std + math.log(length) + 12.0)
    high = 9.0 * std + 6.0
    u = np.linspace(low, high, max(120, int((high - low) * 6)))

    def tilted(n: int) -> Array:
        # e^{n x} moves the density: E[e^{nx} h(x)] = e^{n²s/2} E[h(x + n s)]
        moved = np.exp(-np.exp(np.minimum(u[:, None] + (std * z + n * variance)[None], 60.0)))
        return np.asarray(moved @ density) * math.exp(0.5 * n * n * variance)

    base = np.clip(tilted(0), 1e-300, 1.0)
    power = np.exp((length - (2 if b else 1)) * np.log(base))
    integrand = np.exp(order * u) * tilted(a) * (tilted(b) if b else 1.0) * power
    return float(integrand.sum() * (u[1] - u[0]) / math.gamma(order))
