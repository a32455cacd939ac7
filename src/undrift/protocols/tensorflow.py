"""TensorFlow Serving's REST shapes: predict in row and column format, status and metadata of a model.

Vertex AI speaks the same (`instances` in, `predictions` out). Requests are checked by the contract's decoder; rows
without names are taken in the order of the contract's fields. Source: the RESTful API page of TensorFlow Serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from undrift.data.decoder import Decoder
from undrift.develop.bundle import Interface
from undrift.errors import NotFoundError, RequestError
from undrift.inference.endpoint import Endpoint, Row
from undrift.protocols.wire import decode, encode, integral, positional

__all__ = ["about", "answer", "answer_columns", "metadata", "predictions", "read", "status"]

SIGNATURE: Final = "serving_default"
_DTYPES: Final = {
    "string": "DT_STRING",
    "integer": "DT_INT64",
    "number": "DT_DOUBLE",
    "boolean": "DT_BOOL",
    "timestamp": "DT_STRING",
}


class _Form(msgspec.Struct):
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Instances(msgspec.Struct):
    instances: list[Any]


_form: Final = msgspec.json.Decoder(_Form)
_instances: Final = msgspec.json.Decoder(_Instances)


def read(decoder: Decoder, body: bytes) -> tuple[list[dict[str, Any]], bool]:
    """The rows of ``{"instances": [...]}`` or ``{"inputs": {...}}``, and whether they came in columns.

    An instance is an object, or a list of values in the order of the contract's fields (of one field: a bare value).

    Raises
    ------
    RequestError : malformed JSON, no rows, or a row that breaks the contract; says where.
    """
    try:
        rows = _instances_of(decoder, body)
    except RequestError as error:
        if not (error.path.startswith("$.instances[") and error.reason.startswith("Expected `object`, got")):
            raise
        given = decode(_instances, body).instances
        if any(isinstance(each, dict) for each in given):
            raise
        return positional(decoder, given, "$.instances"), False
    columnar = b'"inputs"' in body and _form.decode(body).inputs is not msgspec.UNSET
    return rows, columnar


def _instances_of(decoder: Decoder, body: bytes) -> list[dict[str, Any]]:
    """The rows by the contract; where 3.0 stood for an integer, by a second reading."""
    try:
        return decoder.instances(body)
    except RequestError as error:
        if "got `float`" not in error.reason:
            raise
        return decoder.instances(integral(body))


def predictions(interface: Interface, rows: Sequence[Row]) -> list[Any]:
    """One value a row: a number, ``{"label", "score"}`` or ``{"label", "scores"}``, as the task has it."""
    if interface.task == "regression":
        return [row.score for row in rows]
    if interface.task == "binary":
        return [{"label": row.label, "score": row.score} for row in rows]
    classes = interface.classes
    return [{"label": row.label, "scores": dict(zip(classes, row.scores or (), strict=True))} for row in rows]


def about(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Beside the answers: who gave each, and what a label refers to."""
    found = []
    for row in rows:
        entry: dict[str, Any] = {
            "id": row.id, "version": row.version, "revision": row.revision, "variant": row.variant
        }  # fmt: skip
        if row.violations:
            entry["violations"] = row.violations
        found.append(entry)
    return found


def answer(interface: Interface, rows: Sequence[Row], request_id: str) -> bytes:
    """``predictions``, and beside them who answered each."""
    return encode({"predictions": predictions(interface, rows), "rows": about(rows), "request_id": request_id})


def answer_columns(interface: Interface, rows: Sequence[Row], request_id: str) -> bytes:
    """``outputs`` in columns, as a request in columns is answered; a single output goes without its name."""
    outputs: Any = [row.score for row in rows]
    if interface.task == "binary":
        outputs = {"label": [row.label for row in rows], "score": outputs}
    elif interface.task == "multiclass":
        outputs = {"label": [row.label for row in rows], "scores": [row.scores for row in rows]}
    return encode({"outputs": outputs, "rows": about(rows), "request_id": request_id})


def status(endpoint: Endpoint, version: str = "") -> bytes:
    """The versions that are loaded, and what undrift knows beyond them.

    Raises
    ------
    NotFoundError : the version asked for is not loaded.
    """
    states = [
        {"version": each, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for each in _versions(endpoint, version)
    ]
    route = endpoint.route
    more = {
        "model": route.model,
        "epoch": endpoint.epoch,
        "champion": {"revision": route.champion, "version": endpoint.champion.placed.version},
        "candidate": {"revision": route.candidate, "weight": route.weight} if route.candidate else None,
        "contract": endpoint.interface.contract,
    }
    return encode({"model_version_status": states, "undrift": more})


def metadata(endpoint: Endpoint, version: str = "") -> bytes:
    """The signature: inputs by the contract's fields, outputs by the task; one value a row.

    Raises
    ------
    NotFoundError : the version asked for is not loaded.
    """
    interface = endpoint.interface
    _versions(endpoint, version)
    kinds = {"score": "DT_DOUBLE"}
    if interface.task != "regression":
        kinds = {"label": "DT_STRING", "score" if interface.task == "binary" else "scores": "DT_DOUBLE"}
    signature = {
        "inputs": {field.name: _tensor(field.name, _DTYPES[field.type]) for field in interface.contract.fields},
        "outputs": {
            name: _tensor(name, kind, len(interface.classes) * (name == "scores")) for name, kind in kinds.items()
        },
        "method_name": "tensorflow/serving/predict",
    }
    spec = {"name": interface.model, "signature_name": "", "version": version or str(endpoint.champion.placed.version)}
    return encode({"model_spec": spec, "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}}})


def _versions(endpoint: Endpoint, wanted: str) -> list[str]:
    loaded = [str(revision.placed.version) for revision in endpoint.revisions.values()]
    if wanted and wanted not in loaded:
        model = endpoint.route.model
        raise NotFoundError(f"version {wanted[:20]} of model {model!r} is not loaded; loaded: {', '.join(loaded)}.")
    return [wanted] if wanted else loaded


def _tensor(name: str, dtype: str, width: int = 0) -> dict[str, Any]:
    sizes = ["-1", str(width)] if width else ["-1"]
    return {
        "dtype": dtype,
        "tensor_shape": {"dim": [{"size": size, "name": ""} for size in sizes], "unknown_rank": False},
        "name": f"{name}:0",
    }
