"""Explanations of a real server: what they add up to, what they are not, and what happens when one goes wrong."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import httpx

from undrift.capture.capture import PredictionRecord
from undrift.capture.spool import SpoolReader

from servers import Routed, Serve, Server, flights  # isort: skip


def explain(server: Server, rows: Any, model: str = "flights", timeout_ms: int = 0, **options: Any) -> httpx.Response:
    headers = {"X-Request-Timeout-Ms": str(timeout_ms)} if timeout_ms else {}
    body = {"instances": rows, **options}
    return server.client.post(f"/v1/models/{model}:explain", json=body, headers=headers, timeout=180)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def explaining(server: Server) -> list[int]:
    found = [child for worker in server.workers() for child in children(worker)]
    return [pid for pid in found if b"inference.explain" in Path(f"/proc/{pid}/cmdline").read_bytes()]


LONG = "\n[explain]\ntimeout_ms = 170000\nmax_rows = 8"


def test_an_explanation_adds_up_to_the_prediction_and_is_no_prediction(serve: Serve, routed: Routed) -> None:
    server = serve(
        routed("r-native"), routed("r-bands", model="bands"), routed("r-delay", model="delay"), settings=LONG
    )
    assert explaining(server) == [], "nobody asked yet"
    rows = flights(3)
    answered = server.predict(rows).json()
    found = explain(server, rows).json()
    for row, told, prediction in zip(found["rows"], found["explanations"], answered["predictions"], strict=True):
        total = told["base"] + sum(each["contribution"] for each in told["contributions"])
        assert abs(total - told["output"]) <= told["tolerance"]
        assert (told["method"], told["scale"], told["label"]) == ("linear", "log_odds", "1")
        assert abs(1 / (1 + math.exp(-total)) - prediction["score"]) < 1e-4
        assert {each["input"] for each in told["contributions"]} == {"carrier", "distance", "hour", "temp", "weekend"}
        assert set(told["groups"]) == {"request", "weather", "calendar"}
        assert (row["revision"], row["variant"]) == ("r-native", "champion")
        assert told["reasons"]
    assert [row["id"] for row in found["rows"]] == [row["id"] for row in answered["rows"]]
    (lime,) = explain(server, rows[:1], method="lime").json()["explanations"]
    assert lime["method"] == "lime"
    refused = [
        (explain(server, flights(9)), "$.instances", "at most 8 rows"),
        (explain(server, rows, method="magic"), "$.method", "one of auto"),
        (explain(server, rows, method=3), "$.method", "Expected `str`"),
        (explain(server, [{**rows[0], "hour": 99}]), "$.instances[0].hour", "hour>23"),
        (explain(server, rows, label="huge"), "$.label", "one of 1 was expected"),
    ]
    for answer, path, said in refused:
        assert (answer.status_code, answer.json()["path"]) == (400, path), answer.text
        assert said in answer.json()["error"]
    assert len(explaining(server)) == 1
    assert server.stop() == 0
    assert server.noise == []
    reader = SpoolReader(server.folder / ".undrift/spool")
    frames = [frame for name in reader.writers() for frame in reader.read(name).frames]
    kept = [r.id for frame in frames for r in frame.records if isinstance(r, PredictionRecord)]
    assert kept == [row["id"] for row in answered["rows"]], "only what was predicted is captured"


def test_out_of_time_is_504_and_a_process_that_dies_is_replaced(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-native"), settings=LONG)
    late = explain(server, flights(1), timeout_ms=1)
    assert late.status_code == 504
    assert "explan" in late.json()["error"]
    assert server.predict(flights(1)).status_code == 200
    assert explain(server, flights(1)).status_code == 200
    (pid,) = explaining(server)
    os.kill(pid, signal.SIGKILL)
    codes = [explain(server, flights(1)).status_code]
    while codes[-1] != 200 and len(codes) < 5:
        codes.append(explain(server, flights(1)).status_code)
    assert codes in ([200], [503, 200]), "only a request that met the dying process is refused"
    (new,) = explaining(server)
    assert new != pid
    worker = server.workers()[0]
    os.kill(worker, signal.SIGKILL)  # its end of the pipes closes, so the process that explains for it ends as well
    server.wait(lambda: not Path(f"/proc/{new}").exists() or "Z" in Path(f"/proc/{new}/stat").read_text(), "orphaned")


def test_sticky_units_are_explained_by_the_revision_that_answers_them(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one", "r-two", 50.0), settings=LONG)
    rows = flights(8)
    answered, found = server.predict(rows).json(), explain(server, rows).json()
    assert [row["revision"] for row in found["rows"]] == [row["revision"] for row in answered["rows"]]
    assert {row["variant"] for row in found["rows"]} == {"champion", "candidate"}
    for told, prediction in zip(found["explanations"], answered["predictions"], strict=True):
        assert abs(told["score"] - prediction["score"]) < 1e-4
