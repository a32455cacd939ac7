"""Encoders of text compile with what is rare and what is new, as scikit-learn answers it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.develop.test_compile import native_of

from undrift.data.contract import Contract, Field
from undrift.develop.compile import compile_model, run_onnx
from undrift.develop.folds import TrainingData
from undrift.develop.rows import table_columns

FEW = {"max_categories": 6}


def shop(n: int = 1500) -> pa.Table:
    """Cities of which most are rare, a channel of three values, absent now and then, and an age."""
    rng = np.random.default_rng(4)
    city = [f"city {k}" if k < 60 else None for k in rng.zipf(1.5, n)]
    channel = rng.choice(["web", "shop", "phone"], n)
    age = rng.normal(45, 12, n)
    bought = (rng.random(n) < 1 / (1 + np.exp(-(age - 45) / 9 + (channel == "web")))).astype(int)
    return pa.table({"city": city, "channel": channel, "age": age, "bought": bought})


@pytest.mark.parametrize("together", [True, False], ids=["one encoder", "an encoder each"])
@pytest.mark.parametrize(
    "asked",
    [
        {"handle_unknown": "infrequent_if_exist", **FEW},
        {"handle_unknown": "ignore", **FEW},
        {"handle_unknown": "infrequent_if_exist"},
        {"handle_unknown": "ignore"},
        {"handle_unknown": "infrequent_if_exist", "min_frequency": 5000},
        {"handle_unknown": "ignore", "min_frequency": 5000, "dtype": np.int64},
        {"handle_unknown": "infrequent_if_exist", "dtype": np.int32, **FEW},
        {"handle_unknown": "ignore", "drop": "first"},
    ],
    ids=lambda asked: " ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in asked.items()),
)
def test_rare_and_new_text_is_encoded_as_scikit_learn_does(
    asked: dict[str, Any], together: bool, interface_of: Any
) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = shop()
    fields = (
        Field(name="city", type="string", nullable=True), Field(name="channel", type="string"),
        Field(name="age", type="number"),
    )  # fmt: skip
    interface = interface_of(
        contract=Contract(name="shop", fields=fields), key="", time="", segments=(), label="bought"
    )
    data = TrainingData.of(interface, table)
    groups = [data.categorical] if together else [[place] for place in data.categorical]
    parts = [(f"text {n}", OneHotEncoder(sparse_output=False, **asked), some) for n, some in enumerate(groups)]
    columns = ColumnTransformer([*parts, ("numbers", "passthrough", data.numeric)], sparse_threshold=0)
    weights = LogisticRegression(C=50.0, max_iter=2000)  # a weight for each category, so that a wrong one is seen
    model = make_pipeline(columns, weights).fit(data.X, data.y)
    found = compile_model(model, interface, native_of(model, interface), table_columns(interface.inputs, table))
    if "drop" in asked:  # the library's own converter: what is new is not what is dropped there, and that is noticed
        assert found.content == b"" or not found.parity.held or found.parity.max_difference < 1e-4
        return
    assert found.parity.held, found.parity.reason
    rows = {"city": ["city 1", "city 55", "nowhere", None, ""], "channel": ["web", "fax", "shop", "phone", ""],
            "age": [40.0, 41.0, 42.0, 43.0, 44.0]}  # fmt: skip
    np.testing.assert_allclose(
        run_onnx(found.content, interface)(rows), native_of(model, interface)(rows), rtol=1e-5, atol=1e-6
    )
