"""Pairs that no longer go together are named, and nothing that moves one column alone is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from undrift.finding import Finding, Verdict
from undrift.monitor.correlation import MOST_COLUMNS, MOST_ROWS, normal_scores
from undrift.monitor.monitors import Monitor
from undrift.monitor.multivariate import judge_multivariate

START = datetime(2013, 4, 1, tzinfo=UTC)
MONITOR = Monitor(name="together", kind="multivariate", metric="correlation")
DAYS = 42
Floats = np.ndarray


def world(
    seed: int,
    change: Callable[[Floats, np.random.Generator], None] | None = None,
    *,
    days: int = DAYS,
    n: int = 150,
    columns: int = 6,
    wander: float = 0.0,
) -> pa.Table:
    """``x0`` and ``x1`` go together by 0.6, days have levels of their own; the last week is changed in place.

    ``wander``: standard deviation of what the correlation is off on a day, half of it as on the day before.
    """
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), n)
    x = rng.normal(size=(day.size, columns))
    off = np.zeros(days)
    for each in range(1, days):
        off[each] = off[each - 1] / 2 + rng.normal(0, wander * np.sqrt(3) / 2)
    together = np.clip(0.6 + off, -0.95, 0.95)[day]
    x[:, 1] = together * x[:, 0] + np.sqrt(1 - together**2) * x[:, 1]
    x += rng.normal(0, 0.5, (days, columns))[day]
    if change is not None:
        last = day >= days - 7
        changed = x[last]
        change(changed, rng)
        x[last] = changed
    micros = int(START.timestamp() * 1e6) + day.astype(np.int64) * 86_400_000_000 + 3_600_000_000
    names = [f"x{k}" for k in range(columns)]
    return pa.table(
        {
            "event_time": pa.array(micros, pa.timestamp("us", "UTC")),
            "score": np.zeros(day.size),
            "inputs": pa.StructArray.from_arrays([pa.array(v, from_pandas=True) for v in x.T], names),
        }
    )


def judged(rows: pa.Table, monitor: Monitor = MONITOR, days: int = DAYS) -> Finding:
    (found,) = judge_multivariate(monitor, rows, START + timedelta(days=days))
    return found


def shuffled(x: Floats, rng: np.random.Generator) -> None:
    x[:, 1] = rng.permutation(x[:, 1])


def test_a_pair_that_comes_apart_is_named_with_both_correlations() -> None:
    found = judged(world(0, shuffled))
    assert found.verdict is Verdict.FAIL
    assert "x0 and x1 +0.6" in found.why
    assert found.measurement.detail["cause"] == "x0 and x1 no longer go together as before"
    assert found.measurement.detail["pairs"] == [["x0", "x1"]]
    interval = found.measurement.interval
    assert interval is not None
    # the change in the correlation of normal scores, which levels of days do not touch
    assert interval.lower < -0.6 < interval.upper < -MONITOR.size


def test_a_column_that_is_shuffled_is_named_when_it_leaves_several() -> None:
    def one_factor(x: Floats, rng: np.random.Generator) -> None:
        x[:, 2] = rng.permutation(x[:, 2])

    rows = world(1)
    inputs = rows["inputs"].combine_chunks()
    base = inputs.field("x0").to_numpy()
    rng = np.random.default_rng(2)
    x = np.column_stack([base + 0.7 * rng.normal(size=len(base)) for _ in range(5)])
    last = np.arange(len(base)) >= len(base) - 7 * 150
    changed = x[last]
    one_factor(changed, rng)
    x[last] = changed
    arrays = pa.StructArray.from_arrays([pa.array(v) for v in x.T], [f"f{k}" for k in range(5)])
    found = judged(rows.set_column(rows.column_names.index("inputs"), "inputs", arrays))
    assert found.verdict is Verdict.FAIL
    assert found.measurement.detail["column"] == "f2"
    assert found.measurement.detail["cause"] == "f2 no longer goes with others as before"
    assert all("f2" in pair for pair in found.measurement.detail["pairs"])
    assert len(found.measurement.detail["pairs"]) == 4


@pytest.mark.parametrize("what", ["nothing", "shifts", "scales", "bends", "gaps"])
def test_what_moves_columns_alone_is_no_change_of_pairs(what: str) -> None:
    def moved(x: Floats, rng: np.random.Generator) -> None:
        if what == "shifts":
            x += 3
        if what == "scales":
            x *= np.array([5, 0.2, 1, 1, 1, 1])
        if what == "bends":
            np.exp(2 * x, out=x)
        if what == "gaps":
            x[rng.random(x.shape) < 0.4] = np.nan

    for seed in range(5):
        assert judged(world(seed, moved)).verdict is Verdict.PASS


def test_a_constant_column_and_one_without_values_say_nothing_of_others() -> None:
    def dead(x: Floats, rng: np.random.Generator) -> None:
        x[:, 2], x[:, 3] = 7.0, np.nan
        shuffled(x, rng)

    found = judged(world(3, dead))
    assert found.verdict is Verdict.FAIL
    assert found.measurement.detail["pairs"] == [["x0", "x1"]]


def test_too_little_is_inconclusive_and_says_what_is_needed() -> None:
    two = pa.table({"kind": ["a", "b"] * (DAYS * 75), "sort": ["c", "d"] * (DAYS * 75)})
    rows = world(0)
    texts = pa.StructArray.from_arrays([c.combine_chunks() for c in two.columns], two.column_names)
    found = judged(rows.set_column(rows.column_names.index("inputs"), "inputs", texts))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "0 columns of numbers" in found.why
    assert "needed" in found.why


def test_many_columns_and_rows_are_bounded_and_the_finding_says_so() -> None:
    found = judged(world(0, shuffled, columns=MOST_COLUMNS + 3, n=60))
    assert "3 columns more are not looked at" in found.why
    assert found.verdict is Verdict.FAIL
    assert judged(world(0, shuffled, columns=2, n=MOST_ROWS + 500)).verdict is Verdict.FAIL


def test_normal_scores_are_ranks_of_a_day_and_equal_values_share_one() -> None:
    scores = normal_scores(np.array([5.0, np.nan, 1.0, 5.0, 9.0, 2.0]), np.array([0, 0, 0, 0, 1, 1]))
    assert np.isnan(scores[1])
    assert scores[0] == scores[3] > 0 > scores[2]
    assert scores[4] == -scores[5] > 0
    assert np.isnan(normal_scores(np.full(3, np.nan), np.zeros(3, dtype=np.int64))).all()


@pytest.mark.parametrize("wander", [0.0, 0.1])
def test_false_alarms_stay_within_the_budget(wander: float) -> None:
    """100 windows that share nothing, without a practical size: the level of a window is what the budget allows."""
    monitor = Monitor(name="together", kind="multivariate", metric="correlation", practical=1e-6)
    failing = sum(judged(world(seed, wander=wander), monitor).verdict is Verdict.FAIL for seed in range(100))
    # one alarm in 30 daily windows that overlap is a window in eighteen, for an alarm that lasts counts once
    allowed = 100 * 15 * monitor.alpha(15, 30)
    assert allowed < 6
    assert failing <= allowed + 2 * np.sqrt(allowed)
    assert all(judged(world(seed, wander=wander)).verdict is Verdict.PASS for seed in range(20))


def test_without_a_metric_pairs_share_the_budget_with_reconstruction() -> None:
    monitor = Monitor(name="together", kind="multivariate")
    found = judge_multivariate(monitor, world(0, shuffled), START + timedelta(days=DAYS))
    assert [f.measurement.name for f in found] == ["correlation", "reconstruction", "domain_auc"]
    assert found[0].verdict is Verdict.FAIL
