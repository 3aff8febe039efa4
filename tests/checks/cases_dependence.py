"""Samples and positions that see each other."""

import torch
import torch.nn.functional as F
from torch import nn

from checks.planted import Wrapped, fault, near


@fault("BAT101", "3x4x8")
class TimeFirst(nn.Module):
    """A GRU that takes the batch for time."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@fault("BAT101", "4x16")
class SoftmaxOverTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.tanh(self.linear(x))
        return x - x.logsumexp(dim=0, keepdim=True)


@fault("BAT101", "4x6x16")
def nested_attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2)

        def forward(self, x):
            return x + self.attention(x, x, x, need_weights=False)[0]

    return Wrapped(Attention())


@fault("BAT101", "4x3x8x8")
class WholeBatchNormalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return (x - x.mean()) / (x.std() + 1e-5)


@near("BAT101", "4x3x8x8")
def batch_norm():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@near("BAT101", "4x16")
class Similarities(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Linear(16, 8)

    def forward(self, x):
        z = F.normalize(self.image(x), dim=-1)
        return z @ z.t()


@near("BAT101", "6x16")
class Contrastive(nn.Module):
    """The other samples are the negatives of each."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        z = F.normalize(self.body(x), dim=-1)
        return (z @ z.t() / 0.1).masked_fill(torch.eye(6, dtype=torch.bool), float("-inf")).log_softmax(-1)


@fault("BAT101", "6x16")
class AttentionOverTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v)


@near("BAT101", "4x6x16")
class LoopOverSamples(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x):
        return torch.stack([torch.tanh(self.linear(sample)).amax(dim=0) for sample in x])


@near("BAT101", "3x4x16")
class SequenceFirst(nn.Module):
    """Permuted there and back."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(16, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.rnn(x.transpose(0, 1))[0]).permute(1, 0, 2)


@near("BAT101", "4x8x8x6")
class Windows(nn.Module):
    """Attention in windows of an image, merged with the batch."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)

    def forward(self, x):
        b = x.shape[0]
        x = x.view(b, 2, 4, 2, 4, 6).permute(0, 1, 3, 2, 4, 5).reshape(b * 4, 16, 6)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = F.scaled_dot_product_attention(q, k, v)
        return x.view(b, 2, 2, 4, 4, 6).permute(0, 1, 3, 2, 4, 5).reshape(b, 8, 8, 6)


class Attention(nn.Module):
    def __init__(self, mask, width=16):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("mask", mask)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask))


def triangle(n, diagonal=0):
    return torch.tril(torch.ones(n, n, dtype=torch.bool), diagonal)


@fault("BAT102", "2x10x16")
def one_off():
    return nn.Sequential(Attention(triangle(10)), Attention(triangle(10, 1)), nn.Linear(16, 5))


