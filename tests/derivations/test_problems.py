"""Every formula of the four problems, as it comes out of `commute` and `derive` on the smallest models, symbolically."""

import math
import re

import pytest
import sympy as sp
import torch
from torch import nn

import initio
from initio.derivations.commute import commute
from initio.derivations.formulas import MEAN, SECOND, SPREAD, VARIANCE, P, unit_variance
from initio.derivations.signal import Q0, L, N, Q
from initio.derivations.tracing import X

D = nn.Dropout(0.5)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stack(act=None, bias=True, width=24, depth=6):
    return nn.Sequential(*(m for _ in range(depth) for m in ([nn.Linear(width, width, bias=bias)] + ([act()] if act else []))))


class Residual(nn.Module):
    def __init__(self, act=torch.tanh, depth=5, width=12, skip=True):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.act, self.skip = act, skip

    def forward(self, x):
        y = self.act(self.layers[0](x))
        for layer in self.layers[1:-1]:
            y = self.act(layer(y)) + y if self.skip else self.act(layer(y))
        return self.layers[-1](y)


def zero(expr):
    return sp.simplify(expr) == 0


def m(name):
    return sp.Symbol(name, commutative=False)


# -- 1: order of dropout and activation --------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), torch.abs, nn.Identity()])
def test_1a_equal_by_homogeneity(activation):
    found = commute(D, activation, draws=4)
    assert found.verdict == "same function"
    assert "homogene" in found.reason


@pytest.mark.parametrize(
    "activation", [nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Softplus(), nn.Softmax(-1)], ids=lambda a: type(a).__name__
)
def test_1a_not_equal(activation):
    found = commute(D, activation, draws=4)
    assert found.verdict == "different"
    assert found.eval.verdict == "same function"


def test_1a_expectation_of_sigmoid():
    swapped, plain = commute(D, nn.Sigmoid(), draws=4).formulas
    sigma = 1 / (1 + sp.exp(-X))
    assert zero(swapped.rhs - (P / 2 + (1 - P) * sigma.subs(X, X / (1 - P))))
    assert zero(plain.rhs - sigma)
    with_relu = commute(D, nn.ReLU(), draws=4).formulas
    at = with_relu[0].rhs.subs(X, sp.Symbol("t", positive=True)) - with_relu[1].rhs.subs(X, sp.Symbol("t", positive=True))
    assert zero(at.subs(P, sp.Rational(1, 3)))


def test_1b_expectation_of_a_relu_unit():
    layer = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    law, mean = commute(D, layer, draws=4).formulas
    k, n, j = law.rhs.atoms(sp.Sum).pop().limits[0][0], sp.Symbol("n", integer=True, positive=True), sp.Symbol("j", integer=True)
    assert law.rhs == unit_variance()
    assert law.rhs == P / (1 - P) * sp.Sum(sp.IndexedBase("A")[j, k] ** 2 * sp.IndexedBase("x")[k] ** 2, (k, 1, n))
    cumulative = (1 + sp.erf(MEAN / SPREAD / sp.sqrt(2))) / 2
    density = sp.exp(-((MEAN / SPREAD) ** 2) / 2) / sp.sqrt(2 * sp.pi)
    assert zero(mean.rhs - (MEAN * cumulative + SPREAD * density))
    # Jensen: the gap is positive
    assert all(float((mean.rhs - sp.Max(MEAN, 0)).subs({MEAN: u, SPREAD: s})) > 0 for u in (-2, 0, 0.3, 1.5) for s in (0.5, 1, 2))


