import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import initio
from initio.core.errors import InitioError
from initio.core.order import variance_shift
from initio.derivations.commute import commute
from initio.derivations.gaps import relu_mean

torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors here are small: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slope_with_cut(x):
    """ReLU but for a bump that no sample of unit normals meets."""
    return torch.relu(x) + torch.where(x.abs() > 1e6, x * x, torch.zeros_like(x))


def two_slopes(x):
    return torch.where(x > 0, 0.7 * x, 0.2 * x)


def relu_by_square_root(x):
    return (x + torch.sqrt(x * x)) / 2


D, P = nn.Dropout(0.5), nn.Dropout(0.2)
SAME = [
    (D, nn.ReLU()), (P, nn.ReLU()), (D, nn.LeakyReLU(0.2)), (D, nn.PReLU()), (D, nn.PReLU(64)), (P, nn.Identity()), (D, torch.abs),
    (D, two_slopes), (D, relu_by_square_root), (D, P), (D, nn.Flatten()), (nn.Dropout(0.0), nn.GELU()),
    (nn.Dropout2d(0.3), nn.MaxPool2d(2)), (nn.Dropout2d(0.3), nn.AvgPool2d(2)), (nn.Dropout2d(0.3), nn.ReLU()),
    (nn.MaxPool2d(2), nn.ReLU()), (nn.MaxPool2d(3, padding=1), nn.Sigmoid()), (nn.MaxPool1d(2), nn.Tanh()), (nn.MaxPool2d(2), nn.ELU()),
    (nn.AvgPool2d(2), nn.Conv2d(4, 8, 1)), (nn.AvgPool2d(3, padding=1), nn.Conv2d(4, 8, 1, bias=False)),
    (nn.ReLU(), nn.ReLU6()), (nn.ReLU(), nn.Tanh()), (nn.ReLU(), nn.LeakyReLU(0.1)), (nn.ReLU(), nn.ReLU()),
    (nn.PixelShuffle(2), nn.GELU()), (nn.ChannelShuffle(2), nn.SiLU()), (nn.Hardtanh(), torch.neg),
]  # fmt: skip
EXPECTATION = [
    (D, lambda x: torch.relu(x) + 1), (D, nn.Linear(64, 32)), (P, nn.Conv2d(4, 6, 3, padding=1)), (D, nn.AvgPool2d(2)),
    (D, nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 8))),
]  # fmt: skip
DIFFERENT = [
    (D, nn.Sigmoid()), (D, nn.Tanh()), (P, nn.GELU()), (D, nn.GELU("tanh")), (D, nn.SiLU()), (D, nn.ELU()), (P, nn.Softplus()),
    (D, nn.Mish()), (D, nn.Hardswish()), (D, nn.ReLU6()), (D, nn.Softsign()), (D, slope_with_cut), (nn.LeakyReLU(0.1), nn.Tanh()),
    (nn.ReLU(), nn.Softplus()),
    (nn.Linear(16, 16), nn.ReLU()), (nn.AvgPool2d(2), nn.ReLU()), (nn.AvgPool2d(2), nn.GELU()), (nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.2)),
    (nn.Linear(16, 16, bias=True), torch.neg), (nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(3, stride=1, padding=1)),
]  # fmt: skip


def ident(pair):
    return f"{getattr(pair[0], '__name__', pair[0])}-{getattr(pair[1], '__name__', pair[1])}".replace("\n", "")


@pytest.mark.parametrize("pair", SAME, ids=ident)
def test_same_function(pair):
    found = commute(*pair, draws=4)
    assert found.verdict == "same function", found
    assert found.eval.verdict == "same function"
    assert found.measured.largest < 1e-12


@pytest.mark.parametrize("pair", EXPECTATION, ids=ident)
def test_same_expectation(pair):
    found = commute(*pair, draws=32)
    assert found.verdict == "same expectation", found
    assert found.difference.mean == pytest.approx(0, abs=1e-12)
    assert found.train.agrees, found
    assert found.difference.second > 0


