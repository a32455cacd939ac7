"""Small real models as bundles, and real servers on real sockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.features import Feature, FeatureView, Source, Transform
from undrift.develop.bundle import GoldenRow, Interface, write_bundle
from undrift.develop.compile import compile_model, run_onnx
from undrift.develop.importance import BACKGROUND_FILE, Background
from undrift.develop.rows import ask, encode, matrix
from undrift.develop.trust import save_model
from undrift.inference.router import Placed, Route, RoutingTable
from undrift.settings import TrustSettings

START = datetime(2013, 4, 1, tzinfo=UTC)
CALENDAR = "def of(row):\n    return {'weekend': float(row['at'].weekday() >= 5)}\n"
CARRIERS = ("AA", "DL", "UA")

WEATHER = Source(
    name="weather",
    contract=Contract(
        name="weather",
        fields=(
            Field(name="origin", type="string"),
            Field(name="seen_at", type="timestamp"),
            Field(name="temp", type="number", nullable=True),
        ),
    ),
    time="seen_at",
)
VIEW = FeatureView(name="weather", source="weather", entity="origin", features=(Feature(name="temp"),), ttl="3h")


def interface(task: str = "binary", **changes: Any) -> Interface:
    fields = (
        Field(name="flight", type="string", role="context"),
        Field(name="at", type="timestamp", role="context"),
        Field(name="origin", type="string", role="context"),
        Field(name="carrier", type="string", categories=CARRIERS),
        Field(name="distance", type="number", minimum=0.0, maximum=4983.0),
        Field(name="hour", type="integer", minimum=0, maximum=23, on_violation="reject"),
        Field(name="tail", type="string", role="context", nullable=True, personal=True),
    )
    values: dict[str, Any] = {
        "model": "flights",
        "task": task,
        "contract": Contract(name="flights", fields=fields),
        "label": {"binary": "late", "multiclass": "band", "regression": "delay"}[task],
        "classes": {"binary": ("0", "1"), "multiclass": ("low", "middle", "high"), "regression": ()}[task],
        "key": "flight",
        "time": "at",
        "views": (VIEW,),
        "transforms": (
            Transform(name="calendar", function="calendar_of:of", inputs=("at",), outputs=(Feature(name="weekend"),)),
        ),
        **changes,
    }
    return Interface(**values)


def flights(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Request rows; flight numbers go on from ``start``."""
    return [
        {
            "flight": f"f{number}",
            "at": (START + timedelta(minutes=number)).isoformat(),
            "origin": ("JFK", "LGA", "EWR")[number % 3],
            "carrier": CARRIERS[number % 3],
            "distance": 200.0 + number % 1000,
            "hour": number % 24,
        }
        for number in range(start, start + n)
    ]


def _fitted(declared: Interface, seed: int) -> tuple[Any, dict[str, list[Any]]]:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rng, n = np.random.default_rng(seed), 400
    columns: dict[str, list[Any]] = {
        "carrier": rng.choice(CARRIERS, n).tolist(),
        "distance": rng.uniform(100, 3000, n).tolist(),
        "hour": rng.integers(0, 24, n).tolist(),
        "temp": rng.normal(15, 8, n).tolist(),
        "weekend": rng.integers(0, 2, n).astype(float).tolist(),
    }
    order = [given.name for given in declared.inputs]
    encoded = {given.name: encode(columns[given.name], given.type) for given in declared.inputs}
    X = matrix(declared.inputs, encoded)
    noise = rng.normal(0, 1, n)
    value = np.array(columns["hour"]) / 6 + (np.array(columns["carrier"]) == "UA") + noise
    y: Any = {
        "binary": (value > 2.5).astype(int),
        "multiclass": np.where(value > 3, "high", np.where(value > 1, "middle", "low")),
        "regression": value,
    }[declared.task]
    numbers = [i for i, name in enumerate(order) if name != "carrier"]
    steps = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore"), [order.index("carrier")]),
            ("number", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        ]
    )
    last = Ridge() if declared.task == "regression" else LogisticRegression()
    return make_pipeline(steps, last).fit(X, y), columns


