"""Comparisons looked at once: intervals and tests for rates, means, paired losses, and many of them together.

For gates and reports, where the sample is given. Whatever is looked at repeatedly while data arrive belongs in
`sequential` or `betting`: these intervals are right once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.stats.summary import (
    Comparison,
    Counts,
    Estimate,
    FloatArray,
    Moments,
    PairMoments,
    finite,
    in_unit_interval,
)


def wilson_interval(counts: Counts, level: float = 0.95) -> Estimate:
    """Score interval for a rate (Wilson 1927; Newcombe 1998a, method 3): never leaves [0, 1], sensible at 0 and n
    successes.

    >>> wilson_interval(Counts(0, 20))
    Estimate(value=0.0, lower=0.0, upper=0.16112515805281938, n=20, level=0.95)
    """
    if not counts.n:
        return Estimate(value=math.nan, lower=0.0, upper=1.0, n=0, level=level)
    z, n, p = _z(level), counts.n, counts.rate
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    lower = 0.0 if counts.successes == 0 else (centre - spread) / (1 + z * z / n)
    upper = 1.0 if counts.successes == n else (centre + spread) / (1 + z * z / n)
    return Estimate(value=p, lower=lower, upper=upper, n=n, level=level)


def difference_of_rates(champion: Counts, candidate: Counts, level: float = 0.95) -> Comparison:
    """Candidate rate minus champion rate with Newcombe's hybrid score interval, and the pooled z test.

    Newcombe (1998b), "Interval estimation for the difference between independent proportions", method 10. `n` is the
    number of units in both arms. Raises ValueError when an arm is empty.

    >>> difference_of_rates(Counts(48, 80), Counts(56, 70)).lower.__round__(4)
    0.0524
    """
    from scipy.special import ndtr

    if not champion.n or not candidate.n:
        raise ValueError(f"both arms need units, got {champion.n} and {candidate.n}")
    old, new = wilson_interval(champion, level), wilson_interval(candidate, level)
    gap = new.value - old.value
    both = champion + candidate
    se = math.sqrt(both.rate * (1 - both.rate) * (1 / champion.n + 1 / candidate.n))
    statistic = gap / se if se else 0.0
    return Comparison(
        value=gap,
        lower=gap - math.hypot(new.value - new.lower, old.upper - old.value),
        upper=gap + math.hypot(new.upper - new.value, old.value - old.lower),
        n=both.n,
        level=level,
        statistic=statistic,
        p_value=float(2 * ndtr(-abs(statistic))),
    )


def difference_of_means(champion: Moments, candidate: Moments, level: float = 0.95) -> Comparison:
    """Candidate mean minus champion mean with Welch's interval and t test (Welch 1947, Satterthwaite's degrees of
    freedom).

    Equal to ``scipy.stats.ttest_ind(equal_var=False)``. For ratios and clustered rows pass `PairMoments.ratio`, for
    regression adjustment the moments that `cuped` returns. Raises ValueError below two units an arm.

    >>> difference_of_means(Moments.of([1, 2, 3, 4]), Moments.of([2, 3, 4, 9])).p_value.__round__(6)
    0.300419
    """
    if champion.n < 2 or candidate.n < 2:
        raise ValueError(f"a variance needs two units in each arm, got {champion.n} and {candidate.n}")
    a, b = champion.variance / champion.n, candidate.variance / candidate.n
    gap, n = candidate.mean - champion.mean, champion.n + candidate.n
    if a + b == 0:
        return _student(gap, 0.0, math.inf, n, level)
    freedom = (a + b) ** 2 / (a * a / (champion.n - 1) + b * b / (candidate.n - 1))
    return _student(gap, math.sqrt(a + b), freedom, n, level)


def paired_difference(differences: Moments, level: float = 0.95) -> Comparison:
    """Mean of per-row differences (candidate loss minus champion loss on the same row) with Student's interval and
    test.

    Equal to ``scipy.stats.ttest_1samp``. Assumes rows are independent: for time-ordered rows use `bootstrap` with
    blocks, for clustered ones `per_unit(differences, units).ratio`. Raises ValueError below two rows.

    >>> paired_difference(Moments.of([0.1, 0.3, 0.2, 0.0])).lower.__round__(6)
    -0.055426
    """
    if differences.n < 2:
        raise ValueError(f"a variance needs two rows, got {differences.n}")
    return _student(differences.mean, differences.standard_error, differences.n - 1, differences.n, level)


def _student(value: float, se: float, freedom: float, n: int, level: float) -> Comparison:
    from scipy.special import ndtr, stdtr, stdtrit

    statistic = value / se if se else math.copysign(math.inf, value) if value else 0.0
    if math.isinf(freedom):
        p, reach = float(2 * ndtr(-abs(statistic))), _z(level)
    else:
        p, reach = float(2 * stdtr(freedom, -abs(statistic))), float(stdtrit(freedom, (1 + level) / 2))
    half = reach * se
    return Comparison(
        value=value, lower=value - half, upper=value + half, n=n, level=level, statistic=statistic, p_value=p
    )


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    n: int,
    rng: np.random.Generator,
    *,
    block_length: int = 1,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Percentile bootstrap interval of any statistic of rows, for metrics without a formula (AUC, log loss, their
    differences).

    With ``block_length`` > 1 rows are drawn in runs of that length that wrap around the end (circular block bootstrap,
    Politis and Romano 1992), which keeps the dependence of time-ordered rows up to that lag.

    Parameters
    ----------
    statistic : gets row numbers, shape (n,), with repeats, and returns the statistic of those rows; NaN (one class
        only) is left out.
    n : rows.
    resamples : at least 100; more than 5 % NaN raises ValueError.

    >>> losses = np.sin(np.arange(200.0)) ** 2
    >>> bootstrap(lambda rows: losses[rows].mean(), 200, np.random.default_rng(0)).upper.__round__(4)
    0.5496
    """
    if n < 2 or resamples < 100:
        raise ValueError(f"a bootstrap needs two rows and 100 resamples, got {n} and {resamples}")
    if not 1 <= block_length <= n:
        raise ValueError(f"block_length must lie in [1, {n}], got {block_length}")
    values = np.empty(resamples)
    for i in range(resamples):
        values[i] = statistic(block_rows(n, n, block_length, rng))
    known = values[~np.isnan(values)]
    if known.size < 0.95 * resamples:
        raise ValueError(f"the statistic was NaN in {resamples - known.size} of {resamples} resamples: too few rows")
    tail = (1 - in_unit_interval(level, "level")) / 2
    lower, upper = np.quantile(known, [tail, 1 - tail])
    return Estimate(value=float(statistic(np.arange(n))), lower=float(lower), upper=float(upper), n=n, level=level)


