"""Parameters, constants and modules that torch does not know of; repeated and lost layers."""

import torch
import torch.nn.functional as F
from torch import nn

from checks.planted import Wrapped, fault, near


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)


@fault("REG102", "4x16")
class ParametersInAList(Base):
    def __init__(self):
        super().__init__()
        self.gains = [nn.Parameter(torch.rand(16)) for _ in range(3)]

    def forward(self, x):
        x = self.linear(x)
        for gain in self.gains:
            x = x * gain
        return x


@fault("REG102", "2x3x8x8")
class KernelInADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.kernels = {"a": torch.randn(4, 4, 3, 3, requires_grad=True)}

    def forward(self, x):
        return F.conv2d(self.stem(x), self.kernels["a"], padding=1)


@fault("REG102", "4x16")
def nested_query():
    class Pool(Base):
        def __init__(self):
            super().__init__()
            self.query = (torch.randn(16) * 0.1).requires_grad_()

        def forward(self, x):
            return self.linear(x) + self.query

    return Wrapped(Pool())


@near("REG102", "4x16")
class Registered(Base):
    def __init__(self):
        super().__init__()
        self.gains = nn.ParameterList([nn.Parameter(torch.rand(16))])
        self.spare = torch.ones(16, requires_grad=True)  # nothing reads it

    def forward(self, x):
        return self.linear(x) * self.gains[0]


@near("REG102", "4x16")
class AliasOfAParameter(Base):
    def __init__(self):
        super().__init__()
        self.shortcuts = [self.linear.weight, self.linear.bias]

    def forward(self, x):
        return F.linear(x, *self.shortcuts)


@near("REG102", "4x16")
def weight_norm():
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(16, 16)), nn.Tanh(), nn.utils.parametrizations.weight_norm(nn.Linear(16, 2)))


@fault("REG103", "2x6x16")
class MaskAttribute(Base):
    def __init__(self):
        super().__init__()
        self.mask = torch.tril(torch.ones(6, 6))

    def forward(self, x):
        return self.mask @ self.linear(x)


@fault("REG103", "2x6:int(30)")
class SlicedPositions(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 16), nn.Linear(16, 30)
        angles = torch.arange(12)[:, None] / 10000 ** (torch.arange(0, 16, 2) / 16)
        self.table = torch.cat([angles.sin(), angles.cos()], -1)

    def forward(self, ids):
        return self.head(self.embed(ids) + self.table[: ids.shape[1]])


@fault("REG103", "2x3x8x8")
def nested_statistics():
    class Normalise(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(x - self.mean)

    return Wrapped(Normalise())


@fault("REG103", "4x16")
class ConstantsInAList(Base):
    def __init__(self):
        super().__init__()
        self.shifts = [torch.arange(16) / 16, torch.arange(16) / 8]

    def forward(self, x):
        return self.linear(x + self.shifts[0]) + self.shifts[1]


@near("REG103", "4x16")
class Moved(Base):
    def __init__(self):
        super().__init__()
        self.shift = torch.arange(16) / 16

    def forward(self, x):
        return self.linear(x + self.shift.to(x.device))


@near("REG103", "4x16")
class Numbers(Base):
    def __init__(self):
        super().__init__()
        self.scale = torch.tensor(0.5)
        self.order = torch.randperm(16)
        self.sizes = torch.tensor([8, 8])

    def forward(self, x):
        left, right = self.linear(x[:, self.order] * self.scale).split(self.sizes.tolist(), dim=1)
        return left + right


@near("REG103", "4x16")
class Buffers(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.arange(16) / 16, persistent=False)
        self.unused = torch.ones(16)

    def forward(self, x):
        return self.linear(x + self.shift)


@fault("REG104", "4x16")
class ParameterInForward(Base):
    def forward(self, x):
        scale = nn.Parameter(torch.rand(16))
        return self.linear(x.tanh() * scale)


@fault("REG104", "2x3x8x8")
class ConvolutionInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        project = nn.Conv2d(8, 4, 1)
        return project(x)


@fault("REG104", "4x16")
class DropoutInForward(Base):
    def forward(self, x):
        return nn.Dropout(0.3)(self.linear(x))


@fault("REG104", "4x16")
def nested_in_forward():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)

        def forward(self, x):
            return nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))(self.first(x))

    return Wrapped(Head())


