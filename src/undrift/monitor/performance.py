"""Performance on labelled rows against what the version was expected to have: a loss, or the area under the ROC curve.

A window is compared with the reference of the version's gate, beyond a practical share of it. Days differ (a storm
makes every flight of a day hard), so both intervals come from days, not from rows (days.py); the reference was measured
too, and a small hold-out may flatter. Days of known silent or feed incidents are left out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import isfinite
from typing import Final, NamedTuple

import numpy as np

from undrift.deploy.traffic import segment_columns
from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import from_micros
from undrift.monitor.days import DAY, FEWEST_BEFORE, FEWEST_ROWS, Losses, Ranks, Series, mean_of
from undrift.monitor.evidence import Bools, Evidence, Expected, metric_of
from undrift.monitor.monitors import FEWEST_DAYS, ROC_AUC, Monitor, found
from undrift.stats.calibration import step_up

__all__ = ["decay_under_fault", "judge_performance"]

PARTS: Final = (2, 4)
"""Also the latest half and quarter of a window are looked at, in whole days, where these are days enough."""
MATURE: Final = 0.5
"""Share of a day's rows whose labels must be there for it to be the last of such a part."""


def judge_performance(monitor: Monitor, evidence: Evidence) -> list[Finding]:
    """Judge the loss, or the ranking, of the version that is champion; pure.

    Parameters
    ----------
    evidence : of at least the monitor's window and the ticks its persistence looks back.
    """
    interface, expected = evidence.interface, evidence.expected
    metric = metric_of(monitor, interface)
    window = evidence.window(monitor)
    if metric not in expected:
        why = f"{metric}: {_unknown(metric, evidence)}"
        missing = "no reference" if metric == ROC_AUC else "no reference loss"
        return [found(monitor, Verdict.ERROR, why, name=metric, value=None, n=0, window=window, problem=missing)]
    groups = [_Group({}, _series(evidence, metric, evidence.mine), _Terms.of(monitor, metric, expected[metric]))]
    if monitor.by_segment:
        for name, (codes, names) in segment_columns(evidence.rows, interface).items():
            groups += [
                _Group(
                    {name: value},
                    _series(evidence, metric, evidence.mine & (codes == code)),
                    _Terms.of(monitor, metric, expected[f"{metric}[{name}={value}]"]),
                )
                for code, value in enumerate(names)
                if f"{metric}[{name}={value}]" in expected
            ]
    alpha = monitor.alpha(len(groups), evidence.ticks)

    def beyond(level: float) -> int:
        return sum(_at(monitor, group, level, evidence.now).beyond for group in groups)

    alpha = step_up(beyond, alpha, len(groups))
    return [_judge(monitor, group, alpha, evidence.tick, window) for group in groups]


def decay_under_fault(monitor: Monitor, evidence: Evidence, fault: Window) -> Finding | None:
    """What is judged inside the window of a fault, if it is beyond the practical size: not decay of the model, but
    damage.

    Reported with the fault, so that nobody retrains because of it; None where nothing is to be told.
    """
    metric = metric_of(monitor, evidence.interface)
    if metric not in evidence.expected:
        return None
    reference = evidence.expected[metric]
    terms = _Terms.of(monitor, metric, reference)
    days = _series(evidence, metric, np.ones(evidence.rows.num_rows, dtype=bool)).days(fault)
    n = int(days.labelled.sum())
    if n < FEWEST_ROWS or not days.weight.any() or not terms.known:
        return None
    value = float(days.sums.sum() / days.weight.sum())
    if not terms.worse(value):
        return None
    why = f"{metric} was {value:.4g} from {n} rows since, {_against(value, terms)}"
    return found(monitor, Verdict.INCONCLUSIVE, why, name=metric, value=value, n=n, window=fault, explained=True)


def _unknown(metric: str, evidence: Evidence) -> str:
    """Why there is nothing to compare with, and what to do."""
    if metric != ROC_AUC:
        return f"version {evidence.version} has no expected loss to be compared with"
    if evidence.interface.task != "binary":
        return f"means nothing for a {evidence.interface.task} model; name a loss"
    return (
        f"version {evidence.version} does not say what to expect within days: its bundle was written before that was "
        f"kept, or its held-out rows have no times or fewer than enough of a class; train or adopt it again on rows "
        f"with a time field, or watch log_loss"
    )


def _series(evidence: Evidence, metric: str, which: Bools) -> Series:
    if metric != ROC_AUC:
        return Losses(evidence.times[which], evidence.losses(metric)[which])
    score, positive = evidence.ranked
    return Ranks(evidence.times[which], score[which], positive[which])


class _Terms(NamedTuple):
    """What a value is held against: the reference, the value still tolerated, the standard error of that."""

    metric: str
    reference: Expected
    bound: float
    unsure: float

    @classmethod
    def of(cls, monitor: Monitor, metric: str, reference: Expected) -> _Terms:
        """A share more of a loss is tolerated; of a ranking a share less of what it has above 0.5, which is chance."""
        if metric == ROC_AUC:
            left = 1 - monitor.size
            return cls(metric, reference, 0.5 + (reference.value - 0.5) * left, reference.error * abs(left))
        more = 1 + monitor.size
        return cls(metric, reference, reference.value * more, reference.error * more)

    @property
    def known(self) -> bool:
        """Whether there is something to lose."""
        return self.metric != ROC_AUC or self.reference.value > 0.5

    def worse(self, value: float) -> bool:
        return value < self.bound if self.metric == ROC_AUC else value > self.bound


