"""Quantised networks are smaller and judge as well, or they are not used; trees have nothing to quantise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.develop.compile import compile_model, run_onnx
from undrift.develop.folds import TrainingData
from undrift.develop.packing import pack
from undrift.develop.quantise import quantise
from undrift.develop.rows import ask, matrix, table_columns
from undrift.inference.predictor import load
from undrift.settings import TrustSettings


def network(flights: pa.Table, interface: Any) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from threadpoolctl import threadpool_limits

    data = TrainingData.of(interface, flights)
    columns = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), data.categorical),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), data.numeric),
        ],
        sparse_threshold=0,
    )
    layers = MLPClassifier((128, 128), n_iter_no_change=4, tol=1.0, random_state=0)
    with threadpool_limits(1):
        return make_pipeline(columns, layers).fit(data.X, data.y)


def packed(model: Any, flights: pa.Table, interface: Any, artifacts: Any) -> Any:
    rows = flights.slice(0, 500)
    data = TrainingData.of(interface, rows)
    return pack(
        model, interface, inputs_of=rows, rows=data.table, label=data.y, time=data.time, trust=TrustSettings(),
        artifacts=artifacts, quantised=True,
    )  # fmt: skip


def test_a_network_that_judges_as_well_in_8_bits_serves_in_8_bits(
    flights: pa.Table, interface_of: Any, artifacts: Any
) -> None:
    interface = interface_of()
    found = packed(network(flights, interface), flights, interface, artifacts)
    said = found.manifest.compiled["quantised"]
    assert said["held"], said["reason"]
    before, after = said["bytes"]
    assert after < before / 2  # a weight has one byte instead of four
    assert min(said["microseconds"]) > 0
    assert 0 < said["largest"] < 0.1
    assert said["loss"][1] <= said["loss"][0] * 1.01
    folder = artifacts.get(found.bundle)
    assert (folder / "model.onnx").stat().st_size == after
    predictor = load(folder, TrustSettings())
    one = {"carrier": ["UA"], "hour": [8], "night": [False], "wind": [None]}
    assert 0 < predictor.predict(one).score[0] < 1
    beside = {name: [*values, *other] for (name, values), other in zip(
        one.items(), (["AA"] * 5, [5, 22, 9, 9, 9], [True] * 5, [0.0, 90.0, 3.0, 4.0, 5.0]), strict=True)}  # fmt: skip
    # its answer does not depend on the rows that happen to be beside it
    assert predictor.predict(beside).score[0] == pytest.approx(predictor.predict(one).score[0], abs=1e-6)


def test_trees_do_not_quantise_and_serve_as_they_are(
    flights: pa.Table, interface_of: Any, models: Any, artifacts: Any
) -> None:
    interface = interface_of()
    model = models["trees"](TrainingData.of(interface, flights))
    found = packed(model, flights, interface, artifacts)
    assert found.manifest.format == "onnx"
    assert not found.manifest.compiled["quantised"]["held"]
    assert "they do not quantise" in found.manifest.compiled["quantised"]["reason"]


@pytest.mark.parametrize("how", ["loss", "classes"])
def test_a_network_that_would_judge_worse_stays_as_it_is(how: str, flights: pa.Table, interface_of: Any) -> None:
    interface = interface_of()
    model = network(flights, interface)
    columns = table_columns(interface.inputs, flights.slice(0, 300))
    content = compile_model(
        model, interface, lambda given: ask(model, "binary", matrix(interface.inputs, given)), columns
    ).content
    exact = run_onnx(content, interface)(columns)
    names = {"loss": lambda raw: None, "classes": lambda raw: [str(p) for p in raw[:, 1]]}[how]
    loss = (lambda raw: float(np.abs(raw - exact).max())) if how == "loss" else None
    kept, said = quantise(content, interface, columns, loss, names)
    assert kept == content
    assert not said.held
    assert {"loss": "the mean loss goes from 0 to", "classes": "of the rows get another class"}[how] in said.reason
