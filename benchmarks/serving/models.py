"""The models that all contestants serve, made once: what trains them is the same for everyone.

Run in the project's environment: `python benchmarks/serving/models.py FOLDER`. Writes per model the fitted estimator
(joblib, for the peers), an ONNX file (for the hand-made server), undrift's bundle and one request body per shape.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from contestants import environment

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import GoldenRow, Interface, write_bundle
from undrift.develop.compile import compile_model, run_onnx
from undrift.develop.rows import ask, matrix
from undrift.develop.trust import save_model
from undrift.settings import TrustSettings

ROWS = 20_000
LEVELS = {"c0": 5, "c1": 12, "c2": 30, "c3": 100}
NUMBERS = [f"x{i}" for i in range(12)]
TRUST = TrustSettings(
    formats=("onnx", "skops", "pickle"),
    skops_types=("numpy.dtype", "sklearn._loss.link.LogitLink", "sklearn._loss.link.Interval",
                 "sklearn._loss.loss.HalfBinomialLoss", "sklearn._loss._loss.CyHalfBinomialLoss",
                 "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
                 "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"),
)  # fmt: skip


def data(columns: dict[str, int | None], seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns (a number of levels: text; None: a number) and a binary outcome that depends on them."""
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    value = np.zeros(ROWS)
    for name, levels in columns.items():
        if levels is None:
            made[name] = rng.normal(0, 1, ROWS).astype(np.float32).astype(np.float64)
            value += rng.normal() * made[name]
        else:
            codes = rng.integers(0, levels, ROWS)
            made[name] = np.array([f"v{code}" for code in codes], dtype=object)
            value += rng.normal(0, 1, levels)[codes]
    return made, (value + rng.normal(0, 1, ROWS) > 0).astype(int)


def make(folder: Path, name: str, columns: dict[str, int | None], estimator: Any, *, native: bool = False) -> None:
    """Fit, compile and write one model."""
    target = folder / name
    if (target / "ok").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    made, y = data(columns)
    fields = tuple(
        Field(name=n, type="number", minimum=-8.0, maximum=8.0) if levels is None
        else Field(name=n, type="string", categories=tuple(f"v{i}" for i in range(levels)))
        for n, levels in columns.items()
    )  # fmt: skip
    unit = Field(name="user", type="string", role="context")
    interface = Interface(
        model="bench", task="binary", contract=Contract(name="bench", fields=(*fields, unit)), label="y",
        classes=("0", "1"), unit="user",
    )  # fmt: skip
    floats = not any(columns.values())

    def laid_out(given: Any) -> Any:
        rows = matrix(interface.inputs, given)
        return rows.astype(np.float64) if floats else rows

    def trained(given: Any) -> Any:
        return ask(model, "binary", laid_out(given))

    model = estimator.fit(laid_out(made), y)
    joblib.dump(model, target / "model.joblib")
    some = {n: values[:2000] for n, values in made.items()}
    compiled = compile_model(model, interface, trained, some, ["0", "1"])
    if not compiled.parity.held:
        raise SystemExit(f"{name} was not compiled: {compiled.parity.reason}")
    native_format, content = save_model(model, TRUST)
    serving = trained if native else run_onnx(compiled.content, interface)
    raw = serving({n: values[:20] for n, values in made.items()})
    golden = [
        GoldenRow(inputs={n: _plain(values[i]) for n, values in made.items()}, raw=raw[i].tolist()) for i in range(20)
    ]
    write_bundle(
        target / "bundle", interface=interface, format=native_format if native else "onnx", native=native_format,
        models={native_format: content} if native else {"onnx": compiled.content}, profile="{}", golden=golden,
        code={}, outputs=["0", "1"],
    )  # fmt: skip
    rows = [{n: _plain(values[i]) for n, values in made.items()} for i in range(64)]
    (target / "rows.json").write_text(json.dumps({"columns": list(columns), "rows": rows}))
    subprocess.run(
        [environment("convert") / "python", Path(__file__).with_name("peers") / "convert.py", target], check=True
    )
    (target / "ok").touch()


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else float(value)


def main(folder: Path) -> None:
    """Make all models."""
    from lightgbm import LGBMClassifier
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    mixed: dict[str, int | None] = {**LEVELS, **dict.fromkeys(NUMBERS)}
    sixteen: dict[str, int | None] = {f"x{i}": None for i in range(16)}

    def pipeline() -> Any:
        encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        steps = ColumnTransformer([("text", encode, [0, 1, 2, 3])], remainder="passthrough")
        return make_pipeline(steps, HistGradientBoostingClassifier(max_iter=100, random_state=0))

    make(folder, "trees", mixed, pipeline())
    make(folder, "native", mixed, pipeline(), native=True)
    make(folder, "logistic", sixteen, LogisticRegression())
    make(folder, "lightgbm", sixteen, LGBMClassifier(n_estimators=100, random_state=0, verbose=-1))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
