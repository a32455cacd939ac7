"""Profiles made by the executors of a real Spark session: the parts add up to the profile of the whole table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from undrift.data.difference import differences
from undrift.data.profile import Profile

ROWS = 60_000


@pytest.fixture
def spark(tmp_path: Path) -> Iterator[SparkSession]:
    """Two executor threads on this machine; Python workers like the one that runs the tests."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    where = {"spark.local.dir": tmp_path / "local", "spark.sql.warehouse.dir": tmp_path / "warehouse"}
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    for name, folder in where.items():
        builder = builder.config(name, str(folder))
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    yield session
    session.stop()


def flights(shift: float, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    delay = rng.gamma(2.0, 12.0, ROWS) + shift
    delay[::50] = np.nan
    return pa.table({
        "delay": pa.array(delay, from_pandas=True), "carrier": rng.choice(["UA", "AA", "B6"], ROWS, p=[0.5, 0.3, 0.2]),
        "hour": rng.integers(5, 23, ROWS),
    })  # fmt: skip


def profiled(frame: Any, reference: str) -> Profile:
    """One profile a partition, made where the partition is; only their text comes to the driver."""

    def each(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = Profile.stream(batches, edges_from=Profile.from_json(reference) if reference else None)
        yield pa.RecordBatch.from_pydict({"profile": [found.to_json()]})

    rows = frame.mapInArrow(each, "profile string").collect()
    assert len(rows) > 2
    return Profile.total([Profile.from_json(row.profile) for row in rows])


def test_executors_profiles_add_up_to_that_of_the_table(spark: SparkSession, tmp_path: Path) -> None:
    reference = Profile.of(flights(0.0, 1))
    table = flights(8.0, 2)
    pq.write_table(table, tmp_path / "flights.parquet", row_group_size=10_000)
    frame = spark.read.parquet(str(tmp_path / "flights.parquet")).repartition(5)
    found, wanted = profiled(frame, reference.to_json()), Profile.of(table, edges_from=reference)
    assert found.n == wanted.n == ROWS
    for name, column in wanted.columns.items():
        ours = found.columns[name]
        assert (ours.n, ours.nulls, ours.minimum, ours.maximum) == (
            column.n, column.nulls, column.minimum, column.maximum
        )  # fmt: skip
        assert ours.counts == column.counts, name
        assert ours.common.counts == column.common.counts, name
        assert ours.moments.mean == pytest.approx(column.moments.mean, rel=1e-9)
    told, alone = differences(reference, found), differences(reference, wanted)
    assert {name: each.value for name, each in told.items() if each} == pytest.approx(
        {name: each.value for name, each in alone.items() if each}, abs=1e-12
    )
    assert told["delay"] is not None
    assert told["carrier"] is not None
    assert told["delay"].value > 0.1 > told["carrier"].value
