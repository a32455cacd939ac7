"""Captured records as the Arrow tables that the lake keeps, typed by the contract and not by the values seen.

``predictions_<model>``, ``labels_<model>``, ``events_<model>`` and ``source_<name>``; each has a ``date`` by which it
is partitioned. A struct without any field is left out, because Parquet cannot hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from undrift.capture.capture import EventRecord, LabelRecord, PredictionRecord, SourceRecord
from undrift.data.contract import FieldType
from undrift.data.features import Source
from undrift.develop.bundle import Interface
from undrift.ids import to_micros

__all__ = ["events_table", "labels_table", "predictions_table", "source_table"]

DAY: Final = 86_400_000_000
TIME: Final = pa.timestamp("us", "UTC")
TYPES: Final[Mapping[FieldType, pa.DataType]] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": TIME,
}


def predictions_table(interface: Interface, records: Sequence[PredictionRecord]) -> pa.Table:
    """Rows of ``predictions_<model>`` of one interface."""
    inputs = [(f.name, TYPES[f.type]) for f in interface.contract.fields]
    outputs = [output for view in interface.views for output in view.outputs]
    outputs += [output for transform in interface.transforms for output in transform.outputs]
    features = [(output.name, TYPES[output.type]) for output in outputs]
    views = [(view.name, TIME) for view in interface.views]
    columns: dict[str, Any] = {
        "date": _days(record.event_time for record in records),
        "prediction_id": _column(records, lambda r: r.id, pa.string()),
        "request_id": _column(records, lambda r: r.request_id, pa.string()),
        "revision": _column(records, lambda r: r.revision, pa.string()),
        "version": _column(records, lambda r: r.version, pa.int32()),
        "variant": _column(records, lambda r: r.variant, pa.string()),
        "unit": _column(records, lambda r: r.unit, pa.string()),
        "propensity": _column(records, lambda r: r.propensity, pa.float64()),
        "event_time": _column(records, lambda r: r.event_time, TIME),
        "received_at": _column(records, lambda r: r.received_at, TIME),
        "score": _column(records, lambda r: r.score, pa.float64()),
        "prediction": _column(records, lambda r: r.prediction, pa.string()),
        "scores": _column(records, lambda r: r.scores, pa.list_(pa.float64())),
        "inputs": _struct([r.inputs for r in records], inputs),
        "features": _struct([r.features for r in records], features),
        "feature_times": _struct([r.feature_times for r in records], views),
        "violations": _column(records, lambda r: r.violations, pa.list_(pa.string())),
        "latency_us": _column(records, lambda r: r.latency_us, pa.int64()),
        "error": _column(records, lambda r: r.error, pa.string()),
        "trace_id": _column(records, lambda r: r.trace_id or None, pa.string()),
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def labels_table(records: Sequence[LabelRecord]) -> pa.Table:
    """Rows of ``labels_<model>``: ``label`` holds classes, ``value`` numbers; the other one is null."""
    return pa.table(
        {
            "date": _days(record.event_time for record in records),
            "prediction_id": _column(records, lambda r: r.prediction_id, pa.string()),
            "label": _column(records, lambda r: r.label if isinstance(r.label, str) else None, pa.string()),
            "value": _column(records, lambda r: None if isinstance(r.label, str) else r.label, pa.float64()),
            "event_time": _column(records, lambda r: r.event_time, TIME),
            "received_at": _column(records, lambda r: r.received_at, TIME),
        }
    )


def events_table(records: Sequence[EventRecord]) -> pa.Table:
    """Rows of ``events_<model>``: business events, joined to predictions by ``unit``."""
    return pa.table(
        {
            "date": _days(record.event_time for record in records),
            "event_id": _column(records, lambda r: r.id, pa.string()),
            "unit": _column(records, lambda r: r.unit, pa.string()),
            "name": _column(records, lambda r: r.name, pa.string()),
            "value": _column(records, lambda r: r.value, pa.float64()),
            "event_time": _column(records, lambda r: r.event_time, TIME),
            "received_at": _column(records, lambda r: r.received_at, TIME),
        }
    )


def source_table(source: Source, records: Sequence[SourceRecord]) -> pa.Table:
    """Rows of ``source_<name>``: the contract's columns, partitioned by the day they became known."""
    known = source.known_at
    columns: dict[str, Any] = {
        "date": _days(_micros(record.row.get(known), record.received_at) for record in records),
        "received_at": _column(records, lambda r: r.received_at, TIME),
    }
    for field in source.contract.fields:
        columns[field.name] = pa.array([record.row.get(field.name) for record in records], TYPES[field.type])
    return pa.table(columns)


def _micros(value: Any, otherwise: int) -> int:
    return to_micros(value) if isinstance(value, datetime) else otherwise


def _days(micros: Iterable[int]) -> pa.Array:
    return pa.array([at // DAY for at in micros], pa.int32()).cast(pa.date32())


def _column(records: Sequence[Any], value: Callable[[Any], Any], kind: pa.DataType) -> pa.Array:
    return pa.array([value(record) for record in records], kind)


def _struct(rows: Sequence[Mapping[str, Any]], fields: Sequence[tuple[str, pa.DataType]]) -> pa.Array | None:
    if not fields:
        return None
    arrays = [pa.array([row.get(name) for row in rows], kind) for name, kind in fields]
    return pa.StructArray.from_arrays(arrays, fields=[pa.field(name, kind) for name, kind in fields])
