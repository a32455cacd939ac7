"""The processes of `undrift serve`: one socket, N workers that share it, and who starts them again when they die.

The supervisor answers no request. A worker gets the socket by inheritance and its settings on its standard input;
when that ends, the supervisor is gone and the worker drains, so a killed supervisor leaves nobody on the port.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.errors import ServeError, StateError
from undrift.plugins import resolve_path
from undrift.serving.listener import BACKLOG, refuse_new
from undrift.serving.telemetry import notice
from undrift.settings import Settings

__all__ = ["serve_folder", "supervise"]

QUICK_SECONDS: Final = 10.0
FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 5.0
HOPELESS: Final = 5
BIND_SECONDS: Final = 1.5
LEFT: Final = (".json", ".health")
"""What each worker leaves beside the spool, under its process id."""
THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def serve_folder(settings: Settings) -> Path:
    """Where server processes tell what they do: beside the spool."""
    return settings.path(settings.stores.spool).parent / "serve"


def supervise(settings: Settings, command: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT, then drain; returns the exit code.

    Parameters
    ----------
    command : what starts a worker; it is given ``--worker NUMBER --socket FILE_DESCRIPTOR``.

    Raises
    ------
    ServeError : the address cannot be bound, or workers die as soon as they start.
    StateError : the state folder cannot be written.
    """
    grpc = _reserve(settings) if settings.serve.grpc_port >= 0 else None
    try:
        listening = _bind(settings.serve.host, settings.serve.port)
    except ServeError:
        if grpc is not None:
            grpc.close()
        raise
    folder = serve_folder(settings)
    stop = threading.Event()
    before = {sig: signal.signal(sig, lambda *_: stop.set()) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        host, port = listening.getsockname()[:2]
        address: dict[str, Any] = {"host": host, "port": port, "pid": os.getpid()}
        if grpc is not None:
            address["grpc_port"] = grpc.getsockname()[1]
            serve = msgspec.structs.replace(settings.serve, grpc_port=address["grpc_port"])
            settings = msgspec.structs.replace(settings, serve=serve)
        _prepare(folder, address)
        notice("listening", workers=settings.serve.workers, **{k: v for k, v in address.items() if k != "pid"})
        workers = [_Worker(number, command, listening, settings) for number in range(settings.serve.workers)]
        try:
            while not stop.wait(0.05):
                for worker in workers:
                    worker.look_after(folder)
                if all(worker.hopeless for worker in workers):
                    raise ServeError(
                        f"every worker ended {HOPELESS} times within {QUICK_SECONDS:g} seconds of its start.",
                        hint="The lines above say why.",
                    )
        finally:
            refuse_new(listening)  # for the workers too: they share the socket, and accept what is queued on it
            listening.close()
            _end(workers, settings.serve.drain_seconds)
            left = [folder / f"{worker.pid}{suffix}" for worker in workers for suffix in LEFT]
            for path in (folder / "address.json", *left):
                path.unlink(missing_ok=True)
    finally:
        listening.close()
        if grpc is not None:
            grpc.close()
        for sig, handler in before.items():
            signal.signal(sig, handler)
    notice("stopped")
    return 0


def _reserve(settings: Settings) -> socket.socket:
    """The port of gRPC, held but not listened on: each worker binds it for itself, and the kernel spreads connections.

    Raises
    ------
    ServeError : it is in use, or the extra is not installed.
    """
    resolve_path("grpc:aio", wanted_for="serve.grpc_port", extra="grpc")
    host, port = settings.serve.host, settings.serve.grpc_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise ServeError(
            f"port {port} on {host} cannot be used for gRPC: {error.strerror}.",
            hint="Choose another one: serve.grpc_port in undrift.toml, UNDRIFT_SERVE__GRPC_PORT.",
        ) from error
    return held


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket; waits a moment for workers of a killed supervisor to leave the port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ServeError(f"serve.host = {host!r} is no address of this machine: {error.strerror}.") from error
    patience = time.monotonic() + BIND_SECONDS
    while True:
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE and time.monotonic() < patience:
                time.sleep(0.05)
                continue
            if error.errno == errno.EADDRINUSE:
                raise ServeError(
                    f"port {port} on {host} is in use by another process.",
                    hint="Stop that process, or choose another port: serve.port in undrift.toml, UNDRIFT_SERVE__PORT.",
                ) from error
            raise ServeError(f"port {port} on {host} cannot be used: {error.strerror}.") from error
        return listening


def _prepare(folder: Path, address: dict[str, Any]) -> None:
    """Make the folder, and remove what processes that are gone have left in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix in (".metrics", ".new") or (path.stem.isdigit() and not _alive(int(path.stem))):
                path.unlink(missing_ok=True)
        scratch = folder / "address.new"
        scratch.write_bytes(msgspec.json.encode(address))
        os.replace(scratch, folder / "address.json")
    except OSError as error:
        raise StateError(f"the state folder {folder} cannot be written: {error.strerror}.") from error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class _Worker:
    """One place for a worker process, and the process that fills it now."""

    def __init__(self, number: int, command: Sequence[str], listening: socket.socket, settings: Settings) -> None:
        self.number = number
        self._listening = listening
        self._command = [*command, "--worker", str(number), "--socket", str(listening.fileno())]
        self._settings = msgspec.json.encode(settings) + b"\n"
        # requests are what runs at once; threads of a library would wait for each other on cores that are taken
        self._environment = {**dict.fromkeys(THREADS, str(settings.serve.threads)), **os.environ}
        self._delay = FIRST_DELAY
        self._quick_ends, self._lasted = 0, False
        self._due: float | None = None
        self._start()

    @property
    def pid(self) -> int:
        """The process that is or was here last."""
        return self.process.pid

    @property
    def hopeless(self) -> bool:
        """Whether it never stayed up, and has tried often enough."""
        return not self._lasted and self._quick_ends >= HOPELESS

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, pass_fds=[self._listening.fileno()], env=self._environment
        )
        self._started, self._due = time.monotonic(), None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once; look_after sees that
            self.process.stdin.write(self._settings)
            self.process.stdin.flush()

    def look_after(self, folder: Path) -> None:
        """Start the process again when it has ended, later and later while it does not last."""
        now = time.monotonic()
        if self._due is not None:
            if now >= self._due:
                self._start()
            return
        code = self.process.poll()
        if code is None:
            self._lasted = self._lasted or now - self._started > QUICK_SECONDS
            return
        quick = now - self._started < QUICK_SECONDS
        self._quick_ends = self._quick_ends + 1 if quick else 0
        self._delay = min(self._delay * 2, LAST_DELAY) if quick else FIRST_DELAY
        self._due = now + self._delay
        notice("worker died", worker=self.number, worker_pid=self.pid, code=code, again_in=self._delay)
        self.close()
        for suffix in LEFT:
            (folder / f"{self.pid}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        """Close the pipe whose end tells the worker that the supervisor is gone."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()


def _end(workers: Sequence[_Worker], patience: float) -> None:
    """Let the workers drain; whoever needs longer than he may is killed."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.terminate()
    until = time.monotonic() + patience + 2.0
    for worker in workers:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            notice("worker killed", worker=worker.number, worker_pid=worker.pid)
            worker.process.kill()
            worker.process.wait()
        worker.close()
