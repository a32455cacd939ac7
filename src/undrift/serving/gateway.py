"""The data plane over HTTP: one raw ASGI application per worker process.

Paths, methods, headers, bodies and statuses stand here. Shapes on the wire stand in rest.py, answering in
endpoint.py, the process that runs this in server.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from importlib import metadata
from typing import Any, Final, NamedTuple

from undrift.capture.capture import EventRecord, LabelRecord, Recorder, SourceRecord, WatermarkRecord
from undrift.errors import CaptureError, NotFoundError, RequestError, StateError, UndriftError
from undrift.ids import new_id
from undrift.inference.endpoint import Answered, Call, Endpoint
from undrift.protocols import rest
from undrift.serving.placement import Placement
from undrift.serving.telemetry import Meters, notice
from undrift.settings import Settings

__all__ = ["Gateway"]

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON: Final = b"application/json"


class _Reply(NamedTuple):
    status: int
    body: bytes
    route: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    type: bytes = JSON
    epoch: int | None = None


class _Request(NamedTuple):
    """What handlers see of a request."""

    name: str
    body: bytes
    call: Call
    headers: dict[bytes, bytes]


Handler = Callable[[_Request], Awaitable[_Reply]]


def _refusal(status: int, message: str, *headers: tuple[bytes, bytes]) -> _Reply:
    """What HTTP itself answers, before anything looks at the content."""
    return _Reply(status, rest.encode({"error": message}), "none", headers)


class Gateway:
    """The ASGI application.

    Parameters
    ----------
    settings : bounds of bodies and time, and whether time is event time.
    placement : the endpoints and sources to answer from.
    recorder : what captures records before an answer leaves.
    """

    def __init__(self, settings: Settings, placement: Placement, recorder: Recorder, meters: Meters) -> None:
        self.draining = False
        self._serve, self._event_mode = settings.serve, settings.time.mode == "event"
        self._placement, self._recorder, self._meters = placement, recorder, meters

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started = time.monotonic()
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        route = "none"
        try:
            found = self._match(scope["method"], scope["path"])
            if isinstance(found, _Reply):
                reply = found
            else:
                handler, name, route = found
                body = await self._body(headers, receive) if scope["method"] == "POST" else b""
                if isinstance(body, _Reply):
                    reply = body._replace(route=route)
                else:
                    call = Call(request_id, time.time_ns() // 1000, started, started + self._seconds(headers))
                    reply = await handler(_Request(name, body, call, headers))
        except UndriftError as error:
            reply = self._failed(error, route)
        except Exception as error:  # noqa: BLE001  the last edge: a fault of ours must not end the worker
            notice("fault", request_id=request_id, path=scope["path"], error=f"{type(error).__name__}: {error}")
            reply = _Reply(500, rest.encode({"error": "internal error", "request_id": request_id}), route)
        await self._send(reply, request_id, scope["method"] == "HEAD", send)
        self._meters.requests.labels(reply.route, str(reply.status)).inc()
        self._meters.seconds.labels(reply.route).observe(time.monotonic() - started)

    def _match(self, method: str, path: str) -> tuple[Handler, str, str] | _Reply:
        """The handler of a path, the name in it and what to call it in metrics."""
        post: tuple[Handler, str, str] | None = None
        get: tuple[Handler, str, str] | None = None
        parts = path.split("/")[1:]
        match parts:
            case ["v1", "models", name] if name.endswith(":predict"):
                post = (self._predict, name.removesuffix(":predict"), "predict")
            case ["v1", "models", name]:
                get = (self._model, name, "model")
            case ["v1", "models", name, "labels"]:
                post = (self._labels, name, "labels")
            case ["v1", "models", name, "events"]:
                post = (self._events, name, "events")
            case ["v1", "sources", name]:
                post = (self._source, name, "source")
            case ["v1", "watermark"]:
                post = (self._watermark, "", "watermark")
            case ["v2", "models", name, "infer"]:
                post = (self._infer, name, "infer")
            case ["v2", "models", name]:
                get = (self._model_v2, name, "model")
            case ["v2", "models", name, "ready"]:
                get = (self._model_ready, name, "health")
            case ["v2"] | ["v2", ""]:
                get = (self._about, "", "about")
            case ["v2", "health", "live"] | ["healthz"]:
                get = (self._live, "", "health")
            case ["v2", "health", "ready"] | ["readyz"]:
                get = (self._ready, "", "health")
            case ["metrics"]:
                get = (self._metrics, "", "metrics")
        found = get if method in ("GET", "HEAD") else post if method == "POST" else None
        if found is not None:
            return found
        if post is None and get is None:
            return _refusal(404, f"there is nothing at {path[:200]}.")
        allowed = "POST" if post is not None else "GET, HEAD"
        return _refusal(405, f"{path[:200]} takes {allowed}, not {method[:20]}.", (b"allow", allowed.encode()))

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | _Reply:
        kind = headers.get(b"content-type", JSON).partition(b";")[0].strip().lower()
        if kind != JSON or headers.get(b"content-encoding", b"identity") != b"identity":
            return _refusal(415, "a body of content-type application/json, not compressed, was expected.")
        limit = self._serve.max_body_bytes
        # what is left of the body is not read, so the connection cannot be used again
        too_large = f"the body is larger than {limit} bytes (serve.max_body_bytes)."
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            return _refusal(413, too_large, (b"connection", b"close"))
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._serve.timeout_ms / 1000):
                while (message := await receive())["type"] == "http.request":
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        return _refusal(413, too_large, (b"connection", b"close"))
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            return _refusal(408, "the body did not arrive in time.", (b"connection", b"close"))
        return _refusal(400, "the connection ended before the body did.")

    def _seconds(self, headers: dict[bytes, bytes]) -> float:
        """The time this request may take: what the caller asks for, at most what the settings allow."""
        asked = headers.get(b"x-request-timeout-ms")
        if asked is None:
            return self._serve.timeout_ms / 1000
        if not asked.isdigit() or int(asked) == 0:
            raise RequestError("a whole number of milliseconds above 0 was expected", path="X-Request-Timeout-Ms")
        return min(int(asked), self._serve.timeout_ms) / 1000

    def _failed(self, error: UndriftError, route: str) -> _Reply:
        status = rest.status_of(error)
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if status == 503:
            headers = ((b"retry-after", str(max(1, round(getattr(error, "retry_after", 1.0)))).encode()),)
        if status in (503, 504):
            self._meters.refused.labels(type(error).__name__.removesuffix("Error").lower()).inc()
        return _Reply(status, rest.error_body(error), route, headers)

    async def _send(self, reply: _Reply, request_id: str, head: bool, send: Send) -> None:
        headers = [
            (b"content-type", reply.type),
            (b"content-length", str(len(reply.body)).encode()),
            (b"x-request-id", request_id.encode("latin-1")),
            # of the table that the answer follows, which may have been replaced since the request came
            (b"x-undrift-epoch", str(self._placement.epoch if reply.epoch is None else reply.epoch).encode()),
            *reply.headers,
        ]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else reply.body})

    def _endpoint(self, name: str) -> Endpoint:
        endpoint = self._placement.endpoints.get(name)
        if endpoint is not None:
            return endpoint
        if not self._placement.ready or name in self._placement.problems:
            raise StateError(f"model {name[:100]!r} is not loaded yet.", hint="See /readyz for the reason.")
        known = ", ".join(sorted(self._placement.endpoints)) or "none"
        raise NotFoundError(f"there is no model {name[:100]!r} here; known: {known}.")

    async def _answered(self, endpoint: Endpoint, rows: list[dict[str, Any]], call: Call) -> Answered:
        answered = await endpoint.answer(rows, call, self._placement.online)
        self._count(endpoint.route.model, answered)
        try:
            if not await self._recorder.write(answered.records):
                self._meters.uncaptured.inc(len(answered.records))
        except CaptureError:
            self._meters.uncaptured.inc(len(answered.records))
            raise
        if answered.failure is not None:
            notice("model error", model=endpoint.route.model, request_id=call.request_id, why=answered.failure.message)
            raise answered.failure
        return answered

    def _count(self, model: str, answered: Answered) -> None:
        counts: dict[tuple[str, str, bool], int] = {}
        for record in answered.records:
            key = (str(record.version), record.variant, record.error is None)
            counts[key] = counts.get(key, 0) + 1
        for (version, variant, fine), n in counts.items():
            if fine:
                self._meters.predictions.labels(model, version, variant).inc(n)
            else:
                self._meters.failures.labels(model, version, variant, "model_error").inc(n)
        flagged = sum(1 for row in answered.rows if row.violations)
        if flagged:
            self._meters.flagged.labels(model).inc(flagged)

    async def _predict(self, request: _Request) -> _Reply:
        endpoint = self._endpoint(request.name)
        rows = endpoint.champion.decoder.instances(request.body)
        answered = await self._answered(endpoint, rows, request.call)
        body = rest.v1_answer(endpoint.interface, answered.rows, request.call.request_id)
        return _Reply(200, body, "predict", epoch=endpoint.epoch)

    async def _infer(self, request: _Request) -> _Reply:
        endpoint = self._endpoint(request.name)
        rows, asked_id = rest.read_tensors(endpoint.champion.decoder, request.body)
        answered = await self._answered(endpoint, rows, request.call)
        known_id = asked_id or request.call.request_id
        body = rest.v2_answer(endpoint.interface, request.name, answered.rows, known_id)
        return _Reply(200, body, "infer", epoch=endpoint.epoch)

    async def _labels(self, request: _Request) -> _Reply:
        interface = self._endpoint(request.name).interface
        now = request.call.received_at
        records = []
        for place, entry in enumerate(rest.read_labels(request.body)):
            at = self._happened(entry.event_time, now, "label", f"$.labels[{place}].event_time")
            label = rest.label_of(interface, entry, place)
            records.append(
                LabelRecord(
                    model=request.name, prediction_id=str(entry.id), label=label, event_time=at, received_at=now
                )
            )
        if records:
            await self._recorder.write(records, required=True)
            self._meters.labels.labels(request.name).inc(len(records))
        return _Reply(200, rest.encode({"accepted": len(records)}), "labels")

    def _happened(self, told: datetime | int | None, now: int, what: str, path: str) -> int:
        """The microsecond at which something sent to us happened; now where nobody says and time is the wall clock."""
        if told is not None:
            return rest.micros_of(told, path)
        if self._event_mode:
            raise RequestError(f"the {what}'s time was expected, because time.mode = 'event'", path=path)
        return now

    async def _events(self, request: _Request) -> _Reply:
        self._endpoint(request.name)
        now = request.call.received_at
        records = []
        for place, entry in enumerate(rest.read_events(request.body)):
            at = self._happened(entry.event_time, now, "event", f"$.events[{place}].event_time")
            records.append(
                EventRecord(
                    model=request.name, id=entry.id, unit=str(entry.unit), name=entry.name, value=entry.value,
                    event_time=at, received_at=now,
                )
            )  # fmt: skip
        if records:
            await self._recorder.write(records, required=True)
            self._meters.events.labels(request.name).inc(len(records))
        return _Reply(200, rest.encode({"accepted": len(records)}), "events")

    async def _source(self, request: _Request) -> _Reply:
        endpoint = self._placement.sources.get(request.name)
        if endpoint is None:
            if not self._placement.ready:
                raise StateError(f"source {request.name[:100]!r} is not known yet.", hint="See /readyz for the reason.")
            known = ", ".join(sorted(self._placement.sources)) or "none"
            raise NotFoundError(f"there is no source {request.name[:100]!r} here; known: {known}.")
        rows = rest.read_source(endpoint.decoder, request.body)
        key = request.headers.get(b"idempotency-key", b"").decode("latin-1")
        now = request.call.received_at
        # the online store first: what it holds is replaced by the same when the caller tries again
        for view, values in endpoint.online_rows(rows):
            if self._placement.online is None:
                raise StateError("the online store is not available.", hint="See /readyz for the reason.")
            await asyncio.to_thread(self._placement.online.put, view, values)
        records = [
            SourceRecord(source=request.name, row=row, received_at=now, id=f"{key}/{place}" if key else "")
            for place, row in enumerate(rows)
        ]
        if records:
            await self._recorder.write(records, required=True)
            self._meters.source_rows.labels(request.name).inc(len(records))
        return _Reply(200, rest.encode({"accepted": len(records)}), "source")

    async def _watermark(self, request: _Request) -> _Reply:
        if not self._event_mode:
            raise RequestError("watermarks are for time.mode = 'event'; here the wall clock tells the time")
        at = rest.read_watermark(request.body)
        await self._recorder.write(
            [WatermarkRecord(event_time=at, received_at=request.call.received_at)], required=True
        )
        return _Reply(200, rest.encode({"accepted": 1}), "watermark")

    async def _model(self, request: _Request) -> _Reply:
        return _Reply(200, rest.v1_metadata(self._endpoint(request.name)), "model")

    async def _model_v2(self, request: _Request) -> _Reply:
        return _Reply(200, rest.v2_metadata(self._endpoint(request.name)), "model")

    async def _model_ready(self, request: _Request) -> _Reply:
        self._endpoint(request.name)
        return _Reply(200, rest.encode({"name": request.name, "ready": True}), "health")

    async def _about(self, request: _Request) -> _Reply:
        about = {"name": "undrift", "version": metadata.version("undrift"), "extensions": []}
        return _Reply(200, rest.encode(about), "about")

    async def _live(self, request: _Request) -> _Reply:
        return _Reply(200, rest.encode({"live": True}), "health")

    async def _ready(self, request: _Request) -> _Reply:
        placement = self._placement
        ready = placement.ready and not self.draining
        models = {
            name: {"epoch": endpoint.epoch, "champion": endpoint.route.champion, "candidate": endpoint.route.candidate}
            for name, endpoint in placement.endpoints.items()
        }
        body = {
            "ready": ready, "draining": self.draining, "epoch": placement.epoch, "models": models,
            "problems": placement.problems, "uncaptured": self._recorder.lost,
        }  # fmt: skip
        return _Reply(200 if ready else 503, rest.encode(body), "health")

    async def _metrics(self, request: _Request) -> _Reply:
        for name, endpoint in self._placement.endpoints.items():
            self._meters.waiting.labels(name).set(sum(r.batcher.waiting for r in endpoint.revisions.values()))
        return _Reply(200, self._meters.exposition(), "metrics", type=b"text/plain; version=0.0.4; charset=utf-8")


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"")
    return given.decode("ascii") if 0 < len(given) <= 128 and given.isascii() and given.isalnum() else new_id()
