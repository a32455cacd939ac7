"""Predictions in every protocol: the same answers, and each driven by a client that others wrote."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.capture.capture import PredictionRecord
from undrift.capture.spool import SpoolReader

from servers import Routed, Server, flights, write_table  # isort: skip

VERTEX = "/v1/projects/p/locations/l/endpoints/8:predict"
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, routed: Routed) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("protocols")
    routes = (routed("r-one", "r-two", 30.0), routed("r-bands", model="bands"), routed("r-delay", model="delay"))
    write_table(folder / ".undrift/routing.json", 7, *routes)
    routing = f'model = "flights"\npredict_route = "{VERTEX}"\nhealth_route = "/alive"'
    server = Server(folder, routing)
    server.start()
    yield server
    assert server.stop() == 0
    assert server.noise == []


@pytest.fixture(scope="module")
def expected(live: Server) -> list[dict[str, Any]]:
    """What row-format JSON answers for three flights."""
    found: list[dict[str, Any]] = live.predict(flights(3)).json()["predictions"]
    return found


def columns(n: int = 3) -> dict[str, list[Any]]:
    rows = flights(n)
    return {name: [row[name] for row in rows] for name in rows[0]}


def records(server: Server, request_id: str) -> list[PredictionRecord]:
    reader = SpoolReader(server.folder / ".undrift/spool")
    found = [r for name in reader.writers() for frame in reader.read(name).frames for r in frame.records]
    return [r for r in found if isinstance(r, PredictionRecord) and r.request_id == request_id]


def post(live: Server, path: str, body: bytes, kind: str, **headers: str) -> Any:
    return live.client.post(path, content=body, headers={"content-type": kind, **headers})


def test_a_number_too_large_to_compute_with_is_the_requests_fault(live: Server) -> None:
    far = {**flights(1)[0], "distance": 1e300}
    answer = live.predict([flights(1)[0], far], model="delay")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("row 1: distance = 1e+300 is too large for the model to compute with")
    explained = live.client.post("/v1/models/delay:explain", json={"instances": [far]}, timeout=60)
    assert (explained.status_code, "1e+300" in explained.text) == (400, True)
    large = {**far, "distance": 1e25}  # odd, and flagged, but the model has an answer
    assert live.predict([large], model="delay").json()["rows"][0]["violations"] == ["distance>4983"]


# TensorFlow Serving


def test_columns_are_answered_in_columns(live: Server, expected: list[dict[str, Any]]) -> None:
    body = live.client.post("/v1/models/flights:predict", json={"inputs": columns()}).json()
    assert body["outputs"] == {
        "label": [each["label"] for each in expected],
        "score": [each["score"] for each in expected],
    }
    assert len(body["rows"]) == 3
    delays = live.client.post("/v1/models/delay:predict", json={"inputs": columns()}).json()
    assert delays["outputs"] == live.predict(flights(3), "delay").json()["predictions"]
    bands = live.client.post("/v1/models/bands:predict", json={"inputs": columns()}).json()
    assert np.shape(bands["outputs"]["scores"]) == (3, 3)


def test_rows_without_names_are_taken_in_the_order_of_the_contract(
    live: Server, expected: list[dict[str, Any]]
) -> None:
    lists = [[*row.values(), None] for row in flights(3)]  # the last field, tail, may be null
    path = "/v1/models/flights:predict"
    assert live.client.post(path, json={"instances": lists}).json()["predictions"] == expected
    short = live.client.post(path, json={"instances": [lists[0], lists[1][:-1]]})
    assert (short.status_code, short.json()["path"]) == (400, "$.instances[1]")
    wrong = live.client.post(path, json={"instances": [lists[0], [*lists[1][:4], "far", *lists[1][5:]]]})
    assert (wrong.status_code, wrong.json()["path"]) == (400, "$.instances[1][4]")


def test_a_version_in_the_path_answers_alone_and_is_left_out_of_what_a_judge_compares(live: Server) -> None:
    for version, variant in (("1", "champion"), ("2", "candidate")):
        answer = live.client.post(f"/v1/models/flights/versions/{version}:predict", json={"instances": flights(30)})
        body = answer.json()
        assert {(row["version"], row["variant"]) for row in body["rows"]} == {(int(version), variant)}
        # 1 for whoever answered: no unit could have gone the other way, so evidence.py uses none of them
        found = records(live, body["request_id"])
        assert {(r.variant, r.propensity) for r in found} == {(variant, 1.0)}
        assert live.client.get(f"/v1/models/flights/versions/{version}").json()["model_version_status"] == [
            {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    for path in ("/v1/models/flights/versions/9:predict", "/v2/models/flights/versions/9/infer"):
        answer = live.client.post(path, json={"instances": flights(1), "inputs": []})
        assert answer.status_code == 404
        assert "loaded: 1, 2" in answer.json()["error"]
    assert live.client.get("/v1/models/flights/versions/9").status_code == 404


def test_the_signature_tells_the_fields_of_the_contract(live: Server) -> None:
    body = live.client.get("/v1/models/flights/metadata").json()
    assert body["model_spec"] == {"name": "flights", "signature_name": "", "version": "1"}
    signature = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert {name: each["dtype"] for name, each in signature["inputs"].items()} == {
        "flight": "DT_STRING", "at": "DT_STRING", "origin": "DT_STRING", "carrier": "DT_STRING",
        "distance": "DT_DOUBLE", "hour": "DT_INT64", "tail": "DT_STRING",
    }  # fmt: skip
    assert signature["inputs"]["hour"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert set(signature["outputs"]) == {"label", "score"}
    assert live.client.get("/v1/models/flights/versions/2/metadata").json()["model_spec"]["version"] == "2"


# Open Inference Protocol


def test_tritonclient_gets_the_same_answers_over_http(live: Server, expected: list[dict[str, Any]]) -> None:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{live.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flights")
    assert client.is_model_ready("flights", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert [each["name"] for each in client.get_model_metadata("flights")["inputs"]][:2] == ["flight", "at"]
    kinds = {"distance": ("FP32", np.float32), "hour": ("INT32", np.int32)}
    for binary in (True, False):
        inputs = []
        for name, values in columns().items():
            datatype, kind = kinds.get(name, ("BYTES", np.object_))
            tensor = triton.InferInput(name, [3, 1], datatype)
            tensor.set_data_from_numpy(np.array(values, dtype=kind).reshape(3, 1), binary_data=binary)
            inputs.append(tensor)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("score", "label", "version")]
        result = client.infer("flights", inputs, outputs=wanted, request_id="mine")
        assert result.as_numpy("score").tolist() == pytest.approx([each["score"] for each in expected], abs=1e-6)
        labels = [text.decode() if isinstance(text, bytes) else text for text in result.as_numpy("label")]
        assert labels == [each["label"] for each in expected]
        assert result.get_response()["id"] == "mine"
        assert [output["name"] for output in result.get_response()["outputs"]] == ["score", "label", "version"]
        every = client.infer("flights", inputs)  # binary outputs are this client's default
        assert set(every.as_numpy("variant").tolist()) <= {b"champion", b"candidate"}
    with pytest.raises(Exception, match="one of label, score"):
        client.infer("flights", inputs, outputs=[triton.InferRequestedOutput("nothing")])
    with pytest.raises(Exception, match="there is no model 'nobody'"):
        client.infer("nobody", inputs)
    client.close()


@pytest.mark.parametrize(
    ("header", "body", "words"),
    [
        ("9999", b"{}", "a length of the JSON"),
        ("x", b"{}", "a length of the JSON"),
        ("13", b'{"inputs": []}', "valid JSON"),
        ("14", b'{"inputs": []}abc', "3 bytes follow"),
        ("95", b'{"inputs": [{"name":"hour","shape":[1],"datatype":"INT64","parameters":{"binary_data_size":9}}]}',
         "valid JSON"),
        ("96", b'{"inputs": [{"name":"hour","shape":[1],"datatype":"INT64","parameters":{"binary_data_size":9}}]}',
         "at most the 0 bytes"),
        ("96", b'{"inputs": [{"name":"hour","shape":[1],"datatype":"INT64","parameters":{"binary_data_size":7}}]}'
         b"1234567", "8 bytes of 1 INT64"),
        ("99", b'{"inputs": [{"name":"origin","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6 }}]}'
         b"\xff\xff\xff\x7fab", "goes beyond the end"),
        ("99", b'{"inputs": [{"name":"origin","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6 }}]}'
         b"\x02\x00\x00\x00\xff\xfe", "no UTF-8"),
        ("99", b'{"inputs": [{"name":"origin","shape":[9],"datatype":"BYTES","parameters":{"binary_data_size":6 }}]}'
         b"\x02\x00\x00\x00ab", "9 strings"),
    ],
)  # fmt: skip
def test_wrong_bytes_of_tensors_are_told(live: Server, header: str, body: bytes, words: str) -> None:
    length = {"inference-header-content-length": header}
    answer = post(live, "/v2/models/flights/infer", body, "application/octet-stream", **length)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"datatype": "FP8"}, "one of"),
        ({"shape": [-1]}, "0 or more"),
        ({"shape": [2, 2], "data": [1, 2, 3, 4]}, "[n] or [n, 1]"),
        ({"data": None}, "array"),
        ({"data": [1, 2]}, "n = 2"),
    ],
)
def test_a_wrong_tensor_is_told(live: Server, tensor: dict[str, Any], words: str) -> None:
    given = {"name": "hour", "shape": [1], "datatype": "INT64", "data": [1], **tensor}
    answer = live.client.post("/v2/models/flights/infer", json={"inputs": [given]})
    assert answer.status_code == 400
    assert words in answer.json()["error"]


# MLflow


def test_mlflows_own_client_gets_the_same_answers(live: Server, expected: list[dict[str, Any]]) -> None:
    with warnings.catch_warnings(action="ignore"):  # MLflow warns of its own type hints while it is imported
        import pandas as pd  # noqa: TID251  this client takes nothing else
        from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient("127.0.0.1", live.port)
    client.ping()
    client.wait_server_ready(timeout=10)
    assert client.get_version() == live.client.get("/v2").json()["version"]
    frame = pd.DataFrame(columns())
    assert client.invoke(frame)["predictions"] == expected
    found = client.invoke(frame).get_predictions()
    assert found["label"].tolist() == [each["label"] for each in expected]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": list(columns()), "index": [5, 6, 7],
                             "data": [list(row.values()) for row in flights(3)]}},
        {"dataframe_records": flights(3)},
        {"instances": flights(3)},
        {"inputs": flights(3), "params": {"a": 1}},
        {"inputs": columns()},
        {"instances": [[*row.values(), None] for row in flights(3)]},
    ],
)  # fmt: skip
def test_every_form_of_invocations_is_the_same_rows(
    live: Server, expected: list[dict[str, Any]], body: dict[str, Any]
) -> None:
    assert live.client.post("/invocations", json=body).json()["predictions"] == expected


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        ({}, "$", "got none"),
        ({"instances": [], "inputs": []}, "$", "got instances and inputs"),
        ({"dataframe_records": [{}]}, "$.dataframe_records[0]", "missing"),
        ({"dataframe_records": []}, "$.dataframe_records", "at least one row"),
        ({"inputs": [{"flight": 1}]}, "$.inputs[0].flight", "str"),
        ({"inputs": {"flight": [1]}}, "$.inputs.flight[0]", "str"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": []}}, "$.dataframe_split.columns", "twice"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "$.dataframe_split.data[0]", "1 values"),
        ({"dataframe_split": {"columns": ["hour"], "data": [["x"]]}}, "$.dataframe_split", ""),
    ],
)
def test_a_wrong_invocation_is_told(live: Server, body: dict[str, Any], path: str, words: str) -> None:
    answer = live.client.post("/invocations", json=body)
    assert answer.status_code == 400
    assert answer.json()["path"].startswith(path)
    assert words in answer.json()["error"]


def test_csv_is_taken_with_and_without_a_header_and_given(live: Server, expected: list[dict[str, Any]]) -> None:
    names = [*columns(), "tail"]
    lines = [",".join(str(value) for value in row.values()) + "," for row in flights(3)]
    bare, full = "\n".join(lines), "\r\n".join([",".join(names), *lines])
    for kind, text in (
        ("text/csv", bare), ("text/csv", full), ("text/csv; header=absent", bare),
        ("text/csv; charset=utf-8; header=present", full),
    ):  # fmt: skip
        assert post(live, "/invocations", text.encode(), kind).json()["predictions"] == expected
    answer = post(live, "/invocations", full.encode(), "text/csv", accept="text/csv")
    head, *rows = answer.text.splitlines()
    assert answer.headers["content-type"] == "text/csv"
    assert head == "id,version,variant,label,score"
    assert [float(row.split(",")[-1]) for row in rows] == [each["score"] for each in expected]


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        (b"", "$", "at least one row"),
        (b"\xff\xfe", "$", "UTF-8"),
        (b'a,"b', "$", "CSV"),
        (b"flight,flight\na,b", "$[0]", "twice"),
        (b"flight,hour\na", "$[0]", "2 cells"),
        (b"f,2013-04-01T00:00:00Z,JFK,UA,far,3,", "$.distance[0]", "float"),
        (b"f,2013-04-01T00:00:00Z,JFK,UA,nan,3,", "$.distance[0]", "finite"),
        (b"f,2013-04-01T00:00:00Z,JFK,UA,5,3.5,", "$.hour[0]", "int"),
        (b"f,2013-04-01T00:00:00Z,JFK,UA,5,99999999999999999999,", "$.hour[0]", ""),
    ],
)
def test_wrong_csv_is_told(live: Server, body: bytes, path: str, words: str) -> None:
    answer = post(live, "/invocations", body, "text/csv")
    assert answer.status_code == 400
    assert answer.json()["path"] == path
    assert words in answer.json()["error"]


def test_json_lines_are_taken_and_given(live: Server, expected: list[dict[str, Any]]) -> None:
    body = "\n".join(json.dumps(row) for row in flights(3)).encode()
    lines = post(live, "/invocations", body, "application/jsonlines", accept="application/jsonlines").text.splitlines()
    assert [json.loads(line) for line in lines] == expected
    answer = post(live, "/invocations", body + b"\n{},{}", "application/jsonlines")
    assert (answer.status_code, answer.json()["path"]) == (400, "$[3]")


def test_an_answer_that_nobody_can_give_is_a_406(live: Server) -> None:
    answer = live.client.post("/invocations", json={"instances": flights(1)}, headers={"accept": "image/png"})
    assert answer.status_code == 406
    assert "text/csv" in answer.json()["error"]


# SageMaker and Vertex AI


def test_boto3_invokes_it_as_a_sagemaker_endpoint(live: Server) -> None:
    import boto3
    from botocore.config import Config

    runtime = boto3.client(
        "sagemaker-runtime", endpoint_url=f"http://127.0.0.1:{live.port}", region_name="eu-west-1",
        aws_access_key_id="none", aws_secret_access_key="none",
        config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip
    row = flights(1)
    answer = runtime.invoke_endpoint(
        EndpointName="flights", ContentType="application/json", Body=json.dumps({"instances": row})
    )
    assert json.loads(answer["Body"].read())["predictions"] == live.predict(row).json()["predictions"]
    assert answer["InvokedProductionVariant"] in ("champion", "candidate")
    assert answer["ContentType"] == "application/json"
    line = ",".join(str(value) for value in row[0].values()) + ","
    answer = runtime.invoke_endpoint(EndpointName="flights", ContentType="text/csv", Accept="text/csv", Body=line)
    assert answer["Body"].read().startswith(b"id,version")
    with pytest.raises(runtime.exceptions.ClientError, match="404"):
        runtime.invoke_endpoint(EndpointName="nobody", ContentType="application/json", Body=b"{}")


def test_the_container_of_a_platform_answers_health_and_predictions(
    live: Server, expected: list[dict[str, Any]]
) -> None:
    assert live.try_get("/ping") == live.try_get("/health") == live.try_get("/alive") == 200
    asked = {"instances": flights(3), "parameters": {"threshold": 1}}
    assert live.client.post(VERTEX, json=asked).json()["predictions"] == expected


def test_googles_client_gets_the_same_answers_from_the_predict_route(
    live: Server, expected: list[dict[str, Any]]
) -> None:
    import httplib2
    from googleapiclient.discovery import build

    service = build(
        "aiplatform", "v1", http=httplib2.Http(), static_discovery=True,
        client_options={"api_endpoint": f"http://127.0.0.1:{live.port}"},
    )  # fmt: skip
    endpoints = service.projects().locations().endpoints()
    asked = {"instances": flights(3), "parameters": {}}
    answer = endpoints.predict(endpoint=VERTEX.removeprefix("/v1/").removesuffix(":predict"), body=asked).execute()
    assert answer["predictions"] == expected
    service.close()


# Arrow


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=2)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def table(n: int = 3) -> pa.Table:
    given = columns(n)
    found = pa.table(given).set_column(3, "carrier", pa.array(given["carrier"]).dictionary_encode())
    at = pa.array(given["at"]).cast(pa.timestamp("ms", "UTC"))
    return found.set_column(1, "at", at).append_column("tail", pa.array([None] * n, pa.string()))


@pytest.mark.parametrize("path", ["/v1/models/flights:predict", "/invocations"])
def test_an_arrow_stream_is_taken_and_given(live: Server, expected: list[dict[str, Any]], path: str) -> None:
    assert post(live, path, stream(table()), ARROW).json()["predictions"] == expected
    answer = post(live, path, stream(table()), ARROW, accept=ARROW)
    assert answer.headers["content-type"] == ARROW
    found = pa.ipc.open_stream(io.BytesIO(answer.content)).read_all()
    assert found["score"].to_pylist() == [each["score"] for each in expected]
    assert found["label"].to_pylist() == [each["label"] for each in expected]
    assert found["id"].to_pylist() == ["f0", "f1", "f2"]


def test_all_tasks_answer_in_arrow(live: Server) -> None:
    for model, columns_ in (("bands", {"label", "scores", "score"}), ("delay", {"score"})):
        answer = post(live, f"/endpoints/{model}/invocations", stream(table()), ARROW, accept=ARROW)
        found = pa.ipc.open_stream(answer.content).read_all()
        assert set(found.schema.names) == columns_ | {"id", "version", "revision", "variant", "violations"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no Arrow IPC stream"),
        (b"not arrow at all", "no Arrow IPC stream"),
        (stream(table())[:-20], "no Arrow IPC stream"),
        (stream(table(), compression="zstd"), "not compressed"),
        (stream(pa.table({"hour": pa.array([[1]])})), "text, a number"),
        (stream(table().set_column(1, "at", pa.array([0, 1, 2], pa.timestamp("us")))), "timestamp"),
        (stream(table().set_column(4, "distance", pa.array([1.0, float("inf"), 2.0]))), "finite"),
        (stream(table().drop_columns(["hour"])), "hour"),
    ],
)
def test_a_wrong_stream_is_told(live: Server, body: bytes, words: str) -> None:
    answer = post(live, "/invocations", body, ARROW)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert live.try_get("/ping") == 200


def test_text_that_a_few_bytes_name_a_thousand_times_is_refused(live: Server) -> None:
    codes = pa.array([0] * 30_000, pa.int8())
    bomb = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * 100_000]))
    assert "bytes of text" in post(live, "/invocations", stream(pa.table({"flight": bomb})), ARROW).json()["error"]
