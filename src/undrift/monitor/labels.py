"""Labels that stop coming, or come late: nothing that rests on them can be said, and somebody has to be told that.

The share of matured answers whose label came in time is held against what every earlier window had. What labels say is
judged in performance.py, which calls itself INCONCLUSIVE without them, and an INCONCLUSIVE wakes nobody.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.evidence import Evidence
from undrift.monitor.frames import micros, past_rates
from undrift.monitor.monitors import Monitor, found
from undrift.stats.compare import wilson_interval
from undrift.stats.summary import Counts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["judge_labels"]

FEWEST_ROWS: Final = 30
FEWEST_WINDOWS: Final = 3


def judge_labels(monitor: Monitor, evidence: Evidence) -> list[Finding]:
    """Judge the last window of answers that are old enough to have a label; pure.

    Parameters
    ----------
    evidence : of several windows, and how long after an answer its label can be expected.
    """
    rows, times, maturity = evidence.rows, evidence.times, evidence.maturity
    end = evidence.now - maturity
    window = Window(end - monitor.span, end)
    known = evidence.valid("label") | evidence.valid("value")
    if "labelled_at" in rows.column_names:
        known &= _told(rows) - times <= int(maturity / timedelta(microseconds=1))
    fresh = evidence.within(window)
    n, k = int(fresh.sum()), int((fresh & known).sum())
    past = (times < to_micros(window.start)) & evidence.sound
    rates = past_rates(known, times, past, window)
    if n < FEWEST_ROWS or len(rates) < FEWEST_WINDOWS:
        why = f"{n} answers in {window} should have labels by now, and {len(rates)} windows came before: too few to say"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="labels", value=0.0, n=n, window=window)]
    alpha = monitor.alpha(1, evidence.ticks)
    seen = wilson_interval(Counts(k, n), 1 - 2 * alpha)
    least = float(rates.min())
    bad = seen.upper < least - monitor.size
    why = (
        f"{k / n:.0%} of {n} answers have their label within {maturity.total_seconds() / 86_400:g} days; at least "
        f"{least:.0%} had it in the {len(rates)} windows before"
    )
    return [
        found(
            monitor, Verdict.FAIL if bad else Verdict.PASS, why, name="labels", value=k / n, n=n, window=window,
            interval=Interval(seen.lower, seen.upper, 1 - alpha), cause="labels are missing or late" if bad else "",
            lingers=k / n < least - monitor.size,
        )
    ]  # fmt: skip


def _told(rows: pa.Table) -> NDArray[np.int64]:
    """When labels were told, in microseconds; those that never were, at the time of their answer."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at = pc.coalesce(pc.cast(rows["labelled_at"], rows["event_time"].type), rows["event_time"])
    return micros(pa.table({"at": at}), "at")
