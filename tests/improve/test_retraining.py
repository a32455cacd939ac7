"""Fresh training rows: labelled, once each, in time order, without what faults spoiled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.finding import Window
from undrift.improve.retraining import fresh_rows
from undrift.improve.triggers import Retrain

NOW = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
INTERFACE = Interface(
    model="flights",
    task="binary",
    contract=Contract(
        name="flights", fields=(Field(name="flight", type="string"), Field(name="distance", type="number"))
    ),
    label="late",
    key="flight",
    classes=("0", "1"),
)


def rows(*made: tuple[str, float, str | None]) -> pa.Table:
    """(id, days ago, label)"""
    return pa.table(
        {
            "prediction_id": [name for name, _, _ in made],
            "event_time": pa.array([NOW - timedelta(days=days) for _, days, _ in made], pa.timestamp("us", "UTC")),
            "inputs": [{"flight": name, "distance": days} for name, days, _ in made],
            "label": pa.array([label for _, _, label in made], pa.string()),
            "value": pa.nulls(len(made), pa.float64()),
        }
    )


def test_rows_are_labelled_fresh_sound_and_counted_once() -> None:
    table = rows(("a", 1, "1"), ("b", 20, "0"), ("b", 20, "0"), ("c", 2, None), ("d", 8, "1"), ("e", 40, "1"))
    spoiled = [Window(NOW - 9 * DAY, NOW - 7 * DAY)]
    fresh = fresh_rows(Retrain(window="30d", minimum_rows=2), INTERFACE, table, NOW, spoiled=spoiled)
    assert fresh.table.to_pylist() == [
        {"flight": "b", "distance": 20.0, "late": "0"},
        {"flight": "a", "distance": 1.0, "late": "1"},
    ]
    assert (fresh.seen, fresh.unlabelled, fresh.spoiled, fresh.enough) == (5, 1, 1, True)
    assert "2 labelled rows" in fresh.why
    assert not fresh_rows(Retrain(window="30d", minimum_rows=3), INTERFACE, table, NOW, spoiled=spoiled).enough


def test_no_rows_are_not_enough() -> None:
    fresh = fresh_rows(Retrain(), INTERFACE, rows(("a", 1, "1")).slice(0, 0), NOW)
    assert (fresh.table.num_rows, fresh.enough) == (0, False)
