import math
import re

import pytest
import sympy as sp
import torch
from torch import nn

import initio
from initio.core.errors import InitioError
from initio.derivations.derivation import Derivation
from initio.derivations.folding import fold
from initio.derivations.graph import FactorGraph
from initio.derivations.jacobian import Numbers, difference, expression
from initio.derivations.signal import Q0, L, N, Q, solve

WIDTH, DEPTH = 24, 6


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors here are small: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Stack(nn.Module):
    def __init__(self, act=None, bias=True, width=WIDTH, depth=DEPTH, p=0.0):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=bias) for _ in range(depth))
        self.act, self.drop = act, nn.Dropout(p)

    def forward(self, x):
        for layer in self.layers:
            x = layer(self.drop(x)) if self.drop.p else layer(x)
            x = x if self.act is None else self.act(x)
        return x


class Residual(nn.Module):
    """Problem: y_1 = σ(A_1 x + b_1), y_ℓ = σ(A_ℓ y_{ℓ−1} + b_ℓ) + y_{ℓ−1}, y_L = A_L y_{L−1} + b_L."""

    def __init__(self, depth=5, width=12, skip=True):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.skip = skip

    def forward(self, x):
        y = torch.tanh(self.layers[0](x))
        for layer in self.layers[1:-1]:
            y = torch.tanh(layer(y)) + (y if self.skip else 0 * y)
        return self.layers[-1](y)


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(256, 128, 1), nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 256, 1)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(nn.Conv2d(256, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 256, 1))
            for _ in range(32)
        )

    def forward(self, x):
        return sum(path(x) for path in self.paths)


@pytest.fixture(scope="module")
def linear() -> Derivation:
    return initio.derive(Stack, f"8x{WIDTH}")


@pytest.fixture(scope="module")
def residual() -> Derivation:
    return initio.derive(Residual, "3x12")


def matrix(name):
    return sp.Symbol(name, commutative=False)


# -- problem 2 ---------------------------------------------------------------------------------------------------


def test_recurrence_and_closed_form_of_the_linear_stack(linear):
    recurrence, closed, floor = linear["Recurrence over layers 1–6"].formulas
    assert sp.simplify(recurrence.rhs - (Q + 1 / N) / 3) == 0
    assert sp.simplify(closed.rhs.subs(Q0, 1) - (1 / (2 * N) + sp.Integer(3) ** -L * (1 - 1 / (2 * N)))) == 0
    assert sp.simplify(floor.rhs - 1 / (2 * N)) == 0
    assert linear["Recurrence"].verified
    assert linear["Recurrence"].verification.tolerance == 1e-9


def test_numbers_of_the_linear_stack_are_exact_fractions(linear):
    rows = linear["The numbers"].table.rows
    assert sp.Rational(rows[1][2]) == sp.Rational(WIDTH + 1, 3 * WIDTH)  # Var y_1 = (n_0 + 1)/(3 n_0)
    for number, row in enumerate(rows):
        exact = sp.Rational(1, 2 * WIDTH) + sp.Rational(1, 3**number) * (1 - sp.Rational(1, 2 * WIDTH))
        assert sp.Rational(row[2]) == exact
        assert float(row[3]) == pytest.approx(float(exact), rel=1e-8)
    assert linear["The numbers"].verified
    assert "draws of the model" in linear["The numbers"].verification.how


def test_without_bias():
    steps = initio.derive(lambda: Stack(bias=False), f"8x{WIDTH}", what="signal")
    assert sp.simplify(steps["Recurrence"].formulas[1].rhs - Q0 * sp.Integer(3) ** -L) == 0


def test_relu_stack():
    steps = initio.derive(lambda: Stack(act=torch.relu), f"8x{WIDTH}", what=["signal", "gradient"])
    # σ(z_ℓ) has half of q: with q_ℓ that of z, q_ℓ = (q_{ℓ−1}/2 + 1/n)/3; with y = relu(z), y_ℓ = q_ℓ/2 and y_{ℓ−1} = q_{ℓ−1}/2
    of_y = steps["Recurrence"].formulas[0].rhs
    q = sp.Symbol("q")
    assert sp.simplify(2 * of_y.subs(Q, q / 2) - (q / 2 + 1 / N) / 3) == 0
    assert steps["Recurrence"].verified
    assert "χ = 0.166667" in steps["Layers 1–6"].text
    assert "2.449 times" in steps["Layers 1–6"].text  # √6
    assert steps["The gradient, layer by layer"].verified


