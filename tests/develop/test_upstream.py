"""Models that other servers run: asked over three protocols, within bounds, and left alone when they keep failing.

The servers here speak the shapes that the protocols' documents show; the Open Inference Protocol is asked of a real
server as well (tests/serving/test_upstream_server.py). The chat completions follow vLLM's documented answers.
"""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from undrift.develop.adoption import adopt
from undrift.develop.upstream import TRACE, Column, Upstream, UpstreamModel, read_upstream
from undrift.errors import CorruptModelError, ModelError, PredictionError, SettingsError, UntrustedModelError
from undrift.inference.predictor import NativePredictor, load
from undrift.serving.telemetry import Meters
from undrift.settings import TrustSettings

TRUST = TrustSettings(formats=("onnx", "upstream"))
INPUTS = (Column("x"), Column("kind", "string"))
Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


class Fake:
    """An HTTP server that answers as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.answer: Answer = lambda path, body: (200, {})
        self.wait = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, body, dict(self.headers)))
                time.sleep(outer.wait)
                status, said = outer.answer(self.path, body)
                content = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.stop()


def model(fake: Fake, protocol: Any = "v2", **changes: Any) -> UpstreamModel:
    known: dict[str, Any] = {
        "url": fake.url, "protocol": protocol, "model": "m", "inputs": INPUTS, "task": "binary",
        "classes": ("no", "yes"), "prompt": "Is {kind} at {x} good?", **changes,
    }  # fmt: skip
    found = UpstreamModel(Upstream(**known), sleep=lambda s: slept.append(s), chance=lambda: 1.0)
    slept: list[float] = []
    found.slept = slept  # type: ignore[attr-defined]
    return found


def rows(*values: tuple[float, str]) -> Any:
    out = np.empty((len(values), 2), dtype=object)
    out[:] = list(values)
    return out


def v2(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    n = body["inputs"][0]["shape"][0]
    score = {"name": "score", "shape": [n], "datatype": "FP64", "data": [0.25] * n}
    return 200, {
        "model_name": "m",
        "outputs": [{"name": "other", "shape": [1], "datatype": "FP64", "data": [9]}, score],
    }


def test_the_open_inference_protocol_is_asked_by_column_and_absent_values_are_null(fake: Fake) -> None:
    fake.answer = v2
    found = model(fake, output="score", version="3").predict_proba(rows((1.5, "a"), (float("nan"), "")))
    assert found.tolist() == [0.25, 0.25]
    path, body, _ = fake.asked[0]
    assert path == "/v2/models/m/versions/3/infer"
    assert body["inputs"] == [
        {"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1.5, None]},
        {"name": "kind", "shape": [2, 1], "datatype": "BYTES", "data": ["a", None]},
    ]
    assert body["outputs"] == [{"name": "score"}]


def test_a_matrix_of_numbers_goes_as_one_tensor_and_probabilities_come_back(fake: Fake) -> None:
    out = {"name": "p", "shape": [1, 2], "datatype": "FP32", "data": [0.9, 0.1]}
    fake.answer = lambda path, body: (200, {"outputs": [out]})
    inputs = (Column("x", datatype="FP32"), Column("y"))
    asked = model(fake, inputs=inputs, layout="matrix", matrix="input__0")
    assert asked.predict_proba(rows((1.0, 2.0))).tolist() == [[0.9, 0.1]]  # type: ignore[arg-type]
    assert fake.asked[0][1]["inputs"] == [{"name": "input__0", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]


@pytest.mark.parametrize(
    ("predictions", "output"), [([[0.7], [0.2]], ""), ([0.7, 0.2], ""), ([{"p": [0.7]}, {"p": [0.2]}], "p")]
)
def test_tensorflow_serving_is_asked_by_row(predictions: list[Any], output: str, fake: Fake) -> None:
    fake.answer = lambda path, body: (200, {"predictions": predictions})
    asked = model(fake, "tensorflow", output=output)
    assert asked.predict_proba(rows((1.0, "a"), (2.0, "b"))).tolist() == [0.7, 0.2]
    assert fake.asked[0][:2] == (
        "/v1/models/m:predict",
        {"instances": [{"x": 1.0, "kind": "a"}, {"x": 2.0, "kind": "b"}]},
    )


def completion(text: str, *tops: tuple[str, float]) -> Any:
    """An answer as vLLM's OpenAI-compatible server documents it, shortened to what is read and something besides."""
    content = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in tops]
    logprobs = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": content}]} if tops else None
    message = {"role": "assistant", "content": text, "tool_calls": []}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "model": "m", "usage": {"total_tokens": 9},
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}],
    }  # fmt: skip


