"""Server processes: how they start, follow the table, drain, and what they say when something is in their way."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from undrift.capture.capture import PredictionRecord, drawn
from undrift.capture.spool import SpoolReader
from undrift.errors import ServeError
from undrift.serving.server import run
from undrift.serving.supervisor import supervise
from undrift.serving.telemetry import costs
from undrift.settings import load

from servers import Routed, Serve, flights, write_table  # isort: skip


def captured(folder: Path) -> list[str]:
    reader = SpoolReader(folder / ".undrift/spool")
    frames = [frame for name in reader.writers() for frame in reader.read(name).frames]
    return [r.id for frame in frames for r in frame.records if isinstance(r, PredictionRecord)]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_waits_for_a_table_and_then_answers(serve: Serve, routed: Routed) -> None:
    server = serve(ready=False)
    server.wait(lambda: server.try_get("/readyz") == 503, "up")
    assert server.predict(flights(1)).status_code == 503
    assert server.try_get("/healthz") == 200
    write_table(server.folder / ".undrift/routing.json", 1, routed("r-one"))
    server.wait(lambda: server.try_get("/readyz") == 200, "ready")
    assert server.predict(flights(1)).status_code == 200
    assert server.stop() == 0
    assert server.noise == []


def test_workers_share_the_port_and_tell_what_they_follow(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one", "r-two", 10.0), settings="workers = 2")
    server.wait(lambda: len(server.acks()) == 2, "acknowledged twice")
    assert {ack["pid"] for ack in server.acks()} == set(server.workers())
    assert {tuple(ack["revisions"]) for ack in server.acks()} == {("r-one", "r-two")}
    address = json.loads((server.folder / ".undrift/serve/address.json").read_text())
    assert (address["port"], address["pid"]) == (server.port, server.process.pid)
    assert server.stop() == 0
    assert list((server.folder / ".undrift/serve").glob("*.json")) == []


def test_clients_that_come_together_are_shared_out_among_the_workers(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"), settings="workers = 2")
    server.wait(lambda: len(server.acks()) == 2, "acknowledged twice")
    workers, fewest = server.workers(), 0
    for _ in range(10):
        before = [len(os.listdir(f"/proc/{worker}/fd")) for worker in workers]
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(16)]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n")
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        held = [len(os.listdir(f"/proc/{worker}/fd")) - n for worker, n in zip(workers, before, strict=True)]
        fewest += max(0, min(held))
        for client in clients:
            client.close()
        opened = sum(before) + 8  # a worker opens files of its own meanwhile
        server.wait(lambda: sum(len(os.listdir(f"/proc/{w}/fd")) for w in workers) <= opened, "closed")  # noqa: B023
    assert fewest > 0, "of ten bursts, none was shared"
    assert server.stop() == 0


def test_a_table_that_cannot_be_read_changes_nothing(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"))
    (server.folder / ".undrift/routing.json").write_text("{")
    problem = server.wait_for("problem", what="table")
    assert "no routing table" in problem["why"]
    assert server.predict(flights(1)).status_code == 200
    assert "no routing table" in server.client.get("/readyz").json()["problems"]["table"]
    server.route(2, routed("r-two"))
    assert server.predict(flights(1)).json()["rows"][0]["revision"] == "r-two"
    assert server.client.get("/readyz").json()["problems"] == {}


def corrupt(bundle: Path, folder: Path) -> Path:
    shutil.copytree(bundle, folder)
    (folder / "model.onnx").write_bytes(b"not what it was")
    return folder


def test_a_corrupt_model_keeps_the_last_good_state_and_says_so(
    serve: Serve, routed: Routed, bundles: dict[str, Path], tmp_path: Path
) -> None:
    server = serve(routed("r-one"), routed("r-delay", model="delay"))
    bad = corrupt(bundles["r-two"], tmp_path / "bad")
    routes = (routed("r-one", "r-bad", 100.0, r_bad=bad), routed("r-delay", model="delay"))
    write_table(server.folder / ".undrift/routing.json", 2, *routes)
    assert "not the file that was registered" in server.wait_for("problem", what="flights")["why"]
    assert server.predict(flights(1)).json()["rows"][0]["revision"] == "r-one"
    ready = server.client.get("/readyz")
    assert ready.status_code == 200
    assert "r-bad" in ready.json()["problems"]["flights"]
    assert {name: model["epoch"] for name, model in ready.json()["models"].items()} == {"flights": 1, "delay": 2}
    assert [ack["epoch"] for ack in server.acks()] == [1]  # nobody takes the candidate for loaded
    shutil.rmtree(bad)
    shutil.copytree(bundles["r-two"], bad)
    server.route(3, *routes)
    assert server.predict(flights(1)).json()["rows"][0]["revision"] == "r-bad"


def test_a_cold_start_with_a_corrupt_candidate_serves_the_champion(
    serve: Serve, routed: Routed, bundles: dict[str, Path], tmp_path: Path
) -> None:
    bad = corrupt(bundles["r-two"], tmp_path / "bad")
    server = serve(routed("r-one", "r-bad", 100.0, r_bad=bad), routed("r-gone", model="lost", r_gone=tmp_path / "no"))
    assert server.predict(flights(1)).json()["rows"][0]["variant"] == "champion"
    assert server.predict(flights(1), "lost").status_code == 503
    assert set(server.client.get("/readyz").json()["problems"]) == {"flights", "lost"}


def test_a_revision_that_is_not_routed_to_is_let_go(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"), settings="timeout_ms = 50")
    server.route(2, routed("r-two"))
    server.wait_for("retired", revision="r-one")
    server.wait(lambda: [ack["revisions"] for ack in server.acks()] == [["r-two"]], "said so in its ack")
    server.route(3, routed("r-one"))
    assert server.predict(flights(1)).json()["rows"][0]["revision"] == "r-one"


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environ = {"UNDRIFT_SERVE__PORT": str(port)}
        with pytest.raises(ServeError, match=f"port {port} on 127.0.0.1 is in use"):
            run(load(None, environ))
        (tmp_path / "undrift.toml").touch()
        done = subprocess.run(
            [sys.executable, "-m", "undrift.serving.server"],
            cwd=tmp_path, env={**os.environ, **environ}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"port {port}" in json.loads(line)["error"]


def test_a_host_that_is_not_here_is_an_error() -> None:
    with pytest.raises(ServeError, match="cannot be used"):
        run(load(None, {"UNDRIFT_SERVE__HOST": "192.0.2.1"}))


def test_a_wrapper_that_is_not_there_is_said_and_can_be_mended(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"), ready=False, env={**os.environ, "UNDRIFT_SERVE__WRAPPER": "no.such:Thing"})
    assert "no.such" in server.wait_for("problem", what="flights")["why"]
    assert server.try_get("/readyz") == 503


def test_workers_that_cannot_start_end_the_server(tmp_path: Path) -> None:
    settings = load(None, {"UNDRIFT_SERVE__PORT": "0", "UNDRIFT_STORES__SPOOL": str(tmp_path / "spool")})
    with pytest.raises(ServeError, match="every worker ended"):
        supervise(settings, [sys.executable, "-c", "raise SystemExit(3)"])


def slow(folder: Path, seconds: float) -> dict[str, str]:
    """An environment in which the model takes its time, as long as the file is there."""
    (folder / "faults.json").write_text(json.dumps({"delay_ms": 1000 * seconds}))
    return {
        **os.environ,
        "UNDRIFT_SERVE__WRAPPER": "undrift.testing:FaultyPredictor",
        "UNDRIFT_FAULTS": str(folder / "faults.json"),
    }


def test_a_drain_answers_what_is_in_flight_and_what_still_comes_on_open_connections(
    serve: Serve, routed: Routed, tmp_path: Path
) -> None:
    server = serve(routed("r-one"), env=slow(tmp_path, 2.0))
    answers: list[httpx.Response] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as client:
            answers.append(client.post("/v1/models/flights:predict", json={"instances": flights(1, number)}))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    server.wait(lambda: len(_connections(server.port)) >= 5, "asked")
    time.sleep(1.0)  # the kernel connects before the server accepts; what it has not accepted is not in flight
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("draining")
    late = server.predict(flights(1, 99))  # on a connection that was open before
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 5
    assert (late.status_code, late.headers["connection"]) == (200, "close")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{server.port}/healthz")
    assert server.process.wait(30) == 0
    assert sorted(captured(tmp_path)) == sorted([*(f"f{n}" for n in range(5)), "f99"])


def _connections(port: int) -> list[str]:
    """Established connections of the server's side."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[2] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]


