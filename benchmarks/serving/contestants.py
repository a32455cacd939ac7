"""Who is compared: how each server's environment is made, how it is started, and what one of its requests looks like.

Environments are made under `.bench/` of the repository, once. Nothing here is imported by undrift.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / ".bench"
LEARN = ["scikit-learn==1.9.1", "pandas", "lightgbm==4.7.0"]
ENVIRONMENTS = {
    "hand": ["onnxruntime==1.32.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0", "msgspec==0.22.0"],
    "fastapi": ["fastapi", "uvicorn", "uvloop", "httptools", *LEARN],
    "litserve": ["litserve", *LEARN],
    "bentoml": ["bentoml", *LEARN],
    "mlflow": ["mlflow", *LEARN],
    "mlserver": ["mlserver", *LEARN],
    "convert": [
        "skl2onnx==1.20.0",
        "onnxmltools",
        "onnxconverter-common",
        *LEARN,
    ],  # makes the hand-made server's models
}
NOISY = ("numpy.dtype", "sklearn._loss.link.LogitLink", "sklearn._loss.link.Interval",
         "sklearn._loss.loss.HalfBinomialLoss", "sklearn._loss._loss.CyHalfBinomialLoss",
         "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
         "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor")  # fmt: skip


def environment(name: str) -> Path:
    """The programs of an environment, which is made if it is not there."""
    folder = BENCH / name
    if not (folder / "ok").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [folder / "bin/pip", "install", "-q", "--disable-pip-version-check", *ENVIRONMENTS[name]]
        subprocess.run(install, check=True)
        (folder / "ok").touch()
    return folder / "bin"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


Row = dict[str, Any]


@dataclass
class Contestant:
    """A server: ``start`` gives its command, ``path`` and ``body`` a request of one row."""

    name: str
    start: Callable[[Path, int, Path], tuple[list[str], dict[str, str]]]
    path: str
    body: Callable[[Row, list[str], int], Any]
    native: bool = True
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    cold_seconds: float = field(default=0.0)

    def up(self, model: Path, scratch: Path) -> None:
        """Start it and wait for its first answer; the seconds that took are kept."""
        self.port = free_port()
        scratch.mkdir(parents=True, exist_ok=True)
        command, extra = self.start(model, self.port, scratch)
        row, columns = rows_of(model)
        began = time.monotonic()
        with (scratch / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=scratch, env={**os.environ, **extra}, stdout=log, stderr=log, start_new_session=True
            )
        data = json.dumps(self.body(row[0], columns, 0)).encode()
        while True:
            try:
                asked = urllib.request.Request(
                    f"http://127.0.0.1:{self.port}{self.path}", data, {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(asked, timeout=10) as answer:
                    answer.read()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() - began > 90:
                    raise SystemExit(f"{self.name} did not start; see {scratch / f'{self.name}.log'}") from None
                time.sleep(0.01)
        self.cold_seconds = time.monotonic() - began

    def down(self) -> None:
        """End it and all it started: they are a process group of their own."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None

    def _processes(self) -> list[Path]:
        """All that it started: its session, and the descendants that have left it (BentoML's workers do)."""
        assert self.process is not None
        parents, mine = dict[int, int](), set[int]()
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit():
                    number = int(folder.name)
                    parents[number] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                    if os.getsid(number) == self.process.pid:
                        mine.add(number)
            except OSError:
                continue
        while more := {child for child, parent in parents.items() if parent in mine and child not in mine}:
            mine |= more
        return [Path("/proc") / str(number) for number in sorted(mine)]

    def memory(self) -> float:
        """Proportional set size of all its processes, MiB."""
        total = 0
        for folder in self._processes():
            try:
                text = (folder / "smaps_rollup").read_text()
            except OSError:  # it has just ended
                continue
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total / 1024

    def cpu(self) -> float:
        """CPU seconds of all its processes so far."""
        ticks = 0
        for folder in self._processes():
            try:
                text = (folder / "stat").read_text()
            except OSError:
                continue
            fields = text.rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def rows_of(model: Path) -> tuple[list[Row], list[str]]:
    """The rows that are asked, and their columns in order."""
    told = json.loads((model / "rows.json").read_text())
    return told["rows"], told["columns"]


