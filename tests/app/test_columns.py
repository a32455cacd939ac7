from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from undrift.app import columns
from undrift.errors import DataError, SettingsError


def labelled(values: list[object], kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"x": list(range(len(values))), "y": pa.array(values, kind)})


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([0, 1, 1] * 20, "binary", ("0", "1")),
        ([0.0, 1.0, None] * 20, "binary", ("0", "1")),
        ([True, False] * 20, "binary", ("0", "1")),
        (["no", "yes", "no"] * 20, "binary", ("no", "yes")),
        ([0, 1, 2] * 20, "multiclass", ("0", "1", "2")),
        ([2, 10, 1] * 20, "multiclass", ("1", "2", "10")),
        (["setosa", "virginica", "versicolor"] * 20, "multiclass", ("setosa", "versicolor", "virginica")),
        (list(range(21)) * 2, "regression", ()),
        ([0.5, 1.5, 2.5] * 20, "regression", ()),
        ([Decimal("1.5"), Decimal("2.5"), Decimal("9.9")] * 20, "multiclass", ("1.5", "2.5", "9.9")),
    ],
)
def test_the_task_follows_from_the_label(values: list[object], task: str, classes: tuple[str, ...]) -> None:
    found = columns.outcome(labelled(values), "y")
    assert (found.task, found.classes) == (task, classes)
    assert "'y'" in found.reason


def test_of_two_names_the_rarer_is_positive_unless_one_says_that_it_is_negative() -> None:
    rare_churn = ["churned"] * 10 + ["stayed"] * 30
    assert columns.outcome(labelled(list(rare_churn)), "y").classes == ("stayed", "churned")
    mostly_yes = ["no"] * 10 + ["yes"] * 30
    assert columns.outcome(labelled(list(mostly_yes)), "y").classes == ("no", "yes")


def test_a_task_that_is_named_wins_over_the_rule() -> None:
    found = columns.outcome(labelled([0, 1, 2] * 20), "y", "regression")
    assert (found.task, found.classes) == ("regression", ())
    assert "--task" in found.reason


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        (["a", "b"] * 20, "regression", "needs a number"),
        ([1, 2, 3] * 20, "binary", "has 3"),
        ([0.5 * n for n in range(200)], "multiclass", "has 200"),
    ],
)
def test_a_task_that_the_label_cannot_be_is_refused(values: list[object], task: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        columns.outcome(labelled(values), "y", task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([None] * 40, "empty in all 40 rows"),
        ([float("nan")] * 40, "empty in all 40 rows"),
        ([7] * 40, "'7' in every row"),
        ([0, 1] * 10, "only 20 rows"),
        ([f"id-{n}" for n in range(200)], "200 different values"),
        ([[n] for n in range(40)], "neither a class nor a number"),
    ],
)
def test_a_label_that_cannot_be_learnt_is_refused(values: list[object], message: str) -> None:
    kind = pa.float64() if values[0] is None or values[0] != values[0] else None
    with pytest.raises(DataError, match=message):
        columns.outcome(labelled(values, kind), "y")


def test_an_unknown_column_is_refused_with_the_nearest_name() -> None:
    table = pa.table({"Returned": [1], "amount": [2]})
    with pytest.raises(SettingsError, match="--label names 'returnd'") as caught:
        columns.check_named(table, label="returnd")
    assert caught.value.hint == "Did you mean 'Returned'?"
    with pytest.raises(SettingsError) as caught:
        columns.check_named(table, leave_out="zzz")
    assert "--leave-out" in caught.value.message
    assert "Returned, amount" in caught.value.hint


def test_two_columns_of_one_name_are_refused() -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(DataError, match="two columns are named 'a'"):
        columns.check_named(twice, label="a")


def test_a_key_must_name_rows_and_a_time_must_be_one() -> None:
    table = pa.table({"id": ["a", "b", "a"], "gap": ["a", None, "b"], "y": [1, 0, 1], "t": ["2013", "2014", "2015"]})
    with pytest.raises(DataError, match="'a' stands in 2 of them"):
        columns.check_roles(table, label="y", time="", key="id")
    with pytest.raises(DataError, match="1 rows have no key"):
        columns.check_roles(table, label="y", time="", key="gap")
    with pytest.raises(DataError, match="is string, not a timestamp"):
        columns.check_roles(table, label="y", time="t", key="")
    with pytest.raises(SettingsError, match="different columns"):
        columns.check_roles(table, label="y", time="", key="y")


def test_columns_that_cannot_be_inputs_are_named_with_the_reason() -> None:
    table = pa.table(
        {
            "good": [n % 3 for n in range(60)],
            "constant": ["x"] * 60,
            "empty": pa.nulls(60),
            "names": [f"Mr {n}" for n in range(60)],
            "tags": [["a"]] * 60,
            "gappy": ["x", None] * 30,
        }
    )
    assert sorted(columns.unfit(table, table.column_names)) == ["constant", "empty", "names", "tags"]


def test_the_example_is_the_last_row_without_gaps_as_json_values() -> None:
    table = pa.table(
        {
            "n": [1, 2, 3],
            "f": [1.5, 2.5, None],
            "d": [date(2013, 4, 1)] * 3,
            "t": pa.array([datetime(2013, 4, 1, 12)] * 3, pa.timestamp("us")),
            "m": [Decimal("1.25")] * 3,
        }
    )
    day = datetime(2013, 4, 1, tzinfo=UTC)
    assert columns.example_row(table, table.column_names) == {
        "n": 2,
        "f": 2.5,
        "d": day.isoformat(),
        "t": day.replace(hour=12).isoformat(),
        "m": 1.25,
    }


def test_absent_values_are_left_out_of_an_example_where_every_row_has_gaps() -> None:
    table = pa.table({"a": [None, 1], "b": [2.0, float("nan")]})
    assert columns.example_row(table, ["a", "b"]) == {"a": 1}
