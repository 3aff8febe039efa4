"""Dropout and its modes; module classes called on tensors."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import GELU

from checks.planted import Wrapped, fault, near


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4)


@fault("MOD101", "2x5x16")
class AttentionDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=0.1))


@fault("MOD101", "2x3x8x8")
def nested_dropout2d():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.second(F.dropout2d(F.relu(self.first(x)), p=0.25))

    return Wrapped(Block())


@fault("MOD101", "8x16")
class BernoulliAlways(Two):
    def forward(self, x):
        x = torch.tanh(self.first(x))
        keep = torch.bernoulli(torch.full_like(x, 0.9))
        return self.second(x * keep / 0.9)


@near("MOD101", "8x16")
class FollowsTheMode(Two):
    def forward(self, x):
        return self.second(F.dropout(torch.tanh(self.first(x)), 0.1, self.training))


@near("MOD101", "8x16")
class MonteCarloOnPurpose(Two):
    def forward(self, x):
        return self.second(F.dropout(torch.tanh(self.first(x)), 0.1, training=True))


@near("MOD101", "8x16")
class Latent(nn.Module):
    def __init__(self):
        super().__init__()
        self.moments, self.decode = nn.Linear(16, 16), nn.Linear(8, 16)

    def forward(self, x):
        mean, log = self.moments(x).chunk(2, dim=-1)
        return self.decode(mean + torch.randn_like(mean) * torch.exp(0.5 * log))


@fault("MOD102", "8x16")
class NamesFromTorchNN(Two):
    def forward(self, x):
        hidden = self.first(x)
        return self.second(GELU(hidden))


@fault("MOD102", "2x3x8x8")
def nested_pool():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            y = torch.relu(self.conv(x))
            y = nn.MaxPool2d(y, 2)
            return self.head(y)

    return Wrapped(Stem())


@fault("MOD102", "8x16")
class InAHelper(Two):
    def squash(self, value):
        return nn.Softmax(value, dim=-1) if False else nn.Sigmoid(value)

    def forward(self, x):
        return self.second(self.squash(self.first(x)) * 1.0)


@near("MOD102", "8x16")
class CalledAtOnce(Two):
    def forward(self, x):
        return self.second(nn.Tanh()(self.first(x)))


@near("MOD102", "8x16")
class MadeThenCalled(Two):
    def forward(self, x, dim=1):
        squash = nn.Softmax(dim)
        return self.second(squash(self.first(x)))


@near("MOD102", "8x16")
class BuiltFromNumbers(Two):
    def __init__(self):
        super().__init__()
        self.act = self.make(0.1)

    def make(self, slope):
        return nn.LeakyReLU(slope)

    def forward(self, x):
        return self.second(self.act(self.first(x)))


@fault("DRP101", "8x16")
class NearlyAll(Two):
    def forward(self, x):
        return self.second(F.dropout(torch.tanh(self.first(x)), 0.95, self.training))


@fault("DRP101", "8x16")
def zero_written_down():
    return Wrapped(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(p=0.0), nn.Linear(16, 4)))


@fault("DRP101", "4x3x16")
class OneLayerGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(16, 8, batch_first=True, bidirectional=True, dropout=0.5)

    def forward(self, x):
        return self.rnn(x)[0]


@near("DRP101", "4x3x16")
class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(16, 8, num_layers=2, batch_first=True, dropout=0.5)

    def forward(self, x):
        return self.rnn(x)[0]


@near("DRP101", "8x16")
def zero_by_configuration(rate=0.0):
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(rate), nn.Linear(16, 4))


@near("DRP101", "8x16")
def a_high_rate():
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.8), nn.Linear(16, 4))


class DropPath(nn.Module):
    def __init__(self, rate=0.3, rescale=True):
        super().__init__()
        self.rate, self.rescale = rate, rescale

    def forward(self, x):
        if not self.training:
            return x
        mask = torch.bernoulli(torch.full((x.shape[0], 1), 1 - self.rate))
        return x * mask / (1 - self.rate) if self.rescale else x * mask


@fault("SIG104", "64x16")
def paths_without_rescaling():
    return Wrapped(nn.Sequential(nn.Linear(16, 16), DropPath(rescale=False), nn.Tanh(), nn.Linear(16, 4)))


@fault("SIG104", "64x16")
class MaskInTheForward(Two):
    def forward(self, x):
        x = torch.tanh(self.first(x))
        if self.training:
            x = x * torch.bernoulli(torch.full_like(x, 0.6))
        return self.second(x)


@fault("SIG104", "8x4x8x8")
class ChannelsDropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        if self.training:
            x = x * torch.bernoulli(torch.full((x.shape[0], 8, 1, 1), 0.5))
        return x


@fault("SIG104", "16x8x64")
class PathsNotRescaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(64, 64), nn.Linear(64, 2)

    def forward(self, x):
        y = self.linear(x).tanh()
        if self.training:
            y = y * torch.floor(torch.rand(x.shape[0], 1, 1) + 0.6)
        return self.head(y)


@near("SIG104", "16x8x64")
class FlooredPaths(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        for layer, keep in zip(self.layers, (0.9, 0.8, 0.7), strict=True):
            y = layer(x).tanh()
            if self.training:
                y = y.div(keep) * torch.floor(torch.rand(x.shape[0], 1, 1) + keep)
            x = x + y
        return x


@near("SIG104", "16x64")
class Thresholded(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(64, 64), nn.Linear(64, 2)

    def forward(self, x):
        x = self.linear(x).tanh()
        if self.training:
            x = x * (torch.rand_like(x) > 0.3) / (1 - 0.3)
        return self.head(x)


@near("SIG104", "16x64")
class LayersLeftOut(nn.Module):
    """LayerDrop: a draw decides whether the layer runs, and masks nothing."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            if not (self.training and torch.rand([]) < 0.1):
                x = x + F.dropout(layer(x).tanh(), 0.3, self.training)
        return x


@near("SIG104", "64x16")
def rescaled_paths():
    return nn.Sequential(nn.Linear(16, 16), DropPath(), nn.Tanh(), nn.Linear(16, 4))


@near("SIG104", "64x16")
class Noise(Two):
    def forward(self, x):
        x = torch.tanh(self.first(x))
        if self.training:
            x = x + 0.3 * torch.randn_like(x)
        return self.second(x)


@near("SIG104", "64x16")
class OtherHeadInEvaluation(Two):
    def forward(self, x):
        x = self.second(F.dropout(torch.tanh(self.first(x)), 0.3, self.training))
        return x if self.training else x.softmax(dim=-1)
