"""NRM, ACT: faults that do not look like the example, and near misses on which every check is silent."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initio.api import check


def codes(factory, inputs, loss=None, train=True):
    return sorted({finding.code for finding in check(factory, inputs, loss=loss, train=train).findings})


class Net(nn.Module):
    """A model from a dict of modules and a forward function."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, *inputs, **named):
        return self.run(self, *inputs, **named)


class Inside(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.stem = nn.Identity()
        self.inner = nn.ModuleList([inner])

    def forward(self, x):
        return self.inner[0](self.stem(x))


def net(forward, **modules):
    return lambda: Inside(Net(forward, **{name: make() for name, make in modules.items()}))


def sequence(*makers):
    return lambda: nn.Sequential(*(make() for make in makers))


def conv(*a, **k):
    return lambda: nn.Conv2d(*a, **k)


def linear(*a, **k):
    return lambda: nn.Linear(*a, **k)


FAULTS = {
    "NRM101": [
        (net(lambda m, x: m.n(m.a(x)), a=linear(16, 8), n=lambda: nn.BatchNorm1d(8)), "8x16"),
        (net(lambda m, x: m.n(m.a(x).transpose(1, 2)).relu(), a=linear(16, 8), n=lambda: nn.BatchNorm1d(8)), "4x6x16"),
        (sequence(conv(3, 8, 3, padding=1), lambda: nn.GroupNorm(8, 8), nn.Tanh), "4x3x8x8"),
        (sequence(conv(3, 8, 3, padding=1), lambda: nn.InstanceNorm2d(8, affine=True), nn.GELU), "4x3x8x8"),
        (net(lambda m, x: F.batch_norm(m.a(x), None, None, training=True).relu(), a=lambda: nn.Conv1d(4, 8, 3)), "4x4x16"),
    ],
    "NRM102": [
        (
            net(lambda m, x: m.n(m.b(m.n(m.a(x)).tanh())), a=linear(8, 8, bias=False), b=linear(8, 8, bias=False), n=lambda: nn.BatchNorm1d(8)),
            "16x8",
        ),
        (
            net(lambda m, x: m.n(m.a(x)) + m.n(m.a(3 * x)), a=conv(3, 4, 3, padding=1, bias=False), n=lambda: nn.BatchNorm2d(4)),
            "8x3x8x8",
        ),
        (lambda: shared_in_blocks(), "8x4x8x8"),
    ],
    "NRM103": [
        (sequence(linear(16, 32), nn.GELU, nn.Dropout, linear(32, 32, bias=False), lambda: nn.BatchNorm1d(32), nn.ReLU, linear(32, 2)), "32x16"),
        (
            net(lambda m, x: m.n(F.dropout(m.a(x).relu(), 0.2, m.training)), a=conv(3, 8, 3, padding=1), n=lambda: nn.BatchNorm2d(8)),
            "8x3x8x8",
        ),
        (
            sequence(conv(3, 8, 3, padding=1), nn.SiLU, lambda: nn.Dropout2d(0.3), conv(8, 8, 3, padding=1, bias=False), lambda: nn.BatchNorm2d(8)),
            "8x3x8x8",
        ),
    ],
    "NRM104": [
        (net(lambda m, x: F.layer_norm(m.a(x)[..., None], (1,)).squeeze(-1), a=linear(16, 4)), "8x16"),
        (sequence(conv(3, 8, 3, padding=1), lambda: nn.AdaptiveAvgPool2d(1), lambda: nn.BatchNorm2d(8)), "1x3x8x8"),
        (sequence(linear(16, 8), lambda: nn.GroupNorm(8, 8), nn.ReLU, linear(8, 2)), "8x16"),
        (sequence(linear(16, 8), lambda: nn.BatchNorm1d(8)), "1x16"),
    ],
    "ACT101": [
        (net(lambda m, x: m.b(F.dropout(m.a(x), 0.1, m.training)), a=linear(16, 16), b=linear(16, 16)), "8x16"),
        (sequence(conv(3, 16, 3, padding=1), conv(16, 16, 3, padding=1), nn.ReLU), "4x3x8x8"),
        (sequence(conv(3, 8, 3, padding=1), nn.Flatten, linear(512, 10)), "4x3x8x8"),
        (sequence(conv(8, 32, 1), conv(32, 16, 1), nn.GELU), "4x8x8x8"),
    ],
    "ACT102": [
        (sequence(linear(16, 16), nn.Dropout, nn.Softplus, linear(16, 2)), "8x16"),
        (net(lambda m, x: torch.tanh(F.dropout(m.a(x), 0.4, m.training)), a=linear(16, 16)), "8x16"),
        (sequence(conv(3, 8, 3, padding=1), lambda: nn.Dropout2d(0.5), nn.GELU), "4x3x8x8"),
        (net(lambda m, x: (y := F.dropout(m.a(x), 0.4, m.training)) * torch.sigmoid(y), a=linear(16, 16)), "8x16"),
        (net(lambda m, x: F.dropout(m.a(x), 0.4, m.training).exp() - 0.5, a=linear(16, 16)), "8x16"),
    ],
    "ACT103": [
        (net(lambda m, x: torch.relu(F.max_pool2d(m.a(x).sigmoid(), 3, 1, 1)), a=conv(3, 8, 3, padding=1)), "4x3x8x8"),
        (net(lambda m, x: m.a(x).relu().sigmoid(), a=linear(16, 4)), "8x16"),
        (net(lambda m, x: m.a(x).softmax(-1).softmax(-1), a=linear(16, 4)), "8x16"),
        (sequence(linear(16, 16), nn.ReLU6, lambda: nn.LeakyReLU(0.1), linear(16, 2)), "8x16"),
    ],
    "ACT104": [
        (sequence(linear(16, 10), nn.ReLU), "8x16", "cross_entropy"),
        (net(lambda m, x: F.gelu(m.a(x)).squeeze(-1), a=linear(16, 1)), "8x16", "bce_with_logits"),
        (sequence(conv(3, 5, 3, padding=1), nn.Hardtanh), "4x3x8x8", "cross_entropy"),
        (net(lambda m, x: m.a(x).clamp(min=0), a=linear(16, 10)), "8x16", "cross_entropy"),
    ],
}  # fmt: skip


def shared_in_blocks():
    norm = nn.BatchNorm2d(4)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), norm, nn.ReLU()) for _ in range(3)]
    return nn.Sequential(*blocks)