def make_bundle(
    folder: Path, declared: Interface, *, seed: int = 0, native: bool = False, code: str = CALENDAR
) -> Path:
    """A bundle of a logistic or ridge regression that was compiled, or is kept as scikit-learn made it."""
    model, columns = _fitted(declared, seed)
    encoded = {
        given.name: np.asarray(encode(columns[given.name], given.type), object if given.type == "string" else float)
        for given in declared.inputs
    }
    classes = [str(name) for name in getattr(model, "classes_", ())]
    trained = lambda given: ask(model, declared.task, matrix(declared.inputs, given))  # noqa: E731
    format_, content = save_model(model, TrustSettings(skops_types=("numpy.dtype",)))
    models, serving = {format_: content}, trained
    if not native:
        compiled = compile_model(model, declared, trained, encoded, classes)
        assert compiled.parity.held, compiled.parity.reason
        models, serving = {"onnx": compiled.content}, run_onnx(compiled.content, declared)
    raw = serving(encoded)[:20].reshape(20, -1)
    if declared.task == "multiclass":
        raw = raw[:, [classes.index(name) for name in declared.classes]]
    golden = [
        GoldenRow(inputs={name: values[i] for name, values in columns.items()}, raw=raw[i].tolist()) for i in range(20)
    ]
    write_bundle(
        folder, interface=declared, format=next(iter(models)), native=format_, models=models, profile="{}",
        golden=golden, code={"calendar_of": code} if declared.transforms else {}, outputs=classes,
        beside={BACKGROUND_FILE: msgspec.json.encode(Background.of_table(declared, pa.table(columns)))},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles by name: two good ones, one that raises for every row, other tasks, and one that is not compiled."""
    root = tmp_path_factory.mktemp("bundles")
    raising = "def of(row):\n    raise ValueError('no calendar here')\n"
    return {
        "r-one": make_bundle(root / "one", interface()),
        "r-two": make_bundle(root / "two", interface(), seed=7),
        "r-raises": make_bundle(root / "raises", interface(), seed=3, code=raising),
        "r-native": make_bundle(root / "native", interface(), native=True),
        "r-bands": make_bundle(root / "bands", interface("multiclass", model="bands")),
        "r-delay": make_bundle(root / "delay", interface("regression", model="delay", key="")),
    }


def placed(name: str, path: Path, version: int) -> Placed:
    return Placed(revision=name, version=version, bundle="b" * 64, path=str(path))


Routed = Callable[..., Route]


@pytest.fixture(scope="session")
def routed(bundles: dict[str, Path]) -> Routed:
    """A route from names of bundles."""

    def make(
        champion: str, candidate: str = "", weight: float = 0.0, *, model: str = "flights", **paths: Path
    ) -> Route:
        known = {**bundles, **{name.replace("_", "-"): path for name, path in paths.items()}}
        names = [name for name in (champion, candidate) if name]
        return Route(
            model=model, champion=champion, candidate=candidate, weight=weight, salt="salt",
            revisions=tuple(placed(name, known[name], version) for version, name in enumerate(names, 1)),
        )  # fmt: skip

    return make


def write_table(path: Path, epoch: int, *routes: Route) -> None:
    table = RoutingTable(epoch=epoch, routes=routes, sources=(WEATHER,), views=(VIEW,))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.write_bytes(msgspec.json.encode(table))
    os.replace(scratch, path)


class Server:
    """`undrift serve` of a project folder, as a process; its lines on stderr are kept."""

    def __init__(self, folder: Path, settings: str = "", **process: Any) -> None:
        self.folder, self._settings, self._process = folder, settings, process
        self.lines: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self.port = 0
        self.client = httpx.Client()

    def start(self, *, ready: bool = True) -> Server:
        port = f"port = {self.port}\n"
        (self.folder / "undrift.toml").write_text(f"[serve]\n{port}poll_seconds = 0.02\n{self._settings}\n")
        self.lines.clear()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "undrift.serving.server"],
            cwd=self.folder, stderr=subprocess.PIPE, text=True, **self._process,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        self.port = self.wait_for("listening")["port"]
        self.client.close()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        if ready:
            self.wait(lambda: self.try_get("/readyz") == 200, "ready")
        return self

    def _read(self, stream: Any) -> None:
        for line in stream:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.noise.append(line)
        stream.close()

    def try_get(self, path: str) -> int:
        try:
            return self.client.get(path).status_code
        except httpx.TransportError:
            return 0

    def wait(self, met: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + 60
        while not met():
            assert time.monotonic() < until, f"never {what}; {self.lines} {self.noise}"
            assert self.process.poll() is None or what == "ended", f"ended: {self.lines} {self.noise}"
            time.sleep(0.02)

    def wait_for(self, event: str, **having: Any) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [n for n in list(self.lines) if n["event"] == event and having.items() <= n.items()]

        self.wait(found, f"{event} {having}")
        return found()[-1]

    def workers(self) -> list[int]:
        return [line["pid"] for line in self.lines if line["event"] == "started"]

    def acks(self) -> list[dict[str, Any]]:
        files = [p for p in (self.folder / ".undrift/serve").glob("*.json") if p.stem.isdigit()]
        return [json.loads(path.read_text()) for path in files]

    def route(self, epoch: int, *routes: Route) -> None:
        """Replace the routing table and wait until every worker follows it."""
        write_table(self.folder / ".undrift/routing.json", epoch, *routes)
        alive = len(self.acks())
        self.wait(lambda: [ack["epoch"] for ack in self.acks()] == [epoch] * max(alive, 1), f"at epoch {epoch}")

    def predict(self, rows: list[dict[str, Any]], model: str = "flights", **headers: str) -> httpx.Response:
        return self.client.post(f"/v1/models/{model}:predict", json={"instances": rows}, headers=headers)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(timeout=30)
        self._reader.join(timeout=10)
        self.client.close()
        return code


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers: ``serve(route, ..., settings=..., **Popen options)``; all are stopped at the end."""
    servers: list[Server] = []

    def make(*routes: Route, settings: str = "", ready: bool = True, **process: Any) -> Server:
        if routes:
            write_table(tmp_path / ".undrift/routing.json", 1, *routes)
        server = Server(tmp_path, settings, **process)
        servers.append(server)
        return server.start(ready=ready)

    yield make
    for server in servers:
        if hasattr(server, "process"):
            server.stop()
