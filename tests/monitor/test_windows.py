"""Profiles kept tick by tick: once each, their sum is the profile of the whole, and they say how days differ."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.profile import Profile
from undrift.develop.bundle import Interface
from undrift.finding import Verdict, Window
from undrift.monitor.cells import reference_from
from undrift.monitor.drift import judge_drift
from undrift.monitor.frames import columns_of
from undrift.monitor.monitors import Monitor
from undrift.monitor.windows import asked_for, history_of, keep_profiles, kept_profiles
from undrift.state.lake import DeltaLake

START = datetime(2013, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
INTERFACE = Interface(
    model="flights",
    task="binary",
    contract=Contract(
        name="flights", fields=(Field(name="carrier", type="string"), Field(name="distance", type="number"))
    ),
    label="late",
    segments=("carrier",),
    classes=("0", "1"),
)
Stream = Callable[..., pa.Table]


def answered(rows: pa.Table) -> pa.Table:
    n = rows.num_rows
    return rows.append_column("variant", pa.array(["champion"] * n)).append_column(
        "latency_us", pa.array(np.arange(n) % 7_000)
    )


def edges_of(past: pa.Table) -> Profile:
    return Profile.of(pa.table(columns_of(past)))


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(str(tmp_path / "lake"))


def test_what_is_kept_tick_by_tick_adds_up_to_the_profile_of_all(stream: Stream, lake: DeltaLake) -> None:
    rows, edges = answered(stream(4, n=200)), edges_of(stream(20, first=-20, n=200))
    for day in range(4):
        at = START + day * DAY
        assert keep_profiles(lake, INTERFACE, rows, edges, at, at + DAY, segments=True) == 1
        assert keep_profiles(lake, INTERFACE, rows, edges, at, at + DAY, segments=True) == 0, "a tick that runs again"
    kept = kept_profiles(lake, "flights", START, START + 4 * DAY)
    assert [(k.start, k.end, k.version, k.variant) for k in kept] == [
        (START + d * DAY, START + (d + 1) * DAY, 1, "champion") for d in range(4)
    ]
    total = Profile.total([k.profile for k in kept]).columns
    whole = Profile.of(pa.table(columns_of(rows)), edges_from=edges).columns
    assert {"carrier", "distance", "temp", "score", "latency_us"} <= set(total)
    for name in ("carrier", "distance", "temp", "score"):
        assert total[name].counts == whole[name].counts
    assert total["carrier"].common == whole["carrier"].common
    carriers = dict(whole["carrier"].top)
    assert total["distance[carrier=UA]"].n == carriers["UA"]
    assert kept_profiles(lake, "flights", START + DAY, START + 2 * DAY) == kept[1:2]
    assert kept_profiles(lake, "nobody", START, START + DAY) == []


def test_history_in_the_lake_judges_as_the_rows_do_and_knows_how_days_differ(stream: Stream, lake: DeltaLake) -> None:
    def summer(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        if day >= 45:
            row["distance"] = row["distance"] * 1.5

    rows, past = answered(stream(52, n=100, change=summer)), stream(60, first=-60, n=100)
    edges = edges_of(past)
    reference = {name: reference_from(column) for name, column in edges.columns.items() if name != "label"}
    for day in range(52):
        keep_profiles(lake, INTERFACE, rows, edges, START + day * DAY, START + (day + 1) * DAY)
    history = history_of(kept_profiles(lake, "flights", START, START + 52 * DAY), reference, 1)
    assert set(history) == {"carrier", "distance", "temp", "score"}
    monitor = Monitor(name="inputs", kind="drift", history="60d", practical=0.05, persistence=(1, 1))
    now = START + 52 * DAY
    by_rows = {f.measurement.detail["column"]: f for f in judge_drift(monitor, rows, reference, now)}
    by_past = {f.measurement.detail["column"]: f for f in judge_drift(monitor, rows, reference, now, history=history)}
    for name, found in by_rows.items():
        assert by_past[name].measurement.value == pytest.approx(found.measurement.value, abs=1e-12)
        assert by_past[name].measurement.n == found.measurement.n
    assert by_past["distance"].verdict is Verdict.FAIL
    assert by_past["carrier"].verdict is Verdict.PASS
    assert (
        by_past["temp"].measurement.detail["design_effect"]
        > 5 * by_past["distance"].measurement.detail["design_effect"]
    )
    # faults are left out of it as they are out of rows
    spoiled = (Window(now - 5 * DAY, now),)
    left = judge_drift(monitor, rows, reference, now, history=history, spoiled=spoiled)
    assert {f.verdict for f in left} == {Verdict.INCONCLUSIVE}


def test_scores_of_another_version_are_another_history(stream: Stream, lake: DeltaLake) -> None:
    rows, edges = answered(stream(2, n=100)), edges_of(stream(20, first=-20, n=100))
    keep_profiles(lake, INTERFACE, rows, edges, START, START + DAY)
    reference = {name: reference_from(column) for name, column in edges.columns.items()}
    kept = kept_profiles(lake, "flights", START, START + DAY)
    assert "score" in history_of(kept, reference, 1)
    assert "score" not in history_of(kept, reference, 2)
    assert "distance" in history_of(kept, reference, 2)


def test_nothing_is_kept_unless_a_monitor_asks_for_it() -> None:
    assert asked_for([Monitor(name="a", kind="drift"), Monitor(name="b", kind="silent")], DAY) is None
    asking = [
        Monitor(name="a", kind="drift", history="60d"),
        Monitor(name="b", kind="drift", history="30d", by_segment=True),
    ]
    assert asked_for(asking, DAY) == (timedelta(days=60), DAY, True)
    assert asked_for(asking, timedelta(minutes=5)) == (timedelta(days=60), DAY, True), "days are compared, not ticks"
