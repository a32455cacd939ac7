from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.stats.summary import Comparison, Counts, Estimate, Moments, PairMoments, in_unit_interval, per_unit

values = st.lists(st.floats(-1e6, 1e6), max_size=20)


def close(a: Moments, b: Moments) -> bool:
    scale = 1 + abs(b.mean)
    return (
        a.n == b.n
        and math.isclose(a.mean, b.mean, rel_tol=1e-9, abs_tol=1e-6)
        and math.isclose(a.m2, b.m2, rel_tol=1e-6, abs_tol=1e-6 * scale * scale)
    )


@given(values, values, values)
def test_merging_moments_is_associative_commutative_and_equal_to_one_pass(a, b, c):
    one, two, three = Moments.of(a), Moments.of(b), Moments.of(c)
    whole = Moments.of(a + b + c)
    assert close((one + two) + three, whole)
    assert close(one + (two + three), whole)
    assert close(three + one + two, whole)


@given(values, values)
def test_taking_a_part_away_leaves_the_rest(a, b):
    whole, rest, expected = Moments.of(a + b), Moments.of(a + b) - Moments.of(b), Moments.of(a)
    assert rest.n == expected.n
    assert rest.total == pytest.approx(expected.total, rel=1e-9, abs=1e-3)
    assert rest.m2 == pytest.approx(expected.m2, rel=1e-6, abs=1e-9 * (1 + whole.m2))


def test_moments_keep_their_variance_at_a_large_mean_where_sums_of_squares_cancel():
    rng = np.random.default_rng(1)
    x = 1e9 + rng.normal(size=10_000)
    merged = sum((Moments.of(part) for part in np.split(x, 100)), Moments())
    assert merged.variance == pytest.approx(np.var(x, ddof=1), rel=1e-6)
    naive = (np.sum(x**2) - x.size * x.mean() ** 2) / (x.size - 1)
    assert abs(naive - 1) > 0.5  # so the check above can fail


def test_pair_moments_merge_and_unmerge():
    rng = np.random.default_rng(2)
    x, y = rng.normal(3, 2, 50), rng.normal(-1, 5, 50)
    merged = PairMoments.of(x[:20], y[:20]) + PairMoments.of(x[20:], y[20:])
    assert merged.covariance == pytest.approx(np.cov(x, y)[0, 1], rel=1e-12)
    rest = merged - PairMoments.of(x[:20], y[:20])
    assert rest.covariance == pytest.approx(np.cov(x[20:], y[20:])[0, 1], rel=1e-9)
    assert rest.x.variance == pytest.approx(np.var(x[20:], ddof=1), rel=1e-9)
    assert PairMoments() + merged == merged
    assert merged + PairMoments() == merged
    assert merged - PairMoments() == merged
    assert merged - merged == PairMoments()
    assert PairMoments.of([], []) == PairMoments()


def test_the_ratio_has_the_standard_error_that_repetition_shows():
    rng = np.random.default_rng(3)
    views = rng.poisson(5, (4000, 200)) + 1
    clicks = rng.binomial(views, rng.beta(2, 8, views.shape))
    ratios = clicks.sum(axis=1) / views.sum(axis=1)
    stated = [PairMoments.of(c, v).ratio.standard_error for c, v in zip(clicks[:200], views[:200], strict=True)]
    assert np.mean(stated) == pytest.approx(ratios.std(), rel=0.03)
    assert PairMoments().ratio == Moments()


def test_a_ratio_of_nothing_is_refused():
    with pytest.raises(ValueError, match="denominators of a ratio sum to zero over 2 units"):
        _ = PairMoments.of([1, 2], [0, 0]).ratio


def test_rows_collapse_to_units_whatever_their_order_and_type():
    a = per_unit([1, 2, 3, 4], ["b", "a", "b", "c"])
    assert a == per_unit([2, 1, 3, 4], [1, 2, 2, 3])
    assert (a.n, a.x.total, a.y.total) == (3, 10.0, 4.0)
    with pytest.raises(ValueError, match="2 values and 1 units"):
        per_unit([1, 2], ["a"])


def test_counts_merge_and_turn_into_moments_of_zeros_and_ones():
    assert (Counts(2, 5) + Counts(1, 5)).moments == Moments.of([1, 1, 1] + [0] * 7)
    assert Counts(3, 9) - Counts(1, 5) == Counts(2, 4)
    assert Counts().moments == Moments()
    assert math.isnan(Counts().rate)
    with pytest.raises(ValueError, match="6 of 5"):
        Counts(6, 5)


def test_too_little_has_no_variance_and_says_so_by_nan():
    one = Moments.of([3.0])
    assert math.isnan(one.variance)
    assert math.isnan(one.standard_error)
    assert math.isnan(PairMoments.of([1], [1]).covariance)
    assert Moments.of([]) == Moments()
    assert Moments.of([1, 2]) - Moments.of([1, 2]) == Moments()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_numbers_are_refused_and_counted(bad):
    with pytest.raises(ValueError, match="values holds 2 NaN or infinite of 3"):
        Moments.of([1.0, bad, bad])


def test_a_part_larger_than_the_whole_is_refused():
    with pytest.raises(ValueError, match="cannot take 2 units out of 1"):
        _ = Moments.of([1]) - Moments.of([1, 2])
    with pytest.raises(ValueError, match="got 2 and 1 values"):
        PairMoments.of([1, 2], [1])


def test_an_open_side_survives_json():
    one_sided = Comparison(value=0.1, lower=0.0, upper=math.inf, n=9, level=0.95, statistic=-math.inf, p_value=0.5)
    back = msgspec.json.decode(msgspec.json.encode(one_sided), type=Comparison)
    assert (back.lower, back.upper, back.half_width) == (0.0, math.inf, math.inf)
    assert math.isnan(back.statistic)
    nothing = msgspec.json.decode(b'{"value":null,"lower":null,"upper":null,"n":0,"level":0.95}', type=Estimate)
    assert math.isnan(nothing.value)
    assert not nothing.excludes(0.0)
    assert back.excludes(-0.1)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_a_level_outside_the_open_unit_interval_is_refused(value):
    with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
        in_unit_interval(value, "alpha")
