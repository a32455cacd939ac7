"""What a server process has loaded: it follows the routing table, revision by revision, and never serves half of one.

New revisions are loaded, warmed up and checked in a thread while the present ones answer; then all models that can
follow the table switch at once. A model whose revisions cannot be loaded stays as it was and the problem is told. What
is no longer routed to is kept until no request can be using it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.data.decoder import Decoder
from undrift.data.features import FeatureView, latest
from undrift.develop.bundle import load_functions, read_manifest
from undrift.errors import StateError, UndriftError
from undrift.inference.batcher import Batcher
from undrift.inference.endpoint import Endpoint
from undrift.inference.model_process import ModelProcess
from undrift.inference.predictor import NativePredictor, OnnxPredictor, Predictor, load
from undrift.inference.revision import Revision
from undrift.inference.router import Placed, Route, RoutingTable, TableFile
from undrift.plugins import resolve, resolve_path
from undrift.serving.telemetry import Meters, notice
from undrift.settings import Settings
from undrift.state.ports import Online

__all__ = ["Ack", "Placement", "SourceEndpoint"]

RETRY_SECONDS: Final = 5.0
STUCK_SECONDS: Final = 30.0
"""Seconds after the longest deadline at which a native model that still computes costs its process the life."""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """What a server process tells the workers: ``<state>/serve/<pid>.json``.

    ``epoch`` is the latest table that it follows without problems, ``revisions`` what it has loaded now.
    """

    pid: int
    epoch: int
    revisions: list[str]
    updated_at: datetime
    problems: dict[str, str] = {}


class SourceEndpoint:
    """A source as servers see it: what its rows must look like, and which views take their values from it directly."""

    def __init__(self, table: RoutingTable, name: str) -> None:
        (self.source,) = (s for s in table.sources if s.name == name)
        self.decoder = Decoder(self.source.contract)
        self.views: list[FeatureView] = [v for v in table.views if v.source == name and not v.aggregates]

    def online_rows(self, rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, int, dict[str, Any]]]]]:
        """What the rows give each direct view: entity, the microsecond it was known, and the view's values."""
        return [(view.key, latest(view, self.source, rows)) for view in self.views]


