from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from scipy import special, stats
from scipy.spatial import distance as scipy_distance

from undrift.stats.distance import (
    Distance,
    chi_square,
    jensen_shannon,
    kolmogorov_smirnov,
    l_infinity,
    psi,
    total_variation,
    wasserstein,
    wasserstein_binned,
)

EXACT = {"rel": 1e-9, "abs": 1e-12}
ON_COUNTS = [total_variation, l_infinity, psi, jensen_shannon, chi_square]


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=700), np.round(rng.normal(0.3, 1.4, 300), 1)


def test_sample_distances_equal_scipys(samples):
    x, y = samples
    assert kolmogorov_smirnov(x, y).value == pytest.approx(stats.ks_2samp(x, y).statistic, **EXACT)
    assert wasserstein(x, y).value == pytest.approx(stats.wasserstein_distance(x, y), **EXACT)
    assert wasserstein(x, y).effect == pytest.approx(wasserstein(x, y).value / x.std(), **EXACT)
    d = kolmogorov_smirnov(x, y)
    assert d.p_value == pytest.approx(stats.kstwobign.sf(d.value * math.sqrt(210)), **EXACT)


def test_weights_count_like_repeated_values(samples):
    x, y = samples
    y_values, y_counts = np.unique(y, return_counts=True)
    for measure in (kolmogorov_smirnov, wasserstein):
        plain, weighted = measure(x, y), measure(x, y_values, None, y_counts)
        for field in Distance.__struct_fields__:
            assert getattr(weighted, field) == pytest.approx(getattr(plain, field), **EXACT)


def test_count_distances_equal_scipys():
    p, q = np.array([20, 30, 50, 8]), np.array([25, 5, 60, 40])
    assert jensen_shannon(p, q).value == pytest.approx(scipy_distance.jensenshannon(p, q, base=2) ** 2, **EXACT)
    tested = chi_square(p, q)
    theirs = stats.chi2_contingency([p, q], correction=False)
    assert tested.p_value == pytest.approx(theirs.pvalue, **EXACT)
    assert tested.value == pytest.approx(stats.contingency.association([p, q], method="cramer"), **EXACT)
    gap = p / p.sum() - q / q.sum()
    assert total_variation(p, q).value == pytest.approx(np.abs(gap).sum() / 2, **EXACT)
    assert l_infinity(p, q).value == pytest.approx(np.abs(gap).max(), **EXACT)
    a, b = (c + 0.5 for c in (p, q))
    a, b = a / a.sum(), b / b.sum()
    assert psi(p, q).value == pytest.approx((special.rel_entr(a, b) + special.rel_entr(b, a)).sum(), **EXACT)


def test_a_two_by_two_table_is_corrected_as_in_scipy():
    assert chi_square([30, 70], [50, 50]).p_value == pytest.approx(
        stats.chi2_contingency([[30, 70], [50, 50]]).pvalue, **EXACT
    )


def test_rare_cells_are_pooled():
    pooled = chi_square([50, 50, 2, 1, 1], [50, 50, 1, 2, 0])
    assert pooled.p_value == pytest.approx(stats.chi2_contingency([[50, 50, 4], [50, 50, 3]]).pvalue, **EXACT)
    for measure in (chi_square, psi, jensen_shannon):
        assert (measure([10], [20]).value, measure([10], [20]).p_value) == (0.0, 1.0)  # one cell: nothing to differ


@pytest.mark.parametrize("measure", ON_COUNTS)
def test_without_a_difference_the_distance_is_small_insignificant_and_its_interval_holds_zero(measure):
    same = measure([100, 200, 300], [100, 200, 300])
    assert same.value == pytest.approx(0, abs=1e-3)
    assert same.lower == 0
    assert same.p_value > 0.99


@pytest.mark.parametrize("measure", ON_COUNTS)
def test_false_alarms_by_p_value_stay_at_their_level(measure):
    rng = np.random.default_rng(2)
    shares = [0.4, 0.3, 0.2, 0.1]
    old, new = rng.multinomial(2000, shares, 1000), rng.multinomial(500, shares, 1000)
    false = np.mean([measure(a, b).p_value < 0.05 for a, b in zip(old, new, strict=True)])
    assert false <= stats.binom.ppf(0.999, 1000, 0.05) / 1000