def test_a_language_model_gives_the_probabilities_of_the_classes_by_its_first_token(fake: Fake) -> None:
    fake.answer = lambda path, body: (200, completion("yes", ("Yes", 0.5), (" yes", 0.1), ("no", 0.2), ("maybe", 0.2)))
    asked = model(fake, "openai", system="Answer yes or no.", key="env:UNDRIFT_TEST_KEY")
    with pytest.raises(SettingsError, match="UNDRIFT_TEST_KEY"):
        asked.predict_proba(rows((1.0, "a")))
    found = model(fake, "openai", system="Answer yes or no.").predict_proba(rows((1.0, "a")))
    assert found == pytest.approx(np.array([[0.25, 0.75]]))
    path, body, _ = fake.asked[0]
    assert path == "/v1/chat/completions"
    assert [m["content"] for m in body["messages"]] == ["Answer yes or no.", "Is a at 1.0 good?"]
    assert (body["temperature"], body["top_logprobs"]) == (0, 20)


def test_without_probabilities_the_text_has_to_be_a_class_or_a_number(fake: Fake) -> None:
    fake.answer = lambda path, body: (200, completion(" No. "))
    assert model(fake, "openai").predict_proba(rows((1.0, "a"))).tolist() == [[1.0, 0.0]]
    fake.answer = lambda path, body: (200, completion("I cannot say"))
    with pytest.raises(PredictionError, match="none of no, yes"):
        model(fake, "openai").predict_proba(rows((1.0, "a")))
    fake.answer = lambda path, body: (200, completion("12.5"))
    assert model(fake, "openai", task="regression").predict(rows((1.0, "a"))).tolist() == [12.5]
    fake.answer = lambda path, body: (200, completion("nan"))
    with pytest.raises(PredictionError, match="a number was asked for"):
        model(fake, "openai", task="regression").predict(rows((1.0, "a")))


