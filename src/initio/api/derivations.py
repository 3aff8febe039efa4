"""Commute and derive: the mathematics of a model or of two maps, each step verified."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initio.derivations.commute import Commutation

__all__ = ["commute"]


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
