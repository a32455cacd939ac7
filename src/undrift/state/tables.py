"""Tables of a user that may be larger than memory: Parquet, CSV and Delta, read part by part.

A part is a stated number of neighbouring rows, whatever the file is made of, so a reader that begins again at a part
sees the rows it would have seen before. CSV comes as text: what the text means, data/typed.py knows. Nothing here
writes, and the lake's own tables are not read from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from undrift.errors import DataError
from undrift.plugins import resolve_path

__all__ = ["CSV", "PARQUET", "TableFile", "is_delta", "open_table"]

PARQUET: Final = (".parquet", ".pq")
CSV: Final = (".csv",)
_EDGE: Final = 1 << 20
_AT_ONCE: Final = 8192


class TableFile(NamedTuple):
    """A table that is read part by part.

    ``identity``: what changes when the content does: path, size and time or version, and a hash of its edges. ``rows``:
    how many, None where only reading tells. ``text``: whether every column is text, as in CSV.
    """

    identity: dict[str, Any]
    schema: pa.Schema
    rows: int | None
    text: bool
    batches: Callable[[int], Iterator[pa.RecordBatch]]
    """Record batches of any size, from a row on."""

    def parts(self, rows: int, *, first: int = 0) -> Iterator[pa.Table]:
        """Tables of ``rows`` rows, the last one shorter, beginning with part number ``first``.

        Raises
        ------
        DataError : the table cannot be read on.
        """
        held: list[pa.RecordBatch] = []
        count = 0
        try:
            for batch in self.batches(first * rows):
                held.append(batch)
                count += batch.num_rows
                while count >= rows:
                    whole = pa.Table.from_batches(held, self.schema)
                    yield whole.slice(0, rows).combine_chunks()
                    count -= rows
                    # a copy: a slice would keep the memory of what was given out
                    rest = whole.slice(rows).combine_chunks() if count else None
                    held = [] if rest is None else rest.to_batches()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.identity['path']} cannot be read on: {_first_line(error)}.") from error
        if count:
            yield pa.Table.from_batches(held, self.schema).combine_chunks()


def is_delta(path: Path) -> bool:
    """Whether a folder is a Delta table."""
    return (path / "_delta_log").is_dir()


def open_table(path: Path) -> TableFile:
    """A Parquet file or a folder of such, a CSV file, or a Delta table (at its newest version, which is kept to).

    Raises
    ------
    DataError : there is none, it is of no known kind, cannot be read, or has no columns.
    """
    path = path.absolute()
    try:
        if path.is_dir():
            found = _delta(path) if is_delta(path) else _parquet(path, _files(path))
        elif not path.is_file():
            raise DataError(f"the data file {path} does not exist.")
        elif path.suffix.lower() in PARQUET:
            found = _parquet(path, [path])
        elif path.suffix.lower() in CSV:
            found = _csv(path)
        else:
            known = ", ".join((*CSV, *PARQUET))
            raise DataError(f"{path}: {path.suffix or 'no suffix'} is not known; use {known}, or a Delta table.")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}.") from error
    twice = sorted({name for name in found.schema.names if found.schema.names.count(name) > 1})
    if twice or not found.schema.names:
        raise DataError(f"{path} has more than one column {twice[0]!r}." if twice else f"{path} has no columns.")
    return found


def _files(folder: Path) -> list[Path]:
    """The Parquet files of a folder in the order of their names; hidden ones and those of a job are left out."""
    found = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in PARQUET and f.name[0] not in "._"]
    if not found:
        raise DataError(f"{folder} holds no Parquet file and is no Delta table.")
    return found


def _edges(path: Path) -> str:
    """A hash of the first and the last MiB: where Parquet keeps its footer, and where text is begun and ended."""
    seen = hashlib.sha256()
    with path.open("rb") as file:
        seen.update(file.read(_EDGE))
        file.seek(max(0, path.stat().st_size - _EDGE))
        seen.update(file.read(_EDGE))
    return seen.hexdigest()


def _identity(path: Path, kind: str, files: Iterable[Path]) -> dict[str, Any]:
    listed = [
        {"name": f.name, "size": f.stat().st_size, "modified_ns": f.stat().st_mtime_ns, "edges": _edges(f)}
        for f in files
    ]
    return {"kind": kind, "path": str(path), "files": listed}


def _parquet(path: Path, files: list[Path]) -> TableFile:
    import pyarrow.parquet as pq

    opened = [pq.ParquetFile(file) for file in files]
    schema = opened[0].schema_arrow.remove_metadata()
    for file, each in zip(files, opened, strict=True):
        if not each.schema_arrow.remove_metadata().equals(schema):
            raise DataError(f"{file} has other columns than {files[0].name} beside it.")
    counts = [each.metadata.num_rows for each in opened]
    for each in opened:
        each.close()

    def batches(skip: int) -> Iterator[pa.RecordBatch]:
        for file, count in zip(files, counts, strict=True):
            if skip >= count:
                skip -= count
                continue
            with pq.ParquetFile(file, pre_buffer=False) as opened:
                groups: list[int] = []
                start = 0
                for group in range(opened.num_row_groups):
                    held = opened.metadata.row_group(group).num_rows
                    if not groups and start + held <= skip:
                        start += held
                    else:
                        groups.append(group)
                left = skip - start
                for batch in opened.iter_batches(batch_size=_AT_ONCE, row_groups=groups):
                    if left >= batch.num_rows:
                        left -= batch.num_rows
                        continue
                    yield batch.slice(left)
                    left = 0
            skip = 0

    return TableFile(_identity(path, "parquet", files), schema, sum(counts), False, batches)


def _csv(path: Path) -> TableFile:
    from pyarrow import csv

    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    with csv.open_csv(path) as head:
        names = head.schema.names
    # as text, whatever a first block looks like: types that were guessed from it would break the stream further down
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)

    def batches(skip: int) -> Iterator[pa.RecordBatch]:
        with csv.open_csv(path, convert_options=convert) as reader:
            for batch in reader:
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                yield batch.slice(skip)
                skip = 0

    schema = pa.schema([(name, pa.string()) for name in names])
    return TableFile(_identity(path, "csv", [path]), schema, None, True, batches)


def _delta(path: Path) -> TableFile:
    kind = resolve_path("deltalake:DeltaTable", wanted_for=f"the Delta table {path}")
    try:
        table = kind(path)
        dataset = table.to_pyarrow_dataset()
        rows = int(dataset.count_rows())
    except Exception as error:
        raise DataError(f"{path} cannot be read as a Delta table: {_first_line(error)}.") from error

    def batches(skip: int) -> Iterator[pa.RecordBatch]:
        # one file after the other: what is read ahead would be held in memory
        for fragment in dataset.get_fragments():
            held = fragment.count_rows()
            if skip >= held:
                skip -= held
                continue
            scanned = fragment.to_batches(
                schema=dataset.schema, batch_size=_AT_ONCE, batch_readahead=1, fragment_readahead=1
            )
            for batch in scanned:
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                yield batch.slice(skip)
                skip = 0

    identity = {"kind": "delta", "path": str(path), "id": table.metadata().id, "version": table.version()}
    return TableFile(identity, dataset.schema.remove_metadata(), rows, False, batches)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
