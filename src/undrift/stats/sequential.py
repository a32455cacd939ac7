"""Confidence sequences: intervals that stay right however often one looks, so a rollout may be judged at every tick.

Asymptotic ones (normal mixture) for means and for the difference of two arms, over one or several strata (steps, days)
of constant allocation. Nothing here is exact at small n: rates of rare events and any bounded metric have exact twins
in `betting`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from undrift.stats.summary import Estimate, FloatArray, Moments, in_unit_interval

Side = Literal["both", "lower", "upper"]

#: Fewest units in the smaller arm before a bound is given; chosen by simulation (benchmarks/rollouts/false_alarms.py).
MINIMUM_UNITS = 30

#: Scales averaged over, as multiples of `tuning`: near the best single one from a tenth of it to ten times it.
SPREAD: tuple[float, ...] = (0.1, 1.0, 10.0)
_NEWTON_STEPS = 30

#: Units by which a mean's interval is widened, sqrt(1 + this / n): a skewed metric's variance is found late. By
#: simulation (benchmarks/rollouts/coverage.py).
_LATE_VARIANCE = 50.0

#: Outcomes at the far end of the range that an arm of a proportion is taken to have had beside those seen.
_PSEUDO_OUTCOMES = 2.0


def mixture_scale(tuning: float, alpha: ArrayLike, *, one_sided: bool = False) -> FloatArray:
    """The mixture's rho squared, per unit, that makes the interval tightest at `tuning` units.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021), "Time-uniform central limit theory and asymptotic confidence
    sequences", App. B.2: rho^2 = (-W_{-1}(-alpha^2 / e) - 1) / tuning, with alpha doubled for one side.

    >>> float(mixture_scale(5000, 0.05)).__round__(7)
    0.0016424
    """
    from scipy.special import lambertw

    if not tuning > 0:
        raise ValueError(f"tuning must be a positive number of units, got {tuning}")
    levels = np.asarray(alpha, dtype=np.float64)
    if levels.size and not (levels.min() > 0 and levels.max() < 1):
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha!r}")
    level = np.minimum(levels * (2 if one_sided else 1), 0.999)
    return np.asarray((-lambertw(-np.square(level) * math.exp(-1), -1).real - 1) / tuning, dtype=np.float64)


def mixture_multiplier(
    n: ArrayLike, alpha: ArrayLike, tuning: float, *, one_sided: bool = False, spread: Sequence[float] = SPREAD
) -> FloatArray:
    """How many standard errors the confidence sequence reaches after `n` units; the fixed-sample interval has 1.96 at 5
    %.

    The z at which the average over scales k of the mixture martingale M_k(z, r_k) is 1/alpha, with r_k = n rho_k^2 and
    rho_k tuned to ``tuning * spread[k]`` units. Two-sided M = exp(z^2 r / (2 (1 + r))) / sqrt(1 + r), Waudby-Smith et
    al. (2021), Theorem 2.2 (one scale has their closed form); one-sided M is twice that times Phi(z sqrt(r / (1 + r))),
    a half-normal mixture, ibid. App. B.1, solved exactly instead of by their upper bound. An average of martingales is
    one, so several scales cost some hundredths of width where one was right and save a multiple where it was not.
    Infinite at n = 0.

    >>> mixture_multiplier([100, 5000, 100_000], 0.05, 5000, spread=[1]).round(2).tolist()
    [6.6, 3.04, 3.34]
    >>> mixture_multiplier([100, 5000, 100_000], 0.05, 5000).round(2).tolist()
    [3.81, 3.22, 3.28]
    """
    from scipy.special import log_ndtr

    seen = np.asarray(n, dtype=np.float64)
    levels = np.asarray(alpha, dtype=np.float64)
    scale = np.stack([mixture_scale(tuning * s, levels, one_sided=one_sided) for s in spread], axis=-1)
    r = np.maximum(seen, 1e-300)[..., None] * scale
    slope, root = r / (1 + r), np.sqrt(r / (1 + r))
    offset = (math.log(2) if one_sided else 0.0) - 0.5 * np.log1p(r) - math.log(len(spread))
    # log E is convex in z and z starts where one scale alone is enough (2 Phi >= 1): Newton's steps only descend
    wanted = -np.log(levels)
    z = np.sqrt(2 * (wanted[..., None] + 0.5 * np.log1p(r) + math.log(len(spread))) / slope).min(axis=-1)
    for _ in range(_NEWTON_STEPS):  # pragma: no branch - it converges long before the last
        x = z[..., None] * root
        terms = offset + 0.5 * x * x + (log_ndtr(x) if one_sided else 0.0)
        top = terms.max(axis=-1, keepdims=True)
        weight = np.exp(terms - top)
        total = weight.sum(axis=-1)
        # slope of log Phi: the inverse Mills ratio
        mills = np.exp(-0.5 * x * x - log_ndtr(x)) / math.sqrt(2 * math.pi) if one_sided else 0.0
        growth = (weight * root * (x + mills)).sum(axis=-1) / total
        step = (top[..., 0] + np.log(total) - wanted) / growth
        z = z - step
        if step.size == 0 or float(np.abs(step / z).max()) < 1e-10:  # the error left is its square
            break
    return np.asarray(np.where(seen > 0, z, np.inf), dtype=np.float64)


def mean_sequence(
    moments: Moments, alpha: float, tuning: float, *, side: Side = "both", spread: Sequence[float] = SPREAD
) -> Estimate:
    """Confidence sequence for a mean: at every n at once, the interval misses the mean with probability at most
    `alpha`, as n grows.

    Parameters
    ----------
    moments : units seen so far.
    alpha : in (0, 1); spent over all looks together.
    tuning : number of units at which the interval is tightest; where one expects to decide.
    side : "lower" and "upper" bound one side only, at the whole of `alpha`.

    >>> mean_sequence(Moments(n=1000, mean=0.2, m2=160.0), 0.05, 1000)
    Estimate(value=0.2, lower=0.1582080779957957, upper=0.24179192200420432, n=1000, level=0.95)
    """
    if moments.n < MINIMUM_UNITS:
        return _estimate(moments.mean if moments.n else math.nan, math.inf, moments.n, alpha, side)
    multiplier = float(mixture_multiplier(moments.n, alpha, tuning, one_sided=side != "both", spread=spread))
    multiplier *= math.sqrt(1 + _LATE_VARIANCE / moments.n)
    return _estimate(moments.mean, moments.standard_error * multiplier, moments.n, alpha, side)


class Bounds(msgspec.Struct, frozen=True):
    """Arrays of one shape: estimates of many differences and the half-widths of their intervals (infinite where too
    little was seen).
    """

    value: FloatArray
    half_width: FloatArray


def difference_bounds(
    champion: tuple[ArrayLike, ArrayLike, ArrayLike],
    candidate: tuple[ArrayLike, ArrayLike, ArrayLike],
    alpha: ArrayLike,
    tuning: float,
    *,
    one_sided: bool = False,
    minimum: int = MINIMUM_UNITS,
    spread: Sequence[float] = SPREAD,
    span: float = 0.0,
) -> Bounds:
    """Candidate minus champion with a time-uniform half-width, for many metrics and segments in one call.

    Within a stratum k (a period of constant allocation) the difference of means d_k has weight h_k = n0 n1 / (n0 + n1).
    The sum S of h_k d_k minus its expectation is a martingale that behaves like Brownian motion with clock V = sum
    h_k^2 (s0^2/n0 + s1^2/n1): inside a stratum V grows in step with h_k, and a new stratum adds an independent
    increment, whatever made the allocation change. So the mixture boundary of Waudby-Smith et al. (2021) holds for S/H,
    H = sum h_k, and neither weights that follow the results nor outcomes that differ from stratum to stratum bias it.
    With one stratum it is the plain difference of means with Welch's standard error.

    Small samples: a small arm of a skewed metric has its mean and its variance low together, and would look different
    with confidence (60 % false alarms at a rate of 1 % and a share of 5 %). In arms of equal size the two errors
    cancel. So the smaller arm's variance, where it is below the larger arm's, is drawn towards it by 1 - (ratio of
    sizes); and below `minimum` units in the smaller arm there is no bound. The price is some width for candidates of a
    smaller variance.

    Parameters
    ----------
    champion, candidate : (n, mean, m2) as in `Moments`, arrays of shape (..., strata).
    alpha : in (0, 1), for each difference by itself (one, or an array of their shape); divide it for many.
    tuning : number of candidate units at which the interval is tightest (exactly: total of h_k).
    one_sided : the half-width serves one side only, the other is unbounded.
    span : for proportions the length of their range, 1. Arms without a failure have no variance and would be surely
        alike: each is taken to have had two more outcomes a span away. Without it, no variance gives no bound.
    """
    n0, mean0, m0 = (np.asarray(a, dtype=np.float64) for a in champion)
    n1, mean1, m1 = (np.asarray(a, dtype=np.float64) for a in candidate)
    both = (n0 > 0) & (n1 > 0)
    h = np.where(both, n0 * n1 / np.maximum(n0 + n1, 1), 0.0)
    var0, var1 = _drawn_together(h, n0, m0, n1, m1)
    variance = var0 / np.maximum(n0, 1) + var1 / np.maximum(n1, 1)
    if span:
        size0, size1 = (np.maximum(np.where(both, n, 0).sum(axis=-1, keepdims=True), 1) for n in (n0, n1))
        extra = _PSEUDO_OUTCOMES * span**2 * (size0**-2.0 + size1**-2.0)  # of the whole, shared out over strata
        variance = variance + np.where(h > 0, extra * h.sum(axis=-1, keepdims=True) / np.maximum(h, 1e-300), 0.0)
    found = asymptotic_bounds(mean1 - mean0, variance, h, alpha, tuning, one_sided=one_sided, spread=spread)
    smaller = np.where(both, np.minimum(n0, n1), 0).sum(axis=-1)
    return Bounds(found.value, np.where(smaller >= minimum, found.half_width, np.inf))


def asymptotic_bounds(
    differences: ArrayLike,
    variances: ArrayLike,
    information: ArrayLike,
    alpha: ArrayLike,
    tuning: float,
    *,
    one_sided: bool = False,
    spread: Sequence[float] = SPREAD,
) -> Bounds:
    """The sum over strata, the last axis, of differences weighted by their information, and its half-width.

    For any estimate that behaves like a mean over units (ratios, areas under a ROC curve): its difference d_k between
    the arms, the variance of that, and n0 n1 / (n0 + n1) of each stratum; see `difference_bounds`, which is this for
    means. No value where no stratum has information.
    """
    h = np.asarray(information, dtype=np.float64)
    total = h.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (h * np.asarray(differences)).sum(axis=-1) / total
        se = np.sqrt((np.square(h) * np.asarray(variances)).sum(axis=-1)) / total
        half = se * mixture_multiplier(total, alpha, tuning, one_sided=one_sided, spread=spread)
    return Bounds(value, np.where(np.isfinite(half) & (half > 0), half, np.inf))


def _drawn_together(
    h: FloatArray, n0: FloatArray, m0: FloatArray, n1: FloatArray, m1: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Each arm's variance, averaged over strata by weight h, the smaller arm's drawn up to the larger's; shape (...,
    1).
    """

    def variance(n: FloatArray, m: FloatArray) -> FloatArray:
        weight = np.where(n > 1, h, 0.0)
        total = weight.sum(axis=-1, keepdims=True)
        return np.asarray((weight * m / np.maximum(n - 1, 1)).sum(axis=-1, keepdims=True) / np.maximum(total, 1e-300))

    size0, size1 = n0.sum(axis=-1, keepdims=True), n1.sum(axis=-1, keepdims=True)
    var0, var1 = variance(n0, m0), variance(n1, m1)
    pull = 1 - np.minimum(size0, size1) / np.maximum(np.maximum(size0, size1), 1)
    return (
        np.where(size0 < size1, var0 + pull * np.maximum(var1 - var0, 0), var0),
        np.where(size1 < size0, var1 + pull * np.maximum(var0 - var1, 0), var1),
    )


