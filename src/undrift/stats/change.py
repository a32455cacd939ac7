"""Change detectors for a stream: frozen state in, new state and the place of the alarm out, with a stated run length.

`EDetector` for bounded losses keeps its average run length for any distribution with the stated mean; `Cusum` and
`PageHinkley` are the classical ones for standardised values. Windows, seasons and budgets over many streams are the
business of `calibration`.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from undrift.stats.summary import Bound, finite

_STAKES: tuple[float, ...] = tuple(float(f) for f in np.geomspace(0.005, 0.8, 12))


class EDetector(msgspec.Struct, frozen=True, kw_only=True):
    """Anytime-valid detector of a rise of the mean of a bounded stream: a Shiryaev-Roberts mixture e-detector.

    While the conditional mean is at most `mean`, the expected number of values before the first alarm is at least
    `run_length`; nothing else is assumed about the distribution. Shin, Ramdas and Rinaldo (2022), "E-detectors: a
    nonparametric framework for sequential change detection", Theorem 2.4 and sec. 4: M_t = (1 + M_{t-1}) L_t for each
    stake, averaged; alarm at M >= run_length.

    Parameters
    ----------
    mean : largest harmless mean: the reference mean plus the tolerated loss.
    low, high : bounds of the values; values outside are refused.
    run_length : least average number of values between false alarms, > 1.
    log_evidence : state, one a stake.

    >>> quiet = EDetector(mean=0.1, run_length=10_000).update([0, 0, 1, 0, 0, 0, 0, 0, 0, 0] * 200)
    >>> quiet.alarm_at, quiet.update([1, 0] * 50).alarm_at
    (None, 2017)
    """

    mean: float
    run_length: float
    low: float = 0.0
    high: float = 1.0
    n: int = 0
    alarm_at: int | None = None
    log_evidence: tuple[Bound, ...] = (-math.inf,) * len(_STAKES)

    def __post_init__(self) -> None:
        if not self.low < self.mean < self.high:
            raise ValueError(f"mean must lie strictly between the bounds {self.low} and {self.high}, got {self.mean}")
        if self.run_length <= 1:
            raise ValueError(f"run_length must be above 1, got {self.run_length}")
        read: tuple[float | None, ...] = self.log_evidence
        if None in read:
            msgspec.structs.force_setattr(self, "log_evidence", tuple(-math.inf if e is None else e for e in read))

    def update(self, values: ArrayLike) -> EDetector:
        """The state after `values`, shape (n,); `alarm_at` is the count of the value that raised the first alarm since
        `reset`."""
        x = finite(values, "values").ravel()
        if x.size == 0:
            return self
        if x.min() < self.low or x.max() > self.high:
            raise ValueError(f"values must lie in [{self.low}, {self.high}], got {x.min()} to {x.max()}")
        gain = np.log1p(np.outer((x - self.mean) / (self.mean - self.low), _STAKES))
        total = np.cumsum(gain, axis=0)
        before = np.vstack([np.asarray(self.log_evidence), -(total - gain)])
        evidence = np.logaddexp.accumulate(before, axis=0)[1:] + total
        top = evidence.max(axis=1)
        mixed = top + np.log(np.exp(evidence - top[:, None]).mean(axis=1))
        return msgspec.structs.replace(
            self,
            n=self.n + int(x.size),
            alarm_at=_first(self.alarm_at, mixed >= math.log(self.run_length), self.n),
            log_evidence=tuple(evidence[-1].tolist()),
        )

    def reset(self) -> EDetector:
        """The state to go on from after an alarm was dealt with; the count goes on."""
        return msgspec.structs.replace(self, alarm_at=None, log_evidence=(-math.inf,) * len(_STAKES))


def cusum_evidence(
    values: ArrayLike, mean: float, *, low: float = 0.0, high: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The logarithm of the evidence after each value that the mean has risen above `mean`, and where it began.

    The CUSUM e-detector M_t = max(1, M_{t-1}) L_t, averaged over stakes (Shin, Ramdas and Rinaldo 2022, sec. 2.3):
    never above the Shiryaev-Roberts one of `EDetector`, so alarms at M >= run_length come at least that many values
    apart on average; and unlike it, it falls back when the rise is over, so it says whether one goes on. It began
    where the leading stake was last without evidence. Both of shape (n,).

    >>> path, began = cusum_evidence([0.1] * 50 + [0.6] * 8 + [0.1] * 50, 0.2)
    >>> bool(path[49] < 0.1), bool(path[57] > math.log(30)), bool(path[-1] < math.log(30)), int(began[57])
    (True, True, True, 50)
    """
    x = finite(values, "values").ravel()
    if x.size and (x.min() < low or x.max() > high):
        raise ValueError(f"values must lie in [{low}, {high}], got {x.min()} to {x.max()}")
    gain = np.log1p(np.outer((x - mean) / (mean - low), _STAKES))
    path, began = np.empty(x.size), np.zeros(x.size, dtype=np.int64)
    held = np.zeros(len(_STAKES))
    start = np.zeros(len(_STAKES), dtype=np.int64)
    for place, step in enumerate(gain):
        start = np.where(held <= 0, place, start)
        held = np.maximum(held, 0.0) + step
        began[place] = start[int(held.argmax())]
        top = float(held.max())
        path[place] = top + math.log(float(np.exp(held - top).mean()))
    return path, began


