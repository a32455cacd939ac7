"""The Open Inference Protocol over gRPC, driven by tritonclient."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from undrift.capture.capture import PredictionRecord
from undrift.capture.spool import SpoolReader
from undrift.errors import ServeError
from undrift.serving.supervisor import supervise
from undrift.settings import load

from servers import Routed, Serve, Server, flights, write_table  # isort: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, routed: Routed) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("grpc")
    routes = (routed("r-one", "r-two", 30.0), routed("r-bands", model="bands"), routed("r-raises", model="broken"))
    write_table(folder / ".undrift/routing.json", 7, *routes)
    server = Server(folder, "grpc_port = 0\nworkers = 2\nmax_body_bytes = 100000")
    server.start()
    server.wait(lambda: len(server.acks()) == 2, "acknowledged twice")
    yield server
    assert server.stop() == 0
    assert server.noise == []


@pytest.fixture(scope="module")
def client(live: Server) -> Iterator[triton.InferenceServerClient]:
    port = json.loads((live.folder / ".undrift/serve/address.json").read_text())["grpc_port"]
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as found:
        yield found


def tensors(n: int = 3, **changed: Any) -> list[triton.InferInput]:
    kinds = {"distance": ("FP64", np.float64), "hour": ("INT64", np.int64)}
    found = []
    for name in flights(1)[0]:
        datatype, kind = kinds.get(name, ("BYTES", np.object_))
        tensor = triton.InferInput(name, [n], datatype)
        tensor.set_data_from_numpy(np.array([{**row, **changed}[name] for row in flights(n)], dtype=kind))
        found.append(tensor)
    return found


def test_it_tells_of_itself_and_its_models(live: Server, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flights")
    assert client.is_model_ready("flights", "2")
    assert client.get_server_metadata().name == "undrift"
    about = client.get_model_metadata("flights", as_json=True)
    by_http = live.client.get("/v2/models/flights").json()
    assert [each["name"] for each in about["inputs"]] == [each["name"] for each in by_http["inputs"]]
    assert about["versions"] == ["1", "2"]


def test_answers_are_those_of_http_and_are_captured(live: Server, client: triton.InferenceServerClient) -> None:
    expected = live.predict(flights(3)).json()
    result = client.infer("flights", tensors(), request_id="mine", headers={"x-request-id": "grpc1"})
    assert result.as_numpy("score").tolist() == [each["score"] for each in expected["predictions"]]
    assert [text.decode() for text in result.as_numpy("label")] == [e["label"] for e in expected["predictions"]]
    assert [text.decode() for text in result.as_numpy("variant")] == [e["variant"] for e in expected["rows"]]
    assert result.get_response().id == "mine"
    reader = SpoolReader(live.folder / ".undrift/spool")
    found = [r for name in reader.writers() for frame in reader.read(name).frames for r in frame.records]
    kept = [r.id for r in found if isinstance(r, PredictionRecord) and r.request_id == "grpc1"]
    assert sorted(kept) == ["f0", "f1", "f2"]
    some = client.infer("flights", tensors(), outputs=[triton.InferRequestedOutput("score")])
    assert [output.name for output in some.get_response().outputs] == ["score"]
    assert client.infer("bands", tensors()).as_numpy("scores").shape == (3, 3)
    pinned = client.infer("flights", tensors(30), model_version="2")
    assert set(pinned.as_numpy("version").tolist()) == {2}
    assert pinned.get_response().model_version == "2"


def test_typed_contents_are_taken_as_raw_ones_are(live: Server, client: triton.InferenceServerClient) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    port = json.loads((live.folder / ".undrift/serve/address.json").read_text())["grpc_port"]
    request = service_pb2.ModelInferRequest(model_name="flights")
    (row,) = flights(1)
    for name, value in row.items():
        tensor = request.inputs.add(
            name=name, shape=[1], datatype={"distance": "FP64", "hour": "INT64"}.get(name, "BYTES")
        )
        if name == "distance":
            tensor.contents.fp64_contents.append(value)
        elif name == "hour":
            tensor.contents.int64_contents.append(value)
        else:
            tensor.contents.bytes_contents.append(value.encode())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    scores = [list(o.contents.fp64_contents) for o in answer.outputs if o.name == "score"]
    assert scores == [[live.predict([row]).json()["predictions"][0]["score"]]]


@pytest.mark.parametrize(
    ("model", "changed", "status", "words"),
    [
        ("nobody", {}, "NOT_FOUND", "known: bands"),
        ("flights", {"hour": 24}, "INVALID_ARGUMENT", "$.inputs.hour[0]"),
        ("broken", {}, "INTERNAL", "could not answer"),
    ],
)
def test_what_is_wrong_is_a_status_with_words(
    live: Server, client: triton.InferenceServerClient, model: str, changed: dict[str, Any], status: str, words: str
) -> None:
    with pytest.raises(triton.InferenceServerException) as told:
        client.infer(model, tensors(**changed))
    assert told.value.status() == f"StatusCode.{status}"
    assert words in told.value.message()
    assert "Traceback" not in told.value.message()


def test_too_large_a_request_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(triton.InferenceServerException, match="larger than max"):
        client.infer("flights", tensors(5000))


def test_calls_are_counted(live: Server, client: triton.InferenceServerClient) -> None:
    client.infer("flights", tensors())

    def lines() -> list[str]:
        text = live.client.get("/metrics").text
        return [line for line in text.splitlines() if 'route="grpc"' in line and 'code="200"' in line]

    live.wait(lines, "counted")


def test_the_access_log_has_a_line_for_every_call(serve: Serve, routed: Routed, tmp_path: Path) -> None:
    with (tmp_path / "access.log").open("wb") as out:
        server = serve(routed("r-one"), settings="grpc_port = 0\n[observe]\naccess_log = true", stdout=out)
        port = json.loads((server.folder / ".undrift/serve/address.json").read_text())["grpc_port"]
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as mine:
            mine.infer("flights", tensors(), headers={"x-request-id": "called1"})
            with pytest.raises(InferenceServerException, match="nowhere"):
                mine.infer("nowhere", tensors())
        assert server.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    lines = [line for line in lines if line["route"] == "grpc"]
    call = "/inference.GRPCInferenceService/ModelInfer"
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GRPC", call, "OK"), ("GRPC", call, "NOT_FOUND"),
    ]  # fmt: skip
    assert lines[0]["request_id"] == "called1"
    assert (lines[0]["request_bytes"] > 100, lines[0]["response_bytes"] > 10, lines[1]["response_bytes"]) == (
        True,
        True,
        0,
    )


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = load(None, {"UNDRIFT_SERVE__GRPC_PORT": str(port), "UNDRIFT_SERVE__PORT": "0"})
        with pytest.raises(ServeError, match="gRPC"):
            supervise(settings, ["false"])
