"""Distances of windows from a reference: right in size, and honest about how few days a window holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.difference import MEASURES
from undrift.errors import DeclarationError
from undrift.finding import Finding, Verdict, Window
from undrift.monitor.cells import Reference, Slots, reference_of
from undrift.monitor.drift import judge_drift
from undrift.monitor.frames import columns_of
from undrift.monitor.monitors import Monitor

START = datetime(2013, 4, 1, tzinfo=UTC)
MONITOR = Monitor(name="inputs", kind="drift", persistence=(1, 1))
Stream = Callable[..., pa.Table]


def judged(
    rows: pa.Table, past: pa.Table, monitor: Monitor = MONITOR, day: int = 14, **more: Any
) -> dict[str, Finding]:
    reference = {name: reference_of(values) for name, values in columns_of(past).items()}
    found = judge_drift(monitor, rows, reference, START + timedelta(days=day), **more)
    return {str(f.measurement.detail["column"]): f for f in found}


def test_the_distance_of_categories_is_the_share_that_moved(stream: Stream) -> None:
    def swap(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        row["carrier"] = np.where((row["carrier"] == 0) & (np.arange(400) % 2 == 0), 1, row["carrier"])

    found = judged(stream(14, change=swap), stream(60, first=-60))["carrier"]
    assert found.measurement.value == pytest.approx(0.25, abs=0.03)  # half of UA's half went to DL
    assert "DL: 2" in found.why or "DL: 3" in found.why  # it held 30 % before
    assert found.measurement.interval is not None
    assert found.verdict is (Verdict.FAIL if found.measurement.interval.lower > 0.2 else Verdict.PASS)


def test_rows_alike_within_a_day_count_as_few(stream: Stream) -> None:
    # temp differs by 8 degrees between days and by 3 within: a week is hardly more than seven readings
    found = judged(stream(14, seed=4), stream(60, first=-60))
    assert found["temp"].measurement.detail["design_effect"] > 20
    assert found["distance"].measurement.detail["design_effect"] < 5
    assert found["distance"].verdict is Verdict.PASS


def test_a_new_category_counts_as_other_values(stream: Stream) -> None:
    rows = stream(14)
    inputs = [{**row, "carrier": "ZZ"} for row in rows["inputs"].to_pylist()]
    rows = rows.set_column(rows.column_names.index("inputs"), "inputs", pa.array(inputs))
    found = judged(rows, stream(60, first=-60))["carrier"]
    assert found.verdict is Verdict.FAIL
    assert found.measurement.value == pytest.approx(1.0)
    assert "other values: 0.0% before, 100.0% now" in found.why


def test_a_large_budget_over_many_columns_is_as_gentle_as_a_coin(stream: Stream) -> None:
    rng = np.random.default_rng(3)
    at = np.arange(14) * 86_400_000_000 + int(START.timestamp() * 1e6)
    known = Reference(labels=("a", "b"), counts=(5_000.0, 5_000.0, 0.0))
    shares = {f"moved{k}": 0.9 for k in range(5)} | {f"calm{k}": 0.5 for k in range(5)}
    seen = {}
    for name, share in shares.items():
        first = rng.binomial(500, share, 14)
        seen[name] = Slots(at, np.column_stack([first, 500 - first, 0 * first]).astype(np.float64))
    asked = Monitor(name="inputs", kind="drift", persistence=(1, 1), budget=1000)
    found = judge_drift(
        asked, stream(14), dict.fromkeys(seen, known), START + timedelta(days=14), history=seen
    )  # fmt: skip
    failing = {f.measurement.detail["column"] for f in found if f.verdict is Verdict.FAIL}
    assert failing == {f"moved{k}" for k in range(5)}


def test_a_label_is_watched_only_where_it_is_asked_for(stream: Stream) -> None:
    past = stream(60, first=-60)
    assert "label" not in judged(stream(14), past)
    asked = Monitor(name="outcomes", kind="drift", columns=("label",))
    assert set(judged(stream(14), past, asked)) == {"label"}


def test_windows_of_faults_are_left_out_and_too_few_days_say_nothing(stream: Stream) -> None:
    spoiled = (Window(START + timedelta(days=9), START + timedelta(days=14)),)
    found = judged(stream(14), stream(60, first=-60), spoiled=spoiled)
    assert {f.verdict for f in found.values()} == {Verdict.INCONCLUSIVE}
    answers = judged(stream(14), stream(60, first=-60), answers_spoiled=spoiled)
    assert answers["score"].verdict is Verdict.INCONCLUSIVE
    assert answers["distance"].verdict is Verdict.PASS


def test_a_null_is_no_value(stream: Stream) -> None:
    def absent(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        row["temp"] = np.where(rng.random(400) < 0.5, np.nan, row["temp"])

    found = judged(stream(14, change=absent), stream(60, first=-60))["temp"]
    assert 1000 < found.measurement.n < 1800  # half of seven days of 400


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"window": "soon"}, "no duration"),
        ({"budget": 0.0}, "above 0"),
        ({"persistence": (3, 2)}, "persistence"),
        ({"actions": ("shout",)}, "unknown action 'shout'"),
        ({"window": "1d"}, "'m': a window of 1d .* 'drift' .* at least 5"),
        ({"window": "119h"}, "at least 5"),
        ({"window": "2d", "kind": "performance"}, "'m': a window of 2d .* 'performance' .* at least 3"),
    ],
)
def test_a_monitor_that_contradicts_itself_says_so(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        Monitor(**{"name": "m", "kind": "drift", **wrong})


def test_the_shortest_window_that_is_allowed_can_be_judged(stream: Stream) -> None:
    monitor = Monitor(name="inputs", kind="drift", window="5d", persistence=(1, 1))
    found = judged(stream(14), stream(60, first=-60), monitor)["distance"]
    assert found.verdict is Verdict.PASS
    assert 4 * 400 < found.measurement.n <= 5 * 400  # five days, without the few rows that have no value


def slots(shares: np.ndarray, n: int, rng: np.random.Generator) -> Slots:
    """Days of ``n`` rows in two cells, the first holding a share of each day's own."""
    first = rng.binomial(n, np.clip(shares, 0, 1))
    at = np.arange(len(shares)) * 86_400_000_000 + int(START.timestamp() * 1e6)
    return Slots(at, np.column_stack([first, n - first]).astype(np.float64))