def test_a_request_that_takes_too_long_is_a_504_and_the_queue_is_bounded(
    serve: Serve, routed: Routed, tmp_path: Path
) -> None:
    server = serve(routed("r-one"), settings="max_queue = 2\nmax_batch = 1", env=slow(tmp_path, 1.0))
    assert server.predict(flights(1), **{"x-request-timeout-ms": "50"}).status_code == 504
    codes: list[int] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as client:
            answer = client.post("/v1/models/flights:predict", json={"instances": flights(2, number)})
            codes.append(answer.status_code)
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {200, 503}
    assert server.try_get("/healthz") == 200


def test_a_candidate_that_hangs_is_covered_by_the_champion(serve: Serve, routed: Routed, tmp_path: Path) -> None:
    server = serve(routed("r-one", "r-two", 100.0), settings="timeout_ms = 1000", env=slow(tmp_path, 0.0))
    assert server.predict(flights(1)).json()["rows"][0]["variant"] == "candidate"
    # only rows of one carrier are slow, and only the first call of them: the champion's comes after
    (tmp_path / "faults.json").write_text(json.dumps({"delay_ms": 700, "where": {"carrier": ["AA"]}}))
    threading.Timer(0.3, lambda: (tmp_path / "faults.json").unlink()).start()
    body = server.predict(flights(1)).json()
    assert body["rows"][0]["variant"] == "champion"


