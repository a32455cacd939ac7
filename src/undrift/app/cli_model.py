"""Commands on models: train, gate, score, retrain, promote; what moves a rollout stands in cli_rollout.py.

Each opens the project, calls one verb of lifecycle.py and prints what it returned; none decides anything itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undrift.app.terminal import (
    REFUSED,
    AsOption,
    JsonOption,
    ModelArgument,
    ProjectOption,
    QuantiseOption,
    VersionOption,
    WhyOption,
    actor,
    counted,
    piped,
    progress,
    show,
    stop_with,
    user_error,
)
from undrift.finding import Verdict


def train(
    model: ModelArgument = "",
    quantise: QuantiseOption = False,
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
            trained = lifecycle.train(opened, model, actor=actor(who), why=why, quantise=quantise, say=say)
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
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Rows to predict: Parquet (a file or a folder), CSV, a Delta table.")
    ],
    model: ModelArgument = "",
    version: VersionOption = None,
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="PLACE", help="A .parquet or .csv file, a folder, or delta:PATH."),
    ] = "",
    keep: Annotated[
        str, typer.Option("--keep", metavar="WHICH", help="Columns of the input: all, or the model's key alone.")
    ] = "all",
    part_rows: Annotated[
        int, typer.Option("--part-rows", metavar="N", min=1, help="Rows that are committed together.")
    ] = 50_000,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=0, help="Threads; one per core, at most 8, if 0.")
    ] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where another job, or this one, was begun.")
    ] = False,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Predict all rows of a table here and now.

    Gives each row with its prediction and score. Uses the champion unless a version is named. Nothing is captured:
    these are no answered requests. With --out the table may be larger than memory, and the same command goes on where
    one before it was killed; rows that break the contract go beside the output, with the reason. Without it the rows
    are read at once and printed as CSV. Exit code 1 means that no row kept the contract.

    \b
        undrift score new.csv
        undrift score orders/ --out delta:predicted
    """  # noqa: D301
    from undrift import scoring
    from undrift.app import tables
    from undrift.project import open_project

    if keep not in ("all", "key"):
        user_error(f"--keep {keep}: `all` or `key` was expected.")
    with open_project(project) as opened:
        if not out:
            with progress("reading rows") as say:
                rows = tables.read(data)
                say(f"predicting {rows.num_rows} rows")
                found = scoring.score(opened, rows, model, version)
            if json:
                show(found.to_pylist(), lambda: "", json=True)
            else:
                with piped():
                    tables.print_csv(found)
            return
        with counted("predicting") as count:
            done = scoring.score_file(
                opened, data, out, model, version, keep="key" if keep == "key" else "all", part_rows=part_rows,
                workers=workers, restart=restart, say=count,
            )  # fmt: skip
    show(done, lambda: tables.scored(done), json=json)
    stop_with(0 if done.scored else REFUSED)


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
