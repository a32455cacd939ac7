"""A release is taken back by an incident that says so, and only where the release may be the cause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from undrift.deploy.rollout import Rollout, start
from undrift.event import Draft
from undrift.finding import Finding, Report, Verdict, Window
from undrift.monitor.actions import take_back
from undrift.monitor.alerts import decide
from undrift.monitor.monitors import Monitor, found

NOW = datetime(2013, 7, 14, tzinfo=UTC)
DAY = timedelta(days=1)
FORMER = {"revision": "r-old", "version": 1}


def opened(*actions: str, onset: datetime = NOW - DAY) -> list[Draft]:
    monitor = Monitor(name="answers", kind="silent", actions=actions)
    seen: Finding = found(
        monitor, Verdict.FAIL, "x", name="s", value=1.0, n=9, window=Window(onset, NOW), cause="constant answers"
    )
    return list(decide("flights", [monitor], {}, Report(title="t", subject="s", findings=(seen,)), NOW))


def champion(days: float | None) -> dict[str, Any]:
    return {"revision": "r-new", "since": None if days is None else NOW - days * DAY}


def test_the_release_before_the_onset_is_taken_back_with_the_reason() -> None:
    (draft,) = take_back("flights", opened("roll_back"), [], champion(3), FORMER, NOW)
    assert (draft.kind, draft.actor) == ("revision.promoted", "work")
    assert draft.payload == {
        "model": "flights",
        "revision": "r-old",
        "version": 1,
        "forced": False,
        "withdrawn": "r-new",
    }
    assert draft.why == "back to version 1: constant answers, 2 days after the release"


def test_a_rollout_under_way_is_ended_and_the_champion_stays() -> None:
    state = start(Rollout(), "01J", "flights", ("r-next", 3), ("r-new", 2), NOW - DAY).state
    drafts = take_back("flights", opened("roll_back", "freeze"), [state], champion(3), FORMER, NOW)
    assert [draft.kind for draft in drafts] == ["rollout.rolled_back"]
    assert "constant answers" in drafts[0].why


def test_nothing_is_taken_back_where_nobody_said_so() -> None:
    assert take_back("flights", opened("freeze"), [], champion(3), FORMER, NOW) == ()
    assert take_back("flights", [], [], champion(3), FORMER, NOW) == ()


def test_a_release_of_long_ago_is_not_the_cause() -> None:
    assert take_back("flights", opened("roll_back"), [], champion(30), FORMER, NOW) == ()
    assert take_back("flights", opened("roll_back"), [], champion(None), FORMER, NOW) == ()


def test_there_must_be_something_to_go_back_to() -> None:
    assert take_back("flights", opened("roll_back"), [], champion(3), None, NOW) == ()
