"""undrift on a simulated stream: its monitors judge each day, first unchanged, then with each change in turn.

What does not change is computed once and shared: the reference, the counts of unchanged columns, the days before the
onset. Judging itself is the product's own, called as the worker calls it. The streams stand in streams.py.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from streams import CHANGED, DELAY, LEVELS, ONSET, REFERENCE_DAYS, STRENGTHS, WATCHED, WINDOWS, Day, stream

from undrift.data.contract import Contract, Field
from undrift.data.profile import Profile
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Verdict
from undrift.monitor.cells import Reference, Slots, reference_from
from undrift.monitor.drift import judge_drift
from undrift.monitor.evidence import Evidence, Expected
from undrift.monitor.integrity import judge_integrity
from undrift.monitor.monitors import Monitor
from undrift.monitor.multivariate import judge_multivariate
from undrift.monitor.performance import judge_performance
from undrift.stats.ranking import areas_within

START = datetime(2025, 1, 6, tzinfo=UTC)
DAY = timedelta(days=1)
HISTORY = REFERENCE_DAYS + 7
"""Days of kept profiles that drift looks at: as many before the window as the reference, and so the rivals, have."""
NAMES = [f"n{i}" for i in range(20)] + [f"c{i}" for i in range(10)]
SEGMENT = "c0"
INTERFACE = Interface(
    model="m", task="binary", contract=Contract(name="m", fields=tuple(Field(name=n, type="number") for n in NAMES)),
    label="y", classes=("0", "1"),
)  # fmt: skip
MONITORS = {
    "numbers": Monitor(
        name="numbers",
        kind="drift",
        columns=tuple(NAMES[:20]),
        history="98d",
        practical=0.005,
        persistence=(1, 1),
        budget=1.5,
    ),
    "categories": Monitor(
        name="categories",
        kind="drift",
        columns=tuple(NAMES[20:]),
        history="98d",
        practical=0.005,
        persistence=(1, 1),
        budget=0.25,
    ),
    "segments": Monitor(name="segments", kind="drift", history="98d", practical=0.01, by_segment=True, budget=0.1),
    "integrity": Monitor(name="integrity", kind="integrity", practical=0.02, budget=0.25),
    "together": Monitor(name="together", kind="multivariate", metric="correlation", practical=0.02),
    "quality": Monitor(name="quality", kind="performance", metric="roc_auc", practical=0.02, budget=0.25),
}
ASKED = {
    "mean": ("numbers",),
    "variance": ("numbers",),
    "category": ("categories",),
    "missing": ("integrity",),
    "unit": ("numbers",),
    "correlation": ("together",),
    "segment": ("numbers", "segments"),
    "concept": ("quality",),
}
"""Monitors that are asked for each change; the others could only find it by chance."""
STRETCH = 25
QUIET = {"numbers": 1, "categories": 1, "segments": 8, "integrity": 4, "together": 2, "quality": 2}
"""One in so many stretches of 25 windows of an unchanged stream is judged; alarms of its windows are counted."""


def columns(day: Day) -> dict[str, Any]:
    """The columns of a day as Arrow arrays."""
    made: dict[str, Any] = {f"n{i}": pa.array(day.numbers[:, i], from_pandas=True) for i in range(20)}
    codes = pa.array([str(k) for k in range(LEVELS)])
    return made | {f"c{i}": codes.take(pa.array(day.categories[:, i])) for i in range(10)}


def captured(number: int, day: Day, labelled: bool) -> pa.Table:
    """A day as the lake holds it."""
    n = len(day.label)
    at = int(START.timestamp() + number * 86_400) * 1_000_000 + day.seconds.astype(np.int64) * 1_000_000
    held = columns(day)
    return pa.table(
        {
            "event_time": pa.array(at, pa.timestamp("us", "UTC")),
            "version": pa.array(np.ones(n), pa.int32()),
            "score": day.score,
            "prediction": pa.nulls(n, pa.string()),
            "scores": pa.nulls(n, pa.list_(pa.float64())),
            "error": pa.nulls(n, pa.string()),
            "inputs": pa.StructArray.from_arrays(list(held.values()), list(held)),
            "label": pa.array([str(int(v)) for v in day.label], pa.string()) if labelled else pa.nulls(n, pa.string()),
            "value": pa.nulls(n, pa.float64()),
        }
    )


class Watch:
    """undrift's monitors on one stream."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.days = stream(seed, range(-REFERENCE_DAYS, WINDOWS))
        self.tables: dict[tuple[int, bool], pa.Table] = {}
        before = [day for number, day in self.days.items() if number < 0]
        profile = Profile.of(pa.concat_tables([pa.table(columns(day)) for day in before]))
        self.reference = {n: reference_from(c) for n, c in profile.columns.items()}
        score, label = (np.concatenate([getattr(d, name) for d in before]) for name in ("score", "label"))
        value, error, _ = areas_within(
            score, label, np.repeat(np.arange(len(before)), [len(d.label) for d in before])
        ).mean()
        self.expected = {"roc_auc": Expected(value, error)}
        self.at = np.array([int(START.timestamp() + number * 86_400) * 1_000_000 for number in self.days])
        self.slots: dict[str, Slots] = {}
        for name in NAMES:
            self.slots |= self._counted(name, self.days)

    def changed(self, change: str, strength: float) -> Watch:
        """The same stream with a change from its onset on; what has not changed is shared."""
        other = copy.copy(self)
        later = stream(self.seed, range(ONSET, ONSET + WATCHED), change, strength)
        other.days = {**{n: d for n, d in self.days.items() if n < ONSET}, **later}
        other.tables = {key: table for key, table in self.tables.items() if key[0] < ONSET}
        name = CHANGED[change]
        after = self._counted(name, later)
        place = ONSET + REFERENCE_DAYS
        other.slots = dict(self.slots)
        for key, slots in after.items():
            held = self.slots[key]
            other.slots[key] = Slots(self.at[: place + WATCHED], np.concatenate([held.cells[:place], slots.cells]))
        return other

    def _counted(self, name: str, days: Mapping[int, Day]) -> dict[str, Slots]:
        """A column's counts by day in the cells of its reference, of all rows and of each segment's."""
        known: Reference = self.reference[name]
        size, count = known.size, len(days)
        numbers, place = name[0] == "n", int(name[1:])
        values = np.concatenate([(d.numbers if numbers else d.categories)[:, place] for d in days.values()])
        segment = np.concatenate([d.categories[:, 0] for d in days.values()])
        day = np.repeat(np.arange(count), [len(d.label) for d in days.values()])
        cells = np.searchsorted(known.edges, values, side="right") if numbers else values
        held = np.isfinite(values)
        where = ((day * LEVELS + segment) * size + cells)[held]
        table = np.bincount(where, minlength=count * LEVELS * size).reshape(count, LEVELS, size).astype(np.float64)
        at = self.at[:count]
        made = {name: Slots(at, table.sum(axis=1))}
        if name != SEGMENT:
            made |= {f"{name}[{SEGMENT}={k}]": Slots(at, table[:, k]) for k in range(LEVELS)}
        return made

    def rows(self, first: int, last: int) -> pa.Table:
        """Captured rows of some days, with the labels that are known when the last is over."""
        parts = []
        for number in range(max(first, -REFERENCE_DAYS), last + 1):
            key = (number, number <= last - DELAY)
            if key not in self.tables:
                self.tables[key] = captured(number, self.days[number], key[1])
            parts.append(self.tables[key])
        return pa.concat_tables(parts)

    def findings(self, name: str, day: int) -> list[Finding]:
        """What a monitor says when a day is over."""
        now = START + (day + 1) * DAY
        monitor = MONITORS[name]
        if monitor.kind == "drift":
            last = day + 1 + REFERENCE_DAYS
            first = max(0, last - HISTORY)
            seen = {
                key: Slots(slots.at[first:last], slots.cells[first:last])
                for key, slots in self.slots.items()
                if monitor.by_segment or "[" not in key
            }
            return judge_drift(monitor, EMPTY, self.reference, now, history=seen)
        if name == "integrity":
            return judge_integrity(monitor, self.rows(day - 8, day), self.reference, now)
        if name == "together":
            return judge_multivariate(monitor, self.rows(day - 41, day), now)
        return judge_performance(
            monitor,
            Evidence(interface=INTERFACE, rows=self.rows(day - 16, day), version=1, expected=self.expected, now=now),
        )

    def failing(self, name: str, day: int, column: str = "") -> bool:
        """Whether a monitor alarms (about a column)."""
        failing = [f for f in self.findings(name, day) if f.verdict is Verdict.FAIL]
        return any(not column or f.measurement.detail.get("column") == column for f in failing)


