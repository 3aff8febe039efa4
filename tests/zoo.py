"""Small networks for tests and benchmarks: every kind of structure that a real model has, at a size that runs in a moment.

Each class builds with its defaults; `NETWORKS` lists them by name with the shapes of their inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec

__all__ = ["ACTIVATIONS", "NETWORKS", "Network", "ids", "normal", "transformer"]


def normal(*shape: int, name: str = "") -> InputSpec:
    """Independent unit normal entries."""
    return InputSpec(shape, "float32", Distribution("normal", {"mean": 0.0, "std": 1.0}, shape), name)


def ids(*shape: int, below: int, name: str = "") -> InputSpec:
    """Uniform integers from 0 to `below`, excluded."""
    return InputSpec(shape, "int64", Distribution("integers", {"low": 0.0, "high": float(below)}, shape), name)


class LinearStack(nn.Sequential):
    """y_l = A_l y_(l-1) + b_l with the default initialisation: Var y_l = (Var y_(l-1) + 1/n) / 3."""

    def __init__(self, depth: int = 6, width: int = 128, features: int = 64) -> None:
        super().__init__(*(nn.Linear(width if index else features, width) for index in range(depth)))


class MLP(nn.Sequential):
    """`depth` linear layers of one width, an activation after every one; `gain` redraws weights with variance gain²/n and no bias."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU, depth: int = 50, width: int = 256, gain: float | None = None) -> None:
        super().__init__(*(nn.Sequential(nn.Linear(width, width), activation()) for _ in range(depth)))
        if gain is not None:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=gain / width**0.5)
                    nn.init.zeros_(module.bias)


