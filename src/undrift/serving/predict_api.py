"""Predictions over HTTP, in every protocol: one handler a protocol, all by way of the same check, route and capture.

TensorFlow Serving and Vertex AI, Open Inference Protocol, MLflow and SageMaker, Arrow. Shapes on the wire stand in
protocols/, what ends every request in api.py. Health and metadata of models stand here where a protocol has its own.
"""

from __future__ import annotations

import asyncio
from importlib import metadata
from typing import Any, Final

from msgspec.structs import replace

from undrift.errors import NotFoundError
from undrift.inference.endpoint import Answered, Endpoint
from undrift.plugins import resolve_path
from undrift.protocols import invocations, open_inference, tensorflow
from undrift.protocols.tensors import outputs_of, selected
from undrift.protocols.wire import encode
from undrift.serving.api import Api
from undrift.serving.connection import JSON, Reply
from undrift.serving.paths import Asked, Handler, Path
from undrift.settings import Settings

__all__ = ["PredictApi"]

ARROW: Final = b"application/vnd.apache.arrow.stream"
OCTETS: Final = b"application/octet-stream"
_ROWS: Final = (JSON, ARROW)
_TENSORS: Final = (JSON, OCTETS)
_BODIES: Final = (JSON, invocations.CSV, invocations.JSON_LINES, ARROW)


