from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.develop import rows
from undrift.develop.bundle import Input, Manifest
from undrift.errors import DataError, PredictionError

INPUTS = (Input("carrier", "string"), Input("wind", "number"), Input("night", "boolean"), Input("at", "timestamp"))
NOON = dt.datetime(1970, 1, 2, 12, tzinfo=dt.UTC)


def test_absent_values_and_times_have_one_layout() -> None:
    laid = rows.matrix(
        INPUTS, {"carrier": ["UA", None], "wind": [0.1, None], "night": [True, None], "at": [NOON, None]}
    )
    assert laid[:, 0].tolist() == ["UA", ""]
    assert laid[0, 1:].tolist() == [float(np.float32(0.1)), 1.0, 1.5]  # days since 1970
    assert all(math.isnan(v) for v in laid[1, 1:])


def test_a_time_is_the_same_as_its_microseconds_on_the_wire() -> None:
    assert rows.encode([int(36 * 3600 * 1e6)], "timestamp") == rows.encode([NOON], "timestamp") == [1.5]


@given(
    st.lists(
        st.tuples(
            st.none() | st.text(max_size=3),
            st.none() | st.floats(allow_nan=False, width=32),
            st.none() | st.booleans(),
            st.none() | st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2050, 1, 1), timezones=st.just(dt.UTC)),
        ),
        min_size=1,
    )
)  # fmt: skip
def test_a_table_is_laid_out_as_the_same_rows_sent_one_by_one(values: list[tuple[Any, ...]]) -> None:
    kinds = (pa.string(), pa.float64(), pa.bool_(), pa.timestamp("us", "UTC"))
    lists = {i.name: list(column) for i, column in zip(INPUTS, zip(*values, strict=True), strict=True)}
    table = pa.table({i.name: pa.array(lists[i.name], kind) for i, kind in zip(INPUTS, kinds, strict=True)})
    from_table, from_rows = rows.matrix(INPUTS, rows.table_columns(INPUTS, table)), rows.matrix(INPUTS, lists)
    assert from_table[:, 0].tolist() == from_rows[:, 0].tolist()
    np.testing.assert_array_equal(from_table[:, 1:].astype(float), from_rows[:, 1:].astype(float))


def test_columns_that_cannot_be_read_are_named() -> None:
    with pytest.raises(DataError, match="no column 'wind'"):
        rows.table_columns(INPUTS[1:2], pa.table({"x": [1]}))
    with pytest.raises(DataError, match="'wind' is string"):
        rows.table_columns(INPUTS[1:2], pa.table({"wind": ["strong"]}))


def test_a_compiled_model_gets_one_column_per_input() -> None:
    feeds = rows.tensors(INPUTS[:2], {"carrier": ["UA", None], "wind": [1, None], "ignored": [1, 2]})
    assert {name: (f.shape, f.dtype) for name, f in feeds.items()} == {
        "carrier": ((2, 1), np.dtype(object)), "wind": ((2, 1), np.dtype(np.float32)),
    }  # fmt: skip
    with pytest.raises(PredictionError, match="'wind' is missing"):
        rows.tensors(INPUTS[:2], {"carrier": ["UA"]})


def test_an_adopted_model_keeps_full_precision_and_a_trained_one_gets_float32(interface_of: Any) -> None:
    manifest = Manifest(interface=interface_of(), format="skops", native="skops", files={})
    columns = {"carrier": ["UA"], "hour": [16_777_217], "night": [False], "wind": [None]}
    assert rows.native_rows(manifest, columns)[0, 1] == 16_777_216.0  # 2**24 + 1 is no float32
    double = Manifest(interface=interface_of(), format="skops", native="skops", files={}, fed="double")
    assert rows.native_rows(double, columns)[0, 1] == 16_777_217.0


def test_answers_follow_the_task(interface_of: Any) -> None:
    binary = rows.answer(interface_of(threshold=0.3), np.array([[0.8, 0.2], [0.7, 0.3]]))
    assert binary == rows.Answers([0.2, 0.3], None, ["0", "1"])
    several = rows.answer(interface_of("multiclass"), np.array([[0.2, 0.5, 0.3]]))
    assert several == rows.Answers([0.5], [[0.2, 0.5, 0.3]], ["middle"])
    assert rows.answer(interface_of("regression"), np.array([1.5])) == rows.Answers([1.5], None, None)


def test_columns_of_a_model_with_another_order_of_classes_are_put_in_order(interface_of: Any) -> None:
    ordered = rows.in_order(interface_of("multiclass"), np.array([[0.9, 0.1]]), ("high", "low"))
    assert ordered.tolist() == [[0.1, 0.0, 0.9]]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([[0.5, float("nan")]], "NaN or infinity"),
        ([[0.2, 0.3, 0.5]], r"shape \(1, 3\)"),
        ([[-1.0, 2.0]], "no probabilities"),
    ],
)
def test_what_is_no_prediction_is_refused(interface_of: Any, raw: list[list[float]], said: str) -> None:
    with pytest.raises(PredictionError, match=said):
        rows.answer(interface_of(), np.array(raw))


def test_what_a_model_raises_becomes_a_prediction_error() -> None:
    class Broken:
        def predict(self, X: Any) -> Any:
            raise ZeroDivisionError("by zero")

    with pytest.raises(PredictionError, match="ZeroDivisionError: by zero"):
        rows.ask(Broken(), "regression", np.zeros((1, 1)))