@pytest.mark.parametrize("measure", ON_COUNTS)
@pytest.mark.parametrize("moved", [[0.4, 0.3, 0.2, 0.1], [0.36, 0.3, 0.2, 0.14], [0.2, 0.3, 0.2, 0.3]])
def test_intervals_on_counts_hold_the_true_distance(measure, moved):
    rng = np.random.default_rng(3)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    many = 10**9
    truth = measure(shares * many * 4, np.array(moved) * many).value
    found = [
        measure(a, b, level=0.9)
        for a, b in zip(rng.multinomial(4000, shares, 400), rng.multinomial(1000, moved, 400), strict=True)
    ]
    covered = np.mean([f.lower <= truth + 1e-9 and truth - 1e-9 <= f.upper for f in found])
    assert covered >= 0.86  # 0.9 less what 400 paths may miss by chance


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
def test_intervals_on_samples_hold_the_true_distance(shift):
    rng = np.random.default_rng(4)
    ks = wd = 0
    for _ in range(200):
        x, y = rng.normal(size=800), rng.normal(shift, 1, 300)
        d, w = kolmogorov_smirnov(x, y, level=0.9), wasserstein(x, y, level=0.9)
        ks += d.lower <= 2 * stats.norm.cdf(shift / 2) - 1 <= d.upper
        wd += w.lower <= shift <= w.upper
    assert ks / 200 >= 0.85
    assert wd / 200 >= 0.85


def test_a_larger_sample_makes_a_tiny_drift_significant_but_not_large():
    shares, moved = np.array([0.5, 0.5]), np.array([0.502, 0.498])
    for measure in ON_COUNTS:
        found = measure(shares * 1e8, moved * 1e8)
        assert found.p_value < 1e-6
        assert found.upper < 0.01


def test_a_wholly_different_distribution_is_at_the_far_end():
    for measure in (total_variation, l_infinity, jensen_shannon, chi_square):
        assert measure([1000, 0], [0, 1000]).value == pytest.approx(1)
        assert measure([1000, 0], [0, 1000]).upper == pytest.approx(1)
    assert kolmogorov_smirnov([0, 1], [2, 3]).value == 1
    assert 5 < psi([1000, 0], [0, 1000]).value < math.inf
    with pytest.raises(ValueError, match="smoothing must be above 0"):
        psi([1000, 0], [0, 1000], smoothing=0)


def test_binned_wasserstein_is_within_a_bin_of_the_raw_one_and_exact_on_evenly_filled_bins(samples):
    x, y = samples
    edges = np.linspace(-7, 7, 141)
    raw = wasserstein(x, y)
    binned = wasserstein_binned(edges, np.histogram(x, edges)[0], np.histogram(y, edges)[0])
    assert binned.value == pytest.approx(raw.value, abs=0.1)
    assert binned.half_width == pytest.approx(raw.half_width, rel=0.1)
    # |F - G| runs from 0 to 1/4 and back through 0 to 1/4 and back: two triangles of base 2 each, height 1/4
    assert wasserstein_binned([0, 1, 2, 3, 4], [2, 0, 0, 2], [1, 1, 1, 1]).value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="edges must ascend"):
        wasserstein_binned([0, 1], [1, 2], [1, 2])


def test_a_crossing_inside_a_bin_is_cut_there():
    # F - G runs 0, 1/2, -1/2, 0 over bins of width 1: triangles 1/4 + (1/8 + 1/8) + 1/4
    assert wasserstein_binned([0, 1, 2, 3], [1, 1, 2], [3, 0, 1]).value == pytest.approx(
        _by_grid([0, 1, 2, 3], [1, 1, 2], [3, 0, 1]), abs=1e-4
    )
    assert wasserstein_binned([0, 1, 2, 3], [2, 0, 2], [0, 4, 0]).value == pytest.approx(0.75)


def _by_grid(edges, p, q) -> float:
    grid = np.linspace(edges[0], edges[-1], 300_001)
    f = np.interp(grid, edges, np.concatenate([[0], np.cumsum(p)]) / np.sum(p))
    g = np.interp(grid, edges, np.concatenate([[0], np.cumsum(q)]) / np.sum(q))
    return float(np.trapezoid(np.abs(f - g), grid))


def test_constant_columns_have_no_spread_to_measure_in():
    assert wasserstein([1, 1], [1, 1]).effect == 0
    assert wasserstein([1, 1], [2, 2]).effect == math.inf
    assert wasserstein([1, 1], [1, 1]).p_value == 1
    back = msgspec.json.decode(msgspec.json.encode(wasserstein([1, 1], [2, 2])), type=Distance)
    assert math.isnan(back.effect)


@pytest.mark.parametrize(("p", "q"), [([1, 2], [1]), ([0, 0], [1, 1]), ([-1, 2], [1, 1])])
def test_counts_that_are_none_are_refused(p, q):
    with pytest.raises(ValueError, match="counts must be >= 0"):
        total_variation(p, q)


def test_samples_that_are_none_are_refused():
    with pytest.raises(ValueError, match="reference needs rows"):
        kolmogorov_smirnov([], [1])
    with pytest.raises(ValueError, match="1 values, 2 weights"):
        kolmogorov_smirnov([1], [1], None, [1, 2])
