"""Sufficient statistics that merge with ``+``, and the result types that leave this room.

Everything a judgement needs of ten million units is kept in a few floats, so nothing is recomputed from raw rows.
Ratios, proportions and regression-adjusted means all become `Moments` of one value a unit, so every comparison takes
the same shape. No intervals are made here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

if TYPE_CHECKING:
    Bound = float
else:
    # JSON has neither infinity nor NaN: msgspec writes both as null. Read back, null is "no bound on this side" or "no
    # value".
    Bound = float | None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its uncertainty.

    Parameters
    ----------
    value : the point estimate; NaN when there is nothing to estimate from.
    lower, upper : ends of the interval; infinite on a side that is not bounded. JSON ``null`` stands for infinite and
        NaN.
    n : units behind the number.
    level : confidence level of the interval, in (0, 1).

    >>> Estimate(value=0.1, lower=0.02, upper=0.18, n=400, level=0.95).excludes(0.0)
    True
    """

    value: Bound
    lower: Bound
    upper: Bound
    n: int
    level: float

    def __post_init__(self) -> None:
        _restore(self, "value", math.nan)
        _restore(self, "lower", -math.inf)
        _restore(self, "upper", math.inf)

    def excludes(self, value: float) -> bool:
        """True when `value` lies outside the interval."""
        return value < self.lower or value > self.upper

    @property
    def half_width(self) -> float:
        """Half the length of the interval; infinite when a side is not bounded."""
        return (self.upper - self.lower) / 2


class Comparison(Estimate, frozen=True, kw_only=True):
    """An `Estimate` of a difference (candidate minus champion, or current minus reference) with a test of "no
    difference".

    Parameters
    ----------
    statistic : the test statistic (z, t or chi-square, as the function says).
    p_value : probability of a statistic at least as extreme when there is no difference, in [0, 1].
    """

    statistic: Bound
    p_value: Bound

    def __post_init__(self) -> None:
        super().__post_init__()
        _restore(self, "statistic", math.nan)
        _restore(self, "p_value", math.nan)


def _restore(struct: msgspec.Struct, name: str, value: float) -> None:
    if getattr(struct, name) is None:
        msgspec.structs.force_setattr(struct, name, value)


class Moments(msgspec.Struct, frozen=True):
    """Count, mean and sum of squared deviations of one value a unit; merges with ``+``, undone by ``-``.

    Merging follows Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", eq. 2.1: stable for
    large means, where sums of squares cancel. ``whole - part`` gives the rest of the units (a window out of running
    totals, all segments but one).

    >>> Moments.of([1, 2, 3]) + Moments.of([4, 5]) == Moments.of([1, 2, 3, 4, 5])
    True
    >>> Moments.of([1, 2, 3, 4, 5]).variance
    2.5
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """Moments of an array of any shape; raises ValueError on NaN or infinity (drop or impute them, and count them,
        before).
        """
        x = finite(values, "values").ravel()
        if x.size == 0:
            return cls()
        mean = float(x.mean())
        return cls(int(x.size), mean, float(np.square(x - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        if not self.n or not other.n:
            return self if self.n else other
        gap = other.mean - self.mean
        return Moments(n, self.mean + gap * (other.n / n), self.m2 + other.m2 + gap * gap * (self.n * other.n / n))

    def __sub__(self, part: Moments) -> Moments:
        n = self.n - part.n
        if n < 0:
            raise ValueError(f"cannot take {part.n} units out of {self.n}: the part must lie inside the whole")
        if not part.n or not n:
            return self if not part.n else Moments()
        mean = self.mean + (self.mean - part.mean) * (part.n / n)
        gap = part.mean - mean
        rest = self.m2 - part.m2 - gap * gap * (part.n * n / self.n)
        return Moments(n, mean, max(0.0, rest) if n > 1 else 0.0)

    @property
    def variance(self) -> float:
        """Unbiased sample variance; NaN below two units."""
        return self.m2 / (self.n - 1) if self.n > 1 else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN below two units."""
        return math.sqrt(self.variance / self.n) if self.n > 1 else math.nan

    @property
    def total(self) -> float:
        """Sum of the values."""
        return self.n * self.mean


class Counts(msgspec.Struct, frozen=True):
    """Successes among `n` trials; merges with ``+``.

    >>> (Counts(3, 10) + Counts(1, 10)).rate
    0.2
    """

    successes: int = 0
    n: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.n:
            raise ValueError(f"successes must lie in [0, n], got {self.successes} of {self.n}")

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.successes + other.successes, self.n + other.n)

    def __sub__(self, part: Counts) -> Counts:
        return Counts(self.successes - part.successes, self.n - part.n)

    @property
    def rate(self) -> float:
        """Share of successes; NaN without trials."""
        return self.successes / self.n if self.n else math.nan

    @property
    def moments(self) -> Moments:
        """The same data as `Moments` of zeros and ones."""
        return Moments(self.n, self.rate, self.n * self.rate * (1 - self.rate)) if self.n else Moments()


