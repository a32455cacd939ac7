"""Bodies of every protocol, mutated with a fixed seed: each is read or refused, and nothing else is raised."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.decoder import Decoder
from undrift.errors import RequestError
from undrift.protocols import arrow, invocations, labels, open_inference, tensorflow

CONTRACT = Contract(
    name="flights",
    fields=(
        Field(name="at", type="timestamp"),
        Field(name="carrier", type="string", categories=("AA", "UA")),
        Field(name="distance", type="number", minimum=0.0),
        Field(name="hour", type="integer", maximum=23, on_violation="reject"),
        Field(name="late", type="boolean", nullable=True),
    ),
)
DECODER = Decoder(CONTRACT)
ROWS: list[dict[str, Any]] = [
    {"at": "2013-04-01T00:00:00Z", "carrier": "UA", "distance": 719.5, "hour": 3, "late": True},
    {"at": 1_364_774_400_000_000, "carrier": "AA", "distance": 7, "hour": 4.0, "late": None},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in CONTRACT.names}
LISTS = [list(row.values()) for row in ROWS]
TENSORS = [{"name": n, "shape": [2], "datatype": "BYTES", "data": values} for n, values in COLUMNS.items()]
HEAD = json.dumps(
    {
        "inputs": [
            {"name": "hour", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 16}},
            {"name": "carrier", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
        ]
    }
).encode()


def _stream() -> bytes:
    text = pa.array(COLUMNS["carrier"]).dictionary_encode()
    table = pa.table({**COLUMNS, "at": pa.array([0, 1], pa.timestamp("us", "UTC")), "carrier": text})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def _labels(body: bytes) -> None:
    for entry in labels.read_labels(body):
        labels.micros_of(entry.event_time or 0, "$")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


READERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "instances": (lambda body: tensorflow.read(DECODER, body), _json({"instances": ROWS})),
    "lists": (lambda body: tensorflow.read(DECODER, body), _json({"instances": LISTS})),
    "inputs": (lambda body: tensorflow.read(DECODER, body), _json({"inputs": COLUMNS})),
    "records": (lambda body: invocations.read_json(DECODER, body), _json({"dataframe_records": ROWS})),
    "split": (
        lambda body: invocations.read_json(DECODER, body),
        _json({"dataframe_split": {"columns": list(COLUMNS), "data": LISTS}}),
    ),
    "csv": (lambda body: invocations.read_csv(DECODER, body), b"2013-04-01T00:00:00Z,UA,719.5,3,true\n5,AA,7,4,\n"),
    "lines": (lambda body: invocations.read_lines(DECODER, body), b"\n".join(map(_json, ROWS))),
    "tensors": (lambda body: open_inference.read(DECODER, body), _json({"inputs": TENSORS})),
    "bytes": (
        lambda body: open_inference.read(DECODER, body, b"%d" % len(HEAD)),
        HEAD + struct.pack("<qqI", 1, 2, 2) + b"UA",
    ),
    "arrow": (lambda body: arrow.read(DECODER, body), _stream()),
    "labels": (_labels, _json({"labels": [{"id": "a", "label": "1", "event_time": "2013-04-01T00:00:00Z"}]})),
    "source": (lambda body: labels.read_source(DECODER, body), _json({"rows": ROWS})),
}
TOKENS = (
    b"null", b"true", b"1e309", b"-0.0", b"3.0", b"9" * 30, b"NaN", b'"', b"{", b"}", b"[", b"]", b"[[[[", b",", b"\n",
    b"\r", b"\0", b"\xff", b"\\ud800", b"0001-01-01T00:00:00+23:59", b"-62135596800000001", b"253402300800000000",
)  # fmt: skip
MUTATIONS = 600


def mutated(body: bytes, chance: random.Random) -> bytes:
    found = bytearray(body)
    for _ in range(chance.randint(1, 3)):
        at, kind = chance.randrange(len(found) + 1), chance.random()
        if kind < 0.4:
            found[at : at + chance.randint(0, 12)] = chance.choice(TOKENS)
        elif kind < 0.6:
            found[at : at + 1] = bytes([chance.randrange(256)])
        elif kind < 0.8:
            del found[at : at + chance.randint(1, 20)]
        else:
            found[at:at] = found[: chance.randint(1, 40)]
    return bytes(found)


@pytest.mark.parametrize("name", READERS)
def test_a_body_is_read_or_refused_and_nothing_else_is_raised(name: str) -> None:
    read, body = READERS[name]
    if name not in ("tensors", "bytes"):  # all fields as text; not all of the fields
        read(body)
    chance, refused = random.Random(7), 0
    for _ in range(MUTATIONS):
        given = mutated(body, chance)
        try:
            read(given)
        except RequestError as error:
            refused += bool(error.path)
    assert refused > MUTATIONS / 10


def test_an_integer_may_be_written_with_a_point() -> None:
    (row,) = tensorflow.read(DECODER, _json({"instances": [ROWS[1]]}))[0]
    assert row["hour"] == 4
    with pytest.raises(RequestError, match="got `float`"):
        tensorflow.read(DECODER, _json({"instances": [{**ROWS[1], "hour": 4.5}]}))
    with pytest.raises(RequestError, match="JSON"):  # a second reading that fails is a refusal too
        tensorflow.read(DECODER, _json({"instances": [ROWS[1]]})[:-1] + b"x")
