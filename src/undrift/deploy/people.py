"""What people may say to a rollout: pause, resume, approve, skip, abort. Each is pure and gives a Decision to record.

A person can always stop a rollout. Moving it on without a judgement needs a reason and ends before the last step: that
one only evidence takes. While something is frozen nobody moves it on.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from undrift.deploy.rollout import Decision, RolloutState, Span, draft, first_step, go_on
from undrift.errors import ConflictError

__all__ = ["abort", "approve", "pause", "resume", "roll_back", "skip"]


def pause(state: RolloutState, now: datetime, *, actor: str, why: str, frozen: str = "") -> Decision:
    """Stop the clock of a rollout; its weight stays, and a FAIL still rolls it back.

    Raises
    ------
    ConflictError : it is not running.
    """
    _require(state, "paused", "running")
    after = msgspec.structs.replace(state, status="paused", reason=why)
    return Decision(state=after, drafts=(draft("rollout.paused", after, now, why, actor=actor),))


def resume(state: RolloutState, now: datetime, *, actor: str, why: str, frozen: str = "") -> Decision:
    """Let a paused rollout go on; its time and its step's hold begin again.

    Raises
    ------
    ConflictError : it is not paused, or waits for an approval.
    """
    _require(state, "resumed", "paused")
    if state.waits_for_approval:
        raise ConflictError(
            f"rollout {state.id} waits for approval; resuming is not approving.", hint="Use `undrift approve`."
        )
    after = msgspec.structs.replace(
        state, status="running", reason="", unmeasured={}, started_at=now, step_started_at=now
    )
    return Decision(state=after, drafts=(draft("rollout.resumed", after, now, why, actor=actor),))


def approve(state: RolloutState, now: datetime, *, actor: str, why: str, frozen: str = "") -> Decision:
    """Approve that units are exposed; a rollout that waited for it takes its first step, unless something is frozen.

    Raises
    ------
    ConflictError : it is over, needs no approval, is approved already, or a second person has to do it.
    """
    if state.over or not state.declared.approval or state.approved_by:
        needless = "needs no approval" if not state.declared.approval else "is approved already"
        seen = "is over" if state.over else needless
        raise ConflictError(f"rollout {state.id} {seen}.")
    if state.declared.approval == "second_person" and actor == state.asked_by:
        raise ConflictError(
            f"rollout {state.id} was asked for by {actor}, who may not approve it too.",
            hint="Its declaration says approval='second_person': somebody else has to look at it.",
        )
    waited = state.waits_for_approval
    after = msgspec.structs.replace(state, approved_by=actor)
    if waited and state.stage == "canary" and not frozen:
        after = first_step(after, now)
    elif waited:
        # the next tick judges the shadow again, or finds the freeze over, and moves on
        after = msgspec.structs.replace(after, status="running", reason=f"frozen: {frozen}" if frozen else "")
    return Decision(state=after, drafts=(draft("rollout.approved", after, now, why, actor=actor),))


def skip(state: RolloutState, now: datetime, *, actor: str, why: str, frozen: str = "") -> Decision:
    """Go to the next step without waiting for what the present one needs.

    Raises
    ------
    ConflictError : it is not running, no reason is given, something is frozen, an approval is missing, or the next
        step would be winning.
    """
    _require(state, "moved on", "running")
    if not why:
        raise ConflictError("skipping a step needs a reason.", hint="Add --why '...'.")
    if frozen:
        raise ConflictError(f"nothing advances now: {frozen}.", hint="`undrift roll-back` and `abort` still work.")
    if state.deciding:
        raise ConflictError(
            f"rollout {state.id} is at its last step, which only evidence takes.",
            hint="`undrift abort` and then `undrift promote --why '...'` put the version in place unjudged.",
        )
    if state.declared.approval and not state.approved_by:
        raise ConflictError(
            f"rollout {state.id} is not approved; skipping is not approving.", hint="`undrift approve`."
        )
    return go_on(state, now, why, kind="rollout.skipped", actor=actor)


def abort(state: RolloutState, now: datetime, *, actor: str, why: str, frozen: str = "") -> Decision:
    """End a rollout: all units back on the champion; says nothing against the candidate.

    Raises
    ------
    ConflictError : it is over.
    """
    return _end(state, "aborted", now, actor, why)


def roll_back(state: RolloutState, now: datetime, *, actor: str, why: str) -> Decision:
    """End a rollout because of its candidate, which gets traffic again only when a person says why.

    Raises
    ------
    ConflictError : it is over.
    """
    return _end(state, "rolled_back", now, actor, f"{why}; {state.exposed_units} units were exposed")


def _end(
    state: RolloutState, status: Literal["aborted", "rolled_back"], now: datetime, actor: str, why: str
) -> Decision:
    _require(state, status.replace("_", " "), "running", "paused")
    after = msgspec.structs.replace(
        state, status=status, weight=0.0, reason=why, step_started_at=now, spans=(*state.spans, Span(0.0, now))
    )
    return Decision(state=after, drafts=(draft(f"rollout.{status}", after, now, why, actor=actor),))


def _require(state: RolloutState, step: str, *allowed: str) -> None:
    if state.status not in allowed:
        raise ConflictError(
            f"rollout {state.id} is {state.status} and cannot be {step}; it would have to be {' or '.join(allowed)}."
        )
