"""E f(U), E f(U) g(V) and E f′(U) against quadrature of another kind: scipy's adaptive rule and a dense composite rule."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate

from initio.core.functions import DERIVATIVES, FUNCTIONS, function
from initio.core.gaussian import expect, expect2, stein
from initio.core.scalar import IDENTITY, Scalar, affine, power

PARAMETERS = {
    "leaky_relu": (0.1,),
    "prelu": (0.25,),
    "clamp": (-0.5, 2.0),
    "clamp_min": (0.3,),
    "clamp_max": (0.3,),
    "threshold": (0.3, -0.2),
    "pow": (3,),
    "celu": (0.7,),
    "softplus": (2.0, 5.0),
    "gelu": ("tanh",),
}
POSITIVE = {"log", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "log1p"}
X, W = np.polynomial.legendre.leggauss(20)


def scalar(table: str, name: str) -> Scalar:
    entry = (FUNCTIONS if table == "f" else DERIVATIVES)[name]
    return entry if isinstance(entry, Scalar) else entry(*PARAMETERS.get(name, ()))


ALL = [(table, name) for table in ("f", "df") for name in FUNCTIONS] + [("f", "gelu_erf"), ("f", "softplus_1")]


def made(table: str, name: str) -> Scalar:
    if name == "gelu_erf":
        return function("gelu")
    return function("softplus") if name == "softplus_1" else scalar(table, name)


def density(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def one_dimensional(fn, points) -> float:
    """∫ fn φ by scipy, between the given points."""
    cuts = sorted({-9.0, -3.0, 0.0, 3.0, 9.0, *(float(p) for p in points if abs(p) < 9)})
    parts = [
        integrate.quad(lambda z: float(fn(z)) * density(z), a, b, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
        for a, b in itertools.pairwise(cuts)
    ]
    return math.fsum(parts)


def composite(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = edges[..., :-1, None], edges[..., 1:, None]
    z = (low + high) / 2 + (high - low) / 2 * X
    return z, (high - low) / 2 * W * density(z)


def two_dimensional(f: Scalar, g: Scalar, mean_u, std_u, mean_v, std_v, rho, reach=8.5) -> float:
    """∫∫ f g by panels of 20 points; breaks at the kinks of both, and on the scale √(1 − ρ²) about those of g."""
    spread = math.sqrt(1 - rho * rho)
    base = np.linspace(-reach, reach, 14)
    cuts = {*base, *((k - mean_u) / std_u for k in f.kinks)}
    for k in g.kinks:
        cuts.update((k - mean_v) / std_v / rho + spread / abs(rho) * np.arange(-9, 10, 1.5))
    z, weight = composite(np.array(sorted(c for c in cuts if abs(c) <= reach)))
    z, weight = z.ravel(), weight.ravel()
    mean, std = mean_v + std_v * rho * z, std_v * spread
    edges = np.broadcast_to(base, (z.size, base.size))
    if g.kinks:
        edges = np.concatenate([edges, np.clip((np.array(g.kinks) - mean[:, None]) / std, -reach, reach)], axis=1)
    y, inner = composite(np.sort(edges, axis=1))
    return float(np.sum(weight * f(mean_u + std_u * z) * np.sum(inner * g(mean[:, None, None] + std * y), axis=(1, 2))))


@pytest.mark.parametrize(("table", "name"), ALL)
def test_one_variable(table: str, name: str) -> None:
    f = made(table, name)
    cases = [(4.0, 0.16), (9.0, 1.0)] if name in POSITIVE else [(0.0, 1.0), (0.7, 0.3), (-1.1, 2.5), (0.2, 9.0)]
    for mean, var in cases:
        std = math.sqrt(var)
        wanted = one_dimensional(lambda z, m=mean, s=std: f(m + s * z), [(k - mean) / std for k in f.kinks])
        size = one_dimensional(lambda z, m=mean, s=std: abs(f(m + s * z)), [(k - mean) / std for k in f.kinks])
        assert abs(float(expect(f, mean, var)) - wanted) <= 1e-9 * max(size, 1e-3), (mean, var)


@pytest.mark.parametrize(("table", "name"), ALL)
def test_two_variables(table: str, name: str) -> None:
    f = made(table, name)
    cases = [(0.3, 1.2, -0.4, 0.7, 0.6), (0.1, 1.0, 0.3, 1.5, -0.97)]
    if name in POSITIVE:
        cases = [(13.0, 1.0, 14.0, 1.2, 0.5), (13.0, 1.0, 14.0, 1.2, -0.99)]
    for mean_u, var_u, mean_v, var_v, rho in cases:
        std_u, std_v = math.sqrt(var_u), math.sqrt(var_v)
        wanted = two_dimensional(f, f, mean_u, std_u, mean_v, std_v, rho)
        scale = math.sqrt(float(expect(f.times(f), mean_u, var_u) * expect(f.times(f), mean_v, var_v)))
        got = float(expect2(f, f, mean_u, var_u, mean_v, var_v, rho * std_u * std_v))
        assert abs(got - wanted) <= 1e-9 * scale, rho


@pytest.mark.parametrize("name", ["relu", "hardswish", "sign", "tanh", "gelu_erf", "elu", "softsign", "hardshrink"])
@pytest.mark.parametrize("rho", [0.999, -0.999, 1.0, -1.0, 1 - 1e-7])
def test_strong_correlation(name: str, rho: float) -> None:
    f = made("f", name)
    mean_u, std_u, mean_v, std_v = 0.2, 1.1, -0.3, 0.9
    if abs(rho) == 1:
        kinks = [(k - mean_u) / std_u for k in f.kinks] + [(k - mean_v) / std_v * rho for k in f.kinks]
        wanted = one_dimensional(lambda z: f(mean_u + std_u * z) * f(mean_v + std_v * rho * z), kinks)
    else:
        wanted = two_dimensional(f, f, mean_u, std_u, mean_v, std_v, rho)
    got = float(expect2(f, f, mean_u, std_u**2, mean_v, std_v**2, rho * std_u * std_v))
    assert got == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    "pair", [("relu", "tanh"), ("sign", "gelu_erf"), ("elu", "hardswish"), ("exp", "tanh"), ("exp", "relu"), ("sin", "square")]
)
@pytest.mark.parametrize("rho", [0.3, -0.95, 0.995])
def test_different_functions(pair: tuple[str, str], rho: float) -> None:
    f, g = made("f", pair[0]), made("f", pair[1])
    wanted = two_dimensional(f, g, 0.2, 1.1, -0.3, 0.9, rho, 10.0)
    got = float(expect2(f, g, 0.2, 1.21, -0.3, 0.81, rho * 0.99))
    assert got == pytest.approx(wanted, abs=1e-9)
    assert float(expect2(g, f, -0.3, 0.81, 0.2, 1.21, rho * 0.99)) == pytest.approx(got, abs=1e-11)


@pytest.mark.parametrize("var", [1e-300, 1e-12, 1.0, 1e12, 1e300])
def test_scale_invariance(var: float) -> None:
    relu, sign = function("relu"), function("sign")
    std = math.sqrt(var)
    rho = np.array([-1.0, -0.99999, -0.3, 0.0, 0.5, 0.999999, 1.0])
    angle = np.arccos(rho)
    kernel = (np.sin(angle) + (np.pi - angle) * rho) / (2 * np.pi)
    assert expect(relu, 0, var) / std == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)
    assert expect2(relu, relu, 0, var, 0, var, rho * var) / var == pytest.approx(kernel, abs=1e-12)
    assert expect2(sign, sign, 0, var, 0, var, rho * var) == pytest.approx(2 / np.pi * np.arcsin(rho), abs=1e-10)
    assert expect2(relu, sign, 0.3 * std, var, 0, var, 0.5 * var) / std == pytest.approx(
        float(expect2(relu, sign, 0.3, 1, 0, 1, 0.5)), rel=1e-12
    )
    assert stein(relu, 0.5 * std, var) == pytest.approx(0.6914624612740131, rel=1e-12)
    assert stein(sign, 0, var) * std == pytest.approx(2 / math.sqrt(2 * math.pi), rel=1e-12)


@pytest.mark.parametrize("name", ["hardtanh", "tanh", "softsign", "relu6"])
def test_saturated(name: str) -> None:
    """With a huge variance a saturating function is a step."""
    f = made("f", name)
    low, high = float(f(-1e9)), float(f(1e9))
    for var in (1e20, 1e300):
        std = math.sqrt(var)
        above = 0.6179114221889526  # Φ(0.3)
        assert expect(f, 0.3 * std, var) == pytest.approx(low + (high - low) * above, abs=1e-7)
        assert stein(f, 0.3 * std, var) * std == pytest.approx((high - low) * math.exp(-0.045) / math.sqrt(2 * math.pi), rel=1e-7)
        sign = function("sign").then(affine((high - low) / 2, (high + low) / 2))
        for rho in (0.4, -0.9999, 1.0):
            wanted = float(expect2(sign, sign, 0.3, 1, -0.1, 1, rho))
            assert expect2(f, f, 0.3 * std, var, -0.1 * std, var, rho * var) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", ["hardtanh", "tanh", "elu", "gelu_erf", "softsign", "hardswish"])
def test_linear_regime(name: str) -> None:
    """With a tiny variance about 0 these functions are f′(0) x."""
    f = made("f", name)
    slope = float(stein(f, 0.0, 0.0))
    for var in (1e-20, 1e-300):
        std = math.sqrt(var)
        assert expect2(f, f, 0.2 * std, var, -0.1 * std, var, 0.5 * var) / var == pytest.approx(0.48 * slope**2, rel=1e-8)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_derivatives(name: str) -> None:
    f, slope = scalar("f", name), scalar("df", name)
    x = np.array([0.63, 0.21, 1.7, 2.9, 7.3]) if name in POSITIVE else np.array([0.63, 0.21, 1.7, 2.9, -0.33, -1.4, -3.4, 7.3])
    h = 1e-5
    assert slope(x) == pytest.approx((f(x + h) - f(x - h)) / (2 * h), rel=1e-6, abs=1e-8)
    second = slope.derivative
    assert second is not None
    assert second(x) == pytest.approx((slope(x + h) - slope(x - h)) / (2 * h), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in POSITIVE])
def test_stein(name: str) -> None:
    f = scalar("f", name)
    for mean, std in [(0.3, 1.2), (-0.8, 0.6)]:
        wanted = one_dimensional(lambda z, m=mean, s=std: f(m + s * z) * z, [(k - mean) / std for k in f.kinks]) / std
        assert float(stein(f, mean, std**2)) == pytest.approx(wanted, rel=1e-8, abs=1e-9)


def test_stein_of_a_function_without_known_derivative() -> None:
    f = Scalar("x tanh x", lambda x: x * np.tanh(x))
    slope = np.tanh(0.4) + 0.4 / np.cosh(0.4) ** 2
    assert float(stein(f, 0.4, 0.0)) == pytest.approx(slope, rel=1e-9)
    assert float(stein(f, 0.4, 1e-30)) == pytest.approx(slope, rel=1e-9)
    known = IDENTITY.times(function("tanh"))
    assert float(stein(f, 0.4, 2.0)) == pytest.approx(float(stein(known, 0.4, 2.0)), rel=1e-10)


def test_degenerate_variables() -> None:
    relu, tanh = function("relu"), function("tanh")
    assert float(expect(relu, 2.0, 0.0)) == 2.0
    assert float(expect2(relu, tanh, 2.0, 0.0, 0.3, 1.5, 0.0)) == pytest.approx(2 * float(expect(tanh, 0.3, 1.5)), rel=1e-13)
    assert float(expect2(relu, tanh, 2.0, 0.0, 0.3, 0.0, 0.0)) == pytest.approx(2 * math.tanh(0.3))
    # rounding past |ρ| = 1 is capped
    assert float(expect2(tanh, tanh, 0, 1, 0, 1, 1 + 1e-12)) == pytest.approx(float(expect(tanh.times(tanh), 0, 1)), rel=1e-12)
    assert math.isnan(float(expect(function("reciprocal"), 0.0, 1.0)))
    assert math.isnan(float(expect(function("log"), 0.0, 1.0)))
    assert math.isnan(float(expect2(function("log"), tanh, 0.0, 1.0, 0.0, 1.0, 0.3)))
    # a pole that is 6 standard deviations away does not count
    assert float(expect(function("reciprocal"), 7.0, 1.0)) == pytest.approx(1 / 7 + 1 / 343 + 3 / 7**5 + 15 / 7**7, rel=2e-4)


def test_broadcasting_and_repeated_rows() -> None:
    gelu = function("gelu")
    mean = np.array([0.1, -0.5, 0.1])[:, None]
    var = np.array([1.0, 2.0, 1.0, 1.0])
    out = expect2(gelu, gelu, mean, var, 0.0, 1.0, 0.5)
    assert out.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert out[i, j] == pytest.approx(float(expect2(gelu, gelu, mean[i, 0], var[j], 0.0, 1.0, 0.5)), rel=1e-13)
    assert expect(gelu, np.zeros((0, 2)), 1.0).shape == (0, 2)
    first = expect(gelu, var, var)
    first[:] = 0  # the result is the caller's own
    assert np.all(expect(gelu, var, var) > 0)


def test_polynomials_are_exact() -> None:
    assert float(expect(power(4), 0.5, 2.0)) == pytest.approx(0.5**4 + 6 * 0.25 * 2 + 3 * 4, rel=1e-14)
    assert float(expect2(power(2), power(2), 0, 1, 0, 1, 0.3)) == pytest.approx(1 + 2 * 0.09, rel=1e-14)
    assert float(expect2(IDENTITY, power(3), 0.2, 1, 0, 2, 0.7)) == pytest.approx(3 * 2 * 0.7, rel=1e-13)


def test_a_far_mean_keeps_its_digits() -> None:
    relu = function("relu")
    assert float(expect2(relu, relu, 1e6, 1, 1e6, 1, 0.25)) - 1e12 == pytest.approx(0.25, abs=1e-3)
    assert float(expect(relu, -5.0, 1.0)) == pytest.approx(5.346e-8, rel=1e-3)
    assert float(expect(relu, -50.0, 1.0)) == 0.0


def test_tails_that_are_all_rounding_are_not_refined() -> None:
    """1 − tanh² is 0 or 2⁻⁵² far out, which no quadrature converges on; next to |ρ| = 1 nothing there matters."""
    seen = [0]

    def counted(x: np.ndarray) -> np.ndarray:
        seen[0] += np.size(x)
        return 1 - np.tanh(x) ** 2

    f = Scalar("1 - tanh(x)^2, counted", counted, knots=(-20.0, 20.0))
    z, w = (each.ravel() for each in composite(np.linspace(-9, 9, 61)))
    for gap in (0.15, 0.05, 1e-3):
        common, own = 1.722 * math.sqrt(1 - gap), 1.722 * math.sqrt(gap)
        wanted = ((1 - np.tanh(common * z[:, None] + own * z) ** 2) @ w) ** 2 @ w
        assert expect2(f, f, 0, 1.722**2, 0, 1.722**2, (1 - gap) * 1.722**2) == pytest.approx(wanted, rel=1e-10)
    assert seen[0] < 1_000_000
