"""The command that rehearses failures against one's own model and rules."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from undrift.app.terminal import JsonOption, ProjectOption, progress, show, stop_with


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: with the processes that it started, and its scratch folder."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def rehearse(
    scenario: Annotated[
        list[str] | None, typer.Argument(metavar="SCENARIO", help="Which stories; all if left out.")
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option("--strength", metavar="NAME", help="mild, default, strong; may be given several times."),
    ] = None,
    minimum: Annotated[
        float, typer.Option("--minimum", metavar="SHARE", min=0.0, max=1.0, help="Share that must be detected.")
    ] = 1.0,
    false_alarms: Annotated[
        int, typer.Option("--false-alarms", metavar="N", min=0, help="So many are tolerated in the controls.")
    ] = 0,
    quiet_days: Annotated[
        int, typer.Option("--quiet-days", metavar="N", min=1, help="Days before anything goes wrong.")
    ] = 16,
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, help="Days after that, at most.")] = 21,
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=40, help="Rows of each day.")] = 300,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Same seed, same days.")] = 1,
    live: Annotated[
        bool, typer.Option("--live", help="Serve the copy with processes of its own, and send rows as requests.")
    ] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report there, too.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Only tell which scenarios there are.")] = False,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Which model, if there are several.")] = "",
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Play failures against a copy of your own system.

    A copy of the project lives some quiet weeks of its own captured rows (else of its training data) in a scratch
    folder, in event time; then each scenario is played, beside a control with nothing wrong. Tells what was seen by
    your monitors, gates and rollouts, how long after the onset, how many rows were exposed, and what undrift did by
    itself. Nothing of the project changes. With --live the copy is served and judged by processes of its own, as the
    project would be, and rows are requests: slower. Where the model looks features up, these days are its newest
    ones as they were, with the rows of its sources. Exit code 1 if less than the minimum was detected, or at false
    alarms.

    \b
        undrift rehearse
        undrift rehearse silent_garbage upstream_corrupts --strength mild --strength strong
        undrift rehearse silent_garbage hurts_business --live
    """  # noqa: D301
    from undrift.app import render_watch
    from undrift.plugins import resolve_path
    from undrift.project import open_project

    if listed:
        known = resolve_path("undrift.rehearse.drill:scenarios", wanted_for="undrift rehearse")(scenario or ())
        plain = [{"name": s.name, "story": s.story, "title": s.title, "truth": s.truth} for s in known]
        show(plain, lambda: render_watch.scenarios(plain), json=json)
        return
    run = resolve_path("undrift.rehearse.drill:rehearse", wanted_for="undrift rehearse")
    with _ended_in_order(), open_project(project) as opened, progress("making a copy of the project") as say:
        found = run(
            opened,
            tuple(scenario or ()),
            model=model,
            strengths=tuple(strength or ("default",)),
            quiet_days=quiet_days,
            most_days=days,
            per_day=rows,
            seed=seed,
            live=live,
            say=say,
        )
    if html is not None:
        html.write_text(found.report().to_html(), encoding="utf-8")
    show(found, lambda: render_watch.rehearsal(found), json=json)
    stop_with(0 if found.detected >= minimum and found.false_alarms <= false_alarms else 1)
