"""Commands that run the processes (dev, serve, work) and that ask what is so (status, history, why)."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from undrift.app.terminal import JsonOption, ModelArgument, ProjectOption, moment, piped, show, stop_with
from undrift.errors import SettingsError

ROUTINE: Final = frozenset({"tick.judged", "rollout.judged"})
"""Events that come with every tick, whatever it decided."""

HostOption = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen, instead of serve.host.")]
PortOption = Annotated[
    int | None,
    typer.Option("--port", "-p", metavar="N", min=0, max=65535, help="Where to listen, instead of serve.port."),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="How many server processes, for serve.workers.")
]


def _overriding(host: str, port: int | None, workers: int | None) -> dict[str, str]:
    """The options as the environment variables that win over undrift.toml."""
    given = {"HOST": host, "PORT": port, "WORKERS": workers}
    return {f"UNDRIFT_SERVE__{name}": str(value) for name, value in given.items() if value not in ("", None)}


def dev(
    project: ProjectOption = Path(),
    host: HostOption = "",
    port: PortOption = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Run the server and the worker together.

    For a laptop; Ctrl-C ends both. Both are processes of their own, as in production; each line they write is shown
    with the name of the one that wrote it. When one dies the other is ended too, with the exit code of the first.

    \b
        undrift dev --port 9000
    """  # noqa: D301
    import os

    from undrift.app.dev import Child, run
    from undrift.project import open_project

    opened = open_project(project)
    models = sorted(opened.declarations.models)
    settings = opened.settings
    variables = _overriding(host, port, workers)
    address = f"http://{host or settings.serve.host}:{settings.serve.port if port is None else port}"

    def say(name: str, line: str) -> None:
        with piped():
            told = msgspec.json.encode({"process": name, "line": line}).decode() if json else f"{name:<5} | {line}"
            sys.stdout.write(told + "\n")
            sys.stdout.flush()

    for model in models:
        say("dev", f"POST {address}/v1/models/{model}:predict")
    call = [sys.executable, "-m", "undrift.app.cli"]
    children = [
        Child("serve", (*call, "serve", "-C", settings.root)),
        Child("work", (*call, "work", "-C", settings.root)),
    ]
    patience = settings.serve.drain_seconds + 5.0
    stop_with(run(children, say, environ={**os.environ, **variables}, patience=patience))


