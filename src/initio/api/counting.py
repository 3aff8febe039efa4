"""Count: what a step costs, without weights; in numbers, or as polynomials of the batch, the sequence and the image size."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from initio.core.counts import Attention, Counts, Memory
from initio.core.distribution import Distribution
from initio.core.errors import InitioError
from initio.core.inputs import FLOATS, InputSpec, normalise
from initio.core.polynomial import Polynomial, fit

__all__ = ["SIZES", "count"]

SIZES = ("batch", "seq", "size")
"""Sizes that counts can be polynomials of: the first dimension of every input, the second of token inputs, height and width of images."""
DEGREES: tuple[Mapping[str, int], ...] = ({"batch": 1, "seq": 2, "size": 2}, {"batch": 2, "seq": 3, "size": 4})
EXACT = ("parameters", "buffers", "forward.macs", "forward.weights", "backward.macs", "backward.weights")
"""Quantities that must be polynomials; of the others, only those that are, are given."""
Loss = str | Callable[..., Any] | None


def count(
    model_or_factory: Any,
    inputs: Any,
    *,
    symbolic: Iterable[str] = (),
    backward: bool = True,
    loss: Loss = None,
    train: bool = True,
    attention: Attention = "fused",
    autocast: str | None = None,
    target: str = "",
) -> Counts:
    """Count parameters, MACs and FLOPs, and the memory of one step, by module and by operation; no weight is allocated.

    `symbolic` names sizes ("batch", "seq", "size") in which exact polynomials are fitted to counts at several of them, and verified at
    one more. `attention` "fused" takes scaled dot-product attention as a kernel without S × S matrices, "math" as its definition.
    `autocast` ("bfloat16", "float16") runs the step under `torch.autocast`. Gradients with respect to the inputs are not computed.

    Raises:
        InitioError: as `analyze`; counts that are no polynomials of the sizes asked for.
    """
    args, kwargs = normalise(inputs)
    names = _names(symbolic)
    step = _Step(_built(model_or_factory), loss, train, backward, attention, autocast, target or _name(model_or_factory))
    base = step.count(args, kwargs)
    if not names:
        return base
    return dataclasses.replace(base, **_symbolic(step, args, kwargs, names))


def _name(model: Any) -> str:
    return getattr(model, "__qualname__", type(model).__name__)


def _names(symbolic: Iterable[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys([symbolic] if isinstance(symbolic, str) else symbolic))
    for name in names:
        if name not in SIZES:
            remedy = "batch is the first dimension of every input, seq the second of token inputs, size the height and width of images."
            raise InitioError(f"sizes among {', '.join(SIZES)}", f"{name!r} came", where="symbolic", remedy=remedy)
    return names


class _Unread(Mapping[str, Distribution]):
    """Distributions of a built model's tensors that nobody asks for: counting reads shapes only."""

    def __getitem__(self, name: str) -> Distribution:
        return Distribution("values", {"mean": 0.0, "std": 1.0}, ())

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass(frozen=True)
class _Built:
    """A construction of a model whose values are not read."""

    model: Any
    distributions: Mapping[str, Distribution] = dataclasses.field(default_factory=_Unread)
    origin: str = "values"
    sources: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])


def _built(model_or_factory: Any) -> Any:
    import torch

    if isinstance(model_or_factory, torch.nn.Module):
        return _Built(model_or_factory)
    steps: Any = importlib.import_module("initio.api.steps")
    return steps._constructed(model_or_factory)[0]


