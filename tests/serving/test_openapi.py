"""The OpenAPI document of a real server, and what schemathesis makes of that server by it."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st

with warnings.catch_warnings(action="ignore"):  # of the tool's own imports
    import schemathesis
    from schemathesis import GenerationMode

from servers import Routed, Server, flights, write_table  # isort: skip

EXAMPLES = 12
"""Requests an operation and mode."""
SLOW = 3
"""The same of explanations."""
OCTETS, ARROW = "application/octet-stream", "application/vnd.apache.arrow.stream"


@st.composite
def frames(draw: st.DrawFn) -> pa.Table:
    """Rows that the contract takes, some flagged."""
    rows = flights(draw(st.integers(1, 4)), draw(st.integers(0, 40)))
    for row in rows:
        row["distance"] = draw(st.floats(allow_nan=False, allow_infinity=False))
        row["hour"] = draw(st.integers(0, 23))
    return pa.Table.from_pylist(rows)


def as_csv(table: pa.Table) -> bytes:
    rows = [",".join(str(value) for value in row.values()) for row in table.to_pylist()]
    return "\n".join([",".join(table.column_names), *rows]).encode()


def as_lines(table: pa.Table) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in table.to_pylist())


def as_stream(table: pa.Table) -> bytes:
    at = pa.array([datetime.fromisoformat(each) for each in table.column("at").to_pylist()], pa.timestamp("us", "UTC"))
    table = table.set_column(table.column_names.index("at"), "at", at)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def as_tensors(table: pa.Table) -> bytes:
    """Text in JSON, distances as raw bytes behind it; `Inference-Header-Content-Length` is where those begin."""
    rows, n = table.to_pylist(), table.num_rows
    inputs: list[dict[str, Any]] = [
        {"name": name, "shape": [n], "datatype": "INT64" if name == "hour" else "BYTES",
         "data": [row[name] for row in rows]}
        for name in table.column_names if name != "distance"
    ]  # fmt: skip
    raw = struct.pack(f"<{n}d", *(row["distance"] for row in rows))
    parameters = {"binary_data_size": len(raw)}
    inputs.append({"name": "distance", "shape": [n], "datatype": "FP64", "parameters": parameters})
    return json.dumps({"inputs": inputs}).encode() + raw


for kind, written in (
    ("text/csv", as_csv),
    ("application/jsonlines", as_lines),
    (ARROW, as_stream),
    (OCTETS, as_tensors),
):
    schemathesis.openapi.media_type(kind, frames().map(written))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, routed: Routed) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openapi")
    write_table(folder / ".undrift/routing.json", 7, routed("r-one"), routed("r-delay", model="delay"))
    server = Server(
        folder, 'model = "flights"\npredict_route = "/predict"\nhealth_route = "/alive"\n[time]\nmode = "event"'
    )
    server.start()
    yield server
    assert server.stop() == 0
    assert server.noise == []
    assert not [line for line in server.lines if line["event"] == "fault"]


def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/openapi.json").json()
    return found


def test_it_describes_what_is_served(live: Server) -> None:
    found = document(live)
    assert found["openapi"] == "3.1.0"
    assert {"/v1/models/flights:predict", "/v2/models/delay/infer", "/predict", "/alive", "/v1/sources/weather"} <= set(
        found["paths"]
    )
    body = found["paths"]["/v1/models/flights:predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    instance = body["anyOf"][0]["properties"]["instances"]["anyOf"][0]["items"]
    assert instance["properties"]["hour"] == {"type": "integer", "minimum": 0, "maximum": 23}
    assert instance["required"] == ["flight", "at", "origin", "carrier", "distance", "hour"]
    assert "distance>4983" in instance["properties"]["distance"]["description"]  # flagged, so not a bound


def test_every_path_that_is_served_is_described(live: Server) -> None:
    reference = Path(__file__).parents[2] / "docs/reference/http.md"
    served = {
        path.replace("{model}", "flights").replace("{version}", "1").replace("{name}", "weather")
        for line in reference.read_text(encoding="utf-8").split("`")
        for method, _, path in [line.partition(" ")]
        if method in ("GET", "POST") and path.startswith("/")
    }
    assert served <= set(document(live)["paths"])


def _square(case: Any) -> None:
    """Tell the generator what JSON Schema cannot say: columns and tensors of a request have one length."""
    body = case.body
    if not isinstance(body, dict):
        return
    columns = body.get("inputs")
    if isinstance(columns, dict) and columns and all(isinstance(v, list) and v for v in columns.values()):
        n = min(len(values) for values in columns.values())
        body["inputs"] = {name: values[:n] for name, values in columns.items()}
    elif isinstance(columns, list) and columns and all(isinstance(t, dict) and "shape" in t for t in columns):
        n = min(len(tensor["data"]) for tensor in columns)
        for tensor in columns:
            tensor["data"], tensor["shape"] = tensor["data"][:n], [n]


POSTED = (
    "/v1/models/flights:predict", "/v1/models/flights/labels", "/v1/models/flights/events", "/v1/models/delay/labels",
    "/v2/models/flights/infer", "/invocations", "/predict", "/v1/sources/weather", "/v1/watermark",
    "/v1/models/delay:predict", "/v1/models/flights:explain",
)  # fmt: skip


@pytest.mark.parametrize("path", POSTED)
def test_schemathesis_finds_no_fault_with_it(live: Server, path: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # of the tool, about how it generates
        schema = schemathesis.openapi.from_dict(document(live))
        schema.config.update(base_url=f"http://127.0.0.1:{live.port}")
        operation = schema[path]["POST"]
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _drive(operation, mode, SLOW if path.endswith(":explain") else EXAMPLES)


def test_schemathesis_finds_no_fault_with_what_is_read(live: Server) -> None:
    with warnings.catch_warnings(action="ignore"):
        schema = schemathesis.openapi.from_dict(document(live))
        schema.config.update(base_url=f"http://127.0.0.1:{live.port}")
        read = [path for path, item in document(live)["paths"].items() if "get" in item]
        assert len(read) > 15
        for path in read:
            _drive(schema[path]["GET"], GenerationMode.POSITIVE, 1)


def test_other_forms_than_json_are_asked(live: Server) -> None:
    content = document(live)["paths"]["/invocations"]["post"]["requestBody"]["content"]
    assert [*content] == ["application/json", "text/csv", "application/jsonlines", ARROW]
    assert OCTETS in document(live)["paths"]["/v2/models/flights/infer"]["post"]["requestBody"]["content"]
    table = pa.Table.from_pylist(flights(2))
    for kind, written in (("text/csv", as_csv), ("application/jsonlines", as_lines), (ARROW, as_stream)):
        answer = live.client.post("/invocations", content=written(table), headers={"content-type": kind})
        assert len(answer.json()["predictions"]) == 2
    body = as_tensors(table)
    headers = {"content-type": OCTETS, "inference-header-content-length": str(len(body) - 16)}
    answer = live.client.post("/v2/models/flights/infer", content=body, headers=headers)
    assert answer.json()["outputs"][0]["shape"] == [2]


def _drive(operation: Any, mode: Any, examples: int) -> None:
    asked = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(1)
    def ask(case: Any) -> None:
        nonlocal asked
        asked += 1
        if mode is GenerationMode.POSITIVE:
            _square(case)
            case.headers.pop("X-Request-Timeout-Ms", None)  # a millisecond may pass
            if case.media_type == OCTETS:
                case.headers["Inference-Header-Content-Length"] = str(case.body.index(b"}}]}") + 4)
        elif case.media_type not in (None, "application/json"):
            reject()  # what is drawn for other forms is always right
        answer = case.call()
        if answer.status_code == 400 and "too large for the model to compute with" in answer.text:
            return  # right by the contract, and more than arithmetic bears
        case.validate_response(answer)

    ask()
    assert asked >= examples // 2
