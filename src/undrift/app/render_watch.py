"""How incidents, sinks and permissions to page look in a terminal; pure functions, as in render.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from undrift.app.render import _words, columns, minute, pairs, report, title
from undrift.event import Event

if TYPE_CHECKING:
    from undrift.backtest import Backtest
    from undrift.rehearse.drill import Rehearsal

__all__ = ["alerting", "backtest", "incidents", "paging", "rehearsal", "said", "scenarios"]

SEVERITIES = {"critical": "bold red", "high": "red", "low": "yellow"}


def incidents(found: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A block per incident, the newest last."""
    if not found:
        return Text("no incident is open")
    parts: list[RenderableType] = []
    for row in found:
        until = row.get("snoozed_until")
        state = [row["status"]]
        state += [f"acknowledged by {row['acknowledged_by']}"] if row["acknowledged_by"] else []
        state += [f"snoozed until {minute(until)}"] if until else []
        state += (
            [f"resolved {minute(row['resolved_at'])} by {row.get('resolved_by') or 'work'}"]
            if row["resolved_at"]
            else []
        )
        evidence = [detail["why"] for detail in row["details"].values() if detail.get("why")]
        lines = [
            ("what", Text(_words(row["title"]), SEVERITIES.get(row["severity"], ""))),
            ("state", ", ".join(state)),
            ("severity", row["severity"]),
            ("since", f"{minute(row['onset'])} (told {minute(row['opened_at'])})"),
            ("evidence", "\n".join(evidence[:6])),
            ("damage", row["damage"]),
            ("owner", row.get("owner", "")),
            ("runbook", row["runbook"]),
            ("sets off", ", ".join(row["actions"])),
        ]
        parts += [title(row["fingerprint"], row["kind"]), pairs([(n, v) for n, v in lines if v]), Text()]
    return Group(*parts[:-1])


def said(event: Event) -> RenderableType:
    """What a person said to an incident, as recorded."""
    incident = event.payload["incident"]
    return Text(
        f"{incident['fingerprint']}: {event.kind.partition('.')[2]} by {event.actor} ({event.why}), event {event.seq}"
    )


def paging(permissions: Mapping[str, Mapping[str, Mapping[str, Any]]], *, outside: bool) -> list[RenderableType]:
    """Per model which monitors may page and which only write to the log, and why.

    Parameters
    ----------
    permissions : model -> monitor -> ``may`` and ``why``.
    outside : there is a receiver that could be paged; where there is none, nothing is to be said.
    """
    parts: list[RenderableType] = []
    for model, monitors in permissions.items() if outside else ():
        lines = [
            (name, Text(f"{'may page' if found['may'] else 'does not page'}: {found['why']}", _colour(found["may"])))
            for name, found in monitors.items()
        ]
        if lines:
            parts += [title("monitors", model), pairs(lines)]
    return parts


def _colour(good: bool) -> str:
    return "" if good else "yellow"


def alerting(found: Mapping[str, Any]) -> RenderableType:
    """Of a status: who is told of incidents, what waits for them and why, and which monitors may page."""
    sinks: Sequence[Mapping[str, Any]] = found["sinks"]
    rows = []
    for sink in sinks:
        parts = [f"{sink['waiting']} waiting" if sink["waiting"] else "nothing waits"]
        parts += [f"failed {sink['attempts']} times: {sink['error']}"] if sink["error"] else []
        parts += [f"{sink['given_up']} given up"] if sink["given_up"] else []
        bad = bool(sink["error"] or sink["given_up"])
        rows.append((f"{sink['name']} ({sink['kind']})", Text(", ".join(parts), "red" if bad else "")))
    head: list[RenderableType] = [title("alerts go to"), pairs(rows)] if rows else []
    permissions = {name: model["paging"] for name, model in found["models"].items()}
    return Group(*head, *paging(permissions, outside=any(sink["pages"] for sink in sinks)))


def backtest(found: Backtest) -> RenderableType:
    """The verdict on each monitor's budget, then the alarms that would have fired."""
    rows = columns("at", "monitor", "what", "counts as")
    for alarm in found.alarms:
        cells = (minute(alarm.at), alarm.monitor, alarm.title, alarm.confirmed or "false alarm")
        rows.add_row(*(Text(cell) for cell in cells))
    told = f"{found.ticks} ticks, {found.unserved} of them without a champion; "
    told += "recorded" if found.recorded else "not recorded (--dry)"
    parts: list[RenderableType] = [report(found.report), Text(told, "dim")]
    return Group(*parts, *([rows] if found.alarms else [Text("no alert would have fired")]))


def scenarios(known: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What can be rehearsed."""
    rows = columns("story", "name", "what happens", "the truth")
    for scenario in known:
        cells = (str(scenario["story"] or "-"), scenario["name"], scenario["title"], scenario["truth"])
        rows.add_row(*(Text(cell) for cell in cells))
    return rows


def rehearsal(found: Rehearsal) -> RenderableType:
    """The scoreboard: a line per scenario and strength, then the controls."""
    rows = columns("story", "scenario", "strength", "seen", "after", "exposed", "by", "what undrift did by itself")
    for outcome in found.outcomes:
        seen = (
            Text("not played", "yellow")
            if outcome.missing
            else Text("yes", "green")
            if outcome.detected
            else Text("no", "red")
        )
        after = "-" if outcome.days is None else "at once" if not outcome.days else f"{outcome.days} d"
        did = outcome.missing or "; ".join(outcome.did[:3]) or outcome.what or "nothing"
        cells = (str(outcome.story or "-"), outcome.scenario, outcome.strength)
        more = (after, f"{outcome.exposed} of {outcome.predictions}", outcome.by or "-", did)
        rows.add_row(*(Text(cell) for cell in cells), seen, *(Text(cell) for cell in more))
    controls = [
        (
            control.name,
            Text(f"{len(control.false_alarms)} false alarms in {control.days} days", _bad(control.false_alarms)),
        )
        for control in found.controls
    ]
    alarms = [("", alarm) for control in found.controls for alarm in control.false_alarms]
    played = [outcome for outcome in found.outcomes if not outcome.missing]
    return Group(
        title(f"rehearsal of {found.model}", found.origin),
        rows,
        Text(),
        pairs([*controls, *alarms]),
        Text(
            f"{sum(o.detected for o in played)} of {len(played)} seen, {len(found.outcomes) - len(played)} not played, "
            f"{found.false_alarms} false alarms; {found.per_day} rows a day, {found.quiet_days} quiet days, at most "
            f"{found.most_days} after; {found.seconds:.0f} s",
            "bold",
        ),
    )


def _bad(found: Sequence[str]) -> str:
    return "red" if found else "green"