class _Group(NamedTuple):
    """All rows, or those of a segment, and what they are held against."""

    segment: dict[str, str]
    series: Series
    terms: _Terms


def _judge(monitor: Monitor, group: _Group, alpha: float, tick: timedelta, window: Window) -> Finding:
    """Beyond the practical size with confidence at k of the last n ticks."""
    terms, segment = group.terms, group.segment
    metric, reference, bound = terms.metric, terms.reference, terms.bound
    count, first = 0, None
    seen = _At(window, float("nan"), float("nan"), 0, False)
    for back in reversed(range(monitor.lasting.n)):
        end = window.end - back * tick
        seen = _at(monitor, group, alpha, end)
        if seen.beyond:
            count += 1
            first = first or end
    value, edge, n, window = seen.value, seen.edge, seen.n, seen.window
    if not np.isfinite(value):
        few = "or of one class, " if metric == ROC_AUC else ""
        why = f"{metric}: {n} labelled rows in {window}, {few}too few to say"
        return found(monitor, Verdict.INCONCLUSIVE, why, name=metric, value=0.0, n=n, window=window, segment=segment)
    if not isfinite(reference.error) or not terms.known:
        lacking = "was measured on too few rows to say" if terms.known else "is no better than chance: nothing to lose"
        why = f"{metric} is {value:.4g}, and what was to be expected {lacking}"
        return found(monitor, Verdict.INCONCLUSIVE, why, name=metric, value=value, n=n, window=window, segment=segment)
    bad = seen.beyond and count >= monitor.lasting.k
    sure = f"at {'most' if metric == ROC_AUC else 'least'} {edge:.4g}"
    why = f"{metric} is {value:.4g}, {_against(value, terms)} ({sure}; {n} rows, tolerated {bound:.4g})"
    interval = (float("-inf"), edge) if metric == ROC_AUC else (edge, float("inf"))
    return found(
        monitor,
        Verdict.FAIL if bad else Verdict.PASS,
        why,
        name=metric,
        value=value,
        n=n,
        window=window,
        segment=segment,
        interval=Interval(*interval, 1 - alpha),
        onset=first,
        cause=f"{metric} decayed" if bad else "",
        expected=reference.value,
        expected_error=reference.error,
        lingers=terms.worse(value),
    )


class _At(NamedTuple):
    """What the labelled rows of a window say: the value, the end of its interval on the good side, rows, whether even
    that is beyond what is tolerated.
    """

    window: Window
    value: float
    edge: float
    n: int
    beyond: bool


def _at(monitor: Monitor, group: _Group, alpha: float, end: datetime) -> _At:
    """The window that ends then; where a latest part of it is beyond the tolerated and the whole is not, that.

    A change is diluted by the days before it. Parts are the latest half and quarter, of a ranking the latest day too;
    they end with the last day most of whose labels are there. How days differ is taken from the whole window, each side
    about its own mean. The whole has half of the error rate, the parts the other half.
    """
    terms, span = group.terms, monitor.span
    window = Window(end - span, end)
    days = group.series.days(window)
    parts = {(span / part).days for part in PARTS}
    parts = {part for part in parts if part >= FEWEST_DAYS["performance"]}
    if terms.metric == ROC_AUC and span.days > FEWEST_BEFORE:
        parts.add(1)

    def seen(window: Window, of: tuple[float, float, int]) -> _At:
        value, reach, n = of
        edge = value + reach if terms.metric == ROC_AUC else value - reach
        return _At(window, value, edge, n, terms.known and terms.worse(edge))

    found = [seen(window, mean_of(days, 0, alpha * (0.5 if parts else 1.0), terms.unsure))]
    mature = days.day[(days.labelled > 0) & (days.labelled >= MATURE * days.rows)]
    for part in sorted(parts, reverse=True) if len(mature) else ():
        last = int(mature[-1]) + 1
        known = days.before(last)
        first = int(np.searchsorted(known.day, last - part))
        until = min(end, from_micros(last * DAY))
        of = mean_of(known, first, alpha * 0.5 / len(parts), terms.unsure)
        found.append(seen(Window(until - timedelta(days=part), until), of))
    return next((each for each in found if each.beyond), found[0])


def _against(value: float, terms: _Terms) -> str:
    expected = terms.reference.value
    if terms.metric == ROC_AUC:
        if expected <= 0.5:
            return f"expected {expected:.4g}"
        share = (value - 0.5) / (expected - 0.5)
        return f"{share:.0%} of what is expected above chance (expected {expected:.4g})"
    if not expected:
        return f"expected {expected:.4g}"
    change = value / expected - 1
    return f"{abs(change):.0%} {'above' if change >= 0 else 'below'} the expected {expected:.4g}"
