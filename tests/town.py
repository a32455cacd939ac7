"""A town whose truth is known, and the folder of a small project that predicts its late rides.

A ride is late more often when it is long, when it rains in its zone (view `rain`, direct) and where rides were late of
late (view `record`, aggregated); a little more at weekends (transform `calendar`). `quote` is a column that tells the
answer in the training data and, if the town is told so, nothing once the service is live: what a leak does.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

DAY = timedelta(days=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
TRAINED_DAYS = 25
LIVE = START + TRAINED_DAYS * DAY
PER_DAY = 160
ZONES = ("a", "b", "c")
LANDED = timedelta(hours=3)
"""From a ride's order to the moment its outcome is known."""

SETTINGS = """
[project]
name = "town"

[time]
mode = "event"
tick = "1d"

[serve]
port = 0
workers = 2
poll_seconds = 0.02
wrapper = "undrift.testing:FaultyPredictor"

[work]
poll_seconds = 0.02
linger_seconds = 0.001
lease_seconds = 3.0
"""

DECLARATIONS = """
import undrift as ud

weather = ud.Source(
    name="weather",
    time="seen_at",
    contract=ud.Contract(
        name="weather",
        fields=(
            ud.Field(name="zone", type="string"),
            ud.Field(name="seen_at", type="timestamp"),
            ud.Field(name="rain", type="number", nullable=True),
        ),
    ),
)
arrivals = ud.Source(
    name="arrivals",
    time="at",
    known="known_at",
    contract=ud.Contract(
        name="arrivals",
        fields=(
            ud.Field(name="zone", type="string"),
            ud.Field(name="at", type="timestamp"),
            ud.Field(name="known_at", type="timestamp"),
            ud.Field(name="late", type="number", minimum=0, maximum=1),
        ),
    ),
)
histories = {{"weather": "weather.parquet", "arrivals": "arrivals.parquet"}}

rain = ud.FeatureView(
    name="rain", source="weather", entity="zone", features=(ud.Feature(name="rain"),), ttl="12h"
)
record = ud.FeatureView(
    name="record",
    source="arrivals",
    entity="zone",
    aggregates=(ud.Aggregate(name="late_3d", function="mean", column="late", window="3d"),),
    hop="1d",
    ttl="2d",
)
calendar = ud.Transform(
    name="calendar", function="calendar_of:of", inputs=("at",), outputs=(ud.Feature(name="weekend"),)
)

model = ud.Model(
    name="rides",
    task="binary",
    label="late",
    classes=("0", "1"),
    contract=ud.Contract(
        name="rides",
        fields=(
            ud.Field(name="ride", type="string", role="context"),
            ud.Field(name="at", type="timestamp", role="context"),
            ud.Field(name="zone", type="string", role="context", categories=("a", "b", "c")),
            ud.Field(name="distance", type="number", minimum=0, maximum=10, on_violation="reject"),
            ud.Field(name="quote", type="number", nullable=True),
        ),
    ),
    key="ride",
    unit="ride",
    time="at",
    views=(rain, record),
    transforms=(calendar,),
    segments=("zone",),
    maturity="6h",
    folds=0,
    holdout=0.3,
    data="rides.parquet",
    train="train:{train}",
    baseline="train:mean",
    gate=ud.Gate({gate}),
    rollout=ud.Rollout({rollout}),
    monitors=({monitors}),
    retrain={retrain},
    owner="operations",
)
"""

PARTS = {
    "train": "narrow",
    "gate": "segment_minimum=100, segment_margin=0.1",
    "rollout": "shadow=ud.Stage(hold='1d', minimum_units=100), steps=(40, 70, 100), hold='1d', minimum_units=20,"
    " guardrails=(ud.Guardrail(metric='brier', margin=0.03, segment_margin=0.1),"
    " ud.Guardrail(metric='failed', margin=0.05)), maximum='14d', on_timeout='roll_back'",
    "monitors": "ud.Monitor(name='answers', kind='silent'),"
    " ud.Monitor(name='quality', kind='performance', window='5d', persistence=(1, 2)),",
    "retrain": "ud.Retrain(window='60d', fresh='7d', minimum_rows=500, cooldown='5d')",
}

TRAIN = """
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def of_columns(data, *names):
    places = [data.inputs.index(name) for name in names]
    chosen = ColumnTransformer([("chosen", make_pipeline(SimpleImputer(), StandardScaler()), places)])
    return make_pipeline(chosen, LogisticRegression()).fit(data.X, data.y)


def mean(data):
    return DummyClassifier(strategy="prior").fit(data.X, data.y)


def narrow(data):
    return of_columns(data, "distance")


def wide(data):
    return of_columns(data, "distance", "rain", "late_3d", "weekend")


def leaky(data):
    return of_columns(data, "distance", "quote")


def by_chance(data):
    return of_columns(data, "weekend")


def raising(data):
    raise ValueError("no convergence")
"""

CALENDAR = "def of(row):\n    return {'weekend': float(row['at'].weekday() >= 5)}\n"