def test_a_full_disk_refuses_answers_that_could_not_be_recorded(serve: Serve, routed: Routed, tmp_path: Path) -> None:
    server = serve(routed("r-one"))
    (worker,) = server.workers()
    server.predict(flights(1)).raise_for_status()
    before = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (2048, before[1]))
    answer = server.predict(flights(50, 10))
    assert answer.status_code == 503
    assert "cannot be written to the spool" in answer.json()["error"]
    assert server.client.get("/readyz").json()["uncaptured"] == 50
    labels = {"labels": [{"id": str(n), "label": "1"} for n in range(200)]}
    assert server.client.post("/v1/models/flights/labels", json=labels).status_code == 503
    resource.prlimit(worker, resource.RLIMIT_FSIZE, before)
    assert server.predict(flights(50, 100)).status_code == 200
    assert sorted(captured(tmp_path)) == sorted(["f0", *(f"f{n}" for n in range(100, 150))])


def test_with_best_effort_a_full_disk_is_counted_but_labels_are_not_taken(
    serve: Serve, routed: Routed, tmp_path: Path
) -> None:
    server = serve(routed("r-one"), settings='capture = "best_effort"')
    (worker,) = server.workers()
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
    assert server.predict(flights(50)).status_code == 200
    lines = server.client.get("/metrics").text.splitlines()
    assert next(line for line in lines if line.startswith("undrift_uncaptured_records_total{")).endswith(" 50.0")
    labels = {"labels": [{"id": str(n), "label": "1"} for n in range(200)]}
    assert server.client.post("/v1/models/flights/labels", json=labels).status_code == 503
    assert captured(tmp_path) == []


def test_durability_against_power_cuts_answers_after_the_sync(serve: Serve, routed: Routed, tmp_path: Path) -> None:
    server = serve(routed("r-one"), settings='durability = "power"')
    assert server.predict(flights(3)).status_code == 200
    assert len(captured(tmp_path)) == 3


def test_an_online_store_that_is_gone_costs_features_and_not_answers(
    serve: Serve, routed: Routed, tmp_path: Path
) -> None:
    (tmp_path / ".undrift/online.db").mkdir(parents=True)
    server = serve(routed("r-one"))
    row = server.predict(flights(1)).json()["rows"][0]
    assert row["violations"] == ["view weather unavailable"]
    assert "online store" in server.client.get("/readyz").json()["problems"]
    sent = {"rows": [{"origin": "JFK", "seen_at": 5, "temp": 1.0}]}
    assert server.client.post("/v1/sources/weather", json=sent).status_code == 503


