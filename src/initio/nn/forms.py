"""The two other ways to write a split–transform–merge layer, and the exact maps between their state dicts.

* loop: `paths.{g}.reduce`, `.transform`, `.expand`: three convolutions for every path, as it is written by hand;
* grouped: `reduce`, `transform`, `expand`: three convolutions for all paths, the last two in `paths` groups;
* fused: the operands of `SplitTransformMerge`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

STAGES = ("reduce", "transform", "expand")
_LOOP = re.compile(r"paths\.(\d+)\.(reduce|transform|expand)\.(weight|bias)$")
_GROUPED = re.compile(r"(reduce|transform|expand)\.(weight|bias)$")
_OURS = {"reduce": "reduce", "transform": "transform", "expand": "merge"}


class Path(nn.Module):
    """One path: 1x1, activation, kernel, activation, 1x1, and the last activation if it stands before the sum."""

    def __init__(self, reduce: nn.Conv2d, transform: nn.Conv2d, expand: nn.Conv2d, activation: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.reduce, self.transform, self.expand = reduce, transform, expand
        self.activation, self.last = activation, last

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] → [n, out_channels, h', w']."""
        return self.last(self.expand(self.activation(self.transform(self.activation(self.reduce(x))))))


class PathLoop(nn.Module):
    """y = f(Σ_g path_g(x)), one path after another: the literal form, with every path in a `ModuleList`."""

    def __init__(self, paths: list[Path], last: nn.Module) -> None:
        super().__init__()
        self.paths, self.last = nn.ModuleList(paths), last

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] → [n, out_channels, h', w']."""
        outputs = [path(x) for path in self.paths]
        y = outputs[0]
        for output in outputs[1:]:
            y = y + output
        return self.last(y)


class GroupedPaths(nn.Module):
    """The three stages as three convolutions for all paths; holds paths x out_channels channels before the sum."""

    def __init__(
        self,
        reduce: nn.Conv2d,
        transform: nn.Conv2d,
        expand: nn.Conv2d,
        paths: int,
        activation: nn.Module,
        path: nn.Module,
        last: nn.Module,
    ) -> None:
        super().__init__()
        self.reduce, self.transform, self.expand = reduce, transform, expand
        self.paths, self.activation, self.path, self.last = paths, activation, path, last

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] → [n, out_channels, h', w']."""
        h = self.activation(self.transform(self.activation(self.reduce(x))))
        z = self.path(self.expand(h))
        return self.last(z.unflatten(1, (self.paths, z.shape[1] // self.paths)).sum(1))


def form(keys: Mapping[str, Tensor]) -> str | None:
    """Which form the names of a state dict are of: "loop", "grouped" or "fused"; None if some names belong to none or to several."""
    if not keys:
        return None
    if all(_LOOP.match(k) for k in keys):
        return "loop"
    if all(_GROUPED.match(k) for k in keys):
        return "grouped"
    ours = {f"{stage}_{kind}" for stage in _OURS.values() for kind in ("weight", "bias")}
    return "fused" if set(keys) <= ours else None


def from_loop(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fused operands from a loop's: the first two stages side by side, the third stacked.

    Raises:
        KeyError: a path or one of its tensors is missing; the message names it.
    """
    found = {(int(m[1]), m[2], m[3]) for key in state if (m := _LOOP.match(key))}
    paths = 1 + max(g for g, _, _ in found)
    kinds = sorted({kind for _, _, kind in found})
    if missing := [f"paths.{g}.{s}.{k}" for g in range(paths) for s in STAGES for k in kinds if (g, s, k) not in found]:
        raise KeyError(f"a state dict of the loop form with {paths} paths lacks {', '.join(missing)}")
    result: dict[str, Tensor] = {}
    for kind in kinds:
        first, second, third = ([state[f"paths.{g}.{stage}.{kind}"] for g in range(paths)] for stage in STAGES)
        result[f"reduce_{kind}"] = torch.cat(first).flatten(1) if kind == "weight" else torch.cat(first)
        result[f"transform_{kind}"] = torch.cat(second)
        result[f"merge_{kind}"] = torch.stack(third).flatten(2) if kind == "weight" else torch.stack(third)
    return result


def to_loop(state: Mapping[str, Tensor], paths: int) -> dict[str, Tensor]:
    """The inverse of `from_loop`."""
    result: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        if f"merge_{kind}" not in state:
            continue
        square = (..., None, None) if kind == "weight" else (...,)
        pieces = (state[f"reduce_{kind}"][square].chunk(paths), state[f"transform_{kind}"].chunk(paths), state[f"merge_{kind}"][square])
        for stage, tensors in zip(STAGES, pieces, strict=True):
            for g, tensor in enumerate(tensors):
                result[f"paths.{g}.{stage}.{kind}"] = tensor
    return result


def from_grouped(state: Mapping[str, Tensor], paths: int) -> dict[str, Tensor]:
    """The fused operands from the grouped form's, whose last convolution has paths x out_channels outputs.

    Raises:
        KeyError: a tensor is missing. ValueError: its channels do not divide by `paths`.
    """
    kinds = sorted({key.rpartition(".")[2] for key in state})
    if missing := [f"{s}.{k}" for s in STAGES for k in kinds if f"{s}.{k}" not in state]:
        raise KeyError(f"a state dict of the grouped form lacks {', '.join(missing)}")
    for key, value in state.items():
        if value.shape[0] % paths:
            raise ValueError(f"{key} has {value.shape[0]} channels, which {paths} paths do not divide")
    result: dict[str, Tensor] = {}
    for kind in kinds:
        first, second, third = (state[f"{stage}.{kind}"] for stage in STAGES)
        third = third.unflatten(0, (paths, third.shape[0] // paths))
        result[f"reduce_{kind}"] = first.flatten(1) if kind == "weight" else first
        result[f"transform_{kind}"] = second
        result[f"merge_{kind}"] = third.flatten(2) if kind == "weight" else third
    return result


def to_grouped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_grouped`."""
    result: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        if f"merge_{kind}" not in state:
            continue
        square = (..., None, None) if kind == "weight" else (...,)
        result[f"reduce.{kind}"] = state[f"reduce_{kind}"][square]
        result[f"transform.{kind}"] = state[f"transform_{kind}"]
        result[f"expand.{kind}"] = state[f"merge_{kind}"].flatten(0, 1)[square]
    return result
