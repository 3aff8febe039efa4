"""Commute and derive: the mathematics of a model or of two maps, each step verified."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from initio.core.errors import InitioError
from initio.core.inputs import InputSpec, normalise

if TYPE_CHECKING:
    from initio.derivations.commute import Commutation
    from initio.derivations.derivation import Derivation

__all__ = ["commute", "derive"]


def commute(f: Any, g: Any, x: Any = None, *, draws: int = 64, seed: int = 0) -> Commutation:
    """Compare f(g(x)) with g(f(x)): the same function (proven), the same expectation, or different and by how much.

    `f` and `g` are modules, functions of one tensor, or texts such as "Dropout(0.5)", "relu" or "file.py:name". `x` is a shape, a
    text such as "64x128:normal(0,2)", a tensor or an `InputSpec`; without it, unit normal entries of a shape that fits.

    Raises:
        InitioError: what is no map from tensor to tensor, is random or stateful in ways not described, gives NaN on x, or where p is
            outside [0, 1).
    """
    run = importlib.import_module("initio.derivations.commute").commute
    return run(_map(f), _map(g), x, draws=draws, seed=seed)


def _map(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    if ":" in target:
        found = importlib.import_module("initio.api.targets").resolve(target).build
        return found() if isinstance(found, type) else found
    return importlib.import_module("initio.derivations.spelled").spelled(target)


def derive(model_or_factory: Any, inputs: Any, *, what: str | Sequence[str] = "all", train: bool = True, title: str = "") -> Derivation:
    """Derive the numbers of a model, step by step, each step verified.

    `what` is "parameters", "signal", "jacobian", "gradient", several of those, or "all". The result renders as text, Markdown, LaTeX
    or HTML (`render`), reruns its checks (`verify`) and judges a step of the user's own (`check`).

    Raises:
        InitioError: as `analyze`, and for a section that there is not.
    """
    sections = importlib.import_module("initio.derivations.derive")
    asked = (what,) if isinstance(what, str) else tuple(what)
    if unknown := [name for name in asked if name != "all" and name not in sections.SECTIONS]:
        remedy = f"Choose among {', '.join(sections.SECTIONS)} and all."
        raise InitioError("a section of a derivation", f"{unknown[0]!r} came", where="what", remedy=remedy)
    chosen = sections.SECTIONS if "all" in asked else asked
    name = title or getattr(model_or_factory, "__qualname__", type(model_or_factory).__name__)
    record = _recorded(model_or_factory, inputs, train, name)

    def narrow(batch: int) -> Any:
        args, kwargs = normalise(inputs)
        named = {key: _cut(item, batch) for key, item in kwargs.items()}
        cut = [*(_cut(item, batch) for item in args), *named.values()] if args else named  # specs carry their names
        return _recorded(model_or_factory, cut, train, name, backward=False)

    @functools.cache
    def second() -> dict[int, float]:
        found = importlib.import_module("initio.interpreters.propagate").propagate(record)
        known = {value: float(moments.total_second) for value, moments in found.items() if moments.claim != "unknown"}
        return {value: number for value, number in known.items() if math.isfinite(number)}

    return sections.derive(record, narrow, second, chosen, name)


def _recorded(model_or_factory: Any, inputs: Any, train: bool, name: str, *, backward: bool = True) -> Any:
    steps: Any = importlib.import_module("initio.api.steps")
    record = steps._Step(model_or_factory, inputs, None).analyze(train, backward=backward, moments=False).record
    if record.crash is not None:
        raise steps.crash_error(record.crash, name)
    return record


def _cut(item: Any, batch: int) -> Any:
    if not isinstance(item, InputSpec) or not item.shape or item.shape[0] <= batch:
        return item
    shape = (batch, *item.shape[1:])
    law = dataclasses.replace(item.distribution, shape=shape)
    return dataclasses.replace(item, shape=shape, distribution=law, data=None if item.data is None else item.data[:batch])
