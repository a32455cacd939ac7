"""Shares of rows that training never had: each fault is named with its column, and a sound week says nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from undrift.finding import Finding, Verdict
from undrift.monitor.cells import reference_of
from undrift.monitor.frames import columns_of
from undrift.monitor.integrity import _custom, judge_integrity
from undrift.monitor.monitors import Monitor

START = datetime(2013, 4, 1, tzinfo=UTC)
MONITOR = Monitor(name="rows", kind="integrity")
Stream = Callable[..., pa.Table]


def judged(rows: pa.Table, past: pa.Table, **more: Any) -> list[Finding]:
    reference = {name: reference_of(values) for name, values in columns_of(past).items()}
    return judge_integrity(MONITOR, rows, reference, START + timedelta(days=14), **more)


def with_column(rows: pa.Table, part: str, name: str, values: Any) -> pa.Table:
    fields = {f.name: pc.struct_field(rows[part], f.name) for f in rows[part].type} | {name: values}
    made = pa.StructArray.from_arrays([pa.array(v.to_pylist(), v.type) for v in fields.values()], list(fields))
    return rows.set_column(rows.column_names.index(part), part, made)


def last_day(rows: pa.Table) -> np.ndarray:
    days = rows["event_time"].cast("int64").to_numpy() // 86_400_000_000
    return np.asarray(days == days.max())


def test_sound_days_pass_and_say_how_much_was_looked_at(stream: Stream) -> None:
    for seed in range(2):
        found = judged(stream(14, seed=seed), stream(60, first=-60, seed=seed))
        assert [f.verdict for f in found] == [Verdict.PASS]
        assert "400 rows" in found[0].why


@pytest.mark.parametrize("fault", ["missing", "unseen", "range", "spike"])
def test_each_fault_is_named_with_its_column(stream: Stream, fault: str) -> None:
    rows, past = stream(14), stream(60, first=-60)
    wrong = last_day(rows) & (np.arange(rows.num_rows) % 4 == 0)
    x = pc.struct_field(rows["inputs"], "distance").to_numpy(zero_copy_only=False).copy()
    carrier = np.array(pc.struct_field(rows["inputs"], "carrier").to_pylist(), dtype=object)
    column, values = {
        "missing": ("distance", pa.array(np.where(wrong, np.nan, x), from_pandas=True)),
        "unseen": ("carrier", pa.array(np.where(wrong, "ZZ", carrier).tolist())),
        "range": ("distance", pa.array(np.where(wrong, -x, x))),
        "spike": ("distance", pa.array(np.where(wrong, 999.0, x))),
    }[fault]
    found = judged(with_column(rows, "inputs", column, pa.chunked_array([values])), past)
    assert [(f.verdict, f.measurement.name, f.measurement.detail["column"]) for f in found] == [
        (Verdict.FAIL, fault, column)
    ]
    assert found[0].measurement.value == pytest.approx(0.25, abs=0.02)


def test_a_lookup_in_vain_is_told_once_for_the_view_and_not_for_each_of_its_features(stream: Stream) -> None:
    rows = stream(14)
    x = pc.struct_field(rows["features"], "temp").to_numpy(zero_copy_only=False)
    gone = pa.array(np.where(last_day(rows), np.nan, x), from_pandas=True)
    found = judged(
        with_column(rows, "features", "temp", pa.chunked_array([gone])),
        stream(60, first=-60),
        views={"weather": frozenset({"temp"})},
    )
    assert [(f.measurement.name, f.measurement.detail["cause"]) for f in found] == [
        ("join_miss", "weather is looked up in vain")
    ]


def test_a_clock_that_runs_ahead_is_seen(stream: Stream) -> None:
    rows = stream(14)
    ahead = np.where(last_day(rows), 3_600_000_000, -1_000_000)
    arrived = pa.array(rows["event_time"].cast("int64").to_numpy() - ahead, pa.timestamp("us", "UTC"))
    found = judged(rows.append_column("received_at", arrived), stream(60, first=-60))
    assert [f.measurement.name for f in found] == ["clock"]


def test_what_was_so_for_days_is_no_surprise(stream: Stream) -> None:
    # a quarter is missing on every day that is known: learnt as custom, unlike in training
    def absent(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        row["temp"] = np.where(rng.random(400) < 0.25, np.nan, row["temp"])

    found = judged(stream(14, change=absent), stream(60, first=-60))
    assert [f.verdict for f in found] == [Verdict.PASS]


def test_few_rows_say_nothing(stream: Stream) -> None:
    found = judged(stream(14, n=20), stream(60, first=-60))
    assert [f.verdict for f in found] == [Verdict.INCONCLUSIVE]


def test_scores_of_a_candidate_are_not_held_against_the_champions_range(stream: Stream) -> None:
    rows, past = stream(14), stream(60, first=-60)
    wrong = last_day(rows) & (np.arange(rows.num_rows) % 4 == 0)
    score = np.where(wrong, 7.0, rows["score"].to_numpy())
    rows = rows.set_column(rows.column_names.index("score"), "score", pa.array(score))
    assert "range" in [f.measurement.name for f in judged(rows, past, version=1) if f.verdict is Verdict.FAIL]
    other = pa.array(np.where(wrong, 2, 1), pa.int32())
    rows = rows.set_column(rows.column_names.index("version"), "version", other)
    assert [f.verdict for f in judged(rows, past, version=1)] == [Verdict.PASS]


@pytest.mark.parametrize(
    ("rates", "custom"),
    [
        ([0.05, 0.06, 0.0, 0.0, 0.01], 3),  # began two windows ago, a little below an alarm
        ([0.05, 0.05, 0.05, 0.05, 0.05], 5),  # always so
        ([0.05, 0.0, 0.0, 0.0, 0.0, 0.05], 6),  # so a week ago, too
        ([0.05, 0.0], 2),  # too few before to tell
    ],
)
def test_what_has_just_begun_is_no_custom(rates: list[float], custom: int) -> None:
    assert _custom(np.array(rates), 0.0, 0.05).tolist() == rates[len(rates) - custom :]
