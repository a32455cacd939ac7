"""Labelled rows day by day, and what some of the days say: a mean loss, or the area under the ROC curve.

Rows of a day share weather, incidents and customers, so a day is one unit, and both kinds come down to a weight and a
sum for each. How days differ, and what is too little to say anything, stands here; what is tolerated stands in
performance.py.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from undrift.develop.performance import FEWEST_OF_A_CLASS
from undrift.finding import Window
from undrift.ids import to_micros
from undrift.monitor.frames import inside
from undrift.monitor.monitors import FEWEST_DAYS
from undrift.stats.ranking import areas_within

__all__ = ["DAY", "FEWEST_BEFORE", "FEWEST_ROWS", "Days", "Losses", "Ranks", "Series", "mean_of"]

FEWEST_ROWS: Final = 100
FEWEST_BEFORE: Final = 5
"""Days before a part of fewer than three: they have to say how days differ, for the part itself does not."""
DAY: Final = 86_400_000_000

Floats = NDArray[np.float64]


class Days(NamedTuple):
    """Days with rows, ascending: rows, those with a label, and the weight of the day with the sum that goes with it.

    ``noise`` is the variance that rows alone give a sum, 0 where it is not known; ``classes`` are the negative and the
    positive rows, shape (2, days), or (0, days) of losses.
    """

    day: NDArray[np.int64]
    rows: Floats
    labelled: Floats
    weight: Floats
    sums: Floats
    noise: Floats
    classes: Floats

    def before(self, last: int) -> Days:
        """The days before one."""
        kept = self.day < last
        rows, labelled, weight, sums, noise = (each[kept] for each in self[1:6])
        return Days(self.day[kept], rows, labelled, weight, sums, noise, self.classes[:, kept])


class Series(Protocol):
    """Labelled rows of one group, of which a window can be asked day by day."""

    def days(self, window: Window) -> Days:
        """The days of the rows in a window."""
        ...


class Losses:
    """Rows with their losses, NaN without a label."""

    def __init__(self, times: NDArray[np.int64], loss: Floats) -> None:
        self.times, self.loss = times, loss

    def days(self, window: Window) -> Days:
        """Each day weighs as many rows as have a label; its sum is that of their losses."""
        held = inside(self.times, window.start, window.end)
        loss = self.loss[held]
        day, place = np.unique(self.times[held] // DAY, return_inverse=True)
        known = np.isfinite(loss)

        def total(of: NDArray[Any]) -> Floats:
            return np.bincount(place, weights=of, minlength=len(day)).astype(np.float64)

        labelled, none = total(known), np.zeros((0, len(day)))
        sums = total(np.where(known, loss, 0.0))
        return Days(day, total(np.ones(len(loss))), labelled, labelled, sums, np.zeros(len(day)), none)


class Ranks:
    """Rows with their scores, NaN without a label, and whether they are positive.

    Each day is ranked by itself, so that a window of any length, and the hold-out, measure the same: ranks across days
    would also tell how days differ. A day is ranked once, however many windows ask for it.
    """

    def __init__(self, times: NDArray[np.int64], score: Floats, positive: NDArray[np.bool_]) -> None:
        order = np.argsort(times, kind="stable")
        self.times, self.score, self.positive = times[order], score[order], positive[order]
        self._ranked: dict[tuple[int, int], tuple[float, ...]] = {}

    def days(self, window: Window) -> Days:
        """Each day weighs as `stats.ranking.Areas.weight` says; its sum is that weight times its area."""
        first, last = (int(p) for p in np.searchsorted(self.times, [to_micros(window.start), to_micros(window.end)]))
        day, starts = np.unique(self.times[first:last] // DAY, return_index=True)
        bounds = [*(first + starts).tolist(), last]
        columns = np.array([self._day(*each) for each in pairwise(bounds)], dtype=np.float64).reshape(-1, 7).T
        rows, labelled, weight, sums, noise = columns[:5]
        return Days(day, rows, labelled, weight, sums, noise, columns[5:])

    def _day(self, first: int, last: int) -> tuple[float, ...]:
        if (first, last) not in self._ranked:
            score, positive = self.score[first:last], self.positive[first:last]
            known = np.isfinite(score)
            labelled = float(known.sum())
            areas = areas_within(score[known], positive[known], np.zeros(int(known.sum()), dtype=np.int64))
            m = float(positive[known].sum())
            weight, sums, noise = 0.0, 0.0, 0.0
            if len(areas.unit):
                weight = float(areas.weight[0])
                sums, noise = weight * float(areas.area[0]), weight**2 * float(areas.variance[0])
            self._ranked[first, last] = (float(last - first), labelled, weight, sums, noise, labelled - m, m)
        return self._ranked[first, last]


def mean_of(days: Days, first: int, alpha: float, unsure: float) -> tuple[float, float, int]:
    """Weighted mean of the days from the ``first`` on, how far its one-sided bound lies from it, and rows.

    The bound is Student's, by days (ratio of sums). What it is held against has the standard error ``unsure``, which is
    independent and adds in squares. NaN where there are too few days, rows, or rows of a class. Fewer than three days
    tell nothing of how days differ: those before do, if what rows alone do is known and there are enough.
    """
    from scipy.special import stdtrit

    n = int(days.labelled[first:].sum())
    few = bool((days.classes[:, first:].sum(axis=1) < FEWEST_OF_A_CLASS).any())
    weight, sums, noise = (each[days.weight > 0] for each in (days.weight, days.sums, days.noise))
    first = int(np.count_nonzero(days.weight[:first]))
    mine, count = weight[first:], len(weight) - first
    fewest = 1 if first >= FEWEST_BEFORE and len(days.classes) else FEWEST_DAYS["performance"]
    if count < fewest or n < FEWEST_ROWS or few:
        return float("nan"), float("nan"), n
    total = float(mine.sum())
    mean = float(sums[first:].sum() / total)
    # residual of each day's sum: the linearised ratio of sums, so that days of many rows count as such
    residual = sums[first:] - mine * mean
    variance, freedom = float(np.square(residual).sum() * count / max(count - 1, 1)) / total**2, count - 1
    raised = 1.0
    if first > 1:  # few days show badly how days differ: those before tell too, about a mean of their own
        before = sums[:first] - weight[:first] * (sums[:first].sum() / weight[:first].sum())
        squares = np.square(np.concatenate([before, residual]))
        freedom = len(weight) - 2
        spread = float((squares / weight).sum() / weight.sum() * len(weight) / freedom)
        variance = max(variance, spread * float(np.square(mine).sum()) / total**2)
        if noise.any():
            raised = max(1.0, float(squares.sum() / noise.sum()) * len(weight) / freedom)
    variance = max(variance, raised * float(noise[first:].sum()) / total**2)
    se = float(np.hypot(np.sqrt(variance), unsure))
    return mean, float(stdtrit(freedom, 1 - alpha)) * se, n
