"""The layers that rewrites put in: several layers on one input as one, and parallel chains as grouped layers."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CONVOLUTIONS", "Activation", "Packed", "ParallelChains", "Piece", "Spec"]

CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_FUNCTIONS: tuple[Callable[..., Tensor], ...] = (F.linear, F.conv1d, F.conv2d, F.conv3d)


@dataclass(frozen=True, slots=True)
class Spec:
    """A linear layer (`rank` 0) or convolution over `rank` axes without its weights."""

    rank: int
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Module) -> Spec:
        """The layer's."""
        if isinstance(layer, nn.Linear):
            return cls(0)
        assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        padding = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
        return cls(CONVOLUTIONS[type(layer)], tuple(layer.stride), padding, tuple(layer.dilation), layer.groups)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output with these weights."""
        if self.rank == 0:
            return F.linear(x, weight, bias)
        return _FUNCTIONS[self.rank](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    @property
    def channels(self) -> int:
        """The axis of the features, from the end."""
        return -1 - self.rank


@dataclass(frozen=True, slots=True)
class Activation:
    """An entrywise function: a module, a function or a method of tensors, with its further arguments."""

    call: Any
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Of each entry."""
        if isinstance(self.call, str):
            return getattr(x, self.call)(*self.args, **dict(self.kwargs))
        return self.call(x, *self.args, **dict(self.kwargs))

    @property
    def form(self) -> tuple[Any, ...]:
        """Equal for equal functions."""
        call = (type(self.call), repr(self.call)) if isinstance(self.call, nn.Module) else self.call
        return (call, self.args, self.kwargs)

    @property
    def relu(self) -> bool:
        """Whether it is max(x, 0)."""
        return type(self.call) is nn.ReLU or self.call in (F.relu, torch.relu, "relu", torch.relu_, "relu_")


class Packed(nn.Module):
    """y_1, …, y_n = W_1 x + b_1, …, W_n x + b_n as one product, cut along its outputs.

    Stands for layers that the model calls one after the other: the first call computes all results, the others take theirs. A result
    is kept until it is taken, and never used for another input, for changed weights or under another gradient mode.
    """

    bias: nn.Parameter | None

    def __init__(self, spec: Spec, weight: Tensor, bias: Tensor | None, sizes: Sequence[int], requires_grad: bool = True) -> None:
        super().__init__()
        self.spec, self.sizes = spec, list(sizes)
        self.weight = nn.Parameter(weight, requires_grad)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad))
        self._source: tuple[Any, ...] = ()
        self._pieces: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """All results."""
        y = self.spec(x, self.weight, self.bias)
        # Nothing else holds y, so its pieces need no tracking as views; tracked, they could not be changed in place.
        return tuple(torch.unsafe_split_with_sizes(y, self.sizes, self.spec.channels))

    def take(self, index: int, x: Tensor) -> Tensor:
        """The result of one of the layers."""
        if torch.compiler.is_compiling():
            return self(x)[index]  # the compiler computes what is common once
        source = (x, None if x.is_inference() else x._version, self.weight, self._weights(), torch.is_grad_enabled())
        same = len(source) == len(self._source) and all(
            a is b or (isinstance(a, (int, bool)) and a == b) for a, b in zip(source, self._source, strict=True)
        )
        if not same or index not in self._pieces:
            self._pieces = dict(enumerate(self(x)))
            self._source = source
        piece = self._pieces.pop(index)
        if not self._pieces:
            self._source = ()
        return piece

    def _weights(self) -> int:
        return -1 if self.weight.is_inference() else self.weight._version + (self.bias._version if self.bias is not None else 0)

    def __getstate__(self) -> dict[str, Any]:
        """Without results that wait."""
        return {**self.__dict__, "_source": (), "_pieces": {}}

    def extra_repr(self) -> str:
        """Sizes of the inputs and of the results."""
        return f"{self.weight.shape[1]}, {self.sizes}, bias={self.bias is not None}"


class Piece(nn.Module):
    """One of the layers that a `Packed` computes; the first one holds it."""

    def __init__(self, packed: Packed, index: int) -> None:
        super().__init__()
        self.index = index
        if index == 0:
            self.packed = packed
        else:
            self._packed = (packed,)  # in a tuple, so that it is registered once

    @property
    def _whole(self) -> Packed:
        return self.packed if self.index == 0 else self._packed[0]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch.nn's name, by which it may be called
        """The result of this layer."""
        return self._whole.take(self.index, input)

    def _part(self, whole: Tensor | None) -> Tensor | None:
        return None if whole is None else whole.split(self._whole.sizes)[self.index]

    @property
    def weight(self) -> Any:
        """The layer's part of the weight, a view."""
        return self._part(self._whole.weight)

    @property
    def bias(self) -> Any:
        """The layer's part of the bias, a view."""
        return self._part(self._whole.bias)

    def extra_repr(self) -> str:
        """Which of the results it is."""
        return f"{self.index}"


class ParallelChains(nn.Module):
    """y = Σ_g f_g(x) or [f_1(x), …, f_P(x)] for P chains of layers of one form: one wide layer, then grouped ones, all paths at once.

    Weights are stacked over the paths: `weight{i}` `[P, out, in, …]` and `bias{i}` `[P, out]` of stage i. A last layer without an activation
    behind it is summed over the paths inside its product.
    """

    def __init__(
        self, steps: Sequence[Spec | Activation], paths: int, merge: str, tensors: dict[str, Tensor], trained: Sequence[str]
    ) -> None:
        super().__init__()
        self.steps, self.paths, self.merge = list(steps), paths, merge
        self.depth = sum(isinstance(step, Spec) for step in steps)
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, name in trained))

    def forward(self, x: Tensor) -> Tensor:
        """What the sum or the concatenation of the chains gives."""
        stage = 0
        for at, step in enumerate(self.steps):
            if isinstance(step, Activation):
                x = step(x)
                continue
            weight, bias = getattr(self, f"weight{stage}"), getattr(self, f"bias{stage}", None)
            stage += 1
            last = at == len(self.steps) - 1 and stage > 1 and self.merge == "sum" and step.groups == 1
            x = self._stage(x, step, weight, bias, stage == 1, last)
            if last:
                return x
        if self.merge == "cat":
            return x
        channels = self._spec.channels
        return x.unflatten(channels, (self.paths, x.shape[channels] // self.paths)).sum(channels - 1)

    @property
    def _spec(self) -> Spec:
        return next(step for step in self.steps if isinstance(step, Spec))

    def _stage(self, x: Tensor, spec: Spec, weight: Tensor, bias: Tensor | None, first: bool, last: bool) -> Tensor:
        if first:
            return spec(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
        if last:
            joined = weight.transpose(0, 1).flatten(1, 2)
            return spec(x, joined, None if bias is None else bias.sum(0))
        if spec.rank:
            wide = replace(spec, groups=spec.groups * self.paths)
            return wide(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
        y = torch.einsum("...pi,poi->...po", x.unflatten(-1, (self.paths, weight.shape[2])), weight)
        return (y if bias is None else y + bias).flatten(-2)

    def extra_repr(self) -> str:
        """Paths, layers of each, and how they become one."""
        return f"paths={self.paths}, layers={self.depth}, merge={self.merge!r}"
