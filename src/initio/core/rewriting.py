"""What `initio fix` has found out: the changed files, the findings that are mended, and those that are not, with the reason."""

from __future__ import annotations

import difflib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from initio.core.errors import InitioError
from initio.core.finding import Finding
from initio.core.report import Report

__all__ = ["Fixing", "Refused"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A finding whose fix was not applied: the source does not show where, or the proof failed."""

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True)
class Fixing:
    """Proven changes that are not written yet: path → (contents before, contents after).

    `done` are the findings that they mend, in order; `held` those whose fix is unsafe and was not admitted; `by_hand` those whose fix
    no edit makes; `report` is that of the fixed model.
    """

    target: str
    files: Mapping[Path, tuple[bytes, bytes]]
    done: tuple[Finding, ...]
    refused: tuple[Refused, ...]
    held: tuple[Finding, ...]
    by_hand: tuple[Finding, ...]
    report: Report = field(repr=False)

    def diff(self) -> str:
        """The changes as a unified diff, paths relative to the working directory where they lie below it."""
        parts: list[str] = []
        for path, (before, after) in sorted(self.files.items()):
            name = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
            old, new = (text.decode("utf-8", "surrogateescape").splitlines(keepends=True) for text in (before, after))
            lines = difflib.unified_diff(old, new, name, name)
            parts += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
        return "".join(parts)

    def write(self, *, force: bool = False) -> None:
        """Replace the files, each whole or not at all; if one cannot be replaced, those before it get their contents back.

        Raises:
            InitioError: a file has changes that git has not seen (unless `force`), changed meanwhile, or cannot be written.
        """
        for path, (before, _) in self.files.items():
            if not force:
                _clean(path)
            if path.read_bytes() != before:
                raise InitioError("a file that stays as it was read", f"{path} has changed meanwhile", where="fix", remedy="Run it again.")
        ready: list[tuple[Path, Path]] = []
        replaced: list[Path] = []
        try:
            for path, (_, after) in self.files.items():
                ready.append((_beside(path, after), path))
            for new, path in ready:
                os.replace(new, path)
                replaced.append(path)
        except OSError as error:
            for path in replaced:
                os.replace(_beside(path, self.files[path][0]), path)
            came = f"{error.filename or self.target} cannot be: {error.strerror or error}"
            raise InitioError(
                "files that can be written", came, where="fix", remedy="Nothing was changed; check the permissions."
            ) from error
        finally:
            for new, _ in ready:
                with suppress(FileNotFoundError):
                    new.unlink()


def _beside(path: Path, text: bytes) -> Path:
    """A temporary file next to another, with its mode."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as sink:
            sink.write(text)
        os.chmod(name, path.stat().st_mode & 0o7777)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _clean(path: Path) -> None:
    """Raise where git holds no copy of a file as it is: modified, staged or untracked in a repository."""
    try:
        command = ["git", "status", "--porcelain", "--", path.name]
        told = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return
    if told.returncode == 0 and told.stdout.strip():
        came = f"{path} has changes that are not committed"
        raise InitioError("a committed file", came, where="fix", remedy="Commit or stash them, or give --force; --diff shows the fixes.")
