"""Notices reach their receivers at least once and in order, whatever dies meanwhile; none goes where it may not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from undrift import incidents as verbs
from undrift import inquiry
from undrift.delivery import NOTIFY, notices_for
from undrift.errors import ConflictError, NotFoundError, SettingsError
from undrift.event import Event
from undrift.finding import Finding, Report, Verdict, Window
from undrift.ids import FixedClock
from undrift.monitor.alerts import decide
from undrift.monitor.monitors import Monitor, found
from undrift.project import Project, open_project
from undrift.settings import AlertSettings, SinkSettings
from undrift.work import Worker

DAY = timedelta(days=1)
NOW = datetime(2024, 2, 1, tzinfo=UTC)


class Receiver:
    """Keeps the notices it takes; refuses with `status`, waits `pause` seconds before it answers."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.raw: list[Any] = []
        self.ids: list[str] = []
        self.status, self.pause = 200, 0.0
        self.asked = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.raw.append(body)
                if receiver.status < 300 and isinstance(body, dict):
                    receiver.taken.append(body)
                    receiver.ids.append(self.headers["webhook-id"])
                receiver.asked.set()
                time.sleep(receiver.pause)
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stages(self) -> list[str]:
        return [body["type"].removeprefix("incident.") for body in self.taken]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def with_sinks(project: Project, **sinks: SinkSettings) -> Project:
    """The project with receivers, on a clock that stands."""
    project.settings = msgspec.structs.replace(project.settings, alerts=AlertSettings(sinks=sinks, give_up="1h"))
    project.clock = FixedClock(NOW)
    for name in ("jobs", "journal"):
        project.__dict__.pop(name, None)
    return project


def verified(project: Project) -> Project:
    for monitor in project.model().monitors:
        verbs.allow_paging(project, monitor.name, actor="person:ann", why="known to be good")
    return project


def tell(project: Project, verdict: Verdict, at: datetime, cause: str = "constant answers") -> list[Event]:
    """What a tick does with one finding of the monitor `answers`."""
    monitor = next(m for m in project.model().monitors if m.name == "answers")
    seen: Finding = found(
        monitor, verdict, f"{cause}: why", name="silent", value=1.0, n=100, window=Window(at - DAY, at), cause=cause
    )
    known = project.journal.items("incident")
    report = Report(title="t", subject="s", findings=(seen,))
    drafts = list(decide("rides", [monitor], known, report, at, owner="operations"))
    return project.journal.record(drafts, jobs=notices_for(project, drafts, known))


def work(project: Project, times: int = 10) -> list[str]:
    said: list[str] = []
    worker = Worker(project, conduct=False, kinds=(NOTIFY,), log=said.append)
    for _ in range(times):
        if not worker.cycle():
            later(project, 1.5)  # what came in one moment waits a second for what was before it
    return said


def later(project: Project, seconds: float) -> None:
    assert isinstance(project.clock, FixedClock)
    project.clock.move(timedelta(seconds=seconds))


def test_an_incident_is_told_from_its_beginning_to_its_end(project: Project, receiver: Receiver) -> None:
    verified(with_sinks(project, hook=SinkSettings(kind="webhook", url=receiver.url)))
    tell(project, Verdict.FAIL, NOW)
    verbs.acknowledge(project, "answers", actor="person:ann", why="on it")
    tell(project, Verdict.PASS, NOW + DAY)
    said = work(project)
    assert receiver.stages() == ["opened", "acknowledged", "resolved"]
    first = receiver.taken[0]["data"]
    assert (first["owner"], first["severity"], first["title"]) == ("operations", "critical", "constant answers")
    assert "told hook (webhook): opened: constant answers" in said
    assert work(project) == []
    assert len(set(receiver.ids)) == 3


def test_a_monitor_that_was_not_verified_pages_nobody(project: Project, receiver: Receiver, caplog: Any) -> None:
    sinks = {"hook": SinkSettings(kind="webhook", url=receiver.url), "log": SinkSettings(kind="log")}
    with_sinks(project, **sinks)
    tell(project, Verdict.FAIL, NOW)
    work(project)
    assert receiver.taken == []
    assert [r.name for r in caplog.records if r.name == "undrift.alerts"] == ["undrift.alerts"]
    told = inquiry.status(project)["models"]["rides"]["paging"]["answers"]
    assert told["may"] is False
    assert "no backtest is on record" in told["why"]