@near("REG104", "4x16")
class NoiseInForward(Base):
    """Noise is drawn anew on purpose, and the input's own gradient is asked for."""

    def forward(self, x):
        x = x.clone().requires_grad_()
        return self.linear(x + 0.1 * torch.randn(16) if self.training else x)


@near("REG104", "4x16")
class ActivationInForward(Base):
    def forward(self, x):
        return nn.Tanh()(nn.Identity()(self.linear(x)))


@near("REG104", "4x16")
class DropoutOfZeroInForward(Base):
    def forward(self, x):
        x = F.dropout(self.linear(x), 0.1, self.training)
        return nn.Flatten()(x)


@near("REG104", "4x16")
class MadeOnce(Base):
    def __init__(self):
        super().__init__()
        self.head = None
        self.build()

    def build(self):
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(torch.relu(self.linear(x)))


@fault("REG105", "2x3x8x8")
def repeated_in_a_sequence():
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(nn.Conv2d(3, 8, 1), *[block] * 3)


@fault("REG105", "4x16")
class EqualHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(16, 4)] * 3)

    def forward(self, x):
        return torch.cat([head(x) for head in self.heads], dim=1)


@fault("REG105", "2x5x16")
def nested_repeats():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.layers = nn.ModuleList([layer for _ in range(3)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    return Wrapped(Encoder())


@near("REG105", "4x16")
def shared_activation():
    act = nn.Tanh()
    return nn.Sequential(nn.Linear(16, 16), act, nn.Linear(16, 16), act, nn.Linear(16, 2))


@near("REG105", "4x16")
class Recurrent(Base):
    def forward(self, x):
        for _ in range(3):
            x = x + torch.tanh(self.linear(x))
        return x


@near("REG105", "4x16")
class SharedHead(nn.Module):
    """One head on the features of every layer, in a list beside the layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(3)])
        head = nn.Linear(16, 4)
        self.heads = nn.ModuleList([head for _ in range(3)])
        for name in ("weight", "bias"):
            assert getattr(self.heads[0], name) is getattr(self.heads[2], name)

    def forward(self, x):
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = torch.tanh(layer(x))
            found.append(head(torch.relu(x)))
        return torch.stack(found)


@fault("REG106", "4x16")
class LoopThroughSetattr(nn.Module):
    def __init__(self):
        super().__init__()
        for _ in range(4):
            setattr(self, "layer", nn.Sequential(nn.Linear(16, 16), nn.Tanh()))

    def forward(self, x):
        return self.layer(x)


@fault("REG106", "2x3x8x8")
class LoopOverWidths(nn.Module):
    def __init__(self):
        super().__init__()
        before = 3
        for width in (8, 8, 3):
            self.conv = nn.Conv2d(3, width, 3, padding=1)
            before = width
        self.head = nn.Conv2d(before, 2, 1)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)))


@fault("REG106", "4x16")
def nested_loop():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            for _ in range(2):
                self.norm, self.linear = nn.LayerNorm(16), nn.Linear(16, 16)

        def forward(self, x):
            return self.linear(self.norm(x))

    return Wrapped(Inner())


@near("REG106", "4x16")
class ReplacedHead(Base):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 10)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(torch.relu(self.linear(x)))


@near("REG106", "4x16")
class CollectedMeanwhile(nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        for _ in range(3):
            self.last = nn.Linear(16, 16)
            layers += [self.last, nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-2])

    def forward(self, x):
        return self.last(self.layers(x))


@near("REG106", "4x16")
class NamesThatDiffer(nn.Module):
    def __init__(self):
        super().__init__()
        for i in range(3):
            setattr(self, f"layer{i}", nn.Linear(16, 16))

    def forward(self, x):
        for i in range(3):
            x = torch.tanh(getattr(self, f"layer{i}")(x))
        return x
