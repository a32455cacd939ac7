"""The same numbers as GrowthBook's gbstats 0.8.0 where the method is the same; recorded by gbstats_numbers.py."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from undrift.stats.compare import cuped, difference_of_means, sample_ratio_mismatch
from undrift.stats.sequential import mixture_multiplier, mixture_scale
from undrift.stats.summary import Moments, PairMoments

CASES = json.loads((Path(__file__).parent / "gbstats.json").read_text())


def arms_of(case: dict[str, Any], kind: str) -> tuple[Moments, Moments]:
    x, y, u, v = (np.array(case[name]) for name in "xyuv")
    if kind == "mean":
        return Moments.of(x), Moments.of(y)
    pairs = PairMoments.of(x, u), PairMoments.of(y, v)
    return (pairs[0].ratio, pairs[1].ratio) if kind == "ratio" else cuped(*pairs)


@pytest.mark.parametrize("kind", ["mean", "ratio", "cuped"])
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_means_ratios_and_regression_adjustment_equal_gbstats(case: dict[str, Any], kind: str) -> None:
    old, new = arms_of(case, kind)
    found = difference_of_means(old, new, 1 - case["alpha"])
    expected, lower, upper, p_value, *_ = case[kind]
    assert (found.value, found.lower, found.upper) == pytest.approx((expected, lower, upper), rel=1e-9, abs=1e-12)
    assert found.p_value == pytest.approx(p_value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", ["mean", "ratio", "cuped"])
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_two_sided_sequence_of_one_scale_is_gbstats_with_its_rho(case: dict[str, Any], kind: str) -> None:
    """gbstats counts the units of both arms and takes an approximation of the tuned rho; the boundary is one."""
    old, new = arms_of(case, kind)
    alpha, n = case["alpha"], old.n + new.n
    log = -2 * math.log(alpha)
    theirs = (log + math.log(log + 1)) / 5000  # their rho squared
    exact = float(mixture_scale(1.0, alpha))
    reach = float(mixture_multiplier(n, alpha, exact / theirs, spread=[1]))
    half = reach * math.sqrt(old.variance / old.n + new.variance / new.n)
    assert (case[kind][5] - case[kind][4]) / 2 == pytest.approx(half, rel=1e-9)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_sample_ratios_equal_gbstats_and_scipy(case: dict[str, Any]) -> None:
    found = sample_ratio_mismatch(case["counts"], case["weights"])
    assert found.p_value == pytest.approx(case["srm"], rel=1e-9, abs=1e-300)
    share = np.array(case["weights"]) / sum(case["weights"])
    plain = stats.chisquare(case["counts"], share * sum(case["counts"]))
    assert (found.statistic, found.p_value) == pytest.approx((plain.statistic, plain.pvalue), rel=1e-9)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_means_equal_scipys_welch_test(case: dict[str, Any]) -> None:
    found = difference_of_means(*arms_of(case, "mean"))
    plain = stats.ttest_ind(case["y"], case["x"], equal_var=False)
    interval = plain.confidence_interval(0.95)
    assert (found.statistic, found.p_value) == pytest.approx((plain.statistic, plain.pvalue), rel=1e-9)
    assert (found.lower, found.upper) == pytest.approx((interval.low, interval.high), rel=1e-9)
