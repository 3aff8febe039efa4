"""y = f(Σ_g p(W3_g σ(W2_g ∗ σ(W1_g x)))): many narrow paths on the same input, summed (Xie et al. 2017, ResNeXt)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initio.nn import forms, ops

AFTER = ("path", "sum", None)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}: expected a positive integer or two of them, got {value!r}")
    return pair[0], pair[1]


class SplitTransformMerge(nn.Module):
    r"""y = f(Σ_g p(W3_g σ(W2_g ∗ σ(W1_g x + b1_g) + b2_g) + b3_g)) over `paths` paths of `width` channels.

    σ is `activation`. `activation_after="path"` puts it on every path's output (p = σ, f = identity), `"sum"` on the sum (f = σ, the
    ResNeXt block), `None` on neither.

    The same function as a Python loop over the paths, with one operator for all of them: with `"path"` the
    paths x out_channels channels before the sum are never in memory.

    ReLU without a norm runs in a compiled kernel on a CPU with a C compiler (float32 and float64); anything else in torch operations.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        paths: number of parallel paths.
        width: channels inside each path.
        kernel_size: of the second stage, odd; its padding `dilation * (kernel_size - 1) / 2` keeps the size at stride 1.
        stride: of the second stage.
        dilation: of the second stage.
        merge: how the paths become one; `"sum"`.
        activation: makes σ; called once.
        activation_after: `"path"`, `"sum"` or None.
        norm: makes a normalisation from a number of channels, applied after the first two stages' convolutions and after the sum; not
            possible with `"path"`.
        bias: whether the three stages have biases.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (N, in_channels, H, W) or (in_channels, H, W) → the same with out_channels and the size that Conv2d gives. Channels-last input
        gives channels-last output.

    Attributes:
        reduce_weight: W1, `[paths * width, in_channels]`; `reduce_bias`: b1, `[paths * width]`.
        transform_weight: W2, `[paths * width, width, kernel_size, kernel_size]`; `transform_bias`: b2, `[paths * width]`.
        merge_weight: W3, `[paths, out_channels, width]`; `merge_bias`: b3, `[paths, out_channels]`. One bias for each path, as in the loop:
            summed into one vector they would train differently.

    Example:
        >>> layer = SplitTransformMerge(256, 256, paths=32, width=4, activation_after="path")
        >>> sum(p.numel() for p in layer.parameters())
        78592
        >>> layer(torch.randn(1, 256, 14, 14)).shape
        torch.Size([1, 256, 14, 14])
    """

    reduce_weight: nn.Parameter
    reduce_bias: nn.Parameter | None
    transform_weight: nn.Parameter
    transform_bias: nn.Parameter | None
    merge_weight: nn.Parameter
    merge_bias: nn.Parameter | None
    norms: nn.ModuleList | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        paths: int,
        width: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        merge: str = "sum",
        activation: Callable[[], nn.Module] = nn.ReLU,
        activation_after: str | None = "sum",
        norm: Callable[[int], nn.Module] | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("paths", paths), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        if merge != "sum":
            raise ValueError(f'merge: expected "sum", got {merge!r}')
        if activation_after not in AFTER:
            raise ValueError(f'activation_after: expected "path", "sum" or None, got {activation_after!r}')
        if norm is not None and activation_after == "path":
            raise ValueError('norm: not with activation_after="path", where each path would need its own; use "sum" or None')
        self.in_channels, self.out_channels, self.paths, self.width = in_channels, out_channels, paths, width
        self.kernel_size, self.stride = _pair("kernel_size", kernel_size), _pair("stride", stride)
        self.dilation = _pair("dilation", dilation)
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"kernel_size: expected odd numbers, whose padding keeps the size, got {kernel_size!r}")
        self.padding = (self.dilation[0] * (self.kernel_size[0] - 1) // 2, self.dilation[1] * (self.kernel_size[1] - 1) // 2)
        self.merge, self.activation_after = merge, activation_after
        self.activation = activation()
        hidden = paths * width

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.norms = None if norm is None else nn.ModuleList([norm(hidden), norm(hidden), norm(out_channels)])
        self.reduce_weight = empty(hidden, in_channels)
        self.transform_weight = empty(hidden, width, *self.kernel_size)
        self.merge_weight = empty(paths, out_channels, width)
        self.register_parameter("reduce_bias", empty(hidden) if bias else None)
        self.register_parameter("transform_bias", empty(hidden) if bias else None)
        self.register_parameter("merge_bias", empty(paths, out_channels) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every operand as Conv2d would in the literal loop: U(±1/√fan-in), the fan-in of one path: C, width·k², width."""
        for stage, fan_in in (
            ("reduce", self.in_channels),
            ("transform", self.width * math.prod(self.kernel_size)),
            ("merge", self.width),
        ):
            for kind in ("weight", "bias"):
                if (parameter := getattr(self, f"{stage}_{kind}")) is not None:
                    nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        """The arguments, as torch.nn shows them."""
        text = f"{self.in_channels}, {self.out_channels}, paths={self.paths}, width={self.width}, kernel_size={self.kernel_size}"
        for name in ("stride", "dilation"):
            if getattr(self, name) != (1, 1):
                text += f", {name}={getattr(self, name)}"
        return text + f", activation_after={self.activation_after!r}" + (", bias=False" if self.reduce_bias is None else "")

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(
                f"SplitTransformMerge: expected (N, {self.in_channels}, H, W) or ({self.in_channels}, H, W), got {tuple(x.shape)}"
            )
        if not x.dtype.is_floating_point:
            raise TypeError(f"SplitTransformMerge: expected a floating-point input, got {x.dtype}; x.float() converts it")
        batch = x if x.dim() == 4 else x.unsqueeze(0)
        y = self._torch(batch) if self.norms is not None or type(self.activation) is not nn.ReLU else self._operator(batch)
        return y if x.dim() == 4 else y.squeeze(0)

    def _operator(self, x: Tensor) -> Tensor:
        """One operator; autocast on the CPU keeps float32 inside, which is faster there than bfloat16, and gives its dtype."""
        device, after, weight = x.device.type, self.activation_after or "none", self.reduce_weight
        rest = self.reduce_bias, self.transform_weight, self.transform_bias, self.merge_weight, self.merge_bias
        geometry = list(self.stride), list(self.padding), list(self.dilation)
        if ops.transformed():
            return ops.differentiable(x, weight, *rest, *geometry, after)
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            if device != "cpu":
                return ops.differentiable(x, weight, *rest, *geometry, after)
            wanted = torch.get_autocast_dtype(device) if weight.dtype != torch.float64 else weight.dtype
            with torch.autocast(device, enabled=False):
                return self._operator(x.to(weight.dtype)).to(wanted)
        if x.dtype != weight.dtype:
            raise TypeError(f"SplitTransformMerge: input {x.dtype} but weights {weight.dtype}; x.to({weight.dtype}) converts the input")
        save = torch.is_grad_enabled() and (x.requires_grad or any(p is not None and p.requires_grad for p in (weight, *rest)))
        return ops.split_transform_merge(x, weight, *rest, *geometry, after, save)[0]

    def _torch(self, x: Tensor) -> Tensor:
        """Three convolutions, or a loop over the paths where the activation stands between the last one and the sum."""
        norms = self.norms if self.norms is not None else [nn.Identity()] * 3
        h = self.activation(norms[0](F.conv2d(x, self.reduce_weight[:, :, None, None], self.reduce_bias)))
        h = F.conv2d(h, self.transform_weight, self.transform_bias, self.stride, self.padding, self.dilation, self.paths)
        h = self.activation(norms[1](h))
        if self.activation_after == "path":
            y = h.new_zeros(())
            for g, piece in enumerate(h.chunk(self.paths, 1)):
                bias = None if self.merge_bias is None else self.merge_bias[g]
                y = y + self.activation(F.conv2d(piece, self.merge_weight[g][:, :, None, None], bias))
            return y
        joined = self.merge_weight.permute(1, 0, 2).flatten(1)[:, :, None, None]
        y = norms[2](F.conv2d(h, joined, None if self.merge_bias is None else self.merge_bias.sum(0)))
        return self.activation(y) if self.activation_after == "sum" else y

    def _other(self, name: str) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Module, nn.Module]:
        """Convolutions on the meta device for one path or for all, and the activations of the paths and of the sum."""
        if self.norms is not None:
            raise ValueError(f"{name}: a layer with a norm has no exact loop or grouped form here")
        groups = self.paths if name == "as_grouped" else 1
        hidden, out = self.width * groups, self.out_channels * groups
        bias = self.reduce_bias is not None
        reduce = nn.Conv2d(self.in_channels, hidden, 1, bias=bias, device="meta")
        transform = nn.Conv2d(hidden, hidden, self.kernel_size, self.stride, self.padding, self.dilation, groups, bias=bias, device="meta")
        expand = nn.Conv2d(hidden, out, 1, groups=groups, bias=bias, device="meta")
        last = [copy.deepcopy(self.activation) if self.activation_after == where else nn.Identity() for where in ("path", "sum")]
        return reduce, transform, expand, last[0], last[1]

    def as_loop(self) -> forms.PathLoop:
        """The same function as a loop over `paths` modules, with copies of the weights."""
        paths: list[forms.Path] = []
        for _ in range(self.paths):
            reduce, transform, expand, path, _last = self._other("as_loop")
            paths.append(forms.Path(reduce, transform, expand, copy.deepcopy(self.activation), path))
        loop = forms.PathLoop(paths, self._other("as_loop")[4])
        state = forms.to_loop(self._operands(), self.paths)
        loop.load_state_dict({k: v.detach().clone() for k, v in state.items()}, strict=False, assign=True)
        return loop.train(self.training)

    def as_grouped(self) -> forms.GroupedPaths:
        """The same function as three convolutions and a sum over paths x out_channels channels, with copies of the weights."""
        reduce, transform, expand, path, last = self._other("as_grouped")
        grouped = forms.GroupedPaths(reduce, transform, expand, self.paths, copy.deepcopy(self.activation), path, last)
        state = forms.to_grouped(self._operands())
        grouped.load_state_dict({k: v.detach().clone() for k, v in state.items()}, strict=False, assign=True)
        return grouped.train(self.training)

    @classmethod
    def from_loop(cls, loop: forms.PathLoop) -> SplitTransformMerge:
        """The layer that computes what `loop` does, with copies of its weights."""
        first = loop.paths[0]
        assert isinstance(first, forms.Path)
        return cls._from(first, len(loop.paths), first.expand.out_channels, first.last, loop.last, first.transform.out_channels, loop)

    @classmethod
    def from_grouped(cls, grouped: forms.GroupedPaths) -> SplitTransformMerge:
        """The layer that computes what `grouped` does, with copies of its weights.

        Raises:
            ValueError: its convolutions do not have `grouped.paths` groups of equal width.
        """
        paths = grouped.paths
        for name in ("transform", "expand"):
            conv = getattr(grouped, name)
            if conv.groups != paths:
                raise ValueError(f"from_grouped: {name} has groups={conv.groups}, expected the {paths} paths")
        width, out = grouped.transform.out_channels // paths, grouped.expand.out_channels // paths
        return cls._from(grouped, paths, out, grouped.path, grouped.last, width, grouped)

    @classmethod
    def _from(
        cls, stages: forms.Path | forms.GroupedPaths, paths: int, out: int, path: nn.Module, last: nn.Module, width: int, whole: nn.Module
    ) -> SplitTransformMerge:
        conv = stages.transform
        after = "path" if not isinstance(path, nn.Identity) else "sum" if not isinstance(last, nn.Identity) else None
        weight = stages.reduce.weight
        size, stride, dilation = ((int(pair[0]), int(pair[1])) for pair in (conv.kernel_size, conv.stride, conv.dilation))
        layer = cls(
            stages.reduce.in_channels, out, paths, width, size, stride, dilation, activation=lambda: copy.deepcopy(stages.activation),
            activation_after=after, bias=conv.bias is not None, device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        if tuple(conv.padding) != layer.padding:
            raise ValueError(f"padding: expected {layer.padding}, which keeps the size, got {conv.padding!r}")
        layer.load_state_dict(whole.state_dict())
        return layer.train(whole.training)

    def _operands(self) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in self.named_parameters(recurse=False)}  # noqa: C416

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Takes the state dict of any of the three forms, converted; others get torch's own message, which names the keys."""
        apart = (f"{prefix}norms.", f"{prefix}activation.")
        mine = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix) and not k.startswith(apart)}
        converted = self._converted(mine)
        if converted is not None:
            for key in mine:
                del state_dict[prefix + key]
            state_dict.update({prefix + key: value for key, value in converted.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        kind = forms.form(state)
        if kind == "loop":
            return forms.from_loop(state)
        return forms.from_grouped(state, self.paths) if kind == "grouped" else None
