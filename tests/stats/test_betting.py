from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from undrift.stats.betting import (
    EFFECTS,
    LONE_STAKES,
    LONE_WEIGHTS,
    STAKES,
    WEIGHTS,
    Family,
    log_e_value,
    log_growth,
    log_mean_evidence,
    mean_bounds,
)

PATHS = 1000
FAMILIES: tuple[Family, ...] = ("mean", "rate")


def allowed(alpha: float, paths: int = PATHS) -> float:
    return float(stats.binom.ppf(0.999, paths, alpha)) / paths


def peak_log_evidence(
    y: np.ndarray, treated: np.ndarray, p: np.ndarray, margin: float, center: float, family: Family = "mean"
) -> np.ndarray:
    """The largest log e-value on each path, shape (paths,), looked at after every row."""
    code = (y.ravel() + 2 * treated.ravel()) + 10 * p.ravel()
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    kinds = np.stack([y.ravel(), treated.ravel(), p.ravel()])[:, first]
    growth = log_growth(kinds[0], kinds[1] > 0, kinds[2], center=center, null=margin, family=family)
    evidence = np.full(y.shape, -np.inf)
    for bet, weight in zip(growth.T, WEIGHTS[family], strict=True):
        wealth = np.cumsum(bet[which].reshape(y.shape), axis=1) + math.log(weight)
        np.logaddexp(evidence, wealth, out=evidence)
    return np.asarray(evidence.max(axis=1))


def aa(seed: int, share: float, rate: float, rows: int = 1500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    treated = rng.random((PATHS, rows)) < share
    return (rng.random((PATHS, rows)) < rate).astype(float), treated, np.full((PATHS, rows), share)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("share", "rate"), [(0.05, 0.01), (0.05, 0.5), (0.5, 0.1)])
def test_looking_after_every_row_raises_no_more_false_alarms_than_stated(share, rate, family):
    y, treated, p = aa(21, share, rate)
    peak = peak_log_evidence(y, treated, p, 0.0, rate, family)
    assert (peak >= math.log(1 / 0.05)).mean() <= allowed(0.05)
    assert (peak >= math.log(1 / 0.01)).mean() <= allowed(0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_of_exactly_the_margin_is_no_harm_however_wrong_the_centre(family):
    rng = np.random.default_rng(28)
    treated = rng.random((PATHS, 1500)) < 0.3
    y = (rng.random(treated.shape) < np.where(treated, 0.03, 0.02)).astype(float)
    for center in (0.0, 0.02, 0.4):
        peak = peak_log_evidence(y, treated, np.full(y.shape, 0.3), 0.01, center, family)
        assert (peak >= math.log(1 / 0.05)).mean() <= allowed(0.05)


def test_no_tolerated_pair_of_rates_makes_a_bet_on_rates_pay():
    """The expectation of each factor is linear in both rates, so a grid with its corners shows all of it."""
    rng = np.random.default_rng(29)
    n = 300
    p, center = rng.uniform(0.01, 0.99, n), rng.uniform(0, 1, n)
    margin, weight = rng.choice([0.0, 0.005, 0.1, 0.6], n), rng.choice([0.9, 1.0, 1.1, 2.0], n)
    null = margin + (weight - 1) * center
    factor = {
        (arm, y): np.exp(
            log_growth(np.full(n, y), np.full(n, arm), p, center=center, null=null, weight=weight, family="rate")
        )
        for arm in (False, True)
        for y in (0.0, 1.0)
    }
    for old in np.linspace(0, 1, 41):
        for share in (0.0, 0.5, 1.0):
            new = np.clip(margin + weight * old, 0, 1) * share
            expected = (1 - p)[:, None] * ((1 - old) * factor[False, 0.0] + old * factor[False, 1.0])
            expected += p[:, None] * ((1 - new)[:, None] * factor[True, 0.0] + new[:, None] * factor[True, 1.0])
            assert expected.max() <= 1 + 1e-9


def test_a_bet_on_rates_grows_fastest_where_its_alternative_holds():
    """No other fair factor of the same null grows faster: those that pay by the margin's scores, over all stakes."""
    p, old, margin = 0.4, 0.01, 0.005
    for place, effect in enumerate(EFFECTS):
        edge = margin + old
        new = edge + min(effect * math.sqrt(edge * (1 - edge)), 0.9 * (1 - edge))
        chance = np.array([(1 - p) * (1 - old), (1 - p) * old, p * (1 - new), p * new])
        rows = ([0.0, 1.0, 0.0, 1.0], [False, False, True, True], p)
        mine = chance @ log_growth(*rows, center=old, null=margin, family="rate")[:, place]
        others = [chance @ log_growth(*rows, center=c, null=margin, family="mean") for c in (0.001, 0.01, 0.1, 0.5)]
        assert mine > 0
        assert mine >= np.max(others) - 1e-12


def test_ten_failures_are_enough_against_a_champion_without_any():
    """2 % failures, half a per cent tolerated: some ten of them are proof at 1 %, whatever the share."""
    rng = np.random.default_rng(30)
    for share in (0.05, 0.4):
        units = np.full((300, 20), int(25 / share))
        treated = rng.binomial(units, share)
        failed = rng.binomial(treated, 0.02).cumsum(axis=1)
        growth = log_growth([0, 0, 1], [False, True, True], share, center=0.0, null=0.005, family="rate")
        seen = [(units - treated).cumsum(axis=1), treated.cumsum(axis=1) - failed, failed]
        wealth = sum(count[..., None] * g for count, g in zip(seen, growth, strict=True))
        proven = log_e_value(wealth, "rate") >= math.log(100)
        first = np.where(proven.any(axis=1), proven.argmax(axis=1), -1)
        assert np.median(failed[np.arange(300), first]) <= 12
        assert np.median(treated.cumsum(axis=1)[np.arange(300), first]) <= 500


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


def test_evidence_on_means_is_the_average_of_the_wealth_written_out_plainly():
    y, treated, p = (a[:1] for a in aa(23, 0.2, 0.3))
    z = np.where(treated[0], (y[0] - 0.3) / 0.2, -(y[0] - 0.3) / 0.8)
    low = min(-0.3 / 0.2, -0.7 / 0.8)
    wealth = [math.prod(1 + stake * (v - 0.0) / (0.0 - low) for v in z) for stake in STAKES]
    found = log_e_value(log_growth(y[0], treated[0], p[0], center=0.3).sum(axis=0))
    assert np.exp(found) == pytest.approx(np.dot(WEIGHTS["mean"], wealth), rel=1e-9)
    for weights in WEIGHTS.values():
        assert sum(weights) == pytest.approx(1)


def test_between_0_and_1_a_bet_on_rates_is_drawn_straight():
    ends = np.exp(log_growth([0.0, 1.0], [True, True], 0.3, center=0.1, null=0.01, family="rate"))
    middle = np.exp(log_growth([0.25], [True], 0.3, center=0.1, null=0.01, family="rate"))
    np.testing.assert_allclose(middle[0], 0.75 * ends[0] + 0.25 * ends[1], rtol=1e-12)


def test_where_everything_is_tolerated_nothing_is_bet():
    growth = log_growth([0.0, 1.0], [True, False], 0.3, center=0.9, null=0.5, family="rate")
    assert (growth == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_broken_small_arm_is_found_soon_and_a_better_one_is_not_blamed(family):
    rng = np.random.default_rng(25)
    treated = rng.random((200, 4000)) < 0.05
    p = np.full(treated.shape, 0.05)
    worse = (rng.random(treated.shape) < np.where(treated, 0.12, 0.02)).astype(float)
    better = (rng.random(treated.shape) < np.where(treated, 0.0, 0.02)).astype(float)
    assert (peak_log_evidence(worse, treated, p, 0.005, 0.02, family) >= math.log(100)).mean() > 0.95
    assert (peak_log_evidence(better, treated, p, 0.005, 0.02, family) >= math.log(100)).mean() == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (([0.0, 2.0], [True, False], 0.5, 0.1), r"outcomes must lie in \[0, 1\], got 0.0 to 2.0"),
        (([0.0, 1.0], [True, False], [0.5, 1.0], 0.1), "strictly between 0 and 1"),
        (([0.0, 1.0], [True], 0.5, 0.1), "2 outcomes and 1 arms"),
        (([0.0], [True], 0.5, 1.5), "center"),
    ],
)
def test_what_bets_cannot_be_made_on_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        log_growth(*given[:3], center=given[3])


