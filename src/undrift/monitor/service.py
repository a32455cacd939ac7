"""The service level: answers that fail or come late, as the speed at which they use up the objective's error budget;
and memory, load and cost against declared limits.

Two windows must agree, a long one so that it matters and a short one so that it still goes on (Beyer and others 2018,
"The Site Reliability Workbook", chapter 5, multi-window burn rates). What predictions say is not looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Verdict, Window
from undrift.ids import from_micros
from undrift.monitor.frames import column, inside, micros
from undrift.monitor.monitors import Monitor, found
from undrift.serving.health import Health

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BURN_RATES", "BurnRate", "judge_service"]

FEWEST_ROWS: Final = 30
QUARTER: Final = 15
"""Readings of a quarter of an hour, at one a minute."""


class BurnRate(NamedTuple):
    """Alarm when both windows burn this many times faster than would use up the budget in exactly 30 days."""

    long: timedelta
    short: timedelta
    times: float


BURN_RATES: Final = (
    BurnRate(timedelta(hours=1), timedelta(minutes=5), 14.4),
    BurnRate(timedelta(hours=6), timedelta(minutes=30), 6.0),
    BurnRate(timedelta(days=3), timedelta(hours=6), 1.0),
)
"""Two per cent of the budget in an hour, five in six hours, ten in three days (the Workbook's table 5-8)."""


def judge_service(
    monitor: Monitor, rows: pa.Table, now: datetime, *, model: str = "", workers: Sequence[Health] = ()
) -> list[Finding]:
    """Judge the answers up to now against the objective, and the workers against the limits that are declared; pure.

    Parameters
    ----------
    rows : captured predictions of at least three days.
    workers : what the workers of this machine told; empty where none runs, or where the past is judged again.
    """
    return [*_answers(monitor, rows, now), *_limits(monitor, model, workers, Window(now - timedelta(hours=1), now))]


def _limits(monitor: Monitor, model: str, workers: Sequence[Health], window: Window) -> list[Finding]:
    """Memory, load and cost, each where it has a limit; the worst worker counts, and of cost all together."""
    found_: list[Finding] = []
    lately = [worker.readings[-QUARTER:] for worker in workers if worker.readings]
    if monitor.limit_memory_mb:
        held = [float(np.median([r.memory_mb for r in readings])) for readings in lately]
        found_.append(_limit(monitor, "memory_mb", held, monitor.limit_memory_mb, "a worker holds {:.0f} MB", window))
    if monitor.limit_busy:
        busy = [float(np.mean([r.busy for r in readings[1:]])) for readings in lately if len(readings) > QUARTER // 3]
        text = "a worker uses {:.0%} of a core over a quarter of an hour"
        found_.append(_limit(monitor, "busy", busy, monitor.limit_busy, text, window))
    if monitor.limit_cost:
        spent = [r.spent[model] for worker in workers for r in worker.readings if model in r.spent]
        rows, money = sum(s.rows for s in spent), sum(s.money for s in spent)
        costs = [money / rows * 1e6] if rows >= FEWEST_ROWS and money > 0 else []
        text = "a million predictions cost {:.4g} at the last hour's rate"
        found_.append(_limit(monitor, "cost", costs, monitor.limit_cost, text, window))
    return found_


def _limit(monitor: Monitor, name: str, seen: list[float], limit: float, text: str, window: Window) -> Finding:
    if not seen:
        needs = "; it needs serve.price_per_cpu_hour and rows" if name == "cost" else ""
        why = f"{name}: no running worker has told it yet{needs}"
        return found(monitor, Verdict.INCONCLUSIVE, why, name=name, value=0.0, n=0, window=window)
    worst = max(seen)
    bad = worst > limit
    why = f"{text.format(worst)}, {limit:g} being the limit" + (f" ({len(seen)} workers)" if len(seen) > 1 else "")
    return found(
        monitor, Verdict.FAIL if bad else Verdict.PASS, why, name=name, value=worst, n=len(seen), window=window,
        cause=f"{name} is beyond its limit" if bad else "", lingers=bad,
    )  # fmt: skip


def _answers(monitor: Monitor, rows: pa.Table, now: datetime) -> list[Finding]:
    window = Window(now - BURN_RATES[-1].long, now)
    if not rows.num_rows:
        why = f"no answers in {window} to look at"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="burn_rate", value=0.0, n=0, window=window)]
    times = micros(rows, "event_time")
    bad = np.asarray(rows["error"].is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    if monitor.limit_ms and "latency_us" in rows.column_names:
        bad = bad | (column(rows["latency_us"]) > monitor.limit_ms * 1000)
    budget = 1 - monitor.objective
    n = int(inside(times, window.start, now).sum())
    if n < FEWEST_ROWS:
        why = f"only {n} answers in {window} to look at"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="burn_rate", value=0.0, n=n, window=window)]
    seen = [(rate, _burn(times, bad, now, rate.long, budget), _burn(times, bad, now, rate.short, budget))
            for rate in BURN_RATES]  # fmt: skip
    broken = [each for each in seen if min(each[1], each[2]) > each[0].times]
    what = f"fail or take more than {monitor.limit_ms:g} ms" if monitor.limit_ms else "fail"
    if not broken:
        worst = max(each[1] / each[0].times for each in seen)
        why = f"answers that {what} use {worst:.0%} of what the objective of {monitor.objective:.4g} tolerates"
        return [found(monitor, Verdict.PASS, why, name="burn_rate", value=worst, n=n, window=window)]
    rate, burn, lately = broken[0]
    start = now - rate.long
    held = inside(times, start, now)
    count, total = int((held & bad).sum()), int(held.sum())
    why = (
        f"{count} of {total} answers of the last {_span(rate.long)} {what}: {burn:.1f} times what the objective of "
        f"{monitor.objective:.4g} tolerates, {lately:.1f} times in the last {_span(rate.short)}"
    )
    return [
        found(
            monitor, Verdict.FAIL, why, name="burn_rate", value=burn, n=total, window=Window(start, now),
            onset=from_micros(int(times[held & bad].min())), cause=f"answers {what.split()[0]} or are late"
            if monitor.limit_ms else "answers fail", lingers=True,
        )
    ]  # fmt: skip


def _burn(times: NDArray[np.int64], bad: NDArray[np.bool_], now: datetime, span: timedelta, budget: float) -> float:
    held = inside(times, now - span, now)
    return float(bad[held].mean()) / budget if held.any() else 0.0


def _span(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    return f"{minutes} minutes" if minutes < 60 else f"{minutes // 60} hours" if minutes < 2880 else f"{span.days} days"
