"""Failures played on a copy of the town: what its rules see and what not, and that the town stays as it was."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from undrift import lifecycle, plugins
from undrift.errors import ConflictError, NotFoundError, SettingsError
from undrift.finding import Finding, Measurement, Report, Verdict
from undrift.ids import content_hash, hash_file
from undrift.improve.triggers import finished
from undrift.plugins import Plugin
from undrift.project import Project, open_project
from undrift.rehearse import drill
from undrift.rehearse.candidate import WORTH, refused_by_gate
from undrift.rehearse.columns import Group
from undrift.rehearse.drill import TWIN, Control, Outcome, Rehearsal, rehearse, scenarios
from undrift.rehearse.forgets_long_tail import ForgetsLongTail
from undrift.rehearse.material import gather
from undrift.rehearse.scenario import Row, Scenario, Stage
from undrift.rehearse.scratch import copy_project
from undrift.rehearse.upstream_corrupts import UpstreamCorrupts
from undrift.rehearse.world_changes import WorldChanges

ROOM = Path(drill.__file__).parent
SMALL: dict[str, Any] = {"quiet_days": 6, "most_days": 6, "per_day": 160}


class NightShift(Scenario):
    """What a third party would write: outcomes turn, and every row is touched."""

    name = "night_shift"
    title = "the night shift"
    truth = "nothing happens at all"
    kinds = ("silent",)

    def change(self, rows: list[Row], stage: Stage, strength: float) -> list[Row]:
        for row in rows:
            row.touched = True
        return rows


def outcome(played: Rehearsal, name: str) -> Outcome:
    return next(each for each in played.outcomes if each.scenario == name)


@pytest.fixture
def with_night_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario of a third party, found as its entry point would be."""
    own = {"night_shift": Plugin(f"{__name__}:NightShift")}
    found, resolve = plugins._entry_points, plugins.resolve_path
    monkeypatch.setattr(plugins, "_entry_points", lambda port: own if port == "scenario" else found(port))
    mine = f"{__name__}:NightShift"
    monkeypatch.setattr(plugins, "resolve_path", lambda t, **how: NightShift if t == mine else resolve(t, **how))


def state_of(folder: Path) -> tuple[int, dict[str, str]]:
    """The length of a log, the content of all databases, and all other files.

    Opening a database may fold its write-ahead log into it, so what counts is what it holds, not its bytes.
    """
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    found = {str(p.relative_to(folder)): hash_file(p) for p in files if ".db" not in p.name}
    for path in (p for p in files if p.suffix == ".db"):
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found[str(path.relative_to(folder))] = content_hash(list(database.iterdump()))
    assert any(name.endswith(".db") for name in found), "a project has databases"
    with open_project(folder) as project:
        return project.journal.verify(), found


@pytest.mark.usefixtures("with_night_shift")
def test_each_failure_is_seen_by_the_part_of_undrift_that_is_there_for_it(trained: Path) -> None:
    """One rehearsal for all: six scenarios on the town, five that can be played, and one that nobody can see."""
    before = state_of(trained)
    with open_project(trained) as project:
        names = ("silent_garbage", "corner_case", "scheme_changes", "broken_for_some", "segment_rots", "night_shift")
        played = rehearse(project, names, **SMALL)
    assert state_of(trained) == before, "the project itself is as it was"

    silent = outcome(played, "silent_garbage")
    assert (silent.detected, silent.days, silent.by) == (True, 1, "monitor answers")
    assert 130 <= silent.exposed <= silent.predictions == 160
    assert any(deed.startswith("opened an incident") for deed in silent.did)

    corner = outcome(played, "corner_case")
    assert (corner.detected, corner.by) == (True, "the contract")
    assert any("refused" in deed for deed in corner.did)

    concept = outcome(played, "scheme_changes")
    assert (concept.detected, concept.by) == (True, "monitor quality")
    assert any(deed.startswith("asked for a retrain") for deed in concept.did)

    broken = outcome(played, "broken_for_some")
    assert (broken.detected, broken.by) == (True, "the rollout")
    assert 0 < broken.exposed < broken.predictions

    segment = outcome(played, "segment_rots")
    assert not segment.detected
    assert "kind slices" in segment.missing, "the declarations leave no room for it, which is said"

    unseen = outcome(played, "night_shift")
    assert (unseen.detected, unseen.days, unseen.exposed) == (False, None, 6 * 160), "every exposed row is counted"

    assert [control.name for control in played.controls] == ["the quiet days", "nothing wrong", "a sound candidate"]
    assert played.false_alarms == 0, played.controls
    assert played.detected == 4 / 5
    report = played.report()
    assert report.verdict is Verdict.FAIL, "night_shift went unseen"
    assert {f.measurement.name: f.verdict for f in report.findings}["segment_rots"] is Verdict.INCONCLUSIVE
    assert "the night shift" in report.to_html()


def test_candidates_are_trained_and_met_by_the_real_gate_and_a_hurt_business_by_its_own_events(trained: Path) -> None:
    with open_project(trained) as project:
        names = ("biased_candidate", "hurts_business", "labels_stop")
        played = rehearse(project, names, quiet_days=5, most_days=7, per_day=120)

    # that the gate fails a sound retrain too proves nothing of this one: the champion's twin answers wrongly instead
    biased = outcome(played, "biased_candidate")
    assert biased.did[0] == TWIN
    assert not any("trained a candidate" in deed for deed in biased.did)
    assert (biased.detected, biased.by) == (True, "the rollout")

    business = outcome(played, "hurts_business")
    assert (business.detected, business.by) == (True, "the rollout")
    assert WORTH in business.what

    labels = outcome(played, "labels_stop")
    assert labels.detected
    assert labels.by in ("monitor quality", "monitor labels")
    assert [c.name for c in played.controls] == [
        "the quiet days", "nothing wrong", "a sound candidate",
        "a sound retrain (the gate fails it, so candidates are twins of the champion)",
    ]  # fmt: skip
    assert played.false_alarms == 0, played.controls


