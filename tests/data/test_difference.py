"""Distances between profiles are those of scipy: exactly where the profile is exact, within the sketch's error else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.spatial.distance
import scipy.stats

from undrift.data.difference import MEASURES, difference, differences, parquet_differences
from undrift.data.profile import Profile
from undrift.data.tally import count_cells
from undrift.errors import DataError

RNG = np.random.default_rng(17)
BEFORE = {"x": RNG.normal(size=20_000), "c": RNG.choice(list("abcd"), 20_000), "t": RNG.choice([True, False], 20_000)}
NOW = {
    "x": RNG.normal(0.4, 1.5, 30_000),
    "c": RNG.choice(list("abcde"), 30_000, p=[0.4, 0.2, 0.2, 0.1, 0.1]),
    "t": RNG.choice([True, False], 30_000, p=[0.8, 0.2]),
}
REFERENCE = Profile.of(BEFORE)
CURRENT = Profile.of(NOW, edges_from=REFERENCE)


def shares(values: np.ndarray, names: str) -> np.ndarray:
    return np.array([*((values == name).mean() for name in names), (~np.isin(values, list(names))).mean()])


def test_distances_of_categories_are_scipys_to_the_ninth_digit() -> None:
    p, q = shares(BEFORE["c"], "abcd"), shares(NOW["c"], "abcd")

    def found(measure: str) -> float:
        seen = difference(REFERENCE.columns["c"], CURRENT.columns["c"], measure)
        assert seen is not None
        return seen.value

    assert found("total_variation") == pytest.approx(np.abs(p - q).sum() / 2, abs=1e-9)
    assert found("l_infinity") == pytest.approx(scipy.spatial.distance.chebyshev(p, q), abs=1e-9)
    assert found("jensen_shannon") == pytest.approx(scipy.spatial.distance.jensenshannon(p, q, 2) ** 2, abs=1e-9)
    table = np.rint([p * 20_000, q * 30_000]).astype(int)
    assert found("chi_square") == pytest.approx(scipy.stats.contingency.association(table, "cramer"), abs=1e-9)
    seen = difference(REFERENCE.columns["t"], CURRENT.columns["t"], "chi_square")
    counts = np.array([[(~v).sum(), v.sum()] for v in (BEFORE["t"], NOW["t"])])
    assert seen is not None
    assert seen.p_value == pytest.approx(scipy.stats.chi2_contingency(counts).pvalue, abs=1e-9)  # with Yates


def test_few_values_are_all_kept_so_the_distance_of_numbers_is_scipys() -> None:
    x, y = RNG.normal(size=200), RNG.normal(0.5, 1, 150)
    before = Profile.of({"x": x})
    now = Profile.of({"x": y}, edges_from=before)
    seen = difference(before.columns["x"], now.columns["x"], "wasserstein")
    assert seen is not None
    assert seen.value == pytest.approx(scipy.stats.wasserstein_distance(x, y), abs=1e-9)


def test_many_values_are_within_the_error_of_edges_and_sketch() -> None:
    exact = scipy.stats.ks_2samp(BEFORE["x"], NOW["x"]).statistic
    seen = difference(REFERENCE.columns["x"], CURRENT.columns["x"])
    assert seen is not None
    assert exact - 0.05 <= seen.value <= exact + 1e-12  # the largest gap at an edge; a bin holds a twentieth
    moved = difference(REFERENCE.columns["x"], CURRENT.columns["x"], "wasserstein")
    assert moved is not None
    spread = np.ptp(NOW["x"])
    assert moved.value == pytest.approx(scipy.stats.wasserstein_distance(BEFORE["x"], NOW["x"]), abs=0.02 * spread)


@pytest.mark.parametrize("measure", MEASURES)
def test_every_distance_of_a_profile_from_itself_is_zero_and_from_another_is_not(measure: str) -> None:
    for name in REFERENCE.columns:
        same = difference(REFERENCE.columns[name], REFERENCE.columns[name], measure)
        other = difference(REFERENCE.columns[name], CURRENT.columns[name], measure)
        assert same is not None
        assert other is not None
        assert same.value == pytest.approx(0.0, abs=1e-12)
        assert other.value > 0.05
        assert other.p_value < 1e-6


def test_what_has_no_values_has_no_distance() -> None:
    found = differences(REFERENCE, Profile.of({"x": [None, None], "other": [1.0, 2.0]}))
    assert found == {"x": None}


@pytest.mark.parametrize("measure", ["", *MEASURES])
def test_a_file_differs_from_a_reference_as_its_profile_does(tmp_path: Path, measure: str) -> None:
    rng = np.random.default_rng(11)

    def rows(n: int, shift: float) -> pa.Table:
        x = rng.normal(shift, 1, n)
        odd = np.where(rng.random(n) < 0.02, rng.choice([np.inf, -np.inf, np.nan], n), x)
        return pa.table(
            {
                "x": x,
                "odd": pa.array(odd, mask=rng.random(n) < 0.1),
                "small": pa.array(x.astype(np.float32)),
                "whole": rng.poisson(3 + shift, n),
                "flag": pa.array(rng.random(n) < 0.3 + shift / 10),
                "text": pa.array(rng.choice(["a", "b", "c"], n, p=[0.5, 0.3 - shift / 10, 0.2 + shift / 10])),
                "when": pa.array(rng.integers(0, 10**15, n), pa.timestamp("us", "UTC")),
                "gone": pa.array([None] * n, pa.float64()),
            }
        )

    reference = Profile.of(rows(3000, 0.0))
    now = rows(70_000, 0.4).append_column("other", pa.array(np.zeros(70_000)))
    pq.write_table(now, tmp_path / "now.parquet", row_group_size=20_000)
    found = parquet_differences(reference, tmp_path / "now.parquet", measure)
    whole = Profile.of_parquet(tmp_path / "now.parquet", edges_from=reference)
    assert found == differences(reference, whole, measure)
    assert set(found) == set(now.column_names) - {"other"}
    assert found["x"] is not None
    assert found["x"].lower > 0
    assert found["gone"] is None


def test_a_file_that_is_none_is_refused_and_one_without_rows_has_no_distance(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([], pa.float64())}), tmp_path / "none.parquet")
    assert parquet_differences(REFERENCE, tmp_path / "none.parquet") == {"x": None}
    (tmp_path / "text.parquet").write_text("x")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as Parquet"):
        parquet_differences(REFERENCE, tmp_path / "text.parquet")


def test_numbers_whose_sum_is_no_number_are_counted_like_others() -> None:
    x = np.full(1000, 1.7e308)
    x[::3] *= -1
    found = count_cells("x", pa.chunked_array([np.append(x, 1.0)]), (-2.0, 2.0))
    assert (found.counts, found.nulls, found.infinite) == ((334, 1, 666), 0, 0)