@pytest.mark.parametrize("pair", [pair for pair in DIFFERENT if pair[1] is not slope_with_cut], ids=ident)
def test_different_by_the_predicted_moments(pair):
    found = commute(*pair, draws=24)
    assert found.verdict == "different", found
    assert found.difference.claim == "exact"
    assert found.train.agrees, found


def test_there_are_40_pairs_half_of_them_equal():
    assert len(SAME) + len(EXPECTATION) + len(DIFFERENT) >= 40
    assert len(SAME) >= 20


def test_equal_on_all_samples_is_no_proof():
    found = commute(D, slope_with_cut)
    assert found.measured.largest == 0
    assert found.verdict == "undecided"
    # and where a sample meets the bump, it is a counterexample
    assert commute(D, slope_with_cut, x="8x8:normal(0,1e7)").verdict == "different"


def test_the_prediction_would_notice_an_error_of_five_percent():
    found = commute(D, nn.Sigmoid(), draws=64)
    d, m = found.difference, found.measured
    assert abs(1.05 * d.second - m.second) > 5 * m.second_error


def test_sigmoid_expectation_as_derived_by_hand():
    # E σ(D x) = p/2 + (1−p) σ(x/(1−p)) on a fixed x
    x = torch.tensor([[0.7, -1.3, 2.0]], dtype=torch.float64)
    found = commute(nn.Sigmoid(), nn.Dropout(0.25), x=x)
    expected = (0.25 / 2 + 0.75 * torch.sigmoid(x / 0.75) - torch.sigmoid(x)).mean()
    assert found.difference.mean == pytest.approx(float(expected), rel=1e-9)


def test_the_swap_is_antisymmetric():
    one, two = commute(nn.GELU(), D, draws=8), commute(D, nn.GELU(), draws=8)
    assert one.difference.mean == pytest.approx(-two.difference.mean, rel=1e-12)
    assert one.measured.mean == pytest.approx(-two.measured.mean, rel=1e-12)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Tanh()])
def test_dropout_on_the_input_of_a_layer_against_its_output(activation):
    torch.manual_seed(1)
    found = commute(D, nn.Sequential(nn.Linear(256, 64), activation), draws=64)
    assert found.verdict == "different"
    assert found.difference.mean == pytest.approx(found.measured.mean, abs=5 * found.measured.mean_error + 2e-3)
    assert found.difference.second == pytest.approx(found.measured.second, rel=0.03)


def test_gap_of_a_unit_reaches_what_is_said():
    torch.manual_seed(0)
    x = torch.randn(64, 64, dtype=torch.float64)
    layer = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    with torch.no_grad():
        layer[0].weight.mul_(1.4)
    unit = commute(nn.Dropout(0.5), layer, x=x, draws=8).unit
    assert unit.predicted > 0.4
    assert unit.predicted == pytest.approx(float(relu_mean(unit.mean, unit.std)) - max(unit.mean, 0), rel=1e-9)
    assert unit.measured == pytest.approx(unit.predicted, abs=5 * unit.error + 0.02)
    affine = commute(nn.Dropout(0.5), nn.Sequential(nn.Linear(64, 64), nn.Identity()), x=x, draws=4)
    assert affine.verdict == "same expectation"


def test_relu_mean_is_the_formula():
    import sympy as sp

    mu, s, z = sp.symbols("mu s z", real=True)
    s = sp.Symbol("s", positive=True)
    density = sp.exp(-((z - mu) ** 2) / (2 * s**2)) / (s * sp.sqrt(2 * sp.pi))
    closed = mu * (1 + sp.erf(mu / (s * sp.sqrt(2)))) / 2 + s * sp.exp(-(mu**2) / (2 * s**2)) / sp.sqrt(2 * sp.pi)
    assert sp.simplify((sp.integrate(z * density, (z, 0, sp.oo)) - closed).rewrite(sp.erf)) == 0
    for m, d in ((0.3, 1.1), (-2.0, 0.5)):
        assert float(relu_mean(m, d)) == pytest.approx(float(closed.subs({mu: m, s: d})), rel=1e-12)


