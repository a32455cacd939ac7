from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from undrift.stats.compare import (
    benjamini_hochberg,
    block_rows,
    bootstrap,
    cuped,
    difference_of_means,
    difference_of_rates,
    e_benjamini_hochberg,
    holm,
    paired_difference,
    sample_ratio_mismatch,
    wilson_interval,
)
from undrift.stats.summary import Counts, Moments, PairMoments, per_unit

EXACT = {"rel": 1e-9, "abs": 1e-12}


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 29), (15, 148), (81, 263), (20, 20)])
@pytest.mark.parametrize("level", [0.9, 0.99])
def test_wilson_equals_scipy(k, n, level):
    ours, theirs = wilson_interval(Counts(k, n), level), stats.binomtest(k, n).proportion_ci(level, method="wilson")
    assert (ours.lower, ours.upper) == pytest.approx((theirs.low, theirs.high), **EXACT)


def test_a_rate_of_nothing_may_be_anything():
    nothing = wilson_interval(Counts())
    assert (nothing.lower, nothing.upper, nothing.n) == (0.0, 1.0, 0)


def test_the_difference_of_rates_tests_like_scipys_chi_square_without_correction():
    found = difference_of_rates(Counts(30, 200), Counts(25, 90))
    chi2, p, _, _ = stats.chi2_contingency([[30, 170], [25, 65]], correction=False)
    assert (found.statistic**2, found.p_value) == pytest.approx((chi2, p), **EXACT)
    assert found.lower < 25 / 90 - 30 / 200 < found.upper
    same = difference_of_rates(Counts(0, 10), Counts(0, 10))
    assert (same.value, same.p_value) == (0.0, 1.0)
    with pytest.raises(ValueError, match="got 0 and 3"):
        difference_of_rates(Counts(), Counts(1, 3))


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_means_compare_as_in_scipy(level):
    rng = np.random.default_rng(1)
    old, new = rng.exponential(size=70), rng.normal(1.2, 3, 23)
    ours, theirs = (
        difference_of_means(Moments.of(old), Moments.of(new), level),
        stats.ttest_ind(new, old, equal_var=False),
    )
    interval = theirs.confidence_interval(level)
    assert (ours.lower, ours.upper, ours.p_value, ours.statistic) == pytest.approx(
        (interval.low, interval.high, theirs.pvalue, theirs.statistic), **EXACT
    )


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_pairs_compare_as_in_scipy(level):
    x = np.random.default_rng(2).normal(0.1, 1, 40)
    ours, theirs = paired_difference(Moments.of(x), level), stats.ttest_1samp(x, 0.0)
    interval = theirs.confidence_interval(level)
    assert (ours.lower, ours.upper, ours.p_value) == pytest.approx(
        (interval.low, interval.high, theirs.pvalue), **EXACT
    )


def test_constant_arms_differ_surely_or_not_at_all():
    ones, twos = Moments.of([1, 1, 1]), Moments.of([2, 2])
    assert difference_of_means(ones, twos).p_value == 0.0
    assert difference_of_means(ones, ones).p_value == 1.0
    assert paired_difference(ones - Moments.of([1])).p_value == 0.0


def test_too_few_for_a_variance_is_refused():
    with pytest.raises(ValueError, match="got 1 and 2"):
        difference_of_means(Moments.of([1]), Moments.of([1, 2]))
    with pytest.raises(ValueError, match="two rows, got 1"):
        paired_difference(Moments.of([1]))


def test_clustered_rows_keep_their_level_only_when_units_are_respected():
    rng = np.random.default_rng(3)
    false_by_unit = false_by_row = 0
    units = np.repeat(np.arange(60), rng.integers(1, 20, 60))
    for _ in range(400):
        rows = rng.normal(size=60)[units] + rng.normal(size=units.size) * 0.5
        old, new = units < 30, units >= 30
        arms = [per_unit(rows[arm], units[arm]).ratio for arm in (old, new)]
        false_by_unit += difference_of_means(*arms).p_value < 0.05
        false_by_row += difference_of_means(Moments.of(rows[old]), Moments.of(rows[new])).p_value < 0.05
    assert false_by_unit / 400 < 0.1  # 0.05, and the delta method's slight optimism at 30 units
    assert false_by_row / 400 > 0.3


