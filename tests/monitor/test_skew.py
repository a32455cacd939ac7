"""Features as served against features as computed offline, value by value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from undrift.finding import Verdict, Window
from undrift.monitor.monitors import Monitor
from undrift.monitor.skew import judge_skew, sampled

NOW = datetime(2013, 4, 4, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(days=1), NOW)
MONITOR = Monitor(name="skew", kind="skew")
X = np.random.default_rng(3).normal(50, 10, 500)


def served(**columns: object) -> pa.Table:
    return pa.table({"temp": X, "city": ["JFK", None] * 250, **columns})


def test_equal_features_pass_float32_included() -> None:
    found = judge_skew(MONITOR, (served(), served(temp=X.astype(np.float32).astype(float))), WINDOW)
    assert [f.verdict for f in found] == [Verdict.PASS]
    assert "2 features of 500 requests" in found[0].why


def test_another_unit_another_default_and_other_text_are_named_with_an_example() -> None:
    celsius = served(temp=np.where(np.arange(500) % 10 == 0, (X - 32) / 1.8, X))
    found = judge_skew(MONITOR, (celsius, served()), WINDOW)
    assert [(f.verdict, f.measurement.detail["column"], f.measurement.value) for f in found] == [
        (Verdict.FAIL, "temp", 0.1)
    ]
    assert f"{(X[0] - 32) / 1.8:.6g} served, {X[0]:.6g} offline" in found[0].why
    zero = served(temp=pa.array([0.0 if i % 5 == 0 else v for i, v in enumerate(X)]))
    absent = served(temp=pa.array([None if i % 5 == 0 else v for i, v in enumerate(X)]))
    assert "0 served, nothing offline" in judge_skew(MONITOR, (zero, absent), WINDOW)[0].why
    other = judge_skew(MONITOR, (served(city=["jfk", None] * 250), served()), WINDOW)
    assert other[0].measurement.value == 0.5


def test_a_rare_difference_is_tolerated_up_to_the_practical_size() -> None:
    few = served(temp=np.where(np.arange(500) < 5, X + 1, X))
    assert [f.verdict for f in judge_skew(MONITOR, (few, served()), WINDOW)] == [Verdict.PASS]


def test_nothing_to_compute_again_is_inconclusive() -> None:
    assert judge_skew(MONITOR, None, WINDOW)[0].verdict is Verdict.INCONCLUSIVE
    assert judge_skew(MONITOR, (served().slice(0, 5), served().slice(0, 5)), WINDOW)[0].verdict is Verdict.INCONCLUSIVE


def test_the_sample_depends_on_ids_only() -> None:
    ids = [f"request {i}" for i in range(5_000)]
    chosen = {ids[i] for i in sampled(ids, 100)}
    turned = ids[::-1]
    assert chosen == {turned[i] for i in sampled(turned, 100)}
    assert len(chosen) == 100
