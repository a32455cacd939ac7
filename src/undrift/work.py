"""The worker: spool to lake, ticks of event time, jobs. Any number may run; leases in the database keep them apart.

A tick is the moment a span of event time is complete. At each one the worker materialises features, judges monitors,
rollouts and retrain triggers (tick.py), and records what was decided in one transaction. Killed at any point, another
worker (or this one, restarted) does the same tick again and finds what is recorded already: nothing is decided twice.
"""

from __future__ import annotations

import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

import msgspec

from undrift.capture.ingest import Ingest
from undrift.data.features import Source
from undrift.delivery import NOTIFY, deliver, renewals, wait_before
from undrift.errors import ConflictError, LeaseLostError, UndriftError
from undrift.event import Draft
from undrift.ids import duration, from_micros, new_id, to_micros
from undrift.project import Project
from undrift.retrain import run_retrain
from undrift.settings import Settings
from undrift.state.jobs import Job, JobDraft
from undrift.tick import run_tick

__all__ = ["ALL_KINDS", "CONDUCTOR", "Worker", "work"]

CONDUCTOR: Final = "conductor"
KINDS: Final = ("tick", "retrain")
"""What time waits for; a receiver of alerts that is away delays nothing."""
ALL_KINDS: Final = (*KINDS, NOTIFY)
RENEWED_EVERY: Final = 30.0
"""Seconds between two looks whether receivers that forget are to be told again."""
LONGEST_PAUSE: Final = 10.0
STOP_SEEN_WITHIN: Final = 0.2
"""Seconds: a stop comes from a signal, which can take no lock and so ring no bell."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Log = Callable[[str], None]


class Bell:
    """Rings when there is something new to do, so that the lines of work of one process need not wait for each other.

    What other processes do is found out by looking now and then.
    """

    def __init__(self) -> None:
        self._rung = 0
        self._changed = threading.Condition()

    @property
    def rung(self) -> int:
        """How often it rang."""
        return self._rung

    def ring(self) -> None:
        """Wake all who wait."""
        with self._changed:
            self._rung += 1
            self._changed.notify_all()

    def wait(self, heard: int, seconds: float, stop: threading.Event) -> None:
        """Wait until it has rung more often than ``heard`` times, at most so long, and not beyond a stop."""
        end = monotonic() + seconds
        with self._changed:
            while self._rung <= heard and not stop.is_set() and (left := end - monotonic()) > 0:
                self._changed.wait(min(left, STOP_SEEN_WITHIN))


class Worker:
    """One line of work on a project; a process runs several, each with a project of its own (see `work`).

    Parameters
    ----------
    project : the open project; it will follow the applied declarations, not the module.
    conduct : ingest and plan ticks, whenever no other worker holds the lease for it.
    kinds : the kinds of jobs to take.
    log : takes one line per thing that happened.
    bell : rung when this one asked for a job or did one, and listened to.
    """

    def __init__(
        self,
        project: Project,
        *,
        conduct: bool = True,
        kinds: Sequence[str] = ALL_KINDS,
        log: Log = lambda line: None,
        bell: Bell | None = None,
    ) -> None:
        self.project = project
        self.bell = bell or Bell()
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{new_id()[-6:]}"
        self.log = log
        self.kinds = tuple(kinds)
        self.conduct = conduct
        settings = project.settings
        self.lease = timedelta(seconds=settings.work.lease_seconds)
        self.tick = duration(settings.time.tick)
        self.lateness = duration(settings.time.lateness)
        self._fence: int | None = None
        self._ingest: Ingest | None = None
        self._sources: dict[str, Source] | None = None
        self._renewed = -RENEWED_EVERY

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; a cycle that fails is logged and tried again after a pause that grows to 10 s."""
        pause = wait = self.project.settings.work.poll_seconds
        while not stop.is_set():
            heard = self.bell.rung
            try:
                busy = self.cycle()
                wait = pause
            except UndriftError as error:
                self.log(f"cycle failed, trying again: {error}")
                busy, wait = False, min(wait * 2, LONGEST_PAUSE)
            if not busy:
                self.bell.wait(heard, wait, stop)
        if self._fence is not None:
            self.project.jobs.release(CONDUCTOR, self._fence)

    def cycle(self) -> bool:
        """Ingest if it is this worker's turn, plan the next tick, do one job; True if anything was done."""
        if self.project.follow():
            self._sources = None
        busy = self._conduct() if self.conduct else False
        job = self.project.jobs.claim(self.holder, self.kinds, self.lease) if self.kinds else None
        if job is None:
            return busy
        self._do(job)
        self.bell.ring()
        return True

    # -- the conductor: what only one worker does at a time -------------------------------------------------------

    def _conduct(self) -> bool:
        self._fence = self.project.jobs.acquire(CONDUCTOR, self.holder, self.lease)
        if self._fence is None:
            return False
        if self._sources is None:
            self._sources = self.project.known_sources()
        sources = self._sources
        if self._ingest is None:
            self._ingest = Ingest(
                self.project.settings.path(self.project.settings.stores.spool),
                self.project.lake,
                self.project.journal,
                self.project.manifest,
                sources,
                time=self.project.settings.time,
                clock=self.project.clock,
                linger=timedelta(seconds=self.project.settings.work.linger_seconds),
            )
        self._ingest.sources = sources
        seen = self._ingest.cycle(self._fence)
        for path in seen.damaged:
            self.log(f"spool segment set aside, its checksums do not hold: {path}")
        if seen.watermark is not None:
            self._plan(from_micros(seen.watermark) - (self.lateness if self._wall else timedelta()))
        self._renew()
        return bool(seen.rows) or seen.more or seen.due

    def _renew(self) -> None:
        if self.project.settings.alerts.sinks and monotonic() - self._renewed >= RENEWED_EVERY:
            self._renewed = monotonic()
            for draft in renewals(self.project):
                self.project.jobs.submit(draft)

    @property
    def _wall(self) -> bool:
        return self.project.settings.time.mode == "wall"

    def _plan(self, watermark: datetime) -> None:
        """Ask for the next tick once its span of time is complete; in event time, only when earlier jobs are done."""
        journal = self.project.journal
        ticked = journal.get_setting("ticked")
        if ticked is None:  # the first tick is the one at or before now: it fills the online store
            ticked = to_micros(_EPOCH + (watermark - _EPOCH) // self.tick * self.tick - self.tick)
        boundary = from_micros(ticked) + self.tick
        if boundary <= watermark and not self.project.jobs.unfinished(("tick",) if self._wall else KINDS):
            key = f"tick:{boundary.isoformat()}"
            self.project.jobs.submit(JobDraft(kind="tick", key=key, payload={"at": boundary.isoformat()}))
            self.bell.ring()

    # -- jobs -----------------------------------------------------------------------------------------------------

    def _do(self, job: Job) -> None:
        with self._alive(job):
            try:
                run = {"tick": self._tick, "retrain": self._retrain, NOTIFY: self._notify}[job.kind]
                lines = run(job)
                self.project.jobs.finish(job, {"lines": lines})
            except LeaseLostError as error:
                self.log(f"{job.kind}: {error}")
                return
            except Exception as error:  # noqa: BLE001 a job's failure must not end the worker: it is recorded and retried
                self._failed(job, error)
                return
        for line in lines:
            self.log(line)

    def _tick(self, job: Job) -> list[str]:
        boundary = datetime.fromisoformat(job.payload["at"])
        lines = run_tick(self.project, boundary, self.tick)
        self.project.publish_routes()
        self.project.journal.put_setting("ticked", to_micros(boundary))
        return lines

    def _retrain(self, job: Job) -> list[str]:
        at = datetime.fromisoformat(job.payload["at"])
        lines = run_retrain(self.project, job.payload["model"], at, why=job.payload["why"])
        self.project.publish_routes()
        return lines

    def _notify(self, job: Job) -> list[str]:
        return deliver(self.project, job)

    def _failed(self, job: Job, error: Exception) -> None:
        last = job.attempts >= self.project.settings.work.attempts and not isinstance(error, ConflictError)
        wait: timedelta | None = timedelta(seconds=min(2**job.attempts, 60))
        if job.kind == NOTIFY:
            wait = wait_before(self.project, job)
            last = wait is None
        text = str(error) if isinstance(error, UndriftError) else "".join(traceback.format_exception(error)).strip()
        self.log(f"{job.kind} {job.key} failed (attempt {job.attempts}): {text}")
        try:
            if last:
                self._give_up(job, error, text)
            self.project.jobs.fail(job, text, None if last else wait)
        except UndriftError as problem:  # the store is away too: the lease runs out and the job is taken again
            self.log(f"{job.kind}: its failure could not be recorded: {problem}")

    def _give_up(self, job: Job, error: Exception, text: str) -> None:
        at = datetime.fromisoformat(job.payload["at"])
        first = (str(error) or repr(error)).splitlines()[0]
        self.project.journal.record(
            [
                Draft(
                    kind="job.failed",
                    subject=f"job:{job.id}",
                    at=at,
                    actor="work",
                    why=f"{job.kind} failed {job.attempts} times: {first}",
                    payload={"job": job.kind, "key": job.key, "error": text, "model": job.payload.get("model", "")},
                    key=f"failed:{job.key}",
                )
            ]
        )
        if job.kind == "tick":  # time goes on: what this tick could not judge, the next one will
            self.project.journal.put_setting("ticked", to_micros(at))

    @contextmanager
    def _alive(self, job: Job) -> Iterator[None]:
        """Extend the lease of a long job from a thread of its own, so that nobody takes it over while it runs."""
        done = threading.Event()

        def extend() -> None:
            while not done.wait(self.lease.total_seconds() / 3):
                try:
                    self.project.jobs.extend(job, self.lease)
                except UndriftError as error:
                    self.log(f"lease of {job.kind}: {error}")

        thread = threading.Thread(target=extend, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _know_types() -> None:
    """Let msgspec learn all our types in one thread: two that meet a type for the first time at once crash the process.

    It builds what it knows of a Struct at first use and hands it out half-built (msgspec 0.22: a segmentation fault).
    """
    waiting: list[type] = [msgspec.Struct]
    while waiting:
        kinds: list[type] = waiting.pop().__subclasses__()
        waiting += kinds
        for kind in kinds:
            if kind.__module__.startswith("undrift."):
                with suppress(NameError, TypeError):  # types that are never read from JSON
                    msgspec.json.Decoder(kind)


def work(
    settings: Settings, stop: threading.Event, *, kinds: Sequence[str] = ALL_KINDS, log: Log = lambda line: None
) -> None:
    """Run a worker process until told to stop: one thread ingests and plans, one judges ticks, one retrains.

    A fourth tells people. Each has its own connections, so a retrain of an hour delays neither ingest nor judgement.
    Jobs of other ``kinds`` are left to other workers.
    """
    _know_types()
    roles: list[tuple[bool, tuple[str, ...]]] = [(True, ()), *((False, (kind,)) for kind in kinds)]
    failures: list[BaseException] = []
    bell = Bell()

    def run(conduct: bool, kinds: tuple[str, ...]) -> None:
        try:
            with Project(settings) as project:
                Worker(project, conduct=conduct, kinds=kinds, log=log, bell=bell).run(stop)
        except BaseException as error:  # noqa: BLE001 one line of work that died ends the process: a supervisor restarts it
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=run, args=role, name=f"work-{place}") for place, role in enumerate(roles)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
