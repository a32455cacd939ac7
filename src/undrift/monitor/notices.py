"""Notices: what the outside is told of an incident, the port through which it goes, and who is told what.

A Notice is made of one event and is sent at least once, with an id that is the same each time. Routing is pure. The
sinks of outside systems stand in integrations/, what delivers them in delivery.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from undrift.event import Draft, Event
from undrift.settings import SinkSettings

__all__ = ["INSIDE", "STAGES", "LogSink", "Notice", "Sink", "is_for", "notice_of", "receivers"]

INSIDE: Final = frozenset({"log"})
"""Kinds of sinks that wake nobody, and so need no permission to page."""
STAGES: Final[dict[str, str]] = {
    "alert.opened": "opened",
    "alert.updated": "updated",
    "alert.acknowledged": "acknowledged",
    "alert.assigned": "updated",
    "alert.resolved": "resolved",
}
"""What each event of an incident is called outside. A snooze is told to nobody: that is what it is for."""
_log: Final = logging.getLogger("undrift.alerts")


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink is to tell.

    Parameters
    ----------
    id : the same whenever the same thing is told again; receivers can drop what they have.
    stage : ``opened``, ``updated``, ``acknowledged``, ``resolved``, or ``renewed`` (still open, told again to receivers
        that forget).
    fingerprint : names the incident, from its first day to its last.
    episode : when this opening of the incident began; an incident that comes again has another one.
    text : the title and what may explain it, in a sentence or two.
    details : the evidence, as ``(where, why)``.
    """

    id: str
    stage: str
    model: str
    monitor: str
    kind: str
    fingerprint: str
    episode: str
    severity: str
    title: str
    text: str
    at: datetime
    onset: datetime
    owner: str = ""
    runbook: str = ""
    link: str = ""
    actor: str = "work"
    columns: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """What names this opening of the incident in systems that have one key for its whole life."""
        return f"undrift/{self.fingerprint}/{self.episode}"


class Sink(Protocol):
    """Where notices go: one method. It returns when the receiver has it, and raises DeliveryError when it has not.

    The same notice may be sent twice (a worker was killed between the two); where the receiver's protocol has a key for
    that, the sink uses it.
    """

    def send(self, notice: Notice) -> None:
        """Deliver one notice."""
        ...


class LogSink:
    """Writes notices to Python's logger ``undrift.alerts`` as one line of JSON."""

    def __init__(self, settings: SinkSettings) -> None:
        self.settings = settings

    def send(self, notice: Notice) -> None:
        """See Sink."""
        _log.warning("%s", json.dumps(msgspec.to_builtins(notice), sort_keys=True))


def notice_of(event: Event, *, stage: str = "", link: str = "") -> Notice:
    """The notice that tells an event of an incident."""
    incident: dict[str, Any] = event.payload["incident"]
    evidence = event.payload.get("evidence") or []
    told = stage or STAGES[event.kind]
    damage = f"; {incident['damage']}" if incident["damage"] and incident["damage"] not in event.why else ""
    return Notice(
        id=f"{event.hash[:32]}-{told}",
        stage=told,
        model=incident["model"],
        monitor=incident["monitor"],
        kind=incident["kind"],
        fingerprint=incident["fingerprint"],
        episode=incident["opened_at"],
        severity=incident["severity"],
        title=incident["title"],
        text=f"{event.why}{damage}",
        at=event.at,
        onset=datetime.fromisoformat(incident["onset"]),
        owner=incident.get("owner", ""),
        runbook=incident["runbook"],
        link=f"{link.rstrip('/')}/incidents/{incident['fingerprint']}" if link else "",
        actor=event.actor,
        columns=tuple(incident["columns"]),
        segments=tuple(incident["segments"]),
        causes=tuple(incident["causes"]),
        details=tuple((str(row["where"]), str(row["why"])) for row in evidence),
    )


def is_for(sink: SinkSettings, incident: Mapping[str, Any]) -> bool:
    """Whether a sink wants to hear of an incident: each filter that is not empty must name it."""
    wants = (
        (sink.severities, incident["severity"]),
        (sink.models, incident["model"]),
        (sink.owners, incident.get("owner", "")),
        (sink.monitors, incident["monitor"]),
    )
    return all(not names or value in names for names, value in wants)


def receivers(
    sinks: Mapping[str, SinkSettings], draft: Draft, *, before: Mapping[str, Any] | None, pages: bool
) -> Sequence[str]:
    """The names of the sinks that are told of an event; pure.

    Parameters
    ----------
    before : the incident as it was before the event; whoever was told of it is told of its end too.
    pages : its monitor may page; otherwise only sinks inside (the log) are told.
    """
    if draft.kind not in STAGES:
        return ()
    incident = draft.payload["incident"]
    over = draft.kind == "alert.resolved"
    until = incident.get("snoozed_until")
    asleep = bool(until) and datetime.fromisoformat(until) > draft.at
    found = []
    for name, sink in sorted(sinks.items()):
        wanted = is_for(sink, incident) or (before is not None and is_for(sink, before))
        quiet = asleep and not over and sink.kind not in INSIDE
        if wanted and not quiet and (pages or sink.kind in INSIDE) and (sink.resolved or not over):
            found.append(name)
    return found
