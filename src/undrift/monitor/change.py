"""When the loss began to rise: every labelled day is a bet against "as good as it was measured to be".

An e-detector (stats/change.py) on the mean loss of each day, whose average run between false alarms is at least what
the budget states, for any distribution of days whose mean stays tolerable. Small rises are found late, large ones at
once. How large the loss is now says performance.py.
"""

from __future__ import annotations

from math import log
from typing import Final

import numpy as np

from undrift.finding import Finding, Verdict
from undrift.ids import from_micros
from undrift.monitor.days import DAY
from undrift.monitor.evidence import Evidence, metric_of
from undrift.monitor.monitors import Monitor, found
from undrift.stats.change import cusum_evidence

__all__ = ["BOUNDS", "judge_change"]

BOUNDS: Final = {"error": 1.0, "brier": 1.0}
"""The losses that have an upper bound; in a Brier score of more than two classes days above 1 count as 1."""
MATURE: Final = 0.8
FEWEST_ROWS: Final = 20
FEWEST_DAYS: Final = 5


def judge_change(monitor: Monitor, evidence: Evidence) -> list[Finding]:
    """Judge the days of the window, one after the other; pure.

    Parameters
    ----------
    evidence : of the monitor's window. Tolerated is the expected loss, twice its error more, raised by the practical
        size.
    """
    interface, rows, expected = evidence.interface, evidence.rows, evidence.expected
    metric = monitor.metric or ("brier" if interface.task != "regression" else metric_of(monitor, interface))
    window = evidence.window(monitor)

    def unsure(why: str, n: int = 0) -> list[Finding]:
        name = f"change of {metric}"
        return [found(monitor, Verdict.INCONCLUSIVE, f"{name}: {why}", name=name, value=0.0, n=n, window=window)]

    if metric not in BOUNDS or metric not in expected or not rows.num_rows:
        return unsure(
            f"needs a bounded loss ({' or '.join(BOUNDS)}) that was measured for version {evidence.version}, and rows"
        )
    times, loss = evidence.times, evidence.losses(metric)
    held = evidence.mine & evidence.within(window)
    labelled = held & np.isfinite(loss)
    days, place = np.unique(times[held] // DAY, return_inverse=True)
    every = np.bincount(place, minlength=len(days))
    known = np.bincount(place, weights=labelled[held], minlength=len(days))
    sums = np.bincount(place, weights=np.where(labelled[held], loss[held], 0.0), minlength=len(days))
    used = (known >= FEWEST_ROWS) & (known >= MATURE * every)
    n = int(known[used].sum())
    if int(used.sum()) < FEWEST_DAYS:
        return unsure(f"{int(used.sum())} days with their labels, too few to say", n)
    values = np.minimum(sums[used] / known[used], BOUNDS[metric])
    reference = expected[metric]
    tolerated = min((reference.value + 2 * reference.error) * (1 + monitor.size), 0.999 * BOUNDS[metric])
    run = max(30 / monitor.budget, 2.0)
    wealth, began = cusum_evidence(values, tolerated, high=BOUNDS[metric])
    beyond = bool(wealth[-1] >= log(run))
    first = int(days[used][int(began[-1])])
    since = from_micros(first * DAY)
    late = float(values[days[used] >= first].mean())
    why = (
        f"{metric} is {late:.4g} a day since {since:%Y-%m-%d}, {tolerated:.4g} being tolerated"
        if beyond
        else f"{metric} rose on none of {len(values)} days so that chance is excluded ({tolerated:.4g} being tolerated)"
    )
    return [
        found(
            monitor, Verdict.FAIL if beyond else Verdict.PASS, why, name=f"change of {metric}", value=late, n=n,
            window=window, onset=since, cause=f"{metric} rose" if beyond else "", expected=reference.value,
            run_length_days=run, lingers=beyond,
        )
    ]  # fmt: skip
