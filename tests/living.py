"""The town's project alive in one process: its server, called without a socket, its worker, and day after day."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from undrift import lifecycle, releases
from undrift.capture.capture import Recorder, SpoolWriter
from undrift.develop.tracking import MlflowTracking
from undrift.ids import to_micros
from undrift.project import Project, open_project
from undrift.serving.connection import Head, Request
from undrift.serving.gateway import Gateway
from undrift.serving.placement import Placement
from undrift.serving.supervisor import serve_folder
from undrift.serving.telemetry import Meters
from undrift.serving.trace import Tracing
from undrift.work import KINDS, Worker

from town import DAY, LIVE, TRAINED_DAYS, Day, Town, write_declarations, write_project  # isort: skip

ME = "person:ann"


def train(project: Project, **how: Any) -> lifecycle.Trained:
    """Train with one thread: the small fits of several processes would wait for each other's cores."""
    with threadpool_limits(1):
        return lifecycle.train(project, actor=ME, **how)


def begin(folder: Path) -> Path:
    """Train the declared model and make it the first champion."""
    with open_project(folder) as project:
        done = train(project)
        assert done.version == 1, done.report.to_text()
        releases.promote(project, actor=ME)
    return folder


@contextmanager
def copy_of(folder: Path, to: Path) -> Iterator[Project]:
    """An open copy of a project, with its routing table pointing at its own bundles."""
    shutil.copytree(folder, to)
    with open_project(to) as project:
        project.publish_routes()
        yield project


@contextmanager
def redeclared(project: Project, **parts: str) -> Iterator[Project]:
    """The project as the next command sees it after somebody changed parts of its declarations."""
    write_declarations(project.root, **parts)
    with open_project(project.root) as changed:
        yield changed


def train_as(project: Project, name: str, **parts: str) -> lifecycle.Trained:
    """Declare another train function and train with it."""
    with redeclared(project, train=name, **parts) as changed:
        return train(changed)