def test_a_key_is_sent_and_stands_nowhere_but_in_the_environment(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDRIFT_TEST_KEY", "s3cret")
    fake.answer = v2
    asked = model(fake, key="env:UNDRIFT_TEST_KEY")
    asked.predict_proba(rows((1.0, "a")))
    assert fake.asked[0][2]["authorization"] == "Bearer s3cret"
    assert b"s3cret" not in msgspec.json.encode(asked.declared)


def test_a_busy_server_is_asked_again_a_bounded_number_of_times_with_growing_pauses(fake: Fake) -> None:
    answers = [(503, {}), (429, {}), v2("", {"inputs": [{"shape": [1]}]})]
    fake.answer = lambda path, body: answers[len(fake.asked) - 1]
    asked = model(fake, output="score", retries=2)
    assert asked.predict_proba(rows((1.0, "a"))).tolist() == [0.25]
    assert (len(fake.asked), asked.retried, asked.slept) == (3, 2, [0.05, 0.1])  # type: ignore[attr-defined]
    fake.answer = lambda path, body: (503, {"error": "no capacity"})
    with pytest.raises(PredictionError, match=r"answered 503.*no capacity"):
        asked.predict_proba(rows((1.0, "a")))
    assert len(fake.asked) == 6


def test_what_the_server_refuses_is_not_asked_again_and_opens_nothing(fake: Fake) -> None:
    fake.answer = lambda path, body: (400, {"error": "unexpected shape"})
    asked = model(fake, failures=1)
    for _ in range(3):
        with pytest.raises(PredictionError, match=r"answered 400.*unexpected shape"):
            asked.predict_proba(rows((1.0, "a")))
    assert (len(fake.asked), asked.breaker.state) == (3, "closed")


def test_the_trace_a_call_is_made_for_is_passed_on_to_every_row(fake: Fake) -> None:
    header = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    fake.answer = lambda path, body: (200, completion("yes"))
    asked = model(fake, "openai")
    asked.predict_proba(rows((1.0, "a")))
    token = TRACE.set(((b"traceparent", header), (b"tracestate", b"a=1")))
    asked.predict_proba(rows((1.0, "a"), (2.0, "b")))  # rows of a chat are asked from threads
    TRACE.reset(token)
    sent = [{k.lower(): v for k, v in headers.items()} for _, _, headers in fake.asked]
    assert "traceparent" not in sent[0]
    assert [(one["traceparent"], one["tracestate"]) for one in sent[1:]] == [(header.decode(), "a=1")] * 2


def test_calls_are_counted_by_how_they_ended_and_told_as_metrics(fake: Fake) -> None:
    asked = model(fake, output="score", failures=2, retries=1)
    fake.answer = v2
    asked.predict_proba(rows((1.0, "a")))
    fake.answer = lambda path, body: (400, {"error": "unexpected shape"})
    with pytest.raises(PredictionError):
        asked.predict_proba(rows((1.0, "a")))
    fake.answer = lambda path, body: (503, {})
    for _ in range(3):
        with pytest.raises(PredictionError):
            asked.predict_proba(rows((1.0, "a")))
    assert (asked.asked, asked.failed, asked.retried, asked.breaker.refused) == (4, 2, 2, 1)
    meters = Meters()
    meters.upstreams["r-one"] = ("good", 3, asked)
    told = meters.exposition().decode()
    role = 'model="good",version="3",worker="0"'
    for outcome, n in (("ok", 2), ("failed", 2), ("not_sent", 1)):
        line = f'undrift_upstream_calls_total{{model="good",outcome="{outcome}",version="3",worker="0"}} {n}.0'
        assert line in told
    assert f"undrift_upstream_retries_total{{{role}}} 2.0" in told
    assert f"undrift_upstream_circuit_opened_total{{{role}}} 1.0" in told
    assert f"undrift_upstream_circuit_open{{{role}}} 1.0" in told


def test_a_slow_server_is_not_asked_twice(fake: Fake) -> None:
    fake.wait = 0.5
    asked = model(fake, read_seconds=0.05, retries=3)
    with pytest.raises(PredictionError, match=r"did not answer within 0\.05 s"):
        asked.predict_proba(rows((1.0, "a")))
    assert (asked.retried, asked.breaker.failures) == (0, 1)


def test_the_circuit_opens_after_failures_in_a_row_and_closes_after_a_trial(fake: Fake) -> None:
    now = [0.0]
    declared = msgspec.structs.replace(model(fake, output="score").declared, failures=2, pause=10.0, retries=0)
    asked = UpstreamModel(declared, clock=lambda: now[0])
    fake.answer = lambda path, body: (500, {})
    for _ in range(2):
        with pytest.raises(PredictionError, match="answered 500"):
            asked.predict_proba(rows((1.0, "a")))
    with pytest.raises(PredictionError, match="is not asked: it failed 2 times in a row"):
        asked.predict_proba(rows((1.0, "a")))
    assert (len(fake.asked), asked.breaker.opened, asked.breaker.refused) == (2, 1, 1)
    now[0] = 10.0
    with pytest.raises(PredictionError, match="answered 500"):  # the trial fails: open for as long again
        asked.predict_proba(rows((1.0, "a")))
    assert asked.breaker.state == "open"
    now[0], fake.answer = 20.0, v2
    assert asked.predict_proba(rows((1.0, "a"))).tolist() == [0.25]
    assert (asked.breaker.state, asked.breaker.failures, asked.breaker.opened) == ("closed", 0, 2)


def test_a_server_that_is_not_there_is_an_error_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        declared = Upstream(url=url, protocol="v2", model="m", inputs=INPUTS, task="regression", retries=1)
        asked = UpstreamModel(declared, sleep=lambda s: None)
        with pytest.raises(PredictionError, match="cannot be reached") as caught:
            asked.predict(rows((1.0, "a")))
    assert asked.retried == 1
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"<html>", "no JSON object"),
        ({"outputs": []}, "no output"),
        ({"outputs": [{"name": "score", "shape": [2], "data": [1, 2]}]}, "for 1 rows"),
        ({"outputs": [{"name": "score", "shape": [1], "data": ["x"]}]}, "none of shape"),
    ],
)
def test_an_answer_of_another_form_is_said_as_it_is(said: Any, expected: str, fake: Fake) -> None:
    fake.answer = lambda path, body: (200, said)
    with pytest.raises(PredictionError, match=expected):
        model(fake, output="score").predict_proba(rows((1.0, "a")))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"url": "ftp://x"}, "neither http"),
        ({"url": "http://me:pw@x"}, "reference"),
        ({"inputs": []}, "no inputs"),
        ({"classes": []}, "classes"),
        ({"protocol": "openai", "prompt": ""}, "prompt"),
        ({"key": "abc"}, "reference"),
        ({"concurrency": 0}, "above 0"),
        ({"retry": 3}, "unknown field"),
        ({"protocol": "soap"}, "soap"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(changes: dict[str, Any], expected: str) -> None:
    known = {"url": "http://x", "protocol": "v2", "model": "m", "inputs": [{"name": "x"}], "task": "binary",
             "classes": ["a", "b"]}  # fmt: skip
    read_upstream(json.dumps(known).encode(), "it")
    with pytest.raises(ModelError, match=expected):
        read_upstream(json.dumps({**known, **changes}).encode(), "it")


TOML = """
url = "{url}"
protocol = "v2"
model = "m"
{version}output = "score"
task = "binary"
classes = ["no", "yes"]
inputs = [{{ name = "x" }}, {{ name = "kind", type = "string" }}]
concurrency = 3
"""


@pytest.mark.parametrize("version", ["", "3"])
def test_an_upstream_is_adopted_and_served_like_any_model(
    version: str, fake: Fake, tmp_path: Path, artifacts: Any
) -> None:
    def half(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        data = [0.5 if v is None else 1 / (1 + math.exp(-v)) for v in body["inputs"][0]["data"]]
        return 200, {"outputs": [{"name": "score", "shape": [len(data), 1], "datatype": "FP64", "data": data}]}

    def other(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        data = [0.1] * len(body["inputs"][0]["data"])
        return 200, {"outputs": [{"name": "score", "shape": [len(data)], "datatype": "FP64", "data": data}]}

    fake.answer = half
    file = tmp_path / "other.toml"
    file.write_text(TOML.format(url=fake.url, version=version and f'version = "{version}"\n'))
    table = pa.table({"x": [-1.0, 0.0, 2.0, None], "kind": ["a", "b", "a", None], "good": ["no", "no", "yes", "no"]})
    with pytest.raises(UntrustedModelError, match="upstream"):
        adopt(file, table, name="good", label="good", artifacts=artifacts)
    found = adopt(file, table, name="good", label="good", artifacts=artifacts, trust=TRUST)
    assert found.manifest.format == found.manifest.native == "upstream"
    assert "another server" in found.manifest.compiled["reason"]
    predictor = load(artifacts.get(found.bundle), TRUST)
    assert isinstance(predictor, NativePredictor)
    assert predictor.concurrency == 3
    answers = predictor.predict({"x": [2.0, None], "kind": ["a", None]})
    assert answers.score == pytest.approx([1 / (1 + math.exp(-2)), 0.5])
    assert answers.label == ["yes", "yes"]
    with pytest.raises(UntrustedModelError):
        load(artifacts.get(found.bundle), TrustSettings())
    fake.answer = other
    if version:  # then that version has to say what it said
        with pytest.raises(CorruptModelError, match="golden request"):
            load(artifacts.get(found.bundle), TRUST)
    else:
        assert load(artifacts.get(found.bundle), TRUST).predict({"x": [2.0], "kind": ["a"]}).score == [0.1]