EMPTY = captured(0, Day(np.zeros((0, 20)), np.zeros((0, 10), dtype=int), np.zeros(0), np.zeros(0), np.zeros(0)), False)


def run(
    seed: int, monitors: Sequence[str] = tuple(MONITORS), changes: Sequence[str] = tuple(STRENGTHS)
) -> dict[str, Any]:
    """One stream: on which windows each monitor alarmed unchanged, and how long after each onset it alarmed first."""
    watch = Watch(seed)
    quiet = {name: [int(watch.failing(name, day)) for day in judged(name)] for name in monitors}
    found: dict[str, dict[str, int | None]] = {}
    for change in changes:
        asked = [name for name in ASKED[change] if name in monitors]
        for place, strength in enumerate(STRENGTHS[change]):
            other = watch.changed(change, strength)
            found[f"{change}/{place}"] = {name: _first(other, name, CHANGED[change]) for name in asked}
    return {"quiet": quiet, "changed": found}


def judged(name: str) -> list[int]:
    """The windows of an unchanged stream that are judged: in stretches, so that alarms have a beginning."""
    return [d for d in range(WINDOWS) if d // STRETCH % QUIET[name] == QUIET[name] - 1]


def _first(watch: Watch, name: str, column: str) -> int | None:
    kind = MONITORS[name].kind
    about = column if kind in ("drift", "integrity") else ""
    for day in range(ONSET, ONSET + WATCHED):
        if watch.failing(name, day, about):
            return day - ONSET
    return None


if __name__ == "__main__":
    for seed in range(*map(int, sys.argv[1:])):
        print(json.dumps({"rival": "undrift", "span": 7, "seed": seed, **run(seed)}), flush=True)
