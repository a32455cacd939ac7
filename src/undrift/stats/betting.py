"""Exact anytime-valid evidence for bounded outcomes, at any n: a confidence sequence for a mean, an e-process for two
arms.

No normal approximation: rare errors and five-per-cent arms are judged here. Evidence is wealth from fair bets: under
the null it grows past 1/alpha with probability at most alpha, whenever one looks. Unbounded metrics belong in
`sequential`.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.stats.summary import Estimate, FloatArray, finite, in_unit_interval

#: Stakes, as fractions of the largest bet that cannot ruin: small ones find small effects, large ones are quick. Fewer
#: and bolder ones than these lose small effects, more and meeker ones dilute (benchmarks/rollouts/power.py).
STAKES: tuple[float, ...] = tuple(float(f) for f in np.geomspace(1e-3, 0.5, 12))
#: Their part of the wealth at the start: more for bold ones, which most harm calls for, and always some for the meek.
WEIGHTS: tuple[float, ...] = tuple(float(w) for w in np.sqrt(STAKES) / np.sqrt(STAKES).sum())
_LARGEST_BET = 0.75


class BoundedMean(msgspec.Struct, frozen=True, kw_only=True):
    """Empirical-Bernstein confidence sequence for the mean of values in [0, 1], as a state that grows with each batch.

    Predictable plug-in of Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting",
    Theorem 2: each value is bet on with what was known before it, so the interval (the intersection over all n so far)
    covers the conditional mean at all times with probability at least 1 - alpha, without any approximation. Order
    matters: values enter as they came.

    >>> state = BoundedMean(alpha=0.05).update([1, 0, 1, 1] * 50)
    >>> state.estimate
    Estimate(value=0.75, lower=0.6121387164010532, upper=0.8825123802971709, n=200, level=0.95)
    """

    alpha: float
    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    bets: float = 0.0
    staked: float = 0.0
    cost: float = 0.0
    lower: float = 0.0
    upper: float = 1.0

    def update(self, values: ArrayLike) -> BoundedMean:
        """The state after `values`, shape (n,), each in [0, 1]; raises ValueError outside."""
        x = _in_range(values, "values")
        if x.size == 0:
            return self
        t = self.n + np.arange(1, x.size + 1)
        total = self.total + np.cumsum(x)
        mean = (0.5 + total) / (t + 1)
        mean_before = np.concatenate([[(0.5 + self.total) / (self.n + 1)], mean[:-1]])
        squares = self.squares + np.cumsum(np.square(x - mean))
        variance_before = (0.25 + np.concatenate([[self.squares], squares[:-1]])) / t
        bet = np.minimum(np.sqrt(2 * math.log(2 / self.alpha) / (variance_before * t * np.log1p(t))), _LARGEST_BET)
        cost = self.cost + np.cumsum(np.square(x - mean_before) * (-np.log1p(-bet) - bet))
        bets, staked = self.bets + np.cumsum(bet), self.staked + np.cumsum(bet * x)
        half = (math.log(2 / self.alpha) + cost) / bets
        return BoundedMean(
            alpha=self.alpha,
            n=int(t[-1]),
            total=float(total[-1]),
            squares=float(squares[-1]),
            bets=float(bets[-1]),
            staked=float(staked[-1]),
            cost=float(cost[-1]),
            lower=max(self.lower, float((staked / bets - half).max())),
            upper=min(self.upper, float((staked / bets + half).min())),
        )

    @property
    def estimate(self) -> Estimate:
        """Mean so far with its confidence sequence; [0, 1] before the first value."""
        mean = self.total / self.n if self.n else math.nan
        return Estimate(value=mean, lower=self.lower, upper=self.upper, n=self.n, level=1 - self.alpha)


class Wealth(msgspec.Struct, frozen=True, kw_only=True):
    """E-process for "the candidate's outcome exceeds the champion's by more than a margin", outcomes in [0, 1].

    Each row counts with the inverse of its probability of the arm it got, at the time it got it: z = (y - center) / p
    for a candidate row, -(y - center) / (1 - p) for a champion row. Its expectation is the effect, whatever p was, so
    weights may change (also because of the results) and outcomes may move with time. Against each margin m the wealth
    prod(1 + stake * (z - m) / (m - lowest z)) is a non-negative supermartingale while the effect is at most m; the
    e-value is the weighted average over fixed stakes (Waudby-Smith and Ramdas 2024, sec. 4 and 5; Ramdas, Grunwald,
    Vovk and Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference"; inverse propensity scores:
    Waudby-Smith et al. 2024, "Anytime-valid off-policy inference for contextual bandits"). Fixed stakes make it a sum
    of logs: order-free, and states built on different rows merge with ``+``.

    Assumes: p is known and was set before the row's outcome; units are assigned by an independent draw (for sticky
    units one row a unit); `center` was fixed beforehand. The nearer `center` is to the champion's rate, the more power;
    validity does not depend on it. For "lower is worse" outcomes feed 1 - y.

    Parameters
    ----------
    margins : effects tested, in (-1, 1), ascending; the tolerated loss first of all.
    center : expected outcome in [0, 1], for instance the champion's rate in its reference profile.
    candidate_rows, champion_rows, weighted : what was seen; `weighted` is the sum of z.
    log_wealth : one row a margin, one column a stake.

    >>> rng = np.random.default_rng(7)
    >>> treated = rng.random(20_000) < 0.05
    >>> errors = rng.random(20_000) < np.where(treated, 0.05, 0.01)
    >>> seen = Wealth.at([0.0, 0.01], center=0.01).update(errors, treated, 0.05)
    >>> seen.candidate_rows, [round(e) for e in seen.e_values]
    (965, [1011636207, 148])
    >>> seen.lower_bound(0.01).lower
    0.01
    """

    margins: tuple[float, ...]
    center: float
    log_wealth: tuple[tuple[float, ...], ...]
    candidate_rows: int = 0
    champion_rows: int = 0
    weighted: float = 0.0

    @classmethod
    def at(cls, margins: ArrayLike, *, center: float) -> Wealth:
        """The state before the first row."""
        grid = tuple(float(m) for m in np.atleast_1d(finite(margins, "margins")))
        if not grid or any(not -1 < m < 1 for m in grid) or list(grid) != sorted(set(grid)):
            raise ValueError(f"margins must be distinct, ascending and in (-1, 1), got {grid}")
        if not 0 <= center <= 1:
            raise ValueError(f"center must lie in [0, 1], got {center}")
        return cls(margins=grid, center=center, log_wealth=tuple((0.0,) * len(STAKES) for _ in grid))

    def update(self, outcomes: ArrayLike, treated: ArrayLike, probability: ArrayLike) -> Wealth:
        """The state after more rows.

        Parameters
        ----------
        outcomes : shape (n,), each in [0, 1].
        treated : shape (n,), True where the candidate answered.
        probability : shape (n,) or one number, the probability in (0, 1) that the row had of the candidate.
        """
        y, arm = _in_range(outcomes, "outcomes"), np.asarray(treated, dtype=bool).ravel()
        p = np.broadcast_to(np.asarray(probability, dtype=np.float64), y.shape)
        if arm.shape != y.shape:
            raise ValueError(f"each outcome needs its arm, got {y.size} outcomes and {arm.size} arms")
        if y.size and not (p.min() > 0 and p.max() < 1):
            raise ValueError("probability must lie strictly between 0 and 1: a row sure of its arm tells nothing")
        z, _ = _scores(y, arm, p, np.asarray(self.center), np.asarray(1.0))
        growth = [log_growth(y, arm, p, center=self.center, null=m).sum(axis=0) for m in self.margins]
        log_wealth = np.array(self.log_wealth) + np.stack(growth)
        return msgspec.structs.replace(
            self,
            log_wealth=tuple(tuple(row) for row in log_wealth.tolist()),
            candidate_rows=self.candidate_rows + int(arm.sum()),
            champion_rows=self.champion_rows + int(arm.size - arm.sum()),
            weighted=self.weighted + float(z.sum()),
        )

    def __add__(self, other: Wealth) -> Wealth:
        if (self.margins, self.center) != (other.margins, other.center):
            raise ValueError("only wealth at the same margins and center can be added")
        log_wealth = np.array(self.log_wealth) + np.array(other.log_wealth)
        return msgspec.structs.replace(
            self,
            log_wealth=tuple(tuple(row) for row in log_wealth.tolist()),
            candidate_rows=self.candidate_rows + other.candidate_rows,
            champion_rows=self.champion_rows + other.champion_rows,
            weighted=self.weighted + other.weighted,
        )

    @property
    def e_values(self) -> tuple[float, ...]:
        """Evidence against "the effect is at most the margin", one a margin; 1/e is an anytime-valid p-value."""
        wealth = np.array(self.log_wealth)
        return tuple(float(e) for e in np.exp(np.minimum(_log_mean_exp(wealth), 700.0)))

    def lower_bound(self, alpha: float) -> Estimate:
        """The effect with an anytime-valid lower bound: the largest margin with e >= 1/alpha below which all others
        have it too.

        As coarse as `margins`. -1 (no bound) while not even the first margin is refuted.
        """
        threshold = 1 / in_unit_interval(alpha, "alpha")
        bound = -1.0
        for margin, e in zip(self.margins, self.e_values, strict=True):
            if e < threshold:
                break
            bound = margin
        n = self.candidate_rows + self.champion_rows
        value = self.weighted / n if n else math.nan
        return Estimate(value=value, lower=bound, upper=math.inf, n=self.candidate_rows, level=1 - alpha)


def log_growth(
    outcomes: ArrayLike,
    treated: ArrayLike,
    probability: ArrayLike,
    *,
    center: ArrayLike,
    null: ArrayLike = 0.0,
    weight: ArrayLike = 1.0,
) -> FloatArray:
    """What each row adds to the log wealth of each stake, shape (n, stakes); the terms that `Wealth` sums.

    Sums of these may be kept, and a row's part taken out again when its outcome changes. The champion's rows count
    `weight` times (for margins relative to the champion's mean), so the expectation of the score is the candidate's
    mean minus `weight` times the champion's plus (weight - 1) * center; `null` is the most it may be.
    """
    y, arm = np.asarray(outcomes, dtype=np.float64), np.asarray(treated, dtype=bool)
    p = np.broadcast_to(np.asarray(probability, dtype=np.float64), y.shape)
    z, low = _scores(y, arm, p, np.asarray(center, dtype=np.float64), np.asarray(weight, dtype=np.float64))
    most = np.asarray(null, dtype=np.float64)
    ratio = np.maximum((z - most) / (most - low), -1.0)
    return np.asarray(np.log1p(np.multiply.outer(ratio, np.asarray(STAKES))))


def log_e_value(log_wealth: ArrayLike) -> FloatArray:
    """Log of the wealth over all stakes, the last axis of `log_wealth`, each weighing as in `WEIGHTS`."""
    return _log_mean_exp(np.asarray(log_wealth, dtype=np.float64))


def _scores(
    y: FloatArray, arm: NDArray[np.bool_], p: FloatArray, center: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Inverse-propensity scores and the lowest value each could have had."""
    z = (y - center) * np.where(arm, 1 / p, -weight / (1 - p))
    return np.asarray(z), np.asarray(np.minimum(-center / p, -weight * (1 - center) / (1 - p)))


def _log_mean_exp(log_wealth: FloatArray) -> FloatArray:
    top = log_wealth.max(axis=-1, keepdims=True)
    return np.asarray(top[..., 0] + np.log((np.exp(log_wealth - top) * np.asarray(WEIGHTS)).sum(axis=-1)))


def _in_range(values: ArrayLike, name: str) -> FloatArray:
    x = finite(values, name).ravel()
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"{name} must lie in [0, 1], got {x.min()} to {x.max()}: clip and scale them first")
    return x
