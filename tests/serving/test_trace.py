"""Trace context and spans: taken, given, kept, and sent to a real receiver of OTLP over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from undrift.capture.capture import PredictionRecord
from undrift.capture.spool import SpoolReader
from undrift.serving.access_log import AccessLog
from undrift.serving.trace import Span, Trace, Tracing, parse
from undrift.settings import ObserveSettings

from servers import Routed, Serve, Server, flights  # isort: skip

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        b"", b"00", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_header_that_the_recommendation_forbids_begins_no_trace(header: bytes) -> None:
    assert parse(header) is None


def test_a_later_version_may_say_more_and_unknown_flags_are_not_passed_on() -> None:
    found = parse(f"01-{TRACE}-{PARENT}-ff-more".encode(), b"vendor=1")
    assert found == Trace(TRACE, PARENT, PARENT, 1, b"vendor=1")
    broken = parse(f"00-{TRACE}-{PARENT}-00".encode(), b"a=\x01")
    assert broken is not None
    assert (broken.sampled, broken.state) == (False, b"")


class Kept:
    """Spans in memory."""

    def __init__(self) -> None:
        self.found: list[tuple[Trace, Span]] = []

    def send(self, trace: Trace, span: Span, inside: Any) -> None:
        self.found.append((trace, span))

    def close(self) -> None:
        return


def test_a_caller_decides_for_its_trace_and_chance_for_ours() -> None:
    kept = Kept()
    tracing = Tracing(ObserveSettings(trace_ratio=0.25), Random(1), kept)
    span = Span("x", 1, 2, {})
    for flag, wanted in ((b"01", 1), (b"00", 0)):
        trace = tracing.begin({b"traceparent": f"00-{TRACE}-{PARENT}-".encode() + flag})
        assert (trace.trace_id, trace.parent) == (TRACE, PARENT)
        assert trace.span != PARENT
        tracing.end(trace, span)
        assert len(kept.found) == wanted
        kept.found.clear()
    traces = [tracing.begin({}) for _ in range(4000)]
    assert len({trace.trace_id for trace in traces}) == 4000
    share = sum(trace.sampled for trace in traces) / 4000
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_without_a_receiver_a_callers_trace_is_passed_on_and_no_other_begins() -> None:
    tracing = Tracing(ObserveSettings(), Random(1))
    header = f"00-{TRACE}-{PARENT}-01".encode()
    assert tracing.begin({b"traceparent": header, b"tracestate": b"a=1"}).headers == (
        (b"traceparent", header), (b"tracestate", b"a=1"),
    )  # fmt: skip
    assert tracing.begin({}).headers == ()


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP/HTTP receiver, and the spans it took."""
    taken: list[Any] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                assert names["service.name"] == "undrift"
                taken.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", taken
    server.shutdown()
    server.server_close()
    thread.join()


def records(server: Server) -> list[PredictionRecord]:
    reader = SpoolReader(server.folder / ".undrift/spool")
    found = [r for name in reader.writers() for frame in reader.read(name).frames for r in frame.records]
    return [r for r in found if isinstance(r, PredictionRecord)]


def test_a_sampled_request_is_a_span_of_its_callers_trace_and_lies_in_its_records(
    serve: Serve, routed: Routed, receiver: tuple[str, list[Any]]
) -> None:
    address, taken = receiver
    server = serve(routed("r-one"), settings=f'[observe]\ntraces = "{address}"\ntrace_ratio = 0.0')
    answer = server.predict(flights(2), traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1")
    _, trace_id, span_id, flags = answer.headers["traceparent"].split("-")
    assert (trace_id, flags, answer.headers["tracestate"]) == (TRACE, "01", "vendor=1")
    assert {r.trace_id for r in records(server)} == {TRACE}
    server.predict(flights(1), traceparent=f"00-{TRACE}-{PARENT}-00")  # not sampled by its caller
    server.predict(flights(1))  # not sampled by chance
    assert server.stop() == 0
    span = taken.pop()  # the last to end
    assert [inner.name for inner in taken] == ["decode", "feature", "queue", "compute", "capture", "encode"]
    assert {(inner.trace_id, inner.parent_span_id) for inner in taken} == {(span.trace_id, span.span_id)}
    moments = [moment for inner in taken for moment in (inner.start_time_unix_nano, inner.end_time_unix_nano)]
    assert moments == sorted(moments)  # one after the other
    assert span.start_time_unix_nano <= moments[0]
    assert moments[-1] <= span.end_time_unix_nano
    assert {a.value.string_value for inner in taken for a in inner.attributes} == {"r-one"}
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (TRACE, span_id, PARENT)
    assert span.name == "POST /v1/models/{name}:predict"
    said = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
    assert said["http.response.status_code"] == 200
    assert said["undrift.request_id"] == answer.headers["x-request-id"]
    assert 0 < span.start_time_unix_nano < span.end_time_unix_nano
    assert server.noise == []


def test_a_receiver_that_is_away_costs_spans_and_no_answer(serve: Serve, routed: Routed) -> None:
    settings = '[observe]\ntraces = "http://127.0.0.1:9/v1/traces"\ntrace_ratio = 1.0'
    server = serve(routed("r-one"), settings=settings)
    assert [server.predict(flights(1)).status_code for _ in range(5)] == [200] * 5
    assert server.stop() == 0
    assert server.noise == []
    assert any(line["event"] == "traces not sent" for line in server.lines)


def test_the_access_log_has_a_line_for_every_answer(serve: Serve, routed: Routed, tmp_path: Path) -> None:
    with (tmp_path / "access.log").open("wb") as out:
        server = serve(routed("r-one"), settings="[observe]\naccess_log = true", stdout=out)
        answer = server.predict(flights(1), traceparent=f"00-{TRACE}-{PARENT}-01")
        server.client.get("/nothing")
        server.client.post("/v1/models/flights:predict", json={"instances": [{}]})
        assert server.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    lines = [line for line in lines if line["path"] != "/readyz"]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/v1/models/flights:predict", 200),
        ("GET", "/nothing", 404),
        ("POST", "/v1/models/flights:predict", 400),
    ]
    first = lines[0]
    assert (first["request_id"], first["trace_id"]) == (answer.headers["x-request-id"], TRACE)
    assert first["response_bytes"] == len(answer.content)
    assert first["ms"] > 0


def test_a_log_that_nobody_reads_loses_lines_and_counts_them(tmp_path: Path) -> None:
    import os

    read, write = os.pipe()
    os.close(read)
    lost: list[int] = []
    log = AccessLog(write, lost=lost.append)
    for n in range(5):
        log.add(n=n)
    log.close()
    os.close(write)
    assert sum(lost) == 5
