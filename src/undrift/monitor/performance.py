"""Performance on labelled rows against the loss the version was expected to have.

The loss of a window is compared with the reference loss of the version's gate, beyond a practical share of it. Days
differ (a storm makes every flight of a day hard), so both intervals come from sums per day, not from rows; the
reference was measured too, and a small hold-out may flatter. Days of known silent or feed incidents are left out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import isfinite
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.deploy.traffic import segment_columns
from undrift.finding import Finding, Interval, Verdict, Window
from undrift.monitor.evidence import Evidence, Expected, metric_of
from undrift.monitor.frames import inside
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found
from undrift.stats.calibration import step_up

__all__ = ["decay_under_fault", "judge_performance"]

FEWEST_ROWS: Final = 100
PARTS: Final = (2, 4)
"""Also the latest half and quarter of a window are looked at, in whole days, where these are days enough."""
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
    """The window that ends then; where its latest half or quarter is beyond the tolerated and the whole is not, that.

    A change is diluted by the days before it, and makes days of one window differ. The whole has half of the error
    rate, the parts the other half.
    """
    unsure = reference.error * (1 + monitor.size)
    parts = {timedelta(days=(monitor.span / part).days) for part in PARTS}
    parts = {part for part in parts if part >= timedelta(days=FEWEST_DAYS["performance"])}
    found: list[_At] = []
    for span in (monitor.span, *sorted(parts, reverse=True)):
        share = 1.0 if not parts else 0.5 if span == monitor.span else 0.5 / len(parts)
        window = Window(end - span, end)
        value, lower, n = _mean(series, which & inside(series[0], window.start, end), alpha * share, unsure)
        found.append(_At(window, value, lower, n))
    return next((each for each in found if each.beyond(monitor, reference)), found[0])


def _against(value: float, expected: float) -> str:
    if not expected:
        return f"expected {expected:.4g}"
    change = value / expected - 1
    return f"{abs(change):.0%} {'above' if change >= 0 else 'below'} the expected {expected:.4g}"


def _mean(
    series: tuple[NDArray[np.int64], Floats], which: NDArray[np.bool_], alpha: float, unsure: float
) -> tuple[float, float, int]:
    """Mean, one-sided lower bound by days (ratio of sums with Student's t), rows.

    What the bound is held against has the standard error ``unsure``, which is independent and adds in squares.
    """
    from scipy.special import stdtrit

    times, loss = series
    held = which & np.isfinite(loss)
    n = int(held.sum())
    days = np.unique(times[held] // DAY, return_inverse=True)[1]
    count = int(days.max(initial=-1)) + 1
    if count < FEWEST_DAYS["performance"] or n < FEWEST_ROWS:
        return float("nan"), float("nan"), n
    mean = float(loss[held].mean())
    # residual of each day's sum: the linearised ratio of sums, so that days of many rows count as such
    residual = np.bincount(days, weights=loss[held] - mean)
    se = float(np.hypot(np.sqrt(np.square(residual).sum() * count / (count - 1)) / n, unsure))
    return mean, mean - float(stdtrit(count - 1, 1 - alpha)) * se, n
