"""A model that answers changes: sizes of inputs, arguments of its factory, and gain, dropout, activation or norm of a block."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from initio.api.steps import check
from initio.api.targets import Target
from initio.core.errors import InitioError
from initio.core.inputs import InputSpec, normalise
from initio.render.payload import payload

__all__ = ["ACTIVATIONS", "NORMS", "Live"]

ACTIVATIONS = ("ReLU", "GELU", "SiLU", "Tanh", "LeakyReLU", "ELU", "SELU", "Mish", "Softplus", "Sigmoid", "Identity")
NORMS = ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm", "Identity")
KINDS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
LARGEST = 2**24
"""Most entries of one dimension that the page may ask for."""


@dataclass
class Live:
    """A target, and what the page may do with it. A change names only what `offers` lists; nothing that it holds is executed.

    `settings` are those of `check`. The numbers are those of `check` on the changed model, whose code `payload` returns too.
    """

    target: Target
    inputs: Any
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def payload(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The page's data after `changes`: {"batch": n, "sizes": {input: [n, …]}, "arguments": {name: value}, "modules": {path: {…}}}.

        Sizes are those after the batch. A module's changes are "gain" (factor on its weights), "p", "activation" and "norm", each of
        everything at or below its path.

        Raises:
            InitioError: a change that is not offered or has no such value, and as `check`.
        """
        asked = _parts("changes", {} if changes is None else changes, ("batch", "sizes", "arguments", "modules"))
        start = time.perf_counter()
        with self._lock:  # recording swaps functions of torch
            specs, inputs = self._inputs(asked)
            arguments = self._arguments(asked.get("arguments", {}))
            made: list[_Edits] = []

            def build() -> Any:
                known = self.target.build
                model = copy.deepcopy(known) if _is_module(known) else functools.partial(known, **arguments)()
                made.append(_Edits(model, asked.get("modules", {})))
                return made[-1].apply()

            subject = build() if _is_module(self.target.build) else build
            report = replace(check(subject, inputs, target=self.target.text, **self.settings), about=self.target.about)
        data = payload(report)
        data["live"] = {
            "inputs": [{"name": name, "shape": list(spec.shape), "fixed": spec.data is not None} for name, spec in specs.items()],
            "arguments": {**self._offered(), **{name: {**self._offered()[name], "value": value} for name, value in arguments.items()}},
            "blocks": made[-1].offers,
            "activations": ACTIVATIONS,
            "norms": NORMS,
            "changes": asked,
            "code": self._code(arguments, made[-1].lines, specs),
            "seconds": round(time.perf_counter() - start, 3),
        }
        return data

    def _inputs(self, asked: Mapping[str, Any]) -> tuple[dict[str, InputSpec], Any]:
        args, kwargs = normalise(self.inputs)
        named = {**{str(i): item for i, item in enumerate(args)}, **kwargs}
        specs = {name: item for name, item in named.items() if isinstance(item, InputSpec)}
        sizes = _parts("sizes", asked.get("sizes", {}), specs)
        batch, first = asked.get("batch"), next(iter(specs.values())).shape[0]
        for name, spec in specs.items():
            rest = sizes.get(name, list(spec.shape[1:]))
            if not isinstance(rest, list) or len(cast("list[Any]", rest)) != len(spec.shape) - 1:
                raise _refused(f"sizes of input {name}", rest, f"{len(spec.shape) - 1} sizes")
            leading = batch if batch is not None and spec.shape[0] == first else spec.shape[0]
            shape = tuple(_size(f"input {name}", size) for size in (leading, *cast("list[Any]", rest)))
            if shape != spec.shape:
                if spec.data is not None:
                    raise _refused(f"input {name}", shape, f"the shape {spec.shape} of the tensor that was handed in")
                specs[name] = replace(spec, shape=shape, distribution=replace(spec.distribution, shape=shape))
        named |= specs
        if not kwargs:
            return specs, tuple(named.values())
        if args:  # specs carry their names
            return specs, tuple(named[str(i)] for i in range(len(args))) + tuple(named[name] for name in kwargs)
        return specs, {name: named[name] for name in kwargs}

    def _offered(self) -> dict[str, dict[str, Any]]:
        """Arguments of the factory whose default, or value given, is a number, a text or a truth value."""
        if _is_module(self.target.build):
            return {}
        try:
            parameters = inspect.signature(self.target.build).parameters.values()
        except (TypeError, ValueError):
            return {}
        kinds = {p.name: (type(p.default).__name__, p.default) for p in parameters}
        return {name: {"kind": kind, "value": value} for name, (kind, value) in kinds.items() if kind in KINDS}

    def _arguments(self, asked: Any) -> dict[str, Any]:
        offered = self._offered()
        for name, value in _parts("arguments", asked, offered).items():
            kind = offered[name]["kind"]
            wrong = not isinstance(value, KINDS[kind]) or (kind != "bool" and isinstance(value, bool))
            if wrong or (kind == "float" and not math.isfinite(value)) or len(str(value)) > 200:
                raise _refused(f"argument {name}", value, f"a value of kind {kind}")
        return dict(asked)

    def _code(self, arguments: Mapping[str, Any], lines: list[str], specs: Mapping[str, InputSpec]) -> str:
        """The changed model as a factory, and the call that gives these numbers."""
        place, _, name = self.target.text.rpartition(":")
        kwargs = {**self.given, **arguments}
        called = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        stem = Path(place).stem if place.endswith(".py") else place
        if place in ("torchvision", "timm", "hf") or not all(part.isidentifier() for part in (*stem.split("."), *name.split("."))):
            head = "from initio.api.targets import resolve"
            made = f"resolve({self.target.text!r}{f', {kwargs!r}' if kwargs else ''}).build()"
        else:
            head = f"from {stem} import {name.split('.')[0]}"
            made = name if _is_module(self.target.build) else f"{name}({called})"
        settings = "".join(f", {key}={value!r}" for key, value in self.settings.items() if value not in (None, True))
        texts = [text for key, spec in specs.items() if (text := _text(key, spec)) is not None]
        inputs = repr(texts) if len(texts) == len(specs) else "inputs"
        body = "".join(f"\n    {line}" for line in (f"model = {made}", *lines, "return model"))
        heads = f"import initio\nimport torch\n{head}\nfrom torch import nn\n"
        return f"{heads}\n\ndef build():{body}\n\n\nprint(initio.check(build, {inputs}{settings}))\n"


