"""What kind of map a module or function is, as far as the order of two of them is concerned."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from initio.core.errors import InitioError
from initio.derivations.homogeneity import Properties, properties
from initio.derivations.tracing import Formula, NotElementwise, formula_of

__all__ = ["Kind", "Map", "classify"]

Kind = Literal["dropout", "elementwise", "affine", "maxpool", "norm", "reindex", "layer", "other"]

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR = (nn.Linear, *CONVOLUTIONS, *AVERAGES)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
REINDEXED = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
RANDOM = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


@dataclass(frozen=True)
class Map:
    """A module or function, classified. `parts` are those of a "layer": an affine map, then elementwise functions.

    `call` is what runs (a copy in float64), `of` the user's own object.
    """

    name: str
    kind: Kind
    call: Any
    formula: Formula | None = None
    properties: Properties | None = None
    p: float = 0.0
    feature: bool = False
    parts: tuple[Map, ...] = ()
    why: str = ""
    shape: tuple[int, ...] | None = field(default=None, compare=False)
    of: Any = None

    def run(self, x: Tensor) -> Tensor:
        """Apply it, in the dtype of x and without gradients."""
        with torch.no_grad():
            out = self.call(x)
        if not isinstance(out, Tensor):
            remedy = "Give a map from one tensor to one tensor."
            raise InitioError(
                "a function from tensor to tensor", f"{self.name} returned {type(out).__name__}", where=self.name, remedy=remedy
            )
        return out

    @property
    def square(self) -> bool:
        """Whether the shape of the input is kept by kind."""
        return self.kind in ("dropout", "elementwise", "norm")


def classify(target: Any, train: bool = True) -> Map:
    """The kind of a module (copied to float64; its own is not touched) or of a function.

    Raises:
        InitioError: what is no function of tensors, draws random numbers in ways not described, or has p outside [0, 1).
    """
    return replace(_classify(target, train), of=target)


def _classify(target: Any, train: bool) -> Map:
    if isinstance(target, type):
        remedy = f"Give an instance, such as {target.__name__}()."
        raise InitioError("a module or a function", f"the class {target.__name__} came", where="commute", remedy=remedy)
    if not callable(target):
        raise InitioError("a module or a function", f"got {type(target).__name__}", where="commute", remedy="Give torch.nn.ReLU(), say.")
    name = named(target)
    if isinstance(target, DROPOUTS):
        p = float(target.p)
        if not 0 <= p < 1:
            remedy = "At p = 1 nothing is left to rescale; choose a p below 1."
            raise InitioError("a dropout probability in [0, 1)", f"{name} has p = {p:g}", where=name, remedy=remedy)
        return Map(name, "dropout", target, p=p, feature=not isinstance(target, nn.Dropout))
    if isinstance(target, RANDOM):
        remedy = "Dropout, Dropout1d, Dropout2d and Dropout3d are."
        raise InitioError("randomness that Initio describes", f"{name} draws in another way", where=name, remedy=remedy)
    if not isinstance(target, nn.Module):
        return _function(name, target)
    module = copy.deepcopy(target).double().train(train)
    if isinstance(module, LINEAR) and getattr(module, "padding_mode", "zeros") == "zeros":
        return Map(name, "affine", module, shape=_shape_for(module))
    for kinds, kind in ((MAXIMA, "maxpool"), (NORMS, "norm"), (REINDEXED, "reindex")):
        if isinstance(module, kinds):
            return Map(name, kind, module, shape=_shape_for(module))  # pyright: ignore[reportArgumentType]
    if isinstance(module, nn.Sequential):
        return _sequence(name, module, train)
    return _function(name, module)


def _function(name: str, function: Callable[..., Any]) -> Map:
    try:
        formula = formula_of(function)
    except NotElementwise as reason:
        if reason.kind in ("random", "state"):
            remedy = "Give a fixed function; dropout is described as torch.nn.Dropout."
            raise InitioError(
                "a function that is the same at every call", f"{name} is not: {reason}", where=name, remedy=remedy
            ) from reason
        return Map(name, "other", function, why=str(reason))
    if formula.expr.has(_nan()):
        raise undefined(name, "everywhere")
    return Map(name, "elementwise", function, formula, properties(formula))


def _nan() -> Any:
    import sympy

    return sympy.nan


def undefined(name: str, where: str) -> InitioError:
    """The error of a function that gives NaN on the input."""
    remedy = "Give an input on which it is defined (x=…), or a function defined there."
    return InitioError("a function with finite values", f"{name} gives NaN or infinity {where}", where=name, remedy=remedy)


def _sequence(name: str, module: nn.Sequential, train: bool) -> Map:
    parts = tuple(classify(child, train) for child in module)
    kinds = [part.kind for part in parts]
    shape = next((part.shape for part in parts if part.shape), None)
    if kinds and all(kind == "elementwise" for kind in kinds):
        return _function(name, module)
    if kinds and all(kind == "affine" for kind in kinds):
        return Map(name, "affine", module, shape=shape)
    if len(kinds) > 1 and kinds[0] == "affine" and all(kind == "elementwise" for kind in kinds[1:]):
        activation = parts[1] if len(parts) == 2 else _function(name, nn.Sequential(*list(module)[1:]))
        return Map(name, "layer", module, parts=(parts[0], activation), shape=shape)
    if any(kind == "dropout" for kind in kinds):
        remedy = "Give the dropout as f or g, and what it is swapped with as the other."
        raise InitioError("dropout as one of the two maps", f"{name} holds one inside", where=name, remedy=remedy)
    return Map(name, "other", module, shape=shape, why="a sequence of " + ", ".join(dict.fromkeys(kinds)))


def named(target: Any) -> str:
    """How a map is called in reports."""
    if isinstance(target, nn.Sequential):
        return " → ".join(named(child) for child in target)
    if isinstance(target, nn.Module):
        return f"{type(target).__name__}({', '.join(_arguments(target))})"
    name = getattr(target, "__name__", "") or type(target).__name__
    return "the given function" if name == "<lambda>" else name


def _arguments(module: Any) -> list[str]:
    """Its description without what is left at a default, and sizes without their names."""
    defaults = {
        key: value.default
        for key, value in inspect.signature(type(module)).parameters.items()
        if value.default is not inspect.Parameter.empty
    }
    said: list[str] = []
    for piece in re.split(r", (?![^(]*\))", module.extra_repr()):
        key, separator, value = piece.partition("=")
        if separator and key in defaults and key != "p" and value in _spellings(defaults[key]):
            continue
        if piece and not (
            separator and key in ("stride", "padding", "dilation") and len(set(re.findall(r"\d+", value))) == 1 and key not in defaults
        ):
            said.append(value if key in ("in_features", "out_features", "p", "kernel_size", "num_parameters", "negative_slope") else piece)
    return said


def _spellings(value: Any) -> tuple[str, ...]:
    return (str(value), repr(value), *(f"({', '.join([str(value)] * n)}{',' if n == 1 else ''})" for n in (1, 2, 3)))


def _shape_for(module: Any) -> tuple[int, ...]:
    """An input that fits a module by itself."""
    if isinstance(module, nn.Linear):
        return (64, module.in_features)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return (64, *module.normalized_shape)
    rank = next((d for d in (1, 2, 3) if type(module).__name__.rstrip("dD").endswith(str(d))), 2)
    channels = getattr(module, "in_channels", None) or getattr(module, "num_features", None) or getattr(module, "num_channels", None)
    if isinstance(module, nn.BatchNorm1d):
        return (4096, module.num_features)
    extent = {1: (32,), 2: (12, 12), 3: (6, 6, 6)}[rank]
    batch = 64 if isinstance(module, NORMS) else 8
    if isinstance(module, nn.PixelShuffle):
        channels = 2 * module.upscale_factor**2
    if isinstance(module, nn.ChannelShuffle):
        channels = 2 * module.groups
    if isinstance(module, nn.Unflatten):
        return (8, _product(module.unflattened_size))
    return (batch, channels or 4, *extent)


def _product(sizes: Sequence[Any]) -> int:
    total = 1
    for size in sizes:
        total *= int(size)
    return total
