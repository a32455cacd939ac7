"""Datasets: training tables kept as versions in the lake, with the hash of their content and what was put aside.

Each version of a dataset is one commit of its table, so it can be read again as it was. What is in it is decided
above; here nothing is checked or computed but the hash.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from undrift.errors import ConflictError, DataError, NotFoundError, StateError
from undrift.ids import canonical_json
from undrift.state.ports import Lake

__all__ = ["Dataset", "digest", "load", "store"]

_PART: Final = "dataset_part"
_PLACE: Final = "dataset_row"
_HEADER: Final = "dataset_header"
_WRITER: Final = "dataset"
_ATTEMPTS: Final = 20
_TIME: Final = pa.timestamp("us", "UTC")


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A stored training table.

    ``version`` is the version of the table ``dataset_<name>`` in the lake. ``hash`` is SHA-256 of its content, the same
    wherever and whenever it is stored. ``quarantined``: rows put aside. ``schema``: names and Arrow types, in order.
    """

    name: str
    version: int
    hash: str
    rows: int
    quarantined: int
    schema: tuple[tuple[str, str], ...]


def digest(table: pa.Table) -> str:
    """SHA-256 of what a table says: names, types, order and values, not how Arrow lays them out; 64 hex digits.

    Types count as they are stored: text in any form is text, integers and floats have 64 bits, times are microseconds
    in UTC.

    Raises
    ------
    DataError : a time without a zone, or a column of nulls without a type.
    """
    found = hashlib.sha256()
    for name, column in zip(table.column_names, _stored(table).columns, strict=True):
        found.update(canonical_json([name, str(column.type), len(column)]))
        valid = pc.is_valid(column).to_numpy()
        found.update(np.packbits(valid).tobytes())
        for part in _content(column):
            found.update(part)
    return found.hexdigest()