def test_unequal_widths():
    model = nn.Sequential
    steps = initio.derive(lambda: model(nn.Linear(10, 30), nn.Linear(30, 7), nn.Linear(7, 4)), "6x10", what="signal")
    rows = steps["The numbers"].table.rows
    q = sp.Integer(1)
    for row, n in zip(rows[1:], (10, 30, 7), strict=True):
        q = (q + sp.Rational(1, n)) / 3
        assert sp.Rational(row[2]) == q


def test_smooth_activation_has_a_fixed_point_and_a_rate():
    steps = initio.derive(lambda: Stack(act=torch.tanh, depth=4), f"16x{WIDTH}", what="signal")
    step = steps["Recurrence"]
    assert "fixed point" in step.text
    assert step.verified
    assert "wide limit" in step.verification.how


def test_solve_grows_by_equal_steps():
    made = solve(Q + 2 / N, {})
    assert sp.simplify(made.closed - (Q0 + 2 * L / N)) == 0
    assert made.fixed is None


# -- problem 3 ---------------------------------------------------------------------------------------------------


def test_formulas_of_the_residual_network(residual):
    S, A, eye = (lambda k: matrix(f"S_{k}")), (lambda k: matrix(f"A_{k}")), matrix("I")
    first, middle, last = residual["Layer by layer"].formulas
    assert sp.simplify(first.rhs - S(1) * A(1)) == 0
    assert sp.simplify(middle.rhs - (matrix("S_{ℓ}") * matrix("A_{ℓ}") + eye)) == 0
    assert sp.simplify(last.rhs - A(5)) == 0
    graph = graph_of(Residual, "3x12")
    chain = graph.spine(graph.roots[0])
    # J_1 = ∂y_5/∂y_1 = A_5 (S_4 A_4 + I) (S_3 A_3 + I) (S_2 A_2 + I)
    start = chain[2]
    J = sp.Mul(*(expression(graph.segment(v)) for v in reversed(chain[2:-1])))
    assert start in graph.out_edges
    assert sp.expand(J - A(5) * (S(4) * A(4) + eye) * (S(3) * A(3) + eye) * (S(2) * A(2) + eye)) == 0
    total = residual["The product"].formulas[0].rhs
    product = next(iter(total.atoms(sp.Product)))
    assert (product.limits[0][1], product.limits[0][2]) == (2, 4)
    assert all(residual[name].verified for name in ("Layer by layer", "The product", "Gradients", "What makes", "Paths"))


def test_gradients_of_parameters(residual):
    step = residual["Gradients"]
    db, dA, last = step.formulas[:3]
    assert db.rhs == matrix("J_i") * matrix("S_i")
    assert dA.rhs == matrix("S_i") * matrix("J_i^T") * matrix("y_{i-1}^T")
    assert last.rhs == matrix("I")
    assert {row[0]: row[2] for row in step.table.rows} == {f"A_{k}": f"J_{k} S_{k}" if k < 5 else "I" for k in range(1, 6)}
    assert step.verification.error < 1e-12


def test_paths_of_the_residual_network(residual):
    step = residual["Paths"]
    assert "R = 3 skips: 8 paths" in step.text  # 2^{L−1−i} with L = 5, i = 1
    assert [row[1] for row in step.table.rows] == ["1", "3", "3", "1"]
    assert sum(float(row[2].rstrip("%")) for row in step.table.rows) == pytest.approx(100, abs=0.1)


def test_zero_factor_kills_the_plain_network_only(residual):
    assert "S_1, A_1, A_5 makes every gradient before it exactly zero" in residual["What makes"].text
    assert "branch dropped" in residual["What makes"].verification.how
    plain = initio.derive(lambda: Residual(skip=True, depth=2), "3x12", what="jacobian")["What makes"]
    assert plain.verified
    assert "is 0" in plain.verification.how


