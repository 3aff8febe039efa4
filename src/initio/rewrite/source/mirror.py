"""A temporary copy of a project in which some files have other contents, for importing it."""

from __future__ import annotations

import importlib
import linecache
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from initio.core.suppressions import INSTALLED

__all__ = ["mirror"]

KEPT = frozenset({"initio", "torch", "numpy", "__main__", "__mp_main__"})


@contextmanager
def mirror(root: Path, texts: Mapping[Path, bytes]) -> Generator[Path]:
    """A directory that stands for `root`, with `texts` (paths below `root` → contents) in place of those files.

    Python files next to an edited one are copied, everything else is linked. Inside, imports find the copy, modules of `root` that
    were imported before are forgotten, and no bytecode is written; afterwards all is as it was.
    """
    copy = Path(tempfile.mkdtemp(prefix="initio-fix-")).resolve()
    path, modules, bytecode = list(sys.path), dict(sys.modules), sys.dont_write_bytecode
    try:
        _fill(root, copy, {file.relative_to(root): text for file, text in texts.items()})
        own = _below(root, modules)
        for name in own:
            del sys.modules[name]
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        yield copy
    finally:
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        for name in [*_below(copy, sys.modules), *_below(root, sys.modules)]:
            sys.modules.pop(name, None)
        sys.modules.update({name: modules[name] for name in _below(root, modules)})
        sys.path_importer_cache.pop(str(copy), None)
        for file in [file for file in linecache.cache if file.startswith(str(copy))]:
            del linecache.cache[file]
        shutil.rmtree(copy, ignore_errors=True)


def _fill(root: Path, copy: Path, texts: Mapping[Path, bytes]) -> None:
    """Make one directory: files of `texts` in it are written, directories on their way are made alike, the rest is copied or linked."""
    inner = {file.parts[0] for file in texts if len(file.parts) > 1}
    here = {file.name: text for file, text in texts.items() if len(file.parts) == 1}
    for entry in os.scandir(root):
        target = copy / entry.name
        if entry.name in here or entry.name == "__pycache__":
            continue
        if entry.name in inner:
            target.mkdir()
            below = {Path(*file.parts[1:]): text for file, text in texts.items() if file.parts[0] == entry.name and len(file.parts) > 1}
            _fill(root / entry.name, target, below)
        elif entry.name.endswith(".py") and entry.is_file():
            shutil.copyfile(entry.path, target)
        else:
            _link(Path(entry.path).absolute(), target)
    for name, text in here.items():
        (copy / name).write_bytes(text)


def _link(path: Path, target: Path) -> None:
    try:
        target.symlink_to(path, target_is_directory=path.is_dir())
    except OSError:  # where links are a privilege
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)


def _below(root: Path, modules: Mapping[str, ModuleType]) -> Iterable[str]:
    """The names of modules whose files lie below a directory, those of installed packages and of Initio left out."""
    prefix = str(root) + os.sep
    found: list[str] = []
    for name, module in list(modules.items()):
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ()) or ()), None)
        own = isinstance(file, str) and os.path.abspath(file).startswith(prefix)
        if own and name.partition(".")[0] not in KEPT and not any(part in str(file) for part in INSTALLED):
            found.append(name)
    return found
