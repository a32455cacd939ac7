"""What undrift found against what was true: decisions with their evidence, and quality month by month.

The truth of planted faults comes from story.py; whether an alert about drift or decay was true is computed from the raw
year and from raw outcomes, by other code than the monitors use.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from undrift.demo.story import Fault, Story
from undrift.deploy.predictor import Predictor
from undrift.develop.packing import Reference
from undrift.event import Event

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Month", "Row", "Scoreboard", "build_scoreboard"]

PRACTICAL_DRIFT: Final = 0.15
PRACTICAL_DECAY: Final = 0.05
ECHO: Final = timedelta(days=10)
"""How long after a fault's end an alert may still be about it."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table of decisions."""

    at: str
    what: str
    truth: str
    undrift: str
    delay: str
    exposed: str
    verdict: str


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """One month: flights, share late, and log loss and AUC of what was served and of the first model throughout."""

    name: str
    n: int
    late: float
    served: float
    never: float
    served_auc: float
    never_auc: float
    champion: int


class Scoreboard(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run."""

    rows: tuple[Row, ...]
    months: tuple[Month, ...]
    false_alarms: int
    budget: float
    caught: int
    planted: int
    served: float
    never: float
    gain: float
    final_served: float
    final_never: float
    predictions: int
    promoted: int
    refused: int

    @property
    def good(self) -> bool:
        """Every planted fault caught, no more false alarms than the budget, the last month better than never updated."""
        return (
            self.caught == self.planted and self.false_alarms <= self.budget and self.final_served < self.final_never
        )


def build_scoreboard(
    story: Story,
    events: Sequence[Event],
    rows: pa.Table,
    first: Predictor,
    folder: Path,
    release: str,
    spoiled: datetime | None,
    budget: float,
) -> Scoreboard:
    """Compare the log of a run with the truth.

    Parameters
    ----------
    rows : all predictions with their outcomes.
    first, folder : the first model and its bundle, for what would have been without updates.
    release : id of the colleague's rollout; ``spoiled`` since when its feed was wrong.
    budget : false alarms that the declared monitors may raise in the time of the run.
    """
    served = _Served(rows, first, folder)
    lines: list[Row] = []
    caught = 0
    for fault in story.faults:
        line, found = _fault(fault, events, served)
        lines.append(line)
        caught += found
    line, found = _release(story, events, release, spoiled)
    lines.append(line)
    caught += found
    false_alarms = 0
    for event in events:
        if event.kind != "alert.opened":
            continue
        incident = event.payload["incident"]
        if any(_about(incident, fault) for fault in story.faults) or _about_release(incident, spoiled):
            continue
        truth, true = _truth_of(incident, event.at, served, story)
        false_alarms += not true
        lines.append(
            Row(
                at=f"{event.at:%Y-%m-%d}",
                what=f"alert: {incident['monitor']}",
                truth=truth,
                undrift=_short(event.why),
                delay="",
                exposed="",
                verdict="true" if true else "FALSE ALARM",
            )
        )
    promoted, refused = 0, 0
    for event in events:
        line_or_none = _decision(event, release)
        if line_or_none is not None:
            lines.append(line_or_none)
        promoted += event.kind == "rollout.succeeded"
        refused += event.kind == "retrain.refused" or (
            event.kind == "retrain.finished" and not event.payload.get("accepted")
        )
    months = served.months(events)
    whole = np.isfinite(served.loss)
    last = months[-1] if months else None
    return Scoreboard(
        rows=tuple(sorted(lines, key=lambda line: (line.at, line.what))),
        months=months,
        false_alarms=false_alarms,
        budget=budget,
        caught=caught,
        planted=len(story.faults) + 1,
        served=float(served.loss[whole].mean()),
        never=float(served.never[whole].mean()),
        gain=float((served.never - served.loss)[whole].mean()),
        final_served=last.served if last else float("nan"),
        final_never=last.never if last else float("nan"),
        predictions=rows.num_rows,
        promoted=promoted,
        refused=refused,
    )


# -- planted faults -------------------------------------------------------------------------------------------------


def _about(incident: dict[str, Any], fault: Fault) -> bool:
    opened = datetime.fromisoformat(incident["opened_at"])
    return incident["kind"] == fault.kind and fault.start <= opened <= fault.end + ECHO


def _about_release(incident: dict[str, Any], spoiled: datetime | None) -> bool:
    return incident["source"] == "carrier_delays" and spoiled is not None


def _fault(fault: Fault, events: Sequence[Event], served: _Served) -> tuple[Row, bool]:
    for event in events:
        if event.kind != "alert.opened" or not _about(event.payload["incident"], fault):
            continue
        exposed = served.between(fault.start, event.at)
        named = any(word.lower() in event.why.lower() for word in fault.names)
        return Row(
            at=f"{fault.start:%Y-%m-%d}",
            what="planted fault",
            truth=f"{fault.title}, until {fault.end:%Y-%m-%d}",
            undrift=f"alert: {_short(event.why)}",
            delay=_days(event.at - fault.start),
            exposed=f"{exposed:,}",
            verdict="caught" if named else "caught, cause not named",
        ), named
    return Row(
        at=f"{fault.start:%Y-%m-%d}",
        what="planted fault",
        truth=fault.title,
        undrift="nothing",
        delay="",
        exposed=f"{served.between(fault.start, fault.end):,}",
        verdict="MISSED",
    ), False


def _release(story: Story, events: Sequence[Event], release: str, spoiled: datetime | None) -> tuple[Row, bool]:
    truth = f"a candidate that passed the gate is wrong online for {story.carrier}"
    ended = [e for e in events if e.subject == f"rollout:{release}" and e.kind in ("rollout.rolled_back", "rollout.succeeded")]
    at = f"{spoiled or story.release:%Y-%m-%d}"
    if not ended or ended[0].kind == "rollout.succeeded" or spoiled is None:
        seen = ended[0].kind if ended else "no decision"
        return Row(at=at, what="planted fault", truth=truth, undrift=seen, delay="", exposed="", verdict="MISSED"), False
    event = ended[0]
    state = event.payload["state"]
    return Row(
        at=at,
        what="planted fault",
        truth=truth,
        undrift=f"rolled back at {_last_weight(state):g} %: {_short(event.why)}",
        delay=_days(event.at - spoiled),
        exposed=f"{state['exposed_units']:,}",
        verdict="caught",
    ), True


def _last_weight(state: dict[str, Any]) -> float:
    weights = [span[0] if isinstance(span, list) else span["weight"] for span in state["spans"]]
    return float(weights[-2] if len(weights) > 1 else weights[-1])


# -- other decisions --------------------------------------------------------------------------------------------------


def _decision(event: Event, release: str) -> Row | None:
    if event.subject == f"rollout:{release}":
        return None
    names = {
        "retrain.refused": "retrain refused",
        "retrain.finished": "retrain",
        "rollout.succeeded": "rollout won",
        "rollout.rolled_back": "rolled back",
    }
    if event.kind not in names:
        return None
    exposed = event.payload.get("state", {}).get("exposed_units", "")
    return Row(
        at=f"{event.at:%Y-%m-%d}",
        what=names[event.kind],
        truth="",
        undrift=_short(event.why),
        delay="",
        exposed=f"{exposed:,}" if isinstance(exposed, int) else "",
        verdict="",
    )


def _truth_of(incident: dict[str, Any], at: datetime, served: _Served, story: Story) -> tuple[str, bool]:
    """Whether an alert that is about no planted fault is true, from the raw outcomes and inputs."""
    if incident["kind"] == "performance":
        change = served.decay(at - timedelta(days=14), at)
        return f"loss of the last 14 days {change:+.0%} against the weeks of training", change > PRACTICAL_DECAY
    if incident["kind"] == "drift":
        sizes = {column: served.moved(column, at - timedelta(days=7), at) for column in incident["columns"]}
        worst = min(sizes.values(), default=0.0)
        told = ", ".join(f"{column} {size:.2f}" for column, size in sorted(sizes.items(), key=lambda kv: -kv[1])[:4])
        return f"distance to training: {told}", worst > PRACTICAL_DRIFT
    return "nothing was planted", False


def _days(span: timedelta) -> str:
    return f"{span.total_seconds() / 86400:.0f} d"


def _short(text: str, most: int = 150) -> str:
    first = text.splitlines()[0] if text else ""
    return first if len(first) <= most else first[: most - 1] + "…"


class _Served:
    """What was served, what the first model would have answered, and what came of it."""

    def __init__(self, rows: pa.Table, first: Predictor, folder: Path) -> None:
        import pyarrow.compute as pc

        answered = rows.filter(pc.and_(pc.is_null(rows["error"]), pc.is_valid(rows["score"])))
        self.times = answered["event_time"].cast("int64").to_numpy()
        self.version = answered["version"].to_numpy()
        names = [given.name for given in first.manifest.interface.inputs]
        columns: dict[str, Any] = {}
        for part in ("inputs", "features"):
            for field in answered[part].type:
                columns[field.name] = pc.struct_field(answered[part], field.name)
        self.columns = columns
        again = first.predict({name: columns[name].to_pylist() for name in names})
        label = answered["label"].to_pylist()
        self.y = np.array([np.nan if text is None else float(text) for text in label])
        self.score = answered["score"].to_numpy()
        self.first = np.asarray(again.score, dtype=np.float64)
        constant = self._constant_days()
        self.first = np.where(constant, self.score, self.first)  # a server that answers a constant would spoil it too
        self.loss, self.never = _log_loss(self.y, self.score), _log_loss(self.y, self.first)
        expected = first.manifest.trained["performance"]["losses"]["log_loss"]["value"]
        self.expected = float(expected)
        self.profiles = dict(Reference.read(folder).inputs.columns)

    def _constant_days(self) -> Any:
        days = self.times // 86_400_000_000
        out = np.zeros(len(days), dtype=bool)
        for day in np.unique(days):
            here = days == day
            if here.sum() > 20 and np.ptp(self.score[here]) < 1e-9:
                out |= here
        return out

    def _inside(self, start: datetime, end: datetime) -> Any:
        low, high = start.timestamp() * 1e6, end.timestamp() * 1e6
        return (self.times >= low) & (self.times < high)

    def between(self, start: datetime, end: datetime) -> int:
        return int(self._inside(start, end).sum())

    def decay(self, start: datetime, end: datetime) -> float:
        here = self._inside(start, end) & np.isfinite(self.loss)
        return float(self.loss[here].mean() / self.expected - 1) if here.any() else 0.0

    def moved(self, column: str, start: datetime, end: datetime) -> float:
        """Kolmogorov-Smirnov distance (numbers) or total variation (text) to the profile of the first model."""
        here = self._inside(start, end)
        profile = self.profiles.get(column)
        if profile is None or column not in self.columns:
            return 1.0 if column == "score" else 0.0
        values = self.columns[column].filter(here)
        if profile.kind == "string":
            names = [name for name, _ in profile.top]
            total = max(profile.values, 1)
            shares = np.array([count / total for _, count in profile.top])
            seen = values.to_pylist()
            now = np.array([seen.count(name) / max(len(seen), 1) for name in names])
            return float(np.abs(shares - now).sum() / 2)
        x = np.asarray(values.cast("float64").drop_null().to_numpy(), dtype=float)
        edges = np.array(profile.edges)
        if not len(x) or not len(edges):
            return 0.0
        reference = np.cumsum(profile.counts)[:-1] / max(sum(profile.counts), 1)
        now = np.searchsorted(np.sort(x), edges, side="left") / len(x)
        return float(np.abs(reference - now).max())

    def months(self, events: Sequence[Event]) -> tuple[Month, ...]:
        from sklearn.metrics import roc_auc_score

        champions = [(e.at, e.payload["state"]["candidate_version"]) for e in events if e.kind == "rollout.succeeded"]
        found = []
        stamps = self.times.astype("datetime64[us]").astype("datetime64[M]")
        for month in np.unique(stamps):
            here = (stamps == month) & np.isfinite(self.y)
            if here.sum() < 50:
                continue
            end = (month + 1).astype("datetime64[s]").astype(datetime)
            live = [version for at, version in champions if at.replace(tzinfo=None) < end]
            found.append(
                Month(
                    name=str(month),
                    n=int(here.sum()),
                    late=float(self.y[here].mean()),
                    served=float(self.loss[here].mean()),
                    never=float(self.never[here].mean()),
                    served_auc=float(roc_auc_score(self.y[here], self.score[here])),
                    never_auc=float(roc_auc_score(self.y[here], self.first[here])),
                    champion=live[-1] if live else 1,
                )
            )
        return tuple(found)


def _log_loss(y: Any, p: Any) -> Any:
    q = np.clip(np.where(y == 1, p, 1 - p), 1e-7, 1)
    return np.where(np.isfinite(y), -np.log(q), np.nan)

