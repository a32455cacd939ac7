"""The OpenAPI 3.1 document of a server: what it serves now, built from the contracts in force.

Each model and source has paths of its own, so a client generated from it knows their fields. Schemas stand in
schemas.py. A path that is served and not described here fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from undrift.data.contract import Contract
from undrift.inference.endpoint import Endpoint
from undrift.protocols import schemas

__all__ = ["build"]

Item = dict[str, Any]

ARROW: Final = "application/vnd.apache.arrow.stream"
CSV: Final = "text/csv"
JSON_LINES: Final = "application/jsonlines"
OCTETS: Final = "application/octet-stream"
_FORMS: Final[dict[str, Item]] = {
    ARROW: {"type": "string", "format": "binary", "description": "An Arrow IPC stream, one column a field."},
    CSV: {"type": "string", "description": "One row a line, with or without a header."},
    JSON_LINES: {"type": "string", "description": "One row a line, as an object or a list."},
    OCTETS: {
        "type": "string",
        "format": "binary",
        "description": "JSON of as many bytes as Inference-Header-Content-Length says, then raw tensors.",
    },
}

_ERRORS: Final = {
    "400": "The body is wrong: what was expected, and where.",
    "404": "No such model, source or version (any more).",
    "406": "None of the content types in Accept is spoken.",
    "408": "The body did not arrive in time.",
    "413": "The body is larger than serve.max_body_bytes.",
    "415": "Another content type, or a compressed body, was sent.",
    "500": "The model failed on this request.",
    "503": "Back-pressure: the queue is full, or nothing can be written; see Retry-After.",
    "504": "The time allowed has passed; the work was dropped.",
}
_PARAMETERS: Final = {
    "RequestId": {
        "name": "X-Request-Id", "in": "header", "schema": {"type": "string"},
        "description": "Letters and digits, at most 128: what the request is called; otherwise a fresh id is given.",
    },
    "Timeout": {
        "name": "X-Request-Timeout-Ms", "in": "header",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
        "description": "Milliseconds after which nobody waits any more; at most serve.timeout_ms.",
    },
    "Trace": {
        "name": "traceparent", "in": "header", "schema": {"type": "string"},
        "description": "W3C trace context. It is passed on, and kept in the records.",
    },
}  # fmt: skip


def build(
    endpoints: Mapping[str, Endpoint],
    sources: Mapping[str, Contract],
    *,
    title: str,
    version: str,
    event_time: bool,
    predict_route: str = "",
    health_route: str = "",
    model: str = "",
    more: Mapping[str, Item] | None = None,
) -> dict[str, Any]:
    """The document.

    Parameters
    ----------
    endpoints, sources : what is served, by name.
    event_time : whether labels and events must tell their time, and watermarks are taken.
    predict_route, health_route : paths that a platform has asked for.
    model : the one that paths without a name answer for; the only one if empty.
    more : paths that others add, with their items.
    """
    paths: dict[str, Item] = {}
    for name, endpoint in sorted(endpoints.items()):
        paths.update(_model(name, endpoint, event_time))
    for name, contract in sorted(sources.items()):
        rows = {"type": "array", "items": schemas.row(contract)}
        key = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}
        paths[f"/v1/sources/{_escaped(name)}"] = _post(
            f"Rows of the source {name}", _object({"rows": rows}), _accepted(), parameters=[key]
        )
    if event_time:
        told = _object({"event_time": schemas.moment()})
        paths["/v1/watermark"] = _post("Everything before this time has been sent", told, _accepted())
    only = endpoints.get(model) if model else next(iter(endpoints.values())) if len(endpoints) == 1 else None
    if only is not None:
        paths["/invocations"] = _invocations(only)
        if predict_route:
            paths[predict_route] = _predict(only)
    if health_route:
        paths[health_route] = _health("Whether requests are answered")
    paths.update(_server())
    paths.update(more or {})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version,
            "description": "What this server answers now. The reference with all that a schema cannot say is "
            "docs/reference/http.md.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": _object({"error": {"type": "string"}})},
            "parameters": _PARAMETERS,
            "responses": {f"E{code}": _answer(text, _ref("schemas/Error")) for code, text in _ERRORS.items()},
        },
    }


def _model(name: str, endpoint: Endpoint, timed: bool) -> dict[str, Item]:
    interface, at = endpoint.interface, _escaped(name)
    v1, v2 = f"/v1/models/{at}", f"/v2/models/{at}"
    labels = {"type": "array", "items": schemas.label(interface, timed=timed)}
    events = {"type": "array", "items": schemas.event(timed=timed)}
    found = {
        f"{v1}:predict": _predict(endpoint),
        f"{v1}:explain": _explain(endpoint),
        f"{v1}/labels": _post(f"Labels of predictions of {name}", _object({"labels": labels}), _accepted()),
        f"{v1}/events": _post(f"Business events of units of {name}", _object({"events": events}), _accepted()),
        v1: _get(f"State of {name}", _object({"model_version_status": {"type": "array"}})),
        f"{v1}/metadata": _get(f"Signature of {name}", _object({"model_spec": {"type": "object"}})),
        f"{v2}/infer": _infer(endpoint),
        v2: _get(f"Inputs and outputs of {name}", _object({"name": {"const": name}, "inputs": {"type": "array"}})),
        f"{v2}/ready": _get(f"Whether {name} is loaded", _object({"ready": {"type": "boolean"}})),
        f"/endpoints/{at}/invocations": _invocations(endpoint),
    }
    for version in sorted({revision.placed.version for revision in endpoint.revisions.values()}):
        one, two = f"{v1}/versions/{version}", f"{v2}/versions/{version}"
        found |= {
            f"{one}:predict": found[f"{v1}:predict"],
            one: found[v1],
            f"{one}/metadata": found[f"{v1}/metadata"],
            f"{two}/infer": found[f"{v2}/infer"],
            two: found[v2],
            f"{two}/ready": found[f"{v2}/ready"],
        }
    return found


def _predict(endpoint: Endpoint) -> Item:
    contract = endpoint.interface.contract
    rows = _rows(contract)
    body = {"anyOf": [
        {**_object({"instances": rows}), "not": {"required": ["inputs"]}},
        {**_object({"inputs": schemas.columns(contract)}), "not": {"required": ["instances"]}},
    ]}  # fmt: skip
    about = {"rows": schemas.rows_about(), "request_id": {"type": "string"}}
    answers = {"type": "array", "items": schemas.answer(endpoint.interface)}
    answer = {"anyOf": [_object({"predictions": answers, **about}), _object({"outputs": {}, **about})]}
    title = f"Predict with {endpoint.interface.model} (TensorFlow Serving, Vertex AI)"
    return _post(title, body, answer, others=(ARROW,))


def _explain(endpoint: Endpoint) -> Item:
    """Rows as those of a prediction; how many at most, the settings say."""
    item, classes = _predict(endpoint)["post"], endpoint.interface.classes
    named = classes[1:] if len(classes) == 2 else classes
    body = {"allOf": [
        item["requestBody"]["content"]["application/json"]["schema"],
        {"properties": {
            "method": {"enum": ["auto", "exact", "permutation", "lime"]},
            "label": {"enum": ["", *named], "description": "The class to explain; the one answered if left out."},
        }},
    ]}  # fmt: skip
    answers = {"type": "array", "items": {"type": "object"}}
    answer = _object({"explanations": answers, "rows": schemas.rows_about(), "request_id": {"type": "string"}})
    return _post(f"Explain predictions of {endpoint.interface.model}", body, answer)


def _infer(endpoint: Endpoint) -> Item:
    body = _object({"inputs": schemas.tensors(endpoint.interface.contract)})
    body["properties"]["id"] = {"type": "string"}
    tensor = _object({"name": {"type": "string"}, "shape": {"type": "array"}, "datatype": {"type": "string"}})
    answer = _object(
        {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": tensor},
        }
    )
    title = f"Predict with {endpoint.interface.model} (Open Inference Protocol)"
    return _post(title, body, answer, others=(OCTETS,))


def _invocations(endpoint: Endpoint) -> Item:
    contract = endpoint.interface.contract
    rows = _rows(contract)
    names = list(contract.names)
    split = _object(
        {
            "columns": {"const": names},
            "data": {"type": "array", "items": _list_row(contract), "minItems": 1},
        }
    )
    forms = {
        "dataframe_split": split,
        "dataframe_records": rows,
        "instances": rows,
        "inputs": {"anyOf": [*rows["anyOf"], schemas.columns(contract)]},
    }
    body = {
        "anyOf": [
            {**_object({form: schema}), "not": {"anyOf": [{"required": [other]} for other in forms if other != form]}}
            for form, schema in forms.items()
        ]
    }
    answers = {"type": "array", "items": schemas.answer(endpoint.interface)}
    answer = _object({"predictions": answers, "rows": schemas.rows_about(), "request_id": {"type": "string"}})
    title = f"Predict with {endpoint.interface.model} (MLflow, SageMaker)"
    return _post(title, body, answer, others=(CSV, JSON_LINES, ARROW))


def _rows(contract: Contract) -> dict[str, Any]:
    """Rows of one kind: all with names, or all without."""
    kinds = (schemas.row(contract), schemas.positional(contract))
    return {"anyOf": [{"type": "array", "items": kind, "minItems": 1} for kind in kinds]}


def _list_row(contract: Contract) -> dict[str, Any]:
    """A line of a split frame: always a list, also of one field."""
    schema = schemas.positional(contract)
    found: dict[str, Any] = schema["anyOf"][0] if len(contract.fields) == 1 else schema
    return found


def _server() -> dict[str, Item]:
    ready = _object({"ready": {"type": "boolean"}, "models": {"type": "object"}})
    about = _object({"name": {"type": "string"}, "version": {"type": "string"}, "extensions": {"type": "array"}})
    health = {
        path: _health("Whether requests are answered", ready)
        for path in ("/v2/health/ready", "/readyz", "/ping", "/health")
    }
    live = _object({"live": {"type": "boolean"}})
    return {
        "/v2": _get("Name, version and extensions of the server", about),
        **health,
        "/v2/health/live": _get("Whether the process answers at all", live),
        "/healthz": _get("Whether the process answers at all", live),
        "/version": _get("The version of undrift", {"type": "string"}, "text/plain"),
        "/metrics": _get("Figures for Prometheus", {"type": "string"}, "text/plain"),
        "/openapi.json": _get("This document", _object({"openapi": {"const": "3.1.0"}})),
    }


def _post(
    summary: str, body: Item, answer: Item, parameters: list[Item] | None = None, others: Sequence[str] = ()
) -> Item:
    usual = [_ref(f"parameters/{name}") for name in _PARAMETERS]
    contents = {"application/json": {"schema": body}, **{kind: {"schema": _FORMS[kind]} for kind in others}}
    kinds = {"application/json": {"schema": answer}, **{kind: {"schema": _FORMS[kind]} for kind in others}}
    return {
        "post": {
            "summary": summary,
            "parameters": [*usual, *(parameters or [])],
            "requestBody": {"required": True, "content": contents},
            "responses": {
                "200": {"description": "The answer.", "content": kinds},
                **{code: _ref(f"responses/E{code}") for code in _ERRORS},
            },
        }
    }


def _get(summary: str, answer: Item, kind: str = "application/json") -> Item:
    codes = ("404", "503")
    return {
        "get": {
            "summary": summary,
            "responses": {
                "200": _answer("The answer.", answer, kind), **{code: _ref(f"responses/E{code}") for code in codes}
            },
        }
    }  # fmt: skip


def _health(summary: str, answer: Item | None = None) -> Item:
    schema = answer or _object({"ready": {"type": "boolean"}})
    responses = {"200": _answer("They are.", schema), "503": _answer("They are not; the body says why.", schema)}
    return {"get": {"summary": summary, "responses": responses}}


def _answer(text: str, schema: Item, kind: str = "application/json") -> Item:
    return {"description": text, "content": {kind: {"schema": schema}}}


def _accepted() -> Item:
    return _object({"accepted": {"type": "integer", "minimum": 0}})


def _object(properties: Mapping[str, Any]) -> Item:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _ref(where: str) -> Item:
    return {"$ref": f"#/components/{where}"}


def _escaped(name: str) -> str:
    """A name as a part of a path, braces being the mark of parameters there."""
    return name.replace("{", "%7B").replace("}", "%7D").replace("/", "%2F")
