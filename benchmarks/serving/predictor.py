"""What a predictor adds to the model's own time: one row, and 64, from Python values to answers.

The pipeline has 4 one-hot categories, 12 numbers and 100 histogram trees. Compared in one run: onnxruntime alone on the
graph with one tensor per input whose arrays are ready, the same graph fed from values, and the predictor with its dense
graph. Ratios are what counts; microseconds depend on the machine.

    .venv/bin/python benchmarks/serving/predictor.py
"""

from __future__ import annotations

import tempfile
import timeit
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface, Manifest
from undrift.develop.compile import compile_model
from undrift.develop.converters import conversions
from undrift.develop.rows import ask, matrix, tensors
from undrift.inference.predictor import OnnxPredictor

WORDS, NUMBERS = [f"c{i}" for i in range(4)], [f"n{i}" for i in range(12)]


def population(n: int) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {c: rng.choice([f"{c}v{j}" for j in range(10)], n).astype(object) for c in WORDS}
    columns |= {c: rng.normal(size=n) for c in NUMBERS}
    logit = sum(columns[c] for c in NUMBERS[:4]) + 2.0 * (columns["c0"] == "c0v1")
    return columns, (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)


def best(calls: dict[str, Any], number: int) -> dict[str, float]:
    """Microseconds of each call, the best of nine rounds that take turns."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(9):
        for name, call in calls.items():
            found[name] = min(found[name], timeit.timeit(call, number=number) / number * 1e6)
    return found


def main() -> None:
    columns, y = population(3000)
    fields = tuple(Field(name=c, type="string" if c in WORDS else "number", nullable=True) for c in columns)
    interface = Interface(
        model="x", task="binary", contract=Contract(name="x", fields=fields), label="y", classes=("0", "1")
    )
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = [("words", encoder, [0, 1, 2, 3]), ("numbers", "passthrough", list(range(4, 16)))]
    steps = ColumnTransformer(parts, sparse_threshold=0)
    X = matrix(interface.inputs, columns)
    model = make_pipeline(steps, HistGradientBoostingClassifier(max_iter=100, random_state=0)).fit(X, y)
    single = next(way for way in conversions(model, interface.inputs) if way.precision == "single")
    plain = single.convert(model, interface.inputs)

    def native(given: Any) -> Any:
        return ask(model, "binary", matrix(interface.inputs, given))

    found = compile_model(model, interface, native, columns)
    assert found.parity.held, found.parity.reason
    manifest = Manifest(interface=interface, format="onnx", native="skops", files={})
    with tempfile.TemporaryDirectory() as folder:
        slow, fast = (Path(folder) / name for name in ("plain.onnx", "dense.onnx"))
        slow.write_bytes(plain)
        fast.write_bytes(found.content)
        by_column, dense = OnnxPredictor(manifest, slow), OnnxPredictor(manifest, fast)
    for rows, number in ((1, 2000), (64, 300)):
        given = {c: list(values[:rows]) for c, values in columns.items()}
        ready = tensors(interface.inputs, given)
        times = best(
            {
                "onnxruntime, a ready tensor per input": lambda: by_column._session._session.run(None, ready),  # noqa: B023
                "the same graph from values": lambda: by_column.predict(given),  # noqa: B023
                "predictor (dense graph) from values": lambda: dense.predict(given),  # noqa: B023
            },
            number,
        )
        limit = times["onnxruntime, a ready tensor per input"]
        for name, value in times.items():
            print(f"{rows:3} rows  {name:40} {value:9.1f} us  {value / limit:5.2f}")


if __name__ == "__main__":
    main()
