"""The OpenAPI document of a real server, and what schemathesis makes of that server by it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

with warnings.catch_warnings(action="ignore"):  # of the tool's own imports
    import schemathesis
    from schemathesis import GenerationMode

from servers import Routed, Server, write_table  # isort: skip

EXAMPLES = 12
"""Requests an operation and mode."""


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
)  # fmt: skip


@pytest.mark.parametrize("path", POSTED)
def test_schemathesis_finds_no_fault_with_it(live: Server, path: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # of the tool, about how it generates
        schema = schemathesis.openapi.from_dict(document(live))
        schema.config.update(base_url=f"http://127.0.0.1:{live.port}")
        operation = schema[path]["POST"]
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _drive(operation, mode)


def _drive(operation: Any, mode: Any) -> None:
    asked = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
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
        case.call_and_validate()

    ask()
    assert asked >= EXAMPLES // 2
