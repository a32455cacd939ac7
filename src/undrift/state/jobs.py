"""Work to be done once: jobs with leases, and named leases, on the Store port.

A job is submitted under a key and exists once, for ever. Whoever claims it holds a lease; if the holder dies, the
lease runs out and another takes over with a higher fence, so what the first one still says is refused. Nothing here
runs a job or knows what kinds mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from undrift.errors import LeaseLostError
from undrift.ids import Clock, canonical_json, new_id, to_micros
from undrift.state.ports import Store, Transaction

__all__ = ["Job", "JobDraft", "Jobs", "submit"]


class JobDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be.

    Parameters
    ----------
    kind : which function will run it.
    key : idempotency: a second job with this key is never made, even after the first has ended.
    payload : what the function is told, JSON-able.
    run_after : wall clock, aware UTC; not run before. None for at once.
    """

    kind: str
    key: str
    payload: dict[str, Any] = {}
    run_after: datetime | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as claimed. ``attempts`` counts the claims, this one included; ``fence`` grows by one with each."""

    id: str
    kind: str
    key: str
    payload: dict[str, Any]
    attempts: int
    fence: int
    holder: str


def submit(transaction: Transaction, draft: JobDraft, now: datetime) -> bool:
    """Submit a job inside a transaction that does more; False if its key is known already."""
    row = {
        "id": new_id(now),
        "kind": draft.kind,
        "key": draft.key,
        "payload": canonical_json(draft.payload).decode(),
        "run_after": to_micros(draft.run_after or now),
    }
    return transaction.execute("insert_job", row) == 1


class Jobs:
    """The queue of jobs and the named leases of one store.

    Parameters
    ----------
    store : where they are kept.
    clock : the wall clock; leases are measured by it, so machines that share a store need roughly equal clocks.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def submit(self, draft: JobDraft) -> bool:
        """Make a job; False (and nothing changes) if its key is known already, whatever became of that job."""
        with self._store.write() as transaction:
            return submit(transaction, draft, self._clock.now())

    def claim(self, holder: str, kinds: Sequence[str], lease: timedelta) -> Job | None:
        """Take the job that has waited longest: a ready one, or a running one whose lease has ended.

        Returns
        -------
        Job or None
            None when there is nothing to do now. A job taken over from a dead holder has ``attempts`` above 1, so the
            caller can give up on one that kills its workers.
        """
        wanted = {"kinds": canonical_json(list(kinds)).decode(), "now": to_micros(self._clock.now())}
        if not self._store.read("claimable_job", wanted):  # an idle worker never takes the write lock
            return None
        with self._store.write() as transaction:
            now = self._clock.now()
            found = transaction.query("claimable_job", {**wanted, "now": to_micros(now)})
            if not found:
                return None
            row = found[0]
            taken = {"id": row["id"], "holder": holder, "expires_at": to_micros(now + lease)}
            transaction.execute("take_job", taken)
        return _job({**row, "attempts": row["attempts"] + 1, "fence": row["fence"] + 1, "holder": holder})

    def extend(self, job: Job, lease: timedelta) -> None:
        """Hold a job for another ``lease`` from now; a sign of life.

        Raises
        ------
        LeaseLostError : another holder took it over, or it has ended.
        """
        expires = to_micros(self._clock.now() + lease)
        self._settle("extend_job", job, {"expires_at": expires})

    def finish(self, job: Job, result: Any = None) -> None:
        """Mark a job as done, with its JSON-able result.

        Raises
        ------
        LeaseLostError : another holder took it over meanwhile; its result will count, not this one.
        """
        self._settle("finish_job", job, {"result": canonical_json(result).decode()})

    def fail(self, job: Job, error: str, retry_after: timedelta | None = None) -> None:
        """Mark a job as failed for good, or (with ``retry_after``) make it ready again after that time.

        Raises
        ------
        LeaseLostError : another holder took it over meanwhile.
        """
        if retry_after is None:
            self._settle("give_up_job", job, {"error": error})
        else:
            again = to_micros(self._clock.now() + retry_after)
            self._settle("retry_job", job, {"error": error, "run_after": again})

    def counts(self) -> dict[str, int]:
        """How many jobs are ready, running, done and failed; states without jobs are 0."""
        found = {row["state"]: int(row["n"]) for row in self._store.read("job_counts")}
        return {state: found.get(state, 0) for state in ("ready", "running", "done", "failed")}

    def unfinished(self, kinds: Sequence[str]) -> list[Job]:
        """The ready and running jobs of some kinds, in the order they will be claimed."""
        rows = self._store.read("unfinished_jobs", {"kinds": canonical_json(list(kinds)).decode()})
        return [_job(row) for row in rows]

    def outcome(self, key: str) -> tuple[str, Any, str] | None:
        """``(state, result, last error)`` of the job with a key, or None where there never was one."""
        rows = self._store.read("job_outcome", {"key": key})
        if not rows:
            return None
        result = rows[0]["result"]
        return rows[0]["state"], None if result is None else msgspec.json.decode(result), rows[0]["error"] or ""

    def acquire(self, name: str, holder: str, lease: timedelta) -> int | None:
        """Take the lease with a name, for what only one process may do at a time.

        Returns
        -------
        int or None
            The fence, which grows whenever the lease changes hands or had run out; None while somebody else holds it.
            A holder that asks again gets its fence again and the time anew.
        """
        with self._store.write() as transaction:
            now = self._clock.now()
            found = transaction.query("lease", {"name": name})
            fence = found[0]["fence"] if found else 0
            alive = bool(found) and found[0]["expires_at"] > to_micros(now)
            if alive and found[0]["holder"] != holder:
                return None
            fence = fence if alive else fence + 1
            row = {"name": name, "holder": holder, "fence": fence, "expires_at": to_micros(now + lease)}
            transaction.execute("put_lease", row)
        return int(fence)

    def renew(self, name: str, fence: int, lease: timedelta) -> None:
        """Hold a named lease for another ``lease`` from now.

        Raises
        ------
        LeaseLostError : it went to somebody else, or was released.
        """
        row = {"name": name, "fence": fence, "expires_at": to_micros(self._clock.now() + lease)}
        with self._store.write() as transaction:
            if transaction.execute("renew_lease", row) != 1:
                raise LeaseLostError(f"the lease {name!r} (fence {fence}) belongs to another process now.")

    def release(self, name: str, fence: int) -> None:
        """Give a named lease back; nothing happens if it is no longer held under this fence."""
        with self._store.write() as transaction:
            transaction.execute("renew_lease", {"name": name, "fence": fence, "expires_at": 0})

    def _settle(self, statement: str, job: Job, values: dict[str, Any]) -> None:
        with self._store.write() as transaction:
            if transaction.execute(statement, {"id": job.id, "fence": job.fence, **values}) != 1:
                raise LeaseLostError(
                    f"job {job.kind} {job.key!r} (attempt {job.attempts}, held by {job.holder}) was taken over by "
                    "another worker or has ended; what this one did is not kept.",
                    hint="If this happens often, raise work.lease_seconds above the longest pause of a worker.",
                )


def _job(row: dict[str, Any]) -> Job:
    return Job(**{**row, "payload": msgspec.json.decode(row["payload"])})
