"""A client that asks on a fixed schedule, whatever the server does: latencies count from when a request was due.

wrk asks again when it has its answer, so it never sees how long others would have waited (coordinated omission;
G. Tene, "How NOT to Measure Latency", 2013).
"""

from __future__ import annotations

import asyncio
import time

import uvloop


class _Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[None] | None = None
        self._left, self._got = -1, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._left < 0:
            head, mark, _ = self._got.partition(b"\r\n\r\n")
            if not mark:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(head.decode())
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            self._left = len(head) + 4 + int(length)
        if len(self._got) >= self._left:
            self._left, self._got = -1, b""
            if self.answered is not None:
                self.answered.set_result(None)


async def _run(port: int, path: str, bodies: list[bytes], rate: float, seconds: float, connections: int) -> list[float]:
    loop = asyncio.get_running_loop()
    heads = [
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (path.encode(), len(body)) + body for body in bodies
    ]  # fmt: skip
    total, taken, times = int(rate * seconds), 0, list[float]()
    began = time.monotonic() + 0.1

    async def client() -> None:
        nonlocal taken
        _, line = await loop.create_connection(_Line, "127.0.0.1", port)
        while taken < total:
            number, taken = taken, taken + 1
            due = began + number / rate
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            line.answered = loop.create_future()
            line.transport.write(heads[number % len(heads)])
            await line.answered
            times.append(time.monotonic() - due)
        line.transport.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return times


def offered(port: int, path: str, bodies: list[bytes], *, rate: float, seconds: float, connections: int) -> list[float]:
    """Seconds from when each request was due to its answer."""
    return uvloop.run(_run(port, path, bodies, rate, seconds, connections))
