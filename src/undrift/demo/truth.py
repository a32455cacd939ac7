"""What was true in a run: what was served, what other versions would have answered, what came of it, what moved.

Everything here is computed from captured rows, outcomes and plain statistics, by other code than the monitors use, and
with what monitors cannot have: labels that came later, and the weeks after an alert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.demo.chronicle import Reign, champion_at
from undrift.demo.story import Story
from undrift.develop.packing import Reference
from undrift.ids import to_micros
from undrift.inference.predictor import Predictor

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Gain", "Known", "Month", "Truth"]

DAY: Final = 86_400_000_000
FEWEST: Final = 50
"""Labelled flights below which a month or a comparison says nothing."""
CONSTANT: Final = 1e-9

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Known(NamedTuple):
    """A version as its bundle holds it: what answers, and the profile of what it learnt from."""

    predictor: Predictor
    reference: Reference


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """Flights with an outcome in one month: share late, mean log loss and AUC as served and as never updated.

    AUC is NaN in a month that knows one class only. ``champion`` is the version that was champion at its end.
    """

    name: str
    n: int
    late: float
    served: float
    never: float
    served_auc: float
    never_auc: float
    champion: int


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What updates saved in log loss since a moment, mean over labelled flights, with a 95 % interval by days.

    NaN where there are fewer than three days of them.
    """

    since: str
    n: int
    value: float
    lower: float
    upper: float