def test_1b_leaky_relu_is_the_integral():
    mean = commute(D, nn.Sequential(nn.Linear(8, 4), nn.LeakyReLU(0.2)), draws=4).formulas[1].rhs
    for u, s in ((0.4, 1.2), (-1.0, 0.6)):
        z = u + s * torch.randn(400_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values = nn.functional.leaky_relu(z, 0.2)
        assert float(mean.subs({MEAN: u, SPREAD: s})) == pytest.approx(float(values.mean()), abs=5 * float(values.std()) / 632)


@pytest.mark.parametrize("norm, spread", [(nn.BatchNorm1d(16), VARIANCE), (nn.LayerNorm(16), VARIANCE), (nn.RMSNorm(16), SECOND)])
def test_1c_variance_shift(norm, spread):
    (shift,) = commute(D, norm, x="64x16", draws=2).formulas
    assert zero(shift.rhs - (1 + P / (1 - P) * SECOND / spread))


# -- 2: the default initialisation -------------------------------------------------------------------------------


def test_2_variance_of_the_draw():
    step = initio.derive(stack, "4x24", what="signal")["The distribution"]
    assert step.formulas[0].rhs == sp.Rational(1, 3) / N
    assert {row[4].split(" = ")[0] for row in step.table.rows} == {"1/(3n)"}
    assert {row[3] for row in step.table.rows} == {"U(±1/√n)"}


@pytest.mark.parametrize(
    "factory, recurrence, closed",
    [
        (lambda: stack(), (Q + 1 / N) / 3, 1 / (2 * N) + 3**-L * (Q0 - 1 / (2 * N))),
        (lambda: stack(bias=False), Q / 3, Q0 * 3**-L),
        (lambda: stack(nn.ReLU), (Q + 1 / N) / 6, 1 / (5 * N) + 6**-L * (Q0 - 1 / (5 * N))),
    ],
    ids=["linear", "without bias", "relu"],
)
def test_2_recurrence_and_solution(factory, recurrence, closed):
    step = initio.derive(factory, "4x24", what="signal")["Recurrence"]
    assert zero(step.formulas[0].rhs - recurrence)
    assert zero(step.formulas[1].rhs - closed)
    assert zero(step.formulas[1].rhs.subs(L, 0) - Q0)
    assert step.verified


def test_2_first_layer_of_another_width():
    rows = initio.derive(lambda: nn.Sequential(nn.Linear(10, 30), nn.Linear(30, 7)), "6x10", what="signal")["The numbers"].table.rows
    assert sp.Rational(rows[1][2]) == sp.Rational(10 + 1, 3 * 10)
    assert sp.Rational(rows[2][2]) == (sp.Rational(rows[1][2]) + sp.Rational(1, 30)) / 3


@pytest.mark.parametrize("act, chi", [(None, sp.Rational(1, 3)), (nn.ReLU, sp.Rational(1, 6))])
def test_2_gradient_and_critical_gain(act, chi):
    step = initio.derive(lambda: stack(act), "4x24", what="gradient")["Layers 1–6"]
    named = {str(e.lhs): e.rhs for e in step.formulas}
    assert named["χ"] == chi
    assert zero(named["gain"] - 1 / sp.sqrt(chi))
    assert zero(named["g_0"] - sp.Symbol("χ") ** 6 * sp.Symbol("g_{6}"))
    assert step.verified


# -- 3: residual networks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def residual():
    return initio.derive(Residual, "3x12")


def test_3_jacobians(residual):
    first, middle, last = residual["Layer by layer"].formulas
    assert zero(first.rhs - m("S_1") * m("A_1"))
    assert zero(middle.rhs - (m("S_{ℓ}") * m("A_{ℓ}") + m("I")))
    assert zero(last.rhs - m("A_5"))
    named = {str(e.lhs): e.rhs for e in residual["Gradients"].formulas}
    assert named["∂y_L/∂b_i"] == m("J_i") * m("S_i")
    assert named["∂y_L/∂A_i"] == m("S_i") * m("J_i^T") * m("y_{i-1}^T")
    assert named["∂y_L/∂b_L"] == m("I")
    assert named["∂y_L/∂A_L"] == m("y_{L-1}^T")
    assert residual["Gradients"].verified
    assert not residual.refuted


def test_3_paths_are_carried_and_agree_with_autograd(residual):
    step = residual["Paths"]
    assert step.verified
    assert step.verification.error < 1e-12
    assert "Σ_k uᵀJ_k against torch.func.vjp" in step.verification.how
    e = {str(f.lhs): f.rhs for f in step.formulas}
    assert e["paths"] == 2 ** sp.Symbol("R", integer=True)
    for row in step.table.rows:
        closed = float(row[2].rstrip("%"))
        mean, error = (float(v) for v in re.findall(r"[\d.]+", row[3]))
        assert mean == pytest.approx(closed, abs=5 * error + 2)


def test_3_signal_of_the_residual_network():
    V = initio.derive(Residual, "3x12", what="signal")["Recurrence"]
    rhs = V.formulas[0].rhs
    (integral,) = [f for f in rhs.atoms(sp.Function) if type(f).__name__.startswith("V_")]
    assert zero(rhs - Q - integral)
    assert zero(integral.args[0] - (Q + 1 / N) / 3)
    assert "no fixed point" in V.text
    assert V.verified


def test_3_mean_and_second_moment_are_coupled_for_relu():
    step = initio.derive(lambda: Residual(torch.relu, width=64), "8x64", what="signal")["Recurrence"]
    q, mean = step.formulas
    mu = sp.Symbol("μ_{ℓ-1}", real=True)
    z = (Q + 1 / N) / 3
    assert zero(q.rhs - (Q + z / 2 + 2 * mu * sp.sqrt(z / (2 * sp.pi))))
    assert zero(mean.rhs - (mu + sp.sqrt(z / (2 * sp.pi))))
    assert step.verified


def test_3_gradient_of_the_residual_network_is_1_plus_the_branch():
    steps = initio.derive(lambda: Residual(torch.relu, width=64), "8x64", what="gradient")
    assert {str(e.lhs): e.rhs for e in steps["Layers 2–4"].formulas}["χ"] == 1 + sp.Rational(1, 6)
    assert steps["Layers 2–4"].verified
    assert steps["The gradient, layer by layer"].verified


def test_3_a_zero_branch_leaves_the_gradient_alive():
    step = initio.derive(Residual, "3x12", what="jacobian")["What makes"]
    assert step.verified
    assert "branch dropped" in step.verification.how
    plain = initio.derive(lambda: Residual(skip=False), "3x12", what="jacobian")["What makes"]
    assert "the gradient before it is 0" in plain.verification.how


def test_dependent_branches_have_no_formula():
    """A x + tanh(A x): both branches hold the same weights, and moments do not add."""

    class Dependent(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            z = self.a(x)
            return self.b(z + torch.tanh(z))

    steps = initio.derive(Dependent, "8x16", what=["signal", "gradient"])
    assert steps["The numbers"].table.rows[1][2] == ""
    assert not steps.refuted


def test_layers_that_are_copies_of_one_draw_are_drawn_as_copies():
    """nn.TransformerEncoder clones one layer: measured moments and gradients are those of equal weights."""

    def encoder():
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 128, batch_first=True, dropout=0.0), 3, enable_nested_tensor=False)

    steps = initio.derive(encoder, "8x8x32", what=["signal", "jacobian", "gradient"])
    assert not steps.refuted
    for title in ("The numbers", "The gradient, layer by layer"):
        for row in steps[title].table.rows:
            if row[0] == "y_7":
                continue
            mean, error = (float(v) for v in row[4].split(" ± "))
            assert float(row[3]) == pytest.approx(mean, abs=5 * error + 0.02 * mean)
    assert "copies of one draw" in steps["Paths"].text


