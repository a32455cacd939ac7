from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from undrift.data.profile import Profile
from undrift.errors import DataError

TABLE = pa.table(
    {
        "x": [1.0, 2.0, None, float("nan"), float("inf"), 2.0],
        "n": [1, 1, 1, 1, 1, 2],
        "s": ["a", "b", "a", None, "a", "b"],
        "b": [True, False, True, None, True, True],
        "t": pa.array([datetime(1970, 1, 1, 0, 0, i, tzinfo=UTC) for i in range(6)], pa.timestamp("us", "UTC")),
    }
)


def test_a_profile_counts_what_is_there_and_what_is_not() -> None:
    profile = Profile.of(TABLE)
    x, n, s, b, t = profile.columns.values()
    assert (profile.n, x.n, x.nulls, x.infinite, x.values) == (6, 6, 2, 1, 3)
    assert x.null_rate == pytest.approx(2 / 6)
    assert (x.minimum, x.maximum, x.moments.n, x.moments.mean) == (1.0, 2.0, 3, pytest.approx(5 / 3))
    assert x.top == (("2.0", 2), ("1.0", 1))
    assert n.top == (("1", 5), ("2", 1))
    assert (s.kind, s.top, s.nulls) == ("string", (("a", 3), ("b", 2)), 1)
    assert (b.true_rate, b.top) == (0.8, (("true", 4), ("false", 1)))
    assert (t.kind, t.minimum, t.maximum) == ("timestamp", 0.0, 5e6)
    assert s.shares(["b", "z"]).tolist() == [2.0, 0.0, 3.0]


def test_histograms_on_the_edges_of_a_reference_are_exact() -> None:
    rng = np.random.default_rng(3)
    reference, current = rng.normal(size=5_000), rng.normal(0.5, 2.0, size=70_000)
    before = Profile.of({"x": reference})
    after = Profile.of({"x": current}, edges_from=before).columns["x"]
    edges = before.columns["x"].edges
    assert len(edges) == 19
    expected = np.histogram(current, [-math.inf, *edges, math.inf])[0]
    assert after.histogram().tolist() == expected.tolist()
    some = edges[::4]
    assert after.histogram(some).tolist() == np.histogram(current, [-math.inf, *some, math.inf])[0].tolist()
    # a reference is spread evenly over its own bins
    assert np.abs(before.columns["x"].histogram() / 5_000 - 0.05).max() < 1e-3
    # on other edges it is an estimate, within the error of the sketch
    other = [-3.0, 0.0, 0.1, 4.0]
    estimate = after.histogram(other)
    assert estimate.sum() == 70_000
    assert np.abs(estimate - np.histogram(current, [-math.inf, *other, math.inf])[0]).max() < 0.02 * 70_000
    with pytest.raises(ValueError, match="ascend"):
        after.histogram([1.0, 0.0])


def test_quantiles_have_exact_ends() -> None:
    x = np.random.default_rng(5).pareto(1.0, 50_000)
    column = Profile.of({"x": x}).columns["x"]
    found = column.quantiles([0.0, 0.5, 1.0])
    assert (found[0], found[2]) == (x.min(), x.max())
    assert abs((x < found[1]).mean() - 0.5) < 0.02
    assert np.isnan(Profile.of({"x": pa.nulls(2, pa.string())}).columns["x"].quantiles([0.5])).all()


def test_a_profile_survives_its_text() -> None:
    profile = Profile.of(TABLE)
    assert Profile.from_json(profile.to_json()) == profile
    empty = Profile.of(TABLE.slice(0, 0))
    assert Profile.from_json(empty.to_json()) == empty
    with pytest.raises(DataError, match="no profile"):
        Profile.from_json("{")


def test_a_column_that_a_part_lacks_is_null_there() -> None:
    whole = Profile.of({"x": [1.0, 2.0]}) + Profile.of({"y": ["a"]})
    assert (whole.n, whole.columns["x"].nulls, whole.columns["y"].nulls) == (3, 1, 2)
    assert whole.columns["y"].n == 3


def test_what_cannot_be_added_is_refused() -> None:
    with pytest.raises(DataError, match="a string and one of a number"):
        Profile.of({"x": ["a"]}) + Profile.of({"x": [1.0]})
    with pytest.raises(DataError, match="different histogram edges"):
        Profile.of({"x": [1.0, 2.0]}) + Profile.of({"x": [3.0, 4.0]})
    with pytest.raises(DataError, match="'x' holds list"):
        Profile.of({"x": [[1]]})


def test_other_kinds_of_columns_are_taken_too() -> None:
    table = pa.table(
        {
            "d": pa.array([Decimal("1.5"), None]),
            "c": pa.array(["a", "a"]).dictionary_encode(),
            "nothing": pa.nulls(2),
            "f": pa.array([1.5, 2.5], pa.float32()),
        }
    )
    profile = Profile.of(table).columns
    assert (profile["d"].moments.mean, profile["d"].top) == (1.5, (("1.5", 1),))
    assert profile["c"].top == (("a", 2),)
    assert (profile["nothing"].null_rate, profile["nothing"].moments.n) == (1.0, 0)
    assert profile["f"].moments.mean == 2.0


