"""Exact anytime-valid evidence for bounded outcomes, at any n: bounds of a mean, bets on two arms.

No normal approximation: rare errors and five-per-cent arms are judged here. Evidence is wealth from fair bets: under
the null it grows past 1/alpha with probability at most alpha, whenever one looks. Unbounded metrics belong in
`sequential`.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.stats.summary import Estimate, FloatArray, finite, in_unit_interval

Family = Literal["rate", "mean"]
"""What is bet on: outcomes that are 0 or 1 (their likelihood is known), or any values in [0, 1]."""

BETS: Final = 12
"""Bets of a family: each has wealth of its own, and the evidence is their weighted average."""
#: Stakes of means, as fractions of the largest bet that cannot ruin: small ones find small effects, large ones are
#: quick. Fewer and bolder ones than these lose small effects, more and meeker ones dilute.
STAKES: tuple[float, ...] = tuple(float(f) for f in np.geomspace(1e-3, 0.5, BETS))
#: Effects that rates are bet on, in standard deviations of one outcome at the edge of what is tolerated: from what ten
#: million units show to what ten show.
EFFECTS: tuple[float, ...] = tuple(float(d) for d in np.geomspace(3e-3, 1.0, BETS))
#: Their part of the wealth at the start. Means: more for bold ones, which most harm calls for. Rates: alike.
WEIGHTS: Final[dict[Family, tuple[float, ...]]] = {
    "mean": tuple(float(w) for w in np.sqrt(STAKES) / np.sqrt(STAKES).sum()),
    "rate": (1 / BETS,) * BETS,
}
#: Stakes of a single mean, and their part of the wealth: the last ones are for what never happens, where each row
#: proves no more than the margin.
LONE_STAKES: tuple[float, ...] = (*STAKES, 0.75, 0.95)
LONE_WEIGHTS: tuple[float, ...] = tuple(float(w) for w in np.sqrt(LONE_STAKES) / np.sqrt(LONE_STAKES).sum())
_RAREST = 5e-4
"""A champion's rate is expected to be at least that far from 0 and 1; validity does not depend on it."""
_BISECTIONS = 60
_HALVINGS = 30


def mean_bounds(values: ArrayLike, alpha: float, *, low: float, high: float, effect: float = 1.0) -> Estimate:
    """A mean of values in [low, high] with a lower and an upper bound, each exact at level 1 - alpha at every look.

    The lower bound is the largest mean that bets refute: against "the mean is at most m" the wealth prod(1 + stake
    (x - m) / (m - low)) is a non-negative supermartingale, and evidence falls as m rises (Waudby-Smith and Ramdas 2024,
    "Estimating means of bounded random variables by betting", sec. 4). The upper one is that of low + high - x.

    Parameters
    ----------
    values : shape (n,); each within its range given those before it has the same expectation.
    alpha : in (0, 1), for each of the two sides by itself.
    effect : rows that count as one because they are alike, at least 1; wealth is raised to 1 / effect, which keeps it
        a supermartingale.

    >>> mean_bounds(np.zeros(150), 0.01, low=-1, high=1).upper.__round__(3)
    0.04
    """
    x = (finite(values, "values").ravel() - low) / (high - low)
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"values must lie in [{low:g}, {high:g}]")
    level = 1 - in_unit_interval(alpha, "alpha")
    if not x.size:
        return Estimate(value=math.nan, lower=low, upper=high, n=0, level=level)
    found, count = np.unique(x, return_counts=True)
    wanted = math.log(1 / alpha) * effect
    lower = _refuted(found, count, wanted)
    upper = 1 - _refuted(1 - found, count, wanted)
    return Estimate(
        value=low + (high - low) * float(x.mean()),
        lower=low + (high - low) * lower,
        upper=low + (high - low) * upper,
        n=int(x.size),
        level=level,
    )


