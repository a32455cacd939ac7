"""A copy of a project to rehearse on: the same declarations and champion, its own log and lake, in another time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from undrift.declarations import Model
from undrift.event import Draft, Event
from undrift.project import FEEDS, Project
from undrift.settings import FILE_NAME, load

__all__ = ["DAY", "ME", "START", "copy_project", "open_copy", "plain_environ"]

DAY: Final = timedelta(days=1)
START: Final = datetime(2018, 1, 1, tzinfo=UTC)
"""A Monday; the event time of a rehearsal is its own, and past, so that nothing happens before it arrives."""
DATA_FILES: Final = ("*.csv", "*.parquet", "*.pq", ".*", "__pycache__", "*.log")
ME: Final = "rehearse"
PREFIX: Final = "UNDRIFT_"


def plain_environ() -> dict[str, str]:
    """The variables of this process without settings of undrift: those are for the project, not for a copy of it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def open_copy(folder: Path) -> Project:
    """A copy, by the settings of its file alone: stores that the environment names are the project's own."""
    return Project(load(folder / FILE_NAME, plain_environ()))


def copy_project(
    project: Project, model: Model, folder: Path, more: Sequence[str] = (), *, as_was: datetime | None = None
) -> Path:
    """A project of the same declarations and champion in another folder, with a log and a lake of its own.

    Parameters
    ----------
    more : lines of its settings beside those that the days need.
    as_was : when its days begin, if they are days as they were; else they begin at `START`, with features that rows
        bring along.
    """
    start = as_was or START
    route = project.route(model.name)
    assert route is not None, "nobody rehearses without a champion"
    shutil.copytree(project.root, folder, ignore=shutil.ignore_patterns(*DATA_FILES), dirs_exist_ok=True)
    trust = project.settings.trust
    lines = [
        f"[project]\nname = {json.dumps(project.settings.project.name)}",
        f"declarations = {json.dumps(project.settings.project.declarations)}",
        '[time]\nmode = "event"\ntick = "1d"',
        f"[trust]\nformats = {json.dumps(trust.formats)}\nskops_types = {json.dumps(trust.skops_types)}",
        *more,
    ]
    (folder / "undrift.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with open_copy(folder) as copy:
        drafts = _declared(project, model, as_was)
        row = project.version(model.name, revision=route["champion"])
        copy.artifacts.put(project.artifacts.get(row["bundle"]))
        version = {name: value for name, value in row.items() if name not in ("at", "actor")}
        version["dataset"] = ""  # it stays at home
        crowned = {"model": model.name, "revision": row["revision"], "version": row["version"], "forced": False}
        drafts.append(_draft("version.registered", model.name, version, start))
        drafts.append(_draft("revision.promoted", model.name, crowned, start))
        copy.journal.record(drafts)
        copy.learnt_until(start)
    return folder


def _declared(project: Project, model: Model, as_was: datetime | None) -> list[Draft]:
    """What is in force of the model and the sources; other models stay at home."""
    events: dict[str, Event] = {}
    for event in project.journal.events(kinds=("declaration.applied",)):
        events[event.subject] = event
    wanted = [events[s] for s in (FEEDS, f"model:{model.name}") if s in events]
    return [
        Draft(
            kind=e.kind, subject=e.subject, at=(as_was or START) - DAY, actor=ME, why="as in the project",
            payload=e.payload if as_was else _kept(e, model),
        )
        for e in wanted
    ]  # fmt: skip


def _kept(event: Event, model: Model) -> dict[str, Any]:
    """A declaration as it can be rehearsed: features that rows bring along from other days are not computed anew."""
    declared = event.payload.get("declared")
    if declared is None or not model.views:
        return event.payload
    monitors = [monitor for monitor in declared["monitors"] if monitor["kind"] != "skew"]
    return {**event.payload, "declared": {**declared, "monitors": monitors}}


def _draft(kind: str, model: str, payload: dict[str, Any], start: datetime) -> Draft:
    return Draft(
        kind=kind, subject=f"model:{model}", at=start - DAY, actor=ME, why="as in the project", payload=payload
    )
