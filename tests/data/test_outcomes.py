from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from undrift.data.inspect import UTC_MICROS
from undrift.data.outcomes import outcomes
from undrift.errors import DataError
from undrift.state.lake import DeltaLake

DAY = datetime(2013, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def predicted(*rows: tuple[str, datetime]) -> pa.Table:
    return pa.table(
        {
            "date": [at.date() for _, at in rows],
            "prediction_id": [name for name, _ in rows],
            "event_time": pa.array([at for _, at in rows], UTC_MICROS),
            "score": [0.5] * len(rows),
            "inputs": [{"carrier": name} for name, _ in rows],
            "violations": [["x>1"] for _ in rows],
        }
    )


def labelled(*rows: tuple[str, str, datetime, datetime]) -> pa.Table:
    names, labels, at, received = zip(*rows, strict=True)
    return pa.table(
        {
            "date": [moment.date() for moment in at],
            "prediction_id": names,
            "label": labels,
            "value": pa.nulls(len(rows), pa.float64()),
            "event_time": pa.array(at, UTC_MICROS),
            "received_at": pa.array(received, UTC_MICROS),
        }
    )


def found(lake: DeltaLake, as_of: datetime, **change: Any) -> list[tuple[str, str | None]]:
    table = outcomes(lake, "m", change.get("start", DAY), change.get("end", DAY + 24 * HOUR), as_of)
    return [(row["prediction_id"], row["label"]) for row in table.to_pylist()]


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    lake = DeltaLake(tmp_path / "lake")
    lake.append("predictions_m", predicted(("c", DAY + 5 * HOUR), ("b", DAY), ("a", DAY), ("next", DAY + 24 * HOUR)))
    lake.append(
        "labels_m",
        labelled(
            ("a", "0", DAY + 2 * HOUR, DAY + 9 * HOUR),
            ("a", "1", DAY + 3 * HOUR, DAY + 4 * HOUR),
            ("b", "0", DAY + 30 * HOUR, DAY + 31 * HOUR),
            ("b", "1", DAY + 30 * HOUR, DAY + 32 * HOUR),
            ("nobody", "1", DAY + HOUR, DAY + HOUR),
        ),
    )
    return lake


def test_only_labels_known_by_then_are_joined(lake: DeltaLake) -> None:
    tick = timedelta(microseconds=1)
    assert found(lake, DAY + HOUR) == [("a", None), ("b", None), ("c", None)]
    assert found(lake, DAY + 2 * HOUR) == [("a", "0"), ("b", None), ("c", None)]
    assert found(lake, DAY + 30 * HOUR - tick) == [("a", "1"), ("b", None), ("c", None)]


def test_of_two_labels_of_one_time_the_one_received_last_counts(lake: DeltaLake) -> None:
    assert found(lake, DAY + 100 * HOUR) == [("a", "1"), ("b", "1"), ("c", None)]


def test_the_window_includes_its_start_and_not_its_end(lake: DeltaLake) -> None:
    assert found(lake, DAY, start=DAY + 5 * HOUR, end=DAY + 24 * HOUR) == [("c", None)]
    assert found(lake, DAY, start=DAY + 24 * HOUR, end=DAY + 25 * HOUR) == [("next", None)]


def test_nested_columns_come_along(lake: DeltaLake) -> None:
    row = outcomes(lake, "m", DAY, DAY + HOUR, DAY + 3 * HOUR).to_pylist()[0]
    assert row["inputs"] == {"carrier": "a"}
    assert row["violations"] == ["x>1"]
    assert row["labelled_at"] == DAY + 3 * HOUR
    assert row["value"] is None


def test_a_model_without_predictions_or_labels_has_an_empty_or_unlabelled_table(tmp_path: Path) -> None:
    lake = DeltaLake(tmp_path)
    nothing = outcomes(lake, "m", DAY, DAY + HOUR, DAY)
    assert nothing.num_rows == 0
    assert {"prediction_id", "event_time", "score", "scores", "label", "value", "labelled_at"} <= set(
        nothing.column_names
    )
    lake.append("predictions_m", predicted(("a", DAY)))
    assert found(lake, DAY) == [("a", None)]


def test_times_need_a_zone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="as_of = 2013-04-01T00:00:00 has no time zone"):
        outcomes(DeltaLake(tmp_path), "m", DAY, DAY, datetime(2013, 4, 1))
