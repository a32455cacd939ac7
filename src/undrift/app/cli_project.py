"""Commands on projects: demo, init, adopt; plan and apply; check and config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from undrift.app.terminal import (
    REFUSED,
    AsOption,
    JsonOption,
    ProjectOption,
    QuantiseOption,
    WhyOption,
    actor,
    progress,
    show,
    stop_with,
)
from undrift.errors import SettingsError
from undrift.finding import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from undrift.project import Project

Task = Literal["binary", "multiclass", "regression"]


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Replay a sample of the flights, in under a minute.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the system up at the end, to be explored.")] = False,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where the demo's project and report are written.")
    ] = Path("undrift-demo"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Same seed, same decisions.")] = 1,
    json: JsonOption = False,
) -> None:
    """Show the whole life of a model on real flights.

    The flights are those from New York City in 2013. Trains, gates and serves a model, replays nine months of traffic
    with failures planted in it, and ends with a table of what was caught, after how long, and what undrift did by
    itself.

    \b
        undrift demo --quick
    """  # noqa: D301
    from undrift.plugins import resolve_path

    run = resolve_path("undrift.demo.main:run", wanted_for="undrift demo", extra="demo")
    stop_with(run(quick=quick, keep=keep, folder=folder, seed=seed, json=json))


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new project's folder; made if it is not there.")],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="The rows to learn from: CSV or Parquet.")],
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="The column to predict.")],
    time: Annotated[
        str, typer.Option("--time", metavar="COLUMN", help="When each row happened; training then respects time.")
    ] = "",
    key: Annotated[
        str, typer.Option("--key", metavar="COLUMN", help="What names a row; labels come back under it.")
    ] = "",
    task: Annotated[
        Task | None, typer.Option("--task", help="What kind of prediction, if the label's type does not tell.")
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", metavar="COLUMN", help="Not known when predicting; may be given several times."),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Of the model; the folder's if left out.")] = "",
    json: JsonOption = False,
) -> None:
    """Make a project from a table and the column to predict.

    It runs as it is. Writes undrift.toml, declarations.py, train.py, an inferred contract.yaml, an example request
    and a README with the commands that lead to a served, watched model. A data file outside DIR is copied into it.
    The task follows from the label: two values are binary; text, or up to 20 whole numbers, multiclass; other numbers
    regression.

    \b
        undrift init shop --data orders.csv --label returned --time ordered_at --key order_id
    """  # noqa: D301
    from undrift.app import init as scaffold
    from undrift.app import render

    with progress("reading the table"):
        made = scaffold.init(
            folder,
            data,
            label,
            time=time,
            key=key,
            task=task,
            leave_out=tuple(leave_out or ()),
            name=name,
        )
    show(made, lambda: render.scaffolded(made), json=json)


def adopt(
    model_file: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model's file (.onnx, .skops, ...) or models:/NAME@ALIAS."),
    ],
    example: Annotated[
        Path,
        typer.Option("--example", metavar="DATA", help="Rows it was made for: CSV or Parquet, a few hundred."),
    ],
    label: Annotated[
        str, typer.Option("--label", metavar="COLUMN", help="The column with the outcome, if the rows have it.")
    ] = "",
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The model's name; the file's if left out.")] = "",
    task: Annotated[
        Task | None, typer.Option("--task", help="What kind of prediction, if the label's type does not tell.")
    ] = None,
    quantise: QuantiseOption = False,
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Take an existing model into care.

    Its signature and its reference profile come from the example rows. Inside a project the model becomes the next
    version of the model declared there; elsewhere a project is made in the folder first. Formats that can run code
    when opened are refused unless undrift.toml allows them in [trust].

    \b
        undrift adopt churn.onnx --example customers.parquet --label churned
    """  # noqa: D301
    from undrift import lifecycle
    from undrift.app import init as scaffold
    from undrift.app import render, tables

    source = model_file if model_file.startswith("models:/") else str(Path(model_file).absolute())
    with progress("reading the example") as say:
        rows = tables.read(example)
        say("opening the model, compiling it, comparing the answers")
        opened, made = scaffold.project_for(project, source, example, rows, label=label, name=name, task=task)
        with opened:
            trained = lifecycle.adopt(opened, source, rows, model=name, actor=actor(who), why=why, quantise=quantise)
            route = opened.route(trained.model)
    crowned = route is not None and bool(route["champion"])
    value = {"project": made, "adopted": render.plain_trained(trained)}
    show(value, lambda: render.adopted(made, trained, champion=crowned), json=json)
    stop_with(0 if trained.report.verdict is Verdict.PASS else REFUSED)


