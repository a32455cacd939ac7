"""A native model in a process of its own: the worker's end of it, and, run as a module, the process itself.

The Python code of a library and the sockets of a worker would take turns on one interpreter; apart they do not, and a
model that crashes takes no worker with it. Batches go over a pair of sockets as MessagePack; what forms them stands in
batcher.py, what loads the model in predictor.py.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from undrift.develop.bundle import read_manifest
from undrift.errors import (
    CorruptModelError,
    ModelError,
    OverloadError,
    PredictionError,
    UndriftError,
    UntrustedModelError,
)
from undrift.inference.apart import read_frame, write_frame
from undrift.inference.predictor import Outputs, load
from undrift.settings import TrustSettings

__all__ = ["ModelProcess"]

LASTED_SECONDS: Final = 10.0
"""A process that ended later than this after its start is started again at once."""
_FIRST_DELAY, _LAST_DELAY = 0.1, 5.0
_KINDS: Final = {kind.__name__: kind for kind in (CorruptModelError, PredictionError, UntrustedModelError)}


class _Open(msgspec.Struct, frozen=True):
    folder: str
    trust: TrustSettings
    patience: float


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """What the process says: of the model once it is open, then of each batch; ``kind`` names the error, if any."""

    outputs: Outputs | None = None
    cpu: float = 0.0
    kind: str = ""
    error: str = ""
    hint: str = ""
    concurrency: int = 1

    def failure(self) -> ModelError:
        """The error that was raised over there."""
        return _KINDS.get(self.kind, ModelError)(self.error, hint=self.hint)


class ModelProcess:
    """A predictor whose model runs in a process that this one starts, and starts again when it ends.

    Parameters
    ----------
    folder : the bundle; its model has answered its golden requests over there before this returns.
    trust : what may be opened.
    patience : seconds that a batch may take; then the process is stuck, and killed.
    ended : is told why the process ended, when nobody asked it to.

    Raises
    ------
    ModelError, CorruptModelError, UntrustedModelError : as `inference.predictor.load`; a library that is not installed
        is a ModelError here, with the extra in its hint.
    """

    def __init__(
        self,
        folder: Path,
        trust: TrustSettings,
        *,
        patience: float = 60.0,
        ended: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.manifest = read_manifest(folder)
        self.apart_cpu = 0.0
        self._open = msgspec.msgpack.encode(_Open(str(folder), trust, patience))
        self._patience, self._ended = patience, ended
        self._encode, self._decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(_Told).decode
        self._process: subprocess.Popen[bytes] | None = None
        self._delay, self._due, self._started = 0.0, 0.0, 0.0
        self._closed = False
        self.concurrency = self._start().concurrency

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> Outputs:
        """See Predictor; called from one thread at a time.

        Raises
        ------
        OverloadError : the process ended under the batch, or just before; it is started again.
        """
        if self._process is None:
            self._again()
        told = self._exchange(self._encode(columns))
        self.apart_cpu += told.cpu
        if told.outputs is None:
            raise told.failure()
        return told.outputs

    def close(self) -> None:
        """End the process when it has answered what it is asked now."""
        self._closed = True
        process, self._process = self._process, None
        if process is not None:
            self._socket.shutdown(socket.SHUT_WR)
            threading.Thread(target=self._reap, args=(process,), daemon=True, name="reap-model").start()

    def _reap(self, process: subprocess.Popen[bytes]) -> int:
        code = process.wait()
        self._source.close()
        self._socket.close()
        return code

    def _start(self) -> _Told:
        self._socket, theirs = socket.socketpair()
        self._source = cast("Any", self._socket.makefile("rb"))
        self._started = time.monotonic()
        with theirs:  # what it prints stands beside the lines of the worker's life, not in the access log
            self._process = subprocess.Popen(
                [sys.executable, "-m", "undrift.inference.model_process"], stdin=theirs.fileno(), stdout=2
            )
        told = self._exchange(self._open)
        if told.error:
            process, self._process = self._process, None
            self._reap(process)
            raise told.failure()
        self._socket.settimeout(self._patience)  # opening takes as long as it takes
        return told

    def _again(self) -> None:
        """Start it again, later and later while it does not last."""
        wait = self._due - time.monotonic()
        if self._closed or wait > 0:
            raise OverloadError("the model's process ended; it is started again.", retry_after=max(wait, 0.1))
        try:
            self._start()
        except ModelError as error:
            self._later()
            raise OverloadError(f"the model's process cannot be started again: {error.message}") from error

    def _exchange(self, content: bytes) -> _Told:
        process = self._process
        assert process is not None
        try:
            self._socket.sendall(write_frame(content))
            answer = read_frame(self._source)
            stuck = False
        except OSError as error:
            answer, stuck = None, isinstance(error, TimeoutError)
        if answer is not None:
            return self._decode(answer)
        if self._closed:
            raise OverloadError("the revision was just replaced.", retry_after=0.1)
        process.kill()
        code = self._reap(process)
        self._process = None
        self._later()
        why = f"answered nothing for {self._patience:g} seconds" if stuck else f"ended with code {code}"
        self._ended(why)
        raise OverloadError(f"the model's process {why}; it is started again.")

    def _later(self) -> None:
        now = time.monotonic()
        lasted = now - self._started > LASTED_SECONDS
        self._delay = 0.0 if lasted else min(max(2 * self._delay, _FIRST_DELAY), _LAST_DELAY)
        self._due = now + self._delay


def _fault(error: BaseException) -> _Told:
    if isinstance(error, UndriftError):
        return _Told(kind=type(error).__name__, error=error.message, hint=error.hint)
    first = " ".join(str(error).split())[:300]
    return _Told(kind="PredictionError", error=f"the model raised while predicting: {type(error).__name__}: {first}.")


def _leave(end: socket.socket, patience: float) -> None:
    """Wait for the worker to hang up; whoever then still computes for so long ends anyway."""
    watch = select.poll()
    watch.register(end, select.POLLRDHUP)
    watch.poll()
    time.sleep(patience)
    os._exit(1)


def _run(end: socket.socket) -> None:
    """Be the process: the first message says which bundle, each further one holds columns."""
    for sig in (signal.SIGINT, signal.SIGTERM):  # meant for the worker; when that has drained it hangs up
        signal.signal(sig, signal.SIG_IGN)
    encode = msgspec.msgpack.Encoder().encode
    source = cast("Any", end.makefile("rb"))
    first = read_frame(source)
    if first is None:
        return
    asked = msgspec.msgpack.decode(first, type=_Open)
    threading.Thread(target=_leave, args=(end, asked.patience), daemon=True, name="worker-watch").start()
    try:
        predictor = load(Path(asked.folder), asked.trust)
    except Exception as error:  # noqa: BLE001  told to the worker, which raises it
        end.sendall(write_frame(encode(_fault(error))))
        return
    end.sendall(write_frame(encode(_Told(concurrency=getattr(predictor, "concurrency", 1)))))
    read = msgspec.msgpack.Decoder(dict[str, list[Any]]).decode
    while (content := read_frame(source)) is not None:
        began = time.process_time()
        try:
            told = _Told(predictor.predict(read(content)), time.process_time() - began)
        except Exception as error:  # noqa: BLE001  whatever a model raises is the answer to this batch
            told = msgspec.structs.replace(_fault(error), cpu=time.process_time() - began)
        end.sendall(write_frame(encode(told)))


if __name__ == "__main__":
    _run(socket.socket(fileno=os.dup(0)))
