"""The rules that could roll a candidate back, from the running sums of populations.py: at which looks each alarms.

undrift's own rule is the one of deploy/judge.py: exact bets where the metric has bounds, else the asymptotic confidence
sequence. GrowthBook is the formula of gbstats 0.8.0 (SequentialTwoSidedTTest, tuning 5000), which gbstats_numbers.py
holds against gbstats itself. All look for "the candidate is higher (worse)" at error rate alpha.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from populations import METRICS, arm_moments
from scipy.special import stdtrit

from undrift.stats.betting import log_e_value, log_growth
from undrift.stats.sequential import difference_bounds

Array = NDArray[np.float64]
Alarms = NDArray[np.bool_]
TUNING = 600.0
VALID = ("undrift", "confidence sequence", "GrowthBook, two-sided", "GrowthBook, one-sided")


def alarms(metric: str, table: Array, share: float, alpha: float) -> dict[str, Alarms]:
    """Where each rule alarms, shape (paths, looks); over several segments and all units, at alpha over the tests."""
    tables = table if table.shape[2] == 1 else np.concatenate([table.sum(axis=2, keepdims=True), table], axis=2)
    segments = tables.shape[2] - 1
    # as the judge does: half of alpha for all units, the rest for the segments
    each = alpha * (np.array([0.5, *np.full(segments, 0.5 / segments)]) if segments else np.ones(1))
    champion, candidate = arm_moments(tables, 0), arm_moments(tables, 1)
    bounds = difference_bounds(
        tuple(a[..., None] for a in champion), tuple(a[..., None] for a in candidate), each, TUNING, one_sided=True
    )
    sequence = bounds.value > bounds.half_width
    found = {"undrift": bets(metric, tables, share, each) if METRICS[metric] else sequence}
    if METRICS[metric]:
        found["confidence sequence"] = sequence
    gap, se, n = welch(champion, candidate)
    with np.errstate(invalid="ignore"):
        found["GrowthBook, two-sided"] = gap > se * growthbook(n, each)
        found["GrowthBook, one-sided"] = gap > se * growthbook(n, 2 * each)
        once = gap > se * stdtrit(1e6, 1 - each)
    found["t test, peeking (invalid)"] = once
    found["t test, once at the end"] = np.where(np.arange(once.shape[1])[:, None] == once.shape[1] - 1, once, False)
    return {rule: alarm.any(axis=2) for rule, alarm in found.items()}


def bets(metric: str, tables: Array, share: float, alpha: Array) -> Alarms:
    rate = METRICS[metric]
    growth = log_growth([0, 1, 0, 1], [False, False, True, True], share, center=rate, family="rate")
    wealth = np.zeros((*tables.shape[:3], growth.shape[1]))
    for arm in (0, 1):
        ones = tables[..., arm, 1]
        for y, count in ((0, tables[..., arm, 0] - ones), (1, ones)):
            wealth += count[..., None] * growth[2 * arm + y]
    return np.asarray(log_e_value(wealth, "rate") >= np.log(1 / alpha))


def welch(champion: tuple[Array, Array, Array], candidate: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    (n0, mean0, s0), (n1, mean1, s1) = champion, candidate
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = s0 / (n0 - 1) / n0 + s1 / (n1 - 1) / n1
    usable = (n0 > 1) & (n1 > 1) & (variance > 0)
    return mean1 - mean0, np.where(usable, np.sqrt(np.where(usable, variance, 1.0)), np.inf), n0 + n1


def growthbook(n: Array, alpha: Array, tuning: float = 5000) -> Array:
    """How many standard errors gbstats reaches: its rho and its width, as in frequentist/tests.py."""
    rho = np.sqrt((-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / tuning)
    return np.asarray(np.sqrt(n * 2 * (n * rho**2 + 1) * np.log(np.sqrt(n * rho**2 + 1) / alpha) / (n * n * rho**2)))
