from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import signal
from scipy.special import ndtri

from undrift.stats.calibration import (
    CalibrationMap,
    Persistence,
    calibration_error,
    expected_roc_auc,
    level_per_overlapping_test,
    level_per_test,
    onset_rate,
    onsets,
    reliability,
    step_up,
)


@pytest.mark.parametrize("rule", [Persistence(), Persistence(2, 2), Persistence(2, 3), Persistence(3, 5)])
def test_the_level_spends_the_budget_and_no_more(rule):
    level = level_per_test(1, 30, 20, rule)
    rng = np.random.default_rng(1)
    beyond = rng.random((20, 30_000)) < level
    expected = 1000  # one alarm in 30 windows over the 20 columns together
    assert onsets(beyond, rule) == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_persistence_buys_a_gentler_level():
    assert level_per_test(1, 30, 20, Persistence(2, 3)) > 10 * level_per_test(1, 30, 20)


@pytest.mark.parametrize("rule", [Persistence(), Persistence(2, 3)])
def test_windows_that_overlap_spend_the_budget_and_no_more_whether_days_follow_each_other_or_not(rule):
    level = level_per_overlapping_test(1, 30, 20, 7, rule)
    assert level > 1.3 * level_per_test(1, 30, 20)
    spent = []
    for likeness in (0.0, 0.6):
        rng = np.random.default_rng(2)
        days = signal.lfilter([1], [1, -likeness], rng.normal(size=(400, 3_000)), axis=1)[:, 100:]
        sums = np.cumsum(days, axis=1)
        weeks = sums[:, 7:] - sums[:, :-7]
        beyond = weeks / weeks.std() > -ndtri(level)
        recent = np.sum([np.roll(beyond, back, axis=1) for back in range(rule.n)], axis=0)
        alarmed = (beyond & (recent >= rule.k))[:, rule.n :]
        # alarms begun in 30 windows of 20 columns; some 1,900 are counted, in clusters
        spent.append(600 * float((alarmed[:, 1:] & ~alarmed[:, :-1]).mean()))
    assert 0.9 < max(spent) < 1.1, spent
    assert min(spent) < 1.1, spent


def test_a_budget_that_cannot_be_spent_gives_the_level_of_most_alarms():
    assert level_per_test(100, 10, 1, Persistence(2, 3)) == pytest.approx(0.5)


def test_the_rate_of_beginnings_by_going_through_all_rows_of_windows():
    rule, p = Persistence(2, 3), 0.3
    total = 0.0
    for row in np.ndindex(2, 2, 2, 2):  # four windows; does an alarm begin in the last?
        weight = math.prod(p if w else 1 - p for w in row)
        total += weight * (sum(row[1:]) >= 2 and sum(row[:3]) < 2)
    assert onset_rate(p, rule) == pytest.approx(total)


def test_beginnings_are_counted_once_each_and_by_row():
    assert onsets([1, 1, 1, 0, 1]) == 2
    assert onsets([[0, 1, 1, 0], [1, 1, 1, 1]], Persistence(2, 2)) == 2
    assert onsets([1, 0, 0, 0], Persistence(2, 3)) == 0
    with pytest.raises(ValueError, match="3 of 2"):
        Persistence(3, 2)


def history(rng: np.random.Generator, windows: int, columns: int) -> np.ndarray:
    """A statistic with a daily rhythm (24 windows) and autocorrelation, several columns."""
    noise = signal.lfilter([1], [1, -0.7], rng.normal(size=(windows + 50, columns)), axis=0)[50:]
    return 5 + noise + 2 * np.sin(2 * np.pi * np.arange(windows) / 24)[:, None]


def test_a_fixed_level_for_independent_windows_breaks_the_budget_on_the_same_days():
    rng = np.random.default_rng(2)
    alarms = []
    for _ in range(40):
        past, future = np.split(history(rng, 24 * 90, 3), [24 * 60])
        limit = past.mean(axis=0) + 2 * past.std(axis=0)
        alarms.append(onsets((future > limit).T))
    assert np.mean(alarms) > 10


def test_a_calibrated_model_has_no_error_though_the_plain_one_is_positive():
    rng = np.random.default_rng(5)
    ours, plain = [], []
    for _ in range(100):
        p = rng.random(500)
        y = rng.random(500) < p
        ours.append(calibration_error(p, y) ** 2)
        bins = reliability(p, y)
        plain.append(np.mean([(b.stated - b.observed.value) ** 2 for b in bins]))
    assert np.mean(ours) < 0.6 * np.mean(plain)


