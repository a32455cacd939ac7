"""The lake: Delta tables in a folder, appended to by many processes, read back by column, date and version.

Also the one place that runs SQL over Arrow tables. Writers' positions are part of the commit that holds their rows, so
a repeated append is recognised. Which tables there are and what their columns mean is said by the rooms above.
"""

from __future__ import annotations

import fcntl
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import deltalake
import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError, TableNotFoundError

from undrift.errors import ConflictError, DataError, NotFoundError, SettingsError, StateError
from undrift.state.columns import fitted, holding, predicate
from undrift.state.days import Days, Files, days_of

__all__ = ["DeltaLake", "sql"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ATTEMPTS: Final = 20
_LOOSE_FILES: Final = 32  # an append costs about 0.1 ms per file of the table, so files are merged now and then
_DAMAGED: Final = "Check free space and permissions of the folder; if files are damaged, restore it from a backup."
_KEEP_LOG: Final = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
_CONFIGURATION: Final = {
    "delta.checkpointInterval": "20",  # an append reads the commits since the last checkpoint
    "delta.enableExpiredLogCleanup": "false",  # a dataset version must still be there in five years
}


class DeltaLake:
    """Delta tables as sub-folders of one folder.

    Safe for many threads and processes; a process that uses it must not go on after ``fork`` (use spawn). A table is
    partitioned by its column ``date`` where it has one of type date32. Every stored column is nullable, timestamps are
    microseconds in UTC, and a column keeps the type it was first stored with.

    Parameters
    ----------
    folder : a path or ``file:`` URL; made when first written to.

    Raises
    ------
    SettingsError : another kind of URL.
    StateError : from every method, when files are damaged or cannot be read or written.
    """

    def __init__(self, folder: str | Path) -> None:
        text = str(folder)
        if "://" in text and not text.startswith("file://"):
            raise SettingsError(f"the lake {text!r} is no folder; this lake keeps tables in folders, as file:PATH.")
        self.folder = Path(text.removeprefix("file://").removeprefix("file:"))
        self._open: dict[str, DeltaTable] = {}
        self._appends: dict[str, int] = {}
        self._days = Days()
        self._locks: dict[str, threading.RLock] = {}

    def append(
        self,
        table: str,
        rows: pa.Table,
        *,
        marks: Mapping[str, int] | None = None,
        since: Mapping[str, int] | None = None,
    ) -> int:
        """Append rows in one commit, making the table or new columns as needed.

        Parameters
        ----------
        rows : any order of columns; those that are missing become null.
        marks : writer -> position reached by these rows. Where all of them are committed already, nothing is appended.
        since : writer -> position (as `marks` gave it) from which these rows were read. With it, rows that somebody
            else has appended meanwhile are never appended twice.

        Returns
        -------
        int
            The version of the table that holds the rows.

        Raises
        ------
        ConflictError : some of the rows were appended by somebody else meanwhile: read the marks and begin again.
        DataError : a column has no type, or another than the table's.
        """
        base = None if since is None else dict(since)
        with self._lock(table), self._guard(table):
            for attempt in range(_ATTEMPTS):
                delta = self._table(table, refresh=bool(marks) or attempt > 0) or self._create(table, rows.schema)
                if marks:
                    reached = {writer: _position(delta, writer) for writer in marks}
                    if all(reached[writer] >= mark for writer, mark in marks.items()):
                        return delta.version()
                    base = reached if base is None else base
                    _check_unmoved(table, marks, reached, base)
                transactions = [deltalake.Transaction(writer, mark) for writer, mark in (marks or {}).items()]
                try:
                    write_deltalake(
                        delta,
                        fitted(rows, pa.schema(delta.schema().to_arrow()), table),
                        mode="append",
                        schema_mode="merge",
                        commit_properties=CommitProperties(app_transactions=transactions, max_commit_retries=100),
                        post_commithook_properties=_KEEP_LOG,
                    )
                except CommitFailedError:
                    if attempt == _ATTEMPTS - 1:
                        raise
                    continue  # a schema changed or a mark moved under us: look again
                version = delta.version()
                self._tidy(table, delta)
                return version
        raise AssertionError("unreachable")

    def marks(self, table: str, writers: Sequence[str]) -> dict[str, int]:
        """The highest committed position of each writer, as of now; -1 where there is none."""
        with self._lock(table), self._guard(table):
            delta = self._table(table, refresh=True)
            return {writer: -1 if delta is None else _position(delta, writer) for writer in writers}

    def scan(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: Sequence[tuple[str, str, Any]] = (),
        version: int | None = None,
    ) -> pa.Table | None:
        """The rows whose columns meet all conditions, in no particular order; None where there is no such table.

        Parameters
        ----------
        columns : which ones, in this order; all if None or empty.
        where : ``(column, op, value)`` with ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in`` or ``not in``; a
            condition on ``date`` keeps other days' files unread. ``== None`` finds nulls.
        version : the table as it was; the newest if None.

        Raises
        ------
        DataError : no such column, or an unknown operator.
        NotFoundError : no such version.
        """
        with self._guard(table):
            with self._lock(table):
                delta = self._table(table, refresh=True)
                if delta is None:
                    return None
                if version is not None and version != delta.version():
                    delta = self._version(table, version, delta.version())
                schema = pa.schema(delta.schema().to_arrow())
                names = list(columns or schema.names)
                unknown = [name for name in (*names, *(column for column, _, _ in where)) if name not in schema.names]
                if unknown:
                    known = ", ".join(schema.names)
                    raise DataError(f"table {table} has no column {unknown[0]!r}; it has {known}.")
                kept = pa.schema([schema.field(name) for name in names])
                dated = [condition for condition in where if condition[0] == "date"]
                files = days_of(delta, dated) if version is None and dated else None
                if files is None:
                    reader = delta.scan(columns=names, predicate=predicate(where))
                    return pa.table(reader).select(names).cast(kept)
                parts = self._by_day(table, delta, schema, names, files, where)
            return holding(pa.concat_tables(parts), where).select(names).cast(kept)

    def _by_day(
        self,
        table: str,
        delta: DeltaTable,
        schema: pa.Schema,
        names: Sequence[str],
        files: Mapping[date, Files],
        where: Sequence[tuple[str, str, Any]],
    ) -> list[pa.Table]:
        """The rows of some days, from memory where their files are those that were read before."""
        columns = list(dict.fromkeys([*names, "date", *(column for column, _, _ in where)]))
        form = pa.schema([schema.field(name) for name in columns])
        found = {day: self._days.get(table, columns, day, of) for day, of in files.items()}
        unread = sorted(day for day, rows in found.items() if rows is None or rows.schema != form)
        if unread:
            read = pa.table(delta.scan(columns=columns, predicate=predicate([("date", "in", unread)])))
            for day, rows in self._days.split(read.select(columns).cast(form), unread).items():
                self._days.put(table, columns, day, files[day], rows)
                found[day] = rows
        return [form.empty_table(), *(rows for rows in found.values() if rows is not None)]

    def tables(self) -> list[str]:
        """The names of the tables that exist, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(path.parent.name for path in self.folder.glob("*/_delta_log"))

    def compact(self, table: str, *, keep: timedelta | None = None) -> None:
        """Merge the small files of each day into one.

        Parameters
        ----------
        keep : remove files that no version of this last span of time needs; older versions cannot be read afterwards.
            None keeps every version.

        Raises
        ------
        NotFoundError : no such table.
        """
        with self._lock(table), self._guard(table):
            delta = self._table(table, refresh=True)
            if delta is None:
                raise NotFoundError(f"there is no table {table!r} in {self.folder}.")
            with self._alone(table, wait=True):
                delta.update_incremental()
                delta.optimize.compact(post_commithook_properties=_KEEP_LOG)
                if keep is not None:
                    hours = int(keep / timedelta(hours=1))
                    delta.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False)

    def _lock(self, table: str) -> threading.RLock:
        """The lock of one table: several may be appended to at once."""
        return self._locks.setdefault(table, threading.RLock())

    def _path(self, table: str) -> str:
        if not _NAME.fullmatch(table):
            raise DataError(f"{table!r} is no table name; letters, digits, '_', '.' and '-' make one.")
        return str(self.folder / table)

    def _table(self, table: str, *, refresh: bool) -> DeltaTable | None:
        """The open table, brought up to date if asked for; None where there is none."""
        path = self._path(table)
        delta = self._open.get(table)
        if delta is None:
            try:
                delta = self._open[table] = DeltaTable(path)
            except TableNotFoundError:
                return None
        elif refresh:
            delta.update_incremental()
        return delta

    def _create(self, table: str, schema: pa.Schema) -> DeltaTable:
        path = self._path(table)
        Path(path).mkdir(parents=True, exist_ok=True)
        empty = fitted(schema.empty_table(), pa.schema([]), table).schema
        times = [field.name for field in empty if pa.types.is_timestamp(field.type)]
        dated = "date" in empty.names and pa.types.is_date32(empty.field("date").type)
        # statistics of every column would make each commit, and so each append, several times larger
        statistics = {"delta.dataSkippingStatsColumns": ",".join(times)} if times else {}
        try:
            DeltaTable.create(
                path,
                empty,
                mode="error",
                partition_by=["date"] if dated else None,
                configuration={**_CONFIGURATION, **statistics},
            )
        except DeltaError:  # another process made it first, or it cannot be made: opening it tells which
            if not DeltaTable.is_deltatable(path):
                raise
        delta = self._open[table] = DeltaTable(path)
        return delta

    def _tidy(self, table: str, delta: DeltaTable) -> None:
        """Merge files when many have gathered; leaving it to a later append is always right."""
        self._appends[table] = self._appends.get(table, 0) + 1
        if self._appends[table] % 16:
            return
        actions = pa.table(delta.get_add_actions(flatten=True))
        days = len(actions["partition.date"].unique()) if "partition.date" in actions.column_names else 1
        if actions.num_rows - days > _LOOSE_FILES:
            # the rows are in already, so whatever keeps files from being merged must not fail the append
            with suppress(DeltaError, OSError), self._alone(table, wait=False) as alone:
                if alone:
                    delta.update_incremental()
                    delta.optimize.compact(post_commithook_properties=_KEEP_LOG)

    @contextmanager
    def _alone(self, table: str, *, wait: bool) -> Iterator[bool]:
        """Whether no other process merges files of this table until the block ends.

        delta-rs 1.6 lets two processes merge the same files at once, and then holds their rows twice.
        """
        with (self.folder / f".{table}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _version(self, table: str, version: int, newest: int) -> DeltaTable:
        if not 0 <= version <= newest:
            raise NotFoundError(f"table {table} has no version {version}; it has 0 to {newest}.")
        return DeltaTable(self._path(table), version=version)

    @contextmanager
    def _guard(self, table: str) -> Iterator[None]:
        """Errors of the libraries below as ours; what they say after the first line is of no use to a person."""
        try:
            yield
        except (DeltaError, DeltaProtocolError, OSError, pa.ArrowException) as error:
            with self._lock(table):
                self._open.pop(table, None)  # a handle that failed is not trusted again
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StateError(f"table {table} in {self.folder} cannot be used: {reason}.", hint=_DAMAGED) from error


def _position(delta: DeltaTable, writer: str) -> int:
    position = delta.transaction_version(writer)
    return -1 if position is None else position


def _check_unmoved(table: str, marks: Mapping[str, int], reached: Mapping[str, int], base: Mapping[str, int]) -> None:
    """Refuse rows of which a part is in the table already: those read before somebody else appended."""
    for writer, position in reached.items():
        if position != base.get(writer, -1) or position >= marks[writer]:
            raise ConflictError(
                f"table {table} holds the rows of {writer} up to {position}; these rows begin after "
                f"{base.get(writer, -1)} and reach {marks[writer]}.",
                hint="Somebody else appended some of them: read the marks again and go on from there.",
            )


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET enable_external_access = false")  # a query sees the tables it was given, nothing else
    return connection


_duckdb_lock: Final = threading.Lock()


def sql(query: str, /, **tables: pa.Table) -> pa.Table:
    """Run a DuckDB query over Arrow tables, in memory; timestamps are in UTC.

    Parameters
    ----------
    query : one SELECT, naming tables as the keywords do. Never built from text that comes from outside.
    tables : what the query may read.

    Raises
    ------
    DataError : the query does not run over these tables.

    Examples
    --------
    >>> sql("SELECT carrier, count(*) AS n FROM flights GROUP BY ALL", flights=pa.table({"carrier": ["UA", "UA"]}))[
    ...     "n"
    ... ].to_pylist()
    [2]
    """
    with _duckdb_lock:
        cursor = _duckdb().cursor()
    try:
        for name, table in tables.items():
            cursor.register(name, table)
        found = cursor.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise DataError(f"the query cannot be run: {error}.") from error
    finally:
        cursor.close()
    utc = pa.timestamp("us", "UTC")
    fields = [pa.field(f.name, utc if _zoned(f.type) else f.type) for f in found.schema]
    return found.cast(pa.schema(fields))


def _zoned(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.tz is not None)