# -- 4: counts ---------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(256, 128, 1), nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 256, 1)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def test_4_parameters_of_a_convolution():
    step = initio.derive(Bottleneck, "1x256x4x4", what="parameters")["Parameters"]
    out, inside, size, groups = sp.symbols("C_out C_in F groups", positive=True)
    wanted = out * (inside * size**2 / groups + 1)
    said = [f.rhs if isinstance(f, sp.Equality) else f for f in step.formulas]
    assert any(_same_up_to_names(f, wanted) for f in said), said
    total = sum(eval(row[2].replace("·", "*").replace("×", "*").replace(",", "").replace("²", "**2")) for row in step.table.rows)
    assert total == 128 * (256 + 1) + 128 * (128 * 9 + 1) + 256 * (128 + 1) == 213_504


def _same_up_to_names(f, wanted):
    names = {re.sub(r"\W", "", s.name).lower(): s for s in f.free_symbols}
    pairs = {names.get(re.sub(r"\W", "", s.name).lower()): s for s in wanted.free_symbols}
    return None not in pairs and zero(f.subs(pairs) - wanted)


# -- the three wrong derivations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", ["E[relu(Σ)] = ΣE[relu]", "E[relu(A D y + b)] = E[D relu(A y + b)]", "dy_2/dy_1 = S_2 A_2 + 1"])
def test_wrong_derivations_are_refuted_with_numbers(claim):
    class Net(Residual):
        def __init__(self):
            super().__init__(torch.relu)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return super().forward(self.drop(x))

    step = initio.derive(Net, "4x12", what="jacobian").check(claim)
    assert step.verification.status == "refuted"
    numbers = [float(re.findall(r"-?[\d.]+(?:e-?\d+)?", text)[0]) for text in (step.verification.said, step.verification.found)]
    assert all(map(math.isfinite, numbers))
    assert abs(numbers[0] - numbers[1]) > 1e-3