@pytest.mark.parametrize("measure", MEASURES)
def test_any_distance_may_be_asked_for(stream: Stream, measure: str) -> None:
    def moved(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        row["distance"] = row["distance"] * 4
        row["carrier"] = np.where(row["carrier"] == 0, 3, row["carrier"])

    monitor = Monitor(name="inputs", kind="drift", persistence=(1, 1), distance=measure, practical=0.1)
    found = judged(stream(14, change=moved), stream(60, first=-60), monitor)
    assert {found[name].verdict for name in ("distance", "carrier")} == {Verdict.FAIL}
    said = "share that moved" if measure in ("kolmogorov_smirnov", "wasserstein") else measure.replace("_", " ")
    assert said in found["carrier"].why
    with pytest.raises(DeclarationError, match="unknown distance 'far'"):
        Monitor(name="m", kind="drift", distance="far")


def test_a_segment_that_moves_alone_is_told_by_its_own_past() -> None:
    rng = np.random.default_rng(3)
    now = START + timedelta(days=60)
    inner = (0.0,)
    reference = {"x": Reference(edges=inner, counts=(5_000.0, 5_000.0))}
    calm = np.full(60, 0.5)
    moved = np.where(np.arange(60) >= 53, 0.25, 0.5)
    history = {
        "x": slots(np.where(np.arange(60) >= 53, 0.48, 0.5), 2000, rng),
        "x[carrier=UA]": slots(moved, 160, rng),
        "x[carrier=DL]": slots(calm, 160, rng),
    }
    monitor = Monitor(name="m", kind="drift", by_segment=True, history="60d", practical=0.05, persistence=(1, 1))
    found = judge_drift(monitor, pa.table({"score": pa.array([], pa.float64())}), reference, now, history=history)
    assert {(f.measurement.where, f.verdict) for f in found} == {
        ("all", Verdict.PASS),
        ("carrier=UA", Verdict.FAIL),
        ("carrier=DL", Verdict.PASS),
    }


def test_a_column_that_is_nearly_always_one_value_rises_and_falls_and_is_seen() -> None:
    """No rain in training: half of the rows have some now, or the gauge stands at two."""
    rng = np.random.default_rng(3)
    at = np.repeat(np.arange(7), 200) * 86_400_000_000 + int(START.timestamp()) * 1_000_000
    for before, now in (
        (np.zeros(2000), np.where(rng.random(1400) < 0.5, 0.4, 0.0)),
        (np.ones(2000), np.full(1400, 2.0)),
        (np.ones(2000), np.full(1400, 0.5)),
    ):
        rows = pa.table(
            {
                "event_time": pa.array(at, pa.timestamp("us", "UTC")),
                "version": pa.array(np.ones(1400), pa.int32()),
                "score": np.full(1400, 0.5),
                "inputs": pa.StructArray.from_arrays([pa.array(now)], ["rain"]),
            }
        )
        known = {"rain": reference_of(pa.chunked_array([before]))}
        (found,) = judge_drift(MONITOR, rows, known, START + timedelta(days=7))
        assert found.verdict is Verdict.FAIL, found.why
        assert found.measurement.value == pytest.approx(float((now != before[0]).mean()))


def test_a_rare_share_of_few_rows_does_not_drift_by_chance() -> None:
    # 17 rows a day of which one in twenty lies below the cut: a week holds six of them, and now and then none or many
    rng = np.random.default_rng(5)
    reference = Reference(edges=(0.0,), counts=(5_000.0, 95_000.0))
    monitor = Monitor(name="d", kind="drift", history="60d", budget=0.05, practical=0.001, persistence=(1, 1))
    nothing = pa.table({"score": pa.array([], pa.float64())})
    alarms = 0
    for _ in range(1_000):
        history = {"x": slots(np.full(67, 0.05), 17, rng)}
        (found,) = judge_drift(monitor, nothing, {"x": reference}, START + timedelta(days=67), history=history)
        alarms += found.verdict is Verdict.FAIL
    # the normal law of what was seen alone had many more
    assert alarms <= 1_000 * monitor.alpha(1, 30)
