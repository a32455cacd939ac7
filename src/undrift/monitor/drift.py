"""Drift of inputs, features, scores and labels against the reference profile of the version that serves.

A column drifts when its distance is beyond the practical size with confidence, and stays so. Rows of one day share
their weather, and days are like their neighbours, so a window holds fewer independent rows than it has: counts are
divided by the design effect that days and weeks show (Kish 1965), else everything would drift once n is large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.data.difference import between
from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.cells import Reference, Slots, slots_of
from undrift.monitor.frames import columns_of, inside, micros, outside
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found
from undrift.stats.calibration import step_up
from undrift.stats.distance import Distance

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CALIBRATION", "Effect", "judge_drift", "usual_effect"]

FEWEST_ROWS: Final = 100
DAY: Final = 86_400_000_000
CALIBRATION: Final = 28
"""Days before a window from which how they differ is known well enough."""

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
        if (c in named or c in kept) and (c in monitor.columns if monitor.columns else c != "label")
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
    usual = {name: usual_effect(slots, window) for name, slots in series.items()}
    lasting = _lasting([effect for effect in usual.values() if effect is not None])

    def beyond(level: float) -> int:
        seen = (
            _at(monitor, held_against[name], series[name], window.end, level, usual[name], lasting)[0]
            for name in watched
        )
        return sum(distance is not None and distance.lower > monitor.size for distance in seen)

    alpha = step_up(beyond, alpha, len(watched))
    return [
        _judge(monitor, name, held_against[name], series[name], usual[name], (alpha, tick, lasting), window)
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


class Effect(NamedTuple):
    """How many rows count as one, seen in weeks before the window: by days, by whole windows, and days behind it."""

    days: float
    windows: float
    n: int


def usual_effect(slots: Slots, window: Window) -> Effect | None:
    """The design effect of days and of windows before this one; None before there are `CALIBRATION` days.

    From differences of neighbours (von Neumann 1941), so that a slow drift does not hide in it. Windows hold what days
    do not show: days that are alike their neighbours (autocorrelation), or that cancel out (a weekly rhythm).
    """
    start, span = to_micros(window.start), to_micros(window.end) - to_micros(window.start)
    held = slots.at < start
    days = _grouped((slots.at[held] - start) // DAY, slots.cells[held])
    if len(days) < CALIBRATION or len(days) * DAY < 3 * span:
        return None
    length = max(1, span // DAY)
    reached = np.vstack([np.zeros(days.shape[1]), np.cumsum(days, axis=0)])
    return Effect(_neighbours(days, 1), _neighbours(reached[length:] - reached[:-length], length), len(days))


def _neighbours(table: Floats, apart: int) -> float:
    """Variance of shares by differences of rows so far apart, against that of independent rows."""
    rows = table.sum(axis=1)
    shares = table / np.where(rows > 0, rows, 1.0)[:, None]
    held = (rows[apart:] > 0) & (rows[:-apart] > 0)
    if not held.any():
        return 1.0
    gaps = np.square(shares[apart:] - shares[:-apart]).sum(axis=1)[held]
    whole = table.sum(axis=0) / rows.sum()
    expected = float((whole * (1 - whole)).sum()) * (1 / rows[apart:][held] + 1 / rows[:-apart][held])
    return float(gaps.sum() / expected.sum()) if expected.sum() > 0 else 1.0


def _lasting(effects: Sequence[Effect]) -> float:
    """What windows add to days, pooled over columns: the nine-tenths quantile, for a single column knows it badly."""
    if not effects:
        return 1.0
    return float(np.quantile([e.windows / max(e.days, 1e-9) for e in effects], 0.9))


def _judge(
    monitor: Monitor,
    name: str,
    reference: Reference,
    slots: Slots,
    usual: Effect | None,
    terms: tuple[float, timedelta, float],
    window: Window,
) -> Finding:
    """Beyond the practical size with confidence at k of the last n ticks."""
    alpha, tick, lasting = terms
    seen: Distance | None = None
    beyond, first, effect = 0, None, 1.0
    cells = np.zeros(reference.size)
    for back in reversed(range(monitor.lasting.n)):
        end = window.end - back * tick
        seen, effect, cells = _at(monitor, reference, slots, end, alpha, usual, lasting)
        if seen is not None and seen.lower > monitor.size:
            beyond += 1
            first = first or end
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
    bad = seen.lower > monitor.size and beyond >= monitor.lasting.k
    why = (
        f"{name}: {_words(monitor, reference)} is {seen.value:.3f} (at least {max(seen.lower, 0.0):.3f}; tolerated "
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
        interval=Interval(seen.lower, seen.upper, 1 - alpha),
        segment=segment,
        onset=first,
        cause=f"{name} drifted" if bad else "",
        design_effect=round(effect, 2),
        lingers=bool(seen.value > monitor.size),
    )


def _at(
    monitor: Monitor,
    reference: Reference,
    slots: Slots,
    end: datetime,
    alpha: float,
    usual: Effect | None,
    lasting: float,
) -> tuple[Distance | None, float, Floats]:
    """The distance of the window that ends then, the design effect of its counts, and the counts."""
    held = inside(slots.at, end - monitor.span, end)
    table = slots.cells[held]
    cells = table.sum(axis=0)
    days = (slots.at[held] - to_micros(end)) // DAY
    return *_distance(monitor, reference, (days, table, cells), alpha, usual, lasting), cells


def _words(monitor: Monitor, reference: Reference) -> str:
    if monitor.distance and (reference.edges or monitor.distance not in ("kolmogorov_smirnov", "wasserstein")):
        return monitor.distance.replace("_", " ")
    return "largest gap of distribution functions" if reference.edges else "share that moved"


def _distance(
    monitor: Monitor,
    reference: Reference,
    seen: tuple[NDArray[np.int64], Floats, Floats],
    alpha: float,
    usual: Effect | None,
    lasting: float,
) -> tuple[Distance | None, float]:
    """The distance of a window from the reference, counts divided by the design effect of days."""
    days, table, counts = seen
    count = np.unique(days).size  # slots without rows are not kept
    if counts.sum() < FEWEST_ROWS or count < FEWEST_DAYS["drift"] or reference.n < FEWEST_ROWS:
        return None, 1.0
    if usual is not None:
        effect = max(1.0, usual.days * lasting) * _few_days(usual.n, alpha)
    else:
        effect = _design_effect(_grouped(days, table)) * _few_days(count, alpha)
    measure = monitor.distance or ("kolmogorov_smirnov" if reference.edges else "total_variation")
    if not reference.edges and measure in ("kolmogorov_smirnov", "wasserstein"):
        measure = "total_variation"
    level = 1 - 2 * alpha  # one side of a two-sided interval
    return between(np.asarray(reference.counts), counts, measure, level=level, design_effect=effect), effect


def _grouped(days: NDArray[np.int64], table: Floats) -> Floats:
    """Slots added up by day, the earliest first."""
    place = np.unique(days, return_inverse=True)[1]
    if len(place) == int(place.max(initial=-1)) + 1:
        return table  # one slot a day
    total = np.zeros((int(place.max(initial=-1)) + 1, table.shape[1]))
    np.add.at(total, place, table)
    return total


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