@pytest.mark.parametrize(
    "norm, shape",
    [
        (nn.BatchNorm1d(16), "8192x16:normal(0.5,1)"),
        (nn.LayerNorm(4096), "16x4096:normal(0.5,1)"),
        (nn.RMSNorm(4096), "16x4096:normal(0.5,1)"),
    ],
)
def test_dropout_before_a_norm(norm, shape):
    found = commute(norm, P, x=shape, draws=16)
    assert found.verdict == "different"
    mean = 0.0 if isinstance(norm, nn.RMSNorm) else 0.5
    assert found.variance_shift == pytest.approx(1 + 0.25 * 1.25 / (1.25 - mean**2))
    assert found.difference.mean == pytest.approx(found.measured.mean, abs=5 * found.measured.mean_error + 1e-3)
    assert found.difference.second == pytest.approx(found.measured.second, rel=0.01)


def test_batch_norm_statistics_shift_as_predicted():
    x = torch.randn(20000, 4, dtype=torch.float64) + 2
    ratio = F.dropout(x, 0.3).var() / x.var()
    assert float(ratio) == pytest.approx(variance_shift(0.3, 5.0, 1.0), rel=0.03)


def test_batch_norm_and_pooling_by_mode():
    found = commute(nn.MaxPool2d(2), nn.BatchNorm2d(4), draws=4)
    assert (found.train.verdict, found.eval.verdict) == ("different", "same function")
    found = commute(nn.AvgPool2d(2), nn.BatchNorm2d(4), draws=4)
    assert (found.train.verdict, found.eval.verdict) == ("different", "same function")


def test_the_users_modules_are_left_alone():
    layer, norm = nn.Linear(4, 4), nn.BatchNorm1d(4).eval()
    before = norm.running_mean.clone()
    commute(layer, norm, draws=2)
    assert layer.weight.dtype == torch.float32
    assert not norm.training
    assert torch.equal(before, norm.running_mean)


slopes = st.floats(-2, 2, allow_nan=False).map(lambda v: round(v, 3))
probability = st.floats(0, 0.95).map(lambda v: round(v, 3))


@settings(max_examples=10, deadline=None)
@given(slopes, slopes, probability, st.sampled_from([(3, 4), (2, 3, 5), (7,)]))
def test_any_two_slopes_commute_with_dropout(a, b, p, shape):
    found = commute(nn.Dropout(p), lambda x: torch.where(x > 0, a * x, b * x), x=shape, draws=2)
    assert found.verdict == "same function"
    assert found.measured.largest < 1e-9


@settings(max_examples=10, deadline=None)
@given(
    slopes,
    slopes.filter(lambda v: abs(v) > 0.01),
    st.floats(0.05, 0.9).map(lambda v: round(v, 3)),
    st.floats(0.1, 3).map(lambda v: round(v, 2)),
)
def test_no_kink_off_zero_is_called_homogeneous(a, b, p, kink):
    def bent(x):
        return a * x + b * torch.relu(x - kink)

    verdict = commute(nn.Dropout(p), bent, x="64x64", draws=4).verdict
    assert verdict in ("different", "undecided")


@settings(max_examples=8, deadline=None)
@given(slopes, slopes)
def test_max_pooling_commutes_with_rising_slopes_only(a, b):
    verdict = commute(nn.MaxPool1d(2), lambda x: torch.where(x > 0, a * x, b * x), draws=4).verdict
    assert (verdict == "same function") == (a >= 0 and b >= 0)


calls = []


def stateful(x):
    calls.append(1)
    return x * len(calls)


