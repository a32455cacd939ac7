"""The profile: what a table looked like, in a few kilobytes that merge with ``+``.

All monitoring runs on profiles, built batch by batch; the reference travels with the model version, so raw reference
data is not needed. How a column is counted stands in tally.py; no distances are taken here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import pyarrow as pa

from undrift.data.column import ColumnProfile
from undrift.data.sketch import FrequentValues
from undrift.data.tally import tally
from undrift.errors import DataError

__all__ = ["ColumnProfile", "Profile", "each_column"]


Found = TypeVar("Found")
_FORMAT: Final = 2
_PART: Final = 1 << 18
"""Rows of a part when a stream is read."""
_MANY: Final = 50_000
"""Rows from which columns are counted side by side: sorting lets go of the interpreter."""
_THREADS: Final = 4
_BUFFER: Final = 1 << 20
"""Bytes of a file that are held at a time."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A table, column by column; ``+`` is the profile of both tables together, whatever the order or grouping.

    Counts, extremes, histograms, different values and (up to their capacity) frequent values come out the same in any
    grouping; moments within rounding, quantiles within the error of the sketch. Processes and machines agree.
    """

    n: int = 0
    columns: dict[str, ColumnProfile] = {}
    format: int = _FORMAT

    @classmethod
    def of(cls, table: Any, *, edges_from: Profile | None = None) -> Profile:
        """The profile of a table.

        Parameters
        ----------
        table : anything with the Arrow PyCapsule interface, or a mapping of columns.
        edges_from : reference whose histogram edges are used, so that the two compare bin by bin. Without it the edges
            are 19 quantiles of the table itself, which is then a reference; a value that is several of them has a bin
            to itself.

        Raises
        ------
        DataError : a column that is no plain value (lists, structs): flatten or leave it out.
        """
        rows = table if isinstance(table, pa.Table) else pa.table(table)
        known = edges_from.columns if edges_from is not None else {}

        def one(name: str) -> ColumnProfile:
            return tally(name, rows[name], known[name].edges if name in known else None)

        names = rows.column_names
        if rows.num_rows < _MANY or len(names) < 2:
            return cls(n=rows.num_rows, columns={name: one(name) for name in names})
        with ThreadPoolExecutor(_THREADS) as pool:
            return cls(n=rows.num_rows, columns=dict(zip(names, pool.map(one, names), strict=True)))

    @classmethod
    def stream(cls, source: Any, *, edges_from: Profile | None = None) -> Profile:
        """The profile of rows that come one batch after the other, in memory that does not grow with them.

        Parameters
        ----------
        source : anything with the Arrow stream interface, or an iterable of record batches or tables.
        edges_from : as in `of`. Without it the first quarter of a million rows give the edges.
        """
        total, edges = cls(), edges_from
        for part in _parts(source):
            found = cls.of(part, edges_from=edges)
            edges = edges if edges is not None else found
            total += found
        return total

    @classmethod
    def of_parquet(cls, path: str | Path, *, edges_from: Profile | None = None) -> Profile:
        """The profile of a Parquet file, columns side by side, each read by itself a quarter of a million rows at a
        time: memory grows neither with the rows nor with the columns.

        Parameters
        ----------
        path : of one file.
        edges_from : as in `stream`.

        Raises
        ------
        DataError : a column that is no plain value, or a file that is no Parquet.
        """
        known = edges_from.columns if edges_from is not None else {}

        def one(name: str, parts: Iterator[pa.ChunkedArray]) -> ColumnProfile:
            edges = known[name].edges if name in known else None
            total: ColumnProfile | None = None
            for part in parts:
                found = tally(name, part, edges)
                edges = found.edges if edges is None else edges
                total = found if total is None else total + found
            assert total is not None
            return total

        rows, columns = each_column(path, one)
        return cls(n=rows, columns=columns)

    @classmethod
    def total(cls, profiles: Sequence[Profile]) -> Profile:
        """The sum of any number of profiles; the empty profile for none."""
        return reduce(lambda a, b: a + b, profiles, cls())

    def __add__(self, other: Profile) -> Profile:
        if not (self.columns and other.columns):  # nothing to add up; rows without columns only count
            whole = self if self.columns else other
            if self.n + other.n == whole.n:
                return whole
        columns = {
            name: _lacking(self, other, name) + _lacking(other, self, name)
            for name in dict.fromkeys([*self.columns, *other.columns])
        }
        return Profile(n=self.n + other.n, columns=columns)

    def without_values(self, names: Iterable[str]) -> Profile:
        """The profile in which nothing of those columns is left but their kind, rows and nulls; names not there are
        passed over. For values of people: frequent ones, extremes and quantiles are values of somebody.
        """
        bare = {
            name: ColumnProfile(kind=found.kind, n=found.n, nulls=found.nulls, infinite=found.infinite)
            for name in names
            if (found := self.columns.get(name)) is not None
        }
        return msgspec.structs.replace(self, columns={**self.columns, **bare})

    def of_samples(self, names: Iterable[str]) -> Profile:
        """The profile in which those columns are of the rows that have a value alone: others were not looked at. Names
        not there are passed over.
        """
        found = {
            name: msgspec.structs.replace(column, n=column.n - column.nulls, nulls=0, sampled=True)
            for name in names
            if (column := self.columns.get(name)) is not None
        }
        return msgspec.structs.replace(self, columns={**self.columns, **found})

    def to_json(self) -> str:
        """The profile as JSON text."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Profile:
        """Read what ``to_json`` wrote.

        Raises
        ------
        DataError : the text is no profile, or one of a later format.
        """
        try:
            found = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise DataError(f"the text is no profile: {error}.") from error
        if found.format > _FORMAT:
            raise DataError(
                f"the profile is of format {found.format}; this version reads up to {_FORMAT}.",
                hint="A later undrift wrote it: update this one.",
            )
        return found


