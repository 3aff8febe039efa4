"""RES, SHP, ATT, NUM, PRF: faults that do not look like the example, and near misses on which every check is silent."""

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


def net(forward, **modules):
    return lambda: Net(forward, **{name: make() for name, make in modules.items()})


def sequence(*makers):
    return lambda: nn.Sequential(*(make() for make in makers))


def conv(*a, **k):
    return lambda: nn.Conv2d(*a, **k)


def linear(*a, **k):
    return lambda: nn.Linear(*a, **k)


class PreActivation(nn.Module):
    """The skip adds what its first in-place activation has overwritten."""

    def __init__(self, act):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Sequential(act(), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x):
        x = self.stem(x)
        return x + self.branch(x)


def augmented(m, x):
    x = m.a(x)
    residual = x
    x += m.b(x.tanh())
    return m.c(x).tanh() + residual


def functional(m, x):
    x = m.a(x)
    y = F.relu(x, inplace=True)
    return torch.cat([m.b(y).tanh(), x], -1)


def renamed(m, x):
    x = m.a(x)
    x = F.relu(x, inplace=True)
    return m.b(x).tanh() + x


def activated_twice(m, x):
    x = F.relu(m.a(x))
    return m.branch(x) + x


def before_the_skip(m, x):
    x = m.a(x)
    x += m.shift
    residual = x
    return m.b(x).tanh() + residual


def late_identity(m, x):
    out = m.a(x)
    x = out
    out += x
    return out.tanh()


def valid_unet(m, x):
    a = m.down(x).relu()
    b = m.inner(F.max_pool2d(a, 2)).relu()
    up = F.interpolate(b, scale_factor=2)
    edge = (a.shape[-1] - up.shape[-1]) // 2
    return m.out(torch.cat([a[..., edge : edge + up.shape[-2], edge : edge + up.shape[-1]], up], 1))


def heads(t, d):
    return t.unflatten(-1, (-1, d)).transpose(1, 2)


def merged(t):
    return t.transpose(1, 2).flatten(2)


def attention(scale, product=None):
    """Attention with four heads of 16, written out."""

    def forward(m, x):
        q, k, v = (heads(t, 16) for t in m.qkv(x).chunk(3, -1))
        logits = q @ k.transpose(-1, -2) if product is None else product(q, k)
        return m.out(merged((logits * scale).softmax(-1).clone() @ v))

    return net(forward, qkv=linear(64, 192), out=linear(64, 64))


def fused(before=1.0, scale=None):
    def forward(m, x):
        q, k, v = (heads(t, 16) for t in m.qkv(x).chunk(3, -1))
        return m.out(merged(F.scaled_dot_product_attention(q * before, k, v, scale=scale)))

    return net(forward, qkv=linear(64, 192), out=linear(64, 64))


def returning(m, x):
    q, k, v = (heads(t, 16) for t in m.qkv(x).chunk(3, -1))
    weights = (q @ k.transpose(-1, -2) / 4).softmax(-1)
    return m.out(merged(weights @ v)), weights


def cosine(m, x):
    q, k, v = (heads(t, 16) for t in m.qkv(x).chunk(3, -1))
    return m.out(merged(F.scaled_dot_product_attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, scale=1.0)))


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(64, 192)
        self.out = nn.Linear(64, 64)
        self.temperature = nn.Parameter(torch.full((4, 1, 1), 3.0))

    def forward(self, x):
        q, k, v = (heads(t, 16) for t in self.qkv(x).chunk(3, -1))
        return self.out(merged(F.scaled_dot_product_attention(q * self.temperature, k, v, scale=1.0)))


