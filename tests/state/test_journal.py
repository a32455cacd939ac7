"""The journal stores a decision once, keeps projections beside the log, and notices when the log was altered."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from undrift.errors import BrokenChainError, ConflictError
from undrift.event import GENESIS, Draft, Event
from undrift.ids import FixedClock
from undrift.state.jobs import JobDraft, Jobs
from undrift.state.journal import Journal, Reducer

Make = Callable[..., Draft]


def _alter(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement).rowcount >= 1, "the test altered nothing"
    connection.close()


def test_events_follow_each_other_without_gap_and_hash_to_each_other(journal: Journal, draft: Make) -> None:
    first, second = journal.record([draft(), draft()])
    (third,) = journal.record([draft()])
    assert [first.seq, second.seq, third.seq] == [1, 2, 3]
    assert (first.prev, second.prev, third.prev) == (GENESIS, first.hash, second.hash)
    assert journal.verify() == 3
    assert journal.events() == [first, second, third]


def test_an_empty_log_is_whole(journal: Journal) -> None:
    assert journal.verify() == 0
    assert journal.record([]) == []
    assert journal.verify() == 0


def test_the_same_key_is_stored_once_and_the_stored_event_returned(journal: Journal, draft: Make) -> None:
    (stored,) = journal.record([draft(key="tick 1", payload={"revision": "a"})])
    again = journal.record([draft(key="tick 1", payload={"revision": "b"}), draft(key="tick 2")])
    assert again[0] == stored
    assert [event.seq for event in again] == [1, 2]
    assert journal.get("count", "model:flights") == {"n": 2, "last": None}


def test_the_same_key_twice_in_one_call_is_stored_once(journal: Journal, draft: Make) -> None:
    first, second = journal.record([draft(key="k"), draft(key="k")])
    assert first == second
    assert journal.verify() == 1


def test_a_decision_on_a_stale_view_is_refused_whole(journal: Journal, draft: Make) -> None:
    seen = {("count", "model:flights"): journal.seq_of("count", "model:flights")}
    journal.record([draft(key="ann")], expect=seen)
    with pytest.raises(ConflictError, match=r"changed by event 1 .*\(then: event None\)"):
        journal.record([draft(key="bob")], jobs=[JobDraft(kind="train", key="bob")], expect=seen)
    assert journal.verify() == 1
    assert Jobs(journal.store, FixedClock(datetime(2030, 1, 1, tzinfo=UTC))).counts()["ready"] == 0


def test_a_decision_repeated_after_a_crash_is_no_conflict(journal: Journal, draft: Make) -> None:
    seen = {("count", "model:flights"): None}
    assert journal.record([draft(key="k")], expect=seen) == journal.record([draft(key="k")], expect=seen)


def test_a_reducer_that_raises_leaves_no_event_behind(journal: Journal, draft: Make, clock: FixedClock) -> None:
    def broken(value: object, event: Event, key: str) -> dict[str, object] | None:
        raise ZeroDivisionError

    bad = Reducer("bad", frozenset({"revision.promoted"}), lambda event: ["x"], broken)
    with pytest.raises(ZeroDivisionError):
        Journal(journal.store, clock, [bad]).record([draft()], jobs=[JobDraft(kind="train", key="j")])
    assert journal.events() == []
    assert journal.verify() == 0


def test_events_are_found_by_subject_kind_place_and_event_time(journal: Journal, draft: Make) -> None:
    noon = datetime(2013, 4, 1, 12, tzinfo=UTC)
    journal.record(
        [
            draft(subject="model:a"),
            draft(subject="model:b", at=noon),
            draft("alert.opened", "model:a", at=noon + timedelta(microseconds=1)),
        ]
    )

    def found(**by: object) -> list[int]:
        return [event.seq for event in journal.events(**by)]  # type: ignore[arg-type]

    assert found(subject="model:a") == [1, 3]
    assert found(subject="model:a", kinds=["alert.opened"]) == [3]
    assert found(kinds=["revision.promoted"]) == [1, 2]
    assert found(until=noon) == [1, 2]
    assert found(until=noon.astimezone(timezone(timedelta(hours=5)))) == [1, 2]
    assert found(after=1, limit=1) == [2]
    assert found(subject="model:c") == found(kinds=["alert.resolved"]) == []


def test_an_entry_that_its_reducer_drops_is_gone(journal: Journal, draft: Make) -> None:
    journal.record([draft(), draft(subject="model:other")])
    assert journal.seq_of("count", "model:flights") == 1
    journal.record([draft("rollout.aborted")])
    assert journal.get("count", "model:flights") is None
    assert journal.seq_of("count", "model:flights") is None
    assert list(journal.items("count")) == ["model:other"]


def test_rebuilding_leaves_the_projections_of_others_alone(journal: Journal, draft: Make, clock: FixedClock) -> None:
    other = Reducer("other", frozenset({"revision.promoted"}), lambda event: ["k"], lambda value, event, key: {"x": 1})
    Journal(journal.store, clock, [other]).record([draft()])
    journal.rebuild()
    assert journal.items("other") == {"k": {"x": 1}}
    assert journal.items("count") == {"model:flights": {"n": 1, "last": None}}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET body = replace(body, 'it is better', 'it was told to') WHERE seq = 2",
        "UPDATE event SET body = '{' WHERE seq = 2",
        "UPDATE event SET at = at + 1 WHERE seq = 2",
        "UPDATE event SET subject = 'model:other' WHERE seq = 2",
        "DELETE FROM event WHERE seq = 1",
        "DELETE FROM event WHERE seq = 2",
        "DELETE FROM event WHERE seq = 3",
        "DELETE FROM event",
        "UPDATE setting SET value = '[2,\"" + "0" * 64 + "\"]' WHERE name = 'journal.head'",
    ],
)
def test_a_log_that_was_altered_is_noticed(journal: Journal, draft: Make, path: Path, statement: str) -> None:
    journal.record([draft(key=str(i)) for i in range(3)])
    _alter(path, statement)
    with pytest.raises(BrokenChainError):
        journal.verify()


def test_a_log_cut_short_stays_broken_when_it_goes_on(journal: Journal, draft: Make, path: Path) -> None:
    journal.record([draft(), draft(), draft()])
    _alter(path, "DELETE FROM event WHERE seq = 3")
    journal.record([draft()])
    with pytest.raises(BrokenChainError, match=r"event 4 .* does not follow event 2"):
        journal.verify()


def test_nothing_is_written_over_an_event(journal: Journal, draft: Make, path: Path) -> None:
    journal.record([draft(), draft()])
    _alter(path, "UPDATE setting SET value = '[0,\"" + GENESIS + "\"]' WHERE name = 'journal.head'")
    with pytest.raises(BrokenChainError, match="event 1 is in the log already"):
        journal.record([draft()])


def test_small_values_are_kept_but_not_in_the_journals_own_names(journal: Journal) -> None:
    assert journal.get_setting("watermark") is None
    assert journal.get_setting("watermark", 5) == 5
    journal.put_setting("watermark", {"at": 1, "of": ["a", None]})
    journal.put_setting("watermark", {"at": 2})
    assert journal.get_setting("watermark") == {"at": 2}
    with pytest.raises(ConflictError, match=r"journal\.head"):
        journal.put_setting("journal.head", [0, ""])


def test_seen_ids_are_remembered_until_forgotten(journal: Journal) -> None:
    journal.mark_seen([("a", 10), ("b", 20)])
    journal.mark_seen([("a", 99), ("c", 30)])
    assert journal.seen(["a", "b", "c", "d"]) == {"a", "b", "c"}
    journal.forget_seen(20)
    assert journal.seen(["a", "b", "c"]) == {"b", "c"}
    assert journal.seen([f"id {i}" for i in range(50_000)]) == set()


def test_the_wall_clock_stands_beside_event_time(journal: Journal, draft: Make, clock: FixedClock) -> None:
    clock.move(timedelta(days=3))
    (event,) = journal.record([draft()])
    assert (event.at, event.recorded_at) == (clock.now() - timedelta(days=3), clock.now())
