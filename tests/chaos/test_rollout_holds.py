"""A rollout on the real system: bad candidates end as they should, a roll-back costs no request, the database may go.

The processes, the client and the candidates are those of benchmarks/rollouts/holds.py, with fewer requests; what
the full runs gave stands beside them. Dying workers are played in one process, step by step.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from undrift import releases
from undrift.deploy.routes import rollout_of, running
from undrift.errors import StateError
from undrift.project import Project, open_project
from undrift.work import Worker

from living import ME, Alive, Life, copy_of  # isort: skip
from town import DAY, LIVE, TRAINED_DAYS, Town  # isort: skip

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "rollouts"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Callable[[str], ModuleType]]:
    """The benchmarks by name, imported as they are."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    for name in ("holds", "roll_back", "aa_runs", "outage"):
        sys.modules.pop(name, None)


def test_a_candidate_that_raises_on_some_inputs_is_rolled_back_and_no_request_fails(
    scripts: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    holds = scripts("holds")
    # a larger first step than in the full run: a candidate beyond its margin is held there until that is proven
    rollout = holds._rollout(holds.CANARY.replace("5, 10, 25, 50, 100", "40, 70, 100"), *holds.GUARDS)
    scenario = holds.Scenario("raises", "same", "raises", rollout, "rolled_back")
    found = holds.run(scenario, tmp_path / "p", 4800, 1, days=8)
    assert (found.ended, found.failed_requests) == ("rolled_back", 0)
    assert "failed" in found.why
    assert 0 < found.exposed_units < 700
    assert found.weights[-1] == 0.0
    assert found.weights[:-1] == sorted(found.weights[:-1])


def test_a_roll_back_under_load_switches_every_process_and_costs_no_request(
    scripts: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """Also with the database held by somebody else for a while: serving goes on, and the worker afterwards."""
    scripts("holds")
    drill = scripts("roll_back")
    holds = sys.modules["holds"]
    scenario = type(holds.SCENARIOS[0])("roll back", "wide", "", drill.ROLLOUT, "rolled_back")
    with holds.living(scenario, tmp_path / "p", 1, 3) as (project, system, client):
        client.watermark(holds.START)
        system.ticked(project, holds.START)
        found = drill.once(project, system, client, 3, 0.5, 1)
        assert (found["failed"], found["seen"]) == (0, True)
        assert project.route("offers")["candidate"] == ""
        held = sqlite3.connect(tmp_path / "p" / ".undrift" / "undrift.db", isolation_level=None)
        held.execute("BEGIN EXCLUSIVE")
        rows = holds.Traffic(300, 2).day(0)
        client.predict(rows)
        client.watermark(holds.START + holds.DAY)
        assert client.failed == []
        assert (project.journal.get_setting("ticked") or 0) < holds.to_micros(holds.START + holds.DAY)
        held.execute("ROLLBACK")
        held.close()
        system.ticked(project, holds.START + holds.DAY)


def test_an_outage_of_the_database_under_load_costs_no_request_and_moves_no_rollout(
    scripts: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """Five seconds here; what a minute gave stands beside the script."""
    scripts("holds")
    seen = scripts("outage").outage(tmp_path / "p", 5.0, 3)
    assert seen["failed"] == {"before": 0, "during": 0, "after": 0}
    assert min(seen["sent"].values()) > 0
    assert (seen["worker died"], seen["rollout stood still"]) == (False, True)
    assert seen["rollout afterwards"] == "running at 50 %"


class Died(BaseException):
    """A worker's end, as kill -9 is one: no handler of `Exception` sees it."""


STEPS: tuple[tuple[str, bool], ...] = (
    ("record", False),
    ("record", True),
    ("publish_routes", False),
    ("publish_routes", True),
    ("put_setting", False),
    ("finish", False),
)
"""Where a worker dies within a tick: the call, and whether it was done when it died."""


def decisions(project: Project) -> list[tuple[Any, ...]]:
    return [(e.kind, e.subject, e.at, e.why) for e in project.journal.events() if e.actor == "work"]


def die_once(life: Life, name: str, done: bool) -> list[str]:
    """Let the worker die at the next call of that name while it does a tick; what it had begun with is its lease."""
    worker = life.worker
    where: Any = {"record": worker.project.journal, "put_setting": worker.project.journal,
                  "publish_routes": worker.project, "finish": worker.project.jobs}[name]  # fmt: skip
    real, deaths = getattr(where, name), list[str]()
    do = worker._do

    def doing(job: Any) -> None:
        def call(*given: Any, **how: Any) -> Any:
            setattr(where, name, real)
            if done:
                real(*given, **how)
            deaths.append(name)
            raise Died

        setattr(where, name, call)
        do(job)

    worker._do = doing  # type: ignore[method-assign]
    return deaths


def test_a_worker_that_dies_at_any_step_of_a_tick_repeats_no_step_of_the_rollout(
    two: Project, alive: Alive, trained_twice: Path, tmp_path: Path
) -> None:
    days = len(STEPS)
    with copy_of(trained_twice, tmp_path / "calm") as calm:
        undisturbed = Life(calm, Town(TRAINED_DAYS + 10))
        try:
            undisturbed.play()
            releases.roll_out(calm, actor=ME)
            undisturbed.service.follow()
            undisturbed.play(days)
            expected = decisions(calm)
        finally:
            undisturbed.close()
    life = alive(two, Town(TRAINED_DAYS + 10))
    life.play()
    state = releases.roll_out(two, actor=ME)
    life.service.follow()
    for name, done in STEPS:
        deaths = die_once(life, name, done)
        with pytest.raises(Died):
            life.play()
        assert deaths == [name]
        _expire(two.root)
        life.worker = Worker(life._working, log=life.said.append)
        life.settle(life.now)
    assert decisions(two) == expected
    weights = [e.payload["state"]["weight"] for e in two.journal.events(subject=state.subject)]
    assert weights == sorted(weights), "until it won: it never fell, never jumped back"
    advanced = [e.payload["state"]["step"] for e in two.journal.events(kinds=("rollout.advanced",))]
    assert advanced == sorted(set(advanced)), "each step once"
    assert rollout_of(two.journal, state.id).status == "succeeded"


def _expire(root: Path) -> None:
    """Do not wait for the leases of the dead."""
    database = sqlite3.connect(root / ".undrift" / "undrift.db")
    with database:
        database.execute("UPDATE lease SET expires_at = 0")
        database.execute("UPDATE job SET expires_at = 0 WHERE state = 'running'")
    database.close()


def test_while_the_database_is_away_answers_go_on_and_the_rollout_stands_still(two: Project, alive: Alive) -> None:
    life = alive(two, Town(TRAINED_DAYS + 10))
    life.play()
    releases.roll_out(two, actor=ME)
    life.service.follow()
    life.play(2)
    (before,) = running(two.journal)
    store = life._working.store
    real_read, real_write = store.read, store.write

    def away(*given: Any, **how: Any) -> Any:
        raise StateError("the database is away.")

    store.read = store.write = away  # type: ignore[method-assign]
    day = life.town.day(life.now)
    answered = life.service.post("/v1/models/rides:predict", {"instances": day.rides})["rows"]
    assert len(answered) == len(day.rides)
    stop = threading.Event()
    thread = threading.Thread(target=life.worker.run, args=(stop,))
    thread.start()
    try:
        for _ in range(200):
            if any("the database is away" in line for line in life.said):
                break
            stop.wait(0.05)
        assert any("trying again" in line for line in life.said), "it is told, and the worker lives"
        assert thread.is_alive()
        assert running(two.journal) == [before], "nothing moved"
    finally:
        store.read, store.write = real_read, real_write  # type: ignore[method-assign]
        stop.set()
        thread.join(30)
    life.now += DAY
    life._announce(life.now)
    (after,) = running(two.journal)
    assert after.step >= before.step
    assert after.weight >= before.weight
    assert life.now > LIVE
    with open_project(two.root) as again:
        assert again.journal.verify() > 0


def test_candidates_as_good_as_the_champion_are_rolled_back_no_more_often_than_stated(
    scripts: Callable[[str], ModuleType],
) -> None:
    runs = scripts("aa_runs")
    ends = [runs.live(seed, 150, 6) for seed in range(8)]
    # at a chance of 0.05 each, more than two of eight have a chance of 0.006
    assert sum(state.status == "rolled_back" for state in ends) <= 2
    assert all(state.exposed_units > 0 for state in ends)
