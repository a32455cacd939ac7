"""What people say to an incident: acknowledge, snooze, resolve, assign. Each is pure and gives an event to record.

Whatever a person says, the incident goes on by evidence: one that was resolved by hand opens again if its monitor still
finds the fault, one that was snoozed is told again if it is open when the time is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from undrift.errors import ConflictError, NotFoundError
from undrift.event import Draft
from undrift.monitor.alerts import incident_draft

__all__ = ["acknowledge", "assign", "find_incident", "resolve", "snooze"]

Incident = dict[str, Any]


def find_incident(incidents: Mapping[str, Incident], reference: str) -> Incident:
    """The incident with a fingerprint, or the only one whose fingerprint ends with, or has, the parts given.

    ``flights/feeds/weather`` is the fingerprint; ``feeds/weather``, ``weather`` or ``feeds`` do where no other incident
    has them. An open incident is preferred.

    Raises
    ------
    NotFoundError : there is none; names those there are.
    ConflictError : several fit.
    """
    if reference in incidents:
        return incidents[reference]
    wanted = reference.split("/")
    fitting = [
        incident for fingerprint, incident in sorted(incidents.items()) if _holds(fingerprint.split("/"), wanted)
    ]
    chosen = [incident for incident in fitting if incident["status"] == "open"] or fitting
    if not chosen:
        known = ", ".join(sorted(incidents)) or "none so far"
        raise NotFoundError(
            f"no incident is called {reference!r}; there are: {known}.", hint="`undrift incidents --all`"
        )
    if len(chosen) > 1:
        names = ", ".join(incident["fingerprint"] for incident in chosen)
        raise ConflictError(f"{reference!r} fits several incidents: {names}.", hint="Write out which one.")
    return chosen[0]


def _holds(parts: list[str], wanted: list[str]) -> bool:
    """Whether the wanted parts stand in the fingerprint, one after the other."""
    size = len(wanted)
    return any(parts[place : place + size] == wanted for place in range(len(parts) - size + 1))


def acknowledge(incident: Incident, now: datetime, *, actor: str, why: str) -> Draft:
    """A person has seen an incident.

    Raises
    ------
    ConflictError : it is resolved already.
    """
    _require_open(incident, "acknowledge")
    return incident_draft("alert.acknowledged", {**incident, "acknowledged_by": actor}, now, why, actor=actor)


def snooze(incident: Incident, now: datetime, until: datetime, *, actor: str, why: str) -> Draft:
    """Nobody is told of an incident until a moment; what is found meanwhile is recorded all the same.

    Raises
    ------
    ConflictError : it is resolved already, or the moment has passed.
    """
    _require_open(incident, "snooze")
    if until <= now:
        raise ConflictError(f"a snooze until {until:%Y-%m-%d %H:%M} is over already: it is {now:%Y-%m-%d %H:%M}.")
    return incident_draft("alert.snoozed", {**incident, "snoozed_until": until.isoformat()}, now, why, actor=actor)


def resolve(incident: Incident, now: datetime, *, actor: str, why: str) -> Draft:
    """A person says that what the incident was about is over; its data stay spoiled up to this moment.

    Raises
    ------
    ConflictError : it is resolved already.
    """
    _require_open(incident, "resolve")
    windows = [*incident["windows"], [incident["onset"], now.isoformat(), incident["columns"]]]
    after = {
        **incident,
        "status": "resolved",
        "resolved_at": now.isoformat(),
        "updated_at": now.isoformat(),
        "resolved_by": actor,
        "snoozed_until": "",
        "windows": windows,
    }
    return incident_draft("alert.resolved", after, now, why, actor=actor)


def assign(incident: Incident, now: datetime, owner: str, *, actor: str, why: str) -> Draft:
    """An open incident gets another owner, who is told of it.

    Raises
    ------
    ConflictError : it is resolved already.
    """
    _require_open(incident, "assign")
    return incident_draft("alert.assigned", {**incident, "owner": owner}, now, why, actor=actor)


def _require_open(incident: Incident, step: str) -> None:
    if incident["status"] != "open":
        raise ConflictError(f"incident {incident['fingerprint']} is {incident['status']}; there is nothing to {step}.")
