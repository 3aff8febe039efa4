"""Grids of a sweep: parameters of a factory and the values that each takes."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from initio.core.errors import InitioError

__all__ = ["GRAMMAR", "Dimension", "Grid", "grid", "parse"]

GRAMMAR = "gain=0.5:3:40, depth=2:512:log, width=64:1024:log:5 or act=relu,tanh"
POINTS = 20
"""Values between two bounds where neither a number of them nor whole numbers say how many."""
MOST_WHOLE = 1000
"""Whole numbers between two bounds that are all taken."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One parameter and its values; `log` says that they stand on a logarithmic axis."""

    name: str
    values: tuple[Any, ...]
    log: bool = False

    def whole(self) -> Dimension:
        """The same with its numbers rounded to integers, each once."""
        numbers = [round(v) if isinstance(v, float) and math.isfinite(v) else v for v in self.values]
        return Dimension(self.name, tuple(dict.fromkeys(numbers)), self.log)


@dataclass(frozen=True, slots=True)
class Grid:
    """The product of several dimensions; the last one varies fastest.

    >>> list(Grid((Dimension("depth", (2, 4)), Dimension("act", ("relu",)))))
    [{'depth': 2, 'act': 'relu'}, {'depth': 4, 'act': 'relu'}]
    """

    dimensions: tuple[Dimension, ...]

    def __len__(self) -> int:
        return math.prod(len(dimension.values) for dimension in self.dimensions)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = self.names
        return (dict(zip(names, cell, strict=True)) for cell in itertools.product(*(d.values for d in self.dimensions)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        found: dict[str, Any] = {}
        for dimension in reversed(self.dimensions):
            index, place = divmod(index, len(dimension.values))
            found[dimension.name] = dimension.values[place]
        return {name: found[name] for name in self.names}

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return tuple(dimension.name for dimension in self.dimensions)

    def to_dict(self) -> list[dict[str, Any]]:
        """Lists and plain values, as a store keeps them."""
        return [{"name": d.name, "values": list(d.values), "log": d.log} for d in self.dimensions]

    @classmethod
    def of(cls, plain: Iterable[Mapping[str, Any]]) -> Grid:
        """The inverse of `to_dict`."""
        return cls(tuple(Dimension(d["name"], tuple(d["values"]), bool(d["log"])) for d in plain))


def grid(spec: Mapping[str, Any] | Iterable[str], whole: Iterable[str] = (), real: Iterable[str] = ()) -> Grid:
    """A grid from texts such as "gain=0.5:3:40", or from a mapping of names to values or to the text after "=".

    Numbers of the parameters in `whole` are rounded to integers, each value kept once; those in `real` become floats.

    >>> len(grid({"gain": "0.5:3:40", "depth": (2, 4, 8)}))
    120
    """
    if isinstance(spec, str):
        spec = (spec,)
    if isinstance(spec, Mapping):
        found = [_given(str(name), values) for name, values in cast("Mapping[str, Any]", spec).items()]
    else:
        found = [parse(text) for text in spec]
    if not found:
        raise InitioError("a grid", "it is empty", where="--grid", remedy=f"Give at least one parameter, such as {GRAMMAR}.")
    names = [dimension.name for dimension in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InitioError("one --grid of each parameter", f"{twice!r} came twice", where="--grid", remedy="Give all its values at once.")
    integers, floats = set(whole), set(real)
    return Grid(tuple(d.whole() if d.name in integers else _real(d) if d.name in floats else d for d in found))


def _real(d: Dimension) -> Dimension:
    numbers = (float(v) if type(v) is int else v for v in d.values)
    return Dimension(d.name, tuple(numbers), d.log)


def _given(name: str, values: Any) -> Dimension:
    if isinstance(values, str):
        return parse(f"{name}={values}")
    try:
        listed = [value.item() if hasattr(value, "item") else value for value in values]
    except TypeError:
        listed = [values]
    return _sound(Dimension(name, tuple(listed)), name)


def parse(text: str) -> Dimension:
    """Read `NAME=LOW:HIGH[:N]`, `NAME=LOW:HIGH:log[:N]` or `NAME=A,B,C`, bounds included.

    Without N, whole bounds give every integer between them, `log` the doublings from LOW up to HIGH, and both else 20 values.

    >>> parse("depth=2:512:log").values, parse("gain=1:2:3").values, parse("act=relu,tanh").values
    ((2, 4, 8, 16, 32, 64, 128, 256, 512), (1.0, 1.5, 2.0), ('relu', 'tanh'))
    """
    name, separator, rest = (piece.strip() for piece in text.partition("="))
    if not separator or not rest:
        raise _malformed(text, "it has no values")
    pieces = [piece.strip() for piece in rest.split(":")]
    if len(pieces) == 1:
        return _sound(Dimension(name, tuple(_literal(piece.strip()) for piece in _split(rest))), text)
    low, high, log, count = _range(text, pieces)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise _malformed(text, f"{low:g} is not below {high:g}")
    if log and low <= 0:
        raise _malformed(text, "a logarithmic range needs positive bounds")
    return _sound(Dimension(name, _values(low, high, log, count), log), text)


def _range(text: str, pieces: list[str]) -> tuple[float | int, float | int, bool, int | None]:
    log = len(pieces) > 2 and pieces[2] == "log"
    tail = pieces[3:] if log else pieces[2:]
    if len(tail) > 1:
        raise _malformed(text, "it has too many parts")
    try:
        low, high = (int(piece) if piece.lstrip("+-").isdigit() else float(piece) for piece in pieces[:2])
    except ValueError:
        raise _malformed(text, f"{pieces[0]!r} or {pieces[1]!r} is not a number") from None
    if tail and not (tail[0].isdigit() and int(tail[0]) >= 2):
        raise _malformed(text, f"{tail[0]!r} is not a number of values (at least 2)")
    return low, high, log, int(tail[0]) if tail else None


def _values(low: float, high: float, log: bool, count: int | None) -> tuple[float | int, ...]:
    """The values between the bounds; integers where the bounds are and nothing has to be rounded."""
    whole = isinstance(low, int) and isinstance(high, int)
    if count is None and whole and not log and high - low < MOST_WHOLE:
        return tuple(range(int(low), int(high) + 1))
    if count is None and log and whole:
        doublings = [int(low) * 2**k for k in range(int(math.log2(high / low)) + 1)]
        return tuple(dict.fromkeys([*doublings, int(high)]))
    n = count or POINTS
    steps = [k / (n - 1) for k in range(n)]
    found = [low * (high / low) ** t if log else low + (high - low) * t for t in steps]
    found[0], found[-1] = low, high
    if whole and all(abs(v - round(v)) < 1e-9 for v in found):
        return tuple(round(v) for v in found)
    return tuple(float(v) for v in found)


def _split(text: str) -> list[str]:
    """Pieces at the commas that stand in no bracket and no quotes."""
    pieces, depth, quote, start = list[str](), 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            pieces.append(text[start:place])
            start = place + 1
    return [*pieces, text[start:]]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _sound(d: Dimension, text: str) -> Dimension:
    if not d.name.isidentifier():
        raise _malformed(text, f"{d.name!r} is not a parameter's name")
    if not d.values or any(isinstance(v, str) and not v for v in d.values):
        raise _malformed(text, "a value is empty")
    for value in d.values:
        if not _plain(value):
            came = f"{value!r} of type {type(value).__name__} came"
            remedy = "Give names, and let the factory look up what they stand for."
            raise InitioError("numbers, texts, booleans, None or tuples of those", came, where=f"--grid {d.name}", remedy=remedy)
    if len({repr(v) for v in d.values}) < len(d.values):
        raise _malformed(text, "a value stands there twice")
    return d


def _plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_plain(item) for item in cast("list[Any]", value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def _malformed(text: str, why: str) -> InitioError:
    return InitioError(f"a grid such as {GRAMMAR}", f"{text!r} came: {why}", where="--grid", remedy="Write it in one of those forms.")
