"""The area under the ROC curve: of two arms from counts of scores by class, and of rows within their units of time.

Counts need no rows and merge with ``+``: a score is rounded to one of some hundred values, close together where classes
are rare; the area is exact for the rounded score, and each unit counts once, for its rows are not independent. Rows
keep their scores, and each unit's area is its own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.stats.summary import FloatArray

__all__ = ["SCORE_BINS", "Areas", "areas_within", "auc_by_counts", "score_bin", "shares_won"]

#: Logits from -12 to 12 in steps of 0.04.
_STEP: Final = 0.04
_MOST: Final = 12.0
SCORE_BINS: Final = int(2 * _MOST / _STEP) + 1


def score_bin(scores: ArrayLike) -> NDArray[np.intp]:
    """The bin of each probability in [0, 1]: steps of 0.04 in its logit."""
    p = np.clip(np.asarray(scores, dtype=np.float64), 1e-6, 1 - 1e-6)
    logit = np.clip(np.log(p) - np.log1p(-p), -_MOST, _MOST)
    return np.asarray(np.rint((logit + _MOST) / _STEP), dtype=np.intp)


def auc_by_counts(negatives: ArrayLike, positives: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Area under the ROC curve and its variance, from counts by score in ascending order, shape (..., bins).

    DeLong, DeLong and Clarke-Pearson (1988), eq. 3 to 5, ties counting one half: the variance of each class's share of
    pairs won, over that class's size. NaN where a class has fewer than two.

    >>> area, variance = auc_by_counts([3, 1, 0], [0, 1, 3])
    >>> float(area), float(variance).__round__(6)
    (0.96875, 0.001953)
    """
    low, high = (np.asarray(c, dtype=np.float64) for c in (negatives, positives))
    k, m = low.sum(axis=-1, keepdims=True), high.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        beaten = (np.cumsum(low, axis=-1) - 0.5 * low) / k
        above = 1 - (np.cumsum(high, axis=-1) - 0.5 * high) / m
        area = (high * beaten).sum(axis=-1, keepdims=True) / m
        spread1 = (high * np.square(beaten - area)).sum(axis=-1, keepdims=True) / (m - 1)
        spread0 = (low * np.square(above - area)).sum(axis=-1, keepdims=True) / (k - 1)
        variance = spread1 / m + spread0 / k
    known = (k > 1) & (m > 1)
    return np.where(known, area, np.nan)[..., 0], np.where(known, variance, np.nan)[..., 0]


def shares_won(scores: ArrayLike, positive: ArrayLike) -> FloatArray:
    """The share of the rows of the other class that each row is ranked rightly against, ties counting one half; (n,).

    The placements of DeLong, DeLong and Clarke-Pearson (1988); their mean over either class is the area under the ROC
    curve. NaN where there is no row of the other class.

    >>> shares_won([0.1, 0.4, 0.4, 0.8], [False, False, True, True]).tolist()
    [1.0, 0.75, 0.75, 1.0]
    """
    score, high = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    place = np.unique(score, return_inverse=True)[1]
    size = int(place.max(initial=-1)) + 1
    of_high = np.bincount(place[high], minlength=size).astype(np.float64)
    of_low = np.bincount(place[~high], minlength=size).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        beaten = (np.cumsum(of_low) - 0.5 * of_low) / of_low.sum()
        above = 1 - (np.cumsum(of_high) - 0.5 * of_high) / of_high.sum()
    return np.asarray(np.where(high, beaten[place], above[place]), dtype=np.float64)


class Areas(NamedTuple):
    """The area under the ROC curve of each unit that has rows of both classes; units ascending, shapes (units,).

    ``variance`` is what rows alone give an area: DeLong's, and where a class has one row the most it can be,
    ``area (1 - area)`` (Birnbaum and Klose 1957). ``positives`` and ``negatives`` are rows.
    """

    unit: NDArray[np.int64]
    positives: FloatArray
    negatives: FloatArray
    area: FloatArray
    variance: FloatArray

    @property
    def weight(self) -> FloatArray:
        """What a unit counts: ``m k / (m + k)`` for m positives and k negatives (van Elteren 1960)."""
        return self.positives * self.negatives / (self.positives + self.negatives)

    def mean(self) -> tuple[float, float, int]:
        """The weighted mean area, its standard error by units (never below what rows alone give it), and the units.

        That is the chance that a positive is ranked above a negative of the same unit. How units differ from one
        another cannot move it. NaN without a unit; the standard error is infinite below two.

        >>> value, error, units = areas_within([0.1, 0.9, 0.8, 0.2], [0, 1, 0, 1], [1, 1, 2, 2]).mean()
        >>> value, round(error, 3), units
        (0.5, 0.5, 2)
        """
        weight, count = self.weight, len(self.unit)
        total = float(weight.sum())
        if not count:
            return float("nan"), float("inf"), 0
        value = float(weight @ self.area) / total
        if count < 2:
            return value, float("inf"), count
        days = float(np.square(weight * (self.area - value)).sum()) * count / (count - 1)
        rows = float(np.square(weight) @ self.variance)
        return value, float(np.sqrt(max(days, rows))) / total, count


def areas_within(scores: ArrayLike, positive: ArrayLike, units: ArrayLike) -> Areas:
    """The area under the ROC curve among the rows of each unit; units of one class alone are left out.

    Parameters
    ----------
    scores : shape (n,), finite; larger for the positive class.
    positive, units : shape (n,): whether a row is positive, and the unit it belongs to, integers.

    >>> areas_within([0.1, 0.9, 0.8, 0.2, 0.3], [0, 1, 0, 1, 1], [1, 1, 2, 2, 3]).area.tolist()
    [1.0, 0.0]
    """
    score, high = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    unit = np.asarray(units, dtype=np.int64)
    order = np.argsort(unit, kind="stable")
    found: list[tuple[float, ...]] = []
    for rows in np.split(order, np.flatnonzero(np.diff(unit[order])) + 1):
        m = int(high[rows].sum())
        k = len(rows) - m
        if not m or not k:
            continue
        won = shares_won(score[rows], high[rows])
        area = float(won[high[rows]].mean())
        most = area * (1 - area)
        variance = sum(
            float(won[which].var(ddof=1)) / size if size > 1 else most
            for which, size in ((high[rows], m), (~high[rows], k))
        )
        found.append((float(unit[rows[0]]), m, k, area, variance))
    columns = np.array(found, dtype=np.float64).reshape(-1, 5).T
    return Areas(columns[0].astype(np.int64), *columns[1:])
