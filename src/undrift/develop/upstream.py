"""A model that another server runs: what it is asked, over which protocol, and how its answers become predictions.

The Open Inference Protocol (Triton, MLServer, KServe), TensorFlow Serving's REST shape, and the chat completions of
OpenAI-compatible servers (vLLM). Time-outs and retries are bounded, and a circuit breaker leaves a server alone that
keeps failing. The declaration is the model file of a bundle; keys stand in it as references only.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, Final, Literal

import msgspec

from undrift.data.contract import FieldType
from undrift.develop.breaker import Breaker
from undrift.errors import ModelError, PredictionError
from undrift.plugins import resolve_path
from undrift.settings import secret

__all__ = ["TRACE", "Column", "Upstream", "UpstreamModel", "read_upstream"]

TRACE: ContextVar[tuple[tuple[bytes, bytes], ...]] = ContextVar("undrift_trace", default=())
"""The headers of the trace that a call is made for; they are passed on."""
_DATATYPES: Final = {"string": "BYTES", "integer": "INT64", "number": "FP64", "boolean": "BOOL", "timestamp": "FP64"}
_BUSY: Final = (429, 502, 503, 504)
_PAUSE, _LONGEST = 0.05, 1.0  # seconds before the first retry and at most; each is drawn between half and all of it


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input of the model: its name, here and there, and type. ``datatype`` is the protocol's, if not the usual."""

    name: str
    type: FieldType = "number"
    datatype: str = ""


class Upstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The declaration of a model that another server runs.

    ``output``: the tensor or key with the scores (the first one if empty). ``layout``: ``columns`` sends an input per
    column, ``matrix`` one input named ``matrix`` of shape (n, d). ``key``: reference to a bearer token (``env:NAME``,
    ``file:PATH``). ``prompt``: for ``openai``, the user's message with ``{name}`` for each input; ``system``: the
    message before it. Seconds bound connecting and reading; ``retries`` come after failures to connect, broken
    connections and the answers 429, 502, 503 and 504, never after a time-out of reading. ``failures`` in a row open
    the circuit for ``pause`` seconds. ``concurrency``: requests at once in one server process.
    """

    url: str
    protocol: Literal["v2", "tensorflow", "openai"]
    model: str
    inputs: tuple[Column, ...]
    task: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...] = ()
    version: str = ""
    output: str = ""
    layout: Literal["columns", "matrix"] = "columns"
    matrix: str = "input"
    key: str = ""
    prompt: str = ""
    system: str = ""
    max_tokens: int = 16
    connect_seconds: float = 1.0
    read_seconds: float = 10.0
    retries: int = 2
    failures: int = 5
    pause: float = 10.0
    concurrency: int = 8


def read_upstream(content: bytes, what: str, *, form: Literal["toml", "json"] = "json") -> Upstream:
    """The declaration in a file.

    Raises
    ------
    ModelError : it is malformed, or says something that cannot be.
    """
    try:
        decode = msgspec.toml.decode if form == "toml" else msgspec.json.decode
        found: Upstream = decode(content, type=Upstream)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(f"{what} does not declare an upstream model: {error}.") from error
    wrong = ""
    if not found.url.startswith(("http://", "https://")):
        wrong = f"url {found.url!r} begins with neither http:// nor https://"
    elif "@" in found.url.partition("//")[2].partition("/")[0]:
        wrong = "url holds a user or a password: write the key as a reference (`key`)"
    elif not found.inputs:
        wrong = "it names no inputs"
    elif found.task != "regression" and len(found.classes) < 2:
        wrong = f"a {found.task} model needs its `classes`, negative first"
    elif found.protocol == "openai" and not found.prompt:
        wrong = "the protocol openai needs a `prompt`"
    elif min(found.connect_seconds, found.read_seconds, found.pause) <= 0 or found.retries < 0 or found.concurrency < 1:
        wrong = "seconds and concurrency must be above 0, retries at least 0"
    elif found.key and not found.key.startswith(("env:", "file:")):
        wrong = "key must be a reference, `env:NAME` or `file:PATH`, not the key itself"
    if wrong:
        raise ModelError(f"{what} does not declare an upstream model: {wrong}.")
    return found


class UpstreamModel:
    """Asks an upstream server. May be called from several threads at once.

    Parameters
    ----------
    sleep, clock, chance : stand in for time and randomness in tests.

    Attributes
    ----------
    asked, failed, retried : calls that were made, those of them that failed (an answer of 4xx but 429 is none), and
        requests that were sent again, since the process began. ``breaker`` counts what was not sent.
    """

    def __init__(
        self,
        declared: Upstream,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        wanted = f"the upstream model at {declared.url}"
        pools = resolve_path("urllib3:PoolManager", wanted_for=wanted, extra="upstream")
        timeout = resolve_path("urllib3:Timeout", wanted_for=wanted, extra="upstream")
        self.declared = declared
        self.concurrency = declared.concurrency
        self.breaker = Breaker(limit=declared.failures, pause=declared.pause)
        self.asked = self.failed = self.retried = 0
        self._sleep, self._clock, self._chance = sleep, clock, chance
        self._lock = threading.Lock()
        self._pool = pools(
            maxsize=declared.concurrency,
            retries=False,
            timeout=timeout(connect=declared.connect_seconds, read=declared.read_seconds),
        )

    def predict(self, rows: Any) -> Any:
        """The values of rows given as a matrix, columns in the order of the declaration."""
        return self._answers(rows)

    def predict_proba(self, rows: Any) -> Any:
        """Probabilities of shape (n, k), or P(positive) of shape (n,)."""
        return self._answers(rows)

    def _answers(self, rows: Any) -> Any:
        import numpy as np

        values = [[_plain(v, c) for v, c in zip(row, self.declared.inputs, strict=True)] for row in rows]
        if self.declared.protocol == "openai":
            if len(values) == 1:
                return np.array([self._chat(values[0])], dtype=np.float64)
            with ThreadPoolExecutor(self.concurrency) as rows_at_once:
                calls = [rows_at_once.submit(copy_context().run, self._chat, row) for row in values]
                return np.array([call.result() for call in calls], dtype=np.float64)
        ask = self._v2 if self.declared.protocol == "v2" else self._tensorflow
        found = np.asarray(ask(values), dtype=np.float64)
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found

    def _v2(self, rows: list[list[Any]]) -> Any:
        declared, n = self.declared, len(rows)
        version = f"/versions/{declared.version}" if declared.version else ""
        if declared.layout == "matrix":
            kind = declared.inputs[0].datatype or _DATATYPES[declared.inputs[0].type]
            flat = [value for row in rows for value in row]
            inputs = [{"name": declared.matrix, "shape": [n, len(declared.inputs)], "datatype": kind, "data": flat}]
        else:
            inputs = [
                {
                    "name": column.name,
                    "shape": [n, 1],
                    "datatype": column.datatype or _DATATYPES[column.type],
                    "data": [row[place] for row in rows],
                }
                for place, column in enumerate(declared.inputs)
            ]
        body: dict[str, Any] = {"inputs": inputs}
        if declared.output:
            body["outputs"] = [{"name": declared.output}]
        said = self._post(f"/v2/models/{declared.model}{version}/infer", body)
        outputs = [o for o in said.get("outputs", []) if not declared.output or o.get("name") == declared.output]
        if not outputs or "data" not in outputs[0]:
            raise self._wrong(f"no output {declared.output or 'tensor'!r}", said)
        return _shaped(outputs[0]["data"], outputs[0].get("shape", [n]), n, self._wrong)

    def _tensorflow(self, rows: list[list[Any]]) -> Any:
        declared = self.declared
        version = f"/versions/{declared.version}" if declared.version else ""
        names = [column.name for column in declared.inputs]
        instances: list[Any] = rows if declared.layout == "matrix" else [dict(zip(names, r, strict=True)) for r in rows]
        said = self._post(f"/v1/models/{declared.model}{version}:predict", {"instances": instances})
        found = said.get("predictions")
        if not isinstance(found, list) or len(found) != len(rows):
            raise self._wrong(f"no list of {len(rows)} predictions", said)
        if found and isinstance(found[0], dict):
            key = declared.output or next(iter(found[0]), "")
            if any(key not in each for each in found):
                raise self._wrong(f"no {key!r} in each prediction", said)
            values = [each[key] for each in found]
            if values and isinstance(values[0], dict):  # a probability by the name of its class
                return [[each.get(name, math.nan) for name in declared.classes] for each in values]
            return values
        return found

    def _chat(self, row: list[Any]) -> Any:
        declared = self.declared
        asked = declared.prompt
        for column, value in zip(declared.inputs, row, strict=True):
            asked = asked.replace("{" + column.name + "}", "" if value is None else str(value))
        messages = [{"role": "system", "content": declared.system}] if declared.system else []
        body: dict[str, Any] = {
            "model": declared.model,
            "messages": [*messages, {"role": "user", "content": asked}],
            "temperature": 0,
            "max_tokens": declared.max_tokens,
        }
        if declared.task != "regression":
            body.update(logprobs=True, top_logprobs=20)
        said = self._post("/v1/chat/completions", body)
        try:
            choice = said["choices"][0]
            text = str(choice["message"]["content"]).strip()
        except (KeyError, IndexError, TypeError):
            raise self._wrong("no message", said) from None
        if declared.task != "regression":
            return self._shares(text, choice)
        try:
            value = float(text)
        except ValueError:
            raise self._wrong(f"{text[:60]!r} where a number was asked for", {}) from None
        if not math.isfinite(value):
            raise self._wrong(f"{text[:60]!r} where a number was asked for", {})
        return value

    def _shares(self, text: str, choice: Mapping[str, Any]) -> list[float]:
        """Probabilities of the classes: by the first token where the server gives them, else 1 for the text."""
        words = [name.strip().lower() for name in self.declared.classes]
        tokens = (choice.get("logprobs") or {}).get("content") or []
        weights = [0.0] * len(words)
        for token in (tokens[0].get("top_logprobs") or []) if tokens else []:
            begun = str(token.get("token", "")).strip().lower()
            meant = [place for place, word in enumerate(words) if begun and word.startswith(begun)]
            if len(meant) == 1:  # a token that begins two classes says nothing
                weights[meant[0]] += math.exp(float(token.get("logprob", -math.inf)))
        if sum(weights) > 0:
            return [weight / sum(weights) for weight in weights]
        said = text.strip(" .!\"'").lower()
        if said not in words:
            raise self._wrong(f"{text[:60]!r}, which is none of {', '.join(self.declared.classes)}", {})
        return [float(word == said) for word in words]

    def _wrong(self, what: str, said: Any) -> PredictionError:
        shown = f": {str(said)[:200]}" if said else ""
        return PredictionError(f"the upstream {self.declared.url} answered {what}{shown}.")

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask, within the bounds declared; what comes back is an object."""
        with self._lock:
            self.breaker, allowed = self.breaker.ask(self._clock())
        if not allowed:
            raise PredictionError(
                f"the upstream {self.declared.url} is not asked: it failed {self.breaker.failures} times in a row."
            )
        problem, status, content = self._attempts(path, msgspec.json.encode(body))
        failed = bool(problem) or status >= 500 or status == 429
        with self._lock:
            self.asked, self.failed = self.asked + 1, self.failed + failed
            self.breaker = self.breaker.tell(not failed, self._clock())
        if problem or status != 200:
            told = problem or f"answered {status}: {content[:200].decode('utf-8', 'replace')}"
            raise PredictionError(f"the upstream {self.declared.url} {told}.")
        try:
            return msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise self._wrong(f"no JSON object ({error})", {}) from error

    def _attempts(self, path: str, content: bytes) -> tuple[str, int, bytes]:
        import urllib3.exceptions as failure

        headers = {"content-type": "application/json", "accept": "application/json"}
        headers.update((name.decode(), value.decode()) for name, value in TRACE.get())
        if self.declared.key:
            headers["authorization"] = f"Bearer {secret(self.declared.key)}"
        problem, status, found = "", 0, b""
        for attempt in range(self.declared.retries + 1):
            if attempt:
                with self._lock:
                    self.retried += 1
                self._sleep(min(_PAUSE * 2 ** (attempt - 1), _LONGEST) * (0.5 + self._chance() / 2))
            try:
                answer = self._pool.request("POST", self.declared.url.rstrip("/") + path, body=content, headers=headers)
            except failure.ReadTimeoutError:  # it may still be at work: asking again would double it
                return f"did not answer within {self.declared.read_seconds:g} s", 0, b""
            except failure.HTTPError as error:
                problem = f"cannot be reached: {type(error).__name__}: {error}"[:300]
                continue
            problem, status, found = "", answer.status, answer.data
            if status not in _BUSY:
                break
        return problem, status, found


def _plain(value: Any, column: Column) -> Any:
    """A value as JSON can carry it: what is absent is null."""
    if column.type == "string":
        return value or None
    number = float(value)
    if not math.isfinite(number):
        return None
    return bool(number) if column.type == "boolean" else int(number) if column.type == "integer" else number


def _shaped(data: Any, shape: Sequence[int], n: int, wrong: Callable[[str, Any], PredictionError]) -> Any:
    import numpy as np

    try:
        found = np.asarray(data, dtype=np.float64).reshape([int(size) for size in shape])
    except (ValueError, TypeError) as error:
        raise wrong(f"a tensor that is none of shape {list(shape)}", error) from error
    if found.shape[:1] != (n,):
        raise wrong(f"a tensor of shape {list(shape)} for {n} rows", "")
    return found.reshape(n, -1) if found.ndim > 2 else found
