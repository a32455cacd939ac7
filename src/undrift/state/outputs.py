"""The output of a long job, committed part by part: a folder of Parquet files, one file, or a Delta table.

A part is in the output wholly or not at all, and once, whatever is killed when. The job that is writing is on record
beside its parts, so that another one (a changed input, another revision) is refused instead of mixed in. What the rows
are, the caller knows.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol

import msgspec
import pyarrow as pa

from undrift.errors import ConflictError, DataError, StateError
from undrift.ids import content_hash
from undrift.state.lake import DeltaLake
from undrift.state.tables import CSV, PARQUET, is_delta

__all__ = ["DELTA", "Job", "Output", "flat", "open_output"]

DELTA: Final = "delta:"
"""Before a path: write a Delta table there."""

_JOB: Final = "_undrift_job.json"
_LOCK: Final = "_undrift_job.lock"
_PARTS: Final = ".parts"
_ASIDE: Final = "quarantine"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is being written: ``told`` is everything that has to be equal for going on; ``counts`` once it is done."""

    told: dict[str, Any]
    done: bool = False
    counts: dict[str, int] = {}

    @property
    def id(self) -> str:
        """A name that equal jobs share."""
        return f"undrift-{content_hash(self.told)[:16]}"


class Output(Protocol):
    """Where parts go. Used as a context: inside it no other process writes there."""

    def begin(self, told: dict[str, Any], *, restart: bool = False) -> Job:
        """Take up the job, or begin it; the answer is ``done`` if nothing is left to do.

        Raises
        ------
        ConflictError : another job is unfinished here or wrote what is here; says what differs.
        """
        ...

    def missing(self, part: int) -> bool:
        """Whether a part is not in the output yet."""
        ...

    def commit(self, part: int, rows: pa.Table, aside: pa.Table) -> None:
        """Put a part in, with the rows that were put aside; parts come in rising order."""
        ...

    def finish(self, rows: int) -> dict[str, int]:
        """Mark the job as done, in its final form; ``rows_in`` (as given), ``rows`` and ``quarantined`` of all runs."""
        ...


def open_output(place: str) -> FolderOutput | FileOutput | DeltaOutput:
    """The output of a name: ``delta:PATH`` or a Delta table that is there, a file (.parquet, .csv), else a folder.

    Raises
    ------
    DataError : the folder it is to stand in does not exist.
    """
    path = Path(place.removeprefix(DELTA)).absolute()
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} does not exist.")
    if place.startswith(DELTA) or is_delta(path):
        return DeltaOutput(path)
    if path.suffix.lower() in (*PARQUET, *CSV):
        return FileOutput(path)
    if path.suffix and not path.is_dir():
        known = ", ".join((*CSV, *PARQUET))
        raise DataError(f"{path}: {path.suffix} is not known; use {known}, a folder, or {DELTA}PATH.")
    if path.is_file():
        raise DataError(f"{path} is a file, where a folder was expected.")
    return FolderOutput(path)


