"""What is so, what happened, what was live when, and why a prediction came out so; asking changes nothing."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from typing import Any

import pytest

from undrift import explanations, inquiry, releases
from undrift.errors import ContractError, NotFoundError
from undrift.ids import to_micros
from undrift.project import Project, open_project
from undrift.work import Worker

from living import ME, Alive, Life  # isort: skip
from town import DAY, LIVE, START  # isort: skip

HOUR = timedelta(hours=1)


@pytest.fixture
def released(two: Project, alive: Alive) -> Life:
    """Five days in which version 2 went through its rollout and won."""
    life = alive(two)
    releases.roll_out(two, actor=ME)
    life.service.follow()
    life.play(4)
    return life


def test_status_tells_where_everything_stands(two: Project, alive: Alive) -> None:
    before = inquiry.status(two)
    rides = before["models"]["rides"]
    assert (rides["task"], rides["champion"], rides["versions"], rides["applied"]) == ("binary", 1, 2, True)
    assert (rides["rollout"], rides["incidents"], rides["retrain"]["pending"]) == (None, [], False)
    assert LIVE - HOUR < datetime.fromisoformat(before["now"]) < LIVE, "event time stands where the training data end"
    assert rides["retrain"]["trained_at"] == before["now"]
    assert before["work"] == {
        "watermark": None,
        "ticked": None,
        "waiting_bytes": 0,
        "lag_seconds": 0.0,
        "jobs": {"ready": 0, "running": 0, "done": 0, "failed": 0},
    }
    life = alive(two)
    state = releases.roll_out(two, actor=ME)
    life.play()
    after = inquiry.status(two)
    assert after["models"]["rides"]["rollout"]["id"] == state.id
    assert after["models"]["rides"]["rollout"]["weight"] == 40.0
    assert after["now"] == after["work"]["watermark"] == after["work"]["ticked"] == (LIVE + DAY).isoformat()
    assert after["work"]["jobs"]["done"] == 2
    json.dumps(after)


def test_status_tells_how_far_rows_are_in_also_by_the_wall_clock(fresh: Project) -> None:
    settings = fresh.root / "undrift.toml"
    settings.write_text(settings.read_text().replace('mode = "event"', 'mode = "wall"'))
    with open_project(fresh.root) as project:
        assert inquiry.status(project)["work"]["watermark"] is None
        begun = project.now().now()
        Worker(project).cycle()
        assert begun <= datetime.fromisoformat(inquiry.status(project)["work"]["watermark"]) <= project.now().now()


def test_status_of_a_project_nothing_was_done_with(fresh: Project) -> None:
    rides = inquiry.status(fresh)["models"]["rides"]
    assert (rides["applied"], rides["champion"], rides["versions"]) == (None, None, 0)


def test_a_declaration_that_changed_since_is_told(two: Project) -> None:
    file = two.root / "declarations.py"
    file.write_text(file.read_text().replace('owner="operations"', 'owner="nobody"'))
    from undrift.project import open_project

    with open_project(two.root) as changed:
        assert inquiry.status(changed)["models"]["rides"]["applied"] is False


def test_servers_that_are_alive_are_listed(two: Project, alive: Alive) -> None:
    life = alive(two)
    (row,) = inquiry.serving(two)
    assert (row["pid"], row["epoch"]) == (os.getpid(), life.service.placement.epoch)
    folder = two.root / ".undrift" / "serve"
    (folder / "4194303.json").write_text('{"pid": 4194303, "epoch": 1}')
    (folder / "broken.json").write_text("{")
    (folder / "address.json").write_text(json.dumps({"pid": os.getpid(), "port": 1}))
    assert len(inquiry.serving(two)) == 1


def test_history_is_told_in_order_and_can_be_narrowed(released: Life) -> None:
    project = released.project
    everything = inquiry.history(project)
    assert [event.seq for event in everything] == list(range(1, len(everything) + 1))
    assert inquiry.history(project, limit=3) == everything[-3:]
    kinds = [event.kind for event in inquiry.history(project, kinds=("rollout.started", "rollout.succeeded"))]
    assert kinds == ["rollout.started", "rollout.succeeded"]
    (rollout,) = {event.subject for event in everything if event.kind == "rollout.started"}
    assert {e.kind for e in inquiry.history(project, subject=rollout)} == {
        "rollout.started",
        "rollout.advanced",
        "rollout.succeeded",
    }
    about = inquiry.history(project, subject="rides")
    assert about == inquiry.history(project, subject="model:rides")
    assert {event.kind for event in everything} - {event.kind for event in about} == set()
    assert inquiry.history(project, subject="trips") == []
    early = inquiry.history(project, until=LIVE + DAY)
    assert early
    assert all(event.at <= LIVE + DAY for event in early)


def test_what_was_live_at_a_past_moment_follows_from_the_log(released: Life) -> None:
    project = released.project
    steps = [(event.at, event.kind) for event in inquiry.history(project) if event.kind.startswith("rollout.")]
    ended = steps[-1][0]
    assert steps[-1][1] == "rollout.succeeded"

    def at(moment: datetime) -> tuple[int, int, float]:
        route = inquiry.live_at(project, moment)["rides"]
        return route["champion_version"], route["candidate_version"], route["weight"]

    assert at(LIVE + DAY - HOUR) == (1, 2, 0.0), "in shadow"
    assert at(LIVE + DAY) == (1, 2, 40.0)
    assert at(ended - HOUR) == (1, 2, 70.0)
    assert at(ended) == (2, 0, 0.0)
    route = inquiry.live_at(project, ended)["rides"]
    assert (route["since"], route["by"]) == (ended.isoformat(), "work")
    assert route["why"].startswith("every guardrail held")
    assert inquiry.live_at(project, START) == {}


def test_why_explains_a_prediction_that_was_answered(released: Life) -> None:
    project = released.project
    row = released.answered[200]
    found = inquiry.why(project, row["id"])
    ride = next(r for r in released.town.day(LIVE + DAY).rides if r["ride"] == row["id"])
    assert (found["model"], found["unit"], found["revision"], found["variant"]) == (
        "rides",
        row["id"],
        row["revision"],
        row["variant"],
    )
    assert found["version"] == row["version"]
    assert found["inputs"]["distance"] == ride["distance"]
    assert found["at"] == ride["at"]
    assert found["threshold"] == 0.5
    assert (found["score"] >= 0.5) == (found["prediction"] == "1")
    assert found["registered"]["source"] == "train"
    moment = datetime.fromisoformat(ride["at"])
    quarter = START + (moment - START) // (DAY / 4) * (DAY / 4)
    minutes = (moment - quarter) / timedelta(minutes=1)
    rain = found["features"]["rain"]
    assert rain["view"] == "rain"
    assert rain["age"] == (f"{minutes / 60:.1f}h" if minutes >= 60 else f"{minutes:.1f}m")
    assert found["features"]["late_3d"]["view"] == "record"
    assert found["features"]["weekend"] == {
        "value": float(moment.weekday() >= 5),
        "view": "computed from the request",
        "age": None,
    }
    outcome = next(o for o in released.town.day(LIVE + DAY).outcomes if o["id"] == row["id"])
    assert found["outcome"] == {"label": outcome["label"], "at": outcome["event_time"]}
    assert found["violations"] == []


def test_why_tells_what_each_input_added_by_the_revision_that_answered(released: Life) -> None:
    project = released.project
    revisions = {row["revision"]: row for row in released.answered}
    assert len(revisions) == 2, "both versions answered"
    for revision, row in revisions.items():
        found = inquiry.why(project, row["id"])
        told = found["explanation"]
        assert (found["revision"], found["unexplained"]) == (revision, "")
        total = told["base"] + sum(each["contribution"] for each in told["contributions"])
        assert abs(total - told["output"]) <= told["tolerance"]
        assert told["score"] == pytest.approx(found["score"], abs=1e-6), "the captured inputs give the answer again"
        given = {**found["inputs"], **{name: feature["value"] for name, feature in found["features"].items()}}
        for each in told["contributions"]:
            assert each["value"] == pytest.approx(given[each["input"]], rel=1e-6, nan_ok=True), each["input"]
    assert "explanation" not in inquiry.why(project, row["id"], explained=False)
    assert inquiry.why(project, row["id"], method="lime")["explanation"]["method"] == "lime"
    assert "one of auto" in inquiry.why(project, row["id"], method="magic")["unexplained"]


def test_explain_takes_rows_looks_features_up_and_refuses_what_breaks_the_contract(released: Life) -> None:
    ride = released.town.day(LIVE + DAY).rides[0]
    rows = {name: [value] for name, value in ride.items()}
    (champion,) = explanations.explain(released.project, rows)
    (first,) = explanations.explain(released.project, rows, version=1)
    assert {c.input for c in champion.contributions} >= {"distance", "rain", "weekend"}
    assert set(champion.groups) >= {"request", "rain"}
    assert champion.score != first.score
    with pytest.raises(ContractError):
        explanations.explain(released.project, {**rows, "distance": ["far"]})


def test_why_takes_the_id_of_a_request_too_and_tells_what_was_odd(released: Life) -> None:
    ride = {**released.town.day(released.now).rides[0], "zone": "z", "quote": None}
    answer = released.service.post("/v1/models/rides:predict", {"instances": [ride]})
    released.settle(released.now)
    found = inquiry.why(released.project, answer["request_id"], model="rides")
    assert found["id"] == ride["ride"]
    assert found["violations"] == ["zone not in categories"]
    assert found["outcome"] is None
    assert found["features"]["late_3d"] == {"value": None, "view": "record", "age": None}


def test_a_label_that_is_corrected_counts_as_corrected(released: Life) -> None:
    row = released.answered[200]
    (label,) = [o for o in released.town.day(LIVE + DAY).outcomes if o["id"] == row["id"]]
    other = {"0": "1", "1": "0"}[label["label"]]
    later = {"id": row["id"], "label": other, "event_time": to_micros(released.now)}
    released.service.post("/v1/models/rides/labels", {"labels": [later]})
    released.settle(released.now)
    assert inquiry.why(released.project, row["id"])["outcome"] == {"label": other, "at": released.now.isoformat()}


def test_an_id_that_is_unknown_is_told_with_what_may_be_wrong(released: Life) -> None:
    with pytest.raises(
        NotFoundError, match="no captured prediction has the id 'r999' \\(looked at: rides\\)"
    ) as caught:
        inquiry.why(released.project, "r999")
    assert "undrift work" in caught.value.hint


def test_asking_changes_nothing(released: Life) -> None:
    def seen() -> Any:
        return {file: file.stat().st_mtime_ns for file in released.project.root.rglob("*.json") if file.is_file()}

    before, events = seen(), len(released.project.journal.events())
    inquiry.status(released.project)
    inquiry.history(released.project)
    inquiry.why(released.project, released.answered[0]["id"])
    assert (seen(), len(released.project.journal.events())) == (before, events)
