"""Over 2,000 A/A paths looked at every 100 units the sequences keep their level, and a peeking t test does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from undrift.stats.sequential import (
    difference_bounds,
    difference_sequence,
    mean_sequence,
    mixture_multiplier,
    mixture_scale,
    sample_ratio_e_value,
    stratified_difference_sequence,
)
from undrift.stats.summary import Moments

PATHS, LOOKS, BLOCK = 2000, 60, 100


def allowed(alpha: float, paths: int = PATHS) -> float:
    """The share of paths that a true rate of alpha exceeds once in a thousand runs."""
    return float(stats.binom.ppf(0.999, paths, alpha)) / paths


def totals(metric: str, units: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sum and sum of squares of `units` draws of a metric, for each entry."""
    if metric.startswith("rate "):
        x = rng.binomial(units, float(metric[5:])).astype(float)
        return x, x
    n = int(units.sum())
    y = rng.exponential(size=n) if metric == "exponential" else rng.lognormal(0, 1, n)
    where = np.repeat(np.arange(units.size), units.ravel())
    return (
        np.bincount(where, y, units.size).reshape(units.shape),
        np.bincount(where, y * y, units.size).reshape(units.shape),
    )


def running(units: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, s, q = (a.cumsum(axis=1).astype(float) for a in (units, sums, squares))
    mean = s / np.maximum(n, 1)
    return n, mean, np.maximum(q - n * mean**2, 0)


def aa_paths(metric: str, share: float, seed: int, effect: float = 0.0, paths: int = PATHS):
    rng = np.random.default_rng(seed)
    candidate = rng.binomial(BLOCK, share, (paths, LOOKS))
    old, new = BLOCK - candidate, candidate
    a, b = running(old, *totals(metric, old, rng)), running(new, *totals(metric, new, rng))
    return a, (b[0], b[1] * (1 + effect), b[2] * (1 + effect) ** 2)


def one_stratum(arm):
    return tuple(a[..., None] for a in arm)


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("metric", ["rate 0.2", "rate 0.01", "exponential", "lognormal"])
def test_a_difference_looked_at_every_hundred_units_keeps_its_level(metric, share):
    champion, candidate = aa_paths(metric, share, seed=11)
    for alpha in (0.05, 0.01):
        for one_sided in (False, True):
            bounds = difference_bounds(
                one_stratum(champion), one_stratum(candidate), alpha, tuning=300, one_sided=one_sided
            )
            above, below = bounds.value > bounds.half_width, -bounds.value > bounds.half_width
            misses = [above | below] if not one_sided else [above, below]
            for miss in misses:
                assert miss.any(axis=1).mean() <= allowed(alpha), (alpha, one_sided)


def test_a_peeking_t_test_fails_the_same_check():
    (n0, m0, s0), (n1, m1, s1) = aa_paths("rate 0.2", 0.5, seed=11)
    se = np.sqrt(s0 / (n0 - 1) / n0 + s1 / (n1 - 1) / n1)
    alarms = (np.abs(m1 - m0) > 1.96 * se).any(axis=1).mean()
    assert alarms > 3 * allowed(0.05)


def test_without_drawing_the_small_arms_variance_up_the_check_fails():
    (n0, m0, s0), (n1, m1, s1) = (tuple(a[:, 5:] for a in arm) for arm in aa_paths("rate 0.01", 0.05, seed=11))
    se = np.sqrt(s0 / np.maximum(n0 - 1, 1) / n0 + s1 / np.maximum(n1 - 1, 1) / np.maximum(n1, 1))
    reach = mixture_multiplier(n0 * n1 / (n0 + n1), 0.05, 300, one_sided=True)
    alarms = ((m0 - m1 > reach * se) & (n1 >= 30)).any(axis=1).mean()
    assert alarms > 3 * allowed(0.05)


def test_a_real_difference_is_covered_at_all_looks_and_found():
    effect = 0.3
    champion, candidate = aa_paths("exponential", 0.25, seed=5, effect=effect)
    bounds = difference_bounds(one_stratum(champion), one_stratum(candidate), 0.05, tuning=500)
    missed = (np.abs(bounds.value - effect) > bounds.half_width).any(axis=1).mean()
    assert missed <= allowed(0.05)
    found = (bounds.value - bounds.half_width > 0).any(axis=1).mean()
    assert found > 0.95


def drifting_steps(seed: int, paths: int) -> tuple[list, list]:
    """Five steps of growing allocation while the metric's level grows as well; advance depends on what was seen."""
    rng = np.random.default_rng(seed)
    old, new = [], []
    share = np.full((paths, 1), 0.05)
    for level in (0.1, 0.2, 0.3, 0.4, 0.5):
        candidate = rng.binomial(BLOCK, np.broadcast_to(share, (paths, 20)))
        pair = [running(units, *totals_at(units, level, rng)) for units in (BLOCK - candidate, candidate)]
        old.append(pair[0])
        new.append(pair[1])
        looks_good = pair[1][1][:, -1:] <= pair[0][1][:, -1:]
        share = np.minimum(np.where(looks_good, share * 2, share), 0.5)
    return old, new


def totals_at(units: np.ndarray, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.binomial(units, rate).astype(float)
    return x, x


def look_by_look(steps: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays (paths, looks, strata): at each look finished steps stand whole and later ones are empty."""
    looks = []
    for k, step in enumerate(steps):
        for i in range(step[0].shape[1]):
            columns = [tuple(a[:, -1] for a in done) for done in steps[:k]] + [tuple(a[:, i] for a in step)]
            columns += [tuple(np.zeros(step[0].shape[0]) for _ in range(3))] * (len(steps) - k - 1)
            looks.append(tuple(np.stack([c[j] for c in columns], axis=-1) for j in range(3)))
    return tuple(np.stack([look[j] for look in looks], axis=1) for j in range(3))  # type: ignore[return-value]


def test_strata_keep_the_level_when_weights_follow_results_and_the_metric_moves_with_them():
    old, new = drifting_steps(seed=3, paths=1000)
    champion, candidate = look_by_look(old), look_by_look(new)
    bounds = difference_bounds(champion, candidate, 0.05, tuning=500)
    assert (np.abs(bounds.value) > bounds.half_width).any(axis=1).mean() <= allowed(0.05, 1000)

    def pooled(arm):
        n, mean, m2 = arm
        whole = n.sum(axis=-1, keepdims=True)
        average = (n * mean).sum(axis=-1, keepdims=True) / np.maximum(whole, 1)
        return whole, average, (m2 + n * (mean - average) ** 2).sum(axis=-1, keepdims=True)

    naive = difference_bounds(pooled(champion), pooled(candidate), 0.05, tuning=500)
    assert (np.abs(naive.value) > naive.half_width).any(axis=1).mean() > 0.5  # the mix of steps looks like an effect


def test_the_scale_is_where_the_interval_is_tightest():
    for alpha in (0.05, 0.01):
        best = optimize.minimize_scalar(
            lambda r, a=alpha: (r + 1) / r * (np.log(r + 1) - 2 * np.log(a)), bounds=(1, 50), method="bounded"
        ).x
        assert mixture_scale(1000, alpha) * 1000 == pytest.approx(best, rel=1e-3)


def test_multipliers_exceed_the_fixed_sample_ones_and_one_side_is_cheaper():
    n = np.array([50, 500, 5000])
    both, one = mixture_multiplier(n, 0.05, 500), mixture_multiplier(n, 0.05, 500, one_sided=True)
    assert (both > 1.96).all()
    assert (one < both).all()
    assert (one > 1.645).all()
    assert math.isinf(mixture_multiplier(0, 0.05, 500))


def test_the_mean_is_covered_at_all_looks():
    rng = np.random.default_rng(8)
    units = np.full((PATHS, LOOKS), BLOCK)
    n, mean, m2 = running(units, *totals("exponential", units, rng))
    se = np.sqrt(m2 / (n - 1) / n)
    assert (np.abs(mean - 1) > se * mixture_multiplier(n, 0.05, 1000)).any(axis=1).mean() <= allowed(0.05)


def test_estimates_agree_with_the_arrays_they_are_made_of():
    old, new = Moments.of(np.arange(200.0)), Moments.of(np.arange(50.0) + 80)
    wide = difference_sequence(old, new, 0.05, 100)
    arrays = difference_bounds(([200], [old.mean], [old.m2]), ([50], [new.mean], [new.m2]), 0.05, 100)
    assert (wide.value, wide.half_width) == pytest.approx((float(arrays.value), float(arrays.half_width)))
    up, down = (difference_sequence(old, new, 0.05, 100, side=side) for side in ("upper", "lower"))
    assert (up.lower, down.upper) == (-math.inf, math.inf)
    assert wide.lower < down.lower < down.value < up.upper < wide.upper
    assert mean_sequence(old, 0.05, 200).n == 200


def test_below_the_minimum_there_is_no_bound():
    few = Moments.of(np.arange(29.0))
    many = Moments.of(np.arange(500.0))
    assert math.isinf(difference_sequence(many, few, 0.05, 100).half_width)
    assert math.isinf(mean_sequence(few, 0.05, 100).half_width)
    for nothing in (mean_sequence(Moments(), 0.05, 100), stratified_difference_sequence([], 0.05, 100)):
        assert math.isnan(nothing.value)
        assert math.isinf(nothing.half_width)
    one_armed = difference_sequence(many, Moments(), 0.05, 100)
    assert math.isnan(one_armed.value)
    assert math.isinf(one_armed.half_width)


def test_a_stratum_with_one_arm_only_tells_nothing():
    pair = (Moments.of(np.arange(300.0)), Moments.of(np.arange(100.0)))
    lonely = (Moments.of(np.arange(1000.0, 2000.0)), Moments())
    assert stratified_difference_sequence([pair, lonely], 0.05, 100).value == pytest.approx(-100)


def test_equal_strata_add_up_like_one_twice_as_large():
    pair = (Moments(1000, 0.1, 90.0), Moments(100, 0.2, 16.0))
    twice = stratified_difference_sequence([pair, pair], 0.05, 100)
    assert twice.value == pytest.approx(0.1)
    once = stratified_difference_sequence([pair], 0.05, 50)
    assert once.half_width / twice.half_width == pytest.approx(math.sqrt(2), rel=1e-9)


@pytest.mark.parametrize(("alpha", "tuning"), [(0.0, 100), (1.0, 100), (0.05, 0), (0.05, -1)])
def test_impossible_settings_are_refused(alpha, tuning):
    with pytest.raises(ValueError, match="must"):
        mean_sequence(Moments.of(np.arange(100.0)), alpha, tuning)


def test_sample_ratio_evidence_is_looked_at_after_every_unit_without_false_alarms():
    rng = np.random.default_rng(4)
    candidate = rng.binomial(BLOCK, 0.05, (600, LOOKS)).cumsum(axis=1)
    total = BLOCK * np.arange(1, LOOKS + 1)
    alarms, peeking = 0, 0
    for path in candidate:
        alarms += any(sample_ratio_e_value([t - c, c], [0.95, 0.05]) >= 20 for c, t in zip(path, total, strict=True))
        z = (path - 0.05 * total) / np.sqrt(total * 0.05 * 0.95)
        peeking += bool((np.abs(z) > 1.96).any())
    assert alarms / 600 <= allowed(0.05, 600)
    assert peeking / 600 > 3 * allowed(0.05, 600)


def test_sample_ratio_evidence_of_one_unit_averages_to_one():
    weights = [0.7, 0.3]
    mean = sum(w * sample_ratio_e_value(np.eye(2)[i], weights) for i, w in enumerate(weights))
    assert mean == pytest.approx(1)


def test_sample_ratio_finds_a_lost_tenth_and_multiplies_over_steps():
    assert sample_ratio_e_value([10_000, 9_000], [1, 1]) > 1e3
    steps = sample_ratio_e_value([[950, 50], [500, 500]], [[0.95, 0.05], [0.5, 0.5]])
    assert steps == pytest.approx(
        sample_ratio_e_value([950, 50], [0.95, 0.05]) * sample_ratio_e_value([500, 500], [0.5, 0.5])
    )
    assert sample_ratio_e_value([10, 0, 1], [0.5, 0.5, 0.0]) == math.inf
    assert sample_ratio_e_value([0, 0], [0.5, 0.5]) == pytest.approx(1)


@pytest.mark.parametrize(("counts", "weights"), [([1, 2], [1.0]), ([-1, 2], [1, 1]), ([1, 1], [0, 0])])
def test_counts_that_do_not_fit_the_weights_are_refused(counts, weights):
    with pytest.raises(ValueError, match="weights"):
        sample_ratio_e_value(counts, weights)