def _content(column: pa.ChunkedArray) -> list[bytes]:
    """The bytes of the values, nulls as zeros."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return [np.packbits(pc.fill_null(column, False).to_numpy()).tobytes()]
    if pa.types.is_timestamp(kind):
        column, kind = column.cast(pa.int64()), pa.int64()
    if pa.types.is_date32(kind):
        column, kind = column.cast(pa.int32()), pa.int32()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = pc.fill_null(column, pa.scalar(0, kind)).to_numpy()
        return [np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()]
    if pa.types.is_string(kind):
        texts = pc.fill_null(column, "").cast(pa.large_binary())
        lengths = pc.binary_length(texts).to_numpy()
        return [np.asarray(lengths, dtype="<i8").tobytes(), *(_letters(chunk) for chunk in texts.chunks)]
    return [canonical_json(column.to_pylist())]


def _letters(texts: pa.LargeBinaryArray) -> bytes:
    """All texts of an array, one behind the other."""
    _, offsets, letters = texts.buffers()
    if letters is None or not len(texts):
        return b""
    ends = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(letters)[ends[0] : ends[-1]].tobytes()


def store(lake: Lake, name: str, table: pa.Table, *, quarantined: pa.Table | None = None) -> Dataset:
    """Store a table as a new version of a dataset.

    Parameters
    ----------
    lake : where; the table is ``dataset_<name>``, the rows put aside go to ``quarantine_<name>`` as JSON.
    quarantined : rows put aside by ``inspect.check``, with their ``reason``.

    Raises
    ------
    DataError : no rows, a reserved column name, a column of another type than in earlier versions.
    """
    if not table.num_rows:
        raise DataError(f"dataset {name!r} has no rows: there is nothing to store.")
    reserved = [column for column in (_PART, _PLACE, _HEADER) if column in table.column_names]
    if reserved:
        raise DataError(f"dataset {name!r}: the column name {reserved[0]!r} is taken for the store's own use.")
    stored = _stored(table)
    aside = quarantined.num_rows if quarantined is not None else 0
    schema = tuple((field.name, str(field.type)) for field in stored.schema)
    dataset = Dataset(
        name=name, version=-1, hash=digest(stored), rows=len(stored), quarantined=aside, schema=schema
    )  # fmt: skip
    if quarantined is not None and aside:
        lake.append(f"quarantine_{name}", _aside(quarantined, dataset.hash))
    header = msgspec.json.encode(_Header(dataset.hash, schema, aside)).decode()
    stored = stored.append_column(_HEADER, pa.repeat(header, len(stored)))
    stored = stored.append_column(_PLACE, pa.array(range(len(stored)), pa.int64()))
    for _ in range(_ATTEMPTS):
        part = lake.marks(f"dataset_{name}", [_WRITER])[_WRITER] + 1
        rows = stored.append_column(_PART, pa.repeat(pa.scalar(part, pa.int64()), len(stored)))
        try:
            version = lake.append(f"dataset_{name}", rows, marks={_WRITER: part})
        except ConflictError:
            continue
        # a mark that somebody else set first makes the append do nothing: look whose rows these are
        if _newest(lake, name, version) == (part, header):
            return msgspec.structs.replace(dataset, version=version)
    raise ConflictError(f"dataset {name!r} could not be stored: others kept storing it at the same time.")


def load(lake: Lake, name: str, version: int) -> pa.Table:
    """The table of a dataset version, in its order, its content checked against its hash.

    Raises
    ------
    NotFoundError : there is no such dataset or version.
    StateError : the content is not what was stored.
    """
    part, text = _newest(lake, name, version)
    header = msgspec.json.decode(text, type=_Header)
    columns = [column for column, _ in header.schema]
    rows = lake.scan(f"dataset_{name}", columns=[*columns, _PLACE], where=[(_PART, "==", part)], version=version)
    assert rows is not None  # _newest has just read it
    table = rows.take(pc.sort_indices(rows[_PLACE])).select(columns)
    for place, (column, kind) in enumerate(header.schema):
        if kind == "int64":  # an earlier version had fractions, so the lake keeps the column as float64
            table = table.set_column(place, column, table[column].cast(pa.int64()))
    if digest(table) != header.hash:
        raise StateError(
            f"dataset {name!r} version {version} does not have the content it was stored with.",
            hint="Restore the lake from a backup, or store the dataset again.",
        )
    return table


class _Header(msgspec.Struct, frozen=True):
    """What each row of a version says of the whole; the same text in all of them, so it takes no room."""

    hash: str
    schema: tuple[tuple[str, str], ...]
    quarantined: int


def _newest(lake: Lake, name: str, version: int) -> tuple[int, str]:
    """The number of the part that a version of the table ends with, and its header."""
    parts = lake.scan(f"dataset_{name}", columns=[_PART, _HEADER], where=[(_PLACE, "==", 0)], version=version)
    if parts is None or not parts.num_rows:
        raise NotFoundError(f"there is no dataset {name!r} in the lake.")
    last = int(pc.max(parts[_PART]).as_py())
    return last, str(parts.filter(pc.equal(parts[_PART], last))[_HEADER][0].as_py())


def _aside(quarantined: pa.Table, batch: str) -> pa.Table:
    reasons = quarantined["reason"]
    rows = quarantined.drop_columns(["reason"]).to_pylist()
    bodies = [msgspec.json.encode(_readable(row)).decode() for row in rows]
    return pa.table({"dataset_hash": pa.repeat(batch, len(rows)), "reason": reasons, "row": bodies})


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in row.items()}


def _stored(table: pa.Table) -> pa.Table:
    """The table in the types the lake keeps, so that it comes back as it went."""
    columns, fields = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = field.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
            kind = column.type
        if pa.types.is_null(kind):
            raise DataError(f"the column {field.name!r} holds nothing but nulls and has no type.")
        if pa.types.is_timestamp(kind):
            if kind.tz is None:
                raise DataError(f"the column {field.name!r} holds times without a zone.")
            column = column.cast(_TIME, safe=False)
        elif pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            column = column.cast(pa.string())
        elif pa.types.is_integer(kind):
            column = column.cast(pa.int64())
        elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            column = column.cast(pa.float64(), safe=False)
        columns.append(column)
        fields.append(pa.field(field.name, column.type))
    return pa.table(columns, schema=pa.schema(fields))