class Placement:
    """The endpoints and sources of one process.

    Parameters
    ----------
    settings : where the table and the state are, and the bounds of serving.
    folder : where the acknowledgement is written.
    """

    def __init__(self, settings: Settings, folder: Path, meters: Meters) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.sources: dict[str, SourceEndpoint] = {}
        self.online: Online | None = None
        self.epoch = -1
        self.problems: dict[str, str] = {}
        self._settings, self._folder, self._meters = settings, folder, meters
        self._file = TableFile(settings.path(settings.stores.routing))
        self._table: RoutingTable | None = None
        self._unreadable = ""
        self._retry_at = 0.0
        self._loaded: dict[Placed, Revision] = {}
        self._processes: dict[Placed, ModelProcess] = {}
        self._leaving: dict[Placed, asyncio.TimerHandle] = {}

    @property
    def ready(self) -> bool:
        """Whether some table has been followed, so that requests can be answered."""
        return self.epoch >= 0

    def loaded(self) -> list[tuple[Placed, Revision]]:
        """The revisions that requests may be routed to now, each with where it came from, oldest version first."""
        present = [each for each in self._loaded.items() if each[0] not in self._leaving]
        return sorted(present, key=lambda each: each[0].version)

    def model_processes(self) -> list[int]:
        """The processes that native models run in."""
        return [each.pid for each in self._processes.values() if each.pid is not None]

    async def follow(self) -> None:
        """Look at the table for ever, and switch when it changed; what goes wrong is told and tried again."""
        while True:
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001  a server must outlive whatever a table or a bundle holds
                self._tell({"table": f"{type(error).__name__}: {error}"})
            await asyncio.sleep(self._settings.serve.poll_seconds)

    async def refresh(self) -> bool:
        """Follow the table if it changed, or if the last one could not be followed and it is time to try again."""
        try:
            table = self._file.poll()
        except StateError as error:
            self._unreadable = str(error)
            self._tell({**self.problems, "table": self._unreadable})
            return False
        if table is None and (self._table is None or not self.problems or time.monotonic() < self._retry_at):
            return False
        if table is not None:
            self._table, self._unreadable = table, ""
        if self._table is not None:
            await self._switch(self._table)
        return True

    async def _switch(self, table: RoutingTable) -> None:
        problems: dict[str, str] = {"table": self._unreadable} if self._unreadable else {}
        endpoints: dict[str, Endpoint] = {}
        for route in table.routes:
            endpoint = await self._endpoint(route, table.epoch, problems)
            if endpoint is not None:
                endpoints[route.model] = endpoint
        sources = {source.name: SourceEndpoint(table, source.name) for source in table.sources}
        self._open_online(table, problems)
        self.endpoints, self.sources = endpoints, sources  # no await between: requests see both or neither
        if not problems:
            self.epoch = table.epoch
        elif self.epoch < 0 and endpoints:
            self.epoch = 0
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._retire({revision for endpoint in endpoints.values() for revision in endpoint.revisions.values()})
        self._tell(problems)
        notice("swapped", epoch=table.epoch, models={m: e.epoch for m, e in endpoints.items()}, problems=problems)
        self._meters.epoch.set(self.epoch)
        self.acknowledge()

    async def _endpoint(self, route: Route, epoch: int, problems: dict[str, str]) -> Endpoint | None:
        """The endpoint a route asks for; failing that the present one; failing that the champion alone."""
        revisions: dict[str, Revision] = {}
        failed: dict[str, str] = {}
        # the first by itself: two threads that import the same libraries at once may see one of them half imported
        first = 0 if self._loaded else 1
        opened = await asyncio.gather(*map(self._revision, route.revisions[:first]), return_exceptions=True)
        opened += await asyncio.gather(*map(self._revision, route.revisions[first:]), return_exceptions=True)
        for placed, found in zip(route.revisions, opened, strict=True):
            if isinstance(found, Revision):
                revisions[placed.revision] = found
            elif isinstance(found, (UndriftError, OSError)):
                failed[placed.revision] = str(found)
            else:
                raise found
        needed = {route.champion, route.candidate} & set(failed)
        if failed:
            problems[route.model] = "; ".join(f"{name}: {why}" for name, why in failed.items())
        if not needed:
            return Endpoint(route, revisions, epoch, self._meters.ledger)
        if route.model in self.endpoints:
            return self.endpoints[route.model]
        if route.champion in revisions:
            alone = msgspec.structs.replace(route, candidate="", weight=0.0)
            return Endpoint(alone, revisions, epoch, self._meters.ledger)
        return None

    async def _revision(self, placed: Placed) -> Revision:
        if placed in self._leaving:
            self._leaving.pop(placed).cancel()
        if placed not in self._loaded:
            predictor, functions = await asyncio.to_thread(self._open, placed)
            serve = self._settings.serve
            # only of a compiled model is it known that a call ends
            inline = serve.inline and isinstance(predictor, OnnxPredictor)
            batcher = Batcher(predictor, max_batch=serve.max_batch, max_queue=serve.max_queue, inline=inline)
            manifest = predictor.manifest
            self._loaded[placed] = Revision(placed, manifest, functions, batcher, serve.cache_rows)
            notice("loaded", revision=placed.revision, version=placed.version, format=predictor.manifest.format)
        return self._loaded[placed]

    def _open(self, placed: Placed) -> tuple[Predictor, dict[str, Callable[..., Any]]]:
        folder = Path(placed.path)
        predictor = self._loaded_from(folder, placed)
        functions = load_functions(folder, predictor.manifest.interface.transforms)
        if isinstance(predictor, NativePredictor) and predictor.upstream is not None:
            self._meters.upstreams[placed.revision] = (
                predictor.manifest.interface.model,
                placed.version,
                predictor.upstream,
            )
        if self._settings.serve.wrapper:
            wrapper = resolve_path(self._settings.serve.wrapper, wanted_for="serve.wrapper")
            predictor = wrapper(predictor)
        return predictor, functions

    def _loaded_from(self, folder: Path, placed: Placed) -> Predictor:
        """The model of a bundle: compiled in this process, native in one of its own."""
        serve, trust = self._settings.serve, self._settings.trust
        if not serve.model_process or read_manifest(folder).format in ("onnx", "upstream"):
            return load(folder, trust)
        patience = serve.timeout_ms / 1000 + STUCK_SECONDS
        process = ModelProcess(
            folder, trust, patience=patience, ended=lambda why: notice("model ended", revision=placed.revision, why=why)
        )
        if process.concurrency > 1:  # it waits more than it computes, and says that its calls may overlap
            process.close()
            return load(folder, trust)
        self._processes[placed] = process
        return process

    def _open_online(self, table: RoutingTable, problems: dict[str, str]) -> None:
        if self.online is not None or not (table.views or table.sources):
            return
        url = self._settings.stores.online
        try:
            self.online = resolve("online", url.partition(":")[0])(self._settings.path(url))
        except UndriftError as error:
            problems["online store"] = str(error)

    def _retire(self, used: set[Revision]) -> None:
        """Close revisions that nothing routes to, once every request that may hold them has met its deadline."""
        loop, wait = asyncio.get_running_loop(), self._settings.serve.timeout_ms / 1000 + 1.0
        for placed, revision in self._loaded.items():
            if revision not in used and placed not in self._leaving:
                self._leaving[placed] = loop.call_later(wait, self._close, placed)

    def _close(self, placed: Placed) -> None:
        self._leaving.pop(placed, None)
        self._loaded.pop(placed).batcher.close()
        process = self._processes.pop(placed, None)
        if process is not None:
            process.close()
        self._meters.upstreams.pop(placed.revision, None)
        notice("retired", revision=placed.revision)
        self.acknowledge()

    def _tell(self, problems: dict[str, str]) -> None:
        for what, why in problems.items():
            if self.problems.get(what) != why:
                notice("problem", what=what, why=why, serving="the last good state" if self.ready else "nothing yet")
        self.problems = problems
        self._meters.problems.set(len(problems))

    def acknowledge(self) -> None:
        """Write what is followed and loaded, for the workers; a disk that is full only delays them."""
        ack = Ack(
            pid=os.getpid(),
            epoch=self.epoch,
            revisions=sorted({placed.revision for placed in self._loaded}),
            updated_at=datetime.now(UTC),
            problems=self.problems,
        )
        path = self._folder / f"{ack.pid}.json"
        scratch = path.with_suffix(".new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(msgspec.json.encode(ack))
            os.replace(scratch, path)
        except OSError as error:
            notice("unacknowledged", why=str(error))
