"""A strong daily and weekly rhythm: what a monitor with a season finds, and how often it alarms for nothing.

    python benchmarks/monitoring/seasonal.py [--streams 10] [--days 30]

Twelve columns (eight numbers, four categories) whose distribution follows the hour of the day and the weekend, days
that follow each other (AR(1), 0.6), 300 rows an hour by day and 150 by night. Judged every hour for a month after
twelve weeks; then again with one column moved by a standard deviation from 22:00 to 6:00 only. Beside it, how far hours
are from training by their rhythm alone.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

import numpy as np

from undrift.finding import Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.cells import Reference, Slots
from undrift.monitor.monitors import Monitor
from undrift.monitor.seasonal import judge_seasonal

START = datetime(2013, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
EDGES = tuple(np.linspace(-2.5, 2.5, 19).tolist())
LABELS = ("a", "b", "c")
HISTORY = 84
HOURLY = Monitor(name="hours", kind="drift", season="week", window="1h", practical=0.05)


def stream(seed: int, days: int, *, moved: int | None = None, size: float = 1.0) -> dict[str, Slots]:
    """Counts an hour of each column; from day ``moved`` on x0 is moved from 22:00 to 6:00."""
    rng = np.random.default_rng(seed)
    hours = days * 24
    hour, day = np.arange(hours) % 24, np.arange(hours) // 24
    light = np.where((hour >= 8) & (hour < 20), 300, 150)
    rhythm = np.sin(2 * np.pi * (hour - 6) / 24) * np.where(day % 7 >= 5, 0.4, 1.0) + 0.3 * (day % 7 >= 5)
    at = np.array([to_micros(START + h * HOUR) for h in range(hours)], dtype=np.int64)
    found = {}
    for number in range(12):
        weather = np.zeros(days)
        for d in range(days):
            weather[d] = 0.6 * (weather[d - 1] if d else 0.0) + rng.normal(0, 0.08)
        centre = (1.0 if number % 2 else 0.7) * rhythm + weather[day]
        if number == 0 and moved is not None:
            centre = centre + np.where((day >= moved) & ((hour >= 22) | (hour < 6)), size, 0.0)
        rows = rng.poisson(light)
        if number < 8:
            cells = np.array([
                np.bincount(np.searchsorted(EDGES, rng.normal(c, 1, n), side="right"), minlength=20)
                for c, n in zip(centre, rows, strict=True)
            ])  # fmt: skip
        else:
            odds = np.exp(np.column_stack([centre, np.zeros(hours), -centre, np.full(hours, -2.0)]))
            cells = np.array([
                rng.multinomial(n, p) for n, p in zip(rows, odds / odds.sum(axis=1, keepdims=True), strict=True)
            ])  # fmt: skip
        found[f"{'x' if number < 8 else 'c'}{number}"] = Slots(at, cells.astype(np.float64))
    return found


def reference(series: dict[str, Slots]) -> dict[str, Reference]:
    """What the history is on the whole: the reference of a version trained on it."""
    end = to_micros(START + HISTORY * timedelta(days=1))
    found = {}
    for name, slots in series.items():
        counts = tuple(slots.cells[slots.at < end].sum(axis=0).tolist())
        cells = {"edges": EDGES} if name[0] == "x" else {"labels": LABELS}
        found[name] = Reference(counts=counts, **cells)
    return found


def alarms(monitor: Monitor, series: dict[str, Slots], first: int, last: int) -> list[tuple[datetime, str]]:
    """Alarms that begin, by column, judged every hour of some days; told windows are no reference after."""
    known = reference(series)
    told: list[Window] = []
    open_since: datetime | None = None
    found = []
    for step in range((last - first) * 24):
        now = START + timedelta(days=first) + (step + 1) * HOUR
        known_now = [*told, *([Window(open_since, now)] if open_since else [])]
        judged = judge_seasonal(monitor, series, known, now, tick=HOUR, alarmed=tuple(known_now))
        bad = [f for f in judged if f.verdict is Verdict.FAIL]
        if bad and open_since is None:
            open_since = datetime.fromisoformat(str(bad[0].measurement.detail["onset"]))
            found += [(now, str(f.measurement.detail["column"])) for f in bad]
        elif not bad and open_since is not None:
            told.append(Window(open_since, now))
            open_since = None
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--streams", type=int, default=10)
    options.add_argument("--days", type=int, default=30)
    given = options.parse_args()
    false, found, delays = [], 0, []
    for seed in range(given.streams):
        quiet = stream(seed, HISTORY + given.days)
        false.append(len({at for at, _ in alarms(HOURLY, quiet, HISTORY, HISTORY + given.days)}))
        changed = stream(seed, HISTORY + 3, moved=HISTORY)
        seen = [at for at, column in alarms(HOURLY, changed, HISTORY, HISTORY + 3) if column == "x0"]
        found += bool(seen)
        delays += [(seen[0] - START - timedelta(days=HISTORY)).total_seconds() / 3600] if seen else []
    print(f"seasonal, every hour: {sum(false)} false alarms in {given.streams} streams of {given.days} days "
          f"({np.mean(false) * 30 / given.days:.2f} in 30 days, {HOURLY.budget:g} stated)")  # fmt: skip
    print(f"night hours moved by a standard deviation: found in {found} of {given.streams} within 3 days, "
          f"after {np.median(delays) if delays else float('nan'):.0f} hours (median)")  # fmt: skip
    series = stream(0, HISTORY + 7)
    known = reference(series)
    far = []
    for step in range(7 * 24):
        for name, slots in series.items():
            share, ref = slots.cells[HISTORY * 24 + step], np.array(known[name].counts)
            gap = np.abs(np.cumsum(share) / share.sum() - np.cumsum(ref) / ref.sum())
            far.append(float(gap.max()) > 0.2)
    print(f"an hour against training, nothing having changed: {np.mean(far):.0%} of columns are more than 0.2 away")


if __name__ == "__main__":
    main()
