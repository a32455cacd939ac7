"""Columns that no longer go together are found though each alone is as it was, and natural weeks are not drift."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from undrift.errors import DeclarationError
from undrift.finding import Verdict
from undrift.monitor.monitors import Monitor
from undrift.monitor.multivariate import (
    _custom,
    domain_auc,
    judge_multivariate,
    matrix,
    maximum_mean_discrepancy,
    mean_shift,
    reconstruction,
)

START = datetime(2013, 4, 1, tzinfo=UTC)


def weeks(turn: bool, seed: int = 0, days: int = 42, n: int = 150) -> pa.Table:
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), n)
    base = rng.normal(0, 0.1, days)[day]
    a = rng.normal(size=day.size) + base
    together = np.where((day >= days - 7) & turn, -0.8, 0.8)
    b = together * a + 0.6 * rng.normal(size=day.size)
    others = rng.normal(size=(day.size, 4)) + base[:, None]
    names = ["a", "b", "c", "d", "e", "f", "kind"]
    columns = [pa.array(v) for v in (a, b, *others.T)] + [pa.array(rng.choice(["x", "y"], day.size))]
    micros = int(START.timestamp() * 1e6) + day.astype(np.int64) * 86_400_000_000 + 3_600_000_000
    return pa.table(
        {
            "event_time": pa.array(micros, pa.timestamp("us", "UTC")),
            "score": np.zeros(day.size),
            "inputs": pa.StructArray.from_arrays(columns, names),
        }
    )


@pytest.mark.parametrize("metric", ["reconstruction", "domain_auc"])
def test_a_turned_correlation_is_found_and_natural_weeks_are_not(metric: str) -> None:
    monitor = Monitor(name="together", kind="multivariate", metric=metric)
    now = START + timedelta(days=42)
    assert [f.verdict for f in judge_multivariate(monitor, weeks(True), now)] == [Verdict.FAIL]
    for seed in range(3 if metric == "reconstruction" else 1):
        assert [f.verdict for f in judge_multivariate(monitor, weeks(False, seed), now)] == [Verdict.PASS]


def test_the_reconstruction_error_is_zero_on_the_plane_and_the_distance_from_it_off_it() -> None:
    x = np.random.default_rng(1).normal(size=(500, 1))
    past = np.hstack([x, x])  # after scaling, the plane is the diagonal
    now = np.array([[1.0, 1.0], [1.0, -1.0]]) * past.std(axis=0) + past.mean(axis=0)
    assert reconstruction(past, now) == pytest.approx([0.0, np.sqrt(2)], abs=1e-9)


def test_rows_that_are_alike_cannot_be_told_apart() -> None:
    rng = np.random.default_rng(2)
    past, now = rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3))
    days = np.repeat(np.arange(10), 200)
    assert domain_auc(past, now, (days, days)) == pytest.approx(0.5, abs=0.05)
    assert domain_auc(past, now + np.array([3.0, 0, 0]), (days, days)) > 0.95


def test_nulls_are_means_and_categories_are_how_often_they_occur() -> None:
    found = matrix({"x": pa.chunked_array([[1.0, None, 3.0]]), "c": pa.chunked_array([["a", "a", None]])})
    assert found == pytest.approx(np.array([[1.0, 2 / 3], [2.0, 2 / 3], [3.0, 1 / 3]]))


def test_few_weeks_say_nothing() -> None:
    monitor = Monitor(name="together", kind="multivariate")
    found = judge_multivariate(monitor, weeks(False, days=20), START + timedelta(days=20))
    assert [f.verdict for f in found] == [Verdict.INCONCLUSIVE]


def embedded(days: int, dims: int = 16, *, moved: float = 0.0, wider: float = 1.0, seed: int = 0) -> pa.Table:
    """Rows with an embedding; days have a mean of their own, and in the last week it moves or widens."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), 60)
    last = (day >= days - 7)[:, None]
    x = rng.normal(size=(len(day), dims)) * np.where(last, wider, 1.0)
    x += rng.normal(0, 0.03, (days, dims))[day] + np.where(last, moved, 0.0)
    at = int(START.timestamp()) * 1_000_000 + day * 86_400_000_000 + np.tile(np.arange(60), days) * 1_000_000
    fields = [f"e{i}" for i in range(dims)]
    return pa.table(
        {
            "event_time": pa.array(at, pa.timestamp("us", "UTC")),
            "inputs": pa.StructArray.from_arrays([pa.array(x[:, i]) for i in range(dims)], fields),
            "score": np.zeros(len(day)),
        }
    )


@pytest.mark.parametrize(
    ("metric", "change", "bad"),
    [
        ("mean_shift", {}, False),
        ("mean_shift", {"moved": 0.3}, True),
        ("mmd", {}, False),
        ("mmd", {"moved": 0.3}, True),
        ("mmd", {"wider": 2.0}, True),
    ],
)
def test_an_embedding_that_moves_or_widens_is_seen_by_what_looks_at_that(
    metric: str, change: dict[str, float], bad: bool
) -> None:
    monitor = Monitor(name="text", kind="multivariate", metric=metric, practical=0.03)
    rows = embedded(42, **change)
    (found,) = judge_multivariate(monitor, rows, START + timedelta(days=42))
    assert (found.verdict is Verdict.FAIL) == bad, found.why


def test_a_spread_that_doubles_around_the_same_mean_is_no_shift_of_the_mean() -> None:
    monitor = Monitor(name="text", kind="multivariate", metric="mean_shift", practical=0.03)
    now = START + timedelta(days=42)
    alarms = [judge_multivariate(monitor, embedded(42, wider=2.0, seed=s), now)[0].verdict for s in range(20)]
    assert alarms.count(Verdict.FAIL) <= 3, "two of three were called a shift while chance counted as one"
    rng = np.random.default_rng(7)
    past, wide = rng.normal(size=(4000, 8)), rng.normal(0, 3, (400, 8))
    assert mean_shift(past, wide) < 0.1 < np.linalg.norm(wide.mean(axis=0) - past.mean(axis=0)) / 8**0.5
    assert mean_shift(past, wide + 1.0) == pytest.approx(1.0, abs=0.1), "the shift itself is told as before"


def test_the_discrepancy_is_that_of_the_kernel_itself() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(300, 3)), rng.normal(0.8, 1, (300, 3))
    draw = np.random.default_rng(0)
    left, right = (a[draw.integers(0, 300, 500)] for _ in range(2))
    apart = np.linalg.norm(left - right, axis=1)
    width = np.median(apart[apart > 0])

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.exp(-np.square(x[:, None] - y[None]).sum(axis=2) / (2 * width**2)).mean())

    exact = np.sqrt(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))
    assert maximum_mean_discrepancy(a, b, features=4000) == pytest.approx(exact, rel=0.05)


def test_a_measure_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(DeclarationError, match="mean_shift, mmd"):
        Monitor(name="text", kind="multivariate", metric="cosine")


def test_weeks_that_are_unlike_all_before_on_the_side_of_this_one_are_no_custom() -> None:
    calm = [1.0, 1.01, 0.99, 1.0]
    weeks = [np.full(1, k == 0) for k in range(6)]
    assert len(_custom(1.3, [1.25, *calm], weeks[:5])) == 4
    assert len(_custom(0.8, [1.25, *calm], weeks[:5])) == 5, "the other side: not what is going on now"
    assert len(_custom(1.3, [1.0, *calm], weeks[:5])) == 5
    assert len(_custom(1.3, [1.3, 1.25, 1.3, *calm[:2]], weeks[:5])) >= 3
