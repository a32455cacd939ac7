"""Rises of the loss are dated, small ones late and large ones soon; and without one the run length holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Verdict
from undrift.monitor.change import judge_change
from undrift.monitor.evidence import Evidence, Expected
from undrift.monitor.monitors import Monitor

START = datetime(2013, 4, 1, tzinfo=UTC)
INTERFACE = Interface(
    model="m",
    task="binary",
    contract=Contract(name="m", fields=(Field(name="x", type="number"),)),
    label="y",
    classes=("0", "1"),
)


def world(days: int, rates: np.ndarray, seed: int, n: int = 60) -> pa.Table:
    """Rows that are wrong with each day's own probability."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), n)
    wrong = rng.random(day.size) < rates[day]
    micros = int(START.timestamp() * 1e6) + day.astype(np.int64) * 86_400_000_000 + 1_000_000
    return pa.table(
        {
            "event_time": pa.array(micros, pa.timestamp("us", "UTC")),
            "version": pa.array(np.ones(day.size), pa.int32()),
            "score": np.full(day.size, 0.1),
            "prediction": ["0"] * day.size,
            "scores": pa.nulls(day.size, pa.list_(pa.float64())),
            "error": pa.nulls(day.size, pa.string()),
            "label": [str(int(w)) for w in wrong],
            "value": pa.nulls(day.size, pa.float64()),
        }
    )


def evidence(rows: pa.Table, expected: dict[str, Expected], day: int) -> Evidence:
    return Evidence(interface=INTERFACE, rows=rows, version=1, expected=expected, now=START + timedelta(days=day))


def judged(rows: pa.Table, day: int, practical: float = 0.0) -> Finding:
    monitor = Monitor(name="rise", kind="change", metric="error", practical=practical)
    return judge_change(monitor, evidence(rows, {"error": Expected(0.1)}, day))[0]


@pytest.mark.parametrize(("rise", "within"), [(0.3, 7), (0.1, 14)])
def test_a_rise_is_found_and_dated(rise: float, within: int) -> None:
    rates = np.where(np.arange(60) >= 30, 0.1 + rise, 0.1)
    rows = world(60, rates, 3)
    assert judged(rows, 30, 0.3).verdict is Verdict.PASS
    found = judged(rows, 30 + within, 0.3)
    assert found.verdict is Verdict.FAIL
    began = datetime.fromisoformat(str(found.measurement.detail["onset"]))
    assert abs((began - (START + timedelta(days=30))).days) <= 3


def test_false_alarms_come_no_more_often_than_stated() -> None:
    # days differ: their rates are 0.1 on average, from 0.02 to 0.18; in 60 days at most two alarms are stated
    fresh = 0
    worlds = 40
    for seed in range(worlds):
        rates = np.random.default_rng([seed, 1]).uniform(0.02, 0.18, 60)
        fresh += judged(world(60, rates, seed), 60).verdict is Verdict.FAIL
    # at any one day it stands in alarm at most as often as the run length says
    assert fresh / worlds <= 0.15


def test_when_the_loss_is_back_the_alarm_ends() -> None:
    rates = np.where((np.arange(60) >= 20) & (np.arange(60) < 30), 0.4, 0.1)
    rows = world(60, rates, 5)
    assert judged(rows, 30, 0.5).verdict is Verdict.FAIL
    assert judged(rows, 60, 0.5).verdict is Verdict.PASS


def test_days_without_their_labels_and_losses_without_bounds_say_nothing() -> None:
    assert judged(world(4, np.full(4, 0.1), 1), 4).verdict is Verdict.INCONCLUSIVE
    unbounded = Monitor(name="rise", kind="change", metric="log_loss")
    found = judge_change(unbounded, evidence(world(10, np.full(10, 0.1), 1), {"log_loss": Expected(0.3)}, 10))
    assert found[0].verdict is Verdict.INCONCLUSIVE
    assert "brier" in found[0].why
