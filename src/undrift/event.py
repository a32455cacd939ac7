"""Who did what, when and why: the event, and the hash chain that ties events together.

Every decision is an event with the evidence it saw. Events are only ever appended; what is live now is a projection
of them. This file defines the value and its chain; state/journal.py stores it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from undrift.errors import BrokenChainError
from undrift.ids import content_hash

__all__ = ["GENESIS", "KINDS", "Draft", "Event", "seal", "verify_chain"]

GENESIS: Final = "0" * 64

KINDS: Final[dict[str, str]] = {
    "declaration.applied": "Declarations of a model took effect; the payload holds them and what changed.",
    "dataset.recorded": "A table was stored as a dataset version, with its content hash and quarantined rows.",
    "version.registered": "A model version was registered, with its bundle, data version, run and gate report.",
    "gate.judged": "A candidate was judged by the gate, offline.",
    "revision.promoted": "A revision became champion, by a rollout or by a person.",
    "rollout.started": "A rollout of a candidate revision began.",
    "rollout.judged": "A rollout was judged at a tick: verdict, evidence and what was decided.",
    "rollout.advanced": "A rollout went one step on; the payload holds the weights.",
    "rollout.paused": "A rollout waits for a person.",
    "rollout.resumed": "A person let a paused rollout go on.",
    "rollout.approved": "A person approved a rollout or a step of it.",
    "rollout.skipped": "A person let a rollout go to its next step without what the present one needs; says why.",
    "rollout.succeeded": "A candidate won its rollout and is champion.",
    "rollout.rolled_back": "A rollout ended with all traffic back on the champion; says how many units were exposed.",
    "rollout.aborted": "A person ended a rollout.",
    "alert.opened": "A monitor found something worth a person's attention: an incident began.",
    "alert.updated": "An open incident has new findings.",
    "alert.resolved": "What the incident was about is over.",
    "alert.acknowledged": "A person has seen the incident.",
    "alert.snoozed": "A person wants to hear nothing of the incident until a stated moment.",
    "alert.assigned": "The incident has another owner.",
    "monitor.backtested": "A monitor was judged again on the past: its alarms, the days, the verdict on its budget.",
    "monitor.paging": "A person let a monitor page without a backtest, or forbade it.",
    "retrain.requested": "A trigger, or a person, asked for a challenger.",
    "retrain.refused": "A retrain was considered and refused, with the reason.",
    "retrain.finished": "A retrain job ended: challenger accepted or not, with the gate's report.",
    "tick.judged": "A worker judged a model at the end of a span of time: what monitors said and what was decided.",
    "job.failed": "A job gave up after its last attempt; holds the error.",
}


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """An event before it is stored.

    Parameters
    ----------
    kind : one of KINDS.
    subject : what it is about, as ``model:flights`` or ``rollout:01J...``.
    at : event time, aware UTC.
    actor : who: ``person:ann``, ``work``, ``serve``.
    why : one sentence.
    payload : the evidence and the effect, JSON-able.
    key : idempotency key; a second draft with the same key is not stored again. None for no such guard.
    """

    kind: str
    subject: str
    at: datetime
    actor: str
    why: str
    payload: dict[str, Any] = {}
    key: str | None = None


class Event(Draft, frozen=True, kw_only=True):
    """An event as stored: its place in the log, when it was written, and the chain.

    ``seq`` counts from 1 without gaps. ``recorded_at`` is the wall clock. ``hash`` covers everything else here and the
    hash before it, ``prev``.
    """

    seq: int
    recorded_at: datetime
    prev: str
    hash: str = ""


def _digest(event: Event) -> str:
    return content_hash({k: v for k, v in msgspec.to_builtins(event).items() if k != "hash"})


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's own; evidence is full of them."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a payload holds {value!r}, a {type(value).__name__}, which is not JSON-able")


def seal(draft: Draft, seq: int, prev: str, recorded_at: datetime) -> Event:
    """Give a draft its place and its hash, its time in UTC and its payload as JSON reads it back; pure.

    Raises
    ------
    ValueError : for a kind that is not one of KINDS, or a time without a zone.
    """
    if draft.kind not in KINDS:
        raise ValueError(f"event kind {draft.kind!r} is not one of {', '.join(sorted(KINDS))}")
    if draft.at.tzinfo is None or recorded_at.tzinfo is None:
        raise ValueError(f"the time of {draft.kind} for {draft.subject} has no zone; events are in aware UTC")
    fields = {name: getattr(draft, name) for name in Draft.__struct_fields__}
    fields["payload"] = msgspec.json.decode(msgspec.json.encode(draft.payload, enc_hook=_plain))
    fields["at"] = draft.at.astimezone(UTC)
    event = Event(**fields, seq=seq, prev=prev, recorded_at=recorded_at.astimezone(UTC))
    return msgspec.structs.replace(event, hash=_digest(event))


def verify_chain(events: Iterable[Event], prev: str = GENESIS, seq: int = 0) -> tuple[str, int]:
    """Check that events follow each other without gap and hash to what they say.

    Returns
    -------
    (hash, seq) of the last event, to go on from.

    Raises
    ------
    BrokenChainError : names the first event that does not fit.
    """
    for event in events:
        if event.seq != seq + 1 or event.prev != prev or event.hash != _digest(event):
            raise BrokenChainError(
                f"event {event.seq} ({event.kind}, {event.subject}) does not follow event {seq}: "
                "the log was changed after it was written.",
                hint="Restore the log from a backup; `undrift history` shows what it holds now.",
            )
        prev, seq = event.hash, event.seq
    return prev, seq