@pytest.mark.parametrize(
    "f, g, said",
    [
        (nn.Dropout(1.0), nn.ReLU(), "[0, 1)"),
        (D, lambda x: x + torch.rand_like(x), "random numbers"),
        (D, stateful, "changes with the call"),
        (D, torch.log, "NaN or infinity"),
        (nn.AlphaDropout(0.1), nn.ReLU(), "randomness"),
        (nn.ReLU, D, "class ReLU"),
        (3, D, "int"),
        (nn.Linear(4, 5), nn.Linear(6, 4), "composed"),
        (nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Dropout(0.5)), "one of the two maps"),
        (D, lambda x: (x, x), "tuple"),
        ("Dropout(0.5", "ReLU()", "expression"),
        ("Dropuot(0.5)", "ReLU()", "Dropout"),
        ("Dropout(2)", "ReLU()", "ValueError"),
        ("ReLU", "Dropout(0.1)", "ReLU(…)"),
    ],
)
def test_bad_input(f, g, said):
    with pytest.raises(InitioError) as caught:
        initio.commute(f, g)
    assert said in str(caught.value)


def test_what_is_not_elementwise_is_compared_and_said():
    found = commute(D, nn.Softmax(-1), draws=4)
    assert found.verdict == "different"
    assert "mixes entries" in found.reason
    assert found.difference.claim == "none"
    assert math.isfinite(found.measured.second)
    undecided = commute(lambda x: x.sort(-1)[0], nn.Softplus(), draws=2)
    assert undecided.verdict == "undecided"


def test_texts_and_json(capsys):
    from initio.cli import status

    assert status(["commute", "Dropout(0.5)", "ReLU()"]) == 0
    assert "same function" in capsys.readouterr().out
    assert status(["commute", "Sequential(Linear(64, 32), ReLU())", "Dropout(0.5)", "-f", "json", "-n", "8"]) == 0
    import json

    data = json.loads(capsys.readouterr().out)
    assert data["train"]["verdict"] == "different"
    assert data["unit"]["predicted"] > 0
    assert status(["commute", "Dropout(0.5)", "Nothing()"]) == 2


# -- the checks take verdict and numbers from the same place -----------------------------------------------------


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ReLU, nn.LeakyReLU])
def test_the_check_of_a_whole_model_says_what_commute_says(activation):
    report = initio.check(
        lambda: nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.3), activation(), nn.Linear(64, 4)), "16x64", select=["ACT102"]
    )
    variance = report.analysis.modules["0"].rms ** 2
    found = commute(activation(), nn.Dropout(0.3), x=f"16x64:normal(0,{variance**0.5!r})", draws=8)
    if found.verdict == "same function":
        assert not report.findings
        return
    (finding,) = report.findings
    assert finding.evidence["verdict"] == found.verdict
    assert finding.evidence["mean"] == pytest.approx(found.difference.mean, rel=1e-9, abs=1e-15)
    assert finding.evidence["second"] == pytest.approx(found.difference.second, rel=1e-9)


def test_the_variance_shift_of_the_check_is_that_of_commute():
    report = initio.check(
        lambda: nn.Sequential(nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 4)), "4096x8:normal(0.5,1)", select=["NRM103"]
    )
    (finding,) = report.findings
    assert finding.evidence["ratio"] == pytest.approx(commute(nn.BatchNorm1d(8), P, x="4096x8:normal(0.5,1)", draws=2).variance_shift)


def test_declared_and_proven_homogeneity_agree():
    from initio.core.order import increasing, positively_homogeneous
    from initio.derivations.homogeneity import properties
    from initio.derivations.tracing import formula_of

    for module in (
        nn.ReLU,
        nn.LeakyReLU,
        nn.Tanh,
        nn.GELU,
        nn.SiLU,
        nn.ELU,
        nn.Hardtanh,
        nn.ReLU6,
        nn.Hardswish,
        nn.Softshrink,
        nn.Softplus,
    ):
        formula = formula_of(module())
        proven = properties(formula)
        assert proven.homogeneous == positively_homogeneous(formula.scalar), module
        assert proven.increasing == increasing(formula.scalar), module
