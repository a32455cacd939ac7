"""Performance on labelled rows against the loss the version was expected to have.

The loss of a window is compared with the reference loss of the version's gate, beyond a practical share of it. Days
differ (a storm makes every flight of a day hard), so both intervals come from sums per day, not from rows; the
reference was measured too, and a small hold-out may flatter. Days of known silent or feed incidents are left out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import isfinite
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.deploy.traffic import segment_columns
from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import from_micros
from undrift.monitor.evidence import Evidence, Expected, metric_of
from undrift.monitor.frames import inside
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found
from undrift.stats.calibration import step_up

__all__ = ["decay_under_fault", "judge_performance"]

FEWEST_ROWS: Final = 100
PARTS: Final = (2, 4)
"""Also the latest half and quarter of a window are looked at, in whole days, where these are days enough."""
MATURE: Final = 0.5
"""Share of a day's rows whose labels must be there for it to be the last of such a part."""
DAY: Final = 86_400_000_000

Floats = NDArray[np.float64]


def judge_performance(monitor: Monitor, evidence: Evidence) -> list[Finding]:
    """Judge the loss of the version that is champion; pure.

    Parameters
    ----------
    evidence : of at least the monitor's window and the ticks its persistence looks back.
    """
    interface, expected, now = evidence.interface, evidence.expected, evidence.now
    metric = metric_of(monitor, interface)
    window = evidence.window(monitor)
    if metric not in expected:
        why = f"{metric}: version {evidence.version} has no expected loss to be compared with"
        return [
            found(monitor, Verdict.ERROR, why, name=metric, value=None, n=0, window=window, problem="no reference loss")
        ]
    times, mine, loss = evidence.times, evidence.mine, evidence.losses(metric)
    groups: list[tuple[dict[str, str], NDArray[np.bool_], Expected]] = [({}, mine, expected[metric])]
    if monitor.by_segment:
        for name, (codes, names) in segment_columns(evidence.rows, interface).items():
            groups += [
                ({name: value}, mine & (codes == code), expected[f"{metric}[{name}={value}]"])
                for code, value in enumerate(names)
                if f"{metric}[{name}={value}]" in expected
            ]
    alpha = monitor.alpha(len(groups), evidence.ticks)

    def beyond(level: float) -> int:
        return sum(
            _at(monitor, (times, loss), which, reference, level, now).beyond(monitor, reference)
            for _, which, reference in groups
        )

    alpha = step_up(beyond, alpha, len(groups))
    return [
        _judge(monitor, metric, (times, loss), which, reference, (alpha, segment, evidence.tick), window)
        for segment, which, reference in groups
    ]


def decay_under_fault(monitor: Monitor, evidence: Evidence, fault: Window) -> Finding | None:
    """The loss inside the window of a fault, if it is beyond the practical size: not decay of the model, but damage.

    Reported with the fault, so that nobody retrains because of it; None where nothing is to be told.
    """
    metric = metric_of(monitor, evidence.interface)
    loss = evidence.losses(metric)
    held = evidence.within(fault) & np.isfinite(loss)
    n = int(held.sum())
    if n < FEWEST_ROWS or metric not in evidence.expected:
        return None
    value, usual = float(loss[held].mean()), evidence.expected[metric].value
    if value <= usual * (1 + monitor.size):
        return None
    why = f"{metric} was {value:.4g} from {n} rows since, {value / usual - 1:.0%} above the expected"
    return found(monitor, Verdict.INCONCLUSIVE, why, name=metric, value=value, n=n, window=fault, explained=True)


def _judge(
    monitor: Monitor,
    metric: str,
    series: tuple[NDArray[np.int64], Floats],
    which: NDArray[np.bool_],
    reference: Expected,
    terms: tuple[float, dict[str, str], timedelta],
    window: Window,
) -> Finding:
    """Beyond the practical size with confidence at k of the last n ticks."""
    alpha, segment, tick = terms
    bound = reference.value * (1 + monitor.size)
    count, first = 0, None
    seen = _At(window, float("nan"), float("nan"), 0)
    for back in reversed(range(monitor.lasting.n)):
        end = window.end - back * tick
        seen = _at(monitor, series, which, reference, alpha, end)
        if seen.beyond(monitor, reference):
            count += 1
            first = first or end
    value, lower, n, window = seen.value, seen.lower, seen.n, seen.window
    if not np.isfinite(value):
        why = f"{metric}: {n} labelled rows in {window}, too few to say"
        return found(monitor, Verdict.INCONCLUSIVE, why, name=metric, value=0.0, n=n, window=window, segment=segment)
    if not isfinite(reference.error):
        why = f"{metric} is {value:.4g}, and what was to be expected was measured on too few rows to say"
        return found(monitor, Verdict.INCONCLUSIVE, why, name=metric, value=value, n=n, window=window, segment=segment)
    bad = lower > bound and count >= monitor.lasting.k
    size = _against(value, reference.value)
    why = f"{metric} is {value:.4g}, {size} (at least {lower:.4g}; {n} rows, tolerated {bound:.4g})"
    return found(
        monitor,
        Verdict.FAIL if bad else Verdict.PASS,
        why,
        name=metric,
        value=value,
        n=n,
        window=window,
        segment=segment,
        interval=Interval(lower, float("inf"), 1 - alpha),
        onset=first,
        cause=f"{metric} decayed" if bad else "",
        expected=reference.value,
        expected_error=reference.error,
        lingers=bool(value > bound),
    )


