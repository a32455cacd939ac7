"""What people may say to a rollout: pause, resume, approve, abort. Each is pure and gives a Decision to record.

A person can always stop a rollout; only evidence moves it on, so nothing here skips a judgement.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from undrift.deploy.rollout import Decision, RolloutState, Span, draft
from undrift.errors import ConflictError

__all__ = ["abort", "approve", "pause", "resume"]


def pause(state: RolloutState, now: datetime, *, actor: str, why: str) -> Decision:
    """Stop the clock of a rollout; its weight stays, and a FAIL still rolls it back.

    Raises
    ------
    ConflictError : it is not running.
    """
    _require(state, "paused", "running")
    after = msgspec.structs.replace(state, status="paused", reason=why)
    return Decision(state=after, drafts=(draft("rollout.paused", after, now, why, actor=actor),))


def resume(state: RolloutState, now: datetime, *, actor: str, why: str) -> Decision:
    """Let a paused rollout go on; its time and its step's hold begin again.

    Raises
    ------
    ConflictError : it is not paused, or waits for an approval.
    """
    _require(state, "resumed", "paused")
    if state.declared.approval and not state.approved_by and _waits(state):
        raise ConflictError(
            f"rollout {state.id} waits for approval; resuming is not approving.", hint="Use `undrift approve`."
        )
    after = msgspec.structs.replace(state, status="running", reason="", blind=0, started_at=now, step_started_at=now)
    return Decision(state=after, drafts=(draft("rollout.resumed", after, now, why, actor=actor),))


def approve(state: RolloutState, now: datetime, *, actor: str, why: str) -> Decision:
    """Approve that units are exposed; a rollout that waited for it takes its first step.

    Raises
    ------
    ConflictError : it is over, needs no approval, or is approved already.
    """
    if state.over or not state.declared.approval or state.approved_by:
        needless = "needs no approval" if not state.declared.approval else "is approved already"
        seen = "is over" if state.over else needless
        raise ConflictError(f"rollout {state.id} {seen}.")
    after = msgspec.structs.replace(state, approved_by=actor)
    if state.status == "paused" and _waits(state) and state.stage == "canary":
        weight = state.declared.steps[0]
        after = msgspec.structs.replace(
            after,
            status="running",
            reason="",
            step=0,
            weight=weight,
            step_started_at=now,
            spans=(*state.spans, Span(weight, now)),
        )
    elif state.status == "paused" and _waits(state):
        # the next tick judges the shadow again and moves on
        after = msgspec.structs.replace(after, status="running", reason="")
    return Decision(state=after, drafts=(draft("rollout.approved", after, now, why, actor=actor),))


def abort(state: RolloutState, now: datetime, *, actor: str, why: str) -> Decision:
    """End a rollout: all units back on the champion.

    Raises
    ------
    ConflictError : it is over.
    """
    _require(state, "aborted", "running", "paused")
    after = msgspec.structs.replace(
        state, status="aborted", weight=0.0, reason=why, step_started_at=now, spans=(*state.spans, Span(0.0, now))
    )
    return Decision(state=after, drafts=(draft("rollout.aborted", after, now, why, actor=actor),))


def _waits(state: RolloutState) -> bool:
    return state.step == -1 and state.reason.startswith("waits for approval")


def _require(state: RolloutState, step: str, *allowed: str) -> None:
    if state.status not in allowed:
        raise ConflictError(
            f"rollout {state.id} is {state.status} and cannot be {step}; it would have to be {' or '.join(allowed)}."
        )
