"""What the data plane does beside predicting (labels, events, sources, health), and what every prediction ends in.

Each path gets a request that HTTP itself finds no fault with. Shapes on the wire stand in protocols/, predicting in
predict_api.py, answering in inference/endpoint.py, sockets in connection.py.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from importlib import metadata
from typing import Any

from undrift.capture.capture import EventRecord, LabelRecord, Recorder, SourceRecord, WatermarkRecord
from undrift.errors import CaptureError, DeadlineError, NotFoundError, OverloadError, RequestError, StateError
from undrift.inference.endpoint import Answered, Call, Endpoint
from undrift.protocols import labels, openapi
from undrift.protocols.wire import encode
from undrift.serving.connection import Reply
from undrift.serving.paths import Asked, Path
from undrift.serving.placement import Placement
from undrift.serving.telemetry import Meters, notice
from undrift.settings import Settings

__all__ = ["Api"]


class Api:
    """The handlers of one process.

    Parameters
    ----------
    settings : whether time is event time.
    placement : the endpoints and sources to answer from.
    recorder : what captures records before an answer leaves.
    """

    def __init__(self, settings: Settings, placement: Placement, recorder: Recorder, meters: Meters) -> None:
        self.draining = False
        self._event_mode, self._serve = settings.time.mode == "event", settings.serve
        self._described: tuple[int, bytes] | None = None
        self._placement, self._recorder, self._meters = placement, recorder, meters

    def paths(self) -> list[Path]:
        """The lines of the table that these handlers fill."""
        return [
            Path("POST", "/v1/models/{name}/labels", self._labels, "labels"),
            Path("POST", "/v1/models/{name}/events", self._events, "events"),
            Path("POST", "/v1/sources/{name}", self._source, "source"),
            Path("POST", "/v1/watermark", self._watermark, "watermark"),
            Path("GET", "/v2/health/live", self._live, "health"),
            Path("GET", "/healthz", self._live, "health"),
            Path("GET", "/v2/health/ready", self.ready, "health"),
            Path("GET", "/readyz", self.ready, "health"),
            Path("GET", "/metrics", self._metrics, "metrics"),
            Path("GET", "/openapi.json", self._openapi, "about"),
        ]

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered: a table is loaded, and the process is not about to end."""
        return self._placement.ready and not self.draining

    @property
    def models(self) -> list[str]:
        """The names of the models that are served."""
        return sorted(self._placement.endpoints)

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of a model.

        Raises
        ------
        StateError : it is not loaded yet.
        NotFoundError : there is none of that name.
        """
        endpoint = self._placement.endpoints.get(name)
        if endpoint is not None:
            return endpoint
        if not self._placement.ready or name in self._placement.problems:
            raise StateError(f"model {name[:100]!r} is not loaded yet.", hint="See /readyz for the reason.")
        known = ", ".join(sorted(self._placement.endpoints)) or "none"
        raise NotFoundError(f"there is no model {name[:100]!r} here; known: {known}.")

    async def answered(
        self, endpoint: Endpoint, rows: list[dict[str, Any]], call: Call, *, clean: bool = False
    ) -> Answered:
        """Answer rows that the endpoint's decoder has read, and capture them; what every protocol ends in.

        ``clean`` says that the decoder found no violations in them.

        Raises
        ------
        ModelError : the champion failed; that is captured too.
        CaptureError : they could not be captured and must be.
        OverloadError, DeadlineError : see `Endpoint.answer`.
        """
        usage, decoded = endpoint.usage, time.monotonic()
        usage.decode += decoded - call.started
        if call.stages is not None:
            call.stages.append(("decode", endpoint.route.champion, call.started, decoded))
        usage.in_flight += 1
        try:
            answered = await endpoint.answer(rows, call, self._placement.online, clean=clean)
        except (OverloadError, DeadlineError) as error:
            usage.fail("overload" if isinstance(error, OverloadError) else "deadline", len(rows))
            raise
        finally:
            usage.in_flight -= 1
        computed = time.monotonic() if call.stages is not None else 0.0
        records = self._recorder.sample(endpoint.route.model, answered.records)
        try:
            if not await self._recorder.write(records):
                self._meters.uncaptured.inc(len(records))
        except CaptureError:
            self._meters.uncaptured.inc(len(records))
            raise
        if answered.failure is not None:
            notice("model error", model=endpoint.route.model, request_id=call.request_id, why=answered.failure.message)
            raise answered.failure
        if call.stages is not None:
            call.stages.append(("capture", endpoint.route.champion, computed, time.monotonic()))
        if call.charged is not None:  # to the version of the first row
            call.charged.append((endpoint.usages[answered.rows[0].revision], time.monotonic()))
        return answered

    async def _labels(self, asked: Asked) -> Reply:
        interface = self.endpoint(asked.name).interface
        now = asked.call.received_at
        records = []
        for place, entry in enumerate(labels.read_labels(asked.body)):
            at = self._happened(entry.event_time, now, "label", f"$.labels[{place}].event_time")
            label = labels.label_of(interface, entry, place)
            records.append(
                LabelRecord(model=asked.name, prediction_id=str(entry.id), label=label, event_time=at, received_at=now)
            )
        if records:
            await self._recorder.write(records, required=True)
            self._meters.labels.labels(asked.name).inc(len(records))
        return Reply(200, encode({"accepted": len(records)}))

    def _happened(self, told: datetime | int | None, now: int, what: str, path: str) -> int:
        """The microsecond at which something sent to us happened; now where nobody says and time is the wall clock."""
        if told is not None:
            return labels.micros_of(told, path)
        if self._event_mode:
            raise RequestError(f"the {what}'s time was expected, because time.mode = 'event'", path=path)
        return now

    async def _events(self, asked: Asked) -> Reply:
        self.endpoint(asked.name)
        now = asked.call.received_at
        records = []
        for place, entry in enumerate(labels.read_events(asked.body)):
            at = self._happened(entry.event_time, now, "event", f"$.events[{place}].event_time")
            records.append(
                EventRecord(
                    model=asked.name, id=entry.id, unit=str(entry.unit), name=entry.name, value=entry.value,
                    event_time=at, received_at=now,
                )
            )  # fmt: skip
        if records:
            await self._recorder.write(records, required=True)
            self._meters.events.labels(asked.name).inc(len(records))
        return Reply(200, encode({"accepted": len(records)}))

    async def _source(self, asked: Asked) -> Reply:
        endpoint = self._placement.sources.get(asked.name)
        if endpoint is None:
            if not self._placement.ready:
                raise StateError(f"source {asked.name[:100]!r} is not known yet.", hint="See /readyz for the reason.")
            known = ", ".join(sorted(self._placement.sources)) or "none"
            raise NotFoundError(f"there is no source {asked.name[:100]!r} here; known: {known}.")
        rows = labels.read_source(endpoint.decoder, asked.body)
        key = asked.headers.get(b"idempotency-key", b"").decode("latin-1")
        now = asked.call.received_at
        # the online store first: what it holds is replaced by the same when the caller tries again
        for view, values in endpoint.online_rows(rows):
            if self._placement.online is None:
                raise StateError("the online store is not available.", hint="See /readyz for the reason.")
            await asyncio.to_thread(self._placement.online.put, view, values)
        records = [
            SourceRecord(source=asked.name, row=row, received_at=now, id=f"{key}/{place}" if key else "")
            for place, row in enumerate(rows)
        ]
        if records:
            await self._recorder.write(records, required=True)
            self._meters.source_rows.labels(asked.name).inc(len(records))
        return Reply(200, encode({"accepted": len(records)}))

    async def _watermark(self, asked: Asked) -> Reply:
        if not self._event_mode:
            raise RequestError("watermarks are for time.mode = 'event'; here the wall clock tells the time")
        at = labels.read_watermark(asked.body)
        await self._recorder.write([WatermarkRecord(event_time=at, received_at=asked.call.received_at)], required=True)
        return Reply(200, encode({"accepted": 1}))

    async def _live(self, asked: Asked) -> Reply:
        return Reply(200, encode({"live": True}))

    async def ready(self, asked: Asked) -> Reply:
        """Whether requests are answered, and by what."""
        placement = self._placement
        ready = self.is_ready
        models = {
            name: {"epoch": endpoint.epoch, "champion": endpoint.route.champion, "candidate": endpoint.route.candidate}
            for name, endpoint in placement.endpoints.items()
        }
        body = {
            "ready": ready, "draining": self.draining, "epoch": placement.epoch, "models": models,
            "problems": placement.problems, "uncaptured": self._recorder.lost,
        }  # fmt: skip
        return Reply(200 if ready else 503, encode(body))

    async def _openapi(self, asked: Asked) -> Reply:
        """Built anew for each routing table: its schemas are those of the contracts in force."""
        if self._described is None or self._described[0] != self._placement.epoch:
            document = openapi.build(
                self._placement.endpoints,
                {name: source.decoder.contract for name, source in self._placement.sources.items()},
                title="undrift",
                version=metadata.version("undrift"),
                event_time=self._event_mode,
                predict_route=self._serve.predict_route,
                health_route=self._serve.health_route,
                model=self._serve.model,
            )
            self._described = (self._placement.epoch, encode(document))
        return Reply(200, self._described[1])

    async def _metrics(self, asked: Asked) -> Reply:
        for name, endpoint in self._placement.endpoints.items():
            self._meters.waiting.labels(name).set(sum(r.batcher.waiting for r in endpoint.revisions.values()))
        return Reply(200, self._meters.exposition(), type=b"text/plain; version=0.0.4; charset=utf-8")
