"""The demo's project as files, and the days the world will play, made from the rows of flights.py and the story."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from undrift.data.inspect import infer
from undrift.demo import flights
from undrift.demo.story import DAY, Story, celsius
from undrift.demo.world import Day, split_days
from undrift.ids import to_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "REQUEST",
    "Material",
    "arrival_reports",
    "load_material",
    "mean_delays",
    "write_declarations",
    "write_project",
]

REQUEST: Final = ("flight_id", "carrier", "origin", "dest", "distance", "scheduled_departure", "prediction_time")
REPORTS: Final = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "visib")

DELAY_HOURS: Final = 6

EXTRA_SOURCE: Final = """
carrier_delays = ud.Source(
    name="carrier_delays",
    time="known_at",
    contract=ud.Contract(
        name="carrier_delays",
        fields=(
            ud.Field(name="carrier", type="string"),
            ud.Field(name="mean_delay", type="number", nullable=True, unit="minute"),
            ud.Field(name="known_at", type="timestamp"),
        ),
    ),
)
carrier_delay = ud.FeatureView(
    name="carrier_delay",
    source="carrier_delays",
    entity="carrier",
    features=(ud.Feature(name="mean_delay"),),
    ttl="3h",
)
"""


class Material:
    """The year's tables and its days, with the faults of fixed date already in them.

    Parameters
    ----------
    story : which flights are kept, which faults act when.
    """

    def __init__(self, story: Story) -> None:
        import pyarrow.compute as pc

        self.story = story
        everything = flights.load_flights()
        self.arrivals = arrival_reports(everything)
        self.weather = flights.load_weather().select(["origin", "observed_at", "known_at", *REPORTS])
        self.delays = mean_delays(everything)
        self.truth = everything
        asked = everything.filter(pc.less(everything["prediction_time"], story.end))
        self._asked = split_days(asked.select(list(REQUEST)), "prediction_time", story.start, story.end)
        told = _outcomes(asked)
        self._told = split_days(told, "event_time", story.start, story.end + 3 * DAY)
        self._weather = split_days(self.weather, "known_at", story.start, story.end)
        self._arrived = split_days(self.arrivals, "known_at", story.start, story.end)
        self._delays = split_days(self.delays, "known_at", story.start, story.end)

    def day(self, start: datetime, *, delays: bool) -> Day:
        """What the world sends on one day.

        Parameters
        ----------
        delays : the colleague's feed of mean delays is live.
        """
        story = self.story
        weather = self._weather[start]
        if story.celsius.start <= start < story.celsius.end:
            weather = [celsius(row) for row in weather]
        reports = {"weather": weather, "arrivals": self._arrived[start]}
        if delays:
            reports["carrier_delays"] = self._delays[start]
        return Day(start, self._asked[start], self._told[start], reports)


def load_material(story: Story) -> Material:
    """Everything the story needs, read once."""
    return Material(story)


def arrival_reports(everything: pa.Table) -> pa.Table:
    """Arrivals as they are reported: carrier, origin, whether late (0 or 1), and when that became known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = flights.arrivals(everything)
    late = pc.cast(table["late"], pa.float64())
    return pa.table(
        {"carrier": table["carrier"], "origin": table["origin"], "late": late, "known_at": table["landed_at"]}
    )


def _outcomes(asked: pa.Table) -> pa.Table:
    """Labels as the airlines tell them: when the flight has landed; never for those that did not arrive."""
    import pyarrow as pa
    import pyarrow.compute as pc

    landed = asked.filter(pc.is_valid(asked["landed_at"]))
    return pa.table(
        {
            "id": landed["flight_id"],
            "label": pc.cast(pc.cast(landed["late"], pa.int64()), pa.string()),
            "event_time": landed["landed_at"],
        }
    )


def mean_delays(everything: pa.Table) -> pa.Table:
    """Mean arrival delay in minutes of each carrier's flights landed in the last `DELAY_HOURS`, published every hour.

    ``known_at`` is half past the hour; null while a carrier has landed nothing in that time.
    """
    import numpy as np
    import pyarrow as pa

    hour = 3_600_000_000
    landed = flights.arrivals(everything)
    hours = landed["landed_at"].cast(pa.int64()).to_numpy() // hour
    first, size = int(hours.min()), int(hours.max() - hours.min()) + 2
    carriers = np.asarray(landed["carrier"].to_pylist())
    delays = landed["arr_delay"].to_numpy()
    names, values, known = [], [], []
    published = (first + np.arange(DELAY_HOURS, size)) * hour + hour // 2
    for carrier in np.unique(carriers):
        mine = carriers == carrier
        at = hours[mine] - first
        total = np.concatenate([[0.0], np.cumsum(np.bincount(at, delays[mine], size))])
        n = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=size))])
        ends = np.arange(DELAY_HOURS, size)
        seen = n[ends] - n[ends - DELAY_HOURS]
        mean = (total[ends] - total[ends - DELAY_HOURS]) / np.maximum(seen, 1)
        names.append(np.full(len(ends), carrier))
        values.append(np.where(seen > 0, mean, np.nan))
        known.append(published)
    means = pa.array(np.concatenate(values), pa.float64(), from_pandas=True)
    times = pa.array(np.concatenate(known), pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pa.table({"carrier": np.concatenate(names).tolist(), "mean_delay": means, "known_at": times})


def _template(name: str) -> str:
    return (files("undrift.demo") / "templates" / f"{name}.tmpl").read_text(encoding="utf-8")


def write_project(folder: Path, story: Story, *, port: int, seed: int = 1) -> str:
    """Write the project's files, with the contract inferred from the flights before the start; returns its text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("features.py", "train.py", "history.py"):
        (folder / name).write_text(_template(name), encoding="utf-8")
    settings = _template("undrift.toml").replace("{port}", str(port))
    (folder / "undrift.toml").write_text(settings, encoding="utf-8")
    write_declarations(folder, story, seed=seed)
    table = flights.load_flights()
    import pyarrow.compute as pc

    first = table.filter(pc.less(table["prediction_time"], story.start)).select(list(REQUEST))
    contract = infer(
        first, "flights", context=("flight_id", "scheduled_departure", "prediction_time"), max_categories=150
    )
    text = contract.to_odcs()
    (folder / "contract.yaml").write_text(text, encoding="utf-8")
    return text


def write_declarations(folder: Path, story: Story, *, seed: int = 1, extra: datetime | None = None) -> None:
    """Write declarations.py: as it should be, or as the colleague changes it for a release at ``extra``."""
    fill = {
        "{extra_source}": EXTRA_SOURCE if extra else "",
        "{extra_history}": ', "carrier_delays": "history:carrier_delays"' if extra else "",
        "{extra_view}": ", carrier_delay" if extra else "",
        "{seed}": str(seed),
        "{training}": "training_for_release" if extra else "training",
    }
    text = _template("declarations.py")
    for mark, value in fill.items():
        text = text.replace(mark, value)
    (folder / "declarations.py").write_text(text, encoding="utf-8")
    until = to_micros(extra or story.start)
    (folder / "released.py").write_text(
        f'"""When we went live, and until when the data of this release reach; microseconds since 1970 UTC."""\n\n'
        f"LIVE = {to_micros(story.start)}\nUNTIL = {until}\nEVERY = {story.learns_from}\n",
        encoding="utf-8",
    )
