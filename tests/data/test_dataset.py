from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from undrift.data.dataset import digest, load, store
from undrift.errors import DataError, NotFoundError, StateError
from undrift.state.lake import DeltaLake

TABLE = pa.table(
    {
        "n": [3, None, 1],
        "x": [0.1, float("nan"), None],
        "s": ["a", None, ""],
        "b": [True, None, False],
        "t": pa.array(
            [datetime(2013, 1, 1, tzinfo=UTC), None, datetime(1960, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")
        ),
        "date": [date(2013, 1, 2), date(2013, 1, 1), date(2013, 1, 2)],
    }
)


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(tmp_path / "lake")


def test_a_version_comes_back_as_it_went_whatever_was_stored_after(lake: DeltaLake) -> None:
    first = store(lake, "flights", TABLE)
    second = store(lake, "flights", TABLE.select(["s", "n"]).slice(1))
    assert first.version < second.version
    assert str(load(lake, "flights", first.version).to_pylist()) == str(TABLE.to_pylist())  # as text, for the NaN
    assert load(lake, "flights", second.version).to_pylist() == TABLE.select(["s", "n"]).slice(1).to_pylist()
    assert (first.rows, first.quarantined, first.hash) == (3, 0, digest(TABLE))
    assert first.schema[:2] == (("n", "int64"), ("x", "double"))


def test_the_hash_follows_what_a_table_says_and_not_how_it_is_laid_out() -> None:
    pieces = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    other = pieces.set_column(2, "s", pieces["s"].cast(pa.large_string()).dictionary_encode())
    other = other.set_column(4, "t", other["t"].cast(pa.timestamp("us", "Asia/Tokyo")))
    assert digest(other) == digest(TABLE)
    texts, numbers = ("a", "", None), (3, 0, 1)
    others = [
        TABLE.take([1, 0, 2]),
        TABLE.slice(1),
        TABLE.rename_columns([*"abcdef"]),
        TABLE.select([1, 0, 2, 3, 4, 5]),
        TABLE.set_column(2, "s", pa.array(texts)),
        TABLE.set_column(2, "s", pa.array(["", "a", ""])),
        TABLE.set_column(0, "n", pa.array(numbers)),
    ]
    hashes = {digest(TABLE), *map(digest, others)}
    assert len(hashes) == 8


def test_rows_put_aside_are_kept_with_their_reason(lake: DeltaLake) -> None:
    aside = pa.table({"n": ["?"], "t": pa.array([datetime(2013, 1, 1, tzinfo=UTC)]), "reason": ["n is no integer"]})
    dataset = store(lake, "flights", TABLE, quarantined=aside)
    assert dataset.quarantined == 1
    kept = lake.scan("quarantine_flights")
    assert kept is not None
    (row,) = kept.to_pylist()
    assert (row["dataset_hash"], row["reason"]) == (dataset.hash, "n is no integer")
    assert row["row"].startswith('{"n":"?","t":"2013-01-01')


def test_whole_numbers_stay_whole_where_the_lake_holds_fractions(lake: DeltaLake) -> None:
    store(lake, "d", pa.table({"x": [0.5]}))
    second = store(lake, "d", pa.table({"x": [1, None]}))
    assert load(lake, "d", second.version).to_pydict() == {"x": [1, None]}
    with pytest.raises(DataError, match=r"dataset_d\.x"):
        store(lake, "d", pa.table({"x": ["a"]}))


def test_what_cannot_be_stored_is_refused(lake: DeltaLake) -> None:
    with pytest.raises(DataError, match="has no rows"):
        store(lake, "d", TABLE.slice(0, 0))
    with pytest.raises(DataError, match="'dataset_row' is taken"):
        store(lake, "d", pa.table({"dataset_row": [1]}))
    with pytest.raises(DataError, match="'x' holds nothing but nulls"):
        store(lake, "d", pa.table({"x": pa.nulls(1)}))
    with pytest.raises(DataError, match="'t' holds times without a zone"):
        store(lake, "d", pa.table({"t": [datetime(2013, 1, 1)]}))


def test_what_was_never_stored_is_not_found(lake: DeltaLake) -> None:
    with pytest.raises(NotFoundError, match="no dataset 'd'"):
        load(lake, "d", 1)
    store(lake, "d", TABLE)
    with pytest.raises(NotFoundError):
        load(lake, "d", 99)


def test_content_that_was_changed_is_noticed(lake: DeltaLake) -> None:
    first = store(lake, "d", TABLE)
    rows = lake.scan("dataset_d")
    assert rows is not None
    version = lake.append("dataset_d", rows.slice(0, 1))  # a row of the same part a second time
    assert load(lake, "d", first.version).num_rows == 3
    with pytest.raises(StateError, match="does not have the content"):
        load(lake, "d", version)


def test_two_who_store_at_once_get_a_version_each(lake: DeltaLake) -> None:
    tables = [pa.table({"x": [float(i)] * (i + 1)}) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(lambda table: store(DeltaLake(lake.folder), "d", table), tables))
    assert len({dataset.version for dataset in stored}) == 4
    for dataset, table in zip(stored, tables, strict=True):
        assert load(lake, "d", dataset.version).equals(table)