FAULTS = {
    "RES101": [
        (lambda: PreActivation(lambda: nn.ReLU(inplace=True)), "4x3x8x8"),
        (lambda: PreActivation(lambda: nn.SiLU(inplace=True)), "4x3x8x8"),
        (net(augmented, a=linear(16, 16), b=linear(16, 16), c=linear(16, 16)), "8x16"),
        (net(functional, a=linear(16, 16), b=linear(16, 16)), "8x16"),
    ],
    "RES102": [
        (net(lambda m, x: torch.add(y := m.a(x).tanh(), y), a=linear(16, 16)), "8x16"),
        (net(late_identity, a=linear(16, 16)), "8x16"),
        (net(lambda m, x: m.b((y := m.a(x).relu()) + y), a=conv(3, 8, 3, padding=1), b=conv(8, 2, 1)), "4x3x8x8"),
    ],
    "SHP101": [
        (net(lambda m, x: m.a(x).relu() + m.b(x).sigmoid(), a=conv(3, 8, 3), b=conv(3, 8, (3, 3))), "4x3x8x8"),
        (net(lambda m, x: x + m.a(x).relu(), a=conv(8, 8, 3)), "4x8x8x8"),
        (net(lambda m, x: torch.cat([x, m.a(x).relu()], 1), a=conv(8, 4, 5)), "4x8x16x16"),
        (net(lambda m, x: torch.stack([m.a(x).tanh(), m.b(x).relu()]).sum(0), a=lambda: nn.Conv1d(4, 4, 5), b=lambda: nn.Conv1d(4, 4, 5)), "4x4x32"),
    ],
    "SHP102": [
        (net(lambda m, x: F.avg_pool2d(m.a(x).tanh(), 3), a=conv(3, 4, 3, padding=1)), "4x3x16x16"),
        (sequence(lambda: nn.Conv2d(3, 8, 4, stride=4), nn.GELU), "4x3x18x18"),
        (sequence(lambda: nn.Conv1d(4, 8, 3, stride=3), nn.Tanh), "4x4x32"),
    ],
    "SHP103": [
        (sequence(conv(8, 8, 3, padding=1), nn.Tanh), "4x8x1x1"),
        (sequence(lambda: nn.Conv1d(4, 4, 31, padding=15), nn.GELU), "4x4x6"),
        (net(lambda m, x: F.conv2d(x, m.a.weight, padding=9, dilation=9).tanh(), a=conv(8, 8, 3, bias=False)), "4x8x6x6"),
    ],
    "SHP104": [
        (net(lambda m, x: (m.a(x) - m.b(x).squeeze(-1)).abs(), a=linear(16, 1), b=linear(16, 1)), "8x16"),
        (net(lambda m, x: m.a(x).sum(1) / (1 + m.b(x).sigmoid()), a=linear(16, 4), b=linear(16, 1)), "8x16"),
        (net(lambda m, x: torch.maximum(m.a(x), m.b(x)[:, 0]), a=linear(16, 1), b=linear(16, 4)), "8x16"),
    ],
    "SHP105": [
        (net(lambda m, x: m.b(m.a(x)), a=linear(16, 8), b=linear(9, 2)), "8x16"),
        (sequence(conv(3, 8, 3), nn.ReLU, conv(4, 8, 3)), "4x3x16x16"),
        (net(lambda m, x: torch.cat([m.a(x), m.b(x)[:4]], 1), a=linear(16, 4), b=linear(16, 4)), "8x16"),
        (net(lambda m, x: m.a(x)["missing"], a=linear(16, 4)), "8x16"),
        (sequence(conv(3, 8, 3), lambda: nn.BatchNorm2d(4)), "4x3x16x16"),
    ],
    "ATT101": [
        (net(lambda m, x: F.softmax(m.a(x), dim=0), a=linear(16, 4)), "8x16"),
        (sequence(conv(3, 1, 3, padding=1), lambda: nn.Softmax(dim=1)), "4x3x8x8"),
        (net(lambda m, x: (m.a(x).tanh().softmax(-1) * x).sum(1), a=linear(16, 1)), "4x6x16"),
        (net(lambda m, x: (m.a(x).transpose(1, 2).softmax(0) @ x).flatten(1), a=linear(16, 4)), "8x6x16"),
    ],
    "ATT102": [
        (fused(before=16**0.5, scale=1.0), "2x8x64"),
        (fused(scale=64**-0.5), "2x8x64"),
        (fused(scale=1.0), "2x8x64"),
        (fused(before=16**-0.5), "2x8x64"),
    ],
    "ATT103": [
        (net(lambda m, x, mask: m.a(x), a=linear(16, 4)), {"x": "8x16", "mask": "8x16:bool"}),
        (net(lambda m, x, y: (y.tanh(), m.a(x))[1], a=linear(16, 4)), {"x": "8x16", "y": "8x16"}),
        (net(lambda m, x, y: m.a(x) + y.long().sum().shape.numel(), a=linear(16, 4)), {"x": "8x16", "y": "8x4:int(7)"}),
    ],
    "NUM101": [
        (net(lambda m, x: m.a(x).relu().sqrt(), a=linear(16, 4)), "8x16"),
        (net(lambda m, x: m.a(x).tanh() / m.b(x), a=linear(16, 4), b=linear(16, 4)), "8x16"),
        (net(lambda m, x: torch.log(m.a(x)), a=linear(16, 4)), "8x16"),
        (net(lambda m, x: m.a(x).sigmoid().log(), a=linear(16, 4)), "8x16"),
        (net(lambda m, x: torch.exp(100 * m.a(x)), a=linear(16, 4)), "8x16"),
        (net(lambda m, x: ((y := m.a(x))[:, None] - y[None]).pow(2).sum(-1).sqrt(), a=linear(16, 4)), "8x16"),
        (net(lambda m, x: ((y := m.a(x)).unsqueeze(2) - y.unsqueeze(1)).square().sum(dim=-1).sqrt(), a=linear(16, 4)), "2x8x16"),
    ],
    "PRF101": [
        (net(lambda m, x: torch.cat([m.a(x).tanh(), m.b(x)], 1), a=conv(8, 8, 1), b=conv(8, 16, 1)), "4x8x4x4"),
        (net(lambda m, x: F.linear(x, m.a.weight).relu() @ F.linear(x, m.b.weight).mT, a=linear(16, 8, bias=False), b=linear(16, 8, bias=False)), "4x3x16"),
        (net(lambda m, x: torch.cat([layer(x) for layer in m.a], -1), a=lambda: nn.ModuleList(nn.Linear(16, 8) for _ in range(3))), "8x16"),
    ],
    "PRF102": [
        (net(lambda m, x: torch.cat([path(x) for path in m.a], -1), a=lambda: nn.ModuleList(sequence(linear(16, 4), nn.GELU, linear(4, 4))() for _ in range(4))), "8x16"),
        (net(lambda m, x: torch.stack([path(x) for path in m.a]).sum(0), a=lambda: nn.ModuleList(sequence(conv(8, 2, 1), nn.ReLU, conv(2, 2, 3, padding=1), nn.ReLU, conv(2, 8, 1))() for _ in range(5))), "4x8x4x4"),
        (net(lambda m, x: x + sum(b(F.silu(a(x))) for a, b in zip(m.a, m.b)), a=lambda: nn.ModuleList(nn.Linear(16, 4) for _ in range(4)), b=lambda: nn.ModuleList(nn.Linear(4, 16) for _ in range(4))), "8x16"),
    ],
    "PRF103": [
        (attention(0.25), "2x8x64"),
        (net(lambda m, x: m.out(merged(F.scaled_dot_product_attention(*(heads(p(x), 16) for p in (m.q, m.k, m.v))))), q=linear(64, 64), k=linear(64, 64), v=linear(64, 64), out=linear(64, 64)), "2x8x64"),
        (net(lambda m, x: F.max_pool2d(F.leaky_relu(m.a(x)), 3, 2, 1), a=conv(3, 8, 3, padding=1)), "4x3x8x8"),
        (sequence(conv(3, 8, 3, padding=1, bias=False), lambda: nn.BatchNorm2d(8), nn.Tanh), "4x3x8x8", None, False),
    ],
}  # fmt: skip

