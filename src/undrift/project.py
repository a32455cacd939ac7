"""A project: settings, state and declarations wired together; the only place that does.

Opening one reads undrift.toml and the declarations; stores are opened on first use. The verbs that change things
stand in lifecycle.py, the ones that tell in inquiry.py, the worker in work.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from undrift import settings as settings_module
from undrift.data.features import Source
from undrift.declarations import Declarations, Model, load_declarations
from undrift.deploy.routes import ROUTE_REDUCERS, build_table, publish
from undrift.develop.bundle import Manifest, read_manifest
from undrift.errors import MissingExtraError, NotFoundError, StateError
from undrift.event import Event
from undrift.ids import Clock, FixedClock, SystemClock, from_micros, to_micros
from undrift.improve.triggers import RETRAIN_REDUCERS
from undrift.inference.router import RoutingTable
from undrift.monitor.alerts import INCIDENT_REDUCERS
from undrift.monitor.paging import PAGING_REDUCERS
from undrift.plugins import resolve
from undrift.settings import Settings
from undrift.state.jobs import Jobs
from undrift.state.journal import Journal, Reducer
from undrift.state.ports import Artifacts, Lake, Online, Store

__all__ = ["Project", "open_project"]

FEEDS = "sources:all"
"""Subject of the events that say which sources are declared."""
LEARNT = "learnt_until"
_log = logging.getLogger("undrift")


def _model_name(event: Event) -> Iterable[str]:
    kind, _, name = event.subject.partition(":")
    return (name,) if kind == "model" else ()


def _feeds(event: Event) -> Iterable[str]:
    return ("all",) if event.subject == FEEDS else ()


def _apply_declaration(old: dict[str, Any] | None, event: Event, key: str) -> dict[str, Any]:
    return {**event.payload, "at": event.at.isoformat(), "actor": event.actor}


def _version_key(event: Event) -> Iterable[str]:
    return (f"{event.payload['model']}/{event.payload['version']:06d}",)


def _apply_version(old: dict[str, Any] | None, event: Event, key: str) -> dict[str, Any]:
    return {**event.payload, "at": event.at.isoformat(), "actor": event.actor}


def _dataset_key(event: Event) -> Iterable[str]:
    return (f"{event.payload['name']}@{event.payload['version']}",)


REDUCERS: tuple[Reducer, ...] = (
    Reducer("model", frozenset({"declaration.applied"}), _model_name, _apply_declaration),
    Reducer("sources", frozenset({"declaration.applied"}), _feeds, _apply_declaration),
    Reducer("version", frozenset({"version.registered"}), _version_key, _apply_version),
    Reducer("dataset", frozenset({"dataset.recorded"}), _dataset_key, _apply_version),
    *ROUTE_REDUCERS,
    *INCIDENT_REDUCERS,
    *PAGING_REDUCERS,
    *RETRAIN_REDUCERS,
)


class Project:
    """One project, open.

    Parameters
    ----------
    settings : where things are.
    clock : the wall clock (leases, record times); the machine's if left out.
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.root = Path(settings.root)
        self._manifests: dict[str, Manifest] = {}
        self._followed: tuple[Any, ...] | None = None

    # -- state, opened on first use -------------------------------------------------------------------------------

    @cached_property
    def store(self) -> Store:
        """Events, projections and jobs."""
        return self._open("journal", self.settings.stores.journal)  # type: ignore[no-any-return]

    @cached_property
    def journal(self) -> Journal:
        """The event log with its projections."""
        return Journal(self.store, self.clock, REDUCERS)

    @cached_property
    def jobs(self) -> Jobs:
        """Jobs and leases."""
        return Jobs(self.store, self.clock)

    @cached_property
    def lake(self) -> Lake:
        """Tables of columns."""
        return self._open("lake", self.settings.stores.lake)  # type: ignore[no-any-return]

    @cached_property
    def artifacts(self) -> Artifacts:
        """Bundles, by content."""
        return self._open("artifacts", self.settings.stores.artifacts)  # type: ignore[no-any-return]

    @cached_property
    def online(self) -> Online:
        """The latest features."""
        return self._open("online", self.settings.stores.online)  # type: ignore[no-any-return]

    @cached_property
    def tracking(self) -> Any:
        """Where runs are written down."""
        return self._open("tracking", self.settings.stores.tracking)

    @cached_property
    def registry(self) -> Any:
        """MLflow's registry, which mirrors ours."""
        return resolve("registry", "mlflow")(self.tracking)

    def mirror_champion(self, model: str, version: int) -> None:
        """Let MLflow's alias `champion` follow the log, which is the truth; that MLflow is away delays nothing."""
        try:
            self.registry.set_alias(model, "champion", version)
        except (StateError, NotFoundError, MissingExtraError) as error:
            self.note(str(error))

    def note(self, line: str) -> None:
        """Something worth a line in a log, but no reason to stop."""
        _log.warning("%s", line)

    @cached_property
    def declarations(self) -> Declarations:
        """What people want: the module, or (once followed) what was applied last."""
        return load_declarations(self.root, self.settings.project.declarations)

    def applied(self) -> Declarations:
        """The declarations that are in force: those applied last, as the log has them, not the module."""
        feeds = self.journal.get("sources", "all") or {}
        return Declarations(
            models={name: msgspec.convert(row["declared"], Model) for name, row in self.journal.items("model").items()},
            sources=msgspec.convert(feeds.get("sources", {}), dict[str, Source]),
            histories=feeds.get("histories", {}),
        )

    def known_sources(self) -> dict[str, Source]:
        """Every source ever applied, each as it was declared last.

        A source that is no longer declared may still have rows in the spool, and revisions in place that look it up.
        """
        found: dict[str, Source] = {}
        for event in self.journal.events(subject=FEEDS):
            found.update(msgspec.convert(event.payload["sources"], dict[str, Source]))
        return found

    def follow(self) -> bool:
        """Go by the applied declarations from here on; True if they changed since.

        The worker does: what people are still writing must not take effect before `apply` records it.
        """
        rows, feeds = self.journal.items("model"), self.journal.get("sources", "all") or {}
        mark = (feeds.get("hash"), *((name, row["hash"]) for name, row in sorted(rows.items())))
        if self._followed == mark:
            return False
        self._followed = mark
        self.__dict__["declarations"] = self.applied()
        return True

    def _open(self, port: str, url: str) -> Any:
        scheme = url.split(":", 1)[0] if ":" in url else "file"
        backend: Callable[[str], Any] = resolve(port, scheme)
        local = scheme in ("file", "sqlite")
        where = str(self.settings.path(url)) if local else url
        if local:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
        return backend(where)

    def close(self) -> None:
        """Close the stores that were opened."""
        if "store" in self.__dict__:
            self.store.close()

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what is so -----------------------------------------------------------------------------------------------

    def now(self) -> Clock:
        """The clock that judges: the watermark of the events in event time, else the wall clock.

        Before there is a watermark, event time stands where the latest training rows end, so that what is decided
        before the first event does not lie years after it.
        """
        if self.settings.time.mode == "wall":
            return self.clock
        for name in ("watermark", LEARNT):
            at = self.journal.get_setting(name)
            if at is not None:
                return FixedClock(from_micros(at))
        return self.clock

    def learnt_until(self, at: datetime) -> None:
        """Remember that rows up to a moment of event time have been learnt from."""
        micros = to_micros(at)
        if micros > (self.journal.get_setting(LEARNT) or micros - 1):
            self.journal.put_setting(LEARNT, micros)

    def model(self, name: str = "") -> Model:
        """A declared model, by name, or the only one."""
        return self.declarations.model(name)

    def versions(self, model: str) -> list[dict[str, Any]]:
        """All registered versions of a model, the oldest first."""
        rows = self.journal.items("version")
        return [value for key, value in sorted(rows.items()) if value["model"] == model]

    def version(self, model: str, version: int | None = None, *, revision: str = "") -> dict[str, Any]:
        """One registered version: by number, by revision, or the newest.

        Raises
        ------
        NotFoundError : there is none; names those there are.
        """
        found = self.versions(model)
        wanted_any = version is None and not revision
        chosen = [
            row
            for row in found
            if wanted_any or row["version"] == version or (revision and row["revision"] == revision)
        ]
        if chosen:
            return chosen[-1]
        known = ", ".join(str(row["version"]) for row in found) or "none yet"
        wanted = f"revision {revision}" if revision else f"version {version}" if version is not None else "version"
        raise NotFoundError(
            f"model {model!r} has no {wanted}; registered: {known}.",
            hint="`undrift train` and `undrift adopt` register versions.",
        )

    def route(self, model: str) -> dict[str, Any] | None:
        """The route projection of a model, or None while it has no champion."""
        return self.journal.get("route", model)

    def manifest(self, revision: str) -> Manifest:
        """The manifest of a revision's bundle (read once, hashes checked)."""
        if revision not in self._manifests:
            rows = self.journal.items("version")
            bundle = next((row["bundle"] for row in rows.values() if row["revision"] == revision), None)
            if bundle is None:
                raise NotFoundError(f"no version is registered for revision {revision!r}.")
            self._manifests[revision] = read_manifest(self.artifacts.get(bundle))
        return self._manifests[revision]

    def bundle_path(self, revision: str) -> Path:
        """The folder of a revision's bundle."""
        rows = self.journal.items("version")
        for row in rows.values():
            if row["revision"] == revision:
                return self.artifacts.get(row["bundle"])
        raise NotFoundError(f"no version is registered for revision {revision!r}.")

    # -- what servers see -----------------------------------------------------------------------------------------

    @property
    def routing_path(self) -> Path:
        """The file servers read."""
        return self.settings.path(self.settings.stores.routing)

    def publish_routes(self) -> RoutingTable:
        """Write the routing table that follows from the event log, if it changed."""
        applied = self.applied()
        views = {view.key: view for model in applied.models.values() for view in model.views}
        for route in self.journal.items("route").values():
            for revision in (route.get("champion"), route.get("candidate")):
                if revision:
                    views.update({view.key: view for view in self.manifest(revision).interface.views})
        table = build_table(self.journal, self.artifacts, tuple(applied.sources.values()), tuple(views.values()))
        declared = [self.journal.seq_of("sources", "all"), *(self.journal.seq_of("model", m) for m in applied.models)]
        table = msgspec.structs.replace(table, epoch=max(table.epoch, *(seq or 0 for seq in declared)))
        publish(table, self.routing_path)
        return table

    def describe(self) -> dict[str, Any]:
        """The declared models and sources as plain values."""
        built: dict[str, Any] = msgspec.to_builtins(
            {
                "models": {name: model.declared() for name, model in self.declarations.models.items()},
                "sources": self.declarations.sources,
            }
        )
        return built


def open_project(path: str | Path = ".", *, clock: Clock | None = None) -> Project:
    """Open the project whose undrift.toml is in, or above, a folder.

    Raises
    ------
    SettingsError : there is none, or it says something that cannot be followed.
    """
    start = Path(path)
    file = start if start.is_file() else settings_module.find(start)
    return Project(settings_module.load(file), clock=clock)
