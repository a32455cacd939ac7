"""The server's end of the process that explains: started at the first request, ended when idle, killed when stuck.

Explaining loads libraries of hundreds of megabytes and computes for as long as it may, so it never happens in the
process that predicts. One request is explained at a time; those that wait are bounded in number and in time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, BinaryIO, Final

import msgspec

from undrift.develop.explanation import Explanation
from undrift.errors import DeadlineError, ModelError, OverloadError, RequestError, StateError
from undrift.settings import TrustSettings

__all__ = ["Apart", "Asked", "Told", "read_frame", "write_frame"]

_MARGIN: Final = 0.05
"""Seconds that are left for the way back when sampling ends at the deadline."""
_STUCK: Final = 30.0
"""Seconds after its deadline at which a request that is still being explained costs the process its life."""
_FRAME: Final = 4
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the process: rows of one bundle, as one list per input, and the seconds it may take."""

    folder: str
    columns: dict[str, list[Any]]
    method: str
    label: str
    seconds: float
    trust: TrustSettings


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: explanations, or the message (with ``path`` where the request is wrong) of why there are none."""

    explanations: list[Explanation] = []
    error: str = ""
    hint: str = ""
    path: str = ""


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next message: four bytes of length, then so many; None at the end of the stream."""
    head = stream.read(_FRAME)
    if len(head) < _FRAME:
        return None
    size = int.from_bytes(head, "big")
    content = stream.read(size)
    return content if len(content) == size else None


def write_frame(content: bytes) -> bytes:
    """A message as it goes over the pipe."""
    return len(content).to_bytes(_FRAME, "big") + content


class Apart:
    """A process that explains, as one worker of a server sees it.

    Parameters
    ----------
    trust : what it may open.
    max_queue : most requests that wait while one is explained.
    idle_seconds : after which it is ended, and its memory given back.
    """

    def __init__(self, trust: TrustSettings, *, max_queue: int, idle_seconds: float) -> None:
        self._trust, self._max_queue, self._idle_seconds = trust, max_queue, idle_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._said: IO[bytes] | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[Told]] = set()
        self._decoder = msgspec.msgpack.Decoder(Told)

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    async def explain(
        self, folder: str, columns: Mapping[str, Sequence[Any]], *, method: str, label: str, deadline: float
    ) -> list[Explanation]:
        """Explain rows of the bundle in a folder.

        Parameters
        ----------
        deadline : reading of ``time.monotonic()``; sampling ends in time for it and says that it is coarse.

        Raises
        ------
        OverloadError : too many wait already.
        DeadlineError : there is no answer in time.
        RequestError : the method or label asked for does not apply.
        ModelError : the model cannot be explained.
        StateError : the process ended; the next request starts another.
        """
        if self._waiting > self._max_queue:
            raise OverloadError(f"{self._waiting} requests wait to be explained, as many as explain.max_queue allows.")
        self._waiting += 1
        try:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._lock.acquire()
            except TimeoutError:
                raise DeadlineError("the time passed while the request waited to be explained.") from None
            given = {name: list(values) for name, values in columns.items()}
            work = asyncio.create_task(self._exchange(folder, given, method, label, deadline))
            self._running.add(work)
            work.add_done_callback(self._done)
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    told = await asyncio.shield(work)
            except TimeoutError:
                raise DeadlineError(
                    "the explanation was not ready in time; the first of a model takes some seconds."
                ) from None
        finally:
            self._waiting -= 1
        if told.path:
            raise RequestError(told.error, path=told.path, hint=told.hint)
        if told.error:
            raise ModelError(told.error, hint=told.hint)
        return told.explanations

    def _done(self, work: asyncio.Task[Told]) -> None:
        self._running.discard(work)
        if not work.cancelled():
            work.exception()  # whoever waited has seen it, or has gone
        self._lock.release()
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self.close)

    async def _exchange(
        self, folder: str, columns: dict[str, list[Any]], method: str, label: str, deadline: float
    ) -> Told:
        process = self._process
        if process is None or process.returncode is not None:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  what it prints tells why it ended
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "undrift.inference.explain",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._said,
                env={**os.environ, **_ONE_THREAD},
            )  # fmt: skip
        source, target = process.stdout, process.stdin
        if source is None or target is None:
            raise StateError("the process that explains has no pipes.")
        seconds = max(0.0, deadline - time.monotonic() - _MARGIN)
        asked = Asked(
            folder=folder, columns=columns, method=method, label=label, seconds=seconds, trust=self._trust
        )  # fmt: skip
        try:
            async with asyncio.timeout(seconds + _STUCK):
                target.write(write_frame(msgspec.msgpack.encode(asked)))
                await target.drain()
                size = int.from_bytes(await source.readexactly(4), "big")
                return self._decoder.decode(await source.readexactly(size))
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            if process.returncode is None:
                process.kill()
            await process.wait()
            self._process = None
            raise StateError(
                f"the process that explains ended{self._last_words()}; the next request starts another."
            ) from error

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f" ({last[:200]})" if last else ""

    def close(self) -> None:
        """End the process, if there is one: its input ends, and it with it."""
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
