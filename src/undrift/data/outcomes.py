"""Predictions with their outcomes: what was predicted, joined to the label that was known at a given time; and events.

Labels come late, more than once, or never. Nothing is measured here; performance, guardrails and training data all
start from this one join.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from undrift.errors import DataError
from undrift.state.ports import Lake

__all__ = ["events_of", "outcomes", "with_labels"]

_TIME: Final = pa.timestamp("us", "UTC")
_DAY: Final = timedelta(days=1)
# what every predictions table has; inputs and features are typed by the model's contract and views
_PREDICTIONS: Final = pa.schema(
    [
        ("date", pa.date32()),
        ("prediction_id", pa.string()),
        ("request_id", pa.string()),
        ("revision", pa.string()),
        ("version", pa.int32()),
        ("variant", pa.string()),
        ("unit", pa.string()),
        ("propensity", pa.float64()),
        ("event_time", _TIME),
        ("received_at", _TIME),
        ("score", pa.float64()),
        ("scores", pa.list_(pa.float64())),
        ("prediction", pa.string()),
    ]
)
_EVENTS: Final = pa.schema(
    [("unit", pa.string()), ("name", pa.string()), ("value", pa.float64()), ("event_time", _TIME)]
)
_LABELS: Final = pa.schema([("label", pa.string()), ("value", pa.float64()), ("labelled_at", _TIME)])


def outcomes(
    lake: Lake, model: str, start: datetime, end: datetime, as_of: datetime, *, columns: Sequence[str] = ()
) -> pa.Table:
    """Predictions with event time in ``[start, end)``, each with the latest label known at ``as_of``.

    A label counts if its event time is at or before ``as_of``; of several the one with the latest event time does, then
    the one received last. A label that happened more than a day before ``start`` belongs to an earlier prediction.

    Parameters
    ----------
    lake : tables ``predictions_<model>`` and ``labels_<model>``.
    start, end, as_of : aware times.
    columns : of the predictions, ``event_time`` and ``prediction_id`` among them; all if empty.

    Returns
    -------
    pyarrow.Table
        the columns of the predictions and ``label`` (text, classifiers), ``value`` (float64, regression) and
        ``labelled_at`` (event time of the label), null where no label is known; ordered by event time, then
        prediction id. Empty where nothing was predicted.

    Raises
    ------
    DataError : a time has no zone.
    """
    for name, at in (("start", start), ("end", end), ("as_of", as_of)):
        if at.tzinfo is None:
            raise DataError(
                f"{name} = {at.isoformat()} has no time zone.", hint="Give aware times, as datetime.now(UTC)."
            )
    days = [("date", ">=", _date(start)), ("date", "<=", _date(end))]
    within = [*days, ("event_time", ">=", start), ("event_time", "<", end)]
    predictions = lake.scan(f"predictions_{model}", columns=columns, where=within)
    if predictions is None:
        predictions = _PREDICTIONS.empty_table()
    times = predictions.select(["event_time", "prediction_id"])  # nested columns cannot be sorted along
    predictions = predictions.take(pc.sort_indices(times, sort_keys=_keys("event_time", "prediction_id")))
    return with_labels(lake, model, predictions, start, as_of)


def with_labels(lake: Lake, model: str, predictions: pa.Table, since: datetime, as_of: datetime) -> pa.Table:
    """Predictions beside the latest label known at ``as_of`` of each, as `outcomes` gives them.

    Parameters
    ----------
    predictions : has ``prediction_id``, and none of the label's columns.
    since : event time of the first of them, or earlier.
    """
    known = [("date", ">=", _date(since - _DAY)), ("date", "<=", _date(as_of)), ("event_time", "<=", as_of)]
    labels = lake.scan(f"labels_{model}", where=known) if predictions.num_rows else None
    if labels is None or not labels.num_rows:
        nothing = {field.name: pa.nulls(predictions.num_rows, field.type) for field in _LABELS}
        return _beside(predictions, nothing)
    labels = labels.sort_by(_keys("event_time", "received_at"))
    # the last of each prediction: its place is the largest after sorting
    places = pa.table({"id": labels["prediction_id"], "place": pa.array(range(labels.num_rows), pa.int64())})
    last = places.group_by("id").aggregate([("place", "max")])
    found = last["place_max"].take(pc.index_in(predictions["prediction_id"], value_set=last["id"].combine_chunks()))
    named = {"label": "label", "value": "value", "labelled_at": "event_time"}
    taken = {
        name: labels[source].take(found).cast(_LABELS.field(name).type)
        if source in labels.column_names
        else pa.nulls(predictions.num_rows, _LABELS.field(name).type)
        for name, source in named.items()
    }
    return _beside(predictions, taken)


def events_of(lake: Lake, model: str, names: Sequence[str], start: datetime, end: datetime) -> pa.Table:
    """Business events with event time in ``[start, end)``: ``unit``, ``name``, ``value``, ``event_time``, unordered.

    Empty where none of these names was ever sent.
    """
    within = [("date", ">=", _date(start)), ("date", "<=", _date(end)), ("event_time", ">=", start)]
    found = lake.scan(f"events_{model}", where=[*within, ("event_time", "<", end)])
    if found is None:
        return _EVENTS.empty_table()
    return found.filter(pc.is_in(found["name"], value_set=pa.array(list(names), pa.string()))).select(_EVENTS.names)


def _beside(predictions: pa.Table, columns: dict[str, Any]) -> pa.Table:
    for name, values in columns.items():
        predictions = predictions.append_column(name, values)
    return predictions


def _date(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _keys(*names: str) -> list[tuple[str, str]]:
    return [(name, "ascending") for name in names]