def log_mean_evidence(values: FloatArray, count: ArrayLike, mean: float) -> float:
    """Log of the evidence against "the mean is at most `mean`" of `values` in [0, 1], each seen `count` times."""
    growth = np.log1p(np.multiply.outer(values / mean - 1, np.asarray(LONE_STAKES)))
    wealth = np.asarray(count, dtype=np.float64) @ growth + np.log(LONE_WEIGHTS)
    return float(np.logaddexp.reduce(wealth))


def _refuted(values: FloatArray, count: NDArray[np.intp], wanted: float) -> float:
    """The largest mean in [0, 1) against which the log evidence reaches `wanted`."""
    low, high = 0.0, float((values * count).sum() / count.sum())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle > 0 and log_mean_evidence(values, count, middle) >= wanted:
            low = middle
        else:
            high = middle
    return low


def log_growth(
    outcomes: ArrayLike,
    treated: ArrayLike,
    probability: ArrayLike,
    *,
    center: ArrayLike,
    null: ArrayLike = 0.0,
    weight: ArrayLike = 1.0,
    family: Family = "mean",
) -> FloatArray:
    """What each row adds to the log wealth of each bet against "the loss is at most `null`", shape (n, BETS).

    A bet multiplies its wealth by a factor that depends on the row's arm and is linear in its outcome, with an
    expectation of at most 1 wherever the loss is at most `null`. So wealth is a non-negative supermartingale, and
    the average over bets an e-process (Ramdas, Grunwald, Vovk and Shafer 2023, "Game-theoretic statistics and safe
    anytime-valid inference"). Sums of logs are order-free: they may be kept, merged, and a row's part taken out again
    when its outcome changes.

    ``mean``: 1 + stake (z - null) / (null - lowest z), z the score weighted by the inverse of the row's chance of its
    arm, (y - center) / p for the candidate, -weight (y - center) / (1 - p) for the champion (Waudby-Smith and Ramdas
    2024, sec. 4 and 5; Waudby-Smith et al. 2024, "Anytime-valid off-policy inference for contextual bandits").

    ``rate``: the likelihood of an alternative (champion at `center`, candidate worse by one of `EFFECTS`) over that of
    its reverse information projection on the null, the nearest pair of rates that is tolerated: the factor that grows
    fastest under the alternative (Grunwald, de Heide and Koolen 2024, "Safe testing", Theorem 1; for two arms Turner,
    Ly and Grunwald 2024, "Generic E-variables for exact sequential k-sample tests"). Between 0 and 1 it is drawn
    straight, which keeps its expectation, so a unit's mean over rows may be fed too.

    Assumes: `probability` is known and was set before the row's outcome, also if by what was seen; units are assigned
    by an independent draw (for sticky units one row a unit); `center` was fixed beforehand. The nearer it is to the
    champion's rate, the more power. For "lower is worse" outcomes feed 1 - y.

    Parameters
    ----------
    outcomes : shape (n,), each in [0, 1].
    treated : shape (n,), True where the candidate answered.
    probability : the chance in (0, 1) that the row had of the candidate.
    center : expected outcome of the champion in (0, 1).
    null : the most that the candidate's mean minus `weight` times the champion's plus (weight - 1) center may be.
    weight : for margins relative to the champion's mean: 1 + margin.

    >>> rng = np.random.default_rng(7)
    >>> treated = rng.random(20_000) < 0.05
    >>> errors = rng.random(20_000) < np.where(treated, 0.05, 0.01)
    >>> growth = log_growth(errors, treated, 0.05, center=0.01, null=0.005, family="rate")
    >>> round(float(np.exp(log_e_value(growth.sum(axis=0), "rate"))))
    81667
    """
    y, arm = _in_range(outcomes, "outcomes"), np.asarray(treated, dtype=bool).ravel()
    if arm.shape != y.shape:
        raise ValueError(f"each outcome needs its arm, got {y.size} outcomes and {arm.size} arms")
    p, c, most, times = (
        np.broadcast_to(np.asarray(a, dtype=np.float64), y.shape) for a in (probability, center, null, weight)
    )
    if y.size and not (p.min() > 0 and p.max() < 1):
        raise ValueError("probability must lie strictly between 0 and 1: a row sure of its arm tells nothing")
    if y.size and not (c.min() >= 0 and c.max() <= 1):
        raise ValueError(f"center must lie in [0, 1], got {c.min()} to {c.max()}")
    if family == "mean":
        z, low = _scores(y, arm, p, c, times)
        ratio = np.maximum((z - most) / (most - low), -1.0)
        return np.asarray(np.log1p(np.multiply.outer(ratio, np.asarray(STAKES))))
    kinds, which = _kinds(p, c, most - (times - 1) * c, times)
    table = _factors(*kinds)
    low, high = table[which, arm.astype(int), 0], table[which, arm.astype(int), 1]
    return np.asarray(np.log(low + y[:, None] * (high - low)))


