"""Profiles of what was answered, one for each tick, version and variant, kept in the lake and added up when needed.

A tick profiles its own span only; weeks of it are a sum, and no raw row is read again. Rows that arrive after the tick
of their time are not in it (performance.py sees them, by their labels). What follows from profiles stands in drift.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from undrift.data.column import ColumnProfile
from undrift.data.profile import Profile
from undrift.data.text import Vocabulary, profile_of
from undrift.develop.bundle import Interface
from undrift.develop.segments import fields_of, segment_texts
from undrift.errors import ConflictError
from undrift.finding import Window
from undrift.ids import duration, to_micros
from undrift.monitor.cells import Reference, Slots
from undrift.monitor.frames import columns_of, inside, micros
from undrift.monitor.monitors import Monitor
from undrift.monitor.texts import with_texts
from undrift.state.ports import Lake

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Kept", "WindowProfile", "asked_for", "history_of", "keep_profiles", "kept_profiles"]

MOST_VALUES: Final = 8
"""Values of a segment that have profiles of their own."""
MARK: Final = "profiles"
LATENCIES: Final = tuple(float(round(edge)) for edge in np.geomspace(100, 10_000_000, 26))
"""Edges for latencies in microseconds, five a decade from a tenth of a millisecond to ten seconds."""


class WindowProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What one variant answered in ``[start, end)``: its inputs, features, score, latency, and those of segments as
    ``distance[carrier=UA]``.
    """

    start: datetime
    end: datetime
    version: int
    variant: str
    profile: Profile


def keep_profiles(
    lake: Lake, interface: Interface, rows: pa.Table, edges: Profile, start: datetime, end: datetime, *,
    segments: bool = False, texts: Mapping[str, Vocabulary] | None = None,
) -> int:  # fmt: skip
    """Profile the rows of ``[start, end)`` and append them to ``profiles_<model>``, once however often it is called.

    Of the columns named in ``texts`` what is measured of them is profiled. Returns how many profiles were kept now.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = f"profiles_{interface.model}"
    done = lake.marks(table, [MARK])[MARK]
    if done >= to_micros(end):
        return 0
    words = texts or {}
    fresh = with_texts(rows.filter(pa.array(inside(micros(rows, "event_time"), start, end))), words)
    made: list[dict[str, Any]] = []
    for key in fresh.group_by(["version", "variant"]).aggregate([]).to_pylist():
        held = fresh.filter(
            pc.and_(pc.equal(fresh["version"], key["version"]), pc.equal(fresh["variant"], key["variant"]))
        )
        profile = _profiled(interface, held, edges, words, segments)
        made.append({**key, "start": start, "end": end, "date": start.date(), "profile": profile.to_json()})
    if not made:
        return 0
    schema = pa.schema(
        [
            ("date", pa.date32()),
            ("start", pa.timestamp("us", "UTC")),
            ("end", pa.timestamp("us", "UTC")),
            ("version", pa.int32()),
            ("variant", pa.string()),
            ("profile", pa.string()),
        ]
    )
    try:
        lake.append(table, pa.Table.from_pylist(made, schema), marks={MARK: to_micros(end)}, since={MARK: done})
    except ConflictError:  # another worker has kept them
        return 0
    return len(made)


def _profiled(
    interface: Interface, rows: pa.Table, edges: Profile, words: Mapping[str, Vocabulary], segments: bool
) -> Profile:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {name: values for name, values in columns_of(rows).items() if name != "label"}
    if "latency_us" in rows.column_names:
        columns["latency_us"] = rows["latency_us"]
    # what the reference does not know has fixed edges too, or windows could not be added up
    known = {name: ColumnProfile(kind="number", n=0) for name in columns}
    known["latency_us"] = ColumnProfile(kind="number", n=0, edges=LATENCIES)
    edges = Profile(columns={**known, **edges.columns})
    whole = profile_of(pa.table(columns), words, edges_from=edges)
    parts = dict(whole.columns)
    for name, texts in segment_texts(interface, columns) if segments else ():
        top = Profile.of(pa.table({"x": texts})).columns["x"].top[:MOST_VALUES]
        for value, _ in top:
            mask = pc.fill_null(pc.equal(texts, value), False)
            of = fields_of((name,), columns)
            part = pa.table({other: kept for other, kept in columns.items() if other not in of}).filter(mask)
            held = profile_of(part, words, edges_from=edges)
            parts.update({f"{other}[{name}={value}]": column for other, column in held.columns.items()})
    return msgspec.structs.replace(whole, columns=parts)


def kept_profiles(
    lake: Lake, model: str, start: datetime, end: datetime, *, within: Sequence[Window] | None = None
) -> list[WindowProfile]:
    """The profiles of windows within ``[start, end)``, by time; empty where none were kept.

    Parameters
    ----------
    within : if given, only profiles that lie whole in one of these are read.
    """
    where = [("date", ">=", start.date()), ("date", "<=", end.date()), ("start", ">=", start), ("end", "<=", end)]
    found = lake.scan(f"profiles_{model}", where=where)
    if found is None:
        return []
    wanted: dict[date, list[tuple[datetime, datetime]]] | None = None if within is None else {}
    for window in within or ():
        for day in {window.start.date(), window.end.date()}:
            (wanted if wanted is not None else {}).setdefault(day, []).append((window.start, window.end))
    made = [
        WindowProfile(
            start=row["start"], end=row["end"], version=row["version"], variant=row["variant"],
            profile=_read(row["profile"]),
        )
        for row in found.to_pylist()
        if wanted is None or any(row["start"] >= a and row["end"] <= b for a, b in wanted.get(row["start"].date(), ()))
    ]  # fmt: skip
    return sorted(made, key=lambda each: (each.start, each.version, each.variant))


@lru_cache(maxsize=256)
def _read(text: str) -> Profile:
    return Profile.from_json(text)


def history_of(kept: Iterable[WindowProfile], reference: Mapping[str, Reference], version: int) -> dict[str, Slots]:
    """Each column over time in the cells of its reference: inputs of all variants together, scores of one version."""
    at: dict[str, dict[int, Any]] = {}
    for window in kept:
        for name, column in window.profile.columns.items():
            base = name.partition("[")[0]
            known = reference.get(base)
            if known is None or (base == "score" and window.version != version):
                continue
            counts = _counts(known, column)
            if counts is None:
                continue
            held = at.setdefault(name, {})
            begin = to_micros(window.start)
            held[begin] = held[begin] + counts if begin in held else counts
    return {
        name: Slots(np.array(sorted(held), dtype=np.int64), np.array([held[begin] for begin in sorted(held)]))
        for name, held in at.items()
    }


def _counts(known: Reference, column: ColumnProfile) -> Any:
    """A profile's rows in the cells of a reference; None where it has none or is of another kind."""
    if not column.values or (column.kind in ("string", "boolean")) == bool(known.edges):
        return None
    return column.histogram(known.edges) if known.edges else column.shares(known.labels)


class Kept(NamedTuple):
    """Which profiles monitors ask for: how far back all are read, of what span each, and whether of segments too."""

    reach: timedelta
    span: timedelta
    segments: bool


def asked_for(monitors: Iterable[Monitor], tick: timedelta) -> Kept | None:
    """The profiles that monitors ask for; None if none does.

    Each spans what the most frequent of these monitors judges at a time: a day, where all of them compare days.
    """
    asking = [m for m in monitors if (m.kind == "drift" and m.history) or m.season]
    if not asking:
        return None
    return Kept(
        max(duration(m.history or "0d") for m in asking),
        min(m.every(tick) for m in asking),
        any(m.by_segment and m.kind == "drift" for m in asking),
    )