@fault("BAT102", "2x10:int(30)")
class MeanOverTime(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head = nn.Embedding(30, 16), Attention(triangle(10)), nn.Linear(16, 30)

    def forward(self, ids):
        x = self.attention(self.embed(ids))
        return self.head(x - x.mean(dim=1, keepdim=True))


@fault("BAT102", "2x10x16")
def nested_convolution():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(16, 16, 3, padding=1)
            self.attention = Attention(triangle(10))

        def forward(self, x):
            return self.attention(x + self.conv(x.transpose(1, 2)).transpose(1, 2))

    return Wrapped(Mixer())


@fault("BAT102", "2x10:int(30)")
class HidesThePast(nn.Module):
    """scaled_dot_product_attention keeps what is True; nn.MultiheadAttention would hide it."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head = nn.Embedding(30, 16), Attention(~triangle(10)), nn.Linear(16, 30)

    def forward(self, ids):
        return self.head(self.attention(self.embed(ids)))


@fault("BAT102", "2x10x16")
def multihead_that_hides_the_past():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 5)

        def forward(self, x):
            return self.head(x + self.attention(x, x, x, attn_mask=triangle(10, -1), need_weights=False)[0])

    return Wrapped(Layer())


@fault("BAT102", "2x6:int(30)")
class ScoresFilledBelow(nn.Module):
    """The weights themselves are the output, so that the attention is no candidate for a fused one."""

    def __init__(self):
        super().__init__()
        self.embed, self.qk, self.head = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(16, 30)

    def forward(self, ids):
        x = self.embed(ids)
        q, k = self.qk(x).chunk(2, dim=-1)
        weights = (q @ k.mT / 4).masked_fill(triangle(6), float("-inf")).softmax(-1)
        return self.head(torch.einsum("bij,bjd->bid", weights, x)), weights


class Hourglass(nn.Module):
    """Positions are averaged in pairs, attended to, and repeated; `shift` delays them so that no pair tells of its second half."""

    def __init__(self, shift):
        super().__init__()
        self.shift, self.embed, self.inner, self.outer = shift, nn.Embedding(30, 16), Attention(triangle(5)), Attention(triangle(10))
        self.head = nn.Linear(16, 30)

    def forward(self, ids):
        x = self.outer(self.embed(ids))
        pairs = F.pad(x, (0, 0, self.shift, -self.shift)).unflatten(1, (5, 2)).mean(2)
        return self.head(x + self.inner(pairs).repeat_interleave(2, dim=1))


@fault("BAT102", "2x10:int(30)")
def pooled_pairs():
    return Hourglass(0)


@fault("BAT102", "2x10:int(30)")
class OnlyMaskOneOff(nn.Module):
    """The one attention of the model: triu(2) where triu(1) was meant."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head = nn.Embedding(30, 16), Attention(triangle(10, 1)), nn.Linear(16, 30)

    def forward(self, ids):
        return self.head(self.attention(self.embed(ids)))


@fault("BAT102", "2x10:int(30)")
class NormOverTime(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Embedding(30, 16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.InstanceNorm1d(16), nn.Linear(16, 30)

    def forward(self, ids):
        x = self.embed(ids)
        mask = nn.Transformer.generate_square_subsequent_mask(10)
        x = x + self.attention(x, x, x, attn_mask=mask, need_weights=False, is_causal=True)[0]
        return self.head(self.norm(x.mT).mT)


@near("BAT102", "2x10x16")
def local_windows():
    """One position to either side: no model of the next position."""
    band = triangle(10, 1) & triangle(10, 1).mT
    return nn.Sequential(Attention(band), Attention(band), nn.Linear(16, 5))


@near("BAT102", "2x10:int(30)")
def delayed_pairs():
    return Hourglass(1)


@near("BAT102", "2x10x16")
class EitherDirection(nn.Module):
    """One attention looks back and one ahead, as in a bidirectional language model."""

    def __init__(self):
        super().__init__()
        self.back, self.ahead, self.head = Attention(triangle(10)), Attention(triangle(10).mT), nn.Linear(32, 5)

    def forward(self, x):
        return self.head(torch.cat([self.back(x), self.ahead(x)], -1))


@near("BAT102", "2x10x16")
def causal_everywhere():
    return nn.Sequential(Attention(triangle(10)), Attention(triangle(10)), nn.Linear(16, 5))


@near("BAT102", "2x10x16")
def encoder():
    return nn.Sequential(Attention(torch.ones(10, 10, dtype=torch.bool)), Attention(torch.ones(10, 10, dtype=torch.bool)))


@near("BAT102", "2x4x16")
class BothDirections(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(16, 8, batch_first=True, bidirectional=True), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@near("BAT102", "2x10x16")
class PooledForClasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = Attention(triangle(10)), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.attention(x).mean(dim=1))


@near("BAT102", {"source": "2x10:int(30)", "target_ids": "2x10:int(30)"})
class EncoderDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        nn.init.normal_(self.embed.weight, std=0.5)
        self.encoder, self.decoder = Attention(torch.ones(10, 10, dtype=torch.bool)), Attention(triangle(10))
        self.q, self.head = nn.Linear(16, 16), nn.Linear(16, 30)

    def forward(self, source, target_ids):
        memory = self.encoder(self.embed(source))
        x = self.decoder(self.embed(target_ids))
        x = x + F.scaled_dot_product_attention(self.q(x), memory, memory)
        return self.head(x)
