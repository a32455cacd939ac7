"""What losses are judged on: the labelled rows of a version, and the loss it was measured to have.

Kinds that judge losses, labels or the age of features all take this one value, so that which rows count is said once.
What is found in them stands in performance.py, estimate.py, change.py, slices.py, labels.py and freshness.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.deploy.traffic import values_of
from undrift.develop.bundle import Interface
from undrift.develop.performance import Performance, label_codes
from undrift.finding import Window
from undrift.monitor.frames import inside, micros, outside
from undrift.monitor.monitors import ROC_AUC, Monitor
from undrift.stats.summary import Estimate

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Evidence", "Expected", "expectations", "metric_of"]

FEWEST_EXPECTED: Final = 50
"""Held-out rows of a segment from which its expected loss counts as known: the mean of a few says little of a loss that
is mostly small and now and then large, and its standard error less.
"""

Bools = NDArray[np.bool_]


class Expected(msgspec.Struct, frozen=True):
    """The loss, or area under the ROC curve, that a version leads to expect, and the standard error with which that was
    measured; infinite if unknown.
    """

    value: float
    error: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Predictions with the outcomes known now, and what they are held against.

    Parameters
    ----------
    interface : of the version that is judged.
    rows : predictions with outcomes, of as much time as the monitor looks back (see `watch.look_back`).
    now : the moment of the judgement.
    version : rows of this one only are `mine`.
    expected : the reference loss per metric name, and per segment as ``metric[carrier=UA]`` where there is one.
    tick : time between two judgements.
    spoiled : windows whose data are not to be trusted.
    maturity : how long after an answer its label can be expected.
    """

    interface: Interface
    rows: pa.Table
    now: datetime
    version: int = 0
    expected: Mapping[str, Expected] = field(default_factory=dict)
    tick: timedelta = timedelta(days=1)
    spoiled: tuple[Window, ...] = ()
    maturity: timedelta = timedelta(days=1)

    @cached_property
    def times(self) -> NDArray[np.int64]:
        """When each row happened, in microseconds since 1970 UTC."""
        return micros(self.rows, "event_time")

    @cached_property
    def sound(self) -> Bools:
        """Rows outside all spoiled windows."""
        return outside(self.times, self.spoiled)

    @cached_property
    def mine(self) -> Bools:
        """Sound rows that the version answered."""
        return np.asarray((self.rows["version"].to_numpy() == self.version) & self.sound)

    @property
    def ticks(self) -> int:
        """Judgements in 30 days."""
        return max(1, int(timedelta(days=30) / self.tick))

    def window(self, monitor: Monitor) -> Window:
        """The window that a monitor judges now."""
        return Window(self.now - monitor.span, self.now)

    def within(self, window: Window) -> Bools:
        """Rows that happened in a window."""
        return inside(self.times, window.start, window.end)

    def losses(self, metric: str) -> NDArray[np.float64]:
        """The loss of each row, NaN where there is no label; (n,) float64."""
        if not self.rows.num_rows:
            return np.zeros(0)
        return values_of(self.rows, self.interface, [metric])[metric]

    @cached_property
    def ranked(self) -> tuple[NDArray[np.float64], Bools]:
        """The score of each row, NaN where there is no label, and whether its label is the positive class; (n,)."""
        none = np.zeros(self.rows.num_rows, dtype=bool)
        if not self.rows.num_rows:
            return np.zeros(0), none
        score = values_of(self.rows, self.interface, ["labelled_score"])["labelled_score"]
        known = np.isfinite(score)
        labels = self.rows["label"].combine_chunks().filter(known).dictionary_encode()
        positive = label_codes(self.interface, labels.dictionary.to_pylist()) == 1
        none[known] = positive[labels.indices.to_numpy()]
        return score, none

    def valid(self, name: str) -> Bools:
        """Where a column of the rows has a value."""
        values: Any = self.rows[name]
        return np.asarray(values.is_valid().to_numpy(zero_copy_only=False), dtype=bool)


def metric_of(monitor: Monitor, interface: Interface) -> str:
    """The loss a monitor watches, or `ROC_AUC`."""
    return monitor.metric or ("absolute_error" if interface.task == "regression" else "log_loss")


def expectations(performance: Performance) -> dict[str, Expected]:
    """The expected loss of each metric, and of each segment as ``metric[carrier=UA]``; `ROC_AUC` where it was kept.

    The error of the whole follows from its interval over days. That of a segment is of its rows, raised by as much as
    days raise that of the whole (the design effect, Kish 1965); infinite where fewer than `FEWEST_EXPECTED` rows were
    held out.
    """
    found: dict[str, Expected] = {}
    raised: dict[str, float] = {}
    for metric, estimate in performance.losses.items():
        error = _error(estimate)
        moments = performance.moments[metric]
        plain = sqrt(moments.variance / moments.n) if moments.n > 1 else 0.0
        raised[metric] = max(1.0, error / plain) if plain > 0 and isfinite(error) else 1.0
        found[metric] = Expected(estimate.value, error)
    for segment, losses in performance.segments.items():
        for metric, moments in losses.items():
            enough = moments.n >= FEWEST_EXPECTED
            error = raised[metric] * sqrt(moments.variance / moments.n) if enough else float("inf")
            found[f"{metric}[{segment}]"] = Expected(moments.mean, error)
    for segment, estimate in performance.ranking.items():
        found[f"{ROC_AUC}[{segment}]" if segment else ROC_AUC] = Expected(estimate.value, _error(estimate))
    return found


def _error(estimate: Estimate) -> float:
    """Half an interval over the normal quantile: never below the standard error that made it."""
    from scipy.special import ndtri

    return estimate.half_width / float(ndtri((1 + estimate.level) / 2))
