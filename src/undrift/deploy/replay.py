"""A replay: a rollout judged again from its log, by the rule it had or by another one, tick by tick.

The moments at which it was judged and what people said stand in the log; what was seen until each moment comes from
the caller. Weights are those of the log: where another rule would have gone on sooner, no unit saw that weight, so past
the first difference a replay tells what the rule would have said, not what would have been seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from undrift.deploy import people
from undrift.deploy.rollout import Decision, Exposure, RolloutState, reconcile, start
from undrift.deploy.strategy import Rollout
from undrift.errors import ConflictError, DeclarationError, UndriftError
from undrift.event import Event
from undrift.finding import Report

__all__ = ["Moment", "Replayed", "changed", "rejudge"]

Judge = Callable[[RolloutState, datetime], tuple[Report, Exposure]]

_SAID: Final[Mapping[str, Callable[..., Decision]]] = {
    "rollout.paused": people.pause,
    "rollout.resumed": people.resume,
    "rollout.approved": people.approve,
    "rollout.skipped": people.skip,
    "rollout.aborted": people.abort,
}


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the log beside what the rule of the replay makes of the same moment.

    ``replayed`` is the kind of event it would have been, with the verdict, weight and reason of then; empty after the
    replayed rollout was over.
    """

    at: datetime
    recorded: str
    recorded_verdict: str
    recorded_weight: float
    recorded_why: str
    replayed: str = ""
    verdict: str = ""
    weight: float = 0.0
    why: str = ""

    @property
    def same(self) -> bool:
        """Whether both did the same; reasons may be worded by other numbers."""
        return (self.recorded, self.recorded_weight) == (self.replayed, self.weight)


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout of the log, and how it goes by the rule of the replay.

    ``status``, ``ended_at`` and ``exposed_units`` are the replay's; ``differs_at`` is the first moment at which it did
    something else, None where it did the same throughout. ``changes`` names what the rule changes.
    """

    rollout: str
    model: str
    changes: tuple[str, ...]
    recorded_status: str
    recorded_exposed: int
    status: str
    reason: str
    exposed_units: int
    ended_at: datetime | None
    differs_at: datetime | None
    moments: tuple[Moment, ...]


def rejudge(
    events: Sequence[Event],
    declared: Rollout,
    judge: Judge,
    frozen: Callable[[datetime], str],
    *,
    changes: Sequence[str] = (),
) -> Replayed:
    """Judge a rollout again; pure, given what `judge` and `frozen` say of a moment.

    Parameters
    ----------
    events : of one rollout, in the order of the log, beginning with its start.
    declared : the rule of the replay.
    judge : the report and the exposure as they were at a moment, for a rollout that stands as given.
    frozen : why nothing could advance at a moment; empty if it could.
    """
    first = msgspec.convert(events[0].payload["state"], RolloutState)
    begun = start(
        declared,
        first.id,
        first.model,
        (first.candidate, first.candidate_version),
        (first.champion, first.champion_version),
        events[0].at,
        actor=events[0].actor,
        why=events[0].why,
        frozen=frozen(events[0].at),
    )
    state, moments = begun.state, [_moment(events[0], begun)]
    ended = None
    for event in events[1:]:
        if state.over:
            moments.append(_moment(event, None))
            continue
        decision = _decide(event, declared, state, judge, frozen)
        state = decision.state
        ended = event.at if state.over else None
        moments.append(_moment(event, decision))
    last = msgspec.convert(events[-1].payload["state"], RolloutState)
    return Replayed(
        rollout=first.id,
        model=first.model,
        changes=tuple(changes),
        recorded_status=last.status,
        recorded_exposed=last.exposed_units,
        status=state.status,
        reason=state.reason,
        exposed_units=state.exposed_units,
        ended_at=ended,
        differs_at=next((moment.at for moment in moments if not moment.same), None),
        moments=tuple(moments),
    )


def _decide(
    event: Event, declared: Rollout, state: RolloutState, judge: Judge, frozen: Callable[[datetime], str]
) -> Decision:
    if event.actor == "work":
        report, exposure = judge(state, event.at)
        return reconcile(declared, state, report, exposure, event.at, frozen=frozen(event.at))
    said = {"actor": event.actor, "why": event.why}
    try:
        if event.kind == "rollout.rolled_back":
            return people.roll_back(state, event.at, **said)
        return _SAID[event.kind](state, event.at, **said, frozen=frozen(event.at))
    except ConflictError as error:  # what the person said does not apply to where the replay stands
        return Decision(state=msgspec.structs.replace(state, reason=error.message))


def _moment(event: Event, decision: Decision | None) -> Moment:
    was: dict[str, Any] = event.payload["state"]
    moment = Moment(
        at=event.at,
        recorded=event.kind,
        recorded_verdict=was["verdict"],
        recorded_weight=was["weight"],
        recorded_why=event.why,
    )
    if decision is None:
        return moment
    made = decision.drafts[0] if decision.drafts else None
    return msgspec.structs.replace(
        moment,
        replayed=made.kind if made is not None else "nothing",
        verdict=decision.state.verdict,
        weight=decision.state.weight,
        why=made.why if made is not None else decision.state.reason,
    )


def changed(declared: Rollout, settings: Sequence[str]) -> Rollout:
    """A declaration with some values replaced, each given as ``path=value``.

    Parameters
    ----------
    settings : as ``hold=2d``, ``steps=[10, 50, 100]``, ``guardrails.brier.margin=0.02``; a value is JSON, or else text.

    Raises
    ------
    DeclarationError : no such value, or one that may not be; names those there are.

    Examples
    --------
    >>> changed(Rollout(), ["alpha=0.01", "guardrails.failed.margin=0.02"]).guardrails[0].margin
    0.02
    """
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(declared))
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise DeclarationError(f"{setting!r} sets nothing.", hint="Write path=value, as alpha=0.01.")
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = text
        place: Any = plain
        *parents, name = path.strip().split(".")
        for part in parents:
            place = _inside(place, part, path)
        if not isinstance(place, dict) or name not in place:
            raise _unknown(path, place)
        place[name] = value
    try:
        return msgspec.convert(plain, Rollout)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        told = cause.message if isinstance(cause, UndriftError) else f"rollout: {error}."
        raise DeclarationError(told) from error


def _inside(place: Any, part: str, path: str) -> Any:
    if isinstance(place, dict) and isinstance(place.get(part), dict | list):
        return place[part]
    named = [each for each in place if part in _names(each)] if isinstance(place, list) else []
    if len(named) != 1:
        raise _unknown(path, place)
    return named[0]


def _names(each: Any) -> tuple[str, ...]:
    """What an element of a list is called: guardrails by their metric, others by their name."""
    return tuple(str(each[key]) for key in ("metric", "name") if key in each) if isinstance(each, dict) else ()


def _unknown(path: str, place: Any) -> DeclarationError:
    known = list(place) if isinstance(place, dict) else [name for each in place for name in _names(each)]
    return DeclarationError(f"a rollout has no {path!r}; known there: {', '.join(map(str, known)) or 'nothing'}.")
