"""The database away under load: serving goes on, the rollout stands still, then both go on.

    python benchmarks/rollouts/outage.py [--seconds 60] [--workers 3]

A rollout at 50 % on `undrift serve` with three processes and `undrift work`; eight connections send requests all the
time. Somebody else takes the database for so many seconds (an exclusive lock: no other process can read or write it)
while a day ends. Printed: requests answered and failed before, during and after; what the rollout and the worker did
meanwhile, and how long after the end the day was judged.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from holds import DAY, SCENARIOS, START, Client, Traffic, living

from undrift import releases
from undrift.deploy.routes import rollout_of
from undrift.ids import to_micros

ROLLOUT = "steps=(50, 100), hold='3d', minimum_units=50, guardrails=(ud.Guardrail(metric='failed', margin=0.01),)"


def outage(root: Path, seconds: float, workers: int) -> dict[str, Any]:
    """One outage; what was seen of it."""
    scenario = type(SCENARIOS[0])("outage", "wide", "", ROLLOUT, "running")
    with living(scenario, root, 1, workers) as (project, system, client):
        client.watermark(START)
        system.ticked(project, START)
        state = releases.roll_out(project, actor="person:bench", why="outage")
        system.followed(project, workers)
        rows = iter(Traffic(1_000_000, 1).day(0))
        sent: dict[str, int] = {"before": 0, "during": 0, "after": 0}
        failed = dict.fromkeys(sent, 0)
        phase, stop = ["before"], threading.Event()

        def load() -> None:
            mine = Client(client.port)
            while not stop.is_set():
                now, known = phase[0], len(mine.failed)
                part = [next(rows) for _ in range(100)]
                mine.predict(part)
                sent[now] += len(part)
                failed[now] += len(mine.failed) - known

        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(3)
        held = sqlite3.connect(root / ".undrift" / "undrift.db", isolation_level=None, timeout=30)
        held.execute("BEGIN EXCLUSIVE")
        phase[0] = "during"
        client.watermark(START + DAY)  # a day ends, and nobody can judge it
        time.sleep(seconds)
        work = system.children["work"].poll()
        phase[0] = "after"
        held.execute("ROLLBACK")
        held.close()
        back = time.monotonic()
        before = (rollout_of(project.journal, state.id), project.journal.get_setting("ticked"))
        system.ticked(project, START + DAY)
        late = time.monotonic() - back
        time.sleep(2)
        stop.set()
        thread.join()
        client.watermark(START + 2 * DAY)
        system.ticked(project, START + 2 * DAY)
        after = rollout_of(project.journal, state.id)
        return {
            "sent": sent,
            "failed": failed,
            "worker died": work is not None,
            "rollout stood still": before[0].step == state.step and (before[1] or 0) < to_micros(START + DAY),
            "judged after the end, seconds": round(late, 2),
            "rollout afterwards": f"{after.status} at {after.weight:g} %",
            "log verified, events": project.journal.verify(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="undrift-outage-") as folder:
        for what, seen in outage(Path(folder) / "p", options.seconds, options.workers).items():
            print(f"{what}: {seen}")


if __name__ == "__main__":
    main()