def siamese():
    body = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU())
    return Net(lambda m, a, b: (m.body(a) - m.body(b)).abs(), body=body)


SILENT = {
    "the square of an RMS norm behind a dropout": (
        net(lambda m, x: m.b((y := m.d(m.a(x))) * (y.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()), a=linear(16, 16), b=linear(16, 4),
            d=lambda: nn.Dropout(0.2)), "8x16"
    ),
    "scores kept finite": (net(lambda m, x: m.a(x).clamp(min=-1e4), a=linear(16, 10)), "8x16", "cross_entropy"),
    "bias before a layer norm": (sequence(linear(16, 16), lambda: nn.LayerNorm(16), nn.ReLU), "8x16"),
    "bias before a group norm of several channels": (sequence(conv(3, 8, 3, padding=1), lambda: nn.GroupNorm(4, 8)), "4x3x8x8"),
    "bias that a skip reads too": (
        net(lambda m, x: (y := m.a(x)) + m.n(y), a=conv(3, 8, 3, padding=1), n=lambda: nn.BatchNorm2d(8)), "4x3x8x8"
    ),
    "batch norm over another axis": (net(lambda m, x: m.n(m.a(x)), a=linear(16, 8), n=lambda: nn.BatchNorm1d(6)), "4x6x16"),
    "siamese network": (siamese, ("16x8", "16x8")),
    "one batch norm a layer": (
        sequence(*[m for _ in range(2) for m in (linear(8, 8, bias=False), lambda: nn.BatchNorm1d(8), nn.ReLU)]), "16x8"
    ),
    "shared layer norm": (
        net(lambda m, x: m.n(m.b(m.n(m.a(x)).relu())), a=linear(8, 8), b=linear(8, 8), n=lambda: nn.LayerNorm(8)), "16x8"
    ),
    "dropout behind the last batch norm": (
        sequence(linear(16, 32, bias=False), lambda: nn.BatchNorm1d(32), nn.ReLU, nn.Dropout, linear(32, 2)), "32x16"
    ),
    "dropout before a layer norm": (sequence(linear(16, 32), nn.ReLU, nn.Dropout, lambda: nn.LayerNorm(32), linear(32, 2)), "32x16"),
    "dropout of two percent": (sequence(linear(16, 8), nn.Tanh, lambda: nn.Dropout(0.02), lambda: nn.BatchNorm1d(8)), "32x16"),
    "low rank": (sequence(linear(64, 4, bias=False), linear(4, 64)), "8x64"),
    "depthwise separable": (sequence(conv(8, 8, 3, padding=1, groups=8), conv(8, 16, 1), nn.ReLU), "4x8x8x8"),
    "separable kernels": (sequence(conv(8, 8, (1, 7), padding=(0, 3)), conv(8, 8, (7, 1), padding=(3, 0)), nn.ReLU), "4x8x8x8"),
    "reduction before a large kernel": (sequence(conv(64, 16, 1), conv(16, 16, 3, padding=1), nn.ReLU), "4x64x8x8"),
    "linear map read by a skip too": (net(lambda m, x: (y := m.a(x)) + m.b(y), a=linear(16, 16), b=linear(16, 16)), "8x16"),
    "dropout before a written leaky relu": (
        net(lambda m, x: torch.relu(y := F.dropout(m.a(x), 0.4, m.training)) - 0.2 * torch.relu(-y), a=linear(16, 16)), "8x16"
    ),
    "dropout before relu": (sequence(linear(16, 16), nn.Dropout, nn.ReLU, linear(16, 2)), "8x16"),
    "dropout before prelu": (sequence(linear(16, 16), nn.Dropout, nn.PReLU, linear(16, 2)), "8x16"),
    "dropout behind gelu": (sequence(linear(16, 16), nn.GELU, nn.Dropout, linear(16, 2)), "8x16"),
    "gelu behind relu": (sequence(linear(16, 16), nn.ReLU, nn.GELU, linear(16, 2)), "8x16"),
    "relu of a sum of relus and a branch": (
        net(lambda m, x: torch.relu(torch.relu(m.a(x)) + m.b(x.tanh())), a=linear(16, 16), b=linear(16, 16)), "8x16"
    ),
    "softmax over two axes": (net(lambda m, x: m.a(x).softmax(1).softmax(2), a=linear(16, 4)), "8x6x16"),
    "soft-capped logits": (net(lambda m, x: 30 * torch.tanh(m.a(x) / 30), a=linear(16, 10)), "8x16", "cross_entropy"),
    "tanh into a regression": (sequence(linear(16, 4), nn.Tanh), "8x16", "mse"),
    "bounded features without a loss": (sequence(linear(16, 4), nn.ReLU), "8x16"),
}  # fmt: skip


@pytest.mark.parametrize("code, case", [(code, case) for code, cases in FAULTS.items() for case in cases])
def test_variants_are_found(code, case):
    assert codes(*case) == [code]


@pytest.mark.parametrize("case", SILENT.values(), ids=SILENT)
def test_near_misses_stay_silent(case):
    assert codes(*case) == []


def test_the_variance_shift_is_the_formula():
    (finding,) = check(sequence(linear(16, 32), nn.ReLU, nn.Dropout, lambda: nn.BatchNorm1d(32)), "64x16").findings
    assert finding.evidence["ratio"] == pytest.approx(1 + finding.evidence["second"] / finding.evidence["variance"])


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_the_gap_of_the_order_is_what_monte_carlo_gives(p):
    torch.manual_seed(0)
    x = torch.randn(400_000, dtype=torch.float64) * (17 / 48) ** 0.5  # Var = (16 + 1) / (3 · 16)
    mask = (torch.rand_like(x) > p) / (1 - p)
    d = (x * mask).sigmoid() - x.sigmoid() * mask
    (finding,) = check(sequence(linear(16, 16), lambda: nn.Dropout(p), nn.Sigmoid, linear(16, 2)), "8x16").findings
    assert finding.evidence["mean"] == pytest.approx(d.mean().item(), abs=5 * d.std().item() / 400_000**0.5)
    assert finding.evidence["second"] == pytest.approx((d**2).mean().item(), rel=0.02)


def test_order_that_matters_less_is_a_note():
    (finding,) = check(sequence(linear(16, 16), nn.Dropout, nn.SiLU, linear(16, 2)), "8x16").findings
    assert (finding.code, finding.severity) == ("ACT102", "note")