def test_an_overconfident_model_has_the_error_it_was_given():
    rng = np.random.default_rng(6)
    p = rng.random(50_000) * 0.8 + 0.1
    y = rng.random(50_000) < p - 0.1
    assert calibration_error(p, y) == pytest.approx(0.1, abs=0.01)
    assert calibration_error([0.5], [1]) == 0  # one row in a bin has no variance to take off
    bins = reliability(p, y, level=0.999)
    assert all(b.observed.excludes(b.stated) for b in bins)
    assert sum(b.observed.n for b in bins) == 50_000


def test_bins_hold_equal_numbers_of_rows_and_ties_stay_together():
    bins = reliability(np.linspace(0, 1, 100), np.tile([0, 1], 50), bins=4)
    assert [b.observed.n for b in bins] == [25, 25, 25, 25]
    assert [b.observed.n for b in reliability([0.5] * 10, [1] * 10)] == [10]


@pytest.mark.parametrize(
    ("p", "y", "message"), [([0.5], [0, 1], "its outcome"), ([1.5], [1], "lie in"), ([0.5], [2], "0 or 1")]
)
def test_probabilities_and_outcomes_that_are_none_are_refused(p, y, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(p, y)


def test_one_test_begins_where_it_is_beyond_and_was_not_before():
    assert level_per_test(0.05, 1) == pytest.approx((1 - math.sqrt(1 - 4 * 0.05)) / 2)  # p (1 - p) = 0.05


def test_a_calibration_map_is_scikit_learns_isotonic_regression():
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(6)
    scores = rng.choice(np.linspace(0.01, 0.99, 200), 3000)
    outcomes = (rng.random(3000) < scores**2).astype(float)
    found = CalibrationMap.of(scores, outcomes)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, outcomes)
    asked = np.linspace(0, 1, 501)
    assert found(asked) == pytest.approx(theirs.predict(asked), abs=1e-9)
    assert found.n == 3000
    assert found(np.array([0.5])) == pytest.approx(0.25, abs=0.05)  # the truth is the square
    assert CalibrationMap()(np.array([0.3])).tolist() == [0.3]


def test_the_expected_area_is_the_real_one_where_rates_are_outcomes_and_its_mean_where_they_are_rates():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(7)
    scores = rng.choice(np.linspace(0, 1, 50), 500)
    outcomes = (rng.random(500) < scores).astype(float)
    assert expected_roc_auc(outcomes, scores) == pytest.approx(roc_auc_score(outcomes, scores), abs=1e-12)
    drawn = [roc_auc_score(rng.random(500) < scores, scores) for _ in range(300)]
    assert expected_roc_auc(scores, scores) == pytest.approx(np.mean(drawn), abs=0.005)
    assert math.isnan(expected_roc_auc([1.0, 1.0], [0.2, 0.3]))


def test_the_step_up_rejects_what_benjamini_and_hochberg_do_by_p_values() -> None:
    rng = np.random.default_rng(11)
    for _ in range(300):
        m = int(rng.integers(1, 40))
        p = np.where(rng.random(m) < 0.3, rng.beta(0.2, 8, m), rng.random(m))
        q = float(rng.uniform(0.01, 0.2))
        level = step_up(lambda rate, p=p: int((p <= rate).sum()), q / m, m)
        ranked = np.sort(p)
        passing = np.flatnonzero(ranked <= q * np.arange(1, m + 1) / m)
        wanted = set(np.flatnonzero(p <= ranked[passing[-1]])) if passing.size else set()
        assert set(np.flatnonzero(p <= level)) == wanted


def test_while_nothing_is_wrong_the_step_up_alarms_no_more_often_than_is_stated_and_finds_more_where_much_is() -> None:
    rng = np.random.default_rng(12)
    alarmed = plain = found = 0
    for _ in range(4000):
        shared = rng.normal()  # columns share their days
        z = 0.6 * shared + 0.8 * rng.normal(size=30)
        level = step_up(lambda rate, z=z: int((z > ndtri(1 - rate)).sum()), 0.1 / 30, 30)
        alarmed += bool((z > ndtri(1 - level)).any())
        moved = z + np.where(np.arange(30) < 15, 2.5, 0.0)
        level = step_up(lambda rate, z=moved: int((z > ndtri(1 - rate)).sum()), 0.1 / 30, 30)
        found += int((moved[:15] > ndtri(1 - level)).sum())
        plain += int((moved[:15] > ndtri(1 - 0.1 / 30)).sum())
    assert alarmed / 4000 < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 4000)
    assert found > 1.3 * plain
