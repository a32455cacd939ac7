"""Contracts and answers as JSON Schema (2020-12), for the OpenAPI document.

A schema says what the decoder takes: rules that only flag are described and not enforced, those that reject are. Two
things no schema can say and the descriptions do: that all columns have one length, and ranges of times given as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.protocols.tensors import KNOWN

__all__ = ["answer", "columns", "event", "label", "moment", "positional", "row", "rows_about", "tensors"]

Schema = dict[str, Any]

INT64: Final = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
FINITE: Final = {"type": "number"}
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999


def moment() -> Schema:
    """A time: ISO 8601 with a zone, or microseconds since 1970 UTC."""
    return {
        "anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": FIRST, "maximum": LAST}]
    }


def value(field: Field) -> Schema:
    """What a value of a field may be."""
    rejects = field.on_violation == "reject"
    schema: Schema = {"string": {"type": "string"}, "boolean": {"type": "boolean"}}.get(field.type, {})
    schema = dict(schema)
    if field.type in ("integer", "number"):
        schema = dict(INT64 if field.type == "integer" else FINITE)
        if rejects and field.minimum is not None:
            schema["minimum"] = field.minimum
        if rejects and field.maximum is not None:
            schema["maximum"] = field.maximum
    elif field.type == "timestamp":
        schema = moment()
    if rejects and field.categories is not None:
        codes: list[Any] = [int(code) for code in field.categories] if field.type == "integer" else [*field.categories]
        schema = {"enum": codes}
    if field.nullable:
        schema = {"anyOf": [schema, {"type": "null"}]}
    words = [field.description] if field.description else []
    words += [f"In {field.unit}."] if field.unit else []
    words += [f"Flagged, not refused: {', '.join(field.rules.values())}."] if field.rules and not rejects else []
    if words:
        schema["description"] = " ".join(words)
    return schema


def row(contract: Contract) -> Schema:
    """A row as an object."""
    return {
        "type": "object",
        "properties": {field.name: value(field) for field in contract.fields},
        "required": [field.name for field in contract.fields if not field.nullable],
        "additionalProperties": contract.unknown != "reject",
    }


def positional(contract: Contract) -> Schema:
    """A row as a list of values in the order of the fields; of one field also the bare value."""
    values = [value(field) for field in contract.fields]
    schema: Schema = {
        "type": "array",
        "description": f"Values in the order {', '.join(contract.names)}.",
        "prefixItems": values,
        "minItems": len(values),
        "maxItems": len(values),
    }
    return {"anyOf": [schema, values[0]]} if len(values) == 1 else schema


def columns(contract: Contract) -> Schema:
    """Rows as lists by column."""
    lists = {field.name: {"type": "array", "items": value(field), "minItems": 1} for field in contract.fields}
    return {
        "type": "object",
        "description": "One list a column, all of one length.",
        "properties": lists,
        "required": [field.name for field in contract.fields if not field.nullable],
        "additionalProperties": contract.unknown != "reject",
    }


def tensors(contract: Contract) -> Schema:
    """The inputs of an infer request: one tensor a field; those that may be null may be left out."""
    ordered = sorted(contract.fields, key=lambda field: field.nullable)
    named = [
        {
            "type": "object",
            "properties": {
                "name": {"const": field.name},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
                "datatype": {"enum": sorted(KNOWN)},
                "data": {"type": "array", "items": value(field), "minItems": 1},
            },
            "required": ["name", "shape", "datatype", "data"],
        }
        for field in ordered
    ]
    return {
        "type": "array",
        "description": "One tensor a field, in any order, of shape [n] or [n, 1], n being the same for all.",
        "prefixItems": named,
        "minItems": sum(not field.nullable for field in ordered),
        "maxItems": len(named),
    }


def answer(interface: Interface) -> Schema:
    """One prediction."""
    text: Schema = {"type": "string", "enum": list(interface.classes)}
    if interface.task == "regression":
        return {"type": "number"}
    if interface.task == "binary":
        return _object({"label": text, "score": {"type": "number", "minimum": 0, "maximum": 1}})
    scores = {name: {"type": "number", "minimum": 0, "maximum": 1} for name in interface.classes}
    return _object({"label": text, "scores": _object(scores)})


def rows_about() -> Schema:
    """Who answered each row."""
    about = _object(
        {
            "id": {"type": "string", "description": "What a label refers to."},
            "version": {"type": "integer"},
            "revision": {"type": "string"},
            "variant": {"type": "string"},
        }
    )
    about["properties"]["violations"] = {"type": "array", "items": {"type": "string"}}
    return {"type": "array", "items": about}


def label(interface: Interface, *, timed: bool) -> Schema:
    """A label; ``timed``: its time must be told."""
    accepted: Schema = dict(FINITE)
    if interface.task != "regression":
        spelled: list[Any] = list(interface.classes)
        spelled += [int(name) for name in interface.classes if name.isdecimal() and str(int(name)) == name]
        spelled += [truth for truth in (True, False) if {str(int(truth)), str(truth).lower()} & set(interface.classes)]
        accepted = {"enum": spelled}
    identity = {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "The id of the prediction."}
    return _told({"id": identity, "label": accepted}, timed)


def event(*, timed: bool) -> Schema:
    """A business event; ``timed``: its time must be told."""
    short = {"type": "string", "minLength": 1, "maxLength": 200}
    unit = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]}
    schema = _told({"id": short, "unit": unit, "name": dict(short)}, timed)
    schema["properties"]["value"] = {**FINITE, "default": 1.0}
    return schema


def _told(properties: Mapping[str, Schema], timed: bool) -> Schema:
    schema = _object({**properties, "event_time": moment()})
    if not timed:
        schema["required"].remove("event_time")
        schema["properties"]["event_time"] = {"anyOf": [*moment()["anyOf"], {"type": "null"}]}
    return schema


def _object(properties: Mapping[str, Schema], required: Sequence[str] | None = None) -> Schema:
    wanted = list(properties) if required is None else list(required)
    return {"type": "object", "properties": dict(properties), "required": wanted}
