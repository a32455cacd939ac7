"""One's own model by the commands of its README, on scikit-learn's bundled tables."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from sklearn import datasets
from threadpoolctl import threadpool_limits

from undrift.app.cli import main

LABELS = {"breast_cancer": "1", "wine": "2", "diabetes": 151.0}
TASKS = {"breast_cancer": "binary", "wine": "multiclass", "diabetes": "regression"}


def undrift(*words: str) -> tuple[int, str, str]:
    """A command, in this process: its exit code, what it says and what it complains about."""
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained), threadpool_limits(1):
        code = main(words)
    assert code != 70, complained.getvalue()
    return code, said.getvalue(), complained.getvalue()


def told(*words: str, folder: Path) -> Any:
    """What a command says with --json, of a project."""
    code, said, complained = undrift(*words, "--json", "-C", str(folder))
    assert code == 0, said + complained
    return json.loads(said)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def post(url: str, body: bytes) -> Any:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def until(what: Any, *, seconds: float = 60.0) -> Any:
    """The first result that is not None; a bound on a wait, not a measure of time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found is not None:
            return found
        time.sleep(0.2)
    pytest.fail(f"{what.__name__} never happened")


@pytest.fixture(scope="module", autouse=True)
def _one_tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow makes the tables of a new database in some fifty migrations: once is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDRIFT_STORES__TRACKING", f"sqlite:{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")
        yield


@pytest.fixture(params=sorted(TASKS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def project(name: str, tmp_path: Path) -> Path:
    bundled = getattr(datasets, f"load_{name}")()
    columns = {column: bundled.data[:, place] for place, column in enumerate(bundled.feature_names)}
    pyarrow.csv.write_csv(pa.table({**columns, "target": bundled.target}), tmp_path / "rows.csv")
    code, said, complained = undrift(
        "init", str(tmp_path / name), "--data", str(tmp_path / "rows.csv"), "--label", "target", "--json"
    )
    assert code == 0, complained
    assert json.loads(said)["task"] == TASKS[name]
    return tmp_path / name


@pytest.fixture
def system(project: Path) -> Iterator[str]:
    """`undrift dev` on a trained and promoted model; the address it answers at. Ends by Ctrl-C, with exit code 0."""
    trained = told("train", folder=project)
    assert trained["version"] == 1
    assert trained["report"]["verdict"] == "PASS"
    assert told("plan", folder=project) == {project.name: []}
    promoted = told("promote", "--as", "ann", folder=project)
    assert (promoted["kind"], promoted["actor"]) == ("revision.promoted", "person:ann")
    port = free_port()
    command = [sys.executable, "-m", "undrift.app.cli", "dev", "--port", str(port)]
    log = (project.parent / "dev.log").open("w+")
    with subprocess.Popen(command, cwd=project, stdout=log, stderr=subprocess.STDOUT) as process:
        address = f"http://127.0.0.1:{port}"

        def ready() -> bool | None:
            assert process.poll() is None, (project.parent / "dev.log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
                    return answer.status == 200 or None
            except urllib.error.URLError:
                return None

        until(ready)
        yield f"{address}/v1/models/{project.name}"
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    log.close()
    assert code == 0, (project.parent / "dev.log").read_text()


def test_a_bundled_table_becomes_a_model_that_is_served_watched_and_explained(
    name: str, project: Path, system: str
) -> None:
    answer = post(f"{system}:predict", (project / "example.json").read_bytes())
    (row,) = answer["rows"]
    assert (row["version"], row["variant"]) == (1, "champion")
    labels = {"labels": [{"id": row["id"], "label": LABELS[name]}]}
    assert post(f"{system}/labels", json.dumps(labels).encode()) == {"accepted": 1}

    def explained() -> Any:
        code, said, _ = undrift("why", row["id"], "--json", "-C", str(project))
        found = json.loads(said) if code == 0 else None
        return found if found and found["outcome"] else None

    found = until(explained)
    (instance,) = json.loads((project / "example.json").read_text())["instances"]
    assert found["inputs"] == pytest.approx(instance)
    assert found["outcome"]["label"] == LABELS[name]
    assert found["violations"] == []
    (prediction,) = answer["predictions"]
    if name == "diabetes":
        assert found["score"] == pytest.approx(prediction)
    else:
        assert found["prediction"] == prediction["label"]

    model = told("status", folder=project)["models"][name]
    assert (model["task"], model["champion"], model["applied"]) == (TASKS[name], 1, True)
    kinds = [event["kind"] for event in told("history", folder=project)]
    assert kinds[:5] == [
        "declaration.applied", "dataset.recorded", "gate.judged", "version.registered", "revision.promoted",
    ]  # fmt: skip
    assert told("history", "--verify", folder=project)["intact"] is True

    pyarrow.csv.write_csv(pa.table({key: [value] for key, value in instance.items()}), project / "one.csv")
    (scored,) = told("score", str(project / "one.csv"), folder=project)
    if name == "wine":
        np.testing.assert_allclose(scored["scores"], [prediction["scores"][c] for c in ("0", "1", "2")], atol=1e-6)
    else:
        assert scored["score"] == pytest.approx(prediction["score"] if name == "breast_cancer" else prediction)

    traffic = project / "traffic.py"
    traffic.write_text(traffic.read_text().replace("http://127.0.0.1:8080", system.partition("/v1")[0]))
    done = subprocess.run([sys.executable, traffic, "5"], cwd=project, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["5", "answered", "by", "version", "1", "(champion)"], done.stderr
