"""The area under the ROC curve of two arms, from counts of scores by class, so that it needs no rows and merges with
``+``.

A score is rounded to one of some hundred values, close together where classes are rare; the area is exact for the
rounded score. Each unit counts once: its rows are not independent.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.stats.summary import FloatArray

__all__ = ["SCORE_BINS", "auc_by_counts", "score_bin"]

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