class Day(NamedTuple):
    """What happens on one day, in the shape that requests have; times as ISO text."""

    start: datetime
    rides: list[dict[str, Any]]
    weather: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    arrivals: list[dict[str, Any]]


class Town:
    """Rides from START on, the same for the same seed.

    Parameters
    ----------
    leak_until : from then on `quote` is noise with the spread it always had.
    turned_at : from then on long rides are early ones: the effect of the distance is reversed.
    """

    def __init__(
        self, days: int, *, per_day: int = PER_DAY, seed: int = 1, leak_until: datetime = LIVE,
        turned_at: datetime | None = None,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        n = days * per_day
        self.start, self.per_day, self.days = START, per_day, days
        step = DAY / per_day
        self.at = [START + step * (i + 0.5) for i in range(n)]
        self.zone = rng.integers(0, 3, n)
        self.distance = rng.uniform(0, 10, n)
        quarter = np.array([(at - START) // (DAY / 4) for at in self.at])
        self.rain = (rng.random((days * 4, 3)) < 0.4).astype(float)
        weekend = np.array([at.weekday() >= 5 for at in self.at])
        turned = np.array([turned_at is not None and at >= turned_at for at in self.at])
        slope = np.where(turned, -0.45, 0.45)
        logit = -1.0 + slope * (self.distance - 5) + 1.8 * self.rain[quarter, self.zone] + 0.5 * weekend
        logit += np.array([-0.6, 0.0, 0.7])[self.zone]
        self.late = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
        told = np.where([at < leak_until for at in self.at], self.late, rng.permutation(self.late))
        self.quote = 2.0 * told + rng.normal(0, 0.8, n)

    def tables(self, days: int) -> dict[str, pa.Table]:
        """The first days as training data and histories of the sources."""
        n = days * self.per_day
        utc = pa.timestamp("us", "UTC")
        zone = [ZONES[z] for z in self.zone[:n]]
        at = pa.array(self.at[:n], utc)
        known = pa.array([t + LANDED for t in self.at[:n]], utc)
        keep = pa.array([t + LANDED < START + days * DAY for t in self.at[:n]])
        rides = pa.table(
            {
                "ride": [f"r{i:06d}" for i in range(n)], "at": at, "zone": zone, "distance": self.distance[:n],
                "quote": self.quote[:n], "late": pa.array(self.late[:n]),
            }
        )  # fmt: skip
        arrivals = pa.table({"zone": zone, "at": at, "known_at": known, "late": self.late[:n].astype(float)})
        weather = [row for day in range(days) for row in self.reports(day)]
        seen = pa.array([datetime.fromisoformat(row["seen_at"]) for row in weather], utc)
        reports = pa.table(
            {"zone": [r["zone"] for r in weather], "seen_at": seen, "rain": [r["rain"] for r in weather]}
        )
        return {"rides": rides, "arrivals": arrivals.filter(keep), "weather": reports}

    def reports(self, day: int) -> list[dict[str, Any]]:
        """The weather of one day, four times, in each zone."""
        return [
            {"zone": zone, "seen_at": (START + quarter * DAY / 4).isoformat(), "rain": float(self.rain[quarter, z])}
            for quarter in range(4 * day, 4 * day + 4)
            for z, zone in enumerate(ZONES)
        ]

    def day(self, start: datetime) -> Day:
        """One day of traffic; outcomes are those that become known on it."""
        number = (start - START) // DAY
        first = number * self.per_day
        rides = [self._ride(i) for i in range(first, first + self.per_day)]
        known = [i for i in range(max(first - self.per_day, 0), first + self.per_day) if self._lands(i, start)]
        outcomes = [
            {"id": f"r{i:06d}", "label": str(self.late[i]), "event_time": (self.at[i] + LANDED).isoformat()}
            for i in known
            if self.at[i] >= LIVE  # the others were part of the training data
        ]
        arrivals = [
            {
                "zone": ZONES[self.zone[i]], "at": self.at[i].isoformat(),
                "known_at": (self.at[i] + LANDED).isoformat(), "late": float(self.late[i]),
            }
            for i in known
        ]  # fmt: skip
        return Day(start, rides, self.reports(number), outcomes, arrivals)

    def _lands(self, i: int, start: datetime) -> bool:
        return start <= self.at[i] + LANDED < start + DAY

    def _ride(self, i: int) -> dict[str, Any]:
        return {
            "ride": f"r{i:06d}", "at": self.at[i].isoformat(), "zone": ZONES[self.zone[i]],
            "distance": float(self.distance[i]), "quote": float(self.quote[i]),
        }  # fmt: skip


def write_declarations(folder: Path, **parts: str) -> None:
    """The declarations of the project, with some parts as given instead of those in PARTS."""
    (folder / "declarations.py").write_text(DECLARATIONS.format(**{**PARTS, **parts}))


def write_project(folder: Path, town: Town, **parts: str) -> Path:
    """A project folder as a user would have it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "undrift.toml").write_text(SETTINGS)
    (folder / "train.py").write_text(TRAIN)
    (folder / "calendar_of.py").write_text(CALENDAR)
    for name, table in town.tables(TRAINED_DAYS).items():
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet")
    write_declarations(folder, **parts)
    return folder
