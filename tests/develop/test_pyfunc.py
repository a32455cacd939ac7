"""MLflow models of other flavours: run by MLflow where their code is trusted, and nowhere else is MLflow loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.develop.adoption import adopt
from undrift.develop.tracking import quiet
from undrift.errors import CorruptModelError, ModelError, PredictionError, UntrustedModelError
from undrift.inference.predictor import NativePredictor, load
from undrift.settings import TrustSettings

TRUST = TrustSettings(formats=("onnx", "pyfunc"))
CODE = """
import mlflow, numpy as np, pandas as pd

class Odds(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.slope = float(open(context.artifacts["slope"]).read())

    def predict(self, context, model_input, params=None):
        assert str(model_input["visits"].dtype) == "int64", model_input.dtypes
        p = 1 / (1 + np.exp(-self.slope * (model_input["visits"] - 5) - (model_input["plan"] == "gold")))
        %s

mlflow.models.set_model(Odds())
"""


def table(n: int = 120) -> pa.Table:
    rng = np.random.default_rng(3)
    visits, plan = rng.integers(0, 12, n), rng.choice(["gold", "tin"], n)
    return pa.table({"visits": visits, "plan": plan.tolist(), "stays": (visits > 5).astype(int)})


def saved(folder: Path, answers: str, **more: Any) -> Path:
    """A model as code, as MLflow saves it: a flavour of its own, python_function alone."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    (folder / "slope.txt").write_text("0.8")
    (folder / "odds.py").write_text(CODE % answers)
    given = Schema([ColSpec("long", "visits"), ColSpec("string", "plan")])
    signature = more.get("signature") or ModelSignature(inputs=given, **more)
    with quiet("save a model"):
        mlflow.pyfunc.save_model(
            str(folder / "odds"), python_model=str(folder / "odds.py"), artifacts={"slope": str(folder / "slope.txt")},
            signature=signature, pip_requirements=[],
        )  # fmt: skip
    return folder / "odds"


def wanted(rows: pa.Table) -> Any:
    gold = np.array(rows["plan"].to_pylist()) == "gold"
    return 1 / (1 + np.exp(-0.8 * (rows["visits"].to_numpy() - 5) - gold))


def test_an_mlflow_model_of_any_flavour_is_run_by_mlflow_where_it_may_run(tmp_path: Path, artifacts: Any) -> None:
    folder, rows = saved(tmp_path, "return p.to_numpy()"), table()
    with pytest.raises(UntrustedModelError, match="runs the code that it names"):
        adopt(folder, rows, name="odds", label="stays", task="binary", artifacts=artifacts)
    found = adopt(folder, rows, name="odds", label="stays", task="binary", artifacts=artifacts, trust=TRUST)
    assert found.manifest.format == found.manifest.native == "pyfunc"
    assert "MLflow runs it" in found.manifest.compiled["reason"]
    assert [(i.name, i.type) for i in found.manifest.interface.inputs] == [("visits", "integer"), ("plan", "string")]
    (tmp_path / "slope.txt").unlink()  # its files travel with the bundle
    predictor = load(artifacts.get(found.bundle), TRUST)
    assert isinstance(predictor, NativePredictor)
    got = predictor.predict({name: rows[name].to_pylist() for name in ("visits", "plan")})
    assert got.score == pytest.approx(wanted(rows).tolist())
    with pytest.raises(UntrustedModelError):
        load(artifacts.get(found.bundle), TrustSettings())
    file = artifacts.get(found.bundle) / "model.pyfunc.zip"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(CorruptModelError, match="not the ones that were stored"):
        load(artifacts.get(found.bundle), TRUST)


def test_the_columns_of_its_signature_are_its_classes(tmp_path: Path, artifacts: Any) -> None:
    from mlflow.types import ColSpec, Schema

    answered = Schema([ColSpec("double", "yes"), ColSpec("double", "no")])
    folder = saved(tmp_path, 'return pd.DataFrame({"yes": p, "no": 1 - p})', outputs=answered)
    rows = table()
    found = adopt(folder, rows.select(["visits", "plan"]), name="odds", artifacts=artifacts, trust=TRUST)
    assert found.manifest.interface.classes == ("yes", "no")  # the second is the positive one
    got = load(artifacts.get(found.bundle), TRUST).predict({"visits": [9], "plan": ["tin"]})
    assert got.score == pytest.approx([1 - 1 / (1 + np.exp(-3.2))])


def test_classes_without_probabilities_say_how_to_log_them(tmp_path: Path, artifacts: Any) -> None:
    folder = saved(tmp_path, "return (p > 0.5).astype(int)")
    with pytest.raises(PredictionError, match=r"without probabilities(?s:.*)pyfunc_predict_fn"):
        adopt(folder, table(), name="odds", label="stays", task="binary", artifacts=artifacts, trust=TRUST)


def test_what_mlflow_cannot_load_or_takes_tensors_says_so(tmp_path: Path, artifacts: Any) -> None:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    folder = saved(tmp_path, "return p.to_numpy()")
    (folder / "python_model.pkl").unlink(missing_ok=True)
    (folder / "odds.py").write_text("import nothing_of_the_kind")
    with pytest.raises(CorruptModelError, match=r"cannot be loaded by MLflow: .*nothing_of_the_kind"):
        adopt(folder, table(), name="odds", label="stays", artifacts=artifacts, trust=TRUST)
    (tmp_path / "other").mkdir()
    tensors = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float64"), (-1, 2), "rows")]))
    folder = saved(tmp_path / "other", "return p", signature=tensors)
    with pytest.raises(ModelError, match="takes tensors"):
        adopt(folder, table(), name="odds", label="stays", artifacts=artifacts, trust=TRUST)


def test_mlflow_is_loaded_by_a_predictor_of_its_models_only(tmp_path: Path, artifacts: Any) -> None:
    from sklearn.linear_model import LogisticRegression
    from skops.io import dump

    rows = table()
    X = np.column_stack([rows["visits"].to_numpy(), np.arange(120)])
    dump(LogisticRegression(max_iter=500).fit(X, rows["stays"].to_numpy()), tmp_path / "plain.skops")
    numbers = pa.table({"visits": rows["visits"], "place": np.arange(120), "stays": rows["stays"]})
    plain = adopt(tmp_path / "plain.skops", numbers, name="plain", label="stays", artifacts=artifacts)
    odds = adopt(
        saved(tmp_path, "return p.to_numpy()"), rows, name="odds", label="stays", task="binary",
        artifacts=artifacts, trust=TRUST,
    )  # fmt: skip
    program = (
        "import sys, json, undrift.serving.server\n"
        "from pathlib import Path\n"
        "from undrift.inference.predictor import load\n"
        "from undrift.settings import TrustSettings\n"
        "load(Path(sys.argv[1]), TrustSettings(formats=('onnx', 'pyfunc')))\n"
        "print(json.dumps(sorted({'mlflow', 'pandas'} & {name.partition('.')[0] for name in sys.modules})))\n"
    )
    loaded = {}
    for name, found in (("plain", plain), ("odds", odds)):
        done = subprocess.run(
            [sys.executable, "-c", program, str(artifacts.get(found.bundle))],
            capture_output=True,
            text=True,
            check=True,
        )
        loaded[name] = json.loads(done.stdout.splitlines()[-1])
    assert loaded == {"plain": [], "odds": ["mlflow", "pandas"]}
