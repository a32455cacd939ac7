from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from tests.develop.conftest import make_flights, make_interface

from undrift.data.contract import Contract, Field
from undrift.develop.bundle import Interface
from undrift.develop.importance import (
    IMPORTANCE_FILE,
    Background,
    group_of,
    importance_of,
    read_importance,
)
from undrift.develop.rows import table_columns
from undrift.errors import CorruptModelError


def make(*names: str, task: str = "regression", personal: tuple[str, ...] = ()) -> Interface:
    fields = tuple(
        Field(name=n, type="string" if n == "name" else "number", nullable=True, personal=n in personal) for n in names
    )
    classes = {"regression": (), "binary": ("no", "yes"), "multiclass": ("a", "b", "c")}[task]
    return Interface(model="m", task=task, contract=Contract(name="m", fields=fields), label="y", classes=classes)  # type: ignore[arg-type]


def test_importance_is_the_mean_distance_each_input_moves_the_score() -> None:
    # of 2a - b the contributions are 2(a - E a) and -(b - E b): means over standard normals 2 and 1 times sqrt(2/pi)
    rng = np.random.default_rng(0)
    table = pa.table({n: rng.normal(size=4000) for n in ("a", "b", "c")})
    interface = make("a", "b", "c")

    def raw(columns: Any) -> NDArray[np.float64]:
        return np.asarray(2 * columns["a"] - columns["b"])

    found = importance_of(interface, raw, Background.of_table(interface, table), table_columns(interface.inputs, table))
    assert [i.name for i in found.inputs] == ["a", "b", "c"]
    for given, factor in zip(found.inputs, (2.0, 1.0, 0.0), strict=True):
        expected = factor * np.sqrt(2 / np.pi)
        # 10 rows of background instead of all add their own mean's variance: sqrt(1 + 1/10)
        assert given.lower is not None
        assert given.upper is not None
        assert given.lower <= expected * np.sqrt(1.1) * 1.02
        assert given.upper >= expected * 0.98
    assert found.inputs[2].value == 0.0
    assert sum(i.share for i in found.inputs) == pytest.approx(1.0)
    assert (found.scale, found.rows, found.background) == ("value", 100, 10)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_for_a_classifier_the_probability_of_the_class_is_what_moves(task: str) -> None:
    table = pa.table({"a": [0.0, 1.0] * 50, "b": [5.0] * 100})
    interface = make("a", "b", task=task)

    def raw(columns: Any) -> NDArray[np.float64]:
        p = 0.2 + 0.6 * columns["a"]
        return np.column_stack([1 - p, p] if task == "binary" else [1 - p, p / 2, p / 2])

    found = importance_of(interface, raw, Background.of_table(interface, table), table_columns(interface.inputs, table))
    assert found.scale == "probability"
    # half of the background is the other way, by 0.6; of three classes the largest moves by 0.6 or 0.3
    assert 0.1 < found.values["a"] < 0.4
    assert found.values["b"] == 0.0


def test_the_background_holds_rows_of_the_table_as_the_model_sees_them() -> None:
    interface = make_interface("binary")
    table = make_flights(500)
    background = Background.of_table(interface, table)
    encoded = background.encoded(interface.inputs)
    whole = table_columns(interface.inputs, table)
    rows = {tuple(str(encoded[n][i]) for n in whole) for i in range(100)}  # as text, since NaN is not equal to itself
    assert rows <= {tuple(str(whole[n][i]) for n in whole) for i in range(500)}
    assert (background.rows, background.of, background.replaced) == (100, 500, ())
    assert msgspec.json.decode(msgspec.json.encode(background), type=Background) == background


def test_no_value_of_a_personal_field_that_is_one_persons_is_kept() -> None:
    table = pa.table(
        {"name": [f"person {i}" for i in range(50)], "age": [20.0 + i for i in range(50)], "x": [1.0] * 50}
    )
    background = Background.of_table(make("name", "age", "x", personal=("name", "age")), table)
    assert set(background.columns["name"]) == {""}
    assert set(background.columns["age"]) == {44.5}  # the median of all
    assert background.replaced == ("name", "age")
    common = pa.table({"name": ["ann"] * 5 + [f"p{i}" for i in range(20)]})
    assert set(Background.of_table(make("name", personal=("name",)), common).columns["name"]) == {"ann"}


def test_inputs_are_grouped_by_where_they_come_from() -> None:
    interface = make_interface("binary")
    assert set(group_of(interface).values()) == {"request"}
    assert list(group_of(interface)) == [i.name for i in interface.inputs]


def test_a_bundle_of_before_has_none_and_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    assert read_importance(tmp_path) is None
    assert Background.read(tmp_path) is None
    (tmp_path / IMPORTANCE_FILE).write_text("{}")
    with pytest.raises(CorruptModelError, match=r"importance\.json cannot be read"):
        read_importance(tmp_path)