def block_rows(
    n: int, length: int, block_length: int, rng: np.random.Generator, *, period: int = 1
) -> NDArray[np.intp]:
    """Row numbers of a circular block resample of `length` rows out of `n` time-ordered ones.

    With ``period`` > 1 each block starts at a row of the same phase as the place it fills (seasonal block bootstrap,
    Dudek, Leskow, Paparoditis and Politis 2014), so daily and weekly rhythm stays; then rows beyond the last whole
    period are not drawn.
    """
    blocks = -(-length // block_length)
    if period == 1:
        starts = rng.integers(0, n, blocks)
    else:
        whole = n // period
        if not whole:
            raise ValueError(f"a period of {period} rows needs at least as many, got {n}")
        n = whole * period
        starts = rng.integers(0, whole, blocks) * period + np.arange(blocks) * block_length % period
    rows = (starts[:, None] + np.arange(block_length)) % n
    return np.asarray(rows.ravel()[:length], dtype=np.intp)


def cuped(champion: PairMoments, candidate: PairMoments) -> tuple[Moments, Moments]:
    """Both arms' outcome moments with the part explained by a pre-period covariate removed.

    Pairs are (outcome, covariate measured before exposure). theta is the regression slope over both arms together
    (Deng, Xu, Kohavi and Walker 2013, "Improving the sensitivity of online controlled experiments", eq. 4): the
    difference keeps its expectation and loses the share r^2 of its variance. A constant covariate changes nothing.

    >>> before = np.array([1.0, 2, 3, 4]); arm = PairMoments.of(before + 1, before)
    >>> cuped(arm, arm)[0]
    Moments(n=4, mean=3.5, m2=0.0)
    """
    both = champion + candidate
    theta = both.cxy / both.m2_y if both.m2_y > 0 else 0.0
    return champion.adjusted(theta, both.mean_y), candidate.adjusted(theta, both.mean_y)


def sample_ratio_mismatch(counts: Sequence[int], weights: Sequence[float]) -> Comparison:
    """Chi-square test that units fell into variants by the declared weights, looked at once (else
    `sample_ratio_e_value`).

    `value` is the largest absolute gap between an observed and a declared share; it carries no interval. Fabijan et al.
    (2019), "Diagnosing sample ratio mismatch", who suggest p < 0.0005 as alarm.

    >>> sample_ratio_mismatch([821_588, 815_482], [0.5, 0.5]).p_value < 1e-5
    True
    """
    from scipy.special import chdtrc

    observed, w = finite(counts, "counts"), finite(weights, "weights")
    if observed.shape != w.shape or observed.ndim != 1 or observed.size < 2:
        raise ValueError(
            f"counts and weights must pair up, for two or more variants, got {observed.shape} and {w.shape}"
        )
    if observed.sum() <= 0 or (w <= 0).any():
        raise ValueError("sample ratio needs at least one unit and positive weights (leave out variants of weight 0)")
    share = w / w.sum()
    expected = share * observed.sum()
    statistic = float((np.square(observed - expected) / expected).sum())
    return Comparison(
        value=float(np.abs(observed / observed.sum() - share).max()),
        lower=-math.inf,
        upper=math.inf,
        n=int(observed.sum()),
        level=0.95,
        statistic=statistic,
        p_value=float(chdtrc(observed.size - 1, statistic)),
    )


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's (1979) step-down adjusted p-values: reject where <= alpha, and any false rejection has probability <=
    alpha.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = _p_values(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    return _restored(np.minimum(adjusted, 1.0), order)


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Benjamini and Hochberg's (1995) adjusted p-values: reject where <= q, and the expected share of false ones is <=
    q.

    Assumes independent or positively dependent tests. NaN is not accepted: leave out what could not be measured.

    >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.5]).round(4).tolist()
    [0.04, 0.0533, 0.0533, 0.5]
    """
    p = _p_values(p_values)
    order = np.argsort(p, kind="stable")[::-1]
    adjusted = np.minimum.accumulate(p[order] * p.size / np.arange(p.size, 0, -1))
    return _restored(np.minimum(adjusted, 1.0), order)


def e_benjamini_hochberg(e_values: ArrayLike, q: float) -> NDArray[np.bool_]:
    """Which nulls to reject by e-values with false-discovery rate <= q under any dependence (Wang and Ramdas 2022,
    e-BH).

    >>> e_benjamini_hochberg([100.0, 2.0, 30.0], 0.1).tolist()
    [True, False, True]
    """
    e = np.asarray(e_values, dtype=np.float64).ravel()
    ranked = np.sort(e)[::-1]
    passed = np.flatnonzero(ranked * np.arange(1, e.size + 1) >= e.size / in_unit_interval(q, "q"))
    return np.asarray(e >= ranked[passed[-1]] if passed.size else np.zeros(e.size, dtype=bool), dtype=bool)


def _p_values(values: ArrayLike) -> FloatArray:
    p = finite(values, "p-values").ravel()
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"p-values must lie in [0, 1], got {p.min()} to {p.max()}")
    return p


def _restored(ranked: FloatArray, order: NDArray[np.intp]) -> FloatArray:
    out = np.empty_like(ranked)
    out[order] = ranked
    return out


def _z(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + in_unit_interval(level, "level")) / 2))