@pytest.mark.parametrize(("verdict", "seen"), [(Verdict.FAIL, True), (Verdict.INCONCLUSIVE, False), (None, False)])
def test_a_refusal_counts_as_seen_where_the_gate_failed_and_not_where_it_could_not_tell(
    trained: Path, tmp_path: Path, verdict: Verdict | None, seen: bool
) -> None:
    with open_project(trained) as project:
        declared = project.applied().model()
        material = gather(project, declared, 1)
        copy_project(project, declared, tmp_path / "copy")
    stage = Stage(tmp_path / "copy", declared.name, material, per_day=10, seed=1)
    try:
        stage.begin(Scenario(), 1.0)
        judged = (
            Finding(verdict=verdict, why="worse", measurement=Measurement(name="x", value=1.0)) if verdict else None
        )
        report = Report(title="gate", subject="m", findings=(judged,)) if judged else None
        stage.project.journal.record([finished(declared.name, False, stage.now, "challenger refused", report=report)])
        found = refused_by_gate(stage)
        assert (found is not None) == seen
        assert found is None or (found.by, found.what) == ("the gate", "challenger refused")
    finally:
        stage.close()


def test_a_rehearsal_of_nothing_detected_nothing() -> None:
    bad = Control(name="nothing wrong", days=3, false_alarms=("inputs: temp drifted",))
    empty = Rehearsal(
        model="m", origin="", per_day=1, quiet_days=1, most_days=1, seed=1, outcomes=(), controls=(bad,), seconds=0.0
    )
    assert (empty.detected, empty.false_alarms) == (0.0, 1)
    assert empty.report().verdict is Verdict.FAIL


def test_a_model_without_a_champion_cannot_be_rehearsed(fresh: Project) -> None:
    with pytest.raises(ConflictError, match="nothing is in force yet") as nothing:
        rehearse(fresh, ("silent_garbage",), **SMALL)
    assert "undrift train" in nothing.value.hint
    lifecycle.apply(fresh, actor="person:ann")
    with pytest.raises(ConflictError, match="no champion"):
        rehearse(fresh, ("silent_garbage",), **SMALL)


def test_unknown_scenarios_and_strengths_name_those_there_are(project: Project) -> None:
    with pytest.raises(NotFoundError, match="silent_garbage") as misspelt:
        scenarios(("silent_garbge",))
    assert misspelt.value.hint == "Did you mean 'silent_garbage'?"
    with pytest.raises(NotFoundError) as other:
        scenarios(("xyz",))
    assert "--list" in other.value.hint
    with pytest.raises(SettingsError, match="mild, default, strong"):
        rehearse(project, ("silent_garbage",), strengths=("brutal",))


def test_there_is_a_scenario_for_each_of_the_fourteen_stories() -> None:
    known = scenarios()
    assert [scenario.story for scenario in known] == list(range(1, 15))
    for scenario in known:
        assert scenario.title
        assert scenario.truth
        assert "default" in scenario.strengths


@pytest.mark.parametrize(
    ("unit", "strength", "expected"),
    [
        ("percent", 1.0, 0.5),
        ("percent", 0.5, 25.25),
        ("mph", 1.0, 22.352),
        ("degree Fahrenheit", 1.0, 10.0),
        ("", 1.0, 10.0),
        ("parrots", 1.0, 10.0),
    ],
)
def test_a_unit_changes_to_one_that_is_used_beside_it(unit: str, strength: float, expected: float) -> None:
    columns = SimpleNamespace(
        numeric=["load", "wind"],
        sourced={"wind": "weather"},
        units={"wind": unit, "load": "feet"},
        like=lambda name, value: value,
    )
    stage: Any = SimpleNamespace(columns=columns, material=SimpleNamespace(sources={"weather": []}))
    scenario = UpstreamCorrupts()
    (row,) = scenario.change([Row(inputs={"load": 7.0, "wind": 50.0}, features={}, label=None)], stage, strength)
    assert row.inputs == {"load": 7.0, "wind": pytest.approx(expected)}, "the column of the feed, not the weightier one"
    assert row.touched
    assert scenario.spoil("wind", 50.0, strength) == pytest.approx(expected), "the feed says the same"
    assert (scenario.spoil("load", 7.0, strength), scenario.spoil("wind", None, strength)) == (7.0, None)


def test_days_whose_rows_nothing_tells_apart_or_without_a_frequent_one_are_played_as_they_are() -> None:
    pool = [Row(inputs={"x": 1.0, "town": "rare"}, features={}, label="1") for _ in range(8)]
    columns = SimpleNamespace(numeric=["x"], categorical=[], groups=lambda: [Group("town", "frequent", None, 0.9)])
    stage: Any = SimpleNamespace(
        columns=columns, pool=pool, material=SimpleNamespace(rows=pool), seed=1, day=0, tells=lambda name: False
    )
    rows = WorldChanges().change([row.again() for row in pool], stage, 1.0)
    assert [row.inputs for row in rows] == [row.inputs for row in pool]
    assert sum(row.touched for row in rows) >= 4, "other rows of the day stand in, though all are alike"
    assert ForgetsLongTail().lesson([row.again() for row in pool], stage, 1.0) == pool


def test_a_scenario_is_one_file_of_at_most_sixty_lines() -> None:
    files = [ROOM / f"{scenario.name}.py" for scenario in scenarios()]
    assert {file.name: n for file in files if (n := file.read_text().count("\n")) > 60} == {}
