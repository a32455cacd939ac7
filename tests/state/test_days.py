"""Days that were read already are answered from memory, and only while their files are the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from undrift.state.columns import holding
from undrift.state.days import Days
from undrift.state.lake import DeltaLake

DAYS = [date(2013, 4, day) for day in (1, 2, 3, 4)]


def rows(day: date, *values: float | None) -> pa.Table:
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return pa.table(
        {
            "date": pa.array([day] * len(values), pa.date32()),
            "at": pa.array([at] * len(values), pa.timestamp("us", "UTC")),
            "value": pa.array(values, pa.float64()),
            "more": pa.array([{"a": value, "b": str(value)} for value in values]),
        }
    )  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    lake = DeltaLake(tmp_path)
    for place, day in enumerate(DAYS):
        lake.append("t", rows(day, float(place), float(place) + 0.5, None))
    return lake


def read(lake: DeltaLake, where: Sequence[tuple[str, str, Any]], columns: Sequence[str] = ()) -> list[Any]:
    found = lake.scan("t", where=where, columns=columns)
    assert found is not None
    return sorted(found.to_pylist(), key=str)


WHERES: list[list[tuple[str, str, Any]]] = [
    [("date", ">=", DAYS[1])],
    [("date", "<=", DAYS[1]), ("value", ">", 0.0)],
    [("date", "==", DAYS[2]), ("value", "!=", 2.0)],
    [("date", "in", DAYS[:2]), ("value", "not in", [0.0])],
    [("date", "in", []), ("value", "in", [1.0])],
    [("date", "!=", DAYS[0]), ("value", "==", None)],
    [("date", "!=", DAYS[0]), ("value", "!=", None)],
    [("date", ">", DAYS[0]), ("at", "<", datetime(2013, 4, 3, tzinfo=UTC))],
]


@pytest.mark.parametrize("where", WHERES)
def test_what_is_answered_from_memory_is_what_the_engine_answers(
    lake: DeltaLake, tmp_path: Path, where: list[tuple[str, str, Any]]
) -> None:
    from undrift.state.columns import predicate

    table = pa.table(DeltaTable(str(tmp_path / "t")).scan(predicate=predicate(where)))
    wanted = sorted(table.select(["date", "at", "value", "more"]).to_pylist(), key=str)
    for _ in range(2):
        assert read(lake, where) == wanted
    assert read(lake, where, ["value"]) == sorted(({"value": row["value"]} for row in wanted), key=str)


def test_a_day_is_read_again_only_when_its_files_changed(lake: DeltaLake, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[date] = []
    split = Days.split

    def watched(self: Days, table: pa.Table, wanted: Sequence[date]) -> dict[date, pa.Table]:
        asked.extend(wanted)
        return split(self, table, wanted)

    monkeypatch.setattr(Days, "split", watched)
    where = [("date", ">=", DAYS[1])]
    first = read(lake, where)
    assert asked == DAYS[1:]
    asked.clear()
    assert read(lake, where) == first
    assert asked == []
    lake.append("t", rows(DAYS[3], 9.0))
    assert len(read(lake, where)) == len(first) + 1
    assert asked == [DAYS[3]]
    asked.clear()
    lake.compact("t")
    assert len(read(lake, where)) == len(first) + 1
    assert asked == [DAYS[3]]  # its two files became one


def test_rows_erased_by_another_engine_are_gone_here_too(lake: DeltaLake, tmp_path: Path) -> None:
    where = [("date", "==", DAYS[1])]
    assert len(read(lake, where)) == 3
    DeltaTable(str(tmp_path / "t")).delete("value = 1.5")
    assert [row["value"] for row in read(lake, where, ["value"])] == [1.0, None]


def test_a_column_that_came_later_is_null_in_days_that_were_kept_before(lake: DeltaLake) -> None:
    where = [("date", "<=", DAYS[3])]
    read(lake, where)
    lake.append("t", rows(DAYS[3], 7.0).append_column("new", pa.array(["x"])))
    found = lake.scan("t", where=where)
    assert found is not None
    assert sorted(found["new"].to_pylist(), key=str) == [None] * 12 + ["x"]


def test_no_more_is_kept_than_may_be_and_the_least_used_day_goes_first() -> None:
    one = rows(DAYS[0], *[float(value) for value in range(100)])
    days = Days(most_bytes=2 * one.nbytes)
    files = frozenset({("a", 1, 1)})
    for day in DAYS[:2]:
        days.put("t", ("value",), day, files, one)
    assert days.get("t", ("value",), DAYS[0], files) is one
    days.put("t", ("value",), DAYS[2], files, one)
    assert [days.get("t", ("value",), day, files) is not None for day in DAYS[:3]] == [True, False, True]
    assert days.get("t", ("value",), DAYS[0], frozenset({("a", 2, 1)})) is None


def test_conditions_on_no_rows_hold_for_none() -> None:
    empty = rows(DAYS[0]).slice(0, 0)
    assert holding(empty, [("value", ">", 1.0)]).num_rows == 0