@pytest.mark.parametrize("mean", [0.02, 0.5])
def test_a_bounded_mean_is_covered_at_every_n_from_the_first(mean):
    """Each side by itself: the lower bound passes the truth when the evidence against the truth is proof."""
    x = (np.random.default_rng(26).random((500, 600)) < mean).astype(float)
    for values, truth in ((x, mean), (1 - x, 1 - mean)):
        peak = np.full(x.shape, -np.inf)
        for stake, weight in zip(LONE_STAKES, LONE_WEIGHTS, strict=True):
            wealth = np.cumsum(np.log1p(stake * (values / truth - 1)), axis=1) + math.log(weight)
            np.logaddexp(peak, wealth, out=peak)
        assert (peak.max(axis=1) >= math.log(1 / 0.05)).mean() <= allowed(0.05, 500)
        assert np.isclose(peak[0, -1], log_mean_evidence(values[0], np.ones(600), truth))


def test_a_bound_of_a_mean_is_the_last_one_that_bets_refute():
    x = np.random.default_rng(27).random(300) * 4 - 1
    found = mean_bounds(x, 0.02, low=-1, high=3)
    assert found.value == pytest.approx(x.mean())
    assert (found.n, found.level) == (300, 0.98)
    for bound, values in ((found.lower, x), (2 - found.upper, 2 - x)):
        evidence = log_mean_evidence((values + 1) / 4, np.ones(300), (bound + 1) / 4)
        assert evidence == pytest.approx(math.log(50), abs=1e-4)
    alike = mean_bounds(x, 0.02, low=-1, high=3, effect=4.0)
    assert alike.lower < found.lower < x.mean() < found.upper < alike.upper


def test_what_never_happened_is_bounded_by_how_often_it_could_have():
    """The best possible upper bound of a rate after n units without any is -log(alpha) / n."""
    for n in (150, 1500):
        upper = mean_bounds(np.zeros(n), 0.01, low=0, high=1).upper
        assert -math.log(0.01) / n < upper < 1.7 * -math.log(0.01) / n


def test_a_peeking_t_interval_misses_far_more_often():
    rng = np.random.default_rng(26)
    x = (rng.random((500, 600)) < 0.5).astype(float)
    n = np.arange(1, 601)
    mean = x.cumsum(axis=1) / n
    half = 1.645 * np.sqrt(mean * (1 - mean) / n)
    assert (np.abs(mean - 0.5) > half)[:, 29:].any(axis=1).mean() > 3 * allowed(0.1, 500)


def test_a_bounded_mean_before_the_first_value_is_anywhere():
    nothing = mean_bounds([], 0.05, low=-1, high=1)
    assert (nothing.lower, nothing.upper, nothing.n) == (-1.0, 1.0, 0)
    assert math.isnan(nothing.value)
    with pytest.raises(ValueError, match=r"values must lie in \[0, 1\]"):
        mean_bounds([1.1], 0.05, low=0, high=1)
