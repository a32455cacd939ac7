"""The truth table: false alarms against the stated budget, and what is found how soon, on simulated streams.

    python benchmarks/monitoring/truth.py quiet [--seeds 100]                       undrift's false alarms
    python benchmarks/monitoring/truth.py changed [--changed 20]                    what it finds, and how soon
    python benchmarks/monitoring/truth.py rivals --seeds 2 --changed 2              the others, in their environments
    python benchmarks/monitoring/truth.py table                                     all side by side, as Markdown

Streams: streams.py. Each of undrift's monitors has a budget of one false alarm in 30 days. The others raise an alarm
when any of 30 columns is beyond its threshold, as they come; and once more with the threshold at which they raise as
few alarms on unchanged windows as the whole of undrift (found on the same unchanged streams, which favours them).
Results of both are kept as JSON beside this file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from streams import LEVELS, ONSET, REFERENCE_DAYS, STRENGTHS, Day, stream

from undrift.data.contract import Contract, Field
from undrift.data.profile import Profile
from undrift.develop.bundle import Interface
from undrift.develop.performance import mean_interval
from undrift.finding import Finding, Verdict
from undrift.monitor.cells import Reference, Slots, reference_from
from undrift.monitor.drift import judge_drift
from undrift.monitor.integrity import judge_integrity
from undrift.monitor.monitors import Monitor
from undrift.monitor.multivariate import judge_multivariate
from undrift.monitor.performance import Expected, judge_performance

HERE = Path(__file__).resolve().parent
START = datetime(2025, 1, 6, tzinfo=UTC)
DAY = timedelta(days=1)
WINDOWS = 200
WATCHED = 21
"""Windows after the onset in which a change may be found."""
DELAY = 3
"""Days until a label is known."""
NAMES = [f"n{i}" for i in range(20)] + [f"c{i}" for i in range(10)]
INTERFACE = Interface(
    model="m", task="binary", contract=Contract(name="m", fields=tuple(Field(name=n, type="number") for n in NAMES)),
    label="y", classes=("0", "1"),
)  # fmt: skip
CHANGED = {
    "mean": "n5",
    "variance": "n6",
    "category": "c1",
    "missing": "n7",
    "unit": "n8",
    "correlation": "n1",
    "segment": "n9",
    "concept": "n2",
}
"""The column that changes: an alarm about another one finds nothing."""
MONITORS = {
    "drift": Monitor(name="drift", kind="drift", practical=0.02),
    "segments": Monitor(name="segments", kind="drift", practical=0.02, by_segment=True),
    "integrity": Monitor(name="integrity", kind="integrity", practical=0.02),
    "together": Monitor(name="together", kind="multivariate", metric="reconstruction", practical=0.04),
    "quality": Monitor(name="quality", kind="performance", practical=0.02),
}
DEFAULT = Monitor(name="default", kind="drift")


def columns(day: Day) -> dict[str, Any]:
    made: dict[str, Any] = {f"n{i}": pa.array(day.numbers[:, i], from_pandas=True) for i in range(20)}
    codes = pa.array([str(k) for k in range(LEVELS)])
    return made | {f"c{i}": codes.take(pa.array(day.categories[:, i])) for i in range(10)}


def table(days: dict[int, Day], known: int) -> pa.Table:
    """Captured rows of some days, with the labels that are known when day ``known`` is over."""
    parts = []
    for number, day in sorted(days.items()):
        n = len(day.label)
        at = int(START.timestamp() + number * 86_400) * 1_000_000 + day.seconds.astype(np.int64) * 1_000_000
        held = columns(day)
        labels = [str(int(v)) for v in day.label] if number <= known - DELAY else [None] * n
        parts.append(
            pa.table(
                {
                    "event_time": pa.array(at, pa.timestamp("us", "UTC")),
                    "version": pa.array(np.ones(n), pa.int32()),
                    "score": day.score,
                    "prediction": pa.nulls(n, pa.string()),
                    "scores": pa.nulls(n, pa.list_(pa.float64())),
                    "error": pa.nulls(n, pa.string()),
                    "inputs": pa.StructArray.from_arrays(list(held.values()), list(held)),
                    "label": pa.array(labels, pa.string()),
                    "value": pa.nulls(n, pa.float64()),
                }
            )
        )
    return pa.concat_tables(parts)


class Watch:
    """undrift's monitors on one stream."""

    def __init__(self, seed: int, days: dict[int, Day], wanted: tuple[str, ...]) -> None:
        self.days, self.wanted, self.tables = days, wanted, {}
        before = [day for number, day in days.items() if number < 0]
        whole = {n: np.concatenate([d.numbers[:, i] for d in before]) for i, n in enumerate(NAMES[:20])}
        texts = {n: [str(v) for d in before for v in d.categories[:, i]] for i, n in enumerate(NAMES[20:])}
        self.profile = Profile.of(pa.table({**whole, **texts}))
        self.reference = {n: reference_from(c) for n, c in self.profile.columns.items()}
        losses = np.concatenate([self.loss(d) for d in before])
        found = mean_interval(losses, np.repeat(np.arange(len(before)), [len(d.label) for d in before]))
        self.expected = {"log_loss": Expected(found.value, found.half_width / 1.96)}
        keys = list(NAMES) + ([f"{n}[c0={k}]" for n in NAMES[:20] for k in range(3)] if "segments" in wanted else [])
        self.slots = {key: self.counted(key) for key in keys}

    def loss(self, day: Day) -> np.ndarray:
        p = np.where(day.label == 1, day.score, 1 - day.score)
        return -np.log(np.clip(p, 1e-7, 1))

    def counted(self, key: str) -> Slots:
        name, _, where = key.partition("[")
        known: Reference = self.reference[name]
        rows = []
        for day in self.days.values():
            held = day.categories[:, 0] == int(where[3:-1]) if where else np.ones(len(day.label), dtype=bool)
            if name[0] == "n":
                x = day.numbers[held, int(name[1:])]
                x = x[np.isfinite(x)]
                cells = np.searchsorted(known.edges, x, side="right")
            else:
                cells = day.categories[held, int(name[1:])]
            rows.append(np.bincount(cells, minlength=len(known.counts))[: len(known.counts)])
        at = np.array([int(START.timestamp() + number * 86_400) * 1_000_000 for number in self.days], dtype=np.int64)
        return Slots(at, np.array(rows, dtype=np.float64))

    def rows(self, first: int, last: int) -> pa.Table:
        return table({d: self.days[d] for d in range(first, last + 1)}, last)

    def findings(self, name: str, day: int) -> list[Finding]:
        """What a monitor says when a day is over."""
        now = START + (day + 1) * DAY
        if name in ("drift", "segments", "default"):
            monitor = DEFAULT if name == "default" else MONITORS[name]
            last = (day + 1) * 86_400 + int(START.timestamp())
            seen = {}
            for key, slots in self.slots.items():
                if "[" in key and name != "segments":
                    continue
                held = (slots.at < last * 1_000_000) & (slots.at >= (last - 67 * 86_400) * 1_000_000)
                seen[key] = Slots(slots.at[held], slots.cells[held])
            return judge_drift(monitor, EMPTY, self.reference, now, history=seen)
        monitor = MONITORS[name]
        if name == "integrity":
            return judge_integrity(monitor, self.rows(day - 8, day), self.reference, now)
        if name == "together":
            return judge_multivariate(monitor, self.rows(day - 41, day), now)
        rows = self.rows(day - 16, day)
        return judge_performance(monitor, INTERFACE, rows, 1, self.expected, now)


