from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pytest
from skops.io import dump
from threadpoolctl import threadpool_limits

from undrift.develop.adoption import adopt
from undrift.develop.packing import Reference
from undrift.develop.performance import Performance
from undrift.develop.registry import MlflowRegistry
from undrift.develop.tracking import MlflowTracking, quiet
from undrift.errors import (
    CorruptModelError,
    DataError,
    MissingExtraError,
    ModelError,
    NotFoundError,
    UntrustedModelError,
)
from undrift.inference.predictor import load
from undrift.settings import TrustSettings

NUMBERS = ("a", "b", "c")
PICKLES = TrustSettings(formats=("onnx", "skops", "pickle"))


def example(n: int = 300) -> pa.Table:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 3))
    y = (X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=n) > 0).astype(int)
    return pa.table({**{name: X[:, i] for i, name in enumerate(NUMBERS)}, "bought": y, "price": 3 * X[:, 0] + 1})


def arrays(table: pa.Table, label: str = "bought") -> tuple[Any, Any]:
    return np.column_stack([table[name].to_numpy() for name in NUMBERS]), table[label].to_numpy()


def forest(table: pa.Table, y: Any = None) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    X, labels = arrays(table)
    return RandomForestClassifier(10, max_depth=4, random_state=0).fit(X, labels if y is None else y)


def answers(bundle: str, artifacts: Any, table: pa.Table, trust: TrustSettings | None = None) -> Any:
    columns = {name: table[name].to_pylist() for name in NUMBERS}
    return load(artifacts.get(bundle), trust or TrustSettings()).predict(columns)


def rows_of(table: pa.Table, label: str = "bought") -> pa.Table:
    return table.select([*NUMBERS, label])


@pytest.mark.parametrize("suffix", [".skops", ".joblib", ".pkl"])
def test_scikit_learn_files_are_served_as_they_predict(suffix: str, tmp_path: Path, artifacts: Any) -> None:
    table, file = example(), tmp_path / f"model{suffix}"
    model = forest(table)
    write = {".skops": dump, ".joblib": joblib.dump, ".pkl": lambda m, f: f.write_bytes(pickle.dumps(m))}
    write[suffix](model, file)
    trust = TrustSettings() if suffix == ".skops" else PICKLES
    found = adopt(file, rows_of(table), name="buyers", label="bought", artifacts=artifacts, trust=trust)
    assert found.manifest.interface.task == "binary"
    assert [i.name for i in found.manifest.interface.inputs] == list(NUMBERS)
    assert found.manifest.native == "skops"  # once opened it is kept in the form that needs no trust
    got = answers(found.bundle, artifacts, table)
    np.testing.assert_allclose(got.score, model.predict_proba(arrays(table)[0])[:, 1], atol=1e-4)
    expected = Performance.expected(found.manifest)
    assert expected is not None
    assert expected.losses["error"].n == 300
    assert found.manifest.trained["measured_on"] == "example"
    assert Reference.read(artifacts.get(found.bundle)).inputs.columns["a"].n == 300


def test_a_pickle_needs_the_word_of_the_one_who_loads_it(tmp_path: Path, artifacts: Any) -> None:
    file = tmp_path / "model.joblib"
    joblib.dump(forest(example()), file)
    with pytest.raises(UntrustedModelError, match="opening a pickle runs whatever code is in it"):
        adopt(file, rows_of(example()), name="buyers", label="bought", artifacts=artifacts)


