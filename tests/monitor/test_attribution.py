"""Inputs that the answers come to rest on are named, chance is not, and nothing is said of what cannot be explained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.develop.importance import Importance, InputImportance
from undrift.errors import DeclarationError
from undrift.finding import Finding, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.attribution import Influences, judge_attribution
from undrift.monitor.influences import influences_of
from undrift.monitor.monitors import Monitor
from undrift.settings import TrustSettings

START = datetime(2013, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = ("distance", "rain", "hour", "zone")
SCALE = np.array([0.5, 0.3, 0.15, 0.05])
MONITOR = Monitor(name="leans", kind="attribution")


def sizes(rng: np.random.Generator, n: int, scale: np.ndarray) -> np.ndarray:
    """Absolute contributions as they come: skewed, and large ones together in one row."""
    return rng.gamma(1.5, 1.0, (n, len(scale))) * rng.gamma(4.0, 0.25, (n, 1)) * scale


def measured(rng: np.random.Generator) -> Importance:
    """As importance.json has it, of a hundred rows."""
    found = sizes(rng, 100, SCALE)
    mean, half = found.mean(axis=0), 1.98 * found.std(axis=0, ddof=1) / 10
    inputs = tuple(
        InputImportance(
            name=name, value=float(m), lower=float(m - h), upper=float(m + h), n=100, share=float(m / mean.sum()),
            group="request",
        )
        for name, m, h in zip(NAMES, mean, half, strict=True)
    )  # fmt: skip
    return Importance(scale="probability", inputs=inputs, rows=100, background=10)


def explained(rng: np.random.Generator, scale: np.ndarray, n: int = 200, days: int = 16) -> Influences:
    at = to_micros(START) + rng.integers(0, days * 86_400_000_000, n)
    return Influences(NAMES, sizes(rng, n, scale), at, n)


def judged(seed: int, scale: np.ndarray = SCALE, monitor: Monitor = MONITOR, **how: Any) -> list[Finding]:
    rng = np.random.default_rng(seed)
    return judge_attribution(monitor, measured(rng), explained(rng, scale), START + 16 * DAY, **how)


def test_chance_moves_shares_no_more_often_than_is_stated() -> None:
    monitor = Monitor(name="leans", kind="attribution", practical=0.0, persistence=(1, 1))
    alarms = sum(any(f.verdict is Verdict.FAIL for f in judged(seed, monitor=monitor)) for seed in range(600))
    assert 1 <= alarms <= 20, "600 days at one in 30 are 20; with no practical size some alarm by chance"
    plain = [judged(seed) for seed in range(100)]
    assert {f.verdict for found in plain for f in found} == {Verdict.PASS}


def test_the_input_that_takes_over_is_named_with_its_shares_and_what_to_do() -> None:
    taken = np.array([0.15, 0.3, 0.5, 0.05])
    found = [judged(seed, taken) for seed in range(20)]
    named = [{str(f.measurement.detail["column"]) for f in each if f.verdict is Verdict.FAIL} for each in found]
    assert sum("hour" in names for names in named) >= 18
    assert not any("zone" in names for names in named)
    (hour,) = [f for f in found[0] if f.measurement.detail.get("column") == "hour"]
    assert "of the influence on answers" in hour.why
    assert "retrain" in hour.why
    assert hour.measurement.detail["cause"] == "hour has other influence"
    assert hour.measurement.detail["ndcg"] < 0.9, "the threshold of SageMaker Clarify"


def test_little_that_was_explained_says_nothing() -> None:
    rng = np.random.default_rng(0)
    now = START + 16 * DAY
    reference = measured(rng)
    for seen in (
        None,
        Influences(NAMES),
        Influences(problem="the model runs on another server: its answers are not explained"),
        explained(rng, SCALE, n=30),
        explained(rng, SCALE)._replace(times=np.full(200, to_micros(now) - 1)),
    ):
        assert [f.verdict for f in judge_attribution(MONITOR, reference, seen, now)] == [Verdict.INCONCLUSIVE]
    (none,) = judge_attribution(MONITOR, None, explained(rng, SCALE), now)
    assert "importance.json" in none.why
    spoiled = (Window(START, now),)
    assert judged(1, spoiled=spoiled)[0].verdict is Verdict.INCONCLUSIVE


def test_where_the_time_ended_that_is_told() -> None:
    rng = np.random.default_rng(4)
    seen = explained(rng, SCALE)._replace(wanted=500)
    (found,) = judge_attribution(MONITOR, measured(rng), seen, START + 16 * DAY)
    assert "the time ended at 200 of 500 sampled requests" in found.why


def test_personal_inputs_are_not_explained(tmp_path: Path) -> None:
    fields = (Field(name="mail", type="string", personal=True), Field(name="x", type="number"))
    interface = Interface(model="m", task="regression", contract=Contract(name="m", fields=fields), label="y")
    seen = influences_of(tmp_path, interface, TrustSettings(), pa.table({}), most=10, seconds=1.0)
    assert seen.problem == "mail are personal and not captured: answers cannot be explained"


def test_a_bound_that_is_none_is_refused() -> None:
    for options in ({"sample": 0}, {"seconds": 0.0}):
        with pytest.raises(DeclarationError, match="sample must be at least 1"):
            Monitor(name="m", kind="attribution", **options)  # type: ignore[arg-type]
