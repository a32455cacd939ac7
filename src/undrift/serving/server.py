"""The server process: a worker that answers over HTTP, follows the routing table, and drains when it is told to end.

`run` starts the supervisor, which starts this file again as its workers. What is answered stands in gateway.py.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

import msgspec

from undrift.capture.capture import Recorder, SpoolWriter
from undrift.capture.spool import waiting
from undrift.errors import UndriftError
from undrift.plugins import resolve_path
from undrift.serving.access_log import AccessLog
from undrift.serving.gateway import Gateway
from undrift.serving.health import HealthCheck
from undrift.serving.listener import Listener, refuse_new
from undrift.serving.placement import Placement
from undrift.serving.supervisor import serve_folder, supervise
from undrift.serving.telemetry import Meters, notice
from undrift.serving.trace import Tracing
from undrift.settings import Settings, find, load

__all__ = ["run"]

HOUSEKEEPING_SECONDS: Final = 1.0


def _bound(settings: Settings, meters: Meters, recorder: Recorder) -> None:
    """See whether the spool may grow; where it may not, callers are told until a worker has caught up."""
    size, age = waiting(settings.path(settings.stores.spool), time.time())
    meters.spool_bytes.set(size)
    meters.spool_seconds.set(age)
    serve, full = settings.serve, ""
    if 0 < serve.spool_bytes < size:
        full = f"{size} bytes wait in the spool; at most {serve.spool_bytes} may (serve.spool_bytes)"
    elif 0 < serve.spool_seconds < age:
        full = f"records wait for {age:.0f} seconds; at most {serve.spool_seconds:g} may pass (serve.spool_seconds)"
    if bool(full) != bool(recorder.full):
        notice("spool full" if full else "spool free", why=full)
    recorder.full = full


async def _housekeeping(
    settings: Settings, meters: Meters, writer: SpoolWriter, recorder: Recorder, placement: Placement
) -> None:
    """Leave figures for the other workers, bound the spool, and tell when syncing it fails."""
    told, frozen = 0, False
    while True:
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
        _bound(settings, meters, recorder)
        meters.leave()
        if placement.ready and not frozen:
            gc.collect()
            gc.freeze()  # what is loaded stays: looking through it again and again would delay answers
            frozen = True
        if writer.sync_failures > told:
            told = writer.sync_failures
            notice("spool not synced", failures=told)


async def _work(settings: Settings, number: int, listening: socket.socket) -> None:
    folder = serve_folder(settings)
    serve = settings.serve
    meters = Meters(folder, number, serve.price_per_cpu_hour)
    writer = SpoolWriter(
        settings.path(settings.stores.spool),
        sync_ms=serve.sync_ms,
        segment_bytes=serve.segment_bytes,
        segment_seconds=serve.segment_seconds,
    )
    placement = Placement(settings, folder, meters)
    recorder = Recorder(writer, serve)
    tracing = Tracing(settings.observe, SystemRandom())
    log = AccessLog(lost=meters.unlogged.inc) if settings.observe.access_log else None
    app = Gateway(settings, placement, recorder, meters, tracing, log)
    grpc: Any = None
    if serve.grpc_port >= 0:
        grpc = resolve_path("undrift.serving.grpc_server:GrpcServer", wanted_for="serve.grpc_port", extra="grpc")(
            settings, app.api, meters, tracing, log
        )
    listener = Listener(app, listening, max_body=serve.max_body_bytes, slow_seconds=serve.timeout_ms / 1000)
    told_to_end = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, told_to_end.set)
    notice("started", worker=number)
    keeping = _housekeeping(settings, meters, writer, recorder, placement)
    health = HealthCheck(settings, folder, number, placement, meters)
    tasks = [asyncio.create_task(each) for each in (placement.follow(), keeping, health.run())]
    try:
        await listener.start()
        if grpc is not None:
            await grpc.start(serve.grpc_port)
        await told_to_end.wait()
        notice("draining", connections=len(listener.connections))
        both = [listener.drain(serve.drain_seconds)]
        if grpc is not None:
            both.append(grpc.stop(serve.drain_seconds))
        await asyncio.gather(*both)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(tracing.close)
        if log is not None:
            log.close()
        writer.close()
        (folder / f"{os.getpid()}.json").unlink(missing_ok=True)
        health.path.unlink(missing_ok=True)
        notice("ended", worker=number)


def _outlive_nobody(patience: float, listening: socket.socket) -> None:
    """Wait for the end of standard input, which is the end of the supervisor; then drain, or end without."""
    while os.read(0, 4096):
        pass
    refuse_new(listening)
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
    listening = socket.socket(fileno=options.socket)
    watch = threading.Thread(target=_outlive_nobody, args=(patience, listening), daemon=True, name="supervisor-watch")
    watch.start()
    import uvloop

    uvloop.run(_work(settings, options.worker, listening))
    return 0


if __name__ == "__main__":
    sys.exit(main())
