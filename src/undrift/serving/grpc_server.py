"""The Open Inference Protocol over gRPC, in the same process as HTTP and by way of the same check, route and capture.

The one doorway of grpc (extra `grpc`). Messages stand in protocols/open_inference_messages.py. Workers share the port.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, Final

import grpc
import grpc.aio

from undrift.develop.upstream import TRACE
from undrift.errors import ServeError, UndriftError
from undrift.ids import new_id
from undrift.inference.endpoint import Call, Stage
from undrift.inference.usage import Usage
from undrift.protocols import open_inference
from undrift.protocols import open_inference_messages as messages
from undrift.protocols.tensors import outputs_of, selected
from undrift.protocols.wire import GRPC, error_body, grpc_status_of
from undrift.serving.access_log import AccessLog
from undrift.serving.api import Api
from undrift.serving.telemetry import Meters, notice
from undrift.serving.trace import Span, Tracing, within
from undrift.settings import Settings

__all__ = ["GrpcServer"]

MOST_AT_ONCE: Final = 1000
"""Calls under way in one process; further ones are refused with RESOURCE_EXHAUSTED."""
_METHODS: Final = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

Method = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Any]]


class GrpcServer:
    """Answers on a port of its own.

    Parameters
    ----------
    settings : bounds of bodies and time.
    api : what every protocol ends in.
    log : the access log, if there is one.
    """

    def __init__(
        self, settings: Settings, api: Api, meters: Meters, tracing: Tracing, log: AccessLog | None = None
    ) -> None:
        self._serve, self._api, self._meters, self._tracing = settings.serve, api, meters, tracing
        self._log = log
        limit = self._serve.max_body_bytes
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
            ],
            maximum_concurrent_rpcs=MOST_AT_ONCE,
        )
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._method(name),
                request_deserializer=messages.message(f"{name}Request").FromString,
                response_serializer=messages.message(f"{name}Response").SerializeToString,
            )
            for name in _METHODS
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))

    async def start(self, port: int) -> None:
        """Answer from now on.

        Raises
        ------
        ServeError : the port cannot be bound.
        """
        host = self._serve.host
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServeError(
                f"port {port} on {host} cannot be used for gRPC: {error}.",
                hint="Choose another one: serve.grpc_port in undrift.toml, UNDRIFT_SERVE__GRPC_PORT.",
            ) from error
        await self._server.start()

    async def stop(self, patience: float) -> None:
        """Take no new calls, and let those under way end, for so many seconds at most."""
        await self._server.stop(patience)

    def _method(self, name: str) -> Method:
        """A method with what is common to all: errors to statuses, counting, tracing."""
        answer: Callable[[Any, Call, Any], Awaitable[None]] = getattr(self, f"_{name}")
        response_type = messages.message(f"{name}Response")

        async def called(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started, began = time.monotonic(), time.time_ns()
            given = {key.encode(): _bytes(value) for key, value in context.invocation_metadata() or ()}
            trace = self._tracing.begin(given)
            TRACE.set(trace.headers)
            asked = given.get(b"x-request-id", b"").decode("latin-1")
            request_id = asked if 0 < len(asked) <= 128 and asked.isascii() and asked.isalnum() else new_id()
            left = context.time_remaining()
            seconds = self._serve.timeout_ms / 1000
            deadline = started + (seconds if left is None else min(left, seconds))
            charged: list[tuple[Usage, float]] = []
            stages: list[Stage] | None = [] if trace.sampled and self._tracing.spans is not None else None
            call = Call(request_id, began // 1000, started, deadline, charged, trace.trace_id, stages)
            back = [("x-request-id", request_id), *((k.decode(), v.decode()) for k, v in trace.headers)]
            await context.send_initial_metadata(back)
            response, status, details = response_type(), "OK", ""
            try:
                await answer(request, call, response)
            except UndriftError as error:
                status, details = grpc_status_of(error), error_body(error).decode()
            except Exception as error:  # noqa: BLE001  the last edge: a fault of ours must not end the worker
                notice("fault", request_id=request_id, path=name, error=f"{type(error).__name__}: {error}")
                status, details = "INTERNAL", "internal error"
            now = time.monotonic()
            for usage, ready in charged:
                usage.encode += now - ready
                usage.finish(now - started)
                if stages is not None:
                    stages.append(("encode", stages[0][1], ready, now))
            self._meters.route("grpc").count(GRPC[status], now - started)
            attributes = {"rpc.system": "grpc", "rpc.method": name, "undrift.request_id": request_id}
            whole = Span(f"{messages.SERVICE}/{name}", began, time.time_ns(), attributes, failed=status == "INTERNAL")
            self._tracing.end(trace, whole, within(stages or (), started, began))
            if self._log is not None:
                self._log.add(
                    method="GRPC",
                    path=f"/{messages.SERVICE}/{name}",
                    route="grpc",
                    status=status,
                    ms=round((now - started) * 1000, 3),
                    request_bytes=request.ByteSize(),
                    response_bytes=response.ByteSize() if status == "OK" else 0,
                    request_id=request_id,
                    trace_id=trace.trace_id or None,
                )
            if status != "OK":
                await context.abort(grpc.StatusCode[status], details)
            return response

        return called

    async def _ServerLive(self, request: Any, call: Call, response: Any) -> None:  # noqa: N802  names of the protocol
        response.live = True

    async def _ServerReady(self, request: Any, call: Call, response: Any) -> None:  # noqa: N802
        response.ready = self._api.is_ready

    async def _ModelReady(self, request: Any, call: Call, response: Any) -> None:  # noqa: N802
        open_inference.versions(self._api.endpoint(request.name), request.version)
        response.ready = True

    async def _ServerMetadata(self, request: Any, call: Call, response: Any) -> None:  # noqa: N802
        response.name, response.version = "undrift", metadata.version("undrift")

    async def _ModelMetadata(self, request: Any, call: Call, response: Any) -> None:  # noqa: N802
        endpoint = self._api.endpoint(request.name)
        open_inference.versions(endpoint, request.version)
        about = open_inference.metadata(endpoint)
        response.name, response.platform = about["name"], about["platform"]
        response.versions.extend(about["versions"])
        for tensor in about["inputs"]:
            response.inputs.add(**tensor)
        for tensor in about["outputs"]:
            response.outputs.add(**tensor)

    async def _ModelInfer(self, request: Any, call: Call, response: Any) -> None:  # noqa: N802
        endpoint = self._api.endpoint(request.model_name)
        if request.model_version:
            endpoint = endpoint.pinned(request.model_version)
        rows = messages.read(endpoint.champion.decoder, request)
        names = messages.wanted(request)
        selected(outputs_of(endpoint.interface, []), names, "$.outputs")  # before anybody computes
        answered = await self._api.answered(endpoint, rows, call)
        outputs = selected(outputs_of(endpoint.interface, answered.rows), names, "$.outputs")
        response.model_name, response.id = request.model_name, request.id or call.request_id
        found = {str(row.version) for row in answered.rows}
        response.model_version = found.pop() if len(found) == 1 else ""
        messages.fill(response, outputs, raw=bool(request.raw_input_contents))


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1", "replace")
