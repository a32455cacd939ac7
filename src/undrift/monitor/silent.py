"""Silent failures: answers that are constant, collapsed or missing, inputs that go null, traffic that stops.

Nothing raises an error in these, so nobody notices; one window is enough to. Judged per version that answered, against
the healthy days before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Verdict, Window
from undrift.ids import from_micros
from undrift.monitor.frames import column, columns_of, inside, micros, outside, past_rates
from undrift.monitor.monitors import Monitor, found
from undrift.monitor.seasonal import seasonal_traffic
from undrift.monitor.windows import WindowProfile
from undrift.stats.compare import wilson_interval
from undrift.stats.summary import Counts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["judge_silent"]

REFERENCE: Final = timedelta(days=7)
FEWEST_ROWS: Final = 30
FEWEST_WINDOWS: Final = 3
MOSTLY_ONE: Final = 0.9
"""Share of equal answers from which they are called constant."""
COLLAPSED: Final = 0.1
"""Spread of scores, against the usual one, below which they have collapsed."""
FAILING: Final = 0.05
"""Share of rows without an answer that is tolerated."""
USUAL: Final = 0.3
"""Share of the usual traffic below which it has stopped."""

Bools = NDArray[np.bool_]


def judge_silent(
    monitor: Monitor,
    rows: pa.Table,
    now: datetime,
    *,
    spoiled: tuple[Window, ...] = (),
    tick: timedelta = timedelta(days=1),
    kept: Sequence[WindowProfile] = (),
) -> list[Finding]:
    """Judge the answers of the last window; pure.

    Parameters
    ----------
    rows : captured predictions of at least the last eight days.
    spoiled : windows of known silent incidents, which are no reference.
    kept : for a monitor with a season, the profiles that traffic is compared with instead of the week before.
    """
    window = Window(now - monitor.span, now)
    times = micros(rows, "event_time")
    fresh = inside(times, window.start, window.end)
    past = inside(times, window.start - REFERENCE, window.start) & outside(times, spoiled)
    if monitor.season:
        traffic = seasonal_traffic(monitor, kept, int(fresh.sum()), window, tick=tick, spoiled=spoiled)
        findings = [traffic] if traffic is not None else []
    else:
        findings = _volume(monitor, times, fresh, past, window)
    version = rows["version"].to_numpy()
    for number in np.unique(version[fresh]):
        mine = fresh & (version == number)
        if int(mine.sum()) >= FEWEST_ROWS:
            findings += _answers(monitor, rows, times, mine, past & (version == number), int(number), window)
    if int(fresh.sum()) >= FEWEST_ROWS and int(past.sum()) >= FEWEST_ROWS:
        findings += _nulls(monitor, rows, times, fresh, past, window)
    if not findings:
        n = int(fresh.sum())
        verdict = Verdict.PASS if n >= FEWEST_ROWS else Verdict.INCONCLUSIVE
        why = (
            f"{n} answers, none constant, collapsed or missing" if n >= FEWEST_ROWS else f"only {n} answers to look at"
        )
        findings.append(found(monitor, verdict, why, name="silent", value=0.0, n=n, window=window))
    return findings


def _answers(
    monitor: Monitor, rows: pa.Table, times: NDArray[np.int64], mine: Bools, past: Bools, version: int, window: Window
) -> list[Finding]:
    failed = np.asarray(rows["error"].is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    scores = column(rows["score"])
    n, broken = int(mine.sum()), int((mine & failed).sum())
    findings = []
    if broken / n > FAILING and wilson_interval(Counts(broken, n), 0.99).lower > FAILING:
        cause = f"version {version} fails"
        why = f"version {version} could not answer {broken} of {n} rows"
        findings.append(
            found(
                monitor,
                Verdict.FAIL,
                why,
                name="failed",
                value=broken / n,
                n=n,
                window=window,
                cause=cause,
                version=version,
            )
        )
    now, before = scores[mine & np.isfinite(scores)], scores[past & np.isfinite(scores)]
    if len(now) < FEWEST_ROWS:
        return findings
    value, same = _most_common(now)
    usual = _most_common(before)[1] if len(before) >= FEWEST_ROWS else 0.0
    if same >= MOSTLY_ONE and usual < MOSTLY_ONE / 2:
        cause = f"constant answers of version {version}"
        why = f"version {version} answered {value:.6g} for {round(same * len(now))} of {len(now)} rows"
        onset = _began(times, scores, mine, value)
        findings.append(
            found(
                monitor,
                Verdict.FAIL,
                why,
                name="constant",
                value=same,
                n=len(now),
                window=window,
                column="score",
                onset=onset,
                cause=cause,
                version=version,
            )
        )
    elif len(before) >= FEWEST_ROWS and float(now.std()) < COLLAPSED * float(before.std()):
        cause = f"answers of version {version} collapsed"
        why = f"scores of version {version} spread by {now.std():.3g}, {before.std():.3g} is usual ({len(now)} rows)"
        findings.append(
            found(
                monitor,
                Verdict.FAIL,
                why,
                name="collapsed",
                value=float(now.std() / before.std()),
                n=len(now),
                window=window,
                column="score",
                cause=cause,
                version=version,
            )
        )
    return findings


def _most_common(values: NDArray[np.float64]) -> tuple[float, float]:
    """The most frequent value and its share."""
    distinct, counts = np.unique(values, return_counts=True)
    top = int(counts.argmax())
    return float(distinct[top]), float(counts[top] / len(values))


def _began(times: NDArray[np.int64], scores: NDArray[np.float64], mine: Bools, value: float) -> datetime:
    return from_micros(int(times[mine & (scores == value)].min()))


def _nulls(
    monitor: Monitor, rows: pa.Table, times: NDArray[np.int64], fresh: Bools, past: Bools, window: Window
) -> list[Finding]:
    """Inputs and features that are absent more often than in any window before, by more than the practical size."""
    findings = []
    for name, values in columns_of(rows).items():
        if name in ("score", "label") or (monitor.columns and name not in monitor.columns):
            continue
        missing = np.asarray(values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool)
        rates = past_rates(missing, times, past, window)
        n, now, most = int(fresh.sum()), float(missing[fresh].mean()), float(rates.max(initial=0.0))
        if len(rates) >= FEWEST_WINDOWS and now > most + monitor.size:
            why = f"{name}: {now:.0%} of {n} values are missing, at most {most:.0%} in the {len(rates)} windows before"
            findings.append(
                found(
                    monitor, Verdict.FAIL, why, name="nulls", value=now, n=n, window=window, column=name,
                    cause=f"{name} went missing",
                )
            )  # fmt: skip
    return findings


def _volume(monitor: Monitor, times: NDArray[np.int64], fresh: Bools, past: Bools, window: Window) -> list[Finding]:
    span = int((window.end - window.start) / timedelta(microseconds=1))
    start = int(window.start.timestamp() * 1_000_000)
    ages = (start - 1 - times[past]) // span
    counts = np.bincount(ages) if len(ages) else np.zeros(1)
    usual, n = float(np.median(counts[counts > 0])) if counts.any() else 0.0, int(fresh.sum())
    if usual < FEWEST_ROWS or n >= USUAL * usual:
        return []
    cause = "no requests arrived" if not n else "requests are missing"
    why = f"{cause}: {n} in {window}, {usual:.0f} are usual"
    return [found(monitor, Verdict.FAIL, why, name="volume", value=float(n), n=n, window=window, cause=cause)]
