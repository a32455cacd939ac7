"""The bodies of `/invocations`: what MLflow's scoring server and a SageMaker container take and give.

JSON as `dataframe_split`, `dataframe_records`, `instances` or `inputs`; JSON lines; CSV with or without a header.
Sources: MLflow, "Local inference server"; Amazon SageMaker, "Common data formats for inference".
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from undrift.data.contract import Field
from undrift.data.decoder import Decoder
from undrift.develop.bundle import Interface
from undrift.errors import RequestError
from undrift.inference.endpoint import Row
from undrift.protocols import tensorflow
from undrift.protocols.wire import columns, decode, encode, within

__all__ = ["CSV", "JSON_LINES", "accepted", "answer_csv", "answer_lines", "read_csv", "read_json", "read_lines"]

CSV: Final = b"text/csv"
JSON_LINES: Final = b"application/jsonlines"
_INTEGER: Final = re.compile(r"[+-]?\d{1,19}")
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}


class _Split(msgspec.Struct):
    columns: list[str]
    data: list[list[Any]]


class _Body(msgspec.Struct):
    dataframe_split: _Split | msgspec.UnsetType = msgspec.UNSET
    dataframe_records: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_body: Final = msgspec.json.Decoder(_Body)


def read_json(decoder: Decoder, body: bytes) -> list[dict[str, Any]]:
    """The rows of a JSON body.

    ``inputs`` may be columns, or rows as ``instances`` are. ``params`` and other keys are left alone.

    Raises
    ------
    RequestError : none or several of the four, or a row that breaks the contract.
    """
    given: _Body = decode(_body, body)
    found = [name for name in given.__struct_fields__ if getattr(given, name) is not msgspec.UNSET]
    if len(found) != 1:
        raise RequestError(
            "expected one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, "
            f"got {' and '.join(found) or 'none'}",
            path="$",
        )
    if isinstance(given.dataframe_split, _Split):
        return _read_split(decoder, given.dataframe_split)
    (name,) = found
    raw = bytes(getattr(given, name))
    if name == "inputs" and raw[:1] == b"{":
        return tensorflow.read(decoder, body)[0]
    try:
        return tensorflow.read(decoder, b'{"instances":%b}' % raw)[0]
    except RequestError as error:
        raise within(error, "$.instances", f"$.{name}") from error


def _read_split(decoder: Decoder, split: _Split) -> list[dict[str, Any]]:
    width = len(split.columns)
    if len(set(split.columns)) < width:
        raise RequestError("a name of a column stands twice", path="$.dataframe_split.columns")
    for place, row in enumerate(split.data):
        if len(row) != width:
            raise RequestError(
                f"expected {width} values as there are columns, got {len(row)}", path=f"$.dataframe_split.data[{place}]"
            )
    given = {name: [row[place] for row in split.data] for place, name in enumerate(split.columns)}
    return columns(decoder, given, "$.dataframe_split")


def read_lines(decoder: Decoder, body: bytes) -> list[dict[str, Any]]:
    """The rows of JSON lines: an object, or a list of values in the order of the contract's fields, on each.

    Raises
    ------
    RequestError : no rows, or one that breaks the contract.
    """
    lines = [line for line in body.splitlines() if line.strip()]
    for place, line in enumerate(lines):  # a line must stand for itself before it is joined to others
        decode(_any, line, f"$[{place}]")
    try:
        return tensorflow.read(decoder, b'{"instances":[%b]}' % b",".join(lines))[0]
    except RequestError as error:
        raise within(error, "$.instances", "$") from error


_any: Final = msgspec.json.Decoder(msgspec.Raw)


def read_csv(decoder: Decoder, body: bytes, content_type: bytes = CSV) -> list[dict[str, Any]]:
    """The rows of CSV. An empty cell is a missing value.

    The first line is a header if ``header=present`` says so, or if it holds nothing but names of the contract's fields;
    without one (``header=absent``), cells stand in the order of the contract's fields.

    Raises
    ------
    RequestError : it is no UTF-8 or no CSV, a line is too short or too long, or a value breaks the contract.
    """
    try:
        table = [line for line in csv.reader(io.StringIO(body.decode(), newline=""), strict=True) if line]
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is no UTF-8: {error}") from error
    except csv.Error as error:
        raise RequestError(f"the body is no CSV: {error}") from error
    if not table:
        raise RequestError("expected at least one row, got none")
    contract = decoder.contract
    told = content_type.lower().replace(b" ", b"")
    with_header = b"header=present" in told or (b"header=absent" not in told and set(table[0]) <= set(contract.names))
    names, lines = (table[0], table[1:]) if with_header else (list(contract.names), table)
    if len(set(names)) < len(names):
        raise RequestError("a name of a column stands twice", path="$[0]")
    for place, line in enumerate(lines):
        if len(line) != len(names):
            raise RequestError(f"expected {len(names)} cells, got {len(line)}", path=f"$[{place}]")
    fields = {field.name: field for field in contract.fields}
    given = {
        name: [_cell(fields.get(name), line[place]) for line in lines] for place, name in enumerate(names)
    }  # what a cell cannot be read as stays text, which the decoder refuses at its place
    return decoder.columns(given)


def _cell(field: Field | None, text: str) -> Any:
    if text == "":
        return None
    if field is None or field.type == "string":
        return text
    if field.type == "boolean":
        return _TRUTH.get(text.lower(), text)
    if _INTEGER.fullmatch(text):
        return int(text)
    if field.type == "timestamp":
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if field.type == "integer" and number.is_integer() else number


def answer_lines(interface: Interface, rows: Sequence[Row]) -> bytes:
    """One prediction a line, as JSON."""
    return b"".join(encode(value) + b"\n" for value in tensorflow.predictions(interface, rows))


def answer_csv(interface: Interface, rows: Sequence[Row]) -> bytes:
    """A header and one line a row: ``id,version,variant``, then ``score``, or ``label`` and a score per class."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    if interface.task == "multiclass":
        writer.writerow(["id", "version", "variant", "label", *(f"score_{name}" for name in interface.classes)])
        writer.writerows([row.id, row.version, row.variant, row.label, *(row.scores or ())] for row in rows)
    elif interface.task == "binary":
        writer.writerow(["id", "version", "variant", "label", "score"])
        writer.writerows([row.id, row.version, row.variant, row.label, row.score] for row in rows)
    else:
        writer.writerow(["id", "version", "variant", "score"])
        writer.writerows([row.id, row.version, row.variant, row.score] for row in rows)
    return out.getvalue().encode()


def accepted(header: bytes, offered: Sequence[bytes]) -> bytes | None:
    """Which of the content types offered an Accept header likes best; the first where it does not say, or None.

    >>> accepted(b"text/csv;q=0.5, application/*", (b"application/json", b"text/csv"))
    b'application/json'
    >>> accepted(b"image/png", (b"application/json", b"text/csv")) is None
    True
    """
    if not header.strip():
        return offered[0]
    liked: dict[bytes, float] = {}
    for part in header.lower().split(b","):
        kind, *parameters = (piece.strip() for piece in part.split(b";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        liked[kind] = quality
    best, best_quality = None, 0.0
    for kind in offered:
        family = kind.partition(b"/")[0] + b"/*"
        quality = next((liked[key] for key in (kind, family, b"*/*") if key in liked), 0.0)
        if quality > best_quality:
            best, best_quality = kind, quality
    return best