# -- wrong derivations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim, status",
    [
        ("dy_2/dy_1 = S_2 A_2 + I", "verified"),
        ("dy_2/dy_1 = S_2 A_2 + 1", "refuted"),
        ("dy_2/dy_1 = S A + 1", "refuted"),
        ("dy_2/dy_1 = S A + I", "verified"),
        ("∂y_{3}/∂y_{1} = (S_3 A_3 + I)(S_2 A_2 + I)", "verified"),
        ("dy_3/dy_1 = (S_2 A_2 + I)(S_3 A_3 + I)", "refuted"),
        ("dy/dx = A_5 (S_4 A_4 + I) (S_3 A_3 + I) (S_2 A_2 + I) S_1 A_1", "verified"),
        ("dy/dx = A_5 S_4 A_4 S_3 A_3 S_2 A_2 S_1 A_1", "refuted"),
    ],
)
def test_jacobian_claims(residual, claim, status):
    step = residual.check(claim)
    assert step.verification.status == status, step
    if status == "refuted":
        assert abs(float(step.verification.said) - float(step.verification.found)) > 1e-6
        assert "REFUTED" in Derivation("", (step,)).render("text")


def test_all_ones_differ_by_exactly_one_off_the_diagonal(residual):
    step = residual.check("dy_2/dy_1 = S_2 A_2 + 1")
    assert abs(float(step.verification.said) - float(step.verification.found)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "claim, status",
    [
        ("E[σ(Σ)] = ΣE[σ]", "refuted"),
        ("E[relu(Σ)] = ΣE[relu]", "refuted"),
        ("E[relu(z1 + z2)] = E[relu(z1)] + E[relu(z2)]", "refuted"),
        ("E[z1 + z2] = E[z1] + E[z2]", "verified"),
        ("E[relu(A D y + b)] = E[D relu(A y + b)]", "refuted"),
        ("E[A D y + b] = E[D (A y + b)]", "verified"),
        ("E[relu(D y)] = E[D relu(y)]", "verified"),
        ("E[sigmoid(D y)] = sigmoid(y)", "refuted"),
    ],
)
def test_expectation_claims(claim, status):
    model = initio.derive(lambda: Stack(act=torch.relu, p=0.5, depth=2), f"4x{WIDTH}", what="jacobian")
    step = model.check(claim)
    assert step.verification.status == status, step
    assert re.search(r"left -?[\d.e-]+ ± .*right -?[\d.e-]+ ±", step.verification.how)


def test_expectation_of_a_sum_by_the_numbers():
    step = initio.derive(lambda: Stack(act=torch.relu), f"4x{WIDTH}", what="jacobian").check("E[relu(z1 + z2)] = E[relu(z1)] + E[relu(z2)]")
    left, right = (float(x) for x in re.findall(r"(?:left|right) ([\d.]+)", step.verification.how))
    assert left == pytest.approx(1 / math.sqrt(math.pi), abs=0.02)
    assert right == pytest.approx(2 / math.sqrt(2 * math.pi), abs=0.02)


def test_moment_claims(linear):
    assert linear.check("Var[y_l] = 1/(2*n) + 3**-l*(1 - 1/(2*n))").verified
    assert linear.check("Var[y_l] = 3**-l").verification.status == "refuted"
    assert linear.check("q_2 = (q_1 + 1/n)/3").verified


@pytest.mark.parametrize(
    "claim",
    [
        "dy/dx",
        "dy/dx = S_1 A_1 +",
        "dy/dx = Z_9",
        "dz/dx = A",
        "dy_1/dy_2 = I",
        "dy_99/dx = I",
        "Var[y_77] = 1",
        "dy/dx = __import__('os')",
        "E[nothing(z)] = 0",
    ],
)
def test_claims_that_cannot_be_read(linear, claim):
    with pytest.raises(InitioError):
        linear.check(claim)


# -- problem 4 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, total, line", [(Bottleneck, "213,504", "128·(128·9 + 1)"), (Split, "78,592", "4·(4·9 + 1)")])
def test_counts(model, total, line):
    steps = initio.derive(model, "1x256x7x7", what="parameters")
    step = steps["Parameters"]
    assert total in step.text
    assert any(line in row[2] for row in step.table.rows)
    assert step.verified
    assert steps["Multiply"].verified


# -- models ------------------------------------------------------------------------------------------------------


def graph_of(factory, text):
    from initio.capture import initializers, program
    from initio.core.inputs import parse

    made = initializers.construct(factory)
    return FactorGraph.of(program.record(made.model, [parse(text)], construction=made, backward=False))


