"""Source lines: the innermost frame of the user's code."""

from __future__ import annotations

import linecache
import os
import sysconfig
from typing import Any

import torch

from initio.core.record import Source

__all__ = ["boundaries", "user_source"]

_SKIP = tuple(
    os.path.join(path, "")
    for path in (
        os.path.dirname(torch.__file__),
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        os.path.join(sysconfig.get_paths()["stdlib"], "contextlib"),
    )
)
_EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples", "")
_SKIP_FILES = {sysconfig.get_paths()["stdlib"] + "/" + name for name in ("contextlib.py", "functools.py", "copy.py", "warnings.py")}


def _foreign(file: str) -> bool:
    return (not file.startswith(_SKIP) or file.startswith(_EXAMPLES)) and not file.startswith("<") and file not in _SKIP_FILES


boundaries: set[Any] = set()
"""Code objects that call the model: what lies further out is not its code."""


def user_source(frame: Any) -> Source | None:
    """The innermost frame of the user's code, from `frame` outwards; None where only torch runs (a bare `nn.Sequential`)."""
    while frame is not None:
        code = frame.f_code
        if code in boundaries:
            return None
        if _foreign(code.co_filename):
            line = frame.f_lineno
            return Source(code.co_filename, line, code.co_name, linecache.getline(code.co_filename, line).strip())
        frame = frame.f_back
    return None
