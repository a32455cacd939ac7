"""A source that went wrong: changed units, columns that stand still or go missing, rows that stop coming.

The last window is compared with the last healthy days before it, never with days of a known incident; so a fault that
lasts stays one finding, and its end is an end and not a second fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.data.features import Source
from undrift.finding import Finding, Verdict, Window
from undrift.ids import from_micros
from undrift.monitor.frames import column, inside, micros, numeric, outside, past_rates
from undrift.monitor.jumps import Series, find_jump, is_over, series_of
from undrift.monitor.monitors import Monitor, found

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LOOK_BACK", "Spoiled", "judge_feed"]

REFERENCE: Final = timedelta(days=7)
LOOK_BACK: Final = timedelta(days=60)
"""How far back healthy days are looked for; longer faults have nothing left to be compared with."""
CUSTOM: Final = timedelta(days=35)
"""How far back one looks for what a window may naturally show of missing and of equal values."""
FEWEST_WINDOWS: Final = 3
FEWEST_ROWS: Final = 12
MOSTLY_ONE: Final = 0.5
"""Share of one value in an earlier window from which it may naturally fill a window."""
USUAL: Final = 0.3
"""Share of the usual number of rows below which rows are missing."""

Bools = NDArray[np.bool_]


class Spoiled(NamedTuple):
    """The window of a past incident, and the columns that were wrong in it (none named: all)."""

    window: Window
    columns: frozenset[str] = frozenset()


def judge_feed(
    monitor: Monitor,
    source: Source,
    rows: pa.Table,
    now: datetime,
    *,
    spoiled: Sequence[Spoiled] = (),
    since: datetime | None = None,
    open_changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Finding]:
    """Judge a source's rows of the last window; pure.

    Parameters
    ----------
    rows : the source's rows of the last `LOOK_BACK`, as in the lake.
    spoiled : windows of this source's past incidents.
    since : onset of the incident that is open; healthy days end there.
    open_changes : column -> detail of the finding with which it joined that incident (``conversion``, ``onset``).
    """
    window = Window(now - monitor.span, now)
    times = micros(rows, source.time)
    fresh = inside(times, window.start, window.end)
    begin = min(window.start - monitor.span, since) if since is not None else window.start - monitor.span
    before = times < _stamp(window.start if since is None else min(window.start, since))
    named = [
        f for f in source.contract.fields if f.name in rows.column_names and f.name not in (source.time, source.known)
    ]
    watched = [f for f in named if not monitor.columns or f.name in monitor.columns]
    reference = _last_days(times, before & outside(times, [s.window for s in spoiled]), now)
    findings = _volume(monitor, source, times, fresh, reference, window)
    if int(fresh.sum()) < FEWEST_ROWS or int(reference.sum()) < FEWEST_ROWS:
        n = min(int(fresh.sum()), int(reference.sum()))
        healthy = int(reference.sum())
        why = f"{source.name}: {int(fresh.sum())} rows, and {healthy} healthy ones before, are too few to say"
        unsure = found(
            monitor, Verdict.INCONCLUSIVE, why, name="feed", value=0.0, n=n, window=window, source=source.name
        )
        return findings or [unsure]
    keys = _keys(rows, [f.name for f in named if f.type == "string"])
    for field in watched:
        values = rows[field.name]
        change = (open_changes or {}).get(field.name)
        # a column is unspoilt in windows of faults that were not its own
        sound = outside(times, [s.window for s in spoiled if field.name in s.columns or not s.columns])
        longer = (before if change else times < _stamp(window.start)) & sound & (times >= _stamp(now - CUSTOM))
        findings += _nulls(monitor, source, field.name, values, times, (fresh, longer), window)
        if not numeric(values):
            continue
        numbers = column(values)
        findings += _stuck(monitor, source, field.name, numbers, times, (fresh, longer), window)
        if change and change.get("conversion"):
            findings += _still(monitor, source, field.name, (keys, times, numbers), window, change)
        else:
            recent = inside(times, begin, window.end) & sound
            week = _last_days(times, before & sound & ~recent, now)
            findings += _jump(monitor, source, field, (keys, times, numbers), week, recent, window)
    if not findings:
        why = f"{source.name}: {int(fresh.sum())} rows as usual"
        findings.append(
            found(
                monitor,
                Verdict.PASS,
                why,
                name="feed",
                value=0.0,
                n=int(fresh.sum()),
                window=window,
                source=source.name,
            )
        )
    return findings


def _stamp(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


def _last_days(times: NDArray[np.int64], healthy: Bools, now: datetime) -> Bools:
    """Of the healthy rows, those of the last seven days that have any."""
    day = 86_400_000_000
    ages = (_stamp(now) - 1 - times) // day
    days = np.unique(ages[healthy])
    if not len(days):
        return healthy
    return np.asarray(healthy & (ages <= days[min(len(days), REFERENCE.days) - 1]))


def _keys(rows: pa.Table, names: Iterable[str]) -> NDArray[np.int64]:
    """One code per series: the combination of the source's text columns."""
    codes = np.zeros(rows.num_rows, dtype=np.int64)
    for name in names:
        values = rows[name].combine_chunks().dictionary_encode()
        one = values.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        codes = np.unique(codes * (len(values.dictionary) + 1) + one, return_inverse=True)[1].astype(np.int64)
    return codes


