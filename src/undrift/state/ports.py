"""The ports of state: what a backend must do, as Protocols of at most four methods.

A port moves rows and bytes. What they mean (the hash chain, leases, point in time, exactly once) stands once, above:
in journal.py, jobs.py and the rooms. testing.py holds the conformance suite of each port.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Artifacts", "Lake", "Online", "Rows", "Store", "Transaction"]

Rows = list[dict[str, Any]]


class Transaction(Protocol):
    """One serialised read-write transaction: all of it happens, or nothing."""

    def query(self, name: str, values: Mapping[str, Any] | None = None) -> Rows:
        """Run the named statement of schema/queries.sql and return its rows."""
        ...

    def execute(self, name: str, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None) -> int:
        """Run the named statement once, or once per mapping; returns the rows changed."""
        ...


class Store(Protocol):
    """A SQL database holding events, projections and jobs."""

    def read(self, name: str, values: Mapping[str, Any] | None = None) -> Rows:
        """Run a named query outside any transaction."""
        ...

    def write(self) -> AbstractContextManager[Transaction]:
        """A transaction that excludes other writers; rolled back if the block raises."""
        ...

    def close(self) -> None:
        """Let go of what is held open; using the store again opens it again."""
        ...


class Lake(Protocol):
    """Tables of columns with atomic appends and versions."""

    def append(
        self,
        table: str,
        rows: pa.Table,
        *,
        marks: Mapping[str, int] | None = None,
        since: Mapping[str, int] | None = None,
    ) -> int:
        """Append rows, creating the table (or new columns) as needed; returns the table's new version.

        ``marks`` are writers' positions (writer -> sequence number) that become part of the same commit: rows whose
        marks are all committed are not appended again. ``since`` are the positions the rows were read from; where the
        table has moved on from them, ConflictError.
        """
        ...

    def marks(self, table: str, writers: Sequence[str]) -> dict[str, int]:
        """The highest committed sequence number of each writer (-1 where there is none)."""
        ...

    def scan(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: Sequence[tuple[str, str, Any]] = (),
        version: int | None = None,
    ) -> pa.Table | None:
        """The rows whose columns meet all ``(column, op, value)``, or None where the table does not exist."""
        ...

    def tables(self) -> list[str]:
        """The names of the tables that exist, sorted."""
        ...


class Artifacts(Protocol):
    """Content-addressed directories: stored once, immutable, named by their hash."""

    def put(self, folder: Path) -> str:
        """Store a directory's content; returns its hash (64 hex digits)."""
        ...

    def get(self, digest: str) -> Path:
        """A local, read-only directory with that content, its hash checked.

        Raises CorruptModelError if it is not what was stored, NotFoundError if it never was.
        """
        ...


class Online(Protocol):
    """The latest feature row per view and entity."""

    def put(self, view: str, rows: Sequence[tuple[str, int, Mapping[str, Any]]]) -> None:
        """Upsert ``(entity, event time in microseconds, values)``; an older row never replaces a newer one."""
        ...

    def get(self, view: str, entities: Sequence[str]) -> list[tuple[int, dict[str, Any]] | None]:
        """For each entity its latest ``(event time in microseconds, values)``, or None."""
        ...
