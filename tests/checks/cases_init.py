"""Initial weights, and the scale of the signal."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from checks.planted import Wrapped, fault, near


def constant(layer, value):
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


@fault("INI101", "8x16")
def zeros():
    return nn.Sequential(*(constant(nn.Linear(16, 16), 0.0) if i % 2 == 0 else nn.GELU() for i in range(5)))


@fault("INI101", "2x8x8x8")
def nested_kernels():
    return Wrapped(nn.Sequential(constant(nn.Conv2d(8, 8, 3, padding=1), 0.01), nn.ReLU(), constant(nn.Conv2d(8, 4, 3, padding=1), 0.01)))


@fault("INI101", "8x16")
class FunctionalOnes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.full((8, 16), 0.1))
        self.second = nn.Parameter(torch.full((4, 8), 0.1))

    def forward(self, x):
        return F.linear(torch.sigmoid(F.linear(x, self.first)), self.second)


@near("INI101", "8x16")
def zero_head():
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), constant(nn.Linear(16, 4), 0.0))


@near("INI101", "2x8x8x8")
class ZeroEnds(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.last = nn.ModuleList(constant(nn.Conv2d(8, 8, 1), 0.0) for _ in range(3))

    def forward(self, x):
        for first, last in zip(self.first, self.last, strict=True):
            x = x + last(torch.relu(first(x)))
        return x


@near("INI101", "2x8x8x8")
def averaging_kernels():
    blur = constant(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 1 / 9)
    again = constant(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 1 / 9)
    return nn.Sequential(blur, again, nn.Conv2d(8, 4, 1))


def clones(layer, n):
    return nn.ModuleList([copy.deepcopy(layer) for _ in range(n)])


@fault("INI102", "2x5x16")
def torch_encoder():
    return Wrapped(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 3, enable_nested_tensor=False)
    )


@fault("INI102", "2x8x8x8")
def cloned_blocks():
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*clones(block, 3))


@fault("INI102", "8x16")
class StateOfTheFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@near("INI102", "8x16")
class MomentumEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(16, 8)
        self.slow = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            key = self.slow(x + 1.0)
        return self.encoder(x) - key


@near("INI102", "8x16")
class HeadsOnFeatures(nn.Module):
    """Copies of one head, each on other features."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.heads = clones(nn.Linear(16, 4), 3)

    def forward(self, x):
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = torch.tanh(layer(x))
            found.append(head(torch.relu(x)))
        return torch.stack(found)


@near("INI102", "8x16")
def drawn_again():
    layers = clones(nn.Linear(16, 16), 3)
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


@fault("INI103", "8x16", "cross_entropy")
def unit_head():
    head = nn.Linear(64, 100)
    nn.init.normal_(head.weight)
    return nn.Sequential(nn.Linear(16, 64), nn.Tanh(), head)


@fault("INI103", "2x3x8x8", "cross_entropy")
def nested_large_logits():
    head = nn.Conv2d(8, 6, 1)
    nn.init.constant_(head.bias, 0.0)
    nn.init.normal_(head.weight, std=4.0)
    return Wrapped(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), head))


@fault("INI103", "4x8:int(50)", "cross_entropy")
class UnscaledTie(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.mix = nn.Linear(64, 64)

    def forward(self, ids):
        return self.mix(self.embed(ids)) @ torch.eye(64, 50) * 10.0


@near("INI103", "8x16", "cross_entropy")
def default_head():
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 100))


@near("INI103", "8x16")
def large_outputs_without_a_loss():
    head = nn.Linear(64, 100)
    nn.init.normal_(head.weight)
    return nn.Sequential(nn.Linear(16, 64), nn.Tanh(), head)


