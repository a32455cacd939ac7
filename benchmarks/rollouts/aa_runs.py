"""A/A: whole rollouts of a candidate as good as the champion, from units to the end; false verdicts are counted.

    python benchmarks/rollouts/aa_runs.py [--runs 50] [--units 2000] [--days 25]

In one process: units fall by the router's own hash, rows have the shape the lake gives, evidence, judge and reconcile
are those of the worker, once a day. Each row has a label; both models err alike, in four segments. False is a
roll-back; a rollout that succeeds or is still held at the end is not. The stated chance is alpha = 0.05 for a whole
rollout.
"""

from __future__ import annotations

import argparse
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from undrift.data.contract import Contract, Field
from undrift.deploy.evidence import summarise
from undrift.deploy.judge import judge_rollout
from undrift.deploy.rollout import Guardrail, Rollout, RolloutState, reconcile, start
from undrift.develop.bundle import Interface
from undrift.inference.router import Route as Way
from undrift.inference.router import pick

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SEGMENTS = ("AA", "DL", "UA", "WN")
DECLARED = Rollout(
    steps=(5, 10, 25, 50, 100),
    hold="1d",
    minimum_units=50,
    maximum="90d",
    guardrails=(Guardrail(metric="failed", margin=0.0), Guardrail(metric="brier", margin=0.0)),
)
INTERFACE = Interface(
    model="m",
    task="binary",
    contract=Contract(name="m", fields=(Field(name="carrier", type="string"), Field(name="x", type="number"))),
    label="y",
    classes=("0", "1"),
    segments=("carrier",),
)


def day(rng: np.random.Generator, number: int, units: int, state: RolloutState) -> pa.Table:
    """One day of new units, each with one row and its label; both revisions answer alike but for noise of their own."""
    names = [f"u{number}-{i}" for i in range(units)]
    way = Way(model="m", champion="r-old", candidate="r-new", weight=state.weight, salt=state.id, revisions=())
    chosen = [pick(way, name) for name in names]
    truth = rng.uniform(0.05, 0.95, units)
    score = np.clip(truth + rng.normal(0, 0.1, units), 0, 1)
    label = (rng.random(units) < truth).astype(int)
    failed = rng.random(units) < 0.002
    at = [START + number * DAY + DAY * i / units for i in range(units)]
    return pa.table(
        {
            "prediction_id": names,
            "request_id": names,
            "unit": names,
            "revision": [c.revision for c in chosen],
            "variant": [c.variant for c in chosen],
            "propensity": [c.propensity for c in chosen],
            "event_time": pa.array(at, pa.timestamp("us", "UTC")),
            "score": pa.array([None if f else float(s) for s, f in zip(score, failed, strict=True)], pa.float64()),
            "scores": pa.nulls(units, pa.list_(pa.float64())),
            "prediction": [str(int(s >= 0.5)) for s in score],
            "error": pa.array(["broken" if f else None for f in failed], pa.string()),
            "violations": pa.array([[] for _ in names], pa.list_(pa.string())),
            "latency_us": pa.array(rng.integers(800, 1200, units)),
            "inputs": pa.array([{"carrier": SEGMENTS[i % 4], "x": float(i)} for i in range(units)]),
            "label": pa.array([str(v) for v in label], pa.string()),
            "value": pa.nulls(units, pa.float64()),
            "labelled_at": pa.array([t + timedelta(hours=1) for t in at], pa.timestamp("us", "UTC")),
        }
    )


def live(seed: int, units: int, days: int) -> RolloutState:
    """One rollout from its start until it ends or the days are over."""
    rng = np.random.default_rng([7, seed])
    named = f"aa-{seed}"
    state = start(DECLARED, named, "m", ("r-new", 2), ("r-old", 1), START).state
    rows: list[pa.Table] = []
    for number in range(days):
        rows.append(day(rng, number, units, state))
        now = START + (number + 1) * DAY
        evidence = summarise(pa.concat_tables(rows), INTERFACE, state, START, now)
        report = judge_rollout(state, evidence, now)
        state = reconcile(DECLARED, state, report, evidence.exposure, now).state
        if state.over:
            break
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--days", type=int, default=25)
    options = parser.parse_args()
    ends = [live(seed, options.units, options.days) for seed in range(options.runs)]
    counts = Counter(state.status for state in ends)
    print(f"{options.runs} A/A rollouts of at most {options.days} days with {options.units} new units a day")
    print(", ".join(f"{status} {n}" for status, n in sorted(counts.items())))
    print(f"false roll-backs: {counts['rolled_back']} of {options.runs} (stated chance {DECLARED.alpha:g} each)")
    for state in ends:
        if state.status == "rolled_back":
            print(f"  {state.id}: {state.reason}")


if __name__ == "__main__":
    main()
