"""A retrain job: fresh rows, a challenger, the gate on the same rows, and a rollout or a refusal, once."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from undrift import lifecycle, retrain
from undrift.finding import Verdict
from undrift.project import Project, open_project
from undrift.retrain import run_retrain

from living import ME, Alive, Life, redeclared  # isort: skip
from town import DAY, LIVE, TRAINED_DAYS, Town  # isort: skip


def finished(project: Project) -> list[tuple[bool, str]]:
    return [(e.payload["accepted"], e.why) for e in project.journal.events(kinds=("retrain.finished",))]


@pytest.fixture
def lived(project: Project, alive: Alive) -> Life:
    """Five days of traffic with the narrow champion."""
    life = alive(project)
    life.play(5)
    return life


def test_a_challenger_that_is_no_better_is_refused_and_on_record(lived: Life) -> None:
    lifecycle.retrain(lived.project, actor=ME, why="to be sure")
    lived.settle(lived.now)
    ((accepted, why),) = finished(lived.project)
    assert not accepted
    assert why.startswith("challenger refused, the champion stays: log_loss_gain")
    assert len(lived.project.versions("rides")) == 1
    (event,) = lived.project.journal.events(kinds=("retrain.finished",))
    assert event.payload["gate"]["findings"], "with the report of the gate"
    state = lived.project.journal.get("retrain", "rides")
    assert state is not None
    assert (state["pending"], state["accepted"], state["rejected"]) == (False, 0, 1)
    assert any("challenger refused" in line for line in lived.said)


def test_a_better_challenger_is_registered_and_goes_into_its_rollout(lived: Life) -> None:
    with redeclared(lived.project, train="wide") as changed:
        lifecycle.apply(changed, actor=ME)
        lifecycle.retrain(changed, actor=ME, why="features at last")
    lived.settle(lived.now)
    ((accepted, why),) = finished(lived.project)
    assert accepted, why
    assert why.startswith("challenger is version 2: log_loss_gain")
    row = lived.project.version("rides")
    assert (row["version"], row["source"], row["actor"]) == (2, "retrain", "work")
    report = lifecycle.gate(lived.project)
    assert (report.verdict, report.facts["rival"]) == (Verdict.PASS, "champion, version 1")
    assert [e.kind for e in lived.project.journal.events()][-4:] == [
        "dataset.recorded",
        "version.registered",
        "retrain.finished",
        "rollout.started",
    ]
    assert lived.project.route("rides")["candidate_version"] == 2  # type: ignore[index]


def test_it_learns_from_what_was_captured_and_the_training_data_before_it(lived: Life) -> None:
    """25 days of training data and 5 of traffic, less the rides whose outcome is not known yet: each once."""
    lifecycle.retrain(lived.project, actor=ME, why="to be sure")
    lived.settle(lived.now)
    (event,) = [e for e in lived.project.journal.events(kinds=("dataset.recorded",)) if e.actor == "work"]
    assert event.payload["name"] == "rides_fresh"
    assert event.payload["rows"] == 30 * 160 - 20
    assert event.payload["quarantined"] == 0


def test_without_enough_fresh_labels_nothing_is_trained(project: Project, alive: Alive) -> None:
    life = alive(project)
    life.play(2)
    lifecycle.retrain(project, actor=ME, why="too early")
    life.settle(life.now)
    ((accepted, why),) = finished(project)
    assert not accepted
    assert why.startswith("not trained: 300 labelled rows")
    assert why.endswith("500 are needed")


def test_data_that_cannot_be_trained_on_end_the_job_with_the_reason(lived: Life) -> None:
    (lived.project.root / "weather.parquet").unlink()
    file = lived.project.root / "declarations.py"
    file.write_text(
        file.read_text()
        .replace('name="rain", source="weather"', 'name="rain", source="skies"')
        .replace("arrivals = ud.Source(", SKIES + "arrivals = ud.Source(")
    )
    with open_project(lived.project.root) as changed:
        lifecycle.apply(changed, actor=ME)
        at = changed.now().now()
        changed.follow()
        (line,) = run_retrain(changed, "rides", at, why="a new source")
    assert "not trained: view 'rain' has no rows in the lake" in line
    assert [accepted for accepted, _ in finished(lived.project)] == [False]


SKIES = """
skies = ud.Source(
    name="skies",
    time="seen_at",
    contract=ud.Contract(
        name="skies",
        fields=(
            ud.Field(name="zone", type="string"),
            ud.Field(name="seen_at", type="timestamp"),
            ud.Field(name="rain", type="number"),
        ),
    ),
)
"""


def test_a_retrain_that_runs_again_does_nothing(lived: Life) -> None:
    at = lived.now
    lived.project.follow()
    assert len(run_retrain(lived.project, "rides", at, why="x")) == 2
    before = lived.project.journal.events()[-1].seq
    assert run_retrain(lived.project, "rides", at, why="x") == []
    assert lived.project.journal.events()[-1].seq == before


def test_a_retrain_that_was_killed_before_it_was_recorded_leaves_no_half_of_it(
    lived: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with redeclared(lived.project, train="wide") as changed:
        lifecycle.apply(changed, actor=ME)
        before = changed.journal.events()[-1].seq
        with monkeypatch.context() as patch:
            patch.setattr(retrain, "_record", killed)
            with pytest.raises(KeyboardInterrupt):
                run_retrain(changed, "rides", lived.now, why="x")
        assert changed.journal.events()[-1].seq == before
        run_retrain(changed, "rides", lived.now, why="x")
        assert [row["version"] for row in changed.versions("rides")] == [1, 2]
        kinds = [event.kind for event in changed.journal.events(after=before)]
        assert kinds == ["dataset.recorded", "version.registered", "retrain.finished", "rollout.started"]


def test_while_a_rollout_runs_a_challenger_is_kept_but_not_started(two: Project, alive: Alive) -> None:
    from undrift import releases

    life = alive(two, Town(TRAINED_DAYS + 8))
    life.play(4)
    releases.roll_out(two, actor=ME)
    two.follow()
    run_retrain(two, "rides", LIVE + 4 * DAY, why="more data")
    route = two.route("rides")
    assert route is not None
    assert route["candidate_version"] == 2, "the rollout under way is left alone"
    assert len(two.journal.events(kinds=("rollout.started",))) == 1
    assert len(two.versions("rides")) == 3


def test_the_train_function_is_read_as_it_is_when_the_job_runs(lived: Life) -> None:
    """The worker imported the module long ago; the challenger is what the file says now."""
    lived.project.follow()
    run_retrain(lived.project, "rides", lived.now - timedelta(hours=1), why="first")
    file = lived.project.root / "train.py"
    file.write_text(file.read_text().replace('of_columns(data, "distance")', 'of_columns(data, "distance", "rain")'))
    lines = run_retrain(lived.project, "rides", lived.now, why="second")
    assert "challenger is version 2" in "".join(lines)


def test_the_declaration_that_counts_is_the_applied_one(lived: Life) -> None:
    model = lived.project.model()
    assert model.retrain is not None
    with redeclared(lived.project, retrain="ud.Retrain(minimum_rows=1_000_000)"):
        lifecycle.retrain(lived.project, actor=ME, why="as applied")
        lived.settle(lived.now)
    ((_, why),) = finished(lived.project)
    assert "are needed" not in why
    assert msgspec.to_builtins(model.retrain)["minimum_rows"] == 500
