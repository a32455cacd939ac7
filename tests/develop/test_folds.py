from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.develop.folds import TrainingData, split
from undrift.errors import DataError

HOUR = np.timedelta64(1, "h")
T0 = np.datetime64("2013-01-01T00:00:00", "us")


@given(
    st.lists(st.integers(0, 40), min_size=60, max_size=200).map(sorted),
    st.integers(0, 4),
    st.sampled_from([0.1, 0.25, 0.5]),
)
def test_every_test_part_is_later_than_what_was_trained_on(hours: list[int], folds: int, holdout: float) -> None:
    time = T0 + np.array(hours) * HOUR
    try:
        parts = split(len(hours), time, folds=folds, holdout=holdout)
    except DataError:
        return  # too few distinct moments
    tests = [*(fold.test for fold in parts.folds), parts.final.test]
    for train, test in [*parts.folds, parts.final]:
        assert time[train].max() < time[test].min()
    assert np.array_equal(np.concatenate(tests), np.arange(tests[0][0], len(hours)))  # each later row tested once


def test_the_folds_grow_and_the_tail_has_the_asked_share() -> None:
    parts = split(100, None, folds=3, holdout=0.2)
    assert [(len(f.train), len(f.test)) for f in parts.folds] == [(20, 20), (40, 20), (60, 20)]
    assert (len(parts.final.train), len(parts.final.test)) == (80, 20)


def test_rows_whose_label_was_not_known_yet_are_left_out_of_training() -> None:
    time = T0 + np.arange(100) * HOUR
    parts = split(100, time, folds=0, holdout=0.2, gap=dt.timedelta(hours=10))
    assert parts.final.train.tolist() == list(range(71))  # row 70 is ten hours before row 80
    assert parts.final.test[0] == 80


def test_what_cannot_be_split_says_so() -> None:
    with pytest.raises(DataError, match="never divided"):
        split(50, np.full(50, T0), folds=2, holdout=0.2)
    with pytest.raises(DataError, match="holdout must lie in"):
        split(50, None, holdout=1.0)


def test_rows_are_ordered_by_time_and_laid_out(flights: pa.Table, interface_of: Any) -> None:
    shuffled = flights.take(np.random.default_rng(1).permutation(flights.num_rows))
    data = TrainingData.of(interface_of(), shuffled)
    assert data.time is not None
    assert (np.diff(data.time) > np.timedelta64(0)).all()
    assert data.table["flight"].to_pylist()[:3] == ["f0", "f1", "f2"]
    assert data.inputs == ("carrier", "hour", "night", "wind")
    assert (data.categorical, data.numeric) == ([0], [1, 2, 3])
    assert data.X.dtype == object
    assert data.y.tolist() == flights["late"].to_pylist()


def test_without_a_time_rows_are_shuffled_the_same_way_for_the_same_seed(flights: pa.Table, interface_of: Any) -> None:
    first, again, other = (TrainingData.of(interface_of(time=""), flights, seed=s) for s in (3, 3, 4))
    assert first.table.equals(again.table)
    assert not first.table.equals(other.table)
    assert first.time is None


def test_a_matrix_of_numbers_only_is_a_float_matrix(flights: pa.Table, interface_of: Any) -> None:
    whole = interface_of()
    contract = type(whole.contract)(name="x", fields=tuple(f for f in whole.contract.fields if f.name != "carrier"))
    assert TrainingData.of(interface_of(contract=contract), flights).X.dtype == np.float64


@pytest.mark.parametrize(
    ("values", "classes"),
    [([True, False], ("0", "1")), ([1, 0], ("0", "1")), ([1.0, 0.0], ("0", "1")), (["yes", "no"], ("no", "yes"))],
)
def test_labels_of_any_type_become_codes_in_the_order_of_the_classes(
    flights: pa.Table, interface_of: Any, values: list[Any], classes: tuple[str, ...]
) -> None:
    table = flights.set_column(flights.column_names.index("late"), "late", pa.array(values * (flights.num_rows // 2)))
    data = TrainingData.of(interface_of(classes=classes), table)
    assert data.y[:4].tolist() == [1, 0, 1, 0]


def test_rows_without_label_are_left_out(flights: pa.Table, interface_of: Any) -> None:
    late = [None if i % 10 == 0 else v for i, v in enumerate(flights["late"].to_pylist())]
    table = flights.set_column(flights.column_names.index("late"), "late", pa.array(late))
    assert TrainingData.of(interface_of(), table).n == flights.num_rows * 9 // 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": ("no", "yes")}, "the label [01], which is none of the classes no, yes"),
        ({"label": "lateness"}, "no column 'lateness'"),
        ({"classes": ("0",)}, "needs exactly two classes; it has 1"),
        ({"task": "regression", "label": "band", "classes": ()}, "regression needs numbers"),
        ({"time": "carrier"}, "cannot be read as times"),
    ],
)
def test_a_table_that_cannot_be_trained_on_says_why(
    flights: pa.Table, interface_of: Any, change: dict[str, Any], said: str
) -> None:
    import msgspec

    with pytest.raises(DataError, match=said):
        TrainingData.of(msgspec.structs.replace(interface_of(), **change), flights)