def test_classes_keep_their_names_and_their_order(tmp_path: Path, artifacts: Any) -> None:
    table = example()
    names = np.where(table["bought"].to_numpy() == 1, "buys", "leaves")
    file = tmp_path / "model.skops"
    dump(forest(table, names), file)
    labelled = table.select(NUMBERS).append_column("outcome", pa.array(names.tolist()))
    found = adopt(file, labelled, name="buyers", label="outcome", artifacts=artifacts)
    assert found.manifest.interface.classes == ("buys", "leaves")
    assert found.scored.losses["error"].mean() < 0.2
    other = found.manifest.interface.__class__(
        model="buyers", task="binary", contract=found.manifest.interface.contract, label="outcome",
        classes=("leaves", "buys"),
    )  # fmt: skip
    turned = adopt(file, labelled, name="buyers", label="outcome", artifacts=artifacts, interface=other)
    first, second = (answers(f.bundle, artifacts, table) for f in (found, turned))
    np.testing.assert_allclose(np.array(first.score) + np.array(second.score), 1.0, atol=1e-6)
    assert first.label == second.label


def test_without_labels_there_is_nothing_to_expect_but_it_serves(tmp_path: Path, artifacts: Any) -> None:
    file = tmp_path / "model.skops"
    dump(forest(example()), file)
    found = adopt(file, example().select(NUMBERS), name="buyers", artifacts=artifacts)
    assert not found.labelled
    assert Performance.expected(found.manifest) is None
    assert set(Reference.read(artifacts.get(found.bundle)).outcomes.columns) == {"score", "prediction"}


@pytest.mark.parametrize(("library", "suffix"), [("lightgbm", ".txt"), ("xgboost", ".ubj"), ("xgboost", ".json")])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_booster_files_are_served_as_they_predict(
    library: str, suffix: str, task: str, tmp_path: Path, artifacts: Any
) -> None:
    kinds = pytest.importorskip(library)
    table = example()
    X, y = arrays(table, "price" if task == "regression" else "bought")
    y = y + (X[:, 0] > 1) if task == "multiclass" else y
    name = ("LGBM" if library == "lightgbm" else "XGB") + ("Regressor" if task == "regression" else "Classifier")
    quietly = {"verbosity": -1} if library == "lightgbm" else {}
    model = getattr(kinds, name)(n_estimators=8, n_jobs=1, **quietly).fit(X, y)
    file = tmp_path / f"model{suffix}"
    (model.booster_ if library == "lightgbm" else model.get_booster()).save_model(str(file))
    labelled = table.select(NUMBERS).append_column("target", pa.array(y))
    found = adopt(file, labelled, name="buyers", label="target", artifacts=artifacts)
    assert found.manifest.interface.task == task
    got = answers(found.bundle, artifacts, table)
    if task == "regression":
        np.testing.assert_allclose(got.score, model.predict(X), atol=1e-3)
    else:
        wanted = model.predict_proba(X)
        np.testing.assert_allclose(got.score, wanted[:, 1] if task == "binary" else wanted.max(axis=1), atol=1e-4)


def onnx_of(table: pa.Table, zipmap: bool, kind: str) -> bytes:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(*arrays(table))
    tensor = FloatTensorType if kind == "float" else DoubleTensorType
    graph = convert_sklearn(
        model, initial_types=[("features", tensor([None, 3]))], options={"zipmap": zipmap}, target_opset=17
    )
    content: bytes = graph.SerializeToString()
    return content


@pytest.mark.parametrize(("zipmap", "kind"), [(True, "float"), (False, "float"), (False, "double")])
def test_foreign_onnx_files_take_their_place_in_the_house(
    zipmap: bool, kind: str, tmp_path: Path, artifacts: Any
) -> None:
    from sklearn.linear_model import LogisticRegression

    table, file = example(), tmp_path / "model.onnx"
    file.write_bytes(onnx_of(table, zipmap, kind))
    found = adopt(file, rows_of(table), name="buyers", label="bought", artifacts=artifacts)
    assert found.manifest.format == found.manifest.native == "onnx"
    assert found.manifest.interface.classes == ("0", "1")
    wanted = LogisticRegression().fit(*arrays(table)).predict_proba(arrays(table)[0])[:, 1]
    np.testing.assert_allclose(answers(found.bundle, artifacts, table).score, wanted, atol=1e-5)