class _Edits:
    """What is asked of the modules of one model, as operations and as the lines that do the same."""

    def __init__(self, model: Any, asked: Any) -> None:
        self.model, self.lines = model, list[str]()
        nn: Any = importlib.import_module("torch.nn")
        self.nn = nn
        self.activations = tuple(getattr(nn, name) for name in ACTIVATIONS[:-1])
        self.channel = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
        self.norms = (*self.channel, nn.LayerNorm, nn.RMSNorm)
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.asked = _parts("modules", asked, self.modules)
        offers: dict[str, dict[str, Any]] = {"gain": {}, "p": {}, "activation": {}, "norm": {}}
        for path, module in self.modules.items():
            if any(p.dim() > 1 for p in module.parameters(recurse=False)):
                offers["gain"][path] = 1.0
            if isinstance(module, nn.modules.dropout._DropoutNd):
                offers["p"][path] = module.p
            for what, kinds in (("activation", self.activations), ("norm", self.norms)):
                if path and isinstance(module, kinds):
                    offers[what][path] = type(module).__name__
        self.offers = offers

    def apply(self) -> Any:
        """The model, changed."""
        changes = {path: _parts(path or "model", change, self.offers) for path, change in self.asked.items()}
        for path, change in changes.items():
            for what in ("activation", "norm"):
                for place in self._below(path, what) if what in change else ():
                    self._swap(place, what, change[what])
        for path, change in changes.items():
            for place in self._below(path, "p") if "p" in change else ():
                p = _number(f"p of {place}", change["p"], 0.0, 1.0)
                self.modules[place].p = p
                self.lines.append(f"model.get_submodule({place!r}).p = {p!r}")
        for path, change in changes.items():
            if "gain" in change and list(self._below(path, "gain")):
                self._scale(path, _number(f"gain of {path or 'the model'}", change["gain"], 0.0, 1e6))
        return self.model

    def _below(self, path: str, what: str) -> Iterator[str]:
        return (place for place in self.offers[what] if not path or place == path or place.startswith(f"{path}."))

    def _swap(self, path: str, what: str, name: Any) -> None:
        if name not in (ACTIVATIONS if what == "activation" else NORMS):
            raise _refused(f"{what} of {path}", name, f"one of {', '.join(ACTIVATIONS if what == 'activation' else NORMS)}")
        kind, args = (name, ()) if what == "activation" or name == "Identity" else self._norm(path, name)
        self.model.set_submodule(path, getattr(self.nn, kind)(*args))
        self.lines.append(f"model.set_submodule({path!r}, nn.{kind}({', '.join(map(repr, args))}))")

    def _norm(self, path: str, name: str) -> tuple[str, tuple[Any, ...]]:
        """Class and arguments of a norm in the place of another, over the same features."""
        old = self.modules[path]
        if isinstance(old, self.channel):
            features = old.num_channels if isinstance(old, self.nn.GroupNorm) else old.num_features
            rank = type(old).__name__[-2:] if type(old).__name__[-2:] in ("1d", "2d", "3d") else "2d"
            if name == "GroupNorm":
                return name, (math.gcd(32, features), features)
            if name in ("BatchNorm", "InstanceNorm"):
                return f"{name}{rank}", (features,)
        elif name in ("LayerNorm", "RMSNorm"):
            return name, (tuple(old.normalized_shape),)
        why = "the two normalise over different dimensions"
        raise _refused(f"norm of {path}", name, f"a norm that can stand for {type(old).__name__} ({why})")

    def _scale(self, path: str, gain: float) -> None:
        torch: Any = importlib.import_module("torch")
        with torch.no_grad():
            for parameter in self.model.get_submodule(path).parameters():
                if parameter.dim() > 1:
                    parameter.mul_(gain)
        self.lines += [
            "with torch.no_grad():",
            f"    for parameter in model.get_submodule({path!r}).parameters():",
            "        if parameter.dim() > 1:",
            f"            parameter.mul_({gain!r})",
        ]


