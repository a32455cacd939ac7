"""A burst of requests against a real server of a stage, on loopback and bounded: answered, refused, captured."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.errors import ServeError
from undrift.rehearse.scratch import plain_environ
from undrift.rehearse.stage import Stage

__all__ = ["Burst", "Load"]

SECONDS: Final = 3.0
ROWS: Final = 16
"""Rows in each request of the burst."""
PATIENCE: Final = 60.0
DEADLINE_MS: Final = 2000


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a burst. Times in milliseconds, memory in MB."""

    answered: int
    refused: int
    broken: int
    captured: int
    alive: bool
    usual_ms: float
    slowest_ms: float
    grown_mb: float

    @property
    def sound(self) -> bool:
        """Nothing broke or was lost: every request has an answer or a refusal, every answer was captured."""
        return self.alive and self.broken == 0 and self.answered > 0 and self.captured >= self.answered

    def __str__(self) -> str:
        counts = f"{self.answered} rows answered and {self.captured} captured, {self.refused} requests refused"
        times = f"usually {self.usual_ms:.1f} ms, slowest {self.slowest_ms:.0f} ms"
        return f"{counts} with 503 or 504, {self.broken} broken; {times}; memory grew by {self.grown_mb:.0f} MB"


class Load:
    """A server of the stage's copy, and connections that all ask at once."""

    def __init__(self, stage: Stage, *, connections: int) -> None:
        self._stage, self._connections = stage, connections
        self._root = Path(stage.project.settings.root)
        settings = stage.project.settings
        self._address = settings.path(settings.stores.spool).parent / "serve" / "address.json"
        self._rows = [
            {name: value for name, value in row.inputs.items() if value is not None}
            for row in stage.material.rows[:2000]
        ]
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._statuses: list[tuple[int, float]] = []
        self._answered = 0

    def _body(self, number: int) -> bytes:
        """A request of its own: its predictions have keys that no other has."""
        interface, rows = self._stage.interface, self._rows
        sent = [rows[(number * ROWS + place) % len(rows)] for place in range(ROWS)]
        if interface.key:
            text = self._stage.key_type == "string"
            first = number * ROWS
            sent = [
                {**row, interface.key: f"burst-{first + place}" if text else 10**9 + first + place}
                for place, row in enumerate(sent)
            ]
        return msgspec.json.encode({"instances": sent})

    def run(self) -> Burst:
        """Start, warm up, burst, end, and count what was captured.

        Raises
        ------
        ServeError : the server does not come up.
        """
        self._stage.project.publish_routes()
        log = (self._root / "serve.log").open("ab")
        child = subprocess.Popen(
            [sys.executable, "-m", "undrift.app.cli", "serve", "-C", str(self._root), "--port", "0"],
            stdout=log, stderr=log, env=plain_environ(), start_new_session=True,
        )  # fmt: skip
        try:
            port = self._port(child)
            usual = sorted(self._ask(port)[1] for _ in range(20))[10]
            before = _memory(child.pid)
            threads = [threading.Thread(target=self._storm, args=(port,)) for _ in range(self._connections)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            storm = list(self._statuses)
            grown = max(0.0, _memory(child.pid) - before)
            alive = child.poll() is None and self._ask(port)[0] == 200
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            log.close()
        answered = sum(status == 200 for status, _ in storm)
        refused = sum(status in (503, 504) for status, _ in storm)
        return Burst(
            answered=self._answered * ROWS,
            refused=refused,
            broken=len(storm) - answered - refused,
            captured=self._stage.captured(),
            alive=alive,
            usual_ms=usual * 1000,
            slowest_ms=max((seconds for _, seconds in storm), default=0.0) * 1000,
            grown_mb=grown,
        )

    def _port(self, child: subprocess.Popen[bytes]) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if child.poll() is not None:
                tail = (self._root / "serve.log").read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
                raise ServeError(f"`undrift serve` ended with code {child.returncode}.", hint=" | ".join(tail))
            try:
                port = int(json.loads(self._address.read_text(encoding="utf-8"))["port"])
                if self._ask(port)[0] == 200:
                    return port
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(0.05)
        raise ServeError(f"`undrift serve` did not answer within {PATIENCE:.0f} seconds.")

    def _storm(self, port: int) -> None:
        end = time.monotonic() + SECONDS
        found = []
        while time.monotonic() < end:
            found.append(self._ask(port))
        with self._lock:
            self._statuses += found

    def _ask(self, port: int) -> tuple[int, float]:
        """The status of one request and how long it took, in seconds; status 0 if the connection broke."""
        headers = {"content-type": "application/json", "x-request-timeout-ms": str(DEADLINE_MS)}
        path = f"/v1/models/{self._stage.interface.model}:predict"
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("POST", path, self._body(next(self._numbers)), headers)
            answer: Any = connection.getresponse()
            answer.read()
            with self._lock:
                self._answered += answer.status == 200
            return int(answer.status), time.monotonic() - begun
        except (OSError, http.client.HTTPException):
            return 0, time.monotonic() - begun
        finally:
            connection.close()


def _memory(pid: int) -> float:
    """Resident memory of a process and its children, in MB; 0 where the system does not tell."""
    total = 0.0
    try:
        children = {pid}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                parent = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid:
                    children.add(int(entry))
        for each in children:
            total += int(Path("/proc", str(each), "statm").read_text().split()[1]) * 4096 / 1e6
    except (OSError, ValueError, IndexError):
        return total
    return total