def test_an_onnx_graph_that_answers_the_positive_class_alone_is_completed(tmp_path: Path, artifacts: Any) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ReduceSum", ["rows", "axis"], ["total"], keepdims=1),
        helper.make_node("Sigmoid", ["total"], ["p"]),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )  # fmt: skip
    file = tmp_path / "net.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    table = example()
    found = adopt(file, rows_of(table), name="net", label="bought", task="binary", artifacts=artifacts)
    wanted = 1 / (1 + np.exp(-arrays(table)[0].sum(axis=1)))
    np.testing.assert_allclose(answers(found.bundle, artifacts, table).score, wanted, atol=1e-5)


def test_an_mlflow_model_is_adopted_by_its_alias(tmp_path: Path, artifacts: Any) -> None:
    tracking = MlflowTracking(str(tmp_path / "mlflow.db"))
    table = example()
    model = forest(table)
    run_id = tracking.log_run("buyers")
    folder = tmp_path / "logged"
    folder.mkdir()
    dump(model, folder / "model.skops")
    described = {"flavors": {"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops"}}}
    (folder / "MLmodel").write_text(json.dumps(described))  # JSON is YAML
    with quiet("log a model"):
        tracking.client.log_artifacts(run_id, str(folder), "model")
        tracking.client.create_registered_model("buyers")
        source = f"{tracking.client.get_run(run_id).info.artifact_uri}/model"
        version = tracking.client.create_model_version("buyers", source, run_id)
        tracking.client.set_registered_model_alias("buyers", "champion", version.version)
    found = adopt(
        "models:/buyers@champion", rows_of(table), name="buyers", label="bought", artifacts=artifacts,
        registry=MlflowRegistry(tracking),
    )  # fmt: skip
    wanted = model.predict_proba(arrays(table)[0])[:, 1]
    np.testing.assert_allclose(answers(found.bundle, artifacts, table).score, wanted, atol=1e-4)
    with pytest.raises(NotFoundError, match="buyers@nobody"):
        adopt("models:/buyers@nobody", table, name="b", artifacts=artifacts, registry=MlflowRegistry(tracking))