@dataclass(frozen=True)
class _Step:
    """A model and how its step is run."""

    construction: Any
    loss: Loss
    train: bool
    backward: bool
    attention: Attention
    autocast: str | None
    target: str

    def count(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Counts:
        """Record the step on these inputs, and count."""
        capture: Any = importlib.import_module("initio.capture.program")
        steps: Any = importlib.import_module("initio.api.steps")
        options = {"loss": self.loss, "train": self.train, "backward": self.backward, "input_gradients": False}
        try:
            with self._casting():
                record = capture.record(self.construction.model, args, kwargs, construction=self.construction, **options)
        except capture.RecordingError as error:
            raise InitioError("a step that can be recorded", str(error), where="record") from error
        if record.crash is not None:
            raise steps.crash_error(record.crash, self.target)
        interpret: Any = importlib.import_module("initio.interpreters.count")
        return interpret.count(record, attention=self.attention, target=self.target)

    def _casting(self) -> Any:
        if self.autocast is None:
            return contextlib.nullcontext()
        import torch

        if self.autocast not in ("bfloat16", "float16"):
            remedy = "A model that is half precision throughout needs no autocast: build it so, and give its input that dtype."
            raise InitioError("autocast to bfloat16 or float16", f"{self.autocast!r} came", where="autocast", remedy=remedy)
        return torch.autocast("cpu", dtype=getattr(torch, self.autocast))


def quantities(counts: Counts) -> dict[str, int]:
    """All integer counts by name: of the model, of the memory, and the MACs and parameters of each module."""
    found = {"parameters": counts.parameters.total, "buffers": counts.parameters.buffers}
    for phase, work in (("forward", counts.forward), ("backward", counts.backward)):
        found |= {f"{phase}.{name}": getattr(work, name) for name in ("macs", "weights", "products", "flops", "entries", "moved")}
    found |= {f"memory.{field.name}": getattr(counts.memory, field.name) for field in dataclasses.fields(Memory) if field.type == "int"}
    found |= {f"memory.training_{name}": counts.memory.training(name) for name in ("sgd", "momentum", "adam")}
    for module in counts.modules[1:]:
        found |= {f"{module.path}:{phase}.macs": getattr(module, phase).macs for phase in ("forward", "backward")}
        found[f"{module.path}:saved"] = module.saved
    return found


def _symbolic(step: _Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    sizes = _sizes((*args, *kwargs.values()), names)
    memo: dict[tuple[int, ...], dict[str, int]] = {}

    def at(point: tuple[int, ...]) -> dict[str, int]:
        if point not in memo:
            new = dict(zip(names, point, strict=True))
            moved = [_resized(item, sizes, new) for item in args], {key: _resized(item, sizes, new) for key, item in kwargs.items()}
            try:
                memo[point] = quantities(step.count(tuple(moved[0]), moved[1]))
            except InitioError as error:
                where = ", ".join(f"{name} = {value}" for name, value in new.items())
                remedy = "Leave out the size that the model fixes (a table of positions fixes seq or size, say)."
                raise InitioError(
                    f"a model that runs at {where} as well", f"it did not: {error}", where="symbolic", remedy=remedy
                ) from error
        return memo[point]

    failure: InitioError | None = None
    for degrees, period in itertools.product(DEGREES, (32, sizes["size"]) if "size" in sizes else (1,)):
        grid = {name: _points(name, sizes[name], degrees[name], period) for name in names}
        inner = {name: points[:-1] for name, points in grid.items()}
        try:
            table = {point: at(point) for point in itertools.product(*inner.values())}
            further = tuple(points[-1] for points in grid.values())
            checks = {further: at(further)}
        except InitioError as error:
            failure = error
            continue
        fitted = {name: fit(inner, {point: row.get(name, 0) for point, row in table.items()}) for name in at(further)}
        wrong = {name for name, polynomial in fitted.items() if any(_off(polynomial, point, row[name]) for point, row in checks.items())}
        bad = next((name for name in EXACT if name in wrong), None)
        if bad is None:
            return _result(fitted, wrong, grid, period)
        said = ", ".join(f"{name} = {value}" for name, value in zip(names, further, strict=True))
        came = f"{bad} at {said} is {checks[further][bad]:,}, not {float(fitted[bad](**dict(zip(names, further, strict=True)))):,.0f}"
        remedy = "The work depends on these sizes in steps (padding to windows, a fixed number of patches); count at the sizes in question."
        failure = InitioError(f"counts that are polynomials of {', '.join(names)}", came, where="symbolic", remedy=remedy)
    assert failure is not None
    raise failure


def _off(polynomial: Polynomial, point: tuple[int, ...], value: int) -> bool:
    return polynomial(**dict(zip(polynomial.names, point, strict=True))) != value


def _result(fitted: Mapping[str, Polynomial], wrong: set[str], grid: Mapping[str, Sequence[int]], period: int) -> dict[str, Any]:
    said = ", ".join(f"{name} at {', '.join(map(str, points[:-1]))} and verified at {points[-1]}" for name, points in grid.items())
    notes = [f"polynomials fitted to {said}"]
    if "size" in grid:
        notes.append(f"a size that differs from {grid['size'][0]} by no multiple of {period} may round otherwise")
    plain = sorted(name for name in wrong if ":" not in name)
    if plain:
        notes.append(f"no polynomials: {', '.join(plain)}")
    return {"symbolic": {name: polynomial for name, polynomial in fitted.items() if name not in wrong}, "notes": tuple(notes)}


def _points(name: str, here: int, degree: int, period: int) -> list[int]:
    """degree + 1 points to fit and one to verify. Tokens stay below what was asked for, where a table of positions may end."""
    if name == "batch":
        return [*[2, 3, 4, 6][: degree + 1], 7]
    if name == "size":
        return [here + k * period for k in range(degree + 2)]
    step = max(here // (degree + 2), 1)
    return [here - k * step for k in range(degree + 1, -1, -1)] if here > degree + 2 else list(range(here, here + degree + 2))


def _tokens(spec: InputSpec) -> bool:
    return (len(spec.shape) == 2 and spec.dtype not in FLOATS) or len(spec.shape) == 3


def _sizes(items: Iterable[Any], names: Iterable[str]) -> dict[str, int]:
    """What each name is in these inputs."""
    specs = [item for item in items if isinstance(item, InputSpec)]
    found: dict[str, int] = {}
    for name in names:
        if name == "batch":
            here = {spec.shape[0] for spec in specs if spec.shape}
        elif name == "seq":
            here = {spec.shape[1] for spec in specs if _tokens(spec)}
        else:
            here = {size for spec in specs if len(spec.shape) >= 4 for size in spec.shape[-2:]}
        if len(here) != 1:
            came = f"the inputs have {', '.join(map(str, sorted(here)))}" if here else "no input has one"
            need = {
                "batch": "first dimensions",
                "seq": "inputs of tokens (batch × sequence, or batch × sequence × features)",
                "size": "square images",
            }
            remedy = f"It is read from {need[name]}, which must agree."
            raise InitioError(f"one {name} in the inputs", came, where="symbolic", remedy=remedy)
        found[name] = here.pop()
    return found


def _resized(item: Any, old: Mapping[str, int], new: Mapping[str, int]) -> Any:
    if not isinstance(item, InputSpec) or not item.shape:
        return item
    if item.data is not None:
        remedy = "Give its shape instead, such as 2x128:int(50257)."
        raise InitioError("inputs of any size", f"input {item.name or 1!r} is a tensor with values", where="symbolic", remedy=remedy)
    shape = list(item.shape)
    if "batch" in new:
        shape[0] = new["batch"]
    if "seq" in new and _tokens(item):
        shape[1] = new["seq"]
    if "size" in new and len(shape) >= 4:
        shape[-2:] = [new["size"], new["size"]]
    law = dataclasses.replace(item.distribution, shape=tuple(shape))
    return dataclasses.replace(item, shape=tuple(shape), distribution=law)