def serve(
    project: ProjectOption = Path(),
    host: HostOption = "",
    port: PortOption = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Answer predictions over HTTP.

    Takes its routing from the file that the other commands keep up to date, and goes on answering when every store is
    away. Ends in order on Ctrl-C or SIGTERM: what was accepted is answered first.

    \b
        undrift serve --port 9000 --workers 2
        curl -s http://127.0.0.1:9000/readyz
    """  # noqa: D301
    import os

    from undrift import settings as settings_module
    from undrift.serving.server import run

    file = project if project.is_file() else settings_module.find(project)
    settings = settings_module.load(file, {**os.environ, **_overriding(host, port, workers)})
    stop_with(run(settings))


def work(
    project: ProjectOption = Path(),
    once: Annotated[bool, typer.Option("--once", help="Do what is waiting and end.")] = False,
    jobs: Annotated[
        list[str] | None,
        typer.Option("--jobs", metavar="KIND", help="Only these: tick, retrain, notify; may be given several times."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Take in what was captured, judge, retrain.

    This is the worker. Any number may run at once; they share the work and do nothing twice. Prints one line per
    thing that happened. With --jobs, jobs of other kinds are left to other workers: training, say, to a machine that
    is made for it.

    \b
        undrift work
        undrift work --jobs tick --jobs notify
    """  # noqa: D301
    from undrift.errors import SettingsError
    from undrift.project import open_project
    from undrift.work import ALL_KINDS, Worker
    from undrift.work import work as work_on

    kinds = tuple(dict.fromkeys(jobs or ALL_KINDS))
    if unknown := [kind for kind in kinds if kind not in ALL_KINDS]:
        raise SettingsError(f"--jobs {unknown[0]!r} is no kind of job; there are {', '.join(ALL_KINDS)}.")

    def say(line: str) -> None:
        with piped():
            at = datetime.now(UTC).isoformat(timespec="seconds")
            sys.stdout.write((msgspec.json.encode({"at": at, "line": line}).decode() if json else line) + "\n")
            sys.stdout.flush()

    with open_project(project) as opened, _stopping() as stop:
        if once:
            worker = Worker(opened, kinds=kinds, log=say)
            while not stop.is_set() and worker.cycle():
                pass
        else:
            work_on(opened.settings, stop, kinds=kinds, log=say)


def ui(
    project: ProjectOption = Path(),
    host: HostOption = "",
    port: PortOption = None,
    json: JsonOption = False,
) -> None:
    """Answer the control API over HTTP.

    Rollouts, approvals, history, replay: what the command line does, for programs. Who may ask stands in ui.tokens.
    `/api/v1/openapi.json` describes it.

    \b
        undrift ui --port 8090
    """  # noqa: D301
    from undrift import settings as settings_module
    from undrift.app.api import run

    file = project if project.is_file() else settings_module.find(project)
    settings = settings_module.load(file)
    given = {name: value for name, value in (("host", host), ("port", port)) if value not in ("", None)}
    chosen = msgspec.structs.replace(settings.ui, **given)
    stop_with(run(msgspec.structs.replace(settings, ui=chosen)))


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that what is being done is done to its end; again: at once."""
    stop = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def status(project: ProjectOption = Path(), json: JsonOption = False) -> None:
    """Show where everything stands.

    Champions, rollouts, incidents, retraining, servers, the worker, who is told of alerts.

    \b
        undrift status
        undrift status --json | python -c "import json, sys; print(json.load(sys.stdin)['models'])"
    """  # noqa: D301
    from rich.console import Group

    from undrift import inquiry
    from undrift.app import render, render_watch
    from undrift.project import open_project

    with open_project(project) as opened:
        found = inquiry.status(opened)
    show(found, lambda: Group(render.status(found), render_watch.alerting(found)), json=json)


def history(
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="A model, or a subject as `rollout:ID`; everything if left out.")
    ] = "",
    at: Annotated[
        str,
        typer.Option("--at", metavar="TIME", help="What was live then: 2013-04-01T12:00 (UTC), or 2h for ago."),
    ] = "",
    kind: Annotated[
        list[str] | None, typer.Option("--kind", metavar="KIND", help="Only such events; may be given several times.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="The last so many.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="The judgements that changed nothing, too.")] = False,
    unit: Annotated[str, typer.Option("--unit", metavar="UNIT", help="With --at: what served this unit then.")] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Check that the log was never changed.")] = False,
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show who did what, when and why.

    With --at: what answered at a past moment, with --unit whom. `undrift why` tells which revision answered a request.

    \b
        undrift history --kind rollout.rolled_back
        undrift history --at 2h
    """  # noqa: D301
    from undrift import inquiry
    from undrift.app import render, render_rollout
    from undrift.event import KINDS
    from undrift.project import open_project

    unknown = [k for k in kind or () if k not in KINDS]
    if unknown:
        raise SettingsError(f"no event is of kind {unknown[0]!r}.", hint=f"Kinds: {', '.join(sorted(KINDS))}.")
    with open_project(project) as opened:
        if verify:
            count = opened.journal.verify()
            show({"events": count, "intact": True}, lambda: f"{count} events, an unbroken chain", json=json)
        elif at:
            when = moment(at, now=opened.now().now())
            live = inquiry.served(opened, when, unit) if unit else inquiry.live_at(opened, when)
            name = subject.removeprefix("model:")
            live = {model: route for model, route in live.items() if name in ("", model)}
            told = render_rollout.served(live, unit, when) if unit else render_rollout.live(live, when)
            show({"at": when, "models": live}, lambda: told, json=json)
        elif unit:
            raise SettingsError("--unit asks about a moment.", hint="Add --at TIME.")
        else:
            kinds = tuple(kind or ()) or tuple(k for k in KINDS if everything or k not in ROUTINE)
            events = inquiry.history(opened, subject=subject, kinds=kinds, limit=limit)
            show(events, lambda: render.history(events), json=json)


def why(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a prediction or of a request.")],
    model: ModelArgument = "",
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="With what each input added to the answer, or without.")
    ] = True,
    method: Annotated[
        str, typer.Option("--method", metavar="METHOD", help="auto, exact, permutation or lime.")
    ] = "auto",
    project: ProjectOption = Path(),
    json: JsonOption = False,
) -> None:
    """Explain one answered prediction.

    Its inputs, features with their age, version, contract findings and outcome; and what each input added to the
    answer, by the revision that gave it.

    \b
        undrift why 01J9ZK3T7V5WQ8X2M4N6P8R0S1
        undrift why 01J9ZK3T7V5WQ8X2M4N6P8R0S1 --method lime
    """  # noqa: D301
    from undrift import inquiry
    from undrift.app import render
    from undrift.project import open_project

    with open_project(project) as opened:
        found = inquiry.why(opened, request_id, model=model, explained=explain, method=method)
    show(found, lambda: render.why(found), json=json)
