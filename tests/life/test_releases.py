"""Promote, roll out, roll back, and what people may say to a rollout: what is allowed from where, and on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from undrift import releases
from undrift.deploy import people
from undrift.deploy.routes import running
from undrift.errors import ConflictError, DeclarationError, NotFoundError
from undrift.project import Project, open_project

from living import ME, copy_of, redeclared, train_as  # isort: skip

BEN = "person:ben"


def live(project: Project) -> tuple[int, int, float]:
    """Champion, candidate and its weight."""
    route = project.route("rides")
    assert route is not None
    return route["champion_version"], route["candidate_version"], route["weight"]


def test_the_first_champion_is_one_event_and_answers_at_once(project: Project) -> None:
    (event,) = project.journal.events(kinds=("revision.promoted",))
    assert (event.subject, event.actor, event.why) == ("model:rides", ME, "first champion")
    assert event.payload["forced"] is False
    assert live(project) == (1, 0, 0.0)
    with pytest.raises(ConflictError, match="version 1 of rides is champion already"):
        releases.promote(project, actor=ME)


def test_promoting_changes_the_champion_and_the_alias_in_mlflow(two: Project) -> None:
    event = releases.promote(two, version=2, actor=BEN)
    assert (event.why, live(two)) == ("promoted by a person", (2, 0, 0.0))
    assert two.registry.alias("rides", "champion") == 2
    assert [route.champion for route in two.publish_routes().routes] == [two.version("rides", 2)["revision"]]


def test_a_rollout_begins_in_shadow_with_no_unit_exposed(two: Project) -> None:
    state = releases.roll_out(two, actor=ME)
    assert (state.stage, state.step, state.weight, state.status) == ("shadow", -1, 0.0, "running")
    assert live(two) == (1, 2, 0.0)
    table = two.publish_routes().routes[0]
    assert {placed.version for placed in table.revisions} == {1, 2}, "warm before its turn comes"
    assert [state.id for state in running(two.journal)] == [state.id]


def test_a_replay_of_the_same_events_assigns_the_same_units_and_another_try_others(
    two: Project, tmp_path: Path
) -> None:
    with copy_of(two.root, tmp_path / "replay") as replay:
        first = releases.roll_out(two, actor=ME)
        assert releases.roll_out(replay, actor=BEN).id == first.id
    releases.say(two, "abort", actor=ME)
    assert releases.roll_out(two, actor=ME).id != first.id


def test_while_a_rollout_runs_nothing_else_is_released(two: Project) -> None:
    releases.roll_out(two, actor=ME)
    for verb in (releases.roll_out, releases.promote):
        with pytest.raises(ConflictError, match="rides has a rollout under way: version 2 against 1") as caught:
            verb(two, actor=ME)
        assert "undrift abort" in caught.value.hint
    assert len(two.journal.events(kinds=("rollout.started",))) == 1


def test_without_a_champion_there_is_nothing_to_roll_out_against(fresh: Project) -> None:
    from living import train  # isort: skip

    train(fresh)
    with pytest.raises(ConflictError, match="rides has no champion to roll out against") as caught:
        releases.roll_out(fresh, actor=ME)
    assert "undrift promote rides" in caught.value.hint
    with pytest.raises(ConflictError, match="no former champion"):
        releases.roll_back(fresh, actor=ME)


def test_the_champion_is_not_rolled_out_against_itself(project: Project) -> None:
    with pytest.raises(DeclarationError, match="is the champion of rides already"):
        releases.roll_out(project, actor=ME)
    assert running(project.journal) == []


def test_rolling_back_ends_the_rollout_and_another_try_needs_a_reason(two: Project) -> None:
    releases.roll_out(two, actor=ME)
    event = releases.roll_back(two, actor=BEN, why="complaints")
    assert (event.kind, event.actor) == ("rollout.rolled_back", BEN)
    assert event.why == "complaints; 0 units were exposed"
    assert (live(two), running(two.journal)) == ((1, 0, 0.0), [])
    with pytest.raises(ConflictError, match="version 2 of rides was taken back before: complaints"):
        releases.roll_out(two, actor=ME)
    with pytest.raises(ConflictError, match="taken back before"):
        releases.promote(two, version=2, actor=ME)
    assert releases.roll_out(two, actor=ME, why="the calls were about something else").candidate_version == 2
    releases.say(two, "abort", actor=BEN, why="wrong day")
    with pytest.raises(ConflictError, match="complaints"):
        releases.roll_out(two, actor=ME)


def test_a_rollout_that_a_person_aborted_says_nothing_against_the_version(two: Project) -> None:
    releases.roll_out(two, actor=ME)
    releases.say(two, "abort", actor=BEN, why="wrong day")
    assert releases.roll_out(two, actor=ME).candidate_version == 2


def test_rolling_back_to_a_version_ends_the_rollout_under_way_too(two: Project) -> None:
    releases.promote(two, version=2, actor=ME)
    revision = two.version("rides", 1)["revision"]
    releases.roll_out(two, version=1, actor=ME)
    event = releases.roll_back(two, to=revision, actor=BEN, why="version 2 is bad")
    assert (event.kind, live(two), running(two.journal)) == ("revision.promoted", (1, 0, 0.0), [])
    with pytest.raises(ConflictError, match="version 2 of rides was taken back before: version 2 is bad"):
        releases.roll_out(two, version=2, actor=ME)


def test_in_a_freeze_nothing_begins_but_rolling_back_works(two: Project) -> None:
    frozen = "freezes=(ud.Freeze(start='2020-01-01T00:00Z', end='2030-01-01T00:00Z', why='audit'),), steps=(25, 100)"
    with redeclared(two, train="wide", rollout=frozen) as changed:
        with pytest.raises(ConflictError, match="nothing advances now: audit"):
            releases.promote(changed, version=2, actor=ME)
        state = releases.roll_out(changed, actor=ME)
        assert (state.weight, state.step, live(changed)) == (0.0, -1, (1, 2, 0.0))
        with pytest.raises(ConflictError, match="nothing advances now: audit"):
            releases.say(changed, "skip", actor=BEN, why="hurry")
        assert releases.roll_back(changed, actor=BEN).kind == "rollout.rolled_back"
        releases.promote(changed, version=2, actor=ME, force=True, why="signed off by the auditor")
        assert live(changed)[0] == 2


def test_a_word_for_another_rollout_than_the_one_that_was_looked_at_is_refused(two: Project) -> None:
    first = releases.roll_out(two, actor=ME)
    releases.say(two, "abort", actor=ME)
    second = releases.roll_out(two, actor=ME)
    with pytest.raises(ConflictError, match=f"{first.id} of rides is over; {second.id} is under way now"):
        releases.say(two, "pause", actor=BEN, rollout_id=first.id)


def test_a_tick_that_judges_at_the_same_moment_does_not_lose_what_a_person_says(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from undrift.deploy.rollout import draft

    state = releases.roll_out(two, actor=ME)
    real = two.journal.record

    def late(*given: Any, **how: Any) -> Any:
        monkeypatch.setattr(two.journal, "record", real)
        real([draft("rollout.judged", state, two.now().now(), "hold")])
        return real(*given, **how)

    monkeypatch.setattr(two.journal, "record", late)
    assert releases.say(two, "pause", actor=BEN).status == "paused"
    assert [e.kind for e in two.journal.events(subject=state.subject)][-2:] == ["rollout.judged", "rollout.paused"]


def test_what_was_rolled_back_by_evidence_needs_a_reason_for_another_try(two: Project) -> None:
    state = releases.roll_out(two, actor=ME)
    ended = people.abort(state, two.now().now(), actor="work", why="brier too high").drafts[0]
    payload = {**ended.payload, "state": {**ended.payload["state"], "status": "rolled_back"}}
    two.journal.record([_replaced(ended, kind="rollout.rolled_back", payload=payload)])
    with pytest.raises(ConflictError, match="version 2 of rides was taken back before: brier too high") as caught:
        releases.roll_out(two, actor=ME)
    assert "--why" in caught.value.hint
    state = releases.roll_out(two, actor=ME, why="the feed is mended")
    (_, started) = two.journal.events(kinds=("rollout.started",))
    assert (started.why, started.payload["state"]["id"]) == ("the feed is mended", state.id)


def _replaced(draft: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(draft, **changes)


def test_rolling_back_without_a_rollout_goes_to_the_former_champion(two: Project) -> None:
    releases.promote(two, actor=ME)
    event = releases.roll_back(two, actor=BEN)
    assert (event.kind, event.why, live(two)[0]) == ("revision.promoted", "rolled back to version 1", 1)
    assert two.registry.alias("rides", "champion") == 1
    releases.roll_back(two, to=2, actor=BEN, why="it was not the model after all")
    assert live(two)[0] == 2
    with pytest.raises(NotFoundError, match="no version 7"):
        releases.roll_back(two, to=7, actor=BEN)


def test_going_back_to_where_one_is_changes_nothing_and_says_so(two: Project) -> None:
    releases.promote(two, actor=ME)
    with pytest.raises(ConflictError, match="version 2 of rides is champion already"):
        releases.roll_back(two, to=2, actor=BEN)
    assert live(two)[0] == 2


def test_with_no_former_champion_there_is_nothing_to_go_back_to(project: Project) -> None:
    with pytest.raises(ConflictError, match="rides has no former champion to go back to"):
        releases.roll_back(project, actor=ME)


def test_people_pause_resume_and_abort(two: Project) -> None:
    for word in releases.SAYINGS:
        with pytest.raises(NotFoundError, match="rides has no rollout under way"):
            releases.say(two, word, actor=ME)
    releases.roll_out(two, actor=ME)
    assert releases.say(two, "pause", actor=BEN).status == "paused"
    with pytest.raises(ConflictError, match="is paused and cannot be paused"):
        releases.say(two, "pause", actor=BEN)
    assert releases.say(two, "resume", actor=BEN).status == "running"
    with pytest.raises(ConflictError, match="needs no approval"):
        releases.say(two, "approve", actor=BEN)
    assert releases.say(two, "abort", actor=BEN, why="enough").status == "aborted"
    kinds = [event.kind for event in two.journal.events() if event.kind.startswith("rollout.")]
    assert kinds == ["rollout.started", "rollout.paused", "rollout.resumed", "rollout.aborted"]
    assert {event.actor for event in two.journal.events() if event.kind in kinds[1:]} == {BEN}


def test_a_rollout_that_needs_approval_exposes_nobody_before_it(project: Project) -> None:
    approving = "steps=(25, 100), hold='1d', minimum_units=20, approval=True"
    train_as(project, "wide", rollout=approving)
    with redeclared(project, train="wide", rollout=approving) as changed:
        state = releases.roll_out(changed, actor=ME)
        assert (state.status, state.weight, live(changed)) == ("paused", 0.0, (1, 2, 0.0))
        with pytest.raises(ConflictError, match="resuming is not approving"):
            releases.say(changed, "resume", actor=BEN)
        approved = releases.say(changed, "approve", actor=BEN)
        assert (approved.status, approved.weight, approved.approved_by) == ("running", 25.0, BEN)
        assert live(changed) == (1, 2, 25.0)


def test_a_change_that_somebody_else_made_first_is_a_conflict(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people promote at once: the second one decided on what is no longer so."""
    real = two.journal.record

    def late(*given: Any, **how: Any) -> Any:
        monkeypatch.setattr(two.journal, "record", real)
        with open_project(two.root) as other:
            releases.promote(other, version=2, actor=BEN)
        return real(*given, **how)

    monkeypatch.setattr(two.journal, "record", late)
    with pytest.raises(ConflictError):
        releases.promote(two, version=2, actor=ME)
    assert len(two.journal.events(kinds=("revision.promoted",))) == 2
