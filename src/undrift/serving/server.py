"""The server process: a worker that answers over HTTP, follows the routing table, and drains when it is told to end.

`run` starts the supervisor, which starts this file again as its workers. What is answered stands in gateway.py.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn

from undrift.capture.capture import Recorder, SpoolWriter
from undrift.errors import UndriftError
from undrift.serving.gateway import Gateway
from undrift.serving.placement import Placement
from undrift.serving.supervisor import serve_folder, supervise
from undrift.serving.telemetry import Meters, notice
from undrift.settings import Settings, find, load

__all__ = ["run"]

LINGER_SECONDS: Final = 0.3
HOUSEKEEPING_SECONDS: Final = 1.0


class _Server(uvicorn.Server):
    """uvicorn that drains: after a signal it takes no new connections and asks the old ones to close as they answer."""

    def __init__(self, config: uvicorn.Config, app: Gateway) -> None:
        super().__init__(config)
        self._app = app
        self._drained_at = 0.0

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to drain; the signal is not raised again at the end, so that the exit code says how it went."""
        self._app.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self._app.draining:
            now = time.monotonic()
            if not self._drained_at:
                notice("draining", connections=len(self.server_state.connections))
                for server in self.servers:
                    server.close()
                self._drained_at = now + LINGER_SECONDS
            # a request that is on its way on an idle connection is still answered
            return now > self._drained_at or not self.server_state.connections
        return await super().on_tick(counter)


class _Notices(logging.Handler):
    """What uvicorn logs, as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        notice("http", level=record.levelname.lower(), message=record.getMessage())


async def _housekeeping(meters: Meters, writer: SpoolWriter) -> None:
    """Leave figures for the other workers, and tell when syncing the spool fails."""
    told = 0
    while True:
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
        meters.leave()
        if writer.sync_failures > told:
            told = writer.sync_failures
            notice("spool not synced", failures=told)


async def _work(settings: Settings, number: int, listening: socket.socket) -> None:
    folder = serve_folder(settings)
    serve = settings.serve
    meters = Meters(folder if serve.workers > 1 else None, number)
    writer = SpoolWriter(
        settings.path(settings.stores.spool),
        sync_ms=serve.sync_ms,
        segment_bytes=serve.segment_bytes,
        segment_seconds=serve.segment_seconds,
    )
    placement = Placement(settings, folder, meters)
    app = Gateway(settings, placement, Recorder(writer, serve), meters)
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(serve.drain_seconds)),
    )
    server = _Server(config, app)
    notice("started", worker=number)
    tasks = [asyncio.create_task(placement.follow()), asyncio.create_task(_housekeeping(meters, writer))]
    try:
        await server.serve(sockets=[listening])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        (folder / f"{os.getpid()}.json").unlink(missing_ok=True)
        notice("ended", worker=number)


def _outlive_nobody(patience: float) -> None:
    """Wait for the end of standard input, which is the end of the supervisor; then drain, or end without."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience + 1.0)
    os._exit(1)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, with ``serve.workers`` processes; returns the exit code.

    Raises
    ------
    ServeError : the address cannot be bound, or workers die as soon as they start.
    StateError : the state folder cannot be written.
    """
    return supervise(settings, [sys.executable, "-m", "undrift.serving.server"])


def main(arguments: Iterable[str] | None = None) -> int:
    """Serve the project of this folder; with ``--worker``, be one of its worker processes."""
    parser = argparse.ArgumentParser(prog="python -m undrift.serving.server", description=main.__doc__)
    parser.add_argument("--worker", type=int, help="number of this worker (used by the supervisor)")
    parser.add_argument("--socket", type=int, help="file descriptor of the shared socket (used by the supervisor)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.worker is None:
        try:
            return run(load(find(Path.cwd())))
        except UndriftError as error:
            notice("failed", error=error.message, hint=error.hint)
            return 1
    # not through sys.stdin: the thread that waits for its end would hold its lock while the interpreter shuts down
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            return 1
        line += part
    settings = msgspec.json.decode(line, type=Settings)
    patience = settings.serve.drain_seconds + 1.0
    threading.Thread(target=_outlive_nobody, args=(patience,), daemon=True, name="supervisor-watch").start()
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(_Notices())
    logger.setLevel(logging.WARNING)
    import uvloop

    uvloop.run(_work(settings, options.worker, socket.socket(fileno=options.socket)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
