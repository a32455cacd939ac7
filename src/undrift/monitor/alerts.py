"""From findings to incidents: one cause gives one alert, that is opened, updated and resolved, and never repeated.

Findings of one monitor share an incident, with its columns and segments listed. The decision is pure; an incident is
the projection of its own events, and remembers the windows whose data are not to be trusted. What people say to an
incident stands in response.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from undrift.event import Draft, Event
from undrift.finding import Finding, Report, Verdict, Window
from undrift.ids import content_hash
from undrift.monitor.monitors import Monitor
from undrift.state.journal import Reducer

__all__ = ["INCIDENT_REDUCERS", "decide", "fingerprint", "incident_draft", "open_incidents", "spoiled_windows"]

REMEMBERED: Final = 20
"""How many past windows an incident remembers."""
MOST_NAMED: Final = 8

Incident = dict[str, Any]


def fingerprint(model: str, monitor: Monitor, source: str = "") -> str:
    """What makes two findings one incident: the model, the monitor and, for feeds, the source."""
    return "/".join(part for part in (model, monitor.name, source) if part)


def decide(
    model: str,
    monitors: Sequence[Monitor],
    incidents: Mapping[str, Incident],
    report: Report,
    now: datetime,
    *,
    owner: str = "",
) -> tuple[Draft, ...]:
    """The events that follow from a tick's findings; pure.

    An incident opens with the first FAIL, is updated when columns, segments or causes join, and is resolved when its
    monitor finds nothing any more and says so from evidence: silence for want of data resolves nothing. A value still
    beyond its practical size, though no longer certainly, keeps it open. When a snooze ends and the incident is still
    open, it is told again.

    Parameters
    ----------
    owner : of the model; incidents of monitors without an owner of their own are theirs.
    """
    drafts: list[Draft] = []
    for monitor in monitors:
        mine = [f for f in report.findings if f.measurement.detail.get("monitor") == monitor.name]
        mine = [f for f in mine if not f.measurement.detail.get("explained")]
        sources = sorted({str(f.measurement.detail.get("source", "")) for f in mine})
        for source in sources:
            found = [f for f in mine if str(f.measurement.detail.get("source", "")) == source]
            key = fingerprint(model, monitor, source)
            drafts += _one(key, model, (monitor, owner), source, incidents.get(key), found, now)
    drafts += _woken(drafts, model, incidents, now)
    return tuple(_with_damage(drafts, model, incidents, report, now))


def _with_damage(
    drafts: list[Draft], model: str, incidents: Mapping[str, Incident], report: Report, now: datetime
) -> list[Draft]:
    """The loss under a fault is told once, with the fault that explains it."""
    damage = [f for f in report.findings if f.measurement.detail.get("explained")]
    after = dict(incidents) | {d.payload["incident"]["fingerprint"]: d.payload["incident"] for d in drafts}
    faults = open_incidents(after, model, ("silent", "feed"))
    if not damage or not faults or faults[0]["damage"]:
        return drafts
    told = {**faults[0], "damage": damage[0].why, "updated_at": now.isoformat()}
    others = [d for d in drafts if d.payload["incident"]["fingerprint"] != told["fingerprint"]]
    kind = "alert.opened" if len(others) < len(drafts) and told["opened_at"] == now.isoformat() else "alert.updated"
    return [*others, incident_draft(kind, told, now, f"{told['title']}; {damage[0].why}", damage)]


def _woken(drafts: Sequence[Draft], model: str, incidents: Mapping[str, Incident], now: datetime) -> list[Draft]:
    """The incidents whose snooze is over though they are not."""
    told = {draft.payload["incident"]["fingerprint"] for draft in drafts}
    found = []
    for incident in open_incidents(incidents, model):
        until = incident.get("snoozed_until")
        if until and datetime.fromisoformat(until) <= now and incident["fingerprint"] not in told:
            awake = {**incident, "snoozed_until": "", "updated_at": now.isoformat()}
            found.append(incident_draft("alert.updated", awake, now, f"still open after a snooze: {awake['title']}"))
    return found


def _one(
    key: str,
    model: str,
    whose: tuple[Monitor, str],
    source: str,
    before: Incident | None,
    found: Sequence[Finding],
    now: datetime,
) -> list[Draft]:
    monitor, owner = whose
    failing = [f for f in found if f.verdict is Verdict.FAIL]
    is_open = before is not None and before["status"] == "open"
    if failing and not (before and is_open):
        incident = _opened(key, model, (monitor, owner), source, before, failing, now)
        return [incident_draft("alert.opened", incident, now, incident["title"], failing)]
    if before is None or not is_open:
        return []
    if failing:
        merged = _merged(before, failing, now)
        if all(merged[part] == before[part] for part in ("columns", "segments", "causes")):
            return []
        return [incident_draft("alert.updated", merged, now, merged["title"], failing)]
    settled = [f for f in found if f.verdict is Verdict.PASS]
    if not settled or any(_lingers(f, before) for f in found):
        return []
    after = _resolved(before, monitor, now)
    lasted = now - datetime.fromisoformat(before["onset"])
    why = f"over after {lasted.days} days: {before['title']}"
    return [incident_draft("alert.resolved", after, now, why, settled)]


def _lingers(finding: Finding, incident: Incident) -> bool:
    """Still beyond the practical size, or not to be seen, in a column or segment that the incident is about."""
    detail, where = finding.measurement.detail, finding.measurement.where
    column = detail.get("column")
    about = (column in incident["columns"]) if column else (where in incident["segments"] or not incident["segments"])
    return bool(about and (detail.get("lingers") or finding.verdict is not Verdict.PASS))


def _opened(
    key: str,
    model: str,
    whose: tuple[Monitor, str],
    source: str,
    before: Incident | None,
    failing: Sequence[Finding],
    now: datetime,
) -> Incident:
    monitor, owner = whose
    incident: Incident = {
        "fingerprint": key,
        "model": model,
        "monitor": monitor.name,
        "kind": monitor.kind,
        "source": source,
        "status": "open",
        "severity": monitor.level,
        "actions": list(monitor.acts),
        "runbook": monitor.runbook,
        "owner": monitor.owner or owner,
        "opened_at": now.isoformat(),
        "onset": min(str(f.measurement.detail["onset"]) for f in failing),
        "updated_at": now.isoformat(),
        "resolved_at": "",
        "resolved_by": "",
        "acknowledged_by": "",
        "snoozed_until": "",
        "columns": [],
        "segments": [],
        "causes": [],
        "details": {},
        "damage": "",
        "title": "",
        "windows": list(before["windows"]) if before else [],
        "times": (before["times"] if before else 0) + 1,
    }
    return _merged(incident, failing, now)


def _merged(incident: Incident, failing: Sequence[Finding], now: datetime) -> Incident:
    """The incident with what the findings add; nothing is taken away while it is open."""
    columns, segments = list(incident["columns"]), list(incident["segments"])
    causes, details = list(incident["causes"]), dict(incident["details"])
    for finding in failing:
        seen = finding.measurement
        column = str(seen.detail.get("column", ""))
        cause = str(seen.detail.get("cause", ""))
        if column and column not in columns:
            columns.append(column)
        if seen.where not in segments and seen.segment:
            segments.append(seen.where)
        if cause and cause not in causes:
            causes.append(cause)
        name = column or seen.where
        details.setdefault(name, {**seen.detail, "why": finding.why})
    onset = min(incident["onset"], *(str(f.measurement.detail["onset"]) for f in failing))
    merged = {
        **incident,
        "columns": columns,
        "segments": segments,
        "causes": causes,
        "details": details,
        "onset": onset,
        "updated_at": now.isoformat(),
    }
    return {**merged, "title": _title(merged)}


def _title(incident: Incident) -> str:
    """The causes in words; columns that share one are listed together: ``temp, dewp drifted``."""
    columns: list[str] = incident["columns"]
    shared: dict[str, list[str]] = {}
    others = []
    for cause in incident["causes"]:
        column = next((c for c in columns if cause.startswith(f"{c} ")), "")
        if column:
            shared.setdefault(cause.removeprefix(f"{column} "), []).append(column)
        else:
            others.append(cause)
    texts = [*others, *(f"{_list(names)} {what}" for what, names in shared.items())]
    told = {name for names in shared.values() for name in names}
    rest = [name for name in (columns or incident["segments"]) if name not in told]
    where = f"{incident['source']}: " if incident["source"] else ""
    return f"{where}{'; '.join(texts[:4])}" + (f" ({_list(rest)})" if rest else "")


def _list(names: Sequence[str]) -> str:
    """The first names; with semicolons where one of them, a segment of two columns, has a comma of its own."""
    more = len(names) - MOST_NAMED
    between = "; " if any(", " in name for name in names) else ", "
    return between.join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _resolved(before: Incident, monitor: Monitor, now: datetime) -> Incident:
    """The incident at its end; the window its data were wrong in reaches to where the clean window begins."""
    onset = datetime.fromisoformat(before["onset"])
    end = max(onset, now - monitor.span) if before["kind"] in ("feed", "silent") else now
    windows = [*before["windows"], [before["onset"], end.isoformat(), before["columns"]]][-REMEMBERED:]
    return {
        **before,
        "status": "resolved",
        "resolved_at": now.isoformat(),
        "resolved_by": "work",
        "snoozed_until": "",
        "updated_at": now.isoformat(),
        "windows": windows,
    }


def incident_draft(
    kind: str, incident: Incident, now: datetime, why: str, findings: Sequence[Finding] = (), *, actor: str = "work"
) -> Draft:
    """An event that leaves an incident as given, with the findings it rests on."""
    evidence = [{"verdict": f.verdict.name, "why": f.why, "where": f.measurement.where} for f in findings]
    # a tick says a thing once; two people may say two things at one moment of a replay
    said = "" if actor == "work" else f"|{content_hash([actor, why, incident])[:12]}"
    return Draft(
        kind=kind,
        subject=f"model:{incident['model']}",
        at=now,
        actor=actor,
        why=why,
        payload={"incident": incident, "evidence": evidence},
        key=f"{incident['fingerprint']}|{kind}|{now.isoformat()}{said}",
    )


def open_incidents(incidents: Mapping[str, Incident], model: str, kinds: Iterable[str] = ()) -> list[Incident]:
    """The open incidents of a model, of some kinds (all if none are named), the oldest first."""
    wanted = set(kinds)
    found = [
        i
        for i in incidents.values()
        if i["model"] == model and i["status"] == "open" and (not wanted or i["kind"] in wanted)
    ]
    return sorted(found, key=lambda i: (i["opened_at"], i["fingerprint"]))


def spoiled_windows(
    incidents: Mapping[str, Incident],
    model: str,
    now: datetime,
    *,
    kinds: Iterable[str] = ("feed", "silent"),
    source: str = "",
) -> tuple[Window, ...]:
    """The windows in which data were not to be trusted, by incidents of those kinds; open ones last until now."""
    wanted = set(kinds)
    found = []
    for incident in incidents.values():
        if incident["model"] != model or incident["kind"] not in wanted or (source and incident["source"] != source):
            continue
        spans = [(datetime.fromisoformat(a), datetime.fromisoformat(b)) for a, b, _ in incident["windows"]]
        if incident["status"] == "open":
            spans.append((datetime.fromisoformat(incident["onset"]), now))
        found += [Window(start, end) for start, end in spans if end > start]
    return tuple(sorted(found, key=lambda w: (w.start, w.end)))


def _key(event: Event) -> Iterable[str]:
    return (str(event.payload["incident"]["fingerprint"]),)


def _apply(value: Incident | None, event: Event, key: str) -> Incident | None:
    incident: Incident = event.payload["incident"]
    return incident


INCIDENT_REDUCERS: Final = (
    Reducer(
        "incident",
        frozenset(
            {
                "alert.opened",
                "alert.updated",
                "alert.resolved",
                "alert.acknowledged",
                "alert.snoozed",
                "alert.assigned",
            }
        ),
        _key,
        _apply,
    ),
)
