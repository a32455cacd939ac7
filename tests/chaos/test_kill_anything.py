"""Kill -9 of serve or work at random moments of a rollout: nothing is lost, nothing is twice, the end is the same.

The undisturbed run is the same town lived in this process; the disturbed one are the real commands, `undrift serve`
with two server processes and two `undrift work`, whose traffic comes over HTTP from a caller that asks again when it
got no answer.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from undrift import inquiry, releases
from undrift.capture.spool import TAKEN
from undrift.ids import to_micros
from undrift.project import Project, open_project
from undrift.state.jobs import JobDraft
from undrift.work import KINDS, Worker

from living import ME, Life, copy_of, send_day  # isort: skip
from town import DAY, LIVE, PER_DAY, TRAINED_DAYS, Town  # isort: skip

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

DAYS = 6
KILLS = 10
BATCH = 10
PATIENCE = 120.0
COMMANDS = {"serve": "serve", "work one": "work", "work two": "work"}


class Kill:
    """One death: on which day, at which of its requests or (None) while its tick is being done, whose, how late."""

    def __init__(self, chance: random.Random, number: int) -> None:
        self.day = 1 + number * (DAYS - 1) // KILLS
        self.request = chance.randrange(20) if number % 2 else None
        self.victim = chance.choice(["serve", "a server process", "work one", "work two"])
        self.delay = chance.uniform(0.0, 0.3 if number % 2 else 0.8)


class System:
    """The processes of the project, each started again as soon as it is dead."""

    def __init__(self, project: Project, log: Path) -> None:
        self.project, self.log = project, log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: list[str] = []
        self._guard = threading.Lock()
        self._timers: list[threading.Timer] = []

    def start(self, name: str) -> None:
        environ = {**os.environ, "UNDRIFT_SERVE__PORT": str(self.port), "OMP_NUM_THREADS": "1"}
        with (self.log / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", "undrift.app.cli", COMMANDS[name], "-C", str(self.project.root)],
                stdout=log, stderr=subprocess.STDOUT, env=environ,
            )  # fmt: skip

    def kill_later(self, kill: Kill) -> None:
        timer = threading.Timer(kill.delay, self._kill, (kill.victim,))
        self._timers.append(timer)
        timer.start()

    def _kill(self, victim: str) -> None:
        with self._guard:
            self.killed.append(victim)
            if victim == "a server process":
                pids = [row["pid"] for row in inquiry.serving(self.project)]
                if pids:
                    os.kill(random.Random(len(self.killed)).choice(pids), signal.SIGKILL)
                return
            child = self.children[victim]
            child.kill()
            child.wait()
            self.start(victim)

    def wait(self, met: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not met():
            with self._guard:
                for name, child in list(self.children.items()):
                    if child.poll() is not None:  # as a supervisor would: the port may still have been in use
                        self.start(name)
            assert time.monotonic() < end, f"never {what}: {self.told()}"
            time.sleep(0.02)

    def told(self) -> str:
        return "\n".join(f"{f.name}: {f.read_text(errors='replace')[-1500:]}" for f in sorted(self.log.glob("*.log")))

    def settled(self, boundary: datetime) -> None:
        """Until the tick of a boundary is done and every server process follows what came of it."""
        journal, jobs = self.project.journal, self.project.jobs
        self.wait(lambda: (journal.get_setting("ticked") or 0) >= to_micros(boundary), f"the tick of {boundary}")
        self.wait(lambda: not jobs.unfinished(KINDS), "the jobs of the tick")
        self.followed()

    def followed(self) -> None:
        epoch = self.project.publish_routes().epoch
        self.wait(lambda: [r for r in inquiry.serving(self.project) if r["epoch"] >= epoch][1:], f"epoch {epoch} twice")

    def stop(self) -> None:
        for timer in self._timers:
            timer.join()
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class Caller:
    """Sends requests in order, each until it is answered, and lets the deaths of the day happen on the way."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.answered: dict[str, dict[str, Any]] = {}
        self.labelled: set[str] = set()
        self.failures = 0
        self.requests = 0
        self.due: list[Kill] = []
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{system.port}", timeout=10)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        """The answer; predictions are asked in small parts, as several callers would."""
        if path.endswith(":predict"):
            rows = body["instances"]
            for first in range(0, len(rows), BATCH):
                part = self._ask(path, {"instances": rows[first : first + BATCH]}, {})
                self.answered.update({row["id"]: row for row in part["rows"]})
            return {"rows": []}
        answer = self._ask(path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        if path.endswith("/labels"):
            assert answer == {"accepted": len(body["labels"])}
            self.labelled |= {label["id"] for label in body["labels"]}
        return answer

    def _ask(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        for kill in [kill for kill in self.due if kill.request == self.requests]:
            self.system.kill_later(kill)
        self.requests += 1
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            try:
                answer = self._http.post(path, json=body, headers=headers)
            except httpx.TransportError:
                self.failures += 1
                return False
            if answer.status_code == 200:
                found.append(answer.json())
                return True
            assert answer.status_code == 503, answer.text
            self.failures += 1
            return False

        self.system.wait(answered, f"answered {path}")
        return found[0]

    def day(self, town: Town, start: datetime, kills: list[Kill]) -> None:
        """One day with its deaths: at requests, and while the tick at its end is being done."""
        self.requests, self.due = 0, kills
        send_day(self.post, town.day(start))
        self.post("/v1/watermark", {"event_time": to_micros(start + DAY)})
        for kill in kills:
            if kill.request is None:
                self.system.kill_later(kill)
        self.system.settled(start + DAY)

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def system(trained_twice: Path, tmp_path: Path) -> Iterator[System]:
    with copy_of(trained_twice, tmp_path / "town") as project:
        toml = project.root / "undrift.toml"
        text = re.sub("lease_seconds = .*", "lease_seconds = 2.0", toml.read_text())
        toml.write_text(text.replace("[serve]\n", "[serve]\ndrain_seconds = 1.0\nsegment_seconds = 1.0\n"))
        with open_project(project.root) as again:
            system = System(again, tmp_path)
            try:
                yield system
            finally:
                system.stop()


def decisions(project: Project) -> list[tuple[Any, ...]]:
    return [(e.kind, e.subject, e.at, e.why, e.key) for e in project.journal.events() if e.actor == "work"]


def undisturbed(trained_twice: Path, folder: Path, town: Town) -> list[tuple[Any, ...]]:
    with copy_of(trained_twice, folder) as project:
        life = Life(project, town)
        try:
            life.play()
            releases.roll_out(project, actor=ME)
            life.service.follow()
            life.play(DAYS - 1)
            return decisions(project)
        finally:
            life.close()


def test_killing_serve_and_work_at_ten_random_moments_changes_nothing_of_what_is_decided(
    system: System, trained_twice: Path, tmp_path: Path
) -> None:
    town = Town(TRAINED_DAYS + DAYS)
    expected = undisturbed(trained_twice, tmp_path / "calm", town)
    assert [kind for kind, *_ in expected].count("rollout.succeeded") == 1
    chance = random.Random(20)
    kills = [Kill(chance, number) for number in range(KILLS)]
    project = system.project
    for name in COMMANDS:
        system.start(name)
    caller = Caller(system)
    try:
        caller.post("/v1/watermark", {"event_time": to_micros(LIVE)})
        system.settled(LIVE)
        for day in range(DAYS):
            caller.day(town, LIVE + day * DAY, [kill for kill in kills if kill.day == day])
            if day == 0:
                releases.roll_out(project, actor=ME)
                system.followed()
    finally:
        caller.close()
        system.stop()
    assert len(system.killed) == KILLS
    assert {"serve", "work one", "work two"} <= set(system.killed)
    assert caller.failures, "or nobody was killed under load"

    with open_project(project.root) as last:  # what was captured after the last cycle of the last worker
        worker = Worker(last)
        expire(project.root)
        while worker.cycle():
            pass
    left = [each.name for each in (project.root / ".undrift" / "spool").iterdir()]
    assert left == [TAKEN], "all of it is in the lake"
    everything = {ride["ride"] for day in range(DAYS) for ride in town.day(LIVE + day * DAY).rides}
    assert caller.answered.keys() == everything
    predictions, labels = project.lake.scan("predictions_rides"), project.lake.scan("labels_rides")
    weather = project.lake.scan("source_weather", where=[("date", ">=", LIVE.date())])
    assert predictions is not None
    assert labels is not None
    assert weather is not None
    assert Counter(predictions["prediction_id"].to_pylist()) == Counter(everything), "every answer exactly once"
    assert Counter(labels["prediction_id"].to_pylist()) == Counter(caller.labelled), "every label exactly once"
    assert len(caller.labelled) > (DAYS - 1) * PER_DAY
    assert weather.num_rows == DAYS * 12, "what was pushed with a key counts once"
    for row in predictions.select(["prediction_id", "revision"]).to_pylist():
        assert row["revision"] == caller.answered[row["prediction_id"]]["revision"]

    assert decisions(project) == expected, "the rollout took the same way to the same end"
    events = project.journal.events()
    assert project.journal.verify() == len(events)
    assert max(Counter(event.key for event in events if event.key).values()) == 1
    ticks = [event.at for event in events if event.kind == "tick.judged"]
    assert ticks == [LIVE + day * DAY for day in range(DAYS + 1)]
    jobs = done_jobs(project.root)
    assert [key for key, _, _ in jobs] == [f"tick:{(LIVE + day * DAY).isoformat()}" for day in range(DAYS + 1)]
    assert {state for _, state, _ in jobs} == {"done"}


def test_two_work_processes_share_the_jobs_and_do_none_twice(system: System) -> None:
    """Ticks are handed out one by one until both processes were seen at work on one."""
    project = system.project
    system.start("work one")
    system.start("work two")
    holders: set[str] = set()
    submitted = 0

    def shared() -> bool:
        nonlocal submitted
        if len(project.jobs.unfinished(KINDS)) < 3:
            boundary = (LIVE + submitted * DAY).isoformat()
            project.jobs.submit(JobDraft(kind="tick", key=f"tick:{boundary}", payload={"at": boundary}))
            submitted += 1
        holders.update(job.holder.split(":")[1] for job in project.jobs.unfinished(KINDS) if job.holder)
        return len(holders) == 2

    try:
        system.wait(shared, "done by both")
        system.wait(lambda: not project.jobs.unfinished(KINDS), "done")
    finally:
        system.stop()
    assert holders == {str(child.pid) for child in system.children.values()}
    jobs = done_jobs(project.root)
    assert len(jobs) == submitted
    assert {(state, attempts) for _, state, attempts in jobs} == {("done", 1)}
    ticks = [event.at for event in project.journal.events(kinds=("tick.judged",))]
    assert sorted(ticks) == [LIVE + day * DAY for day in range(submitted)]


def expire(root: Path) -> None:
    """Do not wait for the leases of the dead."""
    _rows(root, "UPDATE lease SET expires_at = 0")


def done_jobs(root: Path) -> list[tuple[str, str, int]]:
    """Key, state and number of attempts of each job, in the order of the keys."""
    return _rows(root, "SELECT key, state, attempts FROM job ORDER BY key")


def _rows(root: Path, statement: str) -> list[Any]:
    database = sqlite3.connect(root / ".undrift" / "undrift.db")
    try:
        with database:
            return database.execute(statement).fetchall()
    finally:
        database.close()