EMPTY = table({0: Day(np.zeros((0, 20)), np.zeros((0, 10), dtype=int), np.zeros(0), np.zeros(0), np.zeros(0))}, 0)


def quiet_stream(task: tuple[int, tuple[str, ...], int]) -> dict[str, list[int]]:
    """The days on which each monitor alarmed on an unchanged stream."""
    seed, wanted, windows = task
    watch = Watch(seed, stream(seed, range(-REFERENCE_DAYS, windows)), wanted)
    return {
        name: [d for d in range(windows) if any(f.verdict is Verdict.FAIL for f in watch.findings(name, d))]
        for name in wanted
    }


def changed_stream(task: tuple[int, str, int]) -> dict[str, int | None]:
    """How many windows after the onset each monitor alarmed first; those alarmed on the eve are no detection."""
    seed, change, strength = task
    days = stream(seed, range(-REFERENCE_DAYS, ONSET + WATCHED), change, STRENGTHS[change][strength])
    wanted = ("drift", "default", *{"segment": ("segments",), "missing": ("integrity",), "correlation": ("together",),
              "concept": ("quality",)}.get(change, ()))  # fmt: skip
    watch = Watch(seed, days, wanted)
    found: dict[str, int | None] = {}
    for name in wanted:
        found[name] = None
        for day in range(ONSET, ONSET + WATCHED):
            column = CHANGED[change] if name in ("drift", "default", "segments", "integrity") else ""
            failing = [f for f in watch.findings(name, day) if f.verdict is Verdict.FAIL]
            if any(not column or f.measurement.detail.get("column") == column for f in failing):
                found[name] = day - ONSET
                break
    return found