def difference_sequence(
    champion: Moments, candidate: Moments, alpha: float, tuning: float, *, side: Side = "both"
) -> Estimate:
    """Anytime-valid candidate minus champion, both measured over one period of constant allocation; see
    `difference_bounds`.

    When the weights have changed on the way, pass one pair a step to `stratified_difference_sequence`: pooled over
    steps, a metric that moves with the hour would look like an effect. `n` of the result is the number of candidate
    units.

    >>> difference_sequence(Moments(9500, 0.100, 855.0), Moments(500, 0.190, 76.95), 0.05, 500, side="lower")
    Estimate(value=0.09, lower=0.0371310743263663, upper=inf, n=500, level=0.95)
    """
    return stratified_difference_sequence([(champion, candidate)], alpha, tuning, side=side)


def stratified_difference_sequence(
    strata: Sequence[tuple[Moments, Moments]], alpha: float, tuning: float, *, side: Side = "both"
) -> Estimate:
    """Anytime-valid candidate minus champion over strata (champion, candidate), each a period of constant allocation.

    Estimates the effect averaged over strata with weights n0 n1 / (n0 + n1), as Cochran, Mantel and Haenszel do. Valid
    when a stratum's allocation was settled before it began, though by all that was seen until then.
    """
    if not strata:
        return _estimate(math.nan, math.inf, 0, alpha, side)
    table = np.array([[(arm.n, arm.mean, arm.m2) for arm in pair] for pair in strata], dtype=np.float64)
    champion, candidate = table[:, 0, :].T, table[:, 1, :].T
    bounds = difference_bounds(
        (champion[0], champion[1], champion[2]),
        (candidate[0], candidate[1], candidate[2]),
        alpha,
        tuning,
        one_sided=side != "both",
    )
    return _estimate(float(bounds.value), float(bounds.half_width), int(candidate[0].sum()), alpha, side)


