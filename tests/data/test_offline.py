from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.features import Aggregate, Feature, FeatureView, Source, Transform, entity_key, latest
from undrift.data.inspect import UTC_MICROS
from undrift.data.offline import feature_table, materialise, on_demand, point_in_time
from undrift.data.online import SqliteOnline
from undrift.errors import DataError, PredictionError

HOURS = [datetime(2013, 1, 1, hour, tzinfo=UTC) for hour in range(24)]
SOURCE = Source(
    name="s",
    contract=Contract(
        name="s",
        fields=(
            Field(name="id", type="integer"),
            Field(name="known", type="timestamp"),
            Field(name="x", type="number", nullable=True),
        ),
    ),
    time="known",
)
VIEW = FeatureView(name="v", source="s", entity="id", features=(Feature(name="x"),), ttl="2h")


def known(*rows: tuple[int | None, datetime | None, float | None]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    types = {"id": pa.int32(), "known": UTC_MICROS, "x": pa.float64()}
    return pa.table(dict(zip(types, map(pa.array, columns, types.values()), strict=True)))


def asked(*rows: tuple[int, datetime], **more: Any) -> pa.Table:
    return pa.table({"id": [i for i, _ in rows], "t": pa.array([t for _, t in rows], UTC_MICROS), **more})


def joined(rows: pa.Table, at: pa.Table) -> list[Any]:
    return point_in_time(at, "t", [(VIEW, feature_table(VIEW, rows, SOURCE))])["x"].to_pylist()


def test_a_value_counts_from_the_moment_it_is_known_until_its_ttl_has_passed() -> None:
    tick = timedelta(microseconds=1)
    times = [HOURS[3] - tick, HOURS[3], HOURS[5], HOURS[5] + tick]
    assert joined(known((1, HOURS[3], 7.0)), asked(*((1, t) for t in times))) == [None, 7.0, 7.0, None]


def test_a_later_null_hides_an_earlier_value() -> None:
    assert joined(known((1, HOURS[3], 7.0), (1, HOURS[4], None)), asked((1, HOURS[4]))) == [None]


def test_of_equal_rows_the_last_counts_and_none_is_doubled() -> None:
    rows = known((1, HOURS[3], 1.0), (1, HOURS[3], 2.0), (1, HOURS[3], 3.0))
    assert joined(rows, asked((1, HOURS[3]), (1, HOURS[3]))) == [3.0, 3.0]


def test_the_time_received_decides_where_the_lake_keeps_no_order() -> None:
    rows = known((1, HOURS[3], 1.0), (1, HOURS[3], 2.0))
    received = rows.append_column("received_at", pa.array([HOURS[9], HOURS[8]], UTC_MICROS))
    assert joined(received, asked((1, HOURS[3]))) == [1.0]


def test_rows_nobody_knew_and_entities_without_rows_change_nothing() -> None:
    rows = known((None, HOURS[1], 1.0), (1, None, 2.0))
    table = asked((2, HOURS[3]), (1, HOURS[3]))
    assert joined(rows, table) == [None, None]
    assert point_in_time(table, "t", [(VIEW, None)])["x"].to_pylist() == [None, None]
    assert joined(known((1, HOURS[1], 1.0)), asked()) == []


def test_zones_and_units_of_time_do_not_matter_but_a_zone_must_be_there() -> None:
    rows = known((1, HOURS[12], 7.0))
    local = asked((1, HOURS[12])).set_column(1, "t", pa.array([HOURS[12]], pa.timestamp("ns", "America/New_York")))
    assert joined(rows, local) == [7.0]
    naive = local.set_column(1, "t", pa.array([datetime(2013, 1, 1, 12)], pa.timestamp("us")))
    with pytest.raises(DataError, match="'t' must hold times with a zone"):
        joined(rows, naive)


def test_columns_that_are_missing_or_there_twice_are_told() -> None:
    features = feature_table(VIEW, known((1, HOURS[1], 1.0)), SOURCE)
    with pytest.raises(DataError, match="no column 'id'"):
        point_in_time(asked((1, HOURS[1])).drop_columns(["id"]), "t", [(VIEW, features)])
    with pytest.raises(DataError, match="'x' is there already"):
        point_in_time(asked((1, HOURS[1]), x=[1]), "t", [(VIEW, features)])
    with pytest.raises(DataError, match="the entity 'id' must be text or an integer, it is double"):
        point_in_time(pa.table({"id": [1.0], "t": pa.array([HOURS[1]], UTC_MICROS)}), "t", [(VIEW, features)])
    with pytest.raises(DataError, match="no column 'x'"):
        feature_table(VIEW, known((1, HOURS[1], 1.0)).drop_columns(["x"]), SOURCE)


def test_the_times_of_the_features_come_along_when_asked_for() -> None:
    features = feature_table(VIEW, known((1, HOURS[1], 1.0)), SOURCE)
    found = point_in_time(asked((1, HOURS[2]), (1, HOURS[9])), "t", [(VIEW, features)], feature_times=True)
    assert found["feature_times"].to_pylist() == [{"v": HOURS[1]}, {"v": None}]


def test_offline_and_online_find_the_same_value(tmp_path: Any) -> None:
    rows = known((1, HOURS[3], 1.0), (1, HOURS[5], None), (2, HOURS[4], 3.0), (1, HOURS[6], 4.0), (2, HOURS[4], 5.0))
    store = SqliteOnline(tmp_path / "x.db")
    table = asked(*((i, HOURS[h]) for h in range(3, 12) for i in (1, 2)))
    online = []
    micros = [int(hour.timestamp() * 1_000_000) for hour in HOURS]
    for h in range(3, 12):  # as time goes: what is known at an hour has been put by then
        store.put("v", latest(VIEW, SOURCE, [r for r in rows.to_pylist() if r["known"] == HOURS[h]]))
        for found in store.get("v", [entity_key(i) or "" for i in (1, 2)]):
            online.append(found[1]["x"] if found and VIEW.fresh(found[0], micros[h]) else None)
    store.close()
    assert joined(rows, table) == online
    assert set(online) == {None, 1.0, 4.0, 5.0}


COUNTED = FeatureView(
    name="v", source="s", entity="id", hop="1h", ttl="1d",
    aggregates=(
        Aggregate(name="mean", function="mean", column="x", window="2h"),
        Aggregate(name="n", function="count", window="2h"),
        Aggregate(name="n_1h", function="count", column="x", window="1h"),
    ),
)  # fmt: skip


def test_a_window_is_open_at_its_start_and_closed_at_its_hop() -> None:
    tick = timedelta(microseconds=1)
    rows = known((1, HOURS[4], 2.0), (1, HOURS[4] + tick, 4.0), (1, HOURS[6], None))
    found = materialise(COUNTED, rows, SOURCE, HOURS[3], HOURS[9]).to_pylist()
    assert [(r["event_time"].hour, r["mean"], r["n"], r["n_1h"]) for r in found] == [
        (4, 2.0, 1.0, 1.0),
        (5, 3.0, 2.0, 1.0),
        (6, 4.0, 2.0, 0.0),  # the first row has left, the one without a value has come
        (7, None, 1.0, 0.0),
        (8, None, None, None),  # nobody is in the window any more, and this row says so
    ]
    assert {r["entity"] for r in found} == {"1"}


def test_a_row_that_was_known_later_does_not_reach_back() -> None:
    early, late = known((1, HOURS[4], 1.0)), known((1, HOURS[4], 1.0), (1, HOURS[6], 100.0))
    until_five = materialise(COUNTED, early, SOURCE, HOURS[3], HOURS[5])
    assert materialise(COUNTED, late, SOURCE, HOURS[3], HOURS[5]).equals(until_five)


def test_nothing_seen_gives_no_row_and_a_direct_view_has_no_hops() -> None:
    assert materialise(COUNTED, known((1, HOURS[4], 1.0)), SOURCE, HOURS[10], HOURS[20]).num_rows == 0
    assert materialise(COUNTED, known((1, HOURS[4], 1.0)), SOURCE, HOURS[4], HOURS[4]).num_rows == 0
    with pytest.raises(DataError, match="has no aggregates"):
        materialise(VIEW, known(), SOURCE, HOURS[0], HOURS[1])


def test_booleans_are_averaged_and_nan_is_no_value() -> None:
    rows = known((1, HOURS[4], float("nan")), (1, HOURS[4], 3.0))
    assert materialise(COUNTED, rows, SOURCE, HOURS[3], HOURS[4])["mean"].to_pylist() == [3.0]
    flags = rows.set_column(2, "x", pa.array([True, False]))
    assert materialise(COUNTED, flags, SOURCE, HOURS[3], HOURS[4])["mean"].to_pylist() == [0.5]


CALENDAR = Transform(
    name="calendar", function="project:calendar", inputs=("t", "x"),
    outputs=(Feature(name="hour", type="integer"), Feature(name="missing", type="boolean")),
)  # fmt: skip


def calendar(row: Mapping[str, Any]) -> Mapping[str, Any]:
    assert row["t"].tzinfo is UTC
    return {"hour": row["t"].hour, "missing": row["x"] is None}


def test_a_transform_sees_offline_what_it_sees_in_a_request() -> None:
    rows = asked((1, HOURS[5]), (2, HOURS[6]), (3, HOURS[7]), x=[1.0, float("nan"), None])
    found = point_in_time(rows, "t", [], [CALENDAR], {"calendar": calendar})
    assert found["hour"].to_pylist() == [5, 6, 7]
    assert found["missing"].to_pylist() == [False, True, True]
    assert found.schema.field("hour").type == pa.int64()


def test_a_transform_that_fails_says_at_which_row() -> None:
    rows = asked((1, HOURS[5]), (2, HOURS[6]), x=[1.0, None])
    with pytest.raises(PredictionError, match=r"raised TypeError.*\(row 1 of 2\)"):
        on_demand(rows, CALENDAR, lambda row: {"hour": int(1 + row["x"]), "missing": False})
    with pytest.raises(DataError, match="no function was given for the transform 'calendar'"):
        point_in_time(rows, "t", [], [CALENDAR])


def test_whole_numbers_of_any_size_may_stand_for_numbers() -> None:
    big = Transform(name="big", function="m:big", inputs=("x",), outputs=(Feature(name="y"),))
    found = on_demand(pa.table({"x": [1, 2]}), big, lambda row: {"y": 10**17 + row["x"]})
    assert found["y"].to_pylist() == [1e17, 1e17]
