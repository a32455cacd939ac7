"""The feed monitor on the real weather of 2013, as it was and with a change of unit, and on feeds that fail plainly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.features import Source
from undrift.demo import flights as demo
from undrift.develop.bundle import Interface
from undrift.finding import Verdict
from undrift.monitor.alerts import decide
from undrift.monitor.feed import LOOK_BACK, judge_feed
from undrift.monitor.monitors import Monitor
from undrift.monitor.watch import Scene, watch

UNITS = {
    "temp": "°F",
    "dewp": "°F",
    "humid": "%",
    "wind_dir": "degrees",
    "wind_speed": "mph",
    "wind_gust": "mph",
    "precip": "inches",
    "pressure": "hPa",
    "visib": "miles",
}
SOURCE = Source(
    name="weather",
    time="observed_at",
    known="known_at",
    contract=Contract(
        name="weather",
        fields=(
            Field(name="origin", type="string"),
            Field(name="observed_at", type="timestamp"),
            Field(name="known_at", type="timestamp"),
            *(Field(name=name, type="number", nullable=True, unit=unit) for name, unit in UNITS.items()),
        ),
    ),
)
INTERFACE = Interface(
    model="flights",
    task="binary",
    contract=Contract(name="flights", fields=(Field(name="carrier", type="string"),)),
    label="late",
    classes=("0", "1"),
)
MONITORS = (Monitor(name="weather", kind="feed"),)
NOTHING = pa.table({"event_time": pa.array([], pa.timestamp("us", "UTC"))})
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def weather() -> pa.Table:
    return demo.load_weather()


def in_celsius(weather: pa.Table, start: datetime, end: datetime) -> pa.Table:
    known = weather["known_at"]
    inside = pc.and_(pc.greater_equal(known, pa.scalar(start, known.type)), pc.less(known, pa.scalar(end, known.type)))
    for name in ("temp", "dewp"):
        converted = pc.multiply(pc.subtract(weather[name], 32.0), 5 / 9)
        place = weather.column_names.index(name)
        weather = weather.set_column(place, name, pc.if_else(inside, converted, weather[name]))
    return weather


def live(weather: pa.Table, start: datetime, end: datetime) -> list[tuple[datetime, str, dict[str, Any]]]:
    """The alerts of daily ticks: (when, kind, incident)."""
    incidents: dict[str, Any] = {}
    told, now, known = [], start, weather["known_at"]
    while now <= end:
        seen = pc.and_(
            pc.less(known, pa.scalar(now, known.type)), pc.greater_equal(known, pa.scalar(now - LOOK_BACK, known.type))
        )
        scene = Scene(interface=INTERFACE, rows=NOTHING, version=1, sources={"weather": (SOURCE, weather.filter(seen))})
        for draft in decide("flights", MONITORS, incidents, watch(MONITORS, scene, incidents, now), now):
            incident = draft.payload["incident"]
            incidents[incident["fingerprint"]] = incident
            told.append((now, draft.kind, incident))
        now += DAY
    return told


def test_the_real_weather_of_nine_months_never_raises_an_alarm(weather: pa.Table) -> None:
    # stated budget: one a month; declared units leave no room for a fake
    assert live(weather, datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 12, 30, tzinfo=UTC)) == []


@pytest.mark.parametrize(
    ("month", "day", "hour"), [(4, 10, 4), (5, 7, 0), (7, 1, 13), (8, 5, 0), (10, 1, 9), (11, 4, 22)]
)
def test_fahrenheit_to_celsius_is_named_in_two_days_as_one_incident_and_ends_when_it_ends(
    weather: pa.Table, month: int, day: int, hour: int
) -> None:
    onset = datetime(2013, month, day, hour, tzinfo=UTC)
    end = onset + timedelta(days=20)
    told = live(in_celsius(weather, onset, end), onset.replace(hour=0) - 5 * DAY, end.replace(hour=0) + 10 * DAY)
    opened = [t for t in told if t[1] == "alert.opened"]
    resolved = [t for t in told if t[1] == "alert.resolved"]
    assert len(opened) == len(resolved) == 1
    incident = resolved[0][2]
    assert incident["causes"] == ["Fahrenheit to Celsius"]
    assert set(incident["columns"]) == {"temp", "dewp"}
    assert opened[0][0] - onset <= 2 * DAY
    assert abs(datetime.fromisoformat(incident["onset"]) - onset) <= timedelta(hours=3)
    assert timedelta(0) < resolved[0][0] - end <= 4 * DAY
    spoiled_from, spoiled_to = (datetime.fromisoformat(at) for at in incident["windows"][0][:2])
    assert spoiled_from <= onset + timedelta(hours=2)
    assert spoiled_to <= end + 3 * DAY


def feed(days: int, *, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n = days * 24 * 3
    hours = np.repeat(np.arange(days * 24), 3)
    return {
        "origin": np.tile(["EWR", "JFK", "LGA"], days * 24).tolist(),
        "observed_at": [datetime(2013, 5, 1, tzinfo=UTC) + timedelta(hours=int(h)) for h in hours],
        "load": np.cumsum(rng.normal(0, 1, n)) / 10 + 50 + np.sin(hours / 24 * 2 * np.pi),
    }


LOAD = Source(
    name="load",
    time="observed_at",
    contract=Contract(
        name="load",
        fields=(
            Field(name="origin", type="string"),
            Field(name="observed_at", type="timestamp"),
            Field(name="load", type="number", nullable=True),
        ),
    ),
)
END = datetime(2013, 5, 15, tzinfo=UTC)


def judged(columns: dict[str, Any]) -> list[tuple[Verdict, str]]:
    columns["observed_at"] = pa.array(columns["observed_at"], pa.timestamp("us", "UTC"))
    columns["load"] = pa.array(columns["load"], pa.float64(), from_pandas=True)
    found = judge_feed(MONITORS[0], LOAD, pa.table(columns), END)
    return [(f.verdict, str(f.measurement.detail.get("cause", ""))) for f in found]


def test_a_healthy_feed_passes_and_says_so_from_evidence() -> None:
    assert judged(feed(14)) == [(Verdict.PASS, "")]


def test_a_column_that_goes_missing_or_stands_still_is_named() -> None:
    missing, stuck = feed(14), feed(14)
    missing["load"][-72:-10] = np.nan
    stuck["load"][-72:] = 50.0
    assert judged(missing) == [(Verdict.FAIL, "load went missing")]
    assert judged(stuck) == [(Verdict.FAIL, "load stands still")]


def test_rows_that_stop_coming_are_missed() -> None:
    assert judged({name: values[:-72] for name, values in feed(14).items()})[0] == (Verdict.FAIL, "no rows arrived")
    assert judged({name: values[:-60] for name, values in feed(14).items()})[0] == (Verdict.FAIL, "rows are missing")


def test_too_short_a_past_is_inconclusive() -> None:
    columns = {name: values[-80:] for name, values in feed(14).items()}
    assert judged(columns) == [(Verdict.INCONCLUSIVE, "")]


def test_a_factor_of_a_thousand_in_a_declared_or_undeclared_unit_is_named() -> None:
    columns = feed(14)
    columns["load"][-60:] *= 1000
    assert judged(columns) == [(Verdict.FAIL, "times 10^3")]