class PairMoments(msgspec.Struct, frozen=True):
    """Means, squared deviations and co-deviation of two values a unit; merges with ``+`` (Chan et al. 1983; Pebay 2008,
    eq. 3.8).

    The pair is (outcome, covariate) for regression adjustment and (numerator, denominator) for a ratio metric. `cxy` is
    the sum of products of deviations.

    >>> clicks_and_views = PairMoments.of([1, 0, 2, 1], [4, 2, 5, 5])
    >>> clicks_and_views.ratio.mean
    0.25
    """

    n: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    m2_x: float = 0.0
    m2_y: float = 0.0
    cxy: float = 0.0

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike) -> PairMoments:
        """Pair moments of two arrays of one length; raises ValueError on unequal lengths, NaN or infinity."""
        a, b = finite(x, "x").ravel(), finite(y, "y").ravel()
        if a.size != b.size:
            raise ValueError(f"x and y must pair up, got {a.size} and {b.size} values")
        if a.size == 0:
            return cls()
        mx, my = float(a.mean()), float(b.mean())
        dx, dy = a - mx, b - my
        return cls(int(a.size), mx, my, float(dx @ dx), float(dy @ dy), float(dx @ dy))

    def __add__(self, other: PairMoments) -> PairMoments:
        if not self.n or not other.n:
            return self if self.n else other
        x, y = self.x + other.x, self.y + other.y
        product = (other.mean_x - self.mean_x) * (other.mean_y - self.mean_y)
        cxy = self.cxy + other.cxy + product * (self.n * other.n / x.n)
        return PairMoments(x.n, x.mean, y.mean, x.m2, y.m2, cxy)

    def __sub__(self, part: PairMoments) -> PairMoments:
        x, y = self.x - part.x, self.y - part.y
        if not part.n or not x.n:
            return self if not part.n else PairMoments()
        product = (part.mean_x - x.mean) * (part.mean_y - y.mean)
        return PairMoments(x.n, x.mean, y.mean, x.m2, y.m2, self.cxy - part.cxy - product * (part.n * x.n / self.n))

    @property
    def x(self) -> Moments:
        """Moments of the first value."""
        return Moments(self.n, self.mean_x, self.m2_x)

    @property
    def y(self) -> Moments:
        """Moments of the second value."""
        return Moments(self.n, self.mean_y, self.m2_y)

    @property
    def covariance(self) -> float:
        """Unbiased sample covariance; NaN below two units."""
        return self.cxy / (self.n - 1) if self.n > 1 else math.nan

    @property
    def ratio(self) -> Moments:
        """Moments of the linearised ratio sum(x)/sum(y): its mean is the ratio, its standard error the delta-method
        one.

        Each unit contributes r + (x - r*y)/mean(y), with r the ratio (Deng, Knoblich and Lu 2018, "Applying the delta
        method in metric analytics", eq. 5). Not mergeable any more: merge pairs, then take the ratio. Raises ValueError
        when the denominators sum to 0.
        """
        if not self.n:
            return Moments()
        if self.mean_y == 0:
            raise ValueError(f"the denominators of a ratio sum to zero over {self.n} units: the ratio is not defined")
        r = self.mean_x / self.mean_y
        m2 = (self.m2_x - 2 * r * self.cxy + r * r * self.m2_y) / (self.mean_y * self.mean_y)
        return Moments(self.n, r, max(0.0, m2))

    def adjusted(self, theta: float, covariate_mean: float) -> Moments:
        """Moments of x - theta * (y - covariate_mean): the outcome with the covariate's part taken out (see
        `compare.cuped`).
        """
        m2 = self.m2_x - 2 * theta * self.cxy + theta * theta * self.m2_y
        return Moments(self.n, self.mean_x - theta * (self.mean_y - covariate_mean), max(0.0, m2))


def per_unit(values: ArrayLike, units: ArrayLike) -> PairMoments:
    """Collapse rows to units: pair moments of (sum of values, rows) per unit.

    `.ratio` of the result is the mean over rows with a standard error that respects that rows of a unit belong together
    (clusters).

    Parameters
    ----------
    values : shape (rows,) finite floats.
    units : shape (rows,), the unit of each row, of any sortable type.

    >>> rows = per_unit([1, 1, 1, 0, 0, 0], ["a", "a", "a", "b", "b", "b"])
    >>> rows.n, rows.ratio.mean, round(rows.ratio.standard_error, 3)
    (2, 0.5, 0.5)
    >>> round(Moments.of([1, 1, 1, 0, 0, 0]).standard_error, 3)  # too sure of itself: rows of a unit are alike
    0.224
    """
    x, u = finite(values, "values").ravel(), np.asarray(units).ravel()
    if x.size != u.size:
        raise ValueError(f"each value needs its unit, got {x.size} values and {u.size} units")
    _, which = np.unique(u, return_inverse=True)
    rows = np.bincount(which)
    return PairMoments.of(np.bincount(which, weights=x), rows)


def finite(values: ArrayLike, name: str) -> FloatArray:
    """`values` as float64; raises ValueError naming how many are NaN or infinite."""
    x = np.asarray(values, dtype=np.float64)
    bad = int(x.size - np.count_nonzero(np.isfinite(x)))
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or infinite of {x.size}: drop or impute them, and count them, first")
    return x


def in_unit_interval(value: float, name: str) -> float:
    """`value` if it lies strictly between 0 and 1, else ValueError."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
    return value