class Service:
    """The server of a project in this process: the real application, called without a socket."""

    def __init__(self, project: Project) -> None:
        settings = project.settings
        self._loop = asyncio.new_event_loop()
        meters = Meters()
        self._writer = SpoolWriter(settings.path(settings.stores.spool))
        self.placement = Placement(settings, serve_folder(settings), meters)
        tracing = Tracing(settings.observe, Random(1))
        self._app = Gateway(settings, self.placement, Recorder(self._writer, settings.serve), meters, tracing)
        self.follow()

    def follow(self) -> None:
        """Take the routing table as it is now."""
        self._loop.run_until_complete(self.placement.refresh())
        assert self.placement.problems == {}

    def post(self, path: str, body: Any, **headers: str) -> dict[str, Any]:
        """The answer to a POST, which must be 200."""
        status, answer = self.ask(path, body, **headers)
        assert status == 200, answer
        return answer

    def ask(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """The status and the answer of a POST."""
        names = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        request = Request("POST", path.encode(), names, json.dumps(body).encode())
        reply = self._app.refuse(
            Head(request.method, request.target, request.headers)
        ) or self._loop.run_until_complete(self._app.answer(request))
        return reply.status, json.loads(reply.body)

    def close(self) -> None:
        self._writer.close()
        for revision in self.placement._loaded.values():
            revision.batcher.close()
        self._loop.close()


Post = Callable[..., dict[str, Any]]


def send_day(post: Post, day: Day) -> list[dict[str, Any]]:
    """One day of traffic in the order in which things become known, without the watermark; rows as answered."""
    answered: list[dict[str, Any]] = []
    cuts = [(day.start + quarter * DAY / 4).isoformat() for quarter in range(5)]
    for low, high in pairwise(cuts):
        reports = [row for row in day.weather if low <= row["seen_at"] < high]
        post("/v1/sources/weather", {"rows": reports}, idempotency_key=f"weather {low}")
        rides = [row for row in day.rides if low <= row["at"] < high]
        answered += post("/v1/models/rides:predict", {"instances": rides})["rows"]
        arrived = [row for row in day.arrivals if low <= row["known_at"] < high]
        if arrived:
            post("/v1/sources/arrivals", {"rows": arrived}, idempotency_key=f"arrivals {low}")
        labels = [row for row in day.outcomes if low <= row["event_time"] < high]
        if labels:
            post("/v1/models/rides/labels", {"labels": labels})
    return answered


class Life:
    """A project, its server and its worker in one process, day after day."""

    def __init__(self, project: Project, town: Town) -> None:
        self.project, self.town = project, town
        self.service = Service(project)
        self.said: list[str] = []
        self._working = open_project(project.root)
        self.worker = Worker(self._working, log=self.said.append)
        self.answered: list[dict[str, Any]] = []
        self.now = LIVE
        self._announce(LIVE)

    def _announce(self, at: datetime) -> None:
        self.service.post("/v1/watermark", {"event_time": to_micros(at)})
        self.settle(at)

    def settle(self, boundary: datetime) -> None:
        """Let the worker work until the tick of a boundary is done and nothing is left to do."""
        journal = self.project.journal
        for _ in range(50):
            busy = self.worker.cycle()
            ticked = journal.get_setting("ticked") or 0
            if not busy and ticked >= to_micros(boundary) and not self.project.jobs.unfinished(KINDS):
                break
        else:
            raise AssertionError(f"the tick of {boundary} was not done: {self.said[-3:]}")
        self.service.follow()

    def play(self, days: int = 1) -> list[str]:
        """So many days; the kinds of the decisions of the worker in them."""
        return [kind for _ in range(days) for kind in self.play_day(self.town.day(self.now))]

    def play_day(self, day: Day) -> list[str]:
        """One day as it is given; the kinds of the decisions of the worker."""
        first = self.project.journal.events()[-1].seq
        self.answered += send_day(self.service.post, day)
        self.now += DAY
        self._announce(self.now)
        return self.decided(first)

    def decided(self, after: int = 0) -> list[str]:
        """What the worker decided, but for judgements that changed nothing."""
        quiet = ("tick.judged", "rollout.judged", "dataset.recorded")
        events = self.project.journal.events(after=after)
        return [event.kind for event in events if event.actor == "work" and event.kind not in quiet]

    def close(self) -> None:
        self.service.close()
        self._working.close()


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the project as a user wrote it; not to be changed."""
    return write_project(tmp_path_factory.mktemp("untrained") / "town", Town(TRAINED_DAYS))


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs: it takes seconds to lay out, and tests begin with a copy."""
    file = tmp_path_factory.mktemp("tracked") / "mlflow.db"
    MlflowTracking(str(file)).log_run("nothing")
    return file


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, untrained: Path, tracked: Path) -> Path:
    """The folder of the project with `narrow` as its first champion; not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "town"
    return begin(_with_tracking(untrained, tracked, folder))


@pytest.fixture(scope="session")
def trained_twice(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """The folder of the project with `wide` as the second version, which passed its gate; not to be changed."""
    folder = tmp_path_factory.mktemp("twice") / "town"
    with copy_of(trained, folder) as project:
        assert train_as(project, "wide").version == 2
    return folder


def _with_tracking(untrained: Path, tracked: Path, folder: Path) -> Path:
    shutil.copytree(untrained, folder)
    (folder / ".undrift").mkdir()
    shutil.copy(tracked, folder / ".undrift" / "mlflow.db")
    return folder


@pytest.fixture
def fresh(untrained: Path, tracked: Path, tmp_path: Path) -> Iterator[Project]:
    """An open project of one's own that nothing was done with yet."""
    _with_tracking(untrained, tracked, tmp_path / "town")
    with open_project(tmp_path / "town") as project:
        yield project


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Iterator[Project]:
    """An open project of one's own with a champion."""
    with copy_of(trained, tmp_path / "town") as copied:
        yield copied


@pytest.fixture
def two(trained_twice: Path, tmp_path: Path) -> Iterator[Project]:
    """An open project of one's own with a champion and a better version."""
    with copy_of(trained_twice, tmp_path / "town") as copied:
        yield copied


Alive = Callable[..., Life]


@pytest.fixture
def alive() -> Iterator[Alive]:
    """Bring a project to life in a town: ``alive(project, town)``; all ends with the test."""
    lives: list[Life] = []

    def make(project: Project, town: Town | None = None) -> Life:
        lives.append(Life(project, town or Town(TRAINED_DAYS + 20)))
        return lives[-1]

    yield make
    for life in lives:
        life.close()