class _At(NamedTuple):
    """What the labelled rows of a window say: mean loss, its lower bound, rows."""

    window: Window
    value: float
    lower: float
    n: int

    def beyond(self, monitor: Monitor, reference: Expected) -> bool:
        return self.lower > reference.value * (1 + monitor.size)


def _at(
    monitor: Monitor,
    series: tuple[NDArray[np.int64], Floats],
    which: NDArray[np.bool_],
    reference: Expected,
    alpha: float,
    end: datetime,
) -> _At:
    """The window that ends then; where the latest half or quarter of it is beyond the tolerated and the whole is not,
    that.

    A change is diluted by the days before it. Parts end with the last day most of whose labels are there; how days
    differ is taken from the whole window, each side about its own mean. The whole has half of the error rate, the parts
    the other half.
    """
    unsure = reference.error * (1 + monitor.size)
    window = Window(end - monitor.span, end)
    days = _by_day(series, which & inside(series[0], window.start, end))
    parts = {(monitor.span / part).days for part in PARTS}
    parts = {part for part in parts if part >= FEWEST_DAYS["performance"]}
    found = [_At(window, *_mean(days, 0, alpha * (0.5 if parts else 1.0), unsure))]
    mature = days.day[(days.labelled > 0) & (days.labelled >= MATURE * days.rows)]
    for part in sorted(parts, reverse=True) if len(mature) else ():
        last = int(mature[-1]) + 1
        before = days.day < last
        known = _Days(days.day[before], days.rows[before], days.labelled[before], days.sums[before])
        seen = _mean(known, int(np.searchsorted(known.day, last - part)), alpha * 0.5 / len(parts), unsure)
        until = min(end, from_micros(last * DAY))
        found.append(_At(Window(until - timedelta(days=part), until), *seen))
    return next((each for each in found if each.beyond(monitor, reference)), found[0])


def _against(value: float, expected: float) -> str:
    if not expected:
        return f"expected {expected:.4g}"
    change = value / expected - 1
    return f"{abs(change):.0%} {'above' if change >= 0 else 'below'} the expected {expected:.4g}"


class _Days(NamedTuple):
    """Days with rows, ascending: rows, those with a label, the sum of their losses."""

    day: NDArray[np.int64]
    rows: Floats
    labelled: Floats
    sums: Floats


def _by_day(series: tuple[NDArray[np.int64], Floats], held: NDArray[np.bool_]) -> _Days:
    times, loss = series[0][held], series[1][held]
    day, place = np.unique(times // DAY, return_inverse=True)
    known = np.isfinite(loss)

    def total(of: NDArray[Any]) -> Floats:
        return np.bincount(place, weights=of, minlength=len(day)).astype(np.float64)

    return _Days(day, total(np.ones(len(loss))), total(known), total(np.where(known, loss, 0.0)))


def _mean(days: _Days, first: int, alpha: float, unsure: float) -> tuple[float, float, int]:
    """Mean of the days from the ``first`` on, one-sided lower bound by days (ratio of sums with Student's t), rows.

    What the bound is held against has the standard error ``unsure``, which is independent and adds in squares.
    """
    from scipy.special import stdtrit

    labelled, sums = (each[days.labelled > 0] for each in (days.labelled, days.sums))
    first = int(np.count_nonzero(days.labelled[:first]))
    rows, count = labelled[first:], len(labelled) - first
    n = int(rows.sum())
    if count < FEWEST_DAYS["performance"] or n < FEWEST_ROWS:
        return float("nan"), float("nan"), n
    mean = float(sums[first:].sum() / n)
    # residual of each day's sum: the linearised ratio of sums, so that days of many rows count as such
    residual = sums[first:] - rows * mean
    variance, freedom = float(np.square(residual).sum() * count / (count - 1)) / n**2, count - 1
    if first > 1:  # few days show badly how days differ: those before tell too, about a mean of their own
        before = sums[:first] - labelled[:first] * (sums[:first].sum() / labelled[:first].sum())
        squares = np.square(np.concatenate([before, residual])) / labelled
        freedom = len(labelled) - 2
        spread = float(squares.sum() / labelled.sum() * len(labelled) / freedom)
        variance = max(variance, spread * float(np.square(rows).sum()) / n**2)
    se = float(np.hypot(np.sqrt(variance), unsure))
    return mean, mean - float(stdtrit(freedom, 1 - alpha)) * se, n