def log_e_value(log_wealth: ArrayLike, family: Family = "mean") -> FloatArray:
    """Log of the evidence: of the wealth of all bets, the last axis of `log_wealth`, each weighing as in `WEIGHTS`."""
    wealth = np.asarray(log_wealth, dtype=np.float64)
    top = wealth.max(axis=-1, keepdims=True)
    return np.asarray(top[..., 0] + np.log((np.exp(wealth - top) * np.asarray(WEIGHTS[family])).sum(axis=-1)))


def _scores(
    y: FloatArray, arm: NDArray[np.bool_], p: FloatArray, center: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Inverse-propensity scores and the lowest value each could have had."""
    z = (y - center) * np.where(arm, 1 / p, -weight / (1 - p))
    return np.asarray(z), np.asarray(np.minimum(-center / p, -weight * (1 - center) / (1 - p)))


def _kinds(*columns: FloatArray) -> tuple[list[FloatArray], NDArray[np.intp]]:
    """The different rows of columns, and which of them each row is: there are far fewer than rows."""
    code = np.zeros(columns[0].shape, dtype=np.int64)
    for column in columns:
        found, place = np.unique(column, return_inverse=True)
        code = code * len(found) + place.ravel()
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return [column[first] for column in columns], which.ravel()


def _factors(p: FloatArray, center: FloatArray, offset: FloatArray, weight: FloatArray) -> FloatArray:
    """Factors of each alternative against "candidate <= offset + weight champion", shape (n, arm, outcome, BETS).

    1 where nothing lies beyond what is tolerated.
    """
    p, offset, weight = p[:, None], offset[:, None], weight[:, None]
    old = np.clip(center, _RAREST, 1 - _RAREST)[:, None]
    edge = offset + weight * old
    some = (edge > 0) & (edge < 1) & (weight > 0)
    edge = np.where(some, edge, 0.5)
    beyond = np.minimum(np.asarray(EFFECTS) * np.sqrt(edge * (1 - edge)), 0.9 * (1 - edge))
    new = edge + beyond
    # the tolerated pair (r, offset + weight r) nearest to (old, new): the divergence is convex in r, its slope rises
    safe_offset, safe_weight = np.where(some, offset, 0.0), np.where(some, weight, 1.0)
    low = np.maximum(0.0, -safe_offset / safe_weight) + np.zeros_like(new)
    high = np.minimum(1.0, (1 - safe_offset) / safe_weight) + np.zeros_like(new)
    for _ in range(_BISECTIONS):
        r = (low + high) / 2
        s = safe_offset + safe_weight * r
        slope = p * safe_weight * (s - new) / (s * (1 - s)) + (1 - p) * (r - old) / (r * (1 - r))
        low, high = np.where(slope < 0, r, low), np.where(slope < 0, high, r)
    r = (low + high) / 2
    s = safe_offset + safe_weight * r
    pairs = [[(1 - old) / (1 - r), old / r], [(1 - new) / (1 - s), new / s]]
    table = np.stack([np.stack(pair, axis=1) for pair in pairs], axis=1)
    return np.asarray(np.where(some[:, None, None], table, 1.0))


def _in_range(values: ArrayLike, name: str) -> FloatArray:
    x = finite(values, name).ravel()
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"{name} must lie in [0, 1], got {x.min()} to {x.max()}: clip and scale them first")
    return x
