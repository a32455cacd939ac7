from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.develop.conftest import train

from undrift.develop.bundle import read_golden, read_manifest
from undrift.develop.folds import TrainingData
from undrift.develop.packing import Reference
from undrift.develop.performance import Performance
from undrift.develop.tracking import MlflowTracking
from undrift.errors import DeclarationError, PredictionError, UntrustedModelError
from undrift.inference.predictor import load
from undrift.settings import TrustSettings


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_what_was_measured_is_what_serves(
    task: str, flights: pa.Table, interface_of: Any, models: Any, artifacts: Any
) -> None:
    found = train(interface_of(task), models["trees"], flights, artifacts=artifacts, baseline=models["linear"])
    predictor = load(artifacts.get(found.bundle), TrustSettings())  # checks the golden requests as well
    tail = found.candidate.table
    answers = predictor.predict({i.name: tail[i.name].to_pylist() for i in interface_of(task).inputs})
    np.testing.assert_allclose(answers.score, found.candidate.answers.score, rtol=1e-6)
    assert answers.label == found.candidate.answers.label
    assert found.manifest.format == "onnx"
    assert found.rival is not None
    assert np.array_equal(found.rival.label, found.candidate.label)


def test_the_tail_is_later_than_anything_the_model_saw(
    flights: pa.Table, interface_of: Any, models: Any, artifacts: Any
) -> None:
    seen: list[TrainingData] = []

    def watched(data: TrainingData) -> Any:
        seen.append(data)
        return models["linear"](data)

    found = train(interface_of(), watched, flights, artifacts=artifacts, folds=2, holdout=0.25)
    assert [d.n for d in seen] == [500, 1000, 1500]
    assert found.candidate.time is not None
    assert seen[-1].time is not None
    assert seen[-1].time.max() < found.candidate.time.min()
    assert found.candidate.n == 500
    assert [len(v) for v in found.fold_metrics.values()] == [2] * len(found.fold_metrics)


def test_the_bundle_tells_what_to_expect(flights: pa.Table, interface_of: Any, models: Any, artifacts: Any) -> None:
    found = train(interface_of(), models["linear"], flights, artifacts=artifacts, dataset="flights@3")
    folder = artifacts.get(found.bundle)
    manifest = read_manifest(folder)
    expected = Performance.expected(manifest)
    assert expected is not None
    assert expected.losses["log_loss"].value == pytest.approx(found.metrics["log_loss"])
    assert set(expected.segments) == {"carrier=AA", "carrier=DL", "carrier=UA"}
    assert manifest.trained["dataset"] == "flights@3"
    reference = Reference.read(folder)
    assert reference.inputs.columns["wind"].n == manifest.trained["train_rows"] == 1600
    assert reference.outcomes.columns["score"].n == reference.outcomes.columns["label"].n == 400
    golden = read_golden(folder)
    assert 20 <= len(golden) <= 50
    assert any(row.inputs["wind"] is None for row in golden)
    assert found.revision == f"r-{found.bundle[:12]}"


def test_the_same_training_gives_the_same_bundle(
    flights: pa.Table, interface_of: Any, models: Any, artifacts: Any
) -> None:
    first, second = (train(interface_of(), models["trees"], flights, artifacts=artifacts, folds=0) for _ in range(2))
    assert first.bundle == second.bundle


