"""The verbs about incidents: list them, acknowledge, snooze, resolve, assign; and who may page.

Each records who did it, when and why in the event log; the incidents themselves are projections of it. What is decided
stands in monitor/response.py and monitor/paging.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from undrift.delivery import notices_for, trial
from undrift.errors import NotFoundError, SettingsError
from undrift.event import Draft, Event
from undrift.monitor import paging, response
from undrift.monitor.notices import Notice
from undrift.project import Project

__all__ = ["acknowledge", "allow_paging", "assign", "incidents", "notify", "resolve", "snooze"]


def incidents(project: Project, model: str = "", *, closed: bool = False) -> list[dict[str, Any]]:
    """The open incidents, the newest last; with ``closed`` the last opening of resolved ones too."""
    rows = project.journal.items("incident").values()
    found = [row for row in rows if (not model or row["model"] == model) and (closed or row["status"] == "open")]
    return sorted(found, key=lambda row: (row["opened_at"], row["fingerprint"]))


def acknowledge(project: Project, incident: str, *, actor: str, why: str = "") -> Event:
    """Say that a person has seen an incident.

    Parameters
    ----------
    incident : its fingerprint, or parts of it that no other has.
    """
    return _say(project, incident, lambda i, now: response.acknowledge(i, now, actor=actor, why=why or "seen"))


def snooze(project: Project, incident: str, span: timedelta, *, actor: str, why: str = "") -> Event:
    """Tell nobody of an incident for a span of (event) time; its end is told all the same."""

    def decide(found: dict[str, Any], now: Any) -> Draft:
        return response.snooze(found, now, now + span, actor=actor, why=why or f"snoozed for {span}")

    return _say(project, incident, decide)


def resolve(project: Project, incident: str, *, actor: str, why: str = "") -> Event:
    """Say that an incident is over; it opens again if its monitor still finds the fault."""
    return _say(project, incident, lambda i, now: response.resolve(i, now, actor=actor, why=why or "resolved by hand"))


def assign(project: Project, incident: str, owner: str, *, actor: str, why: str = "") -> Event:
    """Give an incident to another owner, who is told by the sinks that are theirs."""
    text = why or f"given to {owner}"
    return _say(project, incident, lambda i, now: response.assign(i, now, owner, actor=actor, why=text))


def _say(project: Project, reference: str, verb: Callable[[dict[str, Any], Any], Draft]) -> Event:
    known = project.journal.items("incident")
    found = response.find_incident(known, reference)
    expect = {("incident", found["fingerprint"]): project.journal.seq_of("incident", found["fingerprint"])}
    draft = verb(found, project.now().now())
    jobs = notices_for(project, [draft], known)
    return project.journal.record([draft], jobs=jobs, expect=expect)[0]


def allow_paging(project: Project, monitor: str, model: str = "", *, may: bool = True, actor: str, why: str) -> Event:
    """Let a monitor page without a backtest, or forbid it; by a person, with a reason.

    Raises
    ------
    SettingsError : no reason is given.
    NotFoundError : no such monitor is declared.
    """
    if not why:
        raise SettingsError("who lets a monitor page without a backtest says why.", hint="Add --why '...'.")
    declared = project.model(model)
    found = next((m for m in declared.monitors if m.name == monitor), None)
    if found is None:
        known = ", ".join(m.name for m in declared.monitors) or "none"
        raise NotFoundError(f"model {declared.name!r} declares no monitor {monitor!r}; declared: {known}.")
    draft = paging.said(declared.name, found, may, project.now().now(), actor=actor, why=why)
    return project.journal.record([draft])[0]


def notify(project: Project, sink: str) -> Notice:
    """Send a trial notice to a sink, now and from here; to see whether it is set up.

    Raises
    ------
    NotFoundError : no such sink is set up.
    DeliveryError : the receiver did not take it.
    """
    sinks = project.settings.alerts.sinks
    if sink not in sinks:
        known = ", ".join(sorted(sinks)) or "none"
        raise NotFoundError(
            f"no sink {sink!r} is set up; there are: {known}.", hint="Sinks stand in undrift.toml: [alerts.sinks.NAME]."
        )
    return trial(sinks[sink], project.clock.now())
