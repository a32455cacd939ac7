"""The real system under a demo or a rehearsal: `undrift serve` and `undrift work` as processes, and barriers of days.

A day's traffic is followed by a watermark; the next day begins when whatever its answers depend on is there: features,
and, while a rollout is under way, the routing table that came of judging it. So two runs take the same decisions, at
whatever speed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from undrift.deploy.routes import running
from undrift.errors import ServeError
from undrift.ids import to_micros
from undrift.inquiry import serving
from undrift.project import Project
from undrift.work import KINDS

__all__ = ["System", "free_port"]

PATIENCE: Final = 120.0
POLL: Final = 0.01


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class System:
    """The processes of one project.

    Parameters
    ----------
    project : open in this process, to read the event log.
    faults : file through which a silent failure is planted (see undrift.testing.FaultyPredictor).
    environ : variables of the processes; those of this one if None.
    """

    def __init__(self, project: Project, faults: Path, environ: Mapping[str, str] | None = None) -> None:
        self.project = project
        self.faults = faults
        self.environ = environ
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        """Start `serve` or `work`, with more words of its command line.

        What it prints goes to ``<name>.log`` in the project's folder.
        """
        root = Path(self.project.settings.root)
        with (root / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "undrift.app.cli", name, "-C", str(root), *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**(os.environ if self.environ is None else self.environ), "UNDRIFT_FAULTS": str(self.faults)},
                start_new_session=True,
            )

    def pid(self, name: str) -> int:
        """The process id of `serve` or `work`."""
        return self._children[name].pid

    def ready(self) -> None:
        """Wait until all server processes have taken the routing table that the log asks for."""
        wanted = self.project.settings.serve.workers
        epoch = self.project.publish_routes().epoch
        self._wait(
            lambda: len([row for row in serving(self.project) if row["epoch"] >= epoch]) >= wanted,
            f"{wanted} server processes with routing epoch {epoch}",
        )

    def followed(self, boundary: datetime) -> None:
        """Wait until the next day's answers can depend on nothing that is still to be decided.

        The tick of the boundary begins when all before it, retrains included, is done, and makes features first. What
        it judges then changes what is served only where a rollout is under way: only those wait for all of it.
        """
        micros = to_micros(boundary)
        known = self.project.journal.get_setting
        self._wait(lambda: (known("materialised") or 0) >= micros, f"the features of {boundary:%Y-%m-%d}")
        if running(self.project.journal):
            self.settled(boundary)
        else:
            self.ready()

    def settled(self, boundary: datetime) -> None:
        """Wait until the tick of a boundary is done and servers follow.

        A retrain that it asked for may go on: the next tick waits for it, and what comes of it gets no traffic before.
        """
        micros = to_micros(boundary)
        ticked = self.project.journal.get_setting
        self._wait(lambda: (ticked("ticked") or 0) >= micros, f"the tick of {boundary:%Y-%m-%d}")
        self.ready()

    def idle(self) -> None:
        """Wait until no job is left, and servers follow what came of them."""
        self._wait(lambda: not self.project.jobs.unfinished(KINDS), "the jobs of the last tick")
        self.ready()

    def _wait(self, met: object, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not met():  # type: ignore[operator]
            for name, child in self._children.items():
                if child.poll() is not None:
                    log = Path(self.project.settings.root) / f"{name}.log"
                    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
                    raise ServeError(f"`undrift {name}` ended with code {child.returncode}.", hint=" | ".join(tail))
            if time.monotonic() > end:
                raise ServeError(
                    f"waited {PATIENCE:.0f} seconds for {what} in vain.",
                    hint=f"The logs in {self.project.settings.root} (serve.log, work.log) say what happened.",
                )
            time.sleep(POLL)

    def kill(self, name: str) -> None:
        """End a process without warning, as a crash would."""
        self._children[name].send_signal(signal.SIGKILL)
        self._children.pop(name).wait()

    def stop(self) -> None:
        """Ask all processes to end, and wait for them."""
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self._children.values():
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
