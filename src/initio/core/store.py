"""The cells of a sweep in one SQLite file: each is there once it is finished, whatever happens to the process afterwards."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initio.core.errors import InitioError
from initio.core.grid import Grid

__all__ = ["SCHEMA", "Cell", "Store"]

SCHEMA = 1
APPLICATION = 0x494E5357
"""SQLite's `application_id` of a store of sweeps ("INSW")."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a grid: its parameters, and its quantities or the reason why it has none."""

    index: int
    parameters: Mapping[str, Any]
    quantities: Mapping[str, Any]
    failed: str = ""
    seconds: float = 0.0


class Store:
    """An open store. One process at a time writes; any number may read."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, guard: sqlite3.Connection | None = None) -> None:
        self._connection, self.path, self._guard = connection, path, guard
        self.about: dict[str, Any] = json.loads(self._get("about"))
        self.grid = Grid.of(self.about["grid"])

    @classmethod
    def create(cls, path: Path | None, about: Mapping[str, Any]) -> Store:
        """Open the store at `path` to go on with it, or begin one there; None keeps it in memory.

        Raises:
            InitioError: a file that is no store, one of another version, one of another sweep, or one that another process writes.
        """
        guard = None if path is None else _guarded(path)
        try:
            connection = _connected(path)
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                _begin(connection, about)
            else:
                _verified(connection, path)
            store = cls(connection, path, guard)
            store._same(about)
            return store
        except BaseException:
            if guard is not None:
                guard.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a store that exists, to read it."""
        if not path.is_file():
            raise InitioError(
                "a store of a sweep", f"{str(path)!r} does not exist", where="store", remedy="Name the file that --store named."
            )
        connection = _connected(path)
        _verified(connection, path)
        return cls(connection, path)

    def _get(self, key: str) -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "{}" if row is None else str(row[0])

    def _same(self, about: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(about))
        differing = [key for key in wanted if self.about.get(key) != wanted[key]]
        if differing:
            key = differing[0]
            names = {"source": "a factory with other source code", "version": "Initio of another version", "grid": "another grid"}
            what = names.get(key, f"another {key}")
            came = f"it holds a sweep of {what}" + (
                f" ({_short(self.about.get(key))}, now {_short(wanted[key])})" if key != "source" else ""
            )
            remedy = "Name another --store, delete that one, or repeat the command that began it."
            raise InitioError("a store of the same sweep", came, where=str(self.path), remedy=remedy)

    def done(self) -> set[int]:
        """Indices of the cells that are finished, failed ones included."""
        return {row[0] for row in self._connection.execute("SELECT id FROM cells")}

    def keep(self, cell: Cell) -> None:
        """Write one cell, in a transaction of its own; one that is there already stays as it is."""
        row = (cell.index, json.dumps(dict(cell.parameters)), json.dumps(dict(cell.quantities)), cell.failed, cell.seconds)
        with self._connection:
            self._connection.execute("INSERT OR IGNORE INTO cells VALUES (?, ?, ?, ?, ?)", row)

    def forget_failed(self) -> int:
        """Remove the failed cells, so that they are tried again; how many there were."""
        with self._connection:
            return self._connection.execute("DELETE FROM cells WHERE failed != ''").rowcount

    def cells(self) -> Iterator[Cell]:
        """All finished cells, in the order of the grid."""
        for index, parameters, quantities, failed, seconds in self._connection.execute("SELECT * FROM cells ORDER BY id"):
            yield Cell(index, json.loads(parameters), json.loads(quantities), failed, seconds)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        if self._guard is not None:
            self._guard.close()


def _connected(path: Path | None) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(":memory:" if path is None else path, timeout=30.0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection
    except sqlite3.DatabaseError as error:
        remedy = "Name a file in a directory that exists and that you may write to, or one that `initio sweep` has written."
        raise InitioError("a store of a sweep", f"{str(path)!r} is none: {error}", where="--store", remedy=remedy) from error


def _begin(connection: sqlite3.Connection, about: Mapping[str, Any]) -> None:
    """Everything in one transaction: a process that is killed here leaves an empty file, which counts as new."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    columns = "id INTEGER PRIMARY KEY, parameters TEXT NOT NULL, quantities TEXT NOT NULL, failed TEXT NOT NULL, seconds REAL NOT NULL"
    connection.execute(f"CREATE TABLE cells ({columns})")
    connection.execute("INSERT INTO meta VALUES ('about', ?)", (json.dumps(about),))
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.commit()


def _verified(connection: sqlite3.Connection, path: Path | None) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        came = f"{str(path)!r} is another program's database"
        raise InitioError("a store of a sweep", came, where="--store", remedy="Name another --store.")
    if version != SCHEMA:
        came = f"{str(path)!r} has version {version}"
        remedy = "Read it with the Initio that wrote it, or name another --store."
        raise InitioError(f"a store of version {SCHEMA}", came, where="--store", remedy=remedy)


def _guarded(path: Path) -> sqlite3.Connection:
    """A lock beside the store that ends with the process, however that ends."""
    if not path.parent.is_dir() or path.is_dir():
        why = "is a directory" if path.is_dir() else "is in no directory that exists"
        raise InitioError("a file to keep the cells in", f"{str(path)!r} {why}", where="--store", remedy="Name another --store.")
    try:
        guard = sqlite3.connect(path.with_name(path.name + "-lock"), timeout=0.0, isolation_level=None)
        guard.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        why = "another process is at work on it" if "locked" in str(error) else str(error)
        raise InitioError(
            "a store to write to", f"{str(path)!r} is none: {why}", where="--store", remedy="Name another --store."
        ) from error
    return guard


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else text[:77] + "…"
