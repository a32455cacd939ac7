"""Stale features: how old the values were that requests were answered with, view by view.

A value beyond its view's time to live is never served, so such rows have none; a limit of one's own, shorter than that,
tells before it comes so far. The feed itself is feed.py's business, values that are wrong skew.py's.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Interval, Verdict
from undrift.ids import duration, from_micros, to_micros
from undrift.monitor.evidence import Evidence
from undrift.monitor.frames import past_rates
from undrift.monitor.monitors import Monitor, found
from undrift.stats.compare import wilson_interval
from undrift.stats.summary import Counts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["judge_freshness"]

FEWEST_ROWS: Final = 30


def judge_freshness(monitor: Monitor, evidence: Evidence) -> list[Finding]:
    """Judge the ages of what was looked up in the last window; pure.

    Parameters
    ----------
    evidence : of the window and of days before it; windows of known faults are no custom.
    """
    rows, times, window = evidence.rows, evidence.times, evidence.window(monitor)
    limits = {view.name: monitor.oldest or view.ttl for view in evidence.interface.views}
    fresh = evidence.within(window)
    n = int(fresh.sum())
    if n < FEWEST_ROWS or not limits or "feature_times" not in rows.column_names:
        why = f"{n} rows in {window}, {len(limits)} views to look at: too few to say"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="freshness", value=0.0, n=n, window=window)]
    past = (times < to_micros(window.start)) & evidence.sound
    alpha = monitor.alpha(len(limits), evidence.ticks)
    findings = []
    for name, limit in sorted(limits.items()):
        age = times - _known_at(rows, name)
        stale = age > int(duration(limit) / timedelta(microseconds=1))
        k = int((stale & fresh).sum())
        most = float(past_rates(stale, times, past, window).max(initial=0.0))
        seen = wilson_interval(Counts(k, n), 1 - 2 * alpha)
        bad = seen.lower > most + monitor.size
        first = from_micros(int(times[fresh & stale].min())) if k else None
        why = (
            f"view {name}: {k / n:.0%} of {n} rows were answered without a value younger than {limit} (at most "
            f"{most:.0%} in the windows before)"
        )
        findings.append(
            found(
                monitor, Verdict.FAIL if bad else Verdict.PASS, why, name="stale", value=k / n, n=n, window=window,
                column=name, interval=Interval(seen.lower, seen.upper, 1 - alpha), onset=first,
                cause=f"{name} is stale" if bad else "", lingers=k / n > most + monitor.size,
            )
        )  # fmt: skip
    return findings


def _known_at(rows: pa.Table, view: str) -> NDArray[np.int64]:
    """When what was served of a view became known, in microseconds; where nothing was, long ago."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at = pc.struct_field(rows["feature_times"], view)
    held = pc.fill_null(at.cast(pa.timestamp("us", "UTC")).cast("int64"), -(2**61))
    return np.asarray(held.to_numpy(), dtype=np.int64)