def test_the_covariate_takes_its_share_of_the_variance_and_leaves_the_difference():
    rng = np.random.default_rng(4)
    before_old, before_new = rng.normal(10, 2, 2000), rng.normal(10, 2, 1000)
    old, new = before_old + rng.normal(size=2000), before_new + 0.3 + rng.normal(size=1000)
    plain = difference_of_means(Moments.of(old), Moments.of(new))
    sharper = difference_of_means(*cuped(PairMoments.of(old, before_old), PairMoments.of(new, before_new)))
    r2 = np.corrcoef(np.concatenate([old, new]), np.concatenate([before_old, before_new]))[0, 1] ** 2
    assert (sharper.half_width / plain.half_width) ** 2 == pytest.approx(1 - r2, rel=0.05)
    assert sharper.lower < 0.3 < sharper.upper
    constant = PairMoments.of([1, 2, 3], [5, 5, 5])
    assert cuped(constant, constant)[0] == constant.x


def test_sample_ratio_tests_like_scipy():
    counts, weights = [310, 100, 90], [0.6, 0.2, 0.2]
    theirs = stats.chisquare(counts, np.array(weights) * 500)
    ours = sample_ratio_mismatch(counts, [3, 1, 1])
    assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue), **EXACT)
    assert ours.value == pytest.approx(0.02)
    for counts, weights in ([[1], [1]], [[1, 2], [1, 2, 3]]):
        with pytest.raises(ValueError, match="two or more variants"):
            sample_ratio_mismatch(counts, weights)
    with pytest.raises(ValueError, match="positive weights"):
        sample_ratio_mismatch([1, 2], [1, 0])


def test_false_discovery_adjustment_equals_scipy_and_holm_its_definition():
    rng = np.random.default_rng(5)
    for size in (1, 2, 30):
        p = rng.random(size) ** 3
        np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-9)
        order = np.argsort(p)
        stepwise = [min(1.0, max((size - j) * p[order[j]] for j in range(i + 1))) for i in range(size)]
        np.testing.assert_allclose(holm(p)[order], stepwise, rtol=1e-9)
    assert holm([]).size == benjamini_hochberg([]).size == 0
    with pytest.raises(ValueError, match=r"p-values must lie in \[0, 1\]"):
        holm([0.1, 1.2])


def test_e_values_are_rejected_together():
    assert e_benjamini_hochberg([39.0, 1.0], 0.05).tolist() == [False, False]
    assert e_benjamini_hochberg([41.0, 1.0], 0.05).tolist() == [True, False]
    assert e_benjamini_hochberg([21.0, 20.0], 0.05).tolist() == [True, True]
    assert e_benjamini_hochberg([], 0.05).size == 0


def test_blocks_make_the_interval_of_a_dependent_series_wide_enough():
    rng = np.random.default_rng(6)
    covered = {1: 0, 40: 0}
    for _ in range(150):
        series = stats_ar1(rng, 500, 0.8)
        for block in covered:
            found = bootstrap(lambda rows, s=series: float(s[rows].mean()), 500, rng, block_length=block, resamples=200)
            covered[block] += not found.excludes(0.0)
    assert covered[40] / 150 > 0.85
    assert covered[1] / 150 < 0.65


def stats_ar1(rng: np.random.Generator, n: int, phi: float) -> np.ndarray:
    from scipy.signal import lfilter

    return lfilter([1], [1, -phi], rng.normal(size=n + 100))[100:]


def test_blocks_run_on_wrap_around_and_keep_the_phase():
    rng = np.random.default_rng(7)
    rows = block_rows(10, 10, 5, rng)
    assert rows.size == 10
    assert ((np.diff(rows[:5]) == 1) | (np.diff(rows[:5]) == -9)).all()
    phased = block_rows(50, 96, 6, rng, period=24)
    assert (phased % 24 == np.arange(96) % 24).all()
    assert phased.max() < 48
    with pytest.raises(ValueError, match="period of 24 rows"):
        block_rows(20, 20, 5, rng, period=24)


def test_a_bootstrap_that_cannot_be_is_refused():
    rng = np.random.default_rng(8)
    with pytest.raises(ValueError, match="two rows and 100 resamples"):
        bootstrap(lambda rows: 0.0, 1, rng)
    with pytest.raises(ValueError, match=r"block_length must lie in \[1, 5\]"):
        bootstrap(lambda rows: 0.0, 5, rng, block_length=6)
    with pytest.raises(ValueError, match="NaN in 100 of 100"):
        bootstrap(lambda rows: math.nan, 5, rng, resamples=100)
