"""Commands about what monitors find: incidents, what people say to them, backtests and who may page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undrift.app.terminal import AsOption, JsonOption, ModelArgument, ProjectOption, WhyOption, actor, show
from undrift.errors import SettingsError
from undrift.ids import duration

if TYPE_CHECKING:
    from undrift.project import Project

IncidentArgument = Annotated[
    str, typer.Argument(metavar="INCIDENT", help="Its name, as `undrift incidents` shows it, or a part no other has.")
]


def incidents(
    model: ModelArgument = "",
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones, too.")] = False,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show what monitors found and is not over.

    One incident per cause, with its evidence, its owner, and what people said to it.

    \b
        undrift incidents
        undrift incidents --all --json
    """  # noqa: D301
    from undrift import incidents as verbs
    from undrift.app import render_watch
    from undrift.project import open_project

    with open_project(project) as opened:
        found = verbs.incidents(opened, model, closed=everything)
    show(found, lambda: render_watch.incidents(found), json=json)


def acknowledge(
    incident: IncidentArgument,
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Say that you have seen an incident.

    It stays open until the evidence is good again; PagerDuty and the like are told that somebody is on it.

    \b
        undrift acknowledge feeds/weather --why "called the provider"
    """  # noqa: D301
    from undrift import incidents as verbs
    from undrift.app import render_watch
    from undrift.project import open_project

    with open_project(project) as opened:
        event = verbs.acknowledge(opened, incident, actor=actor(who), why=why)
    show(event, lambda: render_watch.said(event), json=json)


def snooze(
    incident: IncidentArgument,
    span: Annotated[str, typer.Option("--for", metavar="SPAN", help="How long: 4h, 2d.")] = "1d",
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Hear nothing of an incident for a while.

    What is found meanwhile is recorded; its end is told at once; if it is still open when the time is over, it is told
    again. Time is that of the project: of the events, where [time] says so.

    \b
        undrift snooze inputs --for 2d --why "the sale ends on Sunday"
    """  # noqa: D301
    from undrift import incidents as verbs
    from undrift.app import render_watch
    from undrift.project import open_project

    try:
        length = duration(span)
    except ValueError as error:
        raise SettingsError(f"--for: {error}.") from error
    with open_project(project) as opened:
        event = verbs.snooze(opened, incident, length, actor=actor(who), why=why)
    show(event, lambda: render_watch.said(event), json=json)


def resolve(
    incident: IncidentArgument,
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Say that an incident is over.

    Incidents end by themselves when the evidence is good again. One that is resolved by hand opens again if its
    monitor still finds the fault.

    \b
        undrift resolve quality --why "prices were raised on purpose"
    """  # noqa: D301
    from undrift import incidents as verbs
    from undrift.app import render_watch
    from undrift.project import open_project

    with open_project(project) as opened:
        event = verbs.resolve(opened, incident, actor=actor(who), why=why)
    show(event, lambda: render_watch.said(event), json=json)


def assign(
    incident: IncidentArgument,
    to: Annotated[str, typer.Option("--to", metavar="OWNER", help="Who takes it over, as sinks know them.")],
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Give an incident to another owner.

    Sinks that are for that owner are told of it.

    \b
        undrift assign feeds/weather --to data-platform
    """  # noqa: D301
    from undrift import incidents as verbs
    from undrift.app import render_watch
    from undrift.project import open_project

    with open_project(project) as opened:
        event = verbs.assign(opened, incident, to, actor=actor(who), why=why)
    show(event, lambda: render_watch.said(event), json=json)


def notify(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="The name of a section [alerts.sinks.NAME].")],
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Send a trial alert to a receiver.

    Sends the beginning and the end of an incident that is none, at once, and says what the receiver answered if it
    did not take it.

    \b
        undrift notify oncall
    """  # noqa: D301
    from rich.text import Text

    from undrift import incidents as verbs
    from undrift.project import open_project

    with open_project(project) as opened:
        notice = verbs.notify(opened, sink)
    show(notice, lambda: Text(f"{sink} took it: {notice.title}"), json=json)


def watch(
    model: ModelArgument = "",
    backtest: Annotated[
        tuple[str, str] | None,
        typer.Option("--backtest", metavar="FROM TO", help="Judge the past again: 2013-04-01 2013-07-01, or 60d 0d."),
    ] = None,
    troubled: Annotated[
        list[str] | None,
        typer.Option("--troubled", metavar="FROM..TO", help="Something was wrong then: alarms there are not false."),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Do not record the backtest.")] = False,
    span: Annotated[str, typer.Option("--for", metavar="SPAN", help="Watch so long and end; else until Ctrl-C.")] = "",
    project: ProjectOption = Path(),
    who: AsOption = "",
    json: JsonOption = False,
) -> None:
    """Follow incidents as they come, or judge the past again.

    With --backtest the monitors as they are declared now judge each tick of the span once more, seeing only what was
    known then: which alerts would have fired, and how many false ones, against the stated budget. A monitor may page
    only after a recorded backtest within its budget, or by `undrift paging`. Exit code 1 if a budget is broken or
    cannot be judged.

    \b
        undrift watch
        undrift watch --backtest 60d 0d
    """  # noqa: D301
    from undrift.app import render_watch
    from undrift.app.terminal import moment, piped, progress, stop_with
    from undrift.finding import Verdict, Window
    from undrift.plugins import resolve_path
    from undrift.project import open_project

    with open_project(project) as opened:
        if backtest is None:
            _follow(opened, model, span, json=json)
            return
        now = opened.now().now()
        start, end = (moment(text, now=now) for text in backtest)
        windows = []
        for text in troubled or ():
            first, dots, last = text.partition("..")
            if not dots:
                raise SettingsError(f"--troubled {text!r} is no span.", hint="Write 2013-09-02..2013-09-23.")
            windows.append(Window(moment(first, now=now), moment(last, now=now)))
        run = resolve_path("undrift.backtest:backtest", wanted_for="undrift watch --backtest")
        with progress("judging the past again") as say:
            found = run(opened, model, start=start, end=end, troubled=windows, actor="" if dry else actor(who), say=say)
    with piped():
        show(found, lambda: render_watch.backtest(found), json=json)
    stop_with(0 if found.report.verdict is Verdict.PASS else 1)


def _follow(opened: Project, model: str, span: str, *, json: bool) -> None:
    """Open incidents, then each event of an incident as it is recorded."""
    import sys
    import time

    import msgspec

    from undrift import incidents as verbs
    from undrift.app.terminal import piped

    end = time.monotonic() + duration(span).total_seconds() if span else float("inf")
    kinds = tuple(f"alert.{step}" for step in ("opened", "updated", "acknowledged", "snoozed", "assigned", "resolved"))
    last = max((event.seq for event in opened.journal.events(kinds=kinds)), default=0)

    def say(at: str, what: str, row: dict[str, Any], why: str) -> None:
        told = {"at": at, "what": what, "incident": row["fingerprint"], "severity": row["severity"], "why": why}
        line = msgspec.json.encode(told).decode() if json else f"{at[:19]}  {what:<12} {row['fingerprint']}: {why}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with piped():
        for row in verbs.incidents(opened, model):
            say(row["opened_at"], "open", row, row["title"])
        try:
            while time.monotonic() < end:
                for event in opened.journal.events(kinds=kinds, after=last):
                    last = event.seq
                    row = event.payload["incident"]
                    if not model or row["model"] == model:
                        say(event.at.isoformat(), event.kind.partition(".")[2], row, event.why)
                time.sleep(min(0.5, max(0.0, end - time.monotonic())))
        except KeyboardInterrupt:
            return


def paging(
    monitor: Annotated[str, typer.Argument(metavar="MONITOR", help="Which monitor; all are shown if left out.")] = "",
    allow: Annotated[bool, typer.Option("--allow", help="It may page, without a backtest.")] = False,
    forbid: Annotated[bool, typer.Option("--forbid", help="It may not page.")] = False,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Whose monitor, if there are several.")] = "",
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Show or say which monitors may page.

    A monitor pages after a recorded backtest within its budget of false alarms (`undrift watch --backtest`), or when a
    person says so here, with a reason. Until then its alerts go to the log and the dashboard only.

    \b
        undrift paging
        undrift paging feeds --allow --why "it found each of the last three outages"
    """  # noqa: D301
    import msgspec
    from rich.console import Group
    from rich.text import Text

    from undrift import incidents as verbs
    from undrift.app import render_watch
    from undrift.delivery import permissions
    from undrift.project import open_project

    if (allow and forbid) or (monitor and not (allow or forbid)) or ((allow or forbid) and not monitor):
        raise SettingsError("say which: `undrift paging MONITOR --allow` or `--forbid`, with --why.")
    with open_project(project) as opened:
        if monitor:
            event = verbs.allow_paging(opened, monitor, model, may=allow, actor=actor(who), why=why)
            done = (
                f"{monitor} {'may page' if allow else 'does not page'}: {event.why}, event {event.seq} by {event.actor}"
            )
            show(event, lambda: Text(done), json=json)
            return
        models = {name: m for name, m in opened.declarations.models.items() if model in ("", name)}
        found = {name: msgspec.to_builtins(permissions(opened, name, m.monitors)) for name, m in models.items()}
    show(found, lambda: Group(*render_watch.paging(found, outside=True)), json=json)
