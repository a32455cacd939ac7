"""Numbers from papers, textbooks and gbstats 0.8.0 (GrowthBook's statistics), each with its source."""

from __future__ import annotations

import numpy as np
import pytest

from undrift.stats.change import cusum_run_length
from undrift.stats.compare import (
    cuped,
    difference_of_means,
    difference_of_rates,
    holm,
    sample_ratio_mismatch,
    wilson_interval,
)
from undrift.stats.summary import Counts, Moments, PairMoments


@pytest.mark.parametrize(
    ("k", "n", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_newcombe_1998a_table_1_method_3(k, n, lower, upper):
    found = wilson_interval(Counts(k, n))
    assert (round(found.lower, 4), round(found.upper, 4)) == (lower, upper)


@pytest.mark.parametrize(
    ("new", "old", "lower", "upper"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_differences_of_rates_of_newcombe_1998b_table_2_method_10(new, old, lower, upper):
    found = difference_of_rates(Counts(*old), Counts(*new))
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=6e-5)


@pytest.mark.parametrize(("threshold", "one_sided"), [(4.0, 336), (5.0, 930)])
def test_cusum_run_lengths_of_montgomery(threshold, one_sided):
    """Introduction to Statistical Quality Control, 6th ed., sec. 9.1.4: two-sided 168 and 465 at k = 1/2."""
    assert cusum_run_length(threshold, 0.5) == pytest.approx(one_sided, rel=0.02)


@pytest.mark.parametrize(("shift", "length"), [(1.0, 10.4), (2.0, 4.01)])
def test_cusum_delays_of_montgomery_table_9_3(shift, length):
    assert cusum_run_length(5.0, 0.5, shift) == pytest.approx(length, rel=0.04)


def clicks_and_views(k: int, units: int) -> tuple[np.ndarray, np.ndarray]:
    i = np.arange(units)
    views = 1 + (i * 7 + k) % 11
    return (i * 5 + 3 * k) % (views + 1), views


def test_means_ratios_regression_adjustment_and_sample_ratio_equal_gbstats():
    """Run on gbstats 0.8.0: TwoSidedTTest on SampleMean-, Ratio- and RegressionAdjustedStatistic, and check_srm."""
    old, new = clicks_and_views(0, 120), clicks_and_views(2, 90)
    pairs = PairMoments.of(*old), PairMoments.of(*new)
    cases = {
        (-0.7388888888888889, -1.4623803787704837, -0.015397399007294199, 0.04536263940790208): (
            Moments.of(old[0]),
            Moments.of(new[0]),
        ),
        (-0.12314996885102586, -0.2262222610245603, -0.020077676677491413, 0.019452117948172365): (
            pairs[0].ratio,
            pairs[1].ratio,
        ),
        (-0.7401498939787112, -1.3699592961110365, -0.11034049184638595, 0.02150899184661026): cuped(*pairs),
    }
    for expected, arms in cases.items():
        found = difference_of_means(*arms)
        assert (found.value, found.lower, found.upper, found.p_value) == pytest.approx(expected, rel=1e-9)
    assert sample_ratio_mismatch([1000, 1100], [0.5, 0.5]).p_value == pytest.approx(0.029096331741252267, rel=1e-9)
    assert sample_ratio_mismatch([310, 100, 90], [0.6, 0.2, 0.2]).p_value == pytest.approx(0.5134171190325922, rel=1e-9)


def test_holm_steps_down_as_in_the_paper():
    """Holm (1979), "A simple sequentially rejective multiple test procedure": against alpha/4, alpha/3, ..."""
    assert holm([0.01, 0.02, 0.03, 0.5]).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.5])
