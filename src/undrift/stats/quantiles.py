"""Quantiles of two arms: exact anytime-valid evidence that one is later than the other, from counts on a fixed grid.

No assumption on the shape of the values and no normal approximation, so the 99th percentile of a small arm may be
looked at at every tick. Counts merge with ``+``; a unit with several rows adds fractions that sum to 1.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.stats.summary import FloatArray, finite, in_unit_interval

__all__ = ["BINS", "bin_of", "evidence_of_later", "glance_of_later", "grid", "log_evidence_below", "quantile"]

#: Upper ends of the bins: 1 % apart from 0.01 to a million, whatever the unit; what is found is found within 1 %.
_RATIO: Final = 1.01
_LOWEST: Final = 0.01
_HIGHEST: Final = 1e6
_EDGES: Final = _LOWEST * _RATIO ** np.arange(math.ceil(math.log(_HIGHEST / _LOWEST, _RATIO)) + 1)
BINS: Final = len(_EDGES) + 1
_ENDS: Final = np.append(_EDGES, math.inf)
#: Prior units of the bets of the smaller arm: deviations of about sqrt(p (1 - p) / STRENGTH) are found soonest.
STRENGTH: Final = 200.0
_REACH: Final = 8.0


def grid() -> FloatArray:
    """Upper ends of all bins but the last, which has none; shape (BINS - 1,)."""
    return np.asarray(_EDGES.copy(), dtype=np.float64)


def bin_of(values: ArrayLike) -> NDArray[np.intp]:
    """The bin of each value: the first whose upper end is not below it. Raises ValueError on negative values."""
    x = finite(values, "values")
    if x.size and float(x.min()) < 0:
        raise ValueError(f"quantiles are kept of values of at least 0, got {x.min()}")
    return np.asarray(np.searchsorted(_EDGES, x, side="left"))


def quantile(counts: ArrayLike, p: float) -> FloatArray:
    """The upper end of the bin in which the p-quantile lies, at most 1 % too high, of counts in the last axis; NaN
    without any.

    >>> float(quantile(np.bincount(bin_of([10.0, 21.0, 30.0, 40.0]), minlength=BINS), 0.5)).__round__(1)
    21.0
    """
    below = np.cumsum(np.asarray(counts, dtype=np.float64), axis=-1)
    total = below[..., -1:]
    place = (below < in_unit_interval(p, "p") * total * (1 - 1e-12)).sum(axis=-1)
    return np.where(total[..., 0] > 0, _ENDS[np.minimum(place, BINS - 1)], np.nan)


def log_evidence_below(k: ArrayLike, n: ArrayLike, p: float, strength: ArrayLike) -> FloatArray:
    """Log e-value against "values in [0, 1] have a mean of at least p", after n of them with sum k.

    The average of likelihood ratios (q/p)^k ((1 - q)/(1 - p))^(n - k) over a Beta(p * strength, (1 - p) * strength)
    prior cut off to q < p: the one-sided beta-binomial mixture of Howard, Ramdas, McAuliffe and Sekhon (2021),
    "Time-uniform, nonparametric, nonasymptotic confidence sequences", Prop. 7, here in its exact form. Each factor is
    convex in the value, so its expectation for values in [0, 1] is at most that for a coin with their mean: fractions
    are allowed.
    """
    from scipy.special import betainc, betaln

    good, seen = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    a, b = p * np.asarray(strength, dtype=np.float64), (1 - p) * np.asarray(strength, dtype=np.float64)
    bad = np.maximum(seen - good, 0.0)
    with np.errstate(divide="ignore"):
        mixed = betaln(good + a, bad + b) + np.log(betainc(good + a, bad + b, p))
        prior = betaln(a, b) + np.log(betainc(a, b, p))
    return np.asarray(mixed - prior - good * math.log(p) - bad * math.log1p(-p))


def evidence_of_later(
    champion: ArrayLike,
    candidate: ArrayLike,
    p: float,
    *,
    margin: float = 0.0,
    relative: bool = False,
    share: float = 0.5,
) -> float:
    """Log e-value against "the candidate's p-quantile is at most the champion's plus the margin".

    At the champion's true quantile x the champion has at most p below it and, under the null, the candidate has at
    least p up to x plus the margin. Evidence against the one times evidence against the other is a test martingale at
    that x; nobody knows x, so the least over all x is taken (Howard and Ramdas 2022, "Sequential estimation of
    quantiles with applications to A/B testing and best-arm identification", sec. 5: the two-sample test).
    Edges of bins are rounded against finding anything, which costs up to 2 % of the value.

    Assumes that while these counts were taken the units were assigned with one probability; counts of several such
    periods give evidence that adds up (in logs). Quantiles are those of units: every unit weighs the same.

    Parameters
    ----------
    champion, candidate : counts by bin, shape (BINS,).
    margin : tolerated delay in the unit of the values, or as a share of the champion's quantile if `relative`.
    share : the candidate's share of the units, known beforehand; sets how bold the bets are in each arm.

    >>> rng = np.random.default_rng(5)
    >>> old, new = (np.bincount(bin_of(rng.lognormal(m, 1, n)), minlength=BINS) for m, n in ((3.0, 9000), (3.4, 1000)))
    >>> evidence_of_later(old, new, 0.95) > math.log(20)
    True
    >>> evidence_of_later(old, new, 0.95, margin=0.5, relative=True) > 0
    False
    """
    in_unit_interval(p, "p")
    if margin < 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    old, new = (np.cumsum(np.asarray(c, dtype=np.float64)) for c in (champion, candidate))
    n0, n1 = float(old[-1]), float(new[-1])
    if n0 <= 0 or n1 <= 0:
        return -math.inf
    allowed = _ENDS * (1 + margin) if relative else _ENDS + margin
    later = new[np.searchsorted(_EDGES, allowed * (1 - 1e-12), side="left")]  # first edge that is not earlier
    below = old - np.asarray(champion, dtype=np.float64)  # strictly below each bin
    # where both counts are far from p on one side, one arm speaks loudly and the other not at all
    reach0, reach1 = (_REACH * math.sqrt(p * (1 - p) / n) + 2 / n for n in (n0, n1))
    near = (np.abs(below / n0 - p) <= reach0) | (np.abs(later / n1 - p) <= reach1)
    near |= (below / n0 <= p) != (later / n1 <= p)
    if near.any():
        first, last = int(near.argmax()), BINS - int(near[::-1].argmax())
        later, below = later[max(first - 1, 0) : last + 1], below[max(first - 1, 0) : last + 1]
    bold0, bold1 = _boldness(np.asarray(in_unit_interval(share, "share")))
    late = log_evidence_below(later, n1, p, bold1)
    early = log_evidence_below(n0 - below, n0, 1 - p, bold0)
    return float((late + early).min())


def glance_of_later(
    champion: ArrayLike, candidate: ArrayLike, p: float, *, margin: ArrayLike, share: ArrayLike, relative: bool = False
) -> FloatArray:
    """Of many pairs of arms, the evidence at the champion's present quantile alone: never less than
    `evidence_of_later`, and much sooner known.

    Parameters
    ----------
    champion, candidate : counts by bin, shape (..., BINS).
    margin, share : one a pair, or one for all.
    """
    old, new = (np.cumsum(np.asarray(c, dtype=np.float64), axis=-1) for c in (champion, candidate))
    n0, n1 = old[..., -1], new[..., -1]
    place = np.minimum((old < p * n0[..., None]).sum(axis=-1), BINS - 1)[..., None]
    ends, most = _ENDS[place[..., 0]], np.asarray(margin, dtype=np.float64)
    allowed = ends * (1 + most) if relative else ends + most
    until = np.searchsorted(_EDGES, allowed * (1 - 1e-12), side="left")[..., None]
    later = np.take_along_axis(new, until, axis=-1)[..., 0]
    here = np.take_along_axis(np.asarray(champion, dtype=np.float64), place, axis=-1)
    below = (np.take_along_axis(old, place, axis=-1) - here)[..., 0]
    bold0, bold1 = _boldness(np.asarray(share, dtype=np.float64))
    found = log_evidence_below(later, n1, p, bold1) + log_evidence_below(n0 - below, n0, 1 - p, bold0)
    return np.where((n0 > 0) & (n1 > 0), found, -np.inf)


def _boldness(share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Prior units of the champion's bets and of the candidate's: the smaller arm's are the bolder ones."""
    return STRENGTH * np.maximum(1.0, (1 - share) / share), STRENGTH * np.maximum(1.0, share / (1 - share))