class _Alone:
    """One writer at a time, by a lock that ends with its process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Any:
        self.folder.mkdir(exist_ok=True)
        lock = (self.folder / _LOCK).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConflictError(f"another process writes to {self.folder} at this moment.") from None
        self._lock = lock
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def job(self) -> Job | None:
        """The job on record."""
        file = self.folder / _JOB
        try:
            return msgspec.json.decode(file.read_bytes(), type=Job) if file.exists() else None
        except (OSError, msgspec.MsgspecError) as error:
            raise StateError(f"{file} cannot be read: {error}.") from error

    def record(self, job: Job) -> None:
        """Put a job on record."""
        _write(self.folder / _JOB, lambda target: target.write(msgspec.json.format(msgspec.json.encode(job), indent=1)))


class FolderOutput(_Alone):
    """Parts as ``part-000000.parquet`` in a folder; rows put aside under the same names in ``<folder>.quarantine``.

    A part is committed when its file has its name: written beside it, synced, renamed. The rows put aside come first.
    """

    def __init__(self, folder: Path, aside: Path | None = None) -> None:
        super().__init__(folder)
        self.path = folder
        self.quarantine = aside or folder.with_name(f"{folder.name}.{_ASIDE}")
        self._there: set[str] = set()

    def begin(self, told: dict[str, Any], *, restart: bool = False) -> Job:
        """See Output."""
        known = self.job
        if restart or known is None:
            strangers = [f.name for f in self.folder.iterdir() if f.name not in (_JOB, _LOCK)]
            if strangers and known is None:
                raise ConflictError(
                    f"{self.folder} holds {strangers[0]!r}, which no job of undrift wrote.",
                    hint="Name a folder that is empty or does not exist.",
                )
            self._clear()
            known = Job(told=told)
            self.record(known)
        _check(known, told, self.folder)
        self._there = {f.name for f in self.folder.iterdir()}
        return known

    def _clear(self) -> None:
        for folder in (self.folder, self.quarantine):
            for file in folder.glob("*.parquet*") if folder.is_dir() else ():
                file.unlink()
        (self.folder / _JOB).unlink(missing_ok=True)
        with suppress(OSError):  # it holds something else, or is not there
            self.quarantine.rmdir()

    def missing(self, part: int) -> bool:
        """See Output."""
        return _name(part) not in self._there

    def commit(self, part: int, rows: pa.Table, aside: pa.Table) -> None:
        """See Output."""
        name = _name(part)
        if aside.num_rows:
            self.quarantine.mkdir(exist_ok=True)
            _write_parquet(self.quarantine / name, aside)
        else:  # what a run that was killed had put aside before the rows of another declaration of the same part
            (self.quarantine / name).unlink(missing_ok=True)
        _write_parquet(self.folder / name, rows)
        self._there.add(name)

    def finish(self, rows: int) -> dict[str, int]:
        """See Output."""
        counts = {"rows_in": rows, "rows": _count(self.folder), "quarantined": _count(self.quarantine)}
        job = self.job
        if job is not None:
            self.record(msgspec.structs.replace(job, done=True, counts=counts))
        return counts


class FileOutput(FolderOutput):
    """One file, made of the parts in ``<file>.parts`` when all are there; beside it ``<name>.quarantine<suffix>``."""

    def __init__(self, file: Path) -> None:
        parts = file.with_name(f"{file.name}{_PARTS}")
        super().__init__(parts, parts / _ASIDE)
        self.path = file
        self._over = file.with_name(f"{file.name}{_PARTS}.over")
        self._aside = file.with_name(f"{file.stem}.{_ASIDE}{file.suffix}")

    def begin(self, told: dict[str, Any], *, restart: bool = False) -> Job:
        """See Output."""
        shutil.rmtree(self._over, ignore_errors=True)  # of a job that was killed when it was done
        return super().begin(told, restart=restart)

    def finish(self, rows: int) -> dict[str, int]:
        """See Output."""
        kept, aside = _joined(self.folder, self.path), _joined(self.quarantine, self._aside)
        counts = {"rows_in": rows, "rows": kept, "quarantined": aside}
        if not counts["quarantined"]:
            self._aside.unlink(missing_ok=True)  # of an earlier job
        self.quarantine = self._aside
        self.folder.rename(self._over)  # at once: half of the parts would be taken for a job of somebody else
        shutil.rmtree(self._over, ignore_errors=True)
        return counts


class DeltaOutput(_Alone):
    """A Delta table to which each part is one commit, and another, ``<table>_quarantine``, for rows put aside.

    The commit carries the job's id and the number of the part (an application transaction of Delta), so a part that is
    in is known to be in. Another job appends to the same table once this one is done.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path, self.quarantine = path, path.with_name(f"{path.name}_{_ASIDE}")
        self._lake = DeltaLake(path.parent)
        self._id = ""
        self._reached = -1

    def begin(self, told: dict[str, Any], *, restart: bool = False) -> Job:
        """See Output."""
        known, new = self.job, Job(told=told)
        if known is None or (known.done and known.id != new.id):
            self.record(new)
            known = new
        elif restart:
            raise ConflictError(
                f"{self.path} is a Delta table: parts that are committed stay.",
                hint="Finish the job, or restore the table to the version before it and remove its _undrift_job.json.",
            )
        _check(known, told, self.path)
        self._id = known.id
        self._reached = self._lake.marks(self.path.name, [self._id])[self._id] if is_delta(self.path) else -1
        return known

    def missing(self, part: int) -> bool:
        """See Output."""
        return part > self._reached

    def commit(self, part: int, rows: pa.Table, aside: pa.Table) -> None:
        """See Output."""
        marks, since = {self._id: part}, {self._id: self._reached}
        if aside.num_rows:
            other = self.quarantine.name
            before = self._lake.marks(other, [self._id])[self._id]
            if before < part:
                named = aside.append_column("job", pa.repeat(self._id, aside.num_rows))
                self._lake.append(other, named, marks=marks, since={self._id: before})
        self._lake.append(self.path.name, rows, marks=marks, since=since)
        self._reached = part

    def finish(self, rows: int) -> dict[str, int]:
        """See Output."""
        found = self._lake.scan(self.quarantine.name, columns=["job"], where=[("job", "=", self._id)])
        aside = 0 if found is None else found.num_rows
        counts = {"rows_in": rows, "rows": rows - aside, "quarantined": aside}
        job = self.job
        if job is not None:
            self.record(msgspec.structs.replace(job, done=True, counts=counts))
        return counts


