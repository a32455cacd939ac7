"""Labels that stop or come late open an incident; days without many labels, or labels that were always few, do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Verdict
from undrift.monitor.evidence import Evidence
from undrift.monitor.labels import judge_labels
from undrift.monitor.monitors import Monitor

START = datetime(2013, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
INTERFACE = Interface(
    model="m",
    task="binary",
    contract=Contract(name="m", fields=(Field(name="x", type="number"),)),
    label="y",
    classes=("0", "1"),
)
MONITOR = Monitor(name="labels", kind="labels")


def judged(
    shares: list[float], delays: list[float], *, per_day: int = 200, seed: int = 0, monitor: Monitor = MONITOR
) -> Finding:
    """Days of answers of which a share is labelled so many days later; judged when the last day is two days old."""
    rng = np.random.default_rng(seed)
    n = len(shares) * per_day
    day = np.repeat(np.arange(len(shares)), per_day)
    at = (day + np.tile(np.arange(per_day) / per_day, len(shares))) * 86_400e6
    known = rng.random(n) < np.array(shares)[day]
    told = at + np.array(delays)[day] * 86_400e6
    stamp = int(START.timestamp()) * 1_000_000
    rows = pa.table(
        {
            "event_time": pa.array(stamp + at.astype(np.int64), pa.timestamp("us", "UTC")),
            "label": pa.array(["1" if k else None for k in known], pa.string()),
            "value": pa.nulls(n, pa.float64()),
            "labelled_at": pa.array(
                [stamp + int(t) if k else None for k, t in zip(known, told, strict=True)], pa.timestamp("us", "UTC")
            ),
        }
    )
    (found,) = judge_labels(
        monitor,
        Evidence(interface=INTERFACE, rows=rows, maturity=2 * DAY, now=START + len(shares) * DAY + 2 * DAY),
    )
    return found


def test_labels_that_stop_are_told_with_how_many_usually_came() -> None:
    found = judged([0.95] * 9 + [0.1], [1.0] * 10)
    assert found.verdict is Verdict.FAIL
    assert found.measurement.detail["cause"] == "labels are missing or late"
    assert found.measurement.value == pytest.approx(0.1, abs=0.09)


def test_labels_that_come_later_than_can_be_expected_count_as_missing() -> None:
    assert judged([0.95] * 10, [1.0] * 9 + [3.0]).verdict is Verdict.FAIL
    assert judged([0.95] * 10, [1.0] * 10).verdict is Verdict.PASS


def test_what_was_always_so_is_no_news_and_few_answers_say_nothing() -> None:
    assert judged([0.2] * 10, [1.0] * 10).verdict is Verdict.PASS
    assert judged([0.95, 0.95, 0.3, 0.95, 0.95, 0.25], [1.0] * 6).verdict is Verdict.PASS, (
        "one day was like that before"
    )
    assert judged([0.95] * 3, [1.0] * 3).verdict is Verdict.INCONCLUSIVE
    assert judged([0.95] * 9 + [0.0], [1.0] * 10, per_day=20).verdict is Verdict.INCONCLUSIVE


def test_a_share_that_wavers_alarms_no_more_often_than_is_stated() -> None:
    monitor, alarms = Monitor(name="labels", kind="labels", practical=0.0), 0
    for seed in range(400):
        rng = np.random.default_rng([seed, 1])
        shares = np.clip(rng.normal(0.7, 0.05, 7), 0, 1).tolist()
        found = judged(shares, [1.0] * 7, per_day=60, seed=seed, monitor=monitor)
        assert found.verdict is not Verdict.INCONCLUSIVE
        alarms += found.verdict is Verdict.FAIL
    assert alarms <= 13, "400 days at one in 30 are 13.3; nothing is allowed on top"
    assert alarms >= 1, "with no practical size chance does alarm, or this test could not fail"