@near("INI103", ["32x16", "32:int(10)"], "model")
class Summed(nn.Module):
    """The loss of 32 targets together, which the caller divides."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(16, 64), nn.Linear(64, 10)

    def forward(self, x, labels):
        logits = self.head(torch.tanh(self.body(x)))
        return {"loss": nn.functional.cross_entropy(logits, labels, reduction="sum") / 32, "logits": logits}


@near("INI103", "8x16", "mse")
def regression():
    head = nn.Linear(64, 4)
    nn.init.normal_(head.weight)
    return nn.Sequential(nn.Linear(16, 64), nn.Tanh(), head)


def stack(layer, depth, head=True):
    return nn.Sequential(nn.Embedding(50, 64), *(layer() for _ in range(depth))).requires_grad_(False), nn.Linear(64, 2)


def ordered(weight, bias, act):
    def layer():
        linear = nn.Linear(64, 64)
        nn.init.normal_(linear.weight, std=weight / 8)
        nn.init.normal_(linear.bias, std=bias)
        return nn.Sequential(linear, act())

    return layer


@fault("SIG102", "8:int(50)")
def ordered_sigmoid():
    return nn.Sequential(*stack(ordered(1.0, 0.5, nn.Sigmoid), 10))


@fault("SIG102", "8:int(50)")
def ordered_relu():
    return Wrapped(nn.Sequential(*stack(ordered(0.7, 0.7, nn.ReLU), 16)))


@fault("SIG102", "8:int(50)")
class FunctionalCollapse(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 64).requires_grad_(False)
        weights = [nn.Parameter(torch.randn(64, 64) * 0.05, requires_grad=False) for _ in range(12)]
        self.weights = nn.ParameterList(weights)
        self.bias = nn.Parameter(torch.randn(64), requires_grad=False)
        self.head = nn.Linear(64, 2)

    def forward(self, ids):
        x = self.embed(ids)
        for weight in self.weights:
            x = F.gelu(F.linear(x, weight, self.bias))
        return self.head(x)


@near("SIG102", "8:int(50)")
def edge_of_chaos():
    return nn.Sequential(*stack(ordered(1.0, 0.0, nn.Tanh), 12))


@near("SIG102", "8:int(50)")
def kaiming_relu():
    return nn.Sequential(*stack(ordered(2**0.5, 0.0, nn.ReLU), 16))


@near("SIG102", "8x64")
class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(ordered(0.5, 0.5, nn.Tanh)() for _ in range(12))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


@fault("SIG103", "16x64")
class DeadUnits(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 2)
        nn.init.constant_(self.first.bias, -4.0)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


@fault("SIG103", "2x8x8x8")
def nested_hard_sigmoid():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    nn.init.normal_(conv.weight, std=1.5)
    return Wrapped(nn.Sequential(conv, nn.Sigmoid(), nn.Conv2d(8, 2, 1)))


@fault("SIG103", "16x64:normal(0,30)")
def unscaled_input():
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))


@near("SIG103", "16x64")
def default_tanh():
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 2))


@near("SIG103", "16x64")
def half_dead_by_design():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))


@near("SIG103", "4x3x16")
def gates_of_an_lstm():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 3)
            nn.init.constant_(self.rnn.bias_ih_l0[16:32], 1.0)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    return Tagger()


@fault("TIE101", "2x8:int(50)")
class TiedByAssignment(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(50, 16), nn.Linear(16, 16)
        self.embed.weight.data.mul_(0.1)
        self.tables = nn.ParameterList([self.embed.weight])

    def forward(self, ids):
        return self.mix(self.embed(ids)) @ self.tables[0].t()


@fault("TIE101", "2x8:int(50)")
def nested_tie():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            nn.init.normal_(self.embed.weight, std=0.02)
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 50)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.norm(self.embed(ids)))

    return Wrapped(Decoder())


@fault("TIE101", "2x8:int(50)")
class BrokenTie(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = copy.deepcopy(self.embed.weight)

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.embed(ids))))


@near("TIE101", "2x8:int(50)")
class Untied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)

    def forward(self, ids):
        return self.head(self.embed(ids))


@near("TIE101", "8x16")
class SharedByName(nn.Module):
    """One module called twice has one name."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        return self.linear(torch.tanh(self.linear(x)))


@near("TIE101", "8x16")
class EqualConstants(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear, self.scale = nn.LayerNorm(16), nn.Linear(16, 16), nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.scale * torch.tanh(self.linear(self.norm(x)))
