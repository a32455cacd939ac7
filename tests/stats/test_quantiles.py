from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from undrift.stats.quantiles import BINS, bin_of, evidence_of_later, glance_of_later, grid, log_evidence_below, quantile


def counts(values: np.ndarray) -> np.ndarray:
    return np.bincount(bin_of(values), minlength=BINS).astype(float)


def test_a_quantile_of_counts_is_that_of_the_values_within_one_per_cent() -> None:
    values = np.random.default_rng(1).lognormal(3, 1, 5001)
    for p in (0.5, 0.95, 0.99):
        exact = float(np.quantile(values, p, method="inverted_cdf"))
        assert exact <= quantile(counts(values), p) <= exact * 1.0101
    assert math.isnan(quantile(np.zeros(BINS), 0.5))
    assert math.isinf(quantile(counts(np.array([1e9])), 0.5))


def test_a_value_lies_in_the_bin_whose_end_is_not_below_it() -> None:
    edges = grid()
    assert bin_of(edges[[0, 10]]).tolist() == [0, 10]
    assert bin_of([edges[10] * 1.0001]).tolist() == [11]
    with pytest.raises(ValueError, match="at least 0"):
        bin_of([-1.0])


def test_the_evidence_is_the_mixture_of_likelihood_ratios_written_out() -> None:
    k, n, p, strength = 40, 60, 0.8, 25.0
    prior = stats.beta(p * strength, (1 - p) * strength)

    def ratio(q: float) -> float:
        return float((q / p) ** k * ((1 - q) / (1 - p)) ** (n - k) * prior.pdf(q))

    plain = quad(ratio, 0, p)[0] / prior.cdf(p)
    assert float(log_evidence_below(k, n, p, strength)) == pytest.approx(math.log(plain), rel=1e-6)


def test_evidence_about_fractions_averages_to_at_most_one() -> None:
    # one unit whose three rows lie below x or not: its mean is a fraction, its expectation p
    p = 0.7
    for mass in ([0.3, 0.0, 0.0, 0.7], [0.0, 0.3, 0.3, 0.4], [0.1, 0.1, 0.4, 0.4]):
        values = np.array([0, 1 / 3, 2 / 3, 1.0])
        assert np.dot(mass, values) >= p - 1e-9 or mass[0] == 0.3
        evidence = np.exp(log_evidence_below(values, np.ones(4), p, 20.0))
        assert np.dot(mass, evidence) <= 1 + 1e-9


@pytest.mark.parametrize(("p", "share"), [(0.5, 0.5), (0.95, 0.2)])
def test_equal_arms_looked_at_often_raise_no_more_false_alarms_than_stated(p: float, share: float) -> None:
    rng = np.random.default_rng(2)
    paths, looks, block = 60, 15, 120
    alarms = 0
    for _ in range(paths):
        old, new = np.zeros(BINS), np.zeros(BINS)
        level = rng.lognormal(0, 0.2, looks)  # the day's load, the same for both
        for look in range(looks):
            treated = rng.random(block) < share
            values = rng.lognormal(3, 0.5, block) * level[look]
            old += counts(values[~treated])
            new += counts(values[treated])
            if evidence_of_later(old, new, p, share=share) > math.log(1 / 0.05):
                alarms += 1
                break
    assert alarms <= stats.binom.ppf(0.999, paths, 0.05)


def test_a_later_tail_is_found_and_the_margin_is_granted() -> None:
    rng = np.random.default_rng(3)
    old, new = counts(rng.lognormal(3, 0.5, 9000)), counts(rng.lognormal(3, 0.5, 1000) * 1.5)
    assert evidence_of_later(old, new, 0.95, share=0.1) > math.log(1000)
    assert evidence_of_later(old, new, 0.95, margin=0.6, relative=True, share=0.1) < 0
    assert evidence_of_later(old, new, 0.95, margin=60.0, share=0.1) < 0
    assert evidence_of_later(new, old, 0.95, share=0.9) < 0  # sooner is no harm
    exact = evidence_of_later(old, new, 0.95, share=0.1)
    assert exact <= glance_of_later(old, new, 0.95, margin=0.0, share=0.1)
    several = glance_of_later([old, old], [new, 0 * new], 0.95, margin=[0.0, 0.1], share=0.1)
    assert (several == [glance_of_later(old, new, 0.95, margin=0.0, share=0.1), -math.inf]).all()


def test_nothing_seen_is_no_evidence_and_impossible_questions_are_refused() -> None:
    some = counts(np.array([1.0]))
    assert evidence_of_later(some, np.zeros(BINS), 0.5) == -math.inf
    with pytest.raises(ValueError, match="margin"):
        evidence_of_later(some, some, 0.5, margin=-1.0)
    with pytest.raises(ValueError, match="p must lie"):
        evidence_of_later(some, some, 1.0)