def test_a_changed_monitor_has_to_earn_it_again(project: Project) -> None:
    verified(with_sinks(project))
    model = project.model()
    changed = msgspec.structs.replace(
        model, monitors=tuple(msgspec.structs.replace(m, practical=0.01) for m in model.monitors)
    )
    told = msgspec.structs.replace(
        model, monitors=tuple(msgspec.structs.replace(m, runbook="wiki", owner="ann") for m in model.monitors)
    )
    from undrift.delivery import permissions

    assert all(p.may for p in permissions(project, "rides", told.monitors).values())
    found = permissions(project, "rides", changed.monitors)
    assert not any(p.may for p in found.values())
    assert "changed since its last backtest" in found["answers"].why


def test_letting_a_monitor_page_needs_a_reason_and_a_monitor(project: Project) -> None:
    with pytest.raises(SettingsError, match="says why"):
        verbs.allow_paging(project, "answers", actor="person:ann", why="")
    with pytest.raises(NotFoundError, match="declares no monitor"):
        verbs.allow_paging(project, "answer", actor="person:ann", why="because")


def test_a_receiver_that_is_away_gets_everything_later_in_order(project: Project, receiver: Receiver) -> None:
    verified(with_sinks(project, hook=SinkSettings(kind="webhook", url=receiver.url)))
    receiver.status = 503
    tell(project, Verdict.FAIL, NOW)
    work(project)
    tell(project, Verdict.PASS, NOW + DAY)
    work(project)
    status = inquiry.status(project)["sinks"][0]
    assert (status["waiting"], status["given_up"]) == (2, 0)
    assert "webhook answered 503" in status["error"]
    receiver.status = 200
    for _ in range(6):
        later(project, 4)
        work(project)
    assert receiver.stages() == ["opened", "resolved"]
    assert inquiry.status(project)["sinks"][0]["waiting"] == 0


def test_a_receiver_that_stays_away_is_given_up_and_that_is_told(project: Project, receiver: Receiver) -> None:
    verified(with_sinks(project, hook=SinkSettings(kind="webhook", url=receiver.url)))
    receiver.status = 500
    tell(project, Verdict.FAIL, NOW)
    work(project)
    later(project, 3700)
    work(project)
    status = inquiry.status(project)["sinks"][0]
    assert (status["waiting"], status["given_up"]) == (0, 1)
    failed = project.journal.events(kinds=("job.failed",))
    assert "webhook answered 500" in failed[-1].why


def test_filters_choose_who_is_told(project: Project, receiver: Receiver) -> None:
    verified(
        with_sinks(
            project,
            critical=SinkSettings(kind="webhook", url=receiver.url, severities=("critical",)),
            low=SinkSettings(kind="webhook", url=receiver.url, severities=("low",)),
            theirs=SinkSettings(kind="webhook", url=receiver.url, owners=("ben",)),
            other=SinkSettings(kind="webhook", url=receiver.url, models=("flights",)),
            ends=SinkSettings(kind="webhook", url=receiver.url, resolved=False, monitors=("answers",)),
        )
    )
    tell(project, Verdict.FAIL, NOW)
    sent = sorted(job.payload["sink"] for job in project.jobs.unfinished((NOTIFY,)))
    assert sent == ["critical", "ends"]
    verbs.assign(project, "answers", "ben", actor="person:ann")
    tell(project, Verdict.PASS, NOW + DAY)
    ends = [j.payload["sink"] for j in project.jobs.unfinished((NOTIFY,)) if "alert.resolved" in j.payload["event"]]
    assert sorted(ends) == ["critical", "theirs"]


def test_a_snoozed_incident_is_silent_until_it_ends_or_the_time_is_over(project: Project, receiver: Receiver) -> None:
    verified(with_sinks(project, hook=SinkSettings(kind="webhook", url=receiver.url)))
    begin = project.now().now()
    tell(project, Verdict.FAIL, begin)
    verbs.snooze(project, "answers", 2 * DAY, actor="person:ann", why="known")
    tell(project, Verdict.FAIL, begin + DAY, cause="version 1 fails")
    work(project)
    assert receiver.stages() == ["opened"]
    tell(project, Verdict.FAIL, begin + 2 * DAY, cause="version 1 fails")
    work(project)
    assert receiver.stages() == ["opened", "updated"]
    assert "still open after a snooze" in receiver.taken[1]["data"]["text"]
    with pytest.raises(ConflictError, match="over already"):
        verbs.snooze(project, "answers", timedelta(), actor="person:ann")


