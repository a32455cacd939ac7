from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from scipy import stats

from undrift.stats.betting import STAKES, WEIGHTS, BoundedMean, Wealth

PATHS = 2000


def allowed(alpha: float, paths: int = PATHS) -> float:
    return float(stats.binom.ppf(0.999, paths, alpha)) / paths


def peak_log_evidence(y: np.ndarray, treated: np.ndarray, p: np.ndarray, margin: float, center: float) -> np.ndarray:
    """The largest log e-value on each path, shape (paths,), written out plainly for many paths at once."""
    z = np.where(treated, (y - center) / p, -(y - center) / (1 - p))
    low = np.minimum(-center / p, -(1 - center) / (1 - p))
    ratio = (z - margin) / (margin - low)
    evidence = np.full(y.shape, -np.inf)
    for stake, weight in zip(STAKES, WEIGHTS, strict=True):
        evidence = np.logaddexp(evidence, np.cumsum(np.log1p(stake * ratio), axis=1) + math.log(weight))
    return evidence.max(axis=1)


def aa(seed: int, share: float, rate: float, rows: int = 1500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    treated = rng.random((PATHS, rows)) < share
    return (rng.random((PATHS, rows)) < rate).astype(float), treated, np.full((PATHS, rows), share)


@pytest.mark.parametrize(("share", "rate"), [(0.05, 0.01), (0.05, 0.5), (0.5, 0.1)])
def test_looking_after_every_row_raises_no_more_false_alarms_than_stated(share, rate):
    y, treated, p = aa(21, share, rate)
    peak = peak_log_evidence(y, treated, p, 0.0, rate)
    assert (peak >= math.log(1 / 0.05)).mean() <= allowed(0.05)
    assert (peak >= math.log(1 / 0.01)).mean() <= allowed(0.01)


def test_weights_that_follow_the_results_and_a_moving_rate_raise_no_false_alarms():
    rng = np.random.default_rng(22)
    share = np.full(PATHS, 0.05)
    ys, arms, ps = [], [], []
    for step in range(15):
        treated = rng.random((PATHS, 100)) < share[:, None]
        y = (rng.random((PATHS, 100)) < 0.1 + 0.05 * step).astype(float)
        ys.append(y)
        arms.append(treated)
        ps.append(np.broadcast_to(share[:, None], y.shape).copy())
        looks_good = (y * treated).sum(axis=1) <= y.sum(axis=1) * share
        share = np.minimum(np.where(looks_good, share * 1.5, share * 1.1), 0.9)
    y, treated, p = (np.concatenate(a, axis=1) for a in (ys, arms, ps))
    assert (peak_log_evidence(y, treated, p, 0.0, 0.1) >= math.log(20)).mean() <= allowed(0.05)
    # pooled over time the candidate's share of late, high-rate rows looks like an effect: the plain comparison is wrong
    n1, n0 = treated.sum(axis=1), (~treated).sum(axis=1)
    m1, m0 = (y * treated).sum(axis=1) / n1, (y * ~treated).sum(axis=1) / n0
    z = (m1 - m0) / np.sqrt(m1 * (1 - m1) / n1 + m0 * (1 - m0) / n0)
    assert (np.abs(z) > 1.96).mean() > 3 * allowed(0.05)


def test_the_state_holds_the_evidence_written_out_plainly():
    y, treated, p = (a[:1] for a in aa(23, 0.2, 0.3))
    whole = Wealth.at([0.0], center=0.3).update(y[0], treated[0], p[0])
    z = np.where(treated[0], (y[0] - 0.3) / 0.2, -(y[0] - 0.3) / 0.8)
    low = min(-0.3 / 0.2, -0.7 / 0.8)
    wealth = [math.prod(1 + stake * (v - 0.0) / (0.0 - low) for v in z) for stake in STAKES]
    assert whole.e_values[0] == pytest.approx(np.dot(WEIGHTS, wealth), rel=1e-9)
    assert sum(WEIGHTS) == pytest.approx(1)
    assert whole.lower_bound(0.05).value == pytest.approx(z.mean())


def test_wealth_does_not_depend_on_how_rows_are_batched_merged_or_ordered():
    rng = np.random.default_rng(24)
    y, treated = rng.random(300), rng.random(300) < 0.3
    p = np.full(300, 0.3)
    start = Wealth.at([-0.1, 0.0, 0.1], center=0.4)
    whole = start.update(y, treated, p)
    steps = start.update(y[:100], treated[:100], 0.3).update(y[100:], treated[100:], 0.3)
    merged = start.update(y[200:], treated[200:], 0.3) + start.update(y[:200], treated[:200], 0.3)
    for other in (steps, merged, msgspec.json.decode(msgspec.json.encode(whole), type=Wealth)):
        np.testing.assert_allclose(other.log_wealth, whole.log_wealth, rtol=1e-9)
        assert (other.candidate_rows, other.champion_rows) == (whole.candidate_rows, whole.champion_rows)
        assert other.weighted == pytest.approx(whole.weighted)


def test_a_broken_small_arm_is_found_soon_and_a_better_one_is_not_blamed():
    rng = np.random.default_rng(25)
    treated = rng.random((200, 4000)) < 0.05
    p = np.full(treated.shape, 0.05)
    worse = (rng.random(treated.shape) < np.where(treated, 0.12, 0.02)).astype(float)
    better = (rng.random(treated.shape) < np.where(treated, 0.0, 0.02)).astype(float)
    assert (peak_log_evidence(worse, treated, p, 0.005, 0.02) >= math.log(100)).mean() > 0.95
    assert (peak_log_evidence(better, treated, p, 0.005, 0.02) >= math.log(100)).mean() == 0


def test_the_lower_bound_is_the_last_margin_refuted_without_a_gap():
    seen = Wealth.at([-0.5, 0.0, 0.5], center=0.5)
    assert seen.lower_bound(0.05).lower == -1.0
    assert math.isnan(seen.lower_bound(0.05).value)
    wealth = tuple((math.log(w),) * len(STAKES) for w in (100.0, 25.0, 1.0))
    bound = msgspec.structs.replace(seen, log_wealth=wealth).lower_bound(0.05)
    assert (bound.lower, bound.upper, bound.level) == (0.0, math.inf, 0.95)


def test_what_bets_cannot_be_made_on_is_refused():
    start = Wealth.at(0.0, center=0.5)
    with pytest.raises(ValueError, match=r"outcomes must lie in \[0, 1\], got 0.0 to 2.0"):
        start.update([0.0, 2.0], [True, False], 0.5)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        start.update([0.0, 1.0], [True, False], [0.5, 1.0])
    with pytest.raises(ValueError, match="2 outcomes and 1 arms"):
        start.update([0.0, 1.0], [True], 0.5)
    with pytest.raises(ValueError, match="same margins and center"):
        _ = start + Wealth.at(0.1, center=0.5)
    with pytest.raises(ValueError, match="ascending"):
        Wealth.at([0.1, 0.0], center=0.5)
    with pytest.raises(ValueError, match="center"):
        Wealth.at(0.0, center=1.5)


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_a_bounded_mean_is_covered_at_every_n_from_the_first(rate):
    rng = np.random.default_rng(26)
    missed = 0
    for _ in range(500):
        state = BoundedMean(alpha=0.1).update(rng.random(600) < rate)
        missed += not state.lower <= rate <= state.upper
    assert missed / 500 <= allowed(0.1, 500)


def test_a_peeking_t_interval_misses_far_more_often():
    rng = np.random.default_rng(26)
    x = (rng.random((500, 600)) < 0.5).astype(float)
    n = np.arange(1, 601)
    mean = x.cumsum(axis=1) / n
    half = 1.645 * np.sqrt(mean * (1 - mean) / n)
    assert (np.abs(mean - 0.5) > half)[:, 29:].any(axis=1).mean() > 3 * allowed(0.1, 500)


def test_a_bounded_mean_grows_the_same_in_batches_as_at_once():
    x = np.random.default_rng(27).random(500)
    whole = BoundedMean(alpha=0.05).update(x)
    parts = BoundedMean(alpha=0.05)
    for batch in np.split(x, [1, 7, 200, 499]):
        parts = parts.update(batch).update([])
    for field in BoundedMean.__struct_fields__:
        assert getattr(parts, field) == pytest.approx(getattr(whole, field), rel=1e-9)
    assert whole.estimate.excludes(0.9)


def test_a_bounded_mean_before_the_first_value_is_anywhere():
    nothing = BoundedMean(alpha=0.05).estimate
    assert (nothing.lower, nothing.upper, nothing.n) == (0.0, 1.0, 0)
    with pytest.raises(ValueError, match=r"values must lie in \[0, 1\]"):
        BoundedMean(alpha=0.05).update([1.1])
