"""The shadow stage: captured requests of the champion, the candidate's own features, both judged on the same rows."""

from __future__ import annotations

import pyarrow as pa

from undrift import releases
from undrift.deploy.routes import running
from undrift.finding import Verdict
from undrift.project import Project
from undrift.shadows import captured_inputs, shadow_evidence

from living import ME, Alive, train_as  # isort: skip
from town import DAY, LIVE, TRAINED_DAYS, Town  # isort: skip


def test_captured_inputs_are_the_request_fields_in_order() -> None:
    rows = pa.table({"inputs": [{"x": 1.0, "zone": "a"}, {"x": None, "zone": "b"}], "score": [0.1, 0.2]})
    assert captured_inputs(rows).to_pydict() == {"x": [1.0, None], "zone": ["a", "b"]}


def test_without_traffic_nothing_can_be_said(two: Project) -> None:
    state = releases.roll_out(two, actor=ME)
    report, exposure = shadow_evidence(two, state, LIVE)
    assert (report.verdict, exposure.step_units) == (Verdict.INCONCLUSIVE, 0)
    assert report.findings[0].why == "nothing was answered since the stage began"


def test_a_better_candidate_is_told_from_rows_it_never_answered(two: Project, alive: Alive) -> None:
    life = alive(two)
    life.play()
    releases.roll_out(two, actor=ME)
    (state,) = running(two.journal)
    life.answered.clear()
    life.service.follow()
    life.play(2)
    assert {row["version"] for row in life.answered[:160]} == {1}, "the shadow answers nobody"
    report, exposure = shadow_evidence(two, state, LIVE + 2 * DAY)
    assert report.facts["replayed"] == 160
    assert report.facts["errors"] == {}
    assert exposure.step_units == report.facts["labelled"] == 140, "of a day's rides the last 3 hours land next day"
    (brier,) = (f for f in report.findings if f.measurement.name == "brier" and not f.measurement.segment)
    assert brier.verdict is Verdict.PASS
    assert brier.measurement.value is not None
    assert brier.measurement.value < 0


def test_a_leak_shows_in_the_shadow_already(project: Project, alive: Alive) -> None:
    train_as(project, "leaky")
    life = alive(project, Town(TRAINED_DAYS + 5, leak_until=LIVE))
    releases.roll_out(project, actor=ME)
    life.play()
    (ended,) = project.journal.events(kinds=("rollout.rolled_back",))
    assert "brier beyond the champion's" in ended.why
    assert ended.why.endswith("0 units were exposed")
