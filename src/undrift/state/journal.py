"""The journal: events, what follows from them (projections), and the jobs they call for, in one transaction.

Projections are pure folds over the log, kept beside it so that "what is live" is one lookup; they can be rebuilt from
the log at any time. Decisions are made elsewhere; the journal stores each once, with the evidence it saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from undrift.errors import BrokenChainError, ConflictError
from undrift.event import GENESIS, Draft, Event, seal, verify_chain
from undrift.ids import Clock, canonical_json, to_micros
from undrift.state.jobs import JobDraft, submit
from undrift.state.ports import Rows, Store, Transaction

__all__ = ["Journal", "Reducer"]

_PAGE: Final = 1000
_HEAD: Final = "journal.head"
_decode_event: Final = msgspec.json.Decoder(Event).decode
_decode: Final = msgspec.json.decode


class Reducer(NamedTuple):
    """How events of some kinds change the values of one projection; both functions are pure.

    ``keys(event)`` names the entries an event touches. ``apply(value, event, key)`` gets the entry's value (None where
    there is none) and returns the new one, JSON-able, or None to delete it.
    """

    name: str
    kinds: frozenset[str]
    keys: Callable[[Event], Iterable[str]]
    apply: Callable[[dict[str, Any] | None, Event, str], dict[str, Any] | None]


class Journal:
    """The event log of a project with its projections.

    Parameters
    ----------
    store : where it is kept.
    clock : the wall clock, for `Event.recorded_at` and jobs.
    reducers : what to keep of events, at most one per projection name.
    """

    def __init__(self, store: Store, clock: Clock, reducers: Sequence[Reducer] = ()) -> None:
        self.store = store
        self._clock = clock
        self._reducers = tuple(reducers)

    def record(
        self,
        drafts: Sequence[Draft],
        *,
        jobs: Sequence[JobDraft] = (),
        expect: Mapping[tuple[str, str], int | None] | None = None,
    ) -> list[Event]:
        """Store events, update projections and submit jobs: all of it or nothing.

        A draft whose key is stored already is skipped, so that recording the same decision again changes nothing; a
        job whose key is known is skipped likewise.

        Parameters
        ----------
        expect : ``{(projection, key): seq}`` that the decision was based on, as `seq_of` gave them (None: no such
            entry). Not looked at where every draft is stored already: then the decision was taken before.

        Returns
        -------
        list of Event
            One per draft, as stored.

        Raises
        ------
        ConflictError : an entry of ``expect`` has changed; read again and decide again.
        BrokenChainError : the log was altered, so nothing can follow it.
        ValueError : an unknown kind of event, or a time without a zone.
        """
        with self.store.write() as transaction:
            stored = [_stored(transaction, draft) for draft in drafts]
            if not drafts or None in stored:
                _check_unchanged(transaction, expect or {})
            now = self._clock.now()
            seq, last = _head(transaction)
            events: list[Event] = []
            for draft, known in zip(drafts, stored, strict=True):
                event = known or _stored(transaction, draft)  # the second look finds a twin earlier in this very call
                if event is None:
                    event = seal(draft, seq + 1, last, now)
                    seq, last = event.seq, event.hash
                    _insert(transaction, event)
                    self._project(transaction, event)
                events.append(event)
            if None in stored:
                transaction.execute("put_setting", {"name": _HEAD, "value": canonical_json([seq, last]).decode()})
            for job in jobs:
                submit(transaction, job, now)
        return events

    def events(
        self,
        *,
        subject: str | None = None,
        kinds: Sequence[str] = (),
        after: int = 0,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Events in the order of the log.

        Parameters
        ----------
        subject : only those about it.
        kinds : only those of these kinds; all if empty.
        after : only those with a higher ``seq``.
        until : only those with event time at or before it.
        limit : at most so many, the first ones.
        """
        values = {
            "after": after,
            "until": None if until is None else to_micros(until),
            "limit": -1 if limit is None else limit,
            "subject": subject,
            "kinds": canonical_json(list(kinds)).decode() if kinds else None,
        }
        name = "events_of_subject" if subject is not None else "events_of_kinds" if kinds else "events"
        return [_decode_event(row["body"]) for row in self.store.read(name, values)]

    def find(self, key: str) -> Event | None:
        """The event stored under an idempotency key, or None."""
        rows = self.store.read("event_by_key", {"key": key})
        return _decode_event(rows[0]["body"]) if rows else None

    @property
    def reducers(self) -> tuple[Reducer, ...]:
        """What is kept of events."""
        return self._reducers

    def get(self, name: str, key: str) -> dict[str, Any] | None:
        """The value of one entry of a projection, or None."""
        rows = self.store.read("projection", {"name": name, "key": key})
        return _decode(rows[0]["value"]) if rows else None

    def seq_of(self, name: str, key: str) -> int | None:
        """The event that wrote an entry last, or None where there is no entry; for ``expect``."""
        rows = self.store.read("projection", {"name": name, "key": key})
        return int(rows[0]["seq"]) if rows else None

    def items(self, name: str) -> dict[str, dict[str, Any]]:
        """All entries of a projection, in the order of their keys."""
        return {row["key"]: _decode(row["value"]) for row in self.store.read("projections", {"name": name})}

    def verify(self) -> int:
        """Check the whole log: hashes, gaps, the columns beside each event, and that its end was not cut off.

        Returns
        -------
        int
            The number of events.

        Raises
        ------
        BrokenChainError : names the first event that does not fit.
        """
        last, seq = GENESIS, 0
        for rows in self._pages():
            last, seq = verify_chain(map(_consistent, rows), last, seq)
        with self.store.write() as transaction:  # the head moves with the log, so both are read in one transaction
            for row in transaction.query("events", {"after": seq, "until": None, "limit": -1}):
                last, seq = verify_chain([_consistent(row)], last, seq)
            head, newest = _head(transaction), transaction.query("newest_projection")
        if head != (seq, last) or (newest and newest[0]["seq"] > seq):
            written = max(head[0], newest[0]["seq"] if newest else 0)
            raise BrokenChainError(
                f"the log ends at event {seq}, but event {written} was the last one written: its end was changed.",
                hint="Restore the log from a backup.",
            )
        return seq

    def rebuild(self) -> None:
        """Make the projections of this journal's reducers anew from the log, in one transaction."""
        names = canonical_json([reducer.name for reducer in self._reducers]).decode()
        with self.store.write() as transaction:
            transaction.execute("delete_projections", {"names": names})
            after = 0
            while rows := transaction.query("events", {"after": after, "until": None, "limit": _PAGE}):
                for row in rows:
                    self._project(transaction, _decode_event(row["body"]))
                after = rows[-1]["seq"]

    def get_setting(self, name: str, default: Any = None) -> Any:
        """A small value kept beside the log, such as a watermark; ``default`` where there is none."""
        rows = self.store.read("setting", {"name": name})
        return _decode(rows[0]["value"]) if rows else default

    def put_setting(self, name: str, value: Any) -> None:
        """Keep a small JSON-able value under a name; names that begin with ``journal.`` are the journal's own.

        Raises
        ------
        ConflictError : the name is the journal's own.
        """
        if name.startswith("journal."):
            raise ConflictError(f"the setting {name!r} is the journal's own; take another name.")
        with self.store.write() as transaction:
            transaction.execute("put_setting", {"name": name, "value": canonical_json(value).decode()})

    def seen(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that `mark_seen` has stored."""
        return {row["id"] for row in self.store.read("seen", {"ids": canonical_json(list(ids)).decode()})}

    def mark_seen(self, rows: Sequence[tuple[str, int]]) -> None:
        """Remember ids, each with its event time in microseconds; known ones stay as they are."""
        with self.store.write() as transaction:
            transaction.execute("mark_seen", [{"id": name, "at": at} for name, at in rows])

    def forget_seen(self, before_micros: int) -> None:
        """Forget the ids with an event time before a moment, in microseconds."""
        with self.store.write() as transaction:
            transaction.execute("forget_seen", {"before": before_micros})

    def _project(self, transaction: Transaction, event: Event) -> None:
        for reducer in self._reducers:
            if event.kind not in reducer.kinds:
                continue
            for key in reducer.keys(event):
                where = {"name": reducer.name, "key": key}
                rows = transaction.query("projection", where)
                value = reducer.apply(_decode(rows[0]["value"]) if rows else None, event, key)
                if value is None:
                    transaction.execute("delete_projection", where)
                else:
                    encoded = canonical_json(value).decode()
                    transaction.execute("put_projection", {**where, "seq": event.seq, "value": encoded})

    def _pages(self) -> Iterator[Rows]:
        after = 0
        while rows := self.store.read("events", {"after": after, "until": None, "limit": _PAGE}):
            yield rows
            after = rows[-1]["seq"]


def _head(transaction: Transaction) -> tuple[int, str]:
    """Place and hash of the last event written, kept apart from the log so that a log cut short is noticed."""
    rows = transaction.query("head")
    seq, last = _decode(rows[0]["value"]) if rows else (0, GENESIS)
    return seq, last


def _insert(transaction: Transaction, event: Event) -> None:
    row = {name: getattr(event, name) for name in ("seq", "kind", "subject", "key")}
    try:
        transaction.execute("insert_event", {**row, "at": to_micros(event.at), "body": canonical_json(event).decode()})
    except ConflictError as error:
        raise BrokenChainError(
            f"event {event.seq} is in the log already, though the log's head says it is to come.",
            hint="The log was changed by something other than undrift: restore it from a backup.",
        ) from error


def _stored(transaction: Transaction, draft: Draft) -> Event | None:
    if draft.key is None:
        return None
    rows = transaction.query("event_by_key", {"key": draft.key})
    return _decode_event(rows[0]["body"]) if rows else None


def _check_unchanged(transaction: Transaction, expect: Mapping[tuple[str, str], int | None]) -> None:
    for (name, key), seq in expect.items():
        rows = transaction.query("projection", {"name": name, "key": key})
        now = rows[0]["seq"] if rows else None
        if now != seq:
            raise ConflictError(
                f"{name} {key!r} was changed by event {now} after it was read (then: event {seq}).",
                hint="Somebody else was first: look at the present state and decide again.",
            )


def _consistent(row: Mapping[str, Any]) -> Event:
    """The event in a row, provided that the columns searched by say what the event says."""
    try:
        event = _decode_event(row["body"])
        inside = (event.seq, event.kind, event.subject, to_micros(event.at), event.key)
    except (msgspec.DecodeError, TypeError) as error:
        raise BrokenChainError(f"event {row['seq']} in the log cannot be read: {error}.") from error
    if inside != (row["seq"], row["kind"], row["subject"], row["at"], row["idempotency"]):
        raise BrokenChainError(
            f"event {row['seq']} ({event.kind}, {event.subject}) stands under other columns than its own: "
            "the log was changed after it was written."
        )
    return event
