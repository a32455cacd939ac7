"""How long a roll-back takes, and what it costs: from the decision in the log to the last answer of the candidate.

    python benchmarks/rollouts/roll_back.py [--times 10] [--workers 3] [--seconds 2]

A rollout at 50 % serves under load from eight connections; then a person rolls it back. Measured from the moment the
event was recorded: when the last request was sent that the candidate still answered, and when the last server process
had switched (by its acknowledgement). Counted: requests that failed. The stated limit is one second.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from holds import SCENARIOS, START, Client, System, Traffic, living

from undrift import releases
from undrift.project import Project

LIMIT = 1.0
ROLLOUT = "steps=(50, 100), hold='1d', guardrails=(ud.Guardrail(metric='failed', margin=0.01),)"


def switched(root: Path, epoch: int, after: float) -> float | None:
    """Seconds after the decision until every process followed the table, as its own clock told; None if not yet."""
    latest = 0.0
    for file in (root / ".undrift" / "serve").glob("*.json"):
        try:
            ack = json.loads(file.read_text())
        except (OSError, ValueError):
            return None
        if "epoch" not in ack:
            continue
        if ack["epoch"] < epoch:
            return None
        from datetime import datetime

        latest = max(latest, datetime.fromisoformat(ack["updated_at"]).timestamp() - after)
    return latest


def once(project: Project, system: System, client: Client, workers: int, seconds: float, seed: int) -> dict[str, Any]:
    """One roll-back under load."""
    releases.roll_out(project, actor="person:bench", why="again")
    system.followed(project, workers)
    rows = Traffic(200_000, seed).day(0)
    stop = threading.Event()

    def load() -> None:
        for start in range(0, len(rows), 200):
            if stop.is_set():
                return
            client.predict(rows[start : start + 200])

    failed = len(client.failed)
    client.last_candidate_sent = 0.0
    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(seconds)
    event = releases.roll_back(project, actor="person:bench", why="drill")
    decided = event.recorded_at.timestamp()
    epoch = project.publish_routes().epoch
    found: list[float] = []

    def all_switched() -> bool:
        at = switched(system.root, epoch, decided)
        found[:] = [] if at is None else [at]
        return at is not None

    system.wait(all_switched, f"epoch {epoch}")
    time.sleep(seconds)
    stop.set()
    thread.join()
    return {
        "last_candidate_answer": max(0.0, client.last_candidate_sent - decided),
        "all_switched": found[0],
        "failed": len(client.failed) - failed,
        "seen": client.last_candidate_sent > 0,
    }


def measure(times: int, workers: int, seconds: float, root: Path) -> list[dict[str, Any]]:
    scenario = type(SCENARIOS[0])("roll back", "wide", "", ROLLOUT, "rolled_back")
    with living(scenario, root, 1, workers) as (project, system, client):
        client.watermark(START)
        system.ticked(project, START)
        return [once(project, system, client, workers, seconds, seed) for seed in range(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="undrift-roll-back-") as folder:
        runs = measure(options.times, options.workers, options.seconds, Path(folder) / "p")
    last = sorted(run["last_candidate_answer"] for run in runs)
    switch = sorted(run["all_switched"] for run in runs)
    print(f"{len(runs)} roll-backs, {options.workers} server processes")
    print(f"last request that the candidate answered, seconds after the decision: median {last[len(last) // 2]:.3f}, "
          f"worst {last[-1]:.3f}")  # fmt: skip
    print(f"every process switched: median {switch[len(switch) // 2]:.3f}, worst {switch[-1]:.3f} (limit {LIMIT:g})")
    print(f"failed requests: {sum(run['failed'] for run in runs)}")
    assert all(run["seen"] for run in runs), "the candidate never answered, so nothing was measured"


if __name__ == "__main__":
    main()
