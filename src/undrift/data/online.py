"""The online store: the latest feature row per view and entity, in one SQLite file that all processes share.

It stands on the hot path, so a read is one indexed look-up on a connection that stays open, with no Arrow and no SQL
toolkit. It knows neither TTL nor point in time: those are FeatureView's, above.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.errors import StateError

__all__ = ["SqliteOnline"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS feature (
    view       TEXT NOT NULL,
    entity     TEXT NOT NULL,
    event_time INTEGER NOT NULL,         -- microseconds since 1970 UTC
    body       BLOB NOT NULL,            -- the values, MessagePack
    PRIMARY KEY (view, entity)
) WITHOUT ROWID
"""
_GET: Final = "SELECT event_time, body FROM feature WHERE view = ? AND entity = ?"
# of two rows of one time the later put wins, as of two equal rows the last one wins offline
_PUT: Final = """
INSERT INTO feature (view, entity, event_time, body) VALUES (?, ?, ?, ?)
ON CONFLICT (view, entity) DO UPDATE SET event_time = excluded.event_time, body = excluded.body
WHERE excluded.event_time >= feature.event_time
"""
_BUSY_SECONDS: Final = 10.0


class SqliteOnline:
    """The latest feature row per view and entity, in a SQLite file (WAL); implements ``state.ports.Online``.

    Safe from several threads and processes at once, also after a fork: each thread of each process has its own
    connection, opened at first use.

    Parameters
    ----------
    path : of the file, made with its folder if it is not there; ``sqlite:`` in front is allowed.

    Raises
    ------
    StateError : the file cannot be opened, read or written, or is no such store; by any method.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(str(path).removeprefix("sqlite:"))
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] = []
        self._owner = os.getpid()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
        with self._told():
            self._connection()

    def get(self, view: str, entities: Sequence[str]) -> list[tuple[int, dict[str, Any]] | None]:
        """For each entity its latest ``(event time in microseconds, values)``, or None."""
        try:
            execute, decode = self._connection().execute, self._decode
            found = [execute(_GET, (view, entity)).fetchone() for entity in entities]
            return [None if row is None else (row[0], decode(row[1])) for row in found]
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise self._error(error) from error

    def put(self, view: str, rows: Sequence[tuple[str, int, Mapping[str, Any]]]) -> None:
        """Upsert ``(entity, event time in microseconds, values)``, all or none; an older row never replaces a newer."""
        encode = self._encode
        values = [(view, entity, event_time, encode(row)) for entity, event_time, row in rows]
        with self._told():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(_PUT, values)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connections of this process; the next call opens a new one."""
        with self._lock:
            for connection in self._open if self._owner == os.getpid() else ():
                connection.close()
            self._open.clear()
            self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        local = self._local
        if getattr(local, "pid", None) == os.getpid():
            found: sqlite3.Connection = local.connection
            return found
        if not self._path.parent.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=16
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # what is lost in a power cut is put again from the lake; a killed process loses nothing
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if self._owner != os.getpid():  # forked: the parent's connections are not ours to use or close
                self._owner, self._open = os.getpid(), []
            self._open.append(connection)
        local.pid, local.connection = os.getpid(), connection
        return connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StateError:
        return StateError(
            f"the online store {self._path} cannot be used: {error}.",
            hint="Check the disk and the rights of the folder; the store can be deleted and is filled again.",
        )
