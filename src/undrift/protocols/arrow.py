"""Arrow IPC streams as bodies: large batches in, answers out, without a value passing through JSON.

pyarrow is imported where this file is, which a server does at the first such request. A body is bounded, so what it
unpacks to is bounded too: compressed batches and types that blow up are refused. Checking stands with the contract.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from undrift.data.decoder import Decoder
from undrift.develop.bundle import Interface
from undrift.errors import RequestError
from undrift.inference.endpoint import Row
from undrift.protocols.wire import columns

__all__ = ["STREAM", "answer", "read"]

STREAM: Final = b"application/vnd.apache.arrow.stream"
EXPANSION: Final = 16
"""Bytes of text that a body may name by dictionary codes, per byte of it."""


def read(decoder: Decoder, body: bytes) -> list[dict[str, Any]]:
    """The rows of a stream: one column a field.

    Text may be dictionary-encoded, integers and floats of any width; timestamps need a time zone. A NaN in a field that
    may be null is a missing value.

    Raises
    ------
    RequestError : no Arrow stream, a compressed or damaged one, a type that no field has, or a row that breaks the
        contract.
    """
    try:
        _refuse_compressed(body)
        reader = pa.ipc.open_stream(body)
        if len(reader.schema.names) > len(set(reader.schema.names)):
            raise RequestError("a name of a column stands twice")
        for field in reader.schema:
            if not _known(field.type):
                raise RequestError(
                    f"text, a number, a boolean or a timestamp with a zone was expected, not {field.type}",
                    path=f"$.{field.name}",
                )
        table = reader.read_all()
        table.validate(full=True)
        stamps = [(i, f) for i, f in enumerate(table.schema) if pa.types.is_timestamp(f.type)]
        for place, field in stamps:  # as whole microseconds, which the decoder checks
            micros = table.column(place).cast(pa.timestamp("us", field.type.tz)).cast(pa.int64())
            table = table.set_column(place, field.name, micros)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RequestError(f"the body is no Arrow IPC stream: {error}") from error
    if table.num_rows > len(body):
        raise RequestError(f"{table.num_rows} rows in {len(body)} bytes were not expected")
    contract = decoder.contract
    nullable = {field.name for field in contract.fields if field.nullable}
    given = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            _refuse_blown_up(column, name, EXPANSION * len(body))
        if name in nullable and pa.types.is_floating(column.type):
            values = [None if value != value else value for value in column.to_pylist()]
        else:
            values = column.to_pylist()
        given[name] = values
    return columns(decoder, given, "$")


def _known(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _text(kind.value_type)
    if types.is_timestamp(kind):
        return bool(kind.tz)
    return bool(_text(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _refuse_blown_up(column: pa.ChunkedArray, name: str, most: int) -> None:
    total = 0
    for chunk in column.chunks:
        lengths = pc.take(pc.cast(pc.binary_length(chunk.dictionary), pa.int64()), chunk.indices)
        total += pc.sum(lengths).as_py() or 0
    if total > most:
        raise RequestError(f"{total} bytes of text by its codes; at most {most} were expected", path=f"$.{name}")


def _refuse_compressed(body: bytes) -> None:
    """Look for a batch with compressed buffers, by walking the messages as the format of a stream has them.

    Source: Apache Arrow, format/Message.fbs (Message: header 2, bodyLength 3; RecordBatch: compression 3;
    DictionaryBatch: data 1).
    """
    at = 0
    while at + 8 <= len(body):
        mark, length = struct.unpack_from("<Ii", body, at)
        at += 8
        if mark != 0xFFFFFFFF or length < 0:
            raise ValueError("a message does not begin as one")
        if length == 0:
            return
        if at + length > len(body):
            raise ValueError("a message goes beyond the end")
        head = body[at : at + length]
        at += length
        try:
            (root,) = struct.unpack_from("<I", head, 0)
            kind_at, header_at, size_at = (_slot(head, root, slot) for slot in (1, 2, 3))
            kind = head[kind_at] if kind_at else 0
            batch = _follow(head, header_at)
            if kind == 2:  # a dictionary's values
                batch = _follow(head, _slot(head, batch, 1))
            if kind in (2, 3) and _slot(head, batch, 3):
                raise RequestError("batches that are not compressed were expected")
            size = struct.unpack_from("<q", head, size_at)[0] if size_at else 0
        except (struct.error, IndexError) as error:
            raise ValueError("the head of a message is damaged") from error
        if not 0 <= size <= len(body) - at:
            raise ValueError("a message goes beyond the end")
        at += size


def _slot(head: bytes, table: int, slot: int) -> int:
    """Where a field of a flatbuffer's table stands; 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", head, table)[0]
    size = struct.unpack_from("<H", head, vtable)[0]
    if 4 + 2 * slot >= size:
        return 0
    offset: int = struct.unpack_from("<H", head, vtable + 4 + 2 * slot)[0]
    return table + offset if offset else 0


def _follow(head: bytes, at: int) -> int:
    offset: int = struct.unpack_from("<I", head, at)[0]
    return at + offset


def answer(interface: Interface, rows: Sequence[Row]) -> bytes:
    """A stream of one batch: ``id``, ``version``, ``revision``, ``variant``, ``label`` and ``score`` or ``scores``."""
    about: dict[str, Any] = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "version": pa.array([row.version for row in rows], pa.int64()),
        "revision": pa.array([row.revision for row in rows], pa.string()),
        "variant": pa.array([row.variant for row in rows], pa.string()),
    }
    if interface.task != "regression":
        about["label"] = pa.array([row.label for row in rows], pa.string())
    about["score"] = pa.array([row.score for row in rows], pa.float64())
    if interface.task == "multiclass":
        kind = pa.struct([pa.field(name, pa.float64()) for name in interface.classes])
        about["scores"] = pa.array([dict(zip(interface.classes, row.scores or (), strict=True)) for row in rows], kind)
    about["violations"] = pa.array([row.violations for row in rows], pa.list_(pa.string()))
    table = pa.table(about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found
