"""How much shares vary by themselves, on days of which it is known."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from undrift.finding import Verdict, Window
from undrift.monitor.cells import Reference, Slots
from undrift.monitor.drift import judge_drift
from undrift.monitor.monitors import Monitor
from undrift.monitor.noise import noises

START = datetime(2025, 1, 6, tzinfo=UTC)
CUT = Reference(edges=(0.0,), counts=(50_000.0, 50_000.0))
NORMAL_CUTS = tuple(float(x) for x in np.linspace(-1.6, 1.6, 19))


def slots(shares: np.ndarray, n: int, rng: np.random.Generator) -> Slots:
    """Days of ``n`` rows in two cells, the first holding a share of each day's own."""
    first = rng.binomial(n, np.clip(shares, 0, 1))
    at = np.arange(len(shares)) * 86_400_000_000 + int(START.timestamp() * 1e6)
    return Slots(at, np.column_stack([first, n - first]).astype(np.float64))


def deviation(made: Callable[[np.random.Generator], np.ndarray], days: int = 400) -> float:
    """The standard deviation that weeks of such days are said to have beyond chance, of one column alone."""
    rng = np.random.default_rng(8)
    window = Window(START + timedelta(days=days), START + timedelta(days=days + 7))
    found = noises({"x": slots(made(rng), 1000, rng)}, {"x": CUT}, window)["x"]
    return float(np.sqrt(found.variance[0]))


def follows(rng: np.random.Generator, sd: float = 0.03, rho: float = 0.8) -> np.ndarray:
    shock = np.zeros(400)
    for day in range(1, 400):
        shock[day] = rho * shock[day - 1] + rng.normal(0, sd * np.sqrt(1 - rho**2))
    return 0.5 + shock


def test_the_noise_of_weeks_is_that_of_their_days() -> None:
    # weeks of rows alone vary by sqrt(0.25 / 7000) = 0.006, which is chance and not noise
    assert deviation(lambda rng: np.full(400, 0.5)) < 0.003
    # a week of days that differ by 0.05 each by itself differs by 0.05 / sqrt(7)
    assert deviation(lambda rng: 0.5 + rng.normal(0, 0.05, 400)) == pytest.approx(0.05 / 7**0.5, rel=0.15)
    # a weekly rhythm cancels out of weeks: what is left is at most what its days would make if they came in any order
    assert deviation(lambda rng: 0.5 + 0.1 * np.sin(np.arange(400) * 2 * np.pi / 7)) < 0.1 / 2**0.5 / 7**0.5
    # days that follow each other by 0.8 add up: 0.03 * sqrt((7 + 2 * sum((7 - k) 0.8^k)) / 49) = 0.0232, though
    # weeks that are neighbours are alike too
    assert deviation(follows) == pytest.approx(0.0232, rel=0.15)


def test_shares_below_neighbouring_cuts_count_for_few() -> None:
    window = Window(START + timedelta(days=60), START + timedelta(days=67))
    reference = Reference(edges=NORMAL_CUTS, counts=tuple(counted(np.random.default_rng(1).normal(size=40_000))))
    tossed = [counted(rng.normal(size=400)) for rng in [np.random.default_rng(2)] for _ in range(60)]
    at = np.arange(60) * 86_400_000_000 + int(START.timestamp() * 1e6)
    alone = noises({"x": Slots(at, np.array(tossed))}, {"x": reference}, window)["x"].looks
    seen = weathered(60, 10, 5)
    together = noises(seen, dict.fromkeys(seen, reference), window)
    # a level that moves all cuts at once leaves little to look at twice; chance alone leaves more, never all of it
    assert all(1 < each.looks < alone < len(NORMAL_CUTS) for each in together.values())


def test_few_days_of_history_tell_nothing() -> None:
    window = Window(START + timedelta(days=27), START + timedelta(days=34))
    assert noises({"x": slots(np.full(27, 0.5), 1000, np.random.default_rng(1))}, {"x": CUT}, window) == {}


