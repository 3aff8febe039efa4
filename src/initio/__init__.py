"""Initio: the scale of every activation and gradient of a PyTorch model, before its first training step."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initio.api import Analysis as Analysis
    from initio.api import Counts as Counts
    from initio.api import Distribution as Distribution
    from initio.api import Finding as Finding
    from initio.api import Fixing as Fixing
    from initio.api import InitioError as InitioError
    from initio.api import InputSpec as InputSpec
    from initio.api import Report as Report
    from initio.api import analyze as analyze
    from initio.api import check as check
    from initio.api import commute as commute
    from initio.api import compare as compare
    from initio.api import count as count
    from initio.api import derive as derive
    from initio.api import fix as fix
    from initio.api import measure as measure
    from initio.api import sweep as sweep
    from initio.api import train_eval as train_eval
    from initio.api import watch as watch

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The public names come from `initio.api` on first use, so that importing the package costs nothing."""
    import initio.api

    if name in ("init", "sweeps"):
        return importlib.import_module(f"initio.{name}")
    if name in initio.api.__all__:
        return getattr(initio.api, name)
    raise AttributeError(f"module 'initio' has no attribute {name!r}; it offers {', '.join(initio.api.__all__)}")


def __dir__() -> list[str]:
    import initio.api

    return sorted({*globals(), *initio.api.__all__})
