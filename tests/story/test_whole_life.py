"""The whole life of a model in one process: real server, worker and stores, in event time, in a town of known truth.

What is planted is known, so what undrift decides can be told right or wrong: a better challenger wins, one that breaks
when it meets live traffic is taken back, answers that go constant are an incident, and a world that turns asks for a
retrain. Two runs of the same events decide the same, whatever dies in between.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undrift import inquiry, lifecycle, releases, scoring
from undrift.data.outcomes import outcomes
from undrift.event import Event
from undrift.project import Project, open_project
from undrift.state.journal import Journal
from undrift.work import Worker

from living import ME, Alive, Life, copy_of, redeclared, train_as  # isort: skip
from town import DAY, LIVE, PER_DAY, TRAINED_DAYS, Town  # isort: skip

Faults = Callable[[dict[str, Any]], None]


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Plant a fault in what the server answers; ``{}`` for none."""
    file = tmp_path / "faults.json"
    file.write_text("{}")
    monkeypatch.setenv("UNDRIFT_FAULTS", str(file))

    def plant(given: dict[str, Any]) -> None:
        file.write_text(json.dumps(given))

    return plant


def events(project: Project, *kinds: str) -> list[Event]:
    return project.journal.events(kinds=kinds)


def served(life: Life, start: datetime, end: datetime) -> Counter[int]:
    """How many rides of a span each version answered."""
    numbers = range((start - life.town.start) // DAY * PER_DAY, (end - life.town.start) // DAY * PER_DAY)
    wanted = {f"r{number:06d}" for number in numbers}
    return Counter(row["version"] for row in life.answered if row["id"] in wanted)


def brier(project: Project, start: datetime, end: datetime) -> float:
    """Mean squared error of what was answered in a span, over the rides whose outcome came."""
    rows = outcomes(project.lake, "rides", start, end, end + DAY)
    rows = rows.filter(rows["label"].is_valid())
    truth = np.array(rows["label"].to_pylist()) == "1"
    return float(np.mean((rows["score"].to_numpy() - truth) ** 2))


def as_if(life: Life, version: int, start: datetime) -> float:
    """Mean squared error a version would have had on the rides since, those whose outcome came."""
    first, last = ((at - life.town.start) // DAY * PER_DAY for at in (start, life.now - DAY))
    rides = life.town.tables(last // PER_DAY)["rides"].slice(first, last - first)
    found = scoring.score(life.project, rides, version=version)
    return float(np.mean((found["score"].to_numpy() - rides["late"].to_numpy()) ** 2))


def test_a_better_challenger_wins_step_by_step(two: Project, alive: Alive) -> None:
    life = alive(two)
    assert life.play(2) == [], "a healthy week calls nobody"
    state = releases.roll_out(two, actor=ME, why="features at last")
    life.service.follow()
    decided = life.play(6)
    assert decided == ["rollout.advanced", "rollout.advanced", "rollout.succeeded"]
    shadow, step, won = (event.at for event in events(two, "rollout.advanced", "rollout.succeeded"))
    assert set(served(life, LIVE + 2 * DAY, shadow)) == {1}, "the shadow answers nobody"
    for weight, begin, end in ((0.4, shadow, step), (0.7, step, won)):
        share = served(life, begin, end)[2] / served(life, begin, end).total()
        assert abs(share - weight) < 0.08, "units fall by the declared weight"
    assert set(served(life, won, life.now)) == {2}
    assert inquiry.status(two)["models"]["rides"]["champion"] == 2
    assert brier(two, won, life.now - DAY) < as_if(life, 1, won) - 0.01, "and it is better for the town"
    exposed = {row["id"] for row in life.answered if row["version"] == 2} & {
        ride["ride"] for day in range(20) if LIVE + day * DAY < won for ride in life.town.day(LIVE + day * DAY).rides
    }
    assert f"{len(exposed)} units were exposed before it won" in events(two, "rollout.succeeded")[0].why
    assert two.journal.get("rollout", state.id)["status"] == "succeeded"  # type: ignore[index]
    assert inquiry.status(two)["models"]["rides"]["incidents"] == []


def test_a_candidate_that_breaks_when_it_meets_live_traffic_is_taken_back(project: Project, alive: Alive) -> None:
    """It learnt from a column that tells the outcome, in the shadow too; once users get answers, it tells nothing."""
    breaks = LIVE + 2 * DAY
    life = alive(project, Town(TRAINED_DAYS + 12, leak_until=breaks))
    life.play()
    assert train_as(project, "leaky").report.verdict == 0, "the gate cannot see it"
    releases.roll_out(project, actor=ME)
    life.service.follow()
    assert life.play(6) == ["rollout.advanced", "rollout.rolled_back"]
    (begun,), (ended,) = events(project, "rollout.advanced"), events(project, "rollout.rolled_back")
    assert begun.at == breaks
    assert ended.at - begun.at <= 2 * DAY
    assert ended.why.startswith("brier differs by ")
    exposed = served(life, LIVE, life.now)[2]
    assert ended.why.endswith(f"{exposed} units were exposed")
    assert exposed < PER_DAY
    assert set(served(life, ended.at, life.now)) == {1}
    assert [event.payload["version"] for event in events(project, "revision.promoted")] == [1]
    with redeclared(project, train="leaky") as later, pytest.raises(Exception, match="was taken back before"):
        releases.roll_out(later, actor=ME)


def test_constant_answers_are_one_incident_and_nothing_is_learnt_from_them(
    project: Project, alive: Alive, faults: Faults
) -> None:
    life = alive(project)
    assert life.play(5) == []
    faults({"constant": 0.97})
    first = life.play()
    assert first[0] == "alert.opened"
    (incident,) = inquiry.status(project)["models"]["rides"]["incidents"]
    assert incident["kind"] == "silent"
    assert "constant answers of version 1" in incident["title"]
    assert incident["onset"][:10] == (LIVE + 5 * DAY).date().isoformat()
    broken = life.play(2)
    assert "alert.opened" not in broken, "one cause, one incident"
    refused = events(project, "retrain.refused")
    assert len(refused) == 1, "told once, not every day"
    assert refused[0].payload["reason"] == "fault"
    assert events(project, "retrain.requested") == []
    faults({})
    healed = life.play(3)
    assert healed.count("alert.resolved") == 1
    assert inquiry.status(project)["models"]["rides"]["incidents"] == []
    assert len(events(project, "alert.opened")) == 1


def test_when_the_world_turns_a_challenger_is_trained_and_takes_over(project: Project, alive: Alive) -> None:
    turned = LIVE + 4 * DAY
    days = 22
    life = alive(project, Town(TRAINED_DAYS + days, turned_at=turned))
    with redeclared(project, retrain="ud.Retrain(window='8d', fresh='2d', minimum_rows=500, cooldown='3d')") as changed:
        lifecycle.apply(changed, actor=ME)
    decided = life.play(days)
    assert [kind for kind in decided if kind != "alert.updated"] == [
        "alert.opened",
        "retrain.requested",
        "version.registered",
        "retrain.finished",
        "rollout.started",
        "rollout.advanced",
        "retrain.refused",  # the incident still asks, but its answer is on its way
        "rollout.advanced",
        "rollout.succeeded",
        "alert.resolved",
    ]
    assert events(project, "retrain.refused")[0].payload["reason"] == "rollout"
    opened = events(project, "alert.opened")[0]
    assert opened.at >= turned
    assert "log_loss" in opened.why
    accepted = [event for event in events(project, "retrain.finished") if event.payload["accepted"]]
    assert accepted, [event.why for event in events(project, "retrain.finished")]
    won = events(project, "rollout.succeeded")[0].at
    before, during = brier(project, LIVE, turned), brier(project, turned, opened.at)
    after = brier(project, won, life.now - DAY)
    assert during > before + 0.05
    assert after < during - 0.05


def log_of(project: Project) -> list[tuple[Any, ...]]:
    """The decisions of the worker, without what differs between machines."""
    found = project.journal.events()
    return [(e.kind, e.subject, e.at, e.actor, e.why, e.key) for e in found if e.actor == "work"]


def story(life: Life) -> None:
    life.play()
    releases.roll_out(life.project, actor=ME)
    life.service.follow()
    life.play(3)


class Dies(BaseException):
    """What a kill looks like from inside: nothing catches it."""


class Mortal:
    """Workers of which each dies at the next of the given places, and is followed by another."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.deaths = project, 0
        self._patch = monkeypatch
        self._armed = ""
        record, finish, setting = Journal.record, type(project.jobs).finish, Journal.put_setting

        def recorded(journal: Journal, drafts: Any, **how: Any) -> Any:
            ticking = any(draft.kind == "tick.judged" for draft in drafts)
            self._die("before it is recorded", ticking)
            found = record(journal, drafts, **how)
            self._die("after it was recorded", ticking)
            return found

        def finished(jobs: Any, job: Any, result: Any = None) -> None:
            self._die("before the job is finished", True)
            finish(jobs, job, result)

        def put(journal: Journal, name: str, value: Any) -> None:
            self._die("before time goes on", name == "ticked")
            setting(journal, name, value)

        monkeypatch.setattr(Journal, "record", recorded)
        monkeypatch.setattr(type(project.jobs), "finish", finished)
        monkeypatch.setattr(Journal, "put_setting", put)

    def _die(self, place: str, here: bool) -> None:
        if here and place == self._armed:
            self._armed = ""
            self.deaths += 1
            raise Dies(place)

    def arm(self, place: str) -> None:
        self._armed = place


@pytest.mark.parametrize(
    "place",
    ["before it is recorded", "after it was recorded", "before time goes on", "before the job is finished"],
)
def test_whatever_dies_the_same_is_decided_once(
    trained_twice: Path, tmp_path: Path, alive: Alive, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with copy_of(trained_twice, tmp_path / "calm") as calm:
        story(alive(calm))
        expected = log_of(calm)
    assert [entry[0] for entry in expected].count("rollout.advanced") == 2
    with copy_of(trained_twice, tmp_path / "town") as project:
        life = alive(project)
        mortal = Mortal(project, monkeypatch)
        cycle = Worker.cycle
        heirs: list[Project] = []

        def dying(worker: Worker) -> bool:
            try:
                return cycle(worker)
            except Dies:
                heirs.append(open_project(project.root))
                worker.project = heirs[-1]  # the next one knows nothing of the first
                worker.holder, worker._ingest, worker._fence = f"heir {len(heirs)}", None, None
                expire(project)
                return True

        monkeypatch.setattr(Worker, "cycle", dying)
        for day in range(4):
            mortal.arm(place)
            life.play()
            if day == 0:
                releases.roll_out(project, actor=ME)
                life.service.follow()
        assert mortal.deaths == 4
        for heir in heirs:
            heir.close()
        assert log_of(project) == expected
        keys = Counter(event.key for event in project.journal.events() if event.key)
        assert set(keys.values()) == {1}
        project.journal.verify()
        rows = project.lake.scan("predictions_rides")
        assert rows is not None
        assert rows.num_rows == len(set(rows["prediction_id"].to_pylist())) == 4 * PER_DAY


def expire(project: Project) -> None:
    """Let the leases of the dead end at once."""
    import sqlite3

    with sqlite3.connect(project.root / ".undrift" / "undrift.db") as database:
        database.execute("UPDATE job SET expires_at = 0 WHERE state = 'running'")
        database.execute("UPDATE lease SET expires_at = 0")
    database.close()
