"""Layers that are never called, and weights that no gradient reaches."""

import torch
import torch.nn.functional as F
from torch import nn

from checks.planted import Wrapped, fault, near


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)


@fault("GRD101", "2x3x8x8")
def nested_norm():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x):
            return torch.relu(self.conv(x))

    return Wrapped(Block())


@fault("GRD101", "4x16")
class LastOfTheList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)])

    def forward(self, x):
        for i in range(3):
            x = torch.tanh(self.layers[i](x))
        return x


@fault("GRD101", "2x6:int(20)")
class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.positions = nn.Embedding(6, 8)
        self.head = nn.Linear(8, 20)

    def forward(self, ids):
        return self.head(self.words(ids))


@near("GRD101", "4x16")
class WeightsAlone(Two):
    def forward(self, x):
        x = torch.tanh(F.linear(x, self.first.weight, self.first.bias))
        return F.linear(x, self.second.weight, self.second.bias)


@near("GRD101", "4x16")
class CalledOnRequest(Two):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(16, 1)

    def forward(self, x, score=False):
        x = torch.tanh(self.first(x))
        return self.extra(x) if score else self.second(x)


@near("GRD101", "4x16")
class Frozen(Two):
    def __init__(self):
        super().__init__()
        self.reference = nn.Linear(16, 16).requires_grad_(False)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@fault("GRD102", "4x16")
class UnderNoGrad(Two):
    def forward(self, x):
        with torch.no_grad():
            x = torch.tanh(self.first(x))
        return self.second(x)


@fault("GRD102", "4x16")
class Discarded(Two):
    def forward(self, x):
        self.first(torch.tanh(x))
        return self.second(x)


@fault("GRD102", "4x16")
def nested_argmax():
    class Codes(nn.Module):
        def __init__(self):
            super().__init__()
            self.choose = nn.Linear(16, 8)
            self.table = nn.Embedding(8, 4)

        def forward(self, x):
            return self.table(self.choose(x).argmax(dim=-1))

    return Wrapped(Codes())


@fault("GRD102", "2x3x8x8")
class Rounded(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head((self.conv(x) > 0).float().mean(dim=(2, 3)))


@near("GRD102", "4x16")
class StraightThrough(Two):
    def forward(self, x):
        x = self.first(x)
        x = x + (x.round() - x).detach()
        return self.second(x)


@near("GRD102", "4x16")
class FrozenTeacher(Two):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Linear(16, 4).requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            target = self.teacher(x)
        return self.second(torch.tanh(self.first(x))) - target


@near("GRD102", "4x16")
class StopGradient(Two):
    def forward(self, x):
        x = self.first(x)
        return self.second(torch.tanh(x)) + 0.1 * self.second(x.detach())


@fault("GRD103", "4x16")
class TimesZeros(Two):
    def forward(self, x):
        return x[:, :4] + torch.zeros(4) * self.second(torch.tanh(self.first(x)))


@fault("GRD103", "2x3x8x8")
def nested_scale():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Conv2d(3, 4, 1)
            self.side = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 4, 1))

        def forward(self, x):
            return self.main(x) + 0 * self.side(x)

    return Wrapped(Branch())


@fault("GRD103", "2x5x16")
class ScoresTimesZero(Two):
    def forward(self, x):
        weights = torch.softmax(self.second(x) * 0.0, dim=1)
        return (weights[..., :1] * self.first(torch.tanh(x))).sum(dim=1)


@near("GRD103", "4x16")
class LoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(16, 16)
        self.down = nn.Linear(16, 4, bias=False)
        self.up = nn.Linear(4, 16, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@near("GRD103", "2x8x8x8")
class ZeroResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x):
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


@near("GRD103", "4x16")
class LayerScale(Two):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(16))

    def forward(self, x):
        return self.second(x + self.gamma * torch.tanh(self.first(x)))


@near("GRD102", "4x16")
class UnusedResultOfABackbone(nn.Module):
    """A backbone that also returns a pooled tensor, which this head does not need."""

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.pool = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            x = torch.tanh(self.encode(x))
            return x, torch.tanh(self.pool(x))

    def __init__(self):
        super().__init__()
        self.backbone, self.head = self.Backbone(), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.backbone(x)[0])
