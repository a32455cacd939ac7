"""The worker: ingest under a lease, one tick after the other, jobs done once, failures that are told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from undrift import lifecycle, work
from undrift.errors import ConflictError, LeaseLostError, StateError
from undrift.ids import to_micros
from undrift.project import Project, open_project
from undrift.state.jobs import JobDraft
from undrift.work import CONDUCTOR, Worker

from living import ME, Alive, Life, redeclared, send_day  # isort: skip
from town import DAY, LIVE, PER_DAY  # isort: skip

HOUR = timedelta(hours=1)


@contextmanager
def another(life: Life, **how: Any) -> Iterator[Worker]:
    """A second worker on the same project."""
    with open_project(life.project.root) as own:
        yield Worker(own, log=life.said.append, **how)


def ticks(project: Project) -> list[Any]:
    return [event.at for event in project.journal.events(kinds=("tick.judged",))]


def test_ticks_follow_each_other_without_a_gap_however_far_time_jumps(project: Project, alive: Alive) -> None:
    life = alive(project)
    send_day(life.service.post, life.town.day(LIVE))
    life._announce(LIVE + 5 * DAY)
    assert ticks(project) == [LIVE + day * DAY for day in range(6)]
    assert project.journal.get_setting("ticked") == to_micros(LIVE + 5 * DAY)


def test_a_watermark_inside_a_day_makes_no_tick_of_it(project: Project, alive: Alive) -> None:
    life = alive(project)
    life.service.post("/v1/watermark", {"event_time": to_micros(LIVE + 23 * HOUR)})
    for _ in range(4):
        life.worker.cycle()
    assert ticks(project) == [LIVE]
    assert project.now().now() == LIVE + 23 * HOUR


def test_a_watermark_counts_only_after_a_whole_cycle(project: Project, alive: Alive) -> None:
    """What was acknowledged before it may stand in segments that the cycle had read already."""
    life = alive(project)
    life.service.post("/v1/watermark", {"event_time": to_micros(LIVE + DAY)})
    assert life.worker.cycle(), "there is something left to do: the watermark, when its time has come"
    assert ticks(project) == [LIVE]
    life.worker.cycle()
    assert ticks(project) == [LIVE, LIVE + DAY]


def test_what_was_sent_is_in_the_lake_once(project: Project, alive: Alive) -> None:
    life = alive(project)
    day = life.town.day(LIVE)
    send_day(life.service.post, day)
    send_day(life.service.post, day)  # a caller that got no answer asks again
    life.settle(LIVE)
    rows = project.lake.scan("predictions_rides")
    labels = project.lake.scan("labels_rides")
    weather = project.lake.scan("source_weather", where=[("date", "==", LIVE.date())])
    assert rows is not None
    assert labels is not None
    assert weather is not None
    assert Counter(rows["prediction_id"].to_pylist()) == Counter(ride["ride"] for ride in day.rides)
    assert Counter(labels["prediction_id"].to_pylist()) == Counter(label["id"] for label in day.outcomes)
    assert (weather.num_rows, rows.num_rows) == (12, PER_DAY)


def test_only_one_worker_ingests_and_the_other_takes_over_when_it_is_gone(project: Project, alive: Alive) -> None:
    life = alive(project)
    send_day(life.service.post, life.town.day(LIVE))
    with another(life) as second:
        assert not second.cycle(), "the first one holds the lease"
        assert project.lake.scan("predictions_rides") is None
        assert life.worker._fence is not None
        project.jobs.release(CONDUCTOR, life.worker._fence)
        assert second.cycle()
        rows = project.lake.scan("predictions_rides")
        assert rows is not None
        assert rows.num_rows == PER_DAY
        assert not life.worker.cycle()


def test_a_worker_that_comes_back_after_another_one_worked_doubles_nothing(project: Project, alive: Alive) -> None:
    """It still remembers positions of before; the new fence makes it look again."""
    life = alive(project)
    for turn in range(4):
        send_day(life.service.post, life.town.day(LIVE + turn * DAY))
        with another(life) as second:
            worker = second if turn % 2 else life.worker
            worker.cycle()
            assert worker._fence is not None
            project.jobs.release(CONDUCTOR, worker._fence)
    rows = project.lake.scan("predictions_rides")
    assert rows is not None
    assert rows.num_rows == len(set(rows["prediction_id"].to_pylist())) == 4 * PER_DAY


def test_two_workers_share_the_jobs_and_do_none_twice(project: Project, alive: Alive) -> None:
    life = alive(project)
    send_day(life.service.post, life.town.day(LIVE))
    life.service.post("/v1/watermark", {"event_time": to_micros(LIVE + 8 * DAY)})
    done: list[str] = []
    with another(life, conduct=False) as helper:
        for worker, name in ((life.worker, "first"), (helper, "second")):
            real = worker._do

            def counted(job: Any, real: Any = real, name: str = name) -> None:
                done.append(f"{name} {job.key}")
                real(job)

            worker._do = counted  # type: ignore[method-assign]
        for _ in range(20):
            helper.cycle()
            life.worker.kinds = ()  # plans and ingests; every other time it helps
            life.worker.cycle()
            helper.cycle()
            life.worker.kinds = work.KINDS
            life.worker.cycle()
    assert ticks(project) == [LIVE + day * DAY for day in range(9)]
    assert len({entry.partition(" ")[2] for entry in done}) == len(done) == 8
    assert {entry.partition(" ")[0] for entry in done} == {"first", "second"}


def test_a_job_of_a_dead_worker_is_taken_over_when_its_lease_ends(project: Project, alive: Alive) -> None:
    life = alive(project)
    lifecycle.retrain(project, actor=ME, why="x")
    dead = project.jobs.claim("dead", ("retrain",), timedelta(seconds=0))
    assert dead is not None
    while life.worker.cycle():
        pass
    assert project.jobs.outcome(dead.key)[0] == "done"  # type: ignore[index]
    with pytest.raises(LeaseLostError):
        project.jobs.finish(dead, {})
    assert len(project.journal.events(kinds=("retrain.finished",))) == 1


def test_a_worker_that_lost_its_lease_keeps_nothing_of_the_job(
    project: Project, alive: Alive, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = alive(project)
    life.worker.lease = timedelta(seconds=0)  # its lease ends as it begins
    lifecycle.retrain(project, actor=ME, why="x")
    others: list[Any] = []

    def slow(*given: Any, **how: Any) -> list[str]:
        others.append(project.jobs.claim("other", ("retrain",), timedelta(minutes=1)))
        return ["what it found"]

    monkeypatch.setattr(work, "run_retrain", slow)
    monkeypatch.setattr(life.worker, "_alive", _nothing)
    life.worker.cycle()
    assert others[0].attempts == 2
    assert "what it found" not in life.said
    assert "was taken over" in life.said[-1]
    project.jobs.finish(others[0], {})


@contextmanager
def _nothing(job: Any) -> Iterator[None]:
    yield


def test_a_long_job_keeps_its_lease(project: Project, alive: Alive, monkeypatch: pytest.MonkeyPatch) -> None:
    life = alive(project)
    life.worker.lease = timedelta(seconds=0.3)
    lifecycle.retrain(project, actor=ME, why="x")
    waited = threading.Event()

    def slow(*given: Any, **how: Any) -> list[str]:
        waited.wait(1.0)
        assert project.jobs.claim("other", ("retrain",), timedelta(minutes=1)) is None
        return []

    monkeypatch.setattr(work, "run_retrain", slow)
    life.worker.cycle()
    assert project.jobs.counts()["done"] == 2, "the first tick and this one"


def test_a_job_that_fails_is_tried_again_and_given_up_in_the_log(
    project: Project, alive: Alive, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = alive(project)
    monkeypatch.setattr(work, "run_tick", _raising(ZeroDivisionError("a bug")))
    monkeypatch.setattr(work, "timedelta", _hasty)
    life.service.post("/v1/watermark", {"event_time": to_micros(LIVE + DAY)})
    for _ in range(8):
        life.worker.cycle()
    told = [line for line in life.said if "failed (attempt" in line]
    assert [line.partition("attempt ")[2][0] for line in told] == ["1", "2", "3"]
    assert "ZeroDivisionError: a bug" in told[0]
    assert "Traceback" in told[0], "what nobody foresaw keeps its trace"
    (event,) = project.journal.events(kinds=("job.failed",))
    assert event.why == "tick failed 3 times: a bug"
    assert (event.at, event.payload["job"]) == (LIVE + DAY, "tick")
    monkeypatch.undo()
    life._announce(LIVE + 2 * DAY)
    assert ticks(project) == [LIVE, LIVE + 2 * DAY], "time goes on after a tick that was given up"


def _raising(error: Exception) -> Any:
    def run(*_: object, **__: object) -> Any:
        raise error

    return run


def _hasty(*_: object, **__: object) -> timedelta:
    """Every wait is none."""
    return timedelta()


def test_a_failing_retrain_ends_so_that_the_next_one_may_be_asked_for(
    project: Project, alive: Alive, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = alive(project)
    life.play(4)
    monkeypatch.setattr(work, "timedelta", _hasty)
    with redeclared(project, train="raising") as changed:
        lifecycle.apply(changed, actor=ME)
        lifecycle.retrain(changed, actor=ME, why="x")
    for _ in range(6):
        life.worker.cycle()
    (event,) = project.journal.events(kinds=("job.failed",))
    assert "raised ValueError: no convergence" in event.why
    assert not any("Traceback" in line for line in life.said), "the user's own mistake is one line"
    state = project.journal.get("retrain", "rides")
    assert state is not None
    assert state["pending"] is False
    monkeypatch.undo()
    life.play()
    assert ticks(project)[-1] == LIVE + 5 * DAY


def test_a_conflict_is_never_the_end_of_a_job(project: Project, alive: Alive, monkeypatch: pytest.MonkeyPatch) -> None:
    life = alive(project)
    monkeypatch.setattr(work, "timedelta", _hasty)
    with monkeypatch.context() as patch:
        patch.setattr(work, "run_tick", _raising(ConflictError("somebody was faster")))
        life.service.post("/v1/watermark", {"event_time": to_micros(LIVE + DAY)})
        for _ in range(8):
            life.worker.cycle()
    assert project.journal.events(kinds=("job.failed",)) == []
    life.settle(LIVE + DAY)
    assert ticks(project) == [LIVE, LIVE + DAY]


def test_declarations_applied_are_what_the_worker_follows(project: Project, alive: Alive) -> None:
    life = alive(project)
    with redeclared(project, monitors="ud.Monitor(name='only', kind='silent'),") as changed:
        life.play()
        assert set(project.journal.events(kinds=("tick.judged",))[-1].payload["monitors"]) == {"answers", "quality"}
        lifecycle.apply(changed, actor=ME)
    life.play()
    assert set(project.journal.events(kinds=("tick.judged",))[-1].payload["monitors"]) == {"only"}


def test_a_cycle_that_fails_is_told_and_tried_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    stop = threading.Event()
    worker = Worker(project, log=said.append)
    real, tries = worker.cycle, []

    def broken() -> bool:
        tries.append(1)
        if len(tries) == 1:
            raise StateError("the lake is away")
        stop.set()
        return real()

    monkeypatch.setattr(worker, "cycle", broken)
    worker.run(stop)
    assert said == ["cycle failed, trying again: the lake is away"]
    assert project.jobs.acquire(CONDUCTOR, "next", timedelta(seconds=1)) is not None, "it gave its lease back"


def test_a_worker_process_ends_when_told_and_when_a_line_of_work_dies(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    stop.set()
    work.work(project.settings, stop)
    monkeypatch.setattr(Worker, "cycle", _raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        work.work(project.settings, threading.Event())


def test_jobs_of_kinds_that_are_not_taken_wait(project: Project, alive: Alive) -> None:
    life = alive(project)
    project.jobs.submit(JobDraft(kind="tick", key="tick:x", payload={"at": LIVE.isoformat()}))
    with another(life, conduct=False, kinds=("retrain",)) as other:
        assert not other.cycle()
    assert [job.key for job in project.jobs.unfinished(("tick",))] == ["tick:x"]