def plan(
    check_only: Annotated[
        bool, typer.Option("--check", help="Exit code 1 if anything would change: for a script or a CI job.")
    ] = False,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show what applying the declarations would change.

    One line per value; changes nothing.

    \b
        undrift plan
    """  # noqa: D301
    from rich.console import Group

    from undrift import lifecycle
    from undrift.app import render
    from undrift.project import open_project

    with open_project(project) as opened:
        changes = lifecycle.plan(opened)
        told = _paging(opened)
    show(changes, lambda: Group(render.plan(changes), *told), json=json)
    stop_with(REFUSED if check_only and any(changes.values()) else 0)


def apply(
    project: ProjectOption = Path(),
    who: AsOption = "",
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Let the declarations take effect.

    What changed, who did it and why is recorded.

    \b
        undrift apply --why "tighter guardrail after the April incident"
    """  # noqa: D301
    from rich.console import Group

    from undrift import lifecycle
    from undrift.app import render
    from undrift.project import open_project

    with open_project(project) as opened, progress("applying"):
        events = lifecycle.apply(opened, actor=actor(who), why=why)
        told = _paging(opened)
    show(events, lambda: Group(render.applied(events), *told), json=json)


def _paging(project: Project) -> list[RenderableType]:
    """Which of the declared monitors may page, where there is anybody to be paged."""
    import msgspec

    from undrift.app import render_watch
    from undrift.delivery import permissions
    from undrift.monitor.notices import INSIDE

    outside = any(sink.kind not in INSIDE for sink in project.settings.alerts.sinks.values())
    models = project.declarations.models
    found = {name: permissions(project, name, model.monitors) for name, model in models.items()} if outside else {}
    return render_watch.paging(msgspec.to_builtins(found), outside=outside)


def check(
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="CSV or Parquet; the model's training data if left out.")
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Whose contract, if there are several.")] = "",
    contract: Annotated[
        Path | None, typer.Option("--contract", metavar="FILE", help="This contract (ODCS YAML); needs no project.")
    ] = None,
    quarantine: Annotated[
        Path | None, typer.Option("--quarantine", metavar="FILE", help="Write the refused rows there, each with why.")
    ] = None,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Check a table against its contract.

    Exit code 1 if it does not pass.

    \b
        undrift check new.csv --quarantine refused.parquet
        undrift check new.csv --contract contract.yaml
    """  # noqa: D301
    from undrift.app import render, tables
    from undrift.assembly import read_table
    from undrift.data.contract import Contract
    from undrift.data.inspect import check as inspect_table
    from undrift.project import open_project

    writer = tables.writer(quarantine) if quarantine is not None else None
    beside: set[str] = set()
    if contract is not None:
        if data is None:
            raise SettingsError("which rows? --contract needs a data file.")
        rows, agreed = tables.read(data), Contract.from_odcs(contract.read_text(encoding="utf-8"))
    else:
        with open_project(project) as opened:
            declared = opened.model(model)
            agreed = declared.interface().contract
            rows = tables.read(data) if data is not None else read_table(opened.root, declared.data)
        # the outcome may stand beside a request's fields; training takes the columns it needs and leaves the others
        beside = {declared.label} if data is not None else set(rows.column_names)
    inspection = inspect_table(rows, agreed, also=sorted(beside))
    if quarantine is not None and writer is not None and inspection.quarantined.num_rows:
        writer(inspection.quarantined, quarantine)
    counts = {"accepted": inspection.accepted.num_rows, "quarantined": inspection.quarantined.num_rows}
    value = {**render.plain_report(inspection.report), **counts}
    show(value, lambda: render.inspection(inspection.report, counts, quarantine), json=json)
    stop_with(0 if inspection.report.verdict is Verdict.PASS else REFUSED)


def config(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One setting or section, as serve.port or serve.")] = "",
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show every setting, its value and its origin.

    The environment wins over undrift.toml, and that over the default.

    \b
        undrift config serve
        UNDRIFT_SERVE__PORT=9000 undrift config serve.port
    """  # noqa: D301
    from undrift import settings as settings_module
    from undrift.app import render

    file = project if project.is_file() else settings_module.find(project)
    settings = settings_module.load(file)
    rows = [(n, v, o) for n, v, o in settings.values() if not name or n == name or n.startswith(f"{name}.")]
    if not rows:
        import difflib

        near = difflib.get_close_matches(name, [n for n, _, _ in settings.values()], n=1)
        raise SettingsError(
            f"there is no setting {name!r}.", hint=f"Did you mean {near[0]}?" if near else "`undrift config` lists all."
        )
    shown = {n: {"value": v, "origin": o} for n, v, o in rows}
    show(shown, lambda: render.config(rows), json=json)