def _volume(
    monitor: Monitor, source: Source, times: NDArray[np.int64], fresh: Bools, reference: Bools, window: Window
) -> list[Finding]:
    span = int((window.end - window.start) / timedelta(microseconds=1))
    ages = (_stamp(window.start) - 1 - times[reference]) // span
    if not len(ages):
        return []
    usual = float(np.median(np.bincount(ages[ages >= 0])))
    n = int(fresh.sum())
    if usual < FEWEST_ROWS or n >= USUAL * usual:
        return []
    cause = "no rows arrived" if not n else "rows are missing"
    why = f"{source.name}: {cause}: {n} in {window}, {usual:.0f} are usual"
    return [
        found(
            monitor,
            Verdict.FAIL,
            why,
            name="volume",
            value=float(n),
            n=n,
            window=window,
            cause=cause,
            source=source.name,
        )
    ]


def _nulls(
    monitor: Monitor,
    source: Source,
    name: str,
    values: Any,
    times: NDArray[np.int64],
    rows: tuple[Bools, Bools],
    window: Window,
) -> list[Finding]:
    """More missing values than any healthy window had, by more than the practical size."""
    fresh, past = rows
    missing = np.asarray(values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool)
    rates = past_rates(missing, times, past, window)
    n, now, most = int(fresh.sum()), float(missing[fresh].mean()), float(rates.max(initial=0.0))
    if len(rates) < FEWEST_WINDOWS or now <= most + monitor.size:
        return []
    before = f"at most {most:.0%} in the {len(rates)} windows before"
    why = f"{source.name}.{name}: {now:.0%} of {n} values are missing, {before}"
    return [
        found(
            monitor, Verdict.FAIL, why, name="nulls", value=now, n=n, window=window, column=name,
            cause=f"{name} went missing", source=source.name,
        )
    ]  # fmt: skip


def _stuck(
    monitor: Monitor,
    source: Source,
    name: str,
    numbers: NDArray[np.float64],
    times: NDArray[np.int64],
    rows: tuple[Bools, Bools],
    window: Window,
) -> list[Finding]:
    """One value in the whole window, that never filled one before."""
    fresh, past = rows
    held = np.isfinite(numbers)
    now = numbers[fresh & held]
    if len(now) < FEWEST_ROWS or (now != now[0]).any():
        return []
    shares = past_rates(numbers == now[0], times, past & held, window)
    if len(shares) < FEWEST_WINDOWS or float(shares.max(initial=0.0)) > MOSTLY_ONE:
        return []
    why = f"{source.name}.{name}: all {len(now)} values are {now[0]:.6g}, at most {shares.max():.0%} in a window before"
    return [
        found(
            monitor, Verdict.FAIL, why, name="stuck", value=float(now[0]), n=len(now), window=window, column=name,
            cause=f"{name} stands still", source=source.name,
        )
    ]  # fmt: skip


def _jump(
    monitor: Monitor,
    source: Source,
    field: Any,
    series: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]],
    reference: Bools,
    recent: Bools,
    window: Window,
) -> list[Finding]:
    """A change of unit in the last two windows: one that began late in the first shows only in the second."""
    jump = find_jump(field.name, _series(series, reference), _series(series, recent), unit=field.unit)
    if jump is None:
        return []
    onset = from_micros(jump.at)
    why = (
        f"{source.name}.{field.name} jumped from {jump.before:.4g} to {jump.after:.4g} in all series at "
        f"{onset:%Y-%m-%d %H:%M}: a change of unit, {jump.conversion}"
    )
    return [
        found(
            monitor,
            Verdict.FAIL,
            why,
            name="unit",
            value=jump.size,
            n=int(recent.sum()),
            window=window,
            column=field.name,
            onset=onset,
            cause=jump.conversion,
            source=source.name,
            conversion=jump.conversion,
            miss=round(jump.miss, 3),
        )
    ]


def _still(
    monitor: Monitor,
    source: Source,
    name: str,
    series: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]],
    window: Window,
    before: Mapping[str, Any],
) -> list[Finding]:
    """Whether a change of unit that is known already goes on."""
    onset = datetime.fromisoformat(str(before["onset"]))
    times = series[1]
    healthy = _series(series, inside(times, onset - REFERENCE, onset))
    # three windows, so that a column that came back first is still seen to be back when the next one follows
    start = window.end - 3 * (window.end - window.start)
    since = _series(series, inside(times, max(onset, start - REFERENCE), max(onset, start)))
    fresh = _series(series, inside(times, max(onset, start), window.end))
    conversion = str(before["conversion"])
    if is_over(conversion, healthy, since, fresh, column=name):
        return []
    return [
        found(
            monitor,
            Verdict.FAIL,
            f"{source.name}.{name} is still as after {conversion}",
            name="unit",
            value=None,
            n=len(fresh.value),
            window=window,
            column=name,
            onset=onset,
            cause=conversion,
            problem="",
            source=source.name,
            conversion=conversion,
        )
    ]


def _series(series: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]], which: Bools) -> Series:
    return series_of(series[0][which], series[1][which], series[2][which])
