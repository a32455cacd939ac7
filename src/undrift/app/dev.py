"""Several processes as one: their lines with the name of the writer, and all of them ended together.

Each child is in a process group of its own, so a Ctrl-C in the terminal reaches only this process, which then lets
every child finish in order. Restarting children is not done here: what dies in `undrift dev` should be seen.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

__all__ = ["Child", "run"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK: Final = 0.2


class Child(NamedTuple):
    """A process to run, and the name its lines bear."""

    name: str
    command: tuple[str, ...]


def run(
    children: Sequence[Child],
    say: Callable[[str, str], None],
    *,
    environ: Mapping[str, str] | None = None,
    patience: float = 15.0,
) -> int:
    """Run processes until one ends or this one is told to stop; then end the others.

    Parameters
    ----------
    say : takes the name and the line, from this thread only.
    environ : the variables of the children; those of this process if left out.
    patience : seconds a child has, after SIGTERM, before it is killed.

    Returns
    -------
    0 when told to stop; else the exit code of the child that ended first, or 1 where that was 0 (it should not end).
    """
    lines: queue.Queue[tuple[str, str]] = queue.Queue()
    told: list[int] = []

    def stop(number: int, frame: Any) -> None:
        told.append(number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    running: dict[str, subprocess.Popen[str]] = {}
    readers: list[threading.Thread] = []
    try:
        for child in children:
            running[child.name] = _start(child, environ)
            readers.append(threading.Thread(target=_read, args=(child.name, running[child.name], lines), daemon=True))
            readers[-1].start()
        first = _watch(running, lines, say, told)
        if first:
            code = running[first].returncode
            say("dev", f"{first} ended ({_ending(code)}); ending the others")
            return abs(code) or 1
        say("dev", "ending")
        return 0
    finally:
        _end(running, lines, say, told, patience)
        for reader in readers:
            reader.join(timeout=1.0)  # all writers of the pipe are gone
        while not lines.empty():
            say(*lines.get())
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(child: Child, environ: Mapping[str, str] | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        child.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=None if environ is None else dict(environ),
        process_group=0,
    )


def _read(name: str, process: subprocess.Popen[str], lines: queue.Queue[tuple[str, str]]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put((name, line.rstrip("\n")))


def _watch(
    running: Mapping[str, subprocess.Popen[str]],
    lines: queue.Queue[tuple[str, str]],
    say: Callable[[str, str], None],
    told: Sequence[int],
) -> str:
    """The name of the first child that ended, or nothing when told to stop."""
    while not told:
        with suppress(queue.Empty):
            say(*lines.get(timeout=_LOOK))
            continue
        for name, process in running.items():
            if process.poll() is not None:
                return name
    return ""


def _end(
    running: Mapping[str, subprocess.Popen[str]],
    lines: queue.Queue[tuple[str, str]],
    say: Callable[[str, str], None],
    told: Sequence[int],
    patience: float,
) -> None:
    """SIGTERM to all, their last lines, SIGKILL to those that stay; a second Ctrl-C waits no longer."""
    for process in running.values():
        if process.poll() is None:
            process.terminate()
    asked, deadline = len(told), time.monotonic() + patience
    while any(p.poll() is None for p in running.values()) and time.monotonic() < deadline and len(told) == asked:
        with suppress(queue.Empty):
            say(*lines.get(timeout=_LOOK))
    for name, process in running.items():
        if process.poll() is None:
            say("dev", f"{name} did not end in time: killing it")
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind, too
        process.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
