"""What is known of an input before the step runs: its shape, dtype and the distribution of its entries."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from initio.core.distribution import Distribution
from initio.core.errors import InitioError

__all__ = ["InputSpec", "normalise", "parse"]

GRAMMAR = "8x3x224x224, 2x128:int(50257), 2x16:bool, 4x10:uniform(0,1), 8x64:float16, or input_ids=2x128:int(50257)"
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
PIECE = re.compile(r"([a-z]+\d*)(?:\(([^()]*)\))?")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input tensor of a model.

    `name` is the keyword under which it is passed ("" for a positional argument), `dtype` torch's name without
    the prefix ("float32", "int64", "bool"), `data` a real tensor handed in by the user (None: entries are drawn from `distribution`).
    """

    shape: tuple[int, ...]
    dtype: str
    distribution: Distribution
    name: str = ""
    data: Any = None

    def __str__(self) -> str:
        prefix = f"{self.name}=" if self.name else ""
        return f"{prefix}{'x'.join(map(str, self.shape)) or '0-dim'} {self.dtype} {self.distribution}"


def parse(text: str) -> InputSpec:
    """Read `[NAME=]SHAPE[:KIND][:DTYPE]`; entries are independent unit normals unless a kind is given.

    Kinds: `int(N)` and `int(LOW,HIGH)` (HIGH excluded), `bool` and `bool(P)`, `normal(MEAN,STD)`, `uniform(LOW,HIGH)`, `constant(VALUE)`.

    >>> print(parse("input_ids=2x128:int(50257)"))
    input_ids=2x128 int64 integers(0, 5.026e+04)
    >>> print(parse("8x3x224x224:float16"))
    8x3x224x224 float16 normal(0, 1)
    """
    name, separator, rest = text.strip().partition("=")
    name, rest = (name.strip(), rest.strip()) if separator else ("", name.strip())
    if separator and not name.isidentifier():
        raise _malformed(text, f"{name!r} is not a keyword argument's name")
    size, *pieces = rest.split(":")
    if not re.fullmatch(r"\d+(x\d+)*", size):
        raise _malformed(text, f"{size!r} is not a shape")
    shape = tuple(int(part) for part in size.split("x"))
    dtype, distribution = "", None
    for piece in pieces:
        if piece in (*FLOATS, *INTEGERS):
            dtype = piece
        elif distribution is None:
            distribution, default = _kind(text, piece, shape)
            dtype = dtype or default
        else:
            raise _malformed(text, f"{piece!r} is a second kind or an unknown dtype")
    dtype = dtype or "float32"
    if distribution is None:
        if dtype in INTEGERS:
            raise _malformed(text, f"entries of dtype {dtype} need their range, such as {size}:int(1000):{dtype}")
        distribution = Distribution("normal", {"mean": 0.0, "std": 1.0}, shape)
    elif distribution.family not in ("integers", "constant", "bernoulli") and dtype in INTEGERS:
        raise _malformed(text, f"a {distribution.family} distribution has no entries of dtype {dtype}")
    return _sound(InputSpec(shape, dtype, distribution, name))


def _kind(text: str, piece: str, shape: tuple[int, ...]) -> tuple[Distribution, str]:
    match = PIECE.fullmatch(piece)
    if match is None:
        raise _malformed(text, f"{piece!r} is no kind of entries")
    try:
        numbers = [float(number) for number in match[2].split(",")] if match[2] else []
    except ValueError:
        raise _malformed(text, f"{match[2]!r} are not numbers") from None
    match match[1], numbers:
        case "int", [high]:
            low = 0.0
        case "int", [low, high]:
            pass
        case "bool", []:
            return Distribution("bernoulli", {"p": 0.5}, shape), "bool"
        case "bool", [p] if 0 <= p <= 1:
            return Distribution("bernoulli", {"p": p}, shape), "bool"
        case "normal", [mean, std] if std >= 0:
            return Distribution("normal", {"mean": mean, "std": std}, shape), "float32"
        case "uniform", [low, high] if low < high:
            return Distribution("uniform", {"low": low, "high": high}, shape), "float32"
        case "constant", [value]:
            return Distribution("constant", {"value": value}, shape), "float32"
        case _:
            raise _malformed(text, f"{piece!r} is no kind of entries")
    if not low < high or low != int(low) or high != int(high):
        raise _malformed(text, f"{piece!r} holds no integer")
    return Distribution("integers", {"low": low, "high": high}, shape), "int64"


