"""Distances between profiles are those of scipy: exactly where the profile is exact, within the sketch's error else."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from undrift.data.difference import MEASURES, difference, differences
from undrift.data.profile import Profile

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