class Dense(nn.Module):
    """Every layer reads all before it; a gate, a softmax, a convolution with a norm on the way."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.a, self.b, self.c = nn.Linear(16, 8), nn.Linear(24, 8), nn.Linear(32, 8)
        self.last = nn.LayerNorm(8)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(torch.relu_(self.norm(self.conv(x))), 2).flatten(1)
        y = torch.nn.functional.gelu(self.a(x))
        z = torch.cat([x, y], 1)
        z = torch.cat([z, torch.sigmoid(self.b(z)) * torch.tanh(self.b(z))], 1)
        return self.last(torch.softmax(self.c(z), -1) - y.mean(1, keepdim=True))


@pytest.mark.parametrize(
    "factory, text",
    [
        (Dense, "3x2x4x4"),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3), "2x5x16"),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, norm_first=True, activation="gelu"), 2), "2x5x16"),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8), nn.Dropout(0.3), nn.SiLU(), nn.GroupNorm(2, 8)), "4x8"),
    ],
)
def test_products_of_any_graph_agree_with_torch(factory, text):
    graph = graph_of(factory, text)
    numbers = Numbers(graph)
    points = graph.spine(graph.roots[0])[:-1]
    truth = numbers.truth(points, [])
    for value in points:
        assert float(truth[value].norm()) > 0
        assert difference(numbers.row(value), truth[value]) < 1e-9


def test_a_wrong_factor_is_refuted(monkeypatch):
    from initio.derivations import jacobian

    monkeypatch.setitem(jacobian._DEFINED, "tanh", lambda numbers, node, factor, row: row * 1.001)
    step = initio.derive(Residual, "3x12", what="jacobian")["Layer by layer"]
    assert step.verification.status == "refuted"
    assert step.verification.said != step.verification.found


def test_repeated_layers_are_folded():
    encoder = initio.derive(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), 8), "2x4x16", what="jacobian"
    )
    step = encoder["Layer by layer"]
    assert len(step.formulas) <= 6
    assert "ℓ = 0, …, 6" in step.text
    assert step.verified
    runs = fold(list("abababc"))
    assert [(r.start, r.period, r.repeats) for r in runs] == [(0, 2, 3), (6, 1, 1)]


def test_zeros_at_initialisation_are_said():
    def factory():
        model = Residual()
        nn.init.zeros_(model.layers[-1].weight)
        return model

    step = initio.derive(factory, "3x12", what="jacobian")["What makes"]
    assert "starts with layers.4.weight at zero" in step.text


@pytest.mark.parametrize("kind", ["text", "markdown", "latex", "html"])
def test_formats(residual, kind):
    page = residual.render(kind)
    assert "nan" not in page
    if kind == "html":
        assert page.count("<math") == sum(len(step.formulas) for step in residual)
        assert "http" not in page
        assert "<script" not in page
    if kind == "latex":
        assert page.count("{") == page.count("}")


def test_verify_reruns_every_check(linear):
    again = linear.verify()
    assert [s.verification.status for s in again] == [s.verification.status for s in linear]
    assert not again.refuted


def test_what_is_too_large_is_said(monkeypatch):
    from initio.derivations import derive as module

    monkeypatch.setattr(module, "RUN_ENTRIES", 10)
    steps = initio.derive(Residual, "3x12", what="jacobian")
    assert steps["Layer by layer"].verification.status == "not verified"
    assert "too large" in steps["Layer by layer"].verification.how
    assert steps.check("dy_2/dy_1 = S A + I").verification.status == "not verified"


def test_bad_input():
    with pytest.raises(InitioError, match="section"):
        initio.derive(Residual, "3x12", what="everything")
    with pytest.raises(InitioError):
        initio.derive(Residual, "3x13")


def test_command_line(capsys, tmp_path):
    from initio.cli import status

    model = tmp_path / "net.py"
    model.write_text("from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))\n")
    assert status(["derive", f"{model}:net", "-i", "4x6", "--what", "jacobian"]) == 0
    assert "S_1 A_1" in capsys.readouterr().out
    assert status(["derive", f"{model}:net", "-i", "4x6", "-f", "html", "-o", str(tmp_path / "d.html")]) == 0
    assert "<math" in (tmp_path / "d.html").read_text()
    assert status(["derive", f"{model}:net", "-i", "4x6", "--claim", "dy/dx = A_2 S_1 A_1 + 1"]) == 1
    assert "REFUTED" in capsys.readouterr().out
    assert status(["derive", f"{model}:net", "-i", "4x6", "--claim", "dy/dx = ("]) == 2