class GatedMLP(nn.Module):
    """A stack of linear layers of which the activation keeps half of the features (GLU)."""

    def __init__(self, depth: int = 50, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.gate = nn.GLU(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to itself."""
        for layer in self.layers:
            x = self.gate(layer(x))
        return x


class ResidualMLP(nn.Module):
    """y_1 = σ(A_1 x + b_1), y_l = σ(A_l y_(l-1) + b_l) + y_(l-1), y_L = A_L y_(L-1) + b_L; `skip` False is the plain network."""

    def __init__(
        self, depth: int = 8, width: int = 128, features: int = 64, activation: Callable[[], nn.Module] = nn.ReLU, skip: bool = True
    ) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 2))
        self.last = nn.Linear(width, 1)
        self.activation = activation()
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) to (batch, 1)."""
        y = self.activation(self.first(x))
        for layer in self.hidden:
            branch = self.activation(layer(y))
            y = branch + y if self.skip else branch
        return self.last(y)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm, added to the (projected) input; `skip` False leaves the input out."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, skip: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = skip
        self.downsample: nn.Module | None = None
        if skip and (stride != 1 or inputs != outputs):
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.skip:
            y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """A CIFAR ResNet (He et al. 2016): stem, three stages of basic blocks, global pooling, classifier."""

    def __init__(self, blocks: int = 2, width: int = 32, classes: int = 10, skip: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            for index in range(blocks):
                stages.append(BasicBlock(inputs, outputs, 2 if stage and not index else 1, skip))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, classes)."""
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


class NormedMLP(nn.Module):
    """`depth` blocks of Linear, BatchNorm, ReLU, with or without a skip around each."""

    def __init__(self, depth: int = 100, width: int = 128, skip: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(depth)
        )
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to itself."""
        for block in self.blocks:
            x = x + block(x) if self.skip else block(x)
        return x


class UNet(nn.Module):
    """An encoder and a decoder joined by concatenation at every scale (Ronneberger et al. 2015)."""

    def __init__(self, channels: int = 3, width: int = 32, depth: int = 3, classes: int = 2) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(self._double(a, b) for a, b in zip([channels, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.lift = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.up = nn.ModuleList(self._double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _double(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            *(
                layer
                for a in (inputs, outputs)
                for layer in (nn.Conv2d(a, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, classes, height, width)."""
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            kept.append(x)
        for lift, block, skip in zip(self.lift, self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat([skip, lift(x)], 1))
        return self.head(x)


class Generator(nn.Sequential):
    """The DCGAN generator (Radford et al. 2016), weights N(0, .02²), γ N(1, .02²)."""

    def __init__(self, latent: int = 100, width: int = 32, channels: int = 3) -> None:
        layers: list[nn.Module] = []
        inputs = latent
        for level, outputs in enumerate((8 * width, 4 * width, 2 * width, width)):
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2 if level else 1, 1 if level else 0, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        super().__init__(*layers, nn.ConvTranspose2d(inputs, channels, 4, 2, 1, bias=False), nn.Tanh())
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)


class WaveNet(nn.Module):
    """Causal dilated convolutions with tanh · sigmoid gates, residual and skip outputs (van den Oord et al. 2016)."""

    def __init__(self, layers: int = 8, width: int = 64, classes: int = 256) -> None:
        super().__init__()
        self.embed = nn.Conv1d(1, width, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**index) for index in range(layers))
        self.residual = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.skip = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes, time)."""
        x = self.embed(x)
        total: Tensor | None = None
        for dilated, residual, skip in zip(self.dilated, self.residual, self.skip, strict=True):
            value, gate = dilated(F.pad(x, (dilated.dilation[0], 0))).chunk(2, 1)
            y = value.tanh() * gate.sigmoid()
            total = skip(y) if total is None else total + skip(y)
            x = x + residual(y)
        assert total is not None
        return self.head(total)


class Recurrent(nn.Module):
    """Embedding, a two-layer recurrent network, a classifier on its last state."""

    def __init__(
        self, cell: type[nn.RNNBase] = nn.LSTM, vocabulary: int = 1000, width: int = 128, classes: int = 10, both: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.recurrent = cell(width, width, num_layers=2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(2 * width if both else width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, time) ids to (batch, classes)."""
        states, _ = self.recurrent(self.embed(tokens))
        return self.head(states[:, -1])


class Seq2Seq(nn.Module):
    """`nn.Transformer` between token embeddings and a classifier, with a causal decoder."""

    def __init__(self, vocabulary: int = 1000, width: int = 128, heads: int = 4, layers: int = 2, norm_first: bool = False) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(vocabulary, width), nn.Embedding(vocabulary, width)
        self.transformer = nn.Transformer(width, heads, layers, layers, 4 * width, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(batch, S) and (batch, T) ids to (batch, T, vocabulary)."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.transformer(self.source(source), self.target(target), tgt_mask=mask, tgt_is_causal=True))


def encoder(width: int = 128, heads: int = 4, layers: int = 3, norm_first: bool = False, activation: str = "relu") -> nn.Module:
    """`nn.TransformerEncoder` on (batch, length, width)."""
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, activation=activation, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class Autoencoder(nn.Module):
    """The 1024 → 4096 → 1024 GELU network whose measured scales the unit-scaling user guide prints."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1024) to itself."""
        return self.down(self.act(self.up(x)))


def transformer(kind: str, head: str = "", **changes: Any) -> nn.Module:
    """A transformers model of a model type, built from its configuration alone; `head` names the class ("" the base model)."""
    import transformers

    config = transformers.AutoConfig.for_model(kind, **changes)
    builder: Any = getattr(transformers, head) if head else transformers.AutoModel
    return builder(config) if head else builder.from_config(config)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "rrelu": nn.RReLU,
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "log_sigmoid": nn.LogSigmoid,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "tanhshrink": nn.Tanhshrink,
    "softshrink": nn.Softshrink,
    "hardshrink": nn.Hardshrink,
    "threshold": lambda: nn.Threshold(0.1, 0.0),
    "softmax": lambda: nn.Softmax(-1),
    "log_softmax": lambda: nn.LogSoftmax(-1),
}
"""Every activation of `torch.nn` that keeps the width."""


@dataclass(frozen=True, slots=True)
class Network:
    """How to build a network and what to feed it."""

    build: Callable[[], nn.Module]
    inputs: Sequence[InputSpec]
    dtype: str = "float32"


NETWORKS: dict[str, Network] = {
    "linear_stack": Network(LinearStack, (normal(64, 64),)),
    "relu_stack": Network(lambda: MLP(nn.ReLU, 6, 128), (normal(64, 128),)),
    "residual_mlp": Network(ResidualMLP, (normal(64, 64),)),
    "plain_mlp": Network(lambda: ResidualMLP(skip=False), (normal(64, 64),)),
    "residual_tanh": Network(lambda: ResidualMLP(activation=nn.Tanh), (normal(64, 64),)),
    "autoencoder": Network(Autoencoder, (normal(1024, 1024),)),
    "resnet": Network(ResNet, (normal(8, 3, 32, 32),)),
    "plain_convnet": Network(lambda: ResNet(skip=False), (normal(8, 3, 32, 32),)),
    "normed_100_residual": Network(NormedMLP, (normal(64, 128),)),
    "normed_100_plain": Network(lambda: NormedMLP(skip=False), (normal(64, 128),), "float64"),
    "unet": Network(UNet, (normal(4, 3, 64, 64),)),
    "dcgan": Network(Generator, (normal(8, 100, 1, 1),)),
    "wavenet": Network(WaveNet, (normal(4, 1, 512),)),
    "lstm": Network(Recurrent, (ids(8, 32, below=1000),)),
    "gru": Network(lambda: Recurrent(nn.GRU), (ids(8, 32, below=1000),)),
    "rnn": Network(lambda: Recurrent(nn.RNN), (ids(8, 32, below=1000),)),
    "bilstm": Network(lambda: Recurrent(nn.LSTM, both=True), (ids(8, 32, below=1000),)),
    "transformer": Network(Seq2Seq, (ids(4, 24, below=1000), ids(4, 16, below=1000))),
    "transformer_prenorm": Network(lambda: Seq2Seq(norm_first=True), (ids(4, 24, below=1000), ids(4, 16, below=1000))),
    "encoder": Network(encoder, (normal(4, 24, 128),)),
    "encoder_prenorm": Network(lambda: encoder(norm_first=True, activation="gelu"), (normal(4, 24, 128),)),
    "mlp50_glu": Network(GatedMLP, (normal(64, 256),), "float64"),
    **{
        f"mlp50_{name}": Network(lambda activation=activation: MLP(activation), (normal(64, 256),), "float64")
        for name, activation in ACTIVATIONS.items()
    },
    "mlp50_relu_he": Network(lambda: MLP(nn.ReLU, gain=2**0.5), (normal(64, 256),), "float64"),
    "mlp50_gelu_he": Network(lambda: MLP(nn.GELU, gain=2**0.5), (normal(64, 256),), "float64"),
    "mlp50_tanh_unit": Network(lambda: MLP(nn.Tanh, gain=1.0), (normal(64, 256),), "float64"),
    "mlp50_selu_unit": Network(lambda: MLP(nn.SELU, gain=1.0), (normal(64, 256),), "float64"),
}
