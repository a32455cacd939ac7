"""Burn rates: fast and slow fires are seen, a short flicker and a fire that is out are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from undrift.errors import DeclarationError
from undrift.finding import Finding, Verdict
from undrift.monitor.monitors import Monitor
from undrift.monitor.service import judge_service
from undrift.serving.health import Health, Reading, Spent

NOW = datetime(2013, 4, 4, tzinfo=UTC)
EMPTY = pa.table({"event_time": pa.array([], pa.timestamp("us", "UTC"))})
MONITOR = Monitor(name="level", kind="service", objective=0.99, limit_ms=50)


def judged(minutes: tuple[int, int], share: float, *, slow: bool = True) -> list[Finding]:
    """Three days of ten answers a minute; a share of those between so many minutes ago is slow (or fails)."""
    ago = np.repeat(np.arange(3 * 1440, 0, -1), 10)
    rng = np.random.default_rng(0)
    bad = (ago <= minutes[0]) & (ago > minutes[1]) & (rng.random(ago.size) < share)
    micros = int(NOW.timestamp() * 1e6) - ago.astype(np.int64) * 60_000_000
    rows = pa.table(
        {
            "event_time": pa.array(micros, pa.timestamp("us", "UTC")),
            "latency_us": pa.array(np.where(bad & slow, 80_000, 5_000), pa.int64()),
            "error": pa.array(["broken" if b and not slow else None for b in bad], pa.string()),
        }
    )
    return judge_service(MONITOR, rows, NOW)


@pytest.mark.parametrize(
    ("minutes", "share", "words"),
    [
        ((60, 0), 0.5, "last 1 hours"),  # 50 times the budget for an hour
        ((360, 0), 0.1, "last 6 hours"),  # 10 times for six hours
        ((4320, 0), 0.02, "last 3 days"),  # twice for three days
    ],
)
@pytest.mark.parametrize("slow", [True, False])
def test_a_fire_is_seen_by_the_window_it_is_large_in(
    minutes: tuple[int, int], share: float, words: str, slow: bool
) -> None:
    found = judged(minutes, share, slow=slow)
    assert [f.verdict for f in found] == [Verdict.FAIL]
    assert words in found[0].why


@pytest.mark.parametrize(
    ("minutes", "share"),
    [
        ((2, 0), 0.5),  # a flicker
        ((400, 370), 0.5),  # out since six hours: five per cent of the budget went, and it is over
        ((4320, 0), 0.005),  # half of what is tolerated
    ],
)
def test_a_flicker_and_what_is_over_and_what_is_tolerated_are_no_alarm(minutes: tuple[int, int], share: float) -> None:
    assert [f.verdict for f in judged(minutes, share)] == [Verdict.PASS]


def test_few_answers_say_nothing_and_an_impossible_objective_is_refused() -> None:
    rows = pa.table(
        {
            "event_time": pa.array([0], pa.timestamp("us", "UTC")),
            "latency_us": pa.array([1], pa.int64()),
            "error": pa.nulls(1, pa.string()),
        }
    )
    assert [f.verdict for f in judge_service(MONITOR, rows, NOW)] == [Verdict.INCONCLUSIVE]
    with pytest.raises(DeclarationError, match="objective"):
        Monitor(name="level", kind="service", objective=1.0)
    assert judge_service(MONITOR, rows, NOW)[0].measurement.window is not None
    assert judge_service(MONITOR, rows, NOW)[0].measurement.window.start == NOW - timedelta(days=3)


def worker(number: int, memory_mb: float, busy: float, cost: float) -> Health:
    """An hour of readings of a worker that answers 1,000 rows a minute at so much a million."""
    spent = {"flights": Spent(rows=1000, cpu_seconds=1.0, money=cost / 1000)}
    readings = tuple(
        Reading(at=NOW - timedelta(minutes=60 - i), memory_mb=memory_mb, busy=busy, spent=spent) for i in range(60)
    )
    return Health(pid=number, worker=number, at=NOW, every=60.0, readings=readings)


LIMITS = {"limit_memory_mb": 500.0, "limit_busy": 0.8, "limit_cost": 20.0}


@pytest.mark.parametrize(
    ("memory", "busy", "cost", "beyond"),
    [
        (400.0, 0.5, 10.0, set()),
        (600.0, 0.5, 10.0, {"memory_mb"}),
        (400.0, 0.9, 10.0, {"busy"}),
        (400.0, 0.5, 31.0, {"cost"}),
    ],
)
def test_the_worst_worker_is_held_against_each_limit_and_all_together_against_the_cost(
    memory: float, busy: float, cost: float, beyond: set[str]
) -> None:
    monitor = Monitor(name="level", kind="service", **LIMITS)
    workers = [worker(0, 300.0, 0.1, 10.0), worker(1, memory, busy, cost)]
    found = {f.measurement.name: f for f in judge_service(monitor, EMPTY, NOW, model="flights", workers=workers)}
    assert {name for name, f in found.items() if f.verdict is Verdict.FAIL} == beyond
    assert {name for name, f in found.items() if f.verdict is Verdict.PASS} == {"memory_mb", "busy", "cost"} - beyond
    assert found["cost"].measurement.value == pytest.approx((10.0 + cost) / 2)


def test_a_moment_of_load_is_no_saturation_and_what_nobody_told_is_not_judged() -> None:
    monitor = Monitor(name="level", kind="service", **LIMITS)
    short = worker(0, 300.0, 0.1, 0.0)
    peak = msgspec.structs.replace(short.readings[-1], busy=5.0)
    found = judge_service(
        monitor, EMPTY, NOW, model="flights",
        workers=[msgspec.structs.replace(short, readings=(*short.readings[:-1], peak))],
    )  # fmt: skip
    verdicts = {f.measurement.name: f.verdict for f in found}
    assert verdicts["busy"] is Verdict.PASS
    assert verdicts["cost"] is Verdict.INCONCLUSIVE, "money without a price is not known"
    alone = judge_service(monitor, EMPTY, NOW)
    assert {f.verdict for f in alone} == {Verdict.INCONCLUSIVE}
    with pytest.raises(DeclarationError, match="limit_busy=-1"):
        Monitor(name="level", kind="service", limit_busy=-1)
