"""What is told after a prediction: labels, business events, rows of sources, watermarks; and times on the wire.

Bytes in, checked values out. Predictions stand in the file of their protocol.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from undrift.data.decoder import Decoder
from undrift.develop.bundle import Interface
from undrift.errors import RequestError
from undrift.ids import from_micros, to_micros
from undrift.protocols.wire import decode, encode, integral, within

__all__ = [
    "EventEntry",
    "LabelEntry",
    "label_of",
    "micros_of",
    "read_events",
    "read_labels",
    "read_source",
    "read_watermark",
]


class LabelEntry(msgspec.Struct):
    """One label as it is sent; ``event_time`` as ISO 8601 or microseconds, now if absent."""

    id: str | int
    label: str | bool | int | float
    event_time: datetime | int | None = None


class EventEntry(msgspec.Struct):
    """One business event as it is sent; ``value`` is 1 if absent, so that a sum counts; ``event_time`` as of labels."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    unit: Annotated[str, msgspec.Meta(min_length=1)] | int
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    value: float = 1.0
    event_time: datetime | int | None = None


class _Events(msgspec.Struct):
    events: list[EventEntry]


class _Labels(msgspec.Struct):
    labels: list[LabelEntry]


class _SourceRows(msgspec.Struct):
    rows: list[dict[str, Any]]


class _Watermark(msgspec.Struct):
    event_time: datetime | int


_events: Final = msgspec.json.Decoder(_Events)
_labels: Final = msgspec.json.Decoder(_Labels)
_source_rows: Final = msgspec.json.Decoder(_SourceRows)
_watermark: Final = msgspec.json.Decoder(_Watermark)


def read_labels(body: bytes) -> list[LabelEntry]:
    """The entries of ``{"labels": [{"id": ..., "label": ..., "event_time": ...}]}``."""
    found: list[LabelEntry] = decode(_labels, body).labels
    return found


def read_events(body: bytes) -> list[EventEntry]:
    """The entries of ``{"events": [{"id", "unit", "name", "value", "event_time"}]}``."""
    found: list[EventEntry] = decode(_events, body).events
    for place, entry in enumerate(found):
        if not math.isfinite(entry.value):
            raise RequestError(f"a finite number was expected, not {entry.value}", path=f"$.events[{place}].value")
    return found


def label_of(interface: Interface, entry: LabelEntry, place: int) -> str | float:
    """The label as it is kept: one of the classes as text, or a number.

    Raises
    ------
    RequestError : it is neither.
    """
    value, path = entry.label, f"$.labels[{place}].label"
    if interface.task == "regression":
        if isinstance(value, str | bool):
            raise RequestError(f"a number was expected, not {value!r}", path=path)
        return float(value)
    # 1, 1.0, true and "1" are one class; which classes there are, the interface says
    text = str(int(value)) if isinstance(value, bool | float) and value == int(value) else str(value)
    for known in (text, str(value), str(value).lower()):
        if known in interface.classes:
            return known
    raise RequestError(f"one of {', '.join(interface.classes)} was expected, not {value!r}", path=path)


def read_source(decoder: Decoder, body: bytes) -> list[dict[str, Any]]:
    """The rows of ``{"rows": [...]}``, checked by the source's contract."""
    rows = []
    for place, row in enumerate(decode(_source_rows, body).rows):
        try:
            rows.append(_row(decoder, row))
        except RequestError as error:
            raise within(error, "$", f"$.rows[{place}]") from error
    return rows


def _row(decoder: Decoder, row: dict[str, Any]) -> dict[str, Any]:
    """The checked row; where 3.0 stood for an integer, by a second reading."""
    try:
        return decoder.row(row)
    except RequestError as error:
        if "got `float`" not in error.reason:
            raise
        return decoder.row(msgspec.json.decode(integral(encode(row))))


def read_watermark(body: bytes) -> int:
    """The microseconds of ``{"event_time": ...}``."""
    return micros_of(decode(_watermark, body).event_time, "$.event_time")


def micros_of(value: datetime | int, path: str) -> int:
    """Microseconds of a time on the wire.

    Raises
    ------
    RequestError : it has no zone, or lies outside the years 1 to 9999.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise RequestError("a time with a zone was expected, as 2013-04-01T12:00:00Z", path=path)
        try:
            return to_micros(value.astimezone(UTC))
        except OverflowError as error:
            raise RequestError(f"{value.isoformat()} lies outside the years 1 to 9999 of UTC", path=path) from error
    try:
        from_micros(value)
    except OverflowError as error:
        raise RequestError(f"microseconds since 1970 were expected; {value} is out of range", path=path) from error
    return value
