"""Days of labelled rows: what they say of a mean, and of a ranking; and that a part says no more than it can."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from undrift.finding import Window
from undrift.ids import to_micros
from undrift.monitor.days import DAY, Days, Losses, Ranks, mean_of

START = datetime(2013, 4, 1, tzinfo=UTC)


def spread(days: int, n: int, rng: np.random.Generator) -> np.ndarray:
    return to_micros(START) + np.sort(rng.integers(0, days * DAY, n * days))


def ranked(rng: np.random.Generator, days: int, n: int = 300, apart: float = 0.0) -> tuple[Any, Any, Any]:
    times = spread(days, n, rng)
    level = rng.normal(0, apart, days)[(times - to_micros(START)) // DAY]
    x = rng.normal(size=times.size) + level
    return times, 1 / (1 + np.exp(-x)), rng.random(times.size) < 1 / (1 + np.exp(1 - x))


def test_each_day_of_a_ranking_has_scikit_learns_area_whatever_the_order_of_rows() -> None:
    rng = np.random.default_rng(1)
    times, score, positive = ranked(rng, 4)
    score[rng.random(score.size) < 0.1] = np.nan  # no label yet
    mixed = rng.permutation(times.size)
    series = Ranks(times[mixed], score[mixed], positive[mixed])
    window = Window(START + timedelta(hours=6), START + timedelta(days=3))  # begins within a day
    days = series.days(window)
    assert len(days.day) == 3
    for place, day in enumerate(days.day):
        held = (times // DAY == day) & (times >= to_micros(window.start))
        known = held & np.isfinite(score)
        assert days.rows[place] == held.sum()
        assert days.labelled[place] == known.sum() == days.classes[:, place].sum()
        area = days.sums[place] / days.weight[place]
        assert area == pytest.approx(roc_auc_score(positive[known], score[known]), abs=1e-12)
    assert series.days(Window(START - timedelta(days=9), START)).day.size == 0


def test_the_bound_of_losses_is_students_by_days() -> None:
    rng = np.random.default_rng(2)
    loss = rng.random(6)
    times = to_micros(START) + np.repeat(np.arange(6), 50) * DAY
    days = Losses(times, np.repeat(loss, 50)).days(Window(START, START + timedelta(days=6)))
    value, reach, n = mean_of(days, 0, 0.05, 0.0)
    # six days of equal size, each of one value: the t interval of six numbers (5 degrees, 2.015)
    assert (value, n) == (pytest.approx(loss.mean()), 300)
    assert reach == pytest.approx(2.0150 * loss.std(ddof=1) / np.sqrt(6), rel=1e-4)


@pytest.mark.parametrize(("apart", "part"), [(0.0, 1), (0.0, 3), (1.0, 1), (1.0, 3)])
def test_a_part_of_a_ranking_is_beyond_its_true_value_as_rarely_as_stated(apart: float, part: int) -> None:
    rng = np.random.default_rng([3, part, int(apart)])
    window = Window(START, START + timedelta(days=11))
    truth = mean_of(Ranks(*ranked(rng, 400, apart=apart)).days(Window(START, START + timedelta(days=400))), 0, 0.5, 0)
    missed = 0
    for _ in range(400):
        days = Ranks(*ranked(rng, 11, n=120, apart=apart)).days(window)
        value, reach, _ = mean_of(days, 11 - part, 0.05, 0.0)
        missed += value + reach < truth[0]
    # 20 of 400 are stated, and 32 are exceeded once in 300 such tests
    assert missed <= 32


def test_rare_positives_do_not_make_a_part_surer_than_it_is() -> None:
    rng = np.random.default_rng(4)
    missed, judged = 0, 0
    for _ in range(400):
        times = spread(11, 400, rng)
        positive = rng.random(times.size) < 0.06  # some 24 of a day
        score = rng.normal(size=times.size) + 2.0 * positive  # an area of 0.921
        value, reach, _ = mean_of(Ranks(times, score, positive).days(Window(START, START + timedelta(days=11))),
                                  10, 0.02, 0.0)  # fmt: skip
        judged += np.isfinite(value)
        missed += bool(value + reach < 0.9214)
    assert judged > 250
    assert missed <= 16, "8 of 400 are stated"


def test_too_few_of_a_class_days_or_rows_say_nothing() -> None:
    rng = np.random.default_rng(5)
    window = Window(START, START + timedelta(days=14))
    times, score, positive = ranked(rng, 14, n=200)

    def value(days: Days, first: int = 0) -> float:
        return mean_of(days, first, 0.01, 0.0)[0]

    whole = Ranks(times, score, positive).days(window)
    assert np.isfinite(value(whole))
    assert np.isfinite(value(whole, 13)), "a day alone, the days before tell how days differ"
    one = Ranks(times, score, np.zeros(times.size, dtype=bool)).days(window)
    assert not one.weight.any()
    assert np.isnan(value(one))
    rare = np.zeros(times.size, dtype=bool)
    rare[rng.choice(times.size, 19, replace=False)] = True
    assert np.isnan(value(Ranks(times, score, rare).days(window)))
    assert np.isnan(value(whole.before(int(whole.day[4])), 3)), "one day, and three before it are too few"
    assert np.isnan(value(whole.before(int(whole.day[2])))), "two days"
    ties = Ranks(times, np.full(times.size, 0.3), positive).days(window)
    mean, reach, _ = mean_of(ties, 0, 0.01, 0.0)
    assert mean == 0.5
    assert reach >= 0
