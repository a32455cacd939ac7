"""Drift of inputs, features, scores and labels against the reference profile of the version that serves.

A column drifts when its distance is beyond the practical size with confidence, and stays so. Rows of one day share
their weather, and days are like their neighbours, so a window holds fewer independent rows than it has. How much its
shares vary by themselves is known from weeks of kept profiles (noise.py), else from the days of the window alone (the
design effect, Kish 1965); without that, everything would drift once n is large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.data.difference import between
from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.cells import Reference, Slots, slots_of
from undrift.monitor.frames import columns_of, inside, micros, outside
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found
from undrift.monitor.noise import Noise, by_day, noises, shares_of
from undrift.stats.calibration import step_up
from undrift.stats.distance import Distance

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["judge_drift"]

FEWEST_ROWS: Final = 100
DAY: Final = 86_400_000_000

Bools = NDArray[np.bool_]

Floats = NDArray[np.float64]


def judge_drift(
    monitor: Monitor,
    rows: pa.Table,
    reference: Mapping[str, Reference],
    now: Any,
    *,
    tick: timedelta = timedelta(days=1),
    spoiled: tuple[Window, ...] = (),
    answers_spoiled: tuple[Window, ...] = (),
    version: int | None = None,
    history: Mapping[str, Slots] | None = None,
) -> list[Finding]:
    """Judge the columns of the last window; pure.

    Parameters
    ----------
    rows : captured predictions (with outcomes where ``label`` is watched) of at least the window and the ticks the
        persistence looks back.
    reference : by column name, from the bundle of the champion.
    spoiled : windows of faults of feeds, left out.
    answers_spoiled : windows of silent failures, left out of ``score``; inputs are sound in them.
    version : if given, scores are those of this version only.
    history : what the kept profiles of earlier ticks hold of a column, the window included. A column
        that is in it is judged by it, and by how its days differed for weeks; others by their rows. With
        ``by_segment``, also what is kept as ``distance[carrier=UA]``, against its own past.
    """
    window = Window(now - monitor.span, now)
    named = columns_of(rows)
    kept = {name: _sound(slots, spoiled, answers_spoiled, name, tick) for name, slots in (history or {}).items()}
    watched = [
        c
        for c in sorted(reference)
        if (c in named or c in kept) and (monitor.watches(c) if monitor.columns else c != "label")
    ]
    held_against = dict(reference)
    if monitor.by_segment:
        for key, slots in sorted(kept.items()):
            base, part, _ = key.partition("[")
            if part and base in watched and (own := _own_past(reference[base], slots, window)) is not None:
                held_against[key] = own
                watched.append(key)
    alpha = monitor.alpha(len(watched), max(1, int(timedelta(days=30) / tick)))
    times = sound = mine = None
    series: dict[str, Slots] = {}
    for name in watched:
        if name in kept:
            series[name] = kept[name]
            continue
        if times is None or sound is None or mine is None:
            times = micros(rows, "event_time")
            sound = outside(times, spoiled) & inside(times, window.start - monitor.lasting.n * tick, now)
            mine = rows["version"].to_numpy() == version if version is not None else np.ones(rows.num_rows, dtype=bool)
        which = sound & mine & outside(times, answers_spoiled) if name == "score" else sound
        series[name] = slots_of(reference[name], named[name], times, which, now)
    usual = noises(series, held_against, window)
    seen = {
        name: _evidence(monitor, held_against[name], _rows_of(monitor, series[name], window.end), usual.get(name))
        for name in watched
    }
    candidates = list(watched)

    def beyond(level: float) -> int:
        """How many are beyond; levels come from the gentlest on: what is not beyond one is not beyond a stricter."""
        candidates[:] = [name for name in candidates if (e := seen[name]) is not None and e.lower(level) > monitor.size]
        return len(candidates)

    alpha = step_up(beyond, alpha, len(watched))
    return [
        _judge(monitor, (name, seen[name]), held_against[name], series[name], usual.get(name), (alpha, tick), window)
        for name in watched
    ]


def _sound(
    slots: Slots, spoiled: tuple[Window, ...], answers_spoiled: tuple[Window, ...], name: str, tick: timedelta
) -> Slots:
    """The slots that no fault overlaps."""
    faults = (*spoiled, *answers_spoiled) if name.partition("[")[0] == "score" else spoiled
    if not faults:
        return slots
    held = outside(slots.at, [Window(fault.start - tick, fault.end) for fault in faults])
    return Slots(slots.at[held], slots.cells[held])


def _own_past(reference: Reference, slots: Slots, window: Window) -> Reference | None:
    """What a series was before the window, on the cells of its column: segments have no reference in the bundle."""
    counts = slots.cells[slots.at < to_micros(window.start)].sum(axis=0)
    if counts.sum() < FEWEST_ROWS:
        return None
    return msgspec.structs.replace(reference, counts=tuple(counts.tolist()))


def _judge(
    monitor: Monitor,
    named: tuple[str, _Evidence | None],
    reference: Reference,
    slots: Slots,
    usual: Noise | None,
    terms: tuple[float, timedelta],
    window: Window,
) -> Finding:
    """Beyond the practical size with confidence at k of the last n ticks."""
    (name, seen), (alpha, tick) = named, terms
    cells = _rows_of(monitor, slots, window.end)[2]

    def beyond(end: datetime) -> bool:
        then = _evidence(monitor, reference, _rows_of(monitor, slots, end), usual)
        return then is not None and then.lower(alpha) > monitor.size

    lower = seen.lower(alpha) if seen is not None else 0.0
    first, bad = None, False
    if seen is not None and lower > monitor.size:
        # an alarm is about the window that has just ended: earlier ones matter only if it is beyond
        before = [end for back in range(1, monitor.lasting.n) if beyond(end := window.end - back * tick)]
        bad = 1 + len(before) >= monitor.lasting.k
        first = min([window.end, *before])
    n = int(cells.sum())
    base, _, where = name.partition("[")
    segment = dict([where.rstrip("]").split("=", 1)]) if where else {}
    if seen is None:
        why = f"{name}: {n} values in {window}, too few to say"
        return found(
            monitor,
            Verdict.INCONCLUSIVE,
            why,
            name="drift",
            value=0.0,
            n=n,
            window=window,
            column=base,
            segment=segment,
        )
    why = (
        f"{name}: {_words(monitor, reference)} is {seen.value:.3f} (at least {max(lower, 0.0):.3f}; tolerated "
        f"{monitor.size:g}; {window}, {_moved(reference, cells)})"
    )
    return found(
        monitor,
        Verdict.FAIL if bad else Verdict.PASS,
        why,
        name="drift",
        value=seen.value,
        n=n,
        window=window,
        column=base,
        interval=Interval(lower, seen.upper(alpha), 1 - alpha),
        segment=segment,
        onset=first,
        cause=f"{name} drifted" if bad else "",
        design_effect=round(seen.effect, 2),
        lingers=bool(seen.value > monitor.size),
        beyond=bool(lower > monitor.size),
    )


def _rows_of(monitor: Monitor, slots: Slots, end: datetime) -> tuple[NDArray[np.int64], Floats, Floats]:
    """The window that ends then: the day of each slot, its counts, and all of them together."""
    first, last = np.searchsorted(slots.at, [to_micros(end - monitor.span), to_micros(end)])
    table = slots.cells[first:last]
    return (slots.at[first:last] - to_micros(end)) // DAY, table, table.sum(axis=0)


def _words(monitor: Monitor, reference: Reference) -> str:
    if monitor.distance and (reference.edges or monitor.distance not in ("kolmogorov_smirnov", "wasserstein")):
        return monitor.distance.replace("_", " ")
    return "largest gap of distribution functions" if reference.edges else "share that moved"


class _Evidence(Protocol):
    """How far a window is from the reference, bounded at any error rate (of each side)."""

    @property
    def value(self) -> float: ...
    @property
    def effect(self) -> float: ...
    def lower(self, alpha: float) -> float: ...
    def upper(self, alpha: float) -> float: ...


def _evidence(
    monitor: Monitor, reference: Reference, seen: tuple[NDArray[np.int64], Floats, Floats], usual: Noise | None
) -> _Evidence | None:
    """What a window says; None if it holds too little."""
    days, table, counts = seen
    count = int(np.count_nonzero(np.diff(days))) + 1 if days.size else 0  # slots without rows are not kept
    if counts.sum() < FEWEST_ROWS or count < FEWEST_DAYS["drift"] or reference.n < FEWEST_ROWS:
        return None
    effect, behind = 1.0, count
    if usual is not None:
        share = shares_of(reference, counts) / counts.sum()
        by_chance = float((share * (1 - share)).sum()) / float(counts.sum())
        effect, behind = (1 + float(usual.variance.sum()) / by_chance if by_chance > 0 else 1.0), int(usual.days)
    else:
        effect = _design_effect(by_day(days, table))
    measure = monitor.distance or ("kolmogorov_smirnov" if reference.edges else "total_variation")
    if not reference.edges and measure in ("kolmogorov_smirnov", "wasserstein"):
        measure = "total_variation"
    plain = _OfCells(np.asarray(reference.counts), counts, measure, effect, behind)
    if usual is None or measure not in ("kolmogorov_smirnov", "total_variation"):
        return plain
    n, m = reference.n, float(counts.sum())
    before, now = (shares_of(reference, c) for c in (plain.before, counts))
    shares = np.stack([(now + 1) / (m + 2), before / n])  # a share of none has an error too (Agresti and Caffo 2000)
    # that of the wider of both shares: a normal law is too narrow towards the tails of few rows
    chance = (shares * (1 - shares)).max(axis=0)
    error = np.sqrt(usual.variance * (1 + m / n) + chance * (1 / m + 1 / n))
    return _OfShares(np.abs(now / m - before / n), error, usual, None if reference.edges else plain, effect)


@dataclass(frozen=True)
class _OfCells:
    """A distance of two counts, of which ``effect`` rows count as one, known from so few days."""

    before: Floats
    now: Floats
    measure: str
    effect: float
    days: int

    @cached_property
    def value(self) -> float:
        return between(self.before, self.now, self.measure, design_effect=self.effect).value

    def lower(self, alpha: float) -> float:
        return self._at(alpha).lower

    def upper(self, alpha: float) -> float:
        return self._at(alpha).upper

    def _at(self, alpha: float, raised_at: float = 0.0) -> Distance:
        raised = self.effect * _few_days(self.days, raised_at or alpha)
        # one side of a two-sided interval
        return between(self.before, self.now, self.measure, level=1 - 2 * alpha, design_effect=raised)


@dataclass(frozen=True)
class _OfShares:
    """A distance that is at least the gap of any one share, where the noise of each share is known.

    Kolmogorov-Smirnov is the largest gap of the shares below the cuts, total variation at least that of any category.
    All are looked at together (Bonferroni, for as many as they count for); each with its own standard error, so that a
    tail or a rare category, which varies little, is seen to move long before the middle is. Many categories that move a
    little have a second bound, that of their cells.
    """

    gap: Floats
    error: Floats
    usual: Noise
    cells: _OfCells | None
    effect: float

    @cached_property
    def value(self) -> float:
        return float(self.gap.max()) if self.cells is None else float(self.gap.sum() / 2)

    def lower(self, alpha: float) -> float:
        lower = float((self.gap - self._reach(alpha)).max())
        if self.cells is not None:
            lower = max(lower, self.cells._at(alpha / 2, alpha).lower)
        return min(max(0.0, lower), self.value)

    def upper(self, alpha: float) -> float:
        reach = self._reach(alpha)
        return min(1.0, self.value + float(reach.max() if self.cells is None else reach.sum() / 2))

    def _reach(self, alpha: float) -> Floats:
        from scipy.special import stdtrit

        tests = (2 if self.cells is None else 4) * self.usual.looks  # both sides, and the second bound
        return float(stdtrit(int(self.usual.days) - 1, 1 - alpha / tests)) * self.error


def _design_effect(table: Floats) -> float:
    """How many rows count as one: variance of days' shares against that of independent rows, at least 1."""
    rows = table.sum(axis=1)
    n, days = rows.sum(), len(rows)
    share = table.sum(axis=0) / n
    residual = table - rows[:, None] * share
    between_days = float(np.square(residual).sum()) * days / (days - 1)
    within = float((share * (1 - share)).sum()) * n
    return max(1.0, between_days / within) if within > 0 else 1.0


def _few_days(days: int, alpha: float) -> float:
    """What the design effect is raised by because so few days show it: Student's quantile for the normal one."""
    from scipy.special import ndtri, stdtrit

    return float(max(1.0, stdtrit(days - 1, 1 - alpha) / ndtri(1 - alpha)) ** 2)


def _moved(reference: Reference, now: Floats) -> str:
    """In words: which category moved most, or where the middle of the numbers lies now."""
    before = np.asarray(reference.counts)
    if not now.sum() or not before.sum():
        return "nothing to compare"
    p, q = before / before.sum(), now / now.sum()
    if not reference.edges:
        top = int(np.abs(q - p).argmax())
        label = reference.labels[top] if top < len(reference.labels) else "other values"
        return f"{label}: {p[top]:.1%} before, {q[top]:.1%} now"
    cut = min(int(np.searchsorted(np.cumsum(q), 0.5)), len(reference.edges) - 1)
    old = min(int(np.searchsorted(np.cumsum(p), 0.5)), len(reference.edges) - 1)
    return f"median near {reference.edges[old]:.4g} before, {reference.edges[cut]:.4g} now"
