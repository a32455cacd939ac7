"""History judged again: the alarms that fired, those that would have, the budget, and what is recorded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from undrift import incidents as verbs
from undrift.backtest import backtest
from undrift.delivery import permissions
from undrift.errors import DataError, SettingsError
from undrift.finding import Verdict, Window
from undrift.monitor.monitors import Monitor
from undrift.project import Project

from living import Alive, Life  # isort: skip
from town import DAY, LIVE, TRAINED_DAYS, Town  # isort: skip


@pytest.fixture
def life(project: Project, alive: Alive) -> Life:
    """Eleven days; on the tenth, hardly a request arrived."""
    lived = alive(project, Town(TRAINED_DAYS + 20))
    lived.play(9)
    day = lived.town.day(lived.now)
    kinds = lived.play_day(day._replace(rides=day.rides[::16]))
    assert "alert.opened" in kinds
    lived.play(1)
    return lived


def verdicts(found: Any) -> dict[str, Verdict]:
    return {str(f.measurement.detail["monitor"]): f.verdict for f in found.report.findings}


def test_the_past_judged_again_gives_the_alarms_that_fired(project: Project, life: Life) -> None:
    before = project.journal.items("incident")
    said: list[str] = []
    found = backtest(project, start=LIVE, end=life.now, say=said.append)
    really = [e for e in project.journal.events(kinds=("alert.opened",)) if e.actor == "work"]
    assert [(a.at, a.title) for a in found.alarms] == [(e.at, e.why) for e in really]
    assert (found.ticks, found.unserved, found.recorded) == (11, 0, False)
    assert verdicts(found)["answers"] is Verdict.INCONCLUSIVE, "eleven days are too few for a budget of one in thirty"
    assert project.journal.items("incident") == before, "nothing of the present is touched"
    assert len(said) == 11


def test_an_alarm_in_a_troubled_span_or_acknowledged_is_no_false_one(project: Project, life: Life) -> None:
    plain = backtest(project, start=LIVE, end=life.now)
    assert [alarm.confirmed for alarm in plain.alarms] == [""]
    troubled = [Window(LIVE + 9 * DAY, LIVE + 10 * DAY)]
    told = backtest(project, start=LIVE, end=life.now, troubled=troubled)
    assert [alarm.confirmed for alarm in told.alarms] == ["in a troubled span"]
    elsewhere = backtest(project, start=LIVE, end=life.now, troubled=[Window(LIVE, LIVE + DAY)])
    assert [alarm.confirmed for alarm in elsewhere.alarms] == [""]


def test_what_a_person_acknowledged_counts_as_true(project: Project, alive: Alive) -> None:
    life = alive(project, Town(TRAINED_DAYS + 20))
    life.play(9)
    day = life.town.day(life.now)
    life.play_day(day._replace(rides=day.rides[::16]))
    verbs.acknowledge(project, "answers", actor="person:ann", why="the gateway was down")
    found = backtest(project, start=LIVE, end=life.now)
    assert [alarm.confirmed for alarm in found.alarms] == ["acknowledged by person:ann"]
    assert found.report.findings[0].measurement.value == 0.0


def test_a_monitor_with_the_change_one_thinks_of_is_judged_and_its_backtest_is_tied_to_it(
    project: Project, life: Life
) -> None:
    model = project.model()
    generous = Monitor(name="answers", kind="silent", budget=30.0)
    changed = msgspec.structs.replace(model, monitors=(generous, *model.monitors[1:]))
    project.declarations.models["rides"] = changed
    found = backtest(project, start=LIVE, end=life.now, actor="person:ann")
    assert found.recorded
    assert not permissions(project, "rides", [generous])["answers"].may
    events = project.journal.events(kinds=("monitor.backtested",))
    assert {e.payload["monitor"] for e in events} == {m.name for m in changed.monitors}
    assert "changed since" in permissions(project, "rides", model.monitors)["answers"].why


def test_a_span_without_a_tick_or_without_a_champion_is_said(project: Project) -> None:
    with pytest.raises(SettingsError, match="no tick of 1d lies between"):
        backtest(project, start=LIVE, end=LIVE)
    with pytest.raises(DataError, match="had no champion"):
        backtest(project, start=LIVE - 400 * DAY, end=LIVE - 300 * DAY)
