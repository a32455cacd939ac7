"""A job runs once; a dead worker's job is taken over; what the dead one still says is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from undrift.errors import LeaseLostError
from undrift.ids import FixedClock
from undrift.state.jobs import Job, JobDraft, Jobs
from undrift.state.sql import SqliteStore

LEASE = timedelta(seconds=15)


@pytest.fixture
def jobs(store: SqliteStore, clock: FixedClock) -> Jobs:
    return Jobs(store, clock)


def _claim(jobs: Jobs, holder: str = "ann", kind: str = "train") -> Job:
    job = jobs.claim(holder, [kind], LEASE)
    assert job is not None
    return job


def test_a_job_exists_once_per_key_for_ever(jobs: Jobs) -> None:
    assert jobs.submit(JobDraft(kind="train", key="k", payload={"model": "flights"}))
    assert not jobs.submit(JobDraft(kind="train", key="k"))
    job = _claim(jobs)
    assert (job.payload, job.attempts, job.fence, job.holder) == ({"model": "flights"}, 1, 1, "ann")
    jobs.finish(job, {"accepted": True})
    assert not jobs.submit(JobDraft(kind="train", key="k"))
    assert jobs.claim("ann", ["train"], LEASE) is None
    assert jobs.outcome("k") == ("done", {"accepted": True}, "")
    assert jobs.outcome("never") is None


def test_the_job_that_waited_longest_comes_first_and_only_of_the_kinds_asked_for(jobs: Jobs, clock: FixedClock) -> None:
    jobs.submit(JobDraft(kind="train", key="late", run_after=clock.now() + timedelta(hours=1)))
    jobs.submit(JobDraft(kind="shadow", key="other"))
    jobs.submit(JobDraft(kind="train", key="early", run_after=clock.now() - timedelta(hours=1)))
    jobs.submit(JobDraft(kind="train", key="now"))
    assert [job.key for job in jobs.unfinished(["train"])] == ["early", "now", "late"]
    assert [_claim(jobs).key, _claim(jobs).key] == ["early", "now"]
    assert jobs.claim("ann", ["train"], LEASE) is None
    clock.move(timedelta(hours=1))
    assert _claim(jobs, kind="shadow").key == "other"


def test_a_claimed_job_is_nobody_elses_until_its_lease_ends(jobs: Jobs, clock: FixedClock) -> None:
    jobs.submit(JobDraft(kind="train", key="k"))
    first = _claim(jobs, "ann")
    clock.move(LEASE - timedelta(microseconds=1))
    assert jobs.claim("bob", ["train"], LEASE) is None
    clock.move(timedelta(microseconds=1))
    second = _claim(jobs, "bob")
    assert (second.id, second.attempts, second.fence) == (first.id, 2, 2)


def test_signs_of_life_keep_a_job(jobs: Jobs, clock: FixedClock) -> None:
    jobs.submit(JobDraft(kind="train", key="k"))
    job = _claim(jobs, "ann")
    for _ in range(5):
        clock.move(timedelta(seconds=10))
        jobs.extend(job, LEASE)
        assert jobs.claim("bob", ["train"], LEASE) is None
    jobs.finish(job)


def test_whoever_lost_a_job_cannot_settle_it(jobs: Jobs, clock: FixedClock) -> None:
    jobs.submit(JobDraft(kind="train", key="k"))
    lost = _claim(jobs, "ann")
    clock.move(LEASE)
    kept = _claim(jobs, "bob")
    for settle in (
        lambda: jobs.finish(lost, "ann's"),
        lambda: jobs.fail(lost, "no"),
        lambda: jobs.fail(lost, "no", LEASE),
        lambda: jobs.extend(lost, LEASE),
    ):
        with pytest.raises(LeaseLostError, match=r"train 'k' .* held by ann"):
            settle()
    jobs.finish(kept, "bob's")
    assert jobs.outcome("k") == ("done", "bob's", "")
    with pytest.raises(LeaseLostError):
        jobs.finish(kept, "twice")


def test_a_lease_that_ended_unnoticed_is_still_its_holders(jobs: Jobs, clock: FixedClock) -> None:
    jobs.submit(JobDraft(kind="train", key="k"))
    job = _claim(jobs)
    clock.move(LEASE * 10)
    jobs.finish(job, "nobody took it over, so nothing was done twice")
    assert jobs.counts() == {"ready": 0, "running": 0, "done": 1, "failed": 0}


def test_a_failed_job_is_tried_again_later_or_never(jobs: Jobs, clock: FixedClock) -> None:
    jobs.submit(JobDraft(kind="train", key="k"))
    jobs.fail(_claim(jobs), "no memory", retry_after=timedelta(minutes=1))
    assert jobs.counts()["ready"] == 1
    assert jobs.claim("ann", ["train"], LEASE) is None
    clock.move(timedelta(minutes=1))
    job = _claim(jobs)
    assert (job.attempts, jobs.outcome("k")) == (2, ("running", None, "no memory"))
    jobs.fail(job, "no memory again")
    assert jobs.outcome("k") == ("failed", None, "no memory again")
    clock.move(timedelta(days=1))
    assert jobs.claim("ann", ["train"], LEASE) is None


def test_a_named_lease_has_one_holder_and_its_fence_grows_with_every_change_of_hands(
    jobs: Jobs, clock: FixedClock
) -> None:
    assert jobs.acquire("ingest", "ann", LEASE) == 1
    assert jobs.acquire("ingest", "bob", LEASE) is None
    assert jobs.acquire("ingest", "ann", LEASE) == 1
    assert jobs.acquire("judge", "bob", LEASE) == 1
    clock.move(LEASE)
    assert jobs.acquire("ingest", "bob", LEASE) == 2
    with pytest.raises(LeaseLostError, match=r"'ingest' \(fence 1\)"):
        jobs.renew("ingest", 1, LEASE)
    jobs.release("ingest", 1)
    assert jobs.acquire("ingest", "ann", LEASE) is None, "an old fence must not release a new lease"
    jobs.renew("ingest", 2, LEASE * 2)
    clock.move(LEASE)
    assert jobs.acquire("ingest", "ann", LEASE) is None
    jobs.release("ingest", 2)
    with pytest.raises(LeaseLostError):
        jobs.renew("ingest", 2, LEASE)
    assert jobs.acquire("ingest", "ann", LEASE) == 3