def _is_module(found: Any) -> bool:
    torch: Any = importlib.import_module("torch")
    return isinstance(found, torch.nn.Module)


def _parts(where: str, came: Any, known: Any) -> dict[str, Any]:
    """A mapping whose keys are all known."""
    if not isinstance(came, Mapping):
        raise _refused(where, came, "an object")
    found = cast("Mapping[str, Any]", came)
    for name in found:
        if name not in known:
            raise _refused(where, name, f"one of {', '.join(list(known)[:12]) or 'none'}")
    return dict(found)


def _size(where: str, came: Any) -> int:
    if type(came) is not int or not 1 <= came <= LARGEST:
        raise _refused(where, came, f"sizes from 1 to {LARGEST}")
    return came


def _number(where: str, came: Any, low: float, high: float) -> float:
    if isinstance(came, bool) or not isinstance(came, (int, float)) or not low <= came <= high:
        raise _refused(where, came, f"a number from {low:g} to {high:g}")
    return float(came)


def _refused(where: str, came: Any, expected: str) -> InitioError:
    return InitioError(expected, f"{json.dumps(came, default=str)[:200]} came", where=where, remedy="The page offers what can be changed.")


def _text(name: str, spec: InputSpec) -> str | None:
    """An input in the grammar of the command line; None where the grammar has no word for its law."""
    law, numbers = spec.distribution, spec.distribution.parameters
    kinds = {
        "normal": ("normal", ("mean", "std")), "uniform": ("uniform", ("low", "high")), "constant": ("constant", ("value",)),
        "integers": ("int", ("low", "high")), "bernoulli": ("bool", ("p",)),
    }  # fmt: skip
    if law.family not in kinds or spec.data is not None:
        return None
    word, names = kinds[law.family]
    shape = "x".join(map(str, spec.shape))
    plain = word == "normal" and (numbers["mean"], numbers["std"]) == (0.0, 1.0)
    kind = "" if plain else f":{word}({','.join(f'{numbers[each]:.17g}' for each in names)})"
    default = {"int": "int64", "bool": "bool"}.get(word, "float32")
    return f"{'' if name.isdigit() else name + '='}{shape}{kind}{'' if spec.dtype == default else ':' + spec.dtype}"
