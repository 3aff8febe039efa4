"""An initialisation as plain data: the law of every parameter, and the profile of scales that it is predicted to give."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from initio.core.distribution import Distribution, Part
from initio.core.errors import InitioError
from initio.core.plain import dumps, plain

__all__ = ["SCHEMA", "Owner", "Plan", "Scale"]

SCHEMA = "initio.plan/1"
NAN = math.nan


@dataclass(frozen=True, slots=True)
class Scale:
    """Predicted E[y²] of a module's (first) output y and E[δ²] of the cotangent δ that arrives there; NaN: not known, or none."""

    second: float
    gradient: float = NAN


@dataclass(frozen=True, slots=True)
class Owner:
    """Where a tensor lives: shape, class of the module that holds it (with its package), and all names of a tied parameter."""

    shape: tuple[int, ...]
    kind: str
    names: tuple[str, ...] = ()
    origin: str = ""


@dataclass(frozen=True)
class Plan:
    """What to initialise a model with: `parameters` maps each first name to the law of its entries.

    `gains` are relative to the author's own initialisation; `kept` says of parameters without a gain why they stay the author's;
    `unreached` says of modules why their target is not met within a factor 1.1. `before` and `after` are the profiles of the author's
    initialisation and of the plan by module path, `wanted` the second moment that each module's output is meant to have (of the modules
    that return a weight's product; for backward targets, what the plan predicts). `buffers` are those with a constant value. `rates`,
    for "mup", are factors for Adam's learning rate, proportional to 1/fan-in, to be multiplied by the fan-in of the width it was tuned at.
    """

    target: str
    parameters: Mapping[str, Distribution]
    owners: Mapping[str, Owner] = field(repr=False)
    gains: Mapping[str, float] = field(default_factory=dict[str, float], repr=False)
    kept: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    outputs: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    wanted: Mapping[str, float] = field(default_factory=dict[str, float], repr=False)
    before: Mapping[str, Scale] = field(default_factory=dict[str, Scale], repr=False)
    after: Mapping[str, Scale] = field(default_factory=dict[str, Scale], repr=False)
    unreached: Mapping[str, str] = field(default_factory=dict[str, str])
    buffers: Mapping[str, Distribution] = field(default_factory=dict[str, Distribution], repr=False)
    rates: Mapping[str, float] = field(default_factory=dict[str, float], repr=False)
    notes: tuple[str, ...] = ()

    def apply_(self, model: Any, generator: Any = None, *, device: Any = None) -> Any:
        """Draw every parameter in place, and return the model.

        Each parameter has a random stream of its own, seeded by its name and by one number from `generator` (None: torch's default one),
        so that a shard of an FSDP2 model, or another device, gets the same entries. Parameters and constant buffers on the meta device
        are made on `device` (None: the CPU). Values that the author's code gives, not draws, stay as they are.

        Raises:
            InitioError: names or shapes of another model; given values on the meta device.
        """
        return importlib.import_module("initio.interpreters.materialise").apply(self, model, generator, device)

    def polish(self, model: Any, batch: Any) -> Plan:
        """The plan corrected on a real batch, as LSUV does (Mishkin and Matas, 2016), and the model's weights with it.

        In one forward pass each weight is scaled where its module first returns, until the output's second moment is the wanted one.
        `batch` is what the model is called with: a tensor, a tuple of arguments or a dict of keywords. The model must have been initialised.

        Raises:
            InitioError: names or shapes of another model; tensors on the meta device; outputs that are zero or not finite.
        """
        return importlib.import_module("initio.interpreters.materialise").polish(self, model, batch)

    def to_code(self) -> str:
        """The function a person would write: by `torch.nn.init`, for each kind of module and each group of names."""
        return importlib.import_module("initio.render.initialiser").code(self)

    def to_dict(self) -> dict[str, Any]:
        """The plan as nested dicts and lists."""
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        row |= {name: {key: _law(law) for key, law in getattr(self, name).items()} for name in ("parameters", "buffers")}
        return {"schema": SCHEMA, **cast("dict[str, Any]", plain(row))}

    def to_json(self) -> str:
        """JSON text with a `schema` version."""
        return dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """The plan out of `to_dict()`.

        Raises:
            InitioError: what is no plan, or one of another version.
        """
        schema = cast("dict[str, Any]", data).get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            came = f"its schema is {schema!r}" if isinstance(data, dict) else f"a {type(data).__name__} came"
            raise InitioError(f"a plan of schema {SCHEMA}", came, where="from_dict", remedy="Solve it anew with this version.")
        try:
            row: dict[str, Any] = {name: data[name] for name in cls.__dataclass_fields__}
            row |= {name: {key: _read(law) for key, law in row[name].items()} for name in ("parameters", "buffers")}
            row |= {name: {key: Scale(**_numbers(each)) for key, each in row[name].items()} for name in ("before", "after")}
            row["owners"] = {
                key: Owner(tuple(each["shape"]), each["kind"], tuple(each["names"]), each["origin"]) for key, each in row["owners"].items()
            }
            row |= {name: _numbers(row[name]) for name in ("gains", "wanted", "rates")}
            row["notes"] = tuple(row["notes"])
            return cls(**row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            came = f"part of it cannot be read: {type(error).__name__}: {error}"
            raise InitioError(f"a plan of schema {SCHEMA}", came, where="from_dict", remedy="Write it with Plan.to_dict().") from error

    def __repr__(self) -> str:
        drawn = [name for name, gain in self.gains.items() if gain != 1.0]
        lines = [f"Plan for {self.target}: {len(drawn)} of {len(self.parameters)} parameters scaled"]
        lines += [f"{'parameter':<44} {'gain':>9}  law"]
        shown = [name for name in self.parameters if name in self.gains] or list(self.parameters)
        lines += [f"{name[-44:]:<44} {self.gains.get(name, 1.0):>9.4g}  {self.parameters[name]}" for name in shown[:60]]
        if len(shown) > 60:
            lines.append(f"… and {len(shown) - 60} more")
        lines += [f"{'module':<44} {'E[y²] before':>13} {'after':>10} {'wanted':>10} {'E[δ²] before':>13} {'after':>10}"]
        paths = list(self.outputs.values())
        for path in paths[:60]:
            old, new = self.before.get(path, Scale(NAN)), self.after.get(path, Scale(NAN))
            numbers = (
                f"{old.second:>13.4g} {new.second:>10.4g} {self.wanted.get(path, NAN):>10.4g} {old.gradient:>13.4g} {new.gradient:>10.4g}"
            )
            lines.append(f"{path[-44:] or '(model)':<44} {numbers}" + (" *" if path in self.unreached else ""))
        if len(paths) > 60:
            lines.append(f"… and {len(paths) - 60} more")
        lines += [f"* {path or '(model)'}: {reason}" for path, reason in self.unreached.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __str__ = __repr__


def _law(law: Distribution) -> dict[str, Any]:
    parts = [{"index": part.index, "distribution": _law(part.distribution)} for part in law.parts]
    return {"family": law.family, "parameters": law.parameters, "shape": law.shape, "parts": parts, "note": law.note}


def _read(row: Any) -> Distribution:
    parts = tuple(Part(tuple(tuple(triple) for triple in part["index"]), _read(part["distribution"])) for part in row["parts"])
    return Distribution(row["family"], _numbers(row["parameters"]), tuple(row["shape"]), parts, row["note"])


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: NAN if value is None else float(value) for name, value in row.items()}
