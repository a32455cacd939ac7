"""The shadow stage: captured requests of the champion, the candidate's own features, both judged on the same rows."""

from __future__ import annotations

import pyarrow as pa
import pytest

from undrift import releases
from undrift.deploy.routes import running
from undrift.errors import NotFoundError
from undrift.finding import Verdict
from undrift.project import Project
from undrift.shadows import captured_inputs, shadow_evidence, shadow_report

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


def test_a_report_shows_what_would_change_for_whom_and_at_what_cost(two: Project, alive: Alive) -> None:
    life = alive(two, Town(TRAINED_DAYS + 5))
    life.play(2)
    report = shadow_report(two)
    assert report.title == "Shadow: version 2 against champion 1"
    tables = {table.title.partition(" (")[0].partition(",")[0]: table for table in report.tables}
    answered = {row["id"]: row for row in life.answered}
    overall = dict(tables["Disagreement"].rows)
    assert overall["rows compared"] == len(answered) == 320
    assert overall["rows it could not answer"] == 0
    answers = {(old, new): n for old, new, n in tables["Answers"].rows}
    assert sum(answers.values()) == 320
    flips = answers[("0", "1")] + answers[("1", "0")]
    assert overall["share with another answer"] == flips / 320
    assert sum(n for _, _, n in tables["Differences of the score"].rows) == 320
    segments = {name: n for name, n, _, _ in tables["By segment"].rows}
    assert set(segments) == {"zone=a", "zone=b", "zone=c"}
    assert sum(segments.values()) == 320
    cost = {name: (old, new) for name, old, new in tables["Cost"].rows}
    assert cost["rows that failed"] == (0, 0)
    assert all(value > 0 for value in cost["peak memory of the process, MB"])
    assert cost["milliseconds a row, median"][1] <= cost["milliseconds a row, p99"][1]
    losses = {name: (old, new) for name, old, new, _ in tables["Quality on known outcomes"].rows}
    assert losses["brier"][1] < losses["brier"][0], "the wide model knows more"
    cases = tables["The most different cases"].rows
    assert len(cases) == 10
    assert all(named in answered and "distance=" in inputs for named, _, _, inputs in cases)
    assert "Cost" in report.to_html()
    assert "rows compared | 320" in report.to_text()


def test_a_report_needs_captured_traffic(two: Project) -> None:
    with pytest.raises(NotFoundError, match="answered nothing as champion"):
        shadow_report(two)


def test_a_report_needs_a_champion(fresh: Project) -> None:
    with pytest.raises(NotFoundError, match="no champion to compare with"):
        shadow_report(fresh)