SILENT = {
    "in-place activation that renames": (net(renamed, a=linear(16, 16), b=linear(16, 16)), "8x16"),
    "in-place ReLU of a ReLU": (
        net(activated_twice, a=linear(16, 16), branch=sequence(lambda: nn.Linear(16, 16), lambda: nn.Tanh())), "8x16"
    ),
    "in-place sum before the identity": (
        net(before_the_skip, a=linear(16, 16), b=linear(16, 16), shift=lambda: nn.Parameter(torch.zeros(16))), "8x16"
    ),
    "out of place": (lambda: PreActivation(nn.ReLU), "4x3x8x8"),
    "a factor of two": (net(lambda m, x: 2 * m.a(x), a=linear(16, 4)), "8x16"),
    "a matrix and its transpose": (net(lambda m, x: (y := m.a(x).unflatten(1, (4, 4))) + y.mT, a=linear(16, 16)), "8x16"),
    "cropped skip of valid convolutions": (
        net(valid_unet, down=conv(3, 4, 3), inner=conv(4, 4, 3), out=conv(8, 2, 1)), "2x3x14x14"
    ),
    "even kernels, the first one padded": (
        net(lambda m, x: x + m.b(m.a(x).tanh()), a=conv(3, 8, 2, padding=1), b=conv(8, 3, 2)), "4x3x8x8"
    ),
    "padded before, and a projected skip": (
        net(lambda m, x: m.c(x) + m.b(F.pad(x, (1, 1, 1, 1))).tanh(), b=conv(3, 8, 3), c=conv(3, 8, 1)), "4x3x8x8"
    ),
    "stem without padding": (
        net(lambda m, x: (y := m.a(x).relu()) + m.b(y).tanh(), a=conv(3, 8, 3), b=conv(8, 8, 3, padding=1)), "4x3x8x8"
    ),
    "unpadded chain without branches": (sequence(conv(3, 8, 3), nn.ReLU, conv(8, 8, 3), nn.Tanh), "4x3x16x16"),
    "strided convolution that covers all": (sequence(conv(3, 8, 3, stride=2, padding=1), nn.Tanh), "4x3x16x16"),
    "subsampling on purpose": (sequence(conv(3, 8, 1, stride=2), nn.Tanh), "4x3x15x15"),
    "ceil_mode": (net(lambda m, x: F.max_pool2d(F.gelu(m.a(x)), 2, ceil_mode=True), a=conv(3, 8, 3, padding=1)), "4x3x15x15"),
    "kernel as large as the map": (sequence(conv(3, 8, 7), nn.Tanh), "4x3x7x7"),
    "padding by name": (
        sequence(lambda: nn.Conv2d(3, 8, 3, padding="valid", bias=False), nn.Tanh, lambda: nn.Conv2d(8, 8, 3, padding="same")), "4x3x15x15"
    ),
    "dilation within the map": (sequence(conv(3, 8, 3, padding=6, dilation=6), nn.Tanh), "4x3x13x13"),
    "pairs on purpose": (net(lambda m, x: (y := m.a(x))[:, None] - y[None], a=linear(16, 4)), "8x16"),
    "keepdim": (net(lambda m, x: m.a(x) * m.b(x).mean(-1, keepdim=True), a=linear(16, 1), b=linear(16, 4)), "8x16"),
    "bias of every sample": (net(lambda m, x: m.a(x) + x.sum(1, keepdim=True), a=linear(16, 4)), "8x16"),
    "softmax over positions": (net(lambda m, x: (m.a(x).softmax(1) * x).sum(1), a=linear(16, 1)), "4x6x16"),
    "softmax over one position of an input": (net(lambda m, x: m.a(x).softmax(1) * m.a(x), a=linear(16, 4)), "4x1x16"),
    "softmax over the positions of a transposed score": (
        net(lambda m, x: m.a(x.transpose(0, 1)).softmax(0).transpose(0, 1), a=linear(16, 4)), "4x6x16"
    ),
    "learned temperature": (Temperature, "2x8x64"),
    "cosine attention": (net(cosine, qkv=linear(64, 192), out=linear(64, 64)), "2x8x64"),
    "unscaled attention over a map": (
        net(lambda m, x: x + (m.q(x).flatten(2).mT @ m.k(x.tanh()).flatten(2)).softmax(-1).sum(1).view(2, 1, 4, 4),
            q=conv(64, 64, 1), k=conv(64, 64, 1)), "2x64x4x4"
    ),
    "scale 1/d on purpose": (fused(scale=1 / 16), "2x8x64"),
    "attention weights that are returned": (net(returning, qkv=linear(64, 192), out=linear(64, 64)), "2x8x64"),
    "distances of all pairs with a guard": (
        net(lambda m, x: (((y := m.a(x)).unsqueeze(2) - y.unsqueeze(1)).pow(2).sum(-1) + 1e-6).sqrt(), a=linear(16, 4)), "2x8x16"
    ),
    "distances of all pairs by cdist": (net(lambda m, x: torch.cdist(y := m.a(x), y), a=linear(16, 4)), "2x8x16"),
    "distances of two tensors": (
        net(lambda m, x: (m.a(x).unsqueeze(2) - m.b(x.relu()).unsqueeze(1)).pow(2).sum(-1).sqrt(), a=linear(16, 4), b=linear(16, 4)),
        "2x8x16",
    ),
    "log with a guard": (net(lambda m, x: torch.log(m.a(x).softmax(-1) + 1e-6), a=linear(16, 4)), "8x16"),
    "log of a clamped sigmoid": (net(lambda m, x: m.a(x).sigmoid().clamp(1e-6, 1).log(), a=linear(16, 4)), "8x16"),
    "root of variance and epsilon": (
        net(lambda m, x: (y := m.a(x)) / (y.var(-1, keepdim=True) + 1e-5).sqrt(), a=linear(16, 8)), "8x16"
    ),
    "division by one plus a positive": (net(lambda m, x: (y := m.a(x)) / (1 + y.abs()), a=linear(16, 4)), "8x16"),
    "exp of a bounded value": (net(lambda m, x: torch.exp(m.a(x).tanh()), a=linear(16, 4)), "8x16"),
    "branches with different windows": (
        net(lambda m, x: torch.cat([m.a(x), m.b(x)], 1).tanh(), a=conv(8, 8, 1), b=conv(8, 8, 3, padding=1)), "4x8x4x4"
    ),
    "frozen layer and its adapter": (
        net(lambda m, x: m.a(x) + m.c(m.b(x)), a=lambda: nn.Linear(32, 32).requires_grad_(False), b=linear(32, 2), c=linear(2, 32)), "8x32"
    ),
    "one layer called twice": (net(lambda m, x: m.a(x).tanh() * m.a(x).sigmoid(), a=linear(16, 16)), "8x16"),
    "relu behind the pooling": (net(lambda m, x: F.max_pool2d(m.a(x), 2).relu(), a=conv(3, 8, 3, padding=1)), "4x3x8x8"),
    "relu before average pooling": (net(lambda m, x: F.avg_pool2d(m.a(x).relu(), 2), a=conv(3, 8, 3, padding=1)), "4x3x8x8"),
    "relu that a skip reads before pooling": (
        net(lambda m, x: (F.max_pool2d(y := m.a(x).relu(), 2), y), a=conv(3, 8, 3, padding=1)), "4x3x8x8"
    ),
    "fused attention": (fused(), "2x8x64"),
}  # fmt: skip


@pytest.mark.parametrize("code, case", [(code, case) for code, cases in FAULTS.items() for case in cases])
def test_variants_are_found(code, case):
    assert codes(*case) == [code]


@pytest.mark.parametrize("case", SILENT.values(), ids=SILENT)
def test_near_misses_stay_silent(case):
    assert codes(*case) == []


def test_a_crash_names_the_size_that_was_needed():
    (finding,) = check(sequence(conv(3, 8, 3, padding=1), nn.Flatten, linear(1000, 10)), "4x3x16x16").findings
    assert finding.evidence["needed"] == 2048
    assert finding.evidence["has"] == 1000
    assert "in_features=2048" in finding.remedy
    assert finding.source.text.startswith("return lambda") or "linear" in finding.source.text


def test_the_share_of_the_map_that_is_lost():
    (finding,) = check(net(lambda m, x: m.a(x).relu() + m.b(x).sigmoid(), a=conv(3, 8, 3), b=conv(3, 8, 3)), "4x3x8x8").findings
    assert finding.evidence["lost"] == pytest.approx(1 - 36 / 64)