def each_column(
    path: str | Path, one: Callable[[str, Iterator[pa.ChunkedArray]], Found], only: Collection[str] | None = None
) -> tuple[int, dict[str, Found]]:
    """How many rows a Parquet file has, and what ``one`` makes of each column and its parts, columns side by side.

    Parameters
    ----------
    one : takes a column's name and its values, at most a quarter of a million at a time; an empty part where there are
        none. Texts come as dictionaries.
    only : names of the columns that are read; all if left out.

    Raises
    ------
    DataError : the file is no Parquet.
    """
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error
    schema = metadata.schema.to_arrow_schema()
    texts = [field.name for field in schema if pa.types.is_string(field.type)]

    def parts(name: str) -> Iterator[pa.ChunkedArray]:
        empty = True
        # without buffer_size a column chunk is read whole, however long
        with pq.ParquetFile(
            path, metadata=metadata, read_dictionary=texts, pre_buffer=False, buffer_size=_BUFFER
        ) as file:
            for batch in file.iter_batches(_PART, columns=[name], use_threads=False):
                empty = False
                yield pa.chunked_array([batch.column(0)])
        if empty:
            yield pa.chunked_array([], schema.field(name).type)

    names = [name for name in schema.names if only is None or name in only]
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        found = dict(zip(names, pool.map(lambda name: one(name, parts(name)), names), strict=True))
    return metadata.num_rows, found


def _parts(source: Any) -> Iterator[pa.Table]:
    """The rows in tables of about a quarter of a million."""
    batches: Iterable[Any]
    if hasattr(source, "__arrow_c_stream__"):
        batches = source.to_batches(_PART) if isinstance(source, pa.Table) else pa.RecordBatchReader.from_stream(source)
    else:
        batches = source
    held: list[pa.Table] = []
    rows = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else pa.table(batch)
        held.append(table)
        rows += table.num_rows
        if rows >= _PART:
            yield pa.concat_tables(held)
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held)


def _lacking(profile: Profile, other: Profile, name: str) -> ColumnProfile:
    """A column of a profile; where it has none, as many rows without a value (none, where rows are sampled)."""
    found = profile.columns.get(name)
    if found is not None:
        return found
    like = other.columns[name]
    if like.sampled:
        return ColumnProfile(kind=like.kind, n=0, common=FrequentValues({}, like.common.capacity), sampled=True)
    return ColumnProfile(kind=like.kind, n=profile.n, nulls=profile.n, common=FrequentValues({}, like.common.capacity))