class Cusum(msgspec.Struct, frozen=True, kw_only=True):
    """One-sided cumulative sum of standardised values: S = max(0, S + x - allowance), alarm at S > threshold (Page
    1954).

    Parameters
    ----------
    allowance : half of the shift to be found soonest, in standard deviations, > 0.
    threshold : from `cusum_threshold` for a run length.

    >>> Cusum(allowance=0.5, threshold=cusum_threshold(1000, 0.5)).update([0.0] * 9 + [2.0] * 9).alarm_at
    13
    """

    allowance: float
    threshold: float
    n: int = 0
    alarm_at: int | None = None
    total: float = 0.0

    def update(self, values: ArrayLike) -> Cusum:
        """The state after `values`, shape (n,), each (value - reference mean) / reference standard deviation."""
        x = finite(values, "values").ravel()
        if x.size == 0:
            return self
        path = self.total + np.cumsum(x - self.allowance)
        sums = path - np.minimum(np.minimum.accumulate(path), 0.0)
        return msgspec.structs.replace(
            self,
            n=self.n + int(x.size),
            alarm_at=_first(self.alarm_at, sums > self.threshold, self.n),
            total=float(sums[-1]),
        )

    def reset(self) -> Cusum:
        """The state to go on from after an alarm was dealt with; the count goes on."""
        return msgspec.structs.replace(self, alarm_at=None, total=0.0)


def cusum_run_length(threshold: float, allowance: float, shift: float = 0.0) -> float:
    """Average number of independent normal values before a one-sided CUSUM alarms, when their mean has moved by
    `shift`.

    Siegmund's (1985) approximation (exp(-2 d b) + 2 d b - 1) / (2 d^2), d = shift - allowance, b = threshold + 1.166;
    within a few per cent.

    >>> round(cusum_run_length(5.0, 0.5), 1), round(cusum_run_length(5.0, 0.5, shift=1.0), 1)
    (938.2, 10.3)
    """
    drift, reach = shift - allowance, threshold + 1.166
    if abs(drift) < 1e-9:
        return reach * reach
    return (math.exp(-2 * drift * reach) + 2 * drift * reach - 1) / (2 * drift * drift)


def cusum_threshold(run_length: float, allowance: float) -> float:
    """Threshold at which `cusum_run_length` without a shift is `run_length`.

    >>> round(cusum_threshold(938.2, 0.5), 3)
    5.0
    """
    if allowance <= 0 or run_length <= 1:
        raise ValueError(f"allowance must be > 0 and run_length > 1, got {allowance} and {run_length}")
    low, high = 0.0, 1.0
    while cusum_run_length(high, allowance) < run_length:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if cusum_run_length(middle, allowance) < run_length else (low, middle)
    return high


class PageHinkley(msgspec.Struct, frozen=True, kw_only=True):
    """Page-Hinkley test for a rise over the stream's own running mean (Page 1954; Gama et al. 2014, "A survey on
    concept drift adaptation").

    Each value adds x - (mean so far, itself included) - delta to a sum; alarm when the sum is more than `threshold`
    above its minimum, after `warm_up` values. It needs no reference, and states no run length: calibrate `threshold` on
    history.

    >>> PageHinkley(delta=0.1, threshold=5.0).update([0.0] * 50 + [1.0] * 50).alarm_at
    56
    """

    threshold: float
    delta: float = 0.005
    warm_up: int = 30
    n: int = 0
    since: int = 0
    alarm_at: int | None = None
    mean: float = 0.0
    total: float = 0.0
    least: float = 0.0

    def update(self, values: ArrayLike) -> PageHinkley:
        """The state after `values`, shape (n,)."""
        x = finite(values, "values").ravel()
        if x.size == 0:
            return self
        counts = self.since + np.arange(1, x.size + 1)
        means = (self.since * self.mean + np.cumsum(x)) / counts
        totals = self.total + np.cumsum(x - means - self.delta)
        least = np.minimum(np.minimum.accumulate(totals), self.least)
        return msgspec.structs.replace(
            self,
            n=self.n + int(x.size),
            since=int(counts[-1]),
            alarm_at=_first(self.alarm_at, (totals - least > self.threshold) & (counts >= self.warm_up), self.n),
            mean=float(means[-1]),
            total=float(totals[-1]),
            least=float(least[-1]),
        )

    def reset(self) -> PageHinkley:
        """The state to go on from after an alarm was dealt with: a new mean is learnt, the count goes on."""
        return msgspec.structs.replace(self, since=0, alarm_at=None, mean=0.0, total=0.0, least=0.0)


def _first(known: int | None, alarms: NDArray[np.bool_], n: int) -> int | None:
    if known is not None:
        return known
    places = np.flatnonzero(alarms)
    return n + int(places[0]) + 1 if places.size else None
