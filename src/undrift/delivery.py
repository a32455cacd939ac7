"""Delivery of notices: which jobs an event of an incident calls for, and what such a job does.

The jobs are recorded in the transaction of the event, so no notice is lost; each is tried until the receiver has it, in
the order of the incident's events, and repeats carry the same id. What a notice says and who is told stands in
monitor/notices.py, how each receiver is spoken to in integrations/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from undrift.errors import DeliveryError, NotFoundError
from undrift.event import Draft
from undrift.ids import duration
from undrift.monitor.alerts import open_incidents
from undrift.monitor.monitors import Monitor
from undrift.monitor.notices import INSIDE, Notice, Sink, is_for, notice_of, receivers
from undrift.monitor.paging import Permission, may_page
from undrift.plugins import resolve
from undrift.project import Project
from undrift.settings import SinkSettings
from undrift.state.jobs import Job, JobDraft

__all__ = [
    "NOTIFY",
    "deliver",
    "notices_for",
    "open_sink",
    "permissions",
    "renewals",
    "sinks_status",
    "trial",
    "wait_before",
]

NOTIFY: Final = "notify"
WAITS: Final = "waits for an earlier notice of the incident"
LONGEST_WAIT: Final = 300
"""Seconds between two attempts, at most."""


def open_sink(settings: SinkSettings) -> Sink:
    """The sink of these settings.

    Raises
    ------
    SettingsError : nobody answers to its kind, or it lacks what the kind needs.
    """
    sink: Sink = resolve("sink", settings.kind)(settings)
    return sink


def permissions(project: Project, model: str, monitors: Iterable[Monitor]) -> dict[str, Permission]:
    """For each monitor whether it may page."""
    records = project.journal.items("paging")
    return {monitor.name: may_page(model, monitor, records) for monitor in monitors}


def notices_for(
    project: Project, drafts: Iterable[Draft], incidents: Mapping[str, Mapping[str, Any]]
) -> list[JobDraft]:
    """The jobs that events of incidents call for, to be recorded with them.

    Parameters
    ----------
    incidents : as they were before.
    """
    sinks = project.settings.alerts.sinks
    if not sinks:
        return []
    jobs = []
    since = project.clock.now().isoformat()
    for draft in drafts:
        incident = draft.payload.get("incident")
        if incident is None:
            continue
        declared = project.declarations.models.get(incident["model"])
        monitors = {m.name: m for m in declared.monitors} if declared is not None else {}
        monitor = monitors.get(incident["monitor"])
        before = incidents.get(incident["fingerprint"])
        # who was told of an incident hears of its end, whatever became of the permission since
        told = bool(before and before["status"] == "open" and before.get("pages"))
        pages = told or (
            monitor is not None and may_page(incident["model"], monitor, project.journal.items("paging")).may
        )
        incident["pages"] = pages
        for name in receivers(sinks, draft, before=before, pages=pages):
            payload = {
                "sink": name,
                "event": draft.key,
                "fingerprint": incident["fingerprint"],
                "at": draft.at.isoformat(),
                "since": since,
                "model": incident["model"],
            }
            jobs.append(JobDraft(kind=NOTIFY, key=f"{NOTIFY}:{name}:{draft.key}", payload=payload))
    return jobs


def renewals(project: Project) -> list[JobDraft]:
    """Jobs that tell open incidents again to receivers that forget; at most one per receiver and its interval."""
    now = project.clock.now()
    jobs = []
    for name, settings in project.settings.alerts.sinks.items():
        every = getattr(resolve("sink", settings.kind), "RENEW", None)
        if every is not None and any(_renewable(project, settings)):
            slot = int(now.timestamp() // every.total_seconds())
            payload = {"sink": name, "event": "", "fingerprint": "", "at": now.isoformat(), "since": now.isoformat()}
            jobs.append(JobDraft(kind=NOTIFY, key=f"renew:{name}:{slot}", payload=payload))
    return jobs


def _renewable(project: Project, settings: SinkSettings) -> list[dict[str, Any]]:
    incidents = project.journal.items("incident")
    found = [i for model in project.declarations.models for i in open_incidents(incidents, model)]
    return [i for i in found if i.get("pages") and is_for(settings, i)]


def deliver(project: Project, job: Job) -> list[str]:
    """Do one job; one line to tell.

    Raises
    ------
    DeliveryError : the receiver did not take it, or an earlier notice of the incident is still under way.
    SettingsError : the receiver is not set up, or its secret is not there.
    """
    name = job.payload["sink"]
    settings = project.settings.alerts.sinks.get(name)
    if settings is None:
        return [f"notice to {name} dropped: undrift.toml has no such sink any more"]
    sink = open_sink(settings)
    if not job.payload["event"]:
        return _renew(project, sink, settings, name)
    event = project.journal.find(job.payload["event"])
    if event is None:
        raise NotFoundError(f"the event {job.payload['event']!r} of a notice is not in the log.")
    earlier = _earlier(project, job, event.seq)
    if earlier:
        raise DeliveryError(f"{WAITS} ({earlier})")
    notice = notice_of(event, link=project.settings.alerts.link)
    sink.send(notice)
    return [f"told {name} ({settings.kind}): {notice.stage}: {notice.title}"]


def _renew(project: Project, sink: Sink, settings: SinkSettings, name: str) -> list[str]:
    for incident in _renewable(project, settings):
        events = [
            e
            for e in project.journal.events(kinds=("alert.opened", "alert.updated"))
            if e.payload["incident"]["fingerprint"] == incident["fingerprint"]
        ]
        if events:
            sink.send(notice_of(events[-1], stage="renewed", link=project.settings.alerts.link))
    return []


def _earlier(project: Project, job: Job, seq: int) -> str:
    """The key of an unfinished notice of an earlier event of the same incident to the same sink."""
    for other in project.jobs.unfinished((NOTIFY,)):
        same = all(other.payload[part] == job.payload[part] for part in ("sink", "fingerprint"))
        if same and other.key != job.key and other.payload["event"]:
            before = project.journal.find(other.payload["event"])
            if before is not None and before.seq < seq:
                return other.key
    return ""


def wait_before(project: Project, job: Job) -> timedelta | None:
    """How long to wait before a failed job is tried again: twice as long each time; None when it is given up."""
    age = project.clock.now() - datetime.fromisoformat(job.payload["since"])
    if not job.payload["event"] or age >= duration(project.settings.alerts.give_up):
        return None  # a renewal is followed by the next one anyway
    return timedelta(seconds=min(2 ** min(job.attempts - 1, 10), LONGEST_WAIT))


def sinks_status(project: Project) -> list[dict[str, Any]]:
    """For each sink: its kind, what waits for it and why, and how many notices were given up."""
    waiting: dict[str, list[Job]] = {}
    for job in project.jobs.unfinished((NOTIFY,)):
        waiting.setdefault(job.payload["sink"], []).append(job)
    lost: dict[str, int] = {}
    for event in project.journal.events(kinds=("job.failed",)):
        if event.payload["job"] == NOTIFY:
            sink = event.payload["key"].split(":")[1]
            lost[sink] = lost.get(sink, 0) + 1
    rows = []
    for name, settings in sorted(project.settings.alerts.sinks.items()):
        jobs = waiting.get(name, [])
        told = [found[2] for job in jobs if (found := project.jobs.outcome(job.key)) is not None and found[2]]
        errors = [error for error in told if not error.startswith(WAITS)]  # what waits in line says nothing of the sink
        rows.append(
            {
                "name": name,
                "kind": settings.kind,
                "pages": settings.kind not in INSIDE,
                "waiting": len(jobs),
                "attempts": max((job.attempts for job in jobs), default=0),
                "error": errors[0] if errors else "",
                "given_up": lost.get(name, 0),
            }
        )
    return rows


def trial(settings: SinkSettings, now: datetime) -> Notice:
    """Send a notice that says it is a test, and its end; returns the first."""
    notice = Notice(
        id=f"undrift-trial-{now.timestamp():.0f}",
        stage="opened",
        model="trial",
        monitor="trial",
        kind="trial",
        fingerprint="trial/trial",
        episode=now.isoformat(),
        severity=settings.severities[0] if settings.severities else "low",
        title="this is a test of undrift's alerts",
        text="nothing is wrong: somebody tried whether this receiver can be reached",
        at=now,
        onset=now,
    )
    sink = open_sink(settings)
    sink.send(notice)
    if settings.resolved:
        sink.send(msgspec.structs.replace(notice, id=f"{notice.id}-resolved", stage="resolved"))
    return notice