def _undrift(
    workers: int, weight: float = 1.0, **serve: Any
) -> Callable[[Path, int, Path], tuple[list[str], dict[str, str]]]:
    def start(model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
        import msgspec

        from undrift.inference.router import Placed, Route, RoutingTable

        state = scratch / ".undrift"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        bundle = str((model / "bundle").resolve())
        placed = tuple(Placed(revision=f"r-{n}", version=n, bundle="b" * 64, path=bundle) for n in (1, 2))
        # a canary: every request is assigned by the hash of its unit, and two models are loaded
        route = Route(model="bench", champion="r-1", candidate="r-2", weight=weight, salt="s", revisions=placed)
        (state / "routing.json").write_bytes(msgspec.json.encode(RoutingTable(epoch=1, routes=(route,))))
        more = "".join(f"{name} = {json.dumps(value)}\n" for name, value in serve.items())
        trust = f'[trust]\nformats = ["onnx", "skops"]\nskops_types = {json.dumps(NOISY)}\n'
        (scratch / "undrift.toml").write_text(f"[serve]\nport = {port}\nworkers = {workers}\n{more}{trust}")
        return [sys.executable, "-m", "undrift.serving.server"], {}

    return start


def _script(name: str, file: str) -> Callable[[Path, int, Path], tuple[list[str], dict[str, str]]]:
    def start(model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
        return [str(environment(name) / "python"), str(HERE / "peers" / file), str(model), str(port)], {}

    return start


def _bento(model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
    command = [str(environment("bentoml") / "bentoml"), "serve", "bento:Bench", "--port", str(port)]
    where = {"BENCH_MODEL": str(model), "BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(scratch / "bentoml")}
    path = f"{environment('bentoml')}:{os.environ['PATH']}"
    return [*command, "--working-dir", str(HERE / "peers"), "--host", "127.0.0.1"], {**where, "PATH": path}


def _mlflow(model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
    programs, saved = environment("mlflow"), scratch / f"mlflow-{model.name}"
    subprocess.run([programs / "python", HERE / "peers/flow.py", model, saved], check=True, capture_output=True)
    command = [str(programs / "mlflow"), "models", "serve", "-m", str(saved), "--env-manager", "local"]
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return [*command, "-h", "127.0.0.1", "-p", str(port), "-w", "1"], path


def _mlserver(model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
    folder = scratch / "mlserver"
    folder.mkdir(exist_ok=True)
    shutil.copy(HERE / "peers/ml.py", folder / "ml.py")
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
                "parallel_workers": 0, "debug": False}  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    of_model = {"name": "bench", "implementation": "ml.Pipeline", "max_batch_size": 64, "max_batch_time": 0.005,
                "parameters": {"uri": str(model / "model.joblib")}}  # fmt: skip
    (folder / "model-settings.json").write_text(json.dumps(of_model))
    return [str(environment("mlserver") / "mlserver"), "start", str(folder)], {"PYTHONPATH": str(folder)}


def _listed(row: Row, columns: list[str], _: int) -> Any:
    return {"instances": [[row[name] for name in columns]]}


def _named(row: Row, columns: list[str], number: int) -> Any:
    return {"instances": [{**row, "user": f"u{number}"}]}


def _tensors(row: Row, columns: list[str], _: int) -> Any:
    def tensor(name: str) -> Any:
        kind = "BYTES" if isinstance(row[name], str) else "FP64"
        return {"name": name, "shape": [1, 1], "datatype": kind, "data": [row[name]]}

    return {"inputs": [tensor(name) for name in columns]}


def contestants() -> dict[str, Contestant]:
    """All of them, by name."""
    everyone = [
        Contestant("undrift", _undrift(1), "/v1/models/bench:predict", _named),
        Contestant("undrift-canary", _undrift(1, 20.0), "/v1/models/bench:predict", _named),
        Contestant("undrift-2", _undrift(2), "/v1/models/bench:predict", _named),
        Contestant("undrift-power", _undrift(1, durability="power"), "/v1/models/bench:predict", _named),
        Contestant("undrift-thread", _undrift(1, inline=False), "/v1/models/bench:predict", _named),
        Contestant("hand", _script("hand", "hand.py"), "/", _named),
        Contestant("fastapi", _script("fastapi", "naive.py"), "/predict", _listed),
        Contestant("litserve", _script("litserve", "lit.py"), "/predict", _listed),
        Contestant("bentoml", _bento, "/predict", _listed),
        Contestant("mlflow", _mlflow, "/invocations", lambda row, columns, _: {
            "dataframe_split": {"columns": columns, "data": [[row[name] for name in columns]]}}),
        Contestant("mlserver", _mlserver, "/v2/models/bench/infer", _tensors),
    ]  # fmt: skip
    return {each.name: each for each in everyone}
