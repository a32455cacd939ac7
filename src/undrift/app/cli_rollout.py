"""Commands on rollouts: start one, what people say to it, take it back, look at it in shadow, replay it, plan one.

Each opens the project, calls one verb and prints what it returned; none decides anything itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from undrift.app.terminal import (
    REFUSED,
    AsOption,
    JsonOption,
    ModelArgument,
    ProjectOption,
    VersionOption,
    WhyOption,
    actor,
    progress,
    show,
    stop_with,
)
from undrift.finding import Verdict

if TYPE_CHECKING:
    from undrift.deploy.rollout import RolloutState
    from undrift.project import Project


def roll_out(
    model: ModelArgument = "",
    version: VersionOption = None,
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Start the declared rollout of a version.

    The worker moves it on, or takes it back, by the evidence. Warns if it cannot succeed at the traffic seen.

    \b
        undrift roll-out --version 2
        undrift status
    """  # noqa: D301
    from undrift import experiments, releases
    from undrift.app import render_rollout
    from undrift.project import open_project

    with open_project(project) as opened:
        state = releases.roll_out(opened, model, version, actor=actor(who), why=why)
        warnings = experiments.outlook(opened, state.model)
    plain = {**msgspec.to_builtins(state), "warnings": warnings}
    show(plain, lambda: render_rollout.rollout(state, warnings), json=json)


def roll_back(
    model: ModelArgument = "",
    to: Annotated[
        str, typer.Option("--to", metavar="VERSION", help="Make this version, or revision (r-...), champion again.")
    ] = "",
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Take a release back.

    Ends the rollout under way; without one, the former champion is champion again. Works in a freeze, too. What was
    taken back gets traffic again only when somebody says why.

    \b
        undrift roll-back --why "support calls about refunds"
    """  # noqa: D301
    from undrift import releases
    from undrift.app import render
    from undrift.project import open_project

    with open_project(project) as opened:
        event = releases.roll_back(opened, model, to=to or None, actor=actor(who), why=why)
    show(event, lambda: render.crowned(event), json=json)


def _saying(word: str, told: str) -> Callable[..., None]:
    """The command that says one word of `releases.SAYINGS` to the rollout under way."""

    def command(
        model: ModelArgument = "",
        project: ProjectOption = Path(),
        who: AsOption = "",
        why: WhyOption = "",
        json: JsonOption = False,
    ) -> None:
        from undrift import releases

        _on_rollout(project, json, lambda opened: releases.say(opened, word, model, actor=actor(who), why=why))

    command.__name__ = word
    command.__doc__ = told
    return command


approve = _saying(
    "approve",
    """Approve the rollout that waits for it.

    It may expose units then. Where its declaration asks for a second person, not by whoever started it.

    \b
        undrift approve --why "release meeting, 3 May"
    """,
)
pause = _saying(
    "pause",
    """Hold the rollout where it is.

    Evidence that it is bad still takes it back.

    \b
        undrift pause --why "holiday traffic"
    """,
)
resume = _saying(
    "resume",
    """Let a paused rollout go on.

    The hold of its step begins again.

    \b
        undrift resume
    """,
)
skip = _saying(
    "skip",
    """Go to the next step of the rollout now.

    Without the time, the units and the verdict that this step asks for; needs --why. Never the last step, and not while
    something is frozen.

    \b
        undrift skip --why "a month of shadow at the sister site"
    """,
)
abort = _saying(
    "abort",
    """End the rollout under way.

    All units go back to the champion.

    \b
        undrift abort --why "wrong training data"
    """,
)


def replay(
    rollout: Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its id, as `undrift history` shows it.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Another rule, as guardrails.brier.margin=0.02; several may be."
        ),
    ] = None,
    declarations: Annotated[
        str, typer.Option("--declarations", metavar="FILE", help="Take the rule from this file beside undrift.toml.")
    ] = "",
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Judge a rollout again from its log, by another rule if asked.

    Shows where the outcome would differ. Nothing is recorded.

    \b
        undrift replay 01J9ZK3T7V5WQ8X2M4N6P8R0S1 --set alpha=0.01 --set hold=2d
    """  # noqa: D301
    from undrift import inquiry
    from undrift.app import render_rollout
    from undrift.project import open_project

    with open_project(project) as opened, progress("judging again"):
        found = inquiry.replay(opened, rollout, settings=settings or (), declarations=declarations)
    show(found, lambda: render_rollout.replayed(found), json=json)


def shadow_report(
    model: ModelArgument = "",
    version: VersionOption = None,
    last: Annotated[
        str,
        typer.Option(
            "--last", metavar="SPAN", help="How much captured traffic, as 2d; since a rollout began, else 7d."
        ),
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report there as a page.")
    ] = None,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Compare a version with the champion on captured traffic.

    Both are run apart, in processes with limits: how often they disagree, by how much, for whom, the most different
    cases, what each costs, and which was right where the outcome is known. Exit code 1 unless the verdict is PASS.

    \b
        undrift shadow-report --version 3 --html shadow.html
    """  # noqa: D301
    from undrift import shadows
    from undrift.app import render
    from undrift.project import open_project

    with open_project(project) as opened, progress("replaying captured traffic"):
        found = shadows.shadow_report(opened, model, version, last=last)
    if html is not None:
        html.write_text(f"<!doctype html><meta charset=utf-8><title>{found.title}</title>{found.to_html()}\n")
    show(render.plain_report(found), lambda: render.report(found), json=json)
    stop_with(0 if found.verdict is Verdict.PASS else REFUSED)


def plan_experiment(
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="As in a guardrail, or event:NAME.")],
    effect: Annotated[float, typer.Option("--effect", metavar="SIZE", help="The difference to find, in its unit.")],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="Which model, if there are several.")
    ] = "",
    power: Annotated[float, typer.Option("--power", metavar="P", help="Wanted chance to find it.")] = 0.8,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Say how many units and days an experiment needs.

    From the traffic of the last two weeks and the declared rollout. Exit code 1 if the maximum comes before.

    \b
        undrift plan-experiment event:purchase --effect 0.01
    """  # noqa: D301
    from undrift import experiments
    from undrift.app import render_rollout
    from undrift.project import open_project

    with open_project(project) as opened:
        found = experiments.plan_experiment(opened, model, metric, effect, power=power)
    plain = {**msgspec.to_builtins(found), "feasible": found.feasible}
    show(plain, lambda: render_rollout.plan(found), json=json)
    stop_with(0 if found.feasible else REFUSED)


def events(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Columns id, unit, name, event_time, value; CSV or Parquet.")
    ],
    model: ModelArgument = "",
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Bring in a table of business events.

    They take the way of those that are posted: each id counts once, however often and by whatever way it comes.

    \b
        undrift events orders.parquet
    """  # noqa: D301
    from undrift import experiments
    from undrift.app import tables
    from undrift.project import open_project

    with open_project(project) as opened, progress("reading events"):
        count = experiments.add_events(opened, tables.read(data), model)
    show({"events": count}, lambda: f"{count} events on their way; `undrift work` takes them in", json=json)


def _on_rollout(folder: Path, json: bool, verb: Callable[[Project], RolloutState]) -> None:
    from undrift.app import render_rollout
    from undrift.project import open_project

    with open_project(folder) as opened:
        state = verb(opened)
    show(state, lambda: render_rollout.rollout(state), json=json)
