"""Incidents: opened once, updated only by news, resolved by evidence, and remembering what they spoiled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from undrift.errors import ConflictError
from undrift.event import Draft, seal
from undrift.finding import Finding, Report, Verdict, Window
from undrift.monitor.alerts import INCIDENT_REDUCERS, decide, open_incidents, spoiled_windows
from undrift.monitor.monitors import Monitor, found
from undrift.monitor.response import acknowledge

NOW = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DRIFT = Monitor(name="inputs", kind="drift")
QUALITY = Monitor(name="quality", kind="performance", runbook="call ann")
FEED = Monitor(name="weather", kind="feed")
MONITORS = (FEED, DRIFT, QUALITY)


def finding(
    monitor: Monitor, verdict: Verdict, column: str = "", at: datetime = NOW, cause: str = "", **detail: Any
) -> Finding:
    cause = cause or (f"{column} drifted" if verdict is Verdict.FAIL else "")
    return found(
        monitor, verdict, f"{column} {verdict.name}", name="drift", value=0.5, n=100, window=Window(at - DAY, at),
        column=column, cause=cause, **detail,
    )  # fmt: skip


class Life:
    """Findings in, incidents out, as the journal would keep them."""

    def __init__(self) -> None:
        self.incidents: dict[str, Any] = {}
        self.now = NOW

    def tick(self, *findings: Finding) -> list[str]:
        report = Report(title="Monitors", subject="model:flights", findings=findings)
        drafts = decide("flights", MONITORS, self.incidents, report, self.now)
        for draft in drafts:
            event = seal(draft, 1, "", self.now)
            for key in INCIDENT_REDUCERS[0].keys(event):
                self.incidents[key] = INCIDENT_REDUCERS[0].apply(self.incidents.get(key), event, key)
        self.now += DAY
        return [f"{d.kind.removeprefix('alert.')}: {d.why}" for d in drafts]


def test_columns_of_one_monitor_are_one_incident_told_once() -> None:
    life = Life()
    bad = (finding(DRIFT, Verdict.FAIL, "temp"), finding(DRIFT, Verdict.FAIL, "dewp"))
    assert life.tick(*bad) == ["opened: temp, dewp drifted"]
    assert life.tick(*bad) == []
    assert life.tick(bad[0]) == []
    assert life.tick(*bad, finding(DRIFT, Verdict.FAIL, "hour")) == ["updated: temp, dewp, hour drifted"]


def test_parts_of_two_columns_are_told_apart_in_a_title() -> None:
    parts = [{"carrier": "UA", "origin": "EWR"}, {"carrier": "AA"}]
    bad = [
        found(
            QUALITY, Verdict.FAIL, "worse", name="loss", value=0.5, n=100, window=Window(NOW - DAY, NOW),
            segment=part, cause="brier decayed",
        )
        for part in parts
    ]  # fmt: skip
    life = Life()
    assert life.tick(bad[1]) == ["opened: brier decayed (carrier=AA)"]
    assert life.tick(*bad) == ["updated: brier decayed (carrier=AA; carrier=UA, origin=EWR)"]


def test_it_ends_by_evidence_only() -> None:
    life = Life()
    life.tick(finding(DRIFT, Verdict.FAIL, "temp"))
    assert life.tick() == []
    assert life.tick(finding(DRIFT, Verdict.INCONCLUSIVE, "temp")) == []
    assert life.tick(finding(DRIFT, Verdict.PASS, "temp", lingers=True)) == []
    assert life.tick(finding(DRIFT, Verdict.INCONCLUSIVE, "temp"), finding(DRIFT, Verdict.PASS, "hour")) == []
    assert life.tick(finding(DRIFT, Verdict.PASS, "temp"), finding(DRIFT, Verdict.PASS, "hour")) == [
        "resolved: over after 6 days: temp drifted"
    ]


def test_what_comes_again_is_a_new_alert_of_the_same_incident() -> None:
    life = Life()
    life.tick(finding(DRIFT, Verdict.FAIL, "temp"))
    life.tick(finding(DRIFT, Verdict.PASS, "temp"))
    assert life.tick(finding(DRIFT, Verdict.FAIL, "hour", at=life.now)) == ["opened: hour drifted"]
    incident = life.incidents["flights/inputs"]
    assert (incident["times"], len(incident["windows"]), incident["columns"]) == (2, 1, ["hour"])


def test_feeds_are_told_apart_by_source() -> None:
    life = Life()
    bad = [finding(FEED, Verdict.FAIL, "temp", cause="no rows arrived", source=name) for name in ("north", "south")]
    assert life.tick(*bad) == ["opened: north: no rows arrived (temp)", "opened: south: no rows arrived (temp)"]
    assert life.tick(bad[0], finding(FEED, Verdict.PASS, source="south")) == [
        "resolved: over after 2 days: south: no rows arrived (temp)"
    ]


def test_an_incident_remembers_the_window_it_spoiled() -> None:
    life = Life()
    life.tick(finding(FEED, Verdict.FAIL, "temp", source="north"))
    onset = NOW - DAY
    assert spoiled_windows(life.incidents, "flights", NOW + DAY) == (Window(onset, NOW + DAY),)
    life.now = NOW + 5 * DAY
    life.tick(finding(FEED, Verdict.PASS, source="north"))
    # the window of a day that passed is clean, what was before is not
    assert spoiled_windows(life.incidents, "flights", NOW + 9 * DAY) == (Window(onset, NOW + 4 * DAY),)
    assert spoiled_windows(life.incidents, "other", NOW + 9 * DAY) == ()
    assert spoiled_windows(life.incidents, "flights", NOW + 9 * DAY, kinds=("silent",)) == ()


def test_an_incident_holds_what_a_person_needs() -> None:
    life = Life()
    life.tick(finding(QUALITY, Verdict.FAIL, cause="brier decayed"))
    incident = open_incidents(life.incidents, "flights", ("performance",))[0]
    assert (incident["severity"], incident["actions"], incident["runbook"]) == ("high", ["retrain"], "call ann")
    seen: Draft = acknowledge(incident, life.now, actor="person:ann", why="on it")
    assert seen.payload["incident"]["acknowledged_by"] == "person:ann"
    with pytest.raises(ConflictError, match="nothing to acknowledge"):
        acknowledge({**incident, "status": "resolved"}, life.now, actor="person:ann", why="late")
