"""Commands about what monitors find: incidents and what people say to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undrift.app.terminal import AsOption, JsonOption, ModelArgument, ProjectOption, WhyOption, actor, show
from undrift.errors import SettingsError
from undrift.ids import duration

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
