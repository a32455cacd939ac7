from __future__ import annotations

import math

import numpy as np
import pytest

from undrift.stats.planning import Design, days_needed, information, power, smallest_effect, units_needed
from undrift.stats.sequential import difference_bounds

DESIGN = Design.of_rate(0.2, alpha=0.05, power=0.8)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_units_planned_give_the_power_planned_and_not_much_more(share: float) -> None:
    effect, paths, looks = 0.05, 600, 60
    units = units_needed(DESIGN, effect, share)
    rng = np.random.default_rng(31)
    block = units // looks
    new = rng.binomial(block, share, (paths, looks))
    k1 = rng.binomial(new, 0.2 + effect).cumsum(axis=1).astype(float)
    k0 = rng.binomial(block - new, 0.2).cumsum(axis=1).astype(float)
    n1, n0 = new.cumsum(axis=1).astype(float), (block - new).cumsum(axis=1).astype(float)
    arms = [(n[..., None], (k / n)[..., None], (k - k * k / n)[..., None]) for n, k in ((n0, k0), (n1, k1))]
    tuning = units * share * (1 - share)
    bounds = difference_bounds(arms[0], arms[1], 0.05, tuning, one_sided=True)
    found = float((bounds.value > bounds.half_width).any(axis=1).mean())
    assert 0.77 <= found <= 0.93  # at least the 0.8 planned; crossing early adds some


def test_smallest_effect_units_and_power_are_one_relation() -> None:
    units = units_needed(DESIGN, 0.03, 0.25)
    seen = information(0.75 * units, 0.25 * units)
    assert smallest_effect(DESIGN, seen) == pytest.approx(0.03, rel=1e-4)
    assert power(DESIGN, 0.03, seen) == pytest.approx(0.8, abs=1e-4)
    assert power(DESIGN, 0.03, seen / 4) < 0.2
    assert power(DESIGN, 0.03, 0.0) == 0.0
    assert math.isinf(smallest_effect(DESIGN, information(100, 0)))
    assert information(0, 0) == 0.0


def test_half_the_effect_needs_four_times_the_units_and_a_small_share_many_more() -> None:
    assert units_needed(DESIGN, 0.01) == pytest.approx(4 * units_needed(DESIGN, 0.02), rel=1e-3)
    assert units_needed(DESIGN, 0.02, 0.05) == pytest.approx(units_needed(DESIGN, 0.02) * 0.25 / 0.0475, rel=1e-3)


def test_a_sequential_plan_costs_more_than_a_test_looked_at_once() -> None:
    # Lehr-like fixed size at one-sided 5 % and 80 %: (1.645 + 0.842)^2 sd^2 / effect^2 of information
    once = (1.6449 + 0.8416) ** 2 * 0.16 / 0.02**2 * 4
    assert 1.5 * once < units_needed(DESIGN, 0.02) < 3 * once


def test_days_follow_the_steps_and_the_traffic() -> None:
    needed = units_needed(DESIGN, 0.02, 0.5)
    assert days_needed(DESIGN, 0.02, [needed / 10], [(0.5, 1)]) == pytest.approx(10, rel=1e-3)
    # a step at 5 % is worth 0.0475 / 0.25 of a day at half and half
    late = days_needed(DESIGN, 0.02, [needed / 10], [(0.05, 5), (0.5, 1)])
    assert late == pytest.approx(5 + 10 - 5 * 0.0475 / 0.25, rel=1e-3)
    slow = days_needed(DESIGN, 0.02, [0.0, 0.0, needed / 10], [(0.5, 1)])
    assert slow == pytest.approx(12, rel=1e-3)
    assert days_needed(DESIGN, 0.02, [5.0, 0.0], [(0.5, 1)]) is None


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="effect must be a positive number"):
        units_needed(DESIGN, 0.0)
    with pytest.raises(ValueError, match="share must lie strictly between 0 and 1"):
        units_needed(DESIGN, 0.1, 1.0)
    with pytest.raises(ValueError, match="deviation must be a positive number"):
        Design(deviation=0.0)
    with pytest.raises(ValueError, match="rate must lie"):
        Design.of_rate(0.0)
    with pytest.raises(ValueError, match="at least one day of traffic"):
        days_needed(DESIGN, 0.1, [], [(0.5, 1)])