class Truth:
    """The rows of a run, with what the first version would have answered to each.

    Parameters
    ----------
    story : when the servers were made to answer a constant, which would have spoiled any version.
    rows : all predictions with their outcomes, as `undrift.data.outcomes.outcomes` gives them.
    versions : all versions by number; 1 is the one that is never updated.
    """

    def __init__(self, story: Story, rows: pa.Table, versions: Mapping[int, Known]) -> None:
        import pyarrow.compute as pc

        self.story, self.versions = story, versions
        answered = rows.filter(pc.and_(pc.is_null(rows["error"]), pc.is_valid(rows["score"])))
        self.times = np.asarray(answered["event_time"].cast("int64").to_numpy(), dtype=np.int64)
        self.columns: dict[str, pa.ChunkedArray] = {}
        for part in ("inputs", "features"):
            for field in answered[part].type:
                self.columns[field.name] = pc.struct_field(answered[part], field.name)
        self.columns["score"], self.columns["label"] = answered["score"], answered["label"]
        self.y = np.array([np.nan if text is None else float(text) for text in answered["label"].to_pylist()])
        self.score = np.asarray(answered["score"].to_numpy(), dtype=np.float64)
        fault = story.constant
        self.spoilt = self.inside(fault.start, fault.end) & (np.abs(self.score - story.constant_score) < CONSTANT)
        self.loss = log_loss(self.y, self.score)
        first = self.answers(1, np.ones(len(self.y), dtype=bool))
        assert first is not None, "rows of a run hold all inputs of the first version"
        self.first = np.where(self.spoilt, self.score, first)
        self.never = log_loss(self.y, self.first)

    def inside(self, start: datetime, end: datetime) -> Bools:
        """Which rows were asked in [start, end)."""
        return np.asarray((self.times >= to_micros(start)) & (self.times < to_micros(end)))

    def asked(self, start: datetime, end: datetime) -> int:
        """How many predictions were answered in [start, end)."""
        return int(self.inside(start, end).sum())

    def inputs_of(self, version: int) -> list[str]:
        """The columns a version reads; none for one that is unknown."""
        known = self.versions.get(version)
        return [given.name for given in known.predictor.manifest.interface.inputs] if known else []

    def answers(self, version: int, rows: Bools) -> Floats | None:
        """What a version answers to the chosen rows; None for one that is unknown or reads what was not captured."""
        known, names = self.versions.get(version), self.inputs_of(version)
        if known is None or any(name not in self.columns for name in names):
            return None
        if not rows.any():
            return np.zeros(0)
        given = {name: self.columns[name].filter(_mask(rows)).to_pylist() for name in names}
        return np.asarray(known.predictor.predict(given).score, dtype=np.float64)

    def loss_of(self, version: int, start: datetime, end: datetime) -> float | None:
        """Mean log loss that a version has on all labelled rows of [start, end), whoever served them.

        None where fewer than `FEWEST` have a label, or where the version cannot answer them.
        """
        rows = self.inside(start, end) & np.isfinite(self.y)
        if int(rows.sum()) < FEWEST or (said := self.answers(version, rows)) is None:
            return None
        return float(log_loss(self.y[rows], said).mean())

    def decay(self, champion: int, start: datetime, end: datetime) -> float | None:
        """By which share the loss served in [start, end) is above what the champion was expected to have."""
        rows = self.inside(start, end) & np.isfinite(self.loss)
        known = self.versions.get(champion)
        if known is None or int(rows.sum()) < FEWEST:
            return None
        expected = float(known.predictor.manifest.trained["performance"]["losses"]["log_loss"]["value"])
        return float(self.loss[rows].mean() / expected - 1)

    def moved(self, champion: int, column: str, start: datetime, end: datetime) -> float | None:
        """How far a column's values of [start, end) are from those the champion learnt from, in [0, 1].

        Kolmogorov-Smirnov distance at the reference's own cuts for numbers, total variation for text. Rows of a
        planted fault count only if the middle of the span lies in it. None where nothing can be compared.
        """
        known = self.versions.get(champion)
        if known is None or column not in self.columns:
            return None
        reference = known.reference
        profile = reference.inputs.columns.get(column) or reference.outcomes.columns.get(column)
        rows = self.inside(start, end)
        middle = start + (end - start) / 2
        for fault in self.story.faults:
            if not fault.start < middle <= fault.end:
                rows &= ~self.inside(fault.start, fault.end)
        values = self.columns[column].filter(_mask(rows)).drop_null()
        if profile is None or not len(values) or not profile.values:
            return None
        if profile.kind == "string":
            seen = dict(zip(*np.unique(values.to_pylist(), return_counts=True), strict=True))
            names = [name for name, _ in profile.top]
            before = profile.shares(names) / profile.values
            counts = [float(seen.get(name, 0)) for name in names]
            now = np.array([*counts, len(values) - sum(counts)]) / len(values)
            return float(np.abs(before - now).sum() / 2)
        if not profile.edges:
            return None
        x = np.sort(np.asarray(values.cast("float64").to_numpy(), dtype=np.float64))
        before = np.cumsum(profile.counts)[:-1] / sum(profile.counts)
        return float(np.abs(before - np.searchsorted(x, np.asarray(profile.edges), side="left") / len(x)).max())

    def missing(self, columns: Sequence[str], day: datetime) -> float:
        """The largest share of absent values that one of the columns had in predictions of the day before ``day``."""
        rows = self.inside(day - timedelta(days=1), day)
        known = [self.columns[name].filter(_mask(rows)) for name in columns if name in self.columns]
        return max((values.null_count / len(values) for values in known if len(values)), default=0.0)

    def traffic(self, day: datetime) -> float:
        """Predictions of the day before ``day`` against the median of the 28 days before that; 1 without any."""
        days = (to_micros(day) - 1 - self.times) // DAY
        counts = np.bincount(days[(days >= 0) & (days <= 28)], minlength=29)
        before = counts[1:][counts[1:] > 0]
        return float(counts[0] / np.median(before)) if len(before) else 1.0

    def gain(self, since: datetime) -> Gain:
        """What updates saved from a moment on.

        The flights of a day share its weather, so days are the units: ratio of their sums, with the variance of a ratio
        estimator (Cochran, Sampling Techniques, 1977, eq. 6.9) and normal quantiles.
        """
        rows = (self.times >= to_micros(since)) & np.isfinite(self.loss) & np.isfinite(self.never)
        _, day = np.unique(self.times[rows] // DAY, return_inverse=True)
        sums, sizes = np.bincount(day, self.never[rows] - self.loss[rows]), np.bincount(day)
        value = half = float("nan")
        if len(sizes) >= 3:
            value = float(sums.sum() / sizes.sum())
            spread = float(np.square(sums - value * sizes).sum()) * len(sizes) / (len(sizes) - 1)
            half = 1.96 * spread**0.5 / float(sizes.sum())
        return Gain(since=f"{since:%Y-%m-%d}", n=int(rows.sum()), value=value, lower=value - half, upper=value + half)

    def months(self, reigns: Sequence[Reign]) -> tuple[Month, ...]:
        """Quality month by month, as served and as never updated; left out where outcomes are fewer than `FEWEST`."""
        stamps = self.times.astype("datetime64[us]").astype("datetime64[M]")
        found = []
        for month in np.unique(stamps):
            rows = (stamps == month) & np.isfinite(self.y)
            if int(rows.sum()) < FEWEST:
                continue
            end = (month + 1).astype("datetime64[s]").astype(datetime).replace(tzinfo=UTC)
            found.append(
                Month(
                    name=str(month),
                    n=int(rows.sum()),
                    late=float(self.y[rows].mean()),
                    served=float(self.loss[rows].mean()),
                    never=float(self.never[rows].mean()),
                    served_auc=auc(self.y[rows], self.score[rows]),
                    never_auc=auc(self.y[rows], self.first[rows]),
                    champion=champion_at(reigns, end - timedelta(microseconds=1)),
                )
            )
        return tuple(found)


def log_loss(y: Floats, p: Floats) -> Floats:
    """Minus the log of the probability given to what came; NaN where nothing is known to have come."""
    said = np.clip(np.where(y == 1, p, 1 - p), 1e-7, 1)
    return np.where(np.isfinite(y), -np.log(said), np.nan)


def auc(y: Floats, p: Floats) -> float:
    """The share of pairs of a late and a punctual flight that are in the right order, ties half; NaN without pairs.

    The rank sum of Mann and Whitney (1947).
    """
    late = y == 1
    positive, negative = int(late.sum()), int((~late).sum())
    if not positive or not negative:
        return float("nan")
    _, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[late].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _mask(rows: Bools) -> Any:
    import pyarrow as pa

    return pa.array(rows)
