from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from undrift.stats.ranking import SCORE_BINS, areas_within, auc_by_counts, score_bin, shares_won


def by_class(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bins = score_bin(score)
    return tuple(np.bincount(bins[label == c], minlength=SCORE_BINS) for c in (0, 1))  # type: ignore[return-value]


def test_the_area_is_that_of_the_rounded_scores_and_nearly_that_of_the_scores() -> None:
    rng = np.random.default_rng(1)
    score = rng.beta(1, 30, 4000)  # rare positives: scores near 0
    label = (rng.random(4000) < score * 3).astype(int)
    area, _ = auc_by_counts(*by_class(score, label))
    assert float(area) == pytest.approx(roc_auc_score(label, score_bin(score)), abs=1e-12)
    assert float(area) == pytest.approx(roc_auc_score(label, score), abs=1e-3)


def test_the_variance_is_delongs_written_out_over_all_pairs() -> None:
    rng = np.random.default_rng(2)
    score, label = rng.random(120), rng.integers(0, 2, 120)
    bins = score_bin(score)
    high, low = bins[label == 1], bins[label == 0]
    won = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
    plain = won.mean(axis=1).var(ddof=1) / len(high) + won.mean(axis=0).var(ddof=1) / len(low)
    area, variance = auc_by_counts(*by_class(score, label))
    assert (float(area), float(variance)) == pytest.approx((won.mean(), plain), rel=1e-12)


def test_the_spread_over_repeated_samples_is_the_one_stated() -> None:
    rng = np.random.default_rng(3)
    areas, variances = [], []
    for _ in range(400):
        label = rng.integers(0, 2, 300)
        score = 1 / (1 + np.exp(-(rng.normal(size=300) + label)))
        area, variance = auc_by_counts(*by_class(score, label))
        areas.append(float(area))
        variances.append(float(variance))
    assert np.var(areas) == pytest.approx(np.mean(variances), rel=0.2)


def test_a_class_of_fewer_than_two_has_no_area() -> None:
    area, variance = auc_by_counts([[3.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]])
    assert np.isnan([area[0], variance[0]]).all()
    assert area[1] == 1.0


def test_scores_at_the_ends_have_a_bin() -> None:
    assert score_bin([0.0, 1.0]).tolist() == [0, SCORE_BINS - 1]


def test_the_shares_won_have_scikit_learns_area_as_their_mean_with_ties_and_without() -> None:
    rng = np.random.default_rng(4)
    for decimals in (1, 8):
        label = rng.integers(0, 2, 300)
        score = np.round(rng.normal(size=300) + label, decimals)
        won = shares_won(score, label == 1)
        area = roc_auc_score(label, score)
        assert won[label == 1].mean() == pytest.approx(area, abs=1e-12)
        assert won[label == 0].mean() == pytest.approx(area, abs=1e-12)
    assert np.isnan(shares_won([0.1, 0.2], [True, True])).all()


def test_each_units_area_and_variance_are_those_of_its_rows_alone() -> None:
    rng = np.random.default_rng(5)
    unit = rng.permutation(np.repeat([7, 3, 5], 80))
    label = np.where(unit == 5, 0, rng.integers(0, 2, 240))  # one unit has a class alone
    score = np.round(rng.random(240) + 0.3 * label, 2)
    found = areas_within(score, label, unit)
    assert found.unit.tolist() == [3, 7]
    for place, which in enumerate((3, 7)):
        high, low = score[(unit == which) & (label == 1)], score[(unit == which) & (label == 0)]
        won = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
        plain = won.mean(axis=1).var(ddof=1) / len(high) + won.mean(axis=0).var(ddof=1) / len(low)
        assert found.area[place] == pytest.approx(won.mean(), abs=1e-12)
        assert found.variance[place] == pytest.approx(plain, rel=1e-9)
        assert (found.positives[place], found.negatives[place]) == (len(high), len(low))


def test_the_mean_area_is_as_uncertain_as_it_says_and_days_that_differ_do_not_move_it() -> None:
    rng = np.random.default_rng(6)

    def drawn(apart: float) -> tuple[float, float, float]:
        day = np.repeat(np.arange(12), 120)
        level = rng.normal(0, apart, 12)[day]
        x = rng.normal(size=day.size)
        label = rng.random(day.size) < 1 / (1 + np.exp(1 - x - level))
        value, error, units = areas_within(x + level, label, day).mean()
        assert units >= 10, "a day may have one class alone"
        return value, error, roc_auc_score(label, x + level)

    alike, apart = (np.array([drawn(size) for _ in range(300)]) for size in (0.0, 1.5))
    for values in (alike, apart):
        assert values[:, 1].mean() == pytest.approx(values[:, 0].std(), rel=0.2)
    # that the days differ is what the area of all rows together tells
    assert abs(alike[:, 0].mean() - apart[:, 0].mean()) < 0.02
    assert apart[:, 2].mean() - alike[:, 2].mean() > 0.1


def test_of_no_unit_or_one_there_is_no_error() -> None:
    none = areas_within([], [], [])
    assert np.isnan(none.mean()[0])
    assert areas_within([0.1, 0.9], [0, 1], [4, 4]).mean() == (1.0, np.inf, 1)
