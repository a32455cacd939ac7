"""The shapes of requests and answers on the wire, and which error is which HTTP status.

TensorFlow Serving's REST shape (its requests are read by data/decoder.py) and the Open Inference Protocol v2 in JSON.
Bytes in, rows out; answers in, bytes out. Paths, headers and sockets stand in server.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from undrift.data.decoder import Decoder
from undrift.develop.bundle import Interface
from undrift.errors import (
    CaptureError,
    DeadlineError,
    ModelError,
    NotFoundError,
    OverloadError,
    RequestError,
    StateError,
    UndriftError,
)
from undrift.ids import from_micros, to_micros
from undrift.inference.endpoint import Endpoint, Row

__all__ = [
    "EventEntry",
    "LabelEntry",
    "encode",
    "error_body",
    "label_of",
    "micros_of",
    "read_events",
    "read_labels",
    "read_source",
    "read_tensors",
    "read_watermark",
    "status_of",
    "v1_answer",
    "v1_metadata",
    "v2_answer",
    "v2_metadata",
]

_STATUS: Final[tuple[tuple[type[UndriftError], int], ...]] = (
    (RequestError, 400),
    (NotFoundError, 404),
    (OverloadError, 503),
    (CaptureError, 503),
    (StateError, 503),
    (DeadlineError, 504),
    (ModelError, 500),
)
_DATATYPES: Final = {"string": "BYTES", "integer": "INT64", "number": "FP64", "boolean": "BOOL", "timestamp": "BYTES"}
_encoder: Final = msgspec.json.Encoder()

encode = _encoder.encode


class _Tensor(msgspec.Struct):
    """An input tensor of the Open Inference Protocol, as JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _Infer(msgspec.Struct):
    """A request of the Open Inference Protocol; parameters and output choices are accepted and have no effect."""

    inputs: list[_Tensor]
    id: str = ""


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


_infer: Final = msgspec.json.Decoder(_Infer)
_events: Final = msgspec.json.Decoder(_Events)
_labels: Final = msgspec.json.Decoder(_Labels)
_source_rows: Final = msgspec.json.Decoder(_SourceRows)
_watermark: Final = msgspec.json.Decoder(_Watermark)


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        raise RequestError(message, path=path.removesuffix("`") or "$") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error


def read_tensors(decoder: Decoder, body: bytes) -> tuple[list[dict[str, Any]], str]:
    """The rows of an infer request and the caller's id of it.

    Raises
    ------
    RequestError : a tensor is not of shape [n] or [n, 1], or the contract is broken.
    """
    request = _decode(_infer, body)
    columns: dict[str, list[Any]] = {}
    for place, tensor in enumerate(request.inputs):
        path = f"$.inputs[{place}]"
        if tensor.name in columns:
            raise RequestError(f"a second input of the name {tensor.name!r}", path=f"{path}.name")
        flat = tensor.shape[:1] == [len(tensor.data)] and tensor.shape[1:] in ([], [1])
        if not flat:
            raise RequestError(
                f"a shape of [n] or [n, 1] with n = {len(tensor.data)} values was expected, not {tensor.shape}",
                path=f"{path}.shape",
            )
        data = tensor.data
        if data and all(isinstance(value, list) and len(value) == 1 for value in data):
            data = [value[0] for value in data]
        columns[tensor.name] = data
    return decoder.columns(columns, path="$.inputs"), request.id


def read_labels(body: bytes) -> list[LabelEntry]:
    """The entries of ``{"labels": [{"id": ..., "label": ..., "event_time": ...}]}``."""
    found: list[LabelEntry] = _decode(_labels, body).labels
    return found


def read_events(body: bytes) -> list[EventEntry]:
    """The entries of ``{"events": [{"id", "unit", "name", "value", "event_time"}]}``."""
    found: list[EventEntry] = _decode(_events, body).events
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
    for place, row in enumerate(_decode(_source_rows, body).rows):
        try:
            rows.append(decoder.row(row))
        except RequestError as error:
            raise RequestError(error.reason, path=f"$.rows[{place}]{error.path.removeprefix('$')}") from error
    return rows


def read_watermark(body: bytes) -> int:
    """The microseconds of ``{"event_time": ...}``."""
    return micros_of(_decode(_watermark, body).event_time, "$.event_time")


