"""Keras 3: a .keras archive in safe mode, compiled where that holds, otherwise asked by Keras on its backend.

`make test-heavy` runs this twice: on PyTorch, and with KERAS_BACKEND=tensorflow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
from tests.develop.conftest import train

from undrift.develop.adoption import adopt
from undrift.develop.folds import TrainingData
from undrift.develop.networks import as_model
from undrift.errors import CorruptModelError, UntrustedModelError
from undrift.inference.predictor import NativePredictor, OnnxPredictor, load
from undrift.settings import TrustSettings
from undrift.state.artifacts import DirectoryArtifacts

TRUST = TrustSettings(formats=("onnx", "keras"))


@pytest.fixture
def artifacts(tmp_path: Path) -> DirectoryArtifacts:
    return DirectoryArtifacts(tmp_path / "artifacts")


def example(n: int = 200) -> pa.Table:
    X = np.random.default_rng(1).normal(size=(n, 3))
    return pa.table({**{name: X[:, i] for i, name in enumerate("abc")}, "bought": (X[:, 0] > 0).astype(int)})


def network(*layers: Any) -> Any:
    keras.utils.set_random_seed(0)
    hidden = layers or (keras.layers.Dense(16, activation="relu"), keras.layers.Dropout(0.5))
    return keras.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(2, activation="softmax")])


def test_a_keras_archive_is_compiled_and_then_needs_no_keras_to_serve(tmp_path: Path, artifacts: Any) -> None:
    model, table, file = network(), example(), tmp_path / "net.keras"
    model.save(file)
    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
    with pytest.raises(UntrustedModelError, match="safe mode has been broken"):
        adopt(file, table, name="net", label="bought", task="binary", artifacts=artifacts)
    found = adopt(file, table, name="net", label="bought", task="binary", artifacts=artifacts, trust=TRUST)
    assert found.manifest.compiled["held"], found.manifest.compiled["reason"]
    assert (found.manifest.format, found.manifest.native) == ("onnx", "keras")
    predictor = load(artifacts.get(found.bundle), TrustSettings(formats=("onnx",)))
    assert isinstance(predictor, OnnxPredictor)
    asked = {name: table[name].to_pylist() for name in "abc"}
    rows = np.column_stack([table[name].to_numpy() for name in "abc"])
    np.testing.assert_allclose(predictor.predict(asked).score, as_model(model).predict(rows)[:, 1], atol=1e-5)


def test_a_network_that_is_not_compiled_is_asked_by_keras(tmp_path: Path, artifacts: Any) -> None:
    model, table, file = network(), example(), tmp_path / "net.keras"
    model.save(file)
    trust = TrustSettings(formats=("keras",))
    found = adopt(file, table, name="net", label="bought", task="binary", artifacts=artifacts, trust=trust)
    assert (found.manifest.format, found.manifest.compiled["reason"]) == ("keras", "trust.formats does not allow onnx")
    predictor = load(artifacts.get(found.bundle), trust)
    assert isinstance(predictor, NativePredictor)
    got = predictor.predict({"a": [0.5], "b": [1.0], "c": [-1.0]})
    assert got.score == pytest.approx(as_model(model).predict(np.array([[0.5, 1.0, -1.0]]))[:, 1].tolist(), abs=1e-5)


def test_code_in_a_lambda_layer_is_not_run(tmp_path: Path, artifacts: Any) -> None:
    mark, file = tmp_path / "ran", tmp_path / "evil.keras"
    network(keras.layers.Lambda(lambda rows, at=str(mark): (Path(at).touch(), rows)[1])).save(file)
    mark.unlink(missing_ok=True)  # making the network ran it
    with pytest.raises(CorruptModelError, match="Lambda"):
        adopt(file, example(), name="net", label="bought", task="binary", artifacts=artifacts, trust=TRUST)
    assert not mark.exists()


def test_a_train_function_may_return_a_keras_model(artifacts: Any, numbers: Any) -> None:
    def fit(data: TrainingData) -> Any:
        model = network()
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(data.X, data.y, epochs=8, verbose=0)
        return model

    interface, table = numbers(example(400))
    done = train(interface, fit, table, artifacts=artifacts, folds=0, trust=TRUST)
    assert (done.manifest.format, done.manifest.native) == ("onnx", "keras"), done.compiled["reason"]
    assert done.metrics["error"] < 0.2