def _estimate(value: float, half: float, n: int, alpha: float, side: Side) -> Estimate:
    if math.isnan(value):
        half = math.inf
    lower = -math.inf if side == "upper" or math.isinf(half) else value - half
    upper = math.inf if side == "lower" or math.isinf(half) else value + half
    return Estimate(value=value, lower=lower, upper=upper, n=n, level=1 - in_unit_interval(alpha, "alpha"))


def sample_ratio_e_value(counts: ArrayLike, weights: ArrayLike, *, concentration: float = 100.0) -> float:
    """Evidence against "units fall into variants by these weights": an e-value that may be looked at after every unit.

    Under the declared weights its expectation is 1 at any stopping time, so 1/e is an anytime-valid p-value: call a
    sample-ratio mismatch at e >= 1000. Bayes factor of a Dirichlet(concentration * weights) prior against the point
    weights: Lindon and Malek (2022), "Anytime-valid inference for multinomial count data", eq. 6.

    Parameters
    ----------
    counts : units per variant, shape (k,), or (strata, k) when the weights changed: e-values of strata multiply.
    weights : declared weights, positive, same shape; each stratum is scaled to sum to 1.
    concentration : prior units; a larger one looks for smaller mismatches, later.

    >>> sample_ratio_e_value([5000, 5050], [0.5, 0.5]) < 1 < 1000 < sample_ratio_e_value([5000, 5500], [0.5, 0.5])
    True
    """
    from scipy.special import gammaln

    x = np.atleast_2d(np.asarray(counts, dtype=np.float64))
    w = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    if x.shape != w.shape:
        raise ValueError(f"counts and weights must have one shape, got {x.shape} and {w.shape}")
    if np.any(w < 0) or np.any(w.sum(axis=1) <= 0) or np.any(x < 0):
        raise ValueError("counts and weights must not be negative, and each stratum needs a positive weight")
    w = w / w.sum(axis=1, keepdims=True)
    if np.any(x[w == 0] > 0):
        return math.inf
    used = w > 0
    prior, safe = concentration * w, np.where(used, w, 1.0)
    alpha = np.where(used, prior, 1.0)
    cells = np.where(used, gammaln(alpha + x) - gammaln(alpha) - x * np.log(safe), 0.0).sum(axis=1)
    log_e = cells + gammaln(concentration) - gammaln(concentration + x.sum(axis=1))
    return float(np.exp(min(log_e.sum(), 700.0)))