def test_columns_lend_each_other_what_they_have_in_common_but_a_wild_one_is_taken_at_its_word() -> None:
    rng = np.random.default_rng(4)
    window = Window(START + timedelta(days=60), START + timedelta(days=67))
    calm = {f"c{i}": slots(0.5 + rng.normal(0, 0.02, 60), 2000, rng) for i in range(20)}
    alone = [float(noises({n: s}, {n: CUT}, window)[n].variance[0]) for n, s in calm.items()]
    shared = noises(calm, dict.fromkeys(calm, CUT), window)
    known = [float(each.variance[0]) for each in shared.values()]
    assert np.mean(known) == pytest.approx(0.02**2 / 7, rel=0.25)
    assert np.std(known) < np.std(alone) / 2
    # what is common is known from windows: the 56 days looked at hold eight of 7 that share none, of 20 columns
    assert all(each.days == 20 * 56 // 7 for each in shared.values())
    assert all(each.looks == 1 for each in shared.values())
    wild = calm | {"w": slots(0.5 + rng.normal(0, 0.1, 60), 2000, rng)}
    found = noises(wild, dict.fromkeys(wild, CUT), window)
    assert float(found["w"].variance[0]) == pytest.approx(0.1**2 / 7, rel=0.6)
    assert float(found["c3"].variance[0]) < 0.1**2 / 7 / 3


def test_rare_categories_whose_days_vary_by_chance_alone_say_nothing_of_the_common_ones() -> None:
    rare = 12
    reference = Reference(labels=tuple(map(str, range(rare + 1))), counts=(60_000.0, *[3.0] * rare, 40_000.0))
    window = Window(START + timedelta(days=60), START + timedelta(days=67))
    at = np.arange(60) * 86_400_000_000 + int(START.timestamp() * 1e6)
    told = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        most = 0.6 + rng.normal(0, 0.02, 60)
        shares = np.column_stack([most, np.full((60, rare), 3e-5), 1 - most - rare * 3e-5])
        seen = {"x": Slots(at, np.array([rng.multinomial(1000, each) for each in shares]).astype(np.float64))}
        told.append(float(noises(seen, {"x": reference}, window)["x"].variance[0]) * 7 / 0.02**2)
    assert np.mean(told) == pytest.approx(1.0, abs=0.4)
    assert max(told) < 3  # counted alike, the rare ones made it six to 56 times what it is in 10 of these 20


def test_what_began_within_two_weeks_before_a_window_is_no_noise_of_it() -> None:
    rng = np.random.default_rng(9)
    days = 98
    window = Window(START + timedelta(days=days), START + timedelta(days=days + 7))

    def noise(since: int) -> float:
        shares = {f"c{i}": 0.5 + rng.normal(0, 0.02, days) for i in range(10)}
        shares["c0"][days - since :] += 0.2
        held = {name: slots(each, 2000, rng) for name, each in shares.items()}
        return float(noises(held, dict.fromkeys(held, CUT), window)["c0"].variance[0]) / (0.02**2 / 7)

    assert [noise(since) < 2 for since in (0, 7, 14)] == [True] * 3
    assert noise(28) > 10, "what has been for longer is of the past from which noise is learnt"


def test_weekdays_of_a_column_s_own_are_no_noise_of_weeks() -> None:
    rng = np.random.default_rng(6)
    window = Window(START + timedelta(days=63), START + timedelta(days=70))
    calm = {f"c{i}": 0.5 + rng.normal(0, 0.02, 63) for i in range(10)}
    rhythm = {f"r{i}": 0.5 + rng.normal(0, 0.02, 63) + np.tile(rng.normal(0, 0.1, 7), 9) for i in range(10)}
    held = {name: slots(shares, 2000, rng) for name, shares in (calm | rhythm).items()}
    found = {name: float(each.variance[0]) for name, each in noises(held, dict.fromkeys(held, CUT), window).items()}
    # weekdays differ five times as much as days do otherwise, yet weeks of both differ as weeks of such days
    assert np.mean([found[name] for name in calm]) == pytest.approx(0.02**2 / 7, rel=0.4)
    assert np.mean([found[name] for name in rhythm]) == pytest.approx(0.02**2 / 7, rel=0.4)
    # a business that is closed on Sundays has weekdays all the same
    opened = np.arange(63) % 7 != 6
    closed = {name: Slots(each.at[opened], each.cells[opened]) for name, each in held.items()}
    found = {n: float(each.variance[0]) for n, each in noises(closed, dict.fromkeys(closed, CUT), window).items()}
    assert np.mean([found[name] for name in rhythm]) < 0.1**2 / 7 / 4


def counted(x: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(NORMAL_CUTS, x, side="right"), minlength=20).astype(np.float64)


def weathered(days: int, columns: int, seed: int, widened: float = 1.0) -> dict[str, Slots]:
    """Columns of 400 normal values a day whose mean follows the day before; the first is widened in the last week."""
    rng = np.random.default_rng(seed)
    at = np.arange(days) * 86_400_000_000 + int(START.timestamp() * 1e6)
    found = {}
    for column in range(columns):
        level, rows = 0.0, []
        for day in range(days):
            level = 0.5 * level + rng.normal(0, 0.1)
            wide = widened if column == 0 and day >= days - 7 else 1.0
            rows.append(counted(level + wide * rng.normal(size=400)))
        found[f"c{column}"] = Slots(at, np.array(rows))
    return found


def test_weather_raises_no_alarm_and_a_tail_that_grows_does() -> None:
    reference = Reference(edges=NORMAL_CUTS, counts=tuple(counted(np.random.default_rng(1).normal(size=40_000))))
    monitor = Monitor(name="d", kind="drift", history="60d", practical=0.005)
    now = START + timedelta(days=67)
    alarms = 0
    for seed in range(10):
        seen = weathered(67, 10, seed)
        failing = [
            f for f in judge_drift(monitor, _no_rows(), dict.fromkeys(seen, reference), now, history=seen)
            if f.verdict is Verdict.FAIL
        ]  # fmt: skip
        alarms += len(failing)
    # one alarm in 30 days is tolerated; these are 10 days
    assert alarms <= 2
    seen = weathered(67, 10, 3, widened=1.5)
    found = judge_drift(monitor, _no_rows(), dict.fromkeys(seen, reference), now, history=seen)
    assert [f.measurement.detail["column"] for f in found if f.verdict is Verdict.FAIL] == ["c0"]


def _no_rows() -> object:
    import pyarrow as pa

    return pa.table(
        {
            "event_time": pa.array([], pa.timestamp("us", "UTC")),
            "version": pa.array([], pa.int32()),
            "score": pa.array([], pa.float64()),
        }
    )