def test_many_different_values_leave_no_spike_and_one_spike_stays() -> None:
    x = np.random.default_rng(1).normal(size=20_000)
    assert Profile.of({"x": x}).columns["x"].top == ()
    x[:500] = -999.0
    column = Profile.of({"x": x}).columns["x"]
    assert column.top == (("-999.0", 499),)
    assert column.common.missed == 1


def test_a_negative_zero_is_a_zero() -> None:
    assert Profile.of({"x": [0.0, -0.0]}) == Profile.of({"x": [-0.0, 0.0]})
    assert Profile.of({"x": [0.0, -0.0]}).columns["x"].top == (("0.0", 2),)
    assert str(Profile.of({"x": [-0.0]}).columns["x"].minimum) == "0.0"


def test_texts_are_known_by_length_and_shape_too() -> None:
    column = Profile.of({"x": ["UA-1234", "DL-7", "Zürich  9", None, "", "DL-8"]}).columns["x"]
    assert dict(column.shapes.counts) == {"a-9": 3, "a 9": 1, "": 1}
    assert (column.minimum, column.maximum, column.moments.mean) == (0.0, 9.0, pytest.approx(24 / 5))
    assert column.distinct.estimate == 5.0
    again = Profile.of({"x": pa.array(["UA-1234", "DL-7", "Zürich  9", None, "", "DL-8"]).dictionary_encode()})
    assert again.columns["x"] == column


def test_a_stream_has_the_profile_of_the_whole_table() -> None:
    rng = np.random.default_rng(9)
    n = 700_000
    table = pa.table({"x": rng.normal(size=n), "k": rng.integers(0, 5, n), "s": rng.choice(["a", "b", "c"], n)})
    reference = Profile.of(table.slice(0, 1000))
    whole = Profile.of(table, edges_from=reference)
    for source in (
        table,
        table.to_batches(10_000),
        pa.RecordBatchReader.from_batches(table.schema, table.to_batches()),
    ):
        found = Profile.stream(source, edges_from=reference)
        assert found.n == n
        for name, column in found.columns.items():
            for field in ("n", "counts", "minimum", "maximum", "distinct"):
                assert getattr(column, field) == getattr(whole.columns[name], field), (name, field)
            assert column.moments.mean == pytest.approx(whole.columns[name].moments.mean, abs=1e-9)
    assert Profile.stream([]) == Profile()
    # without a reference the first part gives the edges
    assert Profile.stream(table).columns["x"].edges == Profile.of(table.slice(0, 1 << 18)).columns["x"].edges


def test_a_parquet_file_has_the_profile_of_its_rows_whatever_its_row_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    n = 1000
    rows = pa.table(
        {
            "x": pa.array(np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)), from_pandas=True),
            "k": rng.integers(0, 5, n),
            "s": pa.array([None if i % 7 == 0 else f"v{i % 3}" for i in range(n)]),
            "b": pa.array(rng.random(n) < 0.3),
        }
    )
    reference = Profile.of(rows)
    for groups in (n, 300):
        pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=groups)
        found = Profile.of_parquet(tmp_path / "rows.parquet", edges_from=reference)
        for name, column in found.columns.items():
            for field in ("n", "nulls", "counts", "minimum", "maximum", "distinct", "common", "shapes"):
                assert getattr(column, field) == getattr(reference.columns[name], field), (groups, name, field)
            assert column.moments.mean == pytest.approx(reference.columns[name].moments.mean, abs=1e-9)
        assert found.n == n
    assert Profile.of_parquet(tmp_path / "rows.parquet").columns["x"].edges == reference.columns["x"].edges
    pq.write_table(rows.slice(0, 0), tmp_path / "none.parquet")
    assert Profile.of_parquet(tmp_path / "none.parquet", edges_from=reference).columns["s"].n == 0
    (tmp_path / "text.parquet").write_text("x\n1\n")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as Parquet"):
        Profile.of_parquet(tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"nobody\.parquet cannot be read"):
        Profile.of_parquet(tmp_path / "nobody.parquet")


def test_a_profile_of_a_later_format_is_refused() -> None:
    text = Profile.of({"x": [1.0]}).to_json().replace('"format":2', '"format":9')
    with pytest.raises(DataError, match="format 9"):
        Profile.from_json(text)


def test_what_an_older_format_does_not_know_is_empty() -> None:
    old = '{"n":1,"columns":{"x":{"kind":"string","n":1,"common":{"counts":{"a":1},"capacity":256}}},"format":1}'
    assert Profile.from_json(old).columns["x"].distinct.estimate == 0.0
