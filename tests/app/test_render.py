"""What a terminal shows holds what a person needs; the layout itself is nobody's promise."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

from undrift.app import render, render_rollout
from undrift.event import Draft, seal
from undrift.finding import Finding, Interval, Measurement, Report, Rule, Table, Verdict, judge

NOW = datetime(2013, 4, 1, 12, tzinfo=UTC)


def text(what: RenderableType) -> str:
    out = StringIO()
    Console(file=out, width=160, markup=False, highlight=False, emoji=False).print(what)
    return out.getvalue()


def finding(value: float, **segment: str) -> Finding:
    rule = Rule(measure="error", op="<=", bound=0.1)
    return judge(rule, Measurement(name="error", value=value, n=50, interval=Interval(value, value), segment=segment))


def test_a_report_shows_the_worst_finding_first_with_its_segment() -> None:
    report = Report(title="gate", subject="flights v2", findings=(finding(0.05), finding(0.5, carrier="[UA]")))
    lines = text(render.report(report)).splitlines()
    assert lines[0].split() == ["gate", "·", "flights", "v2", "·", "FAIL"]
    assert lines[2].startswith("FAIL")
    assert "carrier=[UA]" in lines[2]
    assert lines[3].startswith("PASS")


def judged(lower: float, *, n: int = 114, minimum: int = 100, problem: str = "") -> Report:
    rule = Rule(measure="log_loss_gain", op=">=", bound=0.0, minimum_n=minimum, certain=True)
    gain = Measurement(name="log_loss_gain", value=0.1, n=n, interval=Interval(lower, 0.3), problem=problem)
    found = judge(rule, gain)
    if problem:
        found = Finding(verdict=Verdict.INCONCLUSIVE, why=problem, measurement=gain)
    return Report(title="gate", subject="flights", findings=(found, finding(0.05)))


def test_a_gate_that_is_left_open_says_what_would_decide_it() -> None:
    unsure = text(render.gate(judged(-0.1)))
    assert "To decide it: train on more data: 114 held-out rows cannot tell this gain from chance" in unsure
    assert "or make the model better" in unsure
    assert "a negative `margin` in the gate" in unsure
    few = text(render.gate(judged(0.05, n=36)))
    assert "36 held-out rows are too few to say anything (`minimum_rows=100` in the gate)" in few
    assert "margin" not in few
    assert "declare a `baseline`" in text(render.gate(judged(0.0, problem="no rival")))
    assert "an example that holds the outcome" in text(render.gate(Report(title="gate", subject="flights")))


def test_a_gate_that_decided_says_no_more() -> None:
    passed = judged(0.05)
    assert passed.verdict is Verdict.PASS
    assert text(render.gate(passed)) == text(render.report(passed))
    failed = Report(title="gate", subject="flights", findings=(finding(0.5), *judged(-0.1).findings))
    assert text(render.gate(failed)) == text(render.report(failed))


def test_a_report_as_json_names_its_verdicts() -> None:
    plain = render.plain_report(Report(title="gate", subject="flights", findings=(finding(0.5),)))
    assert plain["verdict"] == "FAIL"
    assert [f["verdict"] for f in plain["findings"]] == ["FAIL"]
    assert render.plain_report(Report(title="gate", subject="flights"))["verdict"] == Verdict.INCONCLUSIVE.name


def test_a_plan_shows_each_change_and_says_when_there_is_none() -> None:
    shown = text(render.plan({"flights": ("~ threshold: 0.5 -> 0.4",), "bikes": ()}))
    assert "~ threshold: 0.5 -> 0.4" in shown
    assert "bikes  nothing to change" in shown


def event(kind: str, why: str, **payload: Any) -> Any:
    draft = Draft(kind=kind, subject="model:flights", at=NOW, actor="person:ann", why=why, payload=payload)
    return seal(draft, 7, "0" * 64, NOW)


def test_history_tells_who_did_what_when_and_why() -> None:
    shown = text(render.history([event("revision.promoted", "first [bold]champion")]))
    for word in (
        "7",
        "2013-04-01 12:00:00",
        "revision.promoted",
        "model:flights",
        "person:ann",
        "first [bold]champion",
    ):
        assert word in shown
    assert text(render.history([])) == "no events\n"


def test_what_was_live_names_champion_candidate_and_who_decided() -> None:
    route = {
        "champion": "r-1",
        "champion_version": 1,
        "candidate": "r-2",
        "candidate_version": 2,
        "weight": 5.0,
        "since": NOW.isoformat(),
        "by": "work",
        "why": "evidence",
    }
    shown = text(render_rollout.live({"flights": route}, NOW))
    assert "version 1 (r-1)" in shown
    assert "version 2 at 5 %" in shown
    assert "no model had a champion yet" in text(render_rollout.live({}, NOW))


STATUS: dict[str, Any] = {
    "project": "shop",
    "now": NOW.isoformat(),
    "models": {
        "returns": {
            "task": "binary",
            "applied": False,
            "champion": 3,
            "revision": "r-abc",
            "versions": 4,
            "rollout": {"candidate_version": 4, "status": "paused", "step": -1, "weight": 0.0, "reason": "waits"},
            "incidents": [{"title": "amount: unit changed"}],
            "retrain": {"last": None},
        }
    },
    "serving": [{"pid": 12, "epoch": 9}],
    "work": {
        "watermark": NOW.isoformat(),
        "ticked": None,
        "jobs": {"done": 3, "ready": 0},
        "waiting_bytes": 2_500_000,
        "lag_seconds": 7.4,
    },
}


def test_status_shows_champion_rollout_incident_and_processes() -> None:
    shown = text(render.status(STATUS))
    for words in (
        "version 3 (r-abc)",
        "version 4: paused, shadow (waits)",
        "amount: unit changed",
        "changed since they were applied",
        "pid 12 (epoch 9)",
        "3 done",
        "2.5 MB, the oldest for 7 s",
    ):
        assert words in shown, words


def test_status_of_a_new_project_says_what_to_do() -> None:
    model = {**STATUS["models"]["returns"], "revision": None, "champion": None, "rollout": None, "incidents": [],
             "applied": None, "retrain": None}  # fmt: skip
    shown = text(render.status({**STATUS, "models": {"returns": model}, "serving": []}))
    assert "undrift train" in shown
    assert "undrift serve" in shown
    assert "none open" in shown


def test_why_shows_inputs_features_with_their_age_findings_and_outcome() -> None:
    found = {
        "id": "01J", "request_id": "01R", "model": "returns", "at": NOW.isoformat(), "unit": "u1", "version": 3,
        "revision": "r-abc", "variant": "champion", "propensity": 0.95,
        "registered": {"at": NOW.isoformat(), "by": "person:ann", "source": "train", "run": "x"},
        "inputs": {"amount": 12.5, "shop": None},
        "features": {"late_rate": {"value": 0.25, "view": "carrier", "age": "1.5d"}},
        "score": 0.8, "threshold": 0.5, "prediction": "1", "violations": ["amount>10"], "latency_us": 1500,
        "error": None, "outcome": {"label": "0", "at": NOW.isoformat()},
    }  # fmt: skip
    shown = text(render.why(found))
    for words in (
        "version 3 (r-abc), champion",
        "1.50 ms",
        "12.5",
        "late_rate",
        "1.5d",
        "amount>10",
        "0.8 (positive from 0.5)",
    ):
        assert words in shown, words
    assert "not known yet" in text(render.why({**found, "outcome": None}))


def test_each_setting_is_shown_with_its_origin() -> None:
    shown = text(render.config([("serve.port", 9000, "UNDRIFT_SERVE__PORT"), ("serve.wrapper", "", "default")]))
    assert "serve.port" in shown
    assert "UNDRIFT_SERVE__PORT" in shown
    assert '""' in shown


def test_the_figures_of_a_report_stand_under_its_findings_in_every_form() -> None:
    figures = Table(
        title="Answers", columns=("champion", "rows"), rows=(("<b>late</b>", 3), ("share", 0.123456), ("none", None))
    )
    report = Report(title="Shadow", subject="model:m", findings=(finding(0.05),), tables=(figures,))
    for shown in (text(render.report(report)), report.to_text()):
        assert "Answers" in shown
        assert "<b>late</b>" in shown
        assert "0.123" in shown
    page = report.to_html()
    assert "<h4>Answers</h4>" in page
    assert "&lt;b&gt;late&lt;/b&gt;" in page
    assert "<td>-</td>" in page
    assert (report + report).tables == (figures, figures)
    assert tuple(render.plain_report(report)["tables"][0]["rows"][1]) == ("share", 0.123456)


def test_a_replay_shows_where_it_parts_and_a_plan_what_it_needs() -> None:
    from undrift.deploy.replay import Moment, Replayed
    from undrift.experiments import ExperimentPlan

    moments = tuple(
        Moment(at=NOW, recorded=kind, recorded_verdict="PASS", recorded_weight=5.0, recorded_why="held",
               replayed=other, verdict="FAIL", weight=weight, why="brier too high")
        for kind, other, weight in (
            ("rollout.judged", "rollout.judged", 5.0), ("rollout.advanced", "rollout.rolled_back", 0.0)
        )
    )  # fmt: skip
    replayed = Replayed(
        rollout="r1", model="m", changes=("alpha=0.01",), recorded_status="succeeded", recorded_exposed=900,
        status="rolled_back", reason="brier too high", exposed_units=50, ended_at=NOW, differs_at=NOW, moments=moments,
    )  # fmt: skip
    shown = text(render_rollout.replayed(replayed))
    for part in (
        "alpha=0.01",
        "succeeded; 900 units",
        "50 units",
        "from 2013-04-01 12:00:00",
        "advanced",
        "rolled_back",
    ):
        assert part in shown
    assert "judged" not in shown, "what moved neither is left out"
    plan = ExperimentPlan(
        model="m", metric="brier", effect=0.01, power=0.8, alpha=0.0125, mean=0.2, deviation=0.1,
        units_a_day=100.0, share=0.5, units=4000, days=None, maximum_days=30.0, smallest=0.02, warnings=("too slow",),
    )  # fmt: skip
    shown = text(render_rollout.plan(plan))
    for part in ("4000 units", "more than ten years", "not found within the declared maximum", "too slow"):
        assert part in shown
