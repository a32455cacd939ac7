"""Performance on labelled rows against the loss the version was expected to have.

The loss of a window is compared with the reference loss of the version's gate, beyond a practical share of it. Days
differ (a storm makes every flight of a day hard), so the interval comes from sums per day, not from rows. Days of known
silent or feed incidents are left out: what they show is the fault, not decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from undrift.deploy.evidence import segment_columns, values_of
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Interval, Verdict, Window
from undrift.monitor.frames import inside, micros, outside
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["decay_under_fault", "judge_performance", "metric_of"]

FEWEST_ROWS: Final = 100
DAY: Final = 86_400_000_000

Floats = NDArray[np.float64]


def metric_of(monitor: Monitor, interface: Interface) -> str:
    """The loss a monitor watches."""
    return monitor.metric or ("absolute_error" if interface.task == "regression" else "log_loss")


def judge_performance(
    monitor: Monitor,
    interface: Interface,
    rows: pa.Table,
    version: int,
    expected: Mapping[str, float],
    now: datetime,
    *,
    tick: timedelta = timedelta(days=1),
    spoiled: tuple[Window, ...] = (),
) -> list[Finding]:
    """Judge the loss of the version that is champion; pure.

    Parameters
    ----------
    rows : predictions with outcomes of at least the monitor's window and the ticks its persistence looks back.
    expected : the reference loss per metric name, and per segment as ``metric[carrier=UA]`` where there is one.
    spoiled : windows whose data are not to be trusted.
    """
    metric = metric_of(monitor, interface)
    window = Window(now - monitor.span, now)
    if metric not in expected:
        why = f"{metric}: version {version} has no expected loss to be compared with"
        return [
            found(monitor, Verdict.ERROR, why, name=metric, value=None, n=0, window=window, problem="no reference loss")
        ]
    times = micros(rows, "event_time")
    mine = (rows["version"].to_numpy() == version) & outside(times, spoiled)
    loss = values_of(rows, interface, [metric])[metric]
    groups: list[tuple[dict[str, str], NDArray[np.bool_], float]] = [({}, mine, expected[metric])]
    if monitor.by_segment:
        for name, (codes, names) in segment_columns(rows, interface).items():
            groups += [
                ({name: value}, mine & (codes == code), expected.get(f"{metric}[{name}={value}]", expected[metric]))
                for code, value in enumerate(names)
                if f"{metric}[{name}={value}]" in expected
            ]
    alpha = monitor.alpha(len(groups), max(1, int(timedelta(days=30) / tick)))
    return [
        _judge(monitor, metric, (times, loss), which, reference, (alpha, segment, tick), window)
        for segment, which, reference in groups
    ]


def decay_under_fault(
    monitor: Monitor,
    interface: Interface,
    rows: pa.Table,
    expected: Mapping[str, float],
    fault: Window,
) -> Finding | None:
    """The loss inside the window of a fault, if it is beyond the practical size: not decay of the model, but damage.

    Reported with the fault, so that nobody retrains because of it; None where nothing is to be told.
    """
    metric = metric_of(monitor, interface)
    times = micros(rows, "event_time")
    loss = values_of(rows, interface, [metric])[metric]
    held = inside(times, fault.start, fault.end) & np.isfinite(loss)
    n = int(held.sum())
    if n < FEWEST_ROWS or metric not in expected:
        return None
    value = float(loss[held].mean())
    if value <= expected[metric] * (1 + monitor.size):
        return None
    why = f"{metric} was {value:.4g} from {n} rows since, {value / expected[metric] - 1:.0%} above the expected"
    return found(monitor, Verdict.INCONCLUSIVE, why, name=metric, value=value, n=n, window=fault, explained=True)


def _judge(
    monitor: Monitor,
    metric: str,
    series: tuple[NDArray[np.int64], Floats],
    which: NDArray[np.bool_],
    reference: float,
    terms: tuple[float, dict[str, str], timedelta],
    window: Window,
) -> Finding:
    """Beyond the practical size with confidence at k of the last n ticks."""
    alpha, segment, tick = terms
    bound = reference * (1 + monitor.size)
    beyond, first = 0, None
    value, lower, n = float("nan"), float("nan"), 0
    for back in reversed(range(monitor.lasting.n)):
        end = window.end - back * tick
        value, lower, n = _mean(series, which & inside(series[0], end - monitor.span, end), alpha)
        if lower > bound:
            beyond += 1
            first = first or end
    if not np.isfinite(value):
        why = f"{metric}: {n} labelled rows in {window}, too few to say"
        return found(monitor, Verdict.INCONCLUSIVE, why, name=metric, value=0.0, n=n, window=window, segment=segment)
    bad = lower > bound and beyond >= monitor.lasting.k
    change = value / reference - 1
    size = f"{abs(change):.0%} {'above' if change >= 0 else 'below'} the expected {reference:.4g}"
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
        expected=reference,
        lingers=bool(value > bound),
    )


def _mean(series: tuple[NDArray[np.int64], Floats], which: NDArray[np.bool_], alpha: float) -> tuple[float, float, int]:
    """Mean, one-sided lower bound by days (ratio of sums with Student's t), rows."""
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
    se = float(np.sqrt(np.square(residual).sum() * count / (count - 1)) / n)
    return mean, mean - float(stdtrit(count - 1, 1 - alpha)) * se, n
