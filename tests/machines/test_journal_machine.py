"""Whatever is recorded, in whatever order, by whoever: projections are what the log says, and decisions happen once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from undrift.errors import ConflictError, LeaseLostError
from undrift.event import Draft, Event
from undrift.ids import FixedClock
from undrift.state.jobs import Job, JobDraft, Jobs
from undrift.state.journal import Journal, Reducer
from undrift.state.sql import SqliteStore

START = datetime(2013, 4, 1, tzinfo=UTC)
LEASE = timedelta(seconds=10)
PAYLOAD = st.dictionaries(
    st.text(max_size=4),
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5),
    max_size=3,
)


def _route(value: dict[str, Any] | None, event: Event, key: str) -> dict[str, Any] | None:
    if event.kind == "rollout.aborted":
        return None
    old = value or {"history": [], "last": {}}
    return {"history": [*old["history"], event.seq], "last": event.payload, "key": key}


ROUTE = Reducer("route", frozenset({"revision.promoted", "rollout.aborted"}), lambda e: [e.subject], _route)
BOTH = Reducer("pair", frozenset({"revision.promoted"}), lambda e: (e.subject, "all"), _route)


class JournalMachine(RuleBasedStateMachine):
    """Two journals on one database (two workers), a log of what must be there, and the projections both keep."""

    @initialize()
    def begin(self) -> None:
        self.store = SqliteStore("sqlite://")
        self.clock = FixedClock(START)
        self.workers = [Journal(self.store, self.clock, [ROUTE, BOTH]) for _ in range(2)]
        self.keys: dict[str, Event] = {}
        self.count = 0
        self.seen: dict[int, int | None] = {0: None, 1: None}

    @rule(
        worker=st.integers(0, 1),
        kind=st.sampled_from(["revision.promoted", "rollout.aborted", "gate.judged"]),
        subject=st.sampled_from(["model:a", "model:b"]),
        key=st.none() | st.sampled_from(["k1", "k2", "k3"]),
        payload=PAYLOAD,
        minutes=st.integers(-1000, 1000),
    )
    def record(
        self, worker: int, kind: str, subject: str, key: str | None, payload: dict[str, Any], minutes: int
    ) -> None:
        at = START + timedelta(minutes=minutes)
        draft = Draft(kind=kind, subject=subject, at=at, actor="t", why="w", payload=payload, key=key)
        (event,) = self.workers[worker].record([draft])
        if key is not None and key in self.keys:
            assert event == self.keys[key]
            return
        self.count += 1
        assert event.seq == self.count
        if key is not None:
            self.keys[key] = event

    @rule(worker=st.integers(0, 1))
    def look(self, worker: int) -> None:
        self.seen[worker] = self.workers[worker].seq_of("route", "model:a")

    @rule(worker=st.integers(0, 1))
    def decide(self, worker: int) -> None:
        """A decision goes through exactly when what it was based on is still so."""
        seen, now = self.seen[worker], self.workers[worker].seq_of("route", "model:a")
        draft = Draft(kind="revision.promoted", subject="model:a", at=START, actor="t", why="w")
        try:
            self.workers[worker].record([draft], expect={("route", "model:a"): seen})
        except ConflictError:
            assert seen != now
        else:
            assert seen == now
            self.count += 1

    @invariant()
    def the_log_is_whole(self) -> None:
        assert self.workers[0].verify() == self.count

    @invariant()
    def projections_are_what_the_log_says(self) -> None:
        journal = self.workers[0]
        live = {name: journal.items(name) for name in ("route", "pair")}
        places = {key: journal.seq_of("route", key) for key in live["route"]}
        journal.rebuild()
        assert {name: journal.items(name) for name in ("route", "pair")} == live
        assert {key: journal.seq_of("route", key) for key in live["route"]} == places

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


class JobsMachine(RuleBasedStateMachine):
    """Three workers that claim, work, pause, die and settle, against a clock: no job is settled twice."""

    @initialize()
    def begin(self) -> None:
        self.store = SqliteStore("sqlite://")
        self.clock = FixedClock(START)
        self.jobs = Jobs(self.store, self.clock)
        self.held: dict[int, Job] = {}
        self.submitted: set[str] = set()
        self.settled: Counter[str] = Counter()
        self.fences: dict[str, int] = {}

    @rule(key=st.sampled_from("abc"), later=st.integers(0, 20))
    def submit(self, key: str, later: int) -> None:
        draft = JobDraft(kind="k", key=key, run_after=self.clock.now() + timedelta(seconds=later))
        assert self.jobs.submit(draft) == (key not in self.submitted)
        self.submitted.add(key)

    @rule(worker=st.integers(0, 2))
    def claim(self, worker: int) -> None:
        job = self.jobs.claim(f"w{worker}", ["k"], LEASE)
        if job is not None:
            assert self.settled[job.key] == 0, "a job that has ended is never claimed"
            assert job.fence == self.fences.get(job.key, 0) + 1
            self.fences[job.key] = job.fence
            self.held[worker] = job

    @rule(seconds=st.integers(1, 15))
    def time_passes(self, seconds: int) -> None:
        self.clock.move(timedelta(seconds=seconds))

    @rule(worker=st.integers(0, 2), how=st.sampled_from(["finish", "give up", "retry", "extend", "die"]))
    def settle(self, worker: int, how: str) -> None:
        job = self.held.get(worker)
        if job is None or how == "die":
            self.held.pop(worker, None)
            return
        current = job.fence == self.fences[job.key]
        try:
            if how == "finish":
                self.jobs.finish(job)
            elif how == "give up":
                self.jobs.fail(job, "no")
            elif how == "retry":
                self.jobs.fail(job, "no", timedelta(seconds=3))
            else:
                self.jobs.extend(job, LEASE)
        except LeaseLostError:
            assert not current, "only who lost the job is refused"
            self.held.pop(worker)
            return
        assert current, "who lost the job must be refused"
        if how in ("finish", "give up"):
            self.settled[job.key] += 1
        if how != "extend":
            self.held.pop(worker)

    @invariant()
    def nothing_is_lost_and_nothing_ends_twice(self) -> None:
        assert all(times <= 1 for times in self.settled.values())
        counts = self.jobs.counts()
        assert sum(counts.values()) == len(self.submitted)
        assert counts["done"] + counts["failed"] == sum(self.settled.values())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


JournalMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
JobsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestJournalMachine = JournalMachine.TestCase
TestJobsMachine = JobsMachine.TestCase
