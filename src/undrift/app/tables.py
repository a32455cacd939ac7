"""Tables between files and commands: CSV and Parquet in and out. What is in them is not judged here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from undrift.assembly import read_table
from undrift.errors import DataError
from undrift.state.outputs import flat

if TYPE_CHECKING:
    from undrift.scoring import ScoredFile

__all__ = ["print_csv", "read", "scored", "writer"]


def read(file: Path) -> pa.Table:
    """The rows of a CSV or Parquet file.

    Raises
    ------
    DataError : it does not exist, cannot be read, or has no rows.
    """
    return read_table(Path.cwd(), str(file.absolute()))


def _to_csv(table: pa.Table, file: Path) -> None:
    pyarrow.csv.write_csv(flat(table), file)


def _to_parquet(table: pa.Table, file: Path) -> None:
    pyarrow.parquet.write_table(table, file)


_WRITERS: Final[dict[str, Callable[[pa.Table, Path], None]]] = {
    ".csv": _to_csv,
    ".parquet": _to_parquet,
    ".pq": _to_parquet,
}


def writer(file: Path) -> Callable[[pa.Table, Path], None]:
    """What writes a table in the format that a file's name asks for.

    Raises
    ------
    DataError : the format is not known, or the folder does not exist.
    """
    found = _WRITERS.get(file.suffix.lower())
    if found is None:
        raise DataError(f"{file}: {file.suffix or 'no suffix'} is not known; use {', '.join(sorted(_WRITERS))}.")
    if not file.absolute().parent.is_dir():
        raise DataError(f"{file}: the folder {file.absolute().parent} does not exist.")
    return found


def scored(done: ScoredFile) -> str:
    """What scoring a file gave, in a line or two."""
    went_on = f", {done.resumed:,} of them before" if done.resumed else ""
    lines = [
        f"{done.rows:,} rows{went_on} by version {done.version} ({done.revision}) -> {done.out}",
        f"  {done.rows_per_second:,.0f} rows a second" if done.rows > done.resumed else "  it was complete already",
    ]
    if done.quarantined:
        lines.append(f"  {done.quarantined:,} rows break the contract -> {done.quarantine}")
    return "\n".join(lines)


def print_csv(table: pa.Table) -> None:
    """The table as CSV on stdout."""
    sink: Any = pa.BufferOutputStream()
    pyarrow.csv.write_csv(flat(table), sink)
    sys.stdout.write(sink.getvalue().to_pybytes().decode("utf-8"))
    sys.stdout.flush()