def test_a_killed_supervisor_leaves_nobody_on_the_port(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"), settings="workers = 2")
    workers = server.workers()
    server.process.kill()
    server.process.wait()
    until = time.monotonic() + 30
    while not all(gone(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.02)
    port = server.port
    server.start()
    assert server.port == port
    assert server.predict(flights(1)).status_code == 200


def test_a_killed_worker_is_replaced_and_its_acknowledgement_removed(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"), settings="workers = 2")
    server.wait(lambda: len(server.acks()) == 2, "acknowledged twice")
    first = server.workers()[0]
    os.kill(first, signal.SIGKILL)
    assert server.wait_for("worker died")["code"] == -signal.SIGKILL
    server.wait(lambda: len(server.acks()) == 2 and first not in {a["pid"] for a in server.acks()}, "replaced")
    assert server.predict(flights(1)).status_code == 200


def test_a_disk_that_is_really_full_refuses_counts_and_goes_on_when_it_is_not(
    serve: Serve, routed: Routed, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    try:
        server = serve(routed("r-one"), settings=f'[stores]\nspool = "{disk}/spool"', ready=False)
        write_table(tmp_path / ".undrift/routing.json", 2, routed("r-one"))
        server.wait(lambda: server.try_get("/readyz") == 200, "ready")
        answered, refused, number = set(), 0, 0
        while refused < 3:
            assert number < 100_000
            answer = server.predict(flights(50, number))
            if answer.status_code == 200:
                answered |= {row["id"] for row in answer.json()["rows"]}
            else:
                assert (answer.status_code, "No space left" in answer.json()["error"]) == (503, True)
                assert int(answer.headers["retry-after"]) >= 1
                refused += 1
            number += 50
        assert server.client.get("/readyz").json()["uncaptured"] == 150
        reader = SpoolReader(disk / "spool")
        (writer,) = reader.writers()
        assert {r.id for frame in reader.read(writer).frames for r in frame.records} == answered
        first = min((disk / "spool" / writer).glob("*.seg"))
        os.truncate(first, 8)  # as if a worker had taken it in
        assert server.predict(flights(5, number)).status_code == 200
        assert server.stop() == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_a_spool_that_nobody_takes_in_is_bounded_and_says_so(serve: Serve, routed: Routed, tmp_path: Path) -> None:
    server = serve(routed("r-one"), settings="spool_bytes = 20000\nsegment_bytes = 8000")
    number = 0
    while (answer := server.predict(flights(20, number))).status_code == 200:
        number += 20
        assert number < 20_000
        time.sleep(0.05)
    assert answer.status_code == 503
    assert "serve.spool_bytes" in answer.json()["error"]
    server.wait_for("spool full")
    assert (
        server.client.post("/v1/models/flights/labels", json={"labels": [{"id": "f1", "label": 1}]}).status_code == 503
    )
    lines = server.client.get("/metrics").text.splitlines()
    assert any(line.startswith("undrift_spool_bytes{") and float(line.split()[1]) > 20_000 for line in lines)
    reader = SpoolReader(tmp_path / ".undrift/spool")
    (writer,) = reader.writers()
    assert len(captured(tmp_path)) == number
    reader.discard(reader.read(writer))
    server.wait_for("spool free")
    assert server.predict(flights(1, number)).status_code == 200


def test_a_share_of_units_is_captured_the_same_ones_always(serve: Serve, routed: Routed, tmp_path: Path) -> None:
    server = serve(routed("r-one", "r-two", 50.0), settings="capture_rates = { flights = 0.3 }")
    for _ in range(2):
        assert server.predict(flights(400)).status_code == 200
    kept = captured(tmp_path)
    wanted = [f"f{n}" for n in range(400) if drawn("flights", f"f{n}", 0.3)]
    assert sorted(kept) == sorted(2 * wanted)
    assert 90 <= len(wanted) <= 150  # 120 expected, 9 the standard deviation
    assert server.client.get("/readyz").json()["uncaptured"] == 0


def test_what_predictions_cost_is_told_by_version(serve: Serve, routed: Routed, tmp_path: Path) -> None:
    server = serve(routed("r-one", "r-two", 50.0), settings="price_per_cpu_hour = 3600.0")
    for number in range(30):
        assert server.predict(flights(10, 10 * number)).status_code == 200
    folder = tmp_path / ".undrift/serve"
    server.wait(lambda: sum(cost.rows for cost in costs(folder)) == 300, "left its figures")
    found = costs(folder)
    assert [(cost.version, cost.variant) for cost in found] == [(1, "champion"), (2, "candidate")]
    for cost in found:
        assert cost.cpu_seconds > 0
        assert cost.money == pytest.approx(cost.cpu_seconds)  # at one a second
        assert f"version {cost.version}" in cost.text
    lines = server.client.get("/metrics").text.splitlines()
    stages = {line.split('stage="')[1].split('"')[0] for line in lines if line.startswith("undrift_stage_seconds")}
    assert stages == {"decode", "feature", "queue", "compute", "encode"}


def test_remembered_answers_are_those_of_the_model_and_captured_all_the_same(
    serve: Serve, routed: Routed, tmp_path: Path
) -> None:
    server = serve(routed("r-one", "r-two", 50.0), settings="cache_rows = 1000")
    first, second = (server.predict(flights(50)).json() for _ in range(2))
    assert first["predictions"] == second["predictions"]
    assert first["rows"] == second["rows"]
    assert len(captured(tmp_path)) == 100
    lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith("undrift_cache_hits")]
    assert sum(float(line.split()[1]) for line in lines) >= 50