def micros_of(value: datetime | int, path: str) -> int:
    """Microseconds of a time on the wire.

    Raises
    ------
    RequestError : it has no zone, or lies outside the years 1 to 9999.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise RequestError("a time with a zone was expected, as 2013-04-01T12:00:00Z", path=path)
        return to_micros(value.astimezone(UTC))
    try:
        from_micros(value)
    except OverflowError as error:
        raise RequestError(f"microseconds since 1970 were expected; {value} is out of range", path=path) from error
    return value


def v1_answer(interface: Interface, rows: Sequence[Row], request_id: str) -> bytes:
    """TensorFlow Serving's ``predictions``, and beside them who answered each."""
    predictions: list[Any]
    if interface.task == "regression":
        predictions = [row.score for row in rows]
    elif interface.task == "binary":
        predictions = [{"label": row.label, "score": row.score} for row in rows]
    else:
        classes = interface.classes
        predictions = [
            {"label": row.label, "scores": dict(zip(classes, row.scores or (), strict=True))} for row in rows
        ]
    about = []
    for row in rows:
        entry: dict[str, Any] = {
            "id": row.id, "version": row.version, "revision": row.revision, "variant": row.variant
        }  # fmt: skip
        if row.violations:
            entry["violations"] = row.violations
        about.append(entry)
    return encode({"predictions": predictions, "rows": about, "request_id": request_id})


def v1_metadata(endpoint: Endpoint) -> bytes:
    """TensorFlow Serving's status of a model, and what undrift knows beyond it."""
    states = [
        {
            "version": str(revision.placed.version),
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        for revision in endpoint.revisions.values()
    ]
    route = endpoint.route
    about = {
        "model": route.model,
        "epoch": endpoint.epoch,
        "champion": {"revision": route.champion, "version": endpoint.champion.placed.version},
        "candidate": {"revision": route.candidate, "weight": route.weight} if route.candidate else None,
        "contract": endpoint.interface.contract,
    }
    return encode({"model_version_status": states, "undrift": about})


def v2_answer(interface: Interface, model: str, rows: Sequence[Row], request_id: str) -> bytes:
    """The Open Inference Protocol's answer: outputs of shape [n] (``scores``: [n, classes])."""
    n = len(rows)

    def output(name: str, datatype: str, data: Sequence[Any], width: int = 0) -> dict[str, Any]:
        return {"name": name, "shape": [n, width] if width else [n], "datatype": datatype, "data": data}

    outputs = []
    if interface.task != "regression":
        outputs.append(output("label", "BYTES", [row.label for row in rows]))
    outputs.append(output("score", "FP64", [row.score for row in rows]))
    if interface.task == "multiclass":
        flat = [score for row in rows for score in row.scores or ()]
        outputs.append(output("scores", "FP64", flat, len(interface.classes)))
    outputs.append(output("prediction_id", "BYTES", [row.id for row in rows]))
    outputs.append(output("version", "INT64", [row.version for row in rows]))
    outputs.append(output("variant", "BYTES", [row.variant for row in rows]))
    version = str(rows[0].version) if len({row.version for row in rows}) == 1 else ""
    return encode({"model_name": model, "model_version": version, "id": request_id, "outputs": outputs})


def v2_metadata(endpoint: Endpoint) -> bytes:
    """The Open Inference Protocol's metadata of a model."""
    interface = endpoint.interface
    inputs = [{"name": f.name, "datatype": _DATATYPES[f.type], "shape": [-1]} for f in interface.contract.fields]
    outputs: list[dict[str, Any]] = [{"name": "score", "datatype": "FP64", "shape": [-1]}]
    if interface.task != "regression":
        outputs.insert(0, {"name": "label", "datatype": "BYTES", "shape": [-1]})
    if interface.task == "multiclass":
        outputs.append({"name": "scores", "datatype": "FP64", "shape": [-1, len(interface.classes)]})
    return encode(
        {
            "name": interface.model,
            "versions": sorted({str(r.placed.version) for r in endpoint.revisions.values()}),
            "platform": f"undrift_{endpoint.champion.manifest.format}",
            "inputs": inputs,
            "outputs": outputs,
        }
    )


def status_of(error: UndriftError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_body(error: UndriftError, **more: Any) -> bytes:
    """``{"error", "path"?, "hint"?}`` of an error; a model's own words stay out of it."""
    body: dict[str, Any] = {"error": error.message, **more}
    if isinstance(error, RequestError):
        body.update(error=error.reason, path=error.path)
    elif isinstance(error, ModelError):
        body.update(error="the model could not answer this request.", reason="model_error")
    if error.hint:
        body["hint"] = error.hint
    return encode(body)
