"""Commands on models: train, gate, score, retrain, and everything that moves a release.

Each opens the project, calls one verb of lifecycle.py and prints what it returned; none decides anything itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    piped,
    progress,
    show,
    stop_with,
)
from undrift.finding import Verdict

if TYPE_CHECKING:
    from undrift.deploy.rollout import RolloutState
    from undrift.project import Project


def train(
    model: ModelArgument = "",
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Train a version, judge it, register it if it passes.

    The data is checked against the contract first; rows that break it are set aside and counted. Exit code 1 means
    that the gate did not say PASS: nothing was registered, and the report says why.

    \b
        undrift train --why "two more months of data"
    """  # noqa: D301
    from undrift import lifecycle
    from undrift.app import render
    from undrift.project import open_project

    with open_project(project) as opened:
        with progress("opening the project") as say:
            trained = lifecycle.train(opened, model, actor=actor(who), why=why, say=say)
        champion = opened.route(trained.model)
    crowned = champion is not None and bool(champion["champion"])
    show(render.plain_trained(trained), lambda: render.trained(trained, champion=crowned), json=json)
    stop_with(0 if trained.report.verdict is Verdict.PASS else REFUSED)


def gate(
    model: ModelArgument = "",
    version: VersionOption = None,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show how the gate judged a version.

    Exit code 1 if it did not pass.

    \b
        undrift gate --version 3
    """  # noqa: D301
    from undrift import lifecycle
    from undrift.app import render
    from undrift.project import open_project

    with open_project(project) as opened:
        report = lifecycle.gate(opened, model, version)
    show(render.plain_report(report), lambda: render.gate(report), json=json)
    stop_with(0 if report.verdict is Verdict.PASS else REFUSED)


def score(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Rows to predict: a CSV or Parquet file.")],
    model: ModelArgument = "",
    version: VersionOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write there (.csv, .parquet), not to stdout.")
    ] = None,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Predict all rows of a file here and now.

    Gives each row with its prediction and score. Uses the champion unless a version is named. Nothing is captured:
    these are no answered requests.

    \b
        undrift score new.csv --out predicted.parquet
    """  # noqa: D301
    from undrift import lifecycle
    from undrift.app import tables
    from undrift.project import open_project

    writer = tables.writer(out) if out is not None else None
    with open_project(project) as opened, progress("reading rows") as say:
        rows = tables.read(data)
        say(f"predicting {rows.num_rows} rows")
        found = lifecycle.score(opened, rows, model, version)
    if out is not None and writer is not None:
        writer(found, out)
        show({"rows": found.num_rows, "file": out}, lambda: f"{found.num_rows} rows -> {out}", json=json)
    elif json:
        show(found.to_pylist(), lambda: "", json=True)
    else:
        with piped():
            tables.print_csv(found)


def retrain(
    model: ModelArgument = "",
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Ask the worker for a version trained on fresh data.

    The gate and a rollout decide about it.

    \b
        undrift retrain --why "prices changed on Monday"
    """  # noqa: D301
    from undrift import lifecycle
    from undrift.project import open_project

    with open_project(project) as opened:
        key = lifecycle.retrain(opened, model, actor=actor(who), why=why or "asked for by a person")
    told = f"asked for: {key}\n  `undrift work` does it; `undrift history` tells the end."
    show({"job": key}, lambda: told, json=json)


def promote(
    model: ModelArgument = "",
    version: VersionOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if its gate did not pass; needs --why, and is recorded.")
    ] = False,
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Make a version champion at once.

    It answers all traffic from then on. For the first champion, or when you insist. `undrift roll-out` is the careful
    way. Exit code 1 means refused.

    \b
        undrift promote --version 2 --why "checked with the claims team"
    """  # noqa: D301
    from undrift import releases
    from undrift.app import render
    from undrift.project import open_project

    with open_project(project) as opened:
        event = releases.promote(opened, model, version, actor=actor(who), why=why, force=force)
    show(event, lambda: render.crowned(event), json=json)


def roll_out(
    model: ModelArgument = "",
    version: VersionOption = None,
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Start the declared rollout of a version.

    The worker moves it on, or takes it back, by the evidence.

    \b
        undrift roll-out --version 2
        undrift status
    """  # noqa: D301
    from undrift import releases

    _on_rollout(project, json, lambda opened: releases.roll_out(opened, model, version, actor=actor(who), why=why))


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


def _on_rollout(folder: Path, json: bool, verb: Callable[[Project], RolloutState]) -> None:
    from undrift.app import render
    from undrift.project import open_project

    with open_project(folder) as opened:
        state: Any = verb(opened)
    show(state, lambda: render.rollout(state), json=json)
