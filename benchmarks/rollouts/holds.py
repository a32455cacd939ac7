"""Rollouts on the real system: servers, worker and client over HTTP, and candidates that are bad in one way each.

    python benchmarks/rollouts/holds.py [--requests 100000] [--only raises,slow] [--seed 1] [--out FILE]

`undrift serve` with three worker processes and `undrift work` run a project made here; a client with eight connections
sends the requests of day after day of event time, then labels and purchases, then the watermark. Each scenario is one
rollout by steps of 5, 10, 25 and 50 % (`business`: 50 % until the decision). Printed are how it ended, how many units
saw the candidate, after how many days, and how many requests failed; `--out` appends each as it ends. Same seed, same
units and same outcomes; latencies are of the machine, so `slow` needs one whose own delays are well below 60 ms.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from undrift import lifecycle, releases
from undrift.deploy.rollout import RolloutState
from undrift.deploy.routes import rollout_of
from undrift.ids import to_micros
from undrift.project import Project, open_project

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CARRIERS = ("AA", "DL", "UA", "WN")
EFFECT = np.array([-1.0, 0.0, 0.6, 1.2])
BUYS = 0.6
CONNECTIONS = 8
PATIENCE = 240.0

SETTINGS = """
[project]
name = "holds"
[time]
mode = "event"
tick = "1d"
[serve]
port = 0
workers = {workers}
poll_seconds = 0.05
wrapper = "faults:Faulty"
[work]
poll_seconds = 0.02
linger_seconds = 0.01
lease_seconds = 3.0
"""

DECLARATIONS = """
import undrift as ud

model = ud.Model(
    name="offers", task="binary", label="late", classes=("0", "1"), key="id", unit="customer", time="at",
    contract=ud.Contract(
        name="offers",
        fields=(
            ud.Field(name="id", type="string", role="context"),
            ud.Field(name="customer", type="string", role="context"),
            ud.Field(name="at", type="timestamp", role="context"),
            ud.Field(name="carrier", type="string", categories=("AA", "DL", "UA", "WN")),
            ud.Field(name="x", type="number"),
        ),
    ),
    segments=("carrier",), threshold={threshold}, folds=0, maturity="1d", data="rows.parquet", train="train:{train}",
    baseline="train:mean", gate=ud.Gate(margin=-0.05, segment_margin=0.1), rollout=ud.Rollout({rollout}),
)
"""

GUARDS = (
    "ud.Guardrail(metric='failed', margin=0.005)",
    "ud.Guardrail(metric='brier', margin=0.01, segment_margin=0.03)",
)
P99 = "ud.Guardrail(metric='latency_p99', margin=0.05, relative=True, by_segment=False)"
PURCHASES = "ud.Guardrail(metric='purchases', margin=0.0, by_segment=False)"
METRIC = (
    "metrics=(ud.Metric(name='purchases', of='event:purchase', kind='proportion', better='higher', window='12h'),), "
)
CANARY = "steps=(5, 10, 25, 50, 100), hold='1d', minimum_units=50, maximum='60d', on_timeout='pause'"
SPLIT = "strategy='ab', split=50, hold='2d', minimum_units=500, maximum='60d', on_timeout='pause'"

TRAIN = """
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def of_columns(data, *names):
    parts = [("x", "passthrough", [data.inputs.index("x")])]
    if "carrier" in names:
        parts.append(("carrier", OneHotEncoder(handle_unknown="ignore"), [data.inputs.index("carrier")]))
    return make_pipeline(ColumnTransformer(parts), LogisticRegression()).fit(data.X, data.y)


def mean(data):
    return DummyClassifier(strategy="prior").fit(data.X, data.y)


def narrow(data):
    return of_columns(data, "x")


def same(data):  # as good as `narrow`, and another file
    from sklearn.linear_model import LogisticRegression as Again
    model = of_columns(data, "x")
    model.set_params(logisticregression__C=0.99)
    return model.fit(data.X, data.y)


def wide(data):
    return of_columns(data, "x", "carrier")
"""

FAULTS = '''
"""A predictor that is bad in one way, if it is the candidate's: that one was declared with another threshold."""

import os
import time
import zlib


