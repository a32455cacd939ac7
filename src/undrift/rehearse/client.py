"""A small HTTP client of a served project: JSON over a connection that is kept, tried again while nobody answers."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any, Final

import msgspec

from undrift.errors import ServeError

__all__ = ["Client"]

RETRIES: Final = 100


class Client:
    """A small HTTP client that keeps its connection, and tries again while the server is away or says 503."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: Any, key: str = "") -> dict[str, Any]:
        """POST JSON and return the answer; ``key`` names the request, so that it counts once.

        Raises
        ------
        ServeError : the server answers with an error, or not at all for about 20 seconds.
        """
        headers = {("x-request-id" if path.endswith(":predict") else "idempotency-key"): key} if key else {}
        status, answer = self.ask(path, body, headers)
        if status >= 300:
            raise ServeError(f"POST {path} to {self.host}:{self.port} failed: {status}: {str(answer)[:500]}")
        return answer

    def ask(self, path: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """POST JSON; the status, and what was answered with it.

        Raises
        ------
        ServeError : the server does not answer at all, or says 503, for about 20 seconds.
        """
        data = msgspec.json.encode(body)
        problem = ""
        for attempt in range(RETRIES):
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
                sent = {"content-type": "application/json", **headers}
                self._connection.request("POST", path, data, sent)
                answer = self._connection.getresponse()
                content = answer.read()
                if answer.status != 503:
                    return answer.status, json.loads(content)
                problem = f"503: {content[:500].decode(errors='replace')}"
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
                self.close()
            time.sleep(min(0.01 * 2**attempt, 0.25))
        raise ServeError(f"POST {path} to {self.host}:{self.port} failed: {problem}")

    def close(self) -> None:
        """Let the connection go; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
