"""From the spool to the lake: every record that a server acknowledged lands there exactly once.

Each table's commit holds how far each writer has been read for it, so a crash anywhere is made good by reading again
and leaving out what the table already has. Ids of predictions and labels are remembered beside that, because callers
repeat requests. One process ingests at a time; one that has lost its lease can append nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import pyarrow as pa

from undrift.capture.capture import (
    EventRecord,
    LabelRecord,
    PredictionRecord,
    Record,
    SourceRecord,
    WatermarkRecord,
)
from undrift.capture.records import events_table, labels_table, predictions_table, source_table
from undrift.capture.spool import Chunk, SpoolReader, tell_taken
from undrift.data.features import Source
from undrift.develop.bundle import Manifest
from undrift.errors import NotFoundError
from undrift.ids import Clock, SystemClock, duration, to_micros
from undrift.settings import TimeSettings
from undrift.state.journal import Journal

__all__ = ["TAKEN_IN", "Ingest", "Ingested"]

WATERMARK: Final = "watermark"
TAKEN_IN: Final = "watermark.wall"
"""The watermark in wall-clock time, kept to be shown; apart from that of event time, which it would run ahead of."""
KEPT_EVERY: Final = 1_000_000
"""Microseconds between two times that it is written down: each is a transaction."""
PENDING: Final = "watermark.pending"
SEEN_PAGE: Final = 5000
APPENDED_AT_ONCE: Final = 4
"""Tables: an append waits for files more than it computes."""
MANY: Final = 5000
"""Records that no longer wait for more."""


class MarkedLake(Protocol):
    """What ingest needs of the lake."""

    def append(
        self,
        table: str,
        rows: pa.Table,
        *,
        marks: Mapping[str, int] | None = None,
        since: Mapping[str, int] | None = None,
    ) -> int:
        """See `state.lake.DeltaLake.append`; raises ConflictError where somebody else appended since."""
        ...

    def marks(self, table: str, writers: Sequence[str]) -> dict[str, int]:
        """See `state.ports.Lake.marks`."""
        ...


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What one cycle brought in.

    ``watermark`` is in microseconds, None before anything is known. ``repeated`` counts records that were there
    already, ``damaged`` names segments that were set aside because their checksums do not hold. ``due``: a watermark
    was announced that counts from the next cycle on.
    """

    predictions: int = 0
    labels: int = 0
    events: int = 0
    sources: int = 0
    repeated: int = 0
    watermark: int | None = None
    damaged: tuple[str, ...] = ()
    more: bool = False
    due: bool = False

    @property
    def rows(self) -> int:
        """All rows together."""
        return self.predictions + self.labels + self.events + self.sources


class _Placed(msgspec.Struct, gc=False):
    """A record on its way: from which writer, at which position, and what names it ('' for nothing)."""

    writer: str
    position: int
    key: str
    at: int
    record: Any


class _Fresh(NamedTuple):
    """Records that a table does not have, the writers' positions there, and those that they reach."""

    rows: list[_Placed]
    since: dict[str, int]
    moved: dict[str, int]


