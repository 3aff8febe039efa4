"""`[tool.initio]` of a pyproject.toml: what is selected, ignored and gated, and the targets with their inputs."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from initio.core.errors import InitioError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

__all__ = ["Settings", "TargetSettings", "find", "load"]

FAIL_ON = ("error", "warning", "note", "never")
KEYS = ("select", "ignore", "per-module-ignores", "fail-on", "baseline", "targets")
TARGET_KEYS = ("inputs", "loss", "args", "eval")


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """A target that `initio check` takes when none is named: `inputs` as on the command line, or by argument name."""

    target: str
    inputs: Any = None
    loss: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    eval: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What a configuration says; `per_module` maps patterns of module paths (`backbone.*`) to prefixes of codes."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_module: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    fail_on: str = "warning"
    baseline: Path | None = None
    targets: tuple[TargetSettings, ...] = ()
    file: Path | None = None


def find(start: Path) -> Path | None:
    """The nearest pyproject.toml at or above a directory that has a `[tool.initio]` table."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.is_file() and "tool.initio" in file.read_text(encoding="utf-8", errors="replace"):
            return file
    return None


def load(file: Path | None) -> Settings:
    """Read the table; a file without one gives the defaults.

    Raises:
        InitioError: unreadable or malformed TOML, an unknown key, a value of the wrong kind.
    """
    if file is None:
        return Settings()
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InitioError("a readable configuration", f"{file}: {error.strerror}", where="--config", remedy="Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InitioError("a TOML file", f"{error}", where=str(file), remedy="Mend the file.") from error
    table = _mapping(data.get("tool", {}), file, "tool").get("initio", {})
    table = _mapping(table, file, "tool.initio")
    _known(table, KEYS, file, "tool.initio")
    fail_on = table.get("fail-on", "warning")
    if fail_on not in FAIL_ON:
        raise _wrong(file, "tool.initio.fail-on", f"one of {', '.join(FAIL_ON)}", fail_on)
    baseline = table.get("baseline")
    if baseline is not None and not isinstance(baseline, str):
        raise _wrong(file, "tool.initio.baseline", "a path", baseline)
    patterns = _mapping(table.get("per-module-ignores", {}), file, "tool.initio.per-module-ignores")
    targets = _mapping(table.get("targets", {}), file, "tool.initio.targets")
    return Settings(
        _codes(table.get("select", []), file, "tool.initio.select"),
        _codes(table.get("ignore", []), file, "tool.initio.ignore"),
        {pattern: _codes(codes, file, f"tool.initio.per-module-ignores.{pattern}") for pattern, codes in patterns.items()},
        fail_on,
        None if baseline is None else file.parent / baseline,
        tuple(_target(name, value, file) for name, value in targets.items()),
        file,
    )


def validate(settings: Settings, check: Callable[[tuple[str, ...]], None]) -> None:
    """Raise, with the file's name, where `check` refuses a code that the configuration names."""
    codes = (*settings.select, *settings.ignore, *(code for codes in settings.per_module.values() for code in codes))
    try:
        check(codes)
    except InitioError as error:
        raise InitioError(error.expected, error.came, where=str(settings.file), remedy=error.remedy) from error


def _target(name: str, value: Any, file: Path) -> TargetSettings:
    where = f"tool.initio.targets.{name!r}"
    table = {"inputs": value} if isinstance(value, (str, list)) else _mapping(value, file, where)
    _known(table, TARGET_KEYS, file, where)
    loss, evaluate = table.get("loss"), table.get("eval", False)
    if loss is not None and not isinstance(loss, str):
        raise _wrong(file, f"{where}.loss", "a name", loss)
    if not isinstance(evaluate, bool):
        raise _wrong(file, f"{where}.eval", "true or false", evaluate)
    return TargetSettings(name, table.get("inputs"), loss, _mapping(table.get("args", {}), file, f"{where}.args"), evaluate)


def _mapping(value: Any, file: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(file, where, "a table", value)
    return cast("dict[str, Any]", value)


def _codes(value: Any, file: Path, where: str) -> tuple[str, ...]:
    items = cast("list[Any]", [value] if isinstance(value, str) else value)
    if not isinstance(value, (list, str)) or not all(isinstance(item, str) for item in items):
        raise _wrong(file, where, "a list of codes", value)
    return tuple(str(item).strip().upper() for item in items)


def _known(table: Mapping[str, Any], keys: tuple[str, ...], file: Path, where: str) -> None:
    for key in table:
        if key not in keys:
            raise InitioError(f"keys of [{where}]", f"{key!r} came", where=str(file), remedy=f"It knows {', '.join(keys)}.")


def _wrong(file: Path, where: str, expected: str, value: Any) -> InitioError:
    return InitioError(f"{expected} for {where}", f"{value!r} came", where=str(file), remedy="Mend the configuration.")
