"""A model that another server runs, behind undrift by its commands: what these tests share."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def until(met: Callable[[], Any], what: str, *, seconds: float = 90.0) -> Any:
    """The first result that is true; a bound on a wait, not a measure of time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = met()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"never {what}")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ended(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Project:
    """A project on disk, by its commands alone; its model has the folder's name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, folder.name
        folder.mkdir()

    def undrift(self, *words: str) -> str:
        command = [sys.executable, "-m", "undrift.app.cli", *words]
        env = {**os.environ, "UNDRIFT_TRUST__FORMATS": "onnx,upstream"}
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout} {done.stderr}"
        return done.stdout

    def serve(self) -> None:
        command = [sys.executable, "-m", "undrift.app.cli", "serve", "--port", "0"]
        env = {**os.environ, "UNDRIFT_TRUST__FORMATS": "onnx,upstream", "UNDRIFT_SERVE__POLL_SECONDS": "0.05"}
        with (self.folder.parent / "log").open("wb") as log:
            self.server = subprocess.Popen(command, cwd=self.folder, env=env, stderr=log)
        address = self.folder / ".undrift/serve/address.json"
        self.port = until(lambda: address.exists() and json.loads(address.read_text())["port"], "listening")
        until(lambda: answers(f"http://127.0.0.1:{self.port}/readyz"), "ready")

    def predict(self, rows: list[dict[str, Any]]) -> tuple[int, Any]:
        return self.post(f"/v1/models/{self.model}:predict", {"instances": rows})

    def label(self, labels: list[dict[str, Any]]) -> None:
        status, said = self.post(f"/v1/models/{self.model}/labels", {"labels": labels})
        assert status < 300, said

    def post(self, path: str, given: Any) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.port}{path}"
        body = json.dumps(given).encode()
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
