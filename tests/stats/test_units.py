from __future__ import annotations

import numpy as np
import pytest

from undrift.stats.units import CONVERSIONS, find_unit_change, fit_scale_offset, name_unit_change

LEVELS = np.linspace(0.02, 0.98, 49)


def quantiles(x: np.ndarray) -> np.ndarray:
    return np.quantile(x, LEVELS)


@pytest.fixture
def skewed() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.gamma(3, 12, 4000), rng.gamma(3, 12, 1500)


@pytest.mark.parametrize("name", list(CONVERSIONS))
def test_every_known_conversion_is_found_in_fresh_samples_by_its_effect(name, skewed):
    a, b = CONVERSIONS[name]
    found = find_unit_change(quantiles(skewed[0]), quantiles(a * skewed[1] + b))
    assert found is not None
    assert (found.a, found.b) == pytest.approx((a, b), rel=0.02, abs=0.02 * abs(a) * 36)


@pytest.mark.parametrize("name", ["Fahrenheit to Celsius", "inches to millimetres", "times 10^3", "sign flip"])
def test_the_fitted_line_is_named(name, skewed):
    a, b = CONVERSIONS[name]
    fit = fit_scale_offset(quantiles(skewed[0]), quantiles(a * skewed[0] + b))
    assert (fit.a, fit.b) == pytest.approx((a, b), rel=0.01, abs=0.1)
    assert fit.improvement > 0.99
    assert name_unit_change(fit.a, fit.b, scale=abs(a) * 36) == name


def test_a_fifth_of_the_quantiles_elsewhere_does_not_bend_the_line(skewed):
    x = quantiles(skewed[0])
    y = (x - 32) * 5 / 9
    y[-9:] += 500
    fit = fit_scale_offset(x, y)
    assert (fit.a, fit.b) == pytest.approx((5 / 9, -160 / 9), rel=0.02)


def test_ordinary_drift_is_no_unit_change(skewed):
    x = quantiles(skewed[0])
    rng = np.random.default_rng(2)
    for moved in (x, x * 1.05, x + 3, x * 1.3, x * 0.8 + 2, np.sort(x + rng.normal(0, 3, x.size)), x**1.3):
        assert find_unit_change(x, np.sort(moved)) is None


def test_a_conversion_is_found_though_the_world_drifted_a_little_too(skewed):
    x = quantiles(skewed[0])
    found = find_unit_change(x, (x * 1.03 + 1 - 32) * 5 / 9)
    assert found is not None
    assert found.name == "Fahrenheit to Celsius"
    assert found.improvement > 0.9


def test_conversions_that_differ_too_much_have_no_name():
    assert name_unit_change(5 / 9, 0.0) is None
    assert name_unit_change(0.0, 0.0) is None
    assert name_unit_change(0.457, 0.0, tolerance=0.03) in ("pounds to kilograms", "mph to m/s")
    assert name_unit_change(0.5, 0.0) is None


def test_quantiles_that_tell_nothing_are_fitted_by_nothing():
    flat = fit_scale_offset([1, 1, 1], [1, 1, 1])
    assert (flat.a, flat.b, flat.improvement) == (1.0, 0.0, 0.0)
    assert find_unit_change([1, 1, 1], [1, 1, 1]) is None


@pytest.mark.parametrize(("x", "y", "message"), [([1, 2], [1, 2], "three"), ([1, 2, 3], [3, 2, 1], "ascend")])
def test_quantiles_that_are_none_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit_scale_offset(x, y)
