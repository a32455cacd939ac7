"""The run of the demo: the project made, the first model trained, the year played day by day, and what a person does.

People appear twice: a colleague releases a candidate with a new feature, and takes the change back once it was rolled
back. Everything else undrift decides by itself. What it decided is read from its event log after each day.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from undrift import lifecycle, releases
from undrift.data.outcomes import outcomes
from undrift.demo.build import Material, write_declarations
from undrift.demo.story import DAY, Story
from undrift.demo.world import World
from undrift.develop.training import threads_limited
from undrift.event import Event
from undrift.finding import Verdict
from undrift.ids import to_micros
from undrift.project import open_project
from undrift.rehearse.system import System

__all__ = ["Play"]

Say = Callable[[str], None]
QUIET = frozenset({"tick.judged", "rollout.judged", "dataset.recorded", "declaration.applied", "gate.judged"})


class Play:
    """One run.

    Parameters
    ----------
    story, material : what happens, and its rows.
    folder : the project's folder, written already.
    say : takes one line per event that matters.
    """

    def __init__(self, story: Story, material: Material, folder: Path, say: Say, seed: int = 1) -> None:
        self.seed = seed
        self.story, self.material, self.folder, self.say = story, material, folder, say
        self.faults = folder / "faults.json"
        self.project = open_project(folder)
        self.system = System(self.project, self.faults)
        self.seen = 0
        self.release_rollout = ""
        self.spoiled_since: datetime | None = None
        self.delays_live = False

    def first_model(self, say: Say) -> lifecycle.Trained:
        """Train on the flights before the start, and make the version champion."""
        trained = lifecycle.train(self.project, actor="person:demo", why="the first model", say=say)
        if trained.version is not None:
            releases.promote(self.project, actor="person:demo", why="first champion: it passed the gate")
        return trained

    def start(self) -> World:
        """Start the processes and tell them that time begins."""
        self._plant({})
        self.system.start("serve")
        self.system.start("work")
        self.system.ready()
        world = World("127.0.0.1", self.project.settings.serve.port)
        world.begin(self.story.start)
        self.system.settled(self.story.start)
        return world

    def day(self, world: World, start: datetime) -> list[Event]:
        """Play one day, wait until the next can be played, and say what was decided meanwhile."""
        story = self.story
        if start == story.constant.start:
            self._plant({"constant": story.constant_score})
        elif start == story.constant.end:
            self._plant({})
        if start == story.release:
            self._release(start)
        if self.delays_live and self.spoiled_since is None and self._canary_has_begun():
            self.spoiled_since = start
            only = {"carrier": [story.carrier], "mean_delay": []}  # the one input that only the candidate takes
            self._plant({"constant": story.broken_score, "where": only})
        world.play("flights", self.material.day(start, delays=self.delays_live))
        self.system.followed(start + DAY)
        return self._news()

    # -- what a colleague does ------------------------------------------------------------------------------------

    def _release(self, at: datetime) -> None:
        """A new feature, a candidate trained with it, and its declared rollout."""
        self.system.settled(at)
        self.system.idle()
        write_declarations(self.folder, self.story, seed=self.seed, extra=at)
        with open_project(self.folder) as changed:
            lifecycle.apply(changed, actor="person:ben", why="a new feature: mean delay of the carrier")
            with threads_limited(changed.settings.work.threads):  # beside the servers, as a retrain
                trained = lifecycle.train(changed, actor="person:ben", why="candidate with the carrier's mean delay")
            verdict = trained.report.verdict.name
            self.say(f"{at:%Y-%m-%d} person:ben trained a candidate with a new feature: gate {verdict}")
            if trained.version is None or trained.report.verdict is not Verdict.PASS:
                return
            state = releases.roll_out(changed, version=trained.version, actor="person:ben", why="new feature")
            self.release_rollout = state.id
        self.delays_live = True
        self.system.ready()

    def _canary_has_begun(self) -> bool:
        state = self.project.journal.get("rollout", self.release_rollout) or {}
        return state.get("stage") == "canary" and state.get("status") == "running"

    def _plant(self, faults: dict[str, Any]) -> None:
        """Let servers misbehave from now on (undrift.testing.FaultyPredictor reads the file at every call)."""
        scratch = self.faults.with_suffix(".new")
        scratch.write_text(json.dumps(faults), encoding="utf-8")
        scratch.replace(self.faults)

    def _withdraw(self, at: datetime) -> None:
        """After the roll-back the colleague takes the change back; the feed stops with it."""
        self.system.idle()
        write_declarations(self.folder, self.story, seed=self.seed)
        with open_project(self.folder) as restored:
            lifecycle.apply(restored, actor="person:ben", why="taken back after the roll-back")
        self.delays_live = False
        self._plant({})
        self.system.ready()

    # -- what undrift did -----------------------------------------------------------------------------------------

    def _news(self) -> list[Event]:
        events = self.project.journal.events(after=self.seen)
        for event in events:
            self.seen = event.seq
            if event.kind not in QUIET and event.actor == "work":
                self.say(f"{event.at:%Y-%m-%d} {event.kind:<20} {event.why}")
            ended = event.kind in ("rollout.rolled_back", "rollout.aborted")
            if ended and event.subject == f"rollout:{self.release_rollout}" and self.delays_live:
                self._withdraw(event.at)
        return events

    def end(self) -> None:
        """Wait for what the last day asked for, and say what came of it."""
        self.system.settled(self.story.end)
        self.system.idle()
        self._news()

    def log(self) -> list[Event]:
        """All events so far."""
        return self.project.journal.events()

    def captured(self) -> Any:
        """All predictions of the run with their outcomes."""
        return outcomes(self.project.lake, "flights", self.story.start, self.story.end, self.story.end + 3 * DAY)

    def watermark(self) -> int:
        """Where the system's event time stands, in microseconds."""
        return int(self.project.journal.get_setting("watermark") or to_micros(self.story.start))
