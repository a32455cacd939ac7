"""Values that grow old, or are no longer there, are told view by view; what was always so is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.features import Feature, FeatureView
from undrift.develop.bundle import Interface
from undrift.errors import DeclarationError
from undrift.finding import Finding, Verdict
from undrift.monitor.evidence import Evidence
from undrift.monitor.freshness import judge_freshness
from undrift.monitor.monitors import Monitor

START = datetime(2013, 4, 1, tzinfo=UTC)
VIEWS = tuple(
    FeatureView(name=name, source=name, entity="origin", features=(Feature(name=name),), ttl=ttl)
    for name, ttl in (("weather", "6h"), ("fleet", "7d"))
)
INTERFACE = Interface(
    model="flights", task="regression", contract=Contract(name="f", fields=(Field(name="origin", type="string"),)),
    label="delay", views=VIEWS,
)  # fmt: skip


def judged(hours: list[float], *, absent: list[float] | None = None, oldest: str = "", seed: int = 0) -> list[Finding]:
    """Days of 200 rows whose weather is of so many hours before on average (absent for a share); the last is judged."""
    rng = np.random.default_rng(seed)
    n = 200 * len(hours)
    day = np.repeat(np.arange(len(hours)), 200)
    at = (day * 86_400e6 + np.tile(np.arange(200), len(hours)) * 430e6).astype(np.int64)
    at += int(START.timestamp()) * 1_000_000
    age = rng.uniform(0.5, 1.5, n) * np.array(hours)[day] * 3_600e6
    gone = rng.random(n) < np.array(absent or [0.0] * len(hours))[day]
    known = pa.array(at - age.astype(np.int64), pa.timestamp("us", "UTC"), mask=gone)
    fleet = pa.array(at, pa.timestamp("us", "UTC"))
    rows = pa.table(
        {
            "event_time": pa.array(at, pa.timestamp("us", "UTC")),
            "feature_times": pa.StructArray.from_arrays([known, fleet], ["weather", "fleet"]),
        }
    )
    monitor = Monitor(name="fresh", kind="freshness", oldest=oldest)
    return judge_freshness(monitor, Evidence(interface=INTERFACE, rows=rows, now=START + timedelta(days=len(hours))))


def told(found: list[Finding]) -> dict[str, Verdict]:
    return {f.measurement.detail.get("column", ""): f.verdict for f in found}


def test_values_that_are_gone_because_they_outlived_their_time_are_told() -> None:
    found = judged([1.0] * 8, absent=[0.02] * 7 + [0.4])
    assert told(found) == {"weather": Verdict.FAIL, "fleet": Verdict.PASS}
    assert "younger than 6h" in found[1].why
    assert found[1].measurement.detail["cause"] == "weather is stale"
    assert told(judged([1.0] * 8, absent=[0.4] * 8)) == {"weather": Verdict.PASS, "fleet": Verdict.PASS}, "it was so"


def test_a_limit_of_ones_own_tells_before_values_vanish() -> None:
    aging = [1.0] * 7 + [4.0]
    assert told(judged(aging)) == {"weather": Verdict.PASS, "fleet": Verdict.PASS}
    assert told(judged(aging, oldest="3h")) == {"weather": Verdict.FAIL, "fleet": Verdict.PASS}


def test_sound_days_alarm_no_more_often_than_is_stated() -> None:
    alarms = sum(told(judged([1.0] * 8, absent=[0.05] * 8, seed=s))["weather"] is Verdict.FAIL for s in range(100))
    assert alarms <= 8, "100 days at one in 30 would be 3.3"


def test_a_limit_that_is_no_span_is_refused() -> None:
    with pytest.raises(DeclarationError, match="fresh"):
        Monitor(name="fresh", kind="freshness", oldest="a while")
