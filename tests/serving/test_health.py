"""Workers of a running service check themselves: golden requests, files under them, memory, load and cost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from undrift.finding import Verdict
from undrift.monitor.golden import judge_golden
from undrift.monitor.monitors import Monitor
from undrift.serving.health import Health, read_health

from servers import Routed, Serve, Server, flights  # isort: skip

GOLDEN = Monitor(name="golden", kind="golden")


def told(server: Server, met: Callable[[Sequence[Health]], bool], what: str) -> Sequence[Health]:
    folder = server.folder / ".undrift/serve"
    server.wait(lambda: met(read_health(folder, datetime.now(UTC))), what)
    return read_health(folder, datetime.now(UTC))


def judged(workers: Sequence[Health]) -> list[tuple[Verdict, str, str]]:
    found = judge_golden(GOLDEN, "flights", workers, datetime.now(UTC))
    return [(f.verdict, f.measurement.name, f.why) for f in found]


def test_every_worker_is_asked_its_golden_requests_and_a_model_that_changes_its_mind_is_seen(
    serve: Serve, routed: Routed, tmp_path: Path
) -> None:
    faults = tmp_path / "faults.json"
    server = serve(
        routed("r-one", "r-two", 10.0),
        settings='workers = 2\ncheck_seconds = 0.2\nwrapper = "undrift.testing:FaultyPredictor"',
        env={**os.environ, "UNDRIFT_FAULTS": str(faults)},
    )
    workers = told(server, lambda w: len(w) == 2 and all(len(h.asked) == 2 for h in w), "told by both workers")
    assert {health.pid for health in workers} == set(server.workers())
    assert [(a.version, a.rows, a.differ) for h in workers for a in h.asked] == [(1, 20, 0), (2, 20, 0)] * 2
    assert judged(workers) == [
        (Verdict.PASS, "golden", "80 golden requests on 2 workers are answered as on record, and no file changed")
    ]
    faults.write_text(json.dumps({"constant": 0.5, "where": {"carrier": ["UA"]}}))
    workers = told(server, lambda w: len(w) == 2 and all(a.differ for h in w for a in h.asked), "differing")
    found = judged(workers)
    assert [(verdict, name) for verdict, name, _ in found] == [(Verdict.FAIL, "golden")] * 2
    assert "2 of 2 workers answer golden requests of version 1 other than" in found[0][2]
    assert "is answered 0.5, on record is" in found[0][2]
    text = server.client.get("/metrics").text
    assert 'undrift_golden_differing_rows{model="flights",version="1",worker=' in text
    faults.write_text(json.dumps({"error": "broken"}))
    workers = told(server, lambda w: len(w) == 2 and all(a.differ == 20 for h in w for a in h.asked), "failing")
    assert "broken" in judged(workers)[0][2]
    faults.unlink()
    told(server, lambda w: len(w) == 2 and not any(a.differ for h in w for a in h.asked), "well again")
    assert server.stop() == 0
    assert list((server.folder / ".undrift/serve").glob("*.health")) == []


def test_a_model_file_that_changes_under_a_running_service_is_seen_and_answers_go_on(
    serve: Serve, routed: Routed, bundles: dict[str, Path], tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(bundles["r-one"], tmp_path / "mine"))
    server = serve(routed("r-mine", r_mine=mine), settings="check_seconds = 0.1")
    told(server, lambda w: any(a.rows == 20 for h in w for a in h.asked), "told")
    sound = (mine / "model.onnx").read_bytes()
    (mine / "model.onnx").write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    workers = told(server, lambda w: any(a.file for h in w for a in h.asked), "changed")
    found = judged(workers)
    assert [(verdict, name) for verdict, name, _ in found] == [(Verdict.FAIL, "model_file")]
    assert "model.onnx is not the file that was registered" in found[0][2]
    assert server.predict(flights(1)).status_code == 200
    (mine / "model.onnx").write_bytes(sound)
    told(server, lambda w: any(h.asked and not h.asked[0].file for h in w), "restored")


def test_readings_tell_memory_load_and_what_predictions_cost(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"), settings="check_seconds = 0.2\nprice_per_cpu_hour = 3.6")
    told(server, lambda w: bool(w) and bool(w[0].readings), "told")
    for start in range(0, 400, 20):
        assert server.predict(flights(20, start)).status_code == 200
    (worker,) = told(
        server,
        lambda w: 400 in [sum(r.spent["flights"].rows for r in h.readings if "flights" in r.spent) for h in w],
        "counted",
    )
    spent = [r.spent["flights"] for r in worker.readings if "flights" in r.spent]
    seconds = sum(s.cpu_seconds for s in spent)
    assert 0 < seconds < 30
    assert abs(sum(s.money for s in spent) - seconds * 3.6 / 3600) < 1e-9
    assert 20 < worker.readings[-1].memory_mb < 2000
    assert max(r.busy for r in worker.readings) > 0


def test_who_is_gone_or_silent_tells_nothing_and_no_checks_are_made_where_none_are_wanted(
    serve: Serve, routed: Routed
) -> None:
    server = serve(routed("r-one"), settings="check_seconds = 0.1")
    (worker,) = told(server, lambda w: len(w) == 1, "told")
    folder = server.folder / ".undrift/serve"
    assert read_health(folder, worker.at + timedelta(seconds=120)) == []
    server.process.kill()
    server.wait(lambda: not read_health(folder, datetime.now(UTC)), "ended")
    assert judged([])[0][0] is Verdict.INCONCLUSIVE