def keep(part: str, found: Any) -> None:
    """Put a part of undrift's results beside the others."""
    path = HERE / "truth-undrift.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, part: {**known.get(part, {}), **found}}))


def quiet(given: argparse.Namespace) -> None:
    groups = (
        ("drift", given.seeds, WINDOWS),
        ("default", max(2, given.seeds // 5), WINDOWS),
        ("quality", max(2, given.seeds // 5), WINDOWS),
        ("integrity", max(2, given.seeds // 10), WINDOWS),
        ("segments", max(2, given.seeds // 10), WINDOWS),
        ("together", max(2, given.seeds // 10), WINDOWS // 2),
    )
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for name, seeds, windows in groups:
            if given.only and name not in given.only.split(","):
                continue
            found = pool.map(quiet_stream, [(seed, (name,), windows) for seed in range(seeds)], chunksize=1)
            keep("quiet", {name: [[windows, each[name]] for each in found]})
            alarmed = sum(len(each[name]) for each in found)
            print(f"{name}: {alarmed} alarmed windows of {windows * seeds}", flush=True)


def changed(given: argparse.Namespace) -> None:
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for change in given.only.split(",") if given.only else STRENGTHS:
            for place in map(int, given.strengths.split(",")):
                tasks = [(seed, change, place) for seed in range(1000, 1000 + given.changed)]
                found = pool.map(changed_stream, tasks, chunksize=1)
                keep("changed", {f"{change}/{place}": found})
                print(change, place, found, flush=True)


RIVALS = ("scipy", "alibi", "evidently_rule", "nannyml")
HOMES = {"evidently_rule": "scipy"}


def rivals(given: argparse.Namespace) -> None:
    from rivals import environment, python

    kept: dict[str, Any] = {}
    path = HERE / "truth-rivals.json"
    if path.exists():
        kept = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        for tool in given.tools.split(","):
            calm, found = [], defaultdict(list)
            for seed in range(given.seeds):
                days = stream(seed, range(-REFERENCE_DAYS, given.windows))
                calm.append(_scores(folder, tool, days, range(given.windows), python, environment))
                print(tool, "quiet", seed, flush=True)
            for change, strengths in STRENGTHS.items():
                for place in map(int, given.strengths.split(",")):
                    strength = strengths[place]
                    for seed in range(1000, 1000 + given.changed):
                        days = stream(seed, range(-REFERENCE_DAYS, ONSET + 14), change, strength)
                        scores = _scores(
                            folder, tool, days, range(ONSET, ONSET + 14), python, environment, CHANGED[change]
                        )
                        found[f"{change}/{place}"].append(scores)
                print(tool, change, flush=True)
            kept[tool] = {"quiet": calm, "changed": found}
            path.write_text(json.dumps(kept))


def _scores(
    folder: str, tool: str, days: dict[int, Day], windows: range, python: Any, environment: Any, column: str = ""
) -> list[float]:
    """A column's statistic over its threshold in each window (the largest if none is named): above 1 is an alarm."""
    reference = pa.concat_tables([pa.table(columns(days[d])) for d in range(-REFERENCE_DAYS, 0)])
    current = pa.concat_tables([pa.table(columns(days[d])) for d in windows])
    import pyarrow.parquet as pq

    pq.write_table(reference, f"{folder}/reference.parquet")
    pq.write_table(current, f"{folder}/current.parquet")
    done = subprocess.run(
        [str(python(HOMES.get(tool, tool))), str(HERE / "truth_rival.py"), tool, folder, column],
        env=environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stderr[-2000:]}")
    return list(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("part", choices=("quiet", "changed", "rivals", "table"))
    asked.add_argument("--seeds", type=int, default=100)
    asked.add_argument("--changed", type=int, default=20)
    asked.add_argument("--windows", type=int, default=90)
    asked.add_argument("--processes", type=int, default=2)
    asked.add_argument("--strengths", default="0,1,2")
    asked.add_argument("--only", default="")
    asked.add_argument("--tools", default=",".join(RIVALS))
    given = asked.parse_args()
    if given.part == "table":
        from truth_table import write

        write(HERE)
    else:
        {"quiet": quiet, "changed": changed, "rivals": rivals}[given.part](given)


if __name__ == "__main__":
    sys.exit(main())
