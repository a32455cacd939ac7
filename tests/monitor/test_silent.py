"""Silent failures are caught at the first tick, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.finding import Verdict
from undrift.monitor.monitors import Monitor
from undrift.monitor.silent import judge_silent

START = datetime(2013, 4, 1, tzinfo=UTC)
MONITOR = Monitor(name="answers", kind="silent")
Stream = Callable[..., pa.Table]


def judged(rows: pa.Table, day: int) -> list[tuple[Verdict, str]]:
    found = judge_silent(MONITOR, rows, START + timedelta(days=day))
    return [(f.verdict, str(f.measurement.detail.get("cause", ""))) for f in found]


def on(day: int, **values: Any) -> Callable[..., None]:
    def change(number: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        if number == day:
            for name, value in values.items():
                row[name] = np.full(len(row["day"]), value)

    return change


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_days_pass(stream: Stream, seed: int) -> None:
    assert judged(stream(12, seed=seed), 12) == [(Verdict.PASS, "")]


def test_constant_answers_are_named_at_the_first_tick_with_their_onset(stream: Stream) -> None:
    rows = stream(12, change=on(11, score=0.2))
    found = judge_silent(MONITOR, rows, START + timedelta(days=12))
    assert [f.measurement.detail["cause"] for f in found] == ["constant answers of version 1"]
    assert "0.2 for 400 of 400 rows" in found[0].why
    onset = datetime.fromisoformat(found[0].measurement.detail["onset"])
    assert timedelta(0) <= onset - (START + timedelta(days=11)) < timedelta(hours=1)


def test_collapsed_failing_missing_and_absent_are_told_apart(stream: Stream) -> None:
    def collapse(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        if day == 11:
            row["score"] = 0.2 + row["score"] * 0.01

    assert judged(stream(12, change=collapse), 12) == [(Verdict.FAIL, "answers of version 1 collapsed")]
    assert judged(stream(12, change=on(11, failed=True)), 12) == [(Verdict.FAIL, "version 1 fails")]
    assert judged(stream(12, change=on(11, temp=np.nan)), 12) == [(Verdict.FAIL, "temp went missing")]
    assert judged(stream(11), 12) == [(Verdict.FAIL, "no requests arrived")]


def test_no_traffic_ever_is_inconclusive_not_fine(stream: Stream) -> None:
    assert judged(stream(1).slice(0, 0), 12) == [(Verdict.INCONCLUSIVE, "")]


def test_a_few_failures_are_tolerated(stream: Stream) -> None:
    def some(day: int, row: dict[str, Any], rng: np.random.Generator) -> None:
        row["failed"] = rng.random(len(row["day"])) < 0.02

    assert judged(stream(12, change=some), 12) == [(Verdict.PASS, "")]