class PredictApi:
    """The handlers of one process.

    Parameters
    ----------
    settings : the model and the routes of a platform that names none itself.
    api : what every protocol ends in.
    """

    def __init__(self, settings: Settings, api: Api) -> None:
        self._serve, self._api = settings.serve, api

    def paths(self) -> list[Path]:
        """The lines of the table that these handlers fill."""
        given = []
        if self._serve.predict_route:
            given.append(_asks(self._serve.predict_route, self._route, "predict", _ROWS))
        if self._serve.health_route:
            given.append(Path("GET", self._serve.health_route, self._api.ready, "health"))
        return [
            *given,
            _asks("/v1/models/{name}/versions/{version}:predict", self._predict, "predict", _ROWS),
            _asks("/v1/models/{name}:predict", self._predict, "predict", _ROWS),
            Path("GET", "/v1/models/{name}", self._status, "model"),
            Path("GET", "/v1/models/{name}/versions/{version}", self._status, "model"),
            Path("GET", "/v1/models/{name}/metadata", self._metadata, "model"),
            Path("GET", "/v1/models/{name}/versions/{version}/metadata", self._metadata, "model"),
            _asks("/v2/models/{name}/infer", self._infer, "infer", _TENSORS),
            _asks("/v2/models/{name}/versions/{version}/infer", self._infer, "infer", _TENSORS),
            Path("GET", "/v2/models/{name}", self._model, "model"),
            Path("GET", "/v2/models/{name}/versions/{version}", self._model, "model"),
            Path("GET", "/v2/models/{name}/ready", self._model_ready, "health"),
            Path("GET", "/v2/models/{name}/versions/{version}/ready", self._model_ready, "health"),
            Path("GET", "/v2", self._about, "about"),
            Path("GET", "/v2/", self._about, "about"),
            _asks("/invocations", self._invocations, "invocations", _BODIES),
            _asks("/endpoints/{name}/invocations", self._invocations, "invocations", _BODIES),
            Path("GET", "/ping", self._api.ready, "health"),
            Path("GET", "/health", self._api.ready, "health"),
            Path("GET", "/version", self._version, "about"),
        ]

    # TensorFlow Serving and Vertex AI

    async def _predict(self, asked: Asked) -> Reply:
        return await self._instances(asked, self._pinned(asked))

    async def _route(self, asked: Asked) -> Reply:
        return await self._instances(asked, self._only(asked))

    async def _instances(self, asked: Asked, endpoint: Endpoint) -> Reply:
        columnar, kept = False, None
        decoder = endpoint.champion.decoder
        if _is(asked, ARROW):
            rows = await _by_arrow("read", decoder, asked.body)
        elif (kept := decoder.kept(asked.body)) is not None:
            rows = kept
        else:
            rows, columnar = tensorflow.read(decoder, asked.body)
        answered = await self._api.answered(endpoint, rows, asked.call, clean=kept is not None)
        if ARROW in asked.headers.get(b"accept", b"").lower():
            return await self._arrow_answer(endpoint, answered)
        answer = tensorflow.answer_columns if columnar else tensorflow.answer
        return Reply(200, answer(endpoint.interface, answered.rows, asked.call.request_id), epoch=endpoint.epoch)

    async def _status(self, asked: Asked) -> Reply:
        return Reply(200, tensorflow.status(self._api.endpoint(asked.name), asked.parts.get("version", "")))

    async def _metadata(self, asked: Asked) -> Reply:
        return Reply(200, tensorflow.metadata(self._api.endpoint(asked.name), asked.parts.get("version", "")))

    # Open Inference Protocol

    async def _infer(self, asked: Asked) -> Reply:
        endpoint = self._pinned(asked)
        header_length = asked.headers.get(open_inference.HEADER_LENGTH)
        request = open_inference.read(endpoint.champion.decoder, asked.body, header_length)
        selected(outputs_of(endpoint.interface, []), request.outputs, "$.outputs")  # before anybody computes
        answered = await self._api.answered(endpoint, request.rows, asked.call)
        outputs = selected(outputs_of(endpoint.interface, answered.rows), request.outputs, "$.outputs")
        body, length = open_inference.answer(asked.name, request.id or asked.call.request_id, outputs, request)
        if length is None:
            return Reply(200, body, epoch=endpoint.epoch)
        header = (open_inference.HEADER_LENGTH, b"%d" % length)
        return Reply(200, body, (header,), OCTETS, epoch=endpoint.epoch)

    async def _model(self, asked: Asked) -> Reply:
        endpoint = self._api.endpoint(asked.name)
        open_inference.versions(endpoint, asked.parts.get("version", ""))
        return Reply(200, encode(open_inference.metadata(endpoint)))

    async def _model_ready(self, asked: Asked) -> Reply:
        open_inference.versions(self._api.endpoint(asked.name), asked.parts.get("version", ""))
        return Reply(200, encode({"name": asked.name, "ready": True}))

    async def _about(self, asked: Asked) -> Reply:
        about = {"name": "undrift", "version": metadata.version("undrift"), "extensions": open_inference.EXTENSIONS}
        return Reply(200, encode(about))

    # MLflow and SageMaker

    async def _invocations(self, asked: Asked) -> Reply:
        offered = (JSON, invocations.CSV, invocations.JSON_LINES, ARROW)
        wanted = invocations.accepted(asked.headers.get(b"accept", b""), offered)
        if wanted is None:
            return Reply(406, encode({"error": f"answers come as {', '.join(kind.decode() for kind in offered)}."}))
        endpoint = self._api.endpoint(asked.name) if asked.name else self._only(asked)
        decoder = endpoint.champion.decoder
        if _is(asked, invocations.CSV):
            rows = invocations.read_csv(decoder, asked.body, asked.headers[b"content-type"])
        elif _is(asked, invocations.JSON_LINES):
            rows = invocations.read_lines(decoder, asked.body)
        elif _is(asked, ARROW):
            rows = await _by_arrow("read", decoder, asked.body)
        else:
            rows = invocations.read_json(decoder, asked.body)
        answered = await self._api.answered(endpoint, rows, asked.call)
        interface, variants = endpoint.interface, {row.variant for row in answered.rows}
        headers = ((b"x-amzn-invoked-production-variant", variants.pop().encode()),) if len(variants) == 1 else ()
        if wanted == ARROW:
            return replace(await self._arrow_answer(endpoint, answered), headers=headers)
        if wanted == invocations.CSV:
            body = invocations.answer_csv(interface, answered.rows)
        elif wanted == invocations.JSON_LINES:
            body = invocations.answer_lines(interface, answered.rows)
        else:
            body = tensorflow.answer(interface, answered.rows, asked.call.request_id)
        return Reply(200, body, headers, wanted, epoch=endpoint.epoch)

    async def _version(self, asked: Asked) -> Reply:
        return Reply(200, metadata.version("undrift").encode(), type=b"text/plain; charset=utf-8")

    # what they share

    async def _arrow_answer(self, endpoint: Endpoint, answered: Answered) -> Reply:
        body = await _by_arrow("answer", endpoint.interface, answered.rows)
        return Reply(200, body, type=ARROW, epoch=endpoint.epoch)

    def _pinned(self, asked: Asked) -> Endpoint:
        """The endpoint of the path's model; of its version alone, where the path names one."""
        endpoint, version = self._api.endpoint(asked.name), asked.parts.get("version", "")
        return endpoint.pinned(version) if version else endpoint

    def _only(self, asked: Asked) -> Endpoint:
        """The endpoint of a request that names no model: that of `serve.model`, or the only one."""
        name = asked.headers.get(b"x-amzn-sagemaker-target-model", b"").decode("latin-1") or self._serve.model
        if name:
            return self._api.endpoint(name)
        names = self._api.models
        if len(names) > 1:
            raise NotFoundError(
                f"this path names no model, and {len(names)} are served here: {', '.join(names)}.",
                hint="Set serve.model to one of them, or use a path with the model's name.",
            )
        return self._api.endpoint(names[0] if names else "")


def _asks(pattern: str, handler: Handler, label: str, types: tuple[bytes, ...]) -> Path:
    """A path at which a model is asked."""
    return Path("POST", pattern, handler, label, types, abandon=True, direct=True)


def _is(asked: Asked, kind: bytes) -> bool:
    said = asked.headers.get(b"content-type", JSON)
    return said == kind if said == JSON else said.partition(b";")[0].strip().lower() == kind


async def _by_arrow(what: str, *arguments: Any) -> Any:
    """Read or write an Arrow stream in a thread: batches are large, and pyarrow is imported at the first."""

    def work() -> Any:
        return resolve_path(f"undrift.protocols.arrow:{what}", wanted_for="an Arrow body")(*arguments)

    return await asyncio.to_thread(work)