def test_everything_needed_to_do_it_again_is_in_one_run(
    flights: pa.Table, interface_of: Any, models: Any, artifacts: Any, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    commit = subprocess.run(
        ["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    tracking = MlflowTracking(str(tmp_path / "mlflow.db"))
    found = train(
        interface_of(), models["linear"], flights, artifacts=artifacts, baseline=models["linear"],
        tracking=tracking, dataset="flights@3", dataset_hash="abc", root=tmp_path, params={"note": "hello"},
    )  # fmt: skip
    assert found.problem == ""
    run = tracking.client.get_run(found.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["holdout.log_loss"] == pytest.approx(found.metrics["log_loss"])
    assert run.data.metrics["baseline.log_loss"] == pytest.approx(found.metrics["log_loss"])
    assert run.data.metrics["holdout.log_loss.lower"] < run.data.metrics["holdout.log_loss.upper"]
    steps = [m.value for m in tracking.client.get_metric_history(found.run_id, "fold.brier")]
    assert steps == pytest.approx(found.fold_metrics["brier"])
    assert run.data.params["model"] == "Pipeline"
    assert run.data.params["note"] == "hello"
    tags = run.data.tags
    assert tags["undrift.code.commit"] == commit
    assert tags["undrift.dataset"] == "flights@3"
    assert tags["undrift.dataset_hash"] == "abc"
    assert tags["undrift.bundle"] == found.bundle
    assert tags["undrift.package.scikit-learn"]
    assert [f.path for f in tracking.client.list_artifacts(found.run_id)] == ["manifest.json"]


def test_a_tracking_server_that_is_away_does_not_lose_the_version(
    flights: pa.Table, interface_of: Any, models: Any, artifacts: Any, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    tracking = MlflowTracking(str(tmp_path / "mlflow.db"))
    found = train(interface_of(), models["linear"], flights, artifacts=artifacts, folds=0, tracking=tracking)
    assert found.run_id == ""
    assert "MLflow could not log a run" in found.problem
    assert load(artifacts.get(found.bundle), TrustSettings())


def test_a_train_function_that_raises_is_shown_with_its_line(
    flights: pa.Table, interface_of: Any, artifacts: Any
) -> None:
    def broken(data: TrainingData) -> Any:
        return data.X[:, 99]

    with pytest.raises(DeclarationError, match=r"broken raised IndexError: .* \(line \d+ of test_training.py\)"):
        train(interface_of(), broken, flights, artifacts=artifacts)
    with pytest.raises(DeclarationError, match="returned a NoneType, which has no `predict`"):
        train(interface_of(), lambda data: None, flights, artifacts=artifacts)


class OnLabels:
    """A model that was fitted on something else than the codes it was given."""

    classes_ = ("no", "yes")

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))


def test_a_model_fitted_on_other_labels_is_refused(flights: pa.Table, interface_of: Any, artifacts: Any) -> None:
    with pytest.raises(PredictionError, match=r"labels were given as 0\.\.1"):
        train(interface_of(), lambda data: OnLabels(), flights, artifacts=artifacts)


class Half:
    """A model of the user's own class: it has no converter, and skops does not know its type."""

    def predict_proba(self, X: Any) -> Any:
        return np.full((len(X), 2), 0.5)

    predict = predict_proba


def test_a_model_of_ones_own_class_needs_a_word_of_trust(flights: pa.Table, interface_of: Any, artifacts: Any) -> None:
    with pytest.raises(UntrustedModelError, match="Half") as caught:
        train(interface_of(), lambda data: Half(), flights, artifacts=artifacts)
    assert "skops_types = [" in caught.value.hint
    name = f"{Half.__module__}.{Half.__qualname__}"
    trust = TrustSettings(skops_types=(name,))
    found = train(interface_of(), lambda data: Half(), flights, artifacts=artifacts, trust=trust)
    assert found.manifest.format == "skops"
    assert "cannot be converted" in found.compiled["reason"]
    assert load(artifacts.get(found.bundle), trust).predict(
        {"carrier": ["UA"], "hour": [8], "night": [None], "wind": [1]}
    ).score == [0.5]


def test_without_onnx_in_the_trusted_formats_the_model_serves_natively(
    flights: pa.Table, interface_of: Any, models: Any, artifacts: Any
) -> None:
    trust = TrustSettings(formats=("skops",))
    found = train(interface_of(), models["trees"], flights, artifacts=artifacts, trust=trust, folds=0)
    assert found.manifest.format == found.manifest.native == "skops"
    assert "model.onnx" not in found.manifest.files
    assert load(artifacts.get(found.bundle), trust)
