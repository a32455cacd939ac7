"""CatBoost: its own categories, absent and unseen values natively; numbers compiled, where its compiled form agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from catboost import CatBoostClassifier, CatBoostRegressor
from tests.develop.conftest import train

from undrift.data.contract import Contract, Field
from undrift.develop.adoption import adopt
from undrift.develop.bundle import Interface
from undrift.develop.explain import Explainer
from undrift.develop.folds import TrainingData
from undrift.develop.rows import ask, native_rows
from undrift.errors import CorruptModelError
from undrift.inference.predictor import NativePredictor, OnnxPredictor, load
from undrift.settings import TrustSettings
from undrift.state.artifacts import DirectoryArtifacts

QUIET: dict[str, Any] = {"iterations": 25, "verbose": False, "allow_writing_files": False, "thread_count": 1}


@pytest.fixture
def artifacts(tmp_path: Path) -> DirectoryArtifacts:
    return DirectoryArtifacts(tmp_path / "artifacts")


def table(n: int = 500) -> pa.Table:
    rng = np.random.default_rng(2)
    kind, x = rng.choice(["red", "green", "blue"], n), rng.normal(size=n)
    y = x + (kind == "red") + 0.3 * rng.normal(size=n)
    absent = rng.random(n) < 0.1
    return pa.table(
        {
            "kind": [None if a else k for a, k in zip(absent[::-1], kind.tolist(), strict=True)],
            "x": [None if a else v for a, v in zip(absent, x.tolist(), strict=True)],
            "z": rng.normal(size=n),
            "late": (y > 0.5).astype(int),
            "band": np.where(y > 1, "high", np.where(y > 0, "middle", "low")).tolist(),
            "delay": y,
        }
    )


def interface(task: str, *, text: bool) -> Interface:
    fields = [Field(name="x", type="number", nullable=True), Field(name="z", type="number")]
    if text:
        fields.insert(0, Field(name="kind", type="string", nullable=True))
    label = {"binary": "late", "multiclass": "band", "regression": "delay"}[task]
    classes: Any = {"binary": ("0", "1"), "multiclass": ("low", "middle", "high"), "regression": ()}[task]
    contract = Contract(name="paint", fields=tuple(fields))
    return Interface(model="paint", task=task, contract=contract, label=label, classes=classes)  # type: ignore[arg-type]


def fit(data: TrainingData) -> Any:
    kind = CatBoostRegressor if data.interface.task == "regression" else CatBoostClassifier
    return kind(**QUIET, cat_features=data.categorical).fit(data.X, data.y)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_numbers_are_compiled_and_agree_also_where_they_are_absent(task: str, artifacts: Any) -> None:
    done = train(interface(task, text=False), fit, table(), artifacts=artifacts, folds=1)
    assert done.compiled["held"], done.compiled["reason"]
    assert (done.manifest.format, done.manifest.native) == ("onnx", "catboost")
    predictor = load(artifacts.get(done.bundle), TrustSettings(formats=("onnx",)))
    assert isinstance(predictor, OnnxPredictor)
    rows = np.array([[0.3, 1.0], [np.nan, -1.0], [5.0, 0.0]])
    got = predictor.predict({"x": [0.3, None, 5.0], "z": [1.0, -1.0, 0.0]})
    if task == "regression":
        assert got.score == pytest.approx(done.model.predict(rows).tolist(), abs=1e-5)
    else:
        wanted = done.model.predict_proba(rows)
        assert got.score == pytest.approx((wanted[:, 1] if task == "binary" else wanted.max(axis=1)).tolist(), abs=1e-5)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_its_own_categories_serve_in_its_own_library_absent_and_unseen_ones_too(task: str, artifacts: Any) -> None:
    done = train(interface(task, text=True), fit, table(), artifacts=artifacts, folds=0)
    assert done.manifest.format == done.manifest.native == "catboost"
    assert "categories of their own" in done.compiled["reason"]
    predictor = load(artifacts.get(done.bundle), TrustSettings())  # a file of numbers: allowed as it comes
    assert isinstance(predictor, NativePredictor)
    got = predictor.predict({"kind": ["red", None, "violet"], "x": [0.3, None, 5.0], "z": [1.0, -1.0, 0.0]})
    rows = np.array([["red", 0.3, 1.0], ["", np.nan, -1.0], ["violet", 5.0, 0.0]], dtype=object)
    rows[:, 1:] = rows[:, 1:].astype(np.float32).astype(float)
    if task == "regression":
        assert got.score == pytest.approx(done.model.predict(rows).tolist())
    else:
        wanted = done.model.predict_proba(rows)
        assert got.score == pytest.approx((wanted[:, 1] if task == "binary" else wanted.max(axis=1)).tolist())


def test_a_file_is_adopted_with_its_classes_and_explains_itself(tmp_path: Path, artifacts: Any) -> None:
    rows = table()
    text = [kind or "" for kind in rows["kind"].to_pylist()]
    X = np.array([text, *(rows[n].to_numpy(zero_copy_only=False) for n in ("x", "z"))], dtype=object).T
    names = np.where(rows["late"].to_numpy() == 1, "late", "on time")
    model = CatBoostClassifier(**QUIET, cat_features=[0]).fit(X, names)
    file = tmp_path / "paint.cbm"
    model.save_model(str(file))
    given = rows.select(["kind", "x", "z"]).append_column("outcome", pa.array(names.tolist()))
    found = adopt(file, given, name="paint", label="outcome", artifacts=artifacts)
    assert found.manifest.interface.classes == ("late", "on time")
    predictor = load(artifacts.get(found.bundle), TrustSettings())
    asked = {name: given[name].to_pylist()[:20] for name in ("kind", "x", "z")}
    X[:, 1:] = X[:, 1:].astype(np.float32).astype(float)
    assert predictor.predict(asked).score == pytest.approx(model.predict_proba(X[:20])[:, 1].tolist())
    manifest = found.manifest
    explainer = Explainer(
        artifacts.get(found.bundle), manifest, lambda c: ask(model, "binary", native_rows(manifest, c)), TrustSettings()
    )
    (told,) = explainer.explain({name: values[:1] for name, values in asked.items()})
    assert told.method == "tree"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CorruptModelError, match="cannot be opened as catboost"):
        adopt(file, given, name="paint", label="outcome", artifacts=artifacts)
