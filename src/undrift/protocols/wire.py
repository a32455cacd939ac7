"""JSON in and out, rows given by position, and which error is which status on the wire.

What all protocols share stands here; the shape of each stands in a file of its name. Paths, headers and sockets stand
in serving/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from undrift.data.decoder import Decoder
from undrift.errors import (
    CaptureError,
    ConflictError,
    DataError,
    DeadlineError,
    DeclarationError,
    MissingExtraError,
    ModelError,
    NotFoundError,
    OverloadError,
    RequestError,
    SettingsError,
    StateError,
    UndriftError,
)

__all__ = [
    "GRPC",
    "columns",
    "decode",
    "encode",
    "error_body",
    "grpc_status_of",
    "integral",
    "positional",
    "status_of",
    "within",
]

# HTTP status, and the name of the status in gRPC
_STATUS: Final[tuple[tuple[type[UndriftError], int, str], ...]] = (
    (RequestError, 400, "INVALID_ARGUMENT"),
    (NotFoundError, 404, "NOT_FOUND"),
    (ConflictError, 409, "FAILED_PRECONDITION"),
    (DeclarationError, 422, "FAILED_PRECONDITION"),
    (SettingsError, 422, "FAILED_PRECONDITION"),
    (DataError, 422, "FAILED_PRECONDITION"),
    (MissingExtraError, 501, "UNIMPLEMENTED"),
    (OverloadError, 503, "UNAVAILABLE"),
    (CaptureError, 503, "UNAVAILABLE"),
    (StateError, 503, "UNAVAILABLE"),
    (DeadlineError, 504, "DEADLINE_EXCEEDED"),
    (ModelError, 500, "INTERNAL"),
)
GRPC: Final = {"OK": 200, **{name: status for _, status, name in reversed(_STATUS)}}
"""The HTTP status that stands for a gRPC one in metrics."""
_encoder: Final = msgspec.json.Encoder()
_COLUMN_PLACE: Final = re.compile(r"\.(?P<name>.*)\[(?P<row>\d+)\]")

_FLOAT: Final = "got `float`"

encode: Final[Callable[[Any], bytes]] = _encoder.encode


def decode(decoder: msgspec.json.Decoder[Any], body: bytes, root: str = "$") -> Any:
    """The value of a JSON body.

    Raises
    ------
    RequestError : it is no JSON, or not of the decoder's type; says where.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if _FLOAT in str(error):
            try:
                return decoder.decode(integral(body))
            except (RequestError, msgspec.MsgspecError):
                pass
        message, _, path = str(error).partition(" - at `")
        raise RequestError(message, path=root + path.removesuffix("`").removeprefix("$")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}", path=root) from error


def integral(body: bytes) -> bytes:
    """JSON with 3.0 written as 3: the same integer to JSON, and one that some clients send.

    Raises
    ------
    RequestError : it is no JSON.
    """
    try:
        return encode(_integral(msgspec.json.decode(body)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error


def _integral(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**63 else value
    if isinstance(value, list):
        return [_integral(each) for each in value]
    if isinstance(value, dict):
        return {name: _integral(each) for name, each in value.items()}
    return value


def columns(decoder: Decoder, given: dict[str, list[Any]], path: str) -> list[dict[str, Any]]:
    """Checked rows of values given by column; 3.0 is an integer where the contract wants one.

    Raises
    ------
    RequestError : a column is missing, too short or holds a value that breaks the contract.
    """
    try:
        return decoder.columns(given, path=path)
    except RequestError as error:
        if _FLOAT not in error.reason:
            raise
        whole = {field.name for field in decoder.contract.fields if field.type in ("integer", "timestamp")}
        return decoder.columns(
            {name: _integral(values) if name in whole else values for name, values in given.items()}, path=path
        )


def within(error: RequestError, root: str, at: str) -> RequestError:
    """The same error with its path at another place: what began with ``root`` begins with ``at``."""
    return RequestError(error.reason, path=at + error.path.removeprefix(root), hint=error.hint)


def positional(decoder: Decoder, rows: Sequence[Any], path: str) -> list[dict[str, Any]]:
    """Checked rows of values that are given without names, in the order of the contract's fields.

    Parameters
    ----------
    rows : one list of values a row; for a contract of one field also the bare values.
    path : where the rows stand in the body, for errors.

    Raises
    ------
    RequestError : a row has more or fewer values than the contract has fields, or a value breaks the contract.
    """
    names = decoder.contract.names
    lists = [row if isinstance(row, list) else [row] for row in rows]
    for place, row in enumerate(lists):
        if len(row) != len(names):
            raise RequestError(
                f"expected {len(names)} values in the order of the contract ({', '.join(names)}), got {len(row)}",
                path=f"{path}[{place}]",
            )
    if not lists:
        raise RequestError("expected at least one row, got none", path=path)
    try:
        return columns(decoder, {name: [row[place] for row in lists] for place, name in enumerate(names)}, path)
    except RequestError as error:
        found = _COLUMN_PLACE.fullmatch(error.path.removeprefix(path))
        if found is None:
            raise
        where = f"{path}[{found['row']}]" + (f"[{names.index(found['name'])}]" if found["name"] in names else "")
        raise RequestError(error.reason, path=where) from error


def status_of(error: UndriftError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status, _ in _STATUS if isinstance(error, kind)), 500)


def grpc_status_of(error: UndriftError) -> str:
    """The name of the gRPC status of an error."""
    return next((name for kind, _, name in _STATUS if isinstance(error, kind)), "INTERNAL")


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
