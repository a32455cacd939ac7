"""The data plane over real HTTP: what is asked, answered, captured and refused."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from undrift.capture.capture import EventRecord, LabelRecord, PredictionRecord, SourceRecord, WatermarkRecord
from undrift.capture.spool import SpoolReader
from undrift.ids import to_micros
from undrift.inference.router import pick

from servers import START, Routed, Server, flights, write_table  # isort: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, routed: Routed) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("live")
    routes = (
        routed("r-one", "r-two", 30.0),
        routed("r-bands", model="bands"),
        routed("r-delay", model="delay"),
        routed("r-one", "r-raises", 100.0, model="brittle"),
        routed("r-raises", model="broken"),
    )
    write_table(folder / ".undrift/routing.json", 7, *routes)
    server = Server(folder, 'max_body_bytes = 100000\n[time]\nmode = "event"\n')
    server.start()
    yield server
    assert server.stop() == 0
    assert server.noise == []


def captured(server: Server) -> list[Any]:
    reader = SpoolReader(server.folder / ".undrift/spool")
    return [r for name in reader.writers() for frame in reader.read(name).frames for r in frame.records]


def predictions(server: Server, request_id: str) -> list[PredictionRecord]:
    return [r for r in captured(server) if isinstance(r, PredictionRecord) and r.request_id == request_id]


def test_each_row_is_answered_by_the_variant_of_its_unit_and_recorded_before(live: Server, routed: Routed) -> None:
    answer = live.predict(flights(40))
    assert answer.status_code == 200
    assert answer.headers["x-undrift-epoch"] == "7"
    body = answer.json()
    assert body["request_id"] == answer.headers["x-request-id"]
    route = routed("r-one", "r-two", 30.0)
    choices = [pick(route, row["flight"]) for row in flights(40)]
    assert [(row["variant"], row["revision"]) for row in body["rows"]] == [(c.variant, c.revision) for c in choices]
    assert {c.variant for c in choices} == {"champion", "candidate"}
    records = {record.id: record for record in predictions(live, body["request_id"])}
    assert set(records) == {f"f{n}" for n in range(40)}
    for row, choice, given, made in zip(body["rows"], choices, flights(40), body["predictions"], strict=True):
        record = records[row["id"]]
        assert (record.variant, record.revision, record.version) == (row["variant"], row["revision"], row["version"])
        assert record.propensity == choice.propensity
        assert (record.score, record.prediction) == (made["score"], made["label"])
        assert made["label"] == ("1" if made["score"] >= 0.5 else "0")
        assert record.inputs["distance"] == given["distance"]
        assert record.unit == given["flight"]
        assert record.event_time == to_micros(record.inputs["at"])
    saturday = to_micros(START + timedelta(days=5))
    assert {r.features["weekend"] for r in records.values()} == {0.0}
    late = {**flights(1, 9000)[0], "at": saturday}
    (record,) = predictions(live, live.predict([late]).json()["request_id"])
    assert (record.features["weekend"], record.event_time) == (1.0, saturday)


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("2013-04-06T00:00:00Z", 200),
        ("1365206400000000", 200),
        ("soon", 400),
        ("2013-04-06T00:00:00", 400),
        ("-5", 400),
    ],
)
def test_when_a_prediction_happened_may_stand_in_a_header(live: Server, told: str, status: int) -> None:
    headers = {"x-event-time": told}
    answer = live.client.post("/v1/models/flights:predict", json={"instances": flights(1, 9100)}, headers=headers)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["path"] == "X-Event-Time"
        return
    (record,) = predictions(live, answer.json()["request_id"])
    assert record.event_time == to_micros(record.inputs["at"]), "a time field of the model's own comes first"


def test_other_tasks_answer_in_their_own_shape(live: Server) -> None:
    (band,) = live.predict(flights(1), "bands").json()["predictions"]
    assert list(band["scores"]) == ["low", "middle", "high"]
    assert band["label"] == max(band["scores"], key=band["scores"].get)
    body = live.predict(flights(2), "delay").json()
    assert all(isinstance(value, float) for value in body["predictions"])
    assert len({row["id"] for row in body["rows"]}) == 2  # without a key each prediction gets a fresh id


def test_a_flagged_row_is_answered_and_told(live: Server) -> None:
    rows = [{**flights(1)[0], "distance": 5000.0}, {**flights(1)[0], "carrier": "ZZ"}]
    body = live.predict(rows).json()
    assert [row.get("violations") for row in body["rows"]] == [["distance>4983"], ["carrier not in categories"]]
    assert [r.violations for r in predictions(live, body["request_id"])] == [row["violations"] for row in body["rows"]]


def test_features_are_looked_up_and_expire(live: Server) -> None:
    sent = {"rows": [{"origin": "JFK", "seen_at": "2013-06-01T10:00:00Z", "temp": 71.5}]}
    assert live.client.post("/v1/sources/weather", json=sent).json() == {"accepted": 1}
    flight = flights(1)[0]
    seen = {}
    for when in ("09:59", "10:00", "13:00", "13:01"):
        rows = [{**flight, "origin": "JFK", "at": f"2013-06-01T{when}:00Z"}]
        (record,) = predictions(live, live.predict(rows).json()["request_id"])
        seen[when] = (record.features["temp"], record.feature_times["weather"])
    known = to_micros(START.replace(month=6, hour=10))
    there, absent = (71.5, known), (None, None)
    assert seen == {"09:59": absent, "10:00": there, "13:00": there, "13:01": absent}
    (source,) = [r for r in captured(live) if isinstance(r, SourceRecord) and r.row["temp"] == 71.5]
    assert source.row["seen_at"] == START.replace(month=6, hour=10)


def test_a_personal_field_is_not_captured(live: Server) -> None:
    body = live.predict([{**flights(1)[0], "tail": "N123"}]).json()
    assert [r.inputs["tail"] for r in predictions(live, body["request_id"])] == [None]


def test_a_candidate_that_fails_is_covered_by_the_champion_and_recorded(live: Server) -> None:
    body = live.predict(flights(3), "brittle").json()
    assert {row["revision"] for row in body["rows"]} == {"r-one"}
    records = predictions(live, body["request_id"])
    assert [(r.variant, r.score is None) for r in records] == [("candidate", True)] * 3 + [("champion", False)] * 3
    assert {r.error for r in records[:3]} == {records[0].error}
    assert "no calendar here" in str(records[0].error)


def test_a_champion_that_fails_is_a_500_without_its_words_and_recorded(live: Server) -> None:
    answer = live.predict(flights(2), "broken")
    assert answer.status_code == 500
    assert answer.json() == {"error": "the model could not answer this request.", "reason": "model_error"}
    records = predictions(live, answer.headers["x-request-id"])
    assert ["no calendar here" in str(r.error) for r in records] == [True, True]


def test_labels_are_taken_in_any_spelling_of_a_class(live: Server) -> None:
    at = {"event_time": "2013-04-02T00:00:00+00:00"}
    sent = [{"id": "a", "label": label, **at} for label in ("1", 1, 1.0, True, "0", False)]
    assert live.client.post("/v1/models/flights/labels", json={"labels": sent}).json() == {"accepted": 6}
    found = [r.label for r in captured(live) if isinstance(r, LabelRecord) and r.prediction_id == "a"]
    assert found == ["1", "1", "1", "1", "0", "0"]
    number = [{"id": 7, "label": 2, "event_time": 5}]
    assert live.client.post("/v1/models/delay/labels", json={"labels": number}).status_code == 200
    (record,) = [r for r in captured(live) if isinstance(r, LabelRecord) and r.model == "delay"]
    assert record == LabelRecord(
        model="delay", prediction_id="7", label=2.0, event_time=5, received_at=record.received_at
    )


def test_a_watermark_is_captured(live: Server) -> None:
    assert live.client.post("/v1/watermark", json={"event_time": "2013-04-03T00:00:00Z"}).status_code == 200
    assert [r.event_time for r in captured(live) if isinstance(r, WatermarkRecord)] == [
        to_micros(START + timedelta(days=2))
    ]


GOOD = json.dumps({"instances": flights(1)})


@pytest.mark.parametrize(
    ("path", "body", "where", "words"),
    [
        ("/v1/models/flights:predict", "{", "$", "truncated"),
        ("/v1/models/flights:predict", "[1]", "$", "object"),
        ("/v1/models/flights:predict", "{}", "$", "instances"),
        ("/v1/models/flights:predict", '{"instances": []}', "$.instances", "at least one row"),
        ("/v1/models/flights:predict", GOOD.replace("200.0", '"far"'), "$.instances[0].distance", "float"),
        ("/v1/models/flights:predict", GOOD.replace("200.0", "NaN"), "$", "JSON"),
        ("/v1/models/flights:predict", GOOD.replace('"hour": 0', '"hour": 24'), "$.instances[0].hour", "hour"),
        ("/v1/models/flights:predict", GOOD.replace("hour", "our"), "$.instances[0]", "`our`"),
        ("/v2/models/flights/infer", '{"inputs": [{"name": "x", "shape": [2], "datatype": "FP64", "data": [1]}]}',
         "$.inputs[0].shape", "[n]"),
        ("/v2/models/flights/infer", '{"inputs": [{"name": "x"}]}', "$.inputs[0]", "shape"),
        ("/v1/models/flights/labels", '{"labels": [{"id": "a", "label": "2", "event_time": 5}]}',
         "$.labels[0].label", "one of 0, 1"),
        ("/v1/models/flights/labels", '{"labels": [{"id": "a", "label": "1"}]}', "$.labels[0].event_time", "time"),
        ("/v1/models/delay/labels", '{"labels": [{"id": "a", "label": "x", "event_time": 5}]}',
         "$.labels[0].label", "number"),
        ("/v1/sources/weather", '{"rows": [{"origin": "JFK", "seen_at": 5}, {"origin": 5, "seen_at": 5}]}',
         "$.rows[1].origin", "str"),
        ("/v1/watermark", '{"event_time": "2013-04-03T00:00:00"}', "$.event_time", "zone"),
        ("/v1/watermark", '{"event_time": 1e300}', "$.event_time", ""),
    ],
)  # fmt: skip
def test_a_wrong_body_is_told_where_it_is_wrong(live: Server, path: str, body: str, where: str, words: str) -> None:
    answer = live.client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    told = answer.json()
    assert told["path"].startswith(where)
    assert words in told["error"] + told.get("hint", "")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/v1/models/flights:explain", 405), ("POST", "/v1/models/nobody:predict", 404),
        ("POST", "/v1/models/nobody/labels", 404), ("POST", "/v1/sources/nothing", 404),
        ("GET", "/v1/models/nobody", 404), ("GET", "/v1/models/flights:predict", 405), ("PUT", "/healthz", 405),
        ("DELETE", "/v1/models/flights", 405), ("GET", "/%00%ff", 404),
    ],
)  # fmt: skip
def test_a_path_or_method_that_is_not_there(live: Server, method: str, path: str, status: int) -> None:
    answer = live.client.request(method, path, json={"instances": []})
    assert answer.status_code == status
    assert "error" in answer.json()
    if status == 405:
        assert answer.headers["allow"] in ("POST", "GET, HEAD")


def test_what_is_no_json_or_too_large_or_compressed_is_refused(live: Server) -> None:
    post = live.client.post
    assert post("/v1/watermark", content=b"x", headers={"content-type": "text/csv"}).status_code == 415
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    assert post("/v1/watermark", content=b"x", headers=packed).status_code == 415
    assert post("/v1/models/flights:predict", json={"instances": flights(2000)}).status_code == 413

    def parts() -> Iterator[bytes]:  # without a length
        yield from (b" " * 30_000 for _ in range(5))

    assert post("/v1/watermark", content=parts(), headers={"content-type": "application/json"}).status_code == 413
    assert live.try_get("/healthz") == 200


def test_a_time_limit_that_is_no_number_is_refused_and_one_that_passes_is_a_504(live: Server) -> None:
    assert live.predict(flights(1), **{"x-request-timeout-ms": "soon"}).status_code == 400
    assert live.predict(flights(1), **{"x-request-timeout-ms": "5000"}).status_code == 200


def test_a_caller_may_name_its_request(live: Server) -> None:
    answer = live.predict(flights(1), **{"x-request-id": "abc123"})
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == ("abc123", "abc123")
    assert live.predict(flights(1), **{"x-request-id": "no\tthis"}).headers["x-request-id"] != "no\tthis"


def test_the_inference_protocol_answers_the_same_scores(live: Server) -> None:
    rows = flights(3, 50)
    kinds = {"distance": "FP64", "hour": "INT64"}
    inputs = [
        {"name": name, "shape": [3, 1] if name == "hour" else [3], "datatype": kinds.get(name, "BYTES"),
         "data": [row[name] for row in rows]}
        for name in rows[0]
    ]  # fmt: skip
    answer = live.client.post("/v2/models/flights/infer", json={"id": "mine", "inputs": inputs}).json()
    assert (answer["model_name"], answer["id"]) == ("flights", "mine")
    outputs = {output["name"]: output for output in answer["outputs"]}
    expected = live.predict(rows).json()
    assert outputs["score"]["data"] == [each["score"] for each in expected["predictions"]]
    assert outputs["prediction_id"]["data"] == ["f50", "f51", "f52"]
    assert outputs["variant"]["data"] == [row["variant"] for row in expected["rows"]]
    bands = live.client.post("/v2/models/bands/infer", json={"inputs": inputs}).json()
    (scores,) = [output for output in bands["outputs"] if output["name"] == "scores"]
    assert (scores["shape"], len(scores["data"])) == ([3, 3], 9)


def test_metadata_and_health(live: Server) -> None:
    get = live.client.get
    assert get("/v2").json()["name"] == "undrift"
    assert (
        get("/v2/health/live").status_code == get("/v2/health/ready").status_code == get("/healthz").status_code == 200
    )
    assert get("/v2/models/flights/ready").json() == {"name": "flights", "ready": True}
    about = get("/v2/models/flights").json()
    assert {"name": "distance", "datatype": "FP64", "shape": [-1]} in about["inputs"]
    states = get("/v1/models/flights").json()
    assert [each["state"] for each in states["model_version_status"]] == ["AVAILABLE"] * 2
    assert states["undrift"]["candidate"] == {"revision": "r-two", "weight": 30.0}
    ready = get("/readyz").json()
    assert (ready["ready"], ready["epoch"], ready["problems"]) == (True, 7, {})
    head = live.client.head("/healthz")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


def test_metrics_count_what_was_answered(live: Server) -> None:
    def total(name: str) -> float:
        lines = live.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = total("undrift_predictions_total"), total("undrift_flagged_rows_total")
    live.predict([{**row, "distance": 5000.0} for row in flights(5)])
    live.predict(flights(1), "broken")
    assert (total("undrift_predictions_total"), total("undrift_flagged_rows_total")) == (before[0] + 5, before[1] + 5)
    assert total("undrift_prediction_failures_total") > 0
    assert total('undrift_requests_total{code="200",route="predict"') > 0


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(live: Server) -> None:
    with socket.create_connection(("127.0.0.1", live.port)) as half:
        head = (
            b"POST /v1/watermark HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        )
        half.sendall(head + b'{"event')
    assert live.predict(flights(1)).status_code == 200
    assert not [line for line in live.lines if line["event"] == "fault"]


def test_it_has_loaded_neither_tables_nor_training(live: Server, tmp_path: Path) -> None:
    (pid,) = live.workers()
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "onnxruntime" in mapped
    for heavy in ("pyarrow", "duckdb", "deltalake", "sklearn", "scipy", "sqlalchemy"):
        assert f"/{heavy}/" not in mapped


def test_business_events_are_captured_with_their_unit_and_refused_where_they_are_wrong(live: Server) -> None:
    at = {"event_time": "2013-04-02T00:00:00+00:00"}
    sent = [
        {"id": "e1", "unit": 7, "name": "purchase", "value": 12.5, **at},
        {"id": "e2", "unit": "u", "name": "click", **at},
    ]
    assert live.client.post("/v1/models/flights/events", json={"events": sent}).json() == {"accepted": 2}
    records = [r for r in captured(live) if isinstance(r, EventRecord)]
    assert [(r.model, r.id, r.unit, r.name, r.value) for r in records] == [
        ("flights", "e1", "7", "purchase", 12.5),
        ("flights", "e2", "u", "click", 1.0),
    ]
    assert {r.event_time for r in records} == {to_micros(START + timedelta(days=1))}
    good = sent[0]
    wrong = [
        ({**good, "id": ""}, "$.events[0].id"),
        ({k: v for k, v in good.items() if k != "unit"}, "$.events[0]"),
        ({**good, "value": "much"}, "$.events[0].value"),
        ({**good, "event_time": "2013-04-02T00:00:00"}, "$.events[0].event_time"),
        ({k: v for k, v in good.items() if k != "event_time"}, "$.events[0].event_time"),
    ]
    for entry, path in wrong:
        refused = live.client.post("/v1/models/flights/events", json={"events": [entry]})
        assert (refused.status_code, refused.json()["path"]) == (400, path)
    assert live.client.post("/v1/models/nobody/events", json={"events": sent}).status_code == 404
    assert len([r for r in captured(live) if isinstance(r, EventRecord)]) == 2, "nothing of what was refused"
