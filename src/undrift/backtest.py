"""Backtest: one's own history judged again by the monitors as they are declared now, tick by tick.

Tells which alerts would have fired and how many of them were false, against the stated budget, before a monitor may
page anyone. Each tick sees only what was known then. An alarm that a person acknowledged when it really happened, or
that lies in a span named as troubled, is no false one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from undrift.declarations import Model
from undrift.errors import DataError, SettingsError
from undrift.event import Event
from undrift.finding import Report, Verdict, Window
from undrift.ids import duration
from undrift.monitor.alerts import decide
from undrift.monitor.paging import backtested, judge_budget
from undrift.monitor.watch import watch
from undrift.project import Project
from undrift.tick import scene_of

__all__ = ["Alarm", "Backtest", "backtest"]

JUDGED: Final = (Verdict.PASS, Verdict.FAIL)
Say = Callable[[str], None]


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that would have fired. ``confirmed`` says why it counts as a true one; empty for a false alarm."""

    at: datetime
    monitor: str
    title: str
    confirmed: str = ""


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backtest found: a finding per monitor on its budget, and the alarms.

    ``ticks`` were looked at, ``unserved`` of them before there was a champion. ``recorded``: the log has it.
    """

    model: str
    window: Window
    report: Report
    alarms: tuple[Alarm, ...]
    ticks: int
    unserved: int
    recorded: bool


def backtest(
    project: Project,
    model: str = "",
    *,
    start: datetime,
    end: datetime,
    troubled: Sequence[Window] = (),
    actor: str = "",
    say: Say = lambda line: None,
) -> Backtest:
    """Judge the past again; recorded in the log where an actor is named.

    Parameters
    ----------
    start, end : of event time; ticks in (start, end] are judged.
    troubled : spans in which something really was wrong: alarms there are not false.
    say : takes one line per tick, for progress.

    Raises
    ------
    SettingsError : the span holds no tick.
    DataError : nothing was served in it.
    """
    declared = project.model(model)
    tick = duration(project.settings.time.tick)
    boundaries = _boundaries(start, end, tick)
    if not boundaries:
        raise SettingsError(
            f"no tick of {project.settings.time.tick} lies between {start:%Y-%m-%d} and {end:%Y-%m-%d}."
        )
    routes = _routes(project, declared.name)
    known = _confirmed(project, declared, troubled)
    incidents: dict[str, Any] = {}
    alarms: list[Alarm] = []
    judged: dict[str, int] = {monitor.name: 0 for monitor in declared.monitors}
    unserved = 0
    for place, now in enumerate(boundaries, 1):
        say(f"{now:%Y-%m-%d %H:%M}: {place} of {len(boundaries)} ticks, {len(alarms)} alarms")
        route = _route_at(routes, now)
        if route is None:
            unserved += 1
            continue
        report = watch(declared.monitors, scene_of(project, declared, route, now, tick), incidents, now)
        for name in judged:
            judged[name] += any(
                f.verdict in JUDGED and f.measurement.detail.get("monitor") == name for f in report.findings
            )
        drafts = decide(declared.name, declared.monitors, incidents, report, now, owner=declared.owner)
        for draft in drafts:
            incident = draft.payload["incident"]
            incidents[incident["fingerprint"]] = incident
            if draft.kind == "alert.opened":
                alarms.append(_alarm(incident, now, tick, known))
    if unserved == len(boundaries):
        raise DataError(
            f"{declared.name} had no champion between {start:%Y-%m-%d} and {end:%Y-%m-%d}: there is nothing to judge."
        )
    window = Window(boundaries[0] - tick, boundaries[-1])
    findings = tuple(
        judge_budget(
            monitor,
            sum(alarm.monitor == monitor.name and not alarm.confirmed for alarm in alarms),
            judged[monitor.name] * (monitor.every(tick) / timedelta(days=1)),
            window,
        )
        for monitor in declared.monitors
    )
    report = Report(title="Backtest", subject=f"model:{declared.name}", findings=findings, at=project.now().now())
    if actor:
        _record(project, declared, report, actor)
    return Backtest(
        model=declared.name,
        window=window,
        report=report,
        alarms=tuple(alarms),
        ticks=len(boundaries),
        unserved=unserved,
        recorded=bool(actor),
    )


def _record(project: Project, declared: Model, report: Report, actor: str) -> None:
    now = project.now().now()
    pairs = zip(declared.monitors, report.findings, strict=True)
    project.journal.record([backtested(declared.name, m, found, now, actor=actor) for m, found in pairs])


def _boundaries(start: datetime, end: datetime, tick: timedelta) -> list[datetime]:
    """The ticks in (start, end], where the worker would have put them."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    first = epoch + ((start - epoch) // tick + 1) * tick
    return [first + i * tick for i in range(max(0, (end - first) // tick + 1))]


def _routes(project: Project, model: str) -> list[tuple[datetime, dict[str, Any]]]:
    """(since, route) of a model through the log, by recorded order."""
    reducers = [r for r in project.journal.reducers if r.name == "route"]
    kinds = sorted({kind for reducer in reducers for kind in reducer.kinds})
    state: dict[str, Any] | None = None
    found: list[tuple[datetime, dict[str, Any]]] = []
    for event in project.journal.events(kinds=kinds):
        for reducer in reducers:
            if event.kind in reducer.kinds and model in set(reducer.keys(event)):
                state = reducer.apply(state, event, model)
                if state is not None and state.get("champion"):
                    found.append((event.at, state))
    return found


def _route_at(routes: Sequence[tuple[datetime, dict[str, Any]]], now: datetime) -> dict[str, Any] | None:
    """The route that answered before a tick; the first one, where its promotion is dated later than its traffic."""
    before = [route for at, route in routes if at < now]
    return before[-1] if before else None


def _confirmed(project: Project, declared: Model, troubled: Sequence[Window]) -> list[tuple[Window, str]]:
    """Spans in which something was wrong: as told, and the incidents that a person acknowledged."""
    spans = [(window, "in a troubled span") for window in troubled]
    acknowledged: dict[tuple[str, str], Event] = {}
    ended: dict[tuple[str, str], datetime] = {}
    for event in project.journal.events(kinds=("alert.acknowledged", "alert.resolved")):
        incident = event.payload["incident"]
        if incident["model"] != declared.name:
            continue
        key = (incident["fingerprint"], incident["opened_at"])
        if event.kind == "alert.acknowledged":
            acknowledged[key] = event
        else:
            ended[key] = event.at
    for key, event in acknowledged.items():
        onset = datetime.fromisoformat(event.payload["incident"]["onset"])
        end = ended.get(key, project.now().now())
        spans.append((Window(onset, max(end, event.at)), f"acknowledged by {event.actor}"))
    return spans


def _alarm(incident: dict[str, Any], now: datetime, tick: timedelta, known: Iterable[tuple[Window, str]]) -> Alarm:
    onset = datetime.fromisoformat(incident["onset"])
    why = next((text for window, text in known if onset < window.end + tick and window.start < now), "")
    return Alarm(at=now, monitor=incident["monitor"], title=incident["title"], confirmed=why)
