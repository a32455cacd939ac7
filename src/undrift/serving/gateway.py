"""The data plane's gateway: from a request on a connection to the handler of its path, and from errors to statuses.

What is common to all paths stands here: methods, content types, time limits, request ids, headers of answers, counting.
What each path does stands in api.py, bytes and sockets in connection.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from undrift.capture.capture import Recorder
from undrift.develop.upstream import TRACE
from undrift.errors import RequestError, UndriftError
from undrift.ids import new_id
from undrift.inference.endpoint import Call, Stage
from undrift.inference.usage import Usage
from undrift.protocols.labels import micros_of
from undrift.protocols.wire import encode, error_body, status_of
from undrift.serving.access_log import AccessLog
from undrift.serving.api import Api
from undrift.serving.connection import JSON, Head, Reply, Request
from undrift.serving.explaining import Explaining
from undrift.serving.paths import Asked, Path, Paths
from undrift.serving.placement import Placement
from undrift.serving.predict_api import PredictApi
from undrift.serving.telemetry import Meters, notice
from undrift.serving.trace import Span, Trace, Tracing, within
from undrift.settings import Settings

__all__ = ["Gateway"]

_BODIES: Final = ("POST",)


class Gateway:
    """Answers requests; what a connection sees of the rest of the house.

    Parameters
    ----------
    settings : bounds of bodies and time, and whether time is event time.
    placement : the endpoints and sources to answer from.
    recorder : what captures records before an answer leaves.
    tracing : which requests are traced.
    log : the access log, if there is one.
    """

    def __init__(
        self,
        settings: Settings,
        placement: Placement,
        recorder: Recorder,
        meters: Meters,
        tracing: Tracing,
        log: AccessLog | None = None,
    ) -> None:
        self._serve, self._event_mode = settings.serve, settings.time.mode == "event"
        self._tracing, self._log = tracing, log
        self._placement, self._meters = placement, meters
        self.api = self._api = Api(settings, placement, recorder, meters)
        self._predict_api = PredictApi(settings, self._api)
        self._explaining = Explaining(settings, placement, self._api.endpoint)
        self._paths = Paths(self._table())

    def _table(self) -> Sequence[Path]:
        """All paths of all protocols."""
        return [*self._explaining.paths(), *self._api.paths(), *self._predict_api.paths()]

    @property
    def draining(self) -> bool:
        """Whether the process is about to end: answers ask for the connection to be closed."""
        return self._api.draining

    @draining.setter
    def draining(self, yes: bool) -> None:
        self._api.draining = yes

    def refuse(self, head: Head) -> Reply | None:
        """What HTTP itself answers, before the body is read: no such path, method or content type."""
        refusal = self._refused(head)
        if refusal is not None and self._log is not None:
            path = self._paths.find(head.target).path[:200]
            self._log.add(method=head.method, path=path, route="none", status=refusal.status)
        return refusal

    def _refused(self, head: Head) -> Reply | None:
        found = self._paths.find(head.target)
        path = found.by_method.get(head.method)
        if path is None:
            if not found.by_method:
                return self._refusal(404, f"there is nothing at {found.path[:200]}.")
            allow = (b"allow", found.allowed.encode())
            message = f"{found.path[:200]} takes {found.allowed}, not {head.method[:20]}."
            return self._refusal(405, message, headers=(allow,))
        if head.method in _BODIES:
            kind = head.headers.get(b"content-type", JSON)
            if kind not in path.types and kind.partition(b";")[0].strip().lower() not in path.types:
                wanted = " or ".join(each.decode() for each in path.types)
                return self._refusal(415, f"a body of content-type {wanted} was expected.", path.label)
            if head.headers.get(b"content-encoding", b"identity") != b"identity":
                return self._refusal(415, "a body that is not compressed was expected.", path.label)
        return None

    def refuse_broken(self, status: int, message: str) -> Reply:
        """The answer to what is no request, is too large or comes too late; ends the connection."""
        return replace(self._refusal(status, message), close=True)

    def _refusal(
        self, status: int, message: str, label: str = "none", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> Reply:
        self._meters.route(label).count(status, 0.0)
        return Reply(status, encode({"error": message}), (*self._usual(new_id(), None), *headers))

    def may_abandon(self, request: Request) -> bool:
        """Whether the work may be dropped once the caller has hung up."""
        path = self._paths.find(request.target).by_method.get(request.method)
        return path is not None and path.abandon

    def is_direct(self, request: Request) -> bool:
        """Whether `answer` may begin outside of a task."""
        path = self._paths.find(request.target).by_method.get(request.method)
        return path is not None and path.direct

    async def answer(self, request: Request) -> Reply:
        """The answer to a request that `refuse` let pass."""
        started, began = time.monotonic(), time.time_ns()
        charged: list[tuple[Usage, float]] = []
        headers = request.headers
        trace = self._tracing.begin(headers)
        TRACE.set(trace.headers)
        asked_id = _given_id(headers)
        request_id = asked_id or new_id()
        stages: list[Stage] | None = [] if trace.sampled and self._tracing.spans is not None else None
        found = self._paths.find(request.target)
        path = found.by_method[request.method]
        try:
            deadline = started + self._seconds(headers)
            told = self._happened(headers)
            call = Call(
                request_id, began // 1000, started, deadline, charged, trace.trace_id, stages, not asked_id, told
            )
            reply = await path.handler(Asked(found.parts, request.body, call, headers, found.query))
        except UndriftError as error:
            reply = self._failed(error)
        except Exception as error:  # noqa: BLE001  the last edge: a fault of ours must not end the worker
            notice("fault", request_id=request_id, path=found.path, error=f"{type(error).__name__}: {error}")
            reply = Reply(500, encode({"error": "internal error", "request_id": request_id}))
        now = time.monotonic()
        for usage, ready in charged:
            usage.encode += now - ready
            usage.finish(now - started)
            if stages is not None:
                stages.append(("encode", stages[0][1], ready, now))
        self._meters.route(path.label).count(reply.status, now - started)
        if trace.sampled or self._log is not None:
            inside = within(stages or (), started, began)
            self._tell(request, reply, path, request_id, trace, began, now - started, inside)
        more = (*self._usual(request_id, reply.epoch), *trace.headers, *reply.headers)
        return Reply(reply.status, reply.body, more, reply.type, reply.close)

    def _tell(
        self,
        request: Request,
        reply: Reply,
        path: Path,
        request_id: str,
        trace: Trace,
        began: int,
        seconds: float,
        inside: Sequence[Span],
    ) -> None:
        """Write the line and send the spans of one request."""
        target = self._paths.find(request.target).path[:200]
        if self._log is not None:
            self._log.add(
                method=request.method,
                path=target,
                route=path.label,
                status=reply.status,
                ms=round(seconds * 1000, 3),
                request_bytes=len(request.body),
                response_bytes=len(reply.body),
                request_id=request_id,
                trace_id=trace.trace_id or None,
            )
        attributes = {
            "http.request.method": request.method,
            "http.route": path.pattern,
            "url.path": target,
            "http.response.status_code": reply.status,
            "undrift.request_id": request_id,
        }
        name = f"{request.method} {path.pattern}"
        whole = Span(name, began, began + int(seconds * 1e9), attributes, failed=reply.status >= 500)
        self._tracing.end(trace, whole, inside)

    def _usual(self, request_id: str, epoch: int | None) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of every answer."""
        return (
            (b"x-request-id", request_id.encode("latin-1")),
            # of the table that the answer follows, which may have been replaced since the request came
            (b"x-undrift-epoch", b"%d" % (self._placement.epoch if epoch is None else epoch)),
        )

    def _seconds(self, headers: dict[bytes, bytes]) -> float:
        """The time this request may take: what the caller asks for, at most what the settings allow."""
        asked = headers.get(b"x-request-timeout-ms")
        if asked is None:
            return self._serve.timeout_ms / 1000
        if not asked.isdigit() or len(asked) > 18 or int(asked) == 0:
            raise RequestError("a whole number of milliseconds above 0 was expected", path="X-Request-Timeout-Ms")
        return min(int(asked), self._serve.timeout_ms) / 1000

    def _happened(self, headers: dict[bytes, bytes]) -> int:
        """The microsecond at which what is asked about happened, as the caller tells it; 0 where nobody does."""
        told = headers.get(b"x-event-time")
        if told is None:
            return 0
        if not self._event_mode:
            raise RequestError(
                "event times are for time.mode = 'event'; here the wall clock tells", path="X-Event-Time"
            )
        try:
            text = told.decode("ascii")
            return micros_of(int(text) if text.isdigit() else datetime.fromisoformat(text), "X-Event-Time")
        except ValueError as error:
            raise RequestError("a time with a zone was expected, or microseconds", path="X-Event-Time") from error

    def _failed(self, error: UndriftError) -> Reply:
        status = status_of(error)
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if status == 503:
            headers = ((b"retry-after", str(max(1, round(getattr(error, "retry_after", 1.0)))).encode()),)
        if status in (503, 504):
            self._meters.refused.labels(type(error).__name__.removesuffix("Error").lower()).inc()
        return Reply(status, error_body(error), headers)


def _given_id(headers: dict[bytes, bytes]) -> str:
    """What the caller calls the request, where that will do; else ''."""
    given = headers.get(b"x-request-id", b"")
    return given.decode("ascii") if 0 < len(given) <= 128 and given.isascii() and given.isalnum() else ""
