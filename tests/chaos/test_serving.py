"""Kill -9 of servers and of ingest under load: what was answered or accepted is in the lake exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from undrift.capture.ingest import Ingest
from undrift.capture.spool import TAKEN
from undrift.develop.bundle import read_manifest
from undrift.ids import SystemClock
from undrift.inference.router import pick
from undrift.state.journal import Journal
from undrift.state.lake import DeltaLake
from undrift.state.sql import SqliteStore

from servers import WEATHER, Routed, Serve, Server, flights  # isort: skip

pytestmark = pytest.mark.chaos


class Traffic:
    """Clients that predict and then label, each row until it is answered, over connections that are kept."""

    def __init__(self, port: int, clients: int = 4, *, patient: bool = True) -> None:
        self.port, self.patient = port, patient
        self.answered: dict[str, dict[str, Any]] = {}
        self.labelled: set[str] = set()
        self.sent: set[str] = set()
        self.failures: list[str] = []
        self.epochs: list[tuple[int, set[str]]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, client: int) -> None:
        number = client * 1_000_000
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30) as http:
            while not self._stop.is_set():
                rows = flights(5, number)
                number += 5
                self.sent |= {row["flight"] for row in rows}
                answer = self._until(http, "/v1/models/flights:predict", {"instances": rows})
                if answer is None:
                    continue
                body = answer.json()
                self.epochs.append((int(answer.headers["x-undrift-epoch"]), {r["revision"] for r in body["rows"]}))
                self.answered.update(
                    {r["id"]: {**r, **p} for r, p in zip(body["rows"], body["predictions"], strict=True)}
                )
                labels = [{"id": r["id"], "label": "1", "event_time": n} for n, r in enumerate(body["rows"])]
                if self._until(http, "/v1/models/flights/labels", {"labels": labels}) is not None:
                    self.labelled |= {label["id"] for label in labels}

    def _until(self, http: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response | None:
        """The answer; a patient client asks again when there is none, as after the death of a server."""
        while True:
            try:
                answer = http.post(path, json=body)
                if answer.status_code == 200:
                    return answer
                self.failures.append(f"{answer.status_code} {answer.text}")
            except httpx.TransportError as error:
                self.failures.append(repr(error))
            if not self.patient or self._stop.is_set():
                return None
            time.sleep(0.02)


INGEST = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_serving import ingest_of
ingest = ingest_of(Path(sys.argv[2]), Path(sys.argv[3]))
print("up", flush=True)
while True:
    ingest.cycle()
"""


def ingest_of(folder: Path, bundle: Path) -> Ingest:
    clock = SystemClock()
    return Ingest(
        folder / ".undrift/spool",
        DeltaLake(folder / ".undrift/lake"),
        Journal(SqliteStore(folder / ".undrift/undrift.db"), clock),
        lambda revision: read_manifest(bundle),
        {"weather": WEATHER},
    )


def start_ingest(folder: Path, bundle: Path) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    environ = {**os.environ, "PYTHONPATH": str(here.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", INGEST, str(here), str(folder), str(bundle)],
        env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def alive(server: Server) -> list[int]:
    return [ack["pid"] for ack in server.acks()]


def test_killing_workers_supervisors_and_ingest_loses_and_doubles_nothing(
    serve: Serve, routed: Routed, bundles: dict[str, Path], tmp_path: Path
) -> None:
    chance = random.Random(4)
    server = serve(routed("r-one", "r-two", 30.0), settings="workers = 2\nsegment_bytes = 50000\nsegment_seconds = 0.5")
    server.wait(lambda: len(server.acks()) == 2, "acknowledged twice")
    traffic = Traffic(server.port)
    ingest = start_ingest(tmp_path, bundles["r-one"])
    try:
        for _ in range(2):
            time.sleep(chance.uniform(0.3, 0.8))
            os.kill(chance.choice(alive(server)), signal.SIGKILL)
            time.sleep(chance.uniform(0.3, 0.8))
            kill(ingest)
            ingest = start_ingest(tmp_path, bundles["r-one"])
            time.sleep(chance.uniform(0.1, 0.5))
            server.process.kill()
            server.process.wait()
            server.start()
        time.sleep(0.5)
    finally:
        traffic.stop()
        kill(ingest)
    assert server.stop() == 0
    assert len(traffic.answered) > 100
    assert traffic.failures  # or nothing was killed under load
    last = ingest_of(tmp_path, bundles["r-one"])
    while last.cycle().rows:
        pass
    assert [each.name for each in (tmp_path / ".undrift/spool").iterdir()] == [TAKEN]
    lake = DeltaLake(tmp_path / ".undrift/lake")
    predictions, labels = lake.scan("predictions_flights"), lake.scan("labels_flights")
    assert predictions is not None
    assert labels is not None
    rows = predictions.to_pylist()
    twice = [name for name, n in Counter(row["prediction_id"] for row in rows).items() if n > 1]
    assert twice == []
    stored = {row["prediction_id"]: row for row in rows}
    assert traffic.answered.keys() <= stored.keys()
    assert stored.keys() <= traffic.sent
    for name, answer in traffic.answered.items():
        row = stored[name]
        assert (row["revision"], row["score"]) == (answer["revision"], answer["score"])
    landed = Counter(labels["prediction_id"].to_pylist())
    assert traffic.labelled <= landed.keys()
    assert set(landed.values()) == {1}


def test_changing_the_table_under_load_fails_and_mixes_nothing(serve: Serve, routed: Routed) -> None:
    routes = [routed("r-one"), routed("r-two"), routed("r-one", "r-two", 50.0)]
    server = serve(routes[0], settings="workers = 2\ntimeout_ms = 2000")
    server.wait(lambda: len(server.acks()) == 2, "acknowledged twice")
    traffic = Traffic(server.port, patient=False)
    try:
        for epoch in range(2, 14):
            server.route(epoch, routes[epoch % 3])
            time.sleep(0.1)
    finally:
        traffic.stop()
    assert traffic.failures == []
    assert {epoch for epoch, _ in traffic.epochs} >= {5, 6, 7, 8, 9, 10}
    for epoch, revisions in traffic.epochs:
        assert revisions <= {placed.revision for placed in routes[0 if epoch == 1 else epoch % 3].revisions}
    choices = {n: pick(routes[2], n).revision for n in traffic.answered}
    assert set(choices.values()) == {"r-one", "r-two"}


def test_ending_the_server_under_load_fails_no_request_that_it_took(
    serve: Serve, routed: Routed, bundles: dict[str, Path], tmp_path: Path
) -> None:
    server = serve(routed("r-one"), settings="workers = 2")
    limit = time.monotonic() + 30
    while len(list((tmp_path / ".undrift/serve").glob("[0-9]*.json"))) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    traffic = Traffic(server.port, patient=False)
    time.sleep(1.0)
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(30)
    traffic.stop()
    assert code == 0
    # once it listens no more, connecting fails; nothing that was connected is cut off
    assert {failure.partition("(")[0] for failure in traffic.failures} == {"ConnectError"}
    ingest = ingest_of(tmp_path, bundles["r-one"])
    assert ingest.cycle().predictions == len(traffic.answered)