class Ingest:
    """Reads all writers' segments and appends their records to the lake.

    Parameters
    ----------
    spool : the folder that server processes write to.
    lake : where rows go, in tables ``predictions_<model>``, ``labels_<model>``, ``events_<model>``, ``source_<name>``.
    journal : remembers ids that are in the lake, and the watermark (of the wall clock once a second at most).
    manifest_of : the manifest of a revision, which says the types of inputs and features.
    sources : the declared sources by name; may be replaced between cycles.
    time : whether time is the wall clock or the events' own, and how late events may be.
    linger : how long a few records may wait for more, so that a quiet stream does not become a commit per record;
        an announced watermark, or many records, end the waiting.
    """

    def __init__(
        self,
        spool: Path,
        lake: MarkedLake,
        journal: Journal,
        manifest_of: Callable[[str], Manifest],
        sources: Mapping[str, Source],
        *,
        time: TimeSettings | None = None,
        clock: Clock | None = None,
        limit_bytes: int = 64 << 20,
        linger: timedelta = timedelta(),
    ) -> None:
        self.sources = sources
        self._reader = SpoolReader(spool)
        self._lake, self._journal = lake, journal
        self._manifest_of = manifest_of
        self._time, self._clock = time or TimeSettings(), clock or SystemClock()
        self._limit = limit_bytes
        self._linger, self._landed = linger, float("-inf")
        self._kept = 0
        self._told: dict[str, int] = {}
        self._manifests: dict[str, Manifest] = {}
        self._fence: int | None = None
        self._forget()

    def cycle(self, fence: int = 0) -> Ingested:
        """Bring in everything that was acknowledged before the call, up to the limit of bytes.

        Parameters
        ----------
        fence : of the lease under which this process ingests; a new one means that another may have been at work.

        Raises
        ------
        ConflictError : another process ingested meanwhile. Nothing is lost or doubled; get the lease again.
        StateError : the spool, the lake or the journal cannot be used. The next cycle goes on where this one was.
        """
        if fence != self._fence:
            self._forget()
            self._fence = fence
        try:
            return self._cycle()
        except BaseException:
            self._forget()  # what was committed before it failed is found again in the lake's marks
            raise

    def _forget(self) -> None:
        """Know nothing: positions are read from the start of the segments still there, marks from the lake."""
        self._positions: dict[str, int] = {}
        self._waiting: dict[str, Chunk] = {}
        self._tables: dict[str, list[_Placed]] = {}
        self._announced: int | None = None
        self._marks: dict[str, dict[str, int]] = {}
        self._watermark: int | None = None
        self._pending: int | None = None
        self._recalled = False

    def _cycle(self) -> Ingested:
        self._recall()
        started, effective = to_micros(self._clock.now()), self._pending
        for writer in self._reader.writers():
            self._read(writer)
        chunks, tables, announced = list(self._waiting.values()), self._tables, self._announced
        if self._waits(tables, announced):
            return Ingested(watermark=self._watermark)
        counts = {"predictions": 0, "labels": 0, "events": 0, "source": 0}
        repeated = 0
        for table, landed in self._land(tables).items():
            counts[table.partition("_")[0]] += landed
            repeated += len(tables[table]) - landed
        more = any(chunk.more for chunk in chunks)
        if self._time.mode == "event":
            self._advance(announced, None if more else effective, tables)
        elif not more:
            self._watermark = started
            if abs(started - self._kept) >= KEPT_EVERY:  # also after the clock was set back
                self._journal.put_setting(TAKEN_IN, started)
                self._kept = started
        self._settle(chunks)
        return Ingested(
            predictions=counts["predictions"],
            labels=counts["labels"],
            events=counts["events"],
            sources=counts["source"],
            repeated=repeated,
            watermark=self._watermark,
            damaged=tuple(str(path) for chunk in chunks for path in chunk.damaged),
            more=more,
            due=self._due,
        )

    def _read(self, writer: str) -> None:
        """Read what a writer has written since, and put it to what waits already."""
        before = self._waiting.get(writer)
        after = before.position if before is not None else self._positions.get(writer, -1)
        chunk = self._reader.read(writer, after, self._limit)
        for frame in chunk.frames:
            for record in frame.records:
                if isinstance(record, WatermarkRecord):
                    self._announced = max(record.event_time, self._announced or record.event_time)
                else:
                    table, key, at = self._names(record)
                    placed = _Placed(writer, frame.position, key, at, record)
                    self._tables.setdefault(table, []).append(placed)
        if before is not None:
            spent = list(dict.fromkeys([*before.spent, *chunk.spent]))
            damaged = list(dict.fromkeys([*before.damaged, *chunk.damaged]))
            chunk = chunk._replace(spent=spent, damaged=damaged)
        self._waiting[writer] = chunk._replace(frames=[])  # its records are in the tables now

    def _waits(self, tables: Mapping[str, list[_Placed]], announced: int | None) -> bool:
        """Whether so few records should wait for more; until they are in the lake they stay in the spool, too."""
        if not tables or announced is not None or self._due or sum(map(len, tables.values())) >= MANY:
            return False
        now = monotonic()
        if now - self._landed < self._linger.total_seconds():
            return True
        self._landed = now
        return False

    @property
    def _due(self) -> bool:
        return self._pending is not None and (self._watermark is None or self._pending > self._watermark)

    def _land(self, tables: Mapping[str, list[_Placed]]) -> dict[str, int]:
        """Append the records that the tables do not have, to several at once; how many each of them got."""
        fresh = {table: self._fresh(table, tables[table]) for table in sorted(tables)}
        landing = [(table, self._rows(table, new.rows), new) for table, new in fresh.items() if new.rows]
        with ThreadPoolExecutor(APPENDED_AT_ONCE) as pool:
            for each in [pool.submit(self._append, *each) for each in landing]:
                each.result()
        self._remember([each for _, _, new in landing for each in new.rows])
        return {table: len(new.rows) for table, new in fresh.items()}

    def _fresh(self, table: str, placed: list[_Placed]) -> _Fresh:
        """Those of the records that a table does not have yet."""
        marks = self._marks.setdefault(table, {})
        writers = {each.writer for each in placed}
        unknown = sorted(writers - marks.keys())
        if unknown:
            marks.update(self._lake.marks(table, unknown))
        since = {writer: marks[writer] for writer in writers}
        there = [each for each in placed if each.position <= since[each.writer]]
        fresh = [each for each in placed if each.position > since[each.writer]]
        # committed before a crash, but perhaps not remembered
        self._remember(there)
        fresh_keys = [each.key for each in fresh if each.key]
        seen: set[str] = set()
        for start in range(0, len(fresh_keys), SEEN_PAGE):
            seen |= self._journal.seen(fresh_keys[start : start + SEEN_PAGE])
        new = []
        for each in fresh:
            if each.key not in seen:
                new.append(each)
                if each.key:
                    seen.add(each.key)
        reached = dict(since)
        for each in fresh:
            reached[each.writer] = max(reached[each.writer], each.position)
        return _Fresh(
            new, since, {writer: position for writer, position in reached.items() if position > since[writer]}
        )

    def _append(self, table: str, rows: pa.Table, new: _Fresh) -> None:
        self._lake.append(table, rows, marks=new.moved, since={writer: new.since[writer] for writer in new.moved})
        self._marks[table].update(new.moved)

    def _remember(self, placed: Sequence[_Placed]) -> None:
        rows = [(each.key, each.at) for each in placed if each.key]
        if rows:
            self._journal.mark_seen(rows)

    def _rows(self, table: str, placed: Sequence[_Placed]) -> pa.Table:
        kind, _, name = table.partition("_")
        if kind == "source":
            source = self.sources.get(name)
            if source is None:
                raise NotFoundError(
                    f"the spool holds rows of a source {name!r} that is not declared.",
                    hint="Declare it again until its rows are in; they stay in the spool as long.",
                )
            return source_table(source, [each.record for each in placed])
        if kind == "labels":
            return labels_table([each.record for each in placed])
        if kind == "events":
            return events_table([each.record for each in placed])
        by_revision: dict[str, list[PredictionRecord]] = {}
        for each in placed:
            by_revision.setdefault(each.record.revision, []).append(each.record)
        parts = [
            predictions_table(self._manifest(revision).interface, records) for revision, records in by_revision.items()
        ]
        return parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="permissive")

    def _manifest(self, revision: str) -> Manifest:
        if revision not in self._manifests:
            self._manifests[revision] = self._manifest_of(revision)
        return self._manifests[revision]

    def _settle(self, chunks: Sequence[Chunk]) -> None:
        """Go on from here next time, and remove what is safe in the lake."""
        self._waiting, self._tables, self._announced = {}, {}, None
        for chunk in chunks:
            self._reader.discard(chunk)
            if chunk.gone:
                self._positions.pop(chunk.writer, None)
            else:
                self._positions[chunk.writer] = chunk.position
        if self._positions != self._told:
            self._told = dict(self._positions)
            tell_taken(self._reader.spool, self._told)

    def _recall(self) -> None:
        if not self._recalled:
            if self._time.mode == "event":
                self._watermark = self._journal.get_setting(WATERMARK)
                self._pending = self._journal.get_setting(PENDING)
            self._recalled = True

    def _advance(self, announced: int | None, effective: int | None, tables: Mapping[str, list[_Placed]]) -> None:
        """Move the watermark of event time.

        One that is announced counts a whole cycle later: what was acknowledged before it was sent may stand in the
        segments of a server that this cycle had read already. It is written down before its segment may be removed.
        """
        before = self._watermark
        if announced is not None and announced > max(self._pending or announced - 1, before or announced - 1):
            self._journal.put_setting(PENDING, announced)
            self._pending = announced
        if effective is not None and (before is None or effective > before):
            self._watermark = effective
        elif self._pending is None:  # nobody announces any: it follows from the events
            times = [each.at for placed in tables.values() for each in placed]
            lateness = duration(self._time.lateness) // timedelta(microseconds=1)
            if times and (before is None or max(times) - lateness > before):
                self._watermark = max(times) - lateness
        if self._watermark != before:
            self._journal.put_setting(WATERMARK, self._watermark)

    def _names(self, record: Record) -> tuple[str, str, int]:
        """The table of a record, what names it there, and its time."""
        if isinstance(record, PredictionRecord):
            failed = f"!{record.revision}" if record.error is not None else ""
            return f"predictions_{record.model}", f"p:{record.model}/{record.id}{failed}", record.event_time
        if isinstance(record, LabelRecord):
            key = f"l:{record.model}/{record.prediction_id}@{record.event_time}={record.label}"
            return f"labels_{record.model}", key, record.event_time
        if isinstance(record, EventRecord):
            return f"events_{record.model}", f"e:{record.model}/{record.id}", record.event_time
        if isinstance(record, SourceRecord):
            source = self.sources.get(record.source)
            known = record.row.get(source.known_at) if source is not None else None
            at = to_micros(known) if isinstance(known, datetime) else record.received_at
            return f"source_{record.source}", f"s:{record.source}/{record.id}" if record.id else "", at
        raise TypeError(f"{type(record).__name__} goes to no table")