def test_a_model_trained_on_data_frames_asks_for_pandas(
    tmp_path: Path, artifacts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without:
        """Finds no pandas, wherever it is installed."""

        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name == "pandas":
                raise ModuleNotFoundError("No module named 'pandas'", name="pandas")

    monkeypatch.setattr(sys, "meta_path", [Without, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    model = forest(example())
    model.feature_names_in_ = np.array(NUMBERS, dtype=object)  # what fitting on a data frame leaves behind
    dump(model, tmp_path / "model.skops")
    with pytest.raises(MissingExtraError, match="pandas"):
        adopt(tmp_path / "model.skops", rows_of(example()), name="buyers", label="bought", artifacts=artifacts)


def test_boundaries_in_full_precision_are_kept_for_adopted_trees(tmp_path: Path, artifacts: Any) -> None:
    """0.1 is not a float32: a tree that splits at it answers another way after rounding, so it must serve natively."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    grid = np.round(np.random.default_rng(0).choice(np.linspace(0.1, 0.9, 9), size=(400, 3)), 1)
    y = (grid[:, 0] > 0.35) * 1.0 + (grid[:, 1] > 0.75) * 2.0
    with threadpool_limits(1):
        model = HistGradientBoostingRegressor(max_iter=10, random_state=0).fit(grid, y)
    dump(model, tmp_path / "model.skops")
    table = pa.table({**{n: grid[:, i] for i, n in enumerate(NUMBERS)}, "y": y})
    found = adopt(tmp_path / "model.skops", table, name="grid", label="y", artifacts=artifacts)
    np.testing.assert_allclose(answers(found.bundle, artifacts, table).score, model.predict(grid), atol=1e-3)


@pytest.mark.parametrize(
    ("columns", "said"),
    [(("a", "b", "bought"), "takes 3 inputs and names none, but the example has 2"), (("a", "b", "c"), "no column 'b")],
)
def test_an_example_that_does_not_fit_the_model_says_what_is_missing(
    columns: tuple[str, ...], said: str, tmp_path: Path, artifacts: Any
) -> None:
    dump(forest(example()), tmp_path / "model.skops")
    with pytest.raises(DataError, match=said):
        adopt(tmp_path / "model.skops", example().select(columns), name="b", label="bought", artifacts=artifacts)


def test_what_cannot_be_adopted_says_what_can(tmp_path: Path, artifacts: Any) -> None:
    with pytest.raises(NotFoundError, match="there is no model at"):
        adopt(tmp_path / "nothing.onnx", example(), name="b", artifacts=artifacts)
    (tmp_path / "model.h5").write_bytes(b"")
    with pytest.raises(ModelError, match=r"'\.h5' names no known format"):
        adopt(tmp_path / "model.h5", example(), name="b", artifacts=artifacts)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match="is no MLflow model"):
        adopt(tmp_path / "folder", example(), name="b", artifacts=artifacts)
    (tmp_path / "folder" / "MLmodel").write_text("flavors: {spark: {}}")
    with pytest.raises(ModelError, match="has the flavours spark"):
        adopt(tmp_path / "folder", example(), name="b", artifacts=artifacts)
    from sklearn.svm import LinearSVC

    dump(LinearSVC().fit(*arrays(example())), tmp_path / "svm.skops")
    with pytest.raises(ModelError, match="classes without probabilities"):
        adopt(tmp_path / "svm.skops", rows_of(example()), name="b", label="bought", artifacts=artifacts)


PYTHON = """
import math

class Model:
    inputs = ("a", "b", "c")
    classes = ("0", "1")

    def predict_proba(self, rows):
        return [[1 - p, p] for p in (1 / (1 + math.exp(-float(a) - float(b))) for a, b, c in rows)]
"""


def test_a_class_of_ones_own_is_served_where_its_code_is_trusted(tmp_path: Path, artifacts: Any) -> None:
    file, table = tmp_path / "sum.py", example()
    file.write_text(PYTHON)
    with pytest.raises(UntrustedModelError, match="opening it runs its code"):
        adopt(file, rows_of(table), name="buyers", label="bought", artifacts=artifacts)
    trust = TrustSettings(formats=("onnx", "python"))
    found = adopt(file, rows_of(table), name="buyers", label="bought", artifacts=artifacts, trust=trust)
    assert (found.manifest.format, found.manifest.compiled["held"]) == ("python", False)
    assert "no compiled form" in found.manifest.compiled["reason"]
    file.unlink()  # its code travels with the bundle
    got = answers(found.bundle, artifacts, table.slice(0, 2), trust)
    X, _ = arrays(table)
    assert got.score == pytest.approx((1 / (1 + np.exp(-X[:2, 0] - X[:2, 1]))).tolist())
    with pytest.raises(UntrustedModelError):
        answers(found.bundle, artifacts, table)
    (artifacts.get(found.bundle) / "model.python.py").chmod(0o644)
    (artifacts.get(found.bundle) / "model.python.py").write_text(PYTHON.replace("float(b)", "0"))
    with pytest.raises(CorruptModelError, match="not the ones that were stored"):
        answers(found.bundle, artifacts, table, trust)


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = 1", "no class `Model`"), ("class Model:\n    task = 'sorting'\n    predict = print", "sorting")],
)
def test_a_python_file_without_a_model_says_what_is_missing(
    text: str, said: str, tmp_path: Path, artifacts: Any
) -> None:
    file = tmp_path / "model.py"
    file.write_text(text)
    with pytest.raises(ModelError, match=said):
        adopt(file, rows_of(example()), name="b", artifacts=artifacts, trust=TrustSettings(formats=("python",)))
