"""From a false-alarm budget to thresholds, and whether stated probabilities are true.

"One false alarm in 30 days over C columns" becomes a level for each test, stepped up where many tests are beyond. How
days and weeks differ by themselves enters as a design effect of counts, in monitor/drift.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.stats.compare import wilson_interval
from undrift.stats.summary import Counts, Estimate, FloatArray, finite

_DRAWS: Final = 20_000
_GENTLEST: Final = 0.4
"""The highest error rate of a test that is stepped up: at a half a bound is the value itself."""
_LIKENESS: Final = (0.0, 0.3, 0.6, 0.9)


class Persistence(msgspec.Struct, frozen=True):
    """An alarm needs `k` of the last `n` windows beyond the threshold; it begins when that becomes true."""

    k: int = 1
    n: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise ValueError(f"persistence needs 1 <= k <= n, got {self.k} of {self.n}")


def level_per_test(budget: float, windows: int, tests: int = 1, persistence: Persistence | None = None) -> float:
    """Probability with which each test may be beyond its threshold in each window, for at most `budget` alarms
    expected.

    Alarms are counted when they begin (see `onset_rate`), and expectations add up whatever the dependence between
    tests. Windows are taken as independent: monitors whose windows overlap ask without persistence (`Monitor.alpha`).

    Parameters
    ----------
    budget : alarms tolerated over all `windows` and `tests`, > 0.

    >>> level_per_test(1, 30, 10).__round__(6), level_per_test(1, 30, 10, Persistence(2, 3)).__round__(4)
    (0.003345, 0.0426)
    """
    if budget <= 0 or windows < 1 or tests < 1:
        raise ValueError(f"budget, windows and tests must be positive, got {budget}, {windows} and {tests}")
    rule = persistence or Persistence()
    target = budget / (windows * tests)
    # the rate of beginnings rises with p up to k / (n + 1), beyond which alarms merge into one
    low, high = 0.0, rule.k / (rule.n + 1)
    if onset_rate(high, rule) <= target:
        return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if onset_rate(middle, rule) <= target else (low, middle)
    return low


def step_up(beyond: Callable[[float], int], level: float, tests: int) -> float:
    """The level at which Benjamini and Hochberg's step-up (1995) rejects, found by asking tests instead of p-values.

    It is ``k level`` for the largest k of which at least k tests are beyond; ``level`` if none is. While nothing is
    wrong something is rejected with probability at most ``tests * level``, as with `level_per_test` alone (also of
    tests that depend positively: Benjamini and Yekutieli 2001), so a budget of alarms holds; where several are wrong
    the others are found at gentler levels, the share of false ones among them staying at most ``tests * level``.

    Parameters
    ----------
    beyond : how many tests are beyond at an error rate; must not fall as the rate rises.
    level : error rate of each test that the budget allows, as of `level_per_test`.

    >>> p_values = [0.001, 0.012, 0.014, 0.5]
    >>> round(step_up(lambda level: sum(p <= level for p in p_values), 0.005, 4), 4)
    0.015
    """
    k = tests
    while k > 0:
        rejected = beyond(min(k * level, _GENTLEST))
        if rejected >= k:
            return min(k * level, _GENTLEST)
        k = rejected
    return level


@lru_cache(maxsize=256)
def level_per_overlapping_test(
    budget: float, windows: int, tests: int, length: int, persistence: Persistence | None = None
) -> float:
    """`level_per_test` where each window holds the last `length` steps, so that neighbours share all but one of them.

    A window that is beyond by chance is so for several steps, which is one alarm. How many begin is that of means of
    normal steps, independent or each like the one before (autocorrelation up to 0.9), whichever has most alarms. An
    alarm here also needs the window itself beyond.

    Parameters
    ----------
    length : steps in a window, at least 1.

    >>> level_per_overlapping_test(1, 30, 1, 7).__round__(3), level_per_test(1, 30, 1).__round__(3)
    (0.087, 0.035)
    """
    from scipy.special import ndtri

    rule = persistence or Persistence()
    target = level_per_test(budget, windows, tests) * (1 - level_per_test(budget, windows, tests))
    rng = np.random.default_rng(0)
    tail, free = 1 - rng.random(_DRAWS), rng.normal(size=(_DRAWS, rule.n))
    worlds = [_earlier(length, rule.n, likeness, free) for likeness in _LIKENESS]

    def begun(p: float) -> float:
        # this window is drawn from its tail, those before given this one: few draws do, however rare an alarm is
        now, threshold = -ndtri(p * tail), -ndtri(p)
        most = 0.0
        for shared, apart in worlds:
            beyond = np.outer(now, shared) + apart > threshold
            alarmed = beyond[:, : rule.n - 1].sum(axis=1) >= rule.k - 1
            before = beyond[:, 0] & (beyond.sum(axis=1) >= rule.k)
            most = max(most, float(np.mean(alarmed & ~before)))
        return p * most

    low, high = target, min(0.1, 20 * target)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if begun(middle) <= target else (low, middle)
    return low


def _earlier(length: int, steps: int, likeness: float, free: FloatArray) -> tuple[FloatArray, FloatArray]:
    """How windows of the steps before go with this one: their correlation, and draws of what is left of them."""
    gaps = np.arange(length)
    of_steps = float(likeness) ** np.abs(np.subtract.outer(gaps, np.arange(-steps, length)))
    reached = np.cumsum(np.pad(of_steps.sum(axis=0), (1, 0)))
    common = (reached[length:] - reached[:-length])[::-1]  # of this window with itself, and with each before it
    common = common[: steps + 1] / common[0]
    lags = np.arange(steps)
    rest = common[np.abs(np.subtract.outer(lags, lags))] - np.outer(common[1:], common[1:])
    values, vectors = np.linalg.eigh(rest)
    return common[1:], free @ (vectors * np.sqrt(np.clip(values, 0.0, None))).T


def onset_rate(p: float, persistence: Persistence) -> float:
    """Probability that a k-of-n alarm begins in a given window, windows being independently beyond with probability
    `p`.

    >>> round(onset_rate(0.1, Persistence(2, 3)), 6)
    0.0162
    """
    k, n = persistence.k, persistence.n
    return float(math.comb(n - 1, k - 1) * p**k * (1 - p) ** (n - k + 1))


def onsets(beyond: ArrayLike, persistence: Persistence | None = None) -> int:
    """How many alarms begin in rows of windows that are beyond the threshold or not, shape (..., windows).

    >>> onsets([0, 1, 1, 0, 0, 1, 0, 1], Persistence(2, 3))
    2
    """
    rule = persistence or Persistence()
    flags = np.atleast_2d(np.asarray(beyond, dtype=np.int64))
    padded = np.concatenate([np.zeros((*flags.shape[:-1], rule.n), dtype=np.int64), np.cumsum(flags, axis=-1)], axis=-1)
    alarmed = padded[..., rule.n :] - padded[..., : -rule.n] >= rule.k
    began = alarmed.copy()
    began[..., 1:] &= ~alarmed[..., :-1]
    return int(began.sum())


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """Rows whose stated probability fell into one bin: the mean stated probability, and the observed rate with its
    interval."""

    stated: float
    observed: Estimate


def reliability(
    probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = 10, level: float = 0.95
) -> tuple[ReliabilityBin, ...]:
    """Stated against observed rate in bins of equal numbers of rows; ties stay in one bin, so there may be fewer bins.

    scikit-learn's calibration curve gives neither the rows in a bin nor an interval.

    >>> [(b.stated, b.observed.value) for b in reliability([0.1, 0.1, 0.9, 0.9], [0, 0, 1, 0], bins=2)]
    [(0.1, 0.0), (0.9, 0.5)]
    """
    p, y, which = _binned(probabilities, outcomes, bins)
    found = []
    for b in np.unique(which):
        rows = which == b
        counts = Counts(int(y[rows].sum()), int(rows.sum()))
        found.append(ReliabilityBin(stated=float(p[rows].mean()), observed=wilson_interval(counts, level)))
    return tuple(found)


def calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = 10) -> float:
    """Root mean square gap between stated and observed rate over bins of equal numbers of rows, freed of sampling bias,
    in [0, 1].

    The plain estimate is positive for a perfect model; each bin's binomial variance is taken off (Kumar, Liang and Ma
    2019, "Verified uncertainty calibration", sec. 4; Brocker 2012). 0 when nothing is left.

    >>> calibration_error([0.2] * 10 + [0.8] * 10, [1] * 2 + [0] * 8 + [1] * 8 + [0] * 2, bins=2)
    0.0
    """
    p, y, which = _binned(probabilities, outcomes, bins)
    total = 0.0
    for b in np.unique(which):
        rows = which == b
        m, rate = int(rows.sum()), float(y[rows].mean())
        if m > 1:
            total += m * ((float(p[rows].mean()) - rate) ** 2 - rate * (1 - rate) / (m - 1))
    return math.sqrt(max(0.0, total / p.size))


def _binned(
    probabilities: ArrayLike, outcomes: ArrayLike, bins: int
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    p, y = finite(probabilities, "probabilities").ravel(), finite(outcomes, "outcomes").ravel()
    if p.size != y.size or not p.size or bins < 1:
        raise ValueError(f"each probability needs its outcome, and bins >= 1: got {p.size}, {y.size} and {bins} bins")
    if p.min() < 0 or p.max() > 1 or not np.isin(y, (0, 1)).all():
        raise ValueError("probabilities must lie in [0, 1] and outcomes be 0 or 1")
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="inverted_cdf"))
    return p, y, np.searchsorted(edges, p, side="left")


class CalibrationMap(msgspec.Struct, frozen=True):
    """A rising map from stated scores to observed rates, by isotonic regression (Zadrozny and Elkan 2002).

    Parameters
    ----------
    scores, rates : ascending knots; linear between them, flat beyond. Empty: scores are taken as they are.
    n : rows it was learnt from.

    >>> CalibrationMap.of([0.1, 0.2, 0.8, 0.9], [0, 1, 0, 1])(np.array([0.0, 0.5, 1.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    scores: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    n: int = 0

    @classmethod
    def of(cls, scores: ArrayLike, outcomes: ArrayLike) -> CalibrationMap:
        """Learn the map from scores and 0/1 outcomes, shape (n,) each."""
        from scipy.optimize import isotonic_regression

        s, y = finite(scores, "scores").ravel(), finite(outcomes, "outcomes").ravel()
        if s.size != y.size or not s.size:
            raise ValueError(f"each score needs its outcome: got {s.size} and {y.size}")
        values, place, counts = np.unique(s, return_inverse=True, return_counts=True)
        means = np.bincount(place, weights=y) / counts
        fitted = np.asarray(isotonic_regression(means, weights=counts.astype(np.float64)).x)
        # the inside of a level stretch is a straight line between its ends
        inside = np.zeros(values.size, dtype=bool)
        inside[1:-1] = (fitted[1:-1] == fitted[:-2]) & (fitted[1:-1] == fitted[2:])
        kept = ~inside
        return cls(tuple(values[kept].tolist()), tuple(fitted[kept].tolist()), int(s.size))

    def __call__(self, scores: ArrayLike) -> FloatArray:
        """The rates that scores stand for, same shape."""
        s = np.asarray(scores, dtype=np.float64)
        return np.interp(s, self.scores, self.rates) if self.scores else s


def expected_roc_auc(rates: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve that rows ranked by `scores` are expected to have if `rates` are the true probabilities.

    The share of (positive, negative) pairs in order, each row counting as `rate` of a positive and 1 - rate of a
    negative, ties half; NaN where there are no positives or no negatives to be expected.

    >>> expected_roc_auc([0.0, 0.0, 1.0], [0.1, 0.9, 0.8])
    0.5
    """
    p, s = finite(rates, "rates").ravel(), finite(scores, "scores").ravel()
    place = np.unique(s, return_inverse=True)[1]
    positive, negative = np.bincount(place, weights=p), np.bincount(place, weights=1 - p)
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float(positive @ (below + negative / 2) / pairs) if pairs > 0 else math.nan