class Faulty:
    def __init__(self, inner):
        self._inner = inner
        self._kind = os.environ.get("HOLDS_FAULT", "")
        self._candidate = inner.manifest.interface.threshold != 0.5

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def predict(self, columns):
        xs = [float(x) for x in columns["x"]]
        rare = [zlib.crc32(repr(x).encode()) % 50 == 0 for x in xs]
        if self._kind == "raises" and self._candidate and any(rare):
            raise ValueError("no such table entry")
        if self._kind == "slow":  # the slowest rows of both take long, those of the candidate 30 % longer
            if any(rare):
                time.sleep(0.26 if self._candidate else 0.20)
        answers = self._inner.predict(columns)
        if self._kind == "segment" and self._candidate:
            score = [0.95 if c == "UA" else s for c, s in zip(columns["carrier"], answers.score)]
            answers = answers._replace(score=score) if hasattr(answers, "_replace") else type(answers)(
                score=score, scores=answers.scores, label=answers.label)
        return answers
'''


class Scenario(msgspec.Struct, frozen=True):
    """One candidate: its training, its fault, how a rollout of it is declared, and how it should end."""

    name: str
    train: str
    fault: str
    rollout: str
    ends: str
    lift: float = 0.0


def _rollout(plan: str, *guards: str, metric: str = "") -> str:
    return f"{metric}{plan}, guardrails=({', '.join(guards)},)"


SCENARIOS = (
    Scenario("better", "wide", "", _rollout(CANARY, *GUARDS), "succeeded"),
    Scenario("raises", "same", "raises", _rollout(CANARY, *GUARDS), "rolled_back"),
    Scenario("segment", "same", "segment", _rollout(CANARY, *GUARDS), "rolled_back"),
    Scenario("slow", "same", "slow", _rollout(CANARY, *GUARDS, P99), "rolled_back"),
    Scenario("business", "same", "", _rollout(SPLIT, GUARDS[0], PURCHASES, metric=METRIC), "rolled_back", lift=-0.03),
)


class Traffic:
    """Customers, requests and what comes of them, the same for the same seed.

    Whether a customer buys depends on who served: the candidate changes the rate by ``lift`` (relative).
    """

    def __init__(self, per_day: int, seed: int, lift: float = 0.0) -> None:
        self.per_day, self.seed, self.lift = per_day, seed, lift

    def day(self, number: int) -> list[dict[str, Any]]:
        """The requests of one day; one customer in five comes twice."""
        rng = np.random.default_rng([self.seed, number])
        n = self.per_day
        x, carrier = rng.normal(size=n).round(6), rng.integers(0, len(CARRIERS), n)
        customer = np.arange(n)
        customer[4::5] = customer[3::5][: len(customer[4::5])]
        return [
            {
                "id": f"d{number}-{i}",
                "customer": f"c{number}-{customer[i]}",
                "at": (START + number * DAY + i * DAY / n).isoformat(),
                "carrier": CARRIERS[carrier[i]],
                "x": float(x[i]),
            }
            for i in range(n)
        ]

    def outcomes(
        self, number: int, rows: list[dict[str, Any]], served: dict[str, str]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Labels of all requests, and the purchases of the customers, given which variant served whom."""
        rng = np.random.default_rng([self.seed, number, 1])
        draws, buys = rng.random(len(rows)), rng.random(len(rows))
        labels, events, seen = [], [], set()
        for i, row in enumerate(rows):
            logit = -0.5 + 1.2 * row["x"] + EFFECT[CARRIERS.index(row["carrier"])]
            at = (datetime.fromisoformat(row["at"]) + timedelta(minutes=1)).isoformat()
            late = "1" if draws[i] < 1 / (1 + np.exp(-logit)) else "0"
            labels.append({"id": row["id"], "label": late, "event_time": at})
            if row["customer"] in seen:
                continue
            seen.add(row["customer"])
            rate = BUYS * (1 + self.lift * (served.get(row["customer"]) == "candidate"))
            if buys[i] < rate:
                events.append({"id": f"p-{row['id']}", "unit": row["customer"], "name": "purchase", "event_time": at})
        return labels, events

    def table(self, days: int) -> pa.Table:
        """The rows of days before the first request, for training."""
        rows = [row for day in range(-days, 0) for row in Traffic(400, self.seed).day(day + 1000)]
        labels = [e["label"] for d in range(-days, 0) for e in self._labels(d + 1000)]
        at = [START - DAY * days + i * DAY * days / len(rows) for i in range(len(rows))]
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("id", "customer", "carrier", "x")}
        columns["at"] = pa.array(at, pa.timestamp("us", "UTC"))
        columns["late"] = pa.array([int(label) for label in labels])
        return pa.table(columns)

    def _labels(self, day: int) -> list[dict[str, Any]]:
        past = Traffic(400, self.seed)
        return past.outcomes(day, past.day(day), {})[0]


class Client:
    """Eight connections that each send one request after the other and remember who answered."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.served: dict[str, str] = {}
        self.failed: list[str] = []
        self.last_candidate_sent = 0.0

    def predict(self, rows: list[dict[str, Any]]) -> None:
        waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        for row in rows:
            waiting.put(row)
        for _ in range(CONNECTIONS):
            waiting.put(None)

        def send() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            while (row := waiting.get()) is not None:
                sent = time.time()
                status, answer = self._post(connection, "/v1/models/offers:predict", {"instances": [row]})
                if status != 200:
                    self.failed.append(f"{status} {answer}")
                    continue
                variant = answer["rows"][0]["variant"]
                if variant == "candidate":
                    self.last_candidate_sent = max(self.last_candidate_sent, sent)
                self.served.setdefault(row["customer"], variant)
            connection.close()

        threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def tell(self, path: str, name: str, entries: list[dict[str, Any]]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for start in range(0, len(entries), 2000):
            part = entries[start : start + 2000]
            status, answer = self._post(connection, path, {name: part})
            assert (status, answer) == (200, {"accepted": len(part)}), answer
        connection.close()

    def watermark(self, at: datetime) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        status, answer = self._post(connection, "/v1/watermark", {"event_time": to_micros(at)})
        assert status == 200, answer
        connection.close()

    @staticmethod
    def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return 0, f"{type(error).__name__}: {error}"


class System:
    """The project's processes: `undrift serve` and `undrift work`, started and ended by their own ids."""

    def __init__(self, root: Path, fault: str) -> None:
        self.root, self.fault = root, fault
        self.children: dict[str, subprocess.Popen[str]] = {}
        self.port = 0

    def start(self, name: str) -> subprocess.Popen[str]:
        environ = {**os.environ, "HOLDS_FAULT": self.fault, "OMP_NUM_THREADS": "1"}
        environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(self.root), os.environ.get("PYTHONPATH", "")) if p)
        command = [sys.executable, "-m", "undrift.app.cli", name, "-C", str(self.root)]
        with (self.root / f"{name}.log").open("a") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environ)
        self.children[name] = child
        return child

    def serve(self) -> Client:
        self.start("serve")
        self.wait(lambda: re.search(r'"port": ?(\d+)', self.told("serve")), "listening")
        found = re.search(r'"port": ?(\d+)', self.told("serve"))
        assert found is not None
        self.port = int(found[1])
        return Client(self.port)

    def told(self, name: str) -> str:
        file = self.root / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait(self, met: Any, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not met():
            assert time.monotonic() < end, f"never {what}: {self.told('serve')[-2000:]} {self.told('work')[-2000:]}"
            time.sleep(0.02)

    def followed(self, project: Project, workers: int) -> None:
        """Until every server process follows the present table."""
        epoch = project.publish_routes().epoch
        folder = self.root / ".undrift" / "serve"

        def acks() -> int:
            found = 0
            for file in folder.glob("*.json"):
                try:
                    found += json.loads(file.read_text()).get("epoch", -1) >= epoch
                except (OSError, ValueError):
                    continue
            return found

        self.wait(lambda: acks() >= workers, f"epoch {epoch}")

    def ticked(self, project: Project, at: datetime) -> None:
        self.wait(lambda: (project.journal.get_setting("ticked") or 0) >= to_micros(at), f"judged until {at}")

    def stop(self) -> None:
        for child in self.children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self.children.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def write_project(root: Path, scenario: Scenario, seed: int, workers: int) -> None:
    root.mkdir(parents=True)
    (root / "undrift.toml").write_text(SETTINGS.format(workers=workers))
    (root / "train.py").write_text(TRAIN)
    (root / "faults.py").write_text(FAULTS)
    pyarrow.parquet.write_table(Traffic(400, seed).table(20), root / "rows.parquet")
    declare(root, "narrow", 0.5, scenario.rollout)


def declare(root: Path, train: str, threshold: float, rollout: str) -> None:
    text = DECLARATIONS.format(train=train, threshold=threshold, rollout=rollout)
    (root / "declarations.py").write_text(text)


@contextmanager
def living(scenario: Scenario, root: Path, seed: int, workers: int) -> Iterator[tuple[Project, System, Client]]:
    """The project with a champion and a registered candidate, its servers and its worker running."""
    write_project(root, scenario, seed, workers)
    with open_project(root) as project:
        assert lifecycle.train(project, actor="person:bench").version == 1
        releases.promote(project, actor="person:bench")
    declare(root, scenario.train, 0.5001, scenario.rollout)
    with open_project(root) as project:
        made = lifecycle.train(project, actor="person:bench")
        assert made.version == 2, made.report.to_text()
        lifecycle.apply(project, actor="person:bench", why="benchmark")
        project.publish_routes()
        system = System(root, scenario.fault)
        try:
            client = system.serve()
            system.start("work")
            system.followed(project, workers)
            yield project, system, client
        finally:
            system.stop()


class Outcome(msgspec.Struct, frozen=True):
    """How one rollout went."""

    scenario: str
    wanted: str
    ended: str
    requests: int
    failed_requests: int
    exposed_units: int
    all_units: int
    days: float
    seconds: float
    weights: list[float]
    why: str


def run(scenario: Scenario, root: Path, requests: int, seed: int, workers: int = 3, days: int = 20) -> Outcome:
    """One rollout until it ends or the requests are used up."""
    traffic = Traffic(max(requests // days, 1), seed, scenario.lift)
    began = time.monotonic()
    with living(scenario, root, seed, workers) as (project, system, client):
        client.watermark(START)
        system.ticked(project, START)
        state: RolloutState | None = None
        sent = 0
        for number in range(days):
            if number == 1:  # a day of the champion alone comes first
                state = releases.roll_out(project, actor="person:bench")
                system.followed(project, workers)
            rows = traffic.day(number)
            client.predict(rows)
            sent += len(rows)
            labels, events = traffic.outcomes(number, rows, client.served)
            client.tell("/v1/models/offers/labels", "labels", labels)
            client.tell("/v1/models/offers/events", "events", events)
            client.watermark(START + (number + 1) * DAY)
            system.ticked(project, START + (number + 1) * DAY)
            system.followed(project, workers)
            if state is not None and (state := rollout_of(project.journal, state.id)).over:
                break
        assert state is not None
        ended = state.spans[-1].start if state.over else START + days * DAY
        candidates = sum(variant == "candidate" for variant in client.served.values())
        return Outcome(
            scenario=scenario.name,
            wanted=scenario.ends,
            ended=state.status,
            requests=sent,
            failed_requests=len(client.failed),
            exposed_units=candidates,
            all_units=len(client.served),
            days=(ended - state.started_at) / DAY,
            seconds=round(time.monotonic() - began, 1),
            weights=[span.weight for span in state.spans],
            why=state.reason,
        )


def table(outcomes: list[Outcome]) -> str:
    head = ("candidate", "wanted", "ended", "days", "exposed units", "of units", "requests", "failed", "seconds")
    rows = [
        (
            o.scenario,
            o.wanted,
            o.ended,
            f"{o.days:g}",
            o.exposed_units,
            o.all_units,
            o.requests,
            o.failed_requests,
            o.seconds,
        )
        for o in outcomes
    ]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * len(head), *rows)]
    return "\n".join([*lines, "", *(f"{o.scenario}: {o.why}" for o in outcomes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chosen = [s for s in SCENARIOS if not options.only or s.name in options.only.split(",")]
    outcomes = []
    for scenario in chosen:
        with tempfile.TemporaryDirectory(prefix="undrift-holds-") as folder:
            outcomes.append(run(scenario, Path(folder) / "p", options.requests, options.seed, options.workers))
        print(table(outcomes[-1:]), flush=True)
        if options.out is not None:  # each as it ends, so that nothing is lost
            with options.out.open("a") as file:
                file.write(table(outcomes[-1:]) + "\n")


if __name__ == "__main__":
    main()
