"""The C kernel as a shared library: compiled on first use by the system's compiler, cached by the hash of what it was made from."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fPIC", "-shared")
ATTEMPTS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())
SWITCH = "INITIO_KERNEL"


class KernelUnavailableError(RuntimeError):
    """Says why there is no compiled kernel here, and what would give one."""


def compiler() -> str:
    """The compiler named by the environment variable CC, else the first of cc, gcc and clang on the PATH."""
    named = os.environ.get("CC")
    for name in (named.split()[0],) if named else ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return found
    raise KernelUnavailableError(f"no C compiler: {named or 'cc, gcc or clang'} is not on the PATH; install one, or name one in CC")


def cache() -> Path:
    """Where the libraries are kept: `initio/` in XDG_CACHE_HOME, else in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "initio"


def _machine() -> str:
    """What -march=native depends on: a cache in a shared home may serve several machines."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() + platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(wanted)})) + platform.machine()


def _build(target: Path, cc: str, define: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        for extra in ATTEMPTS:
            command = [cc, *FLAGS, *extra, f"-D{define}", str(SOURCES / "split_transform_merge.c"), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                made.replace(target)  # atomic: two processes may build at once
                return
            errors.append(done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"exit code {done.returncode}")
    raise KernelUnavailableError(f"{cc} could not compile the kernel: {errors[-1]}")


@functools.cache
def library(double: bool) -> ctypes.CDLL:
    """The kernel for float64 or float32.

    Raises:
        KernelUnavailableError: no compiler, a failed build, a cache that cannot be written, or INITIO_KERNEL=0 in the environment.
    """
    if os.environ.get(SWITCH, "1") == "0":
        raise KernelUnavailableError(f"{SWITCH}=0 in the environment turns it off")
    cc = compiler()
    define = "STM_DOUBLE" if double else "STM_SINGLE"
    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]")))
    made_from = "\n".join((cc, str(Path(cc).resolve().stat().st_mtime_ns), define, *FLAGS, _machine()))
    target = cache() / f"split_transform_merge-{hashlib.sha256(sources + made_from.encode()).hexdigest()[:20]}.so"
    try:
        if not target.exists():
            _build(target, cc, define)
        loaded = ctypes.CDLL(str(target))
    except OSError as error:
        raise KernelUnavailableError(f"the kernel could not be kept or loaded ({error}); XDG_CACHE_HOME may name another folder") from error
    loaded.stm_multiply_adds.restype = ctypes.c_double
    loaded.stm_multiply_adds.argtypes = [ctypes.c_long, ctypes.c_long]
    return loaded


@functools.cache
def available(double: bool) -> bool:
    """Whether the kernel can be used; if not, a warning says so once, with the reason."""
    try:
        library(double)
    except KernelUnavailableError as error:
        if os.environ.get(SWITCH, "1") != "0":
            text = f"SplitTransformMerge runs in plain torch, with the same results but slower: {error}."
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return False
    return True
