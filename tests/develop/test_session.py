"""A compiled model is fed through buffers, and says what the same graph says that is fed tensor by tensor."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift.develop.bundle import Input
from undrift.develop.graphs import dense, finished
from undrift.develop.session import Session
from undrift.errors import ModelError, PredictionError

INPUTS = (
    Input("wind", "number"),
    Input("carrier", "string"),
    Input("night", "boolean"),
    Input("at", "timestamp"),
    Input("airport", "string"),
    Input("hour", "integer"),
)
ML = "ai.onnx.ml"
NOON = dt.datetime(1970, 1, 2, 12, tzinfo=dt.UTC)


def graph(double: bool = False, opset: int = 17) -> bytes:
    """Numbers side by side, a one-hot carrier, an ordinal airport; answers all of that, one column each."""
    from onnx import TensorProto, helper

    number = TensorProto.DOUBLE if double else TensorProto.FLOAT
    airports: Any = {"keys_strings": ["JFK", "LGA"], "values_floats": [7.0, 8.0], "default_float": -9.0}
    nodes = [
        helper.make_node("Concat", ["hour", "wind"], ["side"], axis=1),
        helper.make_node("OneHotEncoder", ["carrier"], ["hot"], domain=ML, cats_strings=["UA", "AA", ""], zeros=1),
        helper.make_node("Reshape", ["hot", "three"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["carriers"], to=number),
        helper.make_node("LabelEncoder", ["airport"], ["ordinal"], domain=ML, **airports),
        helper.make_node("Cast", ["ordinal"], ["airports"], to=number),
        helper.make_node("Concat", ["side", "carriers", "airports", "night", "at"], ["all"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info(i.name, TensorProto.STRING if i.type == "string" else number, [None, 1])
        for i in INPUTS
    ]
    three = helper.make_tensor("three", TensorProto.INT64, [2], [-1, 3])
    made = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("all", number, [None, 8])], [three])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ML, 3)]
    return finished(helper.make_model(made, opset_imports=opsets, ir_version=8), {})


@pytest.fixture(scope="module", params=[(False, 17), (True, 17), (False, 12)], ids=["single", "double", "old opset"])
def both(request: pytest.FixtureRequest) -> tuple[Session, Session]:
    plain = graph(*request.param)
    slow, fast = Session(plain, INPUTS, "multiclass"), Session(dense(plain), INPUTS, "multiclass")
    assert (slow.bound, fast.bound) == (False, True)
    return slow, fast


ROW = st.tuples(
    st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**70), 2**70),
    st.none() | st.sampled_from(["UA", "AA", "", "ZZ", "\N{EMPTY SET}"]),
    st.none() | st.booleans(),
    st.none() | st.just(NOON) | st.integers(0, 2**50),
    st.none() | st.sampled_from(["JFK", "LGA", "EWR"]),
    st.none() | st.integers(-(2**53), 2**53),
)


def columns_of(rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    return {i.name: list(column) for i, column in zip(INPUTS, zip(*rows, strict=True), strict=True)}


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(ROW, min_size=1, max_size=5))
def test_any_row_is_fed_alike_through_buffers_and_tensor_by_tensor(
    both: tuple[Session, Session], rows: list[tuple[Any, ...]]
) -> None:
    slow, fast = both
    columns = columns_of(rows)
    np.testing.assert_array_equal(fast.run(columns), slow.run(columns))
    np.testing.assert_array_equal(np.array(fast.few(columns, len(rows))), slow.run(columns))


def test_text_that_is_not_known_is_none_of_the_categories_and_absent_text_is_the_empty_one(
    both: tuple[Session, Session],
) -> None:
    rows = [(1.0, "ZZ", False, 0, "EWR", 0), (1.0, None, True, NOON, "LGA", 5)]
    assert both[1].few(columns_of(rows), 2) == [[0, 1, 0, 0, 0, -9, 0, 0], [5, 1, 0, 0, 1, 8, 1, 1.5]]


def test_many_rows_and_arrays_are_fed_alike_too(both: tuple[Session, Session]) -> None:
    slow, fast = both
    rng = np.random.default_rng(1)
    n = 300
    columns = {
        "wind": rng.normal(size=n), "carrier": rng.choice(["UA", "XX"], n).astype(object), "night": np.ones(n),
        "at": rng.normal(size=n), "airport": ["JFK"] * n, "hour": list(range(n)),
    }  # fmt: skip
    np.testing.assert_array_equal(fast.run(columns), slow.run(columns))
    few = {name: values[:7] for name, values in columns.items()}
    np.testing.assert_array_equal(fast.run(few), slow.run(few))


def test_several_threads_do_not_get_each_others_rows(both: tuple[Session, Session]) -> None:
    wrong: list[Any] = []

    def ask(hour: int) -> None:
        columns = columns_of([(0.0, "UA", False, 0, "JFK", hour)])
        wrong.extend(found for _ in range(300) if (found := both[1].few(columns, 1)[0][0]) != hour)

    threads = [threading.Thread(target=ask, args=(hour,)) for hour in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("change", [lambda c: c.pop("at"), lambda c: c.pop("airport")])
def test_a_missing_input_is_named(both: tuple[Session, Session], change: Callable[[Any], Any]) -> None:
    columns = columns_of([(1.0, "UA", True, 0, "JFK", 3)] * 2)
    change(columns)
    for session in both:
        with pytest.raises(PredictionError, match="is missing"):
            session.run(columns)


def test_text_that_may_not_be_unknown_keeps_a_tensor_of_its_own() -> None:
    from onnx import TensorProto, helper

    strict = helper.make_node("OneHotEncoder", ["word"], ["hot"], domain=ML, cats_strings=["a", "b"], zeros=0)
    nodes = [
        strict,
        helper.make_node("Reshape", ["hot", "tall"], ["column"]),
        helper.make_node("Concat", ["x", "y", "column"], ["all"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 1]) for n in ("x", "y")]
    inputs.append(helper.make_tensor_value_info("word", TensorProto.STRING, [None, 1]))
    tall = helper.make_tensor("tall", TensorProto.INT64, [2], [-1, 2])
    out = helper.make_tensor_value_info("all", TensorProto.FLOAT, [None, 4])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    made = helper.make_model(helper.make_graph(nodes, "g", inputs, [out], [tall]), opset_imports=opsets, ir_version=8)
    known = (Input("x", "number"), Input("y", "number"), Input("word", "string"))
    session = Session(dense(made.SerializeToString()), known, "multiclass")
    assert not session.bound  # text cannot be bound to a buffer
    assert session.run({"x": [1], "y": [2.5], "word": ["b"]}).tolist() == [[1, 2.5, 0, 1]]
    with pytest.raises(PredictionError, match="the compiled model raised"):
        session.run({"x": [1], "y": [2.5], "word": ["c"]})


def test_the_only_column_of_an_input_need_not_be_picked() -> None:
    """What scikit-learn's converter makes of an encoder of one column."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Gather", ["word", "first"], ["picked"], axis=1),
        helper.make_node("OneHotEncoder", ["picked"], ["hot"], domain=ML, cats_strings=["a", "b"], zeros=1),
        helper.make_node("Reshape", ["hot", "tall"], ["column"]),
        helper.make_node("Concat", ["x", "y"], ["side"], axis=1),
        helper.make_node("Concat", ["side", "column"], ["all"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 1]) for n in ("x", "y")]
    inputs.append(helper.make_tensor_value_info("word", TensorProto.STRING, [None, 1]))
    constants = [
        helper.make_tensor("tall", TensorProto.INT64, [2], [-1, 2]),
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
    ]
    out = helper.make_tensor_value_info("all", TensorProto.FLOAT, [None, 4])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    graph = helper.make_graph(nodes, "g", inputs, [out], constants)
    content = dense(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    assert b"Gather" not in content
    session = Session(content, (Input("x", "number"), Input("y", "number"), Input("word", "string")), "multiclass")
    assert session.bound
    assert session.run({"x": [1, 2], "y": [2.5, 0], "word": ["b", "z"]}).tolist() == [[1, 2.5, 0, 1], [2, 0, 0, 0]]


def test_a_graph_of_one_input_stays_as_it_is() -> None:
    from onnx import TensorProto, helper

    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    made = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [one], [out])
    content = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    assert dense(content) == content
    with pytest.raises(ModelError, match="takes"):
        Session(content, (Input("z", "number"),), "regression")