def _check(known: Job, told: dict[str, Any], place: Path) -> None:
    if known.id == Job(told=told).id:
        return
    changed = [name for name in {**known.told, **told} if known.told.get(name) != told.get(name)]
    lines = "; ".join(f"{name} was {_short(known.told.get(name))}, now {_short(told.get(name))}" for name in changed)
    state = "holds the finished output" if known.done else "is half-way through"
    raise ConflictError(
        f"{place} {state} of another job: {lines}.",
        hint="Go on with what it was begun with, name another output, or begin anew with --restart.",
    )


def _short(value: Any) -> str:
    if isinstance(value, dict) and "files" in value:
        first = value["files"][0]
        return f"{value['path']} ({len(value['files'])} file(s), {first['size']} bytes, {first['edges'][:8]})"
    return str(value)


def _name(part: int) -> str:
    return f"part-{part:06d}.parquet"


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    scratch = path.with_name(path.name + ".new")
    try:
        with scratch.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error}.", hint="Check free space and permissions.") from error


def _write_parquet(path: Path, rows: pa.Table) -> None:
    import pyarrow.parquet as pq

    _write(path, lambda file: pq.write_table(rows, file))


def _count(folder: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in sorted(folder.glob("part-*.parquet")))


def _joined(folder: Path, target: Path) -> int:
    """Write the parts of a folder into one file, part by part; how many rows it has. Without parts, none is written."""
    import pyarrow.parquet as pq
    from pyarrow import csv

    files = sorted(folder.glob("part-*.parquet")) if folder.is_dir() else []
    if not files:
        return 0
    count = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal count
        for file in files:
            table = pq.read_table(file)
            count += table.num_rows
            yield flat(table) if target.suffix.lower() in CSV else table

    def write(file: IO[bytes]) -> None:
        writer: Any = None
        for table in tables():
            if writer is None:
                kind = csv.CSVWriter if target.suffix.lower() in CSV else pq.ParquetWriter
                writer = kind(file, table.schema)
            writer.write_table(table)
        writer.close()

    _write(target, write)
    return count


def flat(table: pa.Table) -> pa.Table:
    """CSV has no lists or structs: they become JSON text."""
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            text = [None if v is None else msgspec.json.encode(v).decode() for v in table[field.name].to_pylist()]
            table = table.set_column(place, field.name, pa.array(text, pa.string()))
    return table
