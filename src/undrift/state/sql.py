"""SQLite behind the Store port: one file, many processes, one writer at a time.

Statements stand in schema/queries.sql and are run by name; numbered migrations bring an older file up to date when it
is opened. What rows mean (the chain, projections, leases) is no business of this file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

from undrift.errors import ConflictError, StateError
from undrift.state.ports import Rows

__all__ = ["SqliteStore"]

_BUSY_SECONDS: Final = 30.0
_HINTS: Final = {
    "SQLITE_FULL": "The disk is full: free some space, then start again; nothing that was committed is lost.",
    "SQLITE_IOERR": "The disk refuses to read or write: check free space and its health, then start again.",
    "SQLITE_READONLY": "The file or its folder is read-only for this user: check owner and permissions.",
    "SQLITE_CANTOPEN": "Check that the folder exists and that this user may write into it.",
    "SQLITE_CORRUPT": "The file is damaged: restore it from a backup, or move it away to start with an empty one.",
    "SQLITE_NOTADB": "This is no SQLite file: check the path, restore a backup, or move it away to start empty.",
    "SQLITE_BUSY": "Another process has held the write lock too long: look for a stuck `undrift` process.",
}


@cache
def _statements() -> dict[str, str]:
    """queries.sql as name -> statement."""
    found: dict[str, str] = {}
    for block in _schema_text("queries.sql").split("-- name: ")[1:]:
        name, _, statement = block.partition("\n")
        found[name.strip()] = statement.strip()
    return found


def _schema_text(name: str) -> str:
    return (resources.files("undrift.state") / "schema" / name).read_text(encoding="utf-8")


@cache
def _migrations() -> tuple[tuple[int, tuple[str, ...]], ...]:
    """The numbered files of schema/ as (number, statements), in order."""
    folder = resources.files("undrift.state") / "schema"
    names = sorted(f.name for f in folder.iterdir() if f.name[:4].isdigit() and f.name.endswith(".sql"))
    return tuple((int(name[:4]), tuple(_split(_schema_text(name)))) for name in names)


def _split(script: str) -> Iterator[str]:
    """The statements of a script; sqlite3's executescript would commit the transaction they belong to."""
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


class _Connections(threading.local):
    """The connection of this thread, and the process it belongs to: a forked child must not touch what it inherited."""

    connection: sqlite3.Connection | None = None
    pid: int = -1
    writing: bool = False


class SqliteTransaction:
    """The open write transaction of one thread; `SqliteStore.write` gives it out."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    def query(self, name: str, values: Mapping[str, Any] | None = None) -> Rows:
        """Run a named statement and return its rows."""
        with _translated(self._path):
            return self._connection.execute(_statements()[name], values or {}).fetchall()

    def execute(self, name: str, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None) -> int:
        """Run a named statement once, or once per mapping; returns the rows changed."""
        with _translated(self._path):
            if values is None or isinstance(values, Mapping):
                return self._connection.execute(_statements()[name], values or {}).rowcount
            return self._connection.executemany(_statements()[name], values).rowcount if values else 0


class SqliteStore:
    """A database file in WAL mode; safe for many threads and processes on one machine (not over a network disk).

    Parameters
    ----------
    url : a path, ``sqlite:PATH``, ``sqlite:///ABSOLUTE``, or ``sqlite://`` for one in memory. The file and its folder
        are made if needed, and an older schema is migrated.
    durability : ``process``: what was committed survives kill -9; a power cut may take the last commits but never
        tears one. ``power``: every commit waits for the disk (milliseconds).

    Raises
    ------
    StateError : here and in every method, when the file cannot be opened, is damaged, read-only, or the disk is full;
        the hint says what to do.
    """

    def __init__(self, url: str | Path, *, durability: Literal["process", "power"] = "process") -> None:
        self.path = _path_of(url)
        self._synchronous = "FULL" if durability == "power" else "NORMAL"
        self._own = _Connections()
        self._all: list[tuple[int, sqlite3.Connection]] = []
        self._memory = self._open() if self.path == ":memory:" else None
        self._lock = threading.RLock()  # threads of this process queue here; processes queue in SQLite
        with _translated(self.path):
            self._migrate()

    def read(self, name: str, values: Mapping[str, Any] | None = None) -> Rows:
        """Run a named query; inside `write` it sees what the transaction has done so far."""
        with _translated(self.path):
            if self._memory is not None:
                with self._lock:
                    return self._memory.execute(_statements()[name], values or {}).fetchall()
            return self._connection().execute(_statements()[name], values or {}).fetchall()

    @contextmanager
    def write(self) -> Iterator[SqliteTransaction]:
        """A transaction that excludes other writers; committed at the end of the block, rolled back if it raises.

        Raises
        ------
        ConflictError : a row with that key is there already, or a transaction is open in this thread.
        """
        with self._lock, _translated(self.path):
            if self._own.writing:
                raise ConflictError(f"a write to {self.path} was begun inside a write.")
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            self._own.writing = True
            try:
                yield SqliteTransaction(connection, self.path)
                connection.execute("COMMIT")
            except BaseException:
                # after a full disk SQLite may have rolled back by itself; a failing ROLLBACK must not hide the cause
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._own.writing = False

    def close(self) -> None:
        """Close the connections of all threads; using the store again opens it again (an in-memory one is gone)."""
        with self._lock:
            connections, self._all = self._all, []
            for pid, connection in connections:
                if pid == os.getpid():
                    connection.close()
            self._own = _Connections()

    def _connection(self) -> sqlite3.Connection:
        if self._memory is not None:
            return self._memory
        own = self._own
        if own.connection is None or own.pid != os.getpid():
            own.connection, own.pid, own.writing = self._open(), os.getpid(), False
        return own.connection

    def _open(self) -> sqlite3.Connection:
        with _translated(self.path):
            if self.path != ":memory:":
                try:
                    Path(self.path).parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    hint = _HINTS["SQLITE_CANTOPEN"]
                    raise StateError(f"the folder of {self.path} cannot be made: {error}.", hint=hint) from error
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            self._all.append((os.getpid(), connection))
            connection.row_factory = _as_dict
            _use_wal(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            return connection

    def _migrate(self) -> None:
        newest = _migrations()[-1][0]
        present = self._connection().execute("PRAGMA user_version").fetchone()["user_version"]
        if present == newest:
            return
        with self.write():
            connection = self._connection()
            present = connection.execute("PRAGMA user_version").fetchone()["user_version"]
            if present > newest:
                raise StateError(
                    f"{self.path} has schema {present}, this undrift knows schemas up to {newest}.",
                    hint="It was written by a newer undrift: install that version or newer.",
                )
            for number, statements in _migrations():
                if number > present:
                    for statement in statements:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {number}")


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """SQLite's errors as ours, with what to do."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ConflictError(f"{path}: {error}.") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        hint = next((text for prefix, text in _HINTS.items() if code.startswith(prefix)), "")
        raise StateError(f"{path} cannot be used: {error}.", hint=hint) from error


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch a new file to WAL; SQLite's own waiting does not cover two processes that do so at once."""
    until = time.monotonic() + _BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()["journal_mode"] == "delete":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def _path_of(url: str | Path) -> str:
    """The path in a URL; three slashes begin an absolute path, as ``sqlite:///var/lib/undrift.db``."""
    text = str(url)
    if not text.startswith("sqlite:"):
        return text
    bare = text.removeprefix("sqlite:").removeprefix("//")
    return bare or ":memory:"
