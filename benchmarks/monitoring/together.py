"""False alarms of monitors of inputs together, window by window, against the level that their budget allows.

    python benchmarks/monitoring/together.py [--windows 100]

Each window has five weeks before it and shares nothing with others; six columns, two of which go together, days with
levels of their own; ``wander`` is how far that one correlation is off on a day (half of it as on the day before). The
practical size is next to none, so that all there is to hold the budget is the level. Some two minutes.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from undrift.finding import Verdict
from undrift.monitor.monitors import Monitor
from undrift.monitor.multivariate import judge_multivariate
from undrift.stats.calibration import level_per_test

START = datetime(2025, 1, 6, tzinfo=UTC)
DAYS, ROWS, COLUMNS = 42, 150, 6
PAIRS = COLUMNS * (COLUMNS - 1) // 2


def weeks(seed: int, wander: float) -> pa.Table:
    """Six weeks of captured rows in which nothing changes for good."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(DAYS), ROWS)
    x = rng.normal(size=(day.size, COLUMNS))
    off = np.zeros(DAYS)
    for each in range(1, DAYS):
        off[each] = off[each - 1] / 2 + rng.normal(0, wander * np.sqrt(3) / 2)
    together = np.clip(0.6 + off, -0.95, 0.95)[day]
    x[:, 1] = together * x[:, 0] + np.sqrt(1 - together**2) * x[:, 1]
    x += rng.normal(0, 0.5, (DAYS, COLUMNS))[day]
    at = int(START.timestamp() * 1e6) + day.astype(np.int64) * 86_400_000_000 + 3_600_000_000
    inputs = pa.StructArray.from_arrays([pa.array(v) for v in x.T], [f"x{k}" for k in range(COLUMNS)])
    return pa.table(
        {"event_time": pa.array(at, pa.timestamp("us", "UTC")), "score": np.zeros(day.size), "inputs": inputs}
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--windows", type=int, default=100)
    windows = asked.parse_args().windows
    print("| metric | correlation wanders by | alarmed windows | allowed |\n|---|---|---|---|")
    for metric, wander in (("correlation", 0.0), ("correlation", 0.1), ("correlation", 0.2), ("reconstruction", 0.0),
                           ("domain_auc", 0.0), ("domain_auc", 0.1)):  # fmt: skip
        monitor = Monitor(name="together", kind="multivariate", metric=metric, practical=1e-6)
        allowed = {
            "correlation": PAIRS * monitor.alpha(PAIRS, 30),
            "reconstruction": 2 * monitor.alpha(2, 30),
            "domain_auc": level_per_test(monitor.budget, 30),
        }[metric]
        failing = 0
        for seed in range(windows):
            (found,) = judge_multivariate(monitor, weeks(seed, wander), START + timedelta(days=DAYS))
            failing += found.verdict is Verdict.FAIL
        print(f"| {metric} | {wander:g} | {failing} of {windows} | {allowed * windows:.1f} |", flush=True)


if __name__ == "__main__":
    main()
