"""Where results go: the terminal, or a file that appears whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console

from initio.core.errors import InitioError

__all__ = ["console", "write"]


def console(sink: TextIO) -> Console:
    """A rich console on a stream: colour on a terminal only, 100 columns in a file."""
    return Console(file=sink, highlight=False, width=None if sink.isatty() else 100, emoji=False, markup=False)


@contextmanager
def write(path: Path | None) -> Generator[TextIO]:
    """The standard output, or a temporary file beside `path` that takes its place on success.

    Raises:
        InitioError: before anything is computed, where `path` cannot be written.
    """
    if path is None:
        yield sys.stdout
        return
    if path.is_dir():
        raise _unwritable(path, "it is a directory", "Name a file.")
    if path.exists() and not os.access(path, os.W_OK):
        raise _unwritable(path, "it is write-protected", "Choose another file or change its permissions.")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error), "Choose a directory that exists and that you may write to.") from error
    try:
        with open(descriptor, "w", encoding="utf-8") as sink:
            yield sink
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, why: str, remedy: str) -> InitioError:
    return InitioError("a file that can be written", f"{str(path)!r} cannot be: {why}", where="--output", remedy=remedy)
