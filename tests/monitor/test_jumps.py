"""Common jumps of series: what is a change of unit, what is weather, and when it is over."""

from __future__ import annotations

import numpy as np

from undrift.monitor.jumps import Series, conversions_from, find_jump, is_over, series_of

HOUR = 3_600_000_000


def walk(hours: int, *, start: int = 0, keys: int = 3, seed: int = 0) -> Series:
    """Three stations whose temperature wanders by a degree an hour around a daily wave, in Fahrenheit."""
    rng = np.random.default_rng(seed)
    t = np.arange(start, start + hours)
    common = np.cumsum(rng.normal(0, 0.6, hours))
    values = [60 + 8 * np.sin(t / 24 * 2 * np.pi) + common + rng.normal(0, 0.7, hours) for _ in range(keys)]
    return series_of(np.repeat(np.arange(keys), hours), np.tile(t, keys) * HOUR, np.concatenate(values))


def cut(series: Series, start: int, end: int, convert: bool = False) -> Series:
    held = (series.time >= start * HOUR) & (series.time < end * HOUR)
    values = series.value[held]
    return Series(series.key[held], series.time[held], (values - 32) * 5 / 9 if convert else values)


def test_a_jump_of_all_stations_by_a_conversion_is_named() -> None:
    whole = walk(240)
    jump = find_jump("temp", cut(whole, 0, 192), cut(whole, 192, 240, convert=True))
    assert jump is not None
    assert (jump.conversion, jump.at) == ("Fahrenheit to Celsius", 192 * HOUR)
    assert jump.size > 3


def test_weather_is_no_change_of_unit() -> None:
    for seed in range(20):
        whole = walk(240, seed=seed)
        assert find_jump("temp", cut(whole, 0, 192), cut(whole, 192, 240)) is None


def test_one_station_alone_is_no_change_of_unit() -> None:
    whole = walk(240)
    recent = cut(whole, 192, 240)
    values = np.where(recent.key == 0, (recent.value - 32) * 5 / 9, recent.value)
    assert find_jump("temp", cut(whole, 0, 192), Series(recent.key, recent.time, values)) is None


def test_a_front_that_no_conversion_explains_is_not_named() -> None:
    whole = walk(240)
    recent = cut(whole, 192, 240)
    dropped = Series(recent.key, recent.time, recent.value - 15)
    assert find_jump("temp", cut(whole, 0, 192), dropped, unit="F") is None


def test_the_end_is_seen_by_the_jump_back_and_by_the_values() -> None:
    whole = walk(480, seed=3)
    healthy, since = cut(whole, 0, 168), cut(whole, 168, 432, convert=True)
    assert is_over("Fahrenheit to Celsius", healthy, since, cut(whole, 432, 480))
    assert not is_over("Fahrenheit to Celsius", healthy, since, cut(whole, 432, 480, convert=True))
    # the jump back fell into a gap: what remains is that the values are like those before
    assert is_over("Fahrenheit to Celsius", healthy, cut(whole, 168, 400, convert=True), cut(whole, 432, 480))


def test_a_declared_unit_limits_what_it_can_have_become() -> None:
    names = set(conversions_from("°F"))
    assert names == set(conversions_from("degree Fahrenheit")) == set(conversions_from("degrees fahrenheit"))
    assert {"Fahrenheit to Celsius", "Fahrenheit to Kelvin", "times 10^3", "sign flip"} <= names
    assert "miles to kilometres" not in names
    assert "Celsius to Fahrenheit" not in names
    assert "miles to kilometres" in conversions_from("")


def test_too_little_is_no_evidence() -> None:
    empty = series_of(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    assert find_jump("temp", empty, walk(48)) is None
    assert find_jump("temp", walk(48), empty) is None
