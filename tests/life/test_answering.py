"""Incidents answered on the command line, as a person on call would."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from undrift.app.cli import main
from undrift.finding import Report, Verdict, Window
from undrift.monitor.alerts import decide
from undrift.monitor.monitors import found
from undrift.project import Project

DAY = timedelta(days=1)


@pytest.fixture
def fault(project: Project) -> Project:
    """A project with an open incident of its monitor of answers, and somebody who could be paged."""
    now = project.now().now()
    monitor = next(m for m in project.model().monitors if m.name == "answers")
    seen = found(
        monitor,
        Verdict.FAIL,
        "version 1 answered 0.7 for 99 of 100 rows",
        name="constant",
        value=1.0,
        n=100,
        window=Window(now - DAY, now),
        cause="constant answers of version 1",
    )
    report = Report(title="t", subject="s", findings=(seen,))
    project.journal.record(decide("rides", [monitor], {}, report, now, owner="operations"))
    toml = project.root / "undrift.toml"
    toml.write_text(toml.read_text() + '\n[alerts.sinks.oncall]\nkind = "pagerduty"\nsecret = "env:PD_KEY"\n')
    return project


def run(project: Project, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main([*words, "-C", str(project.root)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out, said.err


def test_an_incident_is_shown_acknowledged_snoozed_assigned_and_resolved(fault: Project, capsys: Any) -> None:
    code, out, _ = run(fault, capsys, "incidents")
    assert code == 0
    for word in (
        "rides/answers",
        "constant answers of version 1",
        "99 of 100 rows",
        "operations",
        "critical",
        "freeze",
    ):
        assert word in out
    assert run(fault, capsys, "acknowledge", "answers", "--as", "ann", "--why", "on it")[0] == 0
    assert run(fault, capsys, "snooze", "answers", "--for", "4h", "--as", "ann")[0] == 0
    assert run(fault, capsys, "assign", "answers", "--to", "ben", "--as", "ann")[0] == 0
    _, out, _ = run(fault, capsys, "incidents", "--json")
    held = json.loads(out)[0]
    assert (held["acknowledged_by"], held["owner"], bool(held["snoozed_until"])) == ("person:ann", "ben", True)
    code, out, _ = run(fault, capsys, "resolve", "answers", "--as", "ann", "--why", "restarted")
    assert "rides/answers: resolved by person:ann (restarted)" in out
    assert run(fault, capsys, "incidents")[1].strip() == "no incident is open"
    assert "resolved" in run(fault, capsys, "incidents", "--all")[1]
    kinds = [event.kind for event in fault.journal.events() if event.actor == "person:ann"][-4:]
    assert kinds == ["alert.acknowledged", "alert.snoozed", "alert.assigned", "alert.resolved"]


def test_a_wrong_name_or_a_second_answer_is_one_clear_line(fault: Project, capsys: Any) -> None:
    code, _, err = run(fault, capsys, "acknowledge", "weather")
    assert code == 2
    assert "there are: rides/answers" in err
    run(fault, capsys, "resolve", "answers")
    code, _, err = run(fault, capsys, "resolve", "answers")
    assert code == 1
    assert "nothing to resolve" in err


def test_plan_and_status_say_who_may_page_and_why_not(fault: Project, capsys: Any) -> None:
    for command in ("plan", "status", "apply"):
        out = run(fault, capsys, command)[1]
        assert "does not page: no backtest is on record" in out, command
    assert "oncall (pagerduty)" in run(fault, capsys, "status")[1]
    code, _, err = run(fault, capsys, "paging", "answers", "--allow")
    assert code == 2
    assert "says why" in err
    assert run(fault, capsys, "paging", "answers", "--allow", "--as", "ann", "--why", "needed")[0] == 0
    assert "may page: person:ann: needed" in run(fault, capsys, "paging")[1]
    assert run(fault, capsys, "paging", "answers")[0] == 2, "what about it?"


def test_a_receiver_that_is_not_set_up_is_told(fault: Project, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PD_KEY", raising=False)
    code, _, err = run(fault, capsys, "notify", "oncall")
    assert code == 2
    assert "PD_KEY, which is not set" in err
    code, _, err = run(fault, capsys, "notify", "nobody")
    assert "there are: oncall" in err


def test_watching_shows_what_is_open(fault: Project, capsys: Any) -> None:
    code, out, _ = run(fault, capsys, "watch", "--for", "100ms", "--json")
    assert code == 0
    line = json.loads(out.splitlines()[0])
    assert (line["what"], line["incident"], line["severity"]) == ("open", "rides/answers", "critical")


def test_a_backtest_on_the_command_line_refuses_what_is_no_span(fault: Project, capsys: Any) -> None:
    code, _, err = run(fault, capsys, "watch", "--backtest", "60d", "0d", "--troubled", "yesterday")
    assert code == 2
    assert "2013-09-02..2013-09-23" in err
    code, _, err = run(fault, capsys, "watch", "--backtest", "0d", "0d")
    assert code == 2
    assert "no tick of 1d" in err
