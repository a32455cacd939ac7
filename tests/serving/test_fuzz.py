"""Bodies that nobody meant: whatever is sent, the answer is 200 or a 4xx that says where, never a stack trace.

A run of 100,000 is `benchmarks/serving/fuzz.py`; this is the same generator with few examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers import Routed, Server, flights, write_table  # isort: skip

PATHS = ("/v1/models/flights:predict", "/v1/models/delay:predict", "/v2/models/flights/infer", "/invocations",
         "/v1/models/flights/labels", "/v1/models/flights/events", "/v1/sources/weather")  # fmt: skip
NAMES = ("instances", "inputs", "columns", "data", "dataframe_split", "dataframe_records", "labels", "events", "rows",
         "flight", "at", "origin", "carrier", "distance", "hour", "tail", "name", "shape", "datatype")  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.floats(1e270, 1.7e308) | st.sampled_from(["AA", "JFK", "2013-04-01T00:00:00Z", "FP64", "BYTES", "f1"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner),
    max_leaves=12,
)
DEEP = st.integers(1, 200_000).map(lambda n: b"[" * n) | st.integers(1, 30_000).map(
    lambda n: b'{"instances":' + b'[{"a":' * n + b"1" + b"}]" * n + b"}"
)


@st.composite
def mended(draw: st.DrawFn) -> bytes:
    """A good request in which one thing is another."""
    row = dict(flights(1, draw(st.integers(0, 50)))[0])
    row[draw(st.sampled_from([*row, "more"]))] = draw(VALUES)
    return json.dumps({"instances": [row]}).encode("utf-8", "surrogatepass")


@st.composite
def cut(draw: st.DrawFn) -> bytes:
    """A good request of which bytes are missing or changed."""
    good = bytearray(json.dumps({"instances": flights(1)}).encode())
    for _ in range(draw(st.integers(1, 4))):
        good[draw(st.integers(0, len(good) - 1))] = draw(st.integers(0, 255))
    return bytes(good[: draw(st.integers(0, len(good)))])


BODIES = (
    st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")) | mended()
    | cut() | DEEP | VALUES.map(lambda value: json.dumps({"instances": [value]}).encode("utf-16"))
)  # fmt: skip


def check(client: httpx.Client, path: str, body: bytes) -> None:
    """Send it and look at the answer."""
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, (answer.status_code, answer.text, body[:200])
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    answer.json()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, routed: Routed) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fuzz")
    write_table(folder / ".undrift/routing.json", 1, routed("r-one", "r-two", 50.0), routed("r-delay", model="delay"))
    server = Server(folder)
    server.start()
    yield server
    assert server.predict(flights(3)).status_code == 200
    assert server.stop() == 0
    assert server.noise == []
    assert [line for line in server.lines if line["event"] in ("fault", "worker died")] == []


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(path=st.sampled_from(PATHS), body=BODIES)
def test_no_body_gets_a_server_error_or_a_stack_trace(live: Server, path: str, body: bytes) -> None:
    check(live.client, path, body)
