"""Train-serve skew: the features of captured requests computed again offline, and compared value by value.

Models learn from features as the offline store gives them; what was served differs where code, time zones, defaults or
late data do. A sample of requests, chosen by a hash of their id, is enough. How features are computed stands in
data/offline.py; here the two tables are compared.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Interval, Verdict, Window
from undrift.monitor.frames import column, numeric
from undrift.monitor.monitors import Monitor, found
from undrift.stats.compare import wilson_interval
from undrift.stats.summary import Counts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SAMPLE", "judge_skew", "sampled"]

SAMPLE: Final = 1_000
"""Requests of a window that are computed again, at most."""
FEWEST_ROWS: Final = 30
RELATIVE: Final = 1e-6
"""Relative difference up to which two numbers are the same: stores keep float32 at times."""

Bools = NDArray[np.bool_]


def sampled(ids: list[str], most: int = SAMPLE) -> NDArray[np.int64]:
    """The places of the ids with the least hashes, ascending: the same requests whoever asks, and none by choice."""
    hashes = np.fromiter((crc32(each.encode()) for each in ids), dtype=np.int64, count=len(ids))
    return np.sort(np.argsort(hashes, kind="stable")[:most])


def judge_skew(
    monitor: Monitor,
    features: tuple[pa.Table, pa.Table] | None,
    window: Window,
    *,
    tick: timedelta = timedelta(days=1),
) -> list[Finding]:
    """Judge the share of values that differ, feature by feature; pure.

    Parameters
    ----------
    features : as served and as computed offline, the same requests in the same order; what both have is compared.
        None where nothing can be computed again: no requests, no time in them, or no rows of a view.
    """
    if features is None:
        why = "there are no captured requests whose features could be computed again"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="skew", value=0.0, n=0, window=window)]
    served, offline = features
    names = [n for n in served.column_names if n in offline.column_names]
    names = [n for n in names if not monitor.columns or n in monitor.columns]
    n = served.num_rows
    if n < FEWEST_ROWS or not names:
        why = f"{n} captured requests with {len(names)} features that can be computed again, too few to say"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="skew", value=0.0, n=n, window=window)]
    alpha = monitor.alpha(len(names), max(1, int(timedelta(days=30) / tick)))
    findings = []
    for name in names:
        differ = _differ(served[name], offline[name])
        k = int(differ.sum())
        seen = wilson_interval(Counts(k, n), 1 - 2 * alpha)
        if seen.lower <= monitor.size:
            continue
        at = int(np.flatnonzero(differ)[0])
        here, there = served[name][at].as_py(), offline[name][at].as_py()
        why = (
            f"{name} was served other than it is computed offline in {k} of {n} requests "
            f"(at least {seen.lower:.1%}; tolerated {monitor.size:.1%}): {_shown(here)} served, {_shown(there)} offline"
        )
        findings.append(
            found(
                monitor, Verdict.FAIL, why, name="skew", value=k / n, n=n, window=window, column=name,
                interval=Interval(seen.lower, seen.upper, 1 - alpha), cause=f"{name} is skewed",
            )
        )  # fmt: skip
    if not findings:
        why = f"{len(names)} features of {n} requests were served as they are computed offline"
        findings.append(found(monitor, Verdict.PASS, why, name="skew", value=0.0, n=n, window=window))
    return findings


def _differ(served: Any, offline: Any) -> Bools:
    gone, absent = (
        np.asarray(values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool)
        for values in (served, offline)
    )
    if numeric(served) and numeric(offline):
        x, y = column(served), column(offline)
        near = np.isclose(x, y, rtol=RELATIVE, atol=1e-9, equal_nan=True)
    else:
        near = np.array([a == b for a, b in zip(served.to_pylist(), offline.to_pylist(), strict=True)], dtype=bool)
    return np.asarray((gone != absent) | (~near & ~gone & ~absent), dtype=bool)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
