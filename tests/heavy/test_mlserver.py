"""Models that a real MLServer runs, behind undrift by its commands: served, captured, a shadow and a canary on top."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.heavy.behind import Project, answers, ended, free_port, until

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-mlserver"  # made by scripts/heavy
RUNTIME = '''
import math
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse, ResponseOutput

class Odds(MLModel):
    """P(buys) by two columns; its slope is a parameter of the model."""

    async def load(self) -> bool:
        self.slope = float(self.settings.parameters.extra["slope"])
        return True

    async def predict(self, payload):
        found = {given.name: list(given.data) for given in payload.inputs}
        p = [1 / (1 + math.exp(-self.slope * x - b)) for x, b in zip(found["x"], found["b"])]
        output = ResponseOutput(name="p", shape=[len(p), 1], datatype="FP64", data=p)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
'''
DECLARED = """
url = "http://127.0.0.1:{port}"
protocol = "v2"
model = "{name}"
version = "1"
output = "p"
task = "binary"
classes = ["leaves", "buys"]
retries = 1
failures = 3
pause = 1.0
inputs = [{{ name = "x" }}, {{ name = "b", datatype = "FP32" }}]
"""


class MlServer:
    """MLServer with two versions of a model under names of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "odds.py").write_text(RUNTIME)
        for name, slope in (("now", 1.0), ("next", 1.05)):
            (folder / name).mkdir()
            said = {
                "name": name,
                "implementation": "odds.Odds",
                "parameters": {"version": "1", "extra": {"slope": slope}},
            }
            (folder / name / "model-settings.json").write_text(json.dumps(said))

    def start(self) -> None:
        ports = {"HTTP": self.port, "GRPC": free_port(), "METRICS": free_port()}
        own = {f"MLSERVER_{name}_PORT": str(port) for name, port in ports.items()}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [ENVIRONMENT / "bin/mlserver", "start", str(self.folder)], cwd=self.folder,
                env={**os.environ, **own, "MLSERVER_PARALLEL_WORKERS": "0", "PYTHONPATH": str(self.folder)},
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        ready = f"http://127.0.0.1:{self.port}/v2/models/next/ready"
        until(lambda: answers(ready) or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]


@pytest.fixture
def mlserver(tmp_path: Path) -> Iterator[MlServer]:
    folder = tmp_path / "mlserver"
    folder.mkdir()
    server = MlServer(folder)
    server.start()
    yield server
    if server.process.poll() is None:
        ended(server.process)


def row(chance: random.Random) -> dict[str, Any]:
    return {"x": round(chance.gauss(0, 1), 4), "b": 0.5}


def test_a_model_of_mlserver_gets_capture_shadow_and_canary(mlserver: MlServer, tmp_path: Path) -> None:
    chance = random.Random(0)
    with (tmp_path / "customers.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["x", "b", "outcome"])
        for _ in range(300):
            x = round(chance.gauss(0, 1), 4)
            table.writerow([x, 0.5, "buys" if chance.random() < 1 / (1 + math.exp(-x - 0.5)) else "leaves"])
    for name in ("now", "next"):
        (tmp_path / f"{name}.toml").write_text(DECLARED.format(port=mlserver.port, name=name))
    project = Project(tmp_path / "odds")
    said = project.undrift(
        "adopt", "../now.toml", "--example", "../customers.csv", "--label", "outcome", "--name", "odds"
    )
    assert "another server runs it" in said
    declared = project.folder / "declarations.py"
    text = declared.read_text()
    lines = [line for line in text.splitlines() if 'Guardrail(metric="failed"' not in line and '"error"' not in line]
    text = "\n".join(lines).replace('hold="10m"', 'hold="1s"').replace("minimum_units=30", "minimum_units=20")
    assert "steps=(10, 50, 100)," in text
    text = text.replace("# margin=-0.02,", "margin=-0.02,")  # the second is not better, and need not be
    stage_one = 'steps=(50, 100), shadow=undrift.Stage(hold="1s", minimum_units=20),'
    declared.write_text(text.replace("steps=(10, 50, 100),", stage_one))
    toml = project.folder / "undrift.toml"
    toml.write_text(toml.read_text().replace('tick = "5m"', 'tick = "1s"'))
    assert 'tick = "1s"' in toml.read_text()
    project.undrift("apply")
    project.undrift("promote", "--why", "runs on MLServer since May")
    project.serve()
    try:
        rows = [row(chance) for _ in range(40)]
        status, answer = project.predict(rows)
        assert status == 200, answer
        for given, found in zip(rows, answer["predictions"], strict=True):
            assert found["score"] == pytest.approx(1 / (1 + math.exp(-given["x"] - 0.5)), abs=1e-6)
        project.undrift("adopt", "../next.toml", "--example", "../customers.csv")
        project.undrift("roll-out", "--version", "2", "--why", "a steeper slope")

        def stage() -> Any:
            rows = [row(chance) for _ in range(200)]
            status, answer = project.predict(rows)
            assert status == 200, answer
            outcomes = ["buys" if chance.random() < 1 / (1 + math.exp(-r["x"] - 0.5)) else "leaves" for r in rows]
            ids = [found["id"] for found in answer["rows"]]
            project.label([{"id": i, "label": o} for i, o in zip(ids, outcomes, strict=True)])
            project.undrift("work", "--once")
            return json.loads(project.undrift("status", "--json"))["models"]["odds"]["rollout"]

        assert json.loads(project.undrift("status", "--json"))["models"]["odds"]["rollout"]["stage"] == "shadow"
        until(lambda: (stage() or {}).get("stage") == "canary", "a canary after the shadow")
        seen = set()

        def both() -> bool:
            _, answer = project.predict([row(chance) for _ in range(200)])
            seen.update(found["version"] for found in answer["rows"])
            return seen == {1, 2}

        until(both, "two versions answering")
        told = project.metrics()
        calls = {key: value for key, value in told.items() if key.startswith("undrift_upstream_calls_total")}
        for version in (1, 2):
            assert sum(v for k, v in calls.items() if f'version="{version}"' in k and 'outcome="ok"' in k) > 0
        request = answer["rows"][0]["id"]
        project.undrift("work", "--once")
        assert "odds" in project.undrift("why", request)  # captured, and told

        mlserver.process.kill()  # the other server dies: within the bounds, then not asked at all
        mlserver.process.wait()
        for _ in range(6):
            status, answer = project.predict([row(chance)])
            assert 500 <= status < 600, answer
            assert "Traceback" not in json.dumps(answer)
        told = project.metrics()
        assert max(v for k, v in told.items() if k.startswith("undrift_upstream_circuit_open{")) == 1
        assert sum(v for k, v in told.items() if "undrift_upstream_calls" in k and "not_sent" in k) > 0
        mlserver.start()
        until(lambda: project.predict([row(chance)])[0] == 200, "answering again", seconds=30)
    finally:
        ended(project.server)
