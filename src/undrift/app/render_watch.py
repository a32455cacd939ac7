"""How incidents, sinks and permissions to page look in a terminal; pure functions, as in render.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from undrift.app.render import _minute, _pairs, _title, _words
from undrift.event import Event

__all__ = ["alerting", "incidents", "paging", "said"]

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
        state += [f"snoozed until {_minute(until)}"] if until else []
        state += (
            [f"resolved {_minute(row['resolved_at'])} by {row.get('resolved_by') or 'work'}"]
            if row["resolved_at"]
            else []
        )
        evidence = [detail["why"] for detail in row["details"].values() if detail.get("why")]
        lines = [
            ("what", Text(_words(row["title"]), SEVERITIES.get(row["severity"], ""))),
            ("state", ", ".join(state)),
            ("severity", row["severity"]),
            ("since", f"{_minute(row['onset'])} (told {_minute(row['opened_at'])})"),
            ("evidence", "\n".join(evidence[:6])),
            ("damage", row["damage"]),
            ("owner", row.get("owner", "")),
            ("runbook", row["runbook"]),
            ("sets off", ", ".join(row["actions"])),
        ]
        parts += [_title(row["fingerprint"], row["kind"]), _pairs([(n, v) for n, v in lines if v]), Text()]
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
            parts += [_title("monitors", model), _pairs(lines)]
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
    head: list[RenderableType] = [_title("alerts go to"), _pairs(rows)] if rows else []
    permissions = {name: model["paging"] for name, model in found["models"].items()}
    return Group(*head, *paging(permissions, outside=any(sink["pages"] for sink in sinks)))