def normalise(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the model, tensors as `InputSpec`.

    `inputs` is a shape, a text, a tensor or array (its data is kept), an `InputSpec`, a list or tuple of several of those,
    or a mapping by argument name. Numbers, booleans and None beside them are passed on as they are.

    >>> args, kwargs = normalise({"x": (8, 3), "scale": 2.0})
    >>> kwargs["x"].shape, kwargs["scale"]
    ((8, 3), 2.0)
    """
    if isinstance(inputs, Mapping):
        named = cast("Mapping[str, Any]", inputs)
        kwargs = {name: _one(value, name) for name, value in named.items()}
        return (), kwargs
    several = isinstance(inputs, (list, tuple)) and not _is_shape(cast("tuple[Any, ...]", inputs))
    items = [_one(item, "") for item in cast("Iterable[Any]", inputs if several else (inputs,))]
    if not any(isinstance(item, InputSpec) for item in items):
        raise InitioError("at least one input tensor", f"got {inputs!r}", where="inputs", remedy=f"Describe it, for example as {GRAMMAR}.")
    if all(not item.shape for item in items if isinstance(item, InputSpec)):
        raise _pointless("inputs")
    names = [item.name for item in items if isinstance(item, InputSpec) and item.name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InitioError("one input of each name", f"{twice!r} came twice", where="inputs", remedy="Name each input once.")
    return (
        tuple(item for item in items if not (isinstance(item, InputSpec) and item.name)),
        {item.name: item for item in items if isinstance(item, InputSpec) and item.name},
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(size) is int for size in cast("tuple[Any, ...]", value))


def _one(value: Any, name: str) -> Any:
    if isinstance(value, InputSpec):
        return _sound(replace(value, name=name or value.name))
    if isinstance(value, str):
        spec = parse(value)
        return replace(spec, name=name or spec.name)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _sound(_from_tensor(value, name))
    if _is_shape(value):
        shape = tuple(cast("tuple[int, ...]", value))
        return _sound(InputSpec(shape, "float32", Distribution("normal", {"mean": 0.0, "std": 1.0}, shape), name))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        nested = [_one(item, "") for item in cast("Iterable[Any]", value)]
        return tuple(nested) if isinstance(value, tuple) else nested
    if isinstance(value, Mapping):
        return {key: _one(item, "") for key, item in cast("Mapping[str, Any]", value).items()}
    raise InitioError(
        "a shape, a text, a tensor or an InputSpec",
        f"got {type(value).__name__}",
        where=f"input {name!r}" if name else "inputs",
        remedy=f"Describe it, for example as {GRAMMAR}.",
    )


def _from_tensor(tensor: Any, name: str) -> InputSpec:
    shape = tuple(int(size) for size in tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if getattr(getattr(tensor, "device", None), "type", "cpu") == "meta":
        if dtype not in FLOATS:
            raise InitioError(
                "an input with values", f"got a meta tensor of dtype {dtype}", remedy="Give its range, such as 2x128:int(50257)."
            )
        return InputSpec(shape, dtype, Distribution("normal", {"mean": 0.0, "std": 1.0}, shape), name)
    if math.prod(shape) == 0:
        return InputSpec(shape, dtype, Distribution("constant", {"value": 0.0}, shape), name, tensor)
    if hasattr(tensor, "detach"):
        flat = tensor.detach().abs().double() if dtype.startswith("complex") else tensor.detach().double()
        mean, second = float(flat.mean()), float((flat * flat).mean())
    else:
        mean, second = float(tensor.mean()), float((tensor.astype("float64") ** 2).mean())
    if not math.isfinite(second):
        where = f"input {name!r}" if name else "inputs"
        raise InitioError(
            "finite input values", "the tensor holds NaN or infinity", where=where, remedy="Clean it, or give its shape alone."
        )
    std = math.sqrt(max(second - mean * mean, 0.0))
    return InputSpec(shape, dtype, Distribution("values", {"mean": mean, "std": std}, shape), name, tensor)


def _sound(spec: InputSpec) -> InputSpec:
    where = f"input {spec.name!r}" if spec.name else "inputs"
    if any(size < 1 for size in spec.shape):
        shape = "x".join(map(str, spec.shape))
        raise InitioError("an input with entries", f"{shape} is empty", where=where, remedy="Give every dimension a size of at least 1.")
    if not spec.shape and spec.data is None:
        raise _pointless(where)
    return spec


def _pointless(where: str) -> InitioError:
    remedy = "Give it a batch dimension, such as 8x3x224x224; a true scalar can be passed as a Python number."
    return InitioError("an input with a batch dimension", "its shape is 0-dimensional", where=where, remedy=remedy)


def _malformed(text: str, why: str) -> InitioError:
    return InitioError("an input such as " + GRAMMAR, f"{text!r} came: {why}", where="--input", remedy="Write it in one of those forms.")
