"""The access log: one JSON line on standard output per answer, written in groups by a thread.

A reader that is slow or gone costs lines, which are counted, and never an answer. Lines of the process's own life go to
standard error (telemetry.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

__all__ = ["AccessLog"]

MOST_WAITING: Final = 20_000
"""Lines that may wait to be written."""
EVERY_SECONDS: Final = 0.2

_encode: Final = msgspec.json.Encoder().encode


class AccessLog:
    """Collects lines and writes them.

    Parameters
    ----------
    file : the descriptor that is written to.
    lost : is told how many lines were dropped.
    """

    def __init__(self, file: int = 1, *, lost: Callable[[int], Any] = lambda n: None) -> None:
        self._file, self._lost = file, lost
        self._lines: list[bytes] = []
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def add(self, **fields: Any) -> None:
        """Add a line; it is dropped where too many wait already."""
        line = _encode({"at": datetime.now(UTC), "pid": os.getpid(), **fields})
        with self._guard:
            if len(self._lines) < MOST_WAITING:
                self._lines.append(line)
                return
        self._lost(1)

    def close(self, patience: float = 2.0) -> None:
        """Write what waits, for so many seconds at most."""
        self._closed = True
        self._wake.set()
        self._thread.join(patience)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(EVERY_SECONDS)
            self._write()
        self._write()

    def _write(self) -> None:
        with self._guard:
            lines, self._lines = self._lines, []
        if not lines:
            return
        rest = memoryview(b"\n".join(lines) + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:  # whoever read them is gone; serving goes on
            self._lost(len(lines))
