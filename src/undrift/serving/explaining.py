"""The path that explains: `POST /v1/models/{m}:explain`.

Rows are decoded, routed and fed as a prediction's are, and nothing of it is captured: no prediction was given. The
work itself is done in a process apart, so that predictions are not held up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from undrift.develop.explanation import Explanation
from undrift.errors import ModelError, RequestError
from undrift.inference.apart import Apart
from undrift.inference.endpoint import Endpoint, refuse_far
from undrift.inference.fed import fed
from undrift.protocols import tensorflow
from undrift.protocols.wire import decode, encode
from undrift.serving.connection import Reply
from undrift.serving.paths import Asked, Path
from undrift.serving.placement import Placement
from undrift.settings import Settings

__all__ = ["Explaining"]


class _Options(msgspec.Struct):
    """What stands beside the rows in the body of a request."""

    method: str = "auto"
    label: str = ""


_options = msgspec.json.Decoder(_Options)


class Explaining:
    """The handler of one process.

    Parameters
    ----------
    settings : bounds of time, rows and waiting.
    placement : where features are looked up.
    endpoint : finds the endpoint of a model by name.
    """

    def __init__(self, settings: Settings, placement: Placement, endpoint: Callable[[str], Endpoint]) -> None:
        self._settings, self._placement, self._endpoint = settings.explain, placement, endpoint
        self.apart = Apart(
            settings.trust, max_queue=settings.explain.max_queue, idle_seconds=settings.explain.idle_seconds
        )

    def paths(self) -> list[Path]:
        """The line of the table that this handler fills."""
        return [Path("POST", "/v1/models/{name}:explain", self._explain, "explain", abandon=True)]

    async def _explain(self, asked: Asked) -> Reply:
        endpoint = self._endpoint(asked.name)
        rows, _ = tensorflow.read(endpoint.champion.decoder, asked.body)
        if len(rows) > self._settings.max_rows:
            message = f"at most {self._settings.max_rows} rows (explain.max_rows) were expected, got {len(rows)}"
            raise RequestError(message, path="$.instances")
        options: _Options = decode(_options, asked.body)
        deadline = asked.call.started + self._seconds(asked.headers)
        explanations: list[Explanation | None] = [None] * len(rows)
        about: list[dict[str, Any]] = [{} for _ in rows]
        for given in fed(endpoint, rows, asked.call, self._placement.online):
            placed = given.revision.placed
            try:
                found = await self.apart.explain(
                    placed.path, given.columns, method=options.method, label=options.label, deadline=deadline
                )
            except ModelError:
                refuse_far(rows)
                raise
            for place, known, broken, explanation in zip(given.places, given.ids, given.violations, found, strict=True):
                explanations[place] = explanation
                about[place] = {
                    "id": known, "version": placed.version, "revision": placed.revision, "variant": given.variant,
                    **({"violations": broken} if broken else {}),
                }  # fmt: skip
        took = int((time.monotonic() - asked.call.started) * 1e6)
        body = {"explanations": explanations, "rows": about, "request_id": asked.call.request_id, "took_us": took}
        return Reply(200, encode(body), epoch=endpoint.epoch)

    def _seconds(self, headers: dict[bytes, bytes]) -> float:
        """The gateway has checked the header; predictions and explanations have bounds of their own."""
        most = self._settings.timeout_ms
        return min(int(headers.get(b"x-request-timeout-ms", b"%d" % most)), most) / 1000