def test_what_a_person_resolved_opens_again_by_evidence(project: Project, receiver: Receiver) -> None:
    verified(with_sinks(project, hook=SinkSettings(kind="webhook", url=receiver.url)))
    begin = project.now().now()
    tell(project, Verdict.FAIL, begin)
    event = verbs.resolve(project, "rides/answers", actor="person:ann", why="restarted it")
    assert event.payload["incident"]["resolved_by"] == "person:ann"
    assert verbs.incidents(project) == []
    assert len(verbs.incidents(project, closed=True)) == 1
    with pytest.raises(ConflictError, match="nothing to resolve"):
        verbs.resolve(project, "answers", actor="person:ann")
    tell(project, Verdict.FAIL, begin + DAY)
    assert verbs.incidents(project)[0]["times"] == 2
    work(project)
    assert receiver.stages() == ["opened", "resolved", "opened"]
    with pytest.raises(NotFoundError, match="rides/answers"):
        verbs.acknowledge(project, "weather", actor="person:ann")


def test_the_projections_of_incidents_and_permissions_follow_from_the_log(project: Project) -> None:
    verified(with_sinks(project))
    begin = project.now().now()
    tell(project, Verdict.FAIL, begin)
    verbs.acknowledge(project, "answers", actor="person:ann")
    verbs.snooze(project, "answers", DAY, actor="person:ann")
    verbs.assign(project, "answers", "ben", actor="person:ann")
    before = {name: project.journal.items(name) for name in ("incident", "paging")}
    project.journal.rebuild()
    assert {name: project.journal.items(name) for name in ("incident", "paging")} == before
    held = before["incident"]["rides/answers"]
    assert (held["acknowledged_by"], held["owner"], bool(held["snoozed_until"])) == ("person:ann", "ben", True)


def test_two_people_at_one_moment_of_a_replay_are_two_events(project: Project) -> None:
    with_sinks(project)
    tell(project, Verdict.FAIL, project.now().now())
    events = [verbs.acknowledge(project, "answers", actor=f"person:{who}") for who in ("ann", "ben")]
    assert events[0].seq != events[1].seq
    assert project.journal.items("incident")["rides/answers"]["acknowledged_by"] == "person:ben"


def test_open_incidents_are_told_again_to_a_receiver_that_forgets(project: Project, receiver: Receiver) -> None:
    from undrift.delivery import renewals

    verified(with_sinks(project, am=SinkSettings(kind="alertmanager", url=receiver.url)))
    assert renewals(project) == []
    tell(project, Verdict.FAIL, NOW)
    tell(project, Verdict.FAIL, NOW + DAY, cause="version 1 fails")
    (draft,) = renewals(project)
    assert renewals(project) == [draft]
    work(project)
    told = len(receiver.raw)
    project.jobs.submit(draft)
    work(project)
    assert len(receiver.raw) == told + 1, "once, as it is now"
    assert "version 1 fails" in receiver.raw[-1][0]["annotations"]["summary"]
    later(project, 300)
    assert renewals(project)[0].key != draft.key


@pytest.mark.chaos
def test_a_notice_outlives_a_worker_killed_while_it_sends(project: Project, receiver: Receiver) -> None:
    root = Path(project.settings.root)
    toml = (root / "undrift.toml").read_text()
    sink = f'\n[alerts.sinks.hook]\nkind = "webhook"\nurl = "{receiver.url}"\ntimeout_seconds = 60.0\n'
    (root / "undrift.toml").write_text(toml.replace("lease_seconds = 3.0", "lease_seconds = 1.0") + sink)
    receiver.pause = 30.0
    with open_project(root) as changed:
        verified(changed)
        tell(changed, Verdict.FAIL, changed.now().now())
        first = _work(root)
        assert receiver.asked.wait(60), "the worker never told anybody"
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert changed.jobs.unfinished((NOTIFY,)), "killed before the answer: the job is not done"
        receiver.pause = 0.0
        second = _work(root)
        try:
            end = time.monotonic() + 60
            while changed.jobs.unfinished((NOTIFY,)) and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            second.send_signal(signal.SIGTERM)
            second.wait(timeout=30)
        assert not changed.jobs.unfinished((NOTIFY,))
    assert len(receiver.ids) == 2, "once before the kill, once after"
    assert len(set(receiver.ids)) == 1, "under one id, so that the receiver knows it again"


def _work(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "undrift.app.cli", "work", "-C", str(root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_a_monitor_of_its_own_owner_keeps_it() -> None:
    monitor = Monitor(name="answers", kind="silent", owner="ann")
    at = NOW
    seen = found(monitor, Verdict.FAIL, "x", name="silent", value=1.0, n=9, window=Window(at - DAY, at), cause="c")
    drafts = decide("m", [monitor], {}, Report(title="t", subject="s", findings=(seen,)), at, owner="operations")
    assert drafts[0].payload["incident"]["owner"] == "ann"
