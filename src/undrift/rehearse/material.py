"""What a rehearsal is played with: the project's own captured rows with their outcomes, else its training data.

Rows are kept whole, with the features they had at their time, and drawn at random for each day of the rehearsal; so the
days have no seasons, and what is found in the control run is a false alarm. Where a running system has to look features
up, days are played as they were instead: the rows and the reports of sources of each day together, at their own times.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from undrift.assembly import read_table, with_features
from undrift.candidates import keeping
from undrift.data.outcomes import outcomes
from undrift.declarations import Model
from undrift.develop.performance import label_text
from undrift.errors import DataError, SettingsError
from undrift.finding import Window
from undrift.ids import to_micros
from undrift.monitor.alerts import spoiled_windows
from undrift.monitor.frames import micros
from undrift.project import Project
from undrift.rehearse.row import Row
from undrift.rehearse.scratch import DAY, START

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Material", "gather", "gather_days"]

CAPTURED: Final = timedelta(days=60)
FEWEST_CAPTURED: Final = 2000
FEWEST: Final = 100
MOST: Final = 12_000
MOST_AS_WAS: Final = 100_000
SOURCE_DAYS: Final = 60


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """Rows to draw from, where they come from, and per source its latest rows in their order.

    ``start``: when the days of the rehearsal begin. ``as_was``: rows and sources are of these very days, and sources
    reach back before them for as long as features look.
    """

    rows: list[Row]
    origin: str
    sources: dict[str, list[dict[str, Any]]]
    start: datetime = START
    as_was: bool = False


def gather(project: Project, model: Model, seed: int) -> Material:
    """The material of a project.

    Raises
    ------
    DataError : there are fewer than 100 labelled rows.
    """
    rng = np.random.default_rng(seed)
    rows = _captured(project, model, rng)
    origin = f"{len(rows):,} captured rows with outcomes"
    if not rows and model.data:
        rows = _trained(project, model, rng)
        origin = f"{len(rows):,} rows of the training data"
    if len(rows) < FEWEST:
        raise DataError(
            f"{model.name}: {len(rows)} labelled rows are too few to rehearse with; {FEWEST} are needed.",
            hint="Serve traffic and send its labels, or declare `data`.",
        )
    return Material(rows=rows, origin=origin, sources=_sources(project, model))


def gather_days(project: Project, model: Model, days: int, seed: int) -> Material:
    """The newest days of a project as they were, for a model that looks features up.

    Raises
    ------
    SettingsError : there are not as many days in a row of labelled rows, with their sources, and sources before them.
    """
    rng = np.random.default_rng(seed)
    span, lead = timedelta(days=days), _reach(model)
    known = project.known_sources()
    sources = _sources(project, model, span + lead + CAPTURED)
    lost = next((view.source for view in model.views if view.source not in sources), "")
    for origin in ("captured rows", "rows of the training data") if not lost else ():
        first = max(told[0][known[name].known_at] for name, told in sources.items())
        last = min(told[-1][known[name].known_at] for name, told in sources.items())
        if origin == "captured rows":
            rows = _captured(project, model, rng, back=span + CAPTURED, most=MOST_AS_WAS)
        else:
            since = last - span - CAPTURED
            rows = _trained(project, model, rng, most=MOST_AS_WAS, since=since) if model.data else []
        spoiled = spoiled_windows(project.journal.items("incident"), model.name, project.now().now())
        start = _newest(rows, days, (first, last), lead, spoiled)
        if start is not None:
            end = start + span
            held = sorted((row for row in rows if start <= _at(row) < end), key=_at)
            text = f"{len(held):,} {origin}, {days} days from {start:%Y-%m-%d} on as they were"
            told = {
                name: [row for row in rows_of if start - lead - DAY <= row[known[name].known_at] < end]
                for name, rows_of in sources.items()
            }
            return Material(rows=held, origin=text, sources=told, start=start, as_was=True)
    lacking = f"nothing is known of its source {lost}" if lost else "there are no such days"
    raise SettingsError(
        f"{model.name} looks features up, so --live plays days as they were: it needs {days} days in a row with "
        f"labelled rows and no known fault, and {lead.days} more of its sources before them; {lacking}.",
        hint="Ask for fewer days (--quiet-days, --days), or leave --live out.",
    )


def _newest(
    rows: list[Row], days: int, told: tuple[datetime, datetime], lead: timedelta, spoiled: Iterable[Window]
) -> datetime | None:
    """When the newest days in a row begin that all have rows, and that no fault touches, nor the days before them.

    Parameters
    ----------
    told : from when to when all sources tell. lead : how far back before the days they have to.
    spoiled : windows of known faults.
    """
    with_rows = {_day(_at(row)) for row in rows}
    faults = list(spoiled)
    for day in sorted(with_rows, reverse=True):
        start, end = day - (days - 1) * DAY, day + DAY
        if end > told[1] or start - lead <= told[0] - DAY:
            continue
        if any(fault.start < end and fault.end > start - lead for fault in faults):
            continue
        if all(start + k * DAY in with_rows for k in range(days)):
            return start
    return None


def _at(row: Row) -> datetime:
    return START if row.at is None else row.at


def _day(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _reach(model: Model) -> timedelta:
    """How far back the features of views look, in whole days."""
    micros = [view.ttl_micros for view in model.views]
    micros += [view.ttl_micros + a.window_micros for view in model.views for a in view.aggregates]
    return timedelta(days=-(-max(micros, default=0) // (DAY // timedelta(microseconds=1))))


def _captured(
    project: Project, model: Model, rng: np.random.Generator, *, back: timedelta = CAPTURED, most: int = MOST
) -> list[Row]:
    import pyarrow.compute as pc

    now = project.now().now()
    table = outcomes(project.lake, model.name, now - back, now, now)
    if not table.num_rows or "inputs" not in table.column_names:
        return []
    outcome = "value" if model.task == "regression" else "label"
    table = table.filter(pc.and_(pc.is_valid(table[outcome]), pc.is_null(table["error"])))
    spoiled = spoiled_windows(project.journal.items("incident"), model.name, now)
    keep = [not any(at in window for window in spoiled) for at in table["event_time"].to_pylist()]
    table = table.filter(keep)
    if table.num_rows < FEWEST_CAPTURED:
        return []
    table = _sample(table, rng, most)
    names = [name for name in ("inputs", "features", "event_time", outcome) if name in table.column_names]
    return [
        Row(inputs=row["inputs"], features=row.get("features") or {}, label=row[outcome], at=row["event_time"])
        for row in table.select(names).to_pylist()
    ]


def _trained(
    project: Project, model: Model, rng: np.random.Generator, *, most: int = MOST, since: datetime | None = None
) -> list[Row]:
    import pyarrow as pa
    import pyarrow.compute as pc

    interface = model.interface()
    table = keeping(read_table(project.root, model.data), interface.contract).accepted
    table = table.filter(pc.is_valid(table[model.label]))
    if since is not None:
        table = table.filter(pa.array(micros(table, model.time) >= to_micros(since)))
    table = _sample(table, rng, most)
    full = with_features(project, interface, table)
    fields = [field.name for field in interface.contract.fields]
    looked_up = [output.name for view in interface.views for output in view.outputs]
    looked_up += [output.name for transform in interface.transforms for output in transform.outputs]
    rows = full.select(list(dict.fromkeys([*fields, *looked_up, model.label]))).to_pylist()
    regression = model.task == "regression"
    return [
        Row(
            inputs={name: row[name] for name in fields},
            features={name: row[name] for name in looked_up},
            label=float(row[model.label]) if regression else label_text(row[model.label]),
            at=row[model.time] if model.time else None,
        )
        for row in rows
    ]


def _sample(table: pa.Table, rng: np.random.Generator, most: int) -> pa.Table:
    if table.num_rows <= most:
        return table
    return table.take(np.sort(rng.choice(table.num_rows, most, replace=False)))


def _sources(
    project: Project, model: Model, back: timedelta = timedelta(days=SOURCE_DAYS)
) -> dict[str, list[dict[str, Any]]]:
    """The last weeks of each source that a monitor watches or a view takes from."""
    import pyarrow.compute as pc

    found = {}
    watched = {view.source for view in model.views} | {m.source for m in model.monitors if m.source}
    known = project.known_sources()
    for name in sorted(watched & set(known)):
        table = project.lake.scan(f"source_{name}")
        if table is None or not table.num_rows:
            continue
        newest: datetime = pc.max(table[known[name].known_at]).as_py()
        table = table.filter(pc.greater(table[known[name].known_at], newest - back)).sort_by(known[name].known_at)
        found[name] = table.select([field.name for field in known[name].contract.fields]).to_pylist()
    return found
